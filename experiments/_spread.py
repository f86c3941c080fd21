"""A mean and its standard error: how they are found, and how they stand in a file."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def mean_and_error(numbers: Sequence[float] | Float[np.ndarray, " n"]) -> tuple[float, float]:
    """The mean of n numbers and its standard error, sqrt(Var / n), Var with n - 1.

    Args:
        numbers: such as one for each seed; with a NaN among them they have no mean.

    Returns:
        Both in the unit of the numbers. Of a single one the error is NaN, of none both are.
    """
    count = len(numbers)
    mean = float(np.mean(numbers)) if count else math.nan
    # Divided as a float of Python, so that numbers in float32 do not round it.
    error = float(np.std(numbers, ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return mean, error


def as_record(pair: tuple[float, float]) -> dict[str, float]:
    """A mean and its standard error by their names, as JSON has them."""
    mean, error = pair
    return {"mean": mean, "standard_error": error}
