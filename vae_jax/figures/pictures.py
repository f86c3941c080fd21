"""Figures of pictures, laid out as mosaics.

Pictures are means in [0, 1], never logits, of shape [h w], [h w 1] or [h w 3].
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from vae_jax.figures.style import DPI, styled, wrapped


@styled
def reconstructions(
    originals: Float[np.ndarray, "n h w *c"],
    strips: Float[np.ndarray, "epochs n h w *c"],
    epochs: Integer[np.ndarray, " epochs"],
    *,
    title: str,
) -> Figure:
    """The same images reconstructed after several epochs, under the originals.

    Args:
        originals: the images.
        strips: their reconstructions' means after each shown epoch.
        epochs: which epochs these are.
        title: what was trained.

    Returns:
        The figure, one axes: a row of originals and one row for each epoch.

    Raises:
        ValueError: if the shapes disagree or a value lies outside [0, 1].
    """
    if strips.shape != (len(epochs), *originals.shape):
        raise ValueError(f"{len(epochs)} epochs of {originals.shape}: not {strips.shape}")
    rows = np.concatenate([originals[None], strips])
    names = ["original", *(f"epoch {epoch}" for epoch in epochs)]
    return _picture_figure(mosaic(rows, padding=1), title, row_labels=names)[0]


@styled
def samples(images: Float[np.ndarray, "n h w *c"], *, title: str) -> Figure:
    """A near-square grid of images decoded from the prior.

    Args:
        images: the decoder's means.
        title: what was trained.

    Returns:
        The figure, one axes; what the images do not fill stays white.

    Raises:
        ValueError: if there is no image or a value lies outside [0, 1].
    """
    if len(images) == 0:
        raise ValueError("no image to draw")
    columns = math.isqrt(len(images) - 1) + 1
    rows = -(-len(images) // columns)
    cells = np.ones((rows * columns, *images.shape[1:]), images.dtype)
    cells[: len(images)] = images
    sheet = mosaic(cells.reshape(rows, columns, *images.shape[1:]), padding=1)
    return _picture_figure(sheet, title)[0]


@styled
def manifold(
    images: Float[np.ndarray, "rows cols h w *c"],
    z1: Float[np.ndarray, " cols"],
    z2: Float[np.ndarray, " rows"],
    *,
    title: str,
    axis_names: tuple[str, str] = ("z1", "z2"),
) -> Figure:
    """The learned manifold: the decoder's means over a grid of two latent dimensions.

    Args:
        images: `images[i, j]` was decoded from (z1[j], z2[i]).
        z1: values along the horizontal axis, ascending; `inverse_cdf_grid` spaces them so
            that each image stands for the same probability under the prior.
        z2: values along the vertical axis, ascending. It points upwards: row 0 is drawn at
            the bottom.
        title: what was trained.
        axis_names: names of the two dimensions.

    Returns:
        The figure, one axes: a seamless mosaic with the values of z at a few of its cells.

    Raises:
        ValueError: if the shapes disagree, z does not ascend or a value lies outside [0, 1].

    Reference:
        arXiv 1312.6114, figure 4.
    """
    if images.shape[:2] != (len(z2), len(z1)):
        raise ValueError(f"{len(z2)} rows of {len(z1)} columns: not {images.shape}")
    if not (np.all(np.diff(z1) > 0) and np.all(np.diff(z2) > 0)):
        raise ValueError("z1 and z2 must ascend")
    sheet = mosaic(images[::-1])
    figure, axes = _picture_figure(sheet, title, left=0.7, bottom=0.45)
    axes.tick_params(length=2.5)
    _set_value_ticks(axes.xaxis, z1, images.shape[3])
    _set_value_ticks(axes.yaxis, z2[::-1], images.shape[2])
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    return figure


@styled
def traversals(
    images: Float[np.ndarray, "dims steps h w *c"],
    values: Float[np.ndarray, " steps"],
    dims: Integer[np.ndarray, " dims"],
    *,
    title: str,
    kl: Float[np.ndarray, " dims"] | None = None,
) -> Figure:
    """One row for each latent dimension: what changes while it alone moves.

    Args:
        images: the decoder's means.
        values: what the dimension is set to, in standard deviations of the prior.
        dims: index of each row's dimension, from 0.
        title: what was trained.
        kl: the KL of each row's dimension, in nats, for its label.

    Returns:
        The figure, one axes.

    Raises:
        ValueError: if the shapes disagree or a value lies outside [0, 1].
    """
    if images.shape[:2] != (len(dims), len(values)):
        raise ValueError(f"{len(dims)} dims of {len(values)} values: not {images.shape}")
    if kl is not None and len(kl) != len(dims):
        raise ValueError(f"{len(kl)} values of kl for {len(dims)} dims")
    names = [f"z{dim + 1}" for dim in dims]
    if kl is not None:
        names = [f"{name} · {nats:.2f} nats" for name, nats in zip(names, kl, strict=True)]
    sheet = mosaic(images, padding=1)
    figure, axes = _picture_figure(sheet, title, row_labels=names, bottom=0.45)
    _set_value_ticks(axes.xaxis, values, images.shape[3] + 1)
    axes.set_xlabel("value (standard deviations of the prior)", loc="left")
    return figure


def inverse_cdf_grid(n: int) -> Float[np.ndarray, " n"]:
    """Points that split a standard normal variable into n equally probable cells.

    z_k = Phi^-1((k + 1/2) / n),  k = 0, ..., n - 1

    Args:
        n: number of points.

    Returns:
        The points, ascending and symmetric about 0.

    Raises:
        ValueError: if n is under 1.

    Reference:
        arXiv 1312.6114, figure 4.
    """
    if n < 1:
        raise ValueError(f"n {n}: at least 1 is needed")
    return np.array([NormalDist().inv_cdf((k + 0.5) / n) for k in range(n)])


def mosaic(
    images: Float[np.ndarray, "rows cols h w *c"], *, padding: int = 0
) -> Float[np.ndarray, "height width *rgb"]:
    """Join a grid of pictures into one.

    Args:
        images: the pictures, values in [0, 1], one channel (or no channel axis) or three.
        padding: white pixels between neighbours.

    Returns:
        The picture, [H W] of grey levels or [H W 3], with row 0 at the top.

    Raises:
        ValueError: if there is no picture, the shape is another, or a value is NaN or lies
            outside [0, 1] by more than 1e-6.
    """
    images = np.asarray(images)
    if images.ndim == 4:
        images = images[..., None]
    if images.ndim != 5 or images.shape[-1] not in (1, 3) or images.size == 0:
        raise ValueError(f"pictures of shape {images.shape}: [rows cols h w] or [... 1 or 3]")
    low, high = images.min(), images.max()
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ValueError(f"pictures span [{low}, {high}]: means in [0, 1] are shown, not logits")
    gaps = ((0, 0), (0, 0), (0, padding), (0, padding), (0, 0))
    cells = np.pad(np.clip(images, 0, 1), gaps, constant_values=1)
    rows, columns, height, width, channels = cells.shape
    sheet = cells.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    sheet = sheet[: rows * height - padding, : columns * width - padding]
    return sheet[..., 0] if channels == 1 else sheet


def _picture_figure(
    sheet: Float[np.ndarray, "height width *rgb"],
    title: str,
    *,
    row_labels: Sequence[str] = (),
    left: float = 0.1,
    bottom: float = 0.1,
) -> tuple[Figure, Axes]:
    """A figure sized around a mosaic; margins in inches."""
    height, width = sheet.shape[:2]
    scale = whole_scale(width, height)
    if row_labels:
        left = 0.17 + 0.058 * max(map(len, row_labels))
    # A narrow mosaic still gets room for the title and the name of its axis.
    inches = max(scale * width / DPI, 2.5)
    right = 0.15 + inches - scale * width / DPI
    title = wrapped(title, inches)
    top = 0.28 + 0.15 * title.count("\n")
    left, right, bottom, top = (round(margin * DPI) for margin in (left, right, bottom, top))
    full_width, full_height = left + scale * width + right, bottom + scale * height + top
    figure = dots_figure(full_width, full_height)
    axes = show_sheet(figure, sheet, left, bottom, scale)
    row = height / max(len(row_labels), 1)
    axes.set_yticks((np.arange(len(row_labels)) + 0.5) * row - 0.5, row_labels)
    figure.suptitle(title, x=left / full_width, y=1 - 14 / full_height, ha="left", va="top")
    return figure, axes


def whole_scale(width: int, height: int) -> int:
    """How many dots wide a pixel becomes in a mosaic of so many pixels.

    A whole number, because a fractional scale would show some pixels wider than others.
    """
    return max(1, min(round(1150 / width), round(2300 / height)))


def dots_figure(width: int, height: int) -> Figure:
    """A figure of a size in dots."""
    # Matplotlib truncates inches * dpi, which may fall a rounding error short of a whole dot.
    return Figure(figsize=((width + 1e-4) / DPI, (height + 1e-4) / DPI))


def show_sheet(
    figure: Figure,
    sheet: Float[np.ndarray, "height width *rgb"],
    left: int,
    bottom: int,
    scale: int,
) -> Axes:
    """Axes without ticks, its corner at a place in dots, filled by a mosaic at a scale."""
    height, width = sheet.shape[:2]
    full = np.round(figure.get_size_inches() * DPI)
    box = np.array([left, bottom, scale * width, scale * height]) / np.tile(full, 2)
    axes = figure.add_axes(tuple(box))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.set_yticks([])
    return axes


def _set_value_ticks(axis: Axis, values: Float[np.ndarray, " n"], cell: int) -> None:
    """Label the cells of a mosaic with the values that they stand for, as room allows."""
    axes, count = axis.axes, len(values)
    box = axes.get_window_extent()
    inches = (box.width if axis is axes.xaxis else box.height) / axes.figure.dpi
    shown = count if count * 0.45 < inches else min(count, 7, max(2, int(inches / 0.45)))
    if shown % 2 > count % 2:
        shown -= 1  # An odd number out of an even one cannot be symmetric.
    cells = np.linspace(0, count - 1, shown).round().astype(int)
    # Adding zero turns -0.0, which would show its sign, into 0.0.
    names = [f"{round(float(values[i]), 2) + 0.0:g}" for i in cells]
    axis.set_ticks((cells + 0.5) * cell - 0.5, [n.replace("-", "\N{MINUS SIGN}") for n in names])
