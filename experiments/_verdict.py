"""Whether measured numbers bear out a statement, given their standard errors."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HOLDS = "holds"
FAILS = "DOES NOT HOLD"
UNDECIDED = "not told apart"
ONE_SEED = "one seed, without error bar"
_APART = 2.0  # standard errors beyond which a difference counts


class Margin(NamedTuple):
    """By how much an inequality is met.

    Attributes:
        value: above 0 where it is met; NaN where there is no number.
        error: its standard error over seeds; NaN of a single seed.
    """

    value: float
    error: float

    @property
    def verdict(self) -> str:
        """`HOLDS`, `FAILS`, or `UNDECIDED` within two standard errors of 0."""
        if math.isfinite(self.error) and abs(self.value) < _APART * self.error:
            return UNDECIDED
        return HOLDS if self.value > 0 else FAILS

    def words(self, digits: int = 1) -> str:
        """`+1.0 ± 0.4`."""
        return with_error(*self, digits, "+")


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


def difference(more: tuple[float, float], less: tuple[float, float]) -> Margin:
    """By how much one mean lies above another, each with its standard error."""
    return Margin(more[0] - less[0], math.hypot(more[1], less[1]))


def verdict_of(margins: Sequence[Margin]) -> str:
    """What comes of a statement that is so if every one of its inequalities is.

    Args:
        margins: of the inequalities; one at least.

    Returns:
        `FAILS` if one of them fails, else `UNDECIDED` if one of them is, else `HOLDS`; with a
        note where a number is that of a single seed.
    """
    found = {margin.verdict for margin in margins}
    worst = next(verdict for verdict in (FAILS, UNDECIDED, HOLDS) if verdict in found)
    return worst + (f" ({ONE_SEED})" if _is_bare(margins) else "")


def _is_bare(margins: Iterable[Margin]) -> bool:
    return any(math.isfinite(one.value) and not math.isfinite(one.error) for one in margins)
