"""`experiments.tabular` and `experiments.anomaly`: run for real, their files read back."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import Done, call, surroundings  # noqa: F401
from evaluations import assert_evaluated
from PIL import Image
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from experiments import _anomaly_problems, anomaly, tabular
from experiments._anomaly_comparison import Comparison, of_run
from experiments._completed import as_features, complete
from experiments._folder import RunFolder
from experiments._folds import as_subsets, cross_validation, split_of
from experiments._imputation import IMPUTERS, Imputation
from experiments._loaded import load_run
from experiments._outliers import image_tasks, other_methods, table_tasks
from experiments._report import Result
from experiments._representation import Halves, references
from experiments._run import UsageError
from experiments._scores import RowScorer
from experiments._table_figures import names_of_numbers, panels_of
from experiments._tables import _who_wins
from vae_jax import figures
from vae_jax.data import load_images, load_table, read_table
from vae_jax.data.images import ImageData
from vae_jax.model import batch_elbo_terms
from vae_jax.networks import ACTIVATIONS
from vae_jax.tabular import make_table_vae

FAST = ("--epochs", "4", "--hidden", "8", "--num-samples", "4")
FIGURES = {
    "comparison",
    "generated_correlations",
    "generated_marginals",
    "generated_pairs",
    "kl_against_beta",
    "latent",
    "latent_over_beta",
    "loss_curves",
    "rate_distortion",
    "reconstruction_error",
    "traversals",
}


def read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8"))


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "metrics.csv").read_text("utf-8"))))


def assert_drawn(path: Path) -> None:
    picture = np.asarray(Image.open(path).convert("L"))
    assert picture.std() > 5, path.name
    assert path.stat().st_size < 1_000_000
    assert path.with_suffix(".npz").is_file()


pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")


@pytest.fixture(scope="module")
def iris(compiled_quickly, tmp_path_factory) -> tuple[Done, Path]:
    """Two betas, two seeds and three folds of Iris: twelve models."""
    folder = tmp_path_factory.mktemp("iris")
    sweep = ("--beta", "0.5", "1", "--seed", "0", "1", "--folds", "3", "--name", "run")
    done = call(tabular, folder, "--dataset", "iris", *sweep, *FAST)
    assert (done.code, done.err) == (0, "")
    return done, folder / "results" / "tabular" / "run"


def test_every_fold_of_every_seed_and_beta_is_a_row(iris):
    _, run = iris
    rows = rows_of(run)
    assert len(rows) == 12  # four epochs are one report
    assert {(r["beta"], r["seed"], r["fold"]) for r in rows} == {
        (beta, str(seed), str(fold))
        for beta in ("0.5", "1.0")
        for seed in range(2)
        for fold in range(3)
    }
    assert {row["epoch"] for row in rows} == {"4"}


def test_the_references_are_those_of_scikit_learn_on_the_same_folds(iris):
    _, run = iris
    iris_table: Any = load_iris()
    X, y = iris_table.data, iris_table.target
    table = load_table("iris")
    accuracies, densities = [], []
    errors: dict[str, list[np.ndarray]] = {"PCA": [], "probabilistic PCA": []}
    for split in cross_validation(table, 3, (0, 1)):
        mean, scale = X[split.train].mean(0), X[split.train].std(0)
        train, test = ((X[rows] - mean) / scale for rows in (split.train, split.test))
        pca: Any = PCA(2).fit(train)
        neighbours = KNeighborsClassifier(5).fit(pca.transform(train), y[split.train])
        accuracies.append(neighbours.score(pca.transform(test), y[split.test]))
        densities.append(pca.score(test))
        # E[x' | x] = W (W'W + s^2)^-1 W' x, and its limit at s = 0.
        factors = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
        gram = factors.T @ factors
        for name, ridge in (("PCA", 0.0), ("probabilistic PCA", pca.noise_variance_)):
            back = test @ factors @ np.linalg.inv(gram + ridge * np.eye(2)) @ factors.T
            off = (back - test) * scale  # the training rows have mean 0
            errors[name].append(np.sqrt(np.mean(off**2, axis=0)))
    found = read(run / "comparison.json")
    for name, own in errors.items():
        columns = found[name]["columns"]
        assert list(columns) == iris_table.feature_names
        means = [column["mean"] for column in columns.values()]
        np.testing.assert_allclose(means, np.mean(own, axis=0), rtol=1e-4)  # float32 features
    assert "columns" in found["beta 1"]
    assert found["PCA"]["knn_accuracy"]["mean"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    by_seed = np.reshape(accuracies, (2, 3)).mean(axis=1)
    error = np.std(by_seed, ddof=1) / np.sqrt(2)
    assert found["PCA"]["knn_accuracy"]["standard_error"] == pytest.approx(error, abs=1e-9)
    # Features are float32.
    ppca = found["probabilistic PCA"]["log_likelihood"]["mean"]
    assert ppca == pytest.approx(np.mean(densities), abs=1e-3)


@pytest.mark.parametrize(
    ("ours", "line"),
    [
        (
            (0.80, 0.90, 0.85),
            "5-NN: PCA is ahead, 0.870 ± 0.029 against 0.850 ± 0.029 at beta 1",
        ),
        # The same mean, but not ahead seed by seed.
        (
            (0.90, 0.80, 0.85),
            "5-NN: PCA is ahead, 0.870 ± 0.029 against 0.850 ± 0.029 at beta 1 (not told apart)",
        ),
        ((0.90, 0.95, 0.90), "no reference is ahead of the best model in any column"),
    ],
)
def test_a_lead_that_the_seeds_do_not_bear_out_says_so(ours, line):
    def results(values):
        return [
            Result("", {"seed": seed, "fold": 0}, [], {}, None, {"knn_accuracy": value})
            for seed, value in enumerate(values)
        ]

    pca = (0.82, 0.92, 0.87)
    assert _who_wins({"beta 1": results(ours), "PCA": results(pca)}) == [line]


def test_the_tables_say_who_is_ahead(iris):
    done, run = iris
    text = (run / "comparison.md").read_text("utf-8")
    over = "mean ± standard error over 2 seeds, each the mean of its folds"
    assert text.startswith(f"iris: held-out rows, {over}, the best in bold")
    methods = re.findall(r"^\| ([^|]+?) \|", text, flags=re.MULTILINE)
    assert {"beta 0.5", "beta 1", "PCA", "probabilistic PCA", "raw features"} <= set(methods)
    assert "petal length (cm)" in methods
    found = read(run / "comparison.json")
    best = max(found[m]["knn_accuracy"]["mean"] for m in ("beta 0.5", "beta 1"))
    ahead = max(found[m]["knn_accuracy"]["mean"] for m in found) > best
    assert ("5-NN:" in done.out) == ahead
    summary = read(run / "summary.json")
    assert len(summary["members"]) == 12
    for entry in summary["by_setting"]:
        members = [m for m in summary["members"] if m["beta"] == entry["beta"]]
        own = ("log_likelihood", "elbo", "rmse", "knn_accuracy", "ari", "trustworthiness")
        for name in ("neg_elbo", "kl", *own):
            values = [{**member, **member["also"]}[name] for member in members]
            assert entry[name]["mean"] == pytest.approx(np.mean(values))
        assert entry["log_likelihood"]["mean"] > entry["elbo"]["mean"]


def test_a_held_out_elbo_by_other_samples_is_the_same_within_its_noise(iris):
    """Of the same rows by 16 samples of each, as in every epoch, and by 4, as beside the others.

    The KL is exact in both, so what sets them apart is the noise of E_q[log p(x | z)].
    """
    _, run = iris
    trained, members = load_run(run), read(run / "summary.json")["members"]
    splits = cross_validation(load_table("iris"), 3, (0, 1))
    for loaded, own in zip(trained.models(), members, strict=True):
        rows = jnp.asarray(splits[loaded.member.split].test_features)
        keys = jax.random.split(jax.random.key(0), (len(rows), 64))
        terms = batch_elbo_terms(keys, trained.task.vae, loaded.params, rows)
        noise = np.var(np.asarray(terms.log_lik), axis=1, ddof=1)  # of one sample of each row
        error = np.sqrt(noise.sum() * (1 / 16 + 1 / 4)) / len(rows)
        # One of twelve models is beyond four standard errors once in 1,300 runs.
        assert abs(own["also"]["elbo"] + own["neg_elbo"]) < 4 * error


def test_every_figure_is_drawn(iris):
    _, run = iris
    assert {path.stem for path in (run / "figures").glob("*.png")} == FIGURES
    for path in (run / "figures").glob("*.png"):
        assert_drawn(path)


@pytest.mark.parametrize("count", [2, 6, 7, 20])
def test_the_vanilla_model_has_a_panel_among_many(count):
    for kept in range(count):
        chosen = panels_of(count, kept)
        assert kept in chosen
        assert chosen == sorted(set(chosen))
        assert len(chosen) == min(count, 6)
        assert chosen[-1] < count


def test_a_finished_run_resumes_to_the_same_rows(tmp_path):
    flags = ("--dataset", "iris", "--beta", "0.5", "1", "--seed", "0", "1", "--folds", "3")
    flags = (*flags, "--name", "run", "--hidden", "8", "--num-samples", "4", "--figures", "none")
    flags = (*flags, "--report-every", "4", "--output-dir", str(tmp_path))
    whole = call(tabular, tmp_path, *flags, "--epochs", "8")
    assert whole.code == 0
    expected = rows_of(tmp_path / "tabular" / "run")
    first = call(tabular, tmp_path, *flags, "--epochs", "4", "--overwrite")
    again = call(tabular, tmp_path, *flags, "--epochs", "8", "--resume")
    assert (first.code, again.code) == (0, 0)
    for row, other in zip(rows_of(tmp_path / "tabular" / "run"), expected, strict=True):
        assert {**row, "examples_per_second": ""} == {**other, "examples_per_second": ""}


@pytest.mark.parametrize(("name", "trained"), [("wine", 142), ("breast_cancer", 455)])
def test_no_held_out_row_is_trained_on(name, trained):
    """And no row stands twice in a half: of 178 and 569 rows no five folds are of one size."""
    table = load_table(name)
    splits = cross_validation(table, 5, (3, 4))
    train, test = as_subsets(splits)
    assert len(splits) == 10
    assert len(np.unique(table.values, axis=0)) == len(table.values)  # a row is known by its values
    assert np.shape(train.rows) == (10, trained)
    assert train.counts is None
    counts = np.asarray(test.counts)
    assert len(set(counts)) == 2
    left_out = set()
    for index, split in enumerate(splits):
        assert not set(split.train) & set(split.test)
        assert sorted([*split.train, *split.test]) == list(range(len(table.values)))
        kept = np.asarray(train.examples)[np.asarray(train.rows)[index]]
        held_out = np.asarray(test.examples)[np.asarray(test.rows)[index]]
        np.testing.assert_array_equal(held_out[: counts[index]], split.test_features)
        own, given = ([row.tobytes() for row in half] for half in (kept, split.train_features))
        assert len(set(own)) == trained
        assert not set(own) & {row.tobytes() for row in split.test_features}
        left_out |= {place for place, row in enumerate(given) if row not in set(own)}
        np.testing.assert_allclose(split.train_features.mean(axis=0), 0, atol=1e-5)
    # At random: the last rows of a sorted table are of one class.
    assert len(left_out) > 1
    np.testing.assert_array_equal(as_subsets(splits)[0].rows, train.rows)


def test_digits_without_one_digit_are_trained_on_and_judged_once():
    """Ten tasks of 807 to 811 training rows and 807 to 812 normal rows to judge."""
    config = anomaly.validate(anomaly.Config(dataset=("digits",), distributed=True))
    problem = _anomaly_problems.of_table(config, "digits")
    rows, judged = np.asarray(problem.data.rows), np.asarray(problem.test.rows)
    counts = np.asarray(problem.test.counts)
    for index, task in enumerate(problem.tasks.values()):
        assert len(set(rows[index])) == rows.shape[1] == 807
        assert counts[index] == np.sum(~task.is_anomaly)
        assert len(set(judged[index, : counts[index]])) == counts[index]
    assert (counts.min(), counts.max()) == (807, 812)


def test_images_without_one_digit_are_all_judged_once(few_digits):
    config = anomaly.validate(anomaly.Config(dataset=("mnist",), seed=(0,)))
    problem = _anomaly_problems.of_images(config)
    images, judged = load_images("digits"), np.asarray(problem.test.rows)
    counts = np.asarray(problem.test.counts)
    for (left_out, _), own, count in zip(problem.tasks, judged, counts, strict=True):
        normal = np.flatnonzero(images.test_labels[:80] != left_out)
        np.testing.assert_array_equal(own[:count], normal)
        assert set(own[count:]) <= {normal[-1]}
    assert counts.min() < counts.max() == judged.shape[1]


def mixed_csv(path: Path, rows: int = 60) -> None:
    """A table with all kinds of columns, a constant one and gaps."""
    rng = np.random.default_rng(0)
    lines = ["height,smoker,visits,city,fixed,group"]
    for row in range(rows):
        height = "" if row % 11 == 0 else f"{rng.normal(170, 9):.2f}"
        city = rng.choice(["Oslo", "Rome", "Lima"])
        lines.append(f"{height},{rng.choice(['yes', 'no'])},{rng.poisson(4)},{city},7,{row % 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_table_of_ones_own_with_every_kind_of_column(tmp_path):
    mixed_csv(tmp_path / "people.csv")
    (tmp_path / "kinds.json").write_text('{"visits": "count"}', encoding="utf-8")
    flags = ("--csv", "people.csv", "--label", "group", "--schema", "kinds.json")
    done = call(tabular, tmp_path, *flags, *FAST, "--folds", "2", "--name", "mine")
    assert done.code == 0, done.err
    assert re.fullmatch(r"warning: .*'?fixed'? is constant.*\n", done.err)
    run = tmp_path / "results" / "tabular" / "mine"
    table = read_table(tmp_path / "people.csv", label="group", schema=tmp_path / "kinds.json")
    assert read(run / "summary.json")["columns"] == {
        "height": "continuous",
        "smoker": "binary",
        "visits": "count",
        "city": "categorical",
        "fixed": "continuous",
    }
    for path in (run / "figures").glob("*.png"):
        assert_drawn(path)
    # A category is drawn by the probabilities of its values, which add up to one.
    curves = np.load(run / "figures" / "traversals.npz")["curves"]
    assert curves.shape == (2, 41, 1 + 1 + 1 + 3 + 1)
    np.testing.assert_allclose(curves[:, :, 3:6].sum(axis=-1), 1, rtol=1e-5)
    assert np.all((curves[:, :, 1] > 0) & (curves[:, :, 1] < 1))
    encoding = cross_validation(table, 2, (0,))[0].encoding
    cities = [f"P(city = {name})" for name in ("Lima", "Oslo", "Rome")]
    assert names_of_numbers(encoding) == ["height", "P(smoker = yes)", "visits", *cities, "fixed"]
    found = read(run / "comparison.json")
    # No density of PCA is comparable with one of counts and categories.
    assert "log_likelihood" not in found["probabilistic PCA"]
    # Its reconstructions are: of numbers where they were measured, and of the others.
    errors = {name: own["mean"] for name, own in found["PCA"]["columns"].items()}
    assert list(errors) == ["height", "smoker", "visits", "city", "fixed"]
    assert 0 < errors["height"] < 2 * 9
    assert 0 < errors["visits"] < 2 * 2
    assert all(0 <= errors[name] <= 1 for name in ("smoker", "city"))
    assert errors["fixed"] == pytest.approx(0, abs=1e-9)


def test_completed_rows_are_on_one_scale_and_go_back(tmp_path):
    """What PCA sees of a table with gaps and counts, and what it is judged by."""
    mixed_csv(tmp_path / "people.csv")
    (tmp_path / "kinds.json").write_text('{"visits": "count"}', encoding="utf-8")
    table = read_table(tmp_path / "people.csv", label="group", schema=tmp_path / "kinds.json")
    split = split_of(table, np.arange(0, 40), np.arange(40, 60))
    found = complete(split, split.test_features)
    raw, trained = table.values[40:], table.values[:40]
    names = [table.columns[index].name for index in split.encoding.column_of]
    height, visits = names.index("height"), names.index("visits")
    missing = np.isnan(raw[:, 0])
    assert 0 < missing.sum() < 20
    seen = trained[:, 0][~np.isnan(trained[:, 0])]
    expected = np.where(missing, 0, (raw[:, 0] - seen.mean()) / seen.std())
    # Features are float32.
    np.testing.assert_allclose(found[:, height], expected, rtol=1e-5, atol=1e-5)
    logs = np.log1p(trained[:, 2])
    expected = (np.log1p(raw[:, 2]) - logs.mean()) / logs.std()
    np.testing.assert_allclose(found[:, visits], expected, rtol=1e-5, atol=1e-5)
    back = split.encoding.decode(as_features(split, found))
    np.testing.assert_allclose(back[~missing], raw[~missing], rtol=1e-5)


REFUSED = {
    ("--csv", "nothing.csv"): "nothing.csv",
    ("--label", "x"): "--label x: belongs to --csv",
    ("--csv", "t.csv", "--dataset", "iris"): "--dataset iris: not together with --csv",
    ("--csv", "t.csv", "--label", "nope"): "nope",
    ("--folds", "0"): "--folds 0",
    ("--csv", "t.csv", "--folds", "2"): "--folds 2: 1 of 3 rows train a fold, 2 are needed",
    ("--folds", "151"): "--folds 151: the table has 150 rows, 151 are needed",
    ("--batch-size", "121"): "--batch-size 121: at most the 120 training rows",
    ("--report-every", "3"): "--report-every 3: a divisor of --epochs 200",
    ("--contamination", "0.7"): "--contamination 0.7",
    ("--num-samples", "0"): "--num-samples 0",
    ("--impute", "1"): "--impute 1.0: a share above 0 and under 1",
    ("--beta", "1", "1"): "given twice",
    ("--latent-dim", "0"): "--latent-dim 0",
    ("--learning-rate", "1e-50"): "--learning-rate 1e-50: a finite number above 0",  # 0 in float32
}


@pytest.mark.parametrize("flags", REFUSED, ids=" ".join)
def test_what_cannot_be_is_refused_in_one_line(flags, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n2,3\n4,5\n", encoding="utf-8")
    done = call(tabular, tmp_path, *flags)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert REFUSED[flags] in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "2 rows"),
        ("a,a\n1,2\n3,4\n", "'a'"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text, says, tmp_path):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    done = call(tabular, tmp_path, "--csv", "t.csv")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err
    assert "t.csv" in done.err


def test_more_latent_dimensions_than_columns_and_one_model_alone(tmp_path, monkeypatch):
    titles: list[str] = []

    def drawn(*args: Any, title: str, **options: Any) -> Any:
        titles.append(title)
        return bars(*args, title=title, **options)

    bars = figures.representation_bars
    monkeypatch.setattr(figures, "representation_bars", drawn)
    lines = [f"{np.sin(i):.3f},{i % 5}.5,7" for i in range(40)]
    (tmp_path / "t.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n", encoding="utf-8")
    flags = ("--csv", "t.csv", "--latent-dim", "4", "--folds", "1", "--name", "x")
    flags = (*flags, "--impute", "0.3")
    done = call(tabular, tmp_path, *flags, *FAST)
    assert done.code == 0, done.err
    run = tmp_path / "results" / "tabular" / "x"
    assert_drawn(run / "figures" / "loss_curves.png")
    # The same cells for a model and for PCA, whose four dimensions lose nothing.
    found = read(run / "comparison.json")
    assert found["PCA"]["rmse"]["mean"] == pytest.approx(0, abs=1e-5)
    # Without labels there is no accuracy, but there are neighbours.
    assert "knn_accuracy" not in found["PCA"]
    assert "trustworthiness" in found["beta 1"]
    # What was taken away is known: the error of the means is the spread of these cells.
    split = cross_validation(read_table(tmp_path / "t.csv"), 1, (0,))[0]
    features, is_number = split.test_features, np.ones(3, bool)
    holes = Imputation(None, 1, 0.3).holes(split, is_number)  # pyright: ignore[reportArgumentType]
    away = np.isnan(holes)
    assert 0 < away.sum() < away.size
    expected = np.sqrt(np.mean(features[away] ** 2))
    errors = {
        name: own["imputed_rmse"]["mean"] for name, own in found.items() if "imputed_rmse" in own
    }
    assert set(errors) == {"beta 1", *IMPUTERS}
    assert errors["column means"] == pytest.approx(expected, rel=1e-5)
    text = (run / "comparison.md").read_text("utf-8")
    # There is one number of each, without an error.
    assert text.startswith("t: held-out rows, the best in bold")
    assert titles == ["t · mlp 8 · z 4 · held-out rows"]
    assert "imputed: 30% of the numbers of the held-out rows are taken away" in text


def test_the_nearest_rows_are_found_by_every_column(tmp_path):
    """A category that settles the number beside it."""
    rng = np.random.default_rng(0)
    city = rng.integers(0, 3, 200)
    lines = [f"{'abc'[c]},{5 * c + 0.1 * rng.normal():.4f}" for c in city]
    (tmp_path / "t.csv").write_text("city,x\n" + "\n".join(lines) + "\n", encoding="utf-8")
    split = cross_validation(read_table(tmp_path / "t.csv"), 1, (0,))[0]
    is_number = np.arange(4) == 0  # x: numbers stand before categories
    imputation = Imputation(None, 1, 0.5)  # pyright: ignore[reportArgumentType]
    holes = imputation.holes(split, is_number)
    means, nearest = imputation.by_others(split, holes, is_number).values()
    # Of some 20 cells: two standard errors of a root mean square, 1 / sqrt(2 * 20) each.
    assert means == pytest.approx(1, abs=0.3)
    # Five rows of the city: 0.1 sqrt(1 + 1 / 5) in standard deviations, which are 4, is 0.027.
    assert nearest < 0.05


def test_rows_in_the_subspace_of_pca_have_no_density(tmp_path):
    two = np.array([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]])
    halves, few = Halves(two, two[:1] + 1), (np.arange(2), np.arange(1))
    found = references(halves, None, 2, few=few, densities=True).numbers
    assert np.isnan(found["probabilistic PCA"]["log_likelihood"])
    # A table of one row, over and over.
    (tmp_path / "t.csv").write_text("a,b,c\n" + 8 * "1.5,2.5,3.5\n", encoding="utf-8")
    done = call(tabular, tmp_path, "--csv", "t.csv", "--folds", "2", "--name", "x", *FAST)
    assert done.code == 0, done.err
    assert "RuntimeWarning" not in done.err
    numbers = read(tmp_path / "results" / "tabular" / "x" / "comparison.json")
    assert numbers["probabilistic PCA"]["log_likelihood"]["mean"] is None
    assert np.isfinite(numbers["beta 1"]["log_likelihood"]["mean"])


@pytest.mark.parametrize(
    ("cell", "says"), [("abc", ["t.csv", "a", "abc"]), ("inf", ["t.csv", "a", "inf"])]
)
def test_a_bad_cell_is_named_with_its_column_and_line(cell, says, tmp_path):
    lines = [f"{i}.5,{i % 7}.25" for i in range(20)]
    lines[8] = f"{cell},1.0"
    (tmp_path / "t.csv").write_text("a,b\n" + "\n".join(lines) + "\n", encoding="utf-8")
    done = call(tabular, tmp_path, "--csv", "t.csv")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert all(word in done.err for word in [*says, "10"]), done.err


# Anomaly detection.


def test_the_tasks_are_made_up_as_they_say():
    table, tasks = table_tasks("wine", (0, 1))
    labels = table.labels
    assert labels is not None
    assert list(tasks) == [(-1, 0), (-1, 1)]
    for task in tasks.values():
        assert len(task.train) == 59
        assert (labels[task.train] != 0).all()
        assert not set(task.train) & set(task.test)
        assert task.is_anomaly.sum() == 10
        assert (labels[task.test][task.is_anomaly] == 0).all()
        assert len(task.test) == 60 + 10
    assert not np.array_equal(tasks[-1, 0].train, tasks[-1, 1].train)
    _, digits = table_tasks("digits", (0,))
    assert [key[0] for key in digits] == list(range(10))
    images = image_tasks(np.arange(100) % 10, np.arange(50) % 10, (0,))
    assert all(len(task.train) == 90 for task in images.values())
    assert images[3, 0].is_anomaly.sum() == 5


def test_wine_anomalies_beside_other_methods(tmp_path):
    flags = ("--dataset", "wine", "--seed", "0", "1", "--epochs", "20", "--hidden", "8")
    done = call(anomaly, tmp_path, *flags, "--num-samples", "4", "--beta", "1", "4")
    assert (done.code, done.err) == (0, "")
    (run,) = (tmp_path / "results" / "anomaly").iterdir()
    found = read(run / "anomaly.json")
    members = read(run / "summary.json")["members"]
    assert len(found["methods"]) == 3 + 2 * 4
    # What knows no beta has none, and stands there once for each seed.
    own = found["methods"]["PCA"]["each"]
    assert [each.keys() for each in own] == 2 * [{"seed", "auroc", "ap"}]
    # Chance is 0.5, with a standard error of 0.1 for 10 anomalies among 60 normal rows.
    for method in ("VAE, -ELBO", "VAE, -log p(x)", "VAE, reconstruction"):
        assert found["methods"][f"{method}, beta 1"]["auroc"]["mean"] > 0.5 + 3 * 0.1
    for beta in (1, 4):  # a rate is of models of one kind
        for rate, mean in found["conformal"][f"beta {beta}"].items():
            rates = [member["also"][rate] for member in members if member["beta"] == beta]
            assert mean == pytest.approx(np.mean(rates))
        assert f"beta {beta}: conformal p-values" in done.out
    # The scores of the first model are kept: its numbers by hand, pair by pair.
    with np.load(run / "figures" / "scores.npz") as scores:
        normal, odd, train = (scores[name] for name in ("normal", "anomaly", "train"))
    assert (len(normal), len(odd)) == (60, 10)
    pairs = (odd[:, None] > normal) + (odd[:, None] == normal) / 2
    also = members[0]["also"]
    assert also["neg_log_likelihood_auroc"] == pytest.approx(pairs.mean())
    calibration = normal[::2]
    for rate, judged in (("false_alarms", normal[1::2]), ("detections", odd)):
        p = (1 + (calibration >= judged[:, None]).sum(axis=1)) / (1 + len(calibration))
        assert also[rate] == np.mean(p <= 0.1)
    for name in ("auroc", "scores"):
        assert_drawn(run / "figures" / f"{name}.png")
    text = (run / "anomaly.md").read_text("utf-8")
    assert "above the normal rows (beta 1, seed 0), the 10 largest of 13:" in text
    # Of 59 training rows 56 lie below the quantile, 0.95 of 58 steps up: 55.1.
    quantile = np.sort(train)[55] + 0.1 * (np.sort(train)[56] - np.sort(train)[55])
    beyond = [f"{np.mean(some > quantile):.1%}" for some in (normal, odd)]
    assert f"by {beyond[0]} of the held-out normal ones and by {beyond[1]} of the anom" in text
    assert {"neg_elbo_auroc", "kl_ap", "false_alarms"} <= also.keys()
    assert_evaluated(run, "wine: held-out normal examples, nats per row")


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({}, "no 'methods'"),
        ({"methods": {"PCA": {"auroc": {"mean": 0.5}}}}, "no 'each'"),
        ({"methods": {"PCA": {"each": [{"seed": 0, "auroc": 0.5}]}}}, "no 'ap'"),
        ({"methods": {"PCA": {"each": [0.5]}}}, "'float' object"),
        ({"methods": {}}, "no 'conformal'"),
    ],
)
def test_damaged_anomalies_are_named(saved, says, tmp_path):
    (tmp_path / "anomaly.json").write_text(json.dumps(saved), encoding="utf-8")
    with pytest.raises(UsageError, match=rf"^{tmp_path}: anomaly.json is damaged \({says}"):
        of_run(RunFolder(tmp_path))


def test_other_methods_are_those_of_scikit_learn_on_the_same_rows():
    table, tasks = table_tasks("wine", (3,))
    [task] = tasks.values()
    split = split_of(table, task.train, task.test)
    train, test = split.train_features.astype(float), split.test_features.astype(float)
    found = other_methods(split.train_features, split.test_features, 2, 3)
    # By the directions of the training rows' covariance, and all distances one by one.
    _, _, axes = np.linalg.svd(train - train.mean(axis=0))
    off = test - train.mean(axis=0)
    np.testing.assert_allclose(found["PCA"], ((off @ axes[2:].T) ** 2).sum(axis=1), rtol=1e-6)
    apart = np.linalg.norm(test[:, None] - train, axis=2)
    np.testing.assert_allclose(found["5-NN distance"], np.sort(apart, axis=1)[:, 4], rtol=1e-6)
    forest = IsolationForest(random_state=3).fit(train)
    np.testing.assert_array_equal(found["isolation forest"], -forest.score_samples(test))
    # The higher, the more anomalous: three standard errors of 0.1 above chance.
    for scores in found.values():
        assert roc_auc_score(task.is_anomaly, scores) > 0.5 + 3 * 0.1


def test_the_runs_of_a_command_that_was_stopped_are_resumed_or_begun(tmp_path):
    flags = ("--seed", "0", "--epochs", "10", "--hidden", "8", "--num-samples", "2")
    flags = (*flags, "--figures", "none")
    assert call(anomaly, tmp_path, "--dataset", "wine", *flags).code == 0
    both = ("--dataset", "wine", "breast_cancer", *flags)
    refused = call(anomaly, tmp_path, *both)
    assert refused.code == 2
    assert "this run exists" in refused.err
    assert len(list((tmp_path / "results" / "anomaly").iterdir())) == 1
    done = call(anomaly, tmp_path, *both, "--resume")
    assert (done.code, done.err) == (0, "")
    runs = sorted(path.name for path in (tmp_path / "results" / "anomaly").iterdir())
    assert [name.split("-")[0] for name in runs] == ["breast_cancer", "wine"]
    text = (tmp_path / "results" / "anomaly" / runs[1] / "anomaly.md").read_text("utf-8")
    assert "the first ten rows of class 0 are anomalies" in text
    # One model of one task: its numbers have no error.
    assert "10 epochs: anomaly detection\n" in text
    assert "| proline |" in text


def few_images(*args: Any) -> ImageData:
    """Some hundred images, of which 12 x 12 pixels."""
    images, inner = load_images(*args), slice(8, 20)
    return images._replace(
        train_images=images.train_images[:300, inner, inner],
        train_labels=images.train_labels[:300],
        test_images=images.test_images[:80, inner, inner],
        test_labels=images.test_labels[:80],
    )


@pytest.fixture
def few_digits(monkeypatch) -> None:
    monkeypatch.setattr(_anomaly_problems, "load_images", few_images)


ONE_EPOCH = ("--dataset", "mnist", "--seed", "0", "--epochs", "1", "--num-samples", "2")


def test_each_digit_is_left_out_once_in_images_too(few_digits, tmp_path):
    """Without MNIST the experiment takes the digits of scikit-learn, and says so."""
    flags = (*ONE_EPOCH, "--network", "conv", "--hidden", "8", "--figures", "none")
    done = call(anomaly, tmp_path, *flags)
    assert done.code == 0, done.err
    assert "digits" in done.err
    (run,) = (tmp_path / "results" / "anomaly").iterdir()
    assert run.name == "digits28-conv8-z2-threshold-beta1-seed0"
    assert "digits28 · conv 8 · z 2 · bernoulli, bits" in done.out
    assert [row["left_out"] for row in rows_of(run)] == [str(digit) for digit in range(10)]
    text = (run / "anomaly.md").read_text("utf-8")
    assert "| without 9 |" in text
    # The name of its data is the one of the images, not of the table of digits.
    text = assert_evaluated(run, "digits28: held-out normal examples, nats per example")
    assert "left out 9, beta 1 |" in text


def test_latent_sizes_are_reported_together(few_digits, tmp_path, monkeypatch):
    titles: list[str] = []

    def drawn(maps: np.ndarray, names: Sequence[str], *, title: str) -> Any:
        titles.append(title)
        return nats_maps(maps, names, title=title)

    nats_maps = figures.nats_maps
    monkeypatch.setattr(figures, "nats_maps", drawn)
    sizes = ("--hidden", "8", "--latent-dim", "2", "3")
    done = call(anomaly, tmp_path, *ONE_EPOCH, *sizes, "--name", "both")
    assert done.code == 0, done.err
    runs = tmp_path / "results" / "anomaly"
    assert sorted(path.name for path in runs.iterdir()) == ["both", "both-z2", "both-z3"]
    own = {size: read(runs / f"both-z{size}" / "anomaly.json") for size in (2, 3)}
    found = read(runs / "both" / "anomaly.json")
    for size, alone in own.items():
        assert found["conformal"][f"{size}-D"] == {
            name: alone["conformal"][name] for name in ("false_alarms", "detections")
        }
        for method in ("VAE, -ELBO", "PCA"):
            numbers = found["methods"].pop(f"{method}, {size}-D")
            assert numbers == alone["methods"][method]
            aurocs = [each["auroc"] for each in numbers["each"]]
            assert len(aurocs) == 10
            assert numbers["auroc"]["mean"] == pytest.approx(np.mean(aurocs))
    # What knows no latent size stands in it once.
    assert found["methods"]["isolation forest"] == own[3]["methods"]["isolation forest"]
    assert len(found["methods"]) == 2 + 2 * 3
    text = (runs / "both" / "anomaly.md").read_text("utf-8")
    methods = re.findall(r"^\| ([^|]+?) \|", text, flags=re.MULTILINE)
    assert {"VAE, KL, 2-D", "VAE, KL, 3-D", "PCA, 2-D", "isolation forest"} <= set(methods)
    assert "z 2 and 3" in text
    assert_drawn(runs / "both" / "figures" / "auroc.png")
    for size, title in zip((2, 3), titles, strict=True):
        setting = f"digits28 · mlp 8 · z {size} · bernoulli, bits · 1 epoch · beta 1 · "
        assert title.startswith(setting)
        assert_drawn(runs / f"both-z{size}" / "figures" / "pixels.png")
    refused = call(anomaly, tmp_path, *ONE_EPOCH, *sizes, "--name", "both")
    assert refused.code == 2
    assert "anomaly/both: this run exists" in refused.err


def test_a_report_names_the_latent_sizes_that_came_to_an_end(tmp_path):
    """One of which every model diverged has no results, and no part in the report."""
    given = anomaly.Config(
        dataset=("wine",), latent_dim=(2, 3), epochs=1, hidden=(64,), figures="none"
    )
    folders = {size: RunFolder(tmp_path / f"both-z{size}") for size in given.latent_dim}
    found = Result("VAE, -ELBO", {"seed": 0}, [], {}, None, {"auroc": 0.9, "ap": 0.5})
    rates = {"false_alarms": 0.1, "detections": 0.5}
    for folder in folders.values():
        folder.create(given, overwrite=True)
    of_betas = Comparison({found.name: [found]}, {"beta 1": rates, "beta 4": rates})
    of_betas.write(folders[3], title="wine", task="wine")
    whole = anomaly.Whole(given, RunFolder(tmp_path / "both"), folders, {"source": "wine"})
    whole.report()
    [provenance] = read(tmp_path / "both" / "provenance.json")["runs"]
    assert provenance["data"] == {"source": "wine", "runs": ["both-z3"]}
    saved = read(tmp_path / "both" / "anomaly.json")
    assert list(saved["methods"]) == ["VAE, -ELBO, 3-D"]
    assert list(saved["conformal"]) == ["alpha", "beta 1, 3-D", "beta 4, 3-D"]
    assert "z 3 · " in (tmp_path / "both" / "anomaly.md").read_text("utf-8")


def test_a_score_does_not_depend_on_where_a_row_stands():
    split = cross_validation(load_table("iris"), 5, (0,))[0]
    vae = make_table_vae(
        split.encoding.blocks, hidden=(4,), latent_dim=2, activation=ACTIVATIONS["relu"]
    )
    scorer, params = RowScorer(vae, 4), vae.init(jax.random.key(0))
    order = np.random.default_rng(0).permutation(len(split.test))
    scored, shuffled = (
        scorer(params, rows) for rows in (split.test_features, split.test_features[order])
    )
    for name, scores in scored.scores.items():
        np.testing.assert_array_equal(scores[order], shuffled.scores[name])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--dataset", "wine", "wine"), "--dataset wine: given twice"),
        (("--name", "x"), "--name x: one --dataset is needed with it"),
        (("--dataset", "wine", "--latent-dim", "2", "3", "--shard", "1/2"), "--shard 1/2: one"),
        (("--dataset", "wine", "--likelihood", "gaussian"), "belongs to --dataset mnist"),
        (("--dataset", "wine", "--network", "conv"), "--network conv: belongs to --dataset mnist"),
        (
            ("--dataset", "wine", "--binarize", "none"),
            "--binarize none: belongs to --dataset mnist",
        ),
        (("--dataset", "wine", "--data-dir", "x"), "--data-dir x: belongs to --dataset mnist"),
        (("--dataset", "mnist", "--scale", "0.5"), "--scale 0.5: belongs to --likelihood gaussian"),
        (
            (
                "--dataset",
                "mnist",
                "--likelihood",
                "gaussian",
                "--binarize",
                "none",
                "--scale",
                "0",
            ),
            "--scale 0.0: a finite number above 0 is needed",
        ),
        (("--dataset", "wine", "--batch-size", "1000"), "--batch-size 1000: at most the 59"),
        (("--learning-rate", "0"), "--learning-rate 0.0: a finite number above 0 is needed"),
        (("--learning-rate", "1e-50"), "--learning-rate 1e-50: a finite number above 0"),
        (("--learning-rate", "1e39"), "--learning-rate 1e+39: a finite number above 0"),
        (("--dataset", "cats"), "--dataset"),
    ],
)
def test_what_cannot_be_detected_is_refused(flags, says, tmp_path):
    done = call(anomaly, tmp_path, *flags)
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert says in done.err
    assert list(tmp_path.iterdir()) == []
