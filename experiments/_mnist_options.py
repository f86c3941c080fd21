"""The flags of `experiments.mnist`: their help, their defaults, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments._grid import short
from experiments._options import RunOptions, check_options
from experiments._run import (
    check,
    check_counts,
    check_members,
    check_positive,
    check_seeds,
    check_widths,
    flag_of,
)
from vae_jax.objectives import OBJECTIVES

EXPERIMENT = "mnist"


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
    """Widths of the encoder's dense layers; the decoder mirrors them. No width: a linear model."""
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


EPOCHS = {None: 20, "smoke": 1, "cpu": 20, "full": 60}  # of a budget, without --epochs
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
    check_seeds(config.seed)
    check_counts(config, "latent_dim", "batch_size", "samples")
    check_positive("--learning-rate", config.learning_rate)
    check_widths(config.hidden)
    scale = config.scale
    if scale is not None:
        has_scale = config.likelihood in DEFAULT_SCALE
        check(has_scale, "--scale", scale, f"--likelihood {config.likelihood} has no scale")
        check_positive("--scale", (scale,))
    else:
        scale = DEFAULT_SCALE.get(config.likelihood)
    samples = config.samples
    if samples is None:
        samples = IMPORTANCE_SAMPLES.get(config.objective, 1)
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
                check_positive(flag_of(field), values)
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
