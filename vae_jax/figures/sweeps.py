"""Figures of a sweep: one setting at several values, each trained from several seeds.

A member that diverged or is missing is NaN; what is drawn is the mean over the others. One
standard error needs two members, and is left out where there are fewer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vae_jax.figures.pictures import dots_figure, mosaic, show_sheet, whole_scale
from vae_jax.figures.settings import HALO, ascending, mean_and_error, ordered_colors
from vae_jax.figures.style import (
    BLUE,
    CLASS_COLORS,
    DPI,
    VERMILION,
    chart_figure,
    styled,
    wrapped,
)

_GREYS = 48  # levels of grey in `side_by_side`; 256 of them take 60 % more bytes

_MARKERS = "os^Dv<>PXp"


class RateDistortionCurve(NamedTuple):
    """Where the members of a sweep lie in the rate-distortion plane.

    Attributes:
        values: the values of the setting, finite, in any order.
        rates: KL(q(z | x) || p(z)) of each member, averaged over images, nats.
        distortions: -E log p(x | z) of each member, averaged over images, nats.
    """

    values: Float[np.ndarray, " settings"]
    rates: Float[np.ndarray, "settings seeds"]
    distortions: Float[np.ndarray, "settings seeds"]


@styled
def rate_distortion(
    curves: Mapping[str, RateDistortionCurve],
    *,
    title: str,
    setting: str = "beta",
    unit: str = "nats per image",
) -> Figure:
    """What models pay for their codes against what the codes leave unsaid.

    rate = E KL(q(z | x) || p(z)),  distortion = -E log p(x | z)

    To the left are models whose z says little about x, at the left edge posterior collapse; at
    the bottom are faithful reconstructions. Rate and distortion add up to the negative ELBO,
    the same along each grey diagonal: models on one diagonal are equally good in bound, yet may
    use z very differently. Lower left is better, and beta chooses a point of the frontier,
    the one where its slope is -beta.

    Args:
        curves: the members of each curve under its name for the legend; the name may be empty
            if there is one curve. One without a finite member is left out.
        title: what was trained.
        setting: name of what was swept.
        unit: unit of both axes.

    Returns:
        The figure, one axes: a faint point for each member, and for each value of the setting
        the mean over seeds with one standard error both ways, labelled with the value, and
        joined in ascending order. A value whose members all diverged leaves a gap.

    Raises:
        ValueError: if shapes disagree, a value is not finite, or no member of any curve is.

    Reference:
        arXiv 1711.00464, section 2 (Alemi et al., Fixing a Broken ELBO).
    """
    figure = chart_figure(6.9 if any(curves) else 5.6, 4.4, title)
    axes = figure.subplots()
    colors = (BLUE, VERMILION) if len(curves) <= 2 else CLASS_COLORS
    means, names, obstacles, handles = [], [], [], []
    for index, (name, curve) in enumerate(curves.items()):
        # Past the last colour the colours begin anew, each with another marker.
        color, marker = colors[index % len(colors)], _MARKERS[(index + index // 10) % 10]
        shapes = np.shape(curve.rates), np.shape(curve.distortions)
        order = ascending(curve.values, shapes[0])
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise ValueError(f"{name or 'curve'}: rates {shapes[0]}, distortions {shapes[1]}")
        members = np.stack([curve.rates, curve.distortions], axis=-1)[order]
        members = np.where(np.isfinite(members).all(-1, keepdims=True), members, np.nan)
        if np.isnan(members).all():
            continue
        mean, error = mean_and_error(members)
        x, y = members.reshape(-1, 2).T
        axes.plot(x, y, marker, color=color, alpha=0.35, ms=3, mew=0)
        handles.append(
            axes.errorbar(
                *mean.T, xerr=error[:, 0], yerr=error[:, 1], color=color, marker=marker, ms=4.5,
                elinewidth=0.8, capsize=1.5, capthick=0.8, lw=1.2, label=name,
            )
        )  # fmt: skip
        kept = np.isfinite(mean[:, 0])
        texts = [f"{value:g}" for value in curve.values[order][kept]]
        texts[0] = f"{setting} {texts[0]}"
        names += texts
        means.append(mean[kept])
        steps = np.linspace(0, 1, 30)[:, None, None]
        obstacles += [members.reshape(-1, 2), (mean[:-1] + steps * np.diff(mean, axis=0))]
    if not means:
        raise ValueError("no member of any curve has a finite rate and distortion")
    axes.margins(0.12)
    axes.set_xlabel(f"rate, KL(q(z | x) || p(z)) ({unit})")
    axes.set_ylabel(f"distortion, $-$log p(x | z) ({unit})")
    if any(curves):
        columns = -(-len(handles) // 25)
        figure.legend(handles=handles, loc="outside right center", ncols=columns)
    _elbo_diagonals(axes)
    points = np.concatenate([array.reshape(-1, 2) for array in obstacles])
    _label_points(figure, axes, np.concatenate(means), names, points[np.isfinite(points[:, 0])])
    return figure


@styled
def member_curves(
    epochs: Integer[np.ndarray, " epochs"],
    panels: Mapping[str, Float[np.ndarray, "settings seeds epochs"]],
    names: Sequence[str],
    *,
    title: str,
    unit: str = "nats per image",
) -> Figure:
    """Every member of a sweep over epochs, one panel for each metric.

    Args:
        epochs: the epoch of each value.
        panels: the values to draw, in `unit`, under the title of their panel. One that is not
            finite leaves a gap in its member's line; the mean goes on over the other seeds.
        names: a name for each setting, in the order that the colours show.
        title: what was trained.
        unit: label of the vertical axis.

    Returns:
        The figure, one axes for each panel, three a row: a faint line for each member and a
        thick one for the mean over the seeds of each setting. The vertical axis fits what comes
        after the first tenth of the epochs, which are far from the others. With several
        settings there is a legend.

    Raises:
        ValueError: if there is no panel, or one has not a row for each name or not a value for
            each epoch.
    """
    if not panels:
        raise ValueError("no panel to draw")
    columns, rows = min(len(panels), 3), -(-len(panels) // 3)
    figure = chart_figure(2.7 * columns + 1.1, 2.5 * rows + 0.4, title)
    colors = ordered_colors(len(names))
    grid = figure.subplots(rows, columns, squeeze=False)
    for spare in grid.flat[len(panels) :]:
        spare.remove()
    marker = "o" if len(epochs) <= 12 else None
    for axes, (name, values) in zip(figure.axes, panels.items(), strict=True):
        shape = np.shape(values)
        sizes = len(names), len(epochs)
        if len(shape) != 3 or (shape[0], shape[2]) != sizes or 0 in shape:
            raise ValueError(f"{name}: shape {shape}, {sizes[0]} names, {sizes[1]} epochs")
        means = mean_and_error(values)[0]
        for members, color in zip(values, colors, strict=True):
            axes.plot(epochs, members.T, color=color, alpha=0.35, lw=0.6, marker=marker, ms=1.5)
        for mean, color in zip(means, colors, strict=True):
            axes.plot(epochs, mean, color=color, lw=1.6, marker=marker)
        _fit_later(axes, values[..., len(epochs) // 10 :])
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
    for row in grid:
        row[0].set_ylabel(unit)
    if len(names) > 1:
        handles = [
            Line2D([], [], color=tuple(color), label=name, lw=1.6, marker=marker)
            for color, name in zip(colors, names, strict=True)
        ]
        columns = -(-len(names) // (14 * rows))
        figure.legend(handles=handles, loc="outside right center", ncols=columns)
    return figure


@styled
def side_by_side(
    panels: Sequence[Float[np.ndarray, "rows cols h w *c"]],
    names: Sequence[str],
    *,
    title: str,
    padding: int = 0,
) -> Figure:
    """Mosaics of pictures, one for each setting, to be compared.

    Args:
        panels: the pictures of each mosaic, such as a `manifold` or samples; row 0 is drawn at
            the top. Values in [0, 1]; all of one shape.
        names: what stands above each.
        title: what was trained.
        padding: white pixels between the pictures of a mosaic.

    Returns:
        The figure, one axes for each mosaic: up to four in a row, as the width allows, or
        several rows of as equal length as can be. Each pixel is a square of whole dots. Grey
        levels are rounded to one of 48, unseen at this size, for the sake of the file's.

    Raises:
        ValueError: if there is no panel, not one name for each, their shapes differ, or a value
            lies outside [0, 1].
    """
    if len(panels) != len(names) or len(panels) == 0:
        raise ValueError(f"{len(names)} names for {len(panels)} panels")
    shapes = sorted({np.shape(panel) for panel in panels})
    if len(shapes) > 1:
        raise ValueError(f"panels of shapes {', '.join(map(str, shapes))}: one is needed")
    sheets = [mosaic(panel, padding=padding) for panel in panels]
    if sheets[0].ndim == 2:
        sheets = [np.round(sheet * (_GREYS - 1)) / (_GREYS - 1) for sheet in sheets]
    height, width = sheets[0].shape[:2]
    rows = -(-len(sheets) // max(1, min(4, 1800 // width)))
    columns = -(-len(sheets) // rows)
    scale = whole_scale(columns * width, rows * height)
    labels = [wrapped(name, scale * width / DPI) for name in names]
    lines = 1 + max(label.count("\n") for label in labels)
    margin, gap, head = 20, 24, 20 + 27 * lines  # dots; a line of text is 27 of them
    step_x, step_y = scale * width + gap, scale * height + head
    full_width = max(columns * step_x - gap, 500) + 2 * margin
    title = wrapped(title, (full_width - 2 * margin) / DPI)
    full_height = rows * step_y + margin + 44 + 30 * title.count("\n")
    figure = dots_figure(full_width, full_height)
    for index, (sheet, label) in enumerate(zip(sheets, labels, strict=True)):
        row, column = divmod(index, columns)
        bottom = margin + (rows - 1 - row) * step_y
        axes = show_sheet(figure, sheet, margin + column * step_x, bottom, scale)
        axes.set_title(label, fontsize=8, pad=4)
    figure.suptitle(title, x=margin / full_width, y=1 - 14 / full_height, ha="left", va="top")
    return figure


def _fit_later(axes: Axes, values: Float[np.ndarray, "settings seeds later"]) -> None:
    """Limits of the vertical axis that fit some values."""
    finite = values[np.isfinite(values)]
    if len(finite):
        margin = 0.05 * max(float(np.ptp(finite)), 0.02 * abs(float(finite[0])), 1e-6)
        axes.set_ylim(finite.min() - margin, finite.max() + margin)


def _elbo_diagonals(axes: Axes) -> None:
    """Lines of constant rate + distortion, labelled where they leave the axes."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    for total in MaxNLocator(9).tick_values(left + bottom, right + top):
        if not left + bottom < total < right + top:
            continue
        ends = np.array([total - top, total - bottom])
        axes.plot(ends, total - ends, color="0.87", lw=0.7, zorder=0.5)
        # A line that leaves at the bottom, where the ticks are, stays without a label.
        above = left <= total - top <= right
        place, offset = ((total - top, top), (0, 2)) if above else ((right, total - right), (3, 0))
        axes.annotate(
            f"{total:g}", place, offset, textcoords="offset points", fontsize=6.5, color="0.5",
            ha="center" if above else "left", va="bottom" if above else "center",
        )  # fmt: skip
    axes.set_title("grey: negative ELBO = rate + distortion", fontsize=7, color="0.5", pad=13)


def _label_points(
    figure: Figure,
    axes: Axes,
    points: Float[np.ndarray, "n 2"],
    names: Sequence[str],
    obstacles: Float[np.ndarray, "m 2"],
) -> None:
    """Write a name beside each point, at the nearest place where it hides least."""
    figure.draw_without_rendering()  # what is where is known only after the layout
    to_points = 72 / figure.dpi  # the unit of fonts
    hidden = axes.transData.transform(obstacles) * to_points
    frame = axes.get_window_extent().get_points() * to_points
    rays = [(1, 1), (1, 0), (-1, -1), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)]
    written = np.zeros((0, 2, 2))
    for point, name in zip(points, names, strict=True):
        place = axes.transData.transform(point) * to_points
        half = np.array([2.2 * len(name) + 1, 4.5])
        candidates = []
        for distance in (3, 8, 14, 22):
            for ray in rays:
                centre = place + np.array(ray) * (half + distance)
                box = np.stack([centre - half, centre + half])
                touched = np.all((written[:, 0] < box[1]) & (written[:, 1] > box[0]), axis=-1)
                covered = np.all((hidden > box[0]) & (hidden < box[1]), axis=-1)
                outside = np.any(box[0] < frame[0]) or np.any(box[1] > frame[1])
                cost = 50 * np.sum(touched) + 50 * outside + np.sum(covered) + distance / 8
                candidates.append((float(cost), distance, centre, box))
        _, distance, centre, box = min(candidates, key=lambda candidate: candidate[0])
        written = np.concatenate([written, box[None]])
        leader = {"arrowstyle": "-", "lw": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            name, tuple(point), tuple(centre - place), textcoords="offset points", fontsize=7,
            ha="center", va="center", arrowprops=leader if distance > 3 else None,
            path_effects=HALO,
        )  # fmt: skip
