"""log p(x) by importance sampling, beside the machine's matrix products and pythae.

`python -m experiments.benchmark evaluation`
"""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._benchmark_cost import (
    FLOAT_BYTES,
    PRODUCTS,
    SQUARE,
    Cost,
    copy_ceiling,
    layers_of,
    limits_in_words,
    limits_of,
    square_products,
)
from experiments._benchmark_job import Goal, Job, OnCpu, begin, said_of, subject
from experiments._benchmark_page import in_json, measured_of
from experiments._peers import OURS, compiled_for
from experiments._peers_pythae import import_pythae, pythae_vae
from experiments._peers_torch import import_torch
from experiments._run import check, check_counts
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
from vae_jax import figures
from vae_jax.evaluation import estimate_log_likelihood
from vae_jax.evaluation.memory import examples_at_once, samples_at_once
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.preprocess import binarize_threshold
from vae_jax.types import Params

SHARE_GOAL, PYTHAE_GOAL = 0.6, 20.0
HIDDEN, LATENT = (200, 200), 50
SQUARES = "square matrix products"
PEER_BATCH = 100  # pythae's default


@dataclasses.dataclass(frozen=True)
class Evaluation(OnCpu, Job):
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
    full: bool = True
    """Behind the turns, let ours pass the whole test split once: MNIST's 10,000 images take some
    five minutes on two cores."""


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
    estimate = jax.jit(
        lambda params, data: (
            estimate_log_likelihood(
                jax.random.key(1), vae, binarize_threshold, params, data, num_samples=config.samples
            ).log_likelihood
        )
    )
    some = jnp.asarray(images.test_images[: config.images])
    compiled = compiled_for(estimate, params, some)
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        found[OURS] = np.asarray(compiled.program(params, some))

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
    # Of a matrix product: the samples of the images that the estimate has at once.
    sizes = vae, params, jax.ShapeDtypeStruct(shape, jnp.float32), config.samples
    at_once = samples_at_once(*sizes) * min(examples_at_once(*sizes), config.images)
    products, product_flops = _products(shape, flops, at_once)
    square, square_flops = square_products(flops)
    for warm_up in (ours, products, square, theirs):
        warm_up()
    bystanders = Bystanders()
    turns = alternate(
        {
            OURS: lambda: seconds_of(ours) / config.images,
            PRODUCTS: lambda: seconds_of(products) * flops / product_flops / config.images,
            SQUARES: lambda: seconds_of(square) * flops / square_flops / config.images,
            "pythae": lambda: seconds_of(theirs) / few,
        },
        turns=config.turns,
    )
    copied = copy_ceiling()
    whole = passed(estimate, params, images.test_images) if config.full else None
    ratios = {name: compared(turns[name], turns[OURS]) for name in turns if name != OURS}
    slower = compared(turns["pythae"], turns[PRODUCTS])
    per_image = {name: spread(seconds) for name, seconds in turns.items()}
    goals = {
        PRODUCTS: Goal.of_ratio("share of the matrix products' rate", SHARE_GOAL, ratios[PRODUCTS]),
        SQUARES: Goal.of_ratio("share of a square product's rate", SHARE_GOAL, ratios[SQUARES]),
        "pythae": Goal.of_ratio(
            "times pythae, log p(x) of an image", PYTHAE_GOAL, ratios["pythae"]
        ),
    }
    measured = [
        measured_of(
            f"{name}, log p(x) of an image",
            one,
            unit="ms",
            scale=1000,
            ratio=ratios.get(name),
            goal=goals.get(name),
        )
        for name, one in per_image.items()
    ]
    limits = limits_of(
        Cost(flops // config.images, _bytes(shape, config.samples)),
        config.images,
        seconds=config.images * per_image[PRODUCTS]["median_seconds"],
        share=ratios[PRODUCTS]["median_of_turn_ratios"],
        copied=copied,
    )
    rate = flops / config.images / per_image[SQUARES]["median_seconds"]
    same = float(np.mean(found[OURS][:few])), float(np.mean(found["pythae"]))
    result = {
        **subject("evaluation", config, images),
        "seconds_per_image": per_image,
        "flops_per_image": flops / config.images,
        "compile_seconds": compiled.seconds,
        "share_of_matrix_products": ratios[PRODUCTS],
        "share_of_square_products": ratios[SQUARES],
        "square_flops_per_second": rate,
        "times_pythae": ratios["pythae"],
        "times_products_of_pythae": slower,
        "limits": limits,
        "whole_test_split": whole,
        "log_likelihood_of_the_same_images": dict(zip((OURS, "pythae"), same, strict=True)),
        "goals": [goal.as_json() for goal in goals.values()],
        "measured": in_json(measured),
        "machine": machine(bystanders),
    }
    rows = [
        {
            "seconds an image": name,
            "median": f"{one['median_seconds']:.4f}",
            "range": f"{one['min_seconds']:.4f} - {one['max_seconds']:.4f}",
            "times ours": line.times.removesuffix(" x ours"),
        }
        for (name, one), line in zip(per_image.items(), measured, strict=True)
    ]
    title = f"log p(x) with {config.samples:,} samples, 784-200-200-50"
    write_results(
        files,
        f"{title}, CPU",
        result,
        rows,
        f"Medians and ranges over {config.turns} turns; times ours: of the ratios within a turn; "
        "for the products that is the share of their rate that ours reaches. pythae takes "
        f"{ratio_in_words(slower)} times as long as the decoder's products. Ours are "
        f"{config.images} test images of {images.name}, {at_once:,} samples at a time, pythae's "
        f"the first {few} of them, {PEER_BATCH} at a time as it does by itself, thresholded; the "
        f"same random weights give {same[0]:.2f} and {same[1]:.2f} nats on those. Compiled in "
        f"{compiled.seconds:.2f} s, which is not in the times.",
        said_of_whole(whole, images.name, per_image[OURS]["median_seconds"]),
        limits_in_words(limits)
        + f" Square matrices of {SQUARE:,} rows are multiplied at {rate / 1e9:.0f} GFLOP/s.",
        said_of([*goals.values()]),
    )
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    what = "seconds an image on the CPU: median, range, and every turn"
    figure = single_figure(title, turns, what, others=against_first(turns))
    figures.save(figure, files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def passed(estimate: Any, params: Params, test_images: np.ndarray) -> dict[str, float]:
    """One pass of ours through a whole test split, compiled for it before.

    Args:
        estimate: jitted, `(params, images) -> log p(x)` of each.
        params: of the model.
        test_images: the split.
    """
    data = jnp.asarray(test_images)
    compiled = compiled_for(estimate, params, data)
    began = time.perf_counter()
    log_likelihood = np.asarray(compiled.program(params, data))
    return {
        "images": len(test_images),
        "seconds": time.perf_counter() - began,
        "compile_seconds": compiled.seconds,
        "log_likelihood": float(log_likelihood.mean()),
    }


def said_of_whole(whole: Mapping[str, float] | None, name: str, seconds: float) -> str:
    """What the whole test split took, or would by the median of an image."""
    if whole is None:
        return f"By this median 10,000 images would take {10_000 * seconds / 60:.1f} minutes."
    return (
        f"The whole test split of {name}, {whole['images']:,} images, measured once behind the "
        f"turns: {whole['seconds'] / 60:.2f} minutes, compiled in {whole['compile_seconds']:.2f} s."
    )


def _bytes(shape: tuple[int, ...], samples: int) -> int:
    """What is written and read again of an image's samples of z, if no cache keeps it.

    The noise, z, and the outputs of the decoder's layers, each written and read once; weights
    are read once for thousands of samples and are not counted.
    """
    layers = layers_of(int(np.prod(shape)), HIDDEN, LATENT).decoder
    numbers = 2 * LATENT + sum(outputs for _, outputs in layers)
    return 2 * FLOAT_BYTES * numbers * samples


def _decoder_flops(shape: tuple[int, ...]) -> int:
    """Of the matrix products of one sample of z."""
    return sum(2 * a * b for a, b in layers_of(int(np.prod(shape)), HIDDEN, LATENT).decoder)


def _products(shape: tuple[int, ...], flops: int, rows: int) -> tuple[Callable[[], Any], int]:
    """The decoder's matrix products alone, about as many of them, and their FLOPs."""
    weights = [
        jnp.full((a, b), 1 / a) for a, b in layers_of(int(np.prod(shape)), HIDDEN, LATENT).decoder
    ]
    per_round = _decoder_flops(shape) * rows
    rounds = max(1, round(flops / per_round))

    @jax.jit
    def products(z: Array) -> Array:
        def once(total: Array, _: None) -> tuple[Array, None]:
            h = z + total  # or XLA would compute it once
            for weight in weights:
                h = h @ weight
            return 1e-6 * h[0, 0], None

        return jax.lax.scan(once, jnp.zeros(()), length=rounds)[0]

    z = jnp.ones((rows, LATENT))
    return lambda: jax.block_until_ready(products(z)), per_round * rounds
