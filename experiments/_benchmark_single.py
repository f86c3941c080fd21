"""One fully connected VAE beside its peers: `python -m experiments.benchmark single`."""

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from experiments._benchmark_cost import (
    Cost,
    copy_ceiling,
    layers_of,
    step_cost,
    training_products,
)
from experiments._benchmark_job import Goal, Job, begin, check_counts, said_of, subject
from experiments._peers import (
    OURS,
    Images,
    Peer,
    Problem,
    import_torch,
    jax_peer,
    jax_steps_peer,
    loader_batches,
    neg_elbo_of,
    tensor_batches,
    torch_peer,
)
from experiments._peers_conv import CONV
from experiments._peers_pythae import import_pythae, pythae_peer
from experiments._run import check
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import CONV_CHANNELS, NETWORKS

PRODUCTS = "matrix products"
COMPILED = "torch-compiled"
USUAL_EPOCHS = 20  # of `experiments.mnist`
GOALS = {
    "mlp": {"torch": 1.4, "torch-loader": 2.0, "pythae": 3.5},
    "conv": {"torch": 1.0},
}
SHARE_GOAL = 0.85


class PeerRow(NamedTuple):
    """A row of `PEERS`: how to build the peer, and a few words for the tables."""

    build: Callable[[Problem], Peer]
    description: str


# A new peer is a row here; the first one is what the others are compared with.
MLP_PEERS = {
    OURS: PeerRow(jax_peer, "an epoch is one compiled scan; uint8 images in memory"),
    "jax-steps": PeerRow(
        jax_steps_peer, "JAX, a jitted step for each minibatch that NumPy gathers; optax's Adam"
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
}
PEERS = {"mlp": MLP_PEERS, "conv": CONV_PEERS}
SIZES = {"mlp": ((400,), 20), "conv": ((256,), 2)}  # dense layers and z, unless they are given


@dataclasses.dataclass(frozen=True)
class Single(Job):
    """Time per epoch of one VAE, against PyTorch, a plain JAX loop, and for `mlp` pythae.

    All start from the same weights and train the same model with the same optimiser, in
    turns of some epochs each, and for `mlp` the matrix products of an epoch alone. Needs
    PyTorch and pythae: pip install 'vae_jax[bench]'; without a C++ compiler PyTorch's own
    compiler is left out, and so is said.
    """

    network: Literal["mlp", "conv"] = "mlp"
    """Fully connected, or convolutions of 32 and 64 channels before the dense layers."""
    epochs_per_turn: int = 1
    """Epochs of one peer before the next has its turn."""
    turns: int = 5
    """How often each has its turn; an epoch that compiles and warms up precedes them."""
    hidden: tuple[int, ...] | None = None
    """Widths of the encoder's dense layers, 400 or for conv 256; the decoder mirrors them."""
    latent_dim: int | None = None
    """Dimensions of the latent z, 20 or for conv 2."""
    batch_size: int = 128
    """Images in a minibatch; the remainder of an epoch that fills none is left out."""
    seed: int = 0
    """Of the weights, the shuffling and the noise."""


def run(config: Single) -> None:
    """Time the peers and write what came out.

    Raises:
        UsageError: if PyTorch or pythae is missing, or a setting, the data or the folder does
            not allow it.
    """
    config = resolved(config)
    check_counts(config, "epochs_per_turn", "turns", "hidden", "latent_dim", "batch_size")
    check(0 <= config.seed < 2**32, "--seed", config.seed, "0 to 2^32 - 1 is needed")
    import_torch()
    if "pythae" in PEERS[config.network]:
        import_pythae()
    job = "single" if config.network == "mlp" else f"single-{config.network}"
    files, images = begin(job, config)
    batch, total = config.batch_size, len(images.train_images)
    check(batch <= total, "--batch-size", batch, f"at most the {total} images of {images.name}")

    problem = problem_of(config, images.train_images)
    pixels, steps = images.train_images[0].size, total // batch
    layers = layers_of(pixels, config.hidden or (), config.latent_dim or 1)
    bystanders = Bystanders()
    with compiled_anew():
        peers, first = first_epochs(PEERS[config.network], problem)
    rows = {name: PEERS[config.network][name] for name in peers}
    measures = {name: partial(seconds_of, peer.epoch) for name, peer in peers.items()}
    if config.network == "mlp":
        measures[PRODUCTS] = partial(seconds_of, training_products(layers, batch, steps))
        measures[PRODUCTS]()
    turns = alternate(measures, turns=config.turns, calls=config.epochs_per_turn)

    found = {name: spread(turns[name]) | compared(turns[name], turns[OURS]) for name in turns}
    per_epoch = steps * batch
    goals = [
        Goal(f"times {name}, an epoch", goal, found[name]["median_of_turn_ratios"])
        for name, goal in GOALS[config.network].items()
    ]
    limits, said = {}, []
    if config.network == "mlp":
        limits = limits_of(found[PRODUCTS], step_cost(layers, batch), steps)
        share = limits["share_of_matrix_products"]
        goals.append(Goal("share of the matrix products' rate", SHARE_GOAL, share))
        said = [told(limits)]
    result = {
        **subject(job, config, images),
        "architecture": architecture(config, pixels),
        "images_per_epoch": per_epoch,
        "epochs": 1 + config.turns * config.epochs_per_turn,
        "peers": {
            name: {
                "description": rows[name].description,
                "first_epoch_seconds": first[name],
                **found[name],
                "images_per_second": per_epoch / found[name]["median_seconds"],
                "test_neg_elbo": neg_elbo_of(problem.vae, peer.params(), images.test_images),
            }
            for name, peer in peers.items()
        },
        "limits": limits,
        "goals": [goal.as_json() for goal in goals],
        "machine": machine(bystanders),
    }
    usual = f"{USUAL_EPOCHS} epochs"
    cells = [
        {
            "peer": name,
            **{which: f"{peer[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
            "images/s": f"{peer['images_per_second']:,.0f}",
            "times ours": f"{peer['ratio_of_medians']:.2f}",
            "by turns": f"{peer['median_of_turn_ratios']:.2f}",
            "first epoch": f"{peer['first_epoch_seconds']:.2f}",
            usual: f"{first[name] + (USUAL_EPOCHS - 1) * peer['median_seconds']:.1f}",
            f"-ELBO, {result['epochs']} epochs": f"{peer['test_neg_elbo']:.2f}",
        }
        for name, peer in result["peers"].items()
    ]
    title = f"VAE {result['architecture']} on {images.name}, batch {batch}"
    write_results(
        files,
        f"{title}: seconds per epoch, CPU",
        result,
        cells,
        f"An epoch is {per_epoch} images. Median, minimum and maximum over {config.turns} turns "
        f"of {config.epochs_per_turn}, in which the peers alternate in one process. Times ours: "
        "ratio of the medians; by turns: median of the ratios within a turn. The first epoch "
        "has what precedes it, the copies of the data and compilation without a cache, and is not "
        f"in the others; {usual}: it and {USUAL_EPOCHS - 1} medians, what a user waits for. "
        "All start from the same weights; -ELBO is in nats per image on the whole test split, "
        "with the same noise for each.",
        *said,
        said_of(goals),
        "\n".join(
            f"- `{name}`: {row.description}" + ("" if name in rows else "; failed here, left out")
            for name, row in PEERS[config.network].items()
        ),
    )
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    figures.save(single_figure(title, turns), files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def resolved(config: Single) -> Single:
    """The configuration with the sizes that its network has by default."""
    hidden, latent_dim = SIZES[config.network]
    return dataclasses.replace(
        config,
        hidden=hidden if config.hidden is None else config.hidden,
        latent_dim=latent_dim if config.latent_dim is None else config.latent_dim,
    )


def problem_of(config: Single, images: Images) -> Problem:
    """The model that a checked configuration describes, with fresh weights, and its data."""
    config = resolved(config)
    assert config.hidden is not None
    assert config.latent_dim is not None
    x_shape, likelihood = images.shape[1:], bernoulli()
    sizes = {"x_shape": x_shape, "latent_dim": config.latent_dim}
    encoder, decoder = NETWORKS[config.network](
        config.hidden, theta_dim=likelihood.theta_dim, **sizes
    )
    vae = make_vae(encoder, decoder, likelihood, **sizes)
    params = vae.init(jax.random.key(config.seed))
    return Problem(vae, config.batch_size, config.seed, params, images)


def limits_of(products: dict[str, Any], cost: Cost, steps: int) -> dict[str, Any]:
    """How near an epoch is to what the machine can do.

    Args:
        products: the times of its matrix products alone, compared with ours.
        cost: of a step.
        steps: in an epoch.

    Returns:
        The cost of an epoch, the rates of the matrix products and of a copy, and the share of
        the former that was reached.
    """
    return {
        "flops_per_epoch": steps * cost.flops,
        "bytes_per_epoch": steps * cost.bytes,
        "matrix_products": products,
        "flops_per_second": steps * cost.flops / products["median_seconds"],
        "copied_bytes_per_second": copy_ceiling(),
        "share_of_matrix_products": products["median_of_turn_ratios"],
    }


def told(limits: dict[str, Any]) -> str:
    """The limits in words."""
    seconds = limits["bytes_per_epoch"] / limits["copied_bytes_per_second"]
    return (
        f"The limit: an epoch's matrix products alone, {limits['flops_per_epoch'] / 1e9:.0f} "
        f"GFLOP, take {limits['matrix_products']['median_seconds']:.3f} s in the same turns, "
        f"{limits['flops_per_second'] / 1e9:.0f} GFLOP/s; ours reaches "
        f"{100 * limits['share_of_matrix_products']:.0f}% of that rate. What an epoch reads and "
        f"writes if no cache keeps it, {limits['bytes_per_epoch'] / 1e9:.1f} GB, would take "
        f"{seconds:.2f} s at the {limits['copied_bytes_per_second'] / 1e9:.1f} GB/s of a copy."
    )


def architecture(config: Single, pixels: int) -> str:
    """`784-400-20`, or of the convolutional network the channels and the dense layers."""
    widths = [pixels] if config.network == "mlp" else [*CONV_CHANNELS]
    return "-".join(map(str, [*widths, *(config.hidden or ()), config.latent_dim]))


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
        peer = row.build(problem)
        try:
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


@contextlib.contextmanager
def compiled_anew() -> Iterator[None]:
    """What an earlier benchmark compiled is not found, by JAX or by PyTorch."""
    before = jax.config.values["jax_enable_compilation_cache"]
    os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
