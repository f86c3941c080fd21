"""Figures of the latent space of a model of a table, and what all figures of tables share.

Names of features, classes and methods are broken
after a separator or cut in the middle where they would not fit; the arrays never are.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from vae_jax.figures.style import BLUE, CLASS_COLORS, GREY, VERMILION, chart_figure, styled

MAX_FEATURES = 16
_MAX_PANELS = 6
_DASHES = ("-", "--", ":", "-.")


class LatentPanel(NamedTuple):
    """Points in two dimensions, one panel of `latent_panels`.

    Attributes:
        points: posterior means, or what another method makes of the same rows.
        scales: the posterior standard deviations, or None where a method has none.
        axis_names: names of the two dimensions.
    """

    points: Float[np.ndarray, "n 2"]
    scales: Float[np.ndarray, "n 2"] | None = None
    axis_names: tuple[str, str] = ("z1", "z2")


@styled
def latent_panels(
    panels: Mapping[str, LatentPanel],
    labels: Integer[np.ndarray, " n"] | None,
    class_names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """The same rows in two dimensions, side by side for several models or methods.

    Args:
        panels: one to six panels under their titles, drawn in rows of three.
        labels: the class of each row, an index into `class_names`, or None.
        class_names: names for the legend; ignored without labels.
        title: which table.

    Returns:
        The figure, one axes with equal scales for each panel, points coloured by class, each
        with the ellipse of one posterior standard deviation where its panel gives scales.

    Raises:
        ValueError: if there is no panel or more than six, shapes disagree, a number is not
            finite, a scale is negative or a label has no name.
    """
    if not 1 <= len(panels) <= _MAX_PANELS:
        raise ValueError(f"{len(panels)} panels: 1 to {_MAX_PANELS} are needed")
    if labels is not None and not np.all((labels >= 0) & (labels < len(class_names))):
        raise ValueError(f"labels {labels.min()} to {labels.max()}, {len(class_names)} names")
    for name, panel in panels.items():
        rows = None if labels is None else len(labels)
        check_array(f"points of {name}", panel.points, (rows, 2))
        if panel.scales is not None:
            check_array(f"scales of {name}", panel.scales, panel.points.shape)
            if panel.scales.min() < 0:
                raise ValueError(f"scales of {name}: {panel.scales.min()} is negative")
    colors = _class_colors(len(class_names))
    present = [] if labels is None else [int(index) for index in np.unique(labels)]
    names = [fitted(class_names[index], 24) for index in present]
    columns = min(3, len(panels))
    width = 4.6 if columns == 1 else 2.9 * columns + 0.3
    entries = legend_columns(names, width)
    height = 3.0 * -(-len(panels) // columns) + 0.6 + 0.17 * -(-len(names) // entries)
    figure = chart_figure(width, height + (columns == 1), title)
    for axes, (name, panel) in zip(
        axes_grid(figure, len(panels), columns), panels.items(), strict=True
    ):
        used = np.tile(to_rgba_array(BLUE), (len(panel.points), 1))
        if labels is not None:
            used = colors[labels]
        if panel.scales is not None:
            widths, heights = 2 * panel.scales.T
            faint = float(np.clip(50 / len(used), 0.1, 0.35))
            axes.add_collection(
                EllipseCollection(
                    widths, heights, np.zeros(len(used)), units="xy", facecolors="none",
                    edgecolors=used, linewidths=0.4, zorder=0.9, offsets=panel.points,
                    offset_transform=axes.transData, alpha=faint,
                ),
                autolim=False,
            )  # fmt: skip
            for sign in (-1, 1):
                axes.update_datalim(panel.points + sign * panel.scales)
        mixed_scatter(axes, panel.points, used)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(fitted(name, 38, 2), size=8)
        axes.set_xlabel(fitted(panel.axis_names[0], 34))
        axes.set_ylabel(fitted(panel.axis_names[1], 34))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticks(6))
    handles = [Line2D([], [], color=tuple(colors[i]), marker="o", ls="", ms=5) for i in present]
    if handles:
        figure.legend(
            handles, names, loc="outside lower center", ncols=entries, handletextpad=0
        )  # fmt: skip
    return figure


@styled
def traversal_curves(
    z: Float[np.ndarray, " steps"],
    curves: Float[np.ndarray, "latent steps features"],
    names: Sequence[str],
    *,
    title: str,
    units: Sequence[str] | None = None,
    observed: Float[np.ndarray, "features 2"] | None = None,
) -> Figure:
    """What each latent dimension does to each feature, the others at 0.

    Args:
        z: the values that a dimension takes, in standard deviations of the prior.
        curves: the decoded features as dimension `latent` takes each value, in the units of
            the table.
        names: of the features.
        title: what was trained.
        units: the unit of each feature, empty where it has none.
        observed: the 5 % and 95 % quantiles of each feature in the data, drawn as a band.

    Returns:
        The figure, one axes for each feature and one line for each dimension. Of more than 16
        features those are shown, in the table's order, that move most by a single dimension
        relative to the width of their band (a band without width counts as no movement), or
        the first 16 without bands; the title says so.

    Raises:
        ValueError: if shapes disagree, a number is not finite or a band is upside down.
    """
    check_array("z", z, (None,))
    check_array("curves", curves, (None, len(z), len(names)))
    if units is not None and len(units) != len(names):
        raise ValueError(f"{len(units)} units for {len(names)} names")
    shown, total = list(range(len(names)))[:MAX_FEATURES], len(names)
    if observed is not None:
        check_array("observed", observed, (total, 2))
        spread, moved = observed[:, 1] - observed[:, 0], np.ptp(curves, axis=1).max(axis=0)
        if spread.min() < 0:
            raise ValueError("observed: the lower quantile of a feature is above its upper one")
        ratio = np.divide(moved, spread, out=np.zeros(total), where=spread > 0)
        shown = np.sort(np.argsort(-ratio, kind="stable")[:MAX_FEATURES]).tolist()
        if total > MAX_FEATURES:
            title += f" · the {MAX_FEATURES} of {total} features that move most for their spread"
    elif total > MAX_FEATURES:
        title += f" · the first {MAX_FEATURES} of {total} features"
    columns = min(4, len(shown))
    figure = chart_figure(2.05 * columns + 0.8, 1.5 * -(-len(shown) // columns) + 0.8, title)
    palette = (BLUE, VERMILION) if len(curves) <= 2 else CLASS_COLORS
    for place, (axes, feature) in enumerate(
        zip(axes_grid(figure, len(shown), columns), shown, strict=True)
    ):
        if observed is not None:
            axes.axhspan(*observed[feature], color=GREY, alpha=0.35, lw=0, zorder=0.5)
        for index, curve in enumerate(curves[:, :, feature]):
            color, dashes = palette[index % len(palette)], _DASHES[index // 10 % 4]
            axes.plot(z, curve, dashes, color=color, lw=1.2, label=f"z{index + 1}")
        unit = "" if units is None or not units[feature] else f" ({units[feature]})"
        axes.set_title(fitted(names[feature] + unit, 28, 2), size=7.5)
        axes.set_xlim(float(z.min()), float(z.max()) + (len(z) == 1))
        axes.tick_params(labelsize=7, labelbottom=place + columns >= len(shown))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(ticks(4))
        axes.grid(axis="y")
    handles: list[Line2D | Patch] = list(figure.axes[0].lines)
    if observed is not None:
        handles.append(Patch(color=GREY, alpha=0.35, lw=0, label="data,\n5-95 %"))
    figure.supxlabel("latent coordinate, the others at 0", size=8)
    figure.legend(handles=handles, loc="outside right center", ncols=-(-len(handles) // 25))
    return figure


def check_array(name: str, values: np.ndarray, shape: tuple[int | None, ...]) -> None:
    """Refuse an array that has another shape (None for any size), is empty or not finite."""
    fits = values.ndim == len(shape) and all(
        size in (None, had) for size, had in zip(shape, values.shape, strict=True)
    )
    if not fits or values.size == 0:
        needed = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: shape {values.shape}, needed is ({needed}) and not empty")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{name}: numbers that are not finite cannot be drawn")


def check_some(name: str, entries: Mapping[str, object]) -> None:
    """Refuse an empty mapping."""
    if not entries:
        raise ValueError(f"{name}: at least one entry is needed")


def fitted(name: str, width: int, lines: int = 1) -> str:
    """A name in lines of at most `width` characters, as Matplotlib shows it verbatim.

    Broken after a separator where that is enough, else anywhere, and cut in the middle where
    even that is too long: names of features often differ at the end.
    """
    name = " ".join(name.split())
    rows = [""]
    for piece in re.split(r"(?<=[ _/.-])", name):
        if rows[-1] and len((rows[-1] + piece).rstrip()) > width:
            rows.append("")
        rows[-1] += piece
    if len(rows) > lines or max(map(len, rows)) > width + 1:
        if len(name) > width * lines:
            kept = (width * lines - 1) // 2
            name = f"{name[:kept]}…{name[-kept:]}"
        rows = [name[start : start + width] for start in range(0, len(name), width)]
    return "\n".join(row.rstrip() for row in rows).replace("$", r"\$")


def axes_grid(figure: Figure, count: int, columns: int) -> list[Axes]:
    """So many axes in rows of `columns`, the rest of the last row left empty."""
    grid = figure.subplots(-(-count // columns), columns, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return list(grid[:count])


def ticks(most: int) -> MaxNLocator:
    """Few ticks at round numbers."""
    return MaxNLocator(most, steps=[1, 2, 2.5, 5, 10])


def mixed_scatter(
    axes: Axes, points: Float[np.ndarray, "n 2"], colors: Float[np.ndarray, "n 4"]
) -> None:
    """Points in a fixed random order: in the data's order the last class would cover others."""
    order = np.random.default_rng(0).permutation(len(points))
    size = float(np.clip(3_000 / len(points), 2, 12))
    axes.scatter(
        *points[order].T, c=colors[order], s=size, alpha=0.6, linewidths=0, rasterized=True
    )


def legend_columns(names: Sequence[str], inches: float) -> int:
    """How many entries fit side by side under a figure."""
    longest = max(map(len, names), default=1)
    return max(1, min(len(names), int(inches / (0.07 * longest + 0.45))))


def _class_colors(count: int) -> Float[np.ndarray, "colors 4"]:
    if count <= len(CLASS_COLORS):
        return to_rgba_array(CLASS_COLORS)
    return np.asarray(colormaps["viridis"](np.linspace(0, 1, count)))
