"""Every likelihood is a row of one table that all the tests below run over."""

import functools
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
from vae_jax.likelihoods import COLUMN_LIKELIHOODS, LIKELIHOODS, Likelihood

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Row(NamedTuple):
    likelihood: Likelihood
    thetas: list[list[float]]  # parameters of one x: those of its first dimension, ...
    xs: list  # points of the support: numbers, or vectors of the width
    support: str  # "discrete" with all of xs, or the interval of a density
    extreme: list[float]  # what a decoder may return before it has learned
    width: int = 1  # dimensions of x that have one probability only together

    def theta(self, values) -> jax.Array:
        # Shaped by NumPy, which compiles nothing.
        return jnp.asarray(np.reshape(values, (self.width, self.likelihood.theta_dim)), float)

    def x(self, value) -> jax.Array:
        return jnp.asarray(np.reshape(value, self.width), float)

    def stacked(self, thetas) -> jax.Array:
        """[thetas, width, theta_dim]"""
        return jnp.asarray(np.reshape(thetas, (-1, self.width, self.likelihood.theta_dim)), float)

    @property
    def means(self) -> np.ndarray:
        """[thetas, width]"""
        return np.asarray(jax.jit(jax.vmap(self.likelihood.mean))(self.stacked(self.thetas)))

    @property
    def samples(self) -> np.ndarray:
        """[thetas, draws, width]"""
        return _samples(self.likelihood, tuple(map(tuple, self.thetas)), self.width)


@functools.cache
def _samples(likelihood: Likelihood, thetas: tuple, width: int) -> np.ndarray:
    n = 20_000

    @jax.jit
    def draw(thetas):
        keys = jax.random.split(jax.random.key(0), (len(thetas), n))
        return jax.vmap(jax.vmap(likelihood.sample, (0, None)))(keys, thetas)

    return np.asarray(draw(np.reshape(thetas, (len(thetas), width, -1)).astype(np.float32)))


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
    "discretized_logistic_mixture": Row(
        likelihoods.discretized_logistic_mixture(num_components=2),
        [
            [0.0, 0.0, 0.5, 0.5, -2.0, -2.0],
            [1.0, -1.0, -0.1, 1.1, -4.0, -3.0],
            [-2.0, 3.0, 0.31, 0.7, -7.0, -5.0],
            [0.3, 0.0, 0.4, 1.2, 1.0, -3.0],
        ],
        (np.arange(256) / 255).tolist(),
        "discrete",
        [200.0, -200.0],
    ),
    "beta_binomial": Row(
        likelihoods.beta_binomial(),
        [[0.0, 0.0], [-3.0, 1.0], [2.0, -1.0], [5.0, 4.0], [9.0, 8.5], [-11.0, -11.0]],
        (np.arange(256) / 255).tolist(),
        "discrete",
        [200.0, -200.0],
    ),
    "squeezed": Row(
        likelihoods.squeezed(likelihoods.gaussian_learned_scale(0.05)),
        [[0.0, 0.0], [2.0, -3.0], [-4.0, 2.0]],
        [-1.0, 0.2, 1.0],
        "real",
        [200.0, -200.0],
    ),
    "student_t": Row(
        likelihoods.student_t(4.0, 0.05),
        [[0.0, 0.0], [0.7, -3.0], [-2.0, 2.0]],
        [-1.0, 0.2, 3.0],
        "real",
        [200.0, -200.0],
    ),
    # Of the probability of these parameters less than 1e-9 lies beyond 600.
    "negative_binomial": Row(
        likelihoods.negative_binomial(),
        [[0.5, 0.3], [2.0, -1.0], [-3.0, 2.0], [4.0, 4.9]],
        np.arange(601.0).tolist(),
        "discrete",
        [200.0, -200.0],
    ),
    "categorical": Row(
        likelihoods.categorical(),
        [[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.5, 3.0], [9.0, -9.0, 0.0, 8.0]],
        np.eye(4).tolist(),
        "discrete",
        [200.0, -200.0],
        width=4,
    ),
    "tokens": Row(
        likelihoods.tokens(5),
        [[0.0, 0.0, 0.0, 0.0, 0.0], [9.0, 1.0, -2.0, 0.5, 3.0], [-3.0, 9.0, -9.0, 0.0, 8.0]],
        [1.0, 2.0, 3.0, 4.0],
        "discrete",
        [200.0, -200.0],
    ),
}


def test_the_table_is_complete():
    builders = (*LIKELIHOODS.values(), *COLUMN_LIKELIHOODS.values())
    # What is built from another likelihood is no choice of its own, and words are no column.
    assert ROWS.keys() - {"squeezed", "tokens"} == {build.__name__ for build in builders}


@pytest.fixture(params=ROWS)
def row(request) -> Row:
    return ROWS[request.param]


@pytest.fixture(params=[name for name in ROWS if name != "tokens"])
def row_with_a_mean(request) -> Row:
    return ROWS[request.param]


@pytest.fixture(params=[name for name, row in ROWS.items() if row.width == 1])
def row_of_single_dimensions(request) -> Row:
    return ROWS[request.param]


def density(row: Row, theta: list[float]) -> Callable[[float], float]:
    """p(x | theta) of one x."""
    log_prob = jax.jit(row.likelihood.log_prob)
    return lambda x: float(np.exp(log_prob(row.theta(theta), row.x(x))))


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


def test_samples_have_the_mean(row_with_a_mean):
    row = row_with_a_mean
    for theta, mean, draws in zip(row.thetas, row.means, row.samples, strict=True):
        assert mean.shape == draws[0].shape == (row.width,)
        # Four standard errors; the last term is for a sample that is almost surely constant.
        tolerance = 4 * draws.std(axis=0) / np.sqrt(len(draws)) + 4 / len(draws)
        assert np.all(abs(draws.mean(axis=0) - mean) < tolerance), theta


def test_samples_lie_in_the_support(row):
    draws = row.samples[:, :1000].reshape(-1, row.width)
    if row.support == "discrete":
        points = np.array(row.xs).reshape(-1, row.width)
        apart = abs(draws[:, None] - points).max(axis=-1)
        assert np.all(apart.min(axis=1) < 1e-6)
    elif row.support == "unit":
        assert draws.min() >= 0
        assert draws.max() <= 1


def test_gradients_match_finite_differences_in_float64(row):
    with jax.enable_x64(True):
        some_xs = row.xs[:: max(1, len(row.xs) // 3)]
        pairs = list(itertools.product(row.thetas, some_xs))
        thetas = np.stack([row.theta(theta) for theta, _ in pairs])
        xs = np.stack([row.x(x) for _, x in pairs])
        log_prob = jax.jit(jax.vmap(row.likelihood.log_prob))
        grads = jax.jit(jax.vmap(jax.grad(row.likelihood.log_prob)))(thetas, xs)
        step = 1e-5
        for entry in np.ndindex(thetas.shape[1:]):
            shift = np.zeros_like(thetas)
            shift[:, *entry] = step
            slope = (log_prob(thetas + shift, xs) - log_prob(thetas - shift, xs)) / (2 * step)
            # Central differences: an error of step^2, and the rounding of log_prob over step.
            np.testing.assert_allclose(grads[:, *entry], slope, rtol=1e-6, atol=1e-7)


def in_turn(row: Row, value: float) -> jax.Array:
    """Up and down, because equal logits are not extreme for a softmax."""
    theta = np.full((row.width, row.likelihood.theta_dim), value)
    theta[1::2] *= -1
    return jnp.asarray(theta)


def test_extreme_outputs_stay_finite_with_their_gradient(row):
    value_and_grad = jax.jit(jax.value_and_grad(row.likelihood.log_prob))
    for value in row.extreme:
        theta = in_turn(row, value)
        for x in (row.xs[0], row.xs[-1]):
            log_prob, grad = value_and_grad(theta, row.x(x))
            assert np.isfinite(log_prob), (value, x)
            assert np.all(np.isfinite(grad)), (value, x)


def test_extreme_outputs_have_a_finite_mean(row_with_a_mean):
    row = row_with_a_mean
    mean = jax.jit(row.likelihood.mean)
    for value in row.extreme:
        assert np.all(np.isfinite(mean(in_turn(row, value)))), value


def test_an_image_is_the_sum_over_its_pixels(row_of_single_dimensions, key):
    likelihood = row_of_single_dimensions.likelihood

    @jax.jit
    def both_ways(key):
        thetas = jax.random.normal(key, (2, 3, 1, likelihood.theta_dim))
        x = likelihood.sample(key, thetas)
        pixels = thetas.reshape(6, 1, likelihood.theta_dim), x.reshape(6, 1)
        return x, likelihood.log_prob(thetas, x), jax.vmap(likelihood.log_prob)(*pixels)

    x, whole, pixels = both_ways(key)
    assert x.shape == (2, 3, 1)
    assert whole.shape == ()
    np.testing.assert_allclose(whole, pixels.sum(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6), ()])
def test_a_log_probability_of_another_shape_is_refused(shape):
    """`theta - x` for `theta[..., 0] - x` would be summed over every pair of dimensions."""
    own = LIKELIHOODS["bernoulli"]()._replace(log_prob_per_dim=lambda theta, x: jnp.zeros(shape))
    with pytest.raises(ValueError, match="of 6 dimensions has shape"):
        own.log_prob(jnp.zeros((2, 3, 1)), jnp.zeros((2, 3)))


def test_whole_numbers_are_as_probable_as_floats(row_of_single_dimensions):
    row = row_of_single_dimensions
    theta = row.theta(row.thetas[0])
    for x in (0, 1):
        whole = row.likelihood.log_prob(theta, jnp.array([x], jnp.uint8))
        np.testing.assert_array_equal(whole, row.likelihood.log_prob(theta, row.x(x)))


def log_prob(likelihood: Likelihood, theta: list, x: list) -> float:
    return float(jax.jit(likelihood.log_prob)(jnp.array(theta), jnp.array(x)))


def test_equal_to_a_second_library():
    x, logit = 1.0, 0.8
    ours = log_prob(likelihoods.bernoulli(), [[logit]], [x])
    assert ours == pytest.approx(stats.bernoulli.logpmf(1, 1 / (1 + np.exp(-logit))), rel=1e-6)
    ours = log_prob(likelihoods.gaussian(0.3), [[0.5]], [0.9])
    assert ours == pytest.approx(stats.norm.logpdf(0.9, 0.5, 0.3), rel=1e-6)
    ours = log_prob(likelihoods.gaussian_learned_scale(0.05), [[0.5, -1.0]], [0.9])
    scale = 0.05 + np.log1p(np.exp(-1.0))
    assert ours == pytest.approx(stats.norm.logpdf(0.9, 0.5, scale), rel=1e-6)
    ours = log_prob(likelihoods.discretized_logistic(), [[0.4, -3.0]], [100 / 255])
    edges = stats.logistic.cdf((np.array([99.5, 100.5]) / 255 - 0.4) / np.exp(-3.0))
    assert ours == pytest.approx(np.log(np.diff(edges)[0]), rel=1e-5)


def log_probs(row: Row, theta: list[float], xs: list) -> np.ndarray:
    points = jnp.asarray(np.reshape(xs, (-1, row.width)), float)
    return np.asarray(_log_probs(row.likelihood, row.theta(theta), points))


@functools.partial(jax.jit, static_argnums=0)
def _log_probs(likelihood: Likelihood, theta: jax.Array, xs: jax.Array) -> jax.Array:
    return jax.vmap(likelihood.log_prob, (None, 0))(theta, xs)


def test_the_likelihoods_of_columns_are_equal_to_a_second_library():
    # In float64, so that a wrong constant cannot hide behind the rounding.
    with jax.enable_x64(True):
        row = ROWS["student_t"]
        for location, raw in row.thetas:
            scale = 0.05 + np.log1p(np.exp(raw))
            theirs = stats.t.logpdf(row.xs, 4.0, location, scale)
            ours = log_probs(row, [location, raw], row.xs)
            np.testing.assert_allclose(ours, theirs, rtol=1e-10)
        row = ROWS["negative_binomial"]
        for log_mean, log_size in row.thetas:
            mean, size = np.exp([log_mean, log_size])
            theirs = stats.nbinom.logpmf(row.xs, size, size / (size + mean))
            ours = log_probs(row, [log_mean, log_size], row.xs)
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
        row = ROWS["categorical"]
        for logits in row.thetas:
            p = np.exp(logits) / np.exp(logits).sum()
            theirs = stats.multinomial.logpmf(np.array(row.xs, int), 1, p)
            np.testing.assert_allclose(log_probs(row, logits, row.xs), theirs, rtol=1e-10)


@pytest.mark.parametrize("log_mean", [-15.0, 0.0, 9.0, 15.0])
def test_large_counts_keep_their_digits_in_float32(log_mean):
    of_counts = likelihoods.negative_binomial().log_prob_per_dim
    sizes, xs = np.array([-5.0, -1.0, 0.0, 2.0, 5.0]), np.array([0.0, 1.0, 17.0, 1e4, 3e6, 1e7])
    mean, size = np.exp(log_mean), np.exp(sizes)[:, None]
    theirs = stats.nbinom.logpmf(xs, size, size / (size + mean))
    thetas = jnp.array([[log_mean, log_size] for log_size in sizes], jnp.float32)
    ours = jax.vmap(lambda theta: jax.vmap(lambda x: of_counts(theta, x))(jnp.array(xs)))(thetas)
    # Five terms of up to 2,300 nats cancel, a rounding of which is 1.4e-4; a sum of millions has
    # a few roundings of its own.
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=7e-4)


def test_the_mean_of_a_continuous_bernoulli_has_a_gradient_everywhere():
    logits = jnp.array([-1e4, -200.0, -90.0, -1.0, 0.0, 1.0, 90.0, 200.0, 1e4])
    mean = likelihoods.continuous_bernoulli().mean
    slopes = jax.vmap(jax.grad(lambda logit: mean(logit[None])))(logits)
    # The variance of x, which is symmetric; far out it is that of an exponential, 1 / l^2.
    np.testing.assert_allclose(slopes, slopes[::-1], rtol=1e-4)
    np.testing.assert_allclose(slopes[:3], 1 / logits[:3] ** 2, rtol=1e-4)
    assert float(slopes[4]) == pytest.approx(1 / 12)


def test_counts_spread_as_the_negative_binomial_says():
    row = ROWS["negative_binomial"]
    for (log_mean, log_size), draws in zip(row.thetas, row.samples, strict=True):
        mean, size = np.exp([log_mean, log_size])
        squares = (draws - mean) ** 2
        error = squares.std() / np.sqrt(len(draws))
        assert abs(squares.mean() - (mean + mean**2 / size)) < 4 * error


def test_the_likelihoods_of_levels_are_equal_to_a_second_library():
    with jax.enable_x64(True):
        row = ROWS["beta_binomial"]
        for theta in row.thetas:
            theirs = stats.betabinom.logpmf(np.arange(256), 255, *np.exp(theta))
            ours = log_probs(row, theta, row.xs)
            # What SciPy takes the differences of is as large as 1e5.
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)
        row = ROWS["discretized_logistic_mixture"]
        edges = np.array([-np.inf, *(np.arange(255) + 0.5) / 255, np.inf])[:, None]
        for theta in row.thetas:
            logits, locations, log_scales = np.split(np.array(theta), 3)
            below = stats.logistic.cdf(edges, locations, np.exp(log_scales))
            theirs = np.diff(below, axis=0) @ (np.exp(logits) / np.exp(logits).sum())
            ours = np.exp(log_probs(row, theta, row.xs))
            # The differences of numbers near 1 are right to their rounding only.
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)


@pytest.fixture(params=["discretized_logistic", "discretized_logistic_mixture", "beta_binomial"])
def row_of_levels(request) -> Row:
    return ROWS[request.param]


def test_the_moments_of_levels_are_sums_over_them(row_of_levels):
    row, levels = row_of_levels, np.array(row_of_levels.xs)
    with jax.enable_x64(True):
        ps, means = [np.exp(log_probs(row, theta, row.xs)) for theta in row.thetas], row.means
    for theta, p, mean, draws in zip(row.thetas, ps, means, row.samples, strict=True):
        np.testing.assert_allclose(mean[0], p @ levels)
        squares = (draws[:, 0] - p @ levels) ** 2
        # Four standard errors; the last term is for a sample that is almost surely constant.
        tolerance = 4 * squares.std() / np.sqrt(len(draws)) + 4 / len(draws)
        assert abs(squares.mean() - p @ (levels - p @ levels) ** 2) < tolerance, theta


def test_the_beta_binomial_keeps_its_digits_in_float32():
    row = ROWS["beta_binomial"]
    # The corners of what alpha and beta are clipped to, and one of each inside.
    for theta in itertools.product((-12.0, 0.0, 10.0), repeat=2):
        theirs = stats.betabinom.logpmf(np.arange(256), 255, *np.exp(theta))
        ours = log_probs(row, list(theta), row.xs)
        # The terms are as large as a thousand nats, where float32 is in steps of 6e-5.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=2e-4)


def test_a_component_without_weight_changes_nothing():
    mixture, one = (
        jax.jit(jax.vmap(jax.value_and_grad(likelihood.log_prob), (None, 0)))
        for likelihood in (
            likelihoods.discretized_logistic_mixture(2),
            likelihoods.discretized_logistic(),
        )
    )
    xs = np.arange(256.0, dtype=np.float32)[:, None] / 255
    alone, slope = map(np.asarray, one(jnp.array([[0.4, -6.0]]), xs))
    for location, log_scale in itertools.product((-200.0, 0.4, 200.0), (-200.0, 200.0)):
        theta = jnp.array([[0.0, -200.0, 0.4, location, -6.0, log_scale]])
        both, slopes = map(np.asarray, mixture(theta, xs))
        # Of a component that is so narrow, other levels are far less probable than e^-200.
        own = alone > -100
        assert own.sum() > 60
        np.testing.assert_allclose(both[own], alone[own], rtol=1e-5)
        np.testing.assert_allclose(slopes[own][:, :, [2, 4]], slope[own], rtol=1e-4, atol=1e-4)
        assert np.all(np.isfinite(both))
        assert np.all(np.isfinite(slopes))


def test_many_degrees_of_freedom_are_the_gaussian():
    # In float64: gammaln of half a million has an error of a half in float32.
    with jax.enable_x64(True):
        theta, x = [[0.5, -1.0]], [0.9]
        ours = log_prob(likelihoods.student_t(1e6, 0.05), theta, x)
        gaussian = log_prob(likelihoods.gaussian_learned_scale(0.05), theta, x)
    assert ours == pytest.approx(gaussian, abs=1e-5)


@pytest.fixture
def blocks() -> list[tuple[Likelihood, int]]:
    return [
        (likelihoods.gaussian_learned_scale(), 2),
        (likelihoods.bernoulli(), 1),
        (likelihoods.negative_binomial(), 3),
        (likelihoods.categorical(), 4),
        (likelihoods.categorical(), 2),
    ]


def test_the_parts_of_a_joint_likelihood_add_up(blocks, key):
    both = likelihoods.joint(blocks)
    assert both.theta_dim == 2
    theta = jax.random.normal(key, (12, 2))
    x = jax.jit(both.sample)(key, theta)
    # Not compiled as one program, which rounds otherwise where its operations are fused otherwise.
    mean, per_dim = both.mean(theta), both.log_prob_per_dim(theta, x)
    assert x.shape == mean.shape == per_dim.shape == (12,)
    total, start = 0.0, 0
    for part, width in blocks:
        own = slice(start, start + width)
        own_theta = theta[own, : part.theta_dim]
        total += part.log_prob(own_theta, x[own])
        np.testing.assert_array_equal(mean[own], part.mean(own_theta))
        np.testing.assert_array_equal(per_dim[own], part.log_prob_per_dim(own_theta, x[own]))
        start += width
    np.testing.assert_allclose(both.log_prob(theta, x), total, rtol=1e-5)
    assert x[6:10].sum() == x[10:].sum() == 1


def test_the_parts_of_a_joint_likelihood_are_drawn_independently(key):
    both = likelihoods.joint([(likelihoods.gaussian(1.0), 1)] * 2)
    n = 10_000

    @jax.jit
    def draw(key):
        return jax.vmap(both.sample, (0, None))(jax.random.split(key, n), jnp.zeros((2, 1)))

    draws = draw(key)
    # Of independent columns the correlation has a standard error of 1 / sqrt(n).
    assert abs(np.corrcoef(np.asarray(draws).T)[0, 1]) < 4 / np.sqrt(n)


@pytest.mark.parametrize("widths", [[], [0], [2, 0]])
def test_a_joint_likelihood_without_features_is_refused(widths):
    with pytest.raises(ValueError, match="1 or more"):
        likelihoods.joint([(likelihoods.bernoulli(), width) for width in widths])


def test_what_is_missing_counts_nothing(blocks, key):
    complete = likelihoods.joint(blocks)
    observed = likelihoods.missing_at_nan(complete)

    @jax.jit
    def draw(key):
        theta = jax.random.normal(key, (12, 2))
        return theta, complete.sample(key, theta)

    theta, x = map(np.asarray, draw(key))
    # One of a kind, a whole categorical column, and one count.
    missing = np.array([1, 2, 4, 6, 7, 8, 9])
    holes = x.copy()
    holes[missing] = np.nan
    log_prob, grad = map(np.asarray, jax.jit(jax.value_and_grad(observed.log_prob))(theta, holes))
    per_dim = np.asarray(jax.jit(complete.log_prob_per_dim)(theta, x))
    kept = np.setdiff1d(np.arange(12), missing)
    np.testing.assert_allclose(log_prob, per_dim[kept].sum(), rtol=1e-5)
    assert np.all(np.asarray(jax.jit(observed.log_prob_per_dim)(theta, holes))[missing] == 0)
    assert np.all(grad[missing] == 0)
    whole = np.asarray(jax.jit(jax.grad(complete.log_prob))(theta, x))
    np.testing.assert_allclose(grad[kept], whole[kept], rtol=1e-5)


def test_a_row_of_nothing_but_missing_values_has_no_nats(row):
    observed = likelihoods.missing_at_nan(row.likelihood)
    nothing = row.x([np.nan] * row.width)
    value_and_grad = jax.jit(jax.value_and_grad(observed.log_prob))
    for value in row.extreme:
        theta = np.full((row.width, row.likelihood.theta_dim), value, np.float32)
        log_prob, grad = value_and_grad(theta, nothing)
        assert log_prob == 0
        assert np.all(np.asarray(grad) == 0)


def test_a_complete_row_is_as_it_was(row):
    observed = likelihoods.missing_at_nan(row.likelihood)
    pairs = itertools.product(row.thetas, (row.xs[0], row.xs[-1]))
    thetas, xs = zip(*[(row.theta(theta), row.x(x)) for theta, x in pairs], strict=True)
    # Not compiled as one program, which rounds otherwise where its operations are fused otherwise.
    same = [
        jax.vmap(jax.value_and_grad(one.log_prob))(np.stack(thetas), np.stack(xs))
        for one in (observed, row.likelihood)
    ]
    jax.tree.map(np.testing.assert_array_equal, *same)


def test_words_are_drawn_as_often_as_they_are_probable():
    row = ROWS["tokens"]
    for theta, draws in zip(row.thetas, row.samples, strict=True):
        p = np.exp(theta[1:]) / np.exp(theta[1:]).sum()
        shares = (draws == row.xs).mean(axis=0)
        # Four standard errors; the last term is for a word that is almost surely never drawn.
        tolerance = 4 * np.sqrt(p * (1 - p) / len(draws)) + 4 / len(draws)
        assert np.all(abs(shares - p) < tolerance), theta


def test_what_fills_a_sentence_up_counts_nothing(key):
    likelihood = likelihoods.tokens(5)
    theta, x = np.asarray(jax.random.normal(key, (4, 5))), np.array([3.0, 1.0, 0.0, 0.0], "f")
    log_prob, grad = map(np.asarray, jax.jit(jax.value_and_grad(likelihood.log_prob))(theta, x))
    assert log_prob == jax.jit(likelihood.log_prob)(theta[:2], x[:2])
    assert np.all(grad[2:] == 0)
    # Nothing is to be gained or lost by the logit of the token that has no probability.
    assert np.all(grad[:, 0] == 0)
    assert np.all(grad[:2, 1:] != 0)


def test_the_sign_of_a_word_does_not_matter(key):
    log_prob_per_dim = jax.jit(likelihoods.tokens(5).log_prob_per_dim)
    theta, x = jax.random.normal(key, (5, 5)), np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(log_prob_per_dim(theta, -x), log_prob_per_dim(theta, x))


def test_an_extreme_logit_of_one_word_stays_finite():
    value_and_grad = jax.jit(jax.value_and_grad(likelihoods.tokens(5).log_prob))
    for place in range(5):
        theta = np.full((1, 5), -200.0, np.float32)
        theta[0, place] = 200.0
        for word in range(1, 5):
            log_prob, grad = value_and_grad(theta, np.full(1, word, np.float32))
            # By what the others differ from the highest; where none but token 0 is high, ln 4.
            expected = -np.log(4) if place == 0 else 0.0 if place == word else -400.0
            assert log_prob == pytest.approx(expected, abs=1e-4)
            assert np.all(np.isfinite(grad))


def test_a_word_has_no_mean():
    with pytest.raises(ValueError, match="a token has no mean: its most probable value"):
        likelihoods.tokens(5).mean(jnp.zeros((3, 5)))


def test_a_category_that_is_no_category_has_no_nats():
    assert log_prob(likelihoods.categorical(), [[0.3], [2.0]], [0.0, 0.0]) == 0


@pytest.mark.parametrize("logit", [0.4999, 0.5, 0.5001])
def test_the_continuous_bernoulli_is_smooth_where_its_two_forms_meet(logit):
    with jax.enable_x64(True):
        likelihood = likelihoods.continuous_bernoulli()
        zero = log_prob(likelihood, [[logit]], [0.0])
        assert zero == pytest.approx(np.log(logit / np.expm1(logit)), abs=1e-7)
        mean = float(jax.jit(likelihood.mean)(jnp.array([[logit]]))[0])
        assert mean == pytest.approx(1 / -np.expm1(-logit) - 1 / logit, abs=1e-7)


def test_the_saturated_bernoulli_keeps_its_gradient():
    grad = jax.jit(jax.grad(likelihoods.bernoulli().log_prob))
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
        (likelihoods.beta_binomial, 1),
        (likelihoods.discretized_logistic_mixture, 0),
        (lambda value: likelihoods.discretized_logistic_mixture(levels=value), 1),
        (likelihoods.student_t, 1.0),
        (likelihoods.student_t, float("inf")),
        (likelihoods.student_t, float("nan")),
        (lambda value: likelihoods.student_t(min_scale=value), 0.0),
        (likelihoods.tokens, 1),
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
