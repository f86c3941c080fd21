"""Figures of a sweep: drawn, saved, and read back from their axes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from PIL import Image

from vae_jax import figures
from vae_jax.figures import RateDistortionCurve

TITLE = "mnist · mlp 512-256 · z 10 · 6 betas × 4 seeds"
# Under the shape checker of the test run a wrong shape does not get as far as the ValueError.
REFUSED = (ValueError, TypeCheckError)
BETAS = np.array([0.1, 0.5, 1.0, 2.0, 4.0, 10.0])
NAMES = [f"beta {beta:g}" for beta in BETAS]


def curve(seeds: int = 4, betas: np.ndarray = BETAS, seed: int = 0) -> RateDistortionCurve:
    noise = np.random.default_rng(seed).normal(0, 1, (2, len(betas), seeds))
    rates, distortions = 60 / (1 + 1.2 * betas), 60 + 45 * np.log1p(betas)
    return RateDistortionCurve(betas, rates[:, None] + noise[0], distortions[:, None] + noise[1])


def kls(settings: int, seeds: int, latent: int) -> np.ndarray:
    """Shuffled dimensions, of which fewer are active in later settings."""
    rng = np.random.default_rng(2)
    kl = rng.lognormal(0, 0.3, (settings, seeds, latent)) * 3 * np.exp(-np.arange(latent) / 4)
    kl[kl < 0.05 * (1 + np.arange(settings)[:, None, None])] *= 1e-3
    return rng.permuted(kl, axis=-1)


def histories(settings: int = 6, seeds: int = 4, epochs: int = 50) -> np.ndarray:
    noise = np.random.default_rng(3).normal(0, 0.3, (settings, seeds, epochs)).cumsum(-1)
    level = 100 + 10 * np.arange(settings)[:, None, None]
    return level + 80 * np.exp(-np.arange(epochs) / 5) + noise


def sheet(rows: int = 3, columns: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (rows, columns, 8, 6)).astype(np.float32)


def draw_curve() -> Figure:
    return figures.rate_distortion({"": curve()}, title=TITLE)


def draw_three_curves() -> Figure:
    curves = {"mlp": curve(), "conv": curve(2, seed=1), "linear": curve(3, BETAS[:3], seed=2)}
    return figures.rate_distortion(curves, title=TITLE)


def draw_one_point() -> Figure:
    return figures.rate_distortion({"": curve(1, BETAS[:1])}, title=TITLE)


def draw_histories() -> Figure:
    panels = {"negative ELBO": histories(), "reconstruction": histories() - 20, "KL": histories()}
    return figures.member_curves(np.arange(1, 51), panels, NAMES, title=TITLE)


def draw_one_history() -> Figure:
    values = {"negative ELBO": histories(1, 1, 1)}
    return figures.member_curves(np.array([1]), values, NAMES[:1], title="mnist")


def draw_ranks() -> Figure:
    return figures.kl_against(BETAS, kls(6, 4, 10), title=TITLE, threshold=0.01)


def draw_rank_map() -> Figure:
    return figures.kl_against(BETAS, kls(6, 4, 20), title=TITLE, threshold=0.01)


def draw_one_rank() -> Figure:
    return figures.kl_against(BETAS[:1], np.ones((1, 1, 1)), title=TITLE, threshold=0.01)


def draw_one_setting_map() -> Figure:
    return figures.kl_against(BETAS[:1], kls(1, 1, 20), title=TITLE, threshold=0.01)


def draw_sheets() -> Figure:
    return figures.side_by_side([sheet(seed=i) for i in range(6)], NAMES, title=TITLE)


def draw_one_sheet() -> Figure:
    return figures.side_by_side([sheet()], NAMES[:1], title=TITLE)


# How each is drawn, and how many axes it has.
FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "curve": (draw_curve, 1),
    "three_curves": (draw_three_curves, 1),
    "one_point": (draw_one_point, 1),
    "histories": (draw_histories, 3),
    "one_history": (draw_one_history, 1),
    "ranks": (draw_ranks, 2),
    "rank_map": (draw_rank_map, 3),
    "one_rank": (draw_one_rank, 2),
    "one_setting_map": (draw_one_setting_map, 3),
    "sheets": (draw_sheets, 6),
    "one_sheet": (draw_one_sheet, 1),
}


def drawn(figure: Figure) -> FigureCanvasAgg:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def means_of(axes: Axes) -> list[np.ndarray]:
    """[settings, 2] of each line that carries error bars."""
    bars = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    return [np.asarray(bar.lines[0].get_xydata(), float) for bar in bars]


def half_lengths(axes: Axes) -> list[np.ndarray]:
    """Half the length of each error bar, one array for each direction of each container."""
    found = []
    for container in axes.containers:
        assert isinstance(container, ErrorbarContainer)
        for bars in container.lines[2]:
            assert isinstance(bars, LineCollection)
            ends = [np.asarray(s).reshape(-1, 2) for s in bars.get_segments()]
            found.append(np.array([np.abs(s[-1] - s[0]).sum() / 2 for s in ends if len(s)]))
    return found


def notes(axes: Axes) -> list[Annotation]:
    return [text for text in axes.texts if isinstance(text, Annotation)]


def labels_of_points(axes: Axes) -> list[Annotation]:
    return [note for note in notes(axes) if note.get_fontsize() == 7]


def tick_names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def standard_error(values: np.ndarray) -> np.ndarray:
    return np.std(values, axis=1, ddof=1) / np.sqrt(values.shape[1])


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_bytes_under_any_settings_and_a_small_file(name: str, tmp_path: Path):
    draw, axes = FIGURES[name]
    figure = draw()
    assert len(figure.axes) == axes
    figures.save(figure, tmp_path / "once.png")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "axes.facecolor": "red"}):
        figures.save(draw(), tmp_path / "again.png")
    once = (tmp_path / "once.png").read_bytes()
    assert once == (tmp_path / "again.png").read_bytes()
    assert len(once) < 300_000


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_the_title_is_above_the_axes(name: str):
    figure = FIGURES[name][0]()
    renderer = drawn(figure).get_renderer()
    box = figure.get_tightbbox(renderer)  # inches
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= figure.get_figwidth()
    assert box.y1 <= figure.get_figheight()
    (title,) = (text for text in figure.texts if text.get_text().startswith("mnist"))
    for axes in figure.axes:
        assert title.get_window_extent(renderer).y0 > axes.get_window_extent().y1


def test_rate_distortion_draws_means_errors_and_members():
    given = curve()
    axes = figures.rate_distortion({"": given}, title=TITLE, setting="free bits").axes[0]
    (mean,) = means_of(axes)
    np.testing.assert_allclose(mean[:, 0], given.rates.mean(1))
    np.testing.assert_allclose(mean[:, 1], given.distortions.mean(1))
    across, along = half_lengths(axes)
    np.testing.assert_allclose(across, standard_error(given.rates))
    np.testing.assert_allclose(along, standard_error(given.distortions))
    members = np.asarray(axes.lines[0].get_xydata())
    np.testing.assert_array_equal(members[:, 0], given.rates.ravel())
    np.testing.assert_array_equal(members[:, 1], given.distortions.ravel())
    labels = labels_of_points(axes)
    assert [label.get_text() for label in labels] == [
        "free bits 0.1",
        *(f"{b:g}" for b in BETAS[1:]),
    ]
    np.testing.assert_allclose([label.xy for label in labels], mean)
    assert "rate" in axes.get_xlabel()
    assert "distortion" in axes.get_ylabel()


def test_rate_distortion_joins_settings_in_ascending_order():
    given, order = curve(), np.array([3, 0, 5, 1, 4, 2])
    shuffled = RateDistortionCurve(BETAS[order], given.rates[order], given.distortions[order])
    (mean,) = means_of(figures.rate_distortion({"": shuffled}, title=TITLE).axes[0])
    np.testing.assert_allclose(mean[:, 0], given.rates.mean(1))


def test_rate_distortion_leaves_out_a_member_that_misses_either_number():
    given = curve()
    given.rates[1, 2], given.distortions[3, 0] = np.nan, np.inf
    given.rates[4], given.rates[5, 1:] = np.nan, np.nan
    axes = figures.rate_distortion({"": given}, title=TITLE).axes[0]
    (mean,) = means_of(axes)
    np.testing.assert_allclose(
        mean[1], [given.rates[1, [0, 1, 3]].mean(), given.distortions[1, [0, 1, 3]].mean()]
    )
    np.testing.assert_allclose(
        mean[3], [given.rates[3, 1:].mean(), given.distortions[3, 1:].mean()]
    )
    assert np.all(np.isnan(mean[4]))
    np.testing.assert_array_equal(mean[5], [given.rates[5, 0], given.distortions[5, 0]])
    texts = [label.get_text() for label in labels_of_points(axes)]
    assert texts == ["beta 0.1", "0.5", "1", "2", "10"]
    expected = standard_error(given.rates[:4])[[0, 2]]
    across = half_lengths(axes)[0]
    assert np.sum(np.isfinite(across)) == 4  # none for a setting with a single member
    np.testing.assert_allclose(across[[0, 2]], expected)


def test_rate_distortion_diagonals_have_a_constant_negative_elbo():
    axes = draw_curve().axes[0]
    levels = {}
    for line in axes.lines:
        if line.get_zorder() < 1:
            totals = np.sum(np.asarray(line.get_xydata()), axis=1)
            assert totals[0] == pytest.approx(totals[1])
            levels[round(float(totals[0]), 6)] = line
    assert len(levels) >= 4
    grey = [note for note in notes(axes) if note.get_fontsize() == 6.5]
    assert len(grey) >= 3
    for note in grey:
        assert sum(note.xy) == pytest.approx(float(note.get_text()))
        assert float(note.get_text()) in levels


def test_rate_distortion_has_a_legend_only_for_named_curves():
    assert not draw_curve().legends
    figure = draw_three_curves()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["mlp", "conv", "linear"]
    bars = [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
    assert len({str(bar.lines[0].get_color()) for bar in bars}) == 3
    assert len({str(bar.lines[0].get_marker()) for bar in bars}) == 3
    twelve = {str(i): curve(1, seed=i) for i in range(12)}
    bars = figures.rate_distortion(twelve, title=TITLE).axes[0].containers
    looks = {(b.lines[0].get_color(), b.lines[0].get_marker()) for b in bars}  # pyright: ignore
    assert len(looks) == 12


def test_rate_distortion_labels_of_collapsed_settings_do_not_overlap():
    rates = np.array([20, 12, 6, 0.02, 0.01, 0.0, 0.0])[:, None]
    betas = np.array([0.5, 1, 2, 4, 8, 16, 32.0])
    figure = figures.rate_distortion(
        {"": RateDistortionCurve(betas, rates, 206 - 5 * rates)}, title=TITLE
    )
    renderer = drawn(figure).get_renderer()
    labels = labels_of_points(figure.axes[0])
    assert len(labels) == 7
    # The box of a text, without the line that leads to its point.
    boxes = [super(Annotation, label).get_window_extent(renderer) for label in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_rate_distortion_refuses_what_it_cannot_draw():
    good = curve()
    lost = RateDistortionCurve(BETAS, good.rates * np.nan, good.distortions)
    for curves in ({}, {"": lost}):
        with pytest.raises(ValueError, match="no member"):
            figures.rate_distortion(curves, title=TITLE)
    (left,) = means_of(figures.rate_distortion({"a": lost, "b": good}, title=TITLE).axes[0])
    np.testing.assert_allclose(left[:, 0], good.rates.mean(1))
    for bad in (
        RateDistortionCurve(BETAS[1:], good.rates, good.distortions),
        RateDistortionCurve(BETAS, good.rates[:, 1:], good.distortions),
        RateDistortionCurve(BETAS, good.rates[:, 0], good.distortions[:, 0]),
        RateDistortionCurve(BETAS, good.rates[:, :0], good.distortions[:, :0]),
        RateDistortionCurve(BETAS * np.nan, good.rates, good.distortions),
    ):
        with pytest.raises(ValueError, match=r"shape|rates|not finite"):
            figures.rate_distortion({"mlp": bad}, title=TITLE)


def test_member_curves_draw_each_member_thin_and_means_thick():
    epochs, values = np.arange(1, 51), histories()
    values[2, 1, 20:], values[4, :, 30:] = np.nan, np.nan
    panels = {"negative ELBO": values, "KL": values / 4}
    figure = figures.member_curves(epochs, panels, NAMES, title=TITLE, unit="bits")
    assert [axes.get_title("left") for axes in figure.axes] == list(panels)
    assert figure.axes[0].get_ylabel() == "bits"
    for axes, given in zip(figure.axes, panels.values(), strict=True):
        thin = [line for line in axes.lines if line.get_linewidth() < 1]
        thick = [line for line in axes.lines if line.get_linewidth() > 1]
        np.testing.assert_array_equal([line.get_ydata() for line in thin], given.reshape(24, 50))
        shown = np.array([line.get_ydata() for line in thick])
        expected = given.mean(1)
        expected[2, 20:] = given[2, [0, 2, 3], 20:].mean(0)
        np.testing.assert_allclose(shown, expected)
        for line, members in zip(thick, np.reshape(np.array(thin), (6, 4)), strict=True):
            assert {str(member.get_color()) for member in members} == {str(line.get_color())}
        low, high = axes.get_ylim()
        assert low < np.nanmin(given[..., 5:])
        assert np.nanmax(given[..., 5:]) < high < np.nanmax(given)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == NAMES
    luminance = []
    for handle in legend.legend_handles:
        assert isinstance(handle, Line2D)
        luminance.append(np.dot([0.2126, 0.7152, 0.0722], to_rgb(handle.get_color())))
    assert np.all(np.diff(luminance) > 0.05)  # the colours show the order
    assert luminance[-1] < 0.85


def test_member_curves_of_one_member_and_epoch_are_visible(tmp_path: Path):
    figure = draw_one_history()
    assert not figure.legends
    figures.save(figure, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    near = np.all(np.abs(pixels - 255 * np.array(to_rgb(figures.BLUE))) < 40, axis=-1)
    assert np.sum(near) > 30


def test_member_curves_wrap_into_rows_and_survive_a_sweep_that_diverged_whole():
    panels = {f"panel {i}": histories(2, 2, 5) * (np.nan if i == 1 else 1) for i in range(4)}
    figure = figures.member_curves(np.arange(5), panels, NAMES[:2], title=TITLE)
    drawn(figure)
    tops = [round(axes.get_position().y1, 3) for axes in figure.axes]
    assert tops[0] == tops[1] == tops[2] > tops[3]


def test_member_curves_refuse_what_does_not_fit():
    epochs, values = np.arange(1, 51), histories()
    for panels, names in (
        ({}, NAMES),
        ({"KL": values}, NAMES[1:]),
        ({"KL": values[..., 1:]}, NAMES),
        ({"KL": values[:, 0]}, NAMES),
        ({"KL": values[:, :0]}, NAMES),
    ):
        with pytest.raises(REFUSED):
            figures.member_curves(epochs, panels, names, title=TITLE)


def test_kl_against_averages_the_sorted_dimensions():
    kl, order = kls(6, 4, 10), np.array([3, 0, 5, 1, 4, 2])
    kl[1, 2, 4] = np.nan  # the whole member is left out
    kl[0, 0] -= 1e-6  # rounding
    figure = figures.kl_against(BETAS[order], kl[order], title=TITLE, threshold=0.3)
    upper, lower = figure.axes
    ranked = -np.sort(-np.maximum(kl, 0), axis=-1)
    means = np.array([line[:, 1] for line in means_of(upper)]).T
    np.testing.assert_allclose(means[[0, 2, 3, 4, 5]], ranked[[0, 2, 3, 4, 5]].mean(1))
    np.testing.assert_allclose(means[1], ranked[1, [0, 1, 3]].mean(0))
    errors = np.array(half_lengths(upper)).T
    np.testing.assert_allclose(errors[[0, 2]], standard_error(ranked[[0, 2]]))
    (active,) = means_of(lower)
    np.testing.assert_array_equal(active[:, 0], BETAS)
    counts = np.sum(kl > 0.3, axis=-1)
    np.testing.assert_allclose(active[[0, 2], 1], counts[[0, 2]].mean(1))
    assert active[1, 1] == pytest.approx(counts[1, [0, 1, 3]].mean())
    np.testing.assert_allclose(half_lengths(lower)[0][[0, 2]], standard_error(counts[[0, 2]]))
    (rule,) = (line for line in upper.lines if line.get_linestyle() == "--")
    np.testing.assert_array_equal(rule.get_ydata(), [0.3, 0.3])
    assert rule.get_label() == "threshold, 0.3 nats"
    low, high = upper.get_ylim()
    assert low < 0
    assert high > np.max(means)
    to_height = upper.transData.transform
    heights = [to_height((1, level))[1] for level in (0, 0.15, 0.3, 0.6, 1.2)]
    steps = np.diff(heights)
    assert steps[0] == pytest.approx(steps[1])  # linear up to the threshold
    assert steps[2] == pytest.approx(steps[3])  # logarithmic above


@pytest.mark.parametrize(
    ("values", "scale"),
    [([0.1, 1, 10], "log"), ([1, 2, 4], "log"), ([1, 2, 3], "linear"), ([0, 1, 10], "linear")],
)
def test_kl_against_chooses_the_scale_of_the_setting(values: list[float], scale: str):
    figure = figures.kl_against(np.array(values, float), kls(3, 2, 4), title=TITLE)
    for axes in figure.axes:
        assert axes.get_xscale() == scale
    drawn(figure)
    assert tick_names(figure.axes[1]) == [f"{value:g}" for value in values]


def test_kl_against_names_every_rank_once_without_overlap():
    figure = draw_ranks()
    renderer = drawn(figure).get_renderer()
    labels = notes(figure.axes[0])
    named: list[int] = []
    for label in labels:
        first, _, last = label.get_text().removeprefix("rank ").partition("–")
        named += range(int(first), int(last or first) + 1)
    assert named == list(range(1, 11))
    boxes = [label.get_window_extent(renderer) for label in labels]
    for a, b in itertools.combinations(boxes, 2):
        assert not a.overlaps(b)


def test_kl_against_of_many_dimensions_is_a_map():
    kl = kls(6, 4, 20)
    kl[2] = np.nan
    figure = figures.kl_against(BETAS, kl, title=TITLE, threshold=0.01)
    upper, lower, bar = figure.axes
    (image,) = upper.images
    array = image.get_array()
    assert isinstance(array, np.ma.MaskedArray)
    shown = array.filled(np.nan)
    np.testing.assert_allclose(shown, -np.sort(-kl, axis=-1).mean(1).T)
    colors = np.asarray(image.to_rgba(array))
    collapsed = shown < 0.01
    assert 0 < np.sum(collapsed) < collapsed.size
    np.testing.assert_allclose(
        colors[collapsed][:, :3], [to_rgb(figures.GREY)] * int(np.sum(collapsed))
    )
    np.testing.assert_array_equal(colors[:, 2, :3], np.ones((20, 3)))
    active = colors[~collapsed & np.isfinite(shown)][:, :3]
    assert np.min(np.max(np.abs(active - to_rgb(figures.GREY)), axis=-1)) > 0.05
    assert upper.get_ylim() == (20.5, 0.5)  # the first rank at the top
    assert tick_names(lower) == [f"{beta:g}" for beta in BETAS]
    np.testing.assert_array_equal(lower.get_xticks(), np.arange(6))
    (counts,) = means_of(lower)
    np.testing.assert_allclose(counts[[0, 5], 1], np.sum(kl > 0.01, axis=-1)[[0, 5]].mean(1))
    assert np.isnan(counts[2, 1])
    assert bar.get_ylabel() == "KL (nats)"
    drawn(figure)
    a, b = upper.get_position(), lower.get_position()
    assert (a.x0, a.x1) == pytest.approx((b.x0, b.x1))


@pytest.mark.parametrize("latent", [3, 20])
def test_kl_against_survives_a_sweep_that_diverged_or_collapsed_whole(latent: int, tmp_path: Path):
    for kl in (np.full((6, 2, latent), np.nan), np.zeros((6, 2, latent))):
        figure = figures.kl_against(BETAS, kl, title=TITLE)
        figures.save(figure, tmp_path / "figure.png")
        expected = np.full(6, np.nan) if np.isnan(kl[0, 0, 0]) else np.zeros(6)
        np.testing.assert_array_equal(means_of(figure.axes[1])[0][:, 1], expected)


def test_kl_against_refuses_what_is_no_kl():
    kl = kls(6, 4, 5)
    for values, bad, threshold in (
        (BETAS[1:], kl, 0.01),
        (BETAS, kl[0], 0.01),
        (BETAS, kl[:, :0], 0.01),
        (BETAS, kl - 1, 0.01),
        (BETAS * np.inf, kl, 0.01),
        (BETAS, kl, 0.0),
        (BETAS, kl, np.nan),
    ):
        with pytest.raises(REFUSED):
            figures.kl_against(values, bad, title=TITLE, threshold=threshold)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 3), (6, 3), (7, 4), (9, 3), (10, 4)]
)
def test_side_by_side_names_each_sheet_in_its_place(count: int, columns: int, tmp_path: Path):
    panels = [sheet(seed=i) for i in range(count)]
    names = [f"beta {i}" for i in range(count)]
    figure = figures.side_by_side(panels, names, title=TITLE)
    assert [axes.get_title("left") for axes in figure.axes] == names
    figures.save(figure, tmp_path / "sheets.png")
    with Image.open(tmp_path / "sheets.png") as image:
        pixels = np.asarray(image.convert("L")).astype(int)
    places = []
    for axes, panel in zip(figure.axes, panels, strict=True):
        box, (height, width) = axes.get_position(), pixels.shape
        top, bottom = round((1 - box.y1) * height), round((1 - box.y0) * height)
        left, right = round(box.x0 * width), round(box.x1 * width)
        places.append((top, left))
        given = figures.mosaic(panel)
        scale = (right - left) // given.shape[1]
        assert scale >= 2
        expected = 255 * np.kron(given, np.ones((scale, scale)))
        # Half a step of 48 levels, and what Matplotlib's rounding adds.
        assert np.max(np.abs(pixels[top:bottom, left:right] - expected)) < 255 / 47 / 2 + 2
    assert len({left for _, left in places}) == columns
    assert places == sorted(places)


def test_side_by_side_of_large_sheets_stays_narrow_and_small(tmp_path: Path):
    y, x = np.mgrid[:28, :28]
    rng = np.random.default_rng(0)
    panels = []
    for _ in range(6):  # rings of changing shape in the middle, black around them, as digits are
        a, b, w = rng.uniform(3, 8, (3, 20, 20, 1, 1))
        radius = np.sqrt(((y - 13.5) / a) ** 2 + ((x - 13.5) / b) ** 2)
        panels.append(np.exp(-((radius - 1) ** 2) * w))
    figure = figures.side_by_side(panels, NAMES, title=TITLE)
    figures.save(figure, tmp_path / "sheets.png")
    assert (tmp_path / "sheets.png").stat().st_size < 600_000
    with Image.open(tmp_path / "sheets.png") as image:
        assert image.width < 1800
    four = figures.side_by_side(panels[:4], NAMES[:4], title=TITLE)
    assert len({axes.get_position().x0 for axes in four.axes}) == 2


def test_side_by_side_wraps_long_names_and_pads_and_keeps_colours():
    color = np.random.default_rng(0).uniform(0, 1, (2, 2, 4, 4, 3))
    names = ["beta 0.1, learning rate 0.001, free bits 0.25", "beta 1"]
    figure = figures.side_by_side([color, color[::-1]], names, title=TITLE, padding=1)
    drawn(figure)
    for axes, panel in zip(figure.axes, (color, color[::-1]), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), figures.mosaic(panel, padding=1))
        assert axes.get_title("left").replace("\n", " ") in names
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert not boxes[0].overlaps(boxes[1])
    many = figures.side_by_side([color] * 8, names[:1] * 8, title=TITLE)
    renderer = drawn(many).get_renderer()
    tight = [axes.get_tightbbox(renderer) for axes in many.axes]
    for a, b in itertools.combinations(tight, 2):
        assert a is not None
        assert b is not None
        assert not a.overlaps(b)


def test_side_by_side_refuses_what_does_not_fit():
    for panels, names, match in (
        ([], [], "0 panels"),
        ([sheet()], NAMES[:2], "2 names"),
        ([sheet(), sheet(2)], NAMES[:2], "shapes"),
        ([sheet() + 1], NAMES[:1], "not logits"),
    ):
        with pytest.raises(ValueError, match=match):
            figures.side_by_side(panels, names, title=TITLE)
