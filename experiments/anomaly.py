"""Anomaly detection: `python -m experiments.anomaly --dataset wine breast_cancer digits`."""

import dataclasses
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from experiments._anomaly_report import AnomalyReport, Problem
from experiments._distributed import connected
from experiments._folds import as_subsets, split_of, spread_over_cores
from experiments._grid import Axis, grid, short
from experiments._noise import elbo_of
from experiments._options import RunOptions, check_options
from experiments._outliers import image_tasks, table_tasks
from experiments._run import RunFolder, check, check_members, flag_of, main
from experiments._shards import launch, merge
from experiments._sweep import Task, run_sweep
from experiments._tables import complete
from vae_jax.data import TABLES, load_images
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import BINARIZE, as_stored
from vae_jax.sweep import Subsets
from vae_jax.tabular import make_table_vae
from vae_jax.train import OPTIMIZERS, flat, make_trainer

EXPERIMENT = "anomaly"
PROG = "python -m experiments.anomaly"
Dataset = Literal["wine", "breast_cancer", "digits", "mnist"]
PixelLikelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian", "gaussian_learned_scale"]


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """Train on normal examples and find the others: AUROC and average precision.

    Each data set and latent size is a run of its own; its seeds, and the digits that are left
    out one by one, are trained as one compiled program. Beside it stand isolation forest, PCA
    and the distance to the fifth neighbour on the same rows.
    """

    dataset: tuple[Dataset, ...] = ("wine", "breast_cancer", "digits")
    """wine and breast_cancer: ten rows of one class are the anomalies. digits and mnist: each
    digit in turn is left out of the training."""
    latent_dim: tuple[int, ...] = (2,)
    """Dimensions of the latent z, a run for each."""
    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL term; 1 is the evidence lower bound."""
    seed: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the weights, the noise, and of what is trained on."""
    epochs: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Passes through the training examples (300 without it, mnist 30)."""
    network: Literal["mlp", "conv"] = "mlp"
    """mnist: fully connected, or two 4x4 convolutions of stride 2 before the dense layers."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's dense layers; the decoder mirrors them (64 without it, mnist
    512 256 where all is fully connected)."""
    activation: Literal["relu", "tanh", "gelu", "silu", "elu", "softplus", "leaky_relu"] = "relu"
    """Between layers."""
    batch_size: int | None = None
    """Examples in a minibatch (16 without it, mnist 128)."""
    learning_rate: float | None = None
    """Step size of Adam (0.005 without it, mnist 0.001)."""
    likelihood: PixelLikelihood = "bernoulli"
    """mnist: what the decoder's outputs mean."""
    scale: float | None = None
    """mnist: standard deviation of --likelihood gaussian, in units of the grey scale [0, 1]
    (0.1 without it)."""
    binarize: Literal["none", "threshold"] = "threshold"
    """mnist: grey levels as they are, or bits at 128 of 255. Under a Bernoulli likelihood a grey
    pixel costs its entropy even where it is predicted well, so that thick strokes look like
    anomalies and a one never does."""
    num_samples: int = 64
    """Samples of z for each example behind -ELBO and -log p(x)."""
    data_dir: Path | None = None
    """Folder with the official files of MNIST in mnist/; VAE_JAX_DATA without it."""


# What the runs of MNIST are called, and what is loaded for each; without MNIST digits stand for it,
# under a name that tells them from the table.
IMAGES = {"mnist": "auto", "digits28": "digits"}
# What is not given, for a table and for MNIST.
USUAL = {
    "epochs": (300, 30),
    "hidden": ((64,), (512, 256)),
    "batch_size": (16, 128),
    "learning_rate": (5e-3, 1e-3),
}
USUAL_BEHIND_CONVOLUTIONS = (64,)  # widths of the dense layers


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: of one data set and latent size, or as given.

    Returns:
        The configuration with every default filled in, where it is of one data set.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check(len(config.dataset) > 0, "--dataset", "(nothing)", "at least one is needed")
    for name in config.dataset:
        check(config.dataset.count(name) == 1, "--dataset", name, "given twice")
    which = int(config.dataset == ("mnist",))
    usual = {field: values[which] for field, values in USUAL.items()}
    if config.network == "conv":
        usual["hidden"] = USUAL_BEHIND_CONVOLUTIONS
    missing = {field: value for field, value in usual.items() if getattr(config, field) is None}
    filled = dataclasses.replace(config, **missing)
    check_options(filled, EXPERIMENT)
    whole = "a whole number of 1 or more is needed"
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_members("--seed", config.seed, "a whole number of 0 or more is needed", low=0)
    for seed in config.seed:
        check(seed < 2**31, "--seed", seed, "a number under 2^31 is needed")
    check_members("--latent-dim", config.latent_dim, whole, low=1)
    for flag in ("batch_size", "num_samples"):
        value = getattr(filled, flag)
        check(value >= 1, flag_of(flag), value, whole)
    for width in filled.hidden or ():
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")
    rate = filled.learning_rate or 0.0
    check(0 < rate < np.inf, "--learning-rate", rate, "a finite number above 0 is needed")
    for field in ("network", "likelihood"):
        value = getattr(config, field)
        fits = config.dataset == ("mnist",) or value == getattr(Config, field)
        check(fits, flag_of(field), value, "belongs to --dataset mnist")
    bits = config.likelihood == "bernoulli" or config.binarize == "none"
    allowed = f"--likelihood {config.likelihood} is one of grey levels; none is needed"
    check(bits, "--binarize", config.binarize, allowed)
    scale, fixed = config.scale, config.likelihood == "gaussian"
    if scale is not None:
        check(fixed, "--scale", scale, "belongs to --likelihood gaussian")
        check(0 < scale < np.inf, "--scale", scale, "a finite number above 0 is needed")
    several = len(config.dataset) * len(config.latent_dim) > 1
    for field in ("shard", "launch", "name", "distributed"):
        value = getattr(config, field)
        one = not (value and several)
        check(one, flag_of(field), value, "one --dataset and one --latent-dim are needed with it")
    return config if several else filled


def run(config: Config) -> None:
    """Train, score and draw, one run for each data set and latent size.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    if config.merge is not None:
        merge(config)
        return
    config = validate(config)
    each = [
        validate(dataclasses.replace(config, dataset=(name,), latent_dim=(size,)))
        for name in config.dataset
        for size in config.latent_dim
    ]
    if config.launch is not None:
        launch(config, prepare(each[0])[1])
        return
    failed = False
    with connected(config):
        # All of them first: what is wrong with the last one is said before the first is trained.
        for one, task in _resumable([prepare(one) for one in each]):
            try:
                run_sweep(one, task)
            except SystemExit:  # a member diverged; the others are written, and so will be the rest
                failed = True
    if failed:
        raise SystemExit(1)


def _resumable(runs: list[tuple[Config, Task]]) -> list[tuple[Config, Task]]:
    """The runs, of which one that was not started when others were stopped begins anew.

    Raises:
        UsageError: if the folder of one does not allow it.
    """
    folders = [RunFolder.at(config.output_dir, EXPERIMENT, task.name) for config, task in runs]
    started = [(folder.path / "config.json").is_file() for folder in folders]
    found = []
    for (config, task), folder, is_there in zip(runs, folders, started, strict=True):
        if config.resume and any(started) and not is_there:
            config = dataclasses.replace(config, resume=False)
        if config.shard is None:
            resume = config.resume or (config.requeue and is_there)
            folder.check_free(overwrite=config.overwrite, resume=resume)
        found.append((config, task))
    return found


def run_name(config: Config) -> str:
    """The folder's name: data, network, latent size, beta and seeds."""
    parts = [config.dataset[0], f"{config.network}{_hidden(config)}", f"z{config.latent_dim[0]}"]
    if config.dataset[0] not in TABLES:
        parts += [config.likelihood] if config.likelihood != Config.likelihood else []
        parts += [config.binarize] if config.binarize != "none" else []
        parts += [f"scale{short(config.scale)}"] if config.scale is not None else []
    parts.append("beta" + "+".join(map(short, config.beta)))
    return "-".join([*parts, "seed" + "+".join(map(str, config.seed))])


def _hidden(config: Config) -> str:
    return "-".join(map(str, config.hidden or ())) or "linear"


def _title(config: Config, name: str) -> str:
    """What was trained, and every setting of it that is not the default."""
    words = [name, f"{config.network} {_hidden(config)}", f"z {config.latent_dim[0]}"]
    words += [config.activation] if config.activation != Config.activation else []
    if name not in TABLES:
        scale = "" if config.scale is None else f" of scale {short(config.scale)}"
        pixels = "grey pixels" if config.binarize == "none" else "bits"
        words.append(f"{config.likelihood.replace('_', ' ')}{scale}, {pixels}")
    return " · ".join(words)


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the data of one run and build what is trained.

    Small models also say how many devices JAX starts with (`spread_over_cores`).

    Args:
        config: of one data set and latent size, with its defaults filled in; the data set may
            be named as that of a run that is saved.

    Returns:
        The configuration and the task.

    Raises:
        UsageError: if the data do not allow it.
    """
    name = config.dataset[0]
    is_images = name in IMAGES
    problem = _images(config, IMAGES[name]) if is_images else _table(config, name)
    fewest = min(len(task.train) for task in problem.tasks.values())
    allowed = f"at most the {fewest} training examples"
    batch, epochs = config.batch_size or 1, config.epochs or 1
    check(batch <= fewest, "--batch-size", batch, allowed)
    optimizer = OPTIMIZERS["adam"] if is_images else flat(OPTIMIZERS["adam"])
    trainer = make_trainer(
        problem.vae,
        OBJECTIVES["beta"](),
        batch_size=batch,
        optimizer=optimizer,
        preprocess=problem.preprocess,
    )

    axes = [
        Axis("beta", config.beta, "beta"),
        Axis("learning_rate", (config.learning_rate or 1e-3,), "learning_rate"),
    ]
    places = list(problem.tasks)
    members = [
        member._replace(
            name=f"{member.name}-without{left_out}" if left_out >= 0 else member.name,
            columns={"left_out": left_out, **member.columns} if left_out >= 0 else member.columns,
            split=places.index((left_out, seed)),
        )
        for left_out, seed in places
        for member in grid(axes, [seed], lead="beta")
    ]
    title = _title(config, problem.name)
    config = dataclasses.replace(config, dataset=(problem.name,))
    report = AnomalyReport(
        problem=problem,
        title=title,
        latent_dim=config.latent_dim[0],
        seeds=config.seed,
        betas=config.beta,
        num_samples=config.num_samples,
        figures=config.figures != "none",
    )
    passes = 1 if is_images else next(k for k in range(10, 0, -1) if epochs % k == 0)
    unit = "nats per example" if is_images else "nats per row, standardised columns"
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config),
        title=title,
        table=f"{problem.name}: held-out normal examples, {unit} (-ELBO at beta 1)",
        about={
            "dataset": problem.name,
            "example": "image" if is_images else "row",
            "unit": f"{unit}, at beta 1",
        },
        members=members,
        vae=problem.vae,
        preprocess=problem.preprocess,
        trainer=trainer,
        evaluate=elbo_of(problem.vae, problem.preprocess),
        data=problem.data,
        test=problem.test,
        batch_size=batch,
        source=problem.source,
        measure=report.measure,
        passes=passes,
        execution="map" if is_images else "vmap",
        compile_quickly=not is_images,
    )


def _table(config: Config, name: str) -> Problem:
    source, tasks = table_tasks(name, config.seed)
    splits = {key: split_of(source, task.train, task.test) for key, task in tasks.items()}
    normals = [
        split._replace(test_features=split.test_features[~tasks[key].is_anomaly])
        for key, split in splits.items()
    ]
    data, test = as_subsets(normals)
    if not config.distributed:
        models = len(splits) * len(config.beta)
        spread_over_cores(models, data)
    first = next(iter(splits.values()))
    vae = make_table_vae(
        first.encoding.blocks,
        hidden=config.hidden or (),
        latent_dim=config.latent_dim[0],
        activation=ACTIVATIONS[config.activation],
    )

    def halves(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return splits[key].train_features, splits[key].test_features

    def plain(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        train, test = (complete(splits[key], half) for half in halves(key))
        return train, test

    about = {"source": source.source, "sha256": source.sha256}
    return Problem(
        name=name,
        task=name,
        features=[source.columns[index].name for index in first.encoding.column_of],
        vae=vae,
        preprocess=as_stored,
        tasks=tasks,
        data=data,
        test=test,
        halves=halves,
        plain=plain,
        source=about,
    )


def _images(config: Config, wanted: str) -> Problem:
    images = load_images(wanted, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    shape = images.train_images.shape[1:]
    scale = () if config.scale is None else (config.scale,)
    likelihood = LIKELIHOODS[config.likelihood](*scale)
    size = config.latent_dim[0]
    encoder, decoder = NETWORKS[config.network](
        config.hidden or (),
        x_shape=shape,
        latent_dim=size,
        theta_dim=likelihood.theta_dim,
        activation=ACTIVATIONS[config.activation],
    )
    vae = make_vae(encoder, decoder, likelihood, x_shape=shape, latent_dim=size)
    tasks = image_tasks(images.train_labels, images.test_labels, config.seed)
    fewest = min(int(np.sum(~task.is_anomaly)) for task in tasks.values())
    normal = [task.test[~task.is_anomaly][:fewest] for task in tasks.values()]

    def halves(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return images.train_images[tasks[key].train], images.test_images[tasks[key].test]

    def plain(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        vectors = (half.reshape(len(half), -1) for half in halves(key))
        bits = config.binarize == "threshold"
        train, test = ((half >= 128).astype(np.float32) if bits else half / 255 for half in vectors)
        return train, test

    return Problem(
        name="mnist" if images.name == "mnist" else f"{images.name}28",
        task="mnist",
        features=(),
        vae=vae,
        preprocess=BINARIZE[config.binarize],
        tasks=tasks,
        data=Subsets(images.train_images, np.array([t.train for t in tasks.values()], np.int32)),
        test=Subsets(images.test_images, np.array(normal, np.int32)),
        halves=halves,
        plain=plain,
        source={"source": images.source, "sha256": images.sha256},
    )


if __name__ == "__main__":
    main(Config, run, PROG)
