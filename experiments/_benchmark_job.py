"""What the jobs of the benchmark share: their options, their checks and their files."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from experiments._folder import as_json, commit
from experiments._run import UsageError, check
from vae_jax.data import ImageData, default_cache_dir, load_images

# What neither changes the measurement nor belongs into a file that is shared.
NOT_A_SETTING = {"dataset", "data_dir", "output_dir", "overwrite"}
# The peak of a process counts that of the process it was forked from, so that one is small.
LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(min(255, abs(os.waitstatus_to_exitcode(status))))
"""


class Goal(NamedTuple):
    """What a measurement is to reach.

    Attributes:
        what: is measured, with its unit.
        goal: to reach.
        reached: here.
        at_most: whether less is better.
        low: the least of what was reached in a turn; None if it was reached once.
        high: the most.
    """

    what: str
    goal: float
    reached: float
    at_most: bool = False
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_ratio(
        cls, what: str, goal: float, ratio: Mapping[str, float], *, at_most: bool = False
    ) -> "Goal":
        """One of a ratio within a turn, as `_timing.compared` has it."""
        reached, low, high = (ratio[f"{one}_of_turn_ratios"] for one in ("median", "min", "max"))
        return cls(what, goal, reached, at_most, low, high)

    @classmethod
    def of_seconds(cls, what: str, goal: float, spread: Mapping[str, Any]) -> "Goal":
        """At most so many seconds, of what `_timing.spread` sums up."""
        reached, low, high = (spread[f"{one}_seconds"] for one in ("median", "min", "max"))
        return cls(what, goal, reached, at_most=True, low=low, high=high)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Goal":
        """One that `as_json` wrote; what older files do not say is left out."""
        return cls(**{name: fields[name] for name in cls._fields if name in fields})

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        return self.reached <= self.goal if self.at_most else self.reached >= self.goal

    @property
    def asked(self) -> str:
        """The goal in words."""
        return f"{'at most' if self.at_most else 'at least'} {number(self.goal)}"

    @property
    def verdict(self) -> str:
        """Whether it was reached, in words."""
        return "met" if self.is_met else "missed"

    @property
    def times(self) -> float:
        """How many times it was reached: 1 is just so, more is better."""
        return self._times(self.reached)

    @property
    def times_range(self) -> tuple[float, float]:
        """The least and the most of `times`, twice the same where it was reached once."""
        ends = (self.reached if end is None else end for end in (self.low, self.high))
        low, high = sorted(map(self._times, ends))
        return low, high

    def _times(self, reached: float) -> float:
        return self.goal / reached if self.at_most else reached / self.goal

    @property
    def range(self) -> str:
        """The least and the most that was reached, in words; nothing if it was reached once."""
        if self.low is None or self.high is None:
            return ""
        return f"{number(self.low)} to {number(self.high)}"

    def as_json(self) -> dict[str, Any]:
        """For the measurement's file."""
        return {**self._asdict(), "is_met": self.is_met}

    def __str__(self) -> str:
        return f"{self.what}: {number(self.reached)} ({self.asked}, {self.verdict})"


def number(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def said_of(goals: Sequence[Goal]) -> str:
    """The goals and what became of them, for the measurement's table."""
    return f"Goals. {'; '.join(map(str, goals))}."


@dataclasses.dataclass(frozen=True)
class Output:
    """What every job has to be told."""

    output_dir: Path = Path("results")
    """The files are written to benchmark/ below it."""
    overwrite: bool = False
    """Replace the files of an earlier measurement."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What is measured; JAX must be running on it."""


@dataclasses.dataclass(frozen=True)
class OnCpu(Output):
    """What a job has to be told that has nothing to measure on a GPU; stands before other bases."""

    device: Literal["cpu"] = "cpu"
    """What is measured; JAX must be running on it."""


@dataclasses.dataclass(frozen=True)
class Job(Output):
    """What a job on images has to be told as well."""

    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """auto: MNIST, or the digits of scikit-learn with a warning where it cannot be had."""
    data_dir: Path | None = None
    """Folder with the official files in mnist/; VAE_JAX_DATA without it."""


def begin(job: str, config: Job) -> tuple[Path, ImageData]:
    """Where to write, as `files_of` says, and the data.

    Raises:
        UsageError: if the device, the folder or an earlier result does not allow it.
    """
    files = files_of(job, config)
    images = load_images(config.dataset, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    print(images.source, flush=True)
    return files, images


def files_of(job: str, config: Output) -> Path:
    """Where a job writes, without an ending and known to be writable.

    Args:
        job: its name.
        config: of it.

    Raises:
        UsageError: if the device, the folder or an earlier result does not allow it.
    """
    device = config.device
    backend = jax.default_backend()
    if device == "cpu":
        needed = "the CPU is measured, JAX_PLATFORMS=cpu is needed"
        check(backend == "cpu", "JAX_PLATFORMS", backend, needed)
    elif backend != "gpu":
        needed = "a GPU and pip install 'vae_jax[cuda]' are needed"
        raise UsageError(f"--device gpu: the backend is {backend}, {needed}")
    folder = config.output_dir / "benchmark"
    files = folder / f"{job}-{device}"
    free = config.overwrite or not files.with_suffix(".json").exists()
    check(free, "--output-dir", folder, f"{files.name}.json exists; --overwrite replaces it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir {folder}: cannot be written ({error.strerror})") from None
    check(os.access(folder, os.W_OK), "--output-dir", folder, "cannot be written")
    return files


def subject(job: str, config: Output, images: ImageData | None) -> dict[str, Any]:
    """What was measured, on which data, by which code and with which settings."""
    settings = as_json(config)
    data = {} if images is None else {"dataset": images.name, "source": images.source}
    return {
        "job": job,
        **data,
        "commit": commit(),
        "settings": {key: settings[key] for key in settings if key not in NOT_A_SETTING},
    }


def isolated(scratch: Path) -> tuple[Path, dict[str, str]]:
    """Empty caches below a folder, and the environment of a process that uses them.

    A download is no part of what is measured: the data set that was just loaded is at hand.
    """
    caches = scratch / "vae_jax"
    caches.mkdir()
    (caches / "datasets").symlink_to(default_cache_dir().absolute())
    return caches, environment(scratch)


def environment(cache: Path) -> dict[str, str]:
    """This process's, with caches of its own and with this checkout to import from."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    # A cache that the user has set would be filled already.
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    roots = (str(Path(__file__).parents[1]), variables.get("PYTHONPATH"))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, roots))
    return variables


def data_arguments(config: Job, images: ImageData) -> list[str]:
    """The flags that make an experiment train on the data that were loaded."""
    folder = [] if config.data_dir is None else ["--data-dir", str(config.data_dir)]
    return ["--dataset", images.name, *folder]


def peak_of(
    arguments: Sequence[str], environment: Mapping[str, str], *, epochs: int = 1
) -> tuple[int, int]:
    """Peak resident memory, in bytes, of a run of `experiments.mnist` in a fresh process.

    Args:
        arguments: its flags.
        environment: its variables.
        epochs: of the run.

    Returns:
        The bytes, and the members that it trained at once.

    Raises:
        UsageError: if it fails, with the last line that it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        own = ["--epochs", str(epochs), "--figures", "none", "--output-dir", folder]
        own += ["--name", "memory"]
        peak = peak_of_process(["-m", "experiments.mnist", *own, *arguments], environment)
        config = json.loads((Path(folder) / "mnist" / "memory" / "config.json").read_text("utf-8"))
    return peak, config["chunk"]


def peak_of_process(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Peak resident memory, in bytes, of a process of Python.

    Args:
        words: after `python`: a module with its flags, or a program.
        environment: its variables.

    Raises:
        UsageError: if it fails, with the last line that it printed.
    """
    launcher = [sys.executable, "-S", "-c", LAUNCHER, sys.executable, *words]
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UsageError(f"python {' '.join(words[:2])}: {last.removeprefix('error: ')}")
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def compiled_anew() -> Iterator[None]:
    """What another process, or this one, compiled before is not found, by JAX or by PyTorch."""
    of_jax, of_torch = "jax_enable_compilation_cache", "TORCHINDUCTOR_FORCE_DISABLE_CACHES"
    before, given = jax.config.values[of_jax], of_torch in os.environ
    os.environ.setdefault(of_torch, "1")
    jax.config.update(of_jax, False)
    try:
        yield
    finally:
        jax.config.update(of_jax, before)
        if not given:
            del os.environ[of_torch]
