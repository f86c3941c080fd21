"""Figures of models of sentences: drawn, saved, and read back from their axes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from jaxtyping import TypeCheckError
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from vae_jax import figures
from vae_jax.evaluation import ACTIVE_KL
from vae_jax.figures import BLUE

TITLE = "grammar · GRU 128 · z 32 · 4 remedies × 3 seeds"
# Under the shape checker of the test run a wrong shape does not get as far as the ValueError.
REFUSED = (ValueError, TypeCheckError)
NAMES = ["none", "KL warm-up over 10 epochs", "free_bits 5", "$5 to $9"]
EPOCHS = np.arange(1, 31)
REFERENCES = {"the same decoder without z": 34.2, "true entropy": 32.9}
LONG = "the dogs that the young girl with the red hat likes chase a cat in the garden ."
COLUMNS = [
    ("original", [LONG, "a teacher sings ."]),
    ("reconstruction", [LONG.replace("girl", "boy"), "a teacher sings ."]),
    ("samples", ["it costs $5 or $6 .", "", "_no sailor_ ever sleeps .", "the king laughs ."]),
    ("interpolation", ["birds sing .", "a bird sings .", "a bird sleeps .", "the king sleeps ."]),
]
WILD = ["W" * 150, "i" * 300, "$\\frac{", "a" * 70 + " " + "M" * 70, " \t\n ", "é ü ñ " * 40]


def trained() -> tuple[np.ndarray, np.ndarray]:
    """KL and active units of 4 remedies and 3 seeds; one of the last diverges half-way."""
    rng = np.random.default_rng(0)
    levels = np.array([0.02, 1.5, 5.0, 20.0])[:, None, None]
    kl = levels * (1 + 8 * np.exp(-EPOCHS / 4)) * rng.uniform(0.8, 1.2, (4, 3, 1))
    active_dims = np.round(4 * np.log1p(kl))
    kl[3, 1, 15:] = np.nan
    return kl, active_dims


def nlls() -> np.ndarray:
    nll = np.random.default_rng(1).normal(33.5, 0.4, (4, 3))
    nll[3, 1] = np.nan
    return nll


def draw_remedies() -> Figure:
    return figures.draw_remedies(EPOCHS, *trained(), NAMES, title=TITLE)


def draw_collapsed() -> Figure:
    flat = np.full((1, 1, 5), 1e-3)
    return figures.draw_remedies(EPOCHS[:5], flat, 0 * flat, ["none"], title=TITLE)


def draw_nll() -> Figure:
    return figures.draw_nll(NAMES, nlls(), REFERENCES, title=TITLE)


def draw_all_diverged() -> Figure:
    return figures.draw_nll(["none"], np.full((1, 2), np.nan), {"true entropy": 32.9}, title=TITLE)


def draw_sentences() -> Figure:
    return figures.draw_sentences(COLUMNS, title=TITLE, interpolated=["interpolation"])


def draw_wild() -> Figure:
    return figures.draw_sentences([("wild", WILD), ("tame", ["a"])], title=TITLE)


# How each is drawn, and how many axes it has.
FIGURES: dict[str, tuple[Callable[[], Figure], int]] = {
    "remedies": (draw_remedies, 2),
    "collapsed": (draw_collapsed, 2),
    "nll": (draw_nll, 1),
    "all_diverged": (draw_all_diverged, 1),
    "sentences": (draw_sentences, 1),
    "wild": (draw_wild, 1),
}


def legend_of(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.texts]


def looks(lines: list[Line2D]) -> list[tuple[str, str]]:
    return [(to_hex(line.get_color()), str(line.get_linestyle())) for line in lines]


def column_of(axes: Axes, place: int) -> list[Text]:
    """The texts of one column of a page, from the top down."""
    starts = sorted({text.get_position()[0] for text in axes.texts})
    column = [text for text in axes.texts if text.get_position()[0] == starts[place]]
    return sorted(column, key=lambda text: text.get_position()[1])


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_bytes_under_any_settings_and_not_blank(name: str, tmp_path: Path):
    draw, axes = FIGURES[name]
    figure = draw()
    assert len(figure.axes) == axes
    figures.save(figure, tmp_path / "once.png")
    with matplotlib.rc_context({"font.size": 20, "font.family": "serif", "axes.facecolor": "red"}):
        figures.save(draw(), tmp_path / "again.png")
    once = (tmp_path / "once.png").read_bytes()
    assert once == (tmp_path / "again.png").read_bytes()
    assert len(once) < 300_000
    picture = np.asarray(Image.open(tmp_path / "once.png").convert("L"))
    assert 0.005 < np.mean(picture < 200) < 0.5


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_no_texts_overlap(name: str):
    figure = FIGURES[name][0]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.texts)]
    for axes in figure.axes:
        texts += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [axis.label, *(tick.label1 for tick in ticks)]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    for box in boxes:
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    for a, b in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b)


def test_remedies_are_drawn_by_mean_and_range_without_the_diverged_member():
    kl, active_dims = trained()
    kept = [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 2]]
    for axes, values in zip(draw_remedies().axes, (kl, active_dims), strict=True):
        bands = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
        assert len(axes.lines) == len(bands) == 4
        for line, band, members, seeds in zip(axes.lines, bands, values, kept, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), EPOCHS)
            mean = sum(members[seed] for seed in seeds) / len(seeds)
            # The mean of 3 float64 in another order: a few units in the last place.
            np.testing.assert_allclose(np.asarray(line.get_ydata()), mean, rtol=1e-14)
            corners = np.asarray(band.get_paths()[0].vertices)
            for epoch in (1, 30):
                of_epoch = members[seeds, epoch - 1]
                found = corners[corners[:, 0] == epoch, 1]
                assert (found.min(), found.max()) == (of_epoch.min(), of_epoch.max())


def test_remedies_differ_in_colour_and_dashes_and_the_legend_shows_both():
    figure = draw_remedies()
    (legend,) = figure.legends
    expected = looks(list(legend.get_lines()))
    for axes in figure.axes:
        assert looks(list(axes.lines)) == expected
    colors, dashes = zip(*expected, strict=True)
    assert len(set(colors)) == len(set(dashes)) == 4
    names = [name.replace("\n", " ") for name in legend_of(figure)]
    assert names[:3] == NAMES[:3]
    assert names[3] == r"\$5 to \$9 (1 of 3 diverged)"


def test_remedies_say_their_units_and_leave_out_one_without_a_seed():
    kl, active_dims = trained()
    active_dims[2] = np.nan
    figure = figures.draw_remedies(EPOCHS, kl, active_dims, NAMES, title=TITLE)
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("nats per sentence", "latent dimensions")
    # Not active units, which go by the variance of their posterior mean.
    assert right.get_title(loc="left") == f"active dimensions (KL over {ACTIVE_KL:g} nats)"
    assert {axes.get_xlabel() for axes in figure.axes} == {"epoch"}
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    assert "(3 of 3 diverged)" in legend_of(figure)[2]


def test_a_collapsed_code_and_a_rich_one_are_seen_on_one_axis():
    for figure in (draw_remedies(), draw_collapsed()):
        low, high = figure.axes[0].get_ylim()
        assert low < 0 < 1 < high
    heights = draw_remedies().axes[0].transData.transform([[1, y] for y in (0, 0.5, 5, 50)])[:, 1]
    assert np.all(np.diff(heights) > 0.1 * np.ptp(heights))


def test_nll_draws_a_point_for_each_seed_a_bar_at_the_mean_and_the_references():
    (axes,) = draw_nll().axes
    nll, lines = nlls(), list(axes.lines)
    assert len(lines) == 2 * 4 + 2
    for place, values in enumerate(nll):
        points, bar = lines[2 * place : 2 * place + 2]
        finite = values[~np.isnan(values)]
        np.testing.assert_array_equal(points.get_ydata(), finite)
        assert np.all(np.abs(np.asarray(points.get_xdata()) - place) < 0.2)
        # The mean of 2 or 3 float64 in another order.
        np.testing.assert_allclose(
            np.asarray(bar.get_ydata()), [sum(finite) / len(finite)] * 2, rtol=1e-14
        )
        assert np.mean(np.asarray(bar.get_xdata())) == pytest.approx(place)
    for line, value in zip(lines[8:], REFERENCES.values(), strict=True):
        assert set(np.asarray(line.get_ydata())) == {value}
        assert axes.get_ylim()[0] < value < axes.get_ylim()[1]
    assert lines[8].get_linestyle() != lines[9].get_linestyle()
    assert axes.get_ylabel() == "$-$log p(x) (nats per sentence)"


def test_nll_names_remedies_and_references_with_their_values():
    figure = draw_nll()
    assert legend_of(figure) == [
        "the same decoder without z\n34.2 nats per sentence",
        "true entropy\n32.9 nats per sentence",
    ]
    names = [text.get_text().replace("\n", " ") for text in figure.axes[0].get_xticklabels()]
    assert names == [*NAMES[:3], r"\$5 to \$9 (1 of 3 diverged)"]
    alone = figures.draw_nll(NAMES, nlls(), {}, title=TITLE)
    assert not alone.legends
    assert len(alone.axes[0].lines) == 8


def test_both_figures_show_a_remedy_in_one_colour():
    bars = draw_nll().axes[0].lines[1:8:2]
    curves = draw_remedies().axes[0].lines
    assert [bar.get_color() for bar in bars] == [curve.get_color() for curve in curves]


def test_a_page_holds_every_sentence_whole_under_its_heading():
    (axes,) = draw_sentences().axes
    for place, (heading, sentences) in enumerate(COLUMNS):
        column = column_of(axes, place)
        assert (column[0].get_text(), column[0].get_fontweight()) == (heading, "bold")
        shown = " ".join(text.get_text() for text in column[1:])
        assert shown == " ".join(sentence or "(empty)" for sentence in sentences)
    assert len(column_of(axes, 0)) > 3  # the long one is wrapped
    original, reconstruction = column_of(axes, 0), column_of(axes, 1)
    for side in (0, -1):
        assert original[side].get_position()[1] == reconstruction[side].get_position()[1]


def test_only_the_ends_of_an_interpolation_are_emphasised():
    (axes,) = draw_sentences().axes
    sentences = column_of(axes, 3)[1:]
    assert [text.get_fontweight() for text in sentences] == ["bold", "normal", "normal", "bold"]
    assert [text.get_color() == BLUE for text in sentences] == [True, False, False, True]
    others = [text for place in range(3) for text in column_of(axes, place)]
    assert all(text.get_color() == "black" for text in others)


def test_the_height_of_a_page_follows_its_rows():
    heights = [
        figures.draw_sentences([("samples", ["a ."] * rows)], title=TITLE).get_figheight()
        for rows in (1, 11, 21)
    ]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1])
    assert heights[1] - heights[0] > 10 * 8.5 / 72  # ten rows of letters


@pytest.mark.parametrize("shape", [(3, 3, 30), (4, 3, 29), (4, 0, 30), (4, 30)])
def test_remedies_refuse_shapes_that_disagree(shape: tuple[int, ...]):
    kl, _ = trained()
    with pytest.raises(REFUSED, match=r"Type-check|4 names, 30 epochs"):
        figures.draw_remedies(EPOCHS, kl, np.zeros(shape), NAMES, title=TITLE)
    with pytest.raises(REFUSED, match=r"Type-check|4 names, 30 epochs"):
        figures.draw_remedies(EPOCHS, np.zeros(shape), np.zeros(shape), NAMES, title=TITLE)


def test_nll_refuses_what_it_cannot_draw():
    for nll in (np.zeros((3, 2)), np.zeros((4, 0)), np.zeros(4)):
        with pytest.raises(REFUSED, match=r"Type-check|4 names"):
            figures.draw_nll(NAMES, nll, {}, title=TITLE)
    with pytest.raises(ValueError, match="true entropy: nan is not finite"):
        figures.draw_nll(NAMES, nlls(), {"true entropy": np.nan}, title=TITLE)


def test_a_page_refuses_to_be_empty_and_an_unknown_heading():
    for nothing in ([], [("samples", [])]):
        with pytest.raises(ValueError, match="no sentence to show"):
            figures.draw_sentences(nothing, title=TITLE)
    with pytest.raises(ValueError, match=r"\['walk'\]: not among the headings"):
        figures.draw_sentences(COLUMNS, title=TITLE, interpolated=["walk"])
