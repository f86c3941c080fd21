"""How many models an accelerator trains at once, against one after the other and its limits."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

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
from experiments._benchmark_job import Goal, begin, said_of, subject
from experiments._benchmark_page import Measured, in_json, measured_of
from experiments._benchmark_sweep import (
    Sweep,
    Trial,
    grid_of,
    model_of,
    num_params,
    resolved,
    widths_of,
    yardstick,
)
from experiments._peers import (
    Peer,
    Problem,
    import_torch,
    jax_steps_peer,
    neg_elbo_of,
    tensor_batches,
    torch_graph_peer,
    torch_peer,
)
from experiments._run import UsageError
from experiments._timing import (
    Bystanders,
    Turns,
    alternate,
    machine,
    seconds_of,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.data import ImageData

GOAL_MEMBERS = 64
SHARE_GOAL = 0.5
# What JAX calls a precision at which a GPU multiplies float32 matrices in TF32, if it can.
TF32 = ("default", "tensorfloat32")
LOST_GOAL = 0.2
SOLO, STEPS = "vae_jax, solo", "JAX, a dispatch for every step"
TORCH, GRAPH = "torch", "torch, compiled and captured"
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
    files, images = begin("sweep", config, has_gpu=True)
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
    _write(files, result, goals, config)


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


def _write(files: Path, result: dict[str, Any], goals: Sequence[Goal], config: Sweep) -> None:
    populations, peers = result["populations"], result["one_after_the_other"]
    title = f"VAE {result['architecture']} on {result['dataset']}, batch {config.batch_size}"
    rows = [_table_row(f"{size} at once", row) for size, row in populations.items()]
    rows += [
        _table_row(f"{size} at once, bfloat16", row) for size, row in result["bfloat16"].items()
    ]
    rows += [_table_row(f"{name}, one by one", row) for name, row in peers.items()]
    conv = result["convolution"]
    forms = [
        f"{size} member{'s' * (size != '1')} "
        + " and ".join(f"{name} {form['median_seconds']:.2f} s" for name, form in each.items())
        for size, each in conv["forms"].items()
    ]
    write_results(
        files,
        f"{title}: models an hour, {result['device']}",
        result,
        rows,
        f"Seconds are medians of {config.turns} epochs of {result['images_per_epoch']} images "
        "after one that warms up; compiling is not in them. Training: an epoch less its "
        f"evaluation. A model is {config.epochs} epochs; models an hour, and how many times as "
        "many they are as PyTorch's, count training alone. One by one: one model was measured, "
        "in turns with the others, and as many as at once are taken to last as many times as "
        "long. Peak: of the device's memory since the process began. Shares: of the matrix "
        "products of a step alone, batched over as many members, and of copying a large array, "
        "both measured here; FLOPs and bytes are counted by `step_cost` in "
        "`experiments/_benchmark_cost.py`. -ELBO: of the member at beta 1 with the first seed, "
        "nats per image.",
        "bfloat16: the networks compute in it; weights, posterior, likelihood and KL are float32. "
        f"Otherwise they are float32, {precision_in_words(result['matmul_precision'])}. "
        f"`{TORCH}`: eager, data on the device, "
        f"fused Adam. `{GRAPH}`: the loss by `torch.compile`, a whole step one CUDA graph.",
        f"Convolutional {conv['architecture']} under vmap, an epoch with its evaluation: "
        f"{'; '.join(forms)}.",
        *([said_of(goals)] if goals else []),
    )
    times = {
        f"{size} at once": np.array(row["epoch"]["seconds"]) for size, row in populations.items()
    }
    times |= {name: np.array(row["epoch"]["seconds"]) for name, row in peers.items()}
    figures.save(_figure(title, result), files.with_suffix(".png"), **times)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def precision_in_words(precision: Mapping[str, str]) -> str:
    """How float32 matrix products are computed, by each library's own setting."""
    has_it = precision["jax"] in TF32 and precision["torch"] == "high"
    how = "in TF32 where the device has it" if has_it else "not both in TF32"
    return (
        f"and multiplied {how}: `jax_default_matmul_precision` is `{precision['jax']}`, PyTorch's "
        f"`float32_matmul_precision` is `{precision['torch']}`"
    )


def _table_row(name: str, row: Mapping[str, Any]) -> dict[str, str]:
    evaluation, peak = row.get("evaluation"), row.get("peak_device_bytes")
    at_once, counted = "times" in row, row.get("bytes") is not None
    seconds = row["training_seconds"]
    return {
        "models": name,
        "training s": f"{seconds:.3f}",
        "evaluation s": f"{evaluation['median_seconds']:.3f}" if evaluation else "",
        "models/h": f"{row['models_per_hour_training_alone']:,.0f}",
        "times torch": f"{row['times'][TORCH]:.1f}" if at_once else "",
        "peak MB": f"{peak / 1e6:,.0f}" if peak else "",
        "TFLOP/s": f"{row['flops'] / seconds / 1e12:.2f}" if at_once else "",
        "of products": f"{row['share_of_matrix_products']:.0%}" if at_once else "",
        "GB/s": f"{row['bytes'] / seconds / 1e9:,.0f}" if counted else "",
        "of copy": f"{row['share_of_copy']:.0%}" if counted else "",
        "-ELBO": f"{row['test_neg_elbo']:.2f}",
    }


def _figure(title: str, result: Mapping[str, Any]) -> Figure:
    """Models an hour over members at once, and those of one after the other as lines."""
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.add_subplot()
    sizes = [row["members"] for row in result["populations"].values()]
    rates = [row["models_per_hour_training_alone"] for row in result["populations"].values()]
    axes.loglog(sizes, rates, "o-", color=figures.BLUE, label="vae_jax, at once (vmap)")
    styles = ("-", "--", ":", "-.")
    peers = result["one_after_the_other"].items()
    for style, (name, row) in zip(itertools.cycle(styles), peers, strict=False):
        rate = row["models_per_hour_training_alone"]
        label = f"{name}, one by one"
        axes.axhline(rate, linestyle=style, color=figures.VERMILION, label=label)
    axes.set_xticks(sizes, list(map(str, sizes)), minor=False)
    axes.set_xlabel(f"models at once, {result['device']}", fontsize=8)
    axes.set_ylabel("models an hour", fontsize=8)
    axes.set_title(title, loc="left", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
