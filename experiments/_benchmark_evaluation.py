"""log p(x) by importance sampling, beside the machine's matrix products and pythae.

`python -m experiments.benchmark evaluation`
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._benchmark_cost import PRODUCTS, layers_of
from experiments._benchmark_job import Goal, Job, begin, check_counts, said_of, subject
from experiments._peers import OURS, import_torch
from experiments._peers_pythae import import_pythae, pythae_vae
from experiments._run import check
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    ratio_in_words,
    seconds_of,
    spread,
    write_results,
)
from vae_jax.evaluation import estimate_log_likelihood
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.preprocess import binarize_threshold

SHARE_GOAL, PYTHAE_GOAL = 0.6, 20.0
HIDDEN, LATENT = (200, 200), 50
ROWS = 4096  # of a matrix product: 32 images of 128 samples, as the estimate has them at once
PEER_BATCH = 100  # pythae's default


@dataclasses.dataclass(frozen=True)
class Evaluation(Job):
    """log p(x) of MNIST's test images with 5,000 samples, of 784-200-200-50.

    Against matrix products of the same shapes and number, and pythae's `get_nll` on a few of
    the same images with the same weights. Needs PyTorch and pythae: pip install 'vae_jax[bench]'.
    """

    turns: int = 7
    """How often each is measured; a call that compiles and warms up precedes them."""
    samples: int = 5000
    """Of z, for each image; a multiple of 100."""
    images: int = 128
    """Of the test split, in a turn of ours."""
    peer_images: int = 16
    """In a turn of pythae, the first of them."""


def run(config: Evaluation) -> None:
    """Measure, and write what came out.

    Raises:
        UsageError: if PyTorch or pythae is missing, or a setting, the data or the folder does
            not allow it.
    """
    check_counts(config, "turns", "samples", "images", "peer_images")
    allowed = f"a multiple of {PEER_BATCH} is needed"
    check(config.samples % PEER_BATCH == 0, "--samples", config.samples, allowed)
    few = config.peer_images
    check(few <= config.images, "--peer-images", few, f"at most --images {config.images}")
    import_pythae()
    files, images = begin("evaluation", config)
    most = len(images.test_images)
    check(config.images <= most, "--images", config.images, f"at most {most} of {images.name}")

    shape = images.test_images.shape[1:]
    networks = mlp(HIDDEN, x_shape=shape, latent_dim=LATENT, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=shape, latent_dim=LATENT)
    params = vae.init(jax.random.key(0))
    some = jnp.asarray(images.test_images[: config.images])
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        estimate = estimate_log_likelihood(
            jax.random.key(1), vae, binarize_threshold, params, some, num_samples=config.samples
        )
        found[OURS] = np.asarray(estimate.log_likelihood)

    bits = (images.test_images[:few].reshape(few, -1) >= 128).astype(np.float32)
    torch = import_torch()
    peer, data = pythae_vae(params, bits.shape[1], LATENT)[0].eval(), torch.from_numpy(bits)

    def theirs() -> None:
        with torch.no_grad():
            found["pythae"] = np.array(
                [
                    float(peer.get_nll(one[None], n_samples=config.samples, batch_size=PEER_BATCH))
                    for one in data
                ]
            )

    flops = _decoder_flops(shape) * config.images * config.samples
    products, product_flops = _products(shape, flops)
    ours()
    products()
    theirs()
    bystanders = Bystanders()
    turns = alternate(
        {
            OURS: lambda: seconds_of(ours) / config.images,
            PRODUCTS: lambda: seconds_of(products) * flops / product_flops / config.images,
            "pythae": lambda: seconds_of(theirs) / few,
        },
        turns=config.turns,
    )
    share, times = (compared(turns[name], turns[OURS]) for name in (PRODUCTS, "pythae"))
    slower = compared(turns["pythae"], turns[PRODUCTS])
    per_image = {name: spread(seconds) for name, seconds in turns.items()}
    goals = [
        Goal("share of the matrix products' rate", SHARE_GOAL, share["median_of_turn_ratios"]),
        Goal("times pythae, log p(x) of an image", PYTHAE_GOAL, times["median_of_turn_ratios"]),
    ]
    same = float(np.mean(found[OURS][:few])), float(np.mean(found["pythae"]))
    result = {
        **subject("evaluation", config, images),
        "seconds_per_image": per_image,
        "flops_per_image": flops / config.images,
        "share_of_matrix_products": share,
        "times_pythae": times,
        "times_products_of_pythae": slower,
        "log_likelihood_of_the_same_images": dict(zip((OURS, "pythae"), same, strict=True)),
        "goals": [goal.as_json() for goal in goals],
        "machine": machine(bystanders),
    }
    rows = [
        {
            "seconds an image": name,
            "median": f"{spread_of['median_seconds']:.4f}",
            "range": f"{spread_of['min_seconds']:.4f} - {spread_of['max_seconds']:.4f}",
        }
        for name, spread_of in per_image.items()
    ]
    seconds = per_image[OURS]["median_seconds"]
    write_results(
        files,
        f"log p(x) with {config.samples:,} samples, 784-200-200-50, CPU",
        result,
        rows,
        f"{ratio_in_words(share)} of the rate of the matrix products, {ratio_in_words(times)} "
        f"times as fast as pythae, which takes {ratio_in_words(slower)} times as long as the "
        f"products: median and range of the ratios within {config.turns} turns. "
        f"{said_of(goals)} The decoder's matrix products are "
        f"{flops / config.images / 1e9:.2f} GFLOP an image; 10,000 images take "
        f"{10_000 * seconds / 60:.0f} minutes by this rate. Ours are {config.images} "
        f"test images of {images.name}, {ROWS:,} samples at a time, pythae's the first {few} of "
        f"them, {PEER_BATCH} at a time as it does by itself, thresholded; the same "
        f"random weights give {same[0]:.2f} and {same[1]:.2f} nats on those.",
    )
    print(f"{files.name}.json and .md are in {files.parent}")


def _decoder_flops(shape: tuple[int, ...]) -> int:
    """Of the matrix products of one sample of z."""
    return sum(2 * a * b for a, b in layers_of(int(np.prod(shape)), HIDDEN, LATENT).decoder)


def _products(shape: tuple[int, ...], flops: int) -> tuple[Callable[[], Any], int]:
    """The decoder's matrix products alone, about as many of them, and their FLOPs."""
    weights = [
        jnp.full((a, b), 1 / a) for a, b in layers_of(int(np.prod(shape)), HIDDEN, LATENT).decoder
    ]
    per_round = _decoder_flops(shape) * ROWS
    rounds = max(1, round(flops / per_round))

    @jax.jit
    def products(z: Array) -> Array:
        def once(total: Array, _: None) -> tuple[Array, None]:
            h = z + total  # or XLA would compute it once
            for weight in weights:
                h = h @ weight
            return 1e-6 * h[0, 0], None

        return jax.lax.scan(once, jnp.zeros(()), length=rounds)[0]

    z = jnp.ones((ROWS, LATENT))
    return lambda: jax.block_until_ready(products(z)), per_round * rounds
