"""One fully connected VAE beside its peers: `python -m experiments.benchmark single`."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from experiments._benchmark_cost import copy_ceiling, layers_of, step_cost, training_products
from experiments._benchmark_job import Goal, Job, begin, check_counts, said_of, subject
from experiments._peers import (
    OURS,
    Images,
    Peer,
    Problem,
    jax_peer,
    jax_steps_peer,
    loader_batches,
    neg_elbo_of,
    tensor_batches,
    torch_peer,
)
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
from vae_jax.networks import mlp

PRODUCTS = "matrix products"
COMPILED = "torch-compiled"
USUAL_EPOCHS = 20  # of `experiments.mnist`
GOALS = {"torch": 1.4, "torch-loader": 2.0, "pythae": 3.5}
SHARE_GOAL = 0.85


class PeerRow(NamedTuple):
    """A row of `PEERS`: how to build the peer, and a few words for the tables."""

    build: Callable[[Problem], Peer]
    description: str


# A new peer is a row here; the first one is what the others are compared with.
PEERS = {
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


@dataclasses.dataclass(frozen=True)
class Single(Job):
    """Time per epoch of one fully connected VAE, against PyTorch, pythae and a plain JAX loop.

    All start from the same weights and train the same model with the same optimiser, in
    turns of some epochs each, and beside them the matrix products of an epoch alone. Needs
    PyTorch and pythae: pip install 'vae_jax[bench]'; without a C++ compiler PyTorch's own
    compiler is left out.
    """

    epochs_per_turn: int = 1
    """Epochs of one peer before the next has its turn."""
    turns: int = 5
    """How often each has its turn; an epoch that compiles and warms up precedes them."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's layers; the decoder mirrors them."""
    latent_dim: int = 20
    """Dimensions of the latent z."""
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
    check_counts(config, "epochs_per_turn", "turns", "latent_dim", "batch_size")
    for width in config.hidden:
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")
    check(0 <= config.seed < 2**32, "--seed", config.seed, "0 to 2^32 - 1 is needed")
    import_pythae()
    files, images = begin("single", config)
    batch, total = config.batch_size, len(images.train_images)
    check(batch <= total, "--batch-size", batch, f"at most the {total} images of {images.name}")

    problem = problem_of(config, images.train_images)
    rows = {name: row for name, row in PEERS.items() if name != COMPILED or has_compiler()}
    peers = {name: row.build(problem) for name, row in rows.items()}
    layers = layers_of(images.train_images[0].size, config.hidden, config.latent_dim)
    steps, cost = total // batch, step_cost(layers, batch)
    products = training_products(layers, batch, steps)
    measures = {name: partial(seconds_of, peer.epoch) for name, peer in peers.items()}
    measures[PRODUCTS] = partial(seconds_of, products)
    bystanders = Bystanders()
    first: dict[str, float] = {}
    for name, measure in measures.items():
        first[name] = measure()
        print(f"first  {name}  {first[name]:.3f} s", flush=True)
    turns = alternate(measures, turns=config.turns, calls=config.epochs_per_turn)
    copied = copy_ceiling()
    hardware = machine(bystanders)

    found = {name: spread(turns[name]) | compared(turns[name], turns[OURS]) for name in turns}
    share = found[PRODUCTS]["median_of_turn_ratios"]
    per_epoch, ours = steps * batch, found[OURS]["median_seconds"]
    goals = [
        Goal(f"times {name}, an epoch", goal, found[name]["median_of_turn_ratios"])
        for name, goal in GOALS.items()
    ]
    goals.append(Goal("share of the matrix products' rate", SHARE_GOAL, share))
    result = {
        **subject("single", config, images),
        "architecture": "-".join(
            map(str, (images.train_images[0].size, *config.hidden, config.latent_dim))
        ),
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
        "limits": {
            "flops_per_epoch": steps * cost.flops,
            "bytes_per_epoch": steps * cost.bytes,
            "matrix_products": found[PRODUCTS],
            "flops_per_second": steps * cost.flops / found[PRODUCTS]["median_seconds"],
            "copied_bytes_per_second": copied,
            "share_of_matrix_products": share,
        },
        "goals": [goal.as_json() for goal in goals],
        "machine": hardware,
    }
    usual = f"{USUAL_EPOCHS} epochs"
    table = [
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
    billions = steps * cost.flops / 1e9
    moved = steps * cost.bytes / copied
    write_results(
        files,
        f"{title}: seconds per epoch, CPU",
        result,
        table,
        f"An epoch is {per_epoch} images. Median, minimum and maximum over {config.turns} turns "
        f"of {config.epochs_per_turn}, in which the peers alternate in one process. Times ours: "
        "ratio of the medians; by turns: median of the ratios within a turn. The first epoch "
        f"compiles and warms up and is not in the others; {usual}: it and "
        f"{USUAL_EPOCHS - 1} medians, what a user waits for. All start from the same weights; "
        "-ELBO is in nats per image on the whole test split, with the same noise for each.",
        f"The limit: an epoch's matrix products alone, {billions:.0f} GFLOP, take "
        f"{found[PRODUCTS]['median_seconds']:.3f} s in the same turns, "
        f"{billions / found[PRODUCTS]['median_seconds']:.0f} GFLOP/s; ours reaches "
        f"{100 * share:.0f}% of that rate. What a step reads and writes if no cache keeps it, "
        f"{cost.bytes / 1e6:.1f} MB, would take {moved:.2f} s an epoch at the "
        f"{copied / 1e9:.1f} GB/s of a copy.",
        said_of(goals),
        "\n".join(f"- `{name}`: {row.description}" for name, row in rows.items()),
    )
    print(f"ours {ours:.3f} s an epoch, {100 * share:.0f}% of the rate of its matrix products")
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    figures.save(single_figure(title, turns), files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def problem_of(config: Single, images: Images) -> Problem:
    """The model that a checked configuration describes, with fresh weights, and its data."""
    x_shape, latent_dim, likelihood = images.shape[1:], config.latent_dim, bernoulli()
    encoder, decoder = mlp(
        config.hidden, x_shape=x_shape, latent_dim=latent_dim, theta_dim=likelihood.theta_dim
    )
    vae = make_vae(encoder, decoder, likelihood, x_shape=x_shape, latent_dim=latent_dim)
    params = vae.init(jax.random.key(config.seed))
    return Problem(vae, config.batch_size, config.seed, params, images)


def has_compiler() -> bool:
    """Whether there is what `torch.compile` needs."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))
