"""Latent sizes as programs of their own, or padded to one: `experiments.benchmark panels`.

The models of figure 2 of Auto-Encoding Variational Bayes differ in the size of z. As one program
they all have the largest, and a mask that holds z at 0 where a model is smaller: there q(z | x) is
the prior, so that its KL is 0 and no weight that leads there or comes from there has a gradient of
the bound. This measures both ways, in turns.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments._aevb import BATCH_SIZE, Pixels, adagrad_with_prior, build_vae, load_pixels
from experiments._benchmark_job import Job, OnCpu, files_of, subject
from experiments._benchmark_page import in_json, measured_of
from experiments._benchmark_trial import Trial
from experiments._grid import Axis, grid
from experiments._noise import elbo_of
from experiments._run import check, check_counts, check_once
from experiments._sweep import Task
from experiments._timing import (
    Bystanders,
    Turns,
    against_first,
    alternate,
    compared,
    machine,
    ratio_in_words,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.model import VAE
from vae_jax.objectives import elbo
from vae_jax.preprocess import intensities
from vae_jax.train import make_trainer
from vae_jax.types import Normal, Params, PRNGKey

STEP_SIZE = 0.01  # the time does not hang on it
MILLION = 1e6


@dataclasses.dataclass(frozen=True)
class Panels(OnCpu, Job):
    """The latent sizes of figure 2 of arXiv 1312.6114, each a program, or padded and masked as one.

    The MNIST panels of `experiments.aevb` by AEVB, on the CPU, one member after the other: how
    long both ways take to compile, and for a million training points.
    """

    latent_dims: tuple[int, ...] = (3, 5, 10, 20)
    """Sizes of z; all are padded to the largest."""
    turns: int = 5
    """How often each way trains every model for an epoch; an epoch that warms up precedes them."""
    images: tuple[int, ...] = ()
    """Training and test images, for a short measurement; all without it."""


def run(config: Panels) -> None:
    """Measure both ways, and write what came out.

    Raises:
        UsageError: if a setting, the device or the folder does not allow it.
    """
    check_counts(config, "latent_dims", "turns", "images")
    sizes = config.latent_dims
    check(len(sizes) > 1, "--latent-dims", " ".join(map(str, sizes)), "2 or more are needed")
    check_once("--latent-dims", sizes)
    both = len(config.images) in (0, 2)
    check(both, "--images", " ".join(map(str, config.images)), "two numbers are needed")
    files = files_of("panels", config)
    pixels = load_pixels(config.dataset, config.data_dir, config.images)
    if pixels.warning is not None:
        print(f"warning: {pixels.warning}", file=sys.stderr)
    fits = len(pixels.train) >= BATCH_SIZE
    check(fits, "--images", len(pixels.train), f"{BATCH_SIZE} training images are needed")
    result = {**subject("panels", config, None), "dataset": pixels.name, **measure(config, pixels)}
    title = f"{pixels.name}, 784-{pixels.hidden}-z for z = {', '.join(map(str, sizes))}"
    ratio = result["padded_over_own"]
    write_results(
        files,
        f"{title}, CPU",
        result,
        [
            {
                "": way,
                "compiled in, s": f"{one['compile_seconds']:.2f}",
                "s per million points": f"{one['seconds_per_million_points']:.1f}",
                "range": f"{one['low']:.1f} to {one['high']:.1f}",
                "test ELBO by z": " ".join(f"{value:.1f}" for value in one["test_elbo"]),
            }
            for way, one in result["ways"].items()
        ],
        f"Padded to {max(sizes)} and masked an epoch of all {len(sizes)} takes "
        f"{ratio_in_words(ratio)} times as long as in programs of their own: median and range of "
        f"the ratios within {config.turns} turns. Points are those of all models together, and "
        "the time has the evaluation after each epoch in it. Both ways draw other first weights, "
        "so their bounds agree but for the seed.",
    )
    seconds = drawn(result)
    what = "seconds for a million points on the CPU: median, range, and every turn"
    figure = single_figure(title, seconds, what, others=against_first(seconds))
    arrays = {way.replace(" ", "_"): np.array(own) for way, own in seconds.items()}
    figures.save(figure, files.with_suffix(".png"), **arrays)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def drawn(result: Mapping[str, Any]) -> dict[str, Turns]:
    """The turns of both ways, seconds for a million points, of what `measure` found."""
    millions = result["points_per_turn"] / MILLION
    return {
        way: [[call / millions for call in turn] for turn in one["seconds"]]
        for way, one in result["ways"].items()
    }


OWN, PADDED = "programs of their own", "padded and masked"


def measure(config: Panels, pixels: Pixels) -> dict[str, Any]:
    """What both ways cost, and the machine meanwhile."""
    sizes = config.latent_dims
    own = [Measured(*_task(pixels, build_vae(pixels, size), 1)) for size in sizes]
    padded = [Padded(pixels, sizes)]
    ways: dict[str, Sequence[Measured]] = {OWN: own, PADDED: padded}
    bystanders = Bystanders()
    for trials in ways.values():
        _epoch(trials)
    measures = {way: partial(seconds_of, partial(_epoch, trials)) for way, trials in ways.items()}
    turns = alternate(measures, turns=config.turns)
    millions = len(sizes) * pixels.points_per_epoch / MILLION
    found = {}
    for way, trials in ways.items():
        times = spread(turns[way])
        found[way] = {
            "compile_seconds": sum(trial.compile_seconds for trial in trials),
            "seconds_per_million_points": times["median_seconds"] / millions,
            "low": times["min_seconds"] / millions,
            "high": times["max_seconds"] / millions,
            "test_elbo": [float(bound) for trial in trials for bound in trial.bounds()],
            **times,
        }
    ratio = compared(turns[PADDED], turns[OWN])
    lines = [
        measured_of(
            f"{len(sizes)} latent sizes, {way}, a million points",
            times,
            scale=1 / millions,
            ratio=ratio if way == PADDED else None,
            other=OWN,
        )
        for way, times in found.items()
    ]
    return {
        "ways": found,
        "padded_over_own": ratio,
        "measured": in_json(lines),
        "points_per_turn": len(sizes) * pixels.points_per_epoch,
        "machine": machine(bystanders),
    }


class Measured(Trial):
    """A population whose bounds are shown."""

    def bounds(self) -> np.ndarray:
        """The bound on the test images of every member after the last epoch, nats per image.

        Raises:
            UsageError: if one has diverged.
        """
        self.check_all_trained()
        return np.asarray(self._report.test.elbo)


class Padded(Measured):
    """Models of several latent sizes as the members of one population.

    Args:
        pixels: the data set.
        sizes: of z of each.
    """

    def __init__(self, pixels: Pixels, sizes: Sequence[int]) -> None:
        vae = maskable(build_vae(pixels, max(sizes)))
        super().__init__(*_task(pixels, vae, len(sizes)))
        masks = np.arange(max(sizes)) < np.array(sizes)[:, None]
        params = self._population.train.params
        params["encoder"]["mask"]["latent"] = jnp.asarray(masks, jnp.float32)


def maskable(vae: VAE) -> VAE:
    """A model of which each member has as many latent dimensions as its mask.

    The mask stands among the parameters, as nothing else differs from member to member, but has no
    gradient. Where it is 0 the posterior is the prior and the decoder sees 0.

    Args:
        vae: the model, whose networks are linen modules.

    Returns:
        The model with `params["encoder"]["mask"]["latent"]`, ones at first.
    """

    def mask_of(params: Params) -> Float[Array, " latent"]:
        return jax.lax.stop_gradient(params["encoder"]["mask"]["latent"])

    def init(key: PRNGKey) -> Params:
        params = vae.init(key)
        mask = {"latent": jnp.ones(vae.latent_dim)}
        return {**params, "encoder": {**params["encoder"], "mask": mask}}

    def encode(params: Params, x: Float[Array, "*x"]) -> Normal:
        q, mask = vae.encode(params, x), mask_of(params)
        return Normal(q.mean * mask, q.log_var * mask)

    def decode(params: Params, z: Float[Array, " latent"]) -> Float[Array, "*x theta"]:
        return vae.decode(params, z * mask_of(params))

    return vae._replace(init=init, encode=encode, decode=decode)


def _task(pixels: Pixels, vae: VAE, members: int) -> tuple[Task, Any, Any]:
    """What a trial trains: equal members, whose masks may differ."""
    (member,) = grid([Axis("learning_rate", (STEP_SIZE,), "learning_rate")], (0,), lead=None)
    task = Task(
        experiment="benchmark",
        name="panels",
        title="",
        table="",
        about={},
        members=[member] * members,
        vae=vae,
        preprocess=intensities,
        trainer=make_trainer(
            vae, elbo(), batch_size=BATCH_SIZE, optimizer=adagrad_with_prior(len(pixels.train))
        ),
        evaluate=elbo_of(vae, intensities),
        data=pixels.train,
        test=pixels.test,
        batch_size=BATCH_SIZE,
        source={},
    )
    return task, task.members, "map"


def _epoch(trials: Sequence[Measured]) -> None:
    for trial in trials:
        trial.epoch()
