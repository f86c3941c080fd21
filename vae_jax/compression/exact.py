"""Networks whose numbers are the same on every machine, whatever the batch and the threads.

A decoder whose logits differ from the encoder's in the last digit cannot decode, and a matrix
product in floating point depends on the order of its sums. Here weights and activations are
multiples of 2^-16, so that every product and every partial sum is a multiple of 2^-32; as long
as none reaches 2^21, float64 holds each one exactly, and the order of the sums, fused
multiplication, threads and batch size change nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer

STEP = 2.0**-16  # of weights and activations
LARGEST = 2.0**21  # 2^53 steps of 2^-32: what float64 counts without a gap


class CodecError(ValueError):
    """Something that cannot be compressed or decompressed: one line that says why."""


class Layer(NamedTuple):
    """A dense layer, its numbers multiples of `STEP`.

    Attributes:
        kernel: weights, a column for each output.
        bias: added to each output.
    """

    kernel: Float[np.ndarray, "inputs outputs"]
    bias: Float[np.ndarray, " outputs"]


def rounded(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The nearest multiples of `STEP`.

    Args:
        values: any finite numbers.

    Returns:
        Them rounded, in float64.

    Example:
        >>> steps(rounded(np.array([0.1, 0.5]))).tolist()
        [6554, 32768]
        >>> rounded(np.array([0.1, 0.5])).tolist()
        [0.100006103515625, 0.5]
    """
    return np.rint(np.asarray(values, np.float64) / STEP) * STEP


def steps(values: Float[np.ndarray, "*shape"]) -> Integer[np.ndarray, "*shape"]:
    """Multiples of `STEP` as the whole numbers of steps that they are."""
    return np.rint(values / STEP).astype(np.int64)


def exact_layers(params: Mapping[str, Any], name: str) -> tuple[Layer, ...]:
    """The dense layers of a linen module, their numbers rounded.

    Args:
        params: what `init` of `MLPEncoder` or `MLPDecoder` returned, trained.
        name: of the network, for errors.

    Returns:
        The layers in their order.

    Raises:
        CodecError: if the module is not a chain of dense layers, or a number is not finite.
    """
    dense = params.get("params", {})
    names = [f"Dense_{index}" for index in range(len(dense))]
    if not dense or set(names) != set(dense):
        raise CodecError(f"{name}: not a chain of dense layers; only those can be made exact")
    layers = []
    for own in names:
        kernel, bias = (np.asarray(dense[own][part], np.float64) for part in ("kernel", "bias"))
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise CodecError(f"{name}, {own}: a weight is NaN or infinite")
        layers.append(Layer(rounded(kernel), rounded(bias)))
    return tuple(layers)


def check_exact(layers: Sequence[Layer], largest_input: float, name: str) -> None:
    """Refuse a network one of whose sums could be too large to be exact.

    Args:
        layers: of the network.
        largest_input: the largest absolute value of an input.
        name: of the network, for errors.

    Raises:
        CodecError: if some input up to the largest could make a sum reach `LARGEST`.
    """
    bound = np.full(layers[0].kernel.shape[0], float(largest_input))
    for index, layer in enumerate(layers):
        sums = bound @ np.abs(layer.kernel) + np.abs(layer.bias)
        if not sums.max() < LARGEST:
            raise CodecError(
                f"{name}, layer {index + 1}: its sums may reach {sums.max():.3g}, and only those "
                f"under {LARGEST:.0f} are exact; the weights are too large"
            )
        bound = rounded(sums) + STEP  # as activations are, perhaps upwards


def apply(
    layers: Sequence[Layer], xs: Float[np.ndarray, "batch inputs"]
) -> Float[np.ndarray, "batch outputs"]:
    """Run a network: dense layers with rectifiers between them, exactly.

    h_0 = x,  h_l = round(max(0, h_(l-1) W_l + b_l)), the last layer without the maximum.

    Args:
        layers: of a network that passed `check_exact`.
        xs: inputs, multiples of `STEP`.

    Returns:
        Outputs, multiples of `STEP`: the same bits for every batch size, thread and machine.
    """
    hs = xs
    for index, layer in enumerate(layers):
        sums = hs @ layer.kernel + layer.bias
        hs = rounded(sums if index == len(layers) - 1 else np.maximum(sums, 0.0))
    return hs
