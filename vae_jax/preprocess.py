"""From a stored pixel to the x of the model, on the device and inside the training step.

Images stay uint8 in memory; each minibatch is gathered, then turned into intensities or
bits. Grey, thresholded and dynamically binarised MNIST are three different data sets whose
likelihoods must not be compared.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vae_jax.types import PRNGKey

Preprocess = Callable[[PRNGKey, Num[Array, "*x"]], Float[Array, "*x"]]


def intensities(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Grey levels on [0, 1]: pixel / 255. The key is not used."""
    return pixels.astype(jnp.float32) / 255


def as_stored(key: PRNGKey, row: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """What is stored is x already: the features of a table. The key is not used."""
    return row


def tokens_as_stored(key: PRNGKey, sentence: Num[Array, " length"]) -> Float[Array, " length"]:
    """The tokens of a sentence, stored as uint16, as the whole numbers of x. No key is used."""
    return sentence.astype(jnp.float32)


def binarize_dynamic(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Bits drawn anew at each call, one with probability pixel / 255.

    Reference:
        Salakhutdinov and Murray (ICML 2008), section 5; redrawn for every minibatch in
        Burda et al. (arXiv 1509.00519), section 5.
    """
    return jax.random.bernoulli(key, pixels.astype(jnp.float32) / 255).astype(jnp.float32)


def binarize_threshold(key: PRNGKey, pixels: Num[Array, "*x"]) -> Float[Array, "*x"]:
    """Bits: one where the pixel is 128 or more. The key is not used."""
    return (pixels >= 128).astype(jnp.float32)


BINARIZE: dict[str, Preprocess] = {
    "none": intensities,
    "dynamic": binarize_dynamic,
    "threshold": binarize_threshold,
}
