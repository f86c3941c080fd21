"""How long the first epoch is waited for: `python -m experiments.benchmark startup`."""

import dataclasses
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen, check_output

import numpy as np

from experiments._benchmark_job import (
    Goal,
    Job,
    OnCpu,
    begin,
    data_arguments,
    isolated,
    peak_of,
    said_of,
    subject,
)
from experiments._benchmark_page import in_json, measured_of
from experiments._run import UsageError, check_counts
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures

COLD, WARM = "mnist, empty cache", "mnist, filled cache"
OWN_IMPORT, PLAIN_IMPORT = "import vae_jax", "import jax, flax.linen, optax"
EXPERIMENT_IMPORT = "import experiments.mnist"
SECONDS_GOAL, IMPORT_GOAL, BYTES_GOAL = 6.0, 3.0, 700e6
# Past a checkpoint (every 5, and the last) and several snapshots (1, 2, 5 and the last).
PEAK_EPOCHS = 6


@dataclasses.dataclass(frozen=True)
class Startup(OnCpu, Job):
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
        shown = [*arguments, "--figures", "first_seed"]
        peak, _ = peak_of(shown, environment, epochs=PEAK_EPOCHS)
    found = {name: spread(seconds) for name, seconds in turns.items()}
    goals = [
        Goal.of_seconds("seconds to the first epoch, filled cache", SECONDS_GOAL, found[WARM]),
        Goal.of_seconds("seconds of them importing", IMPORT_GOAL, found[EXPERIMENT_IMPORT]),
        Goal("MB of memory, at the most", BYTES_GOAL / 1e6, peak / 1e6, at_most=True),
    ]
    others = {WARM: COLD, OWN_IMPORT: PLAIN_IMPORT}
    ratios = {name: compared(turns[name], turns[other]) for name, other in others.items()}
    about = {WARM: goals[0], EXPERIMENT_IMPORT: goals[1]}
    measured = [
        measured_of(
            name,
            one,
            ratio=ratios.get(name),
            other=others.get(name, ""),
            goal=about.get(name),
        )
        for name, one in found.items()
    ]
    result = {
        **subject("startup", config, images),
        "measures": found,
        "ratios": {f"{name} / {others[name]}": ratio for name, ratio in ratios.items()},
        "peak_bytes": peak,
        "peak_epochs": PEAK_EPOCHS,
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(measured),
        "machine": hardware,
    }
    rows = [
        {
            "measure": name,
            **{which: f"{measure[f'{which}_seconds']:.2f}" for which in ("median", "min", "max")},
            "times": line.times,
        }
        for (name, measure), line in zip(found.items(), measured, strict=True)
    ]
    title = f"Start of experiments.mnist on {images.name}, and imports"
    write_results(
        files,
        f"{title}: seconds, CPU",
        result,
        rows,
        "`mnist`: from the start of the process `python -m experiments.mnist --epochs 1` to the "
        "line of its first epoch, which has trained, tested and compiled, with an empty or a "
        "filled compilation cache; the data are on the disk. Imports: each in a fresh process, "
        f"without the start of Python. Over {config.turns} turns, in which the five alternate; "
        "times: median and range of the ratios within a turn. "
        f"The process of `mnist`, with an empty cache, takes {peak / 1e6:.0f} MB at the most "
        f"(resident, {PEAK_EPOCHS} epochs: two checkpoints, four snapshots and the figures).",
        said_of(goals),
    )
    seconds = {name.replace(" ", "_"): np.array(own) for name, own in turns.items()}
    what = "seconds on the CPU: median, range, and every turn"
    figure = single_figure(title, turns, what, others=others)
    figures.save(figure, files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


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
