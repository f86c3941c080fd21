"""How many models an accelerator trains at once, against one after the other and its limits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax

from experiments import mnist
from experiments._benchmark_conv import compare
from experiments._benchmark_cost import (
    Layers,
    copy_ceiling,
    layers_of,
    limits_of,
    matmul_ceiling,
    step_cost,
)
from experiments._benchmark_gpu_report import GRAPH, SOLO, STEPS, TORCH, write
from experiments._benchmark_job import Goal, begin, subject
from experiments._benchmark_page import Measured, in_json, measured_of
from experiments._benchmark_sweep import (
    Sweep,
    grid_of,
    model_of,
    num_params,
    resolved,
    widths_of,
)
from experiments._benchmark_trial import Trial, yardstick
from experiments._peers import Peer, Problem, jax_steps_peer, neg_elbo_of
from experiments._peers_torch import import_torch, tensor_batches, torch_graph_peer, torch_peer
from experiments._run import UsageError
from experiments._timing import (
    Bystanders,
    Turns,
    alternate,
    machine,
    seconds_of,
    spread,
)
from vae_jax.data import ImageData

GOAL_MEMBERS = 64
SHARE_GOAL = 0.5
LOST_GOAL = 0.2
TIMES_GOALS = {TORCH: 100.0, GRAPH: 20.0}


def run(config: Sweep, torch_device: str = "cuda") -> None:
    """Measure on the GPU, and write what came out.

    Args:
        config: what to measure.
        torch_device: where the PyTorch peers train.

    Raises:
        UsageError: if a setting, the data, the device or the folder does not allow it.
    """
    config = resolved(config)
    files, images = begin("sweep", config)
    torch = import_torch()
    if torch_device == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("--device gpu: PyTorch sees no GPU, a version with CUDA is needed")
        # The precision that JAX has by default: TF32 where the device knows it.
        torch.set_float32_matmul_precision("high")
    sizes = config.members or ()
    bystanders = Bystanders()
    # Smaller ones first, because the device tells only the peak since the process began.
    populations = {str(size): population_row(config, images, size) for size in sizes}
    peers = peer_rows(config, images, torch_device)
    low = {
        str(size): population_row(config, images, size, compute_dtype="bfloat16")
        for size in low_sizes(sizes)
    }
    for row in low.values():
        row["peak_device_bytes"] = None  # it is that of the largest population before
    layers = layers_of(images.train_images[0].size, config.hidden or (), config.latent_dim or 0)
    copied = copy_ceiling()
    for row in [*populations.values(), *low.values()]:
        row |= against(row, peers)
        row |= roofline(config, layers, row, len(images.train_images), copied)
    goals = goals_of(populations, low)
    result = {
        **subject("sweep", config, images),
        "architecture": widths_of(config, images),
        "device": jax.devices()[0].device_kind,
        "matmul_precision": {
            "jax": str(jax.config.values["jax_default_matmul_precision"] or "default"),
            "torch": torch.get_float32_matmul_precision(),
        },
        "images_per_epoch": len(images.train_images) // config.batch_size * config.batch_size,
        "epochs": 1 + config.turns,
        "populations": populations,
        "bfloat16": low,
        "one_after_the_other": peers,
        "convolution": compare(config, images),
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(lines_of(populations, low, peers)),
        "machine": machine(bystanders),
    }
    write(files, result, goals, config)


def low_sizes(sizes: Sequence[int]) -> list[int]:
    """Members that train in bfloat16 too: as many as in the goals and more, or the most."""
    return [size for size in sizes if size >= GOAL_MEMBERS] or [max(sizes)]


def population_row(
    config: Sweep, images: ImageData, size: int, compute_dtype: str = "float32"
) -> dict[str, Any]:
    """Train a population under vmap, and sum up its epochs and its memory.

    Raises:
        UsageError: if the device cannot run it.
    """
    model = model_of(config, images, size, compute_dtype=compute_dtype)
    task = mnist.prepare(model)[1]
    try:
        trial = Trial(task, task.members, "vmap")
        measured = training_row(alternate(warmed(trial, f"{size} members"), turns=config.turns))
    except jax.errors.JaxRuntimeError as error:
        why = str(error).splitlines()[0]
        raise UsageError(f"--members {size}: the device cannot run it ({why})") from None
    stats = jax.devices()[0].memory_stats() or {}
    betas, seeds = grid_of(size)
    trial.check_all_trained()
    per_hour = 3600 * size / measured["training_seconds"] / config.epochs
    whole = 3600 * size / measured["epoch"]["median_seconds"] / config.epochs
    return {
        "members": size,
        "compute_dtype": compute_dtype,
        "betas": betas,
        "seeds": seeds,
        "parameters": num_params(task),
        "compile_seconds": trial.compile_seconds,
        **measured,
        "models_per_hour": whole,
        "models_per_hour_training_alone": per_hour,
        "peak_device_bytes": stats.get("peak_bytes_in_use"),
        "test_neg_elbo": neg_elbo_of(task.vae, trial.params(), images.test_images),
    }


def warmed(trial: Trial, name: str) -> dict[str, Callable[[], float]]:
    """What is timed of a trial, after a first call of each."""
    trial.epoch()
    trial.evaluate()
    return {
        name: partial(seconds_of, trial.epoch),
        f"{name}, evaluation": partial(seconds_of, trial.evaluate),
    }


def training_row(turns: Mapping[str, Turns]) -> dict[str, Any]:
    """The times of an epoch and of its evaluation, and what is left for training."""
    epoch, evaluation = map(spread, turns.values())
    alone = epoch["median_seconds"] - evaluation["median_seconds"]
    return {"epoch": epoch, "evaluation": evaluation, "training_seconds": alone}


def peer_rows(config: Sweep, images: ImageData, device: str) -> dict[str, Any]:
    """Train one model of each kind in turns, from the same weights: they set the pace of many."""
    task = mnist.prepare(model_of(config, images, 1))[1]
    vae, member = task.vae, yardstick(task.members)
    trial = Trial(task, [member], "map")
    params = task.trainer.init(jax.random.key(member.seed), member.hyper).params
    problem = Problem(vae, config.batch_size, member.seed, params, images.train_images)
    peers: dict[str, Peer] = {TORCH: torch_peer(problem, tensor_batches, device)}
    peers[STEPS] = jax_steps_peer(problem)
    if device == "cuda":
        peers[GRAPH] = torch_graph_peer(problem, device)
    ours = warmed(trial, SOLO)
    for peer in peers.values():
        peer.epoch()
    measures = {name: partial(seconds_of, peer.epoch) for name, peer in peers.items()}
    turns = alternate({**ours, **measures}, turns=config.turns)
    rows = {SOLO: training_row({name: turns[name] for name in ours})}
    rows[SOLO]["test_neg_elbo"] = neg_elbo_of(vae, trial.params(), images.test_images)
    for name, peer in peers.items():
        times = spread(turns[name])
        rows[name] = {"epoch": times, "training_seconds": times["median_seconds"]}
        rows[name]["test_neg_elbo"] = neg_elbo_of(vae, peer.params(), images.test_images)
    for row in rows.values():
        per_hour = 3600 / row["training_seconds"] / config.epochs
        row["models_per_hour_training_alone"] = per_hour
    return rows


def against(row: Mapping[str, Any], peers: Mapping[str, Any]) -> dict[str, Any]:
    """How many times as long the members take one after the other, training alone."""
    each = row["training_seconds"] / row["members"]
    return {"times": {name: peer["training_seconds"] / each for name, peer in peers.items()}}


def roofline(
    config: Sweep, layers: Layers, row: Mapping[str, Any], num_images: int, copied: float
) -> dict[str, Any]:
    """What a population's epoch of training costs, and how near it is to what the device can."""
    size, seconds = row["members"], row["training_seconds"]
    cost, steps = step_cost(layers, config.batch_size), size * (num_images // config.batch_size)
    rate = matmul_ceiling(layers, config.batch_size, size, dtype=row["compute_dtype"])
    alone = steps * cost.flops / rate
    limits = limits_of(cost, steps, seconds=alone, share=alone / seconds, copied=copied)
    # In bfloat16 weights and moments are float32 and what passes through is not: not counted.
    counted = row["compute_dtype"] == "float32"
    return {
        **limits,
        "bytes": limits["bytes"] if counted else None,
        "share_of_copy": limits["bytes"] / seconds / copied if counted else None,
    }


def lines_of(
    populations: Mapping[str, Any], low: Mapping[str, Any], peers: Mapping[str, Any]
) -> list[Measured]:
    """What the page of all jobs says of the epochs."""
    at_once = {f"{size} at once": row for size, row in populations.items()}
    at_once |= {f"{size} at once, bfloat16": row for size, row in low.items()}
    lines = [
        measured_of(f"{name}, an epoch", row["epoch"])._replace(
            times=f"{row['times'][TORCH]:.1f} x the models an hour of {TORCH}"
        )
        for name, row in at_once.items()
    ]
    return lines + [measured_of(f"{name}, an epoch", row["epoch"]) for name, row in peers.items()]


def goals_of(
    populations: Mapping[str, Mapping[str, Any]], low: Mapping[str, Mapping[str, Any]]
) -> list[Goal]:
    """What many members are to reach, and what they did; nothing if as many were not measured.

    Args:
        populations: by their members.
        low: those in bfloat16, likewise.
    """
    row = populations.get(str(GOAL_MEMBERS))
    if row is None:
        return []
    many = f"{GOAL_MEMBERS} members"
    goals = [
        Goal(f"times {name}, {many}", TIMES_GOALS[name], times)
        for name, times in row["times"].items()
        if name in TIMES_GOALS
    ]
    share = max(row["share_of_matrix_products"], row["share_of_copy"])
    lost = low[str(GOAL_MEMBERS)]["test_neg_elbo"] - row["test_neg_elbo"]
    return [
        *goals,
        Goal(f"share of the roofline, {many}", SHARE_GOAL, share),
        Goal(f"nats that bfloat16 costs, {many}", LOST_GOAL, lost, at_most=True),
    ]
