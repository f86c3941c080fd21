"""The rows that every score is made from: checked, scaled, and divided into halves."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Integer

from vae_jax.types import PRNGKey

# Of every value of every factor, in each half: a tree's leaf holds no fewer.
LEAST_ROWS = 5


class Rows(NamedTuple):
    """Some of the rows.

    Attributes:
        codes: scaled, of each row.
        factors: the factor values of each row.
    """

    codes: Float[np.ndarray, "n latent"]
    factors: Integer[np.ndarray, "n factor"]


def generator_of(key: PRNGKey) -> np.random.Generator:
    """NumPy's generator that a key is the seed of."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def rescaled(
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    least_factors: int,
) -> Float[np.ndarray, "n latent"]:
    """Codes from 0 to 1 in every dimension, and 0 in one that never moves; after the checks.

    Args:
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        least_factors: how many the score needs.

    Returns:
        (c_j - min c_j) / (max c_j - min c_j) of every dimension j, as float64.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, or there are under two dimensions or too few factors.

    Example:
        >>> factors = np.array([[0], [1], [1]])
        >>> rescaled(np.array([[3.0, 7.0], [5.0, 7.0], [4.0, 7.0]]), factors, least_factors=1)
        array([[0. , 0. ],
               [1. , 0. ],
               [0.5, 0. ]])
    """
    if len(codes) == 0 or len(codes) != len(factors):
        raise ValueError(
            f"{len(factors)} rows of factors for {len(codes)} codes: one each is needed"
        )
    if codes.shape[1] < 2:
        raise ValueError(f"latent dimensions: {codes.shape[1]}; at least 2 are needed")
    if factors.shape[1] < least_factors:
        raise ValueError(f"factors: {factors.shape[1]}; at least {least_factors} needed")
    broken = np.argwhere(~np.isfinite(codes))
    if len(broken):
        row, dim = broken[0]
        raise ValueError(f"the code of row {row}, dimension {dim} is {codes[row, dim]}")
    for number, values in enumerate(factors.T):
        if np.all(values == values[0]):
            raise ValueError(f"factor {number} is {values[0]} in every row: 2 values are needed")
    codes = codes.astype(np.float64)
    low, span = np.min(codes, axis=0), np.ptp(codes, axis=0)
    return (codes - low) / np.where(span > 0, span, 1)


def halved(
    rng: np.random.Generator,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "n factor"],
) -> tuple[Rows, Rows]:
    """The rows to learn from and those to judge by, divided at random.

    Args:
        rng: what draws who is in which.
        codes: scaled, of every row.
        factors: the factor values of every row.

    Returns:
        The two halves.

    Raises:
        ValueError: if a half has under `LEAST_ROWS` rows of some value.
    """
    learn, judge = np.array_split(rng.permutation(len(codes)), 2)
    for rows in (learn, judge):
        for number, values in enumerate(factors.T):
            for value in np.unique(values):
                held = np.count_nonzero(values[rows] == value)
                if held < LEAST_ROWS:
                    raise ValueError(
                        f"factor {number} is {value} in {held} of the {len(rows)} rows of one "
                        f"half: at least {LEAST_ROWS} are needed"
                    )
    return Rows(codes[learn], factors[learn]), Rows(codes[judge], factors[judge])
