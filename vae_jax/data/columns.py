"""What a column of a table is: its kind, which decides its likelihood, and its categories."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

KINDS = ("continuous", "heavy_tailed", "binary", "count", "categorical")

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a missing value, in small letters; capitals stand for it as well."""

MAX_COUNT = 10_000
"""The largest count of a count column; a negative binomial starts at a mean of 1 and learns it by
steps."""

MAX_CATEGORIES = 1_000
"""The most categories that a column can have."""

MAX_NUMBERED = 1e15
"""Whole numbers up to here are exact as float64, so none is taken for another."""

_MAX_INFERRED_COUNT = 1_000
_MAX_FIRST_COUNT = 20
_HEAVY_KURTOSIS = 6.0
_KURTOSIS_ROWS = 30


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: as in the header of the file.
        kind: one of `KINDS`.
        categories: the names of the codes 0, 1, ... of a binary or categorical column.
    """

    name: str
    kind: str
    categories: tuple[str, ...] = ()


class Rule(NamedTuple):
    """What a schema says of a column; without a kind it is inferred."""

    kind: str | None = None
    categories: tuple[str, ...] = ()


def as_text(column: Column, value: float) -> str:
    """Write a value of a column for people to read.

    Args:
        column: the column.
        value: a value of it, as in `Table.values`.

    Returns:
        The name of the category, or the number in six digits; nothing for NaN.

    Raises:
        ValueError: if the column has categories and the value is none of their codes.

    Example:
        >>> as_text(Column("colour", "categorical", ("blue", "red")), 1.0)
        'red'
    """
    if np.isnan(value):
        return ""
    if not column.categories:
        return f"{value:g}"
    if value not in range(len(column.categories)):
        last = len(column.categories) - 1
        raise ValueError(f"column {column.name!r}: code {value:g} is not one of 0 to {last}")
    return column.categories[int(value)]


def kind_of_numbers(values: Float[np.ndarray, " rows"]) -> str:
    """Tell the kind of a column of numbers, by the first rule that fits.

    - continuous: all values are the same one
    - binary: two different values
    - continuous: whole numbers, each row one more than the row before (a row number)
    - count: whole numbers, the lowest 0 to 20, the highest at most 1,000
    - heavy_tailed: at least 30 values, with an excess kurtosis over 6
    - continuous: any other numbers

    Args:
        values: the column, NaN where a value is missing, which is left aside; at least one is
            not.

    Returns:
        One of `KINDS`, never "categorical", which no number tells from a count.

    Example:
        >>> kind_of_numbers(np.array([3.0, 0.0, np.nan, 12.0]))
        'count'
    """
    seen = values[~np.isnan(values)]
    distinct = len(np.unique(seen))
    if distinct == 2:
        return "binary"
    if distinct == 1 or counts_rows(values):
        return "continuous"
    is_whole = bool((seen == np.rint(seen)).all())
    if is_whole and 0 <= seen.min() <= _MAX_FIRST_COUNT and seen.max() <= _MAX_INFERRED_COUNT:
        return "count"
    if len(seen) >= _KURTOSIS_ROWS and _excess_kurtosis(seen) > _HEAVY_KURTOSIS:
        return "heavy_tailed"
    return "continuous"


def counts_rows(values: Float[np.ndarray, " rows"]) -> bool:
    """Whether a column is a row number: whole numbers, each one more than the row before."""
    # NaN is neither whole nor small, so a missing value makes this false.
    is_whole = (values == np.rint(values)) & (np.abs(values) < MAX_NUMBERED)
    return len(values) > 2 and bool(is_whole.all() and (values[1:] == values[:-1] + 1).all())


def _excess_kurtosis(values: Float[np.ndarray, " rows"]) -> float:
    # Scaled, because the fourth power of a large number is not finite, that of a small one 0.
    values = values / np.abs(values).max()
    deviation = values - values.mean()
    return float((deviation**4).mean() / (deviation**2).mean() ** 2 - 3)
