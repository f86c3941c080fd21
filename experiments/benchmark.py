"""How fast the library is: `python -m experiments.benchmark single`.

Each job writes `<output-dir>/benchmark/<job>-<device>.json` and `.md`. What is compared takes
turns in one process, because the clock of a machine drifts more from minute to minute than
from turn to turn; a ratio is read within a turn.
"""

import dataclasses
import functools
import operator
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from experiments import _benchmark_evaluation as evaluation
from experiments import _benchmark_gpu as sweep_gpu
from experiments import _benchmark_growth as growth
from experiments import _benchmark_panels as panels
from experiments import _benchmark_profile as profile
from experiments import _benchmark_single as single
from experiments import _benchmark_startup as startup
from experiments import _benchmark_sweep as sweep_cpu
from experiments import _benchmark_tabular as tabular
from experiments import _benchmark_text as sentences
from experiments._benchmark_job import OnCpu, Output, compiled_anew
from experiments._benchmark_page import gather
from experiments._run import UsageError, check, main

PROG = "python -m experiments.benchmark"
CONV = ("--network", "conv")


class Kind(NamedTuple):
    """What a job's settings lead to.

    Attributes:
        run: the job.
        flags: of each of its runs in `all`, by the name of the file.
    """

    run: Callable[[Any], None]
    flags: dict[str, tuple[str, ...]]


def run_sweep(config: sweep_cpu.Sweep) -> None:
    """Measure a sweep on the device that was asked for."""
    (sweep_cpu if config.device == "cpu" else sweep_gpu).run(config)


# A new job is a row here, in the order of `all`. Its word is the name of its settings.
KINDS: dict[type[Output], Kind] = {
    single.Single: Kind(single.run, {"single": (), "single-conv": CONV}),
    profile.Profile: Kind(profile.run, profile.RUNS),
    startup.Startup: Kind(startup.run, {"startup": ()}),
    sweep_cpu.Sweep: Kind(run_sweep, {"sweep": ()}),
    tabular.Tabular: Kind(tabular.run, {"tabular": ()}),
    evaluation.Evaluation: Kind(evaluation.run, {"evaluation": ()}),
    sentences.Text: Kind(sentences.run, {"text": ()}),
    growth.Growth: Kind(growth.run, {"growth": ()}),
    panels.Panels: Kind(panels.run, {"panels": ()}),
}


@dataclasses.dataclass(frozen=True)
class All(Output):
    """Every job with its own settings, each in a process of its own, and a page of them all.

    With `--device gpu` those that have something to measure on a GPU.
    """

    gather_only: bool = False
    """Measure nothing: write the page from the measurements that are there."""


if TYPE_CHECKING:
    AnyJob = Output
else:
    AnyJob = functools.reduce(operator.or_, [*KINDS, All])


@dataclasses.dataclass(frozen=True)
class Config:
    """Measure the speed of the library; each job has its own --help."""

    job: Annotated[AnyJob, tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes]
    """What to measure."""


def run(config: Config) -> None:
    """Run the job that was asked for."""
    if isinstance(config.job, All):
        run_all(config.job)
    else:
        with compiled_anew():
            KINDS[type(config.job)].run(config.job)


def jobs_of(device: str) -> dict[str, list[str]]:
    """The runs of `all` on a device, cpu or gpu: their files and the words that start them."""
    on_it = [] if device == "cpu" else ["--device", device]
    return {
        name: [settings.__name__.lower(), *flags, *on_it]
        for settings, kind in KINDS.items()
        for name, flags in kind.flags.items()
        if device == "cpu" or not issubclass(settings, OnCpu)
    }


def run_all(config: All) -> None:
    """Run every job, and gather what they measured.

    Raises:
        UsageError: if one of them failed, after the others are done; saying which. If none is
            to run, and there is nothing to gather.
    """
    folder = config.output_dir / "benchmark"
    jobs = jobs_of(config.device)
    if config.gather_only:
        needed = f"no measurement of the {config.device} with goals is there"
        check(gather(folder, config.device, jobs), "--gather-only", folder, needed)
        return
    shared = ["--output-dir", str(config.output_dir)]
    shared += ["--overwrite"] if config.overwrite else []
    failed, done = [], []
    for job, words in jobs.items():
        print(f"{PROG} {' '.join([*words, *shared])}", flush=True)
        command = [sys.executable, "-m", "experiments.benchmark", *words, *shared]
        (failed if subprocess.run(command).returncode else done).append(job)
    gather(folder, config.device, done)
    if failed:
        raise UsageError(f"all: {' '.join(failed)} failed, as said above; the others are done")


if __name__ == "__main__":
    main(Config, run, PROG)
