import numpy as np
import pytest
from jaxtyping import TypeCheckError

from vae_jax.data import Block, Column, fit_encoding

COLUMNS = (
    Column("city", "categorical", ("a", "b", "c")),
    Column("height", "continuous"),
    Column("visits", "count"),
    Column("smokes", "binary", ("no", "yes")),
    Column("income", "heavy_tailed"),
    Column("colour", "categorical", ("blue", "red")),
    Column("weight", "continuous"),
)
# The features of these columns, in the order of KINDS.
COLUMN_OF = [1, 6, 4, 3, 2, 0, 0, 0, 5, 5]


@pytest.fixture
def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    columns = [
        rng.integers(3, size=50),
        rng.normal(170, 10, 50),
        rng.poisson(4, 50),
        rng.integers(2, size=50),
        1e5 * rng.standard_t(3, 50),
        rng.integers(2, size=50),
        rng.normal(-1e-3, 1e-5, 50),
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def test_blocks_stand_in_the_order_of_the_kinds(values):
    encoding = fit_encoding(values, COLUMNS)
    assert encoding.columns == COLUMNS
    assert encoding.blocks == (
        Block("continuous", 2),
        Block("heavy_tailed", 1),
        Block("binary", 1),
        Block("count", 1),
        Block("categorical", 3),
        Block("categorical", 2),
    )
    assert encoding.column_of.tolist() == COLUMN_OF
    assert encoding.shift.shape == encoding.scale.shape == (10,)


def test_a_mixed_table_comes_back(values):
    encoding = fit_encoding(values, COLUMNS)
    features = encoding.encode(values)
    assert features.dtype == np.float32
    assert features.shape == (50, 10)
    back = encoding.decode(features)
    exact = [i for i, c in enumerate(COLUMNS) if c.kind not in ("continuous", "heavy_tailed")]
    np.testing.assert_array_equal(back[:, exact], values[:, exact])
    # Of the others it is the deviation from the mean that is rounded to float32.
    error = abs(back - values) / values.std(axis=0)
    assert error.max() < 1e-6


def test_continuous_features_are_standardised_and_the_others_kept(values):
    features = fit_encoding(values, COLUMNS).encode(values)
    np.testing.assert_allclose(features[:, :3].mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features[:, :3].std(axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(features[:, 3], values[:, 3])
    np.testing.assert_array_equal(features[:, 4], values[:, 2])
    np.testing.assert_array_equal(features[:, 5:8], np.eye(3)[values[:, 0].astype(int)])
    np.testing.assert_array_equal(features[:, 8:], np.eye(2)[values[:, 5].astype(int)])


def test_a_missing_value_is_nan_in_each_of_its_features_and_nowhere_else(values):
    holes = values.copy()
    for column in range(len(COLUMNS)):
        holes[column, column] = np.nan
    encoding = fit_encoding(holes, COLUMNS)
    features = encoding.encode(holes)
    missing = np.isnan(holes)[:, COLUMN_OF]
    np.testing.assert_array_equal(np.isnan(features), missing)
    complete = encoding.encode(values)
    np.testing.assert_array_equal(features[~missing], complete[~missing])


def test_the_scaling_passes_over_what_is_missing(values):
    holes = values.copy()
    holes[::3, 1] = np.nan
    encoding = fit_encoding(holes, COLUMNS)
    seen = holes[~np.isnan(holes[:, 1]), 1]
    assert encoding.shift[0] == pytest.approx(seen.mean())
    assert encoding.scale[0] == pytest.approx(seen.std())


def test_the_scaling_is_that_of_the_rows_it_was_fitted_on(values):
    encoding = fit_encoding(values[:20], COLUMNS)
    some = values[:20][:, [1, 6, 4]]
    np.testing.assert_allclose(encoding.shift[:3], some.mean(axis=0))
    np.testing.assert_allclose(encoding.scale[:3], some.std(axis=0))
    whole = encoding.encode(values)
    np.testing.assert_array_equal(whole[:20], encoding.encode(values[:20]))
    assert abs(whole[:, 0].mean()) > 1e-3
    far = np.where(np.arange(50)[:, None] < 20, values, 1.0)
    np.testing.assert_array_equal(fit_encoding(far[:20], COLUMNS).scale, encoding.scale)


# 0.1 is the column whose mean and spread are off by a rounding.
@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e9])
def test_a_constant_column_keeps_its_scale(value):
    values = np.stack([np.full(30, value), np.arange(30.0)], axis=1)
    columns = (Column("same", "continuous"), Column("other", "continuous"))
    encoding = fit_encoding(values, columns)
    assert encoding.scale[0] == 1
    features = encoding.encode(values)
    np.testing.assert_allclose(features[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(encoding.decode(features)[:, 0], value, rtol=1e-12)


def test_a_column_that_varies_little_is_no_constant():
    values = 1e4 + np.random.default_rng(0).normal(0, 0.01, (50, 1))
    encoding = fit_encoding(values, [Column("near", "continuous")])
    assert encoding.encode(values).std() == pytest.approx(1, rel=1e-4)


def test_a_column_that_is_missing_everywhere_keeps_its_scale(values):
    values[:, 1] = np.nan
    encoding = fit_encoding(values, COLUMNS)
    assert (encoding.shift[0], encoding.scale[0]) == (0, 1)
    assert np.isnan(encoding.encode(values)[:, 0]).all()


def test_rows_are_filled_up_to_a_size(values):
    encoding = fit_encoding(values, COLUMNS)
    features = encoding.encode(values, size=64)
    assert features.shape == (64, 10)
    np.testing.assert_array_equal(features[:50], encoding.encode(values))
    assert not features[50:].any()


def test_many_rows_are_encoded_as_few_are(values, monkeypatch):
    encoding = fit_encoding(values, COLUMNS)
    whole = encoding.encode(values, size=60)
    monkeypatch.setattr("vae_jax.data.encoding._ROWS_AT_ONCE", 7)
    np.testing.assert_array_equal(encoding.encode(values, size=60), whole)


def test_means_are_decoded_as_the_more_probable_value():
    columns = (Column("yes", "binary", ("0", "1")), Column("which", "categorical", tuple("abc")))
    encoding = fit_encoding(np.zeros((2, 2)), columns)
    means = np.array([[0.4, 0.3, 0.3, 0.4], [0.6, 0.5, 0.4, 0.1]])
    assert encoding.decode(means).tolist() == [[0, 2], [1, 0]]


def test_the_log_scale_turns_a_density_of_features_into_one_of_the_table(values):
    encoding = fit_encoding(values, COLUMNS)
    stretched = fit_encoding(values * [1, 100, 1, 1, 1, 1, 1], COLUMNS)
    apart = stretched.log_scale - encoding.log_scale
    np.testing.assert_allclose(apart, [np.log(100), *[0] * 9], atol=1e-12)
    assert not encoding.log_scale[3:].any()


def test_a_kind_that_there_is_not_cannot_be_fitted():
    with pytest.raises(ValueError, match="column 'b': kind 'numeric' is not of"):
        fit_encoding(np.zeros((3, 1)), [Column("b", "numeric")])


def test_a_categorical_column_without_categories_cannot_be_fitted():
    with pytest.raises(ValueError, match="column 'b': a categorical column needs its categories"):
        fit_encoding(np.zeros((3, 1)), [Column("b", "categorical")])


@pytest.mark.parametrize("code", [3, -1, 0.5, np.inf])
def test_a_category_that_was_not_named_cannot_be_encoded(values, code, monkeypatch):
    monkeypatch.setattr("vae_jax.data.encoding._ROWS_AT_ONCE", 20)
    encoding = fit_encoding(values, COLUMNS)
    values[44, 0] = code
    found = f"column 'city', row 44: {code:g} is no code of its categories, 0 to 2"
    with pytest.raises(ValueError, match=found):
        encoding.encode(values)


@pytest.mark.parametrize("shape", [(0, 7), (5, 6), (5, 8)])
def test_values_of_another_shape_cannot_be_fitted(shape):
    with pytest.raises(ValueError, match="at least one row of 7 columns"):
        fit_encoding(np.zeros(shape), COLUMNS)


@pytest.mark.parametrize("shape", [(5, 6), (5, 8), (7,), (5, 7, 1)])
def test_values_of_another_shape_cannot_be_encoded(values, shape):
    encoding = fit_encoding(values, COLUMNS)
    # Under the tests' type checker, its error comes first where the rank is another.
    with pytest.raises((ValueError, TypeCheckError), match=r"7 columns are needed|shape|values"):
        encoding.encode(np.zeros(shape))


def test_more_rows_than_the_size_are_refused(values):
    with pytest.raises(ValueError, match="size 40: too small for 50 rows"):
        fit_encoding(values, COLUMNS).encode(values, size=40)
