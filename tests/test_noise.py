"""Noise of each row's own: by what stands in it, normal, and independent of that of others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vae_jax.evaluation.noise import draw_shifted, fingerprint, fingerprints
from vae_jax.types import Normal


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_a_fingerprint_is_the_sum_of_its_bytes(kind):
    rows = np.random.default_rng(0).integers(256, size=(50, 3, 4)).astype(kind)
    rows[1] = rows[0]
    rows[1, 2, 3] += 1
    if kind == np.float32:
        rows[2, 0, 0] = np.nan
    found = [int(fingerprint(jnp.asarray(row))) for row in rows]
    expected = [
        sum(byte * 1_664_525**place for place, byte in enumerate(row.tobytes(), 1)) % 2**32
        for row in rows
    ]
    assert found == expected
    assert len(set(found)) == len(rows)
    if kind == np.float32:
        flat = rows.reshape(50, 12)
        assert fingerprints(flat).tolist() == expected
        negative = np.where(np.isnan(flat), -np.float32(np.nan), flat)
        assert fingerprints(negative).tolist() == expected  # any NaN


def test_shifted_noise_is_normal_and_of_each_row_alone(key):
    """Of pairs of rows, each pair with a key in common, in their own unit: z = 1 + 2 eps."""
    n, q = 20_000, Normal(jnp.ones(2), jnp.full(2, np.log(4.0)))
    rows = np.random.default_rng(0).normal(size=(2 * n, 3)).astype(np.float32)
    numbers, keys = fingerprints(rows).reshape(2, n), jax.random.split(key, n)

    def draw(number: jax.Array, key: jax.Array) -> jax.Array:
        return draw_shifted(key, {}, q, number=number).z

    z = jax.vmap(jax.vmap(draw), (0, None))(jnp.asarray(numbers), keys)
    eps = (np.asarray(z) - 1) / 2
    first, second = eps.transpose(0, 2, 1)
    for values in (*first, *second):
        # The 99.9% point of Kolmogorov's statistic.
        assert stats.kstest(values, "norm").statistic < 1.95 / np.sqrt(n)
    for own, other in zip(first, second, strict=True):
        for power in (1, 2):
            assert abs(np.corrcoef(own**power, other**power)[0, 1]) < 4 / np.sqrt(n)
