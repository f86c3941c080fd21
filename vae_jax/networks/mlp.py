"""Fully connected encoder and decoder."""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
from jaxtyping import Array, Float

from vae_jax.networks.rows import Dense
from vae_jax.types import Activation

Initializer = nn.initializers.Initializer

# Uniform with variance 1 / (3 fan_in), the scale of PyTorch's linear layers: with linen's own,
# three times the variance, 784-400-20 on MNIST ends 0.6 nats worse after 20 epochs.
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class MLPEncoder(nn.Module):
    """x -> the mean and log-variance of q(z | x), side by side.

    Attributes:
        hidden: widths of the hidden layers; an empty sequence makes the encoder linear.
        latent_dim: dimensions of z.
        activation: between layers.
        kernel_init: draws the weights of every layer.
        bias_init: draws the biases.
    """

    hidden: Sequence[int]
    latent_dim: int
    activation: Activation = nn.relu
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Float[Array, "*x"]) -> Float[Array, " two_latent"]:
        """Encode one example, flattened."""
        layer = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init)
        h = x.reshape(-1)
        for width in self.hidden:
            h = self.activation(layer(width)(h))
        return layer(2 * self.latent_dim)(h)


class MLPDecoder(nn.Module):
    """z -> theta, the parameters of p(x | z).

    Attributes:
        hidden: widths of the hidden layers, from the latent side.
        theta_shape: shape of theta: that of x and the likelihood's parameters.
        activation: between layers.
        kernel_init: draws the weights of every layer.
        bias_init: draws the biases.
    """

    hidden: Sequence[int]
    theta_shape: Sequence[int]
    activation: Activation = nn.relu
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, "*x theta"]:
        """Decode one latent vector."""
        layer = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init)
        h = z
        for width in self.hidden:
            h = self.activation(layer(width)(h))
        theta = layer(math.prod(self.theta_shape))(h)
        return theta.reshape(self.theta_shape)
