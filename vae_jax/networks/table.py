"""A decoder for tables: what the spread of a column depends on is a choice."""

from collections.abc import Sequence
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.networks.mlp import KERNEL_INIT
from vae_jax.networks.rows import Dense
from vae_jax.types import Activation

ScaleOf = Literal["row", "column", "table"]


class TableDecoder(nn.Module):
    """z -> theta [features, parameters]: locations from z, the other parameters by choice.

    With a few hundred rows a spread for each row fits noise; one learned number for each
    column (sigma-VAE) does not, and one for the whole table makes a linear decoder that of
    probabilistic PCA.

    Attributes:
        hidden: widths of the hidden layers, from the latent side.
        features: of x.
        theta_dim: the likelihood's parameters for each feature.
        scale_of: whether the parameters behind the first come from z ("row"), are learned
            for each feature ("column") or once ("table").
        activation: between layers.

    Reference:
        Rybkin, Daniilidis and Levine, Simple and effective VAE training with calibrated
        decoders (arXiv 2006.13202), section 3.1.
    """

    hidden: Sequence[int]
    features: int
    theta_dim: int
    scale_of: ScaleOf = "column"
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, "features theta"]:
        """Decode one latent vector."""
        h = z
        for width in self.hidden:
            h = self.activation(Dense(width, kernel_init=KERNEL_INIT)(h))
        others = self.theta_dim - 1
        if self.scale_of == "row":
            theta = Dense(self.features * self.theta_dim, kernel_init=KERNEL_INIT)(h)
            return theta.reshape(self.features, self.theta_dim)
        location = Dense(self.features, kernel_init=KERNEL_INIT)(h)
        rows = self.features if self.scale_of == "column" else 1
        learned = self.param("others", nn.initializers.zeros, (rows, others))
        spread = jnp.broadcast_to(learned, (self.features, others))
        return jnp.concatenate([location[:, None], spread], axis=1)
