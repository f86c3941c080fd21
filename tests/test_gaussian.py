import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.test_util import check_grads

from vae_jax.gaussian import (
    kl_to_standard_normal,
    log_density,
    reparameterize,
    standard_log_density,
)
from vae_jax.types import Normal

pytestmark = pytest.mark.usefixtures("compiled_quickly")

finite = st.floats(-5, 5, width=32)
POSTERIORS = [
    Normal(jnp.zeros(3), jnp.zeros(3)),
    Normal(jnp.array([0.5, -2.0, 3.0]), jnp.array([0.1, -1.5, 1.0])),
    Normal(jnp.array([4.0]), jnp.array([-6.0])),
]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=4))
def test_kl_equals_a_second_library(pairs):
    mean, log_var = (jnp.array(column) for column in zip(*pairs, strict=True))
    other = numpyro.kl_divergence(
        numpyro.Normal(mean, jnp.exp(log_var / 2)), numpyro.Normal(0.0, 1.0)
    )
    ours = kl_to_standard_normal(Normal(mean, log_var))
    # numpyro cancels 1 - var - log var near the prior: a few units in the last place of 1.
    np.testing.assert_allclose(ours, other, rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize("q", POSTERIORS)
def test_kl_is_the_mean_of_the_log_ratio(q, key):
    keys = jax.random.split(key, 20_000)
    zs = jax.vmap(reparameterize, (0, None))(keys, q)
    ratios = jax.vmap(lambda z: log_density(q, z) - standard_log_density(z))(zs)
    error = ratios.std() / np.sqrt(len(keys))
    # Four standard errors, and what float32 leaves where the ratio is exactly zero.
    assert abs(ratios.mean() - kl_to_standard_normal(q).sum()) < 4 * error + 1e-6


def test_kl_is_zero_at_the_prior_and_exact_beside_it():
    assert kl_to_standard_normal(Normal(jnp.zeros(2), jnp.zeros(2))).tolist() == [0.0, 0.0]
    log_var = 1e-3
    exact = 0.5 * (np.expm1(np.float64(np.float32(log_var))) - np.float64(np.float32(log_var)))
    near = kl_to_standard_normal(Normal(jnp.zeros(1), jnp.array([log_var])))
    # One rounding of a number near 1e-3; exp(log_var) - 1 would round a number near 1.
    assert abs(near[0] - exact) <= np.spacing(np.float32(log_var))


@pytest.mark.parametrize("q", POSTERIORS)
def test_density_equals_a_second_library(q, key):
    z = reparameterize(key, q)
    other = numpyro.Normal(q.mean, jnp.exp(q.log_var / 2)).log_prob(z).sum()
    np.testing.assert_allclose(log_density(q, z), other, rtol=1e-5)
    prior = numpyro.Normal(0.0, 1.0).log_prob(z).sum()
    np.testing.assert_allclose(standard_log_density(z), prior, rtol=1e-5)


@pytest.mark.parametrize("q", POSTERIORS)
def test_samples_have_the_moments_of_the_posterior(q, key):
    n = 20_000
    zs = jax.vmap(reparameterize, (0, None))(jax.random.split(key, n), q)
    scale = jnp.exp(q.log_var / 2)
    assert jnp.all(abs(zs.mean(axis=0) - q.mean) < 4 * scale / np.sqrt(n))
    # The variance of a sample variance of a normal is 2 sigma^4 / n.
    assert jnp.all(abs(zs.var(axis=0) / scale**2 - 1) < 4 * np.sqrt(2 / n))


def test_one_key_gives_one_sample(key):
    q = POSTERIORS[1]
    assert jnp.array_equal(reparameterize(key, q), reparameterize(key, q))
    other = jax.random.key(1)
    assert not jnp.array_equal(reparameterize(key, q), reparameterize(other, q))


def test_gradients_in_float64():
    with jax.enable_x64(True):
        q = Normal(jnp.array([0.3, -1.0]), jnp.array([0.2, -2.0]))
        z = jnp.array([0.7, -0.4])
        key = jax.random.key(0)
        check_grads(lambda q: kl_to_standard_normal(q).sum(), (q,), order=2)
        check_grads(lambda q: log_density(q, z), (q,), order=2)
        check_grads(lambda q: reparameterize(key, q), (q,), order=1)


@pytest.mark.parametrize("log_var", [-30.0, 20.0])
def test_extreme_variances_stay_finite(log_var, key):
    def loss(q):
        z = reparameterize(key, q)
        return kl_to_standard_normal(q).sum() + log_density(q, z)

    q = Normal(jnp.ones(2), jnp.full(2, log_var))
    value, grads = jax.value_and_grad(loss)(q)
    assert jnp.isfinite(value)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in grads)
