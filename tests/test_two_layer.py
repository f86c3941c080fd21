"""Two stochastic layers, against a linear model of which everything is known, and by hand."""

from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats

from vae_jax.evaluation import (
    active_units,
    annealed_log_likelihood,
    elbo_surgery,
    encode_all,
    estimate_elbo,
    estimate_log_likelihood,
    posterior_mean_variance,
)
from vae_jax.likelihoods import bernoulli, gaussian
from vae_jax.model import VAE, batch_elbo_terms, elbo_terms
from vae_jax.networks import two_layer_mlp
from vae_jax.objectives import OBJECTIVES, beta, elbo, iwae
from vae_jax.preprocess import BINARIZE, as_stored
from vae_jax.train import make_trainer
from vae_jax.two_layer import make_two_layer_vae
from vae_jax.types import Hyper, Params

pytestmark = pytest.mark.usefixtures("compiled_quickly")

DIMS = (3, 2)
IMAGE = (28, 28, 1)


class Linear(NamedTuple):
    """h1 = a + A h2 + s e, x = b + W h1 + sigma * noise, and its true posterior.

    A is diagonal and the columns of W are orthogonal, so that p(h1 | x) and p(h2 | h1) have
    diagonal covariances, which the bundle's networks represent exactly.
    """

    vae: VAE
    params: Params
    wrong: Params  # the posterior means of h1 and h2 shifted
    marginal: oracles.LinearGaussian
    first_mean: np.ndarray  # E[h1 | x] [n 3]
    first_variance: np.ndarray
    second_mean: np.ndarray  # E[h2 | x] [n 2]
    second_variance: np.ndarray
    second_spread: np.ndarray  # Var[E[h2 | h1] | x], the part of it that h1 brings
    xs: jax.Array
    log_p: np.ndarray


def dense(weights: np.ndarray, offset: np.ndarray, log_var: np.ndarray | None = None) -> Params:
    """A linear network: `weights @ input + offset`, and constant log-variances."""
    if log_var is not None:
        weights = np.concatenate([weights, np.zeros_like(weights)])
        offset = np.concatenate([offset, log_var])
    leaves = {"kernel": jnp.asarray(weights.T), "bias": jnp.asarray(offset)}
    return {"params": {"Dense_0": jax.tree.map(lambda leaf: leaf.astype(jnp.float32), leaves)}}


@pytest.fixture(scope="module")
def linear() -> Linear:
    rng = np.random.default_rng(0)
    a, s, sigma = rng.normal(size=3), 0.7, 0.5
    A = np.eye(3, 2) * [1.5, 0.8]
    lower = oracles.random_model(rng, x_dim=5, latent_dim=3)
    W, b = lower.weights, lower.offset
    # p(h1) = N(a, diag(variance)): the layer above is integrated out.
    variance = np.diag(A @ A.T) + s**2
    marginal = oracles.LinearGaussian(W * np.sqrt(variance), W @ a + b, sigma)
    xs = oracles.sample(marginal, rng, 30)

    precision = 1 / variance + np.sum(W**2, axis=0) / sigma**2
    to_first = W.T / sigma**2 / precision[:, None]
    first_offset = a / variance / precision - to_first @ b
    upper_precision = 1 + np.sum(A**2, axis=0) / s**2
    to_second = A.T / s**2 / upper_precision[:, None]
    first_mean = xs @ to_first.T + first_offset
    encoder = {
        "first": dense(to_first, first_offset, -np.log(precision)),
        "second": dense(to_second, -to_second @ a, -np.log(upper_precision)),
    }
    shifted = {
        "first": dense(to_first, first_offset + 0.15, -np.log(precision)),
        "second": dense(to_second, 0.3 - to_second @ a, -np.log(upper_precision)),
    }
    decoder = {"second": dense(A, a, np.full(3, 2 * np.log(s))), "first": dense(W, b)}

    networks = two_layer_mlp(((), ()), x_shape=(5,), latent_dims=DIMS, theta_dim=1)
    return Linear(
        vae=make_two_layer_vae(*networks, gaussian(sigma), x_shape=(5,), latent_dims=DIMS),
        params={"encoder": encoder, "decoder": decoder},
        wrong={"encoder": shifted, "decoder": decoder},
        marginal=marginal,
        first_mean=first_mean,
        first_variance=1 / precision,
        second_mean=(first_mean - a) @ to_second.T,
        second_variance=1 / upper_precision + np.square(to_second) @ (1 / precision),
        second_spread=np.square(to_second) @ (1 / precision),
        xs=jnp.asarray(xs, jnp.float32),
        log_p=oracles.log_marginal(marginal, xs),
    )


@cache
def tanh_vae(x_shape: tuple[int, ...] = (6,), hidden=((8,), (5, 4))) -> VAE:
    networks = two_layer_mlp(hidden, x_shape=x_shape, latent_dims=DIMS, theta_dim=1)
    return make_two_layer_vae(*networks, bernoulli(), x_shape=x_shape, latent_dims=DIMS)


def spread(key: jax.Array, params: Params) -> Params:
    """Parameters that leave nothing at zero: the networks of a model that was trained."""
    flat, rebuild = jax.flatten_util.ravel_pytree(params)
    return rebuild(flat + 0.3 * jax.random.normal(key, flat.shape, flat.dtype))


# ---- the linear model ----


def test_with_the_true_posterior_every_sample_gives_log_p(linear, key):
    terms = batch_elbo_terms(
        jax.random.split(key, (len(linear.xs), 7)), linear.vae, linear.params, linear.xs
    )
    ratios = terms.log_lik + terms.log_prior - terms.log_posterior
    # log p(x, z) - log q(z | x) is log p(x) for every z: only float32 is left.
    np.testing.assert_allclose(
        ratios, np.broadcast_to(linear.log_p[:, None], ratios.shape), atol=4e-5
    )


def test_with_the_true_posterior_the_elbo_is_log_p(linear, key):
    """So the KL per dimension, of which half is sampled, adds up to that of the joint."""
    k = 4000
    keys = jax.random.split(key, (len(linear.xs), k))
    terms = batch_elbo_terms(keys, linear.vae, linear.params, linear.xs)
    elbos = np.asarray(terms.log_lik - terms.kl_per_dim.sum(axis=-1))
    error = elbos.std(axis=1) / np.sqrt(k)
    assert np.all(error < 0.05)
    assert np.all(abs(elbos.mean(axis=1) - linear.log_p) < 4.5 * error)


def test_with_a_wrong_posterior_the_bound_rises_with_the_samples(linear, key):
    repeats = 400

    @jax.jit
    def bounds_of(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, (len(linear.xs), 64))
        terms = batch_elbo_terms(keys, linear.vae, linear.wrong, linear.xs)

        def first(k: int) -> jax.Array:
            some = jax.tree.map(lambda leaf: leaf[:, :k], terms)
            return iwae(k).bound(some, Hyper(), 0)[0]

        return jnp.stack([first(k) for k in (1, 4, 16, 64)])

    bounds = np.asarray(jax.lax.map(bounds_of, jax.random.split(key, repeats)))
    gaps = np.diff([*bounds.mean(axis=0), linear.log_p.mean()])
    # Strictly below log p(x), and closer with every step, by more than the noise.
    assert np.all(gaps > 4 * bounds.std(axis=0) / np.sqrt(repeats)), gaps


def test_with_a_wrong_posterior_many_samples_give_log_p(linear, key):
    k = 2000
    found = estimate_log_likelihood(
        key, linear.vae, as_stored, linear.wrong, linear.xs, num_samples=k
    )
    effective = np.asarray(found.effective_samples)
    assert np.all((effective > 100) & (effective < k - 1))
    # By the delta method the variance of log mean w is 1 / effective - 1 / K.
    error = np.sqrt(1 / effective - 1 / k)
    assert np.all(abs(found.log_likelihood - linear.log_p) < 4.5 * error)


def test_annealing_reaches_log_p_from_the_prior(linear, key):
    def estimate(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = annealed_log_likelihood(
            key, linear.vae, linear.params, x, num_temperatures=100, num_chains=16
        )
        return found.log_likelihood, found.effective_samples

    found, effective = jax.jit(jax.vmap(estimate))(linear.xs[:4])
    error = np.sqrt(1 / effective - 1 / 16)
    assert np.all(error < 0.2)
    # The delta method again; its bias is -error^2 / 2.
    assert np.all(abs(found - linear.log_p[:4]) < 4.5 * error)


def test_decoded_noise_is_the_ancestral_sample(linear, key):
    n = 20_000
    zs = jax.random.normal(key, (n, linear.vae.latent_dim))
    means = jax.vmap(linear.vae.decode, (None, 0))(linear.params, zs)[..., 0]
    covariance = linear.marginal.weights @ linear.marginal.weights.T
    variance = np.diag(covariance)
    np.testing.assert_array_less(
        abs(np.mean(means, axis=0) - linear.marginal.offset), 4.5 * np.sqrt(variance / n)
    )
    # Var[s_ij] = (c_ij^2 + c_ii c_jj) / n of normal data.
    error = np.sqrt((covariance**2 + np.outer(variance, variance)) / n)
    np.testing.assert_array_less(abs(np.cov(means.T) - covariance), 4.5 * error)


def test_the_moments_of_both_layers_are_the_posteriors_own(linear, key):
    found = encode_all(key, linear.vae, as_stored, linear.params, linear.xs, batch_size=7)
    first, second = slice(None, 3), slice(3, None)
    np.testing.assert_allclose(found.mean[:, first], linear.first_mean, rtol=1e-4, atol=1e-5)
    expected = np.broadcast_to(linear.first_variance, (30, 3))
    np.testing.assert_allclose(found.variance[:, first], expected, rtol=1e-5)
    # Of 256 samples of h1: the standard errors of a mean and of a variance of normal numbers.
    error = np.broadcast_to(np.sqrt(linear.second_spread / 256), (30, 2))
    np.testing.assert_array_less(abs(found.mean[:, second] - linear.second_mean), 4.5 * error)
    error = np.broadcast_to(linear.second_spread * np.sqrt(2 / 256), (30, 2))
    expected = np.broadcast_to(linear.second_variance, (30, 2))
    np.testing.assert_array_less(abs(found.variance[:, second] - expected), 4.5 * error)
    assert int(active_units(found)) == 5
    expected = np.var(linear.first_mean, axis=0)
    np.testing.assert_allclose(posterior_mean_variance(found)[first], expected, rtol=1e-4)


# ---- any model ----


def test_the_log_weights_are_those_of_the_units_themselves(key):
    """In float64 and in the coordinates of the paper, from a sample of z."""
    key_params, key_x, key_z = jax.random.split(key, 3)
    vae = tanh_vae()
    params = spread(key_params, vae.init(key))
    x = jax.random.bernoulli(key_x, 0.5, (6,)).astype(jnp.float32)
    terms = jax.jit(jax.vmap(lambda key: elbo_terms(key, vae, params, x)))(
        jax.random.split(key_z, 50)
    )

    encoder, upper_encoder, upper_decoder, decoder = two_layer_mlp(
        ((8,), (5, 4)), x_shape=(6,), latent_dims=DIMS, theta_dim=1
    )

    def normal(network, params, inputs) -> tuple[np.ndarray, np.ndarray]:
        out = np.asarray(jax.vmap(network.apply, (None, 0))(params, inputs), np.float64)
        mean, log_var = np.split(out, 2, axis=1)
        return mean, np.exp(log_var / 2)

    e, h2 = np.asarray(terms.z, np.float64)[:, :3], terms.z[:, 3:]
    mean, scale = normal(upper_decoder, params["decoder"]["second"], h2)
    h1 = mean + scale * e
    log_first_prior = stats.norm.logpdf(h1, mean, scale)
    log_first = stats.norm.logpdf(h1, *normal(encoder, params["encoder"]["first"], x[None]))
    upper = normal(upper_encoder, params["encoder"]["second"], jnp.asarray(h1, jnp.float32))
    log_second = stats.norm.logpdf(h2, *upper)
    theta = jax.vmap(decoder.apply, (None, 0))(
        params["decoder"]["first"], jnp.asarray(h1, jnp.float32)
    )
    log_lik = stats.bernoulli.logpmf(np.asarray(x), 1 / (1 + np.exp(-np.asarray(theta)[..., 0])))
    expected = (
        log_lik.sum(axis=1)
        + log_first_prior.sum(axis=1)
        + stats.norm.logpdf(h2).sum(axis=1)
        - log_first.sum(axis=1)
        - log_second.sum(axis=1)
    )
    found = terms.log_lik + terms.log_prior - terms.log_posterior
    # Some tens of nats in float32, of which the squares of e are the largest part.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(
        terms.kl_per_dim[:, :3], log_first - log_first_prior, rtol=1e-5, atol=5e-5
    )
    m, v = upper[0], upper[1] ** 2
    np.testing.assert_allclose(terms.kl_per_dim[:, 3:], (m**2 + v - 1 - np.log(v)) / 2, atol=1e-5)


@pytest.mark.parametrize("objective", [elbo(2), beta(1), iwae(5)], ids=["elbo", "beta", "iwae"])
def test_gradients_match_finite_differences(objective, key):
    with jax.enable_x64(True):
        vae = tanh_vae()
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), vae.init(key))
        flat, rebuild = jax.flatten_util.ravel_pytree(spread(key, params))
        xs = jax.random.bernoulli(key, 0.5, (4, 6)).astype(jnp.float64)
        keys = jax.random.split(key, (4, objective.num_samples))

        @jax.jit
        def bound(flat: jax.Array) -> jax.Array:
            terms = batch_elbo_terms(keys, vae, rebuild(flat), xs)
            return objective.bound(terms, Hyper(beta=3.0), 0)[0]

        gradient = jax.grad(bound)(flat)
        # Central differences are off by step^2 times the third derivative.
        step = 1e-5
        for direction in jax.random.normal(jax.random.key(1), (5, flat.size)):
            slope = (bound(flat + step * direction) - bound(flat - step * direction)) / (2 * step)
            np.testing.assert_allclose(gradient @ direction, slope, rtol=1e-6)


def test_the_elbo_of_a_data_set_averages_all_samples(key):
    """Unlike the exact KL of one layer, which is alike for all."""
    vae = tanh_vae()
    params = spread(key, vae.init(key))
    xs = jax.random.bernoulli(key, 0.5, (5, 6)).astype(jnp.float32)
    found = estimate_elbo(key, vae, as_stored, params, xs, batch_size=3, num_samples=4)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i), 5))(jnp.arange(5))
    terms = batch_elbo_terms(keys[:, 1:], vae, params, xs)
    assert float(jnp.std(terms.kl_per_dim[..., 0], axis=1).min()) > 1e-3
    np.testing.assert_allclose(found.kl_per_dim, terms.kl_per_dim.mean(axis=(0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found.log_lik, terms.log_lik.mean(), rtol=1e-5)


@pytest.mark.parametrize("objective", [elbo(1), iwae(5)], ids=["elbo", "iwae"])
def test_training_raises_the_bound(objective, digits):
    images = jnp.asarray(digits[:200])
    vae = tanh_vae(IMAGE, ((32,), (8,)))
    trainer = make_trainer(vae, objective, batch_size=20, preprocess=BINARIZE["threshold"])
    settings = Hyper(learning_rate=1e-2)
    state = trainer.init(jax.random.key(0), settings)
    losses, logs = [], []
    for _ in range(15):
        state, metrics = trainer.epoch(state, settings, images)
        losses.append(float(metrics["loss"]))
        logs.append(float(metrics["max_log_var"]))
    # From ln 2 a pixel, 543 nats, to below the best that ignores x: the entropy of each pixel.
    share = np.mean(np.asarray(images) > 127, axis=0)
    entropy = float(np.sum(stats.bernoulli.entropy(share)))
    assert losses[-1] < entropy < losses[0]
    assert bool(state.alive)
    assert np.all(np.isfinite(logs))


@pytest.mark.parametrize("name", ["dreg", "beta_tc"])
def test_objectives_that_need_the_density_of_q_elsewhere_are_refused(name):
    trainer = make_trainer(tanh_vae(), OBJECTIVES[name](2), batch_size=4, preprocess=as_stored)
    state = trainer.init(jax.random.key(0), Hyper())
    with pytest.raises(ValueError, match="dreg and beta_tc need: one stochastic layer is needed"):
        trainer.epoch(state, Hyper(), jnp.zeros((8, 6)))


def test_what_takes_the_encoder_for_the_whole_posterior_is_refused(key):
    vae = tanh_vae()
    params, xs = vae.init(key), jnp.zeros((4, 6))
    posteriors = encode_all(key, vae, as_stored, params, xs)
    with pytest.raises(ValueError, match="posteriors of two stochastic layers"):
        elbo_surgery(key, posteriors)


@pytest.mark.parametrize("latent_dims", [(3,), (3, 2, 1), (0, 2), (3, 0)])
def test_latent_sizes_other_than_two_are_refused(latent_dims):
    networks = two_layer_mlp(((8,), (5,)), x_shape=(6,), latent_dims=DIMS, theta_dim=1)
    with pytest.raises(ValueError, match="two of at least 1 are needed"):
        make_two_layer_vae(*networks, bernoulli(), x_shape=(6,), latent_dims=latent_dims)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"hidden": ((8,),)}, r"hidden \(\(8,\),\): one for each of two layers is needed"),
        ({"latent_dims": (3, 2, 1)}, r"latent_dims \(3, 2, 1\): one for each of two layers"),
    ],
)
def test_networks_of_other_than_two_layers_are_refused(settings, line):
    sizes: dict[str, Any] = {"hidden": ((8,), (5,)), "latent_dims": DIMS} | settings
    with pytest.raises(ValueError, match=line):
        two_layer_mlp(**sizes, x_shape=(6,), theta_dim=1)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (0, r"first encoder: an output of shape \(8,\), \(6,\) is needed"),
        (1, r"second encoder: an output of shape \(6,\), \(4,\) is needed"),
        (2, r"second decoder: an output of shape \(8,\), \(6,\) is needed"),
        (3, r"first decoder: an output of shape \(7, 1\), \(6, 1\) is needed"),
    ],
)
def test_networks_that_do_not_fit_are_refused(place, message):
    build = partial(two_layer_mlp, ((8,), (5,)), theta_dim=1)
    fitting, other = build(x_shape=(6,), latent_dims=DIMS), build(x_shape=(7,), latent_dims=(4, 3))
    a, b, c, d = (other[i] if i == place else fitting[i] for i in range(4))
    with pytest.raises(ValueError, match=message):
        make_two_layer_vae(a, b, c, d, bernoulli(), x_shape=(6,), latent_dims=DIMS)
