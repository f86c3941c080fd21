"""The disentanglement scores: perfect codes, useless ones, and what lies between."""

from typing import Any

import jax
import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from vae_jax.evaluation.disentanglement import (
    Disentanglement,
    beta_vae_score,
    dci,
    disentanglement,
    factor_vae_score,
    mig,
    sap,
)

SIZES = np.array([3, 4, 5, 4])
ROWS = 2000
KEY = jax.random.key(0)
FACTORS = np.random.default_rng(0).integers(SIZES, size=(ROWS, 4))
PERFECT = FACTORS * [1.0, -0.01, 300.0, 7.0] + [0.0, 5.0, -40.0, 0.3]
DRAWS = 1000  # judged for each factor
SEEDED = [dci, sap, factor_vae_score, beta_vae_score]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def rotated() -> np.ndarray:
    """Codes that mix two factors of one size, at 45 degrees, and leave two as they are."""
    codes = FACTORS.astype(float)
    first, second = codes[:, 1].copy(), codes[:, 3].copy()
    codes[:, 1], codes[:, 3] = first + second, first - second
    return codes


# Neither the best nor the worst, and without ties.
MIXED = rotated() + 0.3 * noise(ROWS, 4)


@pytest.fixture(scope="module")
def perfect() -> Disentanglement:
    return disentanglement(KEY, PERFECT, FACTORS)


@pytest.fixture(scope="module")
def useless() -> Disentanglement:
    return disentanglement(KEY, noise(ROWS, 4), FACTORS)


# The brackets.


def test_perfect_codes_reach_the_maximum(perfect):
    assert perfect._replace(mig=1, sap=1) == (1, 1, 1, 1, 1, 1, 1)
    # The second best of three dimensions that tell nothing of a factor is ahead of 0 by its
    # bias: 2 n I is chi-squared of at most (5 - 1)(4 - 1) degrees.
    assert 1 - (12 + 5 * np.sqrt(2 * 12)) / (2 * ROWS) / np.log(3) < perfect.mig <= 1
    # It guesses one value in V, of a half of the rows.
    guess = np.mean(1 / SIZES)
    assert abs(perfect.sap - (1 - guess)) < 5 * np.sqrt(guess * (1 - guess) / (ROWS / 2))


def test_perfect_codes_of_a_whole_grid_have_a_gap_of_one():
    grid = np.indices((3, 4, 5, 4)).reshape(4, -1).T
    assert mig(grid * [1.0, -0.01, 300.0, 7.0], grid) == pytest.approx(1, abs=1e-12)


def test_codes_that_never_move_tell_nothing():
    # The mean of 0.1 is not 0.1, so that its computed variance is not 0.
    found = disentanglement(KEY, np.full((ROWS, 4), 0.1), FACTORS)
    assert found._replace(dci_informativeness=0) == (0, 0, 0, 0, 0, 0.25, 0.25)
    frequent = np.mean([np.bincount(values).max() / ROWS for values in FACTORS.T])
    # The rows of the halves are not quite those of the whole.
    assert abs(found.dci_informativeness - frequent) < 5 * np.sqrt(0.25 / (ROWS / 2))


def test_noise_tells_nothing(useless):
    # 2 n I is chi-squared of at most 19 * 4 degrees, and a gap lies between two of those.
    deviation = np.sqrt(2 * 19 * 4)
    assert 0 < useless.mig < 5 * deviation / (2 * ROWS) / np.log(3)
    # Shares off by a fifth of their size have an entropy 0.2^2 / 2 under the greatest, log 4.
    for score in (useless.dci_disentanglement, useless.dci_completeness):
        assert 0 < score < 0.2**2 / 2 / np.log(4)
    guess = np.mean(1 / SIZES)
    error = np.sqrt(guess * (1 - guess) / (ROWS / 2))
    # A forest that was judged by the rows it learned from would find most of them.
    assert abs(useless.dci_informativeness - guess) < 5 * error
    assert 0 < useless.sap < 5 * error


@pytest.mark.parametrize("score", [factor_vae_score, beta_vae_score])
def test_noise_names_one_factor_in_four(score: Any):
    # Of so many rows, that those of one value happen to vary less adds little to the noise.
    factors = np.random.default_rng(2).integers(SIZES, size=(50_000, 4))
    found = score(KEY, noise(50_000, 4), factors)
    assert abs(found - 1 / 4) < 5 * np.sqrt(1 / 4 * 3 / 4 / (4 * DRAWS))


def test_dimensions_that_never_move_change_nothing(perfect):
    still = np.full((ROWS, 2), 0.1)
    found = disentanglement(KEY, np.hstack([still, PERFECT]), FACTORS)
    assert found == pytest.approx(perfect, abs=1e-12)


def test_two_dimensions_for_each_factor_are_disentangled_and_not_complete():
    found = disentanglement(KEY, np.hstack([PERFECT, PERFECT]), FACTORS)
    assert found.mig == found.sap == 0
    assert found.dci_disentanglement == found.dci_informativeness == 1
    # Two of eight: one less log 2 / log 8. The trees break ties by lot; of 100 lots, shares of
    # 0.5 that are off by three standard errors lower log 2 by 7 percent.
    assert found.dci_completeness == pytest.approx(2 / 3, abs=0.07 / 3)
    assert found.factor_vae == found.beta_vae == 1


def test_rotated_codes_lie_between(perfect, useless):
    found = disentanglement(KEY, rotated(), FACTORS)
    for name in Disentanglement._fields:
        if name != "dci_informativeness":
            low, high = getattr(useless, name), getattr(perfect, name)
            assert low + 0.1 < getattr(found, name) < high - 0.1, name
    # Nothing is lost by a rotation.
    assert found.dci_informativeness > 0.99
    # Two factors have their own dimension, and two share theirs equally.
    for share in (found.dci_disentanglement, found.dci_completeness):
        assert share == pytest.approx((1 + 1 + 0.5 + 0.5) / 4, abs=0.05)


# What the scores do not depend on.


def test_order_sign_and_scale_of_the_dimensions_do_not_matter():
    moved = (MIXED * [-1.0, 1e-3, 50.0, -2.0] + [3.0, 0.0, -1.0, 9.0])[:, [2, 0, 3, 1]]
    before, after = (disentanglement(KEY, each, FACTORS) for each in (MIXED, moved))
    assert after.mig == pytest.approx(before.mig, abs=1e-12)
    # Draws do not depend on the codes; solvers stop within their tolerance, a few rows apart.
    assert after.factor_vae == before.factor_vae
    assert after.beta_vae == pytest.approx(before.beta_vae, abs=0.002)
    assert after.sap == pytest.approx(before.sap, abs=0.002)
    # Trees choose by lot between splits that are as good: a few in a hundred, deep down.
    assert after[1:4] == pytest.approx(before[1:4], abs=0.02)


def test_names_of_the_values_do_not_matter():
    renamed = np.array([70, -3, 12, 5, 9])[FACTORS]
    assert mig(MIXED, renamed) == pytest.approx(mig(MIXED, FACTORS), abs=1e-12)
    assert beta_vae_score(KEY, PERFECT, renamed) == factor_vae_score(KEY, PERFECT, renamed) == 1


@pytest.mark.parametrize("score", SEEDED)
def test_the_key_decides(score: Any):
    codes, factors = MIXED[:400], FACTORS[:400]
    first = score(KEY, codes, factors)
    assert score(KEY, codes, factors) == first
    assert score(jax.random.key(1), codes, factors) != first


def test_the_bundle_is_its_parts():
    codes, factors = MIXED[:400], FACTORS[:400]
    drawn = {"num_samples": 50, "batch_size": 8}
    keys = jax.random.split(KEY, 4)
    assert disentanglement(KEY, codes, factors, **drawn) == (
        mig(codes, factors),
        *dci(keys[0], codes, factors),
        sap(keys[1], codes, factors),
        factor_vae_score(keys[2], codes, factors, **drawn),
        beta_vae_score(keys[3], codes, factors, **drawn),
    )


# One by one.


def test_the_gap_of_a_small_table():
    factor = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    better = np.array([0, 0, 0, 1, 1, 1, 1, 1])
    worse = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    # sum p(c, v) log(p(c, v) / (p(c) p(v))), by hand.
    most = 3 / 8 * np.log(2) + 1 / 8 * np.log(2 / 5) + 1 / 2 * np.log(8 / 5)
    next_ = 1 / 4 * np.log(4 / 3 * 4 / 5) + 1 / 8 * np.log(2 / 3) + 3 / 8 * np.log(6 / 5)
    codes = np.stack([worse, better, np.zeros(8)], axis=1).astype(float)
    found = mig(codes, factor[:, None])
    assert found == pytest.approx((most - next_) / np.log(2), abs=1e-12)
    # All but the log 2 cancels.
    assert found == pytest.approx(1 / 2, abs=1e-12)


def test_the_gap_is_that_of_another_library():
    gaps = []
    for values in FACTORS.T:
        edges = [np.linspace(code.min(), code.max(), 21)[1:-1] for code in MIXED.T]
        binned = [np.digitize(code, edge) for code, edge in zip(MIXED.T, edges, strict=True)]
        best = sorted(mutual_info_score(values, each) for each in binned)
        gaps.append((best[-1] - best[-2]) / mutual_info_score(values, values))
    assert mig(MIXED, FACTORS) == pytest.approx(np.mean(gaps), abs=1e-9)


def test_bins_bound_the_gap():
    factors = np.arange(40)[:, None]
    codes = np.hstack([factors, np.zeros((40, 1))])
    assert mig(codes, factors) == pytest.approx(np.log(20) / np.log(40), abs=1e-12)
    assert mig(codes, factors, bins=40) == pytest.approx(1, abs=1e-12)


def test_thresholds_tell_many_values_apart():
    """A machine of each value against the rest would find those at the ends and a few more."""
    grid = np.tile(np.indices((20, 2)).reshape(2, -1).T, (40, 1))
    guess = (1 / 20 + 1 / 2) / 2
    error = np.sqrt(1 / 2 * 1 / 2 / (len(grid) / 2))
    assert abs(sap(KEY, grid.astype(float), grid) - (1 - guess)) < 5 * error


def test_rare_values_count_as_much_for_attribute_predictability():
    """To say the frequent value always is right in 9 rows of 10, and for one value of two."""
    rng = np.random.default_rng(3)
    factors = (rng.uniform(size=(4000, 1)) < 0.1).astype(int)
    still = np.zeros((4000, 1))
    assert sap(KEY, np.hstack([factors, still]), factors) == 0.5
    # The best threshold between N(0, 1) and N(1, 1) is right with probability Phi(1 / 2); the
    # rare value has 200 of the rows that judge, and half of the weight.
    found = sap(KEY, np.hstack([factors + rng.normal(size=(4000, 1)), still]), factors)
    assert abs(found - (0.6915 - 0.5)) < 5 * np.sqrt(0.69 * 0.31 / 200 / 4 + 0.69 * 0.31 / 1800 / 4)


def test_a_dimension_rests_by_its_own_measure():
    """One of small variance, but for two rows that are far out, does not take the votes."""
    narrow = 0.03 * noise(ROWS, 5)[:, 4:]
    narrow[:2] = [[-0.5], [0.5]]
    codes = np.hstack([FACTORS + 0.3 * noise(ROWS, 4), narrow])
    assert factor_vae_score(KEY, codes, FACTORS) == 1


def test_a_factor_that_no_dimension_rests_for_is_named_by_chance():
    """Three factors of four: the votes of the fourth go to one of the others."""
    codes = PERFECT.copy()
    codes[:, 2] = 0
    assert factor_vae_score(KEY, codes, FACTORS) == 0.75
    # All dimensions are drawn from freely where the fourth is fixed, and never for the others.
    assert beta_vae_score(KEY, codes, FACTORS) == 1


# What is refused.


def with_code(value: float) -> np.ndarray:
    codes = PERFECT.copy()
    codes[7, 2] = value
    return codes


def with_factor(rows: slice, value: int) -> np.ndarray:
    factors = FACTORS.copy()
    factors[rows, 1] = value
    return factors


@pytest.mark.parametrize("score", [mig, *SEEDED, disentanglement])
@pytest.mark.parametrize(
    ("codes", "factors", "says"),
    [
        (PERFECT[:9], FACTORS, "2000 rows of factors for 9 codes: one each is needed"),
        (PERFECT[:0], FACTORS[:0], "0 rows of factors for 0 codes"),
        (PERFECT[:, :1], FACTORS, "latent dimensions: 1; at least 2 are needed"),
        (PERFECT, FACTORS[:, :0], "factors: 0; at least [12] needed"),
        (with_code(np.nan), FACTORS, "the code of row 7, dimension 2 is nan"),
        (with_code(-np.inf), FACTORS, "the code of row 7, dimension 2 is -inf"),
        (PERFECT, with_factor(slice(None), 6), "factor 1 is 6 in every row: 2 values are needed"),
    ],
)
def test_rows_that_do_not_fit_are_refused(score: Any, codes, factors, says):
    with pytest.raises(ValueError, match=says):
        score(*(() if score is mig else (KEY,)), codes, factors)


@pytest.mark.parametrize("score", [*SEEDED, disentanglement])
def test_too_few_rows_of_a_value_are_refused(score: Any):
    with pytest.raises(ValueError, match=r"factor 1 is 8 in [0-4] of the 1000 rows of one half: a"):
        score(KEY, PERFECT, with_factor(slice(9), 8))


@pytest.mark.parametrize("score", [dci, factor_vae_score, beta_vae_score])
def test_one_factor_has_nothing_to_be_told_apart_from(score: Any):
    with pytest.raises(ValueError, match="factors: 1; at least 2 needed"):
        score(KEY, PERFECT, FACTORS[:, :1])


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="1 bins: at least 2 are needed"):
        mig(PERFECT, FACTORS, bins=1)
    for score, least in ((factor_vae_score, 2), (beta_vae_score, 1)):
        with pytest.raises(ValueError, match="num_samples 0: at least 1 is needed"):
            score(KEY, PERFECT, FACTORS, num_samples=0)
        with pytest.raises(ValueError, match=f"batch_size {least - 1}: at least {least} needed"):
            score(KEY, PERFECT, FACTORS, batch_size=least - 1)
