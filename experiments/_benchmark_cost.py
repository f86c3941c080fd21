"""What training costs by a formula, and what the device can do at most, measured on it."""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments._timing import seconds_of
from vae_jax import sharding

FLOAT_BYTES = 4
SQUARE = 2048  # the sides of a matrix product as large as a library is made for
# Far larger than any cache of a device.
COPY_FLOATS = 2**26
PRODUCTS = "matrix products"


def architecture(*widths: int) -> str:
    """`784-400-20`."""
    return "-".join(map(str, widths))


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
    def flops(self) -> int:
        """2 an entry and row forward, for the weights, and unless it is data for the input."""
        each = 4 if self.is_of_data else 6
        return each * self.rows * self.inputs * self.outputs * self.times


def dense_products(layers: Layers, batch_size: int) -> list[Product]:
    """The products of a fully connected model on a minibatch, in the order of its layers."""
    first, *others = [*layers.encoder, *layers.decoder]
    return [
        Product(batch_size, *first, is_of_data=True),
        *(Product(batch_size, *one) for one in others),
    ]


def moved_bytes(parameters: int, outputs: int, data: int) -> int:
    """Bytes that a step of Adam reads and writes, of float32 numbers that no cache keeps.

    For each parameter 10: it is read forward, backward and by Adam and written (4), its gradient
    is written and read (2), and so are its two moments, read and written (4). For each output of
    a layer 6: it is written, read by the next layer and again on the way back (3), its gradient is
    written and read for the weights and for the inputs (3). For each number of the data 3:
    gathered, and read on both ways:

        bytes = 4 (10 parameters + 6 outputs + 3 data).

    Copies that a layer makes of its own inputs are not among them.

    Args:
        parameters: of the model.
        outputs: of all layers, for the whole minibatch.
        data: numbers of the minibatch.
    """
    return FLOAT_BYTES * (10 * parameters + 6 * outputs + 3 * data)


def cost_of(
    products: Sequence[Product], parameters: int, data: int, outputs: int | None = None
) -> Cost:
    """Count what a step of Adam on a minibatch must do, one sample of z for each example.

    FLOPs are those of the matrix products (`Product.flops`), bytes those of `moved_bytes`.

    Args:
        products: of the step.
        parameters: of the model.
        data: numbers of the minibatch.
        outputs: of all layers, for the whole minibatch; those of the products without it.

    Returns:
        The cost of one model; that of a population is a multiple.
    """
    if outputs is None:
        outputs = sum(one.rows * one.outputs * one.times for one in products)
    return Cost(sum(one.flops for one in products), moved_bytes(parameters, outputs, data))


def step_cost(layers: Layers, batch_size: int) -> Cost:
    """What a step of a fully connected model costs.

    With W weights in a layer, FLOPs = batch (6 sum(W) - 2 W_first).
    """
    both = [*layers.encoder, *layers.decoder]
    parameters = sum((inputs + 1) * outputs for inputs, outputs in both)
    pixels = layers.encoder[0][0]
    return cost_of(dense_products(layers, batch_size), parameters, batch_size * pixels)


def limits_of(
    cost: Cost, steps: int, *, seconds: float, share: float, copied: float
) -> dict[str, float]:
    """How near training is to what the machine can do.

    Args:
        cost: of a step.
        steps: of an epoch, or of whatever was measured.
        seconds: that the matrix products of these steps take alone.
        share: of their rate that was reached.
        copied: bytes a second of a copy (`copy_ceiling`).

    Returns:
        The cost of all steps, the rates of the matrix products and of a copy, and the share.
    """
    return {
        "flops": steps * cost.flops,
        "bytes": steps * cost.bytes,
        "products_seconds": seconds,
        "products_flops_per_second": steps * cost.flops / seconds,
        "copied_bytes_per_second": copied,
        "share_of_matrix_products": share,
    }


def limits_in_words(limits: Mapping[str, float], who: str = "ours") -> str:
    """What the machine can do at most, and who came how near to it."""
    seconds, rate = limits["bytes"] / limits["copied_bytes_per_second"], "products_flops_per_second"
    return (
        f"The limit: the matrix products alone, {limits['flops'] / 1e9:,.0f} GFLOP, take "
        f"{limits['products_seconds']:.3f} s at {limits[rate] / 1e9:.0f} GFLOP/s; "
        f"{who} reaches {100 * limits['share_of_matrix_products']:.0f}% of that rate. What must be "
        f"read and written if no cache keeps it, {limits['bytes'] / 1e9:.1f} GB, would take "
        f"{seconds:.2f} s at the {limits['copied_bytes_per_second'] / 1e9:.1f} GB/s of a copy."
    )


def matmul_ceiling(
    layers: Layers,
    batch_size: int,
    members: int,
    loops: int = 100,
    mesh: sharding.Mesh | None = None,
    dtype: DTypeLike = jnp.float32,
) -> float:
    """FLOPs per second of the matrix products of a step alone, batched over members.

    Args:
        layers: of a member.
        batch_size: examples in a minibatch.
        members: side by side.
        loops: steps in a call.
        mesh: whose devices the members are spread over; one device without it.
        dtype: of the numbers, multiplied at JAX's default precision as the model has it.
    """
    products = dense_products(layers, batch_size)
    compute = training_products(products, loops, members=members, mesh=mesh, dtype=dtype)
    return loops * members * sum(one.flops for one in products) / _seconds(compute)


def training_products(
    products: Sequence[Product],
    steps: int,
    *,
    members: int | None = None,
    mesh: sharding.Mesh | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Callable[[], None]:
    """The matrix products of training, and nothing else.

    As `Product` has them: of every layer forward, for its weights, and for its inputs unless
    they are data. A layer waits for the products of the layer before, as in training. The
    gradient of the weights needs the inputs transposed, which are at hand: to transpose them is
    no product, and of a batch of matrices it takes as long as one on a CPU.

    Args:
        products: of a step of one model.
        steps: how often.
        members: models side by side, each product batched over them; a single one without it.
        mesh: whose devices the members are spread over.
        dtype: of the numbers.

    Returns:
        What computes them all, compiled at its first call.
    """
    operands = _operands(products, members, dtype)
    if mesh is not None:
        operands = sharding.place(jax.device_get(operands), mesh, split=True)
    kinds = tuple((one.times, one.is_of_data) for one in products)

    def compute() -> None:
        jax.block_until_ready(_products(operands, kinds, steps))

    return compute


def _operands(
    products: Sequence[Product], members: int | None = None, dtype: DTypeLike = jnp.float32
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Of each layer its inputs, the same transposed, and its weights."""
    lead = () if members is None else (members,)
    return [
        (
            jnp.ones((*lead, one.rows, one.inputs), dtype),
            jnp.ones((*lead, one.inputs, one.rows), dtype),
            jnp.full((*lead, one.inputs, one.outputs), 1 / one.inputs, dtype),
        )
        for one in products
    ]


def square_products(flops: int) -> tuple[Callable[[], None], int]:
    """Products of square matrices, one after the other, and their FLOPs.

    Args:
        flops: that they should have, about.
    """
    each = 2 * SQUARE**3
    rounds = max(1, round(flops / each))

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, rounds, lambda _, y: y @ w, x)

    x, w = jnp.ones((SQUARE, SQUARE)), jnp.full((SQUARE, SQUARE), 1 / SQUARE)
    return lambda: jax.block_until_ready(chain(x, w)), rounds * each


@partial(jax.jit, static_argnames=("kinds", "steps"))
def _products(operands: list[Any], kinds: tuple[tuple[int, bool], ...], steps: int) -> jax.Array:
    """Of one model, or of members in a leading axis of every operand."""
    of_one = partial(_products_of_one, kinds=kinds, steps=steps)
    has_members = operands[0][0].ndim == 3
    return (jax.vmap(of_one) if has_members else of_one)(operands)


def _products_of_one(
    operands: list[Any], kinds: tuple[tuple[int, bool], ...], steps: int
) -> jax.Array:
    def of_layer(
        _: int,
        total: jax.Array,
        *,
        x: jax.Array,
        x_transposed: jax.Array,
        w: jax.Array,
        is_of_data: bool,
    ) -> jax.Array:
        # Each waits for the one before, by the operand that is cheaper to write anew.
        x, w = (x + total, w) if x.size < w.size else (x, w + total)
        y = x @ w
        made = [y, x_transposed @ y, *([] if is_of_data else [y @ w.T])]
        # Without the barrier only the numbers that are read would be computed.
        made = jax.lax.optimization_barrier(made)
        return 1e-30 * jnp.stack([one[0, 0] for one in made]).sum()

    def once(total: jax.Array, _: None) -> tuple[jax.Array, None]:
        for (x, x_t, w), (times, is_of_data) in zip(operands, kinds, strict=True):
            again = partial(of_layer, x=x, x_transposed=x_t, w=w, is_of_data=is_of_data)
            # XLA makes no loop of a single time.
            total = jax.lax.fori_loop(0, times, again, total)
        return total, None

    return jax.lax.scan(once, jnp.zeros((), operands[0][0].dtype), length=steps)[0]


def copy_ceiling(floats: int = COPY_FLOATS, loops: int = 20) -> float:
    """Bytes per second that a large array is read and written at."""
    run = jax.jit(lambda x: jax.lax.fori_loop(0, loops, lambda _, x: x + 1, x))
    x = jnp.zeros(floats)
    return loops * 2 * FLOAT_BYTES * floats / _seconds(lambda: jax.block_until_ready(run(x)))


def _seconds(work: Callable[[], object]) -> float:
    """The median time of five calls, after one that compiles."""
    work()
    return statistics.median(seconds_of(work) for _ in range(5))
