"""Beta-VAEs on MNIST and its relatives: `python -m experiments.mnist --beta 4`."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from experiments._distributed import connected
from experiments._grid import Axis, Member, described, grid, short, shown_axes
from experiments._images import ImagePictures
from experiments._noise import elbo_of
from experiments._options import RunOptions, check_options, folder_name
from experiments._run import check, check_members, flag_of, is_finite, main
from experiments._shards import launch, merge
from experiments._sweep import Task, run_sweep
from experiments._train import Trained
from vae_jax.data import ImageData, load_images
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import BINARIZE
from vae_jax.train import OPTIMIZERS, make_trainer

EXPERIMENT = "mnist"
PROG = "python -m experiments.mnist"


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """Train variational autoencoders on images and save figures and numbers.

    Several values of --beta, --seed and the other settings that take several train a model
    for each combination, all in one compiled program. Costs are in nats per image, summed
    over pixels and latent dimensions.
    """

    budget: Literal["smoke", "cpu", "full"] | None = None
    """smoke: an epoch of a thousand images, to see that it runs; cpu: 20 epochs; full: 60."""
    epochs: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    """Passes through the training images; those of the budget without it, or 20."""
    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL term; 1 is the evidence lower bound."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the weights, the shuffling and the noise."""
    latent_dim: int = 2
    """Dimensions of the latent z."""
    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected, or two 4x4 convolutions of stride 2 before the dense layers."""
    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's dense layers; the decoder mirrors them. None: a linear model."""
    activation: Literal["relu", "tanh", "gelu", "silu", "elu", "softplus", "leaky_relu"] = "relu"
    """Between layers."""
    batch_size: int = 128
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    optimizer: Literal["adam", "adamw", "adagrad", "adamax", "rmsprop", "sgd"] = "adam"
    """From optax."""
    learning_rate: tuple[float, ...] = (1e-3,)
    """Step size of the optimiser."""
    likelihood: Literal[
        "bernoulli",
        "continuous_bernoulli",
        "gaussian",
        "gaussian_learned_scale",
        "discretized_logistic",
        "discretized_logistic_mixture",
        "beta_binomial",
    ] = "bernoulli"
    """What the decoder's outputs mean."""
    scale: float | None = None
    """Standard deviation of --likelihood gaussian, in units of the grey scale [0, 1]
    (0.1 without it); the least one of gaussian_learned_scale (0.01 without it)."""
    binarize: Literal["none", "dynamic", "threshold"] = "none"
    """Grey levels as they are, bits drawn anew at each visit, or bits at 128 of 255."""
    objective: Literal[
        "elbo",
        "beta",
        "warmup",
        "cyclical",
        "capacity",
        "free_bits",
        "iwae",
        "dreg",
        "beta_tc",
    ] = "beta"
    """The bound to maximise; the settings below belong to one objective each."""
    samples: int | None = None
    """Samples of each posterior in the bound (without it 50 for iwae and dreg, 1 otherwise)."""
    warmup_epochs: tuple[float, ...] | None = None
    """warmup: epochs over which the KL weight rises from 0 to beta (10 without it)."""
    cycle_epochs: tuple[float, ...] | None = None
    """cyclical: epochs in a cycle, the weight rising over its first half (5 without it)."""
    capacity: tuple[float, ...] | None = None
    """capacity: nats that the KL is held at in the end (10 without it)."""
    capacity_epochs: tuple[float, ...] | None = None
    """capacity: epochs over which the target rises from 0 (10 without it)."""
    gamma: tuple[float, ...] | None = None
    """capacity: weight of |KL - target| (100 without it)."""
    free_bits: tuple[float, ...] | None = None
    """free_bits: nats of KL in each latent dimension that cost nothing (0.5 without it)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; weights, posterior, likelihood and KL are float32. The
    other is for accelerators that compute in it."""
    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """auto: MNIST, or the digits of scikit-learn with a warning where it cannot be had."""
    data_dir: Path | None = None
    """Folder with the official files in mnist/, fashion_mnist/, kmnist/; VAE_JAX_DATA
    without it. Otherwise TensorFlow Datasets downloads them."""


EPOCHS = {None: 20, "smoke": 1, "cpu": 20, "full": 60}
SMOKE_IMAGES = (1000, 200)  # training and test images of --budget smoke
PIXELS = {"none": "grey", "dynamic": "dynamically binarised", "threshold": "thresholded"}
# What a setting of one objective is when it is not given. The keys ending in `_epochs` are
# turned into the steps of `Hyper` once the size of an epoch is known.
OBJECTIVE_DEFAULTS = {
    "warmup_epochs": 10.0,
    "cycle_epochs": 5.0,
    "capacity": 10.0,
    "capacity_epochs": 10.0,
    "gamma": 100.0,
    "free_bits": 0.5,
}
IMPORTANCE_SAMPLES = {"iwae": 50, "dreg": 50}  # of a posterior, without --samples
DEFAULT_SCALE = {"gaussian": 0.1, "gaussian_learned_scale": 0.01}
# Choices that say what a run's numbers are of; its name tells those that are not the default.
IN_THE_NAME = ("likelihood", "binarize", "objective", "compute_dtype", "budget")


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: as given.

    Returns:
        The configuration with every default filled in.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    if config.epochs is None:
        config = dataclasses.replace(config, epochs=EPOCHS[config.budget])
    check_options(config, EXPERIMENT)
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_members("--seed", config.seed, "a whole number of 0 or more is needed", low=0)
    for seed in config.seed:
        check(seed < 2**31, "--seed", seed, "a number under 2^31 is needed")
    for flag in ("latent_dim", "batch_size"):
        value = getattr(config, flag)
        check(value >= 1, flag_of(flag), value, "a whole number of 1 or more is needed")
    _check_all_positive("learning_rate", config.learning_rate)
    for width in config.hidden:
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")
    scale = config.scale
    if scale is not None:
        has_scale = config.likelihood in DEFAULT_SCALE
        check(has_scale, "--scale", scale, f"--likelihood {config.likelihood} has no scale")
        _check_positive("scale", scale)
    else:
        scale = DEFAULT_SCALE.get(config.likelihood)
    samples = config.samples
    if samples is None:
        samples = IMPORTANCE_SAMPLES.get(config.objective, 1)
    check(samples >= 1, "--samples", samples, "a whole number of 1 or more is needed")
    if config.objective == "beta_tc":
        allowed = "--objective beta_tc compares examples; 2 or more are needed"
        check(config.batch_size >= 2, "--batch-size", config.batch_size, allowed)
    settings = _objective_settings(config)
    return dataclasses.replace(config, scale=scale, samples=samples, **settings)


def _objective_settings(config: Config) -> dict[str, tuple[float, ...]]:
    reads = OBJECTIVES[config.objective]().reads
    settings = {}
    for field, default in OBJECTIVE_DEFAULTS.items():
        values = getattr(config, field)
        used = field.replace("_epochs", "_steps") in reads
        if values is not None:
            given = " ".join(map(short, values))
            known = f"--objective {config.objective} has no such setting"
            check(used, flag_of(field), given, known)
            if field.endswith("_epochs"):
                _check_all_positive(field, values)
            else:
                allowed = "a finite number of 0 or more is needed"
                check_members(flag_of(field), values, allowed, low=0)
        if used:
            settings[field] = (default,) if values is None else values
    if "beta" not in reads:
        given = " ".join(map(short, config.beta))
        fixed = config.beta == (1.0,)
        check(fixed, "--beta", given, f"--objective {config.objective} has no beta")
    return settings


def _check_all_positive(field: str, values: Sequence[float]) -> None:
    check_members(flag_of(field), values, "a finite number above 0 is needed", low=0)
    for value in values:
        _check_positive(field, value)


def _check_positive(field: str, value: float) -> None:
    positive = is_finite(value) and bool(np.float32(value) > 0)
    check(positive, flag_of(field), value, "a finite number above 0 is needed")


def axes_of(config: Config, steps_per_epoch: int = 1) -> list[Axis]:
    """The settings that may be swept; the first one stands in every name.

    Args:
        config: with its defaults filled in.
        steps_per_epoch: optimiser steps in an epoch.

    Returns:
        Beta where the objective has one, its other settings, the learning rate.
    """
    reads = OBJECTIVES[config.objective]().reads
    axes = [Axis("beta", config.beta, "beta")] if "beta" in reads else []
    for field in OBJECTIVE_DEFAULTS:
        values = getattr(config, field)
        if values is not None:
            hyper = field.replace("_epochs", "_steps")
            axes.append(Axis(field, values, hyper, 1 if hyper == field else steps_per_epoch))
    return [*axes, Axis("learning_rate", config.learning_rate, "learning_rate")]


def lead_of(config: Config) -> str | None:
    """The setting that stands in every name: beta, or the capacity that replaces it."""
    without = {"elbo": None, "iwae": None, "dreg": None, "capacity": "capacity"}
    return without.get(config.objective, "beta")


def run_name(config: Config) -> str:
    """The folder's name: data, network, latent size, the choices `IN_THE_NAME`, what is swept.

    A choice stands in it where it is not the default, and so do several samples of a bound, and the
    epochs beside a budget that has others. Other settings never do, so that resuming with another
    one is noticed.

    Raises:
        UsageError: if it is too long for a folder.
    """
    parts = [config.dataset, f"{config.network}{_hidden(config)}", f"z{config.latent_dim}"]
    parts += _changed(config, IN_THE_NAME)
    parts += [f"epochs{config.epochs}"] if _has_other_epochs(config) else []
    parts += [f"k{config.samples}"] if config.samples not in (None, 1) else []
    for axis in shown_axes(axes_of(config), lead_of(config)):
        parts.append(axis.field + "+".join(map(short, axis.values)))
    parts.append("seed" + "+".join(map(str, config.seed)))
    return folder_name(parts)


def _has_other_epochs(config: Config) -> bool:
    """Whether a budget was given, and another length of training than its own."""
    return config.budget is not None and config.epochs not in (None, EPOCHS[config.budget])


def _hidden(config: Config) -> str:
    return "-".join(map(str, config.hidden)) or "linear"


def _changed(config: Config, fields: Sequence[str]) -> list[str]:
    """Those of some choices that are not the default."""
    values = {field: getattr(config, field) for field in fields}
    return [value for field, value in values.items() if value != getattr(Config, field)]


def _words(config: Config) -> list[str]:
    """Every setting of the model that is not the default and not swept, as words for a title.

    The pixels and the budget have words of their own.
    """
    own = {"binarize", "budget"}
    words = _changed(
        config, ("activation", "optimizer", *(name for name in IN_THE_NAME if name not in own))
    )
    usual = {
        "batch_size": Config.batch_size,
        "scale": DEFAULT_SCALE.get(config.likelihood),
        "samples": 1,
    }
    for field, default in usual.items():
        value = getattr(config, field)
        if value is not None and value != default:
            words.append(f"{field.replace('_', ' ')} {value:g}")
    usual = {"learning_rate": Config.learning_rate[0], **OBJECTIVE_DEFAULTS}
    for axis in axes_of(config):
        if axis.field in usual and len(axis.values) == 1 and axis.values[0] != usual[axis.field]:
            words.append(described({axis.field: axis.values[0]}))
    return words


def members_of(config: Config, num_examples: int) -> list[Member]:
    """Every combination of the swept settings and the seeds.

    Args:
        config: with its defaults filled in.
        num_examples: in the training set.

    Returns:
        The members, setting by setting.

    Raises:
        UsageError: if a cycle is shorter than two steps.
    """
    steps_per_epoch = num_examples // config.batch_size
    for cycle in config.cycle_epochs or ():
        long_enough = cycle * steps_per_epoch >= 2
        check(long_enough, "--cycle-epochs", cycle, "at least two steps are needed")
    members = grid(axes_of(config, steps_per_epoch), config.seed, lead=lead_of(config))
    if "num_examples" not in OBJECTIVES[config.objective]().reads:
        return members
    return [
        member._replace(hyper=member.hyper._replace(num_examples=float(num_examples)))
        for member in members
    ]


def build_vae(config: Config, x_shape: Sequence[int]) -> VAE:
    """The model that the configuration describes, for images of a shape."""
    scale = () if config.scale is None else (config.scale,)
    likelihood = LIKELIHOODS[config.likelihood](*scale)
    encoder, decoder = NETWORKS[config.network](
        config.hidden,
        x_shape=x_shape,
        latent_dim=config.latent_dim,
        theta_dim=likelihood.theta_dim,
        activation=ACTIVATIONS[config.activation],
    )
    return make_vae(
        encoder,
        decoder,
        likelihood,
        x_shape=x_shape,
        latent_dim=config.latent_dim,
        compute_dtype=config.compute_dtype,
    )


def run(config: Config) -> None:
    """Train, evaluate and draw, as the configuration says.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    if config.merge is not None:
        merge(config)
    elif config.launch is not None:
        launch(config, prepare(validate(config))[1])
    else:
        config = validate(config)
        with connected(config):
            run_sweep(*prepare(config))


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the data and build what is trained.

    Args:
        config: with its defaults filled in.

    Returns:
        The configuration, the data set named as it is, and the task.

    Raises:
        UsageError: if the data do not allow it.
    """
    images = load_images(config.dataset, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    if config.budget == "smoke":
        images = _first(images, *SMOKE_IMAGES)
    total = len(images.train_images)
    fits = config.batch_size <= total
    check(fits, "--batch-size", config.batch_size, f"at most the {total} images of {images.name}")
    # What is written down is what was trained, not what was asked for.
    config = dataclasses.replace(config, dataset=images.name)

    vae = build_vae(config, images.train_images.shape[1:])
    preprocess = BINARIZE[config.binarize]
    trainer = make_trainer(
        vae,
        OBJECTIVES[config.objective](num_samples=config.samples),
        batch_size=config.batch_size,
        optimizer=OPTIMIZERS[config.optimizer],
        preprocess=preprocess,
    )
    pictures = ImagePictures(vae, preprocess, images)

    of_budget = f" of {EPOCHS[config.budget]}" if _has_other_epochs(config) else ""
    title = " · ".join(
        [
            f"{config.dataset}, {PIXELS[config.binarize]}",
            f"{config.network} {_hidden(config)}",
            f"z {config.latent_dim}",
            *_words(config),
            f"{config.epochs}{of_budget} epoch{'' if config.epochs == 1 else 's'}",
            *([] if config.budget is None else [f"budget {config.budget}"]),
        ]
    )
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config),
        title=title,
        table=(
            f"{config.dataset}, {PIXELS[config.binarize]}, {config.likelihood}: test split, "
            "nats per image (-ELBO at beta 1)"
        ),
        about={
            "dataset": config.dataset,
            "binarize": config.binarize,
            "likelihood": config.likelihood,
            "unit": "nats per image on the test split, at beta 1",
        },
        members=members_of(config, total),
        vae=vae,
        preprocess=preprocess,
        trainer=trainer,
        evaluate=elbo_of(vae, preprocess),
        data=images.train_images,
        test=images.test_images,
        batch_size=config.batch_size,
        picture=pictures.reconstruct,
        draw=partial(_draw, pictures, title),
        source={"source": images.source, "sha256": images.sha256},
        labels=(images.train_labels, images.test_labels),
    )


def _first(images: ImageData, train: int, test: int) -> ImageData:
    """The first images of both splits."""
    return images._replace(
        train_images=images.train_images[:train],
        train_labels=images.train_labels[:train],
        test_images=images.test_images[:test],
        test_labels=images.test_labels[:test],
    )


def _draw(pictures: ImagePictures, title: str, result: Trained, folder: Path) -> None:
    parts = [title, described(result.member.setting), f"seed {result.member.seed}"]
    if result.problem:
        parts.append(f"diverged after epoch {result.rows[-1]['epoch']}")
    pictures.draw(result, folder, title=" · ".join(filter(None, parts)))


if __name__ == "__main__":
    main(Config, run, PROG)
