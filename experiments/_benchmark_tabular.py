"""Many small models of a table beside a PyTorch loop, and the estimator on small and large tables.

`python -m experiments.benchmark tabular`
"""

import dataclasses
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE, CalledProcessError, check_output
from typing import Any

import numpy as np

from experiments._benchmark_cost import (
    limits_in_words,
)
from experiments._benchmark_job import (
    Goal,
    OnCpu,
    environment,
    files_of,
    said_of,
    subject,
)
from experiments._benchmark_page import Measured, in_json, measured_of
from experiments._benchmark_wine import EPOCHS, SEEDS, TORCH_MODELS, OurSweep, torch_models
from experiments._peers import OURS
from experiments._peers_torch import import_torch
from experiments._run import UsageError, check, check_counts
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures

# In a process of its own: the first fit with what JAX does only once, and the later ones.
FITS = """
import json, time
from sklearn.datasets import load_wine
import jax
from vae_jax.estimator import VAE
X = load_wine().data
jax.devices()
seconds = []
for seed in range(6):
    began = time.perf_counter()
    VAE(random_state=seed).fit(X)
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds))
"""
# The peak is that of the whole process less what it took before the table was made.
LARGE = """
import json, resource, sys, time
import numpy as np
from vae_jax.estimator import VAE
rows, epochs = int(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
VAE(hidden=(64,), epochs=1, random_state=0).fit(rng.normal(size=(100, 3)))
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
latent, weights = rng.normal(size=(rows, 4)), rng.normal(size=(4, 30))
X = latent @ weights
del latent
for start in range(0, rows, 10_000):
    some = X[start : start + 10_000]
    some += 0.5 * rng.normal(size=some.shape)
seconds = []
for count in (1, 1, 1 + epochs):  # the first compiles
    began = time.perf_counter()
    VAE(hidden=(64,), epochs=count, random_state=0).fit(X)
    seconds.append(time.perf_counter() - began)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({
    "rows_per_second": rows * epochs / (seconds[2] - seconds[1]),
    "table_bytes": X.nbytes,
    "memory_in_tables": (peak - before) / X.nbytes,
    "fit_seconds": seconds,
}))
"""


ONCE = "ours, once compiled"
LARGE_FITS = 3


@dataclasses.dataclass(frozen=True)
class Tabular(OnCpu):
    """5 betas x 10 seeds x 5 folds of Wine as one program, beside a PyTorch loop for each model.

    And the scikit-learn estimator: its first and later fits of Wine, and a large table. Needs
    PyTorch: pip install 'vae_jax[bench]'.
    """

    turns: int = 5
    """How often each is measured."""
    seeds: int = SEEDS
    """Of the sweep; with 5 betas and 5 folds."""
    epochs: int = EPOCHS
    """Of each model."""
    rows: int = 1_000_000
    """Of the large table, with 30 columns."""


def run(config: Tabular) -> None:
    """Measure, and write what came out.

    Raises:
        UsageError: if PyTorch is missing, or a setting or the folder does not allow it.
    """
    check_counts(config, "turns", "seeds", "epochs", "rows")
    check(config.epochs % 10 == 0, "--epochs", config.epochs, "a multiple of 10 is needed")
    import_torch()
    ours = OurSweep(
        config.seeds, config.epochs
    )  # first, for it says how many devices JAX starts with
    files = files_of("tabular", config)
    theirs = partial(torch_models, ours.task, config.epochs)
    quality: dict[str, Any] = {}

    def keep(name: str, work: Callable[[], float]) -> Callable[[], float]:
        return lambda: seconds_of(lambda: quality.__setitem__(name, work()))

    bystanders = Bystanders()
    turns = alternate(
        {OURS: keep(OURS, ours.train), "torch": keep("torch", theirs)}, turns=config.turns
    )
    models = len(ours.task.members)
    times = {
        OURS: [[call / models for call in turn] for turn in turns[OURS]],
        "torch": [[call / TORCH_MODELS for call in turn] for turn in turns["torch"]],
        "once compiled": [
            [(call - wait) / models for call in turn]
            for turn, wait in zip(turns[OURS], ours.compiled, strict=True)
        ],
    }
    with tempfile.TemporaryDirectory() as scratch:
        fits = [_json_of(FITS, Path(scratch)) for _ in range(config.turns)]
        large = [_json_of(LARGE, Path(scratch), str(config.rows), "3") for _ in range(LARGE_FITS)]
    first, later = spread([[fit[0]] for fit in fits]), spread([fit[1:] for fit in fits])
    rates = sorted(fit["rows_per_second"] for fit in large)
    tables = sorted(fit["memory_in_tables"] for fit in large)
    ratio = compared(times["torch"], times[OURS])
    compiled = compared(times["torch"], times["once compiled"])
    whole, per_model = spread(turns[OURS]), {name: spread(own) for name, own in times.items()}
    limits = ours.limits(per_model["once compiled"]["median_seconds"])
    goals = [
        Goal.of_seconds(f"seconds of {models} models, all in", 10, whole),
        Goal.of_seconds("seconds a model, once compiled", 0.008, per_model["once compiled"]),
        Goal.of_ratio("times torch, a model", 100, ratio),
        Goal.of_seconds("seconds of the first fit", 1.5, first),
        Goal.of_seconds("seconds of a later fit", 0.15, later),
        Goal("rows a second", 500_000, statistics.median(rates), low=rates[0], high=rates[-1]),
        Goal("memory in tables", 3, tables[-1], at_most=True, low=tables[0], high=tables[-1]),
    ]
    measured = [
        measured_of(
            f"{models} models x {config.epochs} epochs, compilation included", whole, goal=goals[0]
        ),
        measured_of("a model of them", per_model[OURS], unit="ms", scale=1000),
        measured_of(
            "a model of them, once compiled",
            per_model["once compiled"],
            unit="ms",
            scale=1000,
            goal=goals[1],
        ),
        measured_of(
            "a model in a PyTorch loop",
            per_model["torch"],
            unit="ms",
            scale=1000,
            ratio=ratio,
            goal=goals[2],
        ),
        measured_of(
            "the same", per_model["torch"], unit="ms", scale=1000, ratio=compiled, other=ONCE
        ),
        measured_of("VAE().fit of Wine, the first", first, goal=goals[3]),
        measured_of("VAE().fit of Wine, later", later, goal=goals[4]),
        Measured(
            f"rows a second, {config.rows:,} x 30, hidden 64",
            "",
            goals[5].reached,
            rates[0],
            rates[-1],
            goal=goals[5].what,
        ),
        Measured(
            "memory, of the table's size",
            "",
            statistics.median(tables),
            tables[0],
            tables[-1],
            goal=goals[6].what,
        ),
    ]
    result = {
        **subject("tabular", config, None),
        "models": models,
        "sweep": whole,
        "per_model": per_model,
        "compilation": spread([[seconds] for seconds in ours.compiled]),
        "ratios": {"torch / vae_jax": ratio, "torch / vae_jax, once compiled": compiled},
        "test_neg_elbo": quality,
        "fits": {"first": first, "later": later},
        "large": {
            "rows_per_second": statistics.median(rates),
            "memory_in_tables": tables[-1],
            "fits": large,
        },
        "limits": limits,
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(measured),
        "machine": machine(bystanders),
    }

    title = "Small models of a table, and the estimator"
    write_results(
        files,
        f"{title}, CPU",
        result,
        [
            {"": line.what, "median": line.told, "range": line.range, "times": line.times}
            for line in measured
        ],
        f"Medians of {config.turns} turns, in which the sweep and {TORCH_MODELS} PyTorch models "
        "alternate in one process, the sweep on all processors and PyTorch's models one after the "
        "other; times: median and range of the ratios within a turn. The sweep is compiled anew "
        "in each. Held-out -ELBO of the same "
        f"{TORCH_MODELS} models (beta 1, seed 0), nats per row: vae_jax "
        f"{quality[OURS]:.2f}, PyTorch {quality['torch']:.2f}. Fits are in fresh processes, "
        f"without the imports. Rows a second: the median of {LARGE_FITS} processes, without "
        "compilation. Memory is the largest peak of these above what the process took before the "
        "table was made, the table included.",
        limits_in_words(limits, "the sweep, once compiled and with its evaluations,")
        + " The products are batched over the models.",
        said_of(goals),
    )
    seconds = {name.replace(" ", "_"): np.array(own) for name, own in times.items()}
    what = "seconds a model on the CPU: median, range, and every turn"
    names = {OURS: f"vae_jax, {models} at once", "once compiled": ONCE, "torch": "PyTorch loop"}
    drawn = {told: times[name] for name, told in names.items()}
    figure = single_figure(title, drawn, what, others={names["torch"]: names[OURS]})
    figures.save(figure, files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def _json_of(code: str, scratch: Path, *arguments: str) -> Any:
    """What a program prints, run in a process of its own with empty caches."""
    try:
        said = check_output(
            [sys.executable, "-c", code, *arguments],
            env=environment(scratch),
            stderr=PIPE,
            text=True,
        )
    except CalledProcessError as error:
        last = (error.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UsageError(f"the estimator in a process of its own: {last}") from None
    return json.loads(said)
