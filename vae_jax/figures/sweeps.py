"""Figures of a sweep: many models, by setting and seed.

Arrays have the axes `[settings, seeds, ...]`; a member that diverged or is missing is NaN.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from vae_jax.figures.pictures import mosaic
from vae_jax.figures.style import BLUE, CLASS_COLORS, DPI, GREY, chart_figure, styled, wrapped

# Ranks of latent dimensions that are drawn as lines; more are a picture.
MOST_LINES = 10


class RateDistortion(NamedTuple):
    """One curve over a setting, in nats per example.

    Attributes:
        values: of the setting.
        rates: KL(q(z | x) || p(z)).
        distortions: -E_q[log p(x | z)].
    """

    values: Float[np.ndarray, " settings"]
    rates: Float[np.ndarray, "settings seeds"]
    distortions: Float[np.ndarray, "settings seeds"]


@styled
def rate_distortion(
    curves: Mapping[str, RateDistortion],
    *,
    title: str,
    setting: str = "beta",
    unit: str = "nats per image",
) -> Figure:
    """Distortion against rate: what every nat that the code carries buys.

    Each member is a small point; the means over seeds are joined in the order of the setting,
    with a bar of one standard error in either direction. On a dotted line rate + distortion,
    the negative ELBO, is constant.

    Args:
        curves: by their names for the legend.
        title: what was trained.
        setting: what is annotated along a curve.
        unit: of both axes.

    Returns:
        The figure, one axes.

    Raises:
        ValueError: if there is no curve, or no finite point.

    Reference:
        Alemi et al., Fixing a broken ELBO (arXiv 1711.00464), figure 1.
    """
    both = [np.stack([c.rates, c.distortions]).reshape(2, -1) for c in curves.values()]
    points = np.concatenate(both, axis=1) if both else np.empty((2, 0))
    points = points[:, np.isfinite(points).all(axis=0)]
    if points.shape[1] == 0:
        raise ValueError("no finite point to draw")
    figure = chart_figure(5.2, 4.0, title)
    axes = figure.add_subplot()
    low, high = points.min(axis=1), points.max(axis=1)
    margin = 0.09 * np.maximum(high - low, 0.02 * np.abs(high) + 1e-6)
    axes.set_xlim(low[0] - margin[0], high[0] + margin[0])
    axes.set_ylim(low[1] - margin[1], high[1] + margin[1])
    _draw_constant_elbo(axes)
    for color, (name, curve) in zip(_cycle(len(curves)), curves.items(), strict=True):
        rate, distortion = _mean(curve.rates), _mean(curve.distortions)
        axes.plot(curve.rates.ravel(), curve.distortions.ravel(), ".", color=color, alpha=0.3)
        errors = {"xerr": _error(curve.rates), "yerr": _error(curve.distortions)}
        bars = {"capsize": 2, "elinewidth": 0.9, "marker": "o", "color": color}
        axes.errorbar(rate, distortion, **errors, **bars, label=name or None)
        for value, x, y in zip(curve.values, rate, distortion, strict=True):
            if np.isfinite(x + y):
                place = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 7}
                axes.annotate(f"{setting} {value:g}", (x, y), color=color, **place)
    axes.set_xlabel(f"rate, KL(q(z | x) || p(z)), {unit}")
    axes.set_ylabel(f"distortion, $-$log p(x | z), {unit}")
    if len(curves) > 1:
        axes.legend()
    return figure


def _draw_constant_elbo(axes: Axes) -> None:
    """Dotted lines on which the negative ELBO is a round number, labelled where they enter."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    totals = MaxNLocator(6).tick_values(left + bottom, right + top)
    for total in totals:
        # From where the line enters, at the top or at the left, to where it leaves.
        x = max(left, total - top), min(right, total - bottom)
        if x[0] < x[1]:
            axes.plot(x, [total - x[0], total - x[1]], ":", color=GREY, linewidth=0.8, zorder=0)
            at = (x[1], total - x[1])
            place = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "right"}
            axes.annotate(f"$-$ELBO {total:g}", at, fontsize=6, color="0.5", **place)


@styled
def member_curves(
    epochs: Integer[np.ndarray, " epochs"],
    panels: Mapping[str, Float[np.ndarray, "settings seeds epochs"]],
    names: Sequence[str],
    *,
    title: str,
    unit: str = "nats per image",
) -> Figure:
    """Curves of every member over epochs, thin, and their mean over the seeds, thick.

    Args:
        epochs: the epoch of each value.
        panels: the curves of each panel, by its title; NaN after the end of a member.
        names: of the settings.
        title: what was trained.
        unit: label of the vertical axis.

    Returns:
        The figure, an axes for each panel.

    Raises:
        ValueError: if there is no panel, or a shape does not fit.
    """
    if not panels:
        raise ValueError("no panel to draw")
    figure = chart_figure(9.0, 3.1, title)
    colors = _shades(len(names))
    for axes, (name, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        if curves.shape[::2] != (len(names), len(epochs)):
            raise ValueError(f"{name}: shape {curves.shape}, {len(names)} and {len(epochs)} wanted")
        for color, label, seeds in zip(colors, names, curves, strict=True):
            marker = "o" if len(epochs) == 1 else None
            if len(seeds) > 1:
                axes.plot(epochs, seeds.T, color=color, linewidth=0.5, alpha=0.5)
            axes.plot(epochs, _mean(seeds.T), color=color, label=label, marker=marker)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        # The first epochs are far from the others: what the curves end in decides.
        later = curves[..., len(epochs) // 10 :]
        if np.isfinite(later).any():
            low, high = np.nanmin(later), np.nanmax(later)
            margin = 0.05 * max(high - low, 1e-6 + 0.01 * abs(high))
            axes.set_ylim(low - margin, high + margin)
    figure.axes[0].set_ylabel(unit)
    if len(names) > 1:
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center")
    return figure


@styled
def kl_against(
    values: Float[np.ndarray, " settings"],
    kl: Float[np.ndarray, "settings seeds latent"],
    *,
    title: str,
    threshold: float,
    setting: str = "beta",
) -> Figure:
    """KL of each latent dimension, and how many are active, against a setting.

    Dimensions have no order that means anything across members, so they are sorted by
    their KL within each member: the first line is the largest KL, whichever dimension has it.

    Args:
        values: of the setting.
        kl: nats.
        title: what was trained.
        threshold: the KL, in nats, under which a dimension counts as collapsed.
        setting: label of the horizontal axis.

    Returns:
        The figure: the KL by rank, as lines with bands of one standard error or, beyond ten
        dimensions, as a picture; and the number of active dimensions.

    Raises:
        ValueError: if the shapes disagree.
    """
    if kl.shape[0] != len(values) or kl.shape[2] == 0:
        raise ValueError(f"kl of shape {kl.shape} for {len(values)} values")
    order = np.argsort(values)
    values, ranked = values[order], -np.sort(-kl[order], axis=2)
    latent_dim = kl.shape[2]
    figure = chart_figure(8.0, 3.2, title)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    if latent_dim <= MOST_LINES:
        for color, rank in zip(_shades(latent_dim), range(latent_dim), strict=True):
            _band(left, values, ranked[:, :, rank], color, _ordinal(rank + 1))
        left.axhline(threshold, color=GREY, linestyle="--", linewidth=0.8)
        place = {"xytext": (2, 2), "textcoords": "offset points", "fontsize": 6, "color": "0.5"}
        left.annotate(f"collapsed under {threshold:g}", (values[0], threshold), **place)
        left.set_yscale("log")
        left.set_ylabel("KL of a dimension, nats")
        if latent_dim > 1:
            left.legend(title="largest", fontsize=7, title_fontsize=7)
        _set_scale(left, values)
    else:
        means = _mean(ranked.swapaxes(1, 2)).T
        shown = left.pcolormesh(np.arange(len(values) + 1), np.arange(latent_dim + 1), means)
        shown.set_clim(0, None)
        left.set_xticks(np.arange(len(values)) + 0.5, [f"{value:g}" for value in values])
        left.set_yticks([0.5, latent_dim - 0.5], ["1", str(latent_dim)])
        left.invert_yaxis()
        left.set_ylabel("latent dimension, by its KL")
        figure.colorbar(shown, ax=left, label="nats")
    active = np.where(np.isnan(kl[order]).any(axis=2), np.nan, (kl[order] > threshold).sum(axis=2))
    _band(right, values, active, BLUE, "")
    right.set_ylim(-0.04 * latent_dim, 1.04 * latent_dim)
    right.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    right.set_ylabel(f"active dimensions of {latent_dim}")
    right.grid(axis="y")
    _set_scale(right, values)
    for axes in (left, right):
        axes.set_xlabel(setting)
    return figure


@styled
def side_by_side(
    panels: Sequence[Float[np.ndarray, "rows cols h w *c"]],
    names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Several sheets of pictures, manifolds or samples, of one setting each.

    Args:
        panels: the sheets, all of one shape; values in [0, 1], row 0 at the top.
        names: the name above each.
        title: what was trained.

    Returns:
        The figure, an axes for each sheet, at most four in a row.

    Raises:
        ValueError: if there is no sheet, or not one name for each.
    """
    if len(panels) == 0 or len(panels) != len(names):
        raise ValueError(f"{len(panels)} sheets with {len(names)} names: one each is needed")
    sheets = [mosaic(panel) for panel in panels]
    height, width = sheets[0].shape[:2]
    columns = min(len(sheets), 3 if len(sheets) in (3, 5, 6, 9) else 4)
    rows = -(-len(sheets) // columns)
    # One dot for each pixel of a sheet at least, and every pixel as large as the next.
    scale = max(1, round(520 / width))
    gap, above = 14, 40
    full_width = max(gap + columns * (scale * width + gap), 2 * DPI)
    heading = wrapped(title, full_width / DPI)
    top = 50 + 30 * heading.count("\n")
    full_height = top + rows * (scale * height + above) + gap
    figure = Figure(figsize=((full_width + 1e-4) / DPI, (full_height + 1e-4) / DPI))
    figure.suptitle(heading, x=gap / full_width, y=1 - 12 / full_height, ha="left", va="top")
    for i, (sheet, name) in enumerate(zip(sheets, names, strict=True)):
        row, column = divmod(i, columns)
        left = gap + column * (scale * width + gap)
        bottom = full_height - top - (row + 1) * (scale * height + above) + gap // 2
        box = np.array([left, bottom, scale * width, scale * height])
        axes = figure.add_axes(tuple(box / [full_width, full_height, full_width, full_height]))
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.set_title(name, pad=2, fontsize=8)
        axes.set_axis_off()
    return figure


def _band(
    axes: Axes,
    values: np.ndarray,
    seeds: Float[np.ndarray, "settings seeds"],
    color: str,
    label: str,
) -> None:
    mean, error = _mean(seeds), np.nan_to_num(_error(seeds))
    axes.plot(values, mean, "o-", color=color, label=label)
    axes.fill_between(values, mean - error, mean + error, color=color, alpha=0.2, linewidth=0)


def _set_scale(axes: Axes, values: np.ndarray) -> None:
    """A logarithmic axis for values that span one, with the values themselves as ticks."""
    if values[0] > 0 and values[-1] >= 4 * values[0]:
        axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _mean(seeds: np.ndarray) -> np.ndarray:
    """Over the last axis, without what is NaN; NaN where nothing is left."""
    finite = np.isfinite(seeds)
    total = np.where(finite, seeds, 0.0).sum(axis=-1)
    count = finite.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _error(seeds: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis; NaN where fewer than two are left."""
    finite = np.isfinite(seeds)
    count = finite.sum(axis=-1)
    squares = np.where(finite, (seeds - _mean(seeds)[..., None]) ** 2, 0.0).sum(axis=-1)
    variance = squares / np.maximum(count - 1, 1) / np.maximum(count, 1)
    return np.where(count > 1, np.sqrt(variance), np.nan)


def _shades(count: int) -> list[str]:
    """Colours for ordered things."""
    if count == 1:
        return [BLUE]
    return [to_hex(color) for color in colormaps["viridis"](np.linspace(0.0, 0.88, count))]


def _cycle(count: int) -> list[str]:
    """Colours for things without an order."""
    return [BLUE] if count == 1 else [CLASS_COLORS[i % len(CLASS_COLORS)] for i in range(count)]


def _ordinal(number: int) -> str:
    return str(number) + {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
