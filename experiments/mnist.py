"""Beta-VAEs on MNIST and its relatives: `python -m experiments.mnist --beta 4`."""

import dataclasses
import itertools
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments._images import ImagePictures
from experiments._progress import console, table
from experiments._run import RunFolder, UsageError, check, check_members, flag_of, is_finite, main
from experiments._train import Loop, Member, Trained, saved_rows, train
from vae_jax.data import load_images
from vae_jax.evaluation import ElboEstimate, estimate_elbo
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import BINARIZE
from vae_jax.train import OPTIMIZERS, make_trainer
from vae_jax.types import Hyper, Params

EXPERIMENT = "mnist"
PROG = "python -m experiments.mnist"


@dataclasses.dataclass(frozen=True)
class Config:
    """Train variational autoencoders on images and save figures and numbers.

    Several values of --beta and --seed train one model for each pair, one after the other.
    Costs are in nats per image, summed over pixels and latent dimensions.
    """

    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL term; 1 is the evidence lower bound."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the weights, the shuffling and the noise."""
    epochs: int = 20
    """Passes through the training images."""
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
    learning_rate: float = 1e-3
    """Step size of the optimiser."""
    likelihood: Literal[
        "bernoulli",
        "continuous_bernoulli",
        "gaussian",
        "gaussian_learned_scale",
        "discretized_logistic",
    ] = "bernoulli"
    """What the decoder's outputs mean."""
    scale: float | None = None
    """Standard deviation of --likelihood gaussian, in units of the grey scale [0, 1]
    (0.1 without it); the least one of gaussian_learned_scale (0.01 without it)."""
    binarize: Literal["none", "dynamic", "threshold"] = "none"
    """Grey levels as they are, bits drawn anew at each visit, or bits at 128 of 255."""
    objective: Literal["elbo", "beta", "warmup", "cyclical", "capacity", "free_bits"] = "beta"
    """The bound to maximise; the settings below belong to one objective each."""
    warmup_epochs: float | None = None
    """warmup: epochs over which the KL weight rises from 0 to beta (10 without it)."""
    cycle_epochs: float | None = None
    """cyclical: epochs in a cycle, the weight rising over its first half (5 without it)."""
    capacity: float | None = None
    """capacity: nats that the KL is held at in the end (10 without it)."""
    capacity_epochs: float | None = None
    """capacity: epochs over which the target rises from 0 (10 without it)."""
    gamma: float | None = None
    """capacity: weight of |KL - target| (100 without it)."""
    free_bits: float | None = None
    """free_bits: nats of KL in each latent dimension that cost nothing (0.5 without it)."""
    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """auto: MNIST, or the digits of scikit-learn with a warning where it cannot be had."""
    data_dir: Path | None = None
    """Folder with the official files in mnist/, fashion_mnist/, kmnist/; VAE_JAX_DATA
    without it. Otherwise TensorFlow Datasets downloads them."""
    output_dir: Path = Path("results")
    """The run's folder is made in mnist/ below it."""
    name: str | None = None
    """Name of the run's folder; made from the settings without it."""
    overwrite: bool = False
    """Replace a run of the same name."""
    resume: bool = False
    """Go on with a run of the same name from its latest checkpoints."""
    checkpoint_every: int = 5
    """Epochs between checkpoints; the last epoch always has one."""


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
LONGEST_NAME = 120  # characters of a run's name
DEFAULT_SCALE = {"gaussian": 0.1, "gaussian_learned_scale": 0.01}
# Every model is judged with the same noise and the same binarisation of the test images; the
# seed is one that --seed does not take.
EVALUATION_SEED = 2**31


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: as given.

    Returns:
        The configuration with every default filled in.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_members("--seed", config.seed, "a whole number of 0 or more is needed", low=0)
    for seed in config.seed:
        check(seed < 2**31, "--seed", seed, "a number under 2^31 is needed")
    for flag in ("epochs", "latent_dim", "batch_size", "checkpoint_every"):
        value = getattr(config, flag)
        check(value >= 1, flag_of(flag), value, "a whole number of 1 or more is needed")
    _check_positive("learning_rate", config.learning_rate)
    for width in config.hidden:
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")
    if config.name is not None:
        RunFolder.at(config.output_dir, EXPERIMENT, config.name)
    scale = config.scale
    if scale is not None:
        has_scale = config.likelihood in DEFAULT_SCALE
        check(has_scale, "--scale", scale, f"--likelihood {config.likelihood} has no scale")
        _check_positive("scale", scale)
    else:
        scale = DEFAULT_SCALE.get(config.likelihood)
    return dataclasses.replace(config, scale=scale, **_objective_settings(config))


def _objective_settings(config: Config) -> dict[str, float]:
    reads = OBJECTIVES[config.objective]().reads
    settings = {}
    for field, default in OBJECTIVE_DEFAULTS.items():
        value = getattr(config, field)
        used = field.replace("_epochs", "_steps") in reads
        if value is not None:
            check(
                used, flag_of(field), value, f"--objective {config.objective} has no such setting"
            )
            if field.endswith("_epochs"):
                _check_positive(field, value)
            else:
                finite = is_finite(value) and value >= 0
                check(finite, flag_of(field), value, "a finite number of 0 or more is needed")
        if used:
            settings[field] = default if value is None else value
    if "beta" not in reads:
        given = " ".join(map(_short, config.beta))
        fixed = config.beta == (1.0,)
        check(fixed, "--beta", given, f"--objective {config.objective} has no beta")
    return settings


def _check_positive(field: str, value: float) -> None:
    positive = is_finite(value) and bool(np.float32(value) > 0)
    check(positive, flag_of(field), value, "a finite number above 0 is needed")


def run_name(config: Config) -> str:
    """The folder's name: data, network, latent size, beta and seed, and what the numbers are of.

    Other settings do not stand in it, so that resuming with another one is noticed.

    Raises:
        UsageError: if it is too long for a folder.
    """
    hidden = "-".join(map(str, config.hidden)) or "linear"
    parts = [config.dataset, f"{config.network}{hidden}", f"z{config.latent_dim}"]
    parts += _changed(config, ("likelihood", "binarize", "objective"))
    parts.append("beta" + "+".join(map(_short, config.beta)))
    parts.append("seed" + "+".join(map(str, config.seed)))
    name = "-".join(parts)
    if len(name) > LONGEST_NAME:
        raise UsageError(f"--name: the settings make one of {len(name)} characters; give a shorter")
    return name


def _short(number: float) -> str:
    """The shortest text that gives the number back: 4 for 4.0, so no two share a name."""
    return repr(float(number)).removesuffix(".0")


def _changed(config: Config, fields: Sequence[str]) -> list[str]:
    """Those of some choices that are not the default."""
    values = {field: getattr(config, field) for field in fields}
    return [value for field, value in values.items() if value != getattr(Config, field)]


def _words(config: Config) -> list[str]:
    """Every setting of the model that is not the default, as words for a title."""
    choices = ("activation", "optimizer", "likelihood", "binarize", "objective")
    usual = {
        "batch_size": Config.batch_size,
        "learning_rate": Config.learning_rate,
        "scale": DEFAULT_SCALE.get(config.likelihood),
        **OBJECTIVE_DEFAULTS,
    }
    numbers = {field: getattr(config, field) for field in usual}
    return _changed(config, choices) + [
        f"{field.replace('_', ' ')} {value:g}"
        for field, value in numbers.items()
        if value is not None and value != usual[field]
    ]


def members_of(config: Config, steps_per_epoch: int) -> list[Member]:
    """Every pair of a beta and a seed, with the settings of the objective in steps.

    Args:
        config: with its defaults filled in.
        steps_per_epoch: optimiser steps in an epoch.

    Returns:
        The members, beta by beta.

    Raises:
        UsageError: if a cycle is shorter than two steps.
    """
    settings = {"learning_rate": config.learning_rate}
    for field in OBJECTIVE_DEFAULTS:
        value = getattr(config, field)
        if value is not None:
            in_steps = field.endswith("_epochs")
            value *= steps_per_epoch if in_steps else 1
            settings[field.replace("_epochs", "_steps")] = value
    cycle = settings.get("cycle_steps", 2)
    check(cycle >= 2, "--cycle-epochs", config.cycle_epochs, "at least two steps are needed")
    members = []
    for beta, seed in itertools.product(config.beta, config.seed):
        # Arrays of one type, so that another value finds the program compiled.
        hyper = jax.tree.map(jnp.float32, Hyper(beta=beta, **settings))
        columns = {"beta": beta, "seed": seed}
        members.append(Member(f"beta{_short(beta)}-seed{seed}", seed, hyper, columns))
    return members


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
    return make_vae(encoder, decoder, likelihood, x_shape=x_shape, latent_dim=config.latent_dim)


def run(config: Config) -> None:
    """Train, evaluate and draw, as the configuration says.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    config = validate(config)
    images = load_images(config.dataset, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    total = len(images.train_images)
    fits = config.batch_size <= total
    check(fits, "--batch-size", config.batch_size, f"at most the {total} images of {images.name}")
    # What is written down is what was trained, not what was asked for.
    config = dataclasses.replace(config, dataset=images.name)
    folder = RunFolder.at(config.output_dir, EXPERIMENT, config.name or run_name(config))
    folder.check_free(overwrite=config.overwrite, resume=config.resume)
    if config.resume:
        folder.check_same_model(config)

    vae = build_vae(config, images.train_images.shape[1:])
    preprocess = BINARIZE[config.binarize]
    trainer = make_trainer(
        vae,
        OBJECTIVES[config.objective](),
        batch_size=config.batch_size,
        optimizer=OPTIMIZERS[config.optimizer],
        preprocess=preprocess,
    )
    pictures = ImagePictures(vae, preprocess, images)
    steps = total // config.batch_size
    test_images = jnp.asarray(images.test_images)

    def evaluate(params: Params) -> ElboEstimate:
        return estimate_elbo(jax.random.key(EVALUATION_SEED), vae, preprocess, params, test_images)

    loop = Loop(
        trainer=trainer,
        data=jnp.asarray(images.train_images),
        evaluate=evaluate,
        picture=pictures.reconstruct,
        epochs=config.epochs,
        steps_per_epoch=steps,
        batch_size=config.batch_size,
        checkpoint_every=config.checkpoint_every,
    )
    members = members_of(config, steps)
    saved = saved_rows(folder, members, config.epochs) if config.resume else None
    folder.create(config, overwrite=config.overwrite)
    print(f"{images.source}\n{folder.path}", flush=True)
    trained = train(loop, members, folder, saved)

    finals = []
    for result in trained:
        final = evaluate(result.state.params)
        finals.append(final)
        if result.rows:
            title = member_title(config, result)
            pictures.draw(result, final, folder.figures / result.member.name, title=title)
    folder.write_json("summary.json", summary(config, trained, finals))
    folder.write_provenance({"source": images.source, "sha256": images.sha256})
    if any(result.problem is None for result in trained):
        show(config, trained, finals)
    left = [
        name for name in ("figures", "metrics.csv", "summary.json") if (folder.path / name).exists()
    ]
    print(f"{', '.join(left)}: in {folder.path}")
    if any(result.problem for result in trained):
        raise SystemExit(1)


def member_title(config: Config, result: Trained) -> str:
    """What was trained, as a figure's title."""
    parts = [
        config.dataset,
        f"{config.network} {'-'.join(map(str, config.hidden)) or 'linear'}",
        f"z {config.latent_dim}",
        *_words(config),
        f"beta {_short(result.member.columns['beta'])}",
        f"seed {result.member.seed}",
    ]
    if result.problem:
        parts.append(f"diverged after epoch {result.rows[-1]['epoch']}")
    return " · ".join(parts)


def summary(
    config: Config, trained: Sequence[Trained], finals: Sequence[ElboEstimate]
) -> dict[str, Any]:
    """The numbers that a run ends with: each member's, and each beta's over its seeds."""
    return {
        "dataset": config.dataset,
        "binarize": config.binarize,
        "likelihood": config.likelihood,
        "unit": "nats per image on the test split, at beta 1",
        "members": [
            {
                "name": result.member.name,
                **result.member.columns,
                "epochs": len(result.rows),
                "problem": result.problem,
                "neg_elbo": -float(final.elbo),
                "reconstruction": -float(final.log_lik),
                "kl": float(final.kl),
                "active_dims": int(final.active_dims),
                "kl_per_dim": np.asarray(final.kl_per_dim).tolist(),
            }
            for result, final in zip(trained, finals, strict=True)
        ],
        "by_beta": [
            {
                "beta": beta,
                "seeds": len(values),
                **{
                    name: {"mean": float(mean), "standard_error": float(error)}
                    for name, mean, error in zip(
                        ("neg_elbo", "reconstruction", "kl", "active_dims"),
                        values.mean(axis=0),
                        _standard_error(values),
                        strict=True,
                    )
                },
            }
            for beta, values in _by_beta(trained, finals).items()
        ],
    }


def show(config: Config, trained: Sequence[Trained], finals: Sequence[ElboEstimate]) -> None:
    """Print the closing table: mean and standard error over seeds for each beta."""
    rows = []
    for beta, values in _by_beta(trained, finals).items():
        errors = _standard_error(values)
        cells = [
            f"{mean:.2f}" + (f" ± {error:.2f}" if np.isfinite(error) else "")
            for mean, error in zip(values.mean(axis=0), errors, strict=True)
        ]
        rows.append([_short(beta), str(len(values)), *cells])
    columns = ("beta", "seeds", "-ELBO", "reconstruction", "KL", "active")
    pixels = {"none": "grey", "dynamic": "dynamically binarised", "threshold": "thresholded"}
    title = (
        f"{config.dataset}, {pixels[config.binarize]}, {config.likelihood}: test split, "
        "nats per image (-ELBO at beta 1)"
    )
    console().print(table(title, columns, rows))


def _by_beta(trained: Sequence[Trained], finals: Sequence[ElboEstimate]) -> dict[float, np.ndarray]:
    """[seeds, 4] numbers of each beta's members that did not diverge."""
    values: dict[float, list[list[float]]] = {}
    for result, final in zip(trained, finals, strict=True):
        if result.problem is None:
            numbers = [-final.elbo, -final.log_lik, final.kl, final.active_dims]
            values.setdefault(result.member.columns["beta"], []).append([float(n) for n in numbers])
    return {beta: np.array(rows) for beta, rows in values.items()}


def _standard_error(values: np.ndarray) -> np.ndarray:
    """Over the first axis; NaN where there is one value only."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))


if __name__ == "__main__":
    main(Config, run, PROG)
