"""The grids of factors that `experiments.disentangle` trains on, by the place of an image."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from vae_jax.data import load_dsprites
from vae_jax.preprocess import Preprocess, binarize_threshold
from vae_jax.sprites import factors_of, num_images, render
from vae_jax.types import PRNGKey

SPLIT_SEED = 0


class Grid(NamedTuple):
    """Every image of a grid of factors, in the order of dSprites.

    Attributes:
        stored: from places of the grid to what is stored of their images.
        preprocess: from what is stored of one image to its bits.
        source: where the images come from.
    """

    stored: Callable[[np.ndarray], np.ndarray]
    preprocess: Preprocess
    source: dict[str, Any]


@functools.cache
def load_grid(dataset: str, data_dir: Path | None) -> Grid:
    """The grid of a data set; its images are read once.

    Args:
        dataset: sprites or dsprites.
        data_dir: folder with dsprites/.

    Returns:
        The grid.

    Raises:
        DataError: if dsprites cannot be read or downloaded.
    """
    if dataset == "sprites":
        # Nothing is stored of an image but its place.
        return Grid(np.asarray, draw_bits, {"source": "sprites, drawn from their factors"})
    found = load_dsprites(data_dir)
    return Grid(
        lambda places: found.images[places],
        unpack_bits,
        {"source": found.source, "sha256": found.sha256},
    )


def split(images: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the grid to train on, and others to measure on.

    Drawn at random with a fixed seed: smaller sets are parts of larger ones, and no budget's
    training images are another's held-out ones.

    Args:
        images: to train on.
        held_out: to measure on.

    Returns:
        Both sets of places.
    """
    # NumPy promises this generator's stream for good; that of `default_rng` may change.
    order = np.random.RandomState(SPLIT_SEED).permutation(num_images).astype(np.int32)
    return order[:images], order[-held_out:]


def draw_bits(key: PRNGKey, index: Int[Array, ""]) -> Float[Array, "64 64 1"]:
    """The bits of the sprite at a place of the grid. The key is not used."""
    return binarize_threshold(key, render(factors_of(index)))


def unpack_bits(key: PRNGKey, packed: UInt8[Array, "64 8"]) -> Float[Array, "64 64 1"]:
    """The bits of an image that are stored eight to a byte. The key is not used."""
    return jnp.unpackbits(packed, axis=-1)[..., None].astype(jnp.float32)
