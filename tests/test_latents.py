"""Active units and the parts of the KL, against closed forms, integrals and NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy import stats
from scipy.special import logsumexp

from vae_jax.evaluation.latents import (
    ElboSurgery,
    active_units,
    elbo_surgery,
    encode_all,
    posterior_mean_variance,
)
from vae_jax.gaussian import reparameterize
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.preprocess import as_stored, binarize_dynamic
from vae_jax.types import Normal

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# float32 keeps a log density of some ten nats to 1e-6; sums of a few of them stay under this.
ROUNDING = 2e-5


def normal(mean, log_var) -> Normal:
    mean = jnp.asarray(mean, jnp.float32)
    return Normal(mean, jnp.broadcast_to(jnp.asarray(log_var, jnp.float32), mean.shape))


def mixture(n: int, latent: int, seed: int = 0) -> Normal:
    """Posteriors that overlap, of unlike widths and with dimensions that are not independent."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(size=(n, latent)) @ rng.normal(size=(latent, latent)) / np.sqrt(latent)
    return normal(mean, rng.uniform(-3, 0, (n, latent)))


def exact_kl(posteriors: Normal) -> np.ndarray:
    mean, log_var = (np.asarray(leaf, np.float64) for leaf in posteriors)
    return ((mean**2 + np.exp(log_var) - 1 - log_var) / 2).mean(axis=0)


def close(found, expected, error) -> bool:
    """Within four standard errors and the rounding; the errors are finite and say something."""
    error = np.asarray(error)
    assert np.all(np.isfinite(error))
    return bool(np.all(abs(np.asarray(found) - expected) <= 4 * error + ROUNDING))


# ---- the decomposition ----


def test_posteriors_that_are_the_prior_hold_nothing(key):
    parts = elbo_surgery(key, normal(np.zeros((40, 3)), 0.0))
    for name in ("kl", "mutual_information", "marginal_kl", "total_correlation", "dimension_kl"):
        assert abs(getattr(parts, name)) < ROUNDING, name
    for per_dim in (parts.mutual_information_per_dim, parts.marginal_kl_per_dim):
        np.testing.assert_allclose(per_dim, np.zeros(3), atol=ROUNDING)
    assert parts.standard_error < ROUNDING


def test_equal_posteriors_off_the_prior_are_all_marginal(key):
    # q(z) is the one posterior: nothing is said of x, however large the KL.
    posteriors = normal(np.tile([1.0, -2.0, 0.0], (40, 1)), -1.0)
    parts = elbo_surgery(key, posteriors)
    np.testing.assert_allclose(parts.kl_per_dim, exact_kl(posteriors), rtol=1e-6)
    assert abs(parts.mutual_information) < ROUNDING
    assert abs(parts.total_correlation) < ROUNDING
    np.testing.assert_allclose(parts.marginal_kl_per_dim, exact_kl(posteriors), atol=ROUNDING)


def test_posteriors_apart_tell_which_example(key):
    # Twenty standard deviations from one to the next: where one is, the others' densities
    # are under exp(-50) in all but one draw of 1e20.
    n = 40
    line = 2.0 * np.arange(n)
    # In dimension 0 and, in another order, in dimension 1; dimension 2 is the prior.
    mean = np.stack([line, np.random.default_rng(0).permutation(line), np.zeros(n)], axis=1)
    posteriors = normal(mean, np.array([2 * np.log(0.1), 2 * np.log(0.1), 0.0]))
    parts = elbo_surgery(key, posteriors)
    # The KL is 2,000 nats, yet the information is exact to what float32 keeps of it.
    assert parts.information_bound == pytest.approx(np.log(n))
    assert parts.mutual_information == pytest.approx(np.log(n), abs=ROUNDING)
    expected = np.log(n) * np.array([1, 1, 0])
    np.testing.assert_allclose(parts.mutual_information_per_dim, expected, atol=ROUNDING)
    # Each of the two says all that the other says.
    assert parts.total_correlation == pytest.approx(np.log(n), abs=2 * ROUNDING)
    assert parts.standard_error < ROUNDING
    np.testing.assert_allclose(parts.kl_per_dim, exact_kl(posteriors), rtol=1e-5, atol=1e-6)


def test_one_informative_dimension_carries_everything(key):
    rng = np.random.default_rng(0)
    mean = np.stack([np.zeros(40), 3 * rng.normal(size=40), np.zeros(40)], axis=1)
    posteriors = normal(mean, np.array([0.0, -2.0, 0.0]))
    parts = elbo_surgery(key, posteriors)
    for per_dim in (
        parts.kl_per_dim,
        parts.mutual_information_per_dim,
        parts.marginal_kl_per_dim,
    ):
        np.testing.assert_allclose(np.delete(per_dim, 1), 0, atol=ROUNDING)
    # The joint terms are those of one dimension, sample by sample.
    assert abs(parts.total_correlation) < ROUNDING
    assert parts.standard_error_total_correlation < ROUNDING
    assert 1 < parts.mutual_information < parts.kl


def on_grid(posteriors: Normal) -> dict[str, np.ndarray]:
    """The terms of two dimensions by the trapezoid rule in float64, with no sample."""
    mean, log_var = (np.asarray(leaf, np.float64) for leaf in posteriors)
    scale = np.exp(log_var / 2)
    low, high = (mean - 9 * scale).min(), (mean + 9 * scale).max()
    # A smooth density on a grid finer than half of the narrowest scale: the rule converges
    # geometrically, and the tails beyond nine scales hold 1e-18.
    grid = np.arange(low, high, scale.min() / 4)
    step = grid[1] - grid[0]
    densities = stats.norm.pdf(grid, mean[:, :, None], scale[:, :, None])  # [n 2 grid]
    joint = np.einsum("ia,ib->ab", densities[:, 0], densities[:, 1]) / len(mean)
    marginals = densities.mean(axis=0)
    log_prior = stats.norm.logpdf(grid)

    def integral(density: np.ndarray, log_ratio: np.ndarray) -> float:
        return float(np.sum(density * log_ratio, where=density > 0)) * step**density.ndim

    with np.errstate(divide="ignore", invalid="ignore"):
        log_joint, log_marginals = np.log(joint), np.log(marginals)
        product = log_marginals[0][:, None] + log_marginals[1]
        per_dim = [
            integral(marginal, log_marginal - log_prior)
            for marginal, log_marginal in zip(marginals, log_marginals, strict=True)
        ]
        marginal_kl = integral(joint, log_joint - log_prior[:, None] - log_prior)
        total_correlation = integral(joint, log_joint - product)
    return {
        "marginal_kl": np.array(marginal_kl),
        "marginal_kl_per_dim": np.array(per_dim),
        "total_correlation": np.array(total_correlation),
        "mutual_information": exact_kl(posteriors).sum() - marginal_kl,
    }


@pytest.mark.parametrize("n", [2, 5])
def test_few_posteriors_agree_with_numerical_integration(key, n):
    posteriors = mixture(n, 2, seed=n)
    parts = elbo_surgery(key, posteriors, num_samples=30_000 // n, batch_size=1000)
    expected = on_grid(posteriors)
    # What is tested is not nothing.
    assert expected["total_correlation"] > 0.05
    np.testing.assert_allclose(parts.kl_per_dim, exact_kl(posteriors), rtol=1e-5)
    errors = {
        "marginal_kl": parts.standard_error,
        "mutual_information": parts.standard_error,
        "marginal_kl_per_dim": parts.standard_error_per_dim,
        "total_correlation": parts.standard_error_total_correlation,
    }
    for name, error in errors.items():
        assert np.all(np.asarray(error) < 0.01)
        assert close(getattr(parts, name), expected[name], error), name


def by_hand(key: jax.Array, posteriors: Normal, num_samples: int) -> dict[str, np.ndarray]:
    """All samples against all posteriors at once, in float64."""
    mean, log_var = (np.asarray(leaf, np.float64) for leaf in posteriors)
    n, latent = mean.shape

    def draw(example: jax.Array, sample: jax.Array) -> jax.Array:
        q = jax.tree.map(lambda leaf: leaf[example], posteriors)
        _, key_z = jax.random.split(jax.random.fold_in(key, example))
        return reparameterize(jax.random.fold_in(key_z, sample), q)

    every = jax.vmap(jax.vmap(draw, (None, 0)), (0, None))
    zs = jax.jit(every)(jnp.arange(n), jnp.arange(num_samples))
    zs = np.asarray(zs, np.float64).reshape(-1, 1, latent)
    own = np.repeat(np.arange(n), num_samples)
    per_dim = stats.norm.logpdf(zs, mean, np.exp(log_var / 2))  # [rows n latent]
    log_q = per_dim[np.arange(len(own)), own]
    log_prior = stats.norm.logpdf(zs[:, 0])
    log_joint = logsumexp(per_dim.sum(axis=2), axis=1) - np.log(n)
    log_marginals = logsumexp(per_dim, axis=1) - np.log(n)
    return {
        "information": log_q.sum(axis=1) - log_joint,
        "kl": (log_q - log_prior).sum(axis=1),
        "information_per_dim": log_q - log_marginals,
        "kl_per_dim": log_q - log_prior,
    }


def controlled(information: np.ndarray, sampled_kl: np.ndarray, kl: float):
    """The intercept of a regression where the control is at its mean, and its error."""
    slope, intercept = np.polyfit(sampled_kl - kl, information, 1)
    residuals = information - intercept - slope * (sampled_kl - kl)
    rows = len(residuals)
    return intercept, np.sqrt(np.sum(residuals**2) / (rows - 2) / rows), residuals


@pytest.mark.parametrize(
    ("n", "latent", "num_samples", "batch_size"),
    # Batches that do not divide, that do, that are single, that are longer than one example.
    [(37, 3, 2, 8), (40, 3, 1, 10), (5, 1, 3, 1), (1, 2, 9, 4)],
)
def test_streamed_terms_are_those_of_numpy(key, n, latent, num_samples, batch_size):
    posteriors = mixture(n, latent)
    parts = elbo_surgery(key, posteriors, num_samples=num_samples, batch_size=batch_size)
    sampled, kl = by_hand(key, posteriors, num_samples), exact_kl(posteriors)
    joint = controlled(sampled["information"], sampled["kl"], kl.sum())
    dims = [
        controlled(sampled["information_per_dim"][:, j], sampled["kl_per_dim"][:, j], kl[j])
        for j in range(latent)
    ]
    assert parts.mutual_information == pytest.approx(joint[0], abs=ROUNDING)
    assert parts.standard_error == pytest.approx(joint[1], rel=1e-4, abs=ROUNDING)
    found = parts.mutual_information_per_dim
    np.testing.assert_allclose(found, [dim[0] for dim in dims], atol=ROUNDING)
    found = parts.standard_error_per_dim
    np.testing.assert_allclose(found, [dim[1] for dim in dims], rtol=1e-4, atol=ROUNDING)
    residuals, rows = sum(dim[2] for dim in dims) - joint[2], n * num_samples
    error = np.sqrt(np.sum(residuals**2) / (rows - 2) / rows)
    found = parts.standard_error_total_correlation
    assert found == pytest.approx(error, rel=1e-4, abs=ROUNDING)


def test_the_key_of_the_posteriors_may_be_that_of_the_samples(key):
    """What binarised an image is not what its latent variables are drawn with."""
    vae = make_vae(
        *mlp((), x_shape=(4,), latent_dim=4, theta_dim=1), bernoulli(), x_shape=(4,), latent_dim=4
    )
    vae = vae._replace(encode=lambda params, x: Normal(2 * x - 1, jnp.zeros(4)))
    q = encode_all(key, vae, binarize_dynamic, {}, jnp.full((1000, 4), 128, jnp.uint8))
    found, other = elbo_surgery(key, q), elbo_surgery(jax.random.key(7), q)
    for name in ("mutual_information", "total_correlation"):
        ending = "" if name == "mutual_information" else f"_{name}"
        errors = [getattr(one, f"standard_error{ending}") for one in (found, other)]
        assert close(getattr(found, name), getattr(other, name), np.hypot(*errors))


def test_the_batch_size_changes_nothing_but_rounding(key):
    posteriors = mixture(40, 3)
    whole, short = (elbo_surgery(key, posteriors, batch_size=size) for size in (128, 7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=ROUNDING), whole, short)


def test_the_parts_add_up(key):
    parts = elbo_surgery(key, mixture(40, 3))
    apart = parts.total_correlation + parts.dimension_kl
    assert parts.marginal_kl == pytest.approx(float(apart), abs=ROUNDING)
    total = parts.mutual_information + parts.marginal_kl
    assert parts.kl == pytest.approx(float(total), abs=ROUNDING)
    assert parts.dimension_kl == pytest.approx(float(parts.marginal_kl_per_dim.sum()))
    assert parts.kl == pytest.approx(exact_kl(mixture(40, 3)).sum(), rel=1e-5)


def chi_square(covariance: np.ndarray, variance: float) -> float:
    """chi^2(q(z | x) || q(z)), averaged, for q(z | x) = N(m, v I) and q(z) = N(0, covariance)."""
    return float(np.prod(np.linalg.eigvalsh(covariance) / variance)) - 1


def test_a_correlated_aggregate_has_the_total_correlation_of_its_normal(key):
    n, rho, variance = 4096, 0.6, 0.3
    covariance = np.array([[1, rho], [rho, 1]])
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(covariance - variance * np.eye(2))
    means = rng.normal(size=(n, 2)) @ root.T
    posteriors = normal(means, np.log(variance))
    parts = elbo_surgery(key, posteriors, num_samples=4)

    # The correlation that the mixture really has.
    of_mixture = np.cov(means.T, bias=True) + variance * np.eye(2)
    squared = of_mixture[0, 1] ** 2 / (of_mixture[0, 0] * of_mixture[1, 1])
    closed_form = -0.5 * np.log(1 - squared)
    # With g the normal of the mixture's own moments, TC - closed form is
    # KL(q_n || g) - sum_j KL(q_n,j || g_j), where every KL is at most that to the normal the
    # means were drawn for. Its expectation over the n means is at most log(1 + chi^2 / n).
    # Twice that leaves room for how it varies.
    joint = np.log1p(chi_square(covariance, variance) / n)
    single = np.log1p(chi_square(np.eye(1), variance) / n)
    tolerance = 4 * float(parts.standard_error_total_correlation) + 2 * max(joint, 2 * single)
    assert tolerance < 0.1 * closed_form
    assert abs(float(parts.total_correlation) - closed_form) < tolerance


# ---- on the linear-Gaussian model, whose aggregate is the prior ----


def linear_posteriors(n: int) -> tuple[np.ndarray, Normal]:
    """1 - 1 / precision of each dimension, which is Var(E[z | x]), and n posteriors."""
    columns, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 3)))
    moved = np.array([0.6, 0.02, 0.004])
    scale = 0.5
    # w^2 / scale^2 = v / (1 - v) makes the variance of the mean v.
    weights = columns * scale * np.sqrt(moved / (1 - moved))
    model = oracles.LinearGaussian(weights, np.ones(6), scale)
    xs = oracles.sample(model, np.random.default_rng(1), n)
    vae = oracles.as_vae(model)
    data = jnp.asarray(xs, jnp.float32)
    return moved, encode_all(jax.random.key(0), vae, as_stored, {}, data, batch_size=300)


def test_the_variance_of_the_means_is_that_of_the_closed_form():
    n = 4000
    moved, posteriors = linear_posteriors(n)
    # The variance of a sample variance of n normal numbers is 2 v^2 / n.
    error = moved * np.sqrt(2 / n)
    assert close(posterior_mean_variance(posteriors), moved, error)
    assert active_units(posteriors) == 2
    # The threshold is a variance, and each of the three can be the limit.
    counts = [int(active_units(posteriors, threshold)) for threshold in (0.0, 0.003, 0.3, 0.9)]
    assert counts == [3, 3, 1, 0]


def test_a_unit_at_the_threshold_is_not_active():
    means = np.array([[1.0, 0.5, 0.0], [-1.0, -0.5, 0.0]])
    posteriors = normal(means + 100, 0.0)  # an offset is not activity
    np.testing.assert_array_equal(posterior_mean_variance(posteriors), [1, 0.25, 0])
    assert [int(active_units(posteriors, limit)) for limit in (0.0, 0.25, 1.0)] == [2, 1, 0]


def test_the_true_posterior_leaves_only_information(key):
    n = 2048
    moved, posteriors = linear_posteriors(n)
    parts = elbo_surgery(key, posteriors)
    # q_n is n draws of N(0, I): its KL is that of the sample, at most log(1 + chi^2 / n).
    variances = np.diag(1 - moved)
    finite = np.log1p(chi_square(np.linalg.inv(variances), 1.0) / n)
    slack = 4 * float(parts.standard_error) + 2 * finite
    assert slack < 0.02
    assert -4 * parts.standard_error < parts.marginal_kl < slack
    assert abs(parts.mutual_information - parts.kl) < slack
    # -1/2 log(1 - v) each, as the KL of the data is its expectation (sd of m^2 / 2: v / sqrt 2).
    population = -0.5 * np.log(1 - moved)
    error = np.asarray(parts.standard_error_per_dim) + moved / np.sqrt(2 * n)
    gaps = abs(np.asarray(parts.mutual_information_per_dim) - population)
    assert np.all(gaps < 4 * error + 2 * finite)


@pytest.mark.parametrize("narrow", [-9.0, -3.0, -0.5])
def test_the_analytic_kl_never_adds_noise(key, narrow):
    posteriors = normal(mixture(256, 3).mean, narrow)
    # In float64: the narrowest are so far apart that the information differs from sample to sample
    # by 2e-4 nats, of which the 1e-6 that float32 keeps is too large a part.
    with jax.enable_x64(True):
        posteriors = jax.tree.map(lambda leaf: leaf.astype(float), posteriors)
        parts, sampled = elbo_surgery(key, posteriors), by_hand(key, posteriors, 1)
    plain = sampled["information"]
    analytic = plain - sampled["kl"]  # the exact KL adds a constant
    least = min(plain.std(ddof=1), analytic.std(ddof=1)) / np.sqrt(256)
    # Least squares; its second degree of freedom costs sqrt(255 / 254).
    assert float(parts.standard_error) <= least * np.sqrt(255 / 254) * (1 + 1e-9)


def test_the_standard_errors_are_those_of_the_estimates(key):
    # Two posteriors that mirror each other: no part of the spread lies between them, so that
    # here the errors are not too large.
    posteriors = normal([[-0.7, 0.6], [0.7, -0.6]], [-1.0, -0.5])
    repeats = 1000

    @jax.jit
    def repeat(keys: jax.Array) -> ElboSurgery:
        return jax.vmap(lambda k: elbo_surgery(k, posteriors, num_samples=150))(keys)

    parts = repeat(jax.random.split(key, repeats))
    expected = on_grid(posteriors)
    for estimates, errors, name in (
        (parts.mutual_information, parts.standard_error, "mutual_information"),
        (parts.marginal_kl_per_dim, parts.standard_error_per_dim, "marginal_kl_per_dim"),
        (
            parts.total_correlation,
            parts.standard_error_total_correlation,
            "total_correlation",
        ),
    ):
        estimates, errors = np.asarray(estimates), np.asarray(errors)
        spread, error = estimates.std(axis=0, ddof=1), np.sqrt((errors**2).mean(axis=0))
        # The deviation of a standard deviation of R numbers of kurtosis k is
        # sqrt((k - 1) / R) / 2 of it.
        kurtosis = stats.kurtosis(estimates, axis=0, fisher=False)
        assert np.all(abs(spread / error - 1) < 4 * np.sqrt((kurtosis - 1) / repeats) / 2), name
        # And without bias, but for that of the slope: 1 / 300 of the noise of one sample.
        bias = error * np.sqrt(300) / 300
        gap = abs(estimates.mean(axis=0) - expected[name])
        assert np.all(gap < 4 * spread / np.sqrt(repeats) + bias), name


# ---- use ----


def test_a_population_leads_with_its_axis(key):
    members = [mixture(40, 3, seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    parts = jax.vmap(lambda posteriors: elbo_surgery(key, posteriors))(stacked)
    assert parts.marginal_kl_per_dim.shape == (2, 3)
    for i, member in enumerate(members):
        alone = elbo_surgery(key, member)
        for name in ("kl", "marginal_kl", "total_correlation", "dimension_kl"):
            found, expected = getattr(parts, name)[i], getattr(alone, name)
            np.testing.assert_allclose(found, expected, atol=ROUNDING)


def test_a_second_call_does_not_compile(key):
    elbo_surgery(key, mixture(40, 3, seed=0))
    jitted: Any = elbo_surgery
    before = jitted._cache_size()
    elbo_surgery(jax.random.key(5), mixture(40, 3, seed=1))
    assert jitted._cache_size() == before


def test_memory_does_not_grow_with_the_square_of_the_data(key):
    n, latent = 20_000, 10
    shapes = jax.eval_shape(lambda: normal(jnp.zeros((n, latent)), 0.0))
    compiled: Any = elbo_surgery.lower(key, shapes).compile()
    rows, tile = 4 * n * latent, 4 * 128**2 * latent
    # A few copies of what it keeps and a few tiles, far from the 1,600 MB of n^2 numbers.
    assert compiled.memory_analysis().temp_size_in_bytes < 10 * (rows + tile) < 20e6


def test_few_samples_have_no_standard_error(key):
    parts = elbo_surgery(key, mixture(2, 2))
    assert jnp.isfinite(parts.mutual_information)
    assert jnp.isnan(parts.standard_error)
    assert jnp.isnan(parts.standard_error_per_dim).all()
    assert jnp.isfinite(elbo_surgery(key, mixture(3, 2)).standard_error)


@pytest.mark.parametrize("log_var", [-30.0, 20.0])
def test_the_widest_and_narrowest_posteriors_stay_finite(key, log_var):
    parts = elbo_surgery(key, normal(mixture(40, 3).mean * 50, log_var))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in parts)


def test_every_example_keeps_its_own_bits(key, digits):
    networks = mlp((16,), x_shape=(28, 28, 1), latent_dim=3, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(28, 28, 1), latent_dim=3)
    params, data = vae.init(key), jnp.asarray(digits[:11])

    @jax.jit
    def encode(i: jax.Array) -> Normal:
        # The bits that `estimate_elbo` and `estimate_log_likelihood` see too.
        key_x, _ = jax.random.split(jax.random.fold_in(key, i))
        return vae.encode(params, binarize_dynamic(key_x, data[i]))

    one_by_one = [encode(i) for i in range(11)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    for batch_size in (1, 4, 1000):
        found = encode_all(key, vae, binarize_dynamic, params, data, batch_size=batch_size)
        # The same bits; a product of another shape may be summed in another order.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    other = encode_all(jax.random.key(1), vae, binarize_dynamic, params, data)
    assert np.abs(other.mean - expected.mean).max() > 1e-3


def test_no_data_are_refused(key, digits):
    networks = mlp((4,), x_shape=(28, 28, 1), latent_dim=2, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(28, 28, 1), latent_dim=2)
    params, data = vae.init(key), jnp.asarray(digits[:4])
    with pytest.raises(ValueError, match="0 examples in batches of 1000: at least 1"):
        encode_all(key, vae, binarize_dynamic, params, data[:0])
    with pytest.raises(ValueError, match="4 examples in batches of 0: at least 1"):
        encode_all(key, vae, binarize_dynamic, params, data, batch_size=0)


@pytest.mark.parametrize("use", [posterior_mean_variance, active_units, "surgery"])
@pytest.mark.parametrize("shape", [(0, 2), (3,), (2, 5, 3)])
def test_posteriors_of_another_shape_are_refused(key, use, shape):
    posteriors = Normal(jnp.zeros(shape), jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"posteriors of shape .*: \[n latent\]"):
        elbo_surgery(key, posteriors) if use == "surgery" else use(posteriors)


@pytest.mark.parametrize("threshold", [-0.01, float("nan"), float("inf"), -float("inf")])
def test_a_threshold_that_is_no_variance_is_refused(threshold):
    with pytest.raises(ValueError, match=f"threshold {threshold}: finite and at least 0"):
        active_units(mixture(3, 2), threshold)


@pytest.mark.parametrize("bad", [{"num_samples": 0}, {"num_samples": -2}, {"batch_size": 0}])
def test_no_sample_is_refused(key, bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} {value}.*at least 1 is needed"):
        elbo_surgery(key, mixture(3, 2), **bad)
