"""What every experiment shares: its command line, its results folder and its provenance.

A run leaves `results/<experiment>/<run>/` with `config.json`, `metrics.csv`,
`summary.json`, `figures/`, `checkpoints/` and `provenance.json`.
"""

import contextlib
import csv
import dataclasses
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from experiments import started

Config = TypeVar("Config")
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


class UsageError(ValueError):
    """Something the user asked for cannot be had; the message is one line."""


class RefusedError(UsageError):
    """A `UsageError` that every process of a distributed run raises at the same place."""


class Interrupted(Exception):
    """The user stopped the run; the message says how to go on."""


def main(config_type: type[Config], run: Callable[[Config], None], prog: str) -> None:
    """Parse the command line, run the experiment, and turn errors into exit codes.

    Args:
        config_type: a frozen dataclass; its fields are the flags, its docstrings the help.
        run: the experiment.
        prog: how the experiment is called, `python -m experiments.mnist`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ±
    started()
    try:
        config = parse(config_type, prog)
        enable_compilation_cache()
        run(config)
    except (Exception, KeyboardInterrupt) as error:
        said = explained(error)
        if said is None:
            raise  # a bug: its traceback is what we want to see
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient third Ctrl-C
        print(said[0], file=sys.stderr)
        raise SystemExit(said[1]) from None


def explained(error: BaseException) -> tuple[str, int] | None:
    """What the user is told of an error, and the exit code; None for a bug.

    2 is for what the user can mend, 1 for what happened on the way, 130 for a stop.
    """
    from vae_jax.checkpoint import CheckpointError
    from vae_jax.data import DataError

    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once; --resume goes on from the last checkpoint, if there is one", 130
    if isinstance(error, OSError):
        # A full or vanished disk in mid-run: earlier checkpoints stay good.
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error or type(error).__name__}", 1
    if isinstance(error, UsageError | CheckpointError | DataError):
        return f"error: {error}", 2
    # XLA's own error is a RuntimeError.
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        line = str(error).splitlines()[0][:160]
        hint = "--chunk trains fewer models at once, --batch-size takes fewer examples"
        return f"error: out of memory ({line}); {hint}", 1
    return None


def parse(config_type: type[Config], prog: str) -> Config:
    """The command line as a dataclass, by tyro.

    Raises:
        UsageError: one line, where tyro would draw a box.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config_type,
                prog=prog,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code != 2:
            raise
        raise UsageError(_unboxed(said.getvalue())) from None


def _unboxed(box: str) -> str:
    """The message inside a box of tyro's, between its first two rules.

    The first is the line with the title, or where the output is not UTF-8 the one after it.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    below = itertools.dropwhile(_is_rule, lines)
    message = itertools.takewhile(lambda line: not _is_rule(line), below)
    return " ".join(message) + "; --help lists what is allowed"


def _is_rule(line: str) -> bool:
    return not line.strip("─- ")


def enable_compilation_cache() -> None:
    """Let the next run of the same program skip XLA, unless the user has set a cache."""
    import jax

    from vae_jax.data import default_cache_dir

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir().parent / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check(condition: bool, flag: str, value: object, allowed: str) -> None:
    """Refuse a setting in one line that names its value and what is allowed.

    Raises:
        UsageError: if the condition does not hold.
    """
    if not condition:
        raise UsageError(f"{flag} {value}: {allowed}")


def as_words(value: object) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return "(not given)"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float32, the type that models compute in."""
    return abs(value) <= 3.4028234663852886e38


def flag_of(field: str) -> str:
    """The command line's name for a field."""
    return "--" + field.replace("_", "-")


def check_members(flag: str, values: Sequence[float], allowed: str, low: float) -> None:
    """Refuse an empty, repeated, too small or non-finite swept setting.

    Raises:
        UsageError: naming the value.
    """
    check(len(values) > 0, flag, "(nothing)", "at least one value is needed")
    for value in values:
        check(is_finite(value) and value >= low, flag, value, allowed)
        # Two numbers that are one in float32 would train the same model twice.
        kind = int if isinstance(value, int) else np.float32
        same = [other for other in values if kind(other) == kind(value)]
        check(len(same) == 1, flag, value, "given twice; members must differ")


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
