"""Lossless compression of images with a VAE, by bits back with asymmetric numeral systems.

For a batch of images x: pop z from the posterior q(z | x), push x under the likelihood
p(x | z), push z under the prior p(z). What the pops took is given back when the images are
popped again, so that a batch costs log q(z | x) - log p(x | z) - log p(z) nats, which is the
negative ELBO on average over z. The bits that a batch borrows are those of the batches before.
Unlike the rest of the package this is written for batches, not for one image: the stack is one
sequence that nothing can be mapped over, and a call of the coder costs more than what it codes.

Reference:
    Townsend, Bird and Barber, Practical lossless compression with latent variables using bits
    back coding (arXiv 1901.04866), section 2.4 and appendix C.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from vae_jax.compression import tables
from vae_jax.compression.exact import (
    CodecError,
    Layer,
    apply,
    check_exact,
    exact_layers,
    rounded,
)
from vae_jax.compression.pixels import PIXELS, PixelCode
from vae_jax.compression.stack import Discrete, Stack
from vae_jax.model import LOG_VAR_RANGE

BUCKET_BITS = 10  # of the number of a latent bucket
MOST_BUCKET_BITS = 14
MOST_BATCH = 1000
BATCH = 250  # images, at most, that go through the networks at once: those that a cache holds
SPARE_BITS = 64  # a pop takes more than its share by these with probability 2^-64


class Codec(NamedTuple):
    """A trained model as both sides of a message know it.

    Attributes:
        encoder: exact layers from x to means and log-variances.
        decoder: exact layers from z to theta.
        likelihood: a key of `PIXELS`.
        x_shape: of one image.
        bucket_bits: that the number of a latent bucket has.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    likelihood: str
    x_shape: tuple[int, ...]
    bucket_bits: int = BUCKET_BITS

    @property
    def latent_dim(self) -> int:
        """Dimensions of z."""
        return self.decoder[0].kernel.shape[0]

    @property
    def pixels(self) -> PixelCode:
        """How pixels are coded."""
        return PIXELS[self.likelihood]

    def posterior(self, xs: UInt8[np.ndarray, "batch pixels"]) -> Discrete:
        """The distributions q(z | x) on the buckets, of all latent dimensions of a batch."""
        edges = tables.buckets(self.bucket_bits).edges
        inputs = rounded(xs / np.float64(self.pixels.levels - 1))
        mean, log_var = np.split(apply(self.encoder, inputs), 2, axis=1)
        mean = mean.ravel()
        precision = tables.exponential().at(-np.clip(log_var.ravel(), *LOG_VAR_RANGE) / 2)

        def mass_below(which: np.ndarray, level: np.ndarray) -> np.ndarray:
            points = (edges[level - 1] - mean[which]) * precision[which]
            return np.rint(tables.normal_mass().at(points)).astype(np.int64) + level

        levels = 2**self.bucket_bits
        return Discrete(len(mean), levels, tables.MASS + levels, mass_below, levels // 2)

    def observation(self, zs: Integer[np.ndarray, "batch latent"]) -> Discrete:
        """The distributions p(x | z) of all pixels of a batch, z at the centres of buckets."""
        theta = apply(self.decoder, tables.buckets(self.bucket_bits).centres[zs])
        return self.pixels.discrete(theta.reshape(-1, self.pixels.theta_dim))


class Chain(NamedTuple):
    """The message of a sequence of images.

    Attributes:
        words: 32 bits each.
        batches: images of each batch, in the order in which they were pushed.
    """

    words: np.ndarray
    batches: list[int]


def make_codec(
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    likelihood: str,
    x_shape: Sequence[int],
    *,
    bucket_bits: int = BUCKET_BITS,
) -> Codec:
    """Make a trained model exact, so that what it packs can be unpacked elsewhere.

    Args:
        encoder: parameters of an `MLPEncoder` with rectifiers. Trained with another activation
            it would be lossless still, but another model and a bad one.
        decoder: of an `MLPDecoder` with rectifiers.
        likelihood: a key of `PIXELS`.
        x_shape: of one image.
        bucket_bits: that the number of a latent bucket has.

    Returns:
        The codec.

    Raises:
        CodecError: if a weight is not finite or too large, or the networks do not fit the
            likelihood and the shape.
    """
    if likelihood not in PIXELS:
        raise CodecError(f"likelihood {likelihood}: only {', '.join(PIXELS)} can be coded")
    layers = exact_layers(encoder, "encoder"), exact_layers(decoder, "decoder")
    return check_codec(Codec(*layers, likelihood, tuple(map(int, x_shape)), bucket_bits))


def check_codec(codec: Codec) -> Codec:
    """The codec itself, if its parts fit each other and all its sums are exact.

    Raises:
        CodecError: saying what does not.
    """
    if not 1 <= codec.bucket_bits <= MOST_BUCKET_BITS:
        raise CodecError(f"bucket_bits {codec.bucket_bits}: 1 to {MOST_BUCKET_BITS} is allowed")
    size = int(np.prod(codec.x_shape))
    for name, layers, ends in (
        ("encoder", codec.encoder, (size, 2 * codec.latent_dim)),
        ("decoder", codec.decoder, (codec.latent_dim, size * codec.pixels.theta_dim)),
    ):
        inner = [layer.bias.size for layer in layers]
        widths = [layer.kernel.shape for layer in layers]
        if widths != list(zip([ends[0], *inner[:-1]], inner, strict=True)) or inner[-1] != ends[1]:
            raise CodecError(f"{name}: layers {widths} do not lead from {ends[0]} to {ends[1]}")
    centres = tables.buckets(codec.bucket_bits).centres
    check_exact(codec.encoder, 1.0, "encoder")
    check_exact(codec.decoder, float(np.abs(centres).max()), "decoder")
    return codec


def push_batch(stack: Stack, codec: Codec, xs: UInt8[np.ndarray, "batch pixels"]) -> None:
    """Code a batch of images.

    Args:
        stack: which must hold the bits that the posterior takes.
        codec: the model.
        xs: images, flattened, each pixel under the levels of the likelihood.

    Raises:
        CodecError: if the stack ran empty.
    """
    buckets = stack.pop(codec.posterior(xs))
    if stack.bits < SPARE_BITS // 2:
        raise CodecError("the bits to begin with did not suffice")
    stack.push(xs.ravel(), codec.observation(buckets.reshape(len(xs), -1)))
    stack.push_uniform(buckets, codec.bucket_bits)


def pop_batch(stack: Stack, codec: Codec, count: int) -> UInt8[np.ndarray, "batch pixels"]:
    """Decode a batch of images: `push_batch` backwards.

    Args:
        stack: as `push_batch` left it.
        codec: the model.
        count: images of the batch.

    Returns:
        The images.

    Raises:
        CodecError: if the stack ran empty.
    """
    buckets = stack.pop_uniform(count * codec.latent_dim, codec.bucket_bits)
    xs = stack.pop(codec.observation(buckets.reshape(count, -1)))
    xs = xs.astype(np.uint8).reshape(count, -1)
    if stack.bits < SPARE_BITS // 2:
        raise CodecError("the message ends too early")
    stack.push(buckets, codec.posterior(xs))
    return xs


def push_chain(
    codec: Codec,
    xs: UInt8[np.ndarray, "n pixels"],
    progress: Callable[[int, int], None] = lambda images, bits: None,
    *,
    batch_size: int = BATCH,
) -> Chain:
    """Code images in a chain of batches on one stack, that of the `padding`.

    A batch is as large as the bits on the stack allow: the first is one image, and soon the
    stack holds enough for full ones. So the bits to begin with are those of one image.

    Args:
        codec: the model.
        xs: images, flattened.
        progress: told, after each batch, of how many images and bits there are.
        batch_size: images that go through the networks at once, at most.

    Returns:
        The message.

    Raises:
        CodecError: if the batch size or a pixel is not allowed, or the stack ran empty.
    """
    if not 1 <= batch_size <= MOST_BATCH:
        raise CodecError(f"batch_size {batch_size}: 1 to {MOST_BATCH} is allowed")
    if xs.size and int(xs.max()) >= codec.pixels.levels:
        raise CodecError(f"pixel {xs.max()}: the highest is {codec.pixels.levels - 1}")
    stack, done, batches = Stack(padding(codec), seal=True), 0, []
    borrowed = codec.latent_dim * codec.bucket_bits  # by an image, at most
    while done < len(xs):
        fit = (stack.bits - SPARE_BITS) // borrowed
        size = min(max(fit, 1), batch_size, len(xs) - done)
        push_batch(stack, codec, xs[done : done + size])
        done += size
        batches.append(size)
        progress(done, stack.bits)
    return Chain(stack.words(), batches)


def pop_chain(
    codec: Codec, chain: Chain, progress: Callable[[int, int], None] = lambda images, bits: None
) -> UInt8[np.ndarray, "n pixels"]:
    """Decode what `push_chain` coded.

    Args:
        codec: the model.
        chain: the message.
        progress: told, after each batch, of how many images are done and bits left.

    Returns:
        The images.

    Raises:
        CodecError: if the message is damaged or of another model.
    """
    stack, found, done = Stack(chain.words), [], 0
    for size in reversed(chain.batches):
        found.append(pop_batch(stack, codec, size))
        done += size
        progress(done, stack.bits)
    if not stack.holds(padding(codec)):
        raise CodecError("something else than the bits to begin with is left of the message")
    pixels = int(np.prod(codec.x_shape))
    return np.concatenate([np.zeros((0, pixels), np.uint8), *reversed(found)])


def padding(codec: Codec) -> np.ndarray:
    """The bits that a chain begins with: as many words as the posterior of one image takes.

    They look random, as bits must that a sample is drawn from, and are the same for everyone.
    """
    words = (codec.latent_dim * codec.bucket_bits + SPARE_BITS) // 32 + 2
    return np.frombuffer(hashlib.shake_128(b"vae_jax").digest(4 * words), "<u4")
