"""Figures of tables: drawn from Iris and Wine, saved, and read back from their axes."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import EllipseCollection, PathCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text
from PIL import Image
from sklearn.datasets import load_iris, load_wine

from vae_jax.figures.style import BLUE, CLASS_COLORS, GREY, VERMILION, save
from vae_jax.figures.tables import LatentPanel, fitted, latent_panels, traversal_curves
from vae_jax.figures.tables_generated import correlation_matrices, marginals, pair_plot
from vae_jax.figures.tables_scores import (
    nats_maps,
    representation_bars,
    score_bars,
    score_histogram,
)

TITLE = "wine · mlp 64-64 · z 2 · 3 seeds"
# Under the shape checker of the test run a wrong shape does not get as far as the ValueError.
REFUSED = (ValueError, TypeCheckError)
IRIS: Any = load_iris()
WINE: Any = load_wine()
NAMES = tuple(WINE.feature_names)  # with od280/od315_of_diluted_wines
MAPS = np.random.default_rng(0).normal(size=(10, 6, 6))
METHODS = ("VAE beta 0.1", "VAE beta 1", "PCA", "raw features")
MEASURES = ("5-NN accuracy", "adjusted Rand index", "silhouette", "trustworthiness")


def rows_like(real: np.ndarray, count: int = 120) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.multivariate_normal(real.mean(0), np.cov(real.T), count)


def means(data: np.ndarray) -> np.ndarray:
    return ((data - data.mean(0)) / data.std(0))[:, :2]


def panel(data: np.ndarray = WINE.data, scale: float = 0.3) -> LatentPanel:
    scales = scale * np.random.default_rng(1).uniform(0.5, 1.5, (len(data), 2))
    return LatentPanel(means(data), scales)


def walk(features: int, latent: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Curves where feature j moves by 6 (j + 1) along the first dimension, less on others."""
    z = np.linspace(-3, 3, 7)
    slopes = np.arange(1, features + 1) / np.arange(1, latent + 1)[:, None]
    return z, z[:, None] * slopes[:, None]


def mixed(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = (
        rng.normal(40, 10, count), rng.poisson(3, count), rng.integers(0, 2, count),
        rng.integers(0, 20, count), 1000 * rng.standard_t(1.5, count),
    )  # fmt: skip
    return np.stack(columns, 1).astype(float)


MIXED = (
    ("age", "visits", "smoker", "city", "income"),
    ("continuous", "count", "binary", "categorical", "heavy_tailed"),
    ((), (), ("no", "yes"), tuple(f"a city with the number {i}" for i in range(20)), ()),
)


def numbers(real: np.ndarray, generated: np.ndarray, names: tuple[str, ...]) -> Figure:
    kinds, categories = ["continuous"] * len(names), [()] * len(names)
    return marginals(real, generated, names, kinds, categories, title=TITLE)


def scores(count: int = 200) -> np.ndarray:
    return np.random.default_rng(2).normal(20, 3, count)


def measured() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return {
        measure: {m: rng.uniform(0.2, 0.9, 1 if m == "raw features" else 4) for m in METHODS}
        for measure in MEASURES
    }


def compared(methods: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {f"method number {i}": rng.uniform(0.5, 1, (3, 1 + i)) for i in range(methods)}


DATASETS = ("iris", "wine", "a_table_with_quite_a_long_name")


def draw_panels() -> Figure:
    of = {"VAE, posterior means": panel(), "PCA": LatentPanel(panel().points, None, ("1", "2"))}
    return latent_panels(of, WINE.target, tuple(WINE.target_names), title=TITLE)


def draw_six_panels() -> Figure:
    of = {f"beta {beta}": panel(IRIS.data, beta) for beta in (0.1, 0.3, 0.5, 1, 2, 4)}
    return latent_panels(of, IRIS.target, tuple(IRIS.target_names), title=TITLE)


def draw_walk() -> Figure:
    z, curves = walk(13)
    bounds = np.quantile(WINE.data, [0.05, 0.95], axis=0).T
    return traversal_curves(z, curves, NAMES, title=TITLE, units=["%"] * 13, observed=bounds)


def draw_pairs() -> Figure:
    columns = [11, 12, 7, 6, 0]
    names = [NAMES[i] for i in columns]
    return pair_plot(WINE.data[:, columns], rows_like(WINE.data)[:, columns], names, title=TITLE)


def draw_correlations() -> Figure:
    pair = np.corrcoef(WINE.data.T), np.corrcoef(rows_like(WINE.data).T)
    return correlation_matrices(*pair, NAMES, title=TITLE)


def draw_histogram() -> Figure:
    groups = {"normal": scores(), "anomaly": scores(50) + 20}
    return score_histogram(groups, 25.0, title=TITLE, xlabel="negative ELBO (nats)")


# How each is drawn, and how many axes it has.
FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "panels": (draw_panels, 2),
    "six_panels": (draw_six_panels, 6),
    "plain_panel": (lambda: latent_panels({"VAE": panel()}, None, (), title=TITLE), 1),
    "walk": (draw_walk, 13),
    "pairs": (draw_pairs, 15),
    "one_pair": (lambda: pair_plot(means(IRIS.data)[:, :1], np.ones((5, 1)), "x", title=TITLE), 1),
    "marginals": (lambda: numbers(WINE.data, rows_like(WINE.data), NAMES), 13),
    "mixed": (lambda: marginals(mixed(300, 0), mixed(200, 1), *MIXED, title=TITLE), 5),
    "correlations": (draw_correlations, 4),
    "histogram": (draw_histogram, 1),
    "bars": (lambda: score_bars(compared(), DATASETS, title=TITLE, xlabel="AUROC"), 1),
    "maps": (lambda: nats_maps(MAPS, [f"without {i}" for i in range(10)], title=TITLE), 11),
    "measures": (lambda: representation_bars(measured(), title=TITLE, references=["PCA"]), 4),
}


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends or [
        axes.get_legend() for axes in figure.axes if axes.get_legend() is not None
    ]
    assert legend is not None
    return [text.get_text() for text in legend.texts]


def points_by_color(axes: Axes) -> dict[str, np.ndarray]:
    """The points of a scatter under the colour they are drawn in, sorted."""
    (scatter,) = (c for c in axes.collections if isinstance(c, PathCollection))
    places = np.asarray(scatter.get_offsets())
    colors = np.array([to_hex(color) for color in np.asarray(scatter.get_facecolor())])
    return {color: ordered(places[colors == color]) for color in np.unique(colors)}


def ordered(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.T)]


def steps(axes: Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    """Values and edges of each histogram."""
    patches = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    return [(values, edges) for values, edges, _ in (patch.get_data() for patch in patches)]


def dots(axes: Axes) -> list[ErrorbarContainer]:
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def whiskers(container: ErrorbarContainer) -> np.ndarray:
    (bars,) = container.lines[2]
    return np.array([np.ptp(segment[:, 0]) / 2 for segment in bars.get_segments()])


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_bytes_under_any_settings_small_and_not_blank(name: str, tmp_path: Path):
    draw, axes = FIGURES[name]
    figure = draw()
    assert len(figure.axes) == axes
    assert figure.get_figwidth() <= 9
    save(figure, tmp_path / "once.png")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        save(draw(), tmp_path / "again.png")
    once = (tmp_path / "once.png").read_bytes()
    assert once == (tmp_path / "again.png").read_bytes()
    assert len(once) < 500_000
    picture = np.asarray(Image.open(tmp_path / "once.png").convert("L"))
    assert 0.005 < np.mean(picture < 250) < 0.8


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_no_texts_overlap(name: str):
    figure = FIGURES[name][0]()
    renderer = drawn(figure).get_renderer()
    box = figure.get_tightbbox(renderer)  # inches
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    texts = [text for text in figure.texts if text.get_text()]
    for axes in figure.axes:
        texts += [text for text in (axes.xaxis.label, axes.yaxis.label) if text.get_text()]
        texts += [text for text in axes.get_children() if isinstance(text, Text)]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if tick.label1.get_visible() and low <= tick.get_loc() <= high:
                    texts.append(tick.label1)
    for legend in figure.legends:
        texts += legend.texts
    boxes = [t.get_window_extent(renderer) for t in texts if t.get_visible() and t.get_text()]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b)


def test_latent_panels_draw_the_points_of_each_class_in_its_color():
    figure = draw_panels()
    assert [axes.get_title("left") for axes in figure.axes] == ["VAE, posterior means", "PCA"]
    assert legend_of(figure) == ["class_0", "class_1", "class_2"]
    for axes in figure.axes:
        assert axes.get_aspect() == 1
        found = points_by_color(axes)
        for index, color in enumerate(CLASS_COLORS[:3]):
            expected = ordered(means(WINE.data)[WINE.target == index])
            np.testing.assert_array_equal(found[color.lower()], expected)
    assert (figure.axes[1].get_xlabel(), figure.axes[1].get_ylabel()) == ("1", "2")


def test_latent_panels_draw_one_standard_deviation_where_it_is_given():
    left, right = draw_panels().axes
    (ellipses,) = (c for c in left.collections if isinstance(c, EllipseCollection))
    scales = panel().scales
    assert scales is not None
    np.testing.assert_allclose(np.asarray(ellipses.get_widths(), float), 2 * scales[:, 0])
    np.testing.assert_allclose(np.asarray(ellipses.get_heights(), float), 2 * scales[:, 1])
    np.testing.assert_array_equal(np.asarray(ellipses.get_offsets()), panel().points)
    colors = [to_hex(color) for color in np.asarray(ellipses.get_edgecolor())]
    assert colors == [CLASS_COLORS[label].lower() for label in WINE.target]
    assert not any(isinstance(c, EllipseCollection) for c in right.collections)
    (low, high), reach = left.get_ylim(), panel().points[:, 1] + scales[:, 1]
    assert low < (panel().points - scales)[:, 1].min()
    assert reach.max() < high


def test_latent_panels_without_labels_have_one_color_and_no_legend():
    figure = FIGURES["plain_panel"][0]()
    assert not figure.legends
    assert list(points_by_color(figure.axes[0])) == [BLUE.lower()]


def test_latent_panels_name_only_the_classes_that_occur_and_take_any_name():
    labels = np.array([2, 0, 2, 0])
    of = {"a": LatentPanel(np.arange(8.0).reshape(4, 2))}
    figure = latent_panels(of, labels, ("_x", "no", "costs $5 to $9"), title=TITLE)
    assert legend_of(figure) == ["_x", r"costs \$5 to \$9"]
    drawn(figure)
    many = latent_panels(of, labels, [str(i) for i in range(30)], title=TITLE)
    assert legend_of(many) == ["0", "2"]


@pytest.mark.parametrize(
    "of",
    [
        {},
        {str(i): panel() for i in range(7)},
        {"a": LatentPanel(panel().points[1:])},
        {"a": LatentPanel(panel().points[:, :1])},
        {"a": LatentPanel(panel().points * np.nan)},
        {"a": LatentPanel(panel().points, np.ones((3, 2)))},
        {"a": LatentPanel(panel().points, -np.ones((178, 2)))},
    ],
)
def test_latent_panels_refuse_what_they_cannot_draw(of: dict[str, LatentPanel]):
    with pytest.raises(REFUSED, match=r"Type-check|panels|shape|finite|negative"):
        latent_panels(of, WINE.target, tuple(WINE.target_names), title=TITLE)


def test_latent_panels_refuse_labels_without_a_name():
    with pytest.raises(ValueError, match="2 names"):
        latent_panels({"a": panel()}, WINE.target, ("a", "b"), title=TITLE)
    with pytest.raises(ValueError, match="labels -1"):
        latent_panels({"a": panel()}, WINE.target - 1, ("a", "b"), title=TITLE)


def test_traversal_curves_draw_a_line_for_each_dimension_and_the_band():
    z, curves = walk(13)
    figure = draw_walk()
    assert legend_of(figure) == ["z1", "z2", "z3", "data,\n5-95 %"]
    bounds = np.quantile(WINE.data, [0.05, 0.95], axis=0).T
    for index, axes in enumerate(figure.axes):
        title = axes.get_title("left").replace("\n", " ").replace("_ ", "_")
        assert title == f"{NAMES[index]} (%)"
        for line, values in zip(axes.lines, curves[:, :, index], strict=True):
            np.testing.assert_array_equal(np.asarray(line.get_xydata()), np.stack([z, values], 1))
        assert len({str(line.get_color()) for line in axes.lines}) == 3
        (band,) = axes.patches
        assert isinstance(band, Rectangle)
        assert to_hex(band.get_facecolor()) == GREY.lower()
        np.testing.assert_allclose([band.get_y(), band.get_y() + band.get_height()], bounds[index])


def test_traversal_curves_show_the_features_that_move_most_for_their_spread():
    z, curves = walk(30, 12)
    names = [f"feature {i}" for i in range(30)]
    spread = np.ones(30)
    spread[25:], spread[0] = 1000, 0  # the last hardly move for that, the first tells nothing
    bounds = np.stack([np.zeros(30), spread], axis=1)
    figure = traversal_curves(z, curves, names, title="a", observed=bounds)
    assert [axes.get_title("left") for axes in figure.axes] == names[9:25]
    assert "16 of 30 features that move most" in figure.get_suptitle().replace("\n", " ")
    looks = {(str(line.get_color()), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12
    figure = traversal_curves(z, curves, names, title="a")
    assert [axes.get_title("left") for axes in figure.axes] == names[:16]
    assert "first 16 of 30" in figure.get_suptitle().replace("\n", " ")


def test_traversal_curves_refuse_what_they_cannot_draw():
    z, curves = walk(2)
    names, bounds = ("a", "b"), np.array([[0.0, 1.0], [0.0, 1.0]])
    for bad_z, bad, bounds_or_none in (
        (z[1:], curves, None),
        (z, curves[:, :, :1], None),
        (z, curves[:0], None),
        (z, curves + np.inf, None),
        (z, curves, bounds[:1]),
        (z, curves, bounds[:, ::-1].copy()),
    ):
        with pytest.raises(REFUSED, match=r"Type-check|shape|finite|quantile"):
            traversal_curves(bad_z, bad, names, title=TITLE, observed=bounds_or_none)
    with pytest.raises(ValueError, match="1 units for 2 names"):
        traversal_curves(z, curves, names, title=TITLE, units=["cm"])


def test_pair_plot_draws_every_pair_once_and_densities_over_shared_bins():
    columns = [11, 12, 7, 6, 0]
    pair = WINE.data[:, columns], rows_like(WINE.data)[:, columns]
    figure = draw_pairs()
    places = [(row, column) for row in range(5) for column in range(row + 1)]
    for (row, column), axes in zip(places, figure.axes, strict=True):
        if row == column:
            for (values, edges), given in zip(steps(axes), pair, strict=True):
                expected = np.histogram(given[:, row], edges, density=True)[0]
                np.testing.assert_allclose(values, expected)
            np.testing.assert_array_equal(steps(axes)[0][1], steps(axes)[1][1])
        else:
            found = points_by_color(axes)
            for color, given in zip((BLUE, VERMILION), pair, strict=True):
                expected = ordered(given[:, [column, row]])
                np.testing.assert_array_equal(found[color.lower()], expected)
    assert legend_of(figure) == ["real (n = 178)", "generated (n = 120)"]
    assert figure.axes[-1].get_xlabel() == "alcohol"
    assert figure.axes[1].get_ylabel() == "proline"


def test_marginals_draw_densities_of_numbers_that_integrate_to_one():
    generated = rows_like(WINE.data)
    figure = numbers(WINE.data, generated, NAMES)
    assert legend_of(figure) == ["real (n = 178)", "generated (n = 120)"]
    for index, axes in enumerate(figure.axes):
        for (values, edges), given in zip(steps(axes), (WINE.data, generated), strict=True):
            np.testing.assert_allclose(
                values, np.histogram(given[:, index], edges, density=True)[0]
            )
            assert np.sum(values * np.diff(edges)) == pytest.approx(1)


def test_marginals_follow_the_kind_of_each_column():
    real, generated = mixed(300, 0), mixed(200, 1)
    _, visits, smoker, city, income = marginals(real, generated, *MIXED, title=TITLE).axes
    edges = steps(visits)[0][1]
    np.testing.assert_array_equal(edges, np.arange(len(edges)) - 0.5)  # around whole numbers
    assert sum(steps(visits)[0][0]) == pytest.approx(1)
    edges = steps(income)[0][1]
    pooled = np.concatenate([real[:, 4], generated[:, 4]])
    np.testing.assert_allclose(edges[[0, -1]], np.quantile(pooled, [0.005, 0.995]))
    assert 0.97 < np.sum(steps(income)[0][0] * np.diff(edges)) < 1  # of all, not of those inside
    bars = [c for c in smoker.containers if isinstance(c, BarContainer)]
    for container, given in zip(bars, (real, generated), strict=True):
        share = [bar.get_width() for bar in container]
        np.testing.assert_allclose(share, np.bincount(given[:, 2].astype(int)) / len(given))
    assert [label.get_text() for label in smoker.get_yticklabels()] == ["no", "yes"]
    names = [label.get_text() for label in city.get_yticklabels()]
    assert len(names) == 8
    assert names[-1] == "13 others"
    assert max(map(len, names)) <= 14
    for container in city.containers:
        assert isinstance(container, BarContainer)
        assert sum(bar.get_width() for bar in container) == pytest.approx(1)


def test_marginals_show_the_features_that_differ_most_and_say_so():
    real = np.random.default_rng(0).normal(size=(100, 20))
    generated = real.copy()
    generated[:, 4:] += np.linspace(1, 3, 16)
    figure = numbers(real, generated, tuple(f"f{i}" for i in range(20)))
    assert [axes.get_title("left") for axes in figure.axes] == [f"f{i}" for i in range(4, 20)]
    assert "16 of 20 features that differ most" in figure.get_suptitle().replace("\n", " ")


def test_marginals_draw_constant_columns_and_wild_outliers():
    real = np.stack([np.full(50, 3.0), np.full(50, 7.0), np.arange(50.0)], 1)
    generated = real.copy()
    generated[0, 1:] = 1e12
    kinds = ["continuous", "count", "continuous"]
    figure = marginals(real, generated, ["a", "b", "c"], kinds, [()] * 3, title=TITLE)
    drawn(figure)
    for axes in figure.axes:
        for values, edges in steps(axes):
            assert len(edges) <= 32
            assert np.sum(values * np.diff(edges)) == pytest.approx(1)


def test_pairs_and_marginals_refuse_what_they_cannot_draw():
    good, names = np.ones((4, 2)), ("a", "b")
    for real, generated in (
        (good[:, :1], good),
        (good, good[:, :1]),
        (good[:0], good),
        (good, good * np.nan),
    ):
        with pytest.raises(REFUSED, match=r"Type-check|shape|finite"):
            pair_plot(real, generated, names, title=TITLE)
        with pytest.raises(REFUSED, match=r"Type-check|shape|finite"):
            numbers(real, generated, names)
    for count in (0, 6):
        with pytest.raises(ValueError, match="features: 1 to 5"):
            pair_plot(np.ones((4, count)), np.ones((4, count)), ["a"] * count, title=TITLE)
    with pytest.raises(ValueError, match="1 kinds"):
        marginals(good, good, names, ["count"], [(), ()], title=TITLE)
    for bad in (2.0, -1.0, 0.5):
        values = np.array([[bad], [0.0]])
        with pytest.raises(ValueError, match="smoker: codes that are none of 0 to 1"):
            marginals(values, values, ["smoker"], ["binary"], [("no", "yes")], title=TITLE)


def test_correlations_are_drawn_as_colors_and_the_difference_summed_up():
    real, generated = np.corrcoef(WINE.data.T), np.corrcoef(rows_like(WINE.data).T)
    real[3], real[:, 3] = np.nan, np.nan  # a constant column
    figure = correlation_matrices(real, generated, NAMES, title=TITLE)
    colors = colormaps["RdBu_r"].with_extremes(bad=GREY)
    difference = generated - real
    given = (real, generated, difference)
    for axes, matrix in zip(figure.axes[:3], given, strict=True):
        shown = np.asarray(axes.images[0].get_array())
        np.testing.assert_allclose(shown, colors((matrix + 1) / 2))
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == list(NAMES)
    grey = np.asarray(figure.axes[2].images[0].get_array())[3, 5]
    np.testing.assert_allclose(grey, to_rgba(GREY))
    expected = np.nanmean(np.abs(difference[~np.eye(13, dtype=bool)]))
    assert figure.axes[2].get_title("left") == f"difference, mean |difference| {expected:.3f}"
    assert figure.axes[3].get_ylim() == (-1, 1)


def test_correlations_of_many_or_only_constant_columns():
    figure = correlation_matrices(
        np.eye(64), np.eye(64), [f"pixel_{i}" for i in range(64)], title=""
    )
    assert len(figure.axes[0].get_xticks()) == 32
    nothing = np.full((2, 2), np.nan)
    figure = correlation_matrices(nothing, nothing, ["a", "b"], title=TITLE)
    assert figure.axes[2].get_title("left") == "difference, not defined"


def test_correlations_refuse_what_they_cannot_draw():
    good = np.eye(2)
    for real, generated in (
        (good[:1], good),
        (good, np.eye(3)),
        (good * 1.1, good),
        (good, np.array([[1, np.inf], [np.inf, 1]])),
    ):
        with pytest.raises(REFUSED, match=r"Type-check|shape|outside"):
            correlation_matrices(real, generated, ("a", "b"), title=TITLE)
    with pytest.raises(ValueError, match="2 or more"):
        correlation_matrices(np.eye(1), np.eye(1), ("a",), title=TITLE)


def test_score_histogram_draws_shares_and_the_threshold():
    groups = {"normal": scores(), "anomaly": scores(50) + 20}
    figure = draw_histogram()
    (axes,) = figure.axes
    for (values, edges), given in zip(steps(axes), groups.values(), strict=True):
        np.testing.assert_allclose(values, np.histogram(given, edges)[0] / len(given))
        assert sum(values) == pytest.approx(1)
    (line,) = axes.lines
    assert line.get_linestyle() == "--"
    np.testing.assert_array_equal(line.get_xdata(), [25, 25])
    above = np.mean(groups["normal"] > 25)
    assert legend_of(figure) == [
        f"normal (n = 200, {above:.1%} above)",
        "anomaly (n = 50, 100.0% above)",
        "threshold 25",
    ]
    assert axes.get_xlabel() == "negative ELBO (nats)"
    assert axes.get_xscale() == "linear"


def test_score_histogram_of_one_group_tells_the_share_above():
    given = np.arange(100.0)
    figure = score_histogram({"held out": given}, 89.5, title=TITLE, xlabel="nats")
    assert legend_of(figure) == ["held out (n = 100)", "threshold 89.5, 10.0% above"]


def test_score_histogram_cuts_long_tails_and_says_how_much():
    given = np.append(scores(999), 400.0)
    (axes,) = score_histogram({"a": given}, 26.0, title=TITLE, xlabel="nats").axes
    assert axes.get_xlim()[1] < 50
    assert axes.get_xlabel() == "nats\n(1 of 1000 lies outside)"
    # The threshold stays in sight wherever it lies.
    (axes,) = score_histogram({"a": given}, 60.0, title=TITLE, xlabel="nats").axes
    assert axes.get_xlim()[1] > 60 - 1e-6


@pytest.mark.parametrize(("shift", "scale"), [(0.0, "log"), (-25.0, "symlog")])
def test_score_histogram_of_groups_far_apart_shows_both(shift: float, scale: str):
    far = np.random.default_rng(0).lognormal(8, 1.5, 300)
    groups = {"normal": scores() + shift, "anomaly": far}
    figure = score_histogram(groups, 25.0 + shift, title=TITLE, xlabel="nats")
    (axes,) = figure.axes
    assert axes.get_xscale() == scale
    drawn(figure)
    for values, edges in steps(axes):
        assert np.count_nonzero(values) >= 4
        places = axes.transData.transform(np.stack([edges, 0 * edges], 1))[:, 0]
        np.testing.assert_allclose(np.diff(places), np.diff(places)[0], rtol=1e-6)


def test_score_histogram_draws_equal_scores_and_refuses_what_it_cannot_draw():
    drawn(score_histogram({"a": np.full(4, 2.0)}, 2.0, title=TITLE, xlabel="nats"))
    for groups, threshold in (
        ({}, 1.0),
        ({"a": np.ones(0)}, 1.0),
        ({"a": np.ones((2, 2))}, 1.0),
        ({"a": np.array([1, np.nan])}, 1.0),
        ({"a": np.ones(2)}, np.inf),
    ):
        with pytest.raises(REFUSED, match=r"Type-check|entry|shape|finite"):
            score_histogram(groups, threshold, title=TITLE, xlabel="nats")


def test_score_bars_draw_means_and_standard_errors():
    given = compared()
    figure = score_bars(given, DATASETS, title=TITLE, xlabel="AUROC")
    (axes,) = figure.axes
    assert legend_of(figure) == list(given)
    assert axes.get_xlabel() == "AUROC"
    assert [label.get_text().replace("\n", "") for label in axes.get_yticklabels()] == list(
        DATASETS
    )
    for container, values in zip(dots(axes), given.values(), strict=True):
        x, y = np.asarray(container.lines[0].get_xydata()).T
        np.testing.assert_allclose(x, values.mean(1))
        np.testing.assert_array_equal(np.round(y), [0, 1, 2])  # in the band of its data set
        if values.shape[1] == 1:
            assert not container.lines[2]
        else:
            error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
            np.testing.assert_allclose(whiskers(container), error)
    assert axes.yaxis_inverted()
    guess = score_bars(given, DATASETS, title=TITLE, xlabel="AUROC", chance=0.5).axes[0]
    [line] = [one for one in guess.lines if one.get_linestyle() == ":"]
    assert np.asarray(line.get_xdata()).tolist() == [0.5, 0.5]
    twelve = dots(score_bars(compared(12), DATASETS, title=TITLE, xlabel="").axes[0])
    looks = {(str(c.lines[0].get_color()), c.lines[0].get_marker()) for c in twelve}
    assert len(looks) == 12


def test_score_bars_refuse_what_they_cannot_draw():
    for bad in ({}, {"a": np.ones((2, 2))}, {"a": np.ones((3, 0))}, {"a": np.full((3, 1), np.nan)}):
        with pytest.raises(REFUSED, match=r"Type-check|entry|shape|finite"):
            score_bars(bad, DATASETS, title=TITLE, xlabel="AUROC")


def test_maps_share_a_scale_about_zero():
    figure = nats_maps(MAPS, [f"without {i}" for i in range(10)], title=TITLE)
    *grid, scale = figure.axes
    for index, axes in enumerate(grid):
        (picture,) = axes.images
        np.testing.assert_array_equal(np.asarray(picture.get_array()), MAPS[index])
        assert picture.get_clim() == (-np.abs(MAPS).max(), np.abs(MAPS).max())
        assert axes.get_title("left") == f"without {index}"
    assert scale.get_ylabel() == "nats"
    # More than ten take a second row; a map of nothing has a scale all the same.
    twelve = nats_maps(np.zeros((12, 4, 4)), "abcdefghijkl", title=TITLE)
    assert len(twelve.axes) == 13
    assert twelve.get_figheight() > figure.get_figheight()
    # A title of several lines does not take its place from the maps.
    few, told = (nats_maps(MAPS[:3], "abc", title=title) for title in ("wine", TITLE * 5))
    heights = []
    for each in (few, told):
        renderer = drawn(each).get_renderer()
        heights.append(each.axes[0].get_window_extent(renderer).height)
    assert told.get_suptitle().count("\n") >= 3
    assert heights[1] > 0.85 * heights[0]
    with pytest.raises(REFUSED, match=r"Type-check|shape|finite"):
        nats_maps(np.full((1, 4, 4), np.nan), "a", title=TITLE)


def test_representation_bars_draw_each_measure_and_mark_the_references():
    given = measured()
    del given["trustworthiness"]["raw features"]
    references = ("PCA", "raw features")
    figure = representation_bars(given, title=TITLE, references=references)
    assert legend_of(figure) == ["models", "references"]
    assert [axes.get_title("left") for axes in figure.axes] == list(MEASURES)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(METHODS)
    for axes, of_methods in zip(figure.axes, given.values(), strict=True):
        for container, (name, values) in zip(dots(axes), of_methods.items(), strict=True):
            point = np.asarray(container.lines[0].get_xydata())
            np.testing.assert_allclose(point, [[values.mean(), METHODS.index(name)]])
            expected = VERMILION if name in references else BLUE
            assert container.lines[0].get_color() == expected
            if len(values) > 1:
                error = values.std(ddof=1) / np.sqrt(len(values))
                np.testing.assert_allclose(whiskers(container), [error])
    assert not representation_bars(given, title=TITLE).legends


def test_representation_bars_refuse_what_they_cannot_draw():
    for bad in ({}, {"a": {}}, {"a": {"b": np.ones(0)}}, {"a": {"b": np.array([np.nan])}}):
        with pytest.raises(ValueError, match=r"entry|shape|finite"):
            representation_bars(bad, title=TITLE)
    with pytest.raises(ValueError, match="references"):
        representation_bars(measured(), title=TITLE, references=["pca"])


@pytest.mark.parametrize(
    ("name", "width", "lines", "expected"),
    [
        ("ash", 10, 1, "ash"),
        ("od280/od315_of_diluted_wines", 20, 2, "od280/od315_of_\ndiluted_wines"),
        ("od280/od315_of_diluted_wines", 28, 1, "od280/od315_of_diluted_wines"),
        ("measurement_of_length_12", 11, 1, "measu…th_12"),
        ("abcdefghijklmnopqrstuvwxyz", 10, 3, "abcdefghij\nklmnopqrst\nuvwxyz"),
        ("in $ or $", 20, 1, r"in \$ or \$"),
        ("two\nlines", 20, 1, "two lines"),
        ("", 20, 1, ""),
    ],
)
def test_names_are_broken_at_separators_or_cut_in_the_middle(
    name: str, width: int, lines: int, expected: str
):
    assert fitted(name, width, lines) == expected
