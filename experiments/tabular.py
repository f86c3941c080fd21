"""Beta-VAEs of tables: `python -m experiments.tabular --dataset wine --beta 0.5 1 2`."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from experiments._folds import (
    as_subsets,
    cross_validation,
    labels_of,
    over_folds,
)
from experiments._grid import Axis, grid, short, shown_axes
from experiments._imputation import Imputation
from experiments._noise import elbo_of
from experiments._options import RunOptions, check_options, folder_name
from experiments._run import (
    UsageError,
    check,
    check_counts,
    check_members,
    check_positive,
    check_seeds,
    check_widths,
    flag_of,
    main,
)
from experiments._shards import run_grid
from experiments._sweep import Task
from experiments._tables import NUMBERS, TableReport
from vae_jax.data import Table, load_table, read_table
from vae_jax.networks import ACTIVATIONS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import as_stored
from vae_jax.tabular import make_table_vae
from vae_jax.train import OPTIMIZERS, flat, make_trainer

EXPERIMENT = "tabular"
PROG = "python -m experiments.tabular"


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """Train variational autoencoders on a table and compare them with PCA.

    Every value of --beta, --seed and --learning-rate is trained on every fold of a
    cross-validation, all in one compiled program. Scaling and models see the training folds
    only; all numbers are of held-out rows.
    """

    dataset: Literal["iris", "wine", "breast_cancer", "digits"] | None = None
    """A table that scikit-learn carries (iris without it and without --csv)."""
    csv: Path | None = None
    """A table of your own, with the names of its columns in the first line."""
    label: str | None = None
    """Column of --csv with the classes; it is no feature."""
    schema: Path | None = None
    """JSON file with the kinds of columns of --csv: {"age": "count", "id": "ignore", ...};
    continuous, heavy_tailed, binary, count, categorical or ignore. Others are inferred."""
    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL term; 1 is the evidence lower bound."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the weights, the shuffling, the noise, and the partition into folds."""
    folds: int = 5
    """Folds of the cross-validation; 1 holds out a fifth of the rows, once."""
    epochs: int = 200
    """Passes through the training rows."""
    report_every: int | None = None
    """Epochs between two rows of metrics.csv, a divisor of --epochs (the largest up to 10
    without it)."""
    latent_dim: int = 2
    """Dimensions of the latent z."""
    hidden: tuple[int, ...] = (32,)
    """Widths of the encoder's layers; the decoder mirrors them. No width: a linear model."""
    activation: Literal["relu", "tanh", "gelu", "silu", "elu", "softplus", "leaky_relu"] = "relu"
    """Between layers."""
    scale_of: Literal["column", "row", "table"] = "column"
    """What the spread of a column depends on: learned for each, decoded from z for each row,
    or one for all (with no hidden layer this is probabilistic PCA)."""
    batch_size: int | None = None
    """Rows in a minibatch (32 without it, or all training rows where a fold has fewer); the
    remainder of an epoch that fills none is left out."""
    optimizer: Literal["adam", "adamw", "adagrad", "adamax", "rmsprop", "sgd"] = "adam"
    """From optax."""
    learning_rate: tuple[float, ...] = (5e-3,)
    """Step size of the optimiser."""
    num_samples: int = 500
    """Samples of z for each held-out row behind its importance-weighted log-likelihood."""
    contamination: float = 0.05
    """Share of the training rows beyond the anomaly threshold of the error histogram."""
    impute: float | None = None
    """Share of the numbers in held-out rows that are taken away, to be filled in by the model,
    by the columns' means and by the five nearest rows (nothing is without it)."""


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: as given.

    Returns:
        The configuration with every default filled in.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_options(config, EXPERIMENT)
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_seeds(config.seed)
    check_counts(config, "latent_dim", "batch_size", "folds", "num_samples")
    check_positive("--learning-rate", config.learning_rate)
    check_widths(config.hidden)
    share = config.contamination
    check(0 < share <= 0.5, "--contamination", share, "above 0 and at most 0.5 is needed")
    away = config.impute
    if away is not None:
        check(0 < away < 1, "--impute", away, "a share above 0 and under 1 is needed")
    if config.csv is None:
        for field in ("label", "schema"):
            value = getattr(config, field)
            check(value is None, flag_of(field), value, "belongs to --csv")
    else:
        check(config.dataset is None, "--dataset", config.dataset, "not together with --csv")
    every = config.report_every
    if every is None:
        every = next(k for k in range(10, 0, -1) if config.epochs % k == 0)
    divides = every >= 1 and config.epochs % every == 0
    check(divides, "--report-every", every, f"a divisor of --epochs {config.epochs} is needed")
    dataset = config.dataset or (None if config.csv else "iris")
    return dataclasses.replace(config, report_every=every, dataset=dataset)


def table_of(config: Config) -> Table:
    """The table that the configuration names."""
    if config.csv is not None:
        return read_table(config.csv, label=config.label, schema=config.schema)
    return load_table(config.dataset or "iris")


def axes_of(config: Config) -> list[Axis]:
    """The settings that may be swept."""
    return [
        Axis("beta", config.beta, "beta"),
        Axis("learning_rate", config.learning_rate, "learning_rate"),
    ]


def run_name(config: Config, table: Table) -> str:
    """The folder's name: table, network, latent size, what is swept, seeds and folds.

    Raises:
        UsageError: if it is too long for a folder.
    """
    hidden = "-".join(map(str, config.hidden)) or "linear"
    parts = [table.name, f"mlp{hidden}", f"z{config.latent_dim}"]
    for axis in shown_axes(axes_of(config), "beta"):
        parts.append(axis.field + "+".join(map(short, axis.values)))
    parts += ["seed" + "+".join(map(str, config.seed)), f"folds{config.folds}"]
    return folder_name(parts)


def run(config: Config) -> None:
    """Train, evaluate and draw, as the configuration says.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    run_grid(config, validate, prepare)


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the table, deal it into folds and build what is trained.

    Args:
        config: with its defaults filled in.

    Returns:
        The configuration and the task.

    Raises:
        UsageError: if the data do not allow it.
        DataError: if the table cannot be read.
    """
    table = table_of(config)
    for warning in table.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    rows = len(table.values)
    most = max(config.folds, 5 if config.folds == 1 else 1)
    check(most <= rows, "--folds", config.folds, f"the table has {rows} rows, {most} are needed")
    if table.labels is not None and 2 * len(table.class_names) > rows:
        found = f"{len(table.class_names)} different values in {rows} rows"
        raise UsageError(f"--label {config.label}: {found}; a column of classes is needed")
    splits = cross_validation(table, config.folds, config.seed)
    fewest = min(len(split.train) for split in splits)
    few = f"{fewest} of {rows} rows train a fold, 2 are needed"
    check(fewest >= 2, "--folds", config.folds, few)
    batch = config.batch_size or min(32, fewest)
    check(batch <= fewest, "--batch-size", batch, f"at most the {fewest} training rows of a fold")
    config = dataclasses.replace(config, batch_size=batch)
    data, test = as_subsets(splits)
    members = over_folds(grid(axes_of(config), config.seed, lead="beta"), config.seed, config.folds)

    vae = make_table_vae(
        splits[0].encoding.blocks,
        hidden=config.hidden,
        latent_dim=config.latent_dim,
        activation=ACTIVATIONS[config.activation],
        scale_of=config.scale_of,
    )
    trainer = make_trainer(
        vae,
        OBJECTIVES["beta"](),
        batch_size=batch,
        optimizer=flat(OPTIMIZERS[config.optimizer]),
        preprocess=as_stored,
    )

    hidden = "-".join(map(str, config.hidden)) or "linear"
    title = f"{table.name} · mlp {hidden} · z {config.latent_dim}"
    imputation = None
    if config.impute is not None:
        has_numbers = any(column.kind in NUMBERS for column in table.columns)
        check(has_numbers, "--impute", config.impute, f"{table.name} has no column of numbers")
        imputation = Imputation(vae, config.num_samples, config.impute)
    report = TableReport(
        vae=vae,
        table=table,
        splits=splits,
        latent_dim=config.latent_dim,
        num_samples=config.num_samples,
        contamination=config.contamination,
        title=title,
        figures=config.figures != "none",
        imputation=imputation,
    )
    unit = "nats per row, continuous columns in standard deviations of the training folds"
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config, table),
        title=title,
        table=f"{table.name}: held-out rows of {config.folds} folds, {unit} (-ELBO at beta 1)",
        about={
            "dataset": table.name,
            "example": "row",
            "columns": {column.name: column.kind for column in table.columns},
            "unit": f"{unit}, at beta 1",
        },
        members=members,
        vae=vae,
        preprocess=as_stored,
        trainer=trainer,
        evaluate=elbo_of(vae, as_stored, num_samples=16),
        data=data,
        test=test,
        batch_size=batch,
        source={"source": table.source, "sha256": table.sha256},
        measure=report.measure,
        passes=config.report_every or 1,
        execution="vmap",
        compile_quickly=True,
        labels=None if table.labels is None else labels_of(table.labels, splits),
    )


if __name__ == "__main__":
    main(Config, run, PROG)
