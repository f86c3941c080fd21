"""Encoders and decoders by name: the only package that imports linen.

A row of `NETWORKS` builds an encoder and its mirror for a shape of x.
"""

from collections.abc import Sequence

import flax.linen as nn

from vae_jax.networks.conv import ConvDecoder, ConvEncoder
from vae_jax.networks.mlp import KERNEL_INIT, Initializer, MLPDecoder, MLPEncoder
from vae_jax.networks.recurrent import SentenceDecoder, SentenceEncoder
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
    kernel_init: Initializer = KERNEL_INIT,
    bias_init: Initializer = nn.initializers.zeros,
) -> tuple[MLPEncoder, MLPDecoder]:
    """A fully connected encoder and its mirror.

    Args:
        hidden: widths of the encoder's hidden layers; the decoder's are the reverse.
        x_shape: shape of one example.
        latent_dim: dimensions of z.
        theta_dim: the likelihood's parameters for each dimension of x.
        activation: between layers.
        kernel_init: draws the weights of every layer.
        bias_init: draws the biases.

    Returns:
        The encoder and the decoder.
    """
    rest = (activation, kernel_init, bias_init)
    encoder = MLPEncoder(tuple(hidden), latent_dim, *rest)
    return encoder, MLPDecoder(tuple(hidden)[::-1], (*x_shape, theta_dim), *rest)


def two_layer_mlp(
    hidden: Sequence[Sequence[int]],
    *,
    x_shape: Sequence[int],
    latent_dims: Sequence[int],
    theta_dim: int,
    activation: Activation = nn.tanh,
) -> tuple[MLPEncoder, MLPEncoder, MLPEncoder, MLPDecoder]:
    """Fully connected encoders and decoders of two stochastic layers.

    Args:
        hidden: widths of the hidden layers of q(h1 | x) and of q(h2 | h1); those of p(x | h1)
            and p(h1 | h2) are the reverse.
        x_shape: shape of one example.
        latent_dims: units of h1 and of h2.
        theta_dim: the likelihood's parameters for each dimension of x.
        activation: between layers.

    Returns:
        The networks of q(h1 | x), q(h2 | h1), p(h1 | h2) and p(x | h1).

    Raises:
        ValueError: if hidden or latent_dims are not of two layers.

    Reference:
        Burda et al. (arXiv 1509.00519), section 5, with hidden = ((200, 200), (100, 100)) and
        latent_dims = (100, 50).
    """
    for name, layers in {"hidden": hidden, "latent_dims": latent_dims}.items():
        if len(layers) != 2:
            raise ValueError(f"{name} {tuple(layers)}: one for each of two layers is needed")
    (lower, upper), (first_dim, second_dim) = hidden, latent_dims
    encoder, decoder = mlp(
        lower,
        x_shape=x_shape,
        latent_dim=first_dim,
        theta_dim=theta_dim,
        activation=activation,
    )
    upper_encoder = MLPEncoder(tuple(upper), second_dim, activation)
    # It gives means and log-variances, as an encoder does.
    upper_decoder = MLPEncoder(tuple(upper)[::-1], first_dim, activation)
    return encoder, upper_encoder, upper_decoder, decoder


def conv(
    hidden: Sequence[int],
    *,
    x_shape: Sequence[int],
    latent_dim: int,
    theta_dim: int,
    activation: Activation = nn.relu,
    channels: Sequence[int] = CONV_CHANNELS,
) -> tuple[ConvEncoder, ConvDecoder]:
    """Halving convolutions, then dense layers, and the mirror.

    Args:
        hidden: widths of the dense layers behind the convolutions.
        x_shape: height, width and channels of an image.
        latent_dim: dimensions of z.
        theta_dim: the likelihood's parameters for each dimension of x.
        activation: between layers.
        channels: output channels of each halving convolution.

    Returns:
        The encoder and the decoder.

    Raises:
        ValueError: if there is no convolution, or the image is not [height, width, channels] with
            sides that can be halved once for each.
    """
    if not channels:
        raise ValueError("channels (): at least one convolution is needed")
    shrink = 2 ** len(channels)
    if len(x_shape) != 3 or any(side % shrink for side in x_shape[:2]):
        raise ValueError(
            f"x_shape {tuple(x_shape)}: the convolutional network needs "
            f"[height, width, channels] with sides divisible by {shrink}"
        )
    encoder = ConvEncoder(tuple(channels), tuple(hidden), latent_dim, activation)
    decoder = ConvDecoder(
        tuple(channels)[::-1], tuple(hidden)[::-1], (*x_shape, theta_dim), activation
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
    "SentenceDecoder",
    "SentenceEncoder",
    "TableDecoder",
    "conv",
    "mlp",
    "two_layer_mlp",
]
