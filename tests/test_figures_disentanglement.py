"""The figure of disentanglement scores, read back from its axes."""

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from vae_jax import figures
from vae_jax.figures import ObjectiveScores

MIG = np.array([[0.1, 0.3], [0.2, np.nan], [np.nan, np.nan]])
ELBO = 100 + 10 * MIG
CHANCE = {"MIG": 0.05}


def draw(**changes: ObjectiveScores) -> Figure:
    objectives = {
        "beta": ObjectiveScores(["β 1", "β 4", "β 8"], {"MIG": MIG, "-ELBO": ELBO}),
        "beta_tc": ObjectiveScores(["β 4"], {"MIG": MIG[:1], "-ELBO": ELBO[:1]}),
    }
    return figures.disentanglement_scores(objectives | changes, title="sprites", chance=CHANCE)


def dots(figure: Figure, panel: int) -> list[ErrorbarContainer]:
    return [c for c in figure.axes[panel].containers if isinstance(c, ErrorbarContainer)]


def test_a_dot_is_the_mean_and_its_bar_the_standard_error():
    beta, beta_tc = dots(draw(), 0)
    line, _, (bars,) = beta.lines
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), [0.2, 0.2, np.nan])
    # Of 0.1 and 0.3: a deviation of 0.1 sqrt(2), over sqrt(2).
    low, high = np.array(bars.get_segments()[0])[:, 1]
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.3))
    assert np.ptp(np.array(bars.get_segments()[1])[:, 1]) == 0  # of one seed nothing is known
    np.testing.assert_allclose(np.asarray(beta_tc.lines[0].get_ydata(), float), [0.2])


def test_settings_of_one_name_stand_together_and_apart_from_the_others():
    figure = draw()
    beta, beta_tc = (np.asarray(one.lines[0].get_xdata()) for one in dots(figure, 0))
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["β 1", "β 4", "β 8"]
    np.testing.assert_allclose(np.round(beta), [0, 1, 2])
    np.testing.assert_allclose(np.round(beta_tc), [1])
    assert beta[1] < 1 < beta_tc[0]


def test_chance_is_drawn_where_it_is_known():
    mig, neg_elbo = draw().axes[:2]
    (line,) = [line for line in mig.lines if line.get_label() == "chance"]
    assert set(np.asarray(line.get_ydata())) == {0.05}
    assert mig.get_ylim()[0] == 0
    assert all(line.get_label() != "chance" for line in neg_elbo.lines)
    assert neg_elbo.get_ylim()[0] > 90


def test_the_legend_names_each_objective_once():
    (legend,) = draw().legends
    names = [text.get_text() for text in legend.get_texts()]
    assert sorted(names) == ["beta", "beta_tc", "chance"]


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="no objective"):
        figures.disentanglement_scores({}, title="", chance={})
    short = ObjectiveScores(["β 1", "β 4"], {"MIG": MIG[:1], "-ELBO": ELBO[:1]})
    with pytest.raises(ValueError, match="capacity, MIG: 1 rows for 2 settings"):
        draw(capacity=short)
