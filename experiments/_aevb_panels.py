"""The panels of figure 2 of Auto-Encoding Variational Bayes, and what was trained in them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments._aevb import Method, Pixels
from experiments._report import Result, by_seed, over_seeds

DATASET_NAMES = {"mnist": "MNIST", "digits": "digits", "frey_faces": "Frey Face"}


class Panel(NamedTuple):
    """A data set and a latent size.

    Attributes:
        name: `mnist-z20`.
        dataset: `mnist` or `frey`, as it was asked for.
        latent_dim: dimensions of z.
        pixels: the data set as it was loaded.
    """

    name: str
    dataset: str
    latent_dim: int
    pixels: Pixels

    @property
    def title(self) -> str:
        """`MNIST, 20-D`."""
        return f"{DATASET_NAMES[self.pixels.name]}, {self.latent_dim}-D"

    @property
    def in_figure_2(self) -> bool:
        """Whether it is one of the nine."""
        return self.name != "mnist-z2"

    @property
    def has_goal(self) -> bool:
        """Whether its bound is to be held beside the paper's: the same images, all of them."""
        return self.in_figure_2 and self.pixels.name != "digits" and len(self.pixels.train) > 1500


class Finished(NamedTuple):
    """One method in one panel, trained.

    Attributes:
        panel: which.
        method: which.
        step_size: the one that the pilot chose.
        folder: the name of its run.
        results: its members, one for each seed.
    """

    panel: Panel
    method: Method
    step_size: float
    folder: str
    results: list[Result]

    def bound(self, split: str) -> tuple[float, float]:
        """The last bound, the mean over seeds that did not diverge and its standard error."""
        measured = self._measured(split)
        return over_seeds(measured, split) if measured else (math.nan, math.nan)

    def bound_by_seed(self, split: str) -> dict[int, float]:
        """The last bound of each seed that did not diverge."""
        return by_seed(self._measured(split), split)

    def _measured(self, split: str) -> list[Result]:
        return [
            result._replace(numbers={split: -result.rows[-1][f"{split}_neg_elbo"]})
            for result in self.results
            if result.problem is None
        ]

    @property
    def points_per_second(self) -> float:
        """Of all its members together, the median over rows."""
        rates = [row["examples_per_second"] for result in self.results for row in result.rows]
        return float(np.median(rates)) if rates else math.nan

    @property
    def points(self) -> np.ndarray:
        """Training points seen at each row."""
        longest = max((result.rows for result in self.results), key=len)
        return np.array([row["epoch"] for row in longest]) * float(
            self.panel.pixels.points_per_epoch
        )

    def bounds(self, split: str) -> np.ndarray:
        """[seeds, rows], NaN from where a member diverged."""
        values = np.full((len(self.results), len(self.points)), np.nan)
        for own, result in zip(values, self.results, strict=True):
            own[: len(result.rows)] = [-row[f"{split}_neg_elbo"] for row in result.rows]
        return values


def trained(finished: Sequence[Finished]) -> str:
    """`MNIST 2,040,000 points of 60,000 images, Frey Face 4,039,200 points of 1,765 images`."""
    seen = {}
    for one in finished:
        if len(one.points):
            images = f"{one.points[-1]:,.0f} points of {len(one.panel.pixels.train):,} images"
            seen[DATASET_NAMES[one.panel.pixels.name]] = images
    return ", ".join(f"{name} {images}" for name, images in seen.items())
