import functools
import itertools
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from PIL import Image

from experiments import (
    _benchmark_conv,
    _benchmark_cost,
    _benchmark_gpu,
    _benchmark_gpu_report,
    _benchmark_growth,
    _benchmark_instructions,
    _benchmark_job,
    _benchmark_lines,
    _benchmark_model,
    _benchmark_page,
    _benchmark_single,
    _benchmark_startup,
    _benchmark_sweep,
    _peers,
    _peers_conv,
    _peers_text,
    _peers_torch,
    _timing,
    benchmark,
    mnist,
)
from experiments._benchmark_cost import PRODUCTS
from experiments._benchmark_evaluation import Evaluation
from experiments._benchmark_growth import Growth
from experiments._benchmark_instructions import OPTIMISER, Weights
from experiments._benchmark_job import Goal, environment
from experiments._benchmark_profile import Profile
from experiments._benchmark_single import Single
from experiments._benchmark_startup import Startup
from experiments._benchmark_sweep import Sweep
from experiments._benchmark_tabular import Tabular
from experiments._benchmark_text import Text
from experiments._benchmark_wine import OurSweep
from experiments._run import UsageError
from experiments.benchmark import Config
from vae_jax.data import lengths_of, load_images, load_sentences
from vae_jax.model import batch_elbo_terms
from vae_jax.text import make_text_vae
from vae_jax.train import flat
from vae_jax.types import Hyper

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parents[1]
TINY = {"hidden": (16,), "latent_dim": 2, "batch_size": 32, "dataset": "digits"}
# A profile of them all: the few that cost most are others from run to run.
EVERY: dict[str, Any] = {"instructions": 10_000}


@pytest.fixture
def torch():
    """PyTorch on one thread: several wait for each other by spinning where others work too."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@functools.cache
def digits():
    return load_images("digits")


def tiny_problem(**settings) -> _peers.Problem:
    return _benchmark_model.problem_of(Single(**(TINY | settings)), digits().train_images)


def texts_of(folder: Path, job: str, device: str = "cpu") -> tuple[dict, str]:
    markdown = (folder / f"{job}-{device}.md").read_text("utf-8")
    return json.loads((folder / f"{job}-{device}.json").read_text("utf-8")), markdown


def assert_sums_up(row: dict, turns: int) -> np.ndarray:
    seconds = np.array(row["seconds"])
    assert seconds.shape == (turns, 1)
    assert (seconds > 0).all()
    assert (row["min_seconds"], row["max_seconds"]) == (seconds.min(), seconds.max())
    assert row["median_seconds"] == pytest.approx(np.median(seconds))
    return seconds


def assert_tells_no_place(result: dict, markdown: str, tmp_path: Path):
    for text in (json.dumps(result), markdown):
        for private in (str(tmp_path), str(ROOT), str(Path.home()) + "/"):
            assert private not in text


@pytest.mark.slow
# PyTorch's compiler imports what PyTorch itself calls deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_single_measures_and_writes_for_real(tmp_path, capsys, torch):
    config = Single(**TINY, epochs_per_turn=2, turns=2, output_dir=tmp_path)
    benchmark.run(Config(config))
    said = capsys.readouterr().out
    folder = tmp_path / "benchmark"
    result, markdown = texts_of(folder, "single")
    assert_tells_no_place(result, markdown, tmp_path)

    assert list(result["peers"]) == list(_benchmark_single.MLP_PEERS)
    assert result["dataset"] == "digits"
    assert result["architecture"] == "784-16-2"
    assert (result["images_per_epoch"], result["epochs"]) == (1437 // 32 * 32, 5)
    assert result["machine"]["torch_threads"] == 1
    assert {"python", "jax", "torch"} <= set(result["machine"]["versions"])
    ours = np.array(result["peers"]["vae_jax"]["seconds"])
    limits, goals = result["limits"], {goal["what"]: goal for goal in result["goals"]}
    products = np.array(result["matrix_products"]["seconds"])
    share = np.median(products.mean(axis=1) / ours.mean(axis=1))
    assert limits["share_of_matrix_products"] == pytest.approx(share)
    assert goals["share of the matrix products' rate"]["reached"] == pytest.approx(share)
    layers = _benchmark_cost.layers_of(784, (16,), 2)
    assert limits["flops"] == 44 * _benchmark_cost.step_cost(layers, 32).flops
    assert limits["copied_bytes_per_second"] > 0
    for name, peer in result["peers"].items():
        seconds = np.array(peer["seconds"])
        assert seconds.shape == (2, 2)
        assert (seconds > 0).all()
        first = peer["first_epoch_seconds"]
        assert first > (peer["compile_seconds"] or 0) >= 0
        ahead = name in ("vae_jax", "jax-steps", "torch-compiled")
        assert (peer["compile_seconds"] is not None) == ahead
        assert peer["usual_seconds"] == pytest.approx(first + 19 * np.median(seconds))
        assert (peer["min_seconds"], peer["max_seconds"]) == (seconds.min(), seconds.max())
        assert peer["median_seconds"] == pytest.approx(np.median(seconds))
        assert peer["images_per_second"] == pytest.approx(1408 / np.median(seconds))
        ratio = np.median(seconds) / np.median(ours)
        assert peer["ratio_of_medians"] == pytest.approx(ratio)
        in_turns = np.median(seconds.mean(axis=1) / ours.mean(axis=1))
        assert peer["median_of_turn_ratios"] == pytest.approx(in_turns)
        assert peer["min_of_turn_ratios"] <= in_turns <= peer["max_of_turn_ratios"]
        assert 0 < peer["test_neg_elbo"] < 784 * math.log(2)  # what an untrained model costs
        assert f"| {name} |" in markdown
        assert said.count(f"turn 1/2  {name}  ") == 1
    assert result["peers"]["vae_jax"]["ratio_of_medians"] == 1
    measured = {line["what"]: line for line in result["measured"]}
    assert measured["torch, an epoch"]["goal"] == "times torch, an epoch"
    assert measured["matrix products, an epoch"]["goal"] in goals
    assert goals["times torch, an epoch"]["low"] == result["peers"]["torch"]["min_of_turn_ratios"]

    with Image.open(folder / "single-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"

    before = (folder / "single-cpu.json").read_bytes()
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        benchmark.run(Config(config))
    assert (folder / "single-cpu.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_the_convolutional_model_is_measured_for_real(tmp_path, torch):
    sizes = {"hidden": (8,), "latent_dim": 2, "batch_size": 256, "dataset": "digits"}
    benchmark.run(Config(Single(network="conv", turns=1, output_dir=tmp_path, **sizes)))
    result, markdown = texts_of(tmp_path / "benchmark", "single-conv")
    assert result["architecture"] == "32-64-8-2"
    assert list(result["peers"]) == list(_benchmark_single.CONV_PEERS)
    others = ("torch", "torch-channels-last", "torch-compiled")
    times = [result["peers"][name]["median_of_turn_ratios"] for name in others]
    assert [goal["reached"] for goal in result["goals"]] == times
    for peer in result["peers"].values():
        assert 0 < peer["test_neg_elbo"] < 784 * math.log(2)
    assert "ours reaches" in markdown
    # Channels 32 and 64, on halves and quarters of the sides; rows of 256 images.
    down = 4 * 196 * 16 * 32 + 6 * 49 * 16 * 32 * 64
    up = 6 * (49 * 16 * 32 * 64 + 196 * 16 * 32)
    dense = 6 * (2 * 3136 * 8 + 8 * 4 + 2 * 8)
    assert result["limits"]["flops"] == 1437 // 256 * 256 * (down + up + dense)


@pytest.mark.slow
def test_text_measures_and_writes_for_real(tmp_path, torch):
    config = Text(sentences=256, hidden=8, embedding=8, turns=2, output_dir=tmp_path)
    benchmark.run(Config(config))
    result, markdown = texts_of(tmp_path / "benchmark", "text")
    assert_tells_no_place(result, markdown, tmp_path)
    ours, theirs = (result["peers"][name] for name in ("vae_jax", "torch eager"))
    ratio = np.median(assert_sums_up(theirs, 2) / assert_sums_up(ours, 2))
    assert theirs["median_of_turn_ratios"] == pytest.approx(ratio)
    assert result["goals"][0]["reached"] == theirs["median_of_turn_ratios"]
    assert ours["first_epoch_seconds"] > ours["compile_seconds"] > 0
    total = ours["first_epoch_seconds"] + 19 * ours["median_seconds"]
    assert ours["usual_seconds"] == pytest.approx(total)
    assert len(result["measured"]) == 3
    sentences = load_sentences("grammar", num_train=256)
    lengths, words = lengths_of(sentences.train), len(sentences.vocabulary)
    assert result["tokens_per_epoch"] == lengths.sum()
    # GRUs of 8 units on 8 numbers a token, z of 16, for sentences of the mean length.
    length, gates = round(lengths.mean()), 3 * 8 * 8
    once = 2 * (2 * gates * length) + 8 * 2 * 16 + 16 * 8 + 16 * 3 * 8 + 8 * words * length
    assert result["limits"]["flops"] == 6 * 64 * once * (256 // 64)
    # Both have learned something of the same text, ends of sentences counted.
    worst = lengths.mean() * math.log(340)
    assert 0 < ours["test_neg_elbo"] < worst
    assert 0 < theirs["test_neg_elbo"] < worst


def test_torch_has_the_same_loss_of_a_sentence_from_the_same_weights(key, torch):
    sentences = load_sentences("grammar", num_train=64)
    rows, words = sentences.train[:20], len(sentences.vocabulary)
    sizes = {"vocabulary_size": words, "hidden": 6, "latent_dim": 3}
    vae = make_text_vae(**sizes, embedding=5, length=rows.shape[1]).vae
    params = jax.jit(vae.init)(key)
    # Biases that are not all 0, or their order would not matter.
    params = jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size, params
    )
    xs, keys = jnp.asarray(rows, jnp.float32), jax.random.split(key, len(rows))
    terms = batch_elbo_terms(keys=keys[:, None], vae=vae, params=params, xs=xs)
    expected = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1) - terms.log_lik)
    eps = (terms.z - terms.q.mean) * jnp.exp(-terms.q.log_var / 2)
    theirs = _peers_text.TorchSentences(params, learning_rate=1e-3)
    with torch.no_grad():
        loss = theirs.loss(torch.from_numpy(np.int64(rows)), torch.from_numpy(np.array(eps[:, 0])))
    # Sums of some hundred float32 terms, in another order.
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_torch_computes_the_same_elbo_from_the_same_weights(key, torch):
    problem = tiny_problem(hidden=(16, 8), latent_dim=3)
    xs = jnp.asarray(digits().test_images[:50], jnp.float32) / 255
    terms = jax.jit(batch_elbo_terms, static_argnames="vae")(
        keys=jax.random.split(key, (50, 1)), vae=problem.vae, params=problem.params, xs=xs
    )
    # The noise behind the samples of z, so that both decode the same ones.
    q = jax.tree.map(np.float64, terms.q)
    eps = (np.float64(terms.z[:, 0]) - q.mean[:, 0]) * np.exp(-q.log_var[:, 0] / 2)

    model = _peers_torch.torch_vae(problem.params)
    flat = torch.from_numpy(np.array(xs).reshape(50, 784))
    log_lik, kl = _peers_torch.torch_elbo_terms(model, flat, torch.from_numpy(eps).float())
    # Sums of 50 x 784 float32 terms of one sign: 1e-5 is some hundred roundings.
    assert float(log_lik.detach()) == pytest.approx(float(jnp.sum(terms.log_lik)), rel=1e-5)
    assert float(kl.detach()) == pytest.approx(float(jnp.sum(terms.kl_per_dim)), rel=1e-5)

    back = _peers_torch.torch_params(model)
    assert jax.tree.structure(back) == jax.tree.structure(problem.params)
    jax.tree.map(np.testing.assert_array_equal, back, problem.params)


def test_torch_convolves_as_we_do_with_the_same_weights(key, torch):
    config = Single(network="conv", hidden=(6, 5), latent_dim=3, dataset="digits")
    problem = _benchmark_model.problem_of(config, digits().train_images)
    # Biases that are not all 0, or their order would not matter.
    params = jax.tree.map(
        lambda leaf: leaf + 0.01 * jnp.arange(leaf.size).reshape(leaf.shape) / leaf.size,
        problem.params,
    )
    model = _peers_conv.torch_conv_vae(params, (28, 28, 1))
    xs, zs = jax.random.uniform(key, (4, 28, 28, 1)), jax.random.normal(key, (4, 3))
    q = jax.jit(jax.vmap(problem.vae.encode, (None, 0)))(params, xs)
    theta = jax.jit(jax.vmap(problem.vae.decode, (None, 0)))(params, zs)
    with torch.no_grad():
        coded = model.encoder(torch.from_numpy(np.array(xs).reshape(4, 784))).numpy()
        decoded = model.decoder(torch.from_numpy(np.array(zs))).numpy()
    # Sums of some thousand float32 terms of order 1, in another order.
    np.testing.assert_allclose(coded, np.concatenate([q.mean, q.log_var], axis=1), atol=1e-4)
    np.testing.assert_allclose(decoded, np.asarray(theta).reshape(4, 784), atol=1e-4)
    back = _peers_conv.torch_conv_params(model)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("batches_of", [_peers_torch.tensor_batches, _peers_torch.loader_batches])
def test_an_epoch_of_torch_visits_an_image_once_and_in_a_new_order(batches_of, torch):
    batches = batches_of(torch.arange(100)[:, None], 32)
    torch.manual_seed(0)
    epochs = [torch.cat(list(batches())).flatten().tolist() for _ in range(2)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch)) == 96  # what fills no batch is left out
    assert epochs[0] != epochs[1]


def test_torch_and_jax_learn_the_same(torch):
    seeds, epochs = range(6), 5
    test_images = digits().test_images
    differences, gains = [], []
    # One model for all seeds, so that it is compiled once.
    first = tiny_problem()
    for seed in seeds:
        params = first.vae.init(jax.random.key(seed))
        problem = first._replace(seed=seed, params=params)
        neg_elbos = {}
        for name in ("vae_jax", "torch"):
            peer = _benchmark_single.MLP_PEERS[name].build(problem)
            for _ in range(epochs):
                peer.epoch()
            neg_elbos[name] = _peers.neg_elbo_of(problem.vae, peer.params(), test_images)
        untrained = _peers.neg_elbo_of(problem.vae, params, test_images)
        gains.append(untrained - neg_elbos["vae_jax"])
        differences.append(neg_elbos["torch"] - neg_elbos["vae_jax"])
    # Both start from the seed's weights and differ by shuffling and noise alone, so the mean
    # of the differences is zero but for its standard error, estimated from the seeds. Student's
    # t with 5 degrees of freedom exceeds the bound in one of a thousand draws of the seeds.
    error = statistics.stdev(differences) / math.sqrt(len(seeds))
    bound = scipy.stats.t.ppf(1 - 0.001 / 2, len(seeds) - 1) * error
    assert abs(statistics.fmean(differences)) < bound
    # The bound can tell: it is small beside what was learnt.
    assert bound < 0.05 * statistics.fmean(gains), (bound, gains)


def test_plain_jax_has_the_same_loss_and_gradient(key):
    problem = tiny_problem(hidden=(16, 8), latent_dim=3)
    xs, keys = jnp.asarray(digits().test_images[:50], jnp.float32) / 255, jax.random.split(key, 50)

    def ours(params):
        terms = batch_elbo_terms(keys=keys[:, None], vae=problem.vae, params=params, xs=xs)
        loss = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1) - terms.log_lik)
        return loss, (terms.z - terms.q.mean) * jnp.exp(-terms.q.log_var / 2)

    (loss, eps), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(problem.params)
    plain = jax.jit(jax.value_and_grad(_peers.plain_loss, 1), static_argnums=0)
    found, its_gradient = plain(problem.vae, problem.params, eps[:, 0], xs)
    # Sums of 50 x 784 float32 terms, in another order; the noise was found by division.
    assert float(found) == pytest.approx(float(loss), rel=1e-5)
    for one, other in zip(*map(jax.tree.leaves, (its_gradient, gradient)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("name", ["jax-steps", "torch-compiled", "pythae"])
def test_a_peer_starts_from_the_same_weights_and_learns(name, torch, monkeypatch):
    if name == "pythae":
        pytest.importorskip("pythae")
    # Whether PyTorch can follow the loss, without the C++ compiler that this machine may lack.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    problem = tiny_problem()
    peer = _benchmark_single.MLP_PEERS[name].build(problem)
    jax.tree.map(np.testing.assert_array_equal, peer.params(), problem.params)
    losses = [peer.epoch() for _ in range(3)]
    test_images = digits().test_images
    before, after = (
        _peers.neg_elbo_of(problem.vae, params, test_images)
        for params in (problem.params, peer.params())
    )
    # It learns, and what it says of the training images is about what the one ruler finds.
    assert losses[0] > losses[1] > losses[2]
    assert after < 0.7 * before
    assert after == pytest.approx(losses[-1], rel=0.1)


def test_alternate_rotates_who_begins(capsys):
    calls = []

    def measure(name):
        calls.append(name)
        return float(len(calls))

    measures = {name: functools.partial(measure, name) for name in "abc"}
    turns = _timing.alternate(measures, turns=4, calls=2)
    assert "".join(calls) == "aabbccbbccaaccaabbaabbcc"
    assert turns["a"] == [[1, 2], [11, 12], [15, 16], [19, 20]]


def test_ratios_of_known_times():
    ours, theirs = [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]], [[3.0, 3.0], [4.0, 4.0], [4.0, 4.0]]
    ratios = _timing.compared(theirs, ours)
    assert ratios == {
        "ratio_of_medians": 2.0,
        "median_of_turn_ratios": 2.0,
        "min_of_turn_ratios": 1.0,
        "max_of_turn_ratios": 3.0,
    }
    assert _timing.ratio_in_words(ratios) == "2.00 (1.00 to 3.00)"
    assert set(_timing.compared(ours, ours).values()) == {1.0}
    summary = _timing.spread(theirs)
    assert (summary["min_seconds"], summary["median_seconds"], summary["max_seconds"]) == (3, 4, 4)


def test_a_busy_neighbour_is_noticed(capsys):
    if not Path("/proc/stat").exists():
        pytest.skip("only Linux tells what others do")
    bystanders = _timing.Bystanders()
    burn = "import time\nend = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", burn])
    # Until it is waited for, its time is not among that of this process's children.
    while (seen := bystanders.share()) is not None and seen < 0.1 and child.poll() is None:
        pass
    busy = _timing.machine(bystanders)["cpus_busy_with_others"]
    child.wait()
    assert busy > 0.05
    assert ("warning" in capsys.readouterr().err) == (busy > _timing.QUIET)


def test_the_figure_shows_every_peer():
    turns = {"vae_jax": [[1.0], [1.2]], "torch": [[2.0], [2.5]]}
    figure = _timing.single_figure("a title", turns)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["vae_jax", "torch"]
    assert [text.get_text() for text in axes.texts] == ["1.10 s", "2.25 s"]
    assert axes.get_xlim()[0] == 0  # lengths may be compared by eye


def test_the_figure_says_how_many_times_as_long_a_row_takes():
    turns = {"ours": [[1.0], [2.0]], "theirs": [[3.0], [4.0]], "a name " * 6: [[1.5], [4.0]]}
    *_, long = turns
    others = {"theirs": "ours", long: "theirs"}
    figure = _timing.single_figure("a title that is as long as names", turns, others=others)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    beside = [text for text in axes.texts if "x (" in text.get_text()]
    # Of the turns: 3 and 2 times, 0.5 and 1 times. The reference is named if it is not the first.
    told = ["2.50x (2.00\u20133.00)", "0.75x (0.50\u20131.00)\nof theirs"]
    assert [text.get_text() for text in beside] == told
    assert "x: times as long as ours" in figure.get_supxlabel()
    # All that is written is within the figure, and no ratio is on the axes.
    renderer = canvas.get_renderer()
    labels = [*axes.get_yticklabels(), *axes.texts, *figure.texts]
    for extent in (label.get_window_extent(renderer) for label in labels):
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
    ends = axes.get_window_extent(renderer).x1
    assert all(text.get_window_extent(renderer).x0 > ends for text in beside)
    assert _timing.against_first(turns) == {"theirs": "ours", long: "ours"}


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"^[^\n]*pip install 'vae_jax\[bench\]'$"):
        benchmark.run(Config(Single(**TINY, output_dir=tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"turns": 0}, "--turns 0"),
        ({"epochs_per_turn": 0}, "--epochs-per-turn 0"),
        ({"latent_dim": 0}, "--latent-dim 0"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 1438}, "--batch-size 1438: at most the 1437 images"),
        ({"hidden": (4, 0)}, "--hidden 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, line, tmp_path):
    if settings.get("batch_size") == 1438:
        pytest.importorskip("torch")
    with pytest.raises(UsageError, match=f"^{line}"):
        benchmark.run(Config(Single(**(TINY | settings), output_dir=tmp_path)))


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        benchmark.run(Config(Startup(dataset="digits", output_dir=tmp_path / "file")))


@pytest.mark.parametrize("argument", ["nonsense", "--turns", ""])
def test_an_unknown_job_is_one_line_and_exit_code_2(argument, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", *argument.split()])
    with pytest.raises(SystemExit) as stop:
        benchmark.main(Config, benchmark.run, benchmark.PROG)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_startup_measures_and_writes_for_real(tmp_path, monkeypatch):
    measure, caches = _benchmark_startup.first_epoch_seconds, []

    def watched(arguments, environment, empty=None):
        def compiled():
            folder = Path(environment["XDG_CACHE_HOME"]) / "vae_jax" / "xla"
            return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}

        before = compiled()
        seconds = measure(arguments, environment, empty)
        caches.append((empty is not None, before, compiled()))
        return seconds

    monkeypatch.setattr(_benchmark_startup, "first_epoch_seconds", watched)
    benchmark.run(Config(Startup(turns=1, dataset="digits", output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "startup")
    assert_tells_no_place(result, markdown, tmp_path)
    medians = {name: measure["median_seconds"] for name, measure in result["measures"].items()}
    assert list(medians) == [
        "mnist, empty cache",
        "mnist, filled cache",
        "import vae_jax",
        "import jax, flax.linen, optax",
        "import experiments.mnist",
    ]
    assert min(medians.values()) > 0
    assert all(f"| {name} |" in markdown for name in medians)
    ratio = result["ratios"]["mnist, filled cache / mnist, empty cache"]["ratio_of_medians"]
    warm, cold = medians[_benchmark_startup.WARM], medians[_benchmark_startup.COLD]
    assert ratio == pytest.approx(warm / cold)
    reached = [goal["reached"] for goal in result["goals"]]
    imports = medians[_benchmark_startup.EXPERIMENT_IMPORT]
    assert reached == [warm, imports, result["peak_bytes"] / 1e6]
    assert result["peak_epochs"] == 6
    lines = {line["what"]: line for line in result["measured"]}
    assert list(lines) == list(medians)
    assert lines[_benchmark_startup.WARM]["times"].endswith(" x mnist, empty cache")
    with Image.open(tmp_path / "benchmark" / "startup-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"
    assert 5e7 < result["peak_bytes"] < 1e10
    # The epoch is compiled where the cache is empty, and found where it is filled. (Programs
    # that compile in a moment are kept or not as the clock has it, so they are not counted.)
    (cold_emptied, first, filled), (warm_emptied, before, after) = caches
    assert (cold_emptied, first, warm_emptied, before) == (True, {}, False, filled)
    epochs = [name for name in filled if name.startswith("jit_epoch")]
    assert len(epochs) == 1
    assert {name: after[name] for name in after if name.startswith("jit_epoch")} == {
        epochs[0]: filled[epochs[0]]
    }


def test_an_experiment_that_fails_is_one_line():
    arguments = ["--dataset", "digits", "--beta", "-1"]
    with pytest.raises(UsageError, match=r"no epoch was finished \(error: --beta -1"):
        _benchmark_startup.first_epoch_seconds(arguments, environment(Path("unused")))


@pytest.mark.slow
def test_sweep_measures_and_writes_for_real(tmp_path, capsys):
    config = Sweep(
        dataset="digits",
        hidden=(16,),
        batch_size=32,
        members=(2,),
        memory_members=3,
        turns=2,
        output_dir=tmp_path,
    )
    benchmark.run(Config(config))
    folder = tmp_path / "benchmark"
    result, markdown = texts_of(folder, "sweep")
    assert_tells_no_place(result, markdown, tmp_path)

    assert (result["dataset"], result["architecture"]) == ("digits", "784-16-2")
    assert (result["images_per_epoch"], result["epochs"]) == (1437 // 32 * 32, 3)
    assert (result["betas"], result["seeds"]) == ([1, 8], [0])
    parameters = 784 * 16 + 16 + 16 * 4 + 4 + 2 * 16 + 16 + 16 * 784 + 784
    assert result["parameters"] == parameters
    assert result["settings"]["members"] == [2]
    assert list(result["runs"]) == ["solo", "map", "vmap"]
    solo = np.array(result["runs"]["solo"]["seconds"])
    for name, one in result["runs"].items():
        seconds = assert_sums_up(one, turns=2)
        assert (one["compile_seconds"] > 0, one["first_epoch_seconds"] > 0) == (True, True)
        waited = one["first_epoch_seconds"] + 19 * np.median(seconds)
        total = one["compile_seconds"] + one["members"] * waited
        assert one["usual_seconds"] == pytest.approx(total)
        assert one["ratio_of_medians"] == pytest.approx(np.median(seconds) / np.median(solo))
        assert one["median_of_turn_ratios"] == pytest.approx(np.median(seconds / solo))
        assert f"| {name} | {one['members']} |" in markdown
        with np.load(folder / "sweep-cpu.npz") as arrays:
            np.testing.assert_array_equal(arrays[name], seconds)
    sizes = {name: (one["members"], one["execution"]) for name, one in result["runs"].items()}
    assert sizes == {"solo": (1, "map"), "map": (2, "map"), "vmap": (2, "vmap")}
    neg_elbos = {name: one["test_neg_elbo"] for name, one in result["runs"].items()}
    # The same model, alone and among others: to the same bits, and to rounding under vmap.
    assert neg_elbos["map"] == neg_elbos["solo"] < 784 * math.log(2)
    assert neg_elbos["vmap"] == pytest.approx(neg_elbos["solo"], rel=1e-4)

    products = np.array(result["matrix_products"]["seconds"])
    cost = _benchmark_cost.step_cost(_benchmark_cost.layers_of(784, (16,), 2), 32)
    assert result["limits"]["flops"] == 44 * cost.flops
    for one in result["runs"].values():
        share = np.median(products / np.array(one["seconds"]))
        assert one["share_of_matrix_products"] == pytest.approx(share)

    used = result["memory"]
    peaks = used["peak_bytes"]
    assert list(peaks) == ["1", "3", "6"]
    # A process with JAX in it, and not kilobytes taken for bytes.
    assert all(5e7 < peak < 1e10 for peak in peaks.values())
    added = (peaks["6"] - peaks["3"]) / 3 / parameters
    assert used["bytes_per_parameter_and_member"] == pytest.approx(added)
    assert f"{added:.1f} bytes" in markdown
    with Image.open(folder / "sweep-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"

    capsys.readouterr()
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        benchmark.run(Config(config))


def test_the_peak_of_a_process_is_its_own():
    """That of the process it is forked from, large here, is not counted."""
    mine = np.ones(100_000_000)  # 800 MB
    code = "x = b'x' * 200_000_000"
    words = [sys.executable, "-S", "-c", _benchmark_job.LAUNCHER, sys.executable, "-c", code]
    peak = int(subprocess.check_output(words, text=True)) * 1024
    assert mine[0] == 1
    if sys.platform.startswith("linux"):
        assert 2e8 < peak < 4e8


def test_a_run_that_fails_while_its_memory_is_measured_is_one_line():
    with pytest.raises(UsageError, match=r"^python -m experiments\.mnist: --beta -1"):
        _benchmark_job.peak_of(["--dataset", "digits", "--beta", "-1"], environment(Path("no")))


@pytest.mark.parametrize(
    ("members", "betas", "seeds"),
    [(1, 1, 1), (2, 2, 1), (7, 1, 7), (8, 4, 2), (16, 4, 4), (24, 6, 4), (64, 4, 16), (256, 4, 64)],
)
def test_a_grid_has_as_many_members_as_asked_for(members, betas, seeds):
    some_betas, some_seeds = _benchmark_sweep.grid_of(members)
    assert (len(set(some_betas)), len(set(some_seeds))) == (betas, seeds)
    assert betas * seeds == members
    assert 1 in some_betas
    assert min(some_betas) >= 0.25
    assert max(some_betas) <= 8


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"device": "gpu"}, "--device gpu: the backend is cpu, a GPU and pip install"),
        ({"members": (2, 3)}, "--members 2 3: one number"),
        ({"members": (0,)}, "--members 0"),
        ({"members": ()}, "--members"),
        ({"device": "gpu", "members": (4, 4)}, "--members 4 4: different numbers"),
        ({"memory_members": 1}, "--memory-members 1: 2 or more"),
        ({"turns": 0}, "--turns 0"),
        ({"epochs": 0}, "--epochs 0"),
        ({"hidden": (0,)}, "--hidden 0"),
        ({"batch_size": 1438}, "--batch-size 1438: at most the 1437 images"),
    ],
)
def test_a_sweep_that_cannot_be_measured_is_refused(settings, line, tmp_path):
    with pytest.raises(UsageError, match=f"^{line}[^\n]*$"):
        benchmark.run(Config(Sweep(**({"dataset": "digits", "output_dir": tmp_path} | settings))))


def test_a_cpu_is_not_measured_on_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UsageError, match=r"^JAX_PLATFORMS gpu: the CPU is measured"):
        benchmark.run(Config(Sweep(dataset="digits", output_dir=tmp_path)))


def test_the_flops_are_those_that_xla_counts():
    config = _benchmark_sweep.resolved(Sweep(device="gpu", dataset="digits", members=(1,)))
    task = mnist.prepare(_benchmark_sweep.model_of(config, digits(), 1))[1]
    hyper = task.members[0].hyper
    state = jax.eval_shape(task.trainer.init, jax.random.key(0), hyper)
    batch = jax.ShapeDtypeStruct((128, 28, 28, 1), jnp.uint8)
    step = jax.jit(task.trainer.step).lower(state, hyper, batch)
    costs = step.compile().cost_analysis()
    assert costs is not None
    counted = costs["flops"]
    layers = _benchmark_cost.layers_of(784, (400,), 20)
    assert layers == ([(784, 400), (400, 40)], [(20, 400), (400, 784)])
    flops, _ = _benchmark_cost.step_cost(layers, 128)
    # XLA also counts what is no matrix product: Adam (some 15 operations a parameter beside
    # the 6 x 128 here), the likelihood, and the random numbers.
    assert flops < counted < 1.1 * flops, (flops, counted)


@pytest.mark.parametrize("members", [None, 5])
@pytest.mark.parametrize(("layers", "batch"), [((784, (400,), 20), 128), ((13, (32,), 2), 32)])
def test_the_products_of_training_are_all_computed_and_little_else(layers, batch, members):
    """Of MNIST's model and of Wine's, alone and side by side."""
    products = _benchmark_cost.dense_products(_benchmark_cost.layers_of(*layers), batch)
    operands = _benchmark_cost._operands(products, members)
    kinds = tuple((one.times, one.is_of_data) for one in products)
    compiled = _benchmark_cost._products.lower(operands, kinds, steps=1).compile()
    costs = compiled.cost_analysis()
    assert costs is not None
    models = members or 1
    flops = models * _benchmark_cost.step_cost(_benchmark_cost.layers_of(*layers), batch).flops
    # The rest is what makes a step wait for the one before.
    assert flops < costs["flops"] < 1.01 * flops
    # A product reads two matrices and writes one. To write what waits anew is few more bytes;
    # were all operands written anew, it would be more than half as many.
    numbers = sum(
        (2 if is_of_data else 3) * (rows * inputs + inputs * outputs + rows * outputs)
        for rows, inputs, outputs, _, is_of_data in products
    )
    moved = models * _benchmark_cost.FLOAT_BYTES * numbers
    assert moved < costs["bytes accessed"] < 1.1 * moved


def test_a_profile_knows_what_the_instructions_are():
    def step(w, x, order):
        y = jnp.exp(x[order] @ w)
        return w - 0.1 * (x[order].T @ y)

    arguments = jnp.ones((50, 30)), jnp.ones((40, 50)), jnp.arange(20)
    program = str(jax.jit(step).lower(*arguments).compile().as_text())
    kinds = _benchmark_instructions.kinds_of(program, Weights({(50, 30)}))
    assert set(kinds.values()) >= {PRODUCTS, _benchmark_instructions.GATHER}
    # Two products, each by itself or with what is fused to it.
    assert sum(kind == PRODUCTS for kind in kinds.values()) >= 2


@pytest.mark.parametrize("lead", [(), (6,), (2, 3)])
def test_a_profile_knows_adam_by_its_one_vector(lead):
    """Of one model, and of several that stand side by side in one axis or in two."""
    optimizer = flat(optax.adam)(0.1)
    params = {"kernel": jnp.ones((*lead, 4, 5)), "bias": jnp.ones((*lead, 5))}

    def step(params, state, x):
        gradients = jax.grad(lambda one: jnp.sum((x @ one["kernel"] + one["bias"][None]) ** 3))(
            params
        )
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    init = optimizer.init
    for _ in lead:
        step, init = jax.vmap(step, in_axes=(0, 0, None)), jax.vmap(init)
    # As many examples as a weight has rows: the outputs have its shape, and are none.
    program = jax.jit(step).lower(params, init(params), jnp.ones((4, 4))).compile()
    text = str(program.as_text())
    weights = Weights({(25,)}, math.prod(lead), is_flat=True)
    kinds = _benchmark_instructions.kinds_of(text, weights)
    of_adam = [name for name, kind in kinds.items() if kind == OPTIMISER]
    shapes = {
        tuple(map(int, sizes.split(",")))
        for name in of_adam
        for sizes in re.findall(rf"%{re.escape(name)} = \(?f32\[([\d,]+)\]", text)
    }
    # Moments and steps in the vector, and the weights that are cut out of it.
    assert shapes >= {(*lead, 25), (*lead, 4, 5), (*lead, 5)}
    others = _benchmark_instructions.kinds_of(text, weights._replace(shapes={(26,)}))
    assert OPTIMISER not in others.values()


def test_a_profile_tells_what_moves_weights_and_what_a_gpu_s_library_does():
    line = '  %{} = f32[{}]{{1,0}} {}(%a), custom_call_target="{}"'
    program = "\n".join(
        [
            "ENTRY %main (a: f32[4,5]) -> f32[4,5] {",
            line.format("gemm.1", "7,5", "custom-call", "__cublas$gemm"),
            line.format("sort.1", "7", "custom-call", "__cub$DeviceRadixSort"),
            line.format("copy.1", "4,5", "copy", ""),
            line.format("step.1", "4,5", "multiply", ""),
            line.format("other.1", "6,5", "copy", ""),
            "}",
        ]
    )
    assert _benchmark_instructions.kinds_of(program, Weights({(4, 5)})) == {
        "gemm.1": PRODUCTS,
        "sort.1": _benchmark_instructions.NOISE,
        "copy.1": _benchmark_instructions.COPIES,
        "step.1": OPTIMISER,
        "other.1": _benchmark_instructions.REST,
    }


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_epoch_is_profiled(device, tmp_path, monkeypatch):
    """On a GPU too, which the CPU stands in for here."""
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    monkeypatch.setenv("XLA_FLAGS", "--before")
    benchmark.run(Config(Profile(**TINY, **EVERY, device=device, output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "profile", device)
    assert_tells_no_place(result, markdown, tmp_path)
    assert_adds_up(result["programs"]["single"], calls=1437 // 32)
    assert "| matrix products |" in markdown
    assert result["settings"]["device"] == device
    # Kernels that a GPU replays as one graph would have no names.
    graphs = " --xla_gpu_enable_command_buffer=" if device == "gpu" else ""
    assert os.environ["XLA_FLAGS"] == f"--before{graphs}"


def test_a_profile_names_as_many_instructions_as_asked_for(tmp_path):
    benchmark.run(Config(Profile(**TINY, instructions=3, output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "profile", "cpu")
    named = [one["name"] for one in result["programs"]["single"]["instructions"]]
    assert len(named) == 3
    assert all(f"`{name}`" in markdown for name in named)


def assert_adds_up(profiled: dict, calls: int):
    total = pytest.approx(profiled["seconds_of_instructions"])
    assert sum(profiled["by_kind"].values()) == total
    # As long as they are all there; which are the costliest is the machine's to say.
    seconds = [one["seconds"] for one in profiled["instructions"]]
    assert sum(seconds) == total
    assert seconds == sorted(seconds, reverse=True)
    products = [one for one in profiled["instructions"] if one["kind"] == PRODUCTS]
    assert products
    # Every step has called it.
    for one in products:
        assert one["calls"] % calls == 0
        assert one["seconds"] > 0


def test_a_member_of_a_sweep_is_profiled_beside_the_model_alone(tmp_path):
    settings = TINY | EVERY | {"of": "sweep", "members": 2}
    benchmark.run(Config(Profile(**settings, output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "profile-sweep")
    assert list(result["programs"]) == ["solo", "map"]
    for name, members in (("solo", 1), ("map", 2)):
        one = result["programs"][name]
        assert_adds_up(one, calls=1)
        # 44 steps of every member, whose evaluation is on as large a part of the test images.
        called = [each["calls"] for each in one["instructions"] if each["kind"] == PRODUCTS]
        assert 44 * members in called
        assert f"{name} seconds" in markdown


@pytest.mark.slow
def test_the_models_of_a_table_are_profiled(tmp_path, monkeypatch):
    few = functools.partial(OurSweep, seeds=1)
    monkeypatch.setattr("experiments._benchmark_profile.OurSweep", few)
    benchmark.run(Config(Profile(of="tabular", **EVERY, output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "profile-tabular")
    profiled = result["programs"]["vmap"]
    assert_adds_up(profiled, calls=1)
    # Ten epochs of four steps, 32 of the 142 rows each, on every device.
    called = {one["calls"] for one in profiled["instructions"] if one["kind"] == PRODUCTS}
    assert any(calls % 40 == 0 for calls in called)
    # Adam's one vector of every model is updated in each of the steps.
    adam = [one["calls"] for one in profiled["instructions"] if one["kind"] == OPTIMISER]
    assert any(calls % 40 == 0 for calls in adam)
    assert "25 models of a table" in markdown


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"of": "tabular", "network": "conv"}, "--network conv: belongs to --of single"),
        ({"members": 3}, "--members 3: belongs to --of sweep"),
        ({"of": "sweep", "members": 0}, "--members 0"),
    ],
)
def test_a_profile_refuses_what_does_not_go_together(settings, line, tmp_path):
    with pytest.raises(UsageError, match=f"^{line}[^\n]*$"):
        benchmark.run(Config(Profile(dataset="digits", output_dir=tmp_path, **settings)))


@pytest.mark.parametrize("job", benchmark.KINDS)
def test_a_job_offers_the_devices_that_it_measures(job, monkeypatch, capsys):
    """One without a GPU form refuses a GPU in one line, and its help shows none."""
    both = job in (Profile, Sweep)
    # A profile on a GPU adds to them.
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))

    def said(*flags: str) -> str:
        monkeypatch.setattr(sys, "argv", ["benchmark", job.__name__.lower(), *flags])
        with pytest.raises(SystemExit) as stop:
            benchmark.main(Config, benchmark.run, benchmark.PROG)
        assert stop.value.code == (0 if flags == ("--help",) else 2)
        return "".join(capsys.readouterr())

    devices = "{cpu,gpu}" if both else "{cpu}"
    assert f"--device {devices}" in said("--help")
    refused = said("--device", "gpu")
    assert refused.count("\n") == 1
    assert ("the backend is cpu" if both else "'--device'") in refused


def test_the_page_has_every_line_with_its_goal(tmp_path, capsys):
    where = {"commit": "abc", "machine": {"cpu_model": "a CPU"}}
    ours, theirs = [[1.0], [1.2]], [[1.5], [1.2]]
    ratio = _timing.compared(theirs, ours)
    torch = Goal.of_ratio("times torch", 1.4, ratio)
    lines = [
        _benchmark_page.measured_of("vae_jax", _timing.spread(ours)),
        _benchmark_page.measured_of("torch", _timing.spread(theirs), ratio=ratio, goal=torch),
    ]
    fast = where | {
        "goals": [torch.as_json()],
        "measured": _benchmark_page.in_json(lines),
    }
    start = where | {
        "goals": [
            Goal.of_seconds("seconds", 6, _timing.spread([[4.5], [3.0], [8.0]])).as_json(),
            # As files have it that know no ranges yet.
            {"what": "rows", "goal": 5, "reached": 596_736.2, "at_most": False, "is_met": True},
        ]
    }
    grown = where | {
        "measured": _benchmark_page.in_json(
            [_benchmark_page.measured_of("a row", _timing.spread([[2e-6]]), unit="µs", scale=1e6)]
        )
    }
    # Older measurements have no goals, or have them in another form.
    older = where | {"goals": {"times_pythae": 20}}
    jobs = {"single": fast, "startup": start, "growth": grown, "evaluation": older, "text": where}
    for job, result in jobs.items():
        (tmp_path / f"{job}-cpu.json").write_text(json.dumps(result), encoding="utf-8")
    assert _benchmark_page.gather(tmp_path, "cpu", jobs)
    lines = (tmp_path / "cpu.md").read_text("utf-8").splitlines()
    assert lines[2] == "| job | what | median | range | times | goal |  |"
    assert lines[4:9] == [
        "| single | vae_jax | 1.1 s | 1 to 1.2 |  |  |  |",
        "| single | torch | 1.35 s | 1.2 to 1.5 | 1.25 (1.00 to 1.50) x ours "
        "| times torch: at least 1.4 | missed |",
        "| startup | seconds | 4.5 | 3 to 8 |  | at most 6 | met |",
        "| startup | rows | 596,736 |  |  | at least 5 | met |",
        "| growth | a row | 2 µs | 2 to 2 |  |  |  |",
    ]
    with np.load(tmp_path / "cpu.npz") as arrays:
        np.testing.assert_allclose(arrays["shares"], [1.25 / 1.4, 6 / 4.5, 596_736.2 / 5])
        ends = [[1 / 1.4, 1.5 / 1.4], [6 / 8, 6 / 3], [596_736.2 / 5] * 2]
        np.testing.assert_allclose(arrays["ranges"], ends)
    assert json.loads((tmp_path / "cpu.json").read_text("utf-8")) == {
        "single": fast,
        "startup": start,
        "growth": grown,
    }
    _benchmark_page.gather(tmp_path, "cpu", ["startup"])
    assert "single" not in (tmp_path / "cpu.md").read_text("utf-8")
    with Image.open(tmp_path / "cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"


def test_the_figure_of_goals_shows_how_far_each_ranges():
    goals = [Goal("a", 2, 3, low=1, high=4), Goal("b", 2, 3, at_most=True, low=1, high=4)]
    goals.append(Goal("once", 2, 3))
    (axes,) = _benchmark_page.goals_figure("a title", goals).axes
    lines = [one for one in axes.collections if isinstance(one, LineCollection)]
    drawn = [line.get_segments()[0][:, 0].tolist() for line in lines]
    assert drawn == [[0.5, 2], [0.5, 2], [1.5, 1.5]]


def test_the_page_of_goals_alone(tmp_path, monkeypatch):
    """From what was measured before; where nothing was, that is said and nothing is made."""
    monkeypatch.setattr(benchmark.subprocess, "run", None)
    page = Config(benchmark.All(output_dir=tmp_path, gather_only=True))
    with pytest.raises(UsageError, match=r"^--gather-only .*: no measurement of the cpu"):
        benchmark.run(page)
    assert list(tmp_path.iterdir()) == []
    folder = tmp_path / "benchmark"
    folder.mkdir()
    goals = [Goal("times torch", 1.4, 1.26).as_json()]
    measured = {"goals": goals, "commit": "abc", "machine": {}}
    (folder / "single-cpu.json").write_text(json.dumps(measured), encoding="utf-8")
    benchmark.run(page)
    assert json.loads((folder / "cpu.json").read_text("utf-8")) == {"single": measured}
    names = {"cpu.json", "cpu.md", "cpu.npz", "cpu.png", "single-cpu.json"}
    assert {path.name for path in folder.iterdir()} == names


def test_all_jobs_are_run_and_a_failed_one_is_named(tmp_path, monkeypatch):
    commands = []

    def run(command):
        commands.append(command[3:])
        return subprocess.CompletedProcess(command, int(command[3] == "tabular"))

    monkeypatch.setattr(benchmark.subprocess, "run", run)
    with pytest.raises(UsageError, match=r"^all: tabular failed"):
        benchmark.run(Config(benchmark.All(output_dir=tmp_path, overwrite=True)))
    flags = ["--output-dir", str(tmp_path), "--overwrite"]
    conv = ["--network", "conv"]
    profiles = [["profile"], ["profile", *conv]]
    profiles += [["profile", "--of", "tabular"], ["profile", "--of", "sweep"]]
    jobs = [["single"], ["single", *conv], *profiles, ["startup"], ["sweep"]]
    jobs += [["tabular"], ["evaluation"], ["text"], ["growth"], ["panels"]]
    assert commands == [[*job, *flags] for job in jobs]
    commands.clear()
    benchmark.run(Config(benchmark.All(output_dir=tmp_path, device="gpu")))
    gpu = ["--device", "gpu", *flags[:2]]
    assert commands == [[*job, *gpu] for job in [*profiles, ["sweep"]]]


def test_the_bytes_of_a_step_by_hand():
    layers = _benchmark_cost.layers_of(5, (3,), 1)
    # 5-3, 3-2 | 1-3, 3-5: 39 weights, 13 outputs.
    cost = _benchmark_cost.step_cost(layers, 7)
    assert cost == (7 * (6 * 39 - 2 * 15), 4 * (10 * 52 + 7 * (6 * 13 + 3 * 5)))


def test_a_recurrence_computes_its_products_at_every_time():
    once, thrice = (_benchmark_cost.Product(7, 4, 5, times=times) for times in (1, 3))
    assert (once.flops, thrice.flops) == (6 * 7 * 20, 3 * 6 * 7 * 20)
    # A step of it is one product with what an identity makes of it, again and again.
    operands = _benchmark_cost._operands([thrice])
    program = _benchmark_cost._products.lower(operands, ((3, False),), steps=2).as_text()
    assert len(re.findall(r"stablehlo\.dot_general", program)) == 3
    assert "dense<3> : tensor<i32>" in program  # the end of the loop


def test_the_products_of_a_convolution_are_those_of_the_network():
    """The network's own program has as many, of the same sizes, in a step of training."""
    config = Single(network="conv", hidden=(6,), latent_dim=3, batch_size=4, dataset="digits")
    problem = _benchmark_model.problem_of(config, digits().train_images)
    work = _benchmark_model.work_of(config, (28, 28, 1), problem.params)
    trainer = _peers.trainer_of(problem.vae, 4)
    hyper = Hyper(*map(jnp.float32, Hyper()))
    state = jax.eval_shape(trainer.init, jax.random.key(0), hyper)
    batch = jax.ShapeDtypeStruct((4, 28, 28, 1), jnp.uint8)
    program = jax.jit(trainer.step).lower(state, hyper, batch).as_text()
    pattern = r"dot_general .*\(tensor<(\d+)x(\d+)xf32>, tensor<(\d+)x(\d+)xf32>\)"
    found = [sorted(map(int, sizes)) for sizes in re.findall(pattern, program)]
    expected = []
    for rows, inputs, outputs, _, is_of_data in work.products:
        expected.append(sorted((rows, inputs, inputs, outputs)))  # forward
        expected.append(sorted((inputs, rows, rows, outputs)))  # for the weights
        if not is_of_data:
            expected.append(sorted((rows, outputs, outputs, inputs)))  # for the input
    assert sorted(found) == sorted(expected)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(problem.params))
    encoder = 196 * 32 + 49 * 64 + 6 + 2 * 3
    decoder = 6 + 49 * 64 + 196 * 32 + 784
    numbers = 10 * parameters + 4 * (6 * (encoder + decoder) + 3 * 784)
    assert work.cost.bytes == 4 * numbers


def test_the_ceilings_are_what_was_done_in_the_median_time(monkeypatch):
    seconds = itertools.cycle([0.1, 2.0, 9.0, 2.0, 0.3])
    worked = []

    def slow(work):
        worked.append(work())
        return next(seconds)

    monkeypatch.setattr(_benchmark_cost, "seconds_of", slow)
    layers = _benchmark_cost.layers_of(64, (32,), 2)
    step = _benchmark_cost.step_cost(layers, 16).flops
    rate = _benchmark_cost.matmul_ceiling(layers, 16, members=2, loops=3, dtype="bfloat16")
    assert rate == pytest.approx(3 * 2 * step / 2)
    assert _benchmark_cost.copy_ceiling(2**10, loops=3) == pytest.approx(3 * 8 * 2**10 / 2)
    assert len(worked) == 10


@pytest.mark.slow
def test_native_convolutions_compute_the_same(key):
    config = Sweep(dataset="digits", batch_size=32)
    tasks = _benchmark_conv.tasks_of(config, digits(), 4)
    matmul, native = (task.trainer for task in tasks.values())
    hyper = next(iter(tasks.values())).members[0].hyper
    params, twins = (trainer.init(key, hyper).params for trainer in (matmul, native))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, twins)
    test = jnp.asarray(digits().test_images[:20])
    estimates = [task.evaluate(params, test) for task in tasks.values()]
    # The same weights; sums of 784 float32 terms in another order.
    np.testing.assert_allclose(*(float(one.elbo) for one in estimates), rtol=1e-5)


@pytest.mark.slow
def test_the_gpu_job_runs_on_this_device(tmp_path, monkeypatch, torch):
    """All but CUDA graphs, on few images: what it writes is what its parts say."""
    few = digits()._replace(
        train_images=digits().train_images[:1024], test_images=digits().test_images[:16]
    )
    monkeypatch.setattr(_benchmark_job, "load_images", lambda *_: few)
    monkeypatch.setattr(mnist, "load_images", lambda *_: few)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    small = functools.partial(_benchmark_cost.copy_ceiling, 2**16, 2)
    monkeypatch.setattr(_benchmark_gpu, "copy_ceiling", small)
    monkeypatch.setattr(_benchmark_conv, "MEMBERS", (1, 2))
    tasks_of = _benchmark_conv.tasks_of

    def two_steps(*arguments):
        # Native convolutions that are compiled quickly take minutes for an epoch on a CPU.
        tasks = tasks_of(*arguments)
        few = {name: np.asarray(task.data)[:64] for name, task in tasks.items()}
        return {name: task._replace(data=few[name]) for name, task in tasks.items()}

    monkeypatch.setattr(_benchmark_conv, "tasks_of", two_steps)
    monkeypatch.setattr(_benchmark_conv, "HIDDEN", (8,))
    few_loops = functools.partial(_benchmark_cost.matmul_ceiling, loops=2)
    monkeypatch.setattr(_benchmark_gpu, "matmul_ceiling", few_loops)
    config = Sweep(
        device="gpu",
        dataset="digits",
        hidden=(16,),
        latent_dim=2,
        batch_size=32,
        members=(2, 1),
        turns=2,
        epochs=5,
        output_dir=tmp_path,
    )
    _benchmark_gpu.run(config, torch_device="cpu")
    result, markdown = texts_of(tmp_path / "benchmark", "sweep", "gpu")
    assert_tells_no_place(result, markdown, tmp_path)

    peers = result["one_after_the_other"]
    assert list(peers) == ["vae_jax, solo", "torch", "JAX, a dispatch for every step"]
    for peer in peers.values():
        whole = np.median(assert_sums_up(peer["epoch"], turns=2))
        spent = peer["evaluation"]["median_seconds"] if "evaluation" in peer else 0
        assert peer["training_seconds"] == pytest.approx(whole - spent)
        per_hour = 3600 / peer["training_seconds"] / 5
        assert peer["models_per_hour_training_alone"] == pytest.approx(per_hour)
    # From the same weights all have learnt, and all about as much.
    both = [peer["test_neg_elbo"] for peer in peers.values()]
    learnt = 784 * math.log(2) - both[0]
    assert learnt > 100
    assert both[1:] == pytest.approx(2 * [both[0]], abs=0.1 * learnt)
    ((size, low),) = result["bfloat16"].items()
    assert (size, low["members"], low["compute_dtype"]) == ("2", 2, "bfloat16")
    assert low["test_neg_elbo"] == pytest.approx(both[0], rel=0.01)
    assert low["test_neg_elbo"] != result["populations"]["2"]["test_neg_elbo"]
    assert "| 2 at once, bfloat16 |" in markdown
    assert low["bytes"] is None
    figure = _benchmark_gpu_report.gpu_figure("a title", result)
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 1 + len(peers)

    assert list(result["populations"]) == ["1", "2"]  # smaller ones first
    steps = 1024 // 32
    cost = _benchmark_cost.step_cost(_benchmark_cost.layers_of(784, (16,), 2), 32)
    for size, row in result["populations"].items():
        members = row["members"]
        assert members == int(size) == len(row["betas"]) * len(row["seeds"])
        whole = np.median(assert_sums_up(row["epoch"], turns=2))
        spent = np.median(assert_sums_up(row["evaluation"], turns=2))
        alone = row["training_seconds"]
        assert alone == pytest.approx(whole - spent)
        assert row["models_per_hour"] == pytest.approx(3600 * members / (5 * whole))
        per_hour = 3600 * members / (5 * alone)
        assert row["models_per_hour_training_alone"] == pytest.approx(per_hour)
        for name, times in row["times"].items():
            one_by_one = members * peers[name]["training_seconds"]
            assert times == pytest.approx(one_by_one / alone)
        assert row["flops"] == members * steps * cost.flops
        assert row["bytes"] == members * steps * cost.bytes
        reached = row["flops"] / alone / row["products_flops_per_second"]
        assert row["share_of_matrix_products"] == pytest.approx(reached)
        reached = row["bytes"] / alone / row["copied_bytes_per_second"]
        assert row["share_of_copy"] == pytest.approx(reached)
        assert row["peak_device_bytes"] is None  # a CPU does not tell
        assert row["test_neg_elbo"] == pytest.approx(both[0], rel=1e-4)
        assert f"| {size} at once |" in markdown

    assert result["goals"] == []  # of 64 members
    conv = result["convolution"]
    assert (conv["architecture"], list(conv["forms"])) == ("32-64-8-2", ["1", "2"])
    for forms in conv["forms"].values():
        base = np.median(forms["conv, matmul"]["seconds"])
        for form in forms.values():
            ratio = np.median(assert_sums_up(form, turns=2)) / base
            assert form["ratio_of_medians"] == pytest.approx(ratio)
    assert "`jax_default_matmul_precision` is `default`" in markdown
    lines = [line["what"] for line in result["measured"]]
    at_once = ("1 at once", "2 at once", "2 at once, bfloat16")
    assert lines[:3] == [f"{name}, an epoch" for name in at_once]
    with Image.open(tmp_path / "benchmark" / "sweep-gpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"


def test_the_goals_of_many_members():
    """The better share counts, for either may limit a device; a missing peer has no goal."""
    times = {"vae_jax, solo": 40.0, "torch": 120.0}
    row = {"times": times, "share_of_matrix_products": 0.3, "share_of_copy": 0.6}
    row["test_neg_elbo"], low = 100.0, {"64": {"test_neg_elbo": 100.3}}
    goals = _benchmark_gpu.goals_of({"1": {}, "64": row}, low)
    assert [(goal.what, goal.reached, goal.is_met) for goal in goals] == [
        ("times torch, 64 members", 120.0, True),
        ("share of the roofline, 64 members", 0.6, True),
        ("nats that bfloat16 costs, 64 members", pytest.approx(0.3), False),
    ]
    assert _benchmark_gpu.goals_of({"1": {}}, low) == []
    times["torch, compiled and captured"] = 19.0
    met = [goal.is_met for goal in _benchmark_gpu.goals_of({"64": row}, low)]
    assert met == [True, False, True, False]


def test_the_precision_of_products_is_said():
    both = {"jax": "default", "torch": "high"}
    assert "in TF32 where the device has it" in _benchmark_gpu_report.precision_in_words(both)
    for other in ({"jax": "highest"}, {"torch": "highest"}):
        assert "not both in TF32" in _benchmark_gpu_report.precision_in_words(both | other)


@pytest.mark.parametrize(
    ("members", "in_bfloat16"), [((1, 4), [4]), ((16, 64), [64]), ((64, 256), [64, 256])]
)
def test_bfloat16_has_the_members_of_the_goals_and_more(members, in_bfloat16):
    assert _benchmark_gpu.low_sizes(members) == in_bfloat16


def test_torch_without_a_gpu_is_one_line(tmp_path, monkeypatch, torch):
    if torch.cuda.is_available():
        pytest.skip("it has one")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UsageError, match=r"^--device gpu: PyTorch sees no GPU"):
        benchmark.run(Config(Sweep(device="gpu", dataset="digits", output_dir=tmp_path)))


def test_more_members_than_the_device_takes_are_one_line(monkeypatch):
    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nand a long story")

    monkeypatch.setattr(_benchmark_gpu, "Trial", full)
    config = _benchmark_sweep.resolved(Sweep(device="gpu", dataset="digits"))
    with pytest.raises(UsageError, match=r"^--members 9: .*RESOURCE_EXHAUSTED: Out of memory\)$"):
        _benchmark_gpu.population_row(config, digits(), 9)


def test_torch_compiles_the_loss_whole(torch):
    """What the CUDA graph is made of: one graph, no way back into Python."""
    model = _peers_torch.torch_vae(tiny_problem().params)
    x, eps = torch.rand(32, 784), torch.randn(32, 2)
    whole = torch.compile(_peers_torch.torch_elbo_terms, fullgraph=True, backend="eager")
    for compiled, plain in zip(
        whole(model, x, eps), _peers_torch.torch_elbo_terms(model, x, eps), strict=True
    ):
        assert float(compiled.detach()) == pytest.approx(float(plain.detach()))


@pytest.mark.slow
def test_tabular_measures_and_writes_for_real(tmp_path, torch):
    config = Tabular(turns=1, seeds=1, epochs=100, rows=100_000, output_dir=tmp_path)
    benchmark.run(Config(config))
    result, markdown = texts_of(tmp_path / "benchmark", "tabular")
    assert result["models"] == 25
    assert_sums_up(result["sweep"], 1)
    large = result["large"]
    rates = [fit["rows_per_second"] for fit in large["fits"]]
    assert large["rows_per_second"] == statistics.median(rates) > 0
    assert {fit["table_bytes"] for fit in large["fits"]} == {100_000 * 30 * 8}
    assert set(result["test_neg_elbo"]) == {"vae_jax", "torch"}
    # Both are well below some 18.5 nats, what the columns cost a model that ignores z.
    for value in result["test_neg_elbo"].values():
        assert 14 < value < 17
    fastest, slowest = f"{min(rates):,.0f}", f"{max(rates):,.0f}"
    assert f"{fastest} to {slowest}" in markdown
    for line in result["measured"]:
        assert f"| {line['what']} |" in markdown
        assert line["low"] <= line["median"] <= line["high"]
    about = [line["goal"] for line in result["measured"] if line["goal"]]
    assert about == [goal["what"] for goal in result["goals"]]
    with Image.open(tmp_path / "benchmark" / "tabular-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"
    # 13-32-2, 16 rows a step, of four fifths of the 178.
    step = _benchmark_cost.step_cost(_benchmark_cost.layers_of(13, (32,), 2), 16)
    assert result["limits"]["flops"] == 25 * 100 * (142 // 16) * step.flops
    seconds = 25 * result["per_model"]["once compiled"]["median_seconds"]
    reached = result["limits"]["flops"] / seconds / result["limits"]["products_flops_per_second"]
    assert result["limits"]["share_of_matrix_products"] == pytest.approx(reached)
    assert_tells_no_place(result, markdown, tmp_path)


# log p(x).


@pytest.mark.slow
def test_evaluation_measures_and_writes_for_real(tmp_path, torch):
    pytest.importorskip("pythae")
    config = Evaluation(
        dataset="digits", turns=2, samples=2000, images=3, peer_images=2, output_dir=tmp_path
    )
    benchmark.run(Config(config))
    result, markdown = texts_of(tmp_path / "benchmark", "evaluation")
    for row in result["seconds_per_image"].values():
        assert_sums_up(row, 2)
    # 784-200-200-50: what a sample of z costs the decoder, 2,000 times.
    assert result["flops_per_image"] == 2000 * 2 * (50 * 200 + 200 * 200 + 200 * 784)
    ours, theirs = result["log_likelihood_of_the_same_images"].values()
    # The same model. Of 200 samples the mean of two images has a standard deviation of 0.075 (12
    # keys), so that of 2,000 one of 0.024, and of the difference 0.034: 5 of these are 0.17.
    assert ours == pytest.approx(theirs, abs=0.17)
    whole = result["whole_test_split"]
    assert (whole["images"], whole["seconds"] > 0) == (360, True)
    assert f"The whole test split of digits, {360} images, measured once" in markdown
    assert result["compile_seconds"] > 0
    # 50 numbers of noise and of z, and what the layers put out, written and read.
    numbers = 2 * 50 + 200 + 200 + 784
    assert result["limits"]["bytes"] == 3 * 2000 * 2 * 4 * numbers
    assert result["limits"]["flops"] == 3 * result["flops_per_image"]
    squares = np.array(result["seconds_per_image"]["square matrix products"]["seconds"])
    rate = result["flops_per_image"] / np.median(squares)
    assert result["square_flops_per_second"] == pytest.approx(rate)
    with Image.open(tmp_path / "benchmark" / "evaluation-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"
    assert_tells_no_place(result, markdown, tmp_path)


def test_evaluation_without_pythae_is_one_line(tmp_path, monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "pythae.models", None)
    with pytest.raises(UsageError, match=r"pythae is not installed.*vae_jax\[bench\]"):
        benchmark.run(Config(Evaluation(dataset="digits", output_dir=tmp_path)))
    assert not (tmp_path / "benchmark").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"samples": 150}, "--samples 150: a multiple of 100 is needed"),
        ({"turns": 0}, "--turns 0: a whole number of 1 or more is needed"),
    ],
)
def test_evaluation_refuses_what_cannot_be_measured(settings, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        benchmark.run(Config(Evaluation(dataset="digits", output_dir=tmp_path, **settings)))


# How cost grows.


@pytest.mark.slow
def test_growth_measures_and_writes_for_real(tmp_path, monkeypatch):
    monkeypatch.setattr(_benchmark_growth, "ROWS_PER_TURN", 3000)
    monkeypatch.setattr(_benchmark_growth, "MEMBER_ROWS", 1000)
    config = Growth(members=2, rows=2000, turns=2, output_dir=tmp_path)
    benchmark.run(Config(config))
    folder = tmp_path / "benchmark"
    result, markdown = texts_of(folder, "growth")
    assert_tells_no_place(result, markdown, tmp_path)

    by_members, by_rows = result["by_members"], result["by_rows"]
    assert [(cost["members"], cost["rows"]) for cost in by_members] == [(1, 1000), (2, 1000)]
    assert [(cost["members"], cost["rows"]) for cost in by_rows] == [(1, 1000), (1, 2000)]
    assert by_members[0] == by_rows[0]  # measured once
    # 64-64-2: three numbers of each parameter, those of Adam among them, and next to nothing.
    parameters = 64 * 64 + 64 + 64 * 4 + 4 + 2 * 64 + 64 + 64 * 64 + 64
    for cost in by_members + by_rows:
        assert_sums_up(cost, turns=2)
        assert cost["rows_per_epoch"] == cost["rows"] // 128 * 128
        assert 12 * parameters < cost["state_bytes"] / cost["members"] < 12 * parameters + 100
        # Its arguments are data and state.
        assert cost["program_bytes"] > cost["state_bytes"] + 64 * cost["rows"]
        assert 0 < cost["test_neg_elbo"] < 64 * math.log(2)  # what an untrained model costs

    # Processes with JAX in them, and not kilobytes taken for bytes.
    assert list(result["resident_bytes"]) == ["1", "2"]
    assert all(5e7 < peak < 1e10 for peak in result["resident_bytes"].values())
    assert "resident with 1 member and" in markdown

    lines = result["lines"]
    seconds = np.array([cost["median_seconds"] for cost in by_members])
    # sum_i (slope m_i / t_i - 1)^2 is least where its derivative is zero.
    share = np.array([1, 2]) / seconds
    slope = np.sum(share) / np.sum(share**2)
    assert lines["seconds_per_member"]["slope"] == pytest.approx(slope)
    assert lines["seconds_per_member"]["intercept"] == 0
    off = np.max(np.abs(1 / (slope * share) - 1))
    assert lines["seconds_per_member"]["largest_deviation"] == pytest.approx(off)
    assert f"largest deviation {off:.1%}" in markdown
    # Every member has a state, and they are all alike.
    state = lines["state_bytes_per_member"]
    assert state["slope"] == pytest.approx(by_members[0]["state_bytes"])
    assert state["largest_deviation"] < 1e-12
    assert lines["program_bytes_per_member"]["intercept"] > 64 * 1000

    few, many = (cost for cost in result["computed"] if cost["members"] == 10_000)
    assert (few["hosts"], many["hosts"]) == (1, 16)
    assert few["seconds"] == pytest.approx(10_000 * slope)
    assert many["seconds"] == pytest.approx(625 * slope)
    assert "Computed from these lines and not measured" in markdown

    with np.load(folder / "growth-cpu.npz") as arrays:
        np.testing.assert_array_equal(arrays["by_members_members"], [1, 2])
        stored = np.median(arrays["by_members_seconds"], axis=(1, 2))
        np.testing.assert_allclose(stored, seconds, rtol=1e-12)
    with Image.open(folder / "growth-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"


def test_a_line_is_found_again():
    sizes = [1, 2, 4, 1000]
    line = _benchmark_lines.fitted(sizes, [7.0 + 3 * size for size in sizes], fixed=True)
    assert line == pytest.approx((7, 3, 0))
    assert line.at(10) == pytest.approx(37)
    line = _benchmark_lines.fitted(sizes, [3.0 * size for size in sizes])
    assert line == pytest.approx((0, 3, 0))


def test_each_size_counts_the_same_in_a_line():
    """Two of one cost a size, the third twice it: by hand, with shares 1, 1 and 1/2."""
    line = _benchmark_lines.fitted([1, 10, 100], [1.0, 10.0, 200.0])
    slope = (1 + 1 + 1 / 2) / (1 + 1 + 1 / 4)
    assert line == pytest.approx((0, slope, 2 / slope - 1))


@pytest.mark.parametrize("fixed", [False, True])
def test_no_other_line_deviates_less(fixed):
    rng = np.random.default_rng(0)
    sizes = np.array([1, 2, 4, 8, 16, 32])
    costs = (5 * fixed + 2 * sizes) * rng.uniform(0.8, 1.2, len(sizes))

    def squares(intercept, slope):
        return np.sum(((intercept + slope * sizes) / costs - 1) ** 2)

    line = _benchmark_lines.fitted(sizes.tolist(), costs.tolist(), fixed=fixed)
    found = squares(line.intercept, line.slope)
    for step in (-1e-3, 1e-3):
        assert squares(line.intercept, line.slope + step) > found
        if fixed:
            assert squares(line.intercept + step, line.slope) > found
    largest = max(abs(cost / line.at(size) - 1) for size, cost in zip(sizes, costs, strict=True))
    assert line.largest_deviation == pytest.approx(largest)
    assert largest > 0.01


@pytest.mark.parametrize(("members", "hosts", "share"), [(7, 1, 7), (1000, 16, 63), (32, 16, 2)])
def test_hosts_share_the_members(members, hosts, share):
    line = _benchmark_lines.Line
    lines = {"seconds_per_member": line(0, 0.5), "program_bytes_per_member": line(100, 10)}
    cost = _benchmark_lines.computed(members, hosts, lines)
    assert cost == {"seconds": 0.5 * share, "bytes_of_a_host": 100 + 10 * share}


@pytest.mark.parametrize("given", [None, "0"])
def test_nothing_compiled_is_found_in_a_job_and_all_is_as_before_behind_it(given, monkeypatch):
    of_torch = "TORCHINDUCTOR_FORCE_DISABLE_CACHES"
    monkeypatch.delenv(of_torch, raising=False)
    if given is not None:
        monkeypatch.setenv(of_torch, given)
    before = jax.config.values["jax_enable_compilation_cache"]
    with _benchmark_job.compiled_anew():
        assert os.environ[of_torch] == (given or "1")
        assert not jax.config.values["jax_enable_compilation_cache"]
    assert os.environ.get(of_torch) == given
    assert jax.config.values["jax_enable_compilation_cache"] == before


@pytest.mark.parametrize(
    ("most", "members", "rows"),
    [
        (1, [1], [1]),
        (6, [1, 2, 4, 6], [6]),
        (256, [1, 2, 4, 8, 16, 32, 64, 128, 256], [256]),
        (5000, [2**power for power in range(13)] + [5000], [1000, 3000, 5000]),
    ],
)
def test_sizes_double_and_triple_up_to_the_largest(most, members, rows):
    assert _benchmark_growth.member_counts(most) == members
    assert _benchmark_growth.row_counts(most) == rows


def test_a_million_rows_come_in_seven_sizes():
    sizes = [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
    assert _benchmark_growth.row_counts(1_000_000) == sizes


def test_generated_rows_are_those_of_a_smaller_table_and_more():
    few, many = map(_benchmark_growth.generated, (100, 5000))
    assert (few.shape, few.dtype) == ((100, 64), np.uint8)
    np.testing.assert_array_equal(many[:100], few)
    assert set(np.unique(many).tolist()) == {0, 255}
    # A factor is as often of one sign as of the other: five standard errors of its mean.
    spread = 5 * 255 / 2 / math.sqrt(5000)
    np.testing.assert_allclose(many.mean(axis=0), 127.5, atol=spread)


def test_the_figure_of_growth_shows_every_size_and_its_line():
    def cost(members, rows):
        seconds = 1e-6 * members * rows
        return {
            "members": members,
            "rows_per_epoch": rows,
            "median_seconds": seconds,
            "min_seconds": 0.9 * seconds,
            "max_seconds": 1.2 * seconds,
            "program_bytes": 2e6 + 3e5 * members,
            "state_bytes": 1e5 * members,
        }

    by_members = [cost(members, 4096) for members in (1, 2, 4)]
    by_rows = [cost(1, rows) for rows in (1000, 100_000)]
    lines = _benchmark_lines.lines_of(by_members, by_rows)
    figure = _benchmark_lines.growth_figure("a title", by_members, by_rows, lines)
    FigureCanvasAgg(figure).draw()
    per_member, per_epoch, memory = figure.axes
    level, points = (np.asarray(line.get_ydata()) for line in per_member.lines)
    np.testing.assert_allclose(level, 4.096)
    np.testing.assert_allclose(points, 4.096)
    (bars,) = per_member.collections
    assert isinstance(bars, LineCollection)
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, [[0.9 * 4.096, 1.2 * 4.096]] * 3)
    for line in per_epoch.lines:
        np.testing.assert_allclose(np.array(line.get_data()), [[1000, 100_000], [1e-3, 0.1]])
    drawn = [np.asarray(line.get_ydata()).tolist() for line in memory.lines]
    expected = [[2, 3.2], [2.3, 2.6, 3.2], [0, 0.4], [0.1, 0.2, 0.4]]
    for values, wanted in zip(drawn, expected, strict=True):
        assert values == pytest.approx(wanted)
    assert memory.get_legend_handles_labels()[1] == [
        "program, 2 + 0.3 a member",
        "state, 0.1 a member",
    ]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"members": 1}, "--members 1: 2 or more"),
        ({"members": -4}, "--members -4: 2 or more"),
        ({"rows": 1000}, "--rows 1000: more than 1,000"),
        ({"turns": 0}, "--turns 0"),
    ],
)
def test_growth_refuses_what_makes_no_line(settings, line, tmp_path):
    with pytest.raises(UsageError, match=f"^{line}[^\n]*$"):
        benchmark.run(Config(Growth(**({"output_dir": tmp_path} | settings))))
    assert list(tmp_path.iterdir()) == []
