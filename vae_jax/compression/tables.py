"""Tables of the functions that no two machines compute alike, as whole numbers.

Sums, products, quotients and roundings of float64 are the same everywhere (IEEE 754), one
element at a time. An exponential is not: its last digit depends on the library and on the
instruction set. So each such function is computed once, on a grid, and rounded; the SHA-256 of
the tables stands in every container, and one that was written with others is refused.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from vae_jax.compression.exact import rounded
from vae_jax.likelihoods.levels import LOG_SHAPE_RANGE

MASS = 2**30  # whole units that a table divides the probability 1 into
# Points of a table in an interval of length 1: between them a straight line is wrong by 1e-6.
PER_UNIT = 2.0**8


class Table(NamedTuple):
    """A function between the points of an even grid, constant beyond its ends.

    Attributes:
        values: at the points.
        low: the first point.
        per_unit: points in an interval of length 1.
    """

    values: Float[np.ndarray, " points"]
    low: float
    per_unit: float

    def at(self, points: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The function, on a straight line between its two neighbours in the table.

        Args:
            points: finite numbers.

        Returns:
            The values; they rise where the table does.
        """
        last = len(self.values) - 1
        places = np.minimum(np.maximum((points - self.low) * self.per_unit, 0.0), last)
        before = np.minimum(places.astype(np.int32), last - 1)
        low = self.values[before]
        return low + (places - before) * (self.values[before + 1] - low)


class Buckets(NamedTuple):
    """Intervals of the line that the standard normal gives equal mass.

    Attributes:
        edges: between neighbours; -infinity and +infinity are left out.
        centres: the point of each that halves its mass.
    """

    edges: Float[np.ndarray, " edges"]
    centres: Float[np.ndarray, " buckets"]


def masses(probabilities: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Probabilities in whole units, `MASS` of which are 1."""
    return np.rint(probabilities * MASS)


@functools.cache
def normal_mass() -> Table:
    """Mass of the standard normal below a point."""
    import scipy.special

    return _table(lambda points: masses(scipy.special.ndtr(points)), -8.0, 8.0)


@functools.cache
def logistic_mass() -> Table:
    """Mass of the standard logistic distribution below a point: the sigmoid."""
    import scipy.special

    return _table(lambda points: masses(scipy.special.expit(points)), -20.0, 20.0)


@functools.cache
def exponential() -> Table:
    """The exponential, e^x rounded to 24 binary digits, for x between -16 and 16."""

    def function(points: np.ndarray) -> np.ndarray:
        digits, exponent = np.frexp(np.exp(points))
        return np.ldexp(np.rint(digits * 2.0**24), exponent - 24)

    return _table(function, -16.0, 16.0)


def _table(function: Callable[[np.ndarray], np.ndarray], low: float, high: float) -> Table:
    values = function(_grid(low, high, PER_UNIT))
    values.flags.writeable = False
    return Table(values, low, PER_UNIT)


def _grid(low: float, high: float, per_unit: float) -> Float[np.ndarray, " points"]:
    return low + np.arange(round((high - low) * per_unit) + 1) / per_unit


class BetaBinomialMass(NamedTuple):
    """Mass of beta-binomial distributions below each level, on a grid of log alpha and log beta.

    Attributes:
        values: `[log alpha, log beta, level]`.
        low: the first point of either logarithm.
        per_unit: points in an interval of length 1.
    """

    values: Integer[np.ndarray, "alpha beta level"]
    low: float
    per_unit: float


@functools.cache
def beta_binomial_mass(levels: int) -> BetaBinomialMass:
    """Mass of the beta-binomial distributions of a pixel, by products of ratios alone.

    p(k + 1) / p(k) = (n - k) (alpha + k) / ((k + 1) (beta + n - k - 1)),  n = levels - 1

    Args:
        levels: of a pixel.

    Returns:
        The table; both logarithms go over `LOG_SHAPE_RANGE`, where the likelihood clips them.
    """
    (low, high), per_unit = LOG_SHAPE_RANGE, 8.0
    shapes, k, n = exponential().at(_grid(low, high, per_unit)), np.arange(levels - 1), levels - 1
    # Where alpha <= beta no product overflows; the others are these from the other end.
    alpha, beta = np.minimum(shapes[:, None], shapes), np.maximum(shapes[:, None], shapes)
    ratios = (n - k) * (alpha[..., None] + k) / ((k + 1) * (beta[..., None] + n - k - 1))
    ratios = np.concatenate([np.ones((*alpha.shape, 1)), ratios], axis=-1)
    below = np.cumsum(np.cumprod(ratios, axis=-1), axis=-1)
    below = np.concatenate([np.zeros((*alpha.shape, 1)), below / below[..., -1:]], axis=-1)
    is_above = (shapes[:, None] > shapes)[..., None]
    values = masses(np.where(is_above, 1 - below[..., ::-1], below)).astype(np.int32)
    values.flags.writeable = False
    return BetaBinomialMass(values, low, per_unit)


@functools.cache
def buckets(bits: int) -> Buckets:
    """The 2^bits buckets of equal prior mass.

    Args:
        bits: that the number of a bucket has.

    Returns:
        Their edges and centres, multiples of the exact networks' step.
    """
    import scipy.special

    count = 2**bits
    return Buckets(
        rounded(scipy.special.ndtri(np.arange(1, count) / count)),
        rounded(scipy.special.ndtri((np.arange(count) + 0.5) / count)),
    )


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays, in hexadecimal, the same on machines of either byte order."""
    hasher = hashlib.sha256()
    for array in arrays:
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
        hasher.update(f"{little.dtype.str}{little.shape}".encode())
        hasher.update(little.tobytes())
    return hasher.hexdigest()
