"""Rate and distortion of a sweep, on a model whose frontier is known in closed form."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax.evaluation import estimate_elbo, rate_distortion
from vae_jax.model import VAE
from vae_jax.preprocess import as_stored
from vae_jax.types import Normal

pytestmark = pytest.mark.usefixtures("compiled_quickly")

BETAS = np.array([4.0, 0.25, 1.0, 2.0, 0.5])


def tempered(model: oracles.LinearGaussian, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Of the posterior that maximises E[log p(x | z)] - beta KL: the gain of its mean, and its
    variances. It is the true one of a model with beta times the noise variance."""
    squares = np.sum(model.weights**2, axis=0)
    precision = squares / (beta * model.scale**2) + 1
    return model.weights.T / (beta * model.scale**2) / precision[:, None], 1 / precision


def exact(model: oracles.LinearGaussian, xs: np.ndarray, beta: float) -> tuple[float, float]:
    """Its rate, and the mean of E[log p(x | z)]."""
    gain, variance = tempered(model, beta)
    centred = xs - model.offset
    mean = centred @ gain.T
    rate = 0.5 * np.sum(mean**2 + variance - 1 - np.log(variance), axis=1)
    squared = np.sum((centred - mean @ model.weights.T) ** 2, axis=1)
    squared = squared + np.sum(np.sum(model.weights**2, axis=0) * variance)
    log_lik = -0.5 * (squared / model.scale**2 + 5 * np.log(2 * np.pi * model.scale**2))
    return float(rate.mean()), float(log_lik.mean())


def test_the_frontier_of_the_oracle_is_the_lower_convex_hull():
    rng = np.random.default_rng(0)
    model = oracles.random_model(rng)
    xs = oracles.sample(model, rng, 200)
    stored = jnp.asarray(xs, jnp.float32)

    def vae_of(beta: float) -> VAE:
        gain, variance = (jnp.asarray(a, jnp.float32) for a in tempered(model, beta))

        def encode(params, x):
            return Normal(gain @ (x - jnp.asarray(model.offset)), jnp.log(variance))

        return oracles.as_vae(model)._replace(encode=encode)

    repeats = 8
    rates, log_liks = np.empty((len(BETAS), repeats)), np.empty((len(BETAS), repeats))
    for i, beta in enumerate(BETAS):
        vae = vae_of(beta)
        for j in range(repeats):
            found = estimate_elbo(jax.random.key(j), vae, as_stored, {}, stored, num_samples=4)
            rates[i, j], log_liks[i, j] = found.kl, found.log_lik
    found = rate_distortion(BETAS, rates, log_liks)

    assert found.values.tolist() == sorted(BETAS)
    known = np.array([exact(model, xs, beta) for beta in found.values])
    np.testing.assert_allclose(found.rate, known[:, 0], rtol=1e-5)
    # The KL is exact; a distortion is off by its own standard error over eight keys.
    assert np.all(abs(found.distortion + known[:, 1]) < 5 * found.distortion_error)
    expected = np.std(log_liks[np.argsort(BETAS)], axis=1, ddof=1) / np.sqrt(repeats)
    np.testing.assert_allclose(found.distortion_error, expected)
    assert np.all(found.rate_error < 1e-5)

    # Without the noise: every posterior is the best for its own beta, and the ELBO's for 1.
    frontier = rate_distortion(found.values, known[:, :1], known[:, 1:])
    assert frontier.on_hull.all()
    assert np.all(frontier.best_from <= frontier.values)
    assert np.all(frontier.values <= frontier.best_to)
    (elbo_best,) = np.flatnonzero((frontier.best_from <= 1) & (frontier.best_to >= 1))
    assert frontier.values[elbo_best] == 1
    # Between two settings one interval ends where the other begins.
    np.testing.assert_allclose(frontier.best_to[:-1], frontier.best_from[1:], rtol=1e-9)
    assert frontier.best_from[0] == 0
    assert frontier.best_to[-1] == np.inf
    assert np.all(np.isnan(frontier.rate_error))  # of one repetition there is none


def test_what_another_setting_beats_is_off_the_hull():
    rates = np.array([[0.0], [1.0], [2.0], [2.0], [3.0], [np.nan]])
    log_liks = -np.array([[10.0], [6.0], [5.9], [4.0], [4.5], [0.0]])
    found = rate_distortion(np.arange(6.0), rates, log_liks)
    # The third costs more than the fourth at the same rate, the fifth more at a higher one.
    assert found.on_hull.tolist() == [True, True, False, True, False, False]
    assert found.best_from[found.on_hull].tolist() == [4, 2, 0]
    assert found.best_to[found.on_hull].tolist() == [np.inf, 4, 2]
    assert np.isnan(found.rate[5])
    alike = rate_distortion(np.array([1.0, 2.0]), np.zeros((2, 1)), np.full((2, 1), -9.0))
    assert alike.on_hull.tolist() == [True, True]  # two that collapsed are as good


def test_a_model_that_misses_either_number_is_left_out():
    rates = np.array([[1.0, 3.0, np.nan]])
    log_liks = np.array([[-5.0, np.inf, -7.0]])
    found = rate_distortion(np.array([1.0]), rates, log_liks)
    assert (found.rate[0], found.distortion[0]) == (1, 5)
    assert np.isnan(found.rate_error[0])


@pytest.mark.parametrize(
    ("values", "rates", "log_liks", "says"),
    [
        ([1.0, 1.0], (2, 1), (2, 1), "values [1.0, 1.0]: finite and different ones are needed"),
        ([np.nan], (1, 1), (1, 1), "values [nan]: finite and different ones are needed"),
        ([1.0], (2, 1), (2, 1), "values (1,), rates (2, 1), log-likelihoods (2, 1)"),
        ([1.0], (1, 2), (1, 3), "values (1,), rates (1, 2), log-likelihoods (1, 3)"),
        ([1.0], (1,), (1,), "values (1,), rates (1,), log-likelihoods (1,)"),
    ],
)
def test_what_is_no_sweep_is_refused(values, rates, log_liks, says):
    unchecked = inspect.unwrap(rate_distortion)  # as outside of tests, where no types are checked
    with pytest.raises(ValueError, match=f"^{re.escape(says)}$"):
        unchecked(np.array(values), np.zeros(rates), np.zeros(log_liks))
