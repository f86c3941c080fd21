"""Training of models that compress: those of `experiments.mnist`, left in the form that codes."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments import mnist
from experiments._folder import RunFolder
from experiments._run import check
from experiments._sweep import Task
from experiments._train import Trained
from vae_jax.compression import CodecError, make_codec, save_codec
from vae_jax.types import Params

EXPERIMENT = "compress"


@dataclasses.dataclass(frozen=True)
class Config(mnist.Config):
    """Train models that can compress, as `experiments.mnist` trains its own."""

    latent_dim: int = 40
    """Dimensions of the latent z."""
    network: Literal["mlp"] = "mlp"
    """Fully connected: what can be made exact."""
    hidden: tuple[int, ...] = (100,)
    """Widths of the encoder's dense layers; the decoder mirrors them."""
    activation: Literal["relu"] = "relu"
    """Between layers: what can be made exact."""
    likelihood: Literal["bernoulli", "beta_binomial", "discretized_logistic_mixture"] = "bernoulli"
    """bernoulli for bits, the others for grey levels."""
    binarize: Literal["none", "threshold"] = "threshold"
    """Grey levels as they are, or bits at 128 of 255."""
    dataset: Literal["mnist", "fashion_mnist", "kmnist", "digits"] = "mnist"
    """What to train on."""


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    for field in ("shard", "merge", "launch", "distributed"):
        value = getattr(config, field)
        check(not value, f"--{field}", value, "compress trains its models in one process")
    if config.binarize == "threshold":
        fits, allowed = config.likelihood == "bernoulli", "--binarize threshold needs bernoulli"
    else:
        fits, allowed = config.likelihood != "bernoulli", "grey levels need one of the others"
    check(fits, "--likelihood", config.likelihood, allowed)
    filled = mnist.validate(config)
    assert isinstance(filled, Config)
    return filled


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the data and build what is trained.

    Args:
        config: with its defaults filled in.

    Returns:
        The configuration and the task.

    Raises:
        UsageError: if the data do not allow it.
    """
    prepared, task = mnist.prepare(config)
    assert isinstance(prepared, Config)
    keep = _Keep(prepared, task, np.asarray(task.test).shape[1:])
    return prepared, task._replace(
        experiment=EXPERIMENT,
        picture=flat,
        draw=None if config.figures == "none" else keep.draw,
        measure=keep.save,
    )


def flat(params: Params) -> Float[Array, " all"]:
    """All parameters in a row: kept of some epochs, in place of the pictures that they draw."""
    return jax.flatten_util.ravel_pytree(params)[0]


class _Keep(NamedTuple):
    """What becomes of the parameters that were kept of some epochs."""

    config: Config
    task: Task
    x_shape: tuple[int, ...]

    def unravel(self, values: Float[np.ndarray, " all"]) -> Params:
        """The parameters that `flat` has put in a row."""
        shapes = jax.eval_shape(lambda: self.task.vae.init(jax.random.key(0)))
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.flatten_util.ravel_pytree(zeros)[1](jnp.asarray(values))

    def draw(self, trained: Trained, folder: Path) -> None:
        """The figures of `experiments.mnist`."""
        assert self.task.draw is not None
        assert self.task.picture is not None
        pictures = {
            epoch: np.asarray(self.task.picture(self.unravel(kept)))
            for epoch, kept in trained.snapshots.items()
        }
        self.task.draw(trained._replace(snapshots=pictures), folder)

    def save(self, members: list[Trained], folder: RunFolder) -> list[dict[str, float]]:
        """Write every model as a codec; one that cannot be made exact is named and left out."""
        # A run that went on has another report to write.
        shutil.rmtree(folder.path / "report", ignore_errors=True)
        for trained in members:
            if trained.problem is not None:
                continue
            home = folder.path / "models" / trained.member.name
            home.mkdir(parents=True, exist_ok=True)
            kept = {e: self.unravel(values) for e, values in trained.snapshots.items()}
            kept[trained.rows[-1]["epoch"]] = trained.params
            for epoch, params in kept.items():
                networks = params["encoder"], params["decoder"]
                try:
                    codec = make_codec(*networks, self.config.likelihood, self.x_shape)
                except CodecError as error:
                    print(f"warning: {trained.member.name}: {error}", file=sys.stderr)
                else:
                    save_codec(home / f"epoch{epoch}.npz", codec)
        return [{} for _ in members]
