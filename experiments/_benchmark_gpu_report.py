"""What is written of a population on an accelerator: its table, its notes and its figure."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments._benchmark_job import Goal, said_of
from experiments._benchmark_sweep import Sweep
from experiments._timing import write_results
from vae_jax import figures

SOLO, STEPS = "vae_jax, solo", "JAX, a dispatch for every step"
TORCH, GRAPH = "torch", "torch, compiled and captured"
# What JAX calls a precision at which a GPU multiplies float32 matrices in TF32, if it can.
TF32 = ("default", "tensorfloat32")


def write(files: Path, result: dict[str, Any], goals: Sequence[Goal], config: Sweep) -> None:
    """Write the result as JSON, as a table with notes, and as a figure.

    Args:
        files: where, without an ending.
        result: of the job.
        goals: and what became of them.
        config: of the job, with its defaults filled in.
    """
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
    figures.save(gpu_figure(title, result), files.with_suffix(".png"), **times)
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


def gpu_figure(title: str, result: Mapping[str, Any]) -> Figure:
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
