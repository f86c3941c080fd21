"""`python -m experiments.iwae`: the table of the paper, on a budget of seconds."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call, surroundings  # noqa: F401
from evaluations import OF_ONE_LAYER, assert_evaluated
from PIL import Image

from experiments import iwae
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
    assert "digits, dynamically binarised · budget smoke: 1 of 3280 epochs" in done.out
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
    assert f"k = 2: the IWAE is {gain:.2f} nats better" in done.out
    assert "as published" not in done.out
    picture = np.asarray(Image.open(run / "figures" / "figure.png").convert("L"))
    assert picture.std() > 10


def test_two_stochastic_layers_are_trained_and_both_counted(whole):
    folder, _ = whole
    flags = ("--budget", "smoke", "--k", "2", "--method", "iwae", "--layers", "1", "2")
    done = call(iwae, folder, *flags, "--name", "two")
    assert done.code == 0, done.err
    run = folder / "results/iwae/two"
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


@pytest.mark.parametrize("named", [None, "auto"])
def test_a_run_that_does_not_name_its_data_is_taken_up_by_what_it_trained(whole, tmp_path, named):
    """Earlier versions wrote no data set down; what it was stands in the summary."""
    shutil.copytree(whole[0] / "results", tmp_path / "results")
    for path in (tmp_path / "results/iwae/smoke").glob("*/config.json"):
        config = json.loads(path.read_text())
        del config["dataset"]
        path.write_text(json.dumps(config if named is None else {**config, "dataset": named}))
    done = call(iwae, tmp_path, "--budget", "smoke", "--k", "1", "2", "--resume")
    assert done.code == 0, done.err
    assert done.out.count("done before") == 3
    # Of other data it is refused as before.
    path = tmp_path / "results/iwae/smoke/vae-k2/summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": "mnist"}))
    done = call(iwae, tmp_path, "--budget", "smoke", "--k", "1", "2", "--resume")
    assert done.code == 2
    assert "--dataset digits: the run to resume was started with mnist" in done.err


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--k", "0"), "--k 0: a whole number of 1 or more is needed"),
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
    assert [line.get_label() for line in right.lines[:2]] == [
        "VAE, k = 1: 1 active",
        "VAE, k = 5: 2 active",
    ]
