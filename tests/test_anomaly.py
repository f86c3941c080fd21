"""Scores and thresholds, on a model whose every quantity is known, and on pictures."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jaxtyping import TypeCheckError
from scipy import stats
from sklearn.datasets import load_breast_cancer

from experiments._anomaly_report import above_normal, by_column
from experiments._folds import split_of
from experiments._scores import RowScorer
from vae_jax import estimator
from vae_jax.data import Column, Table, fit_encoding
from vae_jax.evaluation import (
    AnomalyScores,
    anomaly_scores,
    conformal_p_values,
    log_likelihood,
    threshold_at,
)
from vae_jax.likelihoods import bernoulli, gaussian
from vae_jax.model import VAE, batch_elbo_terms, make_vae
from vae_jax.networks import conv, mlp, two_layer_mlp
from vae_jax.tabular import make_table_vae
from vae_jax.text import make_text_vae
from vae_jax.two_layer import make_two_layer_vae

pytestmark = pytest.mark.usefixtures("compiled_quickly")


class Linear(NamedTuple):
    model: oracles.LinearGaussian
    vae: VAE
    xs: jax.Array
    scores: AnomalyScores


def scores_of(key: jax.Array, vae: VAE, params, xs: jax.Array, num_samples: int = 128):
    def one(x: jax.Array) -> AnomalyScores:
        return anomaly_scores(key, vae, params, x, num_samples)

    return jax.jit(jax.vmap(one))(xs)


@pytest.fixture(scope="module")
def linear() -> Linear:
    rng = np.random.default_rng(0)
    model = oracles.random_model(rng)
    xs = jnp.asarray(oracles.sample(model, rng, 40), jnp.float32)
    vae = oracles.as_vae(model)
    return Linear(model, vae, xs, scores_of(jax.random.key(0), vae, {}, xs, 400))


def posterior(model: oracles.LinearGaussian, xs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances; W'W is diagonal."""
    precision = (model.weights**2).sum(axis=0) / model.scale**2 + 1
    return (xs - model.offset) @ model.weights / model.scale**2 / precision, 1 / precision


def test_scores_are_those_of_the_closed_forms(linear):
    model, xs, scores = linear.model, np.asarray(linear.xs, np.float64), linear.scores
    mean, variance = posterior(model, xs)
    fitted = mean @ model.weights.T + model.offset
    per_dim = -stats.norm.logpdf(xs, fitted, model.scale)
    np.testing.assert_allclose(scores.per_dim, per_dim, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores.reconstruction, per_dim.sum(axis=1), rtol=1e-5)
    kl = (mean**2 + variance - 1 - np.log(variance)) / 2
    np.testing.assert_allclose(scores.kl_per_dim, kl, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores.kl, kl.sum(axis=1), rtol=1e-5)
    # With the true posterior the importance-weighted estimate is exact.
    log_p = oracles.log_marginal(model, xs)
    np.testing.assert_allclose(scores.neg_log_likelihood, -log_p, atol=2e-5)


def test_the_elbo_is_its_expectation_within_the_noise(linear):
    model, xs, k = linear.model, np.asarray(linear.xs, np.float64), 400
    mean, variance = posterior(model, xs)
    # With the true posterior the ELBO is log p(x). Over z ~ N(m, v) the cost is quadratic,
    # sum_j a_j e_j^2 / 2 - b_j e_j with e ~ N(0, v): its variance in closed form.
    a = (model.weights**2).sum(axis=0) / model.scale**2
    fitted = mean @ model.weights.T + model.offset
    b = (xs - fitted) @ model.weights / model.scale**2
    of_cost = (a**2 * variance**2 / 2 + b**2 * variance).sum(axis=1)
    error = np.sqrt(of_cost / k)
    apart = abs(linear.scores.neg_elbo + oracles.log_marginal(model, xs))
    # One of 40 rows is beyond four standard errors once in 400 keys.
    assert np.all(apart < 4 * error)


def test_the_noise_of_different_rows_is_their_own(linear):
    """Noise that all rows shared would not be averaged out by the number of them."""
    rng, k = np.random.default_rng(1), 4
    xs = oracles.sample(linear.model, rng, 400).astype(np.float32)
    scored = RowScorer(linear.vae, k)({}, xs)
    apart = scored.scores["neg_elbo"] + oracles.log_marginal(linear.model, xs.astype(np.float64))
    # The bound is exact on average, and the rows' errors are independent.
    assert abs(apart.mean()) < 4 * apart.std(ddof=1) / np.sqrt(len(apart))
    twice = RowScorer(linear.vae, k)({}, np.concatenate([xs[3:8], xs[3:8][::-1]]))
    for scores in twice.scores.values():
        np.testing.assert_array_equal(scores[:5], scores[:4:-1])


def test_the_dimensions_add_up(linear):
    scores = linear.scores
    np.testing.assert_allclose(scores.per_dim.sum(axis=1), scores.reconstruction, rtol=1e-6)
    np.testing.assert_allclose(scores.kl_per_dim.sum(axis=1), scores.kl, rtol=1e-6)


def test_the_likelihood_is_that_of_log_likelihood(linear, key):
    one = anomaly_scores(key, linear.vae, {}, linear.xs[0], 30)
    estimate = log_likelihood(key, linear.vae, {}, linear.xs[0], 30)
    assert one.neg_log_likelihood == -estimate.log_likelihood


def test_the_same_key_gives_the_same_scores_and_another_others(linear, key):
    again = scores_of(key, linear.vae, {}, linear.xs, 400)
    jax.tree.map(np.testing.assert_array_equal, again, linear.scores)
    other = scores_of(jax.random.key(1), linear.vae, {}, linear.xs, 400)
    assert not np.any(other.neg_elbo == again.neg_elbo)
    np.testing.assert_array_equal(other.reconstruction, again.reconstruction)
    np.testing.assert_array_equal(other.kl, again.kl)


def test_a_score_does_not_depend_on_who_stands_beside(linear, key):
    backwards = scores_of(key, linear.vae, {}, linear.xs[::-1], 400)
    alone = scores_of(key, linear.vae, {}, linear.xs[7:8], 400)
    for name in AnomalyScores._fields:
        score = getattr(linear.scores, name)
        np.testing.assert_array_equal(getattr(backwards, name)[::-1], score)
        # In another shape XLA may sum in another order.
        np.testing.assert_allclose(getattr(alone, name)[0], score[7], rtol=1e-5, atol=1e-6)


def test_what_is_far_away_scores_higher(linear, key):
    far = scores_of(key, linear.vae, {}, linear.xs + 10, 16)
    for name in ("reconstruction", "neg_elbo", "neg_log_likelihood", "kl"):
        assert getattr(far, name).min() > getattr(linear.scores, name).max(), name


class Pictures(NamedTuple):
    vae: VAE
    params: dict
    xs: jax.Array
    scores: AnomalyScores


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    shape = (4, 4, 1)
    vae = make_vae(
        *mlp((6,), x_shape=shape, latent_dim=3, theta_dim=1),
        bernoulli(),
        x_shape=shape,
        latent_dim=3,
    )
    params = vae.init(jax.random.key(0))
    xs = jax.random.bernoulli(jax.random.key(1), 0.4, (5, *shape)).astype(jnp.float32)
    return Pictures(vae, params, xs, scores_of(jax.random.key(2), vae, params, xs))


def test_pictures_have_a_score_for_each_pixel(pictures):
    scores = pictures.scores
    assert scores.per_dim.shape == pictures.xs.shape
    assert scores.kl_per_dim.shape == (5, 3)
    for name in ("reconstruction", "neg_elbo", "neg_log_likelihood", "kl"):
        assert getattr(scores, name).shape == (5,)
        assert jnp.all(jnp.isfinite(getattr(scores, name)))
    np.testing.assert_allclose(scores.per_dim.sum((1, 2, 3)), scores.reconstruction, rtol=1e-5)
    # The importance-weighted bound is the tighter one.
    assert jnp.all(scores.neg_log_likelihood < scores.neg_elbo)


def test_a_pixel_is_scored_at_the_mean_of_the_posterior(pictures):
    vae, params, x = pictures.vae, pictures.params, pictures.xs[0]
    logits = vae.decode(params, vae.encode(params, x).mean)[..., 0]
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    expected = -np.where(x == 1, np.log(p), np.log1p(-p))
    np.testing.assert_allclose(pictures.scores.per_dim[0], expected, rtol=1e-5)


def mixed_table() -> Table:
    """Two numbers, a category and a yes or no, with gaps."""
    rng = np.random.default_rng(0)
    names = ("width", "colour", "length", "ripe")
    kinds = ("continuous", "categorical", "continuous", "binary")
    categories = ((), ("red", "green", "blue"), (), ("no", "yes"))
    values = np.stack(
        [
            rng.normal(size=30),
            rng.integers(3, size=30),
            rng.normal(size=30),
            rng.integers(2, size=30),
        ],
        axis=1,
    )
    values[::7, 0] = values[1::9, 1] = np.nan
    columns = tuple(map(Column, names, kinds, categories))
    return Table("fruit", values, columns, None, (), "made up", {}, ())


def a_table() -> tuple[VAE, jax.Array]:
    table = mixed_table()
    encoding = fit_encoding(table.values, table.columns)
    vae = make_table_vae(encoding.blocks, hidden=(4,), latent_dim=2, activation=jax.nn.tanh)
    return vae, jnp.asarray(encoding.encode(table.values[:9]))


def some_images() -> tuple[VAE, jax.Array]:
    shape = (8, 8, 1)
    networks = conv((4,), x_shape=shape, latent_dim=2, theta_dim=1, channels=(2, 3))
    vae = make_vae(*networks, bernoulli(), x_shape=shape, latent_dim=2)
    return vae, jax.random.bernoulli(jax.random.key(1), 0.4, (3, *shape)).astype(jnp.float32)


def some_sentences() -> tuple[VAE, jax.Array]:
    vae = make_text_vae(9, 6, embedding=3, hidden=4, latent_dim=2).vae
    return vae, jnp.array([[4.0, 3.0, 7.0, 1.0, 0.0, 0.0], [5.0, 1.0, 0.0, 0.0, 0.0, 0.0]])


def two_layers() -> tuple[VAE, jax.Array]:
    networks = two_layer_mlp(((8,), (5,)), x_shape=(6,), latent_dims=(3, 2), theta_dim=1)
    vae = make_two_layer_vae(*networks, bernoulli(), x_shape=(6,), latent_dims=(3, 2))
    return vae, jax.random.bernoulli(jax.random.key(1), 0.4, (3, 6)).astype(jnp.float32)


@pytest.mark.parametrize("model", [a_table, some_images, some_sentences, two_layers])
def test_every_kind_of_model_is_scored(model, key):
    vae, xs = model()
    # Nothing is left at 0: a model that was trained.
    params = jax.tree.map(lambda leaf: leaf + 0.1, vae.init(key))
    k = 5
    scores = scores_of(key, vae, params, xs, k)
    assert scores.per_dim.shape == xs.shape
    assert scores.kl_per_dim.shape == (len(xs), vae.latent_dim)
    totals = np.sum(np.asarray(scores.per_dim).reshape(len(xs), -1), axis=1)
    np.testing.assert_allclose(totals, scores.reconstruction, rtol=1e-5)
    # The same samples through the terms that are trained on, and their mean.
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(k))
    terms = batch_elbo_terms(jnp.broadcast_to(keys, (len(xs), k)), vae, params, xs)
    bounds = terms.log_lik - terms.kl_per_dim.sum(axis=-1)
    np.testing.assert_allclose(scores.neg_elbo, -bounds.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores.kl_per_dim, terms.kl_per_dim.mean(axis=1), rtol=1e-5)
    z = terms.z.mean(axis=1) if vae.is_layered else terms.q.mean[:, 0]
    costs = -jax.vmap(vae.log_lik, (None, 0, 0))(params, z, xs)
    np.testing.assert_allclose(scores.reconstruction, costs, rtol=1e-5)


def test_the_nats_of_a_column_are_those_of_its_features():
    """Of a table with gaps: a gap costs nothing, a category is the sum of its parts."""
    table = mixed_table()
    split = split_of(table, np.arange(20), np.arange(20, 30))
    vae = make_table_vae(split.encoding.blocks, hidden=(4,), latent_dim=2, activation=jax.nn.tanh)
    params, odd = vae.init(jax.random.key(0)), np.arange(10) >= 6
    scored = RowScorer(vae, 4)(params, split.test_features)
    missing = np.isnan(split.test_features)
    assert missing.any()
    assert np.all(scored.per_dim[missing] == 0)
    names = [table.columns[index].name for index in split.encoding.column_of]
    assert names.count("colour") == 3
    found = by_column(names, above_normal(scored.per_dim, odd))
    assert set(found) == {"width", "colour", "length", "ripe"}
    costs = scored.scores["reconstruction"]
    expected = costs[odd].mean() - costs[~odd].mean()
    assert sum(found.values()) == pytest.approx(expected, rel=1e-4)
    # -log p of the category that is there, by its probability.
    codes = table.values[20:, 1]
    own = np.array(names) == "colour"
    p = scored.reconstruction[:, own]
    seen = ~np.isnan(codes)
    picked = np.zeros(10)
    picked[seen] = -np.log(p[seen, codes[seen].astype(int)])
    assert found["colour"] == pytest.approx(picked[odd].mean() - picked[~odd].mean(), rel=1e-4)


def test_no_sample_is_refused(linear, key):
    with pytest.raises(ValueError, match="num_samples 0: at least 1 is needed"):
        anomaly_scores(key, linear.vae, {}, linear.xs[0], 0)


def test_a_decoder_of_another_shape_is_refused(linear, key):
    wrong = linear.vae._replace(decode=lambda params, z: jnp.zeros((4, 1)))
    with pytest.raises((ValueError, TypeCheckError), match=r"does not fit|theta"):
        anomaly_scores(key, wrong, {}, linear.xs[0], 4)


def test_a_share_of_the_scores_lies_above_the_threshold():
    scores = np.random.default_rng(0).normal(size=1000)
    for share in (0.001, 0.1, 0.5):
        assert (scores > threshold_at(scores, share)).sum() == round(1000 * share)


def test_the_threshold_is_interpolated():
    assert threshold_at(np.arange(5.0), 0.5) == 2
    assert threshold_at(np.arange(5.0), 0.1) == pytest.approx(3.6)
    assert threshold_at(np.array([3.0]), 0.1) == 3


def test_a_threshold_beside_an_infinite_score_is_the_lower_of_the_two():
    inf = np.inf
    assert threshold_at(np.array([1.0, 2.0, 3.0, inf]), 0.1) == 3
    assert threshold_at(np.array([1.0, inf, inf, inf]), 0.1) == inf
    assert threshold_at(np.array([1.0, 2.0, 3.0, inf]), 0.5) == 2.5


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8])
def test_bits_may_be_whole_numbers(key, dtype):
    networks = mlp((4,), x_shape=(3,), latent_dim=2, theta_dim=1)
    vae = make_vae(*networks, gaussian(0.5), x_shape=(3,), latent_dim=2)
    params, x = vae.init(key), jnp.array([0.0, 1.0, 1.0])
    expected = anomaly_scores(key, vae, params, x, 4)
    found = anomaly_scores(key, vae, params, x.astype(dtype), 4)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, 1.0, float("nan")])
def test_a_share_without_a_meaning_is_refused(share):
    with pytest.raises(ValueError, match=f"contamination {share}"):
        threshold_at(np.arange(5.0), share)


def test_a_threshold_needs_scores():
    with pytest.raises(ValueError, match="a score is NaN"):
        threshold_at(np.array([1.0, np.nan]), 0.1)
    with pytest.raises(ValueError, match="0 scores: at least 1 is needed"):
        threshold_at(np.empty(0), 0.1)


def test_p_values_are_the_formula():
    rng = np.random.default_rng(0)
    # Rounded, so that some of them are ties.
    calibration, scores = rng.normal(size=57).round(1), rng.normal(size=200).round(1)
    expected = (1 + (calibration >= scores[:, None]).sum(axis=1)) / 58
    np.testing.assert_array_equal(conformal_p_values(calibration, scores), expected)


def test_ties_count_against_an_alarm():
    calibration = np.array([1.0, 2.0, 2.0, 3.0])
    found = conformal_p_values(calibration, np.array([2.0, 2.0 + 1e-9, 9.0, -9.0]))
    np.testing.assert_allclose(found, [4 / 5, 2 / 5, 1 / 5, 1])


def test_infinite_scores_have_their_place():
    found = conformal_p_values(np.array([0.0, np.inf]), np.array([np.inf, -np.inf]))
    np.testing.assert_allclose(found, [2 / 3, 1])


@pytest.mark.parametrize(
    ("calibration", "scores", "message"),
    [
        ([], [1.0], "0 calibration scores"),
        ([1.0, np.nan], [1.0], "NaN"),
        ([1.0, 2.0], [np.nan], "NaN"),
    ],
)
def test_scores_without_a_place_are_refused(calibration, scores, message):
    with pytest.raises(ValueError, match=message):
        conformal_p_values(np.array(calibration), np.array(scores))


def false_alarms(ties: bool) -> np.ndarray:
    """The share of false alarms in each of 200 splits of normal data."""
    rng = np.random.default_rng(0)
    truth = oracles.random_model(rng)
    rates = []
    for _ in range(200):
        # The model is fitted on 15 rows only, so that it knows these far better than others:
        # a threshold by the training scores would alarm several times too often.
        xs = oracles.sample(truth, rng, 15 + 59 + 100)
        model = oracles.maximum_likelihood(xs[:15], 2)
        scores = -oracles.log_marginal(model, xs)
        scores = scores.round() if ties else scores
        rates.append((conformal_p_values(scores[15:74], scores[74:]) <= 0.1).mean())
    return np.array(rates)


def test_the_promise_of_conformal_p_values():
    n, alpha = 59, 0.1
    rates = false_alarms(ties=False)
    error = rates.std() / np.sqrt(len(rates))
    assert rates.mean() <= alpha + 3 * error
    # No more careful than the steps of 1 / (n + 1) make it.
    assert rates.mean() >= alpha - 1 / (n + 1) - 3 * error


def test_the_promise_holds_with_ties():
    rates = false_alarms(ties=True)
    assert rates.mean() <= 0.1 + 3 * rates.std() / np.sqrt(len(rates))


def test_the_promise_holds_for_a_trained_model_of_real_rows():
    """One model of some benign rows, 200 splits of the others into calibration and test."""
    table: Any = load_breast_cancer()
    rng, alpha = np.random.default_rng(0), 0.1
    benign = rng.permutation(table.data[table.target == 1])
    model = estimator.VAE(hidden=(8,), epochs=20, num_samples=8, random_state=0).fit(benign[:150])
    scores = -model.score_samples(benign[150:])
    rates = []
    for _ in range(200):
        # Given the rows, which of them calibrate is all that is random: the splits are
        # independent, and every row is as likely to stand on either side.
        dealt = rng.permutation(scores)
        rates.append((conformal_p_values(dealt[:99], dealt[99:]) <= alpha).mean())
    error = np.std(rates) / np.sqrt(len(rates))
    assert np.mean(rates) <= alpha + 3 * error
    assert np.mean(rates) >= alpha - 1 / 100 - 3 * error


def test_a_threshold_by_the_training_scores_breaks_the_promise():
    # What the calibration rows are for.
    rng = np.random.default_rng(0)
    truth = oracles.random_model(rng)
    rates = []
    for _ in range(50):
        xs = oracles.sample(truth, rng, 115)
        scores = -oracles.log_marginal(oracles.maximum_likelihood(xs[:15], 2), xs)
        rates.append((scores[15:] > threshold_at(scores[:15], 0.1)).mean())
    assert np.mean(rates) > 0.15
