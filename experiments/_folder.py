"""The folder of a run and its provenance.

A run leaves `results/<experiment>/<run>/` with `config.json`, `metrics.csv`,
`summary.json`, `figures/`, `checkpoints/` and `provenance.json`.
"""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments._run import UsageError, as_words, check, flag_of

Row = dict[str, Any]

# Settings that say where or for how long, not what is trained: a resumed run may change them.
NOT_THE_MODEL = {
    "epochs",
    "output_dir",
    "data_dir",
    "name",
    "overwrite",
    "resume",
    "requeue",
    "checkpoint_every",
    "figures",
    "merge",
    "launch",
    "slices",
    "launch_options",
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "heartbeat",
    "eval_sentences",  # of text: how much is measured when all is trained
}


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder.
        writes: whether this process writes; one of several does.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self._writes = writes
        self.figures = path / "figures"
        self.checkpoints = path / "checkpoints"
        self._started = time.monotonic()
        self._begun = False  # whether the last entry of the provenance is to be completed

    @staticmethod
    def at(output_dir: Path, experiment: str, name: str) -> "RunFolder":
        """The folder `output_dir/experiment/name`.

        Raises:
            UsageError: if the name is not a plain folder name.
        """
        allowed = "a name of at most 120 letters, digits, '.', '_', '+', '-' is needed, no path"
        plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,119}", name) is not None
        check(plain, "--name", repr(name), allowed)
        return RunFolder(output_dir / experiment / name)

    def check_free(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to start over an earlier run, or to resume none; changes nothing.

        Raises:
            UsageError: saying which flag is missing or too much.
        """
        check(not (overwrite and resume), "--overwrite", "--resume", "only one of the two")
        with self.usable():
            exists, is_folder = self.path.exists(), self.path.is_dir()
            is_run = (self.path / "config.json").is_file()
            # A run killed at its start may have left the half of its first file.
            names = {path.name for path in self.path.iterdir()} if is_folder else set()
            is_empty = not names - {".config.json.tmp"}
        if exists and not is_folder:
            raise UsageError(f"{self.path}: a file is in the way of the run's folder")
        if resume and not is_run:
            raise UsageError(f"{self.path}: there is no run to resume")
        if exists and not is_empty and not (overwrite or resume):
            raise UsageError(
                f"{self.path}: this run exists; --resume continues it, --overwrite replaces it, "
                "--name gives the new one another name"
            )
        if overwrite and exists and not is_run and not is_empty:
            raise UsageError(f"{self.path}: not a run (no config.json), so it is not overwritten")

    def check_same_model(self, config: Any, *, but: Set[str] = NOT_THE_MODEL) -> None:
        """Refuse to resume a run with other settings than it was started with.

        A data set that was left to the machine ("auto", or nothing in the runs of earlier
        versions) is the one that `summary.json` names.

        Args:
            config: of today.
            but: settings that may differ.

        Raises:
            UsageError: naming the first difference.
        """
        saved = filled_up(self.read_json("config.json"), config)
        if saved.get("dataset") == "auto" and (self.path / "summary.json").is_file():
            saved["dataset"] = self.read_json("summary.json").get("dataset", "auto")
        different = first_difference(saved, as_json(config), but=but)
        if different is not None:
            field, before, now = different
            raise UsageError(
                f"{flag_of(field)} {as_words(now)}: "
                f"the run to resume was started with {as_words(before)}"
            )

    def check_same_data(self, source: Mapping[str, Any]) -> None:
        """Refuse data that are not those the run was trained on; warn where that is not known.

        Raises:
            UsageError: naming both.
        """
        if not (self.path / "provenance.json").exists():
            # Stopped as it began; earlier versions wrote it at the end.
            print(
                f"warning: {self.path}: no provenance.json, so it is not known whether the data "
                "are still those it was trained on",
                file=sys.stderr,
            )
            return
        before = self.read_json("provenance.json")["runs"][-1]["data"]
        if before.get("sha256") != source.get("sha256"):
            raise UsageError(
                f"{self.path}: trained on other data ({before.get('source')}) than there are now "
                f"({source.get('source')}): their SHA-256 differ, "
                f"{_other_checksum(before.get('sha256'), source.get('sha256'))}"
            )

    def create(self, config: Any, *, overwrite: bool) -> None:
        """Make the folder, empty but for `config.json`; the first thing a run writes.

        Raises:
            UsageError: if it cannot be written.
        """
        if not self._writes:
            return
        with self.usable():
            if overwrite and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            # What an earlier end summed up is no longer all there is.
            (self.path / "summary.json").unlink(missing_ok=True)
            shutil.rmtree(self.path / "evaluation", ignore_errors=True)
            self.write_json("config.json", as_json(config))

    @contextlib.contextmanager
    def usable(self) -> Iterator[None]:
        """Within it, a folder that the system refuses is the user's mistake."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UsageError(f"--output-dir {self.path}: cannot be used ({reason})") from None

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        self._replace(name, text)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all; a number that is not finite becomes null."""
        self._replace(name, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON object.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        try:
            value = json.loads((self.path / name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / name}: cannot be read ({error})") from None
        if not isinstance(value, dict):
            raise UsageError(f"{self.path / name}: a JSON object is needed")
        return value

    def write_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Write a CSV file whole or not at all; the first row names the columns.

        Without rows there is no file: what a killed run left must not be added to.
        """
        if rows:
            self._replace(name, _as_csv(rows, header=True))
        elif self._writes:
            (self.path / name).unlink(missing_ok=True)

    def append_rows(self, name: str, rows: Sequence[Row]) -> None:
        """Add rows to a CSV file, which is made if it is not there."""
        if not (rows and self._writes):
            return
        path = self.path / name
        try:
            with path.open("a", encoding="utf-8", newline="") as file:
                file.write(_as_csv(rows, header=file.tell() == 0))
        except OSError as error:  # a failed write does not know its file
            last = f"{path} (epoch {rows[-1].get('epoch')})"
            raise OSError(error.errno, error.strerror, last) from None

    def read_rows(self, name: str) -> list[dict[str, str]]:
        """Read a CSV file; an absent one has no rows."""
        path = self.path / name
        if not path.exists():
            return []
        # A killed run may have left half a line; it is one that will be run again.
        whole = path.read_text("utf-8").rpartition("\n")[0]
        return list(csv.DictReader(io.StringIO(whole)))

    def write_provenance(self, data: Mapping[str, Any], *, finished: bool = True) -> None:
        """Add to what made the results: command, code, versions, machine, data, time.

        A resumed run adds an entry of its own. One that is written when the run begins, so that
        a stopped run's data are known, is completed when it ends.
        """
        import jax

        earlier = []
        if (self.path / "provenance.json").exists():
            earlier = self.read_json("provenance.json").get("runs", [])
        if self._begun:
            earlier = earlier[:-1]
        self._begun = not finished
        now = datetime.now(UTC).isoformat(timespec="seconds")
        seconds = round(time.monotonic() - self._started, 1)
        entry = {
            "command": shlex.join(["python", "-m", module_name(), *sys.argv[1:]]),
            "commit": commit(),
            "finished": now if finished else None,
            "wall_time_seconds": seconds if finished else None,
            "versions": {"python": platform.python_version(), **_versions()},
            "devices": [str(device.device_kind) for device in jax.devices()],
            "cpu_count": os.cpu_count(),
            "NPROC": os.environ.get("NPROC"),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS"),
            "data": dict(data),
        }
        self.write_json("provenance.json", {"runs": [*earlier, entry]})

    def _replace(self, name: str, text: str) -> None:
        if not self._writes:
            return
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)


def _as_csv(rows: Sequence[Row], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_json(config: Any) -> dict[str, Any]:
    """A dataclass as what JSON gives back: tuples as lists, paths as text."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def filled_up(saved: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Settings as they were saved, and the defaults of those that came later.

    Args:
        saved: of a run, maybe of an earlier version.
        config: a dataclass of today, which has a default for every setting.
    """
    return as_json(type(config)()) | dict(saved)


def first_difference(
    saved: Mapping[str, Any], now: Mapping[str, Any], *, but: Set[str]
) -> tuple[str, Any, Any] | None:
    """The first setting by name in which two configurations differ.

    Args:
        saved: one configuration, `filled_up`.
        now: the other.
        but: settings in which they may differ.

    Returns:
        Its name and what it is in each; None if there is none.
    """
    for field in sorted((saved.keys() | now.keys()) - but):
        if saved.get(field) != now.get(field):
            return field, saved.get(field), now.get(field)
    return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _other_checksum(before: Any, now: Any) -> str:
    """`labels 1763c0f8cd3f, now 734737f11162`: the first that differs, of one or of several."""
    before, now = (found if isinstance(found, Mapping) else {"": found} for found in (before, now))
    name = next(name for name in (*before, *now) if before.get(name) != now.get(name))
    first, second = (str(found.get(name) or "none")[:12] for found in (before, now))
    return f"{name} {first}, now {second}".lstrip()


def module_name() -> str:
    """The module that is being run, `experiments.mnist`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec is not None else Path(sys.argv[0]).stem


def commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a checkout."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "vae_jax", "experiments")
        return git("rev-parse", "HEAD") + ("-modified" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    names: Iterable[str] = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {name: importlib.metadata.version(name) for name in names}
