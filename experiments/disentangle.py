"""Disentanglement: `python -m experiments.disentangle --beta 1 4 8 16 --seed 0 1 2`.

Beta-VAEs, controlled capacity and beta-TC-VAEs on a grid of factors, scored by MIG, DCI, SAP,
FactorVAE and beta-VAE scores on images that they were not trained on. `--budget full` is the
set-up of Locatello et al.: the convolutional network with 10 latents, Adam at 1e-4 and 300,000
minibatches of 64. On two cores its step costs more than ten times that of a fully connected
network, so the smaller budgets train 400-400 (ReLU in the encoder, tanh in the decoder), with
ten times the step size for their few steps.

Reference:
    Locatello et al., Challenging common assumptions in the unsupervised learning of
    disentangled representations (arXiv 1811.12359), appendix G; Higgins et al., beta-VAE
    (ICLR 2017); Burgess et al. (arXiv 1804.03599); Chen et al. (arXiv 1802.04942).
"""

import dataclasses
from typing import ClassVar, NamedTuple

from experiments._disentangle_part import (
    EXPERIMENT,
    Dataset,
    Network,
    ObjectiveName,
    PartConfig,
    model_words,
    prepare_part,
)
from experiments._disentangle_report import write_report
from experiments._grid import short
from experiments._parts import (
    Part,
    PartsOptions,
    check_length,
    check_parts,
    part_settings,
    run_parts,
    start_parts,
)
from experiments._run import check, check_members, check_once, check_positive, check_widths, main

PROG = "python -m experiments.disentangle"
HIDDEN = {"conv": (256,), "mlp": (400, 400)}


class Budget(NamedTuple):
    """What a budget trains, unless it is told otherwise.

    Attributes:
        images: in the training set, drawn from the grid: the length of an epoch.
        epochs: passes through them.
        held_out: other images, on which everything is measured.
        network: the kind.
        learning_rate: of Adam.
    """

    images: int
    epochs: int
    held_out: int
    network: Network
    learning_rate: float


BUDGETS = {
    "smoke": Budget(256, 2, 1200, "mlp", 1e-3),
    "cpu": Budget(64_000, 4, 3000, "mlp", 1e-3),
    "full": Budget(640_000, 30, 10_000, "conv", 1e-4),
}


@dataclasses.dataclass(frozen=True)
class Config(PartsOptions):
    """Train beta-VAEs and their relatives on a grid of factors, and score their latents.

    Each objective is one program, which trains all its settings and seeds as one sweep. An
    epoch is a pass through a random part of the grid, another part is held out. Costs are in
    nats per image, summed over pixels and latent dimensions.
    """

    LENGTH: ClassVar[str] = "steps"
    PARTS: ClassVar[tuple[str, ...]] = ("objective",)

    steps: int | None = None
    """Minibatches that a model sees, in whole epochs; those of the budget without it."""
    seed: tuple[int, ...] = (0, 1, 2)
    """Seeds of the weights, the shuffling and the noise."""
    beta: tuple[float, ...] = (1.0, 4.0, 8.0, 16.0)
    """Weight of the KL term in beta; those above 1 weigh the total correlation in beta_tc, which
    at 1 is the same as beta."""
    objective: tuple[ObjectiveName, ...] = ("beta", "capacity", "beta_tc")
    """The bounds to maximise."""
    capacity: tuple[float, ...] = (25.0,)
    """capacity: nats that the KL is held at, from a third of the training on."""
    gamma: float = 100.0
    """capacity: weight of |KL - target|."""
    dataset: Dataset = "sprites"
    """sprites: drawn on the device from their factors; dsprites: the published images, from
    dsprites/ in the data folder or through TensorFlow Datasets."""
    network: Network | None = None
    """conv: four 4x4 convolutions of stride 2 before the dense layers; mlp: dense layers only.
    Without it conv in the full budget and mlp in the others."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's dense layers; the decoder mirrors them. Without it 256 for conv
    and 400 400 for mlp."""
    latent_dim: int = 10
    """Dimensions of the latent z."""
    batch_size: int = 64
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    learning_rate: float | None = None
    """Step size of Adam. Without it 1e-4 in the full budget and 1e-3 in the others."""


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: as given.

    Returns:
        The configuration with the defaults of its budget filled in.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_parts(config, EXPERIMENT)
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_members("--capacity", config.capacity, "a finite number of 0 or more is needed", low=0)
    check_once("--objective", config.objective)
    if "beta_tc" in config.objective:
        some = any(beta > 1 for beta in config.beta)
        allowed = "--objective beta_tc needs a value above 1"
        check(some, "--beta", " ".join(map(short, config.beta)), allowed)
    budget = BUDGETS[config.budget]
    network = config.network or budget.network
    hidden = HIDDEN[network] if config.hidden is None else config.hidden
    check_widths(hidden)
    allowed = "2 or more are needed: a score compares dimensions"
    check(config.latent_dim >= 2, "--latent-dim", config.latent_dim, allowed)
    allowed = f"2 to {budget.images}, the training images of --budget {config.budget}"
    fits = 2 <= config.batch_size <= budget.images
    check(fits, "--batch-size", config.batch_size, allowed)
    steps = [steps_of(name, config.batch_size) for name in (config.budget, "full")]
    config = check_length(config, *steps, step=steps[0] // budget.epochs)
    rate = budget.learning_rate if config.learning_rate is None else config.learning_rate
    check_positive("--gamma", (config.gamma,))
    check_positive("--learning-rate", (rate,))
    return dataclasses.replace(config, network=network, hidden=hidden, learning_rate=rate)


def steps_of(budget: str, batch_size: int) -> int:
    """Minibatches of a budget."""
    found = BUDGETS[budget]
    return found.epochs * (found.images // batch_size)


def parts_of(config: Config) -> list[PartConfig]:
    """One part for each objective.

    Args:
        config: with its defaults filled in.

    Returns:
        The parts, in the order of `--objective`.
    """
    assert config.network is not None
    assert config.hidden is not None
    assert config.learning_rate is not None
    budget = BUDGETS[config.budget]
    steps = config.steps or steps_of(config.budget, config.batch_size)
    strengths = {
        "beta": config.beta,
        "capacity": config.capacity,
        "beta_tc": tuple(beta for beta in config.beta if beta > 1),
    }
    return [
        PartConfig(
            **part_settings(config, name),
            epochs=steps // (budget.images // config.batch_size),
            objective=name,
            strength=strengths[name],
            seed=config.seed,
            gamma=config.gamma,
            dataset=config.dataset,
            network=config.network,
            hidden=config.hidden,
            latent_dim=config.latent_dim,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            images=budget.images,
            held_out=budget.held_out,
            data_dir=config.data_dir,
        )
        for name in config.objective
    ]


def run(config: Config) -> None:
    """Train every objective, score every model, and put them in one table.

    Raises:
        UsageError: if a setting or the folder does not allow it.
        DataError: if the images cannot be had.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    config = validate(config)
    configs = parts_of(config)
    parts = [Part(*prepare_part(one)) for one in configs]
    folder = start_parts(config, EXPERIMENT)
    results = run_parts(folder, parts)
    said = [config.dataset, *model_words(configs[0])]
    said.append(config.words("steps", steps_of("full", config.batch_size)))
    write_report(folder, configs, results, title=" · ".join(said))
    folder.write_provenance(parts[0].task.source)
    if any(one.problem is not None for own in results for one in own):
        raise SystemExit(1)


if __name__ == "__main__":
    main(Config, run, PROG)
