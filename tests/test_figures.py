"""Figures: drawn, saved, reopened, and read back from their pixels."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import scipy.stats
from jaxtyping import TypeCheckError
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from vae_jax import figures

TITLE = "mnist · mlp 512-256 · z 2 · beta 4 · seed 0"
# Under the shape checker of the test run a wrong shape does not get as far as the ValueError.
REFUSED = (ValueError, TypeCheckError)


def blobs(*leading: int, size: int = 14, seed: int = 0) -> np.ndarray:
    """Gaussian blobs of various places and widths, [*leading size size 1]."""
    rng = np.random.default_rng(seed)
    y, x = rng.uniform(4, size - 4, (2, *leading, 1, 1))
    width = rng.uniform(1.5, 3, (*leading, 1, 1))
    rows, columns = np.mgrid[:size, :size]
    squares = ((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2)
    return np.exp(-squares)[..., None].astype(np.float32)


def metrics(epochs: np.ndarray, gap: float = 0.0) -> dict[str, np.ndarray]:
    log_lik = -(80 + gap + 120 * np.exp(-epochs / 4))
    kl = 25 - 15 * np.exp(-epochs / 3)
    return {"elbo": log_lik - kl, "log_lik": log_lik, "kl": kl, "other": np.zeros(2)}


def clusters(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes, n).astype(np.uint8)
    centres = rng.normal(0, 1.5, (classes, 2))
    return centres[labels] + 0.5 * rng.normal(size=(n, 2)), labels


def kls(n: int) -> np.ndarray:
    return np.random.default_rng(2).lognormal(-2, 2, n).astype(np.float32)


def draw_loss_curves() -> Figure:
    epochs = np.arange(1, 51)
    return figures.loss_curves(epochs, metrics(epochs), metrics(epochs, 3), title=TITLE)


def draw_reconstructions() -> Figure:
    strips = np.stack([blobs(8) * level for level in (0.3, 0.6, 0.9)])
    return figures.reconstructions(blobs(8), strips, np.array([1, 5, 50]), title=TITLE)


def draw_samples() -> Figure:
    return figures.samples(blobs(30), title=TITLE)


def draw_color_samples() -> Figure:
    tints = np.random.default_rng(3).uniform(0.2, 1, (30, 1, 1, 3)).astype(np.float32)
    return figures.samples(blobs(30) * tints, title=TITLE)


def draw_latent_scatter() -> Figure:
    names = [str(digit) for digit in range(10)]
    return figures.latent_scatter(*clusters(10_000, 10), names, title=TITLE)


def draw_manifold() -> Figure:
    z = figures.inverse_cdf_grid(20)
    return figures.manifold(blobs(20, 20), z, z, title=TITLE)


def draw_traversals() -> Figure:
    values, dims = np.linspace(-3, 3, 11), np.array([7, 0, 19, 112])
    kl = np.array([3.2, 1.25, 0.5, 0.011])
    return figures.traversals(blobs(4, 11), values, dims, title=TITLE, kl=kl)


def draw_kl_per_dimension() -> Figure:
    return figures.kl_per_dimension(kls(32), title=TITLE)


# How each is drawn, and how many axes it has.
FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "loss_curves": (draw_loss_curves, 3),
    "reconstructions": (draw_reconstructions, 1),
    "samples": (draw_samples, 1),
    "color_samples": (draw_color_samples, 1),
    "latent_scatter": (draw_latent_scatter, 1),
    "manifold": (draw_manifold, 1),
    "traversals": (draw_traversals, 1),
    "kl_per_dimension": (draw_kl_per_dimension, 1),
}
PICTURES = ("reconstructions", "samples", "color_samples", "manifold", "traversals")
PICTURES = ("reconstructions", "samples", "color_samples", "manifold", "traversals")
ARRAYS = {"values": kls(5), "labels": np.arange(3)}


class Saved(NamedTuple):
    """A row of the table, saved once for the tests that only look at it."""

    name: str
    figure: Figure
    png: Path


@pytest.fixture(scope="module", params=FIGURES)
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    figure = FIGURES[request.param][0]()
    png = tmp_path_factory.mktemp(request.param) / "new" / "beta0.5.png"
    figures.save(figure, png, **ARRAYS)
    return Saved(request.param, figure, png)


def regions(figure: Figure, png: Path) -> list[np.ndarray]:
    """The saved pixels inside each axes, [height width 3], 0 to 255."""
    with Image.open(png) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    found = []
    for axes in figure.axes:
        box = axes.get_position()
        height, width = pixels.shape[:2]
        top, bottom = round((1 - box.y1) * height), round((1 - box.y0) * height)
        found.append(pixels[top:bottom, round(box.x0 * width) : round(box.x1 * width)])
    return found


def saved(figure: Figure, folder: Path) -> list[np.ndarray]:
    figures.save(figure, folder / "figure.png")
    return regions(figure, folder / "figure.png")


def count_near(pixels: np.ndarray, color: str) -> int:
    return int(np.sum(np.all(np.abs(pixels - 255 * np.array(to_rgb(color))) < 40, axis=-1)))


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def tick_names(axis: Axis) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label.get_text() for place, label in ticks if low <= place <= high]


def legend_names(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.texts]


def assert_nothing_cut_off(figure: Figure) -> None:
    renderer = drawn(figure).get_renderer()
    box = figure.get_tightbbox(renderer)  # inches
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    (title,) = (text for text in figure.texts if text.get_text().startswith("mnist"))
    for axes in figure.axes:
        assert title.get_window_extent(renderer).y0 > axes.get_window_extent().y1


def test_has_its_axes_and_a_small_file_with_the_arrays_beside_it(each: Saved):
    assert len(each.figure.axes) == FIGURES[each.name][1]
    npz = each.png.with_name("beta0.5.npz")
    assert sorted(each.png.parent.iterdir()) == [npz, each.png]
    assert each.png.stat().st_size < 300_000
    with Image.open(each.png) as image:
        assert image.info.keys() == {"dpi"}
        assert image.info["dpi"] == pytest.approx((figures.DPI, figures.DPI), abs=0.01)
    with np.load(npz) as stored:
        assert sorted(stored) == sorted(ARRAYS)
        for key, array in ARRAYS.items():
            np.testing.assert_array_equal(stored[key], array, strict=True)


def test_gives_the_same_bytes_under_any_settings_and_changes_none(each: Saved, tmp_path: Path):
    theirs: Any = {
        "font.size": 20,
        "axes.facecolor": "red",
        "image.cmap": "jet",
        "lines.linewidth": 9,
        "savefig.bbox": "tight",
        "savefig.facecolor": "green",
        "xtick.labelsize": 20,
    }
    with matplotlib.rc_context(theirs):
        before = dict(matplotlib.rcParams)
        figures.save(FIGURES[each.name][0](), str(tmp_path / "again.png"), **ARRAYS)
        assert dict(matplotlib.rcParams) == before
    for suffix in (".png", ".npz"):
        again = (tmp_path / "again").with_suffix(suffix)
        assert again.read_bytes() == each.png.with_suffix(suffix).read_bytes()


def test_is_not_blank(each: Saved):
    for pixels in regions(each.figure, each.png):
        assert np.std(pixels) > 20
        assert len(np.unique(pixels)) > 20
        if each.name in PICTURES:
            height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
            for rows, columns in itertools.product((0, height), (0, width)):
                assert np.std(pixels[rows : rows + height, columns : columns + width]) > 20


def test_nothing_is_cut_off_and_the_title_is_above_the_axes(each: Saved):
    assert_nothing_cut_off(each.figure)


def test_each_pixel_of_a_picture_is_a_square_of_whole_dots(each: Saved):
    if each.name not in PICTURES:
        return
    sheet = np.asarray(each.figure.axes[0].images[0].get_array())
    (pixels,) = regions(each.figure, each.png)
    scale = pixels.shape[0] // sheet.shape[0]
    assert scale >= 2
    if sheet.ndim == 2:
        sheet = np.repeat(sheet[..., None], 3, axis=-1)
    expected = 255 * np.repeat(np.repeat(sheet, scale, axis=0), scale, axis=1)
    assert pixels.shape == expected.shape
    # Matplotlib rounds down twice: to one of 256 colours, and to the 8 bits of that colour.
    assert np.max(np.abs(pixels - expected)) < 2


def test_pyplot_is_never_imported():
    code = "import sys, vae_jax.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loss_curves_draw_the_negated_bounds(tmp_path: Path):
    epochs = np.arange(1, 51)
    train, test = metrics(epochs), metrics(epochs, 3)
    figure = figures.loss_curves(epochs, train, test, title=TITLE)
    for axes, key, sign in zip(figure.axes, ("elbo", "log_lik", "kl"), (-1, -1, 1), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        assert list(lines) == ["train", "test"]
        np.testing.assert_array_equal(lines["train"].get_ydata(), sign * train[key])
        np.testing.assert_array_equal(lines["test"].get_ydata(), sign * test[key])
        np.testing.assert_array_equal(lines["test"].get_xdata(), epochs)
        assert axes.get_xlabel() == "epoch"
    assert figure.axes[0].get_ylabel() == "nats per image"
    assert legend_names(figure.axes[0]) == ["train", "test"]
    for pixels in saved(figure, tmp_path):
        assert count_near(pixels, figures.BLUE) > 500
        assert count_near(pixels, figures.VERMILION) > 500


def test_loss_curves_of_one_epoch_are_visible(tmp_path: Path):
    one = np.array([1])
    figure = figures.loss_curves(one, metrics(one), metrics(one, 3), title=TITLE, unit="nats")
    for pixels in saved(figure, tmp_path):
        assert count_near(pixels, figures.VERMILION) > 30
    drawn(figure)
    assert [tick_names(axes.xaxis) for axes in figure.axes] == [["1"]] * 3
    assert figure.axes[0].get_ylabel() == "nats"


def test_loss_curves_of_a_run_that_diverged_stop_where_it_did(tmp_path: Path):
    epochs = np.arange(1, 21)
    bad = metrics(epochs)
    for key in ("elbo", "log_lik", "kl"):
        bad[key][10:] = [np.nan, *[np.inf] * 9]
    figure = figures.loss_curves(epochs, bad, bad, title=TITLE)
    for pixels in saved(figure, tmp_path):
        assert count_near(pixels, figures.VERMILION) > 100
    assert np.all(np.isfinite(figure.axes[0].get_ylim()))


def test_loss_curves_refuse_what_does_not_fit():
    epochs = np.arange(1, 6)
    good = metrics(epochs)
    without = {key: value for key, value in good.items() if key != "kl"}
    with pytest.raises(ValueError, match="test kl"):
        figures.loss_curves(epochs, good, without, title=TITLE)
    with pytest.raises(REFUSED):
        figures.loss_curves(epochs, metrics(np.arange(4)), good, title=TITLE)
    none = np.arange(0)
    nothing = metrics(none)
    with pytest.raises(ValueError, match="epochs 0"):
        figures.loss_curves(none, nothing, nothing, title=TITLE)


def test_reconstructions_have_a_labelled_row_for_each_epoch():
    originals = blobs(8)
    strips = np.stack([originals * level for level in (0.25, 0.5, 0.75)])
    figure = figures.reconstructions(originals, strips, np.array([1, 5, 50]), title=TITLE)
    axes = figure.axes[0]
    assert tick_names(axes.yaxis) == ["original", "epoch 1", "epoch 5", "epoch 50"]
    sheet = np.asarray(axes.images[0].get_array())
    for row, (place, level) in enumerate(zip(axes.get_yticks(), (1, 0.25, 0.5, 0.75), strict=True)):
        assert abs(place - (row * 15 + 6.5)) < 0.5  # the middle of the row
        np.testing.assert_allclose(
            sheet[row * 15 : row * 15 + 14, 15:29], level * originals[1, ..., 0], rtol=1e-6
        )


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (4, 2, 2), (7, 3, 3), (12, 3, 4)])
def test_samples_fill_a_near_square_grid(n: int, rows: int, columns: int):
    images = blobs(n) * 0.9
    sheet = np.asarray(figures.samples(images, title=TITLE).axes[0].images[0].get_array())
    assert sheet.shape == (15 * rows - 1, 15 * columns - 1)
    for cell in range(rows * columns):
        y, x = 15 * (cell // columns), 15 * (cell % columns)
        expected = images[cell, ..., 0] if cell < n else 1.0
        np.testing.assert_array_equal(sheet[y : y + 14, x : x + 14], expected)


def test_samples_refuse_none_at_all():
    with pytest.raises(ValueError, match="no image"):
        figures.samples(blobs(0), title=TITLE)


def test_latent_scatter_gives_each_point_the_colour_of_its_class():
    means, labels = clusters(500, 10)
    order = np.argsort(labels)
    means, labels = means[order], labels[order]
    names = [str(digit) for digit in range(10)]
    figure = figures.latent_scatter(means, labels, names, title=TITLE, axis_names=("a", "b"))
    axes = figure.axes[0]
    points = axes.collections[0]
    offsets, colors = np.asarray(points.get_offsets()), np.asarray(points.get_facecolor())
    place = {tuple(mean): label for mean, label in zip(means, labels, strict=True)}
    found = [place[tuple(offset)] for offset in offsets]
    assert sorted(map(tuple, offsets)) == sorted(place)
    expected = np.array([to_rgb(figures.CLASS_COLORS[label]) for label in found])
    np.testing.assert_allclose(colors[:, :3], expected, atol=1e-6)
    assert np.mean(np.diff(found) == 0) < 0.3  # not class after class, which would hide the first
    assert axes.get_aspect() == 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("a", "b")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == names
    for handle, color in zip(legend.legend_handles, figures.CLASS_COLORS, strict=True):
        assert isinstance(handle, Line2D)
        assert to_rgb(handle.get_color()) == pytest.approx(to_rgb(color))
    medians = {text.get_text(): text.get_position() for text in axes.texts}
    assert medians["3"] == pytest.approx(tuple(np.median(means[labels == 3], axis=0)))
    canvas = drawn(figure)
    frame = legend.get_window_extent(canvas.get_renderer())
    assert frame.x0 >= axes.get_window_extent().x1  # the legend hides no point


def test_latent_scatter_with_more_classes_than_colours_and_long_names():
    means, labels = clusters(400, 30)
    names = [f"class {index}" for index in range(30)]
    figure = figures.latent_scatter(means, labels, names, title=TITLE)
    assert len(np.unique(figure.axes[0].collections[0].get_facecolor(), axis=0)) == 30
    assert not figure.axes[0].texts
    assert len(figure.legends[0].texts) == 30


def test_latent_scatter_refuses_what_it_cannot_draw():
    means, labels = clusters(50, 3)
    with pytest.raises(ValueError, match="2 names"):
        figures.latent_scatter(means, labels, ["a", "b"], title=TITLE)
    with pytest.raises(ValueError, match="not finite"):
        figures.latent_scatter(means * np.nan, labels, ["a", "b", "c"], title=TITLE)
    with pytest.raises(REFUSED):
        figures.latent_scatter(means[:-1], labels, ["a", "b", "c"], title=TITLE)


def test_class_colours_stay_apart_under_colour_vision_deficiencies():
    # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
    simulations = {
        "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                       [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                         [-0.011820, 0.042940, 0.968881]],
        "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                       [0.004733, 0.691367, 0.303900]],
    }  # fmt: skip
    to_xyz = np.array(
        [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]
    )
    rgb = np.array([to_rgb(color) for color in figures.CLASS_COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for name, matrix in simulations.items():
        xyz = np.clip(linear @ np.array(matrix).T, 0, 1) @ to_xyz.T
        ratio = xyz / [0.9505, 1.0, 1.0888]
        f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
        lab = np.stack(
            [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=-1
        )
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
        assert min(distances) > 15.5, name


def test_manifold_has_the_smallest_z_at_the_bottom_left(tmp_path: Path):
    images = np.full((3, 5, 10, 8), 0.5)
    images[0, 0] = 0.0  # smallest z1, smallest z2
    images[2, 0] = 0.25  # smallest z1, largest z2
    images[0, 4] = 1.0  # largest z1, smallest z2
    z1, z2 = np.array([-2.0, -1.0, -0.001, 1.5, 2.5]), np.array([-0.5, 0.0, 0.75])
    figure = figures.manifold(images, z1, z2, title=TITLE, axis_names=("first", "second"))
    (pixels,) = saved(figure, tmp_path)
    assert pixels[-3, 3, 0] == 0
    assert pixels[3, 3, 0] == pytest.approx(64, abs=1)
    assert pixels[-3, -3, 0] == 255
    axes = figure.axes[0]
    minus = "\N{MINUS SIGN}"
    assert tick_names(axes.xaxis) == [f"{minus}2", f"{minus}1", "0", "1.5", "2.5"]
    np.testing.assert_allclose(axes.get_xticks(), [3.5, 11.5, 19.5, 27.5, 35.5])
    assert tick_names(axes.yaxis) == ["0.75", "0", f"{minus}0.5"]  # from the top down
    np.testing.assert_allclose(axes.get_yticks(), [4.5, 14.5, 24.5])
    assert axes.get_ylim() == (29.5, -0.5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("first", "second")


@pytest.mark.parametrize("n", [1, 2, 10, 15, 20, 21])
def test_manifold_labels_cells_with_their_own_z_symmetrically(n: int):
    z = figures.inverse_cdf_grid(n)
    figure = figures.manifold(blobs(n, n), z, z, title=TITLE)
    axes = figure.axes[0]
    for axis, values in ((axes.xaxis, z), (axes.yaxis, z[::-1])):
        cells = (np.asarray(axis.get_ticklocs()) + 0.5) / 14 - 0.5
        shown = [float(name.replace("\N{MINUS SIGN}", "-")) for name in tick_names(axis)]
        np.testing.assert_allclose(shown, values[cells.round().astype(int)], atol=0.005)
        np.testing.assert_allclose(np.add(shown, shown[::-1]), 0, atol=1e-9)
        assert len(shown) >= min(n, 4)
    assert_apart(figure, axes.xaxis)


def test_manifold_refuses_what_does_not_fit():
    z = figures.inverse_cdf_grid(4)
    with pytest.raises(ValueError, match="ascend"):
        figures.manifold(blobs(4, 4), z, z[::-1], title=TITLE)
    with pytest.raises(REFUSED):
        figures.manifold(blobs(4, 3), z, z, title=TITLE)


def test_traversals_label_rows_and_columns():
    values, dims = np.linspace(-1.5, 1.5, 7), np.array([3, 12])
    figure = figures.traversals(blobs(2, 7), values, dims, title=TITLE, kl=np.array([2.345, 0.5]))
    axes = figure.axes[0]
    assert tick_names(axes.yaxis) == ["z4 · 2.35 nats", "z13 · 0.50 nats"]
    names = [f"{value:g}".replace("-", "\N{MINUS SIGN}") for value in values]
    assert tick_names(axes.xaxis) == names
    np.testing.assert_allclose(axes.get_xticks(), 15 * np.arange(7) + 7, atol=0.5)
    bare = figures.traversals(blobs(2, 7), values, dims, title=TITLE)
    assert tick_names(bare.axes[0].yaxis) == ["z4", "z13"]
    with pytest.raises(REFUSED):
        figures.traversals(blobs(2, 6), values, dims, title=TITLE)
    with pytest.raises(REFUSED):
        figures.traversals(blobs(2, 7), values, dims, title=TITLE, kl=np.ones(3))


def test_kl_per_dimension_sorts_and_counts(tmp_path: Path):
    kl = np.array([0.005, 2.0, 0.0, 0.3, -1e-8])
    figure = figures.kl_per_dimension(kl, title=TITLE)
    axes = figure.axes[0]
    bars = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    np.testing.assert_array_equal(bars, np.sort(kl)[::-1])
    assert tick_names(axes.xaxis) == ["2", "4", "1", "3", "5"]
    assert legend_names(axes) == ["2 of 5 dimensions above 0.01 nats"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.01, 0.01])
    assert axes.get_ylabel() == "KL (nats per image)"
    (pixels,) = saved(figure, tmp_path)
    for color in (figures.BLUE, figures.GREY, figures.VERMILION):
        assert count_near(pixels, color) > 500
    higher = figures.kl_per_dimension(kl, title=TITLE, threshold=0.5).axes[0]
    assert legend_names(higher) == ["1 of 5 dimensions above 0.5 nats"]


@pytest.mark.parametrize("n", [1, 24, 25, 112, 113, 200])
def test_kl_per_dimension_names_every_dimension_readably(n: int):
    figure = figures.kl_per_dimension(kls(n), title=TITLE)
    axis = figure.axes[0].xaxis
    labels = assert_apart(figure, axis)
    assert sorted(int(label.get_text()) for label in labels) == list(range(1, n + 1))
    assert min(float(label.get_fontsize()) for label in labels) >= 5


def assert_apart(figure: Figure, axis: Axis) -> list[Text]:
    """No two tick labels come nearer to each other than a pixel."""
    renderer = drawn(figure).get_renderer()
    labels = [label for label in axis.get_ticklabels(which="both") if label.get_text()]
    boxes = [label.get_window_extent(renderer).padded(0.5) for label in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)
    return labels


def test_kl_per_dimension_refuses_what_is_no_kl():
    for bad in (np.array([1.0, np.nan]), np.array([np.inf]), np.array([-0.5]), np.zeros(0)):
        with pytest.raises(ValueError, match="kl of shape"):
            figures.kl_per_dimension(bad, title=TITLE)
    with pytest.raises(ValueError, match="threshold"):
        figures.kl_per_dimension(np.ones(3), title=TITLE, threshold=0.0)


@pytest.mark.parametrize("n", [1, 2, 15, 20])
def test_inverse_cdf_grid_matches_scipy(n: int):
    grid = figures.inverse_cdf_grid(n)
    # Both invert the same function in float64; Wichura's algorithm is good to 1e-15 relative.
    expected = scipy.stats.norm.ppf((np.arange(n) + 0.5) / n)
    np.testing.assert_allclose(grid, expected, rtol=1e-12, atol=1e-15)


def test_inverse_cdf_grid_refuses_no_points():
    with pytest.raises(ValueError, match="at least 1"):
        figures.inverse_cdf_grid(0)


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_mosaic_places_every_pixel(channels: tuple[int, ...], padding: int):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 0.9, (2, 3, 4, 5, *channels)).astype(np.float32)
    sheet = figures.mosaic(images, padding=padding)
    colors = channels if channels == (3,) else ()
    assert sheet.shape == (2 * 4 + padding, 3 * 5 + 2 * padding, *colors)
    seen = np.zeros(sheet.shape[:2], bool)
    for row, column in itertools.product(range(2), range(3)):
        y, x = row * (4 + padding), column * (5 + padding)
        expected = images[row, column].reshape(4, 5, *colors)
        np.testing.assert_array_equal(sheet[y : y + 4, x : x + 5], expected)
        seen[y : y + 4, x : x + 5] = True
    assert np.all(sheet[~seen] == 1)


def test_mosaic_forgives_rounding_only():
    images = np.full((1, 1, 2, 2), 1 + 5e-7)
    assert figures.mosaic(images).max() == 1
    assert figures.mosaic(-5e-7 * np.ones((1, 1, 2, 2))).min() == 0
    with pytest.raises(ValueError, match="not logits"):
        figures.mosaic(images + 2e-6)


@pytest.mark.parametrize("bad", [-0.1, 1.1, 5.0, np.nan, np.inf])
def test_every_picture_refuses_logits_and_nan(bad: float):
    def spoiled(*leading: int) -> np.ndarray:
        images = blobs(*leading)
        images.flat[3] = bad
        return images

    z = figures.inverse_cdf_grid(4)
    for draw in (
        lambda: figures.mosaic(spoiled(4, 4)),
        lambda: figures.samples(spoiled(5), title=TITLE),
        lambda: figures.reconstructions(spoiled(4), blobs(1, 4), np.array([1]), title=TITLE),
        lambda: figures.reconstructions(blobs(4), spoiled(1, 4), np.array([1]), title=TITLE),
        lambda: figures.manifold(spoiled(4, 4), z, z, title=TITLE),
        lambda: figures.traversals(spoiled(2, 4), z, np.arange(2), title=TITLE),
    ):
        with pytest.raises(ValueError, match="not logits"):
            draw()


def test_wrong_shapes_are_refused():
    for shape in ((2, 2, 4, 4, 2), (2, 4, 4), (0, 2, 4, 4), (2, 2, 0, 4)):
        with pytest.raises(REFUSED):
            figures.mosaic(np.zeros(shape))
    with pytest.raises(REFUSED):
        figures.reconstructions(blobs(4), blobs(2, 5), np.array([1, 2]), title=TITLE)
    with pytest.raises(REFUSED):
        figures.reconstructions(blobs(4), blobs(2, 4), np.array([1, 2, 3]), title=TITLE)


def test_a_long_title_is_wrapped_inside_a_narrow_figure():
    figure = figures.traversals(
        blobs(40, 5), np.linspace(-2, 2, 5), np.arange(40), title=f"{TITLE} · {TITLE}"
    )
    assert max(len(text.get_text()) for text in figure.texts) > 2 * len(TITLE)
    assert_nothing_cut_off(figure)
    assert_apart(figure, figure.axes[0].xaxis)


def test_save_replaces_both_files_or_leaves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "figure.png"
    figures.save(draw_samples(), path, images=blobs(2))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="pickle"):
        figures.save(draw_color_samples(), path, images=np.array([object()]))
    with pytest.raises(ValueError, match=r"\.png"):
        figures.save(draw_color_samples(), tmp_path / "figure.pdf")

    def full_disk(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            figures.save(draw_color_samples(), path, images=blobs(3))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    figures.save(draw_color_samples(), path, images=blobs(3))
    assert path.read_bytes() != before["figure.png"]
    with np.load(tmp_path / "figure.npz") as stored:
        assert len(stored["images"]) == 3


def test_signs_that_the_font_does_not_have_are_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("vae_jax.figures.style._SAID", set())
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, "年齢 Größe")
    with pytest.warns(UserWarning, match="font has no sign of: 年齢$"):
        figures.save(figure, tmp_path / "figure.png")
    figures.save(figure, tmp_path / "figure.png")  # a warning would be an error here
