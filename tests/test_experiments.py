"""The command line, run for real: offline, on the small digits, in folders of its own."""

import ast
import csv
import dataclasses
import errno
import functools
import inspect
import io
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import typing
from pathlib import Path

import command_line
import jax
import numpy as np
import pytest
from command_line import (
    ROOT,
    Done,
    command,
    environment,
    read_json,
    surroundings,  # noqa: F401
)
from PIL import Image
from rich.console import Console
from test_train import assert_same_bits

from experiments import _chunks, _progress, mnist
from experiments._folder import RunFolder
from experiments._images import ImagePictures, image_vae
from experiments._options import RunOptions
from experiments._progress import clock
from experiments._run import UsageError, check_members, flag_of
from experiments._stop import StopRequest
from experiments._train import snapshot_epochs
from vae_jax import sharding
from vae_jax.checkpoint import Checkpoints
from vae_jax.data import DATASETS
from vae_jax.data.idx import FILES
from vae_jax.evaluation import estimate_elbo
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import BINARIZE, intensities
from vae_jax.sweep import Population, make_members, make_sweep
from vae_jax.train import OPTIMIZERS, TrainState, make_trainer
from vae_jax.types import Hyper

pytestmark = pytest.mark.usefixtures("compiled_quickly")

TINY = ("--dataset", "digits", "--hidden", "8", "--batch-size", "256")
TRAIN_IMAGES, STEPS = 1437, 5  # of the digits, and whole minibatches of 256 in an epoch
TABLES = {
    "network": NETWORKS,
    "activation": ACTIVATIONS,
    "optimizer": OPTIMIZERS,
    "likelihood": LIKELIHOODS,
    "binarize": BINARIZE,
    "objective": OBJECTIVES,
    "compute_dtype": ("float32", "bfloat16"),
    "dataset": DATASETS,
}


def call(folder: Path, *flags: str, draw: bool = True) -> Done:
    """`experiments.mnist` in this process, with the figures of its models or without."""
    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(ImagePictures, "draw", lambda *_, **__: None)
        return command_line.call(mnist, folder, *flags)


def good(done: Done) -> Done:
    assert (done.code, done.err) == (0, "")
    return done


def rows_of(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv but for the one number that no two runs share."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert float(row.pop("examples_per_second")) > 0
    return rows


@functools.cache
def blank_population(size: int) -> Population:
    """A population of the model that TINY trains."""
    vae = image_vae((28, 28, 1), hidden=(8,), latent_dim=2)
    trainer = make_trainer(vae, OBJECTIVES["beta"](), batch_size=256)
    evaluate = functools.partial(estimate_elbo, jax.random.key(0), vae, intensities)
    sweep = make_sweep(trainer, evaluate, execution="map")
    return sweep.init(make_members([Hyper()] * size, [9] * size))


def state_of(run: Path, epoch: int, place: int = 0, size: int = 1) -> TrainState:
    """The state of one member in the only chunk of a run."""
    with Checkpoints(run / "checkpoints" / f"1-{size}" / "states") as checkpoints:
        assert checkpoints.latest == epoch
        population = checkpoints.restore(blank_population(size), epoch)
    return jax.tree.map(lambda leaf: leaf[place], population.train)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"a folder"
        for path in folder.rglob("*")
    }


def figures_of(run: Path) -> Path:
    """The figures of a run's only member."""
    [folder] = (run / "figures").iterdir()
    return folder


def assert_figures(folder: Path, latent_dim: int) -> None:
    names = {"loss_curves", "reconstructions", "samples", "kl_per_dimension", "latent_scatter"}
    names |= {"manifold"} if latent_dim > 1 else set()
    names |= {"traversals"} if latent_dim != 2 else set()
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {name + ending for name in names for ending in (".png", ".npz")}
    for name in names:
        with Image.open(folder / f"{name}.png") as image:
            pixels = np.asarray(image.convert("L"))
        height, width = pixels.shape
        middle = pixels[height // 4 : -height // 4, width // 4 : -width // 4]
        assert np.ptp(middle) > 0, f"{name}.png is blank"
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            for array in arrays.files:
                assert np.isfinite(arrays[array]).all()
                if array in ("originals", "reconstructions", "samples", "images"):
                    assert 0 <= arrays[array].min() < arrays[array].max() <= 1
            if name in ("manifold", "traversals"):
                assert (np.ptp(arrays["images"], axis=1) > 0).any(), f"{name} stands still"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two epochs of one model, as a user runs it: a process of its own in a fresh folder."""
    folder = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        command(*TINY, "--epochs", "2", "--beta", "4", "--seed", "1"),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return good(Done(done.returncode, done.stdout, done.stderr, folder))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Two betas by two seeds, two epochs each, from a narrow terminal into a file."""
    flags = (*TINY, "--epochs", "2", "--beta", "0.5", "4", "--seed", "0", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "40")
        return good(call(tmp_path_factory.mktemp("sweep"), *flags, "--figures", "all"))


@pytest.fixture
def copied(finished: Done, tmp_path: Path) -> Path:
    """The finished run where a test may change it; `tmp_path` is where to call from."""
    return Path(shutil.copytree(finished.run, tmp_path / "results" / "mnist" / finished.run.name))


AGAIN = (*TINY, "--epochs", "2", "--beta", "4", "--seed", "1")


# A finished run.


def test_a_run_leaves_its_numbers(finished):
    run = finished.run
    assert run.name == "digits-mlp8-z2-beta4-seed1"
    assert {path.name for path in run.iterdir()} == {
        *("config.json", "metrics.csv", "summary.json", "table.md", "provenance.json"),
        *("figures", "checkpoints"),
    }
    config = read_json(run / "config.json")
    assert config.keys() == {field.name for field in dataclasses.fields(mnist.Config)}
    given = {"beta": [4.0], "seed": [1], "epochs": 2, "hidden": [8], "dataset": "digits"}
    assert config | given == config

    rows = rows_of(run)
    assert [(row["member"], row["epoch"]) for row in rows] == [
        ("beta4-seed1", "1"),
        ("beta4-seed1", "2"),
    ]
    for row in rows:
        numbers = {name: float(text) for name, text in row.items() if name != "member"}
        assert all(map(math.isfinite, numbers.values()))
        assert (numbers["beta"], numbers["seed"]) == (4, 1)
        parts = np.float32(numbers["test_reconstruction"]) + np.float32(numbers["test_kl"])
        assert numbers["test_neg_elbo"] == parts
        # Each is a mean over the steps, rounded at each: at most (steps + 1) units in all.
        rounding = (STEPS + 1) * np.finfo(np.float32).eps
        parts = numbers["train_reconstruction"] + numbers["train_kl"]
        assert math.isclose(numbers["train_neg_elbo"], parts, rel_tol=rounding)
        weighted = numbers["train_reconstruction"] + 4 * numbers["train_kl"]
        assert math.isclose(numbers["train_loss"], weighted, rel_tol=rounding)

    summary = read_json(run / "summary.json")
    [member] = summary["members"]
    assert summary["dataset"] == "digits"
    assert (member["name"], member["epochs"], member["problem"]) == ("beta4-seed1", 2, None)
    for name in ("neg_elbo", "reconstruction", "kl"):
        assert member[name] == float(rows[-1][f"test_{name}"])
    assert member["active_dims"] == int(rows[-1]["active_dims"])
    assert sum(map(np.float32, member["kl_per_dim"])) == np.float32(member["kl"])


def test_a_run_leaves_its_figures(finished):
    figures = figures_of(finished.run)
    assert_figures(figures, latent_dim=2)
    rows = rows_of(finished.run)
    with np.load(figures / "loss_curves.npz") as curves:
        assert curves["epochs"].tolist() == [1, 2]
        for split in ("train", "test"):
            for name, column, sign in (
                ("elbo", "neg_elbo", -1),
                ("log_lik", "reconstruction", -1),
                ("kl", "kl", 1),
            ):
                values = [sign * float(row[f"{split}_{column}"]) for row in rows]
                assert curves[f"{split}_{name}"].tolist() == values
    with np.load(figures / "reconstructions.npz") as strips:
        assert strips["epochs"].tolist() == [1, 2]
        assert strips["originals"].shape == (10, 28, 28, 1)
        assert strips["reconstructions"].shape == (2, 10, 28, 28, 1)
        assert (strips["reconstructions"][0] != strips["reconstructions"][1]).any()
    with np.load(figures / "kl_per_dimension.npz") as bars:
        [member] = read_json(finished.run / "summary.json")["members"]
        assert bars["kl"].tolist() == member["kl_per_dim"]


def test_a_run_leaves_its_checkpoint(finished):
    state = state_of(finished.run, epoch=2)
    assert int(state.step) == 2 * STEPS
    assert bool(state.alive)


def test_a_run_says_where_it_came_from(finished, tmp_path):
    [provenance] = read_json(finished.run / "provenance.json")["runs"]
    assert provenance["command"] == shlex.join(["python", *command(*AGAIN)[1:]])
    assert provenance["versions"]["jax"] == jax.__version__
    assert {"python", "flax", "optax", "orbax-checkpoint", "numpy"} < set(provenance["versions"])
    assert provenance["devices"] == [device.device_kind for device in jax.devices()]
    assert provenance["NPROC"] == os.environ["NPROC"]
    assert provenance["wall_time_seconds"] > 0
    checksums = provenance["data"]["sha256"]
    assert set(checksums) == {"train_images", "train_labels", "test_images", "test_labels"}
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in checksums.values())
    assert "scikit-learn" in provenance["data"]["source"]
    for name in ("config.json", "metrics.csv", "summary.json", "provenance.json"):
        text = (finished.run / name).read_text("utf-8")
        for place in (ROOT, tmp_path.parent, Path.home(), Path(sys.prefix)):
            assert str(place) not in text


def test_a_run_shows_progress_and_where_its_results_are(finished):
    lines = finished.out.splitlines()
    epochs = [line for line in lines if re.match(r"beta4-seed1 +epoch [12]/2 ", line)]
    last = rows_of(finished.run)[-1]
    assert len(epochs) == 2
    for word in ("-ELBO", "reconstruction", "KL", "active", "examples/s", "left"):
        assert all(word in line for line in epochs)
    assert f"{float(last['test_neg_elbo']):.2f}" in epochs[-1]
    assert lines[1] == os.path.join("results", "mnist", finished.run.name)
    assert lines[-1].endswith(lines[1])
    assert "\x1b" not in finished.out


# Several members.


def test_a_sweep_takes_the_path_of_a_single_run(sweep, finished):
    names = [f"beta{beta}-seed{seed}" for beta in ("0.5", "4") for seed in (0, 1)]
    rows = rows_of(sweep.run)
    assert sweep.run.name == "digits-mlp8-z2-beta0.5+4-seed0+1"
    assert [(row["member"], row["epoch"]) for row in rows] == [
        (name, epoch) for name in names for epoch in "12"
    ]
    assert [row for row in rows if row["member"] == "beta4-seed1"] == rows_of(finished.run)
    assert_same_bits(state_of(sweep.run, epoch=2, place=3, size=4), state_of(finished.run, epoch=2))
    figures = sweep.run / "figures"
    assert sorted(path.name for path in figures.iterdir() if path.is_dir()) == names
    for name in names:
        assert_figures(figures / name, latent_dim=2)
    alone, among = figures_of(finished.run), figures / "beta4-seed1"
    assert tree(alone) == tree(among)


def test_a_sweep_has_figures_of_all_its_members_together(sweep):
    """What they show are the numbers of metrics.csv and summary.json."""
    figures = sweep.run / "figures"
    names = {path.name for path in figures.iterdir() if path.is_file()}
    pictures = ("loss_curves", "rate_distortion", "kl_against_beta")
    pictures += ("manifold_side_by_side", "samples_side_by_side")
    assert names == {f"{name}.{kind}" for name in pictures for kind in ("png", "npz")}
    for name in pictures:
        with Image.open(figures / f"{name}.png") as image:
            assert np.ptp(np.asarray(image.convert("L"))) > 100, f"{name} is blank"
    members = read_json(sweep.run / "summary.json")["members"]
    with np.load(figures / "rate_distortion.npz") as arrays:
        assert arrays["beta"].tolist() == [0.5, 4]
        assert arrays["rate"].ravel().tolist() == [member["kl"] for member in members]
        distortions = [member["reconstruction"] for member in members]
        assert arrays["distortion"].ravel().tolist() == distortions
    with np.load(figures / "kl_against_beta.npz") as arrays:
        assert arrays["kl"].reshape(4, 2).tolist() == [m["kl_per_dim"] for m in members]
    with np.load(figures / "loss_curves.npz") as arrays:
        curves = [float(row["test_neg_elbo"]) for row in rows_of(sweep.run)]
        assert arrays["negative_ELBO"].ravel().tolist() == curves
    with np.load(figures / "samples_side_by_side.npz") as arrays:
        for panel, member in (("panel0", "beta0.5-seed0"), ("panel1", "beta4-seed0")):
            with np.load(figures / member / "samples.npz") as own:
                assert np.array_equal(arrays[panel].reshape(own["samples"].shape), own["samples"])


def test_a_sweep_reports_a_mean_and_its_standard_error_for_each_beta(sweep):
    summary = read_json(sweep.run / "summary.json")
    members = {(m["beta"], m["seed"]): m for m in summary["members"]}
    assert [entry["beta"] for entry in summary["by_setting"]] == [0.5, 4]
    for entry in summary["by_setting"]:
        assert entry["seeds"] == 2
        for name in ("neg_elbo", "reconstruction", "kl", "active_dims"):
            values = [members[entry["beta"], seed][name] for seed in (0, 1)]
            # float64 holds the difference of two float32 numbers near each other exactly.
            assert entry[name]["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
            error = statistics.stdev(values) / math.sqrt(2)
            assert entry[name]["standard_error"] == pytest.approx(error, rel=1e-9)
        assert entry["neg_elbo"]["standard_error"] > 0
    for seed in (0, 1):  # the same weights and noise: only beta differs
        assert members[4.0, seed]["kl"] < members[0.5, seed]["kl"]


def test_the_closing_table_is_whole_where_there_is_no_terminal(sweep):
    assert "…" not in sweep.out
    assert sweep.out.count(" ± ") == 2 * 4
    for entry in read_json(sweep.run / "summary.json")["by_setting"]:
        for name in ("neg_elbo", "reconstruction", "kl", "active_dims"):
            mean, error = entry[name]["mean"], entry[name]["standard_error"]
            assert f"{mean:.2f} ± {error:.2f}" in sweep.out


def test_members_that_differ_little_have_names_of_their_own(tmp_path):
    flags = ("--epochs", "1", "--beta", "1", "1.0000002")
    done = good(call(tmp_path, *TINY, *flags, draw=False))
    members = [row["member"] for row in rows_of(done.run)]
    assert members == ["beta1-seed0", "beta1.0000002-seed0"]


def test_a_sweep_that_does_not_fit_the_memory_is_cut_into_chunks(sweep, monkeypatch, tmp_path):
    """And says so; the numbers are those of the whole, and resuming keeps the chunks."""
    flags = (*TINY, "--epochs", "2", "--beta", "0.5", "4", "--seed", "0", "1")
    monkeypatch.setattr(sharding, "free_bytes", lambda _: 1_000_000)  # not even for one
    done = good(call(tmp_path, *flags, draw=False))
    said = r"4 models \(map\) in 4 chunks of 1: .* MB of 1 MB free"
    assert re.search(said, done.out)
    assert rows_of(done.run) == rows_of(sweep.run)
    assert read_json(done.run / "summary.json") == read_json(sweep.run / "summary.json")
    assert [path.name for path in sorted((done.run / "checkpoints").iterdir())] == [
        "1-1",
        "2-2",
        "3-3",
        "4-4",
    ]
    monkeypatch.undo()
    again = good(call(tmp_path, *flags, "--epochs", "3", "--resume", draw=False))
    whole = good(call(tmp_path, *flags, "--epochs", "3", "--name", "whole", draw=False))
    assert read_json(again.run / "config.json")["chunk"] == 1
    assert rows_of(again.run) == rows_of(whole.run)
    refusal = refused(call(tmp_path, *flags, "--epochs", "4", "--resume", "--chunk", "4"))
    assert "--chunk 4: the run to resume was started with 1" in refusal


def test_a_sweep_that_does_not_even_compile_whole_is_cut_into_chunks(sweep, monkeypatch, tmp_path):
    compiled = _chunks.compiled

    def of_a_small_device(loop, chunk):
        if chunk.size == 4:
            raise jax.errors.JaxRuntimeError(f"{reason}: 4 members")
        return compiled(loop, chunk)

    monkeypatch.setattr(_chunks, "compiled", of_a_small_device)
    flags = (*TINY, "--epochs", "2", "--beta", "0.5", "4", "--seed", "0", "1")
    reason = "RESOURCE_EXHAUSTED"
    done = good(call(tmp_path, *flags, draw=False))
    assert "4 models (map) in 2 chunks of 2: " in done.out
    assert rows_of(done.run) == rows_of(sweep.run)
    # Only for want of memory.
    reason = "INTERNAL"
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"^INTERNAL"):
        call(tmp_path, *flags, "--overwrite", draw=False)


@pytest.mark.parametrize("given", [None, "5"])
def test_a_run_keeps_few_heaps(given, tmp_path):
    """Or as many as the user says: of a dozen threads that all hold memory."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        pytest.skip("the heaps of glibc")
    code = """
import ctypes, sys, threading
sys.argv = ["-m"]
import experiments
libc = ctypes.CDLL("libc.so.6")
libc.fopen.restype = libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(12)
def hold():
    libc.malloc(5000)
    barrier.wait()
threads = [threading.Thread(target=hold) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
file = ctypes.c_void_p(libc.fopen(b"heaps", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
    own = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    variables = {**own, "PYTHONPATH": str(ROOT)} | ({"MALLOC_ARENA_MAX": given} if given else {})
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, check=True)
    heaps = (tmp_path / "heaps").read_text("utf-8").count("<heap nr=")
    assert heaps == int(given or 2)


def test_a_run_of_before_a_setting_existed_is_gone_on_with(tmp_path):
    flags = (*TINY, "--name", "old", "--epochs")
    run = good(call(tmp_path, *flags, "1", draw=False)).run
    config = read_json(run / "config.json")
    del config["compute_dtype"]
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    low = call(tmp_path, *flags, "2", "--resume", "--compute-dtype", "bfloat16", draw=False)
    said = "--compute-dtype bfloat16: the run to resume was started with float32"
    assert said in refused(low)
    good(call(tmp_path, *flags, "2", "--resume", draw=False))


def test_networks_may_compute_in_bfloat16(sweep, tmp_path):
    """With the weights in float32, to a quality that is that of float32 but for rounding."""
    flags = (*TINY, "--epochs", "2", "--beta", "0.5", "4", "--seed", "0", "1")
    done = good(call(tmp_path, *flags, "--compute-dtype", "bfloat16", draw=False))
    assert "-bfloat16-" in done.run.name
    found, expected = rows_of(done.run), rows_of(sweep.run)
    assert found != expected
    for one, other in zip(found, expected, strict=True):
        assert float(one["test_neg_elbo"]) == pytest.approx(float(other["test_neg_elbo"]), abs=0.2)


def test_the_product_of_swept_settings_is_trained(tmp_path):
    flags = ("--epochs", "1", "--beta", "1", "4", "--learning-rate", "3e-4", "1e-3")
    done = good(call(tmp_path, *TINY, *flags, draw=False))
    assert done.run.name == "digits-mlp8-z2-beta1+4-learning_rate0.0003+0.001-seed0"
    rows = rows_of(done.run)
    members = [(float(row["beta"]), float(row["learning_rate"])) for row in rows]
    assert members == [(1, 3e-4), (1, 1e-3), (4, 3e-4), (4, 1e-3)]
    assert [row["member"] for row in rows][1] == "beta1-learning_rate0.001-seed0"
    assert len({row["train_loss"] for row in rows}) == 4
    settings = read_json(done.run / "summary.json")["by_setting"]
    assert [(entry["beta"], entry["learning_rate"]) for entry in settings] == members
    figures = {path.stem for path in (done.run / "figures").iterdir() if path.is_file()}
    assert {f"kl_against_beta-learning_rate_{rate}" for rate in ("0.0003", "0.001")} < figures


def test_a_collapsed_member_is_named(tmp_path):
    """At this beta no latent dimension is worth its KL."""
    flags = ("--epochs", "3", "--beta", "1", "1e4", "--batch-size", "32")
    done = good(call(tmp_path, *TINY, *flags, draw=False))
    assert read_json(done.run / "summary.json")["collapsed"] == ["beta10000-seed0"]
    [line] = [line for line in done.out.splitlines() if "collapsed" in line]
    assert line.startswith("beta10000-seed0: collapsed, none of its 2 latent dimensions")
    last = {row["member"]: row for row in rows_of(done.run)}
    assert (last["beta10000-seed0"]["active_dims"], last["beta10000-seed0"]["collapsed_dims"]) == (
        "0",
        "2",
    )
    assert last["beta1-seed0"]["collapsed_dims"] == "0"


# Resuming.


def test_a_resumed_run_ends_as_an_uninterrupted_one(copied, tmp_path):
    flags = (*AGAIN, "--epochs", "4")
    resumed = good(call(tmp_path, *flags, "--resume"))
    whole = good(call(tmp_path, *flags, "--name", "whole"))
    assert resumed.run == copied
    assert re.findall(r"epoch (\d)/4", resumed.out) == ["3", "4"]
    assert_same_bits(state_of(resumed.run, epoch=4), state_of(whole.run, epoch=4))
    assert len(rows_of(whole.run)) == 4
    assert rows_of(resumed.run) == rows_of(whole.run)
    assert read_json(resumed.run / "summary.json") == read_json(whole.run / "summary.json")
    with np.load(figures_of(whole.run) / "reconstructions.npz") as strips:
        assert strips["epochs"].tolist() == [1, 2, 4]
    assert tree(resumed.run / "figures") == tree(whole.run / "figures")
    assert read_json(resumed.run / "config.json")["epochs"] == 4


def test_a_resumed_sweep_writes_the_rows_in_the_order_of_the_members(sweep, tmp_path):
    run = tmp_path / "results" / "mnist" / sweep.run.name
    shutil.copytree(sweep.run, run)
    flags = (*TINY, "--epochs", "3", "--beta", "0.5", "4", "--seed", "0", "1")
    resumed = good(call(tmp_path, *flags, "--resume", draw=False))
    whole = good(call(tmp_path, *flags, "--name", "whole", draw=False))
    assert rows_of(resumed.run) == rows_of(whole.run)
    assert read_json(resumed.run / "summary.json") == read_json(whole.run / "summary.json")


def test_resuming_a_finished_run_changes_no_number(copied, tmp_path):
    before = tree(copied)
    done = good(call(tmp_path, *AGAIN, "--resume"))
    assert "epoch" not in done.out
    after = tree(copied)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"config.json", "provenance.json"}
    assert after.keys() == before.keys()
    resumed = read_json(copied / "config.json")
    assert resumed == json.loads(before["config.json"]) | {"resume": True}


def test_a_killed_run_is_resumed_from_its_last_checkpoint(copied, tmp_path):
    """The rows and pictures of the epochs after the checkpoint are made again."""
    flags = (*TINY, "--epochs", "5", "--beta", "4", "--seed", "1")
    good(call(tmp_path, *flags, "--resume", draw=False))
    rows, end = rows_of(copied), state_of(copied, epoch=5)
    # As it is when a process dies after its last epoch and before the checkpoint is written.
    shutil.rmtree(copied / "checkpoints" / "1-1" / "states" / "5")
    again = good(call(tmp_path, *flags, "--resume", draw=False))
    assert re.findall(r"epoch (\d)/5", again.out) == ["3", "4", "5"]
    assert rows_of(copied) == rows
    assert_same_bits(state_of(copied, epoch=5), end)


def refused(done: Done) -> str:
    """The one line of a command that must be refused."""
    assert done.code == 2, done.err
    [line] = done.err.splitlines()
    assert line.startswith("error: ")
    assert "---" not in line  # a rule of the box that tyro draws
    return line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--learning-rate", "0.01"), "--learning-rate 0.01: .* started with 0.001$"),
        (("--hidden", "9", "--name", "digits-mlp8-z2-beta4-seed1"), "--hidden .*9.*8"),
        (("--binarize", "dynamic", "--name", "digits-mlp8-z2-beta4-seed1"), "--binarize dynamic"),
        (("--epochs", "1"), "--epochs 1: beta4-seed1 has been trained for 2"),
        (("--seed", "2"), "beta4-seed2: there is no run to resume"),
        (("--name", "other"), "other: there is no run to resume"),
    ],
)
def test_a_resume_of_something_else_is_refused(flags, says, copied, tmp_path):
    before = tree(tmp_path)
    assert re.search(says, refused(call(tmp_path, *AGAIN, "--resume", *flags)))
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", b"{", "config.json: cannot be read"),
        ("config.json", b"[]", "config.json: a JSON object is needed"),
        ("metrics.csv", b"", "metrics.csv: 0 rows of beta4-seed1, .* needs 2"),
        ("metrics.csv", b"member,epoch\nbeta4-seed1,one\n", "metrics.csv: damaged"),
        ("metrics.csv", b"epoch\n1\n2\n", "metrics.csv: damaged"),
        ("metrics.csv", b"member,beta\nbeta4-seed1,4\n", "metrics.csv: damaged"),
        ("metrics.csv", b"member,epoch\nother,1\n", "metrics.csv: damaged"),
        ("metrics.csv", b"\xff\xfe", "metrics.csv: damaged"),
        ("metrics.csv", b"member,epoch\nbeta4-seed1,1\nbeta4-seed1,1\n", "metrics.csv: 2 rows"),
        ("checkpoints/1-1/snapshots.npz", b"PK", "snapshots.npz: damaged"),
    ],
)
def test_a_damaged_run_is_not_resumed(file, content, says, copied, tmp_path):
    (copied / file).write_bytes(content)
    line = refused(call(tmp_path, *AGAIN, "--epochs", "4", "--resume"))
    assert re.search(says, line)
    assert (copied / file).read_bytes() == content


# The reads that Orbax leaves running complain when they end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_is_not_resumed(copied, tmp_path):
    files = (copied / "checkpoints" / "1-1" / "states").rglob("*")
    largest = max(filter(Path.is_file, files), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 16
    largest.write_bytes(content)
    before = tree(copied / "checkpoints")
    line = refused(call(tmp_path, *AGAIN, "--epochs", "4", "--resume"))
    assert "checkpoint 2 is damaged" in line
    assert tree(copied / "checkpoints") == before  # it is the only one: it is not set aside


def test_ctrl_c_saves_a_checkpoint_and_says_how_to_go_on(tmp_path):
    flags = (*TINY, "--epochs", "60", "--checkpoint-every", "1000", "--name", "stopped")
    where = {"cwd": tmp_path, "env": environment(), "text": True}
    with subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **where
    ) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stdout is not None
        for line in process.stdout:
            if " epoch " in line:
                process.send_signal(signal.SIGINT)
                break
        _, err = process.communicate()
        watchdog.cancel()
    assert process.returncode == 130, err
    run = tmp_path / "results" / "mnist" / "stopped"
    [stopped] = re.findall(
        r"stopped after epoch (\d+) of 60 of beta1-seed0, which is saved; to go on:", err
    )
    states = run / "checkpoints" / "1-1" / "states"
    assert [path.name for path in states.iterdir()] == [stopped]
    assert int(stopped) < 60
    assert len(rows_of(run)) == int(stopped)
    assert "Traceback" not in err

    words = shlex.split(err.splitlines()[-1])
    assert words == ["python", *command(*flags, "--resume")[1:]]
    done = subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, timeout=300, check=True, **where
    )
    assert done.stderr == ""
    whole = good(call(tmp_path, *flags, "--name", "whole", draw=False))
    assert_same_bits(state_of(run, 60), state_of(whole.run, 60))
    assert rows_of(run) == rows_of(whole.run)
    assert (figures_of(run) / "samples.png").is_file()


@pytest.mark.parametrize("first", StopRequest.SIGNALS)
def test_a_second_ctrl_c_stops_at_once(first, capsys):
    before = [signal.getsignal(number) for number in StopRequest.SIGNALS]
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(first)
        assert stop.requested
        # A scheduler may ask in several ways, and means the same.
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in StopRequest.SIGNALS] == before
    said = capsys.readouterr().err
    assert said.count("stopping after this epoch") == 1
    assert ("again to stop at once" in said) == (first == signal.SIGINT)


def test_ctrl_c_outside_training_is_not_a_traceback(monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(mnist, "load_images", interrupted)
    done = call(tmp_path, *TINY)
    assert done.code == 130
    assert len(done.err.splitlines()) == 1
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("name", ["SIG_IGN", "default_int_handler"])
def test_ctrl_c_means_what_it_did_when_all_is_imported(name):
    """A background job of a script goes on ignoring it."""
    code = (
        "import signal, sys; sys.argv = ['-m']; "
        f"before = signal.{name}; signal.signal(signal.SIGINT, before); "
        "import experiments; meanwhile = signal.getsignal(signal.SIGINT); "
        "import experiments.mnist; experiments.started(); "
        "print(meanwhile is before, signal.getsignal(signal.SIGINT) is before)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(name == "SIG_IGN"), "True"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
def test_ctrl_c_while_it_is_being_imported_is_one_line(tmp_path):
    where = {"cwd": tmp_path, "env": environment(), "text": True}
    # As from a terminal: the tests may run in the background, where Ctrl-C is ignored.
    heed = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    words = [sys.executable, "-c", heed, *command(*TINY)[1:]]
    with subprocess.Popen(words, stderr=subprocess.PIPE, **where) as process:
        loaded = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "multiarray" not in loaded.read_text("utf-8"):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped\n")
    assert tree(tmp_path) == {}


def test_a_resume_without_its_checkpoints_is_refused(tmp_path):
    done = good(call(tmp_path, *TINY, "--epochs", "1", draw=False))
    shutil.rmtree(done.run / "checkpoints")
    before = tree(done.run)
    again = call(tmp_path, *TINY, "--epochs", "2", "--resume")
    assert again.code == 2
    assert again.err.startswith("error: ")
    assert again.err.endswith("no checkpoint of the last of 1 epochs; --overwrite starts again\n")
    assert tree(done.run) == before


def test_a_full_disk_is_one_line(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.csv")

    monkeypatch.setattr(RunFolder, "append_rows", full)
    done = call(tmp_path, *TINY, "--epochs", "1")
    assert (done.code, done.err) == (1, "error: metrics.csv: No space left on device\n")


# Bad input.


BAD = {
    # what is written after `--dataset digits`: what the line must name
    "--beta -1": "--beta -1.0",
    "--beta nan": "--beta nan",
    "--beta inf": "--beta inf",
    "--beta 1e39": "--beta 1e+39",  # infinite as a float32
    "--beta 1 2 1": "--beta 1.0",
    "--beta 1 nan": "--beta nan",
    "--beta four": "four",
    "--beta": "--beta",
    "--seed -1": "--seed -1",
    "--seed 2147483648": "--seed 2147483648",
    "--seed 1.5": "1.5",
    "--seed 3 3": "--seed 3",
    "--seed": "--seed",
    "--latent-dim 0": "--latent-dim 0",
    "--latent-dim two": "two",
    "--latent-dim": "--latent-dim",
    "--epochs 0": "--epochs 0",
    "--budget smoke --epochs 0": "--epochs 0",
    "--budget huge": "huge",
    "--budget smoke --batch-size 1001": "--batch-size 1001: at most the 1000 images of digits",
    "--epochs 1.5": "1.5",
    "--batch-size 0": "--batch-size 0",
    "--batch-size 1438": f"--batch-size 1438: at most the {TRAIN_IMAGES} images of digits",
    "--checkpoint-every 0": "--checkpoint-every 0",
    "--hidden 0": "--hidden 0",
    "--hidden 8 -8": "--hidden -8",
    "--hidden 8 x": "x",
    "--learning-rate 0": "--learning-rate 0",
    "--learning-rate": "--learning-rate",
    "--learning-rate 1e-3 0.001": "--learning-rate 0.001",
    "--beta 1 1.00000001": "--beta 1.0",  # one number as a float32
    "--chunk 0": "--chunk 0",
    "--execution pmap": "pmap",
    "--resume --requeue": "--resume --requeue",
    "--learning-rate -0.1": "--learning-rate -0.1",
    "--learning-rate 1e-50": "--learning-rate 1e-50",  # nothing as a float32
    "--learning-rate nan": "--learning-rate nan",
    "--learning-rate inf": "--learning-rate inf",
    "--network gan": "gan",
    "--activation step": "step",
    "--optimizer lbfgs": "lbfgs",
    "--likelihood poisson": "poisson",
    "--binarize yes": "yes",
    "--objective vampprior": "vampprior",
    "--objective beta_tc --batch-size 1": "--batch-size 1: --objective beta_tc compares examples",
    "--samples 0": "--samples 0: a whole number of 1 or more is needed",
    "--objective iwae --beta 2": "--beta 2: --objective iwae has no beta",
    "--dataset cifar": "cifar",
    "--bogus 1": "--bogus",
    "--latent-dimm 3": "--latent-dimm",
    "stray": "stray",
    "--overwrite yes": "yes",
    "--overwrite --resume": "--overwrite --resume",
    "--name ../x": "../x",
    "--name a/b": "a/b",
    "--name .": "--name '.'",
    "--name ''": "--name ''",
    "--name -x": "--name",
    "--name 'a\nb'": "'a\\nb'",
    f"--name {'n' * 121}": "n" * 121,
    "--scale 0.1": "--scale 0.1",
    "--likelihood gaussian --scale 0": "--scale 0",
    "--likelihood gaussian --scale nan": "--scale nan",
    "--capacity 5 --objective beta": "--capacity 5",
    "--gamma 5 --objective warmup": "--gamma 5",
    "--free-bits 1": "--free-bits 1",
    "--beta 4 --objective elbo": "--beta 4",
    "--beta 4 --objective capacity": "--beta 4",
    "--objective capacity --capacity -1": "--capacity -1",
    "--objective capacity --gamma inf": "--gamma inf",
    "--objective warmup --warmup-epochs 0": "--warmup-epochs 0",
    "--objective cyclical --cycle-epochs nan": "--cycle-epochs nan",
    "--objective cyclical --cycle-epochs 0.1": "--cycle-epochs 0.1",  # 11 steps an epoch
    f"--seed {' '.join(map(str, range(60)))}": "--name: the settings make one of ",
    "--output-dir file": "file",
    "--output-dir file/below": "file/below",
    "--resume": "no run to resume",
    "--data-dir nowhere --dataset mnist": "nowhere",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(flags, tmp_path):
    (tmp_path / "file").write_text("in the way")
    before = tree(tmp_path)
    done = call(tmp_path, "--dataset", "digits", *shlex.split(flags))
    assert BAD[flags] in refused(done)
    assert done.out == ""
    assert tree(tmp_path) == before


UNREADABLE = {
    "--beta x": "--beta x: a number is needed",
    "--beta 1 it's": "--beta 1 it's: a number is needed",
    "--epochs 1.5": "--epochs 1.5: a whole number is needed",
    "--seed 0 1.5": "--seed 0 1.5: a whole number is needed",
    "--latent-dim x": "--latent-dim x: a whole number is needed",
    "--latent-dim a'b": "--latent-dim a'b: a whole number is needed",
    "--scale x": "--scale x: a number is needed",
    "--objective capacity --capacity 1 x": "--capacity 1 x: a number is needed",
    "--betta 4": "Unrecognized options: --betta, 4; perhaps you meant --beta",
    "stray": "Unrecognized options: stray; --help lists what is allowed",
    "--epochs": "Missing value for argument '--epochs'. Expected 1 values; --help lists what is "
    "allowed",
}


@pytest.mark.parametrize("flags", UNREADABLE)
def test_what_cannot_be_read_is_named_with_what_is_allowed(flags, tmp_path):
    done = call(tmp_path, *flags.split(" "))
    assert refused(done) == f"error: {UNREADABLE[flags]}"


def test_bad_input_in_a_process_of_its_own(tmp_path):
    done = subprocess.run(
        command(*TINY, "--network", "gan"),
        cwd=tmp_path,
        env={**environment(), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: invalid choice 'gan' for argument '--network'. Expected one of ('mlp', 'conv'); "
        "--help lists what is allowed\n"
    )
    assert tree(tmp_path) == {}


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere"
)
@pytest.mark.parametrize("mode", [0o500, 0o400])
def test_a_read_only_output_folder_is_refused(mode, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=mode)
    assert "locked" in refused(call(tmp_path, *TINY, "--output-dir", "locked"))
    folder.chmod(0o700)
    assert tree(tmp_path) == {"locked": b"a folder"}


@pytest.mark.parametrize("place", ["/dev/null/results", "n" * 300])
def test_an_output_folder_that_cannot_be_made_is_refused(place, tmp_path):
    assert place in refused(call(tmp_path, *TINY, "--output-dir", place))
    assert tree(tmp_path) == {}


def test_an_earlier_run_is_not_touched_unasked(copied, tmp_path):
    before = tree(tmp_path)
    line = refused(call(tmp_path, *AGAIN))
    assert copied.name in line
    assert "--resume" in line
    assert "--overwrite" in line
    assert tree(tmp_path) == before


def test_an_earlier_run_is_replaced_when_asked(copied, tmp_path):
    (copied / "figures" / "stale.png").write_bytes(b"of the earlier run")
    done = good(call(tmp_path, *TINY, *AGAIN[6:], "--epochs", "1", "--overwrite", draw=False))
    assert done.run == copied
    assert [row["epoch"] for row in rows_of(copied)] == ["1"]
    assert not list(copied.rglob("stale.png"))
    state_of(copied, epoch=1)


@pytest.mark.parametrize("make", ["folder", "file"])
def test_what_is_not_a_run_is_not_overwritten(make, tmp_path):
    place = tmp_path / "results" / "mnist" / "thesis"
    place.parent.mkdir(parents=True)
    if make == "folder":
        place.mkdir()
    (place / "chapter.tex" if make == "folder" else place).write_text("three years of work")
    before = tree(tmp_path)
    line = refused(call(tmp_path, *TINY, "--name", "thesis", "--overwrite"))
    assert "thesis" in line
    assert tree(tmp_path) == before


# Data.


def test_damaged_data_are_refused_by_the_name_of_the_file(tmp_path):
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file, _ in FILES.values():
        (folder / file).write_bytes(b"\x1f\x8b\x08\x00")
    before = tree(tmp_path)
    line = refused(call(tmp_path, "--dataset", "mnist", "--data-dir", "data"))
    assert any(file in line for file, _ in FILES.values())
    assert tree(tmp_path) == before


def test_without_a_network_mnist_is_refused_soon(tmp_path):
    import tensorflow_datasets  # noqa: F401 (its import is start-up, not waiting)

    (tmp_path / "empty").mkdir()
    began = time.monotonic()
    line = refused(call(tmp_path, "--dataset", "mnist", "--data-dir", "empty"))
    assert time.monotonic() - began < 5
    assert line.startswith("error: mnist: ")
    assert "--data-dir" in line
    assert tree(tmp_path) == {"empty": b"a folder"}


def test_without_a_network_auto_is_digits_and_says_so(tmp_path):
    done = call(tmp_path, *TINY, "--dataset", "auto", "--epochs", "1", draw=False)
    assert done.code == 0
    [warning] = done.err.splitlines()
    assert warning.startswith("warning: mnist is not available (")
    assert "--data-dir" in warning
    assert done.run.name == "digits-mlp8-z2-beta1-seed0"
    for name in ("config.json", "summary.json"):
        assert read_json(done.run / name)["dataset"] == "digits"


# Every choice.


CHOICES = {field: tuple(table) for field, table in TABLES.items() if field != "dataset"}
CHOICES["latent_dim"] = ("2", "1", "5")
# The costliest likelihoods stand before the objectives of several samples.
CHOICES["likelihood"] = (*CHOICES["likelihood"][:3], *CHOICES["likelihood"][:2:-1])
# Run i takes the i-th value of each field, or the first where there are no more: every value
# is met, not every pair.
RUNS = [
    {field: (*values, *[values[0]] * i)[i] for field, values in CHOICES.items()}
    for i in range(max(map(len, CHOICES.values())))
]


@pytest.mark.parametrize("settings", RUNS, ids=lambda settings: "-".join(settings.values()))
def test_every_choice_trains_and_is_drawn(settings, tmp_path):
    flags = [word for field, value in settings.items() for word in (flag_of(field), value)]
    # Plain gradients of a sum over 784 pixels are large.
    rate = "1e-6" if settings["optimizer"] == "sgd" else "1e-3"
    done = good(call(tmp_path, *TINY, "--epochs", "1", "--learning-rate", rate, *flags))
    [row] = rows_of(done.run)
    assert all(math.isfinite(float(text)) for name, text in row.items() if name != "member")
    [member] = read_json(done.run / "summary.json")["members"]
    assert member["problem"] is None
    assert len(member["kl_per_dim"]) == int(settings["latent_dim"])
    # The mean over steps 0 to 4 of a rise over 10 epochs or half a cycle of 5, at the defaults.
    scheduled = {"warmup": 2 / 50, "cyclical": 2 / 12.5, "capacity": 10 * 2 / 50}
    column = "train_capacity" if settings["objective"] == "capacity" else "train_kl_weight"
    if settings["objective"] == "beta_tc":
        assert "train_total_correlation" in row
    elif settings["objective"] not in ("free_bits", "iwae", "dreg"):
        rounding = (STEPS + 1) * np.finfo(np.float32).eps
        expected = scheduled.get(settings["objective"], 1.0)
        assert math.isclose(float(row[column]), expected, rel_tol=rounding)
    config = read_json(done.run / "config.json")
    assert {field: str(config[field]) for field in settings} == settings
    assert (config["execution"], config["chunk"]) == ("map", 1)
    assert_figures(figures_of(done.run), int(settings["latent_dim"]))


# Divergence.


def test_a_member_that_diverges_is_named(tmp_path):
    done = call(tmp_path, *TINY, "--epochs", "2", "--learning-rate", "1e30")
    assert (done.code, done.err) == (1, "")
    [member] = read_json(done.run / "summary.json")["members"]
    assert member["problem"].startswith("diverged in epoch 1 ")
    assert f"beta1-seed0: {member['problem']}" in done.out
    assert "at step 2 of 5: its loss was not finite, largest log-variance" in member["problem"]
    assert done.out.splitlines()[-1].startswith("summary.json, table.md: in ")
    assert (done.run / "table.md").read_text("utf-8").endswith(f"0: {member['problem']}\n")
    # A scheduler is not to run it again.
    assert good(call(tmp_path, *TINY, "--epochs", "2", "--learning-rate", "1e30", "--requeue"))
    assert read_json(done.run / "summary.json")["by_setting"] == []


def test_a_diverged_member_leaves_its_siblings_alone(tmp_path):
    # Without Adam's normalisation the gradient of 1e30 KL throws the weights to infinity.
    flags = (*TINY, "--epochs", "2", "--optimizer", "sgd", "--learning-rate", "1e-6", "--beta")
    both = call(tmp_path, *flags, "1e30", "1")
    alone = good(call(tmp_path, *flags, "1", draw=False))
    assert (both.code, both.err) == (1, "")
    bad, fine = read_json(both.run / "summary.json")["members"]
    [only] = read_json(alone.run / "summary.json")["members"]
    assert (bad["name"], fine["name"]) == ("beta1e+30-seed0", "beta1-seed0")
    assert "diverged in epoch 1" in bad["problem"]
    assert fine == only
    assert rows_of(both.run) == rows_of(alone.run)
    assert [entry["beta"] for entry in read_json(both.run / "summary.json")["by_setting"]] == [1]
    figures = both.run / "figures"
    assert [path.name for path in figures.iterdir() if path.is_dir()] == ["beta1-seed0"]
    assert_figures(figures / "beta1-seed0", latent_dim=2)


def test_a_member_that_diverges_late_keeps_its_last_good_epoch(tmp_path):
    """In the last step of an epoch, with no later loss to betray it."""
    # One step an epoch; the weight of the KL is 0 at the first and 1e29 at the second.
    flags = ("--objective", "warmup", "--beta", "1e30", "--optimizer", "sgd")
    flags += ("--learning-rate", "1e-6", "--batch-size", str(TRAIN_IMAGES))
    done = call(tmp_path, *TINY, *flags, "--epochs", "3")
    assert (done.code, done.err) == (1, "")
    [row] = rows_of(done.run)
    [member] = read_json(done.run / "summary.json")["members"]
    assert row["epoch"] == "1"
    assert member["problem"].startswith("diverged in epoch 2 ")
    assert member["neg_elbo"] == float(row["test_neg_elbo"])
    assert_figures(figures_of(done.run), latent_dim=2)
    [checkpoint] = (done.run / "checkpoints" / "1-1" / "states").iterdir()
    assert checkpoint.name == "2"  # that it failed is part of the state
    again = call(tmp_path, *TINY, *flags, "--epochs", "3", "--resume", draw=False)
    assert (again.code, again.err) == (1, "")
    assert rows_of(done.run) == [row]
    assert read_json(done.run / "summary.json")["members"] == [member]


# The flags.


def test_the_choices_are_the_tables_of_the_library():
    hints = typing.get_type_hints(mnist.Config)
    literals = {name for name, hint in hints.items() if typing.get_origin(hint) is typing.Literal}
    of_a_run = {"figures", "execution", "launch"}
    assert literals - of_a_run == set(TABLES)
    for field, table in TABLES.items():
        assert sorted(typing.get_args(hints[field])) == sorted(table)


def documented() -> dict[str, str]:
    """The text under each field of Config and of what it inherits, on one line."""
    texts = {}
    for kind in (RunOptions, mnist.Config):
        [config] = ast.parse(inspect.getsource(kind)).body
        assert isinstance(config, ast.ClassDef)
        texts |= {
            ast.unparse(field.target): " ".join(ast.literal_eval(text.value).split())
            for field, text in itertools.pairwise(config.body)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        }
    return texts


def test_help_explains_every_flag_and_its_default(tmp_path):
    done = good(call(tmp_path, "--help"))
    entries = {}
    # A frame of lines where the output is UTF-8, of blanks where it is not.
    for entry in re.split(r"^[│ ] (?=--\w)", done.out, flags=re.MULTILINE)[1:]:
        words = re.sub("[│╭╮╰╯─]", " ", entry).split()
        entries[words[0]] = " ".join(words)
    fields, texts = dataclasses.fields(mnist.Config), documented()
    assert set(entries) == {flag_of(field.name) for field in fields}
    for field in fields:
        entry, default = entries[flag_of(field.name)], field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        shown = shown.removesuffix(".0") if field.name == "beta" else shown
        assert texts[field.name] in entry
        assert "{None" not in entry  # what may be left out is left out, not named None
        assert re.search(rf"\(default: {re.escape(shown)}(\.0)?\)$", entry)
    assert tree(tmp_path) == {}


# The pure helpers.


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_table_is_never_cut_by_a_narrow_terminal(width, monkeypatch):
    """Each column is printed once and whole, the names of the rows beside all of them."""
    out = io.StringIO()
    monkeypatch.setattr(_progress, "console", lambda: Console(file=out, width=width))
    columns = ["beta", *(f"measure {number}" for number in range(7))]
    rows = [[f"model {row}", *(f"{row}.{number} ± 0.001" for number in range(7))] for row in "ab"]
    _progress.print_table("scores", columns, rows)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    found = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines]
    for expected in (columns, *rows):
        parts = [cells[1:] for cells in found if cells[:1] == expected[:1]]
        assert list(itertools.chain(*parts)) == expected[1:]
        assert len(parts) == {30: 7, 60: 3, 200: 1}[width]


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (20, [1, 2, 5, 10, 20]),
        (60, [1, 2, 5, 10, 20, 50, 60]),
        (1000, [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]),
    ],
)
def test_snapshot_epochs(epochs, kept):
    assert snapshot_epochs(epochs) == kept


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599.6, "1:00:00"), (36_061, "10:01:01")],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_members_are_every_pair_with_settings_in_steps():
    config = mnist.validate(
        mnist.Config(beta=(0.5, 2.0), seed=(3, 4), objective="warmup", warmup_epochs=(2.5,))
    )
    members = mnist.members_of(config, num_examples=100 * 128)
    assert [(m.columns["beta"], m.seed) for m in members] == [(0.5, 3), (0.5, 4), (2, 3), (2, 4)]
    for member in members:
        assert member.hyper.beta == member.columns["beta"]
        assert member.hyper.warmup_steps == 250
        # Numbers that float32 holds: what is written down is what was trained.
        assert all(float(np.float32(number)) == number for number in member.hyper)


def test_the_total_correlation_knows_how_many_examples_there_are():
    config = mnist.validate(mnist.Config(objective="beta_tc", beta=(6.0,)))
    [member] = mnist.members_of(config, num_examples=60_000)
    assert (member.hyper.beta, member.hyper.num_examples) == (6, 60_000)
    [plain] = mnist.members_of(mnist.validate(mnist.Config()), num_examples=60_000)
    assert math.isinf(plain.hyper.num_examples)


def test_an_importance_weighted_run_is_named_by_its_samples():
    names = {
        objective: mnist.run_name(mnist.validate(mnist.Config(objective=objective)))
        for objective in ("iwae", "beta")
    }
    assert names["iwae"] == "auto-mlp512-256-z2-iwae-k50-seed0"
    assert names["beta"] == "auto-mlp512-256-z2-beta1-seed0"


def test_settings_that_are_not_given_get_the_defaults_of_their_objective():
    config = mnist.validate(mnist.Config(objective="capacity", gamma=(7.0,)))
    assert (config.capacity, config.capacity_epochs, config.gamma) == ((10,), (10,), (7,))
    assert (config.warmup_epochs, config.free_bits, config.scale) == (None, None, None)
    assert config.hidden == (512, 256)
    assert mnist.validate(mnist.Config(likelihood="gaussian", hidden=())).scale == 0.1
    assert mnist.validate(config) == config


@pytest.mark.parametrize(
    ("budget", "epochs", "trained"),
    [
        *((None, None, 20), (None, 7, 7), ("cpu", None, 20), ("full", None, 60)),
        *(("smoke", None, 1), ("full", 7, 7), ("full", 60, 60)),
    ],
)
def test_a_budget_is_a_number_of_epochs_that_title_and_name_say(budget, epochs, trained):
    config = mnist.validate(mnist.Config(budget=budget, epochs=epochs, dataset="digits"))
    assert config.epochs == trained
    config, task = mnist.prepare(config)
    assert (len(np.asarray(task.data)), len(np.asarray(task.test))) == (
        (1000, 200) if budget == "smoke" else (1437, 360)
    )
    name = "digits-mlp512-256-z2" + ("" if budget is None else f"-{budget}")
    # A budget of which another length was trained is not that budget.
    other = budget == "full" and trained != 60
    name += f"-epochs{trained}" if other else ""
    assert task.name == f"{name}-beta1-seed0"
    words = f"{trained}{' of 60' if other else ''} epoch{'s' if trained > 1 else ''}"
    words += "" if budget is None else f" · budget {budget}"
    assert task.title == f"digits, grey · mlp 512-256 · z 2 · {words}"


def test_names_say_what_was_trained():
    config = mnist.validate(
        mnist.Config(
            beta=(1e-5, 4.0), hidden=(), latent_dim=7, binarize="dynamic", dataset="kmnist"
        )
    )
    name = "kmnist-mlplinear-z7-dynamic-beta1e-05+4-seed0"
    assert mnist.run_name(config) == name
    assert RunFolder.at(Path("r"), "mnist", name).path == Path("r", "mnist", name)


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("a.json", {"x": [1.0, math.nan, {"y": -math.inf}], "z": (2, "nan")})
    assert read_json(tmp_path / "a.json") == {"x": [1.0, None, {"y": None}], "z": [2, "nan"]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_the_largest_float32_is_allowed():
    check_members("--beta", [float(np.finfo(np.float32).max)], "", low=0)
    with pytest.raises(UsageError, match=r"--beta 3.41e\+38: finite"):
        check_members("--beta", [3.41e38], "finite", low=0)
