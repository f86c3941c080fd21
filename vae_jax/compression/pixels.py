"""Distributions of pixels in whole units: one row for each likelihood that can be coded."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vae_jax.compression.stack import Discrete, MassBelow
from vae_jax.compression.tables import MASS, beta_binomial_mass, exponential, logistic_mass
from vae_jax.likelihoods.levels import LOG_SCALE_RANGE

LEVELS = 256


class PixelCode(NamedTuple):
    """How the pixels of a likelihood are coded.

    Attributes:
        levels: values of a pixel.
        theta_dim: parameters for each pixel, as of the likelihood.
        mass_below: `theta [count, theta_dim] -> (which, level) -> units`, out of `MASS`.
        tables: that it looks up.
    """

    levels: int
    theta_dim: int
    mass_below: Callable[[Float[np.ndarray, "count theta"]], MassBelow]
    tables: Callable[[], list[np.ndarray]]

    def discrete(self, theta: Float[np.ndarray, "count theta"]) -> Discrete:
        """The distributions of pixels.

        One unit is added for each level, so that every value can be coded: under a millionth
        part of the mass for 256 levels.

        Args:
            theta: the parameters of each, multiples of the exact networks' step.

        Returns:
            Them all. Black is asked for first: it is what most pixels of a drawing are.
        """
        below = self.mass_below(theta)
        return Discrete(
            size=len(theta),
            levels=self.levels,
            total=MASS + self.levels,
            mass_below=lambda which, level: below(which, level) + level,
            first=1,
        )


def _bernoulli(theta: Float[np.ndarray, "count theta"]) -> MassBelow:
    dark = np.rint(logistic_mass().at(-theta[:, 0])).astype(np.int64)
    return lambda which, level: dark[which]


def _beta_binomial(theta: Float[np.ndarray, "count theta"]) -> MassBelow:
    """Between four points of the table: a mixture of four distributions nearby."""
    table = beta_binomial_mass(LEVELS)
    points = (theta.T - table.low) * table.per_unit
    points = np.clip(points, 0, len(table.values) - 1)
    first = np.minimum(points.astype(np.int64), len(table.values) - 2)
    (a, b), (share_a, share_b) = first, points - first
    flat, row = table.values.ravel(), table.values.shape[2]
    corner = (a * table.values.shape[1] + b) * row
    next_a, next_b = table.values.shape[1] * row, row

    def mass_below(which: np.ndarray, level: np.ndarray) -> np.ndarray:
        place, to_a, to_b = corner[which] + level, share_a[which], share_b[which]
        near = flat[place] * (1 - to_b) + flat[place + next_b] * to_b
        place += next_a
        far = flat[place] * (1 - to_b) + flat[place + next_b] * to_b
        return np.rint(near * (1 - to_a) + far * to_a).astype(np.int64)

    return mass_below


def _logistic_mixture(theta: Float[np.ndarray, "count theta"]) -> MassBelow:
    logits, locations, log_scales = np.split(np.ascontiguousarray(theta.T), 3)
    weights = exponential().at(logits - logits.max(axis=0))
    weights /= _sum(weights)
    precisions = exponential().at(-np.clip(log_scales, *LOG_SCALE_RANGE))

    def mass_below(which: np.ndarray, level: np.ndarray) -> np.ndarray:
        edge = (level - 0.5) / (LEVELS - 1)
        points = (edge - locations[:, which]) * precisions[:, which]
        return np.rint(_sum(weights[:, which] * logistic_mass().at(points))).astype(np.int64)

    return mass_below


def _sum(parts: Float[np.ndarray, "components count"]) -> Float[np.ndarray, " count"]:
    """Over the components in their order: `np.sum` chooses one of its own."""
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total


PIXELS = {
    "bernoulli": PixelCode(2, 1, _bernoulli, lambda: [logistic_mass().values]),
    "beta_binomial": PixelCode(
        LEVELS, 2, _beta_binomial, lambda: [beta_binomial_mass(LEVELS).values]
    ),
    "discretized_logistic_mixture": PixelCode(
        LEVELS, 15, _logistic_mixture, lambda: [logistic_mass().values]
    ),
}
"""By the name of the likelihood."""
