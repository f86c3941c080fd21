"""Figures of models of sentences: what became of their codes, and what they write.

A seed that diverged is NaN: it is left out, and counted beside the name of its remedy.
"""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import cycle, islice

import numpy as np
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from vae_jax.figures.style import BLUE, CLASS_COLORS, VERMILION, chart_figure, styled, wrapped
from vae_jax.figures.tables import fitted, ticks

_UNIT = "nats per sentence"
_DASHES = ("-", "--", ":", "-.")
# The colours of classes that are pale for a line stand last, or are left out.
_COLORS = (BLUE, VERMILION, *CLASS_COLORS[5:], *CLASS_COLORS[3:5])
_RULES = ("--", ":", "-.")
# Of a page of sentences: the size of its letters in points, and the rest in inches.
_POINTS = 8.5
_LINE, _PADDING, _GAP, _MARGIN = 0.145, 0.08, 0.35, 0.15
_WIDEST, _NARROWEST = 3.0, 4.5  # a column, and the page


@styled
def draw_remedies(
    epochs: Integer[np.ndarray, " epochs"],
    kl: Float[np.ndarray, "remedies seeds epochs"],
    active_dims: Float[np.ndarray, "remedies seeds epochs"],
    names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """What z carries over training under each remedy against posterior collapse.

    Args:
        epochs: the epoch of each value.
        kl: KL(q(z | x) || p(z)) of each model, nats per sentence. A model with a value that
            is not finite, here or in `active_dims`, is left out of both panels.
        active_dims: how many latent dimensions of each model have a KL over 0.01 nats.
        names: of the remedies.
        title: what was trained.

    Returns:
        The figure, two axes: for each remedy the mean over seeds and a band from the smallest
        to the largest. The axis of the KL is linear up to 1 and logarithmic above, so that a
        collapsed code is seen beside one that a warm-up lets grow.

    Raises:
        ValueError: if there is no remedy, or shapes disagree.
    """
    shape = np.shape(kl)
    if shape != np.shape(active_dims) or shape[::2] != (len(names), len(epochs)) or 0 in shape:
        raise ValueError(
            f"kl {shape}, active dimensions {np.shape(active_dims)}: {len(names)} names, "
            f"{len(epochs)} epochs"
        )
    kept = np.all(np.isfinite(kl) & np.isfinite(active_dims), axis=-1)
    figure = chart_figure(9.0, 3.2, title)
    left, right = figure.subplots(1, 2)
    _draw_ranges(left, epochs, kl, kept)
    left.set_yscale("symlog", linthresh=1, linscale=0.6)
    left.set_ylim(-0.1, 1.3 * float(np.max(kl, where=kept[..., None], initial=1)))
    left.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=[1, 2, 5]))
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    left.set_title("KL(q(z | x) || p(z))")
    left.set_ylabel(_UNIT)
    _draw_ranges(right, epochs, active_dims, kept)
    right.yaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    right.set_title("active dimensions (KL over 0.01 nats)")
    right.set_ylabel("latent dimensions")
    handles = [
        Line2D([], [], color=color, ls=dashes, label=name)
        for (color, dashes), name in zip(_looks(len(names)), _counted(names, kept, 26), strict=True)
    ]
    figure.legend(handles=handles, loc="outside right center", handlelength=3)
    return figure


@styled
def draw_nll(
    names: Sequence[str],
    nll: Float[np.ndarray, "remedies seeds"],
    references: Mapping[str, float],
    *,
    title: str,
) -> Figure:
    """The negative log-likelihood under each remedy beside what it is to be compared with.

    Args:
        names: of the remedies.
        nll: importance-weighted estimate of -log p(x) of each model, nats per sentence;
            NaN where it diverged.
        references: nats per sentence under their names, such as of the decoder without z, or the
            true entropy of the sentences; there may be none.
        title: what was trained, and with how many samples the estimate was made.

    Returns:
        The figure, one axes: for each remedy a point for each seed and a bar at their mean; a
        horizontal line for each reference.

    Raises:
        ValueError: if there is no remedy, shapes disagree or a reference is not finite.
    """
    shape = np.shape(nll)
    if len(shape) != 2 or shape[0] != len(names) or 0 in shape:
        raise ValueError(f"values of shape {shape} for {len(names)} names")
    for name, value in references.items():
        if not np.isfinite(value):
            raise ValueError(f"{name}: {value} is not finite")
    figure = chart_figure(max(5.0, 0.95 * len(names) + 2.8), 3.4, title)
    axes = figure.subplots()
    kept = np.isfinite(nll)
    shifts = np.linspace(-0.14, 0.14, shape[1]) if shape[1] > 1 else np.zeros(1)
    for place, (color, _) in enumerate(_looks(len(names))):
        found = nll[place, kept[place]]
        axes.plot(place + shifts[kept[place]], found, "o", color=color, alpha=0.6, ms=4, mew=0)
        if len(found):
            axes.plot([place - 0.28, place + 0.28], [found.mean()] * 2, color=color, lw=2)
    rules = []
    for index, (name, value) in enumerate(references.items()):
        dashes, label = _RULES[index % len(_RULES)], f"{fitted(name, 28, 2)}\n{value:.4g} {_UNIT}"
        rules.append(axes.axhline(value, color="black", ls=dashes, lw=1, zorder=0.9, label=label))
    axes.margins(y=0.1)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xticks(np.arange(len(names)), _counted(names, kept, 14))
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(ticks(6))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_ylabel(f"$-$log p(x) ({_UNIT})")
    axes.grid(axis="y")
    if rules:
        figure.legend(handles=rules, loc="outside right center", handlelength=2.5)
    return figure


@styled
def draw_sentences(
    columns: Sequence[tuple[str, Sequence[str]]], *, title: str, interpolated: Collection[str] = ()
) -> Figure:
    """A page of sentences in columns, such as originals beside their reconstructions.

    Args:
        columns: the heading of each column and its sentences from the top down; those of one
            row stand side by side. A sentence without a word is shown as (empty).
        title: what was trained.
        interpolated: headings of the columns that lead from their first sentence to their last,
            which are emphasised.

    Returns:
        The figure, one axes in inches from the top left corner, as high as its rows need. Long
        sentences are wrapped.

    Raises:
        ValueError: if there is no sentence, or no column has the heading of an interpolation.
    """
    count = max((len(lines) for _, lines in columns), default=0)
    if count == 0:
        raise ValueError("no sentence to show")
    if unknown := sorted(set(interpolated) - {heading for heading, _ in columns}):
        raise ValueError(f"interpolated {unknown}: not among the headings")
    cells = [[_rows(text) for text in (heading, *lines)] for heading, lines in columns]
    widths = [max(_inches(row) for cell in column for row in cell) for column in cells]
    starts = np.cumsum([_MARGIN, *(width + _GAP for width in widths)])
    heights = [
        _PADDING + _LINE * max(len(column[row]) for column in cells if row < len(column))
        for row in range(count + 1)
    ]
    width = max(_NARROWEST, starts[-1] - _GAP + _MARGIN)
    title = wrapped(title, width)
    tops = np.cumsum([2 * _MARGIN + _LINE * (title.count("\n") + 1), *heights])
    height = tops[-1] + _MARGIN
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, x=_MARGIN / width, y=1 - _MARGIN / height, ha="left", va="top")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    for top, bottom in zip(tops[1:-1:2], tops[2::2], strict=True):
        axes.axhspan(top, bottom, color="0.95", lw=0)
    for start, column, (heading, _) in zip(starts, cells, columns, strict=False):
        for row, cell in enumerate(column):
            end = heading in interpolated and row in (1, len(column) - 1)
            weight, color = "bold" if row == 0 or end else "normal", BLUE if end else "black"
            for index, text in enumerate(cell):
                y = tops[row] + _PADDING / 2 + (index + 0.78) * _LINE
                axes.text(
                    start, y, text, size=_POINTS, weight=weight, color=color, parse_math=False
                )
    return figure


def _rows(text: str) -> list[str]:
    """A text in rows of about the widest that a column may be."""
    text = " ".join(text.split()) or "(empty)"
    fitting = len(text) * _WIDEST / max(_inches(text), _WIDEST)
    return textwrap.wrap(text, max(1, int(fitting)))


def _inches(text: str) -> float:
    """Width of a text in bold, the wider of the two weights of a page."""
    font = FontProperties(size=_POINTS, weight="bold")
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / 72


def _looks(count: int) -> list[tuple[str, str]]:
    """A colour and a line style for each remedy, the same in every figure."""
    return list(islice(zip(cycle(_COLORS), cycle(_DASHES), strict=False), count))


def _counted(
    names: Sequence[str], kept: Bool[np.ndarray, "remedies seeds"], width: int
) -> list[str]:
    """Names in lines of at most `width` characters, with how many of their seeds diverged."""
    labels = []
    for name, good in zip(names, kept, strict=True):
        lost = f"({np.sum(~good)} of {len(good)} diverged)"
        label = fitted(name, width, 3)
        labels.append(label if good.all() else f"{label}\n{fitted(lost, width, 2)}")
    return labels


def _draw_ranges(
    axes: Axes,
    epochs: Integer[np.ndarray, " epochs"],
    values: Float[np.ndarray, "remedies seeds epochs"],
    kept: Bool[np.ndarray, "remedies seeds"],
) -> None:
    """A line at the mean over the kept seeds of each remedy, in a band of their range."""
    marker = "o" if len(epochs) <= 12 else None
    for (color, dashes), members, good in zip(_looks(len(values)), values, kept, strict=True):
        if good.any():
            some = members[good]
            axes.fill_between(epochs, some.min(0), some.max(0), color=color, alpha=0.15, lw=0)
            axes.plot(epochs, some.mean(0), color=color, ls=dashes, marker=marker)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.grid(axis="y")
