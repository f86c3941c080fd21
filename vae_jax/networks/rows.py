"""A matrix product whose rows stay rows under `jax.vmap`.

Under `vmap` over examples `x @ w` of an [n, c] matrix x becomes a product of a [batch, n, c] array.
Forward that is as good as one of batch * n rows, but the gradient of w then sums over two axes,
for which XLA writes a transposed copy of the larger operand, in a convolutional network the
shifted images of the whole minibatch. Here `vmap` lengthens the matrix instead, and the gradient
sums over one axis. A primitive, because `jax.custom_batching.custom_vmap` has no backward gradient.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import PrecisionLike
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def matmul_rows(
    x: Float[Array, "*n c"], w: Float[Array, "c d"], *, precision: PrecisionLike = None
) -> Float[Array, "*n d"]:
    """`x @ w`, a row for each position of x; differentiable and batchable as that is.

    Args:
        x: rows, over any number of leading axes.
        w: the matrix.
        precision: of the products, also of those in a gradient; None is that of
            `jax.default_matmul_precision`.

    Returns:
        The products, over the same axes, of the type that x and w have together.

    Raises:
        TypeError: if the rows of x are not as long as w has rows.

    Example:
        >>> xs, w = jnp.ones((8, 7, 7, 3)), jnp.ones((3, 5))
        >>> jax.vmap(matmul_rows, (0, None))(xs, w).shape
        (8, 7, 7, 5)
    """
    dtype = jnp.result_type(x, w)
    rows = x.reshape(-1, x.shape[-1]).astype(dtype)
    # Read now, as the product is only lowered when the context around this call has ended.
    precision = precision or jax.config.values["jax_default_matmul_precision"]
    product = _product.bind(rows, w.astype(dtype), precision=precision)
    return product.reshape(*x.shape[:-1], w.shape[-1])


def dot_rows(
    x: Array, kernel: Array, dims: Any, precision: PrecisionLike = None, **others: Any
) -> Array:
    """`matmul_rows` as a `dot_general` of linen's `Dense`.

    Args:
        x: one example.
        kernel: of the layer.
        dims: what is summed over.
        precision: of the layer; None is that of `jax.default_matmul_precision`.
        others: more of `jax.lax.dot_general`.

    Returns:
        The products.

    Raises:
        ValueError: if it is not the last axis of x and the first of the kernel that are summed
            over, or if there is more to heed.
    """
    asked = {name: value for name, value in others.items() if value is not None}
    if dims != (((x.ndim - 1,), (0,)), ((), ())) or asked:
        raise ValueError(
            f"dimension numbers {dims} {asked or ''}: the last axis of x and the first of the "
            "kernel are needed, and nothing more"
        )
    return matmul_rows(x, kernel, precision=precision)


# linen's layer, with the products that a gradient or a `vmap` over models makes of `matmul_rows`.
# A VAE of sentences trains in a seventh less time with it: a minibatch has a row for each word.
Dense = functools.partial(nn.Dense, dot_general=dot_rows)


def _matmul(x: Array, w: Array, *, precision: PrecisionLike) -> Array:
    return jnp.matmul(x, w, precision=precision)


def _matmul_each(x: Array, w: Array, *, precision: PrecisionLike) -> Array:
    """A product for each of many models.

    On a CPU XLA multiplies a batch of small matrices up to seven times as fast if the rows of x
    lie as they are to be read. The barrier has x.T, of which the gradient of a weight is made,
    written down as such before it is.
    """
    matmul = functools.partial(_matmul, precision=precision)
    return jax.lax.platform_dependent(
        x, w, cpu=lambda x, w: matmul(jax.lax.optimization_barrier(x), w), default=matmul
    )


def _shape(x: ShapedArray, w: ShapedArray, *, precision: PrecisionLike) -> ShapedArray:
    product = jax.eval_shape(functools.partial(_matmul, precision=precision), x, w)
    return ShapedArray(product.shape, product.dtype)


def _batched(
    args: tuple[Array, Array], axes: tuple[int | None, int | None], *, precision: PrecisionLike
) -> tuple[Array, int]:
    x, w = args
    if axes[1] is None:  # the same matrix for all: their rows are the rows of one product
        x = jnp.moveaxis(x, axes[0] or 0, 0)
        batch, rows, features = x.shape
        product = _product.bind(x.reshape(batch * rows, features), w, precision=precision)
        return product.reshape(batch, rows, w.shape[1]), 0
    return jax.vmap(functools.partial(_matmul_each, precision=precision), axes)(x, w), 0


_product = Primitive("matmul_rows")
_product.def_impl(jax.jit(_matmul, static_argnames="precision"))
_product.def_abstract_eval(_shape)
mlir.register_lowering(_product, mlir.lower_fun(_matmul, multiple_results=False))
batching.primitive_batchers[_product] = _batched
# The gradients are such products themselves, so that a gradient's `vmap` is no other.
ad.defbilinear(
    _product,
    lambda gradient, x, w, *, precision: _product.bind(gradient, w.T, precision=precision),
    lambda gradient, x, w, *, precision: _product.bind(x.T, gradient, precision=precision),
)
