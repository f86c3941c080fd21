"""Annealed importance sampling, on models whose log p(x) is known."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from vae_jax.evaluation import log_likelihood
from vae_jax.evaluation.annealed import (
    Annealed,
    Point,
    annealed_log_likelihood,
    annealed_upper_bound,
    hamiltonian_move,
    temperature_schedule,
)
from vae_jax.gaussian import reparameterize
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.types import Normal

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Linear(NamedTuple):
    model: oracles.LinearGaussian
    zs: jax.Array
    xs: jax.Array
    log_p: np.ndarray
    keys: jax.Array


@pytest.fixture(scope="module")
def linear() -> Linear:
    """Data with the z that made them: exact samples of their posteriors."""
    rng, n = np.random.default_rng(0), 400
    model = oracles.random_model(rng)
    zs = rng.normal(size=(n, 2))
    xs = zs @ model.weights.T + model.offset + model.scale * rng.normal(size=(n, 5))
    return Linear(
        model,
        jnp.asarray(zs, jnp.float32),
        jnp.asarray(xs, jnp.float32),
        oracles.log_marginal(model, xs),
        jax.random.split(jax.random.key(1), n),
    )


@pytest.fixture(scope="module")
def bounds(linear):
    """Both bounds of all data with n temperatures and 4 chains."""
    vae = oracles.as_vae(linear.model)

    @cache
    def of(n: int) -> tuple[Annealed, Annealed]:
        def of_one(key: jax.Array, x: jax.Array, z: jax.Array) -> tuple[Annealed, Annealed]:
            key_below, key_above = jax.random.split(key)
            options = {"num_chains": 4, "num_temperatures": n}
            below = annealed_log_likelihood(key_below, vae, {}, x, **options)
            return below, annealed_upper_bound(key_above, vae, {}, x, z, **options)

        return jax.jit(jax.vmap(of_one))(linear.keys, linear.xs, linear.zs)

    return of


@pytest.fixture(scope="module")
def two_temperatures(linear):
    """The estimate `(key, x) -> Annealed` with no temperature between the two ends."""
    vae = oracles.as_vae(linear.model)
    return jax.jit(lambda key, x: annealed_log_likelihood(key, vae, {}, x, num_temperatures=2))


def standard_errors_from(values: np.ndarray, expected: float) -> float:
    """By how many standard errors the mean of the values exceeds what is expected."""
    return (values.mean() - expected) / (values.std() / np.sqrt(len(values)))


def test_with_many_temperatures_both_bounds_are_log_p(linear, bounds):
    for found in bounds(300):
        effective = np.asarray(found.effective_samples)
        difference = np.asarray(found.log_likelihood) - linear.log_p
        assert abs(standard_errors_from(difference, 0)) < 4
        # One standard error is a hundredth of a nat: the line above is not won by noise.
        assert difference.std() / np.sqrt(len(difference)) < 0.015
        assert effective.mean() > 3.5
        assert np.all(effective <= 4.001)


def test_few_temperatures_bracket_log_p(linear, bounds):
    below, above = bounds(12)
    assert standard_errors_from(np.asarray(below.log_likelihood) - linear.log_p, 0) < -4
    assert standard_errors_from(np.asarray(above.log_likelihood) - linear.log_p, 0) > 4


@pytest.mark.parametrize("n", [12, 300])
def test_the_weights_are_unbiased(linear, bounds, n):
    # Whatever the number of temperatures, E[w] = p(x) and E[1 / w] = 1 / p(x): this is what
    # makes the bounds bounds, and what an error in the weights or in the moves breaks.
    below, above = bounds(n)
    ratio = np.exp(np.asarray(below.log_likelihood) - linear.log_p)
    inverse = np.exp(linear.log_p - np.asarray(above.log_likelihood))
    assert abs(standard_errors_from(ratio, 1)) < 4
    assert abs(standard_errors_from(inverse, 1)) < 4


def test_more_temperatures_raise_the_lower_bound_and_sink_the_upper(bounds):
    few, many = bounds(12), bounds(300)
    rise, fall = (
        np.asarray(b.log_likelihood - a.log_likelihood) for a, b in zip(few, many, strict=True)
    )
    assert standard_errors_from(rise, 0) > 4
    assert standard_errors_from(fall, 0) < -4


def test_the_acceptance_is_near_what_is_wanted(bounds):
    for found in bounds(300):
        assert np.all((found.acceptance > 0.4) & (found.acceptance < 0.95)), found.acceptance


@pytest.mark.parametrize("step_size", [1e-3, 30.0])
def test_the_step_size_is_found_from_a_poor_guess(linear, step_size):
    vae = oracles.as_vae(linear.model)

    def acceptance(key: jax.Array, x: jax.Array) -> jax.Array:
        return annealed_log_likelihood(
            key, vae, {}, x, num_chains=4, num_temperatures=300, step_size=step_size
        ).acceptance

    found = jax.jit(jax.vmap(acceptance))(linear.keys[:20], linear.xs[:20])
    assert np.all((found > 0.4) & (found < 0.95)), found


def test_a_posterior_that_misses_does_not_lower_it(linear, bounds):
    wrong = oracles.as_vae(linear.model, posterior_shift=1.5)

    def importance_weighted(key: jax.Array, x: jax.Array) -> jax.Array:
        return log_likelihood(key, wrong, {}, x, 16).log_likelihood

    weighted = np.asarray(jax.jit(jax.vmap(importance_weighted))(linear.keys, linear.xs))
    annealed = np.asarray(bounds(300)[0].log_likelihood)
    assert standard_errors_from(weighted - linear.log_p, 0) < -4
    assert standard_errors_from(annealed - weighted, 0) > 4


def test_the_encoder_is_not_used(linear, key):
    def encode(params, x):
        raise AssertionError("encoded")

    vae, x, z = oracles.as_vae(linear.model)._replace(encode=encode), linear.xs[0], linear.zs[0]
    jax.eval_shape(lambda: annealed_log_likelihood(key, vae, {}, x))
    jax.eval_shape(lambda: annealed_upper_bound(key, vae, {}, x, z))


def prior_weights(linear: Linear, key: jax.Array, x: jax.Array, num_chains: int) -> np.ndarray:
    """The log-weights p(x | z) of the chains' own first z, in double precision."""
    _, key_chains = jax.random.split(key)
    keys = [jax.random.fold_in(key_chains, i) for i in range(num_chains)]
    zs = np.stack([jax.random.normal(jax.random.split(key)[0], (2,)) for key in keys])
    offset, scale = linear.model.offset, linear.model.scale
    residual = (np.asarray(x) - offset - zs @ linear.model.weights.T) / scale
    return -0.5 * np.sum(residual**2 + np.log(2 * np.pi * scale**2), axis=1)


def test_without_moves_it_is_importance_sampling_from_the_prior(linear, key):
    # Chains that never move have weights whose exponents add up to p(x | z)^(1 - 0).
    vae, x = oracles.as_vae(linear.model), linear.xs[0]
    options = {"num_chains": 7, "num_temperatures": 30, "step_size": 1e9}
    found = jax.jit(lambda: annealed_log_likelihood(key, vae, {}, x, **options))()
    log_w = prior_weights(linear, key, x, 7)
    w = np.exp(log_w - log_w.max())
    assert found.acceptance == 0
    np.testing.assert_allclose(found.log_likelihood, np.log(w.mean()) + log_w.max(), rtol=1e-5)
    np.testing.assert_allclose(found.effective_samples, w.sum() ** 2 / (w**2).sum(), rtol=1e-4)


def test_with_two_temperatures_the_moves_do_not_matter(linear, two_temperatures, key):
    # The only move is at t = 1, after the last weight.
    found = two_temperatures(key, linear.xs[0])
    assert found.acceptance > 0.5
    expected = jax.nn.logsumexp(prior_weights(linear, key, linear.xs[0], 16)) - np.log(16)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-5)


def test_without_moves_the_upper_bound_is_the_likelihood_of_its_z(linear, key):
    vae, x, z = oracles.as_vae(linear.model), linear.xs[0], linear.zs[0]
    options = {"num_temperatures": 30, "step_size": 1e9}
    found = jax.jit(lambda: annealed_upper_bound(key, vae, {}, x, z, **options))()
    assert found.acceptance == 0
    expected = vae.likelihood.log_prob(vae.decode({}, z), x)
    np.testing.assert_allclose(found.log_likelihood, expected, rtol=1e-5)
    np.testing.assert_allclose(found.effective_samples, 16, rtol=1e-4)


@pytest.mark.parametrize("bound", [annealed_log_likelihood, annealed_upper_bound])
def test_in_float64_it_has_the_digits_of_float64(linear, key, bound):
    """A decoder that looks away from z: whatever the moves, every weight is p(x)."""
    away = linear.model._replace(weights=0 * linear.model.weights)
    with jax.enable_x64(True):
        x = jnp.asarray(linear.xs[0], float)
        where = (jnp.zeros(2),) if bound is annealed_upper_bound else ()
        found = bound(key, oracles.as_vae(away), {}, x, *where, num_temperatures=20)
        assert found.log_likelihood.dtype == np.float64
        log_p = oracles.log_marginal(away, np.asarray(x)[None])
        np.testing.assert_allclose(found.log_likelihood, log_p[0], rtol=1e-12)


def test_of_a_nonlinear_decoder_it_is_what_quadrature_gives(key):
    networks = mlp((16,), x_shape=(12,), latent_dim=2, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(12,), latent_dim=2)
    # Larger than at the start of training, for a posterior that is not the prior.
    params = jax.tree.map(lambda leaf: 4 * leaf, jax.jit(vae.init)(key))
    xs = jax.random.bernoulli(key, 0.5, (40, 12)).astype(jnp.float32)
    axis = jnp.linspace(-7, 7, 141)
    grid = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)

    def estimate(key: jax.Array, x: jax.Array) -> Annealed:
        return annealed_log_likelihood(key, vae, params, x, num_temperatures=200, num_leapfrog=4)

    def integral(x: jax.Array) -> jax.Array:
        def log_joint(z: jax.Array) -> jax.Array:
            log_prior = -jnp.sum(z**2) / 2 - jnp.log(2 * jnp.pi)
            return vae.likelihood.log_prob(vae.decode(params, z), x) + log_prior

        return jax.nn.logsumexp(jax.vmap(log_joint)(grid)) + 2 * jnp.log(axis[1] - axis[0])

    found = jax.jit(jax.vmap(estimate))(jax.random.split(key, 40), xs)
    expected = jax.lax.map(integral, xs)
    # By the delta method, as for the importance-weighted estimate.
    error = np.sqrt(1 / np.asarray(found.effective_samples) - 1 / 16)
    difference = np.asarray(found.log_likelihood - expected)
    assert np.all(abs(difference) < 4 * error)
    # And all together, where a tenth of a nat would show.
    error_of_mean = np.sqrt(np.mean(error**2) / len(xs))
    assert abs(difference.mean()) < 4 * error_of_mean < 0.1


def linear_target(linear: Linear, temperature: float):
    """`point_at` of one example, and mean and variance of p(z) p(x | z)^t."""
    vae, x = oracles.as_vae(linear.model), linear.xs[0]

    def log_lik_of(z: jax.Array) -> jax.Array:
        return vae.likelihood.log_prob(vae.decode({}, z), x)

    weights, offset, scale = linear.model
    precision = 1 + temperature * np.sum(weights**2, axis=0) / scale**2
    mean = temperature * weights.T @ (np.asarray(x) - offset) / scale**2 / precision
    return lambda z: Point(z, *jax.value_and_grad(log_lik_of)(z)), mean, 1 / precision


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("start", ["there", "elsewhere"])
def test_moves_keep_their_distribution_and_lead_to_it(linear, key, temperature, start):
    point_at, mean, variance = linear_target(linear, temperature)
    n, num_moves = 20_000, 3 if start == "there" else 40
    # Steps so long that the leapfrog alone would change the variance.
    step_size = 1.5 * float(np.sqrt(variance.min()))
    exact = Normal(jnp.asarray(mean), jnp.log(variance))

    @jax.jit
    def moved(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        key_start, key_moves = jax.random.split(key)
        z = reparameterize(key_start, exact) if start == "there" else jnp.full(2, 2.0)

        def move(point: Point, key: jax.Array) -> tuple[Point, jax.Array]:
            return hamiltonian_move(key, point_at, point, temperature, step_size, 3)

        point, acceptance = jax.lax.scan(move, point_at(z), jax.random.split(key_moves, num_moves))
        return point.z, jnp.mean(acceptance)

    zs, acceptance = map(np.asarray, jax.vmap(moved)(jax.random.split(key, n)))
    assert 0.4 < acceptance.mean() < 0.95
    assert np.all(abs(zs.mean(axis=0) - mean) < 4 * np.sqrt(variance / n))
    # The variance of n normal numbers has the relative standard error sqrt(2 / n).
    assert np.all(abs(zs.var(axis=0) / variance - 1) < 4 * np.sqrt(2 / n))


def test_short_steps_keep_the_energy(linear, key):
    point_at, mean, variance = linear_target(linear, 1.0)
    # A trajectory of two standard deviations, whose energy errs by the square of the step:
    # 1 / 100 of a standard deviation, so 1e-4 up to a factor.
    step_size = 0.01 * float(np.sqrt(variance.min()))
    start = point_at(jnp.asarray(mean + np.sqrt(variance), jnp.float32))

    def move(key: jax.Array) -> tuple[Point, jax.Array]:
        return hamiltonian_move(key, point_at, start, 1.0, step_size, 200)

    point, acceptance = jax.jit(jax.vmap(move))(jax.random.split(key, 100))
    assert np.all(acceptance > 0.999)
    assert np.all(np.std(point.z, axis=0) > 0.3 * np.sqrt(variance))


def test_a_move_to_what_is_not_a_number_is_refused(key):
    def point_at(z: jax.Array) -> Point:
        log_lik = jnp.where(jnp.all(z == 0), 0.0, jnp.nan)
        return Point(z, log_lik, jnp.zeros(2))

    point, acceptance = hamiltonian_move(key, point_at, point_at(jnp.zeros(2)), 1.0, 0.1, 5)
    assert acceptance == 0
    assert jnp.all(point.z == 0)
    assert point.log_lik == 0


def test_an_impossible_example_gives_no_nan(two_temperatures, key):
    # At 1e20 the squares overflow float32: log p(x) is -inf, of every chain.
    found = two_temperatures(key, jnp.full(5, 1e20))
    assert found.log_likelihood == -jnp.inf
    assert found.acceptance == 0


def test_a_key_gives_the_same_estimate_and_another_key_another(linear, two_temperatures):
    first, again, other = (
        two_temperatures(jax.random.key(seed), linear.xs[0]) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.log_likelihood != other.log_likelihood
    assert first.acceptance != other.acceptance


def test_the_program_does_not_grow_with_temperatures_or_chains(linear, key):
    decoded = []

    def traced(num_chains: int, num_temperatures: int) -> int:
        vae = oracles.as_vae(linear.model)

        def decode(params, z):
            decoded.append(z)
            return vae.decode(params, z)

        decoded.clear()
        jax.eval_shape(
            lambda x: annealed_log_likelihood(
                key,
                vae._replace(decode=decode),
                {},
                x,
                num_chains=num_chains,
                num_temperatures=num_temperatures,
                num_leapfrog=num_temperatures,
            ),
            linear.xs[0],
        )
        return len(decoded)

    assert 0 < traced(1, 3) == traced(16, 500)


def test_the_schedule_is_finer_where_it_begins_and_ends():
    temperatures = temperature_schedule(101)
    assert temperatures[0] == 0
    assert temperatures[-1] == 1
    rises = np.diff(temperatures)
    assert np.all(np.diff(rises[:50]) > 0)
    np.testing.assert_allclose(rises, rises[::-1], rtol=1e-9)
    assert temperature_schedule(2).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("num_chains", 0, "at least 1 is needed"),
        ("num_temperatures", 1, "at least 2 are needed"),
        ("num_leapfrog", 0, "at least 1 is needed"),
        ("step_size", 0.0, "a positive finite number is needed"),
        ("step_size", -0.1, "a positive finite number is needed"),
        ("step_size", float("nan"), "a positive finite number is needed"),
        ("step_size", float("inf"), "a positive finite number is needed"),
    ],
)
def test_bad_options_are_refused(linear, key, option, value, needed):
    vae, x, z = oracles.as_vae(linear.model), linear.xs[0], linear.zs[0]
    with pytest.raises(ValueError, match=f"^{option} {value}: {needed}$"):
        annealed_log_likelihood(key, vae, {}, x, **{option: value})
    with pytest.raises(ValueError, match=f"^{option} {value}: {needed}$"):
        annealed_upper_bound(key, vae, {}, x, z, **{option: value})


def test_a_z_of_another_length_is_refused(linear, key):
    with pytest.raises(ValueError, match=r"^z of shape \(3,\): \(2,\) is needed$"):
        annealed_upper_bound(
            key, oracles.as_vae(linear.model), {}, linear.xs[0], jnp.zeros(3), num_temperatures=5
        )
