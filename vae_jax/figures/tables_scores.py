"""Figures of scores: of the rows of a table, and of methods that are compared."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vae_jax.figures.settings import mean_and_error
from vae_jax.figures.style import BLUE, CLASS_COLORS, VERMILION, chart_figure, styled, wrapped
from vae_jax.figures.tables import axes_grid, check_array, check_some, fitted, legend_columns, ticks

_MARKERS = "os^Dv<>PXp"


@styled
def score_histogram(
    scores_by_group: Mapping[str, Float[np.ndarray, " _n"]],
    threshold: float,
    *,
    title: str,
    xlabel: str,
) -> Figure:
    """Anomaly scores of one or more groups of rows, and where the line is drawn.

    Args:
        scores_by_group: scores under the name of their group, such as "held out", or "normal"
            and "anomaly".
        threshold: rows that score above it are called anomalous.
        title: what was trained, on what.
        xlabel: name and unit of the score.

    Returns:
        The figure, one axes with the share of each group in every bin. The axis covers the
        threshold, the 0.5 % to 99.5 % quantiles of each group, and what lies beyond them up to
        a quarter of that range; its label counts the scores outside. It is logarithmic where
        these quantiles are positive and cover a factor above 1000, and "symlog" where they
        otherwise cover 100 times the middle half of the narrowest group. The bins are equally
        wide on the axis as it is drawn.

    Raises:
        ValueError: if there is no group, or scores are not finite numbers in one dimension.
    """
    check_some("scores_by_group", scores_by_group)
    for name, scores in scores_by_group.items():
        check_array(f"scores of {name}", scores, (None,))
    if not np.isfinite(threshold):
        raise ValueError(f"threshold {threshold}: a finite number is needed")
    groups = {name: scores.astype(np.float64) for name, scores in scores_by_group.items()}
    quantiles = [np.quantile(s, [0.005, 0.05, 0.25, 0.75, 0.95, 0.995]) for s in groups.values()]
    low = min(threshold, *(q[0] for q in quantiles))
    high = max(threshold, *(q[-1] for q in quantiles))
    if low == high:
        low, high = low - 0.5 * max(abs(low), 1), high + 0.5 * max(abs(high), 1)
    figure = chart_figure(6.4, 3.3, title)
    axes = figure.subplots()
    narrow = min(quantiles, key=lambda q: q[3] - q[2])
    if low > 0 and high / low > 1e3:
        axes.set_xscale("log")
    elif narrow[3] > narrow[2] and high - low > 100 * (narrow[3] - narrow[2]):
        axes.set_xscale("symlog", linthresh=float(np.abs(narrow[1:5]).max()))
    total = sum(map(len, groups.values()))
    count = int(np.clip(2 * np.sqrt(total), 12, 50))
    scale = axes.xaxis.get_transform()
    ends = [low, high, min(map(np.min, groups.values())), max(map(np.max, groups.values()))]
    start, stop, first, last = scale.transform(np.array(ends)).tolist()
    reach, rounding = (stop - start) / 4, 1e-9 * (stop - start)
    start = max(min(start, first), start - reach) - rounding
    stop = min(max(stop, last), stop + reach) + rounding
    edges = scale.inverted().transform(np.linspace(start, stop, count + 1))
    outside = 0
    palette = (BLUE, VERMILION) if len(groups) <= 2 else CLASS_COLORS
    above = [f"{np.mean(scores > threshold):.1%}" for scores in groups.values()]
    for index, (name, scores) in enumerate(groups.items()):
        bins = np.histogram(scores, edges)[0]
        outside += len(scores) - int(bins.sum())
        share = f", {above[index]} above" if len(groups) > 1 else ""
        color = palette[index % len(palette)]
        axes.stairs(
            bins / len(scores), edges, fill=True, lw=0.9, edgecolor=color,
            facecolor=to_rgba(color, 0.35), label=f"{fitted(name, 24)} (n = {len(scores)}{share})",
        )  # fmt: skip
    share = f", {above[0]} above" if len(groups) == 1 else ""
    label = f"threshold {threshold:.4g}{share}"
    axes.axvline(threshold, color="0.15", ls="--", lw=1.1, label=label)
    axes.set_xlim(edges[0], edges[-1])
    lie = "lies" if outside == 1 else "lie"
    axes.set_xlabel(xlabel + (f"\n({outside} of {total} {lie} outside)" if outside else ""))
    axes.set_ylabel("share of the group" if len(groups) > 1 else "share of the rows")
    names = [str(artist.get_label()) for artist in (*axes.patches, *axes.lines)]
    figure.legend(loc="outside lower center", ncols=legend_columns(names, 6.4))
    return figure


@styled
def score_bars(
    scores: Mapping[str, Float[np.ndarray, "datasets _repeats"]],
    datasets: Sequence[str],
    *,
    title: str,
    xlabel: str,
    chance: float | None = None,
) -> Figure:
    """One score of several methods on several data sets.

    Args:
        scores: one score for each data set and repeat, under the name of the method. Methods
            may have been repeated different numbers of times.
        datasets: names of the data sets, from top to bottom.
        title: what was compared.
        xlabel: name of the score, such as "AUROC".
        chance: what a guess has, a dotted line.

    Returns:
        The figure, one axes: for each data set a band with a row for each method, the mean over
        repeats and, of two or more, one standard error to either side.

    Raises:
        ValueError: if there is no method, shapes disagree or a score is not finite.
    """
    check_some("scores", scores)
    for name, values in scores.items():
        check_array(f"scores of {name}", values, (len(datasets), None))
    names = [fitted(name, 36) for name in scores]
    height = len(datasets) * (0.14 * len(scores) + 0.12)
    columns = legend_columns(names, 6.4)
    figure = chart_figure(6.4, height + 0.17 * -(-len(names) // columns) + 0.95, title)
    axes = figure.subplots()
    palette = (BLUE, VERMILION) if len(scores) <= 2 else CLASS_COLORS
    for index, (name, values) in enumerate(zip(names, scores.values(), strict=True)):
        place = np.arange(len(datasets)) + 0.8 * ((index + 0.5) / len(names) - 0.5)
        color, marker = palette[index % len(palette)], _MARKERS[(index + index // 10) % 10]
        _dots(axes, values, place, color, marker, name)
    for index in range(0, len(datasets), 2):
        axes.axhspan(index - 0.5, index + 0.5, color="0.95", lw=0, zorder=0)
    axes.set_yticks(np.arange(len(datasets)), [fitted(name, 24, 2) for name in datasets])
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.85")
    if chance is not None:
        axes.axvline(chance, color="0.3", linestyle=":", linewidth=1, zorder=1)
    axes.set_xlabel(xlabel)
    figure.legend(handles=axes.containers, loc="outside lower center", ncols=columns)
    return figure


@styled
def nats_maps(
    maps: Float[np.ndarray, "n height width"], names: Sequence[str], *, title: str
) -> Figure:
    """Nats of each pixel, a map for each of several models, in rows of ten.

    Args:
        maps: nats, of either sign.
        names: of the maps.
        title: what they are of.

    Returns:
        The figure, an axes for each map and one for the scale that they share: symmetric about
        0, to the largest size of a pixel.

    Raises:
        ValueError: if there is no map, shapes disagree or a number is not finite.
    """
    check_array("maps", maps, (len(names), None, None))
    columns = min(10, len(maps))
    rows = -(-len(maps) // columns)
    width = max(0.8 * columns + 0.7, 4.0)
    more_lines = wrapped(title, width).count("\n")
    figure = chart_figure(width, 1.1 * rows + 0.2 + 0.15 * more_lines, title)
    largest = float(np.abs(maps).max()) or 1.0
    shown = None
    grid = axes_grid(figure, len(maps), columns)
    for axes, pixels, name in zip(grid, maps, names, strict=True):
        shown = axes.imshow(pixels, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes.set_title(fitted(name, 14), size=7.5)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color("0.8")
    if shown is not None:
        figure.colorbar(shown, ax=grid, label="nats", aspect=12, pad=0.01)
    return figure


@styled
def representation_bars(
    values: Mapping[str, Mapping[str, Float[np.ndarray, " _repeats"]]],
    *,
    title: str,
    references: Sequence[str] = (),
) -> Figure:
    """Several measures of what several methods make of a table, each on its own scale.

    Args:
        values: the repeats of each method under its name, under the name of the measure. A
            method may lack a measure.
        title: what was compared.
        references: the methods that others are compared with, drawn in another colour.

    Returns:
        The figure, one axes for each measure, in rows of four: a row for each method, the mean
        over repeats and, of two or more, one standard error to either side.

    Raises:
        ValueError: if there is no measure or a measure without a method, a value is not finite
            or a reference is not among the methods.
    """
    check_some("values", values)
    for measure, of_methods in values.items():
        check_some(f"values of {measure}", of_methods)
        for name, repeats in of_methods.items():
            check_array(f"{measure} of {name}", repeats, (None,))
    methods = list(dict.fromkeys(name for of_methods in values.values() for name in of_methods))
    if unknown := set(references) - set(methods):
        raise ValueError(f"references {sorted(unknown)}: not among {', '.join(methods)}")
    columns = min(4, len(values))
    rows = -(-len(values) // columns)
    labels = [fitted(name, 24) for name in methods]
    width = min(9.0, 1.85 * columns + 0.5 + 0.065 * max(map(len, labels)))
    figure = chart_figure(width, rows * (0.17 * len(methods) + 0.6) + 0.6, title)
    grid = axes_grid(figure, len(values), columns)
    for place, (axes, (measure, of_methods)) in enumerate(zip(grid, values.items(), strict=True)):
        for row, name in enumerate(methods):
            if name in of_methods:
                color = VERMILION if name in references else BLUE
                _dots(axes, of_methods[name][None], np.array([row]), color, "o", name)
        axes.set_title(fitted(measure, 26, 2), size=8)
        axes.set_yticks(np.arange(len(methods)), labels)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, labelleft=place % columns == 0)
        axes.tick_params(axis="x", labelsize=7)
        axes.xaxis.set_major_locator(ticks(3))
        axes.margins(x=0.12)
        axes.grid()
    if references:
        handles = [
            Line2D([], [], color=color, marker="o", ls="", ms=4, label=label)
            for color, label in ((BLUE, "models"), (VERMILION, "references"))
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=2, handletextpad=0)
    return figure


def _dots(
    axes: Axes,
    values: Float[np.ndarray, "rows repeats"],
    places: np.ndarray,
    color: str,
    marker: str,
    label: str,
) -> None:
    """A dot at the mean of each row, with one standard error to either side."""
    mean, error = mean_and_error(values)
    known = error if values.shape[1] > 1 else None
    axes.errorbar(
        mean, places, xerr=known, color=color, marker=marker, ls="", ms=4,
        elinewidth=1, capsize=2, capthick=0.8, label=label,
    )  # fmt: skip
