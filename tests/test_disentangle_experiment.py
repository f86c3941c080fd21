"""`python -m experiments.disentangle`: run for real, its files read back."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from command_line import call, surroundings  # noqa: F401
from evaluations import assert_evaluated
from test_tabular_experiments import assert_drawn

from experiments import (
    _disentangle_grid,
    _disentangle_part,
    _disentangle_report,
    disentangle,
)
from experiments._disentangle_grid import Grid, draw_bits, load_grid, split, unpack_bits
from experiments._disentangle_part import PartConfig, build_vae, members_of
from experiments._disentangle_report import NATS, SCORES
from experiments._folder import RunFolder
from experiments._report import Result
from vae_jax.data.dsprites import DSprites
from vae_jax.networks import conv
from vae_jax.objectives import beta
from vae_jax.preprocess import binarize_threshold
from vae_jax.sprites import factors_of, index_of, num_images, render_indices
from vae_jax.train import make_trainer
from vae_jax.types import Hyper, Normal

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")

SMOKE = ("--budget", "smoke", "--steps", "4", "--hidden", "16", "--beta", "4", "--seed", "0", "1")
PLACES = np.array([0, 5, 123_456, 400_000, num_images - 1], np.int32)
OBJECTIVES = ("beta", "beta_tc")


@pytest.fixture(scope="module")
def run(compiled_quickly, tmp_path_factory) -> Path:
    """A run of two objectives and two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    done = call(disentangle, folder, *SMOKE, "--objective", *OBJECTIVES)
    assert (done.code, done.err) == (0, "")
    for text in ("MIG", "0.118", "beta_tc 4", "256 images seen"):
        assert text in done.out
    return folder / "results" / "disentangle" / "smoke-steps4"


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text("utf-8"))


def test_every_setting_has_its_row(run):
    first, _, columns, _, *rows = (run / "table.md").read_text("utf-8").splitlines()
    assert (
        "mlp 16 · z 10 · 256 images seen (4 steps of 64) · budget smoke, 4 of 300,000 steps"
        in first
    )
    assert "1,200 held-out images" in first
    assert columns.startswith("|  | MIG | DCI D | DCI C | DCI I | SAP | FactorVAE | beta-VAE |")
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == ["beta 4", "beta_tc 4", "chance"]
    assert all(row.count("±") == len(SCORES) + len(NATS) for row in rows[:-1])


def test_numbers_are_means_and_standard_errors_over_the_models(run):
    records = summary(run)["settings"]
    assert [(one["objective"], one["strength"]) for one in records] == [
        (name, 4) for name in OBJECTIVES
    ]
    for record in records:
        own = summary(run / record["objective"])["members"]
        assert [one["seed"] for one in own] == [0, 1]
        for name in (*SCORES, *NATS):
            first, second = (one["also"].get(name, one.get(name)) for one in own)
            mean, error = record[name]["mean"], record[name]["standard_error"]
            assert mean == pytest.approx((first + second) / 2)
            assert error == pytest.approx(abs(first - second) / 2, abs=1e-9)
            assert name in NATS or 0 <= min(first, second) <= max(first, second) <= 1


def test_settings_are_told_apart_by_the_differences_of_their_seeds(run, tmp_path):
    """In the run the two of two seeds; of made-up scores those that differ by more than noise."""
    found = summary(run)
    means = {one["objective"]: one["mig"]["mean"] for one in found["settings"]}
    (margin,) = found["differences"]["mig"].values()
    assert margin["value"] == pytest.approx(abs(means["beta"] - means["beta_tc"]))
    assert margin["seeds"] == 2

    def scored(strength: float, shift: float) -> list[Result]:
        noise = (0.0, 0.4, 0.1)  # of the seeds, the same for every strength
        numbers = [dict.fromkeys((*SCORES, *NATS), shift + own) for own in noise]
        return [
            Result(
                f"beta{strength}-seed{seed}", {"beta": strength, "seed": seed}, [], own, None, {}
            )
            for seed, own in enumerate(numbers)
        ]

    part = PartConfig(objective="beta", strength=(1.0, 4.0, 8.0), seed=(0, 1, 2))
    results = [*scored(1.0, 0.5), *scored(4.0, 0.6), *scored(8.0, 0.5)]
    results[-1].numbers["mig"] += 0.3
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    _disentangle_report._write_differences(
        folder, "title", _disentangle_report._margins([part], [results])
    )
    lines = (folder.path / "differences.md").read_text("utf-8").splitlines()
    mig = next(line for line in lines if line.startswith("| MIG"))
    # Seeds differ by more than 0.1, and yet beta 4 is ahead by 0.1 in each of them.
    assert "1 of 3 | beta 4 - beta 1 +0.100 ± 0.000 |" in mig


def test_figures_are_drawn(run):
    assert_drawn(run / "figures" / "scores.png")
    for name in OBJECTIVES:
        folder = run / name / "figures" / "beta4-seed0"
        assert_drawn(folder / "traversals.png")
        with np.load(folder / "traversals.npz") as arrays:
            assert arrays["images"].shape == (10, 11, 64, 64, 1)
            assert np.all(np.diff(arrays["kl"]) <= 0)
        assert not (folder.parent / "beta4-seed1").exists()


def test_a_run_can_be_evaluated(run):
    text = assert_evaluated(run, "sprites, beta: held-out images, nats per image", parts=OBJECTIVES)
    assert "sprites, beta_tc: held-out images" in text
    assert "| beta | " in text


def test_a_finished_run_is_taken_up_as_it_is(run):
    before = {path: path.read_bytes() for path in (run / "table.md", run / "beta" / "metrics.csv")}
    again = call(disentangle, run.parents[2], *SMOKE, "--objective", *OBJECTIVES)
    assert again.code == 2
    assert "this run exists" in again.err
    again = call(disentangle, run.parents[2], *SMOKE, "--objective", *OBJECTIVES, "--resume")
    assert (again.code, again.err) == (0, "")
    assert again.out.count("done before") == 2
    assert {path: path.read_bytes() for path in before} == before


def test_a_model_that_diverges_is_named_and_has_no_numbers(tmp_path):
    flags = ("--budget", "smoke", "--hidden", "4", "--beta", "4", "--seed", "0")
    done = call(disentangle, tmp_path, *flags, "--objective", "beta", "--learning-rate", "1e30")
    assert (done.code, done.err) == (1, "")
    run = tmp_path / "results" / "disentangle" / "smoke"
    *_, row, chance, _, remark = (run / "table.md").read_text("utf-8").splitlines()
    assert row == "| beta 4 |" + " – |" * (len(SCORES) + len(NATS))
    assert chance.startswith("| chance | 0.000 |")
    assert remark.startswith("- beta, beta4-seed0: diverged in epoch 1")
    found = summary(run)
    assert found["diverged"] == ["beta/beta4-seed0"]
    assert found["settings"][0]["mig"] == {"mean": None, "standard_error": None}
    assert (run / "figures" / "scores.png").is_file()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--beta", "1"), "--beta 1: --objective beta_tc needs a value above 1"),
        (("--beta", "-1"), "--beta -1.0: a finite number of 0 or more is needed"),
        (("--beta", "2", "2"), "--beta 2.0: given twice"),
        (("--objective", "beta", "beta"), "--objective beta: given twice"),
        (("--objective",), "--objective"),
        (("--capacity", "inf"), "--capacity inf: a finite number of 0 or more"),
        (("--gamma", "0"), "--gamma 0.0: a finite number above 0 is needed"),
        (("--learning-rate", "nan"), "--learning-rate nan: a finite number above 0"),
        (("--latent-dim", "1"), "--latent-dim 1: 2 or more are needed"),
        (("--batch-size", "257"), "--batch-size 257: 2 to 256, the training images"),
        (("--steps", "6"), "--steps 6: a multiple of 4 from 4 to 300,000 is needed"),
        (("--hidden", "0"), "--hidden 0: widths of 1 or more are needed"),
        (("--seed", "-1"), "--seed -1: a whole number of 0 or more"),
        (("--dataset", "cars"), "cars"),
        (("--data-dir", "absent", "--dataset", "dsprites"), "absent: no such folder"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, monkeypatch, flags, said):
    monkeypatch.setattr("vae_jax.data.dsprites._import_h5py", lambda: None)
    done = call(disentangle, tmp_path, "--budget", "smoke", *flags)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_part_is_what_the_command_asked_for():
    config = disentangle.validate(disentangle.Config(budget="full", beta=(0.5, 2.0)))
    parts = {part.objective: part for part in disentangle.parts_of(config)}
    assert {name: part.strength for name, part in parts.items()} == {
        "beta": (0.5, 2.0),
        "capacity": (25.0,),
        "beta_tc": (2.0,),
    }
    for part in parts.values():  # Locatello et al., appendix G
        assert (part.network, part.hidden, part.learning_rate) == ("conv", (256,), 1e-4)
        assert (part.steps, part.batch_size, part.latent_dim) == (300_000, 64, 10)
    members = members_of(parts["capacity"])
    assert [member.name for member in members] == [f"capacity25-seed{seed}" for seed in (0, 1, 2)]
    hyper = members[0].hyper
    assert (hyper.capacity, hyper.gamma, hyper.capacity_steps) == (25, 100, pytest.approx(100_000))
    assert members_of(parts["beta_tc"])[0].hyper.num_examples == parts["beta_tc"].images


def test_the_convolutional_network_is_the_published_one():
    vae = build_vae(PartConfig(network="conv", hidden=(256,)))
    params = jax.eval_shape(vae.init, jax.random.key(0))
    kernels = {
        side: [leaf.shape for leaf in jax.tree.leaves(params[side]) if len(leaf.shape) > 1]
        for side in params
    }
    assert sorted(kernels["encoder"]) == sorted(
        [(4, 4, 1, 32), (4, 4, 32, 32), (4, 4, 32, 64), (4, 4, 64, 64), (1024, 256), (256, 20)]
    )
    assert sorted(kernels["decoder"]) == sorted(
        [(10, 256), (256, 1024), (4, 4, 64, 64), (4, 4, 64, 32), (4, 4, 32, 32), (4, 4, 32, 1)]
    )


def test_an_image_too_small_for_its_convolutions_is_refused():
    with pytest.raises(ValueError, match="sides divisible by 16"):
        conv((4,), x_shape=(24, 24, 1), latent_dim=2, theta_dim=1, channels=(4, 4, 4, 4))


def test_training_and_held_out_places_never_meet():
    train, held_out = split(640_000, 10_000)
    assert not np.intersect1d(train, held_out).size
    assert len(np.unique(np.concatenate([train, held_out]))) == 650_000
    assert 0 <= min(train.min(), held_out.min()) <= max(train.max(), held_out.max()) < num_images
    fewer = split(64_000, 3000)
    assert np.isin(fewer[0], train).all()
    assert np.isin(fewer[1], held_out).all()


def test_a_minibatch_is_rendered_from_its_places():
    grid = load_grid("sprites", None)
    batch = jnp.asarray(grid.stored(PLACES))
    assert batch.dtype == jnp.int32
    drawn = jax.vmap(grid.preprocess)(jax.random.split(jax.random.key(0), len(PLACES)), batch)
    np.testing.assert_array_equal(drawn, np.asarray(render_indices(batch)) / 255)


def test_training_on_places_is_training_on_the_stored_images():
    """Four steps, in the same order: the images are the same bits, and so is all that follows."""
    vae = build_vae(PartConfig(network="mlp", hidden=(4,)))
    places = jnp.asarray(split(16, 1)[0])
    found = []
    for data, preprocess in (
        (places, draw_bits),
        (render_indices(places), binarize_threshold),
    ):
        trainer = make_trainer(vae, beta(), batch_size=4, preprocess=preprocess)
        state = trainer.init(jax.random.key(0), Hyper())
        found.append(trainer.epoch(state, Hyper(), data)[0].params)
    # Two programs: XLA may add up in another order, so 1e-5 of Adam's step of 1e-3.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), *found)


def test_dsprites_are_unpacked_in_their_places(monkeypatch):
    images = np.random.default_rng(0).integers(2, size=(9, 64, 64)).astype(np.uint8)
    stored = DSprites(np.packbits(images, axis=-1), "a file", {"file": "0"})
    monkeypatch.setattr(_disentangle_grid, "load_dsprites", lambda data_dir: stored)
    grid = load_grid("dsprites", Path("for this test"))
    batch = jnp.asarray(grid.stored(np.array([7, 2])))
    drawn = jax.vmap(unpack_bits)(jax.random.split(jax.random.key(0), 2), batch)
    np.testing.assert_array_equal(drawn[..., 0], images[[7, 2]])
    assert grid.source == {"source": "a file", "sha256": {"file": "0"}}


def measured(latents: int, kl: np.ndarray) -> dict[str, float]:
    """Scores of an encoder whose first five means are the factors, and the others repeat them."""

    def encode(params: Any, x: jax.Array) -> Normal:
        mean = jnp.resize(x, (latents,))
        return Normal(mean, jnp.zeros(latents))

    factors = jax.vmap(factors_of)
    grid = Grid(lambda places: np.asarray(factors(places), np.float32), lambda key, x: x, {})
    vae = build_vae(PartConfig(latent_dim=latents))._replace(encode=encode)
    final = SimpleNamespace(kl_per_dim=kl)
    one: Any = SimpleNamespace(
        problem=None, params={}, final=final, member=SimpleNamespace(name="a model")
    )
    held_out = split(1, 1200)[1]
    (scores,) = _disentangle_part._measure(vae, grid, held_out, [one], RunFolder(Path()))
    return scores


def test_a_model_whose_means_are_the_factors_scores_full_marks():
    scores = measured(5, np.ones(5))
    assert scores["factor_vae"] == scores["beta_vae"] == 1
    assert scores["dci_disentanglement"] > 0.9
    # 20 bins cannot tell 40 values apart, nor 32: log 20 / log 40 and log 20 / log 32 at most.
    assert scores["mig"] > 0.75


def test_a_collapsed_dimension_does_not_count():
    """The repeated factors close every gap, unless the KL of those dimensions is zero."""
    assert measured(10, np.ones(10))["mig"] == 0
    assert measured(10, np.repeat([1.0, 0.0], 5))["mig"] > 0.75


def test_a_diverged_model_has_no_scores():
    one: Any = SimpleNamespace(problem="diverged")
    grid = load_grid("sprites", None)
    vae = build_vae(PartConfig(hidden=(4,)))
    assert _disentangle_part._measure(vae, grid, PLACES, [one], RunFolder(Path())) == [{}]


def test_the_traversed_image_is_a_heart_in_the_middle():
    place = index_of(jnp.asarray(_disentangle_part.SHOWN))
    image = np.asarray(render_indices(place[None])[0, ..., 0]) > 0
    rows, columns = np.nonzero(image)
    assert abs(rows.mean() - 32) < 1
    assert abs(columns.mean() - 32) < 1


def test_a_configuration_of_a_part_is_plain_data():
    part = disentangle.parts_of(disentangle.validate(disentangle.Config()))[0]
    assert PartConfig(**dataclasses.asdict(part)) == part
