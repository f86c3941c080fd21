"""What training costs by a formula, and what the device can do at most, measured on it."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments._timing import seconds_of

FLOAT_BYTES = 4
# Far larger than any cache of a device.
COPY_FLOATS = 2**26


class Layers(NamedTuple):
    """The dense layers of a VAE, `(inputs, outputs)` each."""

    encoder: list[tuple[int, int]]
    decoder: list[tuple[int, int]]


class Cost(NamedTuple):
    """Of one optimiser step of one model: floating-point operations, and bytes moved."""

    flops: int
    bytes: int


def layers_of(pixels: int, hidden: Sequence[int], latent_dim: int) -> Layers:
    """The layers of a fully connected VAE whose decoder mirrors its encoder."""
    down = [pixels, *hidden]
    up = [latent_dim, *reversed(hidden), pixels]
    encoder = [*zip(down, [*hidden, 2 * latent_dim], strict=True)]
    return Layers(encoder, [*itertools.pairwise(up)])


def step_cost(layers: Layers, batch_size: int) -> Cost:
    """Count what a step of Adam on a minibatch must do, one sample of z for each image.

    FLOPs are those of the matrix products: a layer with W weights takes 2 W an image forward,
    2 W for the gradient of its weights and 2 W for that of its inputs, but the first layer's
    inputs are data and need none:

        FLOPs = batch (6 sum(W) - 2 W_first).

    Bytes are those of float32 numbers that every kernel reads or writes in the device's memory
    if nothing stays in a cache. For each parameter 10: it is read forward, backward and by
    Adam and written (4), its gradient is written and read (2), and so are its two moments, read
    and written (4). For each output of a layer and image 6: it is written, read by the next
    layer and again on the way back (3), its gradient is written and read for the weights and
    for the inputs (3). For each pixel and image 3: gathered, and read on both ways:

        bytes = 4 (10 P + batch (6 sum(outputs) + 3 pixels)).

    Args:
        layers: of the model.
        batch_size: images in a minibatch.

    Returns:
        The cost of one model; that of a population is a multiple.
    """
    both = [*layers.encoder, *layers.decoder]
    weights = sum(inputs * outputs for inputs, outputs in both)
    outputs = sum(outputs for _, outputs in both)
    pixels, width = layers.encoder[0]
    flops = batch_size * (6 * weights - 2 * pixels * width)
    numbers = 10 * (weights + outputs) + batch_size * (6 * outputs + 3 * pixels)
    return Cost(flops, FLOAT_BYTES * numbers)


def matmul_ceiling(layers: Layers, batch_size: int, members: int, loops: int = 100) -> float:
    """FLOPs per second of the matrix products of a step alone, batched over members.

    For each layer the three of training, in float32 at JAX's default precision, as the model
    has them: forward, for the inputs and for the weights. Each adds next to nothing to what
    the next loop reads, so that no product can be left out or moved before the loop.
    """
    shapes = [*layers.encoder, *layers.decoder]
    keys = jax.random.split(jax.random.key(0), (len(shapes), 2))
    operands = [
        (
            jax.random.normal(x_key, (members, batch_size, inputs)),
            jax.random.normal(w_key, (members, inputs, outputs)) / inputs**0.5,
        )
        for (x_key, w_key), (inputs, outputs) in zip(keys, shapes, strict=True)
    ]

    def products(_: int, operands: list[Any]) -> list[Any]:
        after = []
        for x, w in operands:
            y = x @ w
            to_x, to_w = y @ w.swapaxes(1, 2), x.swapaxes(1, 2) @ y
            after.append((x + 1e-30 * to_x, w + 1e-30 * to_w))
        return after

    run = jax.jit(lambda operands: jax.lax.fori_loop(0, loops, products, operands))
    flops = 6 * members * batch_size * sum(inputs * outputs for inputs, outputs in shapes)
    return loops * flops / _seconds(run, operands)


def training_products(layers: Layers, batch_size: int, steps: int) -> Callable[[], None]:
    """The matrix products of training one model, and nothing else.

    As `step_cost` counts them: those of every layer forward and for its weights, and for its
    inputs but in the first. A layer's inputs wait for the products of the layer before, as in
    training; its weights stay the same, as they do not.

    Args:
        layers: of the model.
        batch_size: rows of an input.
        steps: how often.

    Returns:
        What computes them all, compiled at its first call.
    """
    shapes = [*layers.encoder, *layers.decoder]
    operands = [(jnp.ones((batch_size, a)), jnp.full((a, b), 1 / a)) for a, b in shapes]

    def compute() -> None:
        jax.block_until_ready(_products(operands, steps))

    return compute


@partial(jax.jit, static_argnames="steps")
def _products(operands: list[Any], steps: int) -> jax.Array:
    def once(total: jax.Array, _: None) -> tuple[jax.Array, None]:
        for index, (x, w) in enumerate(operands):
            x = x + total
            y = x @ w
            made = [y, x.T @ y, *([y @ w.T] if index else [])]
            # Without the barrier only the numbers that are read would be computed.
            made = jax.lax.optimization_barrier(made)
            total = 1e-30 * jnp.stack([one[0, 0] for one in made]).sum()
        return total, None

    return jax.lax.scan(once, jnp.zeros(()), length=steps)[0]


def copy_ceiling(floats: int = COPY_FLOATS, loops: int = 20) -> float:
    """Bytes per second that a large array is read and written at."""
    run = jax.jit(lambda x: jax.lax.fori_loop(0, loops, lambda _, x: x + 1, x))
    return loops * 2 * FLOAT_BYTES * floats / _seconds(run, jnp.zeros(floats))


def _seconds(run: Callable[[Any], Any], argument: Any, calls: int = 5) -> float:
    """The median time of a call, after one that compiles."""
    jax.block_until_ready(run(argument))
    return statistics.median(
        seconds_of(lambda: jax.block_until_ready(run(argument))) for _ in range(calls)
    )
