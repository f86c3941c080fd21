"""Whether numbers bear out a statement: `experiments._verdict`."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments._spread import as_record, mean_and_error
from experiments._verdict import (
    FAILS,
    HOLDS,
    MET,
    NO_NUMBER,
    NOT_MET,
    UNDECIDED,
    Margin,
    difference,
    tally,
)


@pytest.mark.parametrize("seeds", [2, 3, 5, 50])
def test_a_margin_is_held_against_the_interval_of_student(seeds):
    reach = float(stats.t.ppf(0.975, seeds - 1)) * 0.4
    for share, verdicts in ((1.01, (HOLDS, FAILS)), (0.99, (UNDECIDED, UNDECIDED))):
        margins = [Margin(sign * share * reach, 0.4, seeds) for sign in (1, -1)]
        assert tuple(margin.verdict for margin in margins) == verdicts


def test_what_is_not_known_is_not_decided():
    for error in (math.nan, 0.1):
        assert Margin(math.nan, error, 3).verdict == NO_NUMBER
    assert NO_NUMBER.startswith(UNDECIDED)
    assert difference({}, {0: 1.0}).verdict == NO_NUMBER
    assert Margin(0.0, 0.0, 3).verdict == UNDECIDED


def test_one_seed_shows_nothing():
    margins = [difference({0: high}, {0: 1.0}) for high in (1.5, 0.5)]
    assert [margin.verdict for margin in margins] == [MET, NOT_MET]
    assert [margin.words() for margin in margins] == ["+0.5", "-0.5"]


def test_the_error_of_a_difference_is_that_of_the_differences_of_each_seed():
    rng = np.random.default_rng(0)
    noise, own = 5 * rng.normal(size=4), 0.1 * rng.normal(size=4)
    more, less = dict(enumerate(noise + own + 1)), dict(enumerate(noise))
    found = difference(more, less)
    assert found.verdict == HOLDS
    assert found.seeds == 4
    assert found.error == pytest.approx(stats.sem(own))
    # The order in which the seeds come says nothing.
    assert difference(more, dict(reversed(less.items()))) == pytest.approx(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_of_a_mean_is_that_of_scipy(dtype):
    numbers = (100 + np.random.default_rng(0).normal(size=7)).astype(dtype)
    # Distances of 1 from a mean of 100, which the type of the numbers rounds.
    rounding = 100 * float(np.finfo(dtype).eps)
    found = mean_and_error(numbers)
    assert found == pytest.approx((numbers.mean(), stats.sem(numbers)), rel=rounding)
    assert as_record(found) == {"mean": found[0], "standard_error": found[1]}
    for few in (numbers[:1], numbers[:0], [*numbers, math.nan]):
        mean = float(few[0]) if len(few) == 1 else math.nan
        assert mean_and_error(few) == pytest.approx((mean, math.nan), nan_ok=True)


def test_of_other_seeds_both_errors_add_up():
    more, less = {0: 3.0, 1: 4.0, 2: 6.0}, {0: 1.0, 1: 2.0}
    found = difference(more, less)
    errors = stats.sem([3.0, 4.0, 6.0]), stats.sem([1.0, 2.0])
    assert found == pytest.approx(Margin(13 / 3 - 1.5, math.hypot(*errors), 2))
    assert found.verdict == UNDECIDED
    assert difference(more, {1: 2.0}).verdict == MET


def test_inequalities_are_counted_by_their_verdicts():
    held, failed, open_, bare = (
        Margin(value, error, 3)
        for value, error in ((9.0, 0.1), (-9.0, 0.1), (0.1, 1.0), (9.0, math.nan))
    )
    assert tally([held], "pairs") == "holds"
    assert tally([held, held], "pairs") == "held in all 2 pairs"
    margins = [open_, held, failed, held]
    assert tally(margins, "pairs") == "held in 2 of 4 pairs, contradicted in 1, not told apart in 1"
    assert tally([failed, open_], "pairs") == "contradicted in 1 of 2 pairs, not told apart in 1"
    # What one seed says stands apart from what several show.
    unknown = Margin(math.nan, math.nan, 0)
    assert tally([held, bare, unknown], "pairs") == (
        "held in 1 of 3 pairs, without a number in 1, met (one seed) in 1"
    )
