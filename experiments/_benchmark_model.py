"""The one model that `single` and `profile` measure, fully connected or convolutional."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import jax

from experiments._benchmark_cost import (
    Cost,
    Product,
    architecture,
    cost_of,
    dense_products,
    layers_of,
    step_cost,
)
from experiments._benchmark_job import Job, begin
from experiments._images import image_vae
from experiments._peers import Images, Problem
from experiments._run import check, check_counts
from vae_jax.data import ImageData
from vae_jax.networks import CONV_CHANNELS
from vae_jax.networks.conv import THIN
from vae_jax.types import Params

SIZES = {"mlp": ((400,), 20), "conv": ((256,), 2)}  # dense layers and z, unless they are given
SomeModel = TypeVar("SomeModel", bound="OneModel")


@dataclasses.dataclass(frozen=True)
class OneModel(Job):
    """A VAE of MNIST or its like."""

    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected, or convolutions of 32 and 64 channels before the dense layers."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's dense layers, 400 or for conv 256; the decoder mirrors them."""
    latent_dim: int | None = None
    """Dimensions of the latent z, 20 or for conv 2."""
    batch_size: int = 128
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    seed: int = 0
    """Of the weights, the shuffling and the noise."""

    @property
    def sizes(self) -> tuple[tuple[int, ...], int]:
        """The dense layers and the dimensions of z, given or the network's own."""
        hidden, latent_dim = SIZES[self.network]
        return (
            hidden if self.hidden is None else self.hidden,
            latent_dim if self.latent_dim is None else self.latent_dim,
        )


class Begun(NamedTuple):
    """A measurement that may begin.

    Attributes:
        job: its name, that of its files among them.
        files: where to write, without an ending.
        images: the data.
        problem: the model with fresh weights, and the images it is to learn.
    """

    job: str
    files: Path
    images: ImageData
    problem: Problem

    @property
    def pixels(self) -> int:
        """Of an image, with its channels."""
        return self.images.train_images[0].size

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return len(self.images.train_images) // self.problem.batch_size


def checked(config: SomeModel) -> SomeModel:
    """Refuse settings that make no model, before anything is loaded.

    Returns:
        The configuration with the sizes of its network filled in.

    Raises:
        UsageError: naming the value.
    """
    hidden, latent_dim = config.sizes
    sized = dataclasses.replace(config, hidden=hidden, latent_dim=latent_dim)
    check_counts(sized, "hidden", "latent_dim", "batch_size")
    check(0 <= config.seed < 2**32, "--seed", config.seed, "0 to 2^32 - 1 is needed")
    return sized


def begin_model(job: str, config: OneModel) -> Begun:
    """Load the data of a checked configuration, and make the model.

    Raises:
        UsageError: if the data or the folder does not allow it.
    """
    job = job if config.network == "mlp" else f"{job}-{config.network}"
    files, images = begin(job, config)
    batch, total = config.batch_size, len(images.train_images)
    check(batch <= total, "--batch-size", batch, f"at most the {total} images of {images.name}")
    return Begun(job, files, images, problem_of(config, images.train_images))


def problem_of(config: OneModel, images: Images) -> Problem:
    """The model that a checked configuration describes, with fresh weights, and its data."""
    hidden, latent_dim = config.sizes
    vae = image_vae(images.shape[1:], hidden=hidden, latent_dim=latent_dim, network=config.network)
    params = jax.jit(vae.init)(jax.random.key(config.seed))
    return Problem(vae, config.batch_size, config.seed, params, images)


class Work(NamedTuple):
    """What a step must do.

    Attributes:
        products: its matrix products.
        cost: in FLOPs and bytes.
    """

    products: list[Product]
    cost: Cost


def work_of(config: OneModel, x_shape: Sequence[int], params: Params) -> Work:
    """The matrix products of a step, as `vae_jax.networks` makes them, and what it costs.

    Args:
        config: of the model.
        x_shape: height, width and channels of an image.
        params: of the model, for their number.
    """
    (hidden, latent_dim), batch = config.sizes, config.batch_size
    pixels, depth = math.prod(x_shape), x_shape[-1]
    if config.network == "mlp":
        layers = layers_of(pixels, hidden, latent_dim)
        return Work(dense_products(layers, batch), step_cost(layers, batch))
    down: list[Product] = []
    up: list[Product] = []
    places, outputs = pixels // depth, 0
    for features in CONV_CHANNELS:
        outputs += places * depth  # of the decoder, where it has doubled the sides
        places //= 4
        # Thin kernels are one matrix of 4 x 4 pixels, others one for each of four 2 x 2 blocks.
        parts = 1 if depth < THIN else 4
        wide = 16 * depth // parts
        down += [Product(batch * places, wide, features, is_of_data=not down)] * parts
        up = [Product(batch * places, features, wide)] * parts + up
        outputs, depth = outputs + places * features, features
    dense = layers_of(places * depth, hidden, latent_dim)
    both = [*dense.encoder, *dense.decoder]
    outputs += sum(size for _, size in both)
    products = [*down, *(Product(batch, *one) for one in both), *up]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Work(products, cost_of(products, parameters, batch * pixels, batch * outputs))


def widths_of(config: OneModel, pixels: int) -> str:
    """`784-400-20`, or of the convolutional network the channels and the dense layers."""
    first = [pixels] if config.network == "mlp" else CONV_CHANNELS
    hidden, latent_dim = config.sizes
    return architecture(*first, *hidden, latent_dim)
