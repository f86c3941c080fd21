"""The flags of `experiments.anomaly`: their help, their defaults, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments._options import RunOptions, check_options
from experiments._run import (
    check,
    check_counts,
    check_members,
    check_once,
    check_positive,
    check_seeds,
    check_widths,
    flag_of,
)

EXPERIMENT = "anomaly"
Dataset = Literal["wine", "breast_cancer", "digits", "mnist"]
PixelLikelihood = Literal["bernoulli", "continuous_bernoulli", "gaussian", "gaussian_learned_scale"]


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """Train on normal examples and find the others: AUROC and average precision.

    Each data set and latent size is a run of its own; its seeds, and the digits that are left
    out one by one, are trained as one compiled program. Beside it stand isolation forest, PCA
    and the distance to the fifth neighbour on the same rows. Several latent sizes of a data set
    are reported together too, in a folder that is named after all of them.
    """

    dataset: tuple[Dataset, ...] = ("wine", "breast_cancer", "digits")
    """wine and breast_cancer: ten rows of one class are the anomalies. digits and mnist: each
    digit in turn is left out of the training."""
    latent_dim: tuple[int, ...] = (2,)
    """Dimensions of the latent z, a run for each and one report of all."""
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
    check_once("--dataset", config.dataset)
    which = int(config.dataset == ("mnist",))
    usual = {field: values[which] for field, values in USUAL.items()}
    if config.network == "conv":
        usual["hidden"] = USUAL_BEHIND_CONVOLUTIONS
    missing = {field: value for field, value in usual.items() if getattr(config, field) is None}
    filled = dataclasses.replace(config, **missing)
    check_options(filled, EXPERIMENT)
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_seeds(config.seed)
    check_members("--latent-dim", config.latent_dim, "a whole number of 1 or more is needed", low=1)
    check_counts(filled, "batch_size", "num_samples")
    assert filled.hidden is not None
    assert filled.learning_rate is not None
    check_widths(filled.hidden)
    check_positive("--learning-rate", (filled.learning_rate,))
    is_read = config.data_dir is None or "mnist" in config.dataset
    check(is_read, "--data-dir", config.data_dir, "belongs to --dataset mnist")
    for field in ("network", "likelihood", "binarize"):
        value = getattr(config, field)
        fits = config.dataset == ("mnist",) or value == getattr(Config, field)
        check(fits, flag_of(field), value, "belongs to --dataset mnist")
    bits = config.likelihood == "bernoulli" or config.binarize == "none"
    allowed = f"--likelihood {config.likelihood} is one of grey levels; none is needed"
    check(bits, "--binarize", config.binarize, allowed)
    scale, fixed = config.scale, config.likelihood == "gaussian"
    if scale is not None:
        check(fixed, "--scale", scale, "belongs to --likelihood gaussian")
        check_positive("--scale", (scale,))
    one_size = len(config.latent_dim) == 1
    for field in ("shard", "launch", "distributed"):
        value = getattr(config, field)
        one = not value or (len(config.dataset) == 1 and one_size)
        check(one, flag_of(field), value, "one --dataset and one --latent-dim are needed with it")
    name = config.name
    check(not name or len(config.dataset) == 1, "--name", name, "one --dataset is needed with it")
    return filled if len(config.dataset) == 1 and one_size else config
