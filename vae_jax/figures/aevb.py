"""Bounds against the number of training points: figure 2 of the first VAE."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vae_jax.figures.style import BLUE, CLASS_COLORS, VERMILION, chart_figure, styled

# Of the points seen: a panel's vertical axis fits what comes later.
_FITTED_FROM = 0.1


class BoundCurve(NamedTuple):
    """What one method reaches in the course of training.

    Attributes:
        points: training points seen so far, ascending.
        train: the bound on the training data, nats; NaN after a member diverged.
        test: the bound on the test data, likewise.
    """

    points: Float[np.ndarray, " rows"]
    train: Float[np.ndarray, "seeds rows"]
    test: Float[np.ndarray, "seeds rows"]


@styled
def bounds_against_points(
    rows: Sequence[Mapping[str, Mapping[str, BoundCurve]]],
    *,
    title: str,
) -> Figure:
    """How good a bound is after so many training points: a panel for each model.

    Args:
        rows: of each row of panels, which share a vertical axis: under the title of a panel the
            curve of each method. Methods have the same colour everywhere.
        title: what was trained.

    Returns:
        The figure, one axes for each panel: test solid, train dashed, averaged over the seeds that
        did not diverge, on a logarithmic axis of points. The vertical axis fits the last nine
        tenths of the points; what was worse before is cut off, and so is what lies far below
        everything else.

    Raises:
        ValueError: if there is no panel, or a curve has not a value for each point.

    Reference:
        arXiv 1312.6114, figure 2.
    """
    if not rows or not all(rows):
        raise ValueError("no panel to draw")
    columns = max(map(len, rows))
    methods = list(dict.fromkeys(name for row in rows for panel in row.values() for name in panel))
    palette = (BLUE, VERMILION) if len(methods) <= 2 else CLASS_COLORS
    colors = dict(zip(methods, palette, strict=False))
    figure = chart_figure(max(1.75 * columns + 0.6, 4.2), 2.1 * len(rows) + 0.5, title)
    grid = figure.subplots(len(rows), columns, squeeze=False, sharey="row")
    for axes_of_row, row in zip(grid, rows, strict=True):
        for spare in axes_of_row[len(row) :]:
            spare.remove()
        for axes, (name, curves) in zip(axes_of_row, row.items(), strict=False):
            axes.set_title(name)
            axes.set_xscale("log")
            axes.set_xlabel("training points")
            axes.grid(axis="y")
            for method, curve in curves.items():
                _draw(axes, curve, colors[method])
        _fit_later(axes_of_row[0], [curve for panel in row.values() for curve in panel.values()])
        axes_of_row[0].set_ylabel("ELBO (nats per image)")
    splits = [("test", "-", "0.3"), ("train", "--", "0.3")]
    lines = [(name, "-", color) for name, color in colors.items()] + splits
    handles = [Line2D([], [], ls=style, color=color, label=name) for name, style, color in lines]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    return figure


def _draw(axes: Axes, curve: BoundCurve, color: str) -> None:
    marker = "o" if len(curve.points) <= 12 else None
    for values, style in ((curve.train, "--"), (curve.test, "-")):
        if np.ndim(values) != 2 or np.shape(values)[1] != len(curve.points) or not np.size(values):
            raise ValueError(f"{len(curve.points)} points: values of shape {np.shape(values)}")
        left = np.isfinite(values).any(axis=0)  # where a model is left to be averaged
        mean = np.nanmean(values[:, left], axis=0)
        axes.plot(curve.points[left], mean, style, color=color, marker=marker, lw=1.2)


def _fit_later(axes: Axes, curves: Sequence[BoundCurve]) -> None:
    """Set the vertical axis to what comes late in training, but for a curve that went astray."""
    late = [
        values[:, curve.points >= _FITTED_FROM * np.max(curve.points)].ravel()
        for curve in curves
        for values in (curve.train, curve.test)
    ]
    values = np.concatenate(late)
    finite = values[np.isfinite(values)]
    if len(finite):
        top, middle = float(np.max(finite)), float(np.median(finite))
        bottom = max(float(np.min(finite)), middle - 3 * (top - middle))
        margin = 0.05 * max(top - bottom, 1.0)
        axes.set_ylim(bottom - margin, top + margin)
