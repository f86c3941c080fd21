"""Every likelihood is a row of one table that all the tests below run over."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from scipy import integrate, stats

from vae_jax import likelihoods
from vae_jax.likelihoods import LIKELIHOODS, Likelihood


class Row(NamedTuple):
    likelihood: Likelihood
    thetas: list[list[float]]  # parameters of one dimension of x
    xs: list[float]  # points of the support
    support: str  # "discrete" with all of xs, or the interval of a density
    extreme: list[float]  # what a decoder may return before it has learned


ROWS = {
    "bernoulli": Row(
        likelihoods.bernoulli(), [[0.0], [1.3], [-4.0]], [0.0, 1.0], "discrete", [200.0, -200.0]
    ),
    "continuous_bernoulli": Row(
        likelihoods.continuous_bernoulli(),
        [[0.0], [0.49], [0.51], [-1e-4], [3.0], [-12.0]],
        [0.0, 0.3, 1.0],
        "unit",
        [200.0, -200.0, 0.5, -0.5],
    ),
    "gaussian": Row(
        likelihoods.gaussian(0.3), [[0.0], [0.7], [-2.0]], [-1.0, 0.2, 3.0], "real", [1e4, -1e4]
    ),
    "gaussian_learned_scale": Row(
        likelihoods.gaussian_learned_scale(0.05),
        [[0.0, 0.0], [0.7, -3.0], [-2.0, 2.0]],
        [-1.0, 0.2, 3.0],
        "real",
        [200.0, -200.0],
    ),
    "discretized_logistic": Row(
        likelihoods.discretized_logistic(),
        [[0.5, -2.0], [0.0, -5.0], [1.2, -3.0], [0.31, -7.0], [0.4, 1.0]],
        (np.arange(256) / 255).tolist(),
        "discrete",
        [200.0, -200.0],
    ),
}


def test_the_table_is_complete():
    assert ROWS.keys() == LIKELIHOODS.keys()


@pytest.fixture(params=ROWS)
def row(request) -> Row:
    return ROWS[request.param]


def density(row: Row, theta: list[float]) -> Callable[[float], float]:
    """p(x | theta) of one dimension."""
    log_prob = jax.jit(row.likelihood.log_prob)
    return lambda x: float(jnp.exp(log_prob(jnp.array([theta]), jnp.array([x]))))


def test_probabilities_sum_or_integrate_to_one(row):
    with jax.enable_x64(True):
        for theta in row.thetas:
            p = density(row, theta)
            if row.support == "discrete":
                total = sum(p(x) for x in row.xs)
            elif row.support == "unit":
                total, _ = integrate.quad(p, 0, 1)
            else:
                total, _ = integrate.quad(p, -np.inf, np.inf)
            assert total == pytest.approx(1, abs=1e-7), theta


def test_samples_have_the_mean(row, key):
    n = 20_000
    for theta in row.thetas:
        thetas = jnp.broadcast_to(jnp.array(theta), (n, len(theta)))
        draws = row.likelihood.sample(key, thetas)
        assert draws.shape == (n,)
        mean = row.likelihood.mean(jnp.array([theta]))
        assert mean.shape == (1,)
        # Four standard errors; the last term is for a sample that is almost surely constant.
        assert abs(draws.mean() - mean[0]) < 4 * draws.std() / np.sqrt(n) + 4 / n, theta


def test_samples_lie_in_the_support(row, key):
    thetas = jnp.broadcast_to(jnp.array(row.thetas[-1]), (1000, len(row.thetas[-1])))
    draws = np.asarray(row.likelihood.sample(key, thetas))
    if row.support == "discrete":
        assert np.all(np.min(abs(draws[:, None] - np.array(row.xs)), axis=1) < 1e-6)
    elif row.support == "unit":
        assert draws.min() >= 0
        assert draws.max() <= 1


def test_gradients_match_finite_differences_in_float64(row):
    with jax.enable_x64(True):
        some_xs = row.xs[:: max(1, len(row.xs) // 3)]
        pairs = itertools.product(row.thetas, some_xs)
        thetas, xs = (jnp.array(column) for column in zip(*pairs, strict=True))

        def one(theta, x):
            return row.likelihood.log_prob(theta[None], x[None])

        log_prob, grads = jax.jit(jax.vmap(one)), jax.vmap(jax.grad(one))(thetas, xs)
        step = 1e-5
        for parameter in range(row.likelihood.theta_dim):
            shift = jnp.zeros_like(thetas).at[:, parameter].set(step)
            slope = (log_prob(thetas + shift, xs) - log_prob(thetas - shift, xs)) / (2 * step)
            # Central differences: an error of step^2, and the rounding of log_prob over step.
            np.testing.assert_allclose(grads[:, parameter], slope, rtol=1e-6, atol=1e-7)


def test_extreme_outputs_stay_finite_with_their_gradient(row):
    for value in row.extreme:
        for x in (row.xs[0], row.xs[-1]):
            theta = jnp.full((1, row.likelihood.theta_dim), value)
            log_prob, grad = jax.value_and_grad(row.likelihood.log_prob)(theta, jnp.array([x]))
            assert jnp.isfinite(log_prob), (value, x)
            assert jnp.all(jnp.isfinite(grad)), (value, x)
            assert jnp.all(jnp.isfinite(row.likelihood.mean(theta))), value


def test_an_image_is_the_sum_over_its_pixels(row, key):
    thetas = jax.random.normal(key, (2, 3, 1, row.likelihood.theta_dim))
    x = row.likelihood.sample(key, thetas)
    assert x.shape == (2, 3, 1)
    whole = row.likelihood.log_prob(thetas, x)
    pixels = jax.vmap(row.likelihood.log_prob)(
        thetas.reshape(6, 1, row.likelihood.theta_dim), x.reshape(6, 1)
    )
    assert whole.shape == ()
    np.testing.assert_allclose(whole, pixels.sum(), rtol=1e-5)


def test_equal_to_a_second_library():
    x, logit = 1.0, 0.8
    ours = likelihoods.bernoulli().log_prob(jnp.array([[logit]]), jnp.array([x]))
    assert ours == pytest.approx(stats.bernoulli.logpmf(1, 1 / (1 + np.exp(-logit))), rel=1e-6)
    ours = likelihoods.gaussian(0.3).log_prob(jnp.array([[0.5]]), jnp.array([0.9]))
    assert ours == pytest.approx(stats.norm.logpdf(0.9, 0.5, 0.3), rel=1e-6)
    ours = likelihoods.gaussian_learned_scale(0.05).log_prob(
        jnp.array([[0.5, -1.0]]), jnp.array([0.9])
    )
    scale = 0.05 + np.log1p(np.exp(-1.0))
    assert ours == pytest.approx(stats.norm.logpdf(0.9, 0.5, scale), rel=1e-6)
    ours = likelihoods.discretized_logistic().log_prob(
        jnp.array([[0.4, -3.0]]), jnp.array([100 / 255])
    )
    edges = stats.logistic.cdf((np.array([99.5, 100.5]) / 255 - 0.4) / np.exp(-3.0))
    assert ours == pytest.approx(np.log(np.diff(edges)[0]), rel=1e-5)


@pytest.mark.parametrize("logit", [0.4999, 0.5, 0.5001])
def test_the_continuous_bernoulli_is_smooth_where_its_two_forms_meet(logit):
    with jax.enable_x64(True):
        likelihood = likelihoods.continuous_bernoulli()
        zero = likelihood.log_prob(jnp.array([[logit]]), jnp.array([0.0]))
        assert zero == pytest.approx(np.log(logit / np.expm1(logit)), abs=1e-7)
        mean = likelihood.mean(jnp.array([[logit]]))[0]
        assert mean == pytest.approx(1 / -np.expm1(-logit) - 1 / logit, abs=1e-7)


def test_the_saturated_bernoulli_keeps_its_gradient():
    grad = jax.grad(likelihoods.bernoulli().log_prob)
    assert grad(jnp.array([[200.0]]), jnp.array([0.0]))[0, 0] == -1
    assert grad(jnp.array([[-200.0]]), jnp.array([1.0]))[0, 0] == 1
    assert grad(jnp.array([[0.0]]), jnp.array([0.25]))[0, 0] == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (likelihoods.gaussian, 0.0),
        (likelihoods.gaussian, float("nan")),
        (likelihoods.gaussian_learned_scale, -1.0),
        (likelihoods.discretized_logistic, 1),
    ],
)
def test_settings_without_a_meaning_are_refused(build, value):
    with pytest.raises(ValueError, match=str(value)):
        build(value)


def test_theta_of_another_shape_is_refused(row, key):
    theta = jnp.zeros((4, 7, row.likelihood.theta_dim))
    # Under the tests' type checker, its error comes first.
    with pytest.raises((ValueError, TypeCheckError), match=r"fit|shape|theta"):
        row.likelihood.log_prob(theta, jnp.zeros((7, 4)))
