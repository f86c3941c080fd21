"""How fast the library is: `python -m experiments.benchmark single`.

Each job writes `<output-dir>/benchmark/<job>-<device>.json` and `.md`. What is compared takes
turns in one process, because the clock of a machine drifts more from minute to minute than
from turn to turn; a ratio is read within a turn.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import _benchmark_evaluation as evaluation
from experiments import _benchmark_gpu as sweep_gpu
from experiments import _benchmark_growth as growth
from experiments import _benchmark_profile as profile
from experiments import _benchmark_single as single
from experiments import _benchmark_startup as startup
from experiments import _benchmark_sweep as sweep_cpu
from experiments import _benchmark_tabular as tabular
from experiments import _benchmark_text as sentences
from experiments._benchmark_evaluation import Evaluation
from experiments._benchmark_growth import Growth
from experiments._benchmark_job import Goal, Output, number
from experiments._benchmark_profile import Profile
from experiments._benchmark_single import Single
from experiments._benchmark_startup import Startup
from experiments._benchmark_sweep import Sweep
from experiments._benchmark_tabular import Tabular
from experiments._benchmark_text import Text
from experiments._progress import console, table
from experiments._report import markdown_table
from experiments._run import RunFolder, UsageError, check, main
from vae_jax import figures

PROG = "python -m experiments.benchmark"
# The files of the jobs and the words that run them, in the order of `all`.
JOBS = {
    "single": ("single",),
    "single-conv": ("single", "--network", "conv"),
    "profile": ("profile",),
    "profile-conv": ("profile", "--network", "conv"),
    "startup": ("startup",),
    "sweep": ("sweep",),
    "tabular": ("tabular",),
    "evaluation": ("evaluation",),
    "text": ("text",),
    "growth": ("growth",),
}
# On a GPU.
GPU_JOBS = {"sweep": ("sweep", "--device", "gpu")}


@dataclasses.dataclass(frozen=True)
class All(Output):
    """Every job with its own settings, each in a process of its own, and a page of the goals."""

    device: Literal["cpu", "gpu"] = "cpu"
    """gpu: the one job that has a GPU to measure, sweep."""
    gather_only: bool = False
    """Measure nothing: write the page of the goals from the measurements that are there."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the speed of the library; each job has its own --help."""

    job: Annotated[
        Single | Profile | Startup | Sweep | Tabular | Evaluation | Text | Growth | All,
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.OmitArgPrefixes,
    ]
    """What to measure."""


def run(config: Config) -> None:
    """Run the job that was asked for."""
    match config.job:
        case Single() as job:
            single.run(job)
        case Profile() as job:
            profile.run(job)
        case Startup() as job:
            startup.run(job)
        case Tabular() as job:
            tabular.run(job)
        case Evaluation() as job:
            evaluation.run(job)
        case Text() as job:
            sentences.run(job)
        case Growth() as job:
            growth.run(job)
        case Sweep(device="cpu") as job:
            sweep_cpu.run(job)
        case Sweep() as job:
            sweep_gpu.run(job)
        case All() as job:
            run_all(job)


def run_all(config: All) -> None:
    """Run every job, and gather what became of their goals.

    Raises:
        UsageError: if one of them failed, after the others are done; saying which. If none is
            to run, and there is nothing to gather.
    """
    folder = config.output_dir / "benchmark"
    if config.gather_only:
        needed = f"no measurement of the {config.device} with goals is there"
        found = gather(folder, config.device)
        check(found, "--gather-only", folder, needed)
        return
    shared = ["--output-dir", str(config.output_dir)]
    shared += ["--overwrite"] if config.overwrite else []
    failed, done = [], []
    for job, words in (JOBS if config.device == "cpu" else GPU_JOBS).items():
        print(f"{PROG} {' '.join([*words, *shared])}", flush=True)
        command = [sys.executable, "-m", "experiments.benchmark", *words, *shared]
        (failed if subprocess.run(command).returncode else done).append(job)
    gather(folder, config.device, done)
    if failed:
        raise UsageError(f"all: {' '.join(failed)} failed, as said above; the others are done")


def gather(folder: Path, device: str, jobs: Iterable[str] = JOBS) -> bool:
    """Write what the measurements in a folder say of their goals: `<device>.json`, .md and .png.

    Args:
        folder: of the measurements.
        device: that was measured, cpu or gpu.
        jobs: whose measurements.

    Returns:
        Whether there were any.
    """
    results: dict[str, dict[str, Any]] = {}
    for job in jobs:
        file = folder / f"{job}-{device}.json"
        if file.is_file():
            result = json.loads(file.read_text("utf-8"))
            # Older files have none, or have them in another form.
            if result.get("goals") and isinstance(result["goals"], list):
                results[job] = {key: result[key] for key in ("goals", "commit", "machine")}
    if not results:
        return False
    RunFolder(folder).write_json(f"{device}.json", results)
    goals = [
        Goal(f"{job}: {goal['what']}", *(goal[key] for key in ("goal", "reached", "at_most")))
        for job, result in results.items()
        for goal in result["goals"]
    ]
    columns = ["", "reached", "goal", ""]
    rows = [[goal.what, number(goal.reached), goal.asked, goal.verdict] for goal in goals]
    title = f"What the benchmarks are to reach, and what they reach here ({device.upper()})"
    where = "Each from its own file beside this one, with the machine it was measured on."
    (folder / f"{device}.md").write_text(
        f"# {title}\n\n{markdown_table(columns, rows)}\n\n{where}\n", encoding="utf-8"
    )
    console().print(table(title, columns, rows))
    shares = np.array([goal.times for goal in goals])
    figures.save(goals_figure(title, goals), folder / f"{device}.png", shares=shares)
    print(f"{device}.json, .md and .png are in {folder}")
    return True


def goals_figure(title: str, goals: Sequence[Goal]) -> Figure:
    """A bar for each goal, how many times it was reached."""
    figure = Figure(figsize=(7.0, 1.0 + 0.3 * len(goals)), layout="constrained")
    axes = figure.add_subplot()
    colors = [figures.BLUE if goal.is_met else figures.VERMILION for goal in goals]
    places = range(len(goals))
    # From the goal outwards: to the right is better than it.
    axes.barh(places, [goal.times - 1 for goal in goals], left=1, color=colors, height=0.6)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yticks(places, [goal.what for goal in goals], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times the goal; blue: met, orange: missed", fontsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(title, loc="left", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main(Config, run, PROG)
