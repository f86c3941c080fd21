"""Noise of its own for every stored example, a row or an image: over many it averages out.

An example's noise depends on what stands in it, not on where it stands or on who stands beside it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt32

from vae_jax.types import Normal, Params, PRNGKey, Sample

_MULTIPLIER = 1_664_525  # of the congruential generator in Numerical Recipes


def fingerprint(row: Num[Array, "*x"]) -> UInt32[Array, ""]:
    """A number of what stands in a row or an image, for noise that is its own wherever it stands.

    sum_i b_i a^i modulo 2^32 over its bytes b_i; whole numbers, so that no order of the sum
    matters. Of two rows of random bytes it is the same once in 2^32 times, and then they only
    share their noise.

    Args:
        row: as it is stored, NaN where a value is missing.

    Returns:
        The number.
    """
    stored = jax.lax.bitcast_convert_type(row, jnp.uint8).reshape(-1).astype(jnp.uint32)
    return jnp.sum(stored * _powers(stored.size), dtype=jnp.uint32)


def fingerprints(
    rows: Float[np.ndarray, "rows features"],
) -> UInt32[np.ndarray, " rows"]:
    """The `fingerprint` of each row, on the host, where nothing has to be compiled.

    Args:
        rows: as they are stored; a missing value may be any NaN.

    Returns:
        The numbers.
    """
    alike = np.where(np.isnan(rows), np.array(np.nan, rows.dtype), rows)
    stored = np.ascontiguousarray(alike).view(np.uint8).astype(np.uint32)
    return stored @ _powers(stored.shape[1])


def draw_shifted(key: PRNGKey, params: Params, q: Normal, *, number: UInt32[Array, ""]) -> Sample:
    """Draw z ~ q with noise that a number shifts: `VAE.draw` of a row, by its fingerprint.

    z = mean + exp(log_var / 2) * Phi^-1(u + s mod 1), u uniform by the key, s_j = number a^j / 2^32

    Rows of one key share u. Over rows at random the sums u + s are independent in pairs all the
    same, so that covariances cancel in a mean over many rows; two given rows may correlate. A key
    for each row would need as many draws as rows, and a generator that gives each its own under
    `vmap`.

    Args:
        key: the key of the sample, the same for all rows.
        params: the model's parameters, which q already knows all about.
        q: the posterior, one normal.
        number: of the row, s.

    Returns:
        The sample.

    Reference:
        Cranley and Patterson, Randomization of number theoretic methods for multiple
        integration (SIAM Journal on Numerical Analysis 13, 1976).
    """
    bits = jax.random.bits(key, q.mean.shape, jnp.uint32)
    # Whole numbers wrap round at 2^32, which is the "mod 1".
    bits = bits + number * _powers(bits.size).reshape(bits.shape)
    # The middles of 2^23 steps from -1 to 1, all of them exact: neither end is reached.
    u = ((bits >> 9).astype(jnp.float32) + 0.5) * 2.0**-22 - 1
    eps = math.sqrt(2) * jax.lax.erf_inv(u)
    return Sample(q.mean + jnp.exp(q.log_var / 2) * eps)


def _powers(count: int) -> np.ndarray:
    """a, a^2, a^3, ... modulo 2^32."""
    return np.array([pow(_MULTIPLIER, i + 1, 2**32) for i in range(count)], np.uint32)
