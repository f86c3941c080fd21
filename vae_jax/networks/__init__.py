"""Encoders and decoders by name: the only package that imports linen.

A row of `NETWORKS` builds an encoder and its mirror for a shape of x.
"""

from collections.abc import Sequence

import flax.linen as nn

from vae_jax.networks.conv import ConvDecoder, ConvEncoder
from vae_jax.networks.mlp import MLPDecoder, MLPEncoder
from vae_jax.networks.table import TableDecoder
from vae_jax.types import Activation

ACTIVATIONS: dict[str, Activation] = {
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "softplus": nn.softplus,
    "leaky_relu": nn.leaky_relu,
}

# Output channels of the two halving convolutions of the network called "conv".
CONV_CHANNELS = (32, 64)


def mlp(
    hidden: Sequence[int],
    *,
    x_shape: Sequence[int],
    latent_dim: int,
    theta_dim: int,
    activation: Activation = nn.relu,
) -> tuple[MLPEncoder, MLPDecoder]:
    """A fully connected encoder and its mirror.

    Args:
        hidden: widths of the encoder's hidden layers; the decoder's are the reverse.
        x_shape: shape of one example.
        latent_dim: dimensions of z.
        theta_dim: the likelihood's parameters for each dimension of x.
        activation: between layers.

    Returns:
        The encoder and the decoder.
    """
    encoder = MLPEncoder(tuple(hidden), latent_dim, activation)
    return encoder, MLPDecoder(tuple(hidden)[::-1], (*x_shape, theta_dim), activation)


def conv(
    hidden: Sequence[int],
    *,
    x_shape: Sequence[int],
    latent_dim: int,
    theta_dim: int,
    activation: Activation = nn.relu,
) -> tuple[ConvEncoder, ConvDecoder]:
    """Two halving convolutions, then dense layers, and the mirror.

    Args:
        hidden: widths of the dense layers behind the convolutions.
        x_shape: height, width and channels of an image.
        latent_dim: dimensions of z.
        theta_dim: the likelihood's parameters for each dimension of x.
        activation: between layers.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: if the image is not [height, width, channels] with sides divisible by 4.
    """
    shrink = 2 ** len(CONV_CHANNELS)
    if len(x_shape) != 3 or any(side % shrink for side in x_shape[:2]):
        raise ValueError(
            f"x_shape {tuple(x_shape)}: the convolutional network needs "
            f"[height, width, channels] with sides divisible by {shrink}"
        )
    encoder = ConvEncoder(CONV_CHANNELS, tuple(hidden), latent_dim, activation)
    decoder = ConvDecoder(
        CONV_CHANNELS[::-1], tuple(hidden)[::-1], (*x_shape, theta_dim), activation
    )
    return encoder, decoder


NETWORKS = {"mlp": mlp, "conv": conv}

__all__ = [
    "ACTIVATIONS",
    "CONV_CHANNELS",
    "NETWORKS",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "TableDecoder",
    "conv",
    "mlp",
]
