"""Scores of disentanglement, setting by setting, for several objectives."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vae_jax.figures.settings import mean_and_error
from vae_jax.figures.style import BLUE, CLASS_COLORS, VERMILION, chart_figure, styled

_COLUMNS = 4
_COLORS = (BLUE, VERMILION, *CLASS_COLORS[3:])
_MARKERS = "osD^v<>PXp"
_SPREAD = 0.22  # between the dots of two objectives at the same setting


class ObjectiveScores(NamedTuple):
    """What was measured of the models of one objective.

    Attributes:
        settings: names of its settings, along the horizontal axis.
        values: under the name of each panel, a row for each setting and a column for each seed;
            NaN where a model diverged.
    """

    settings: Sequence[str]
    values: Mapping[str, Float[np.ndarray, "settings seeds"]]


@styled
def disentanglement_scores(
    objectives: Mapping[str, ObjectiveScores],
    *,
    title: str,
    chance: Mapping[str, float],
) -> Figure:
    """A panel for each score: a dot for each setting and objective, with its standard error.

    Args:
        objectives: what was found of each, under its name for the legend. All have the same
            panels; settings of the same name stand above each other.
        title: what was trained.
        chance: of the panels where it is known, what a code that tells nothing reaches. Their
            axis is that of a score, which begins at 0.

    Returns:
        The figure: a faint point for each model, and the mean over seeds with one standard
        error. A setting whose models all diverged has no dot.

    Raises:
        ValueError: if there is no objective, or the shapes disagree.
    """
    if not objectives:
        raise ValueError("no objective to draw")
    panels = list(next(iter(objectives.values())).values)
    for name, found in objectives.items():
        for panel in panels:
            if len(found.values[panel]) != len(found.settings):
                rows = len(found.values[panel])
                raise ValueError(f"{name}, {panel}: {rows} rows for {len(found.settings)} settings")
    settings = list(dict.fromkeys(s for found in objectives.values() for s in found.settings))
    rows = math.ceil(len(panels) / _COLUMNS)
    figure = chart_figure(11.0, 0.6 + 2.4 * rows, title)
    grid = figure.subplots(rows, min(_COLUMNS, len(panels)), squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        for number, (name, found) in enumerate(objectives.items()):
            shift = (number - (len(objectives) - 1) / 2) * _SPREAD
            places = np.array([settings.index(one) for one in found.settings]) + shift
            _draw_dots(axes, places, found.values[panel], name, number)
        if panel in chance:
            axes.axhline(chance[panel], color="black", ls=":", lw=0.8, label="chance")
            axes.set_ylim(0, max(axes.get_ylim()[1], 0.1))
        axes.set_title(panel)
        axes.set_xticks(np.arange(len(settings)), settings)
        axes.set_xlim(-0.6, len(settings) - 0.4)
        axes.grid(axis="y")
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    named = {}
    for axes in grid:
        named |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(named.values(), named.keys(), loc="outside right center")
    return figure


def _draw_dots(
    axes: Axes,
    places: Float[np.ndarray, " settings"],
    values: Float[np.ndarray, "settings seeds"],
    name: str,
    number: int,
) -> None:
    color, marker = _COLORS[number % len(_COLORS)], _MARKERS[number % len(_MARKERS)]
    axes.plot(places, values, marker, color=color, alpha=0.35, ms=2.5, mew=0)
    means, errors = mean_and_error(values)
    errors = np.nan_to_num(errors)  # of a single seed the caps alone
    axes.errorbar(
        places, means, errors, fmt=marker, color=color, ms=4.5, elinewidth=1, capsize=2, label=name
    )
