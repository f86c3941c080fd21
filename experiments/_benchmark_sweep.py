"""What a member of a sweep costs beside a model that is trained alone, in time and in memory."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import mnist
from experiments._benchmark_cost import (
    PRODUCTS,
    architecture,
    copy_ceiling,
    dense_products,
    layers_of,
    limits_in_words,
    limits_of,
    step_cost,
    training_products,
)
from experiments._benchmark_job import (
    Goal,
    Job,
    begin,
    data_arguments,
    isolated,
    peak_of,
    said_of,
    subject,
)
from experiments._benchmark_page import in_json, measured_of
from experiments._benchmark_single import USUAL_EPOCHS, total_seconds
from experiments._benchmark_trial import Trial, yardstick
from experiments._chunks import useful_devices
from experiments._run import UsageError, check, check_counts
from experiments._sweep import Task
from experiments._timing import (
    Bystanders,
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
from vae_jax import figures, sharding
from vae_jax.data import ImageData
from vae_jax.sweep import Execution

# In the order in which a smaller grid takes them; 1 is what single models are trained with.
BETAS = (1.0, 8.0, 0.25, 4.0, 0.5, 2.0)
DEFAULTS: dict[str, dict[str, Any]] = {
    "cpu": {"members": (24,), "hidden": (512, 256), "latent_dim": 2},
    "gpu": {"members": (1, 4, 16, 64, 256), "hidden": (400,), "latent_dim": 20},
}
EXECUTIONS: tuple[Execution, ...] = ("map", "vmap")
ONE_DEVICE = "map, one device"
GOAL_RATIO = 1.0
GOAL_BYTES = 32.0


@dataclasses.dataclass(frozen=True)
class Sweep(Job):
    """What a member of a sweep costs, in time and memory.

    On a CPU beside a model that is trained alone. On a GPU at growing numbers of members,
    beside as many models one after the other, also in PyTorch, and beside what the device can
    do; needs PyTorch with CUDA.
    """

    members: tuple[int, ...] | None = None
    """Members of the population, 24; on a GPU of each population, 1 4 16 64 256."""
    memory_members: int = 24
    """CPU: members of the smaller of two sweeps whose memory is measured; the other has twice
    as many."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's layers, 512 256 (GPU: 400); the decoder mirrors them."""
    latent_dim: int | None = None
    """Dimensions of the latent z, 2 (GPU: 20)."""
    batch_size: int = 128
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    epochs: int = 20
    """GPU: epochs of a model in `models an hour`."""
    turns: int = 5
    """Epochs that are measured; one that warms up precedes them."""


def grid_of(members: int) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """As many betas as divide a number of members, six at most, and the seeds for the rest."""
    count = max(k for k in range(1, len(BETAS) + 1) if members % k == 0)
    return tuple(sorted(BETAS[:count])), tuple(range(members // count))


def resolved(config: Sweep) -> Sweep:
    """The configuration with the defaults of its device filled in.

    Raises:
        UsageError: if a setting does not allow the measurement.
    """
    defaults = DEFAULTS[config.device]
    missing = {name: defaults[name] for name in defaults if getattr(config, name) is None}
    config = dataclasses.replace(config, **missing)
    fields = ("members", "memory_members", "hidden", "latent_dim", "batch_size", "epochs", "turns")
    check_counts(config, *fields)
    sizes = config.members or ()
    if config.device == "cpu":
        given = " ".join(map(str, sizes))
        check(len(sizes) == 1, "--members", given, "one number is needed on a CPU")
        enough = config.memory_members > 1
        check(enough, "--memory-members", config.memory_members, "2 or more are needed")
    distinct = len(set(sizes)) == len(sizes) > 0
    check(distinct, "--members", " ".join(map(str, sizes)), "different numbers are needed")
    return dataclasses.replace(config, members=tuple(sorted(sizes)))


def model_of(config: Sweep, images: ImageData, members: int, **other: Any) -> mnist.Config:
    """The settings with which `experiments.mnist` trains a grid of members.

    Args:
        config: with its defaults filled in.
        images: the data.
        members: how many.
        **other: fields of `mnist.Config` that differ.
    """
    betas, seeds = grid_of(members)
    model = mnist.Config(
        data_dir=config.data_dir,
        beta=betas,
        seed=seeds,
        hidden=config.hidden or (),
        latent_dim=config.latent_dim or 0,
        batch_size=config.batch_size,
    )
    return mnist.validate(dataclasses.replace(model, dataset=images.name, **other))


def num_params(task: Task) -> int:
    """The parameters of one member."""
    member = task.members[0]
    state = jax.eval_shape(task.trainer.init, jax.random.key(member.seed), member.hyper)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))


def widths_of(config: Sweep, images: ImageData) -> str:
    """`784-512-256-2`."""
    pixels = images.train_images[0].size
    return architecture(pixels, *(config.hidden or ()), config.latent_dim or 0)


def run(config: Sweep) -> None:
    """Measure on the CPU, and write what came out.

    Raises:
        UsageError: if a setting, the data, the device or the folder does not allow it.
    """
    config = resolved(config)
    size = (config.members or (1,))[0]
    sharding.split_cpu(min(sharding.usable_cores(), size))
    files, images = begin("sweep", config)
    task = mnist.prepare(model_of(config, images, size))[1]
    # First, for it may be refused, and nothing that took longer is lost.
    parameters = num_params(task)
    used = memory(config, images, parameters)
    added = used["bytes_per_parameter_and_member"]
    meshes = {}
    for execution in EXECUTIONS:  # those of a run of them
        useful = useful_devices(size, (task.data, task.test), execution)
        meshes[execution] = sharding.member_mesh(jax.devices()[:useful])
    trials = {
        "solo": Trial(task, [yardstick(task.members)], "map"),
        "map": Trial(task, task.members, "map", meshes["map"]),
        "vmap": Trial(task, task.members, "vmap", meshes["vmap"]),
    }
    if meshes["map"] is not None:
        trials[ONE_DEVICE] = Trial(task, task.members, "map")
    bystanders = Bystanders()
    measures = {name: partial(member_seconds, trial) for name, trial in trials.items()}
    layers = layers_of(images.train_images[0].size, config.hidden or (), config.latent_dim or 0)
    products = dense_products(layers, config.batch_size)
    steps = len(images.train_images) // config.batch_size
    measures[PRODUCTS] = partial(seconds_of, training_products(products, steps))
    first = {name: measure() for name, measure in measures.items()}
    turns = alternate(measures, turns=config.turns)
    copied = copy_ceiling()
    hardware = machine(bystanders)

    betas, seeds = grid_of(size)
    runs = {
        name: {
            "members": trial.size,
            "execution": trial.execution,
            "devices": trial.devices,
            "compile_seconds": trial.compile_seconds,
            "first_epoch_seconds": first[name],
            "usual_seconds": trial.compile_seconds
            + trial.size * total_seconds(first[name], spread(turns[name])["median_seconds"]),
            **spread(turns[name]),
            **compared(turns[name], turns["solo"]),
            "share_of_matrix_products": compared(turns[PRODUCTS], turns[name])[
                "median_of_turn_ratios"
            ],
            "test_neg_elbo": trial.neg_elbo(),
        }
        for name, trial in trials.items()
    }
    share = runs["solo"]["share_of_matrix_products"]
    alone = spread(turns[PRODUCTS])
    cost = step_cost(layers, config.batch_size)
    seconds = alone["median_seconds"]
    limits = limits_of(cost, steps, seconds=seconds, share=share, copied=copied)
    goals = [
        Goal.of_ratio("times solo, a member-epoch of map", GOAL_RATIO, runs["map"], at_most=True),
        Goal("bytes a parameter and member", GOAL_BYTES, added, at_most=True),
    ]
    measured = [
        measured_of(
            f"{name}, a member and epoch",
            runs.get(name, alone),
            ratio=None if name == "solo" else compared(turns[name], turns["solo"]),
            other="solo",
            goal=goals[0] if name == "map" else None,
        )
        for name in turns
    ]
    result = {
        **subject("sweep", config, images),
        "architecture": widths_of(config, images),
        "parameters": parameters,
        "betas": betas,
        "seeds": seeds,
        "images_per_epoch": steps * config.batch_size,
        "epochs": 1 + config.turns,
        "unit": "seconds per member and epoch, its evaluation included",
        "runs": runs,
        "matrix_products": alone,
        "limits": limits,
        "memory": used,
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(measured),
        "machine": hardware,
    }
    title = (
        f"VAE {result['architecture']} on {images.name}, batch {config.batch_size}, {size} members"
    )
    rows = [
        {
            "run": name,
            "members": str(one["members"]),
            "devices": str(one["devices"]),
            **{which: f"{one[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
            "times solo": f"{one['ratio_of_medians']:.3f}",
            "by turns": ratio_in_words(one),
            "of the products' rate": f"{one['share_of_matrix_products']:.0%}",
            "compiled in": f"{one['compile_seconds']:.2f}",
            f"{USUAL_EPOCHS} epochs of all": f"{one['usual_seconds']:,.0f}",
            f"-ELBO, {result['epochs']} epochs": f"{one['test_neg_elbo']:.2f}",
        }
        for name, one in runs.items()
    ]
    write_results(
        files,
        f"{title}: seconds per member and epoch, CPU",
        result,
        rows,
        f"An epoch is {result['images_per_epoch']} images and the evaluation on the test split. "
        f"Median, minimum and maximum over {config.turns} turns of one epoch, in which these "
        "and the matrix products alone alternate in one process. `solo`: one model as "
        "`experiments.mnist` trains it, a sweep of one member; `map` and `vmap`: the members one "
        "after the other in one program, and all at once, on as many devices as a run of them "
        "counts the processor as, which share its threads. Times solo: ratio of the medians; "
        "by turns: median and range of the ratios within a turn. Compiling is not in the times; "
        f"{USUAL_EPOCHS} epochs of all: it, and these of every member, what a user waits for. "
        "-ELBO is that of the member at beta 1 with the first seed, nats per image.",
        limits_in_words(limits, "`solo`, its evaluation in the time,"),
        "Memory: the peak resident memory of `python -m experiments.mnist --epochs 1 --figures "
        f"none --execution map` is {in_words(used['peak_bytes'])}. From the second to the third "
        f"that is {added:.1f} bytes for each of the {parameters:,} parameters of a further member, "
        "its part of the checkpoint included.",
        said_of(goals),
    )
    times = {name: np.array(turns[name]) for name in turns}
    what = "seconds per member and epoch on the CPU: median, range, and every epoch"
    figure = single_figure(title, turns, what, others=against_first(turns))
    figures.save(figure, files.with_suffix(".png"), **times)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def member_seconds(trial: Trial) -> float:
    """Seconds of one epoch of a population, divided by its members."""
    return seconds_of(trial.epoch) / trial.size


def memory(config: Sweep, images: ImageData, parameters: int) -> dict[str, Any]:
    """Peak memory of a run of one model and of two sweeps, and what a further member adds to it.

    Between the sweeps, because what one model takes at the most may be that of compiling it.

    Raises:
        UsageError: if a run fails.
    """
    few = config.memory_members
    settings = ["--hidden", *map(str, config.hidden or ()), "--latent-dim", str(config.latent_dim)]
    settings += ["--batch-size", str(config.batch_size), "--execution", "map"]
    settings += data_arguments(config, images)
    peaks: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        _, environment = isolated(Path(scratch))
        for members in (1, few, 2 * few):
            betas, seeds = grid_of(members)
            grid = ["--beta", *map(str, betas), "--seed", *map(str, seeds)]
            peaks[members], at_once = peak_of([*grid, *settings], environment)
            if at_once < members:
                raise UsageError(f"--memory-members {few}: {members} do not fit the memory at once")
    added = (peaks[2 * few] - peaks[few]) / few / parameters
    return {"peak_bytes": peaks, "bytes_per_parameter_and_member": added}


def in_words(peaks: Mapping[int, int]) -> str:
    """`700 MB for 1 member, 1,100 MB for 24 members and 1,600 MB for 48 members`."""
    *most, last = (
        f"{peak / 1e6:,.0f} MB for {members} member{'s' * (members > 1)}"
        for members, peak in peaks.items()
    )
    return f"{', '.join(most)} and {last}"
