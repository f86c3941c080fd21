"""How many examples, and samples of z of each, are computed at once.

An estimate needs theta for every example and every sample of its posterior, which is far more than
fits; so both are streamed. What is at once is decided here, from the size of theta alone: nothing
is computed to find it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.model import VAE
from vae_jax.types import Params

# Bytes that the decoded theta of all that is computed at once may take, 32 MiB; what a decoder
# needs on its way to it comes on top. An array of that or more glibc fetches anew from the system
# at every turn of a loop: every page of it faults, which took half as long again.
MEMORY = 2**25
# Samples that are decoded at once, and examples, where that fits; more are streamed.
_SAMPLES = 256
_EXAMPLES = 32


def theta_bytes(vae: VAE, params: Params, x: Float[Array | jax.ShapeDtypeStruct, "*x"]) -> int:
    """The memory that theta of one example and one z takes; nothing is computed.

    Args:
        vae: the model.
        params: the model's parameters.
        x: one example, or its shape.

    Returns:
        Bytes.
    """
    z = jax.ShapeDtypeStruct((vae.latent_dim,), jnp.float32)
    theta = jax.eval_shape(vae.theta_of, params, z, x)
    return theta.size * theta.dtype.itemsize


def fitting(bytes_of_one: int, *, most: int) -> int:
    """How many of something are computed at once: as many as `MEMORY` holds, one at least.

    Args:
        bytes_of_one: what one of them takes.
        most: never more than so many.

    Returns:
        The number.

    Example:
        >>> fitting(784 * 4 * 128, most=32), fitting(2**24, most=32), fitting(2**30, most=32)
        (32, 2, 1)
    """
    return max(1, min(most, MEMORY // bytes_of_one))


def samples_at_once(
    vae: VAE,
    params: Params,
    x: Float[Array | jax.ShapeDtypeStruct, "*x"],
    num_samples: int,
) -> int:
    """How many samples of one example are decoded at once: 256, or as many as fit.

    No more than it takes for as many turns: 5,000 are 20 turns of 250, since the 120 that a last
    one of 256 lacks would be decoded for nothing.

    Args:
        vae: the model.
        params: the model's parameters.
        x: one example, or its shape.
        num_samples: K, never more than so many.

    Returns:
        The number.
    """
    most = fitting(theta_bytes(vae, params, x), most=min(num_samples, _SAMPLES))
    turns = -(-num_samples // most)
    return -(-num_samples // turns)


def examples_at_once(
    vae: VAE,
    params: Params,
    x: Float[Array | jax.ShapeDtypeStruct, "*x"],
    num_samples: int,
    *,
    most: int = _EXAMPLES,
    copies: int = 1,
) -> int:
    """How many examples are computed at once, each with the samples that are decoded at once.

    Args:
        vae: the model.
        params: the model's parameters.
        x: one example, or its shape.
        num_samples: K of each example.
        most: never more than so many.
        copies: arrays of the size of theta that are kept of each sample.

    Returns:
        The number.
    """
    samples = samples_at_once(vae, params, x, num_samples)
    return fitting(copies * samples * theta_bytes(vae, params, x), most=most)
