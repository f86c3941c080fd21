"""One VAE beside its peers: `python -m experiments.benchmark single`."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from experiments._benchmark_cost import (
    PRODUCTS,
    copy_ceiling,
    limits_in_words,
    limits_of,
    training_products,
)
from experiments._benchmark_job import Goal, OnCpu, said_of, subject
from experiments._benchmark_model import (
    Begun,
    OneModel,
    begin_model,
    checked,
    widths_of,
    work_of,
)
from experiments._benchmark_page import Measured, in_json, measured_of
from experiments._peers import OURS, Peer, Problem, jax_peer, jax_steps_peer, neg_elbo_of
from experiments._peers_conv import CONV
from experiments._peers_pythae import import_pythae, pythae_peer
from experiments._peers_torch import import_torch, loader_batches, tensor_batches, torch_peer
from experiments._run import check_counts
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

COMPILED = "torch-compiled"
USUAL_EPOCHS = 20  # of `experiments.mnist`
GOALS = {
    "mlp": {"torch": 1.4, "torch-loader": 2.0, "pythae": 3.5},
    "conv": {"torch": 1.0, "torch-channels-last": 1.0, COMPILED: 1.0},
}
TURNS = {"mlp": 15, "conv": 5}
SHARE_GOALS = {"mlp": 0.85}
SHARE = "share of the matrix products' rate"


class PeerRow(NamedTuple):
    """A row of `PEERS`: how to build the peer, and a few words for the tables."""

    build: Callable[[Problem], Peer]
    description: str


# A new peer is a row here; the first one is drawn in a colour of its own.
MLP_PEERS = {
    OURS: PeerRow(jax_peer, "an epoch is one compiled scan; uint8 images in memory"),
    "jax-steps": PeerRow(
        jax_steps_peer,
        "plain JAX: a loss written by hand, optax's Adam, a jitted step for each minibatch, which "
        "NumPy gathers from float32 images",
    ),
    "torch": PeerRow(
        partial(torch_peer, batches_of=tensor_batches),
        "PyTorch eager, fused Adam; float32 tensor in memory, gathered by index",
    ),
    COMPILED: PeerRow(
        partial(torch_peer, batches_of=tensor_batches, compiled=True),
        "the same, the loss and its gradient by torch.compile",
    ),
    "torch-loader": PeerRow(
        partial(torch_peer, batches_of=loader_batches),
        "PyTorch eager, with DataLoader(TensorDataset, shuffle=True)",
    ),
    "pythae": PeerRow(
        pythae_peer, "pythae's BaseTrainer, without validation and files; keeps the last minibatch"
    ),
}
CONV_PEERS = {
    OURS: PeerRow(jax_peer, "convolutions as matrix products in one compiled scan"),
    "jax-steps": MLP_PEERS["jax-steps"],
    "torch": PeerRow(
        partial(torch_peer, batches_of=tensor_batches, twin=CONV),
        "PyTorch eager, its own convolutions (oneDNN), fused Adam; data in memory",
    ),
    "torch-channels-last": PeerRow(
        partial(torch_peer, batches_of=tensor_batches, twin=CONV, channels_last=True),
        "the same, images and kernels laid out with their channels last",
    ),
    COMPILED: PeerRow(
        partial(torch_peer, batches_of=tensor_batches, twin=CONV, compiled=True),
        "the first of these, the loss and its gradient by torch.compile",
    ),
}
PEERS = {"mlp": MLP_PEERS, "conv": CONV_PEERS}


@dataclasses.dataclass(frozen=True)
class Single(OnCpu, OneModel):
    """Time per epoch of one VAE, against PyTorch, a plain JAX loop, and for `mlp` pythae.

    All start from the same weights and train the same model with the same optimiser, in
    turns of some epochs each, and beside them the matrix products of an epoch alone. Needs
    PyTorch and pythae: pip install 'vae_jax[bench]'; without a C++ compiler PyTorch's own
    compiler is left out, and so is said.
    """

    epochs_per_turn: int = 1
    """Epochs of one peer before the next has its turn."""
    turns: int | None = None
    """How often each has its turn, 15 times or for conv 5; an epoch that compiles and warms
    up precedes them."""


def run(config: Single) -> None:
    """Time the peers and write what came out.

    Raises:
        UsageError: if PyTorch or pythae is missing, or a setting, the data or the folder does
            not allow it.
    """
    turns_of = TURNS[config.network] if config.turns is None else config.turns
    config = dataclasses.replace(checked(config), turns=turns_of)
    check_counts(config, "epochs_per_turn", "turns")
    table = PEERS[config.network]
    import_torch()
    if "pythae" in table:
        import_pythae()
    begun = begin_model("single", config)
    bystanders = Bystanders()
    peers, first = first_epochs(table, begun.problem)
    measures = {name: partial(seconds_of, peer.epoch) for name, peer in peers.items()}
    x_shape = begun.images.train_images.shape[1:]
    products, cost = work_of(config, x_shape, begun.problem.params)
    measures[PRODUCTS] = partial(seconds_of, training_products(products, begun.steps))
    measures[PRODUCTS]()
    turns = alternate(measures, turns=turns_of, calls=config.epochs_per_turn)
    copied = copy_ceiling()

    found = {name: spread(turns[name]) | compared(turns[name], turns[OURS]) for name in turns}
    goals = goals_of(config, found)
    per_epoch = begun.steps * config.batch_size
    vae, test_images = begun.problem.vae, begun.images.test_images
    result = {
        **subject(begun.job, config, begun.images),
        "architecture": widths_of(config, begun.pixels),
        "images_per_epoch": per_epoch,
        "epochs": 1 + turns_of * config.epochs_per_turn,
        "peers": {
            name: {
                "description": table[name].description,
                "compile_seconds": peer.compile_seconds,
                "first_epoch_seconds": first[name],
                "usual_seconds": total_seconds(first[name], found[name]["median_seconds"]),
                **found[name],
                "images_per_second": per_epoch / found[name]["median_seconds"],
                "test_neg_elbo": neg_elbo_of(vae, peer.params(), test_images),
            }
            for name, peer in peers.items()
        },
        "matrix_products": found[PRODUCTS],
        "limits": limits_of(
            cost,
            begun.steps,
            seconds=found[PRODUCTS]["median_seconds"],
            share=found[PRODUCTS]["median_of_turn_ratios"],
            copied=copied,
        ),
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(lines_of(found, goals)),
        "machine": machine(bystanders),
    }
    _write(config, begun, result, goals, turns)


def _write(
    config: Single,
    begun: Begun,
    result: dict[str, Any],
    goals: Sequence[Goal],
    turns: Mapping[str, Turns],
) -> None:
    usual = f"{USUAL_EPOCHS} epochs"
    rows = [
        {
            "peer": name,
            **{which: f"{peer[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
            "images/s": f"{peer['images_per_second']:,.0f}",
            "times ours": f"{peer['ratio_of_medians']:.2f}",
            "by turns": ratio_in_words(peer),
            "compiled in": seconds_in_words(peer["compile_seconds"]),
            "first epoch": f"{peer['first_epoch_seconds']:.2f}",
            usual: f"{peer['usual_seconds']:.1f}",
            f"-ELBO, {result['epochs']} epochs": f"{peer['test_neg_elbo']:.2f}",
        }
        for name, peer in result["peers"].items()
    ]
    title = f"VAE {result['architecture']} on {begun.images.name}, batch {config.batch_size}"
    write_results(
        begun.files,
        f"{title}: seconds per epoch, CPU",
        result,
        rows,
        f"An epoch is {result['images_per_epoch']} images. Median, minimum and maximum over "
        f"{config.turns} turns of {config.epochs_per_turn}, in which the peers alternate in one "
        "process. Times ours: ratio of the medians; by turns: median and range of the ratios "
        "within a turn. The first epoch has what precedes it, the copies of the data and "
        "compilation without a cache, and is not in the others; compiled in: that part of it, "
        f"where a program is compiled ahead; {usual}: the first epoch and {USUAL_EPOCHS - 1} "
        "medians, what a user waits for. All start from the same weights; -ELBO is in nats per "
        "image on the whole test split, with the same noise for each.",
        limits_in_words(result["limits"]),
        said_of(goals),
        "\n".join(
            f"- `{name}`: {row.description}"
            + ("" if name in result["peers"] else "; failed here, left out")
            for name, row in PEERS[config.network].items()
        ),
    )
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    figure = single_figure(title, turns, others=against_first(turns))
    figures.save(figure, begun.files.with_suffix(".png"), **seconds)
    print(f"{begun.files.name}.json, .md and .png are in {begun.files.parent}")


def goals_of(config: Single, found: Mapping[str, Mapping[str, Any]]) -> list[Goal]:
    """What is to be reached, and what was, from the times compared with ours."""
    goals = [
        Goal.of_ratio(f"times {name}, an epoch", goal, found[name])
        for name, goal in GOALS[config.network].items()
    ]
    if config.network in SHARE_GOALS:
        goals.append(Goal.of_ratio(SHARE, SHARE_GOALS[config.network], found[PRODUCTS]))
    return goals


def lines_of(found: Mapping[str, Mapping[str, Any]], goals: Sequence[Goal]) -> list[Measured]:
    """What the page of all jobs says of the times."""
    about = {goal.what: goal for goal in goals}
    return [
        measured_of(
            f"{name}, an epoch",
            times,
            ratio=None if name == OURS else times,
            goal=about.get(SHARE if name == PRODUCTS else f"times {name}, an epoch"),
        )
        for name, times in found.items()
    ]


def total_seconds(first: float, median: float) -> float:
    """What a user waits for: the first epoch with all before it, and the rest of the usual ones."""
    return first + (USUAL_EPOCHS - 1) * median


def seconds_in_words(seconds: float | None) -> str:
    """Two digits behind the point; nothing where there is nothing."""
    return "" if seconds is None else f"{seconds:.2f}"


def first_epochs(
    table: Mapping[str, PeerRow], problem: Problem
) -> tuple[dict[str, Peer], dict[str, float]]:
    """Build each peer and train its first epoch.

    What PyTorch compiles with, a C++ compiler and Python's headers, may be missing: that peer is
    left out, and so is said.

    Returns:
        The peers, and the seconds until each has finished its first epoch.
    """
    peers: dict[str, Peer] = {}
    first: dict[str, float] = {}
    for name, row in table.items():
        began = time.perf_counter()
        try:
            peer = row.build(problem)
            peer.epoch()
        except RuntimeError as error:
            if name != COMPILED:
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            print(f"warning: {name} is left out: {reason[:200]}", file=sys.stderr)
            continue
        peers[name], first[name] = peer, time.perf_counter() - began
        print(f"first  {name}  {first[name]:.3f} s", flush=True)
    return peers, first
