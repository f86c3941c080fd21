"""What training costs by a formula, and what the device can do at most, measured on it."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments._timing import seconds_of
from vae_jax import sharding

FLOAT_BYTES = 4
# Far larger than any cache of a device.
COPY_FLOATS = 2**26
PRODUCTS = "matrix products"


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


class Product(NamedTuple):
    """A layer's products in a step: [rows, inputs] @ [inputs, outputs], and its gradients.

    Attributes:
        rows: of its input.
        inputs: numbers in a row.
        outputs: numbers in a row of the result.
        times: how often, one after the other, as a recurrence needs it.
        is_of_data: whether its inputs are data, which need no gradient.
    """

    rows: int
    inputs: int
    outputs: int
    times: int = 1
    is_of_data: bool = False

    @property
    def cost(self) -> Cost:
        """Of this layer, as `step_cost` counts.

        With W weights, M rows and as many times as T: 2 W M T forward, as many for the weights,
        and unless the inputs are data for them,

            FLOPs = (4 or 6) W M T.

        Every parameter is read forward and backward and its gradient written and read at each
        time; Adam reads and writes it and two moments: 4 T + 6. An output is written, read by
        the next layer and on the way back, its gradient written, and read for the weights and
        for the inputs: 6. Data are gathered, and read on both ways: 3.

            bytes = 4 ((4 T + 6) parameters + M (6 T outputs + (3 or 0) inputs)).
        """
        weights, data = self.inputs * self.outputs, self.inputs if self.is_of_data else 0
        flops = (4 if self.is_of_data else 6) * weights * self.rows * self.times
        numbers = (4 * self.times + 6) * (weights + self.outputs)
        numbers += self.rows * (6 * self.times * self.outputs + 3 * data)
        return Cost(flops, FLOAT_BYTES * numbers)


def dense_products(layers: Layers, batch_size: int) -> list[Product]:
    """Those of a step of a fully connected model."""
    first, *others = [*layers.encoder, *layers.decoder]
    return [
        Product(batch_size, *first, is_of_data=True),
        *(Product(batch_size, *one) for one in others),
    ]


def cost_of(products: Sequence[Product]) -> Cost:
    """Of a step with these products."""
    flops, moved = zip(*(one.cost for one in products), strict=True)
    return Cost(sum(flops), sum(moved))


def step_cost(layers: Layers, batch_size: int) -> Cost:
    """Count what a step of Adam on a minibatch must do, one sample of z for each image.

    FLOPs are those of the matrix products: a layer with W weights takes 2 W an image forward,
    2 W for the gradient of its weights and 2 W for that of its inputs, but the first layer's
    inputs are data and need none:

        FLOPs = batch (6 sum(W) - 2 W_first).

    Bytes are those of float32 numbers that every kernel reads or writes in the device's memory
    if nothing stays in a cache, 10 for a parameter, 6 for an output of a layer and an image,
    and 3 for a pixel and an image (`Product.cost`):

        bytes = 4 (10 P + batch (6 sum(outputs) + 3 pixels)).

    Args:
        layers: of the model.
        batch_size: images in a minibatch.

    Returns:
        The cost of one model; that of a population is a multiple.
    """
    return cost_of(dense_products(layers, batch_size))


def limits_of(cost: Cost, steps: int, products: dict[str, Any]) -> dict[str, Any]:
    """How near an epoch is to what the machine can do.

    Args:
        cost: of a step.
        steps: of an epoch.
        products: the times of an epoch's matrix products alone, compared with ours.

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


def told(limits: Mapping[str, Any], who: str = "ours") -> str:
    """The limits in words, and who came how near to them."""
    seconds = limits["bytes_per_epoch"] / limits["copied_bytes_per_second"]
    return (
        f"The limit: an epoch's matrix products alone, {limits['flops_per_epoch'] / 1e9:,.0f} "
        f"GFLOP, take {limits['matrix_products']['median_seconds']:.3f} s in the same turns, "
        f"{limits['flops_per_second'] / 1e9:.0f} GFLOP/s; {who} reaches "
        f"{100 * limits['share_of_matrix_products']:.0f}% of that rate. What an epoch reads and "
        f"writes if no cache keeps it, {limits['bytes_per_epoch'] / 1e9:.1f} GB, would take "
        f"{seconds:.2f} s at the {limits['copied_bytes_per_second'] / 1e9:.1f} GB/s of a copy."
    )


def matmul_ceiling(
    layers: Layers,
    batch_size: int,
    members: int,
    loops: int = 100,
    mesh: sharding.Mesh | None = None,
) -> float:
    """FLOPs per second of the matrix products of a step alone, batched over members.

    The members are spread over the devices of a mesh, if one is given.

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
    if mesh is not None:
        operands = sharding.place(jax.device_get(operands), mesh, split=True)

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


def training_products(products: Sequence[Product], steps: int) -> Callable[[], None]:
    """The matrix products of training one model, and nothing else.

    As `Product` has them: of every layer forward, for its weights, and for its inputs unless
    they are data. A layer's inputs wait for the products of the layer before, as in training;
    its weights stay the same, as they do not.

    Args:
        products: of a step.
        steps: how often.

    Returns:
        What computes them all, compiled at its first call.
    """
    operands = [
        (jnp.ones((one.rows, one.inputs)), jnp.full((one.inputs, one.outputs), 1 / one.inputs))
        for one in products
    ]
    kinds = tuple((one.times, one.is_of_data) for one in products)

    def compute() -> None:
        jax.block_until_ready(_products(operands, kinds, steps))

    return compute


@partial(jax.jit, static_argnames=("kinds", "steps"))
def _products(operands: list[Any], kinds: tuple[tuple[int, bool], ...], steps: int) -> jax.Array:
    def of_layer(
        _: int, total: jax.Array, *, x: jax.Array, w: jax.Array, is_of_data: bool
    ) -> jax.Array:
        x = x + total
        y = x @ w
        made = [y, x.T @ y, *([] if is_of_data else [y @ w.T])]
        # Without the barrier only the numbers that are read would be computed.
        made = jax.lax.optimization_barrier(made)
        return 1e-30 * jnp.stack([one[0, 0] for one in made]).sum()

    def once(total: jax.Array, _: None) -> tuple[jax.Array, None]:
        for (x, w), (times, is_of_data) in zip(operands, kinds, strict=True):
            again = partial(of_layer, x=x, w=w, is_of_data=is_of_data)
            # XLA makes no loop of a single time.
            total = jax.lax.fori_loop(0, times, again, total)
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
