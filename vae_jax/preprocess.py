"""From a stored pixel to the x of the model, on the device and inside the training step.

Images stay uint8 in memory; each minibatch is gathered, then turned into intensities or
bits. Every function is written for one example; callers `vmap`. Grey, thresholded and
dynamically binarised MNIST are three different data sets whose likelihoods must not be compared.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vae_jax.types import PRNGKey

Preprocess = Callable[[PRNGKey, Num[Array, "*x"]], Float[Array, "*x"]]


def intensities(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Grey levels, pixel / 255.

    Args:
        key: not used.
        pixels: uint8, 0 to 255.

    Returns:
        Intensities on [0, 1], of the same shape.

    Raises:
        TypeError: if the pixels are not uint8, as what is x already is not.
    """
    return _levels(pixels).astype(jnp.float32) / 255


def as_stored(key: PRNGKey, row: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """What is stored is x already: the features of a table.

    Args:
        key: not used.
        row: the features, NaN where one is missing.

    Returns:
        The row itself.
    """
    return row


def tokens_as_stored(key: PRNGKey, sentence: Num[Array, " length"]) -> Float[Array, " length"]:
    """The tokens of a sentence, stored as uint16, as the whole numbers of x.

    Args:
        key: not used.
        sentence: tokens, 0 behind the end.

    Returns:
        The same numbers in float32.
    """
    return sentence.astype(jnp.float32)


def binarize_dynamic(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Bits that every key draws anew, 1 with the probability pixel / 255.

    Args:
        key: the key of the draw.
        pixels: uint8, 0 to 255.

    Returns:
        Zeros and ones, of the same shape.

    Raises:
        TypeError: as in `intensities`.

    Reference:
        Salakhutdinov and Murray (ICML 2008), section 5; redrawn for every minibatch in
        Burda et al. (arXiv 1509.00519), section 5.
    """
    return jax.random.bernoulli(key, intensities(key, pixels)).astype(jnp.float32)


def binarize_threshold(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Bits, 1 where the pixel is 128 or more.

    Args:
        key: not used.
        pixels: uint8, 0 to 255.

    Returns:
        Zeros and ones, of the same shape.

    Raises:
        TypeError: as in `intensities`.
    """
    return (_levels(pixels) >= 128).astype(jnp.float32)


def _levels(pixels: Num[Array, "*x"]) -> Num[Array, "*x"]:
    if pixels.dtype != jnp.uint8:
        raise TypeError(
            f"pixels of type {pixels.dtype}: uint8 is needed, 0 to 255; what is x already goes "
            "through `as_stored`, and tokens through `tokens_as_stored`"
        )
    return pixels


BINARIZE: dict[str, Preprocess] = {
    "none": intensities,
    "dynamic": binarize_dynamic,
    "threshold": binarize_threshold,
}
