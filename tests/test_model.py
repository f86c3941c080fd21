import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax.likelihoods import bernoulli, gaussian
from vae_jax.model import LOG_VAR_RANGE, VAE, batch_elbo_terms, elbo_terms, make_vae
from vae_jax.networks import mlp
from vae_jax.types import ElboTerms

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture
def linear():
    rng = np.random.default_rng(0)
    model = oracles.random_model(rng)
    xs = oracles.sample(model, rng, 40)
    return model, jnp.asarray(xs, jnp.float32), oracles.log_marginal(model, xs)


@partial(jax.jit, static_argnums=(1, 3))
def linear_terms(key: jax.Array, vae: VAE, xs: jax.Array, samples: int) -> ElboTerms:
    keys = jax.random.split(key, (len(xs), samples))
    return batch_elbo_terms(keys, vae, {}, xs)


def small_vae(x_shape=(4, 4, 1), latent_dim=3, **settings):
    encoder, decoder = mlp((6,), x_shape=x_shape, latent_dim=latent_dim, theta_dim=1)
    sizes = {"x_shape": x_shape, "latent_dim": latent_dim}
    return make_vae(encoder, decoder, bernoulli(), **sizes, **settings)


def test_with_the_true_posterior_every_sample_gives_log_p(linear, key):
    model, xs, log_p = linear
    terms = jax.tree.map(np.asarray, linear_terms(key, oracles.as_vae(model), xs, 7))
    ratios = terms.log_lik + terms.log_prior - terms.log_posterior
    # log p(x, z) - log q(z | x) is log p(x) for every z: only float32 is left.
    np.testing.assert_allclose(ratios, np.broadcast_to(log_p[:, None], ratios.shape), atol=2e-5)


def test_with_the_true_posterior_the_elbo_is_log_p(linear, key):
    model, xs, log_p = linear
    terms = jax.tree.map(np.asarray, linear_terms(key, oracles.as_vae(model), xs, 4000))
    elbos = terms.log_lik - terms.kl_per_dim.sum(axis=-1)
    error = elbos.std(axis=1) / np.sqrt(elbos.shape[1])
    assert np.all(abs(elbos.mean(axis=1) - log_p) < 4.5 * error)


def test_with_a_wrong_posterior_the_bound_rises_with_the_samples(linear, key):
    model, xs, log_p = linear
    vae = oracles.as_vae(model, posterior_shift=0.4)
    repeats = 400

    @jax.jit
    def bounds_of(key):
        keys = jax.random.split(key, (repeats, len(xs), 64))
        terms = jax.vmap(lambda k: batch_elbo_terms(k, vae, {}, xs))(keys)
        log_w = terms.log_lik + terms.log_prior - terms.log_posterior
        return [
            jax.nn.logsumexp(log_w[..., :k], axis=-1).mean(axis=1) - np.log(k)
            for k in (1, 4, 16, 64)
        ]

    per_repeat = np.array(bounds_of(key))
    bounds, errors = per_repeat.mean(axis=1), per_repeat.std(axis=1) / np.sqrt(repeats)
    gaps = np.diff([*bounds, log_p.mean()])
    # Strictly below log p(x), and closer with every step, by more than the noise.
    assert np.all(gaps > 4 * np.array(errors)), (bounds, errors, log_p.mean())


def test_the_terms_of_a_batch_are_those_of_its_examples(key):
    vae = small_vae()
    params = jax.jit(vae.init)(key)
    xs = np.asarray(jax.random.uniform(key, (5, 4, 4, 1)))
    keys = jax.random.split(key, (5, 2))
    batch = jax.jit(batch_elbo_terms, static_argnums=1)(keys, vae, params, xs)
    batch = jax.tree.map(np.asarray, batch)
    terms = jax.jit(elbo_terms, static_argnums=1)
    assert batch.log_lik.shape == (5, 2)
    assert batch.kl_per_dim.shape == (5, 2, 3)
    for i in range(5):
        for j in range(2):
            one = terms(keys[i, j], vae, params, xs[i])
            jax.tree.map(
                lambda a, b, i=i, j=j: np.testing.assert_allclose(a[i, j], b, rtol=1e-5, atol=1e-5),
                batch,
                one,
            )


def test_a_wild_log_variance_is_clipped_for_sample_and_kl_alike(key):
    vae = small_vae()
    params = jax.tree.map(lambda leaf: np.asarray(leaf) + np.float32(1e3), jax.jit(vae.init)(key))
    terms = jax.jit(elbo_terms, static_argnums=1)(key, vae, params, jnp.ones((4, 4, 1)))
    assert np.all(np.asarray(terms.q.log_var) <= LOG_VAR_RANGE[1])
    assert np.all(np.isfinite(terms.kl_per_dim))
    assert np.isfinite(terms.log_posterior)


def test_the_same_key_gives_the_same_model(key):
    vae = small_vae()
    init = jax.jit(vae.init)
    same = jax.tree.map(np.array_equal, init(key), init(key))
    assert all(jax.tree.leaves(same))
    other = init(jax.random.key(1))
    assert not np.array_equal(jax.tree.leaves(init(key))[1], jax.tree.leaves(other)[1])


def test_a_bundle_that_does_not_fit_is_refused():
    encoder, decoder = mlp((6,), x_shape=(4,), latent_dim=3, theta_dim=1)
    with pytest.raises(ValueError, match="latent_dim 0"):
        make_vae(encoder, decoder, bernoulli(), x_shape=(4,), latent_dim=0)
    with pytest.raises(ValueError, match=r"encoder: mean has shape \(3,\), \(2,\) is needed"):
        make_vae(encoder, decoder, bernoulli(), x_shape=(4,), latent_dim=2)
    with pytest.raises(ValueError, match="decoder: theta has shape"):
        make_vae(encoder, decoder, gaussian(), x_shape=(5,), latent_dim=3)


def test_in_bfloat16_compute_the_networks_alone(key):
    """Weights, gradients and everything in nats are float32, and close to what float32 gives."""
    full, low = small_vae(), small_vae(compute_dtype=jnp.bfloat16)
    params = full.init(key)
    jax.tree.map(np.testing.assert_array_equal, low.init(key), params)
    xs, keys = jax.random.uniform(key, (30, 4, 4, 1)), jax.random.split(key, (30, 1))

    def loss(vae, params):
        terms = batch_elbo_terms(keys, vae, params, xs)
        return jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1) - terms.log_lik), terms

    step = jax.jit(jax.grad(loss, argnums=1, has_aux=True), static_argnums=0)
    gradient, terms = step(low, params)
    expected, exact = step(full, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((gradient, terms))} == {"float32"}
    program = step.lower(low, params).as_text()
    assert set(re.findall(r"dot_general.*-> tensor<[\dx]*x(\w+)>", program)) == {"bf16"}
    # bfloat16 has 8 bits, a relative rounding of 2^-9: terms of 16 pixels of 0.7 nats each.
    assert 0 < np.abs(terms.log_lik - exact.log_lik).max() < 16 * 0.7 * 2**-7
    for one, other in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=0.03 * np.abs(other).max())
