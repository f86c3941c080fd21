"""Convolutional encoder and decoder, written as matrix products.

A 4x4 convolution of stride 2 is a 2x2 convolution of stride 1 on the image whose 2x2
blocks were folded into channels (space to depth), and that is the sum of four matrix products,
one for each of four shifted copies. Its transpose is the products first and the shifts after.
Inside `lax.scan` XLA runs a native convolution on CPU about ten times slower than outside
it, and a `vmap` over kernels turns it into a grouped convolution, slow on many backends;
a matrix product suffers from neither. The weights are those of linen's `Conv` and
`ConvTranspose`, in the same layout.
"""

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.networks.rows import Dense, matmul_rows
from vae_jax.types import Activation

# The four neighbours of a 2x2 kernel: row and column offset.
SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))
# With fewer channels than this, one product of all four shifts instead of four of thin matrices.
THIN = 8


def space_to_depth(x: Float[Array, "height width channels"]) -> Float[Array, "h w four_channels"]:
    """Fold each 2x2 block of pixels into the channels, (row, column, channel) in order."""
    height, width, channels = x.shape
    blocks = x.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(height // 2, width // 2, 4 * channels)


def depth_to_space(x: Float[Array, "h w four_channels"]) -> Float[Array, "height width channels"]:
    """Unfold channels into 2x2 blocks of pixels: the inverse of `space_to_depth`."""
    h, w, depth = x.shape
    blocks = x.reshape(h, w, 2, 2, depth // 4).transpose(0, 2, 1, 3, 4)
    return blocks.reshape(2 * h, 2 * w, depth // 4)


class DownConv(nn.Module):
    """4x4 convolution of stride 2, padded by one pixel: halves the height and the width.

    Equal to `nn.Conv(features, (4, 4), strides=(2, 2), padding=1)` with the same weights.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "half_height half_width features"]:
        """Convolve one image of even height and width."""
        height, width, channels = x.shape
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (4, 4, channels, self.features)
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        blocks = space_to_depth(jnp.pad(x, ((1, 1), (1, 1), (0, 0))))
        h, w = height // 2, width // 2
        shifted = [blocks[i : i + h, j : j + w] for i, j in SHIFTS]
        # A matrix for each shift; its rows are the position in a block and the channel.
        matrices = kernel.reshape(2, 2, 2, 2, channels, self.features).transpose(0, 2, 1, 3, 4, 5)
        if channels < THIN:
            matrix = matrices.reshape(16 * channels, self.features)
            return matmul_rows(jnp.concatenate(shifted, axis=-1), matrix) + bias[None, None]
        matrices = matrices.reshape(4, 4 * channels, self.features)
        products = map(matmul_rows, shifted, matrices)
        return functools.reduce(jnp.add, products) + bias[None, None]


class UpConv(nn.Module):
    """Transposed 4x4 convolution of stride 2: doubles the height and the width.

    Equal to `nn.ConvTranspose(features, (4, 4), strides=(2, 2))` with the same weights.

    Attributes:
        features: output channels.
    """

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "height width channels"]
    ) -> Float[Array, "double_height double_width features"]:
        """Upsample one image."""
        channels = x.shape[-1]
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (4, 4, channels, self.features)
        )
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        # linen does not flip the kernel of a transposed convolution, the adjoint does.
        flipped = kernel[::-1, ::-1].reshape(2, 2, 2, 2, channels, self.features)
        if self.features < THIN:
            matrix = flipped.transpose(4, 0, 2, 1, 3, 5).reshape(channels, 16 * self.features)
            products = jnp.split(matmul_rows(x, matrix), 4, axis=-1)
        else:
            matrices = flipped.transpose(0, 2, 4, 1, 3, 5).reshape(4, channels, 4 * self.features)
            products = [matmul_rows(x, matrix) for matrix in matrices]
        padded = [
            jnp.pad(product, ((i, 1 - i), (j, 1 - j), (0, 0)))
            for product, (i, j) in zip(products, SHIFTS, strict=True)
        ]
        blocks = functools.reduce(jnp.add, padded)
        return depth_to_space(blocks)[1:-1, 1:-1] + bias[None, None]


class ConvEncoder(nn.Module):
    """Image -> the mean and log-variance of q(z | x), side by side.

    Attributes:
        channels: output channels of each halving convolution.
        hidden: widths of the dense layers behind them.
        latent_dim: dimensions of z.
        activation: between layers.
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    latent_dim: int
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "height width channels"]) -> Float[Array, " two_latent"]:
        """Encode one image."""
        h = x
        for features in self.channels:
            h = self.activation(DownConv(features)(h))
        h = h.reshape(-1)
        for width in self.hidden:
            h = self.activation(Dense(width)(h))
        return Dense(2 * self.latent_dim)(h)


class ConvDecoder(nn.Module):
    """z -> theta, the mirror of `ConvEncoder`.

    Attributes:
        channels: channels of the images that are doubled, from the latent side.
        hidden: widths of the dense layers before them.
        theta_shape: height, width, image channels and the likelihood's parameters.
        activation: between layers.
    """

    channels: Sequence[int]
    hidden: Sequence[int]
    theta_shape: Sequence[int]
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, "height width channels theta"]:
        """Decode one latent vector."""
        height, width, *depth = self.theta_shape
        shrink = 2 ** len(self.channels)
        smallest = (height // shrink, width // shrink, self.channels[0])
        h = z
        for dense_width in (*self.hidden, math.prod(smallest)):
            h = self.activation(Dense(dense_width)(h))
        h = h.reshape(smallest)
        for features in self.channels[1:]:
            h = self.activation(UpConv(features)(h))
        return UpConv(math.prod(depth))(h).reshape(self.theta_shape)
