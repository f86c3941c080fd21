"""`python -m experiments.evaluate`: real runs, evaluated from their folders."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from command_line import call, surroundings  # noqa: F401
from evaluations import assert_evaluated, assert_not_blank, evaluation
from sklearn.neighbors import KNeighborsClassifier

from experiments import _evaluation, _evaluation_report, aevb, compress, evaluate, mnist, tabular
from experiments._folds import cross_validation
from experiments._importance import few_samples
from experiments._imputation import Imputation
from experiments._loaded import load_run
from experiments._noise import EVALUATION_SEED
from experiments._report import Result, by_setting, over_seeds, repeated, swept
from experiments._scores import RowScorer
from vae_jax.data import load_table
from vae_jax.evaluation import (
    estimate_elbo,
    knn_accuracy,
    linear_accuracy,
    memory,
)
from vae_jax.figures import Evaluated, evaluation_page
from vae_jax.likelihoods import missing_at_nan
from vae_jax.preprocess import as_stored

ANNEALED = ("--annealed", "2", "--chains", "3", "--temperatures", "12")
QUICK = ("--num-samples", "20", "--annealed", "0")  # chains take long to compile
EFFECTIVE = ("effective_samples_median", "effective_samples_5th")


pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")


@pytest.fixture(scope="module")
def home(compiled_quickly, tmp_path_factory) -> Path:
    """A folder with a run of two betas and two seeds, evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    tiny = ("--dataset", "digits", "--hidden", "8", "--epochs", "2", "--figures", "none")
    sweep = ("--beta", "0.5", "4", "--seed", "0", "1", "--latent-dim", "3", "--name", "run")
    for module, flags in (
        (mnist, (*tiny, *sweep, "--chunk", "3")),
        (evaluate, ("results/mnist/run", *QUICK[:2], *ANNEALED)),
    ):
        done = call(module, folder, *flags)
        assert (done.code, done.err) == (0, "")
    return folder


@pytest.fixture
def copied(home, tmp_path) -> Path:
    """The run once more, to be broken."""
    shutil.copytree(home / "results", tmp_path / "results")
    return tmp_path / "results" / "mnist" / "run"


DIGITS = ("--dataset", "digits", "--epochs", "1", "--hidden", "8", "--latent-dim", "3")
# Of experiments whose own tests have no run to evaluate: the module, what makes a tiny run, what
# its numbers are of, and the parts that are evaluated. The others call `assert_evaluated` too.
EXPERIMENTS = {
    "compress": (compress, ("train", *DIGITS, "--figures", "none"), "digits, thresholded", ()),
    "aevb": (
        aevb,
        ("--budget", "smoke", "--panels", "mnist-z2"),
        "digits, grey levels: test split, nats per image",
        ("mnist-z2-aevb",),
    ),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_of_every_experiment_is_evaluated(name, tmp_path):
    module, flags, said, parts = EXPERIMENTS[name]
    done = call(module, tmp_path, *flags, "--name", "run")
    assert done.code == 0, done.err
    run = tmp_path / "results" / name / "run"
    text = assert_evaluated(run, said, parts=parts, classes=True)
    if parts:
        assert "| mnist-z2-aevb |" in text
        assert "mnist-z2-aevb-pilot: pilots" in text


def refused(run: Path, *flags: str) -> str:
    """The one line that is said."""
    done = call(evaluate, run.parent, str(run), *QUICK, *flags)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


def test_every_model_is_evaluated(home):
    run = home / "results" / "mnist" / "run"
    members = evaluation(run)["members"]
    assert [one["name"] for one in members] == [
        "beta0.5-seed0", "beta0.5-seed1", "beta4-seed0", "beta4-seed1"
    ]  # fmt: skip
    summary = json.loads((run / "summary.json").read_text("utf-8"))["members"]
    for found, trained in zip(members, summary, strict=True):
        # The ELBO is that of the run: the same data, the same noise, the parameters it ended with.
        assert found["neg_elbo"] == pytest.approx(trained["neg_elbo"], rel=1e-5)
        assert found["kl"] == pytest.approx(
            found["mutual_information"] + found["marginal_kl"], rel=1e-4
        )
        assert found["neg_log_likelihood"] < found["neg_elbo"]
        assert 1 <= found["effective_samples_5th"] <= found["effective_samples_median"] <= 20
        assert found["annealed_examples"] == 2
        assert found["epoch"] == 2
        assert 0 < found["annealed_acceptance"] <= 1


def test_the_table_and_the_page_are_written(home):
    folder = home / "results" / "mnist" / "run" / "evaluation"
    text = (folder / "evaluation.md").read_text("utf-8")
    assert "Data and unit: digits, grey, bernoulli: test split, nats per image" in text
    assert "| nats per image | beta 0.5 | beta 4 |" in text
    for name, _ in _evaluation_report.COLUMNS.values():
        assert f"| {name} |" in text
    assert "fitted on the posterior means of 1,437 training examples, judged" in text
    assert "annealed importance sampling with 3 chains and 12 temperatures" in text
    assert "- ±: the standard error of the mean over seeds\n" in text
    assert_not_blank(folder / "evaluation.png")
    with np.load(folder / "evaluation.npz") as arrays:
        assert arrays["beta4-seed1/variance"].shape == (3,)
        assert arrays["beta4-seed1/effective_samples"].shape == (360,)


def test_rate_and_distortion_are_written_and_drawn(home):
    run = home / "results" / "mnist" / "run"
    found = evaluation(run)
    members, along = found["members"], found["rate_distortion"]
    assert along["setting"] == "beta"
    [curve] = along["curves"]
    assert curve["beta"] == [0.5, 4]
    for i, pair in enumerate((members[:2], members[2:])):
        rates, distortions = ([one[name] for one in pair] for name in ("kl", "reconstruction"))
        assert curve["rate"][i] == pytest.approx(np.mean(rates))
        assert curve["rate_error"][i] == pytest.approx(abs(np.diff(rates)[0]) / 2)
        assert curve["distortion"][i] == pytest.approx(np.mean(distortions))
    assert curve["on_hull"] == [True, True]  # of two, one rises and the other falls
    text = (run / "evaluation" / "evaluation.md").read_text("utf-8")
    assert "| beta | rate | distortion | best for beta |" in text
    assert_not_blank(run / "evaluation" / "rate_distortion.png")
    with np.load(run / "evaluation" / "rate_distortion.npz") as arrays:
        assert arrays["rate"].tolist() == [
            [one["kl"] for one in members[i : i + 2]] for i in (0, 2)
        ]


def test_both_errors_of_the_likelihood_are_those_of_the_examples(home):
    run = home / "results" / "mnist" / "run"
    with np.load(run / "evaluation" / "evaluation.npz") as arrays:
        for one in evaluation(run)["members"]:
            nats, errors = (
                arrays[f"{one['name']}/{name}"] for name in ("log_likelihood", "standard_error")
            )
            assert one["neg_log_likelihood"] == pytest.approx(-nats.mean(), rel=1e-5)
            error = nats.std(ddof=1) / np.sqrt(len(nats))
            assert one["log_likelihood_error"] == pytest.approx(error, rel=1e-3)
            error = np.sqrt(np.sum(errors**2)) / len(nats)
            assert one["log_likelihood_sampling_error"] == pytest.approx(error, rel=1e-3)


def test_a_chunk_of_bounded_memory_changes_no_annealed_estimate(home, monkeypatch):
    """Of three examples at once, of two and one, and one by one."""
    trained = load_run(home / "results" / "mnist" / "run")
    params, task = next(trained.models()).params, trained.task
    key, indices, stored = jax.random.key(0), jnp.array([3, 5, 8]), jnp.asarray(task.test)[:3]
    of_example = _evaluation.COPIES * 3 * 784 * 4  # bytes of theta of three chains
    found = []
    for limit in (2**26, 2 * of_example, 1):
        monkeypatch.setattr(memory, "MEMORY", limit)
        _evaluation._annealed_estimate.cache_clear()
        estimate = _evaluation._annealed_estimate(task.vae, task.preprocess, 3, 4)
        found.append(np.asarray(estimate(key, params, indices, stored).log_likelihood))
    assert len(set(found[0])) == 3
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


def test_a_chunk_of_bounded_memory_changes_no_score(monkeypatch):
    """Of all rows at once, of two, and of one with three samples at once."""
    rng = np.random.default_rng(0)
    model = oracles.random_model(rng)
    vae, rows = oracles.as_vae(model, posterior_shift=0.4), oracles.sample(model, rng, 8)
    holes = np.where(rng.random(rows.shape) < 0.2, np.nan, rows).astype(np.float32)
    missing = vae._replace(
        encode=lambda params, x: vae.encode(params, jnp.nan_to_num(x)),
        likelihood=missing_at_nan(vae.likelihood),
    )
    found = []
    for limit in (2**26, 2 * 2 * 20 * 5, 3 * 20):  # bytes; theta of a sample takes 20
        monkeypatch.setattr(memory, "MEMORY", limit)
        scores = RowScorer(vae, 20)({}, rows.astype(np.float32)).scores
        filled = Imputation(missing, 20, 0.2)._of_rows({}, holes)
        found.append([*scores.values(), filled])
        assert all(np.isfinite(values).all() for values in found[-1])
    for other in found[1:]:
        for ours, expected in zip(other, found[0], strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_the_warning_counts_the_models_and_says_what_is_lost():
    good = {"effective_samples_median": 30.0, "effective_samples_5th": 5.0}
    some = {"effective_samples_median": 9.0, "effective_samples_5th": 1.5}
    worse = {"effective_samples_median": 2.0, "effective_samples_5th": 1.1}
    assert few_samples({"a": good, "of another kind": {}}, 500) == []
    [line] = few_samples({"a": good, "b": some}, 500)
    assert line == (
        "warning: b: for one example in twenty the estimate rests on under 5 effective samples of "
        "500, so its -log p(x) is too high by at least about 0.1 nats"
    )
    [line] = few_samples({"a": some, "b": worse, "c": some}, 500)
    assert line.startswith(
        "warning: a and 2 more: for one example in twenty, with 1 of these models for every second "
        "one, the estimate"
    )
    [line] = few_samples({"b": worse}, 500)
    assert line.startswith("warning: b: for every second example the estimate")


@pytest.mark.parametrize("k", [1, 2, 4, 50])
def test_the_warning_is_held_against_the_number_of_samples(k):
    """Weights that are all alike lack nothing, however few they are."""
    assert few_samples({"a": dict.fromkeys(EFFECTIVE, float(k))}, k) == []
    for lacking in (0.099, 0.101):
        effective = 1 / (2 * lacking + 1 / k)
        found = few_samples({"a": dict.fromkeys(EFFECTIVE, effective)}, k)
        assert len(found) == (lacking > 0.1)


def test_a_model_of_a_run_is_the_one_that_was_trained(home):
    """By its test ELBO, from another chunk than the first too, and by what its means tell."""
    run = home / "results" / "mnist" / "run"
    trained, found = load_run(run), evaluation(run)
    task, loaded = trained.task, list(trained.models())
    summary = json.loads((run / "summary.json").read_text("utf-8"))["members"]
    assert [one.member.name for one in loaded] == [m.name for m in task.members]
    assert {one.epoch for one in loaded} == {2}
    assert task.labels is not None
    for one, own, measured in zip(loaded, summary, found["members"], strict=True):
        test = jnp.asarray(task.test)
        assert float(task.evaluate(one.params, test).elbo) == pytest.approx(-own["neg_elbo"])
        train, held_out = (
            posterior_means(task, one.params, stored) for stored in (jnp.asarray(task.data), test)
        )
        variance = np.var(held_out, axis=0, ddof=1)
        assert measured["active_units"] == np.sum(variance > found["settings"]["threshold"])
        neighbours = KNeighborsClassifier(5).fit(train, task.labels[0])
        assert measured["knn_accuracy"] == neighbours.score(held_out, task.labels[1])


def posterior_means(task: Any, params: Any, stored: Any) -> np.ndarray:
    """Of examples that are preprocessed without noise."""
    xs = jax.vmap(task.preprocess, (None, 0))(jax.random.key(0), stored)
    return np.asarray(jax.vmap(task.vae.encode, (None, 0))(params, xs).mean)


def test_few_effective_samples_are_a_warning(copied):
    done = call(evaluate, copied, str(copied), "--num-samples", "10", "--annealed", "0")
    assert (done.code, done.err) == (0, "")
    assert "warning: beta0.5-seed0 and 3 more: for " in done.out
    assert "under 3.3 effective samples of 10" in done.out
    assert "annealed" not in (copied / "evaluation" / "evaluation.md").read_text("utf-8")
    assert evaluation(copied)["settings"]["num_samples"] == 10


def test_a_model_that_diverged_is_left_out_and_named(tmp_path):
    tiny = ("--dataset", "digits", "--hidden", "8", "--epochs", "1", "--figures", "none")
    rates = ("--learning-rate", "1e-3", "1e30", "--name", "half")
    assert call(mnist, tmp_path, *tiny, *rates).code == 1
    run = tmp_path / "results" / "mnist" / "half"
    done = call(evaluate, tmp_path, str(run), *QUICK)
    assert (done.code, done.err) == (0, "")
    assert [one["learning_rate"] for one in evaluation(run)["members"]] == [1e-3]
    said = "learning_rate1e+30-seed0: diverged ("
    assert said in done.out
    assert said in (run / "evaluation" / "evaluation.md").read_text("utf-8")
    assert call(mnist, tmp_path, *tiny, "--learning-rate", "1e30", "--name", "none").code == 1
    done = call(evaluate, tmp_path, str(run.parent / "none"), *QUICK)
    assert done.code == 2
    assert done.err.endswith("none: every model of it diverged\n")


def test_all_numbers_are_of_the_same_binarisation(tmp_path):
    """Bits are drawn anew at each visit, but not between two numbers of one table."""
    tiny = ("--dataset", "digits", "--hidden", "8", "--epochs", "1", "--figures", "none")
    assert call(mnist, tmp_path, *tiny, "--binarize", "dynamic", "--name", "bits").code == 0
    run = tmp_path / "results" / "mnist" / "bits"
    assert call(evaluate, tmp_path, str(run), *QUICK).code == 0
    [found] = evaluation(run)["members"]
    parts = found["mutual_information"] + found["total_correlation"] + found["dimension_kl"]
    assert found["kl"] == pytest.approx(parts, rel=1e-4)


def test_a_run_that_goes_on_loses_its_evaluation(copied):
    folder = copied.parents[2]
    flags = ("--dataset", "digits", "--hidden", "8", "--figures", "none", "--latent-dim", "3")
    sweep = ("--beta", "0.5", "4", "--seed", "0", "1", "--name", "run")
    done = call(mnist, folder, *flags, *sweep, "--epochs", "3", "--resume")
    assert (done.code, done.err) == (0, "")
    assert not (copied / "evaluation").exists()


def test_a_run_that_does_not_tell_its_data_is_evaluated_with_a_warning(copied):
    (copied / "provenance.json").unlink()
    done = call(evaluate, copied, str(copied), *QUICK)
    assert done.code == 0
    assert "no provenance.json, so it is not known whether the data are still" in done.err


def test_a_slice_is_a_run(tmp_path):
    tiny = ("--dataset", "digits", "--hidden", "8", "--epochs", "1", "--figures", "none")
    sweep = ("--beta", "1", "2", "3", "--name", "cut", "--shard", "2/2")
    assert call(mnist, tmp_path, *tiny, *sweep).code == 0
    run = tmp_path / "results" / "mnist" / "cut"
    slice_ = run / "shards" / "2-of-2"
    done = call(evaluate, tmp_path, str(slice_), *QUICK)
    assert (done.code, done.err) == (0, "")
    assert [one["name"] for one in evaluation(slice_)["members"]] == ["beta2-seed0"]


def test_a_run_of_a_table_is_evaluated_fold_by_fold(tmp_path):
    """Four folds of Iris are not of one size, and every row that one holds out counts once."""
    flags = ("--dataset", "iris", "--folds", "4", "--epochs", "2", "--hidden", "4", "--name", "i")
    assert call(tabular, tmp_path, *flags, "--num-samples", "5", "--figures", "none").code == 0
    run = tmp_path / "results" / "tabular" / "i"
    assert_evaluated(run, "iris: held-out rows of 4 folds, nats per row", classes=True)
    members = evaluation(run)["members"]
    assert [one["fold"] for one in members] == [0, 1, 2, 3]
    refused(run, "--data-dir", ".")
    text = (run / "evaluation" / "evaluation.md").read_text("utf-8")
    assert "| nats per row |" in text
    assert "fitted on the posterior means of 112 training examples" in text

    summary = json.loads((run / "summary.json").read_text("utf-8"))["members"]
    trained, table = load_run(run), load_table("iris")
    data: Any = trained.task.data
    splits = cross_validation(table, 4, (0,))
    assert table.labels is not None
    labels = np.concatenate([table.labels[split.train] for split in splits])
    assert len({len(split.test) for split in splits}) == 2
    key, names = jax.random.key(EVALUATION_SEED), ("log_likelihood", "effective_samples")
    with np.load(run / "evaluation" / "evaluation.npz") as arrays:
        for loaded, split, one, own in zip(trained.models(), splits, members, summary, strict=True):
            model = (trained.task.vae, as_stored, loaded.params, split.test_features)
            expected = estimate_elbo(key, *model, num_samples=16)
            for found in (own, one):  # sums of about 38 rows in another order
                assert found["neg_elbo"] == pytest.approx(-float(expected.elbo), rel=1e-5)
                assert found["kl"] == pytest.approx(float(expected.kl), rel=1e-5)
            nats, effective = (arrays[f"{one['name']}/{name}"] for name in names)
            assert len(nats) == len(effective) == len(split.test)
            assert one["neg_log_likelihood"] == pytest.approx(-nats.mean(), rel=1e-5)
            assert one["information_bound"] == pytest.approx(np.log(len(nats)), rel=1e-6)
            # The rows that it was trained on, of which a longer fold leaves one out.
            kept = np.asarray(data.rows)[loaded.member.split]
            train, test = (
                posterior_means(trained.task, loaded.params, half)
                for half in (jnp.asarray(data.examples)[kept], split.test_features)
            )
            neighbours = KNeighborsClassifier(5).fit(train, labels[kept])
            expected = neighbours.score(test, table.labels[split.test])
            assert one["knn_accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--num-samples", "0"), "--num-samples 0: a whole number of 1 or more is needed"),
        (("--annealed", "-1"), "--annealed -1: a whole number of 0 or more is needed"),
        (("--temperatures", "1"), "--temperatures 1: a whole number of 2 or more is needed"),
        (("--threshold", "nan"), "--threshold nan: a finite number of 0 or more is needed"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(home, flags, says):
    assert says in refused(home / "results" / "mnist" / "run", *flags)


def test_a_run_that_is_not_there_is_refused(tmp_path):
    assert f"{tmp_path / 'none'}: there is no such run" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "not a run (no config.json)" in refused(tmp_path / "empty")


def test_a_run_without_checkpoints_is_refused(copied):
    shutil.rmtree(copied / "checkpoints")
    assert "no checkpoints in it; they are needed" in refused(copied)


def test_of_a_damaged_checkpoint_the_one_before_is_evaluated(home, tmp_path):
    flags = ("--dataset", "digits", "--hidden", "8", "--epochs", "2", "--figures", "none")
    done = call(mnist, tmp_path, *flags, "--checkpoint-every", "1", "--name", "run")
    assert done.code == 0, done.err
    run = tmp_path / "results" / "mnist" / "run"
    (latest,) = run.glob("checkpoints/*/states/2")
    payload = max((path for path in latest.rglob("*") if path.is_file()), key=_size)
    flipped = bytearray(payload.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    payload.write_bytes(flipped)
    done = call(evaluate, tmp_path, str(run), *QUICK)
    assert done.code == 0
    assert "evaluated as after epoch 1" in done.err
    assert [one["epoch"] for one in evaluation(run)["members"]] == [1]
    assert latest.is_dir()  # who only reads leaves it to --resume to set it aside


def _size(path: Path) -> int:
    return path.stat().st_size


def test_slices_are_evaluated_as_one_run(home, tmp_path):
    flags = ("--dataset", "digits", "--hidden", "8", "--epochs", "2", "--figures", "none")
    flags += ("--beta", "0.5", "4", "--seed", "0", "1", "--latent-dim", "3", "--name", "run")
    for shard in ("1/3", "3/3"):
        assert call(mnist, tmp_path, *flags, "--shard", shard).code == 0
    run = tmp_path / "results" / "mnist" / "run"
    done = call(evaluate, tmp_path, str(run), *QUICK)
    assert (done.code, done.err) == (0, "")
    whole = {one["name"]: one for one in evaluation(home / "results" / "mnist" / "run")["members"]}
    found = evaluation(run)["members"]
    # The second slice would have beta 0.5 with seed 1.
    assert [one["name"] for one in found] == ["beta0.5-seed0", "beta4-seed0", "beta4-seed1"]
    for one in found:
        assert one["neg_elbo"] == whole[one["name"]]["neg_elbo"]
    assert evaluation(run)["left_out"] == ["slice 2/3: not there, so it is left out"]


def test_a_checkpoint_of_another_model_is_refused(copied):
    config = json.loads((copied / "config.json").read_text("utf-8"))
    (copied / "config.json").write_text(json.dumps({**config, "latent_dim": 5}), "utf-8")
    said = refused(copied)
    # The first array that differs, by name, as it is in the checkpoint and in the model.
    assert "is of another model: shape of .train." in said
    assert "['decoder']['params']['Dense_0']['kernel'] is [2, 3, 8], [2, 5, 8] is needed" in said
    assert not (copied / "evaluation" / "evaluation.md").read_text("utf-8").count("z 5")


def test_other_data_are_refused(copied):
    provenance = json.loads((copied / "provenance.json").read_text("utf-8"))
    provenance["runs"][-1]["data"] |= {"source": "older digits", "sha256": {"digits": "0" * 64}}
    (copied / "provenance.json").write_text(json.dumps(provenance), "utf-8")
    said = refused(copied)
    assert "trained on other data (older digits) than there are now" in said
    # The same words may describe both: their checksums do not.
    assert said.rstrip().endswith("their SHA-256 differ, digits 000000000000, now none")


def test_a_setting_of_another_version_is_refused(copied):
    config = json.loads((copied / "config.json").read_text("utf-8"))
    (copied / "config.json").write_text(json.dumps({**config, "colour": 1}), "utf-8")
    assert "no setting 'colour' is known" in refused(copied)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"latent_dim": "two"}, "config.json: latent_dim 'two' is no value of its type"),
        ({"beta": [1.0, None]}, "config.json: beta [1.0, None] is no value of its type"),
        ({"network": "cnn"}, "config.json: network 'cnn' is no value of its type"),
        ({"epochs": True}, "config.json: epochs True is no value of its type"),
        (None, "config.json: empty; the settings of a run are needed"),
    ],
)
def test_a_damaged_setting_is_named(copied, damage, says):
    config = json.loads((copied / "config.json").read_text("utf-8"))
    saved = {} if damage is None else {**config, **damage}
    (copied / "config.json").write_text(json.dumps(saved), "utf-8")
    assert says in refused(copied)


def test_a_run_of_an_experiment_that_cannot_be_evaluated_is_refused(copied):
    moved = copied.parents[1] / "benchmark" / "run"
    moved.parent.mkdir()
    copied.rename(moved)
    assert "in a folder benchmark/; runs in mnist/<run> or tabular/<run> or " in refused(moved)


# What is repeated.


def trained_on(seeds: int, folds: int) -> list[Result]:
    """Of two betas: noise of each seed that its folds share, and a little of their own."""
    rng = np.random.default_rng(0)
    of_seed, own = rng.normal(size=seeds), 0.01 * rng.normal(size=(seeds, folds))
    return [
        Result(
            f"beta{beta}-seed{seed}-fold{fold}",
            {"beta": beta, "seed": seed, "fold": fold},
            [],
            dict.fromkeys(("kl", "reconstruction"), 10 / beta + of_seed[seed] + own[seed, fold]),
            None,
            {},
        )
        for beta in (1.0, 2.0)
        for seed in range(seeds)
        for fold in range(folds)
    ]


@pytest.mark.parametrize(
    ("seeds", "over"), [(3, "seeds, each the mean of its folds"), (1, "folds")]
)
def test_the_folds_of_a_seed_are_one_repetition(seeds, over):
    """The errors along a sweep are those of the tables."""
    results = trained_on(seeds, 4)
    results[0] = results[0]._replace(problem="diverged")
    found = swept(results)
    assert found is not None
    curve = found.curves[""]
    for i, own in enumerate(by_setting(results).values()):
        mean, error = over_seeds(own, "kl")
        assert (curve.rate[i], curve.rate_error[i]) == pytest.approx((mean, error))
        assert (curve.distortion[i], curve.distortion_error[i]) == pytest.approx((mean, error))
    assert repeated(results) == over
    lost = [
        one._replace(problem="diverged") if one.columns["seed"] == 0 else one for one in results
    ]
    if seeds > 1:
        again = swept(lost)
        assert again is not None
        assert np.isnan(again.curves[""].rates[:, 0]).all()
        assert np.isfinite(again.curves[""].rates[:, 1:]).all()


def test_nothing_is_repeated_in_a_single_model():
    assert repeated(trained_on(1, 1)) == ""
    assert repeated([one for one in trained_on(2, 2) if one.columns["fold"] == 0]) == "seeds"


# The page.


def found_of(**changed: Any) -> Evaluated:
    one = Evaluated(
        variance=np.array([0.9, 0.2, 1e-4]),
        active=2.0,
        kl_per_dim=np.array([2.0, 0.5, 0.001]),
        information_per_dim=np.array([1.8, 0.4, 0.0]),
        information=2.0,
        total_correlation=0.2,
        dimension_kl=0.3,
        elbo=-101.0,
        log_likelihood=-99.0,
        log_likelihood_error=0.5,
        error_over="seeds",
        annealed_gain=0.75,
        annealed_gain_error=0.25,
        effective_samples=np.array([1.5, 20.0, 7.0]),
        accuracies={"5-NN": 0.9, "linear probe": 0.8},
    )
    return one._replace(**changed)


SAID = {"title": "t", "threshold": 0.01, "information_bound": 6.0, "num_samples": 100}


def drawn(axes: Any) -> dict[str, np.ndarray]:
    """The lines of a panel by their label."""
    return {line.get_label(): line.get_xydata() for line in axes.lines}


def test_the_spectrum_that_is_drawn_is_the_one_that_was_measured():
    other = found_of(variance=np.array([0.5, 0.0, 0.0]), active=1.0)
    page = evaluation_page({"beta 1": found_of(), "beta 4": other}, **SAID)
    lines = drawn(page.axes[0])
    expected = np.stack([[1, 2, 3], [0.9, 0.2, 1e-4]], axis=1)
    np.testing.assert_array_equal(lines["beta 1: 2 of 3 active"], expected)
    # A logarithm has no zero.
    np.testing.assert_array_equal(lines["beta 4: 1 of 3 active"][:, 1], [0.5, 1e-12, 1e-12])
    assert page.axes[0].get_yscale() == "log"
    heights = [np.asarray(line.get_ydata()).tolist() for line in page.axes[0].lines]
    assert [0.01, 0.01] in heights  # the threshold
    dims = [np.asarray(line.get_ydata()).tolist() for line in page.axes[1].lines[:2]]
    assert dims == [[2.0, 0.5, 0.001], [1.8, 0.4, 0.0]]


def test_the_likelihoods_that_are_drawn_have_their_errors():
    axes = evaluation_page({"": found_of()}, **SAID).axes[3]
    by_label = {bars.get_label(): bars for bars in axes.containers}
    for label, y, error in (
        ("log p(x), 100 samples, ± s.e. over seeds", -99.0, 0.5),
        ("+ gain of annealing, ± s.e. over seeds", -98.25, 0.25),
    ):
        points, _, (bar,) = by_label[label]
        assert points.get_ydata().tolist() == [y]
        assert bar.get_segments()[0][:, 1].tolist() == [y - error, y + error]
    none = found_of(annealed_gain=np.nan, annealed_gain_error=np.nan)
    assert len(evaluation_page({"": none}, **SAID).axes[3].containers) == 1


def test_an_error_over_examples_is_not_drawn_as_one_over_seeds():
    """As where of one setting a single model is left."""
    single = found_of(error_over="examples", log_likelihood=-90.0)
    page = evaluation_page({"beta 1": found_of(), "beta 4": single}, **SAID)
    by_label = {bars.get_label(): bars for bars in page.axes[3].containers}
    for kind, place, y in (("seeds", 0, -99.0), ("examples", 1, -90.0)):
        points = by_label[f"log p(x), 100 samples, ± s.e. over {kind}"][0]
        assert points.get_xydata().tolist() == [[place, y]]
    fills = {str(bars[0].get_markerfacecolor()) for bars in page.axes[3].containers}
    assert "white" in fills
    assert len(fills) == 3


def test_of_two_layers_no_surgery_is_drawn():
    nan = np.full(3, np.nan)
    one = found_of(
        information_per_dim=nan, information=np.nan, total_correlation=np.nan, dimension_kl=np.nan
    )
    page = evaluation_page({"": one}, **SAID)
    assert not page.axes[2].patches
    assert page.axes[2].texts[0].get_text().startswith("not known of a posterior")
    legend: Any = page.axes[1].get_legend()
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["KL(q(z$_j$ | x) || p(z$_j$))"]
    with pytest.raises(ValueError, match="no setting to draw"):
        evaluation_page({}, **SAID)


# What can be read off the means.

PROBES = (knn_accuracy, linear_accuracy)


@pytest.mark.parametrize("accuracy", PROBES)
def test_classes_that_lie_apart_are_found_and_noise_is_guessed(accuracy):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 100)
    apart = 10 * labels[:, None] + rng.normal(size=(300, 2))
    assert accuracy(apart, labels, apart + 0.1, labels) == 1
    noise, other = rng.normal(size=(300, 2)), rng.normal(size=(300, 2))
    # A third, within five standard errors of 300 draws.
    share = accuracy(noise, labels, other, labels)
    assert abs(share - 1 / 3) < 5 * np.sqrt(2 / 9 / 300)


def test_a_ring_is_found_by_its_neighbours_and_not_by_a_line():
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    labels = np.arange(200) % 2
    radius = np.where(labels, 1.0, 3.0)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert knn_accuracy(points, labels, points, labels) > 0.95
    assert linear_accuracy(points, labels, points, labels) < 0.7


def test_one_class_teaches_a_line_nothing():
    points, labels = np.arange(6.0).reshape(3, 2), np.zeros(3, int)
    assert knn_accuracy(points, labels, points, labels) == 1
    assert np.isnan(linear_accuracy(points, labels, points, labels))


@pytest.mark.parametrize("accuracy", PROBES)
def test_labels_that_do_not_fit_are_refused(accuracy):
    with pytest.raises(ValueError, match="2 labels for 3 means: one each is needed"):
        accuracy(np.zeros((3, 2)), np.zeros(2, int), np.zeros((3, 2)), np.zeros(3, int))
