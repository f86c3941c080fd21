"""Figures that set generated rows of a table beside real ones."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vae_jax.figures.style import BLUE, GREY, VERMILION, chart_figure, styled
from vae_jax.figures.tables import (
    MAX_FEATURES,
    axes_grid,
    check_array,
    fitted,
    mixed_scatter,
    ticks,
)

_MAX_PAIRS = 5
_MAX_BARS = 8
_KINDS_WITH_CODES = ("binary", "categorical")


@styled
def pair_plot(
    real: Float[np.ndarray, "n features"],
    generated: Float[np.ndarray, "m features"],
    names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Every pair of a few features, real rows and generated ones.

    Args:
        real: rows of the data.
        generated: rows of the model, in the same units.
        names: of the features, at most five.
        title: what was trained.

    Returns:
        The figure: in the lower triangle a scatter of each pair, on the diagonal the densities
        of each feature over shared bins; f (f + 1) / 2 axes, row by row.

    Raises:
        ValueError: if there are more than five features, shapes disagree or a number is not
            finite.
    """
    count = len(names)
    if not 1 <= count <= _MAX_PAIRS:
        raise ValueError(f"{count} features: 1 to {_MAX_PAIRS} are needed")
    _check_rows(real, generated, count)
    inches = max(3.4, 1.65 * count + 0.5)
    figure = chart_figure(inches, inches + 0.3, title)
    points = np.concatenate([real, generated]).astype(np.float64)
    colors = to_rgba_array([BLUE] * len(real) + [VERMILION] * len(generated))
    low, high = points.min(axis=0), points.max(axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5 * np.maximum(abs(low), 1))
    grid = axes_grid(figure, count * count, count)
    for place, axes in enumerate(grid):
        row, column = divmod(place, count)
        if column > row:
            axes.remove()
            continue
        if row == column:
            _densities(axes, real[:, row], generated[:, row], "continuous")
        else:
            mixed_scatter(axes, points[:, [column, row]], colors)
            axes.set_ylim(low[row] - margin[row], high[row] + margin[row])
            axes.yaxis.set_major_locator(ticks(4))
        axes.set_xlim(low[column] - margin[column], high[column] + margin[column])
        axes.xaxis.set_major_locator(ticks(3))
        left, bottom = column == 0 and row > 0, row == count - 1
        axes.tick_params(labelsize=6.5, labelbottom=bottom, labelleft=left)
        if left:
            axes.set_ylabel(fitted(names[row], 20, 2), size=7.5)
        if bottom:
            axes.set_xlabel(fitted(names[column], 20, 2), size=7.5)
    figure.align_labels()
    handles = _handles(len(real), len(generated))
    if count == 1:
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
    else:  # beside the first axes, where there is no other
        legend = grid[0].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1))
        legend.set_in_layout(False)
    return figure


@styled
def marginals(
    real: Float[np.ndarray, "n features"],
    generated: Float[np.ndarray, "m features"],
    names: Sequence[str],
    kinds: Sequence[str],
    categories: Sequence[Sequence[str]],
    *,
    title: str,
) -> Figure:
    """The distribution of each feature alone, real rows and generated ones.

    Args:
        real: rows of the data: numbers, or codes of binary and categorical features.
        generated: rows of the model, likewise.
        names: of the features.
        kinds: of each feature, one of `vae_jax.data.columns.KINDS`.
        categories: the names of the codes 0, 1, ... of each binary or categorical feature,
            empty for the others.
        title: what was trained.

    Returns:
        The figure, one axes for each feature: densities over shared bins for numbers, which of
        a heavy-tailed feature cover the middle 99 %; the shares of the categories side by side
        for codes, of more than eight the seven that are most frequent in the data, and the
        others together. Of more than 16 features those are shown, in the table's order,
        whose drawn distributions differ most in total variation; the title says so.

    Raises:
        ValueError: if shapes disagree, a number is not finite or a code has no name.
    """
    count = len(names)
    _check_rows(real, generated, count)
    if len(kinds) != count or len(categories) != count:
        raise ValueError(f"{len(kinds)} kinds, {len(categories)} categories, {count} names")
    for index, kind in enumerate(kinds):
        if kind in _KINDS_WITH_CODES:
            codes = np.concatenate([real[:, index], generated[:, index]])
            if not np.all(np.isin(codes, np.arange(len(categories[index])))):
                last = len(categories[index]) - 1
                raise ValueError(f"{names[index]}: codes that are none of 0 to {last}")
    shown = list(range(count))
    if count > MAX_FEATURES:
        difference = [
            np.abs(
                np.subtract(*_shares(real[:, i], generated[:, i], kinds[i], categories[i]))
            ).sum()
            for i in range(count)
        ]
        shown = np.sort(np.argsort(-np.array(difference), kind="stable")[:MAX_FEATURES]).tolist()
        title += f" · the {MAX_FEATURES} of {count} features that differ most"
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = chart_figure(max(3.4, 2.2 * columns), 1.45 * rows + 0.7, title)
    for axes, index in zip(axes_grid(figure, len(shown), columns), shown, strict=True):
        pair = real[:, index], generated[:, index]
        if kinds[index] in _KINDS_WITH_CODES:
            _bars(axes, *pair, categories[index])
        else:
            _densities(axes, *pair, kinds[index])
        axes.set_title(fitted(names[index], 28, 2), size=7.5)
        axes.tick_params(labelsize=6.5)
        axes.xaxis.set_major_locator(ticks(4))
    handles = _handles(len(real), len(generated))
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


@styled
def correlation_matrices(
    real: Float[np.ndarray, "features features"],
    generated: Float[np.ndarray, "features features"],
    names: Sequence[str],
    *,
    title: str,
) -> Figure:
    """Correlations of the features in real rows, in generated ones, and the difference.

    Args:
        real: correlations in the data, NaN where one is not defined, as for a constant column.
        generated: correlations in rows of the model, likewise.
        names: of the features, two or more; of more than 40 a part is written.
        title: what was trained.

    Returns:
        The figure, three axes and the colour bar, from -1 to 1 on all of them; NaN is grey. The
        last panel is generated less real, a difference beyond 1 has the colour of 1, and above
        it stands the mean of its absolute values off the diagonal.

    Raises:
        ValueError: if shapes disagree or a number is neither NaN nor within -1 and 1.
    """
    count = len(names)
    for name, matrix in (("real", real), ("generated", generated)):
        if count < 2 or matrix.shape != (count, count):
            raise ValueError(f"{name}: shape {matrix.shape}, {count} names (2 or more needed)")
        if np.any(np.abs(matrix) > 1 + 1e-5):  # false for NaN
            raise ValueError(f"{name}: correlations outside of -1 to 1")
    difference = generated - real
    off = np.abs(difference[~np.eye(count, dtype=bool)])
    off = off[np.isfinite(off)]
    mean = f"mean |difference| {off.mean():.3f}" if len(off) else "not defined"
    step = -(-count // 40)
    labels = [fitted(name, 30) for name in names[::step]]
    size = 6.5 if count <= 16 else 5
    # Square panels: what the names at the left leave of the width, and those below add to it.
    room = 0.0085 * size * max(map(len, labels))
    figure = chart_figure(9.0, (8.1 - room) / 3 + room + 0.55, title)
    figure.set_layout_engine("compressed")
    grid = figure.subplots(1, 3)
    colors = colormaps["RdBu_r"].with_extremes(bad=GREY)
    panels = (("real", real), ("generated", generated), (f"difference, {mean}", difference))
    for axes, (name, matrix) in zip(grid, panels, strict=True):
        # As colours, for `save` to keep every one.
        axes.imshow(colors((matrix + 1) / 2))
        axes.set_title(name, size=8)
        axes.set_xticks(np.arange(count)[::step], labels, rotation=90)
        axes.set_yticks(np.arange(count)[::step], labels)
        axes.tick_params(labelsize=size, length=0, pad=2, labelleft=axes is grid[0])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), colors),
        ax=list(grid),
        fraction=0.02,
        pad=0.01,
        aspect=30,
        shrink=0.6,
    )
    bar.outline.set_visible(False)
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(labelsize=7)
    return figure


def _check_rows(real: np.ndarray, generated: np.ndarray, count: int) -> None:
    for name, rows in (("real", real), ("generated", generated)):
        check_array(name, rows, (None, count))


def _handles(real: int, generated: int) -> list[Patch]:
    counts = (("real", real, BLUE), ("generated", generated, VERMILION))
    return [
        Patch(facecolor=to_rgba(color, 0.5), edgecolor=color, label=f"{name} (n = {rows})")
        for name, rows, color in counts
    ]


def _edges(values: Float[np.ndarray, " n"], kind: str) -> Float[np.ndarray, " edges"]:
    """Edges of at most about 30 bins; those of counts lie between whole numbers."""
    tails = (0.005, 0.995) if kind == "heavy_tailed" else (0, 1)
    low, high = np.quantile(values.astype(np.float64), tails)
    if kind == "count":
        step = max(1, -(-int(high - low + 1) // 30))
        return low - 0.5 + step * np.arange(int(high - low) // step + 2)
    if low == high:
        low, high = low - 0.5 * max(abs(low), 1), high + 0.5 * max(abs(high), 1)
    return np.linspace(low, high, int(np.clip(np.sqrt(len(values)), 10, 30)) + 1)


def _shares(
    real: Float[np.ndarray, " n"],
    generated: Float[np.ndarray, " m"],
    kind: str,
    categories: Sequence[str],
) -> list[Float[np.ndarray, " bins"]]:
    """The share of the real and of the generated values in each bin or category."""
    edges = np.arange(len(categories) + 1) - 0.5
    if kind not in _KINDS_WITH_CODES:
        edges = _edges(np.concatenate([real, generated]), kind)
    return [np.histogram(values, edges)[0] / len(values) for values in (real, generated)]


def _densities(
    axes: Axes, real: Float[np.ndarray, " n"], generated: Float[np.ndarray, " m"], kind: str
) -> None:
    edges = _edges(np.concatenate([real, generated]), kind)
    shares = _shares(real, generated, kind, ())
    for share, color in zip(shares, (BLUE, VERMILION), strict=True):
        face = to_rgba(color, 0.35)
        density = share / np.diff(edges)
        axes.stairs(density, edges, fill=True, facecolor=face, edgecolor=color, lw=0.8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


def _bars(
    axes: Axes,
    real: Float[np.ndarray, " n"],
    generated: Float[np.ndarray, " m"],
    categories: Sequence[str],
) -> None:
    shares = np.stack(_shares(real, generated, "categorical", categories))
    names = [fitted(name, 14) for name in categories]
    if len(names) > _MAX_BARS:
        order = np.argsort(-shares[0], kind="stable")
        kept, rest = np.sort(order[: _MAX_BARS - 1]), order[_MAX_BARS - 1 :]
        names = [names[index] for index in kept] + [f"{len(rest)} others"]
        shares = np.concatenate([shares[:, kept], shares[:, rest].sum(1, keepdims=True)], axis=1)
    places = np.arange(len(names))
    for share, color, offset in zip(shares, (BLUE, VERMILION), (-0.2, 0.2), strict=True):
        face = to_rgba(color, 0.5)
        axes.barh(places + offset, share, 0.4, facecolor=face, edgecolor=color, lw=0.6)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, None)
