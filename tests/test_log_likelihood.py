"""The importance-weighted estimate, on a model whose log p(x) is known in closed form."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax.evaluation import (
    Importance,
    average_log_likelihood,
    estimate_log_likelihood,
    log_likelihood,
    memory,
    posterior_predictive,
)
from vae_jax.gaussian import log_density, reparameterize, standard_log_density
from vae_jax.likelihoods import missing_at_nan
from vae_jax.model import VAE
from vae_jax.preprocess import as_stored

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Linear(NamedTuple):
    model: oracles.LinearGaussian
    xs: jax.Array
    log_p: np.ndarray


@pytest.fixture(scope="module")
def linear() -> Linear:
    rng = np.random.default_rng(0)
    model = oracles.random_model(rng)
    xs = oracles.sample(model, rng, 40)
    return Linear(model, jnp.asarray(xs, jnp.float32), oracles.log_marginal(model, xs))


def estimates(key: jax.Array, vae: VAE, xs: jax.Array, num_samples: int):
    def one(x: jax.Array):
        return log_likelihood(key, vae, {}, x, num_samples)

    return jax.jit(jax.vmap(one))(xs)


# One batch, a full one, and more with a remainder.
@pytest.mark.parametrize("num_samples", [1, 2, 128, 129, 300])
def test_with_the_true_posterior_every_k_gives_log_p(linear, key, num_samples):
    found = estimates(key, oracles.as_vae(linear.model), linear.xs, num_samples)
    np.testing.assert_allclose(found.log_likelihood, linear.log_p, atol=2e-5)
    # All weights are alike.
    np.testing.assert_allclose(found.effective_samples, num_samples, rtol=1e-4)


def test_in_float64_it_has_the_digits_of_float64(linear, key):
    with jax.enable_x64(True):
        found = estimates(key, oracles.as_vae(linear.model), jnp.asarray(linear.xs, float), 3)
        assert found.log_likelihood.dtype == np.float64
        log_p = oracles.log_marginal(linear.model, np.asarray(linear.xs, float))
        np.testing.assert_allclose(found.log_likelihood, log_p, rtol=1e-10)


def test_with_a_wrong_posterior_the_estimate_rises_to_log_p(linear, key):
    vae, repeats = oracles.as_vae(linear.model, posterior_shift=0.4), 4000

    @jax.jit
    def bound(keys: jax.Array) -> jax.Array:
        def of_rows(key: jax.Array) -> list[jax.Array]:
            def one(x: jax.Array) -> list[jax.Array]:
                return [log_likelihood(key, vae, {}, x, k).log_likelihood for k in (1, 4, 16)]

            return [jnp.mean(values) for values in jax.vmap(one)(linear.xs)]

        return jnp.stack(jax.vmap(of_rows)(keys))

    bounds = np.asarray(bound(jax.random.split(key, repeats)))
    gaps = np.diff([*bounds.mean(axis=1), linear.log_p.mean()])
    errors = bounds.std(axis=1) / np.sqrt(repeats)
    # Below log p(x), and closer with every step, by more than the noise.
    assert np.all(gaps > 4 * errors), (gaps, errors)


def test_with_a_wrong_posterior_many_samples_give_log_p(linear, key):
    k = 5000
    found = estimates(key, oracles.as_vae(linear.model, posterior_shift=0.4), linear.xs, k)
    effective = np.asarray(found.effective_samples)
    assert np.all(effective > 1)
    assert np.all(effective < k)
    # The bias, half the square of the standard error, is far below it.
    assert np.all(abs(found.log_likelihood - linear.log_p) < 4 * found.standard_error)


def test_the_standard_error_is_the_spread_over_keys(linear):
    vae, k, repeats = oracles.as_vae(linear.model, posterior_shift=0.15), 400, 600
    x = linear.xs[:1]  # a shifted posterior has the same weights for every row
    keys = jax.random.split(jax.random.key(5), repeats)
    found = jax.jit(jax.vmap(lambda key: estimates(key, vae, x, k)))(keys)
    spread = np.std(np.asarray(found.log_likelihood), ddof=1)
    said = np.sqrt(np.mean(np.asarray(found.standard_error) ** 2))
    assert np.asarray(found.effective_samples).min() > 100
    assert np.asarray(found.effective_samples).max() < 390  # the weights do differ
    # A standard deviation of n normal numbers has the relative standard error 1 / sqrt(2 n); the
    # next terms of the delta method are of the order of 1 / effective.
    np.testing.assert_allclose(said, spread, rtol=4 / np.sqrt(2 * repeats) + 0.01)


def test_one_sample_tells_nothing_of_its_error(linear, key):
    one = estimates(key, oracles.as_vae(linear.model, 0.4), linear.xs, 1)
    assert np.all(np.isnan(one.standard_error))
    # Weights that are all alike have none.
    alike = estimates(key, oracles.as_vae(linear.model), linear.xs, 16)
    assert np.all(np.asarray(alike.standard_error) < 1e-2)


def test_a_worse_posterior_has_fewer_effective_samples(linear, key):
    shifts = (0.0, 0.4, 2.0)
    effective = [
        estimates(key, oracles.as_vae(linear.model, shift), linear.xs, 256).effective_samples.mean()
        for shift in shifts
    ]
    assert effective[0] > effective[1] > effective[2] >= 1


def by_hand(key: jax.Array, vae: VAE, x: jax.Array, num_samples: int):
    """Log-weights and decoded means of all samples at once."""

    def weigh(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        q = vae.encode({}, x)
        z = reparameterize(jax.random.fold_in(key, i), q)
        theta = vae.decode({}, z)
        log_w = vae.likelihood.log_prob(theta, x) + standard_log_density(z) - log_density(q, z)
        return log_w, vae.likelihood.mean(theta)

    return jax.jit(jax.vmap(weigh))(jnp.arange(num_samples))


@pytest.mark.parametrize("num_samples", [5, 300])
def test_streamed_samples_are_those_of_one_batch(linear, key, num_samples):
    vae, x = oracles.as_vae(linear.model, posterior_shift=0.4), linear.xs[3]
    log_w, means = by_hand(key, vae, x, num_samples)
    log_w = np.asarray(log_w, np.float64)
    w = np.exp(log_w - log_w.max())
    found = log_likelihood(key, vae, {}, x, num_samples)
    expected = np.log(w.mean()) + log_w.max()
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(found.effective_samples, w.sum() ** 2 / (w**2).sum(), rtol=1e-4)
    mean = posterior_predictive(key, vae, {}, x, num_samples)
    np.testing.assert_allclose(mean, w @ np.asarray(means) / w.sum(), rtol=1e-4, atol=1e-5)


def test_more_samples_begin_with_the_same(linear, key):
    # So that scores with other numbers of samples differ by no more than the new ones.
    vae, x = oracles.as_vae(linear.model, posterior_shift=0.4), linear.xs[3]
    log_w, _ = by_hand(key, vae, x, 300)
    for k in (1, 128, 300):
        found = log_likelihood(key, vae, {}, x, k).log_likelihood
        expected = jax.nn.logsumexp(log_w[:k]) - np.log(k)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("missing", [[], [0], [1, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4]])
def test_the_posterior_predictive_is_the_conditional_mean(linear, key, missing):
    model, k = linear.model, 20_000
    x = np.asarray(linear.xs[3]).copy()
    x[missing] = np.nan
    vae = oracles.as_vae(model)
    # The prior is a posterior for every pattern, if a poor one: the weights do the rest.
    vae = vae._replace(
        likelihood=missing_at_nan(vae.likelihood),
        encode=lambda params, x: oracles.Normal(jnp.zeros(2), jnp.zeros(2)),
    )
    log_w, means = map(np.asarray, by_hand(key, vae, jnp.asarray(x), k))
    expected = oracles.conditional_mean(model, x)
    share = np.exp(log_w - log_w.max())
    share /= share.sum()
    found = posterior_predictive(key, vae, {}, jnp.asarray(x), k)
    # The standard error of a self-normalised estimate (Owen, Monte Carlo, equation 9.9).
    error = np.sqrt(np.sum((share[:, None] * (means - expected)) ** 2, axis=0))
    assert np.all(error < 0.05)
    assert np.all(abs(found - expected) < 4 * error), (found, expected, error)


def test_missing_values_leave_the_marginal_of_the_others(linear, key):
    model, k = linear.model, 20_000
    x = np.asarray(linear.xs[5]).copy()
    x[[1, 2]] = np.nan
    seen = ~np.isnan(x)
    vae = oracles.as_vae(model)
    vae = vae._replace(
        likelihood=missing_at_nan(vae.likelihood),
        encode=lambda params, x: oracles.Normal(jnp.zeros(2), jnp.zeros(2)),
    )
    found = log_likelihood(key, vae, {}, jnp.asarray(x), k)
    part = model._replace(weights=model.weights[seen], offset=model.offset[seen])
    expected = oracles.log_marginal(part, x[None, seen])[0]
    error = np.sqrt(1 / found.effective_samples)
    assert error < 0.05
    assert abs(found.log_likelihood - expected) < 4 * error


@pytest.mark.parametrize("estimate", [log_likelihood, posterior_predictive])
@pytest.mark.parametrize("num_samples", [0, -1])
def test_no_sample_is_refused(linear, key, estimate, num_samples):
    with pytest.raises(ValueError, match=f"num_samples {num_samples}: at least 1"):
        estimate(key, oracles.as_vae(linear.model), {}, linear.xs[0], num_samples)


def test_weights_that_all_underflow_give_no_nan(linear, key):
    # At 1e20 the squares overflow float32: log p(x) is -inf, of every sample.
    found = log_likelihood(key, oracles.as_vae(linear.model), {}, jnp.full(5, 1e20), 300)
    assert found.log_likelihood == -jnp.inf
    mean = posterior_predictive(key, oracles.as_vae(linear.model), {}, jnp.full(5, 1e20), 300)
    assert jnp.all(jnp.isfinite(mean))


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_an_estimate_of_a_data_set_depends_on_no_batch(linear, key, batch_size):
    """Whole, in other batches, or in parts: every row has its own samples."""
    vae = oracles.as_vae(linear.model, posterior_shift=0.4)

    def of(rows: jax.Array, **settings: int) -> np.ndarray:
        found = estimate_log_likelihood(key, vae, as_stored, {}, rows, num_samples=10, **settings)
        return np.asarray(found.log_likelihood)

    whole = of(linear.xs, batch_size=batch_size)
    parts = [of(linear.xs[:15]), of(linear.xs[15:], first=15)]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-5)
    # Rows do not share their noise.
    twice = of(jnp.stack([linear.xs[0]] * 2))
    assert abs(twice[0] - twice[1]) > 1e-3


def test_the_mean_of_many_rows_is_off_by_its_standard_error(linear, key):
    vae = oracles.as_vae(linear.model, posterior_shift=0.2)
    found = estimate_log_likelihood(key, vae, as_stored, {}, linear.xs, num_samples=2000)
    average = average_log_likelihood(found)
    assert abs(average.mean - linear.log_p.mean()) < 5 * average.sampling_error
    assert np.asarray(found.effective_samples).min() > 100
    # The rows differ by far more than the noise of their estimates.
    assert average.standard_error > 10 * average.sampling_error
    expected = linear.log_p.std(ddof=1) / np.sqrt(len(linear.log_p))
    np.testing.assert_allclose(average.standard_error, expected, rtol=0.01)


def test_the_average_of_one_row_has_no_error_and_of_none_is_refused(linear, key):
    vae = oracles.as_vae(linear.model, posterior_shift=0.2)
    found = estimate_log_likelihood(key, vae, as_stored, {}, linear.xs[:1], num_samples=50)
    average = average_log_likelihood(found)
    assert np.isnan(average.standard_error)
    assert average.sampling_error == found.standard_error[0]
    none = Importance(jnp.zeros(0), jnp.zeros(0), jnp.zeros(0))
    with pytest.raises(ValueError, match=r"estimates of shape \(0,\): \[n\] with n at least 1"):
        average_log_likelihood(none)


def test_an_estimate_of_no_data_is_refused(linear, key):
    vae = oracles.as_vae(linear.model)
    with pytest.raises(ValueError, match="0 examples: at least 1 is needed"):
        estimate_log_likelihood(key, vae, as_stored, {}, linear.xs[:0], num_samples=1)
    with pytest.raises(ValueError, match="batch_size 0: at least 1 is needed"):
        estimate_log_likelihood(key, vae, as_stored, {}, linear.xs, num_samples=1, batch_size=0)
    with pytest.raises(ValueError, match="num_samples 0: at least 1 is needed"):
        estimate_log_likelihood(key, vae, as_stored, {}, linear.xs, num_samples=0)


def test_what_is_computed_at_once_fits_the_memory(linear):
    """Theta has 5 numbers of 4 bytes."""
    vae, x = oracles.as_vae(linear.model), linear.xs[0]
    for limit, samples, examples in ((2**25, 150, 32), (3 * 150 * 20, 150, 3), (7 * 20, 7, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "MEMORY", limit)
            assert memory.samples_at_once(vae, {}, x, 300) == samples
            assert memory.examples_at_once(vae, {}, x, 300) == examples
    assert memory.samples_at_once(vae, {}, x, 9) == 9
    # As few turns as 256 at once would take, and nothing decoded that is not counted.
    assert memory.samples_at_once(vae, {}, x, 5000) == 250
    # 32 MiB are 11,184 examples of 150 samples, and half as many of two copies.
    assert memory.examples_at_once(vae, {}, x, 300, most=10**6) == 11184
    assert memory.examples_at_once(vae, {}, x, 300, most=10**6, copies=2) == 5592


def test_a_chunk_of_bounded_memory_changes_no_estimate(linear, key, monkeypatch):
    """The limit is 32 MiB; here theta has 5 numbers, so the limit comes down to them."""
    vae, k = oracles.as_vae(linear.model, posterior_shift=0.4), 300

    def of_all() -> Importance:
        jax.clear_caches()  # the limit is read as the program is traced
        return estimate_log_likelihood(key, vae, as_stored, {}, linear.xs, num_samples=k)

    whole = of_all()
    assert memory.theta_bytes(vae, {}, linear.xs[0]) == 5 * 4
    # 150 samples of two examples, then seven samples of one, then one that is over the limit.
    for limit in (2 * 150 * 20, 7 * 20, 3):
        monkeypatch.setattr(memory, "MEMORY", limit)
        found = of_all()
        for ours, expected in zip(found, whole, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_memory_grows_with_the_samples_by_their_keys_only(linear, key):
    """Ten times the samples, of the 32 examples that are computed at once."""
    vae = oracles.as_vae(linear.model)

    def temporary(num_samples: int) -> int:
        settings = {"num_samples": num_samples, "batch_size": 32}
        lowered = estimate_log_likelihood.lower(key, vae, as_stored, {}, linear.xs, **settings)
        memory_of: Any = lowered.compile().memory_analysis()
        return memory_of.temp_size_in_bytes

    # Of a sample a key of 8 bytes, as it is made and as the turns read it, its number of 4 and
    # whether it counts, 1. Theta of 5 numbers, if it were kept, would take 20 on top.
    assert temporary(5120) - temporary(512) <= (5120 - 512) * 32 * (2 * 8 + 4 + 1)
