"""One panel of figure 2 of Auto-Encoding Variational Bayes: its data, its model, its training."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

from experiments._grid import Axis, grid, short
from experiments._images import MANIFOLD_SIDE, SAMPLES, decoded_means
from experiments._noise import PICTURE_SEED, elbo_of
from experiments._options import RunOptions
from experiments._sweep import Task
from experiments._train import Trained
from vae_jax.data import load_frey_faces, load_images
from vae_jax.likelihoods import Likelihood, bernoulli, gaussian_learned_scale, squeezed
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, mlp
from vae_jax.objectives import elbo
from vae_jax.preprocess import intensities
from vae_jax.train import OptimizerOf, make_trainer
from vae_jax.types import Scalar
from vae_jax.wake_sleep import make_wake_sleep

EXPERIMENT = "aevb"
BATCH_SIZE = 100
STEP_SIZES = (0.01, 0.02, 0.1)
# The paper's N(0, 0.01), weights and biases alike, with 0.01 read as the deviation, as in its first
# author's later code. Read as the variance, wake-sleep on MNIST never begins: an encoder that knows
# only the decoder's first dreams gives the images log-variances at the end of their range.
INITIAL_DEVIATION = 0.01
# One grey level of 255: what is known of a pixel. The paper has no floor, but without one a pixel
# that is black in every face would be worth any number of nats.
MIN_SCALE = 1 / 255

Method = Literal["aevb", "wake_sleep"]
METHODS: tuple[Method, ...] = ("aevb", "wake_sleep")
METHOD_NAMES = {"aevb": "AEVB", "wake_sleep": "wake-sleep"}


@dataclasses.dataclass(frozen=True)
class PartConfig(RunOptions):
    """One method in one panel."""

    name: str = "part"
    dataset: str = "auto"
    latent_dim: int = 2
    method: Method = "aevb"
    learning_rate: tuple[float, ...] = STEP_SIZES
    seed: tuple[int, ...] = (0,)
    passes: int = 1
    images: tuple[int, ...] = ()
    data_dir: Path | None = None


class Pixels(NamedTuple):
    """A data set of grey images and how the paper models it.

    Attributes:
        name: what was really loaded.
        train: stored training images.
        test: stored test images.
        source: for the provenance.
        warning: what the user should be told, or None.
        hidden: units of the one hidden layer.
        likelihood: of a pixel.
        passes: epochs between two rows, where an epoch is worth no row.
        labels: the classes of both halves, where there are any.
    """

    name: str
    train: UInt8[np.ndarray, "train height width channels"]
    test: UInt8[np.ndarray, "test height width channels"]
    source: dict[str, object]
    warning: str | None
    hidden: int
    likelihood: Callable[[], Likelihood]
    passes: int
    labels: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def points_per_epoch(self) -> int:
        """Training images that an epoch sees; what fills no minibatch is left out."""
        return len(self.train) // BATCH_SIZE * BATCH_SIZE

    def epochs(self, points: float) -> int:
        """Epochs that see at least so many points, in whole rows."""
        return self.passes * math.ceil(points / (self.passes * self.points_per_epoch))


def grey_level() -> Likelihood:
    """Of Frey Face: a Gaussian with its mean in (0, 1) and a scale of its own for every pixel."""
    return squeezed(gaussian_learned_scale(MIN_SCALE))


@functools.cache
def load_pixels(dataset: str, data_dir: Path | None, images: tuple[int, ...]) -> Pixels:
    """Load a data set, once.

    Args:
        dataset: "frey_faces", or a name that `load_images` knows.
        data_dir: the user's folder.
        images: how many to keep for training and for testing; all if empty.

    Returns:
        The data set.

    Raises:
        DataError: if it cannot be had.
    """
    if dataset == "frey_faces":
        found, warning, labels = load_frey_faces(data_dir), None, None
        hidden, likelihood, passes = 200, grey_level, 24
    else:
        found = load_images(dataset, data_dir)
        hidden, likelihood, passes, warning = 500, bernoulli, 1, found.warning
        labels = found.train_labels, found.test_labels
    train, test = found.train_images, found.test_images
    if images:
        train, test, passes = train[: images[0]], test[: images[1]], 1
    if labels is not None:
        labels = labels[0][: len(train)], labels[1][: len(test)]
    source = {"source": found.source, "sha256": found.sha256}
    return Pixels(found.name, train, test, source, warning, hidden, likelihood, passes, labels)


def adagrad_with_prior(num_examples: int) -> OptimizerOf:
    """Adagrad on the bound plus the log-density of the decoder's weights under N(0, I).

    With N examples the bound per example gains log p(theta) / N, whose gradient is -theta / N: the
    maximum a posteriori estimate of the weights of p(x | z). The sums of squared gradients
    begin at zero, so that the first step is the step size itself, but for weights whose gradient
    is under optax's epsilon, 3e-4 nats.

    Args:
        num_examples: N.

    Returns:
        From a learning rate to the optimiser.

    Reference:
        arXiv 1312.6114, section 5.
    """
    prior = optax.add_decayed_weights(1 / num_examples, {"encoder": False, "decoder": True})

    def optimizer(learning_rate: Scalar) -> optax.GradientTransformation:
        return optax.chain(prior, optax.adagrad(learning_rate, initial_accumulator_value=0.0))

    return optimizer


def build_vae(pixels: Pixels, latent_dim: int) -> VAE:
    """The model of the paper: one hidden layer of tanh units on either side."""
    x_shape, likelihood = pixels.train.shape[1:], pixels.likelihood()
    normal = jax.nn.initializers.normal(INITIAL_DEVIATION)
    networks = mlp(
        (pixels.hidden,),
        x_shape=x_shape,
        latent_dim=latent_dim,
        theta_dim=likelihood.theta_dim,
        activation=ACTIVATIONS["tanh"],
        kernel_init=normal,
        bias_init=normal,
    )
    return make_vae(*networks, likelihood, x_shape=x_shape, latent_dim=latent_dim)


def prepare_part(config: PartConfig) -> tuple[PartConfig, Task]:
    """Load the data and build what one part trains.

    Returns:
        The configuration, the data set named as it is, and the task.

    Raises:
        DataError: if the data cannot be had.
    """
    pixels = load_pixels(config.dataset, config.data_dir, config.images)
    config = dataclasses.replace(config, dataset=pixels.name)
    vae = build_vae(pixels, config.latent_dim)
    optimizer = adagrad_with_prior(len(pixels.train))
    if config.method == "aevb":
        trainer = make_trainer(vae, elbo(), batch_size=BATCH_SIZE, optimizer=optimizer)
    else:
        trainer = make_wake_sleep(vae, batch_size=BATCH_SIZE, optimizer=optimizer)

    rates = " ".join(map(short, config.learning_rate))
    title = (
        f"{pixels.name} · z {config.latent_dim} · {METHOD_NAMES[config.method]} · step size {rates}"
        f" · {config.epochs * pixels.points_per_epoch:,} points"
    )
    axis = Axis("learning_rate", config.learning_rate, "learning_rate")
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name,
        title=title,
        table=f"{pixels.name}, grey levels: test split, nats per image",
        about={
            "dataset": pixels.name,
            "binarize": "none",
            "likelihood": "gaussian" if pixels.likelihood is grey_level else "bernoulli",
            "unit": "nats per image on the test split",
        },
        members=grid([axis], config.seed, lead="learning_rate"),
        vae=vae,
        preprocess=intensities,
        trainer=trainer,
        evaluate=elbo_of(vae, intensities),
        data=pixels.train,
        test=pixels.test,
        batch_size=BATCH_SIZE,
        draw=functools.partial(_draw, vae, title),
        source=pixels.source,
        passes=config.passes,
        compile_quickly=bool(config.images),
        labels=pixels.labels,
    )


def _draw(vae: VAE, title: str, result: Trained, folder: Path) -> None:
    """Samples of a model and, if its latent space is a plane, its manifold."""
    from vae_jax import figures

    key = jax.random.key(PICTURE_SEED)
    zs = jax.random.normal(key, (SAMPLES, vae.latent_dim))
    samples = np.asarray(decoded_means(vae, result.params, zs))
    title = f"{title} · seed {result.member.seed}"
    figures.save(figures.samples(samples, title=title), folder / "samples.png", samples=samples)
    if vae.latent_dim != 2:
        return
    side = figures.inverse_cdf_grid(MANIFOLD_SIDE)
    zs = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    images = np.asarray(decoded_means(vae, result.params, jnp.asarray(zs, jnp.float32)))
    images = images.reshape(MANIFOLD_SIDE, MANIFOLD_SIDE, *images.shape[1:])
    figures.save(
        figures.manifold(images, side, side, title=title),
        folder / "manifold.png",
        images=images,
        values=side,
    )
