"""Whether measured numbers bear out a statement, given their standard errors."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments._spread import mean_and_error

HOLDS = "holds"
FAILS = "DOES NOT HOLD"
UNDECIDED = "not told apart"
NO_NUMBER = f"{UNDECIDED} (no number)"
# What a single seed says, of itself: without an error bar it neither shows nor refutes anything.
MET = "met (one seed)"
NOT_MET = "not met (one seed)"
_COUNTED = {
    HOLDS: "held",
    FAILS: "contradicted",
    UNDECIDED: UNDECIDED,
    NO_NUMBER: "without a number",
    MET: MET,
    NOT_MET: NOT_MET,
}
_CONFIDENCE = 0.95  # of the two-sided interval outside of which a margin counts
EXPLAINED = (
    f"{HOLDS}, {FAILS}, {UNDECIDED}: by the two-sided {_CONFIDENCE:.0%} interval of Student's t "
    "over seeds, each inequality by itself; of rows with the same seeds it is that of their "
    "differences seed by seed. Met, not met: in the one seed there is, which has no error bar and "
    "so shows nothing"
)


class Margin(NamedTuple):
    """By how much an inequality is met.

    Attributes:
        value: above 0 where it is met; NaN where there is no number.
        error: its standard error over seeds; NaN of a single seed.
        seeds: how many the error is of.
    """

    value: float
    error: float
    seeds: int

    @property
    def verdict(self) -> str:
        """What the number shows of the inequality.

        With the standard error s of n seeds the interval is value ± t s, where t is the quantile
        of Student's t with n - 1 degrees of freedom, 12.7 for two seeds and near 2 for many.

        Returns:
            `HOLDS` or `FAILS` where the interval lies on one side of 0, else `UNDECIDED`; `MET`
            or `NOT_MET` of a single seed; `NO_NUMBER`.
        """
        # Here, not above: the command line starts without SciPy.
        from scipy.special import stdtrit

        if not math.isfinite(self.value):
            return NO_NUMBER
        if not math.isfinite(self.error):
            return MET if self.value > 0 else NOT_MET
        reach = stdtrit(self.seeds - 1, (1 + _CONFIDENCE) / 2) * self.error
        if abs(self.value) <= reach:
            return UNDECIDED
        return HOLDS if self.value > 0 else FAILS

    def words(self, digits: int = 1) -> str:
        """`+1.0 ± 0.4`."""
        return with_error(self.value, self.error, digits, "+")


def with_error(mean: float, error: float, digits: int = 1, sign: str = "") -> str:
    """`-101.0 ± 0.4`, without the error where there is none.

    Args:
        mean: a number that is always shown with its digits, as no count is.
        error: of it.
        digits: after the point.
        sign: "+" to show that of a number above 0.
    """
    tail = f" ± {error:.{digits}f}" if math.isfinite(error) else ""
    return f"{mean:{sign}.{digits}f}{tail}"


def difference(more: Mapping[int, float], less: Mapping[int, float]) -> Margin:
    """By how much one mean lies above another.

    Models of one seed share their noise, so of the same seeds the error is that of the
    differences d_i = more_i - less_i, sqrt(Var(d) / n), which is smaller than that of two sets of
    numbers that have nothing in common. Of other seeds it is the root of the summed squares of
    both errors, and the degrees of freedom are those of the smaller set.

    Args:
        more: the numbers of the one by seed.
        less: those of the other.

    Returns:
        The margin; without a number if one of them has no seed.
    """
    if more.keys() == less.keys():
        mean, error = mean_and_error([more[seed] - less[seed] for seed in more])
        return Margin(mean, error, len(more))
    (high, one), (low, other) = (mean_and_error(list(own.values())) for own in (more, less))
    return Margin(high - low, math.hypot(one, other), min(len(more), len(less)))


def tally(margins: Sequence[Margin], what: str) -> str:
    """How many of several inequalities came to which verdict.

    Args:
        margins: of the inequalities; one at least.
        what: they are of, in the plural.

    Returns:
        `held in 7 of 9 panels, contradicted in 1, not told apart in 1`, without what none came
        to; `held in all 9 panels`; of a single inequality its verdict.
    """
    if len(margins) == 1:
        return margins[0].verdict
    counts = Counter(margin.verdict for margin in margins)
    found = [(word, counts[verdict]) for verdict, word in _COUNTED.items() if verdict in counts]
    (word, count), *others = found
    if not others:
        return f"{word} in all {count} {what}"
    first = f"{word} in {count} of {len(margins)} {what}"
    return ", ".join([first, *(f"{word} in {count}" for word, count in others)])
