"""The ELBO over a whole data set, in bounded memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.preprocess import Preprocess
from vae_jax.types import Nats, Params, PRNGKey

# A dimension whose KL, averaged over the data, stays under this carries nothing (nats).
ACTIVE_KL = 0.01


class ElboEstimate(NamedTuple):
    """Averages over a data set, in nats per example.

    Attributes:
        log_lik: E_q[log p(x | z)], one sample for each example.
        kl_per_dim: the exact KL of each latent dimension.
    """

    log_lik: Nats
    kl_per_dim: Float[Array, " latent"]

    @property
    def kl(self) -> Nats:
        """KL(q(z | x) || p(z)), summed over the latent dimensions."""
        return jnp.sum(self.kl_per_dim, axis=-1)

    @property
    def elbo(self) -> Nats:
        """The evidence lower bound (beta = 1)."""
        return self.log_lik - self.kl

    @property
    def active_dims(self) -> Int[Array, ""]:
        """Latent dimensions whose KL exceeds `ACTIVE_KL`."""
        return jnp.sum(self.kl_per_dim > ACTIVE_KL, axis=-1)


@partial(jax.jit, static_argnames=("vae", "preprocess", "batch_size"))
def estimate_elbo(
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    key: PRNGKey,
    data: Num[Array, "n *x"],
    *,
    batch_size: int = 1000,
) -> ElboEstimate:
    """Average the terms of the ELBO over every example of a data set.

    Example i draws from `fold_in(key, i)`, so the estimate does not depend on the batch
    size, and the same key gives every model the same binarisation and the same noise.

    Args:
        vae: the model.
        preprocess: from one stored example to x.
        params: the model's parameters.
        key: the key of the estimate.
        data: the stored examples.
        batch_size: examples that are in memory at once; the last batch may be short.

    Returns:
        The averages.
    """
    size = min(batch_size, len(data))
    num_batches = -(-len(data) // size)

    def add_batch(total: ElboEstimate, indices: Int[Array, " batch"]) -> tuple[ElboEstimate, None]:
        keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index)))(indices)
        examples = data[jnp.minimum(indices, len(data) - 1)]
        xs = jax.vmap(preprocess)(keys[:, 0], examples)
        terms = batch_elbo_terms(vae, params, keys[:, 1:], xs)
        # What fills up the last batch is left out of the sum.
        weights = (indices < len(data)).astype(xs.dtype)
        batch = ElboEstimate(weights @ terms.log_lik[:, 0], weights @ terms.kl_per_dim[:, 0])
        return jax.tree.map(jnp.add, total, batch), None

    zero = ElboEstimate(jnp.zeros(()), jnp.zeros(vae.latent_dim))
    indices = jnp.arange(num_batches * size).reshape(num_batches, size)
    total, _ = jax.lax.scan(add_batch, zero, indices)
    return jax.tree.map(lambda leaf: leaf / len(data), total)
