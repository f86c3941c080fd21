"""`python -m experiments.iwae`: the table of the paper, on a budget of seconds."""

import json
import math
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call, surroundings  # noqa: F401
from evaluations import OF_ONE_LAYER, assert_evaluated
from PIL import Image

from experiments import iwae
from experiments._iwae_report import PUBLISHED, _ordering
from vae_jax.figures import BySamples, samples_in_bound

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iwae")
    done = call(iwae, folder, "--budget", "smoke", "--k", "1", "2")
    assert done.code == 0, done.err
    return folder, done


def test_every_row_is_trained_once_and_stands_in_the_table(whole):
    folder, done = whole
    run = folder / "results/iwae/smoke"
    rows = json.loads((run / "summary.json").read_text())["rows"]
    assert [row["part"] for row in rows] == ["vae-k1", "vae-k2", "iwae-k2"]
    assert "digits, dynamically binarised · budget smoke: 1 of 3,280 epochs" in done.out
    for row in rows:
        part = json.loads((run / row["part"] / "summary.json").read_text())
        (member,) = part["members"]
        assert member["also"]["neg_log_likelihood"] == row["neg_log_likelihood"]
        # Fifty samples are no worse than one, but for the noise of both over the images.
        noise = 5 * member["also"]["log_likelihood_error"]
        median, fifth = (member["also"][f"effective_samples_{name}"] for name in ("median", "5th"))
        assert 1 <= fifth <= median <= 50
        assert row["neg_log_likelihood"] < member["neg_elbo"] + noise
        assert row["published"] is None  # digits are not what the paper was about
        assert len(json.loads((run / row["part"] / "spectra.json").read_text())["seed0"]) == 50
    gain = rows[1]["neg_log_likelihood"] - rows[2]["neg_log_likelihood"]
    assert f"k = 2: IWAE ahead of VAE by {gain:+.2f} nats" in done.out
    assert f"nats: {'met' if gain > 0 else 'not met'} (one seed)" in done.out
    assert "published order" not in done.out
    for row in rows:
        assert 1 <= row["effective_samples_5th"] <= row["effective_samples_median"] <= 50
    picture = np.asarray(Image.open(run / "figures" / "figure.png").convert("L"))
    assert picture.std() > 10


def test_two_stochastic_layers_are_trained_and_both_counted(whole):
    folder, _ = whole
    flags = ("--budget", "smoke", "--epochs", "2", "--k", "2", "--method", "iwae", "--layers", "1")
    assert call(iwae, folder, *flags).code == 0
    flags = (*flags, "2")
    done = call(iwae, folder, *flags, "--resume")
    assert done.code == 0, done.err
    assert done.out.count("done before") == 1
    run = folder / "results/iwae/smoke-epochs2"
    assert "budget smoke: 2 of 3,280 epochs" in (run / "table.md").read_text().splitlines()[0]
    spectra = json.loads((run / "iwae-k2-2" / "spectra.json").read_text())
    assert len(spectra["seed0"]) == 100 + 50
    _, row = json.loads((run / "summary.json").read_text())["rows"]
    assert row["layers"] == 2
    assert row["neg_log_likelihood"] < 543  # nats of 784 bits that are guessed
    said, parts = "digits, dynamically binarised: test split", ("iwae-k2", "iwae-k2-2")
    text = assert_evaluated(run, said, parts=parts, layered=parts[1:], classes=True)
    rows = {line.split(" |")[0]: line for line in text.splitlines()}
    assert " – |" not in rows["| iwae-k2"]
    assert rows["| iwae-k2-2"].count(" – |") == len(OF_ONE_LAYER)
    own = (run / "iwae-k2-2" / "evaluation" / "evaluation.md").read_text("utf-8")
    assert "| I(x; z) | – |" in own
    assert "a posterior of two stochastic layers has no density of its own" in own
    fewer = call(iwae, folder, *flags[:-1], "--resume")
    assert (fewer.code, fewer.out) == (2, "")
    assert "--layers 1: the run to resume was started with 1 2" in fewer.err
    # Half of a schedule is not the beginning of another.
    done = call(iwae, folder, *flags[:2], *flags[4:], "--resume", "--name", run.name)
    assert (done.code, done.out) == (2, "")
    assert "--epochs (not given): the run to resume was started with 2" in done.err
    assert call(iwae, folder, *flags, "--resume").out.count("done before") == 2


def test_resuming_leaves_what_is_done(whole):
    folder, _ = whole
    table = folder / "results/iwae/smoke/table.md"
    before, metrics = table.read_text(), folder / "results/iwae/smoke/vae-k2/metrics.csv"
    changed = metrics.stat().st_mtime_ns
    done = call(iwae, folder, "--budget", "smoke", "--k", "1", "2", "--resume")
    assert done.code == 0
    assert done.out.count("done before") == 3
    assert table.read_text() == before
    assert metrics.stat().st_mtime_ns == changed


def test_the_length_of_a_budget_is_that_budget():
    """Given or not, it is the same run, in the same folder."""
    given, without = (iwae.validate(iwae.Config(epochs=epochs)) for epochs in (10, None))
    assert given == without
    assert (given.folder, given.words("epochs", 3280)) == ("cpu", "budget cpu")
    other = iwae.validate(iwae.Config(epochs=30))
    assert (other.folder, other.words("epochs", 3280)) == (
        "cpu-epochs30",
        "budget cpu, 30 of 3,280 epochs",
    )
    # Rows are written every so many epochs; none may be left without.
    for epochs in (1, 999, 1000, 1005, 3280):
        assert epochs % iwae.passes(epochs) == 0


def test_a_part_of_other_data_is_not_resumed(whole, tmp_path):
    """Between two starts MNIST may have come within reach."""
    shutil.copytree(whole[0] / "results", tmp_path / "results")
    path = tmp_path / "results/iwae/smoke/vae-k2/config.json"
    config = json.loads(path.read_text())
    assert config["dataset"] == "digits"
    path.write_text(json.dumps({**config, "dataset": "mnist"}))
    done = call(iwae, tmp_path, "--budget", "smoke", "--k", "1", "2", "--resume")
    assert done.code == 2
    assert "--dataset digits: the run to resume was started with mnist" in done.err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--k", "0"), "--k 0: a whole number of 1 or more is needed"),
        (("--epochs", "0"), "--epochs 0: a whole number from 1 to 3,280 is needed"),
        (("--epochs", "3281"), "--epochs 3281: a whole number from 1 to 3,280 is needed"),
        (("--k", "5", "5"), "--k 5: given twice"),
        (("--layers", "3"), "--layers 3: 1 or 2 is needed"),
        (("--seed", "-1"), "--seed -1: a whole number of 0 or more is needed"),
        (("--budget", "smoke"), "this run exists; --resume continues it, --overwrite replaces it"),
        (("--budget", "smoke", "--resume"), "--k 1 5 50: the run to resume was started with 1 2"),
        (("--resume",), "there is no run to resume"),
        (("--resume", "--overwrite"), "--overwrite --resume: only one of them"),
    ],
)
def test_what_cannot_be_done_ends_in_one_line(whole, flags, line):
    done = call(iwae, whole[0], *flags)
    assert done.code == 2
    assert line in done.err
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.err


def test_the_learning_rate_falls_in_the_stages_of_the_paper():
    """A gradient that never changes makes Adam's own step one: what is left is the schedule."""
    optimizer = iwae.staged(3280)(1e-3)
    gradient = jnp.float32(1e6)  # epsilon is nothing beside it

    def step(state, _):
        update, state = optimizer.update(gradient, state)
        return state, -jnp.asarray(update)

    _, rates = jax.lax.scan(step, optimizer.init(jnp.zeros(())), length=3280)
    expected = np.repeat(1e-3 * 10 ** (-np.arange(8) / 7), 3 ** np.arange(8))
    np.testing.assert_allclose(rates, expected, rtol=1e-3)  # the rounding of the bias correction


def test_a_figure_of_no_method_is_refused():
    with pytest.raises(ValueError, match="0 methods: 1 or 2 are needed"):
        samples_in_bound({}, title="none")


def table_of(nats: dict[tuple[str, int, int], list[float]]) -> list[dict[str, Any]]:
    """The rows of a table by method, layers and k, each with a number for each seed."""
    return [
        {
            "method": method,
            "layers": layers,
            "k": k,
            "neg_log_likelihood": float(np.mean(values)) if values else math.nan,
            "by_seed": dict(enumerate(values)),
            "published": PUBLISHED[method, layers, k],
        }
        for (method, layers, k), values in nats.items()
    ]


def test_the_published_order_is_that_of_all_rows():
    """Both halves as published but for one row of the first, which is worse than two others."""
    # Seeds are nats apart, all rows alike, which tells nothing of their differences.
    rows = {row: [nats - 3, nats, nats + 3] for row, nats in PUBLISHED.items()}
    (said,) = _ordering(table_of(rows))
    # 45 pairs of 10 rows, of which two rows are published with the same number.
    assert said == "the published order: held in all 44 pairs of rows"
    rows["iwae", 1, 5] = [83.48 - 0.04, 86.48, 89.48 + 0.04]
    said, *pairs = _ordering(table_of(rows))
    assert said == (
        "the published order: held in 42 of 44 pairs of rows, contradicted in 1, "
        "not told apart in 1"
    )
    assert sorted(pairs) == [
        "DOES NOT HOLD: IWAE k = 5 ahead of VAE k = 50, here by -0.13 ± 0.02, published by +0.81",
        "not told apart: IWAE k = 5 ahead of VAE k = 5, here by -0.01 ± 0.02, published by +0.93",
    ]


def test_a_row_that_diverged_has_no_place_in_the_order():
    rows = {("vae", 1, 1): [88.0], ("vae", 1, 5): [87.0]}
    (said,) = _ordering(table_of({**rows, ("iwae", 2, 5): []}))
    assert said == "the published order: met (one seed)"


def test_the_model_that_both_methods_share_is_drawn_once():
    shared = np.array([1.0, 0.5])
    methods = {
        name: BySamples(
            k=np.array([1, 5]),
            nats=np.array([[90.0], [88.0]]),
            published=np.array([np.nan, np.nan]),
            spectra=np.array([shared, [1.0, own]]),
        )
        for name, own in (("VAE", 1e-5), ("IWAE", 0.2))
    }
    figure = samples_in_bound(methods, title="one seed")
    left, right = figure.axes
    names = ["k = 1 (both): 2 active", "VAE, k = 5: 1 active", "IWAE, k = 5: 2 active"]
    assert "s.e." not in left.get_title(loc="left")
    assert [line.get_label() for line in right.lines] == [*names, "active: over 0.01"]
    colors = [line.get_color() for line in right.lines[:3]]
    assert len(set(colors)) == 3
    legend = right.get_legend()
    assert legend is not None
    figure.draw_without_rendering()
    assert legend.get_window_extent().x0 >= right.get_window_extent().x1


def test_seeds_become_error_bars():
    found = BySamples(
        k=np.array([1, 5]),
        nats=np.array([[90.0, 91.0], [88.0, 89.0]]),
        published=np.array([np.nan, 87.0]),
        spectra=np.array([[1.0, 1e-5], [1.0, 0.5]]),
    )
    figure = samples_in_bound({"VAE": found}, title="two seeds")
    left, right = figure.axes
    assert len(left.containers) == 1
    assert left.get_title(loc="left").endswith("mean ± s.e. over seeds")
    assert [line.get_label() for line in right.lines[:2]] == [
        "VAE, k = 1: 1 active",
        "VAE, k = 5: 2 active",
    ]
