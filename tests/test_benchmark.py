import functools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from experiments import _peers, _timing, benchmark
from experiments._run import UsageError
from experiments.benchmark import Config, Single, Startup
from vae_jax.data import load_images
from vae_jax.model import batch_elbo_terms

ROOT = Path(__file__).parents[1]
TINY = {"hidden": (16,), "latent_dim": 2, "batch_size": 32, "dataset": "digits"}


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
    return benchmark.problem_of(Single(**(TINY | settings)), digits().train_images)


def texts_of(folder: Path, job: str) -> tuple[dict, str]:
    markdown = (folder / f"{job}-cpu.md").read_text("utf-8")
    return json.loads((folder / f"{job}-cpu.json").read_text("utf-8")), markdown


def assert_tells_no_place(result: dict, markdown: str, tmp_path: Path):
    for text in (json.dumps(result), markdown):
        for private in (str(tmp_path), str(ROOT), str(Path.home()) + "/"):
            assert private not in text


def test_single_measures_and_writes_for_real(tmp_path, capsys, torch):
    config = Single(**TINY, epochs_per_turn=2, turns=2, output_dir=tmp_path)
    benchmark.run(Config(config))
    said = capsys.readouterr().out
    folder = tmp_path / "benchmark"
    result, markdown = texts_of(folder, "single")
    assert_tells_no_place(result, markdown, tmp_path)

    assert list(result["peers"]) == ["vae_jax", "torch", "torch-loader"]
    assert result["dataset"] == "digits"
    assert result["architecture"] == "784-16-2"
    assert (result["images_per_epoch"], result["epochs"]) == (1437 // 32 * 32, 5)
    assert result["machine"]["torch_threads"] == 1
    assert {"python", "jax", "torch"} <= set(result["machine"]["versions"])
    ours = np.array(result["peers"]["vae_jax"]["seconds"])
    for name, peer in result["peers"].items():
        seconds = np.array(peer["seconds"])
        assert seconds.shape == (2, 2)
        assert (seconds > 0).all()
        assert peer["first_epoch_seconds"] > 0
        assert (peer["min_seconds"], peer["max_seconds"]) == (seconds.min(), seconds.max())
        assert peer["median_seconds"] == pytest.approx(np.median(seconds))
        assert peer["images_per_second"] == pytest.approx(1408 / np.median(seconds))
        ratio = np.median(seconds) / np.median(ours)
        assert peer["ratio_of_medians"] == pytest.approx(ratio)
        in_turns = np.median(seconds.mean(axis=1) / ours.mean(axis=1))
        assert peer["median_of_turn_ratios"] == pytest.approx(in_turns)
        assert 0 < peer["test_neg_elbo"] < 784 * math.log(2)  # what an untrained model costs
        assert f"| {name} |" in markdown
        assert said.count(f"turn 1/2  {name}  ") == 1
    assert result["peers"]["vae_jax"]["ratio_of_medians"] == 1

    with Image.open(folder / "single-cpu.png") as image:
        assert len(image.convert("L").getcolors() or []) > 10, "the figure is blank"

    before = (folder / "single-cpu.json").read_bytes()
    with pytest.raises(UsageError, match="--overwrite replaces it"):
        benchmark.run(Config(config))
    assert (folder / "single-cpu.json").read_bytes() == before


def test_torch_computes_the_same_elbo_from_the_same_weights(key, torch):
    problem = tiny_problem(hidden=(16, 8), latent_dim=3)
    xs = jnp.asarray(digits().test_images[:50], jnp.float32) / 255
    terms = jax.jit(batch_elbo_terms, static_argnames="vae")(
        keys=jax.random.split(key, (50, 1)), vae=problem.vae, params=problem.params, xs=xs
    )
    # The noise behind the samples of z, so that both decode the same ones.
    q = jax.tree.map(np.float64, terms.q)
    eps = (np.float64(terms.z[:, 0]) - q.mean[:, 0]) * np.exp(-q.log_var[:, 0] / 2)

    model = _peers.torch_vae(problem.params)
    flat = torch.from_numpy(np.array(xs).reshape(50, 784))
    log_lik, kl = _peers.torch_elbo_terms(model, flat, torch.from_numpy(eps).float())
    # Sums of 50 x 784 float32 terms of one sign: 1e-5 is some hundred roundings.
    assert float(log_lik.detach()) == pytest.approx(float(jnp.sum(terms.log_lik)), rel=1e-5)
    assert float(kl.detach()) == pytest.approx(float(jnp.sum(terms.kl_per_dim)), rel=1e-5)

    back = _peers.torch_params(model)
    assert jax.tree.structure(back) == jax.tree.structure(problem.params)
    jax.tree.map(np.testing.assert_array_equal, back, problem.params)


@pytest.mark.parametrize("batches_of", [_peers.tensor_batches, _peers.loader_batches])
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
            peer = _peers.PEERS[name].build(problem)
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
    assert ratios == {"ratio_of_medians": 2.0, "median_of_turn_ratios": 2.0}
    assert _timing.compared(ours, ours) == {"ratio_of_medians": 1, "median_of_turn_ratios": 1}
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


def test_startup_measures_and_writes_for_real(tmp_path, monkeypatch):
    measure, caches = benchmark.first_epoch_seconds, []

    def watched(arguments, environment, empty=None):
        def compiled():
            folder = Path(environment["XDG_CACHE_HOME"]) / "vae_jax" / "xla"
            return {path.name: path.stat().st_mtime_ns for path in folder.glob("*-cache")}

        before = compiled()
        seconds = measure(arguments, environment, empty)
        caches.append((empty is not None, before, compiled()))
        return seconds

    monkeypatch.setattr(benchmark, "first_epoch_seconds", watched)
    benchmark.run(Config(Startup(turns=1, dataset="digits", output_dir=tmp_path)))
    result, markdown = texts_of(tmp_path / "benchmark", "startup")
    assert_tells_no_place(result, markdown, tmp_path)
    medians = {name: measure["median_seconds"] for name, measure in result["measures"].items()}
    assert list(medians) == [
        "mnist, empty cache",
        "mnist, filled cache",
        "import vae_jax",
        "import jax, flax.linen, optax",
    ]
    assert min(medians.values()) > 0
    assert all(f"| {name} |" in markdown for name in medians)
    ratio = result["ratios"]["mnist, filled cache / mnist, empty cache"]["ratio_of_medians"]
    assert ratio == pytest.approx(medians[benchmark.WARM] / medians[benchmark.COLD])
    # The epoch is compiled where the cache is empty, and found where it is filled. (Programs
    # that compile in a moment are kept or not as the clock has it, so they are not counted.)
    (cold_emptied, first, filled), (warm_emptied, before, after) = caches
    assert (cold_emptied, first, warm_emptied, before) == (True, {}, False, filled)
    epochs = [name for name in filled if name.startswith("jit_train_epoch")]
    assert len(epochs) == 1
    assert {name: after[name] for name in after if name.startswith("jit_train_epoch")} == {
        epochs[0]: filled[epochs[0]]
    }


def test_an_experiment_that_fails_is_one_line():
    arguments = ["--dataset", "digits", "--beta", "-1"]
    with pytest.raises(UsageError, match=r"no epoch was finished \(error: --beta -1"):
        benchmark.first_epoch_seconds(arguments, benchmark._environment(Path("unused")))
