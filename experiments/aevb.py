"""The figures of Auto-Encoding Variational Bayes: `python -m experiments.aevb --budget cpu`.

The set-up is that of the paper: one hidden layer of tanh units, 500 for MNIST and 200 for Frey
Face, all weights and biases from N(0, 0.01) (read as a standard deviation of 0.01); Bernoulli
likelihoods of grey levels for MNIST, Gaussians with means in (0, 1) for Frey Face; Adagrad with
minibatches of 100 and one sample of z; the prior N(0, I) on the decoder's weights. The step size
is the one of 0.01, 0.02 and 0.1 whose bound on the training data is best after a short pilot, for
each panel and method. One thing is ours: the scale of a pixel of Frey Face is at least 1/255,
one grey level, as without a floor one that is black in every face is worth any number of nats.

Members of one shape (the step sizes of a pilot, the seeds) are one sweep, and each latent size is a
program of its own: padded to the largest one and masked, all would be one program that compiles
sooner and trains a little more slowly. `python -m experiments.benchmark panels` measures both ways,
and what came out stands in results/benchmark/panels-cpu.md.

Reference:
    Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), section 5,
    figures 2, 4 and 5.
"""

import dataclasses
import sys
from typing import ClassVar, Literal, get_args

from experiments._aevb import (
    EXPERIMENT,
    METHODS,
    STEP_SIZES,
    Method,
    PartConfig,
    Pixels,
    load_pixels,
    prepare_part,
)
from experiments._aevb_panels import Finished, Panel
from experiments._aevb_report import write_report
from experiments._parts import (
    Budget,
    Part,
    PartsOptions,
    check_length,
    check_parts,
    part_settings,
    run_parts,
    start_parts,
)
from experiments._report import Result
from experiments._run import check_once, main
from vae_jax.data.download import UnavailableError

PROG = "python -m experiments.aevb"

PanelName = Literal[
    "mnist-z2",
    "mnist-z3",
    "mnist-z5",
    "mnist-z10",
    "mnist-z20",
    "mnist-z200",
    "frey-z2",
    "frey-z5",
    "frey-z10",
    "frey-z20",
]
PANELS: tuple[PanelName, ...] = get_args(PanelName)
SMOKE_PANELS: tuple[PanelName, ...] = ("mnist-z5", "frey-z2")
# What is asked for: MNIST where it can be had.
DATASETS = {"mnist": "auto", "frey": "frey_faces"}
# Training points of each panel; at the paper's speed the last would take weeks.
POINTS: dict[Budget, float] = {"smoke": 3e3, "cpu": 1e6, "full": 1e8}
# Points that each step size of a pilot is tried for, before and apart from those; no more of them.
PILOT_POINTS: dict[Budget, float] = {"smoke": 1e3, "cpu": 1.2e5, "full": 6e5}
SMOKE_IMAGES = (1000, 200)  # training and test images of --budget smoke


@dataclasses.dataclass(frozen=True)
class Config(PartsOptions):
    """Train the models of figures 2, 4 and 5 by AEVB and by wake-sleep, and draw the figures.

    Every panel takes a million training points with the budget cpu, and the paper's 10^8 with
    full. Bounds are in nats per image.
    """

    LENGTH: ClassVar[str] = "points"
    PARTS: ClassVar[tuple[str, ...]] = ("panels",)

    points: float | None = None
    """Training points of each panel, made up to whole rows of metrics.csv; those of the budget
    without it."""
    panels: tuple[PanelName, ...] | None = None
    """Data set and latent size of each panel; mnist-z2, by AEVB alone, is for figures 4 and 5.
    Without it all of them, those of Frey Face where VAE_JAX_DATA or --data-dir has it; with
    --budget smoke a few."""


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Returns:
        The configuration; a length that is the budget's own counts as not given.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_parts(config, EXPERIMENT)
    if config.panels is not None:
        check_once("--panels", config.panels, "at least one panel is needed")
    return check_length(config, POINTS[config.budget], most=POINTS["full"])


def panels_of(config: Config) -> tuple[list[Panel], list[str]]:
    """The panels that can be trained, and what the user should know of the others.

    Raises:
        DataError: if the data of a panel that was asked for cannot be had.
    """
    names = config.panels
    if names is None:
        names = SMOKE_PANELS if config.budget == "smoke" else PANELS
    panels: list[Panel] = []
    said: list[str] = []
    for name in PANELS:
        if name not in names:
            continue
        dataset, latent_dim = name.split("-z")
        try:
            pixels = _pixels(config, dataset)
        except UnavailableError as error:
            if config.panels is not None:
                raise
            said.append(f"the panels of Frey Face are left out: {error}")
            continue
        said += [] if pixels.warning is None else [pixels.warning]
        panels.append(Panel(name, dataset, int(latent_dim), pixels))
    return panels, list(dict.fromkeys(said))


def _pixels(config: Config, dataset: str) -> Pixels:
    images = SMOKE_IMAGES if config.budget == "smoke" else ()
    return load_pixels(DATASETS[dataset], config.data_dir, images)


def methods_of(panel: Panel) -> tuple[Method, ...]:
    """Both, but for the panel that is not in figure 2."""
    return METHODS if panel.in_figure_2 else METHODS[:1]


def part_of(
    config: Config, panel: Panel, method: Method, step_size: float | None = None
) -> PartConfig:
    """One method in one panel, with a step size, or the pilot that chooses among them all.

    Args:
        config: of the whole.
        panel: which.
        method: which.
        step_size: the one that the pilot chose; None is the pilot.

    Returns:
        Its configuration.
    """
    pilot = step_size is None
    budget, pixels = config.budget, panel.pixels
    name = f"{panel.name}-{method}" + ("-pilot" if pilot else "")
    rates = STEP_SIZES if step_size is None else (step_size,)
    seeds = config.seed[:1] if pilot else config.seed
    points = config.points or POINTS[budget]
    points = min(PILOT_POINTS[budget], points) if pilot else points
    return PartConfig(
        **part_settings(config, name, pixels.passes),
        dataset=pixels.name,
        latent_dim=panel.latent_dim,
        method=method,
        learning_rate=rates,
        seed=seeds,
        epochs=pixels.epochs(points),
        passes=pixels.passes,
        images=SMOKE_IMAGES if budget == "smoke" else (),
        figures="first_seed" if not pilot and method == "aevb" else "none",
        chunk=len(rates) * len(seeds),
        data_dir=config.data_dir,
    )


def best_step_size(results: list[Result]) -> float:
    """The step size of the member with the best bound on the training data.

    Args:
        results: of a pilot; a member that diverged counts for nothing.

    Returns:
        The step size, the smallest one if all diverged.
    """
    good = {
        result.columns["learning_rate"]: result.rows[-1]["train_neg_elbo"]
        for result in results
        if result.problem is None
    }
    return min(good, key=good.__getitem__) if good else min(STEP_SIZES)


def run(config: Config) -> None:
    """Train every panel by every method, and draw the figures.

    Raises:
        UsageError: if a setting or the folder does not allow it.
        DataError: if the data of a panel that was asked for cannot be had.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    config = validate(config)
    panels, said = panels_of(config)
    for warning in said:
        print(f"warning: {warning}", file=sys.stderr)
    both: list[tuple[Panel, Method]] = [
        (panel, method) for panel in panels for method in methods_of(panel)
    ]
    folder = start_parts(config, EXPERIMENT)
    pilots = [Part(*prepare_part(part_of(config, panel, method))) for panel, method in both]
    chosen = [best_step_size(results) for results in run_parts(folder, pilots)]
    parts = [
        Part(*prepare_part(part_of(config, panel, method, step_size)))
        for (panel, method), step_size in zip(both, chosen, strict=True)
    ]
    finished = [
        Finished(panel, method, step_size, part.task.name, results)
        for (panel, method), step_size, part, results in zip(
            both, chosen, parts, run_parts(folder, parts), strict=True
        )
    ]
    budget = config.words("points", POINTS["full"])
    write_report(folder, budget, config.seed, finished, said)
    if any(result.problem for one in finished for result in one.results):
        raise SystemExit(1)


if __name__ == "__main__":
    main(Config, run, PROG)
