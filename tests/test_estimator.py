import pickle
import re
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pandas
import pytest
from jaxtyping import TypeCheckError
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.impute import KNNImputer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from vae_jax.data import Block
from vae_jax.estimator import VAE
from vae_jax.estimator.checks import columns_of
from vae_jax.estimator.program import key_of, program_of
from vae_jax.evaluation import memory
from vae_jax.evaluation.noise import fingerprints

pytestmark = pytest.mark.usefixtures("compiled_quickly")

# One shape for most tests, so that they share what is compiled.
SMALL: dict[str, Any] = {"epochs": 3, "hidden": (4,), "num_samples": 4, "random_state": 0}


@parametrize_with_checks([VAE(epochs=2, hidden=(4,), num_samples=4)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def iris() -> np.ndarray:
    return np.asarray(load_iris(return_X_y=True)[0])


@pytest.fixture(scope="module")
def small(iris) -> VAE:
    return VAE(**SMALL).fit(iris)


def params_of(vae: VAE) -> list[np.ndarray]:
    return jax.tree.leaves(vae.params_)


def assert_same(a: VAE, b: VAE, X: Any) -> None:
    """Every number that the two hold or give, to the bit."""
    for one, other in zip(params_of(a), params_of(b), strict=True):
        np.testing.assert_array_equal(one, other)
    assert a.offset_ == b.offset_
    assert a.n_iter_ == b.n_iter_
    assert a.history_.keys() == b.history_.keys()
    for name in a.history_:
        np.testing.assert_array_equal(a.history_[name], b.history_[name])
    for method in ("transform", "reconstruct", "score_samples", "predict", "impute"):
        np.testing.assert_array_equal(getattr(a, method)(X), getattr(b, method)(X))
    np.testing.assert_array_equal(a.sample(5), b.sample(5))


# As a part of scikit-learn


def test_it_is_a_step_of_a_pipeline():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(VAE(random_state=0, epochs=100), KNeighborsClassifier())
    scores = cross_val_score(model, X, y, cv=3)
    # Folds of 50 rows: 0.87 less three standard errors. Chance is 0.33.
    assert scores.min() > 0.87 - 3 * np.sqrt(0.87 * 0.13 / 50)


def test_a_grid_is_searched_by_the_likelihood(iris):
    search = GridSearchCV(VAE(**SMALL), {"epochs": [1, 60], "learning_rate": [5e-3]}, cv=3)
    search.fit(iris)
    assert search.best_params_["epochs"] == 60
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert search.score(iris) == best.score(iris) == best.score_samples(iris).mean()


def test_a_step_of_a_pipeline_is_searched_by_workers(iris):
    """The models go to processes and their scores come back, as if there were none."""
    pipeline = make_pipeline(StandardScaler(), VAE(**SMALL))
    grid = {"vae__latent_dim": [1, 2]}
    alone, together = (
        GridSearchCV(pipeline, grid, cv=2, n_jobs=jobs).fit(iris) for jobs in (None, 2)
    )
    scores = alone.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    # Compiled anew in each process, perhaps to another order of sums.
    np.testing.assert_allclose(together.cv_results_["mean_test_score"], scores, rtol=1e-4)
    assert together.best_estimator_[-1].latent_dim == together.best_params_["vae__latent_dim"]


def test_a_clone_is_unfitted_and_learns_the_same(small, iris):
    again: Any = clone(small)
    assert again.get_params() == small.get_params()
    with pytest.raises(NotFittedError):
        again.transform(iris)
    assert_same(again.fit(iris), small, iris)


@pytest.mark.parametrize(
    "use",
    [
        lambda vae, X: vae.transform(X),
        lambda vae, X: vae.reconstruct(X),
        lambda vae, X: vae.impute(X),
        lambda vae, X: vae.score_samples(X),
        lambda vae, X: vae.predict(X),
        lambda vae, X: vae.inverse_transform(X[:, :2]),
        lambda vae, X: vae.sample(),
        lambda vae, X: vae.save("never.npz"),
    ],
)
def test_what_was_not_fitted_says_so(iris, use):
    with pytest.raises(NotFittedError):
        use(VAE(), iris)


def test_pandas_goes_in_and_comes_out(small):
    frame: Any = load_iris(return_X_y=True, as_frame=True)[0]
    vae = VAE(**SMALL).set_output(transform="pandas").fit(frame)
    assert vae.feature_names_in_.tolist() == frame.columns.tolist()
    assert vae.get_feature_names_out().tolist() == ["vae0", "vae1"]
    found = vae.transform(frame)
    assert isinstance(found, pandas.DataFrame)
    assert found.columns.tolist() == ["vae0", "vae1"]
    assert (found.index == frame.index).all()
    np.testing.assert_array_equal(found, small.transform(frame.to_numpy()))
    with pytest.raises(ValueError, match="feature names"):
        vae.transform(frame[frame.columns[::-1]])


# Numbers


def test_the_random_state_decides_everything(small, iris):
    assert_same(VAE(**SMALL).fit(iris), small, iris)
    other = VAE(**SMALL | {"random_state": 1}).fit(iris)
    assert not np.any(other.transform(iris) == small.transform(iris))
    assert not np.any(other.sample(5) == small.sample(5))
    generator = VAE(**SMALL | {"random_state": np.random.RandomState(0)}).fit(iris)
    np.testing.assert_array_equal(generator.transform(iris), small.transform(iris))


def test_shapes_and_units(small, iris):
    Z = small.transform(iris)
    assert Z.shape == (150, 2)
    assert Z.dtype == np.float64
    fitted = small.reconstruct(iris)
    assert fitted.shape == iris.shape
    np.testing.assert_allclose(small.inverse_transform(Z), fitted, rtol=1e-5)
    assert small.score_samples(iris).shape == small.decision_function(iris).shape == (150,)
    assert small.sample(7).shape == (7, 4)
    np.testing.assert_array_equal(small.fit_transform(iris), Z)
    assert small.history_.keys() == {"loss", "elbo", "log_lik", "kl"}
    assert all(values.shape == (3,) for values in small.history_.values())
    np.testing.assert_allclose(
        small.history_["elbo"], small.history_["log_lik"] - small.history_["kl"], rtol=1e-4
    )


def test_samples_do_not_depend_on_their_number(small):
    # 512 at once, so that the last of these stand in a second batch.
    many = small.sample(600, random_state=3)
    np.testing.assert_array_equal(small.sample(20, random_state=3), many[:20])
    assert not np.array_equal(small.sample(20, random_state=4), many[:20])
    assert len(np.unique(many, axis=0)) == 600
    np.testing.assert_array_equal(small.sample(3), small.sample(3))


def test_a_row_has_the_same_numbers_whoever_stands_beside(small, iris):
    first = iris[:1].copy()
    first[0, 2] = np.nan
    many = np.concatenate([iris[:0:-1], first, *[iris] * 3])
    for method in ("transform", "reconstruct", "score_samples", "impute"):
        alone = getattr(small, method)(first)
        np.testing.assert_array_equal(getattr(small, method)(many)[149], alone[0])


def test_a_table_in_single_precision_has_the_scores_of_the_same_in_double(small, iris):
    """Their features differ in last bits, of which the noise must not be made."""
    iris = iris * [1.1, 1.3, 1.7, 0.9]  # no longer short decimals
    apart = small.score_samples(iris.astype(np.float32)) - small.score_samples(iris)
    # Of up to 47 nats a row float32 has seven digits; another draw of four samples is nats away.
    np.testing.assert_allclose(apart, 0, atol=1e-4)


def test_the_noise_of_scores_averages_out_over_rows(small):
    """With noise in common the mean of the 512 rows would spread as far as a row does, 0.1 nats."""
    rows = np.random.default_rng(0).normal(size=(512, 4)).astype(np.float32)
    numbers, score = fingerprints(rows), small._program().score
    found = np.stack([score(key_of(i), small.params_, rows, numbers) for i in range(100)])
    row = np.sqrt(found.var(axis=0).mean())
    # Rows are independent in pairs, so the means of their weights are, but not quite their
    # logarithms: of log(1 + d) = d - d^2 / 2 + ... the second term, of the spread
    # row^2 / sqrt(2), may be in common.
    assert found.mean(axis=1).std() < np.hypot(row / np.sqrt(len(rows)), row**2 / np.sqrt(2))
    # The same 512 rows under one fingerprint have their noise in common.
    alike = np.zeros(512, np.uint32)
    common = np.stack([score(key_of(i), small.params_, rows, alike) for i in range(100)])
    assert common.mean(axis=1).std() > 3 * found.mean(axis=1).std()


def test_likelihoods_are_in_the_units_of_the_table(iris):
    # Powers of two, so that the features are the same to the bit.
    factors = np.array([4.0, 4.0, 0.5, 1024.0])
    one, other = VAE(**SMALL).fit(iris), VAE(**SMALL).fit(iris * factors)
    holes = iris[:20].copy()
    holes[:, 3] = np.nan
    for X, shift in ((iris, np.log(factors).sum()), (holes, np.log(factors[:3]).sum())):
        apart = one.score_samples(X) - other.score_samples(X * factors)
        np.testing.assert_allclose(apart, shift, atol=1e-9)
    assert one.offset_ - other.offset_ == pytest.approx(np.log(factors).sum())
    np.testing.assert_allclose(other.sample(9), one.sample(9) * factors)
    fitted = other.reconstruct(iris * factors)
    np.testing.assert_allclose(fitted, one.reconstruct(iris) * factors)


class Linear(NamedTuple):
    X: np.ndarray
    vae: VAE
    pca: PCA
    truth: oracles.LinearGaussian  # the closed form, of the standardised columns


@pytest.fixture(scope="module")
def linear() -> Linear:
    rng = np.random.default_rng(0)
    columns, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    model = oracles.LinearGaussian(columns * [3.0, 2.0], 5 * rng.normal(size=6), 1.0)
    X = oracles.sample(model, rng, 1024)
    # All rows in every step, so that only the noise of z is left of the gradient's.
    vae = VAE(
        latent_dim=2,
        hidden=(),
        scale_of="table",
        batch_size=1024,
        epochs=3000,
        learning_rate=2e-3,
        num_samples=1000,
        random_state=0,
    ).fit(X)
    features = StandardScaler().fit_transform(X)
    pca = PCA(2).fit(features)
    return Linear(X, vae, pca, oracles.maximum_likelihood(features, 2))


def test_a_linear_vae_is_probabilistic_pca(linear):
    kernel = linear.vae.params_["decoder"]["params"]["Dense_0"]["kernel"]
    basis, _ = np.linalg.qr(kernel.T)
    cosines = np.linalg.svd(linear.pca.components_ @ basis)[1]
    assert np.degrees(np.arccos(min(cosines.min(), 1.0))) < 1
    features = StandardScaler().fit_transform(linear.X)
    ours = linear.vae.score(linear.X) + np.log(linear.X.std(axis=0)).sum()
    assert ours == pytest.approx(linear.pca.score(features), abs=0.01)


def test_samples_of_a_linear_vae_have_the_covariance_of_pca(linear):
    n = 20_000
    std = linear.X.std(axis=0)
    draws = (linear.vae.sample(n) - linear.X.mean(axis=0)) / std
    # What was learned: x = W z + b + s e, the density at its mean (2 pi s^2)^(-d / 2).
    rows = linear.vae.inverse_transform([[0, 0], [1, 0], [0, 1]])
    offset, weights = (rows[0] - linear.X.mean(axis=0)) / std, (rows[1:] - rows[0]) / std
    own = linear.vae._program().vae
    params = jax.tree.map(jnp.asarray, linear.vae.params_)
    top = float(own.log_lik(params, jnp.zeros(2), jnp.asarray(offset, jnp.float32)))
    learned = weights.T @ weights + np.exp(-2 * top / 6) / (2 * np.pi) * np.eye(6)
    # Four standard errors of each entry, and of each mean.
    spread = np.diag(learned)
    error = np.sqrt((np.outer(spread, spread) + learned**2) / n)
    assert np.all(abs(np.cov(draws.T) - learned) < 4 * error)
    assert np.all(abs(draws.mean(axis=0) - offset) < 4 * np.sqrt(spread / n))
    # And what was to be learned, within one standard error of what 1024 rows tell of it.
    assert np.all(abs(learned - linear.pca.get_covariance()) < np.sqrt(2 / 1024))
    # The batches of 512 do not repeat each other.
    first, second = draws[:512].ravel(), draws[512:1024].ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(512)


def test_a_linear_vae_imputes_the_conditional_mean(linear):
    mean, std = linear.X.mean(axis=0), linear.X.std(axis=0)
    holes = linear.X[:40].copy()
    holes[np.random.default_rng(1).random(holes.shape) < 0.3] = np.nan
    found = (linear.vae.impute(holes) - mean) / std
    rows = (holes - mean) / std
    expected = np.stack([oracles.conditional_mean(linear.truth, row) for row in rows])
    missing = np.isnan(holes)
    error = np.sqrt(np.mean((found - expected)[missing] ** 2))
    # Against a spread of 1: the rest is what was learned, and 1000 samples.
    assert error < 0.06
    np.testing.assert_array_equal(linear.vae.impute(holes)[~missing], holes[~missing])


def test_wine_with_holes_is_filled_better_than_by_means_and_nearly_as_well_as_by_neighbours():
    """On five masks, against the means of the columns and the five nearest rows."""
    X = np.asarray(load_wine(return_X_y=True)[0])
    errors = np.zeros((5, 3))
    for seed in range(5):
        missing = np.random.default_rng(seed).random(X.shape) < 0.2
        holes = np.where(missing, np.nan, X)
        scaler = StandardScaler().fit(holes)
        # Of the same model each time: only the gaps differ.
        ours = VAE(random_state=0).fit(holes).impute(holes)
        means = np.where(missing, np.nanmean(holes, axis=0), X)
        near = np.asarray(KNNImputer().fit_transform(scaler.transform(holes)))
        filled = (ours, means, scaler.inverse_transform(near))
        truth = np.asarray(scaler.transform(X))
        apart = [np.asarray(scaler.transform(values)) - truth for values in filled]
        errors[seed] = [np.sqrt((off[missing] ** 2).mean()) for off in apart]
    ours, by_means, by_neighbours = errors.T
    assert np.all(ours < by_means), errors
    # No worse: of what neighbours gain over the means less than a fifth is lost, at 95%
    # confidence on the same masks (Student's t, one-sided).
    lost = ours - by_neighbours
    bound = lost.mean() + stats.t.ppf(0.95, len(lost) - 1) * stats.sem(lost)
    assert bound < 0.2 * np.mean(by_means - by_neighbours), errors


# Outliers


@pytest.mark.parametrize("contamination", [0.02, 0.1, 0.5])
def test_a_share_of_the_training_rows_are_outliers(iris, contamination):
    vae = VAE(**SMALL, contamination=contamination).fit(iris)
    labels = vae.predict(iris)
    assert set(labels) <= {-1, 1}
    assert abs((labels == -1).mean() - contamination) <= 1 / len(iris)
    decision = vae.decision_function(iris)
    np.testing.assert_array_equal(labels == -1, decision < 0)
    np.testing.assert_array_equal(decision, vae.score_samples(iris) - vae.offset_)
    np.testing.assert_array_equal(vae.fit_predict(iris), labels)


def test_the_threshold_of_many_rows_is_set_by_some_of_them():
    X = np.random.default_rng(0).normal(size=(12_000, 2))
    vae = VAE(1, hidden=(), epochs=1, num_samples=4, random_state=0).fit(X)
    share = (vae.predict(X) == -1).mean()
    # 10,000 of them are drawn: a standard error of 0.003, less for a finite population.
    assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 10_000)


@pytest.mark.parametrize("hidden", [(4,), ()])
@pytest.mark.parametrize("value", [1e3, -1e10, 1e25, 1e45, -1e300])
def test_the_farthest_rows_are_outliers(iris, hidden, value):
    vae = VAE(**SMALL | {"hidden": hidden}).fit(iris)
    far = iris[:2].copy()
    far[0, 2] = value
    assert vae.predict(far)[0] == -1
    assert vae.score_samples(far)[0] < vae.score_samples(far)[1]
    assert np.isfinite(vae.transform(far)).all()


# Kinds of columns


@pytest.fixture(scope="module")
def mixed() -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    columns = {
        "categorical": rng.integers(3, size=150),
        "continuous": rng.normal(170, 10, 150),
        "binary": rng.integers(2, size=150),
        "count": rng.poisson(4, 150),
        "heavy_tailed": 100 * rng.standard_t(3, 150),
    }
    return np.stack(list(columns.values()), axis=1).astype(float), list(columns)


def check_values(X: np.ndarray) -> None:
    assert np.isfinite(X).all()
    assert set(X[:, 0]) <= {0, 1, 2}
    assert set(X[:, 2]) <= {0, 1}
    assert (X[:, 3] >= 0).all()


def test_mixed_columns_have_values_that_are_allowed(mixed):
    X, kinds = mixed
    vae = VAE(**SMALL | {"epochs": 60, "num_samples": 400}, kinds=kinds).fit(X)
    draws = vae.sample(300)
    check_values(draws)
    assert set(draws[:, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(draws[:, 3], np.round(draws[:, 3]))
    # Four standard errors of the means of 300 draws; the fit is within one of the rows' means.
    assert np.all(abs(draws.mean(axis=0) - X.mean(axis=0)) < 5 * stats.sem(draws))
    holes = np.where(np.random.default_rng(1).random(X.shape) < 0.3, np.nan, X)
    holes[0] = np.nan
    filled = vae.impute(holes)
    check_values(filled)
    np.testing.assert_array_equal(filled[:, 3], np.round(filled[:, 3]))
    np.testing.assert_array_equal(filled[~np.isnan(holes)], holes[~np.isnan(holes)])
    # Of a count it is the mean, which need not be whole.
    check_values(vae.reconstruct(holes))
    assert np.isfinite(vae.score_samples(holes)).all()
    # A row without a value has the probability 1, by 400 samples of a posterior that is not
    # the prior: four standard errors, if the weights spread by less than their mean.
    assert vae.score_samples(holes)[0] == pytest.approx(0, abs=4 / np.sqrt(400))
    check_values(VAE(**SMALL, kinds=kinds).fit(holes).sample(20))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1, 1, 0], "binary"),
        ([0, np.nan, 1, 0], "binary"),
        ([False, True, True], "binary"),
        ([1, 2, 2, 1], "continuous"),
        ([-1, 1, 1], "continuous"),
        ([1, 1, 1], "continuous"),
        ([np.nan, 0, np.nan], "continuous"),
        ([0, 5, 2, np.nan, 2], "count"),
        ([0, -5, 2, 2], "continuous"),
        ([0, 2.5, 2, 2], "continuous"),
        ([1, 2, 3, 4], "continuous"),
    ],
)
def test_the_kind_of_some_values(values, kind):
    for dtype in (np.float32, np.float64):
        [column] = columns_of(np.array(values, dtype)[:, None], "infer", None)
        assert column.kind == kind
        assert column.categories == (("0", "1") if kind == "binary" else ())


def test_kinds_are_inferred_from_the_rows_of_fit(mixed, tmp_path):
    X, given = mixed
    outlying = np.where(np.arange(len(X)) == 7, 1e4, X[:, 1])
    table = np.column_stack([X[:, :4], outlying, 2 + 3 * X[:, 2], np.arange(len(X))])
    # A number tells no code of a category from a count; 2 and 5 are no codes; the last is a
    # row number.
    kinds = ["count", "continuous", "binary", "count", "heavy_tailed", "continuous", "continuous"]
    vae = VAE(**SMALL, kinds="infer").fit(table)
    assert [column.kind for column in vae.encoding_.columns] == kinds
    assert_same(vae, VAE(**SMALL, kinds=kinds).fit(table), table)
    vae.save(tmp_path / "vae.npz")
    loaded = VAE.load(tmp_path / "vae.npz")
    assert loaded.kinds == "infer"
    assert_same(loaded, vae, table)
    some = VAE(**SMALL, kinds=["categorical", *["infer"] * 6]).fit(table)
    assert [column.kind for column in some.encoding_.columns] == [given[0], *kinds[1:]]
    with pytest.raises(ValueError, match=r"column 'x2', row 0: 2; it is binary"):
        vae.predict(table[:1] + 2)


def test_probabilities_of_columns_with_codes_sum_to_one():
    rng = np.random.default_rng(0)
    ripe = rng.integers(2, size=150)
    X = np.stack([ripe, np.where(rng.random(150) < 0.2, 1, 2 * ripe)], axis=1).astype(float)
    # Columns that hang together, and a small beta, so that the posterior is not the prior.
    changed = {"num_samples": 2000, "epochs": 100, "beta": 0.5}
    vae = VAE(**SMALL | changed, kinds=["binary", "categorical"])
    table = np.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0, 2.0)])
    total = np.exp(vae.fit(X).score_samples(table)).sum()
    assert vae.history_["kl"][-1] > 0.5
    # The same six rows under 64 other numbers have noise that is independent of this.
    numbers = rng.integers(2**32, size=(64 * 6), dtype=np.uint32)
    rows = np.tile(vae.encoding_.encode(table), (64, 1))
    others = np.exp(vae._program().score(key_of(0), vae.params_, rows, numbers))
    totals = others.reshape(64, 6).sum(axis=1)
    error = float(totals.std())
    assert total == pytest.approx(1, abs=4 * error)
    assert totals.mean() == pytest.approx(1, abs=4 * error / 8)


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        ("categorical", 3.0, "from 0 to 2"),
        ("categorical", -1.0, "from 0 to 2"),
        ("categorical", 0.5, "from 0 to 2"),
        ("binary", 2.0, "from 0 to 1"),
        ("count", -3.0, "whole numbers from 0 are"),
        ("count", 1.5, "whole numbers from 0 are"),
    ],
)
def test_a_code_that_is_none_is_named(mixed, kind, value, allowed):
    X, kinds = mixed
    vae = VAE(**SMALL, kinds=kinds).fit(X)
    wrong, column = X.copy(), kinds.index(kind)
    wrong[7, column] = value
    message = rf"column 'x{column}', row 7: {value:g}; it is {kind}.*{allowed}"
    for method in (vae.transform, vae.score_samples, vae.impute, vae.predict):
        with pytest.raises(ValueError, match=message) as raised:
            method(wrong)
        assert "\n" not in str(raised.value)
    if kind != "categorical" or value != 3:
        with pytest.raises(ValueError, match=rf"column 'x{column}', row 7: {value:g}"):
            VAE(**SMALL, kinds=kinds).fit(wrong)


# Mistakes


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("latent_dim", 0),
        ("latent_dim", 2.0),
        ("epochs", 0),
        ("num_samples", -1),
        ("hidden", (4, 0)),
        ("hidden", 32),
        ("hidden", "4"),
        ("hidden", iter([4])),
        ("hidden", np.array(4)),
        ("activation", "swoosh"),
        ("activation", ["relu"]),
        ("beta", -1.0),
        ("beta", 1e300),
        ("beta", float("nan")),
        ("beta", "much"),
        ("learning_rate", 0.0),
        ("learning_rate", 1e-300),
        ("learning_rate", None),
        ("contamination", 0.0),
        ("contamination", 0.6),
        ("contamination", "auto"),
        ("batch_size", 0),
        ("batch_size", "Auto"),
        ("scale_of", "everything"),
        ("scale_of", np.array(["column"])),
        ("kinds", "text"),
        ("kinds", 3),
        ("kinds", ["continuous"] * 3),
        ("kinds", ["continuous"] * 3 + ["text"]),
    ],
)
def test_a_parameter_without_a_meaning_is_named(iris, parameter, value):
    vae = VAE(**SMALL | {parameter: value})
    with pytest.raises(ValueError, match=parameter) as raised:
        vae.fit(iris)
    assert "\n" not in str(raised.value)


def test_rows_of_another_width_are_refused(small, iris):
    with pytest.raises(ValueError, match="3 features"):
        small.transform(iris[:, :3])
    with pytest.raises(ValueError, match=r"shape \(5, 3\): 2 latent dimensions"):
        small.inverse_transform(np.zeros((5, 3)))
    for wrong in (np.zeros((0, 2)), np.array([[0, np.nan]])):
        with pytest.raises(ValueError, match=r"at least one row .* finite"):
            small.inverse_transform(wrong)
    for count in (0, 1.5, "3"):
        # The shape checker of the test run is ahead of our words.
        with pytest.raises((ValueError, TypeCheckError), match="n_samples") as raised:
            small.sample(count)
        assert isinstance(raised.value, TypeCheckError) or "a whole number" in str(raised.value)
    with pytest.raises(ValueError, match=r"column 'x0': .*e\+300 is too large"):
        VAE(**SMALL).fit(iris * 1e300)
    with pytest.raises(ValueError, match=r"column 'x0': 10000 is no code .* from 0 to 9,999"):
        VAE(**SMALL, kinds="categorical").fit(np.full((4, 1), 10_000))
    with pytest.raises(
        ValueError, match=r"column 'x0': values that differ by .*e-170 are too close"
    ):
        VAE(**SMALL).fit(iris * 1e-170)


def test_words_in_a_frame_are_refused_by_column_row_and_value(iris):
    frame = pandas.DataFrame(iris[:, :1], columns=["length"])
    words = ["1.5", None] + ["red"] * (len(iris) - 2)
    for named in (words, pandas.Categorical(words)):
        with pytest.raises(ValueError, match=r"column 'colour', row 2: 'red' .* codes 0, 1, 2"):
            VAE(**SMALL).fit(frame.assign(colour=named))
    days = pandas.date_range("2020-01-01", periods=len(iris))
    with pytest.raises(ValueError, match=r"column 'day': datetime64\[.*\] is no number"):
        VAE(**SMALL).fit(frame.assign(day=days))
    with pytest.raises(ValueError, match="unique"):
        VAE(**SMALL).fit(pandas.concat([frame, frame], axis=1).assign(colour=words))


def test_a_table_in_float32_is_fitted_without_a_warning(iris):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAE(**SMALL, kinds="infer").fit(iris.astype(np.float32))


@pytest.mark.parametrize(
    "how", [{"learning_rate": 1e8}, {"learning_rate": 1e30, "epochs": 1, "batch_size": 150}]
)
def test_a_divergence_is_an_error(iris, how):
    # The second one has its loss before the only step, and nothing finite behind it.
    with pytest.raises(ValueError, match=r"learning_rate .*diverged in epoch \d+; a smaller"):
        VAE(random_state=0, hidden=(4,), num_samples=4, **{"epochs": 50} | how).fit(iris)


# Ctrl-C


def interrupted(monkeypatch, vae: VAE, X: np.ndarray, calls: int) -> None:
    """Fit, and press Ctrl-C when the call after some is done, but not yet returned."""
    real, done = VAE._program, []

    def patched(self):
        program = real(self)

        def train(*args):
            result = program.train(*args)
            done.append(1)
            if len(done) > calls:
                raise KeyboardInterrupt
            return result

        return program._replace(train=train)

    monkeypatch.setattr(VAE, "_program", patched)
    try:
        vae.fit(X)
    finally:
        monkeypatch.undo()


def test_ctrl_c_keeps_the_epochs_that_were_done(monkeypatch, iris):
    # Of 4 steps, so that 128 of them are one call.
    vae = VAE(**SMALL | {"epochs": 1000})
    with pytest.warns(UserWarning, match="stopped after epoch 256 of 1000"):
        interrupted(monkeypatch, vae, iris, calls=2)
    assert vae.n_iter_ == len(vae.history_["loss"]) == 256
    assert_same(vae, VAE(**SMALL | {"epochs": 256}).fit(iris), iris)


def test_ctrl_c_in_the_first_epoch_ends_the_fit(monkeypatch):
    X = np.random.default_rng(0).normal(size=(600, 2))
    vae = VAE(**SMALL, batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        interrupted(monkeypatch, vae, X, calls=1)
    with pytest.raises(NotFittedError):
        vae.transform(X)


def test_a_fit_that_fails_leaves_nothing_of_the_one_before(iris):
    vae = VAE(**SMALL).fit(iris)
    vae.learning_rate = 1e8
    vae.epochs = 50
    with pytest.raises(ValueError, match="diverged"):
        vae.fit(iris * 7)
    with pytest.raises(NotFittedError):
        vae.score_samples(iris)


def test_progress_is_told_when_asked(capsys, iris):
    VAE(**SMALL).fit(iris)
    assert capsys.readouterr().out == ""
    VAE(**SMALL, verbose=True).fit(iris)
    assert re.fullmatch(r"epoch 3/3  ELBO -\d+\.\d{3} nats a row\n", capsys.readouterr().out)


# Files


def test_saved_and_loaded_it_is_the_same(tmp_path, mixed):
    X, kinds = mixed
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d", "e"])
    vae = VAE(**SMALL, kinds=np.array(kinds), beta=np.float64(0.5)).fit(frame)
    vae.save(tmp_path / "vae.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["vae.npz"]
    loaded = VAE.load(tmp_path / "vae.npz")
    assert loaded.beta == 0.5
    assert loaded.hidden == SMALL["hidden"]
    assert list(loaded.kinds) == kinds
    assert loaded.encoding_.columns == vae.encoding_.columns
    assert loaded.get_feature_names_out().tolist() == ["vae0", "vae1"]
    assert_same(loaded, vae, frame)
    with pytest.raises(ValueError, match="feature names"):
        loaded.transform(frame[["b", "a", "c", "d", "e"]])
    # What it was made with is there too.
    assert_same(VAE(**loaded.get_params()).fit(frame), vae, frame)


def test_the_file_has_no_pickle(tmp_path, small):
    small.save(tmp_path / "vae.npz")
    with np.load(tmp_path / "vae.npz", allow_pickle=False) as saved:
        assert all(saved[name].dtype != object for name in saved.files)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty", "other", "less", "shape"])
def test_a_damaged_file_is_refused(tmp_path, small, damage):
    path = tmp_path / "vae.npz"
    small.save(path)
    whole = path.read_bytes()
    with np.load(path) as saved:
        arrays: dict[str, Any] = dict(saved)
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        middle = whole.index(b"latent_dim")
        path.write_bytes(whole[:middle] + b"L" + whole[middle + 1 :])
    elif damage == "text":
        path.write_text("latent_dim: 2")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        np.savez(path, x=np.zeros(3))
    elif damage == "less":
        np.savez(path, **{k: v for k, v in arrays.items() if k != "params/1"})
    else:
        arrays["params/1"] = np.zeros((2, 2))
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"vae\.npz: not a saved VAE, or damaged") as raised:
        VAE.load(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        VAE.load(tmp_path / "vae.npz")


def test_a_random_state_that_no_file_holds_is_refused(tmp_path, iris):
    vae = VAE(**SMALL | {"random_state": np.random.RandomState(0)}).fit(iris)
    with pytest.raises(ValueError, match=r"random_state .*: an integer or None can be saved"):
        vae.save(tmp_path / "vae.npz")
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_the_same(small, iris):
    assert_same(pickle.loads(pickle.dumps(small)), small, iris)


# Compilation


def use_all(vae: VAE, X: np.ndarray) -> None:
    vae.transform(X)
    vae.impute(X)
    vae.reconstruct(X)
    vae.sample(len(X))


def test_tables_of_nearly_one_length_share_what_is_compiled(iris):
    # A width that no other test has, and columns by the side.
    wide = np.concatenate([iris, iris[:, :1] ** 2], axis=1)
    first = VAE(**SMALL).fit(wide[:142])
    use_all(first, wide)
    program, misses = first._program(), program_of.cache_info().misses
    functions: list[Any] = [program.train, program.encode, program.decode, program.score]
    functions += [program.impute, program.sample]
    sizes = [fun._cache_size() for fun in functions]
    assert sizes == [1] * 6
    other = VAE(**SMALL | {"random_state": 1, "learning_rate": 1e-3, "beta": 0.5, "epochs": 5})
    other.fit(wide[:143])
    use_all(other, wide[:9])
    assert other._program() is program
    assert program_of.cache_info().misses == misses
    assert [fun._cache_size() for fun in functions] == sizes


@pytest.mark.parametrize("method", ["score", "impute"])
def test_a_wide_table_is_scored_in_bounded_memory(method):
    """All 512 rows at once, with 128 samples of 1,000 columns each, would take 500 MB and more."""
    program = program_of((Block("continuous", 1000),), (32,), 2, "relu", "column", 32, 128)
    params = jax.eval_shape(program.vae.init, jax.random.key(0))
    rows = jax.ShapeDtypeStruct((512, 1000), np.float32)
    numbers = [jax.ShapeDtypeStruct((512,), np.uint32)] if method == "score" else []
    compiled = getattr(program, method).lower(key_of(0), params, rows, *numbers).compile()
    # Theta of what is at once, and beside it what the columns contribute or are expected to be.
    assert compiled.memory_analysis().temp_size_in_bytes < 2 * memory.MEMORY


def test_rows_in_turns_have_the_numbers_of_all_at_once(small, iris, monkeypatch):
    shape = (small.encoding_.blocks, (4,), 2, "relu", "column", 32, 4)
    turns = program_of.__wrapped__(*shape)
    rows = np.resize(small.encoding_.encode(iris), (512, 4))
    rows[::3, 1] = np.nan
    given = (key_of(1), small.params_, rows)
    arguments = {"score": (*given, fingerprints(rows)), "impute": given}
    # The limit is read as a function is traced, so these come before it is set.
    expected = {name: getattr(small._program(), name)(*args) for name, args in arguments.items()}
    # Four samples of four columns, each a mean and a scale, and as much again: of six rows that
    # fit four are taken.
    monkeypatch.setattr(memory, "MEMORY", 6 * (4 * 4 * 2 * 4) * 2)
    for method, args in arguments.items():
        ours = getattr(turns, method)
        # Four samples of four columns in another order: a few roundings of float32.
        np.testing.assert_allclose(ours(*args), expected[method], rtol=1e-5, atol=1e-5)
        assert "tensor<128x4x4xf32>" in ours.lower(*args).as_text()


def test_fitting_warns_of_nothing(iris):
    constant = np.concatenate([iris, np.full((150, 1), 0.1)], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vae = VAE(**SMALL).fit(constant)
        VAE(**SMALL).fit(constant.astype(np.float32))
    # The deviation of 150 times 0.1 is a rounding, by which nothing may be divided.
    assert vae.encoding_.scale[4] == 1
    assert np.isfinite(vae.impute(np.full((1, 5), np.nan))).all()


@pytest.mark.parametrize("columns", [1, 3])
def test_one_latent_dimension_learns(columns):
    """Its decoder's first kernel has one row, as a learned scale of a whole table has."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 1)) @ np.ones((1, columns)) + 0.1 * rng.normal(size=(200, columns))
    model = VAE(latent_dim=1, epochs=60, random_state=0).fit(X)
    # A row says what z was: at least a nat, where nothing learned has none.
    assert model.history_["kl"][-1] > 1 if columns > 1 else model.history_["kl"][-1] > 0.01
    program = model._program()
    shapes = jax.eval_shape(program.vae.init, jax.random.key(0))
    start = program.start(0, np.random.RandomState(0)).params
    real = program.vae.init(jax.random.key(0))
    for (path, leaf), own, shape in zip(
        jax.tree.leaves_with_path(start),
        jax.tree.leaves(real),
        jax.tree.leaves(shapes),
        strict=True,
    ):
        assert leaf.shape == shape.shape
        # Drawn where linen draws, zero where linen has zeros, and of the same scale.
        assert (np.std(leaf) > 0) == (np.std(own) > 0), path
        assert np.abs(leaf).max() <= 1 / np.sqrt(max(leaf.shape[0], 1)) + 1e-6


@pytest.fixture(scope="module")
def wine() -> np.ndarray:
    table: Any = load_wine()
    return table.data


def test_a_fitted_model_stays_when_its_parameters_are_set(wine):
    model = VAE(epochs=2, hidden=(4,), random_state=0).fit(wine)
    before = model.transform(wine), model.score_samples(wine), model.predict(wine)
    model.set_params(latent_dim=3, hidden=(5,), num_samples=1, batch_size=7, contamination=0.4)
    after = model.transform(wine), model.score_samples(wine), model.predict(wine)
    for own, same in zip(before, after, strict=True):
        np.testing.assert_array_equal(own, same)


def test_a_large_offset_is_standardised_too(wine):
    """Seconds since 1970 that spread over a minute."""
    X = np.c_[1.7e9 + 60 * np.random.default_rng(0).normal(size=200), np.arange(200.0)]
    scale = VAE(epochs=1, hidden=(4,), random_state=0).fit(X).encoding_.scale
    np.testing.assert_allclose(scale, X.std(axis=0), rtol=1e-6)


def test_what_cannot_be_learned_is_said(wine):
    X = wine.copy()
    X[:, 2] = np.nan
    with pytest.raises(ValueError, match="every value is missing"):
        VAE().fit(X)
    with pytest.raises(ValueError, match=r"column 'x0': 1e\+06; counts up to 10,000"):
        VAE(kinds="count").fit(np.array([[1e6], [3.0]]))
    with pytest.warns(UserWarning, match="a smaller learning_rate is needed"):
        VAE(learning_rate=100.0, epochs=30, random_state=0).fit(wine)
    with pytest.raises(FileNotFoundError, match="a file in a folder that exists"):
        VAE(epochs=1, hidden=(4,), random_state=0).fit(wine).save("no/such/folder/x.npz")
