"""How long the first epoch is waited for: `python -m experiments.benchmark startup`."""

import dataclasses
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, check_output

from experiments._benchmark_job import (
    Goal,
    Job,
    begin,
    check_counts,
    data_arguments,
    isolated,
    peak_of,
    said_of,
    subject,
)
from experiments._run import UsageError
from experiments._timing import (
    Bystanders,
    Turns,
    alternate,
    compared,
    flat,
    machine,
    spread,
    write_results,
)

COLD, WARM = "mnist, empty cache", "mnist, filled cache"
OWN_IMPORT, PLAIN_IMPORT = "import vae_jax", "import jax, flax.linen, optax"
EXPERIMENT_IMPORT = "import experiments.mnist"
SECONDS_GOAL, IMPORT_GOAL, BYTES_GOAL = 6.0, 3.0, 700e6


@dataclasses.dataclass(frozen=True)
class Startup(Job):
    """Time from the start of `python -m experiments.mnist` to its first finished epoch.

    With an empty and with a filled compilation cache; the time of importing the library beside
    that of the packages it is built on; and the most memory that the run takes.
    """

    turns: int = 3
    """How often each is measured; what fills the other caches precedes them."""


def run(config: Startup) -> None:
    """Time the start of an experiment and the imports, take its memory, and write it all.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it, or the experiment
            fails.
    """
    check_counts(config, "turns")
    files, images = begin("startup", config)
    with tempfile.TemporaryDirectory() as scratch:
        caches, environment = isolated(Path(scratch))
        arguments = data_arguments(config, images)
        measures = {
            COLD: lambda: first_epoch_seconds(arguments, environment, empty=caches / "xla"),
            WARM: lambda: first_epoch_seconds(arguments, environment),
            OWN_IMPORT: lambda: import_seconds(OWN_IMPORT, environment),
            PLAIN_IMPORT: lambda: import_seconds(PLAIN_IMPORT, environment),
            EXPERIMENT_IMPORT: lambda: import_seconds(EXPERIMENT_IMPORT, environment),
        }
        # Matplotlib's list of fonts and the compiled Python files are written only once.
        import_seconds(EXPERIMENT_IMPORT, environment)
        bystanders = Bystanders()
        turns = alternate(measures, turns=config.turns)
        hardware = machine(bystanders)
        shutil.rmtree(caches / "xla", ignore_errors=True)  # compiling is what takes most
        peak, _ = peak_of([*arguments, "--figures", "first_seed"], environment)
    warm, importing = _median(turns[WARM]), _median(turns[EXPERIMENT_IMPORT])
    goals = [
        Goal("seconds to the first epoch, filled cache", SECONDS_GOAL, warm, at_most=True),
        Goal("seconds of them importing", IMPORT_GOAL, importing, at_most=True),
        Goal("MB of memory in an epoch, at the most", BYTES_GOAL / 1e6, peak / 1e6, at_most=True),
    ]
    result = {
        **subject("startup", config, images),
        "measures": {name: spread(seconds) for name, seconds in turns.items()},
        "ratios": {
            f"{name} / {other}": compared(turns[name], turns[other])
            for name, other in ((WARM, COLD), (OWN_IMPORT, PLAIN_IMPORT))
        },
        "peak_bytes": peak,
        "goals": [goal.as_json() for goal in goals],
        "machine": hardware,
    }
    rows = [
        {
            "measure": name,
            **{which: f"{measure[f'{which}_seconds']:.2f}" for which in ("median", "min", "max")},
        }
        for name, measure in result["measures"].items()
    ]
    write_results(
        files,
        f"Start of experiments.mnist on {images.name}, and imports: seconds, CPU",
        result,
        rows,
        "`mnist`: from the start of the process `python -m experiments.mnist --epochs 1` to the "
        "line of its first epoch, which has trained, tested and compiled, with an empty or a "
        "filled compilation cache; the data are on the disk. Imports: each in a fresh process, "
        f"without the start of Python. Over {config.turns} turns, in which the five alternate. "
        f"The process of `mnist`, with an empty cache, takes {peak / 1e6:.0f} MB at the most "
        "(resident, one epoch and its figures).",
        said_of(goals),
    )
    print(f"{files.name}.json and .md are in {files.parent}")


def first_epoch_seconds(
    arguments: Sequence[str], environment: Mapping[str, str], empty: Path | None = None
) -> float:
    """Seconds from the start of the MNIST experiment to its first finished epoch.

    It gets the arguments and the environment; the cache folder `empty` is removed first.

    Raises:
        UsageError: if it stops before, with the last line that it printed.
    """
    if empty is not None:
        shutil.rmtree(empty, ignore_errors=True)
    command = [sys.executable, "-m", "experiments.mnist", "--epochs", "1", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--output-dir", folder]
        began = time.perf_counter()
        with Popen(command, env=environment, stdout=PIPE, stderr=STDOUT, text=True) as child:
            line = ""
            for line in child.stdout or ():
                if "epoch 1/1" in line:
                    seconds = time.perf_counter() - began
                    # All that was compiled for this line is in the cache by now; the figures
                    # that would follow are not measured.
                    child.kill()
                    return seconds
    raise UsageError(f"python -m experiments.mnist: no epoch was finished ({line.strip()})")


def import_seconds(statement: str, environment: Mapping[str, str]) -> float:
    """Seconds of an import statement in a fresh process, without the start of Python."""
    code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    return float(check_output(command, env=environment, stderr=PIPE, text=True))


def _median(turns: Turns) -> float:
    return statistics.median(flat(turns))
