"""The ELBO over a whole data set, in bounded memory."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key, Num

from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.preprocess import Preprocess
from vae_jax.types import Params, PRNGKey

if TYPE_CHECKING:
    Numbers = Array
else:  # of an estimate that the host has read they are NumPy's
    Numbers = ArrayLike

# A dimension whose KL, averaged over the data, stays under this carries nothing (nats).
ACTIVE_KL = 0.01


class ElboEstimate(NamedTuple):
    """Averages over a data set, in nats per example; those of a population lead with its axis.

    Attributes:
        log_lik: E_q[log p(x | z)], by samples.
        kl_per_dim: the KL of each latent dimension, exact but for a posterior of several
            layers, where it is by samples.
    """

    log_lik: Float[Array, "*member"]
    kl_per_dim: Float[Array, "*member latent"]

    @property
    def kl(self) -> Float[Numbers, "*member"]:
        """KL(q(z | x) || p(z)), summed over the latent dimensions."""
        # By the array's own method: what was read by the host is not sent back to a device.
        return self.kl_per_dim.sum(axis=-1)

    @property
    def elbo(self) -> Float[Numbers, "*member"]:
        """The evidence lower bound (beta = 1)."""
        return self.log_lik - self.kl

    @property
    def active_dims(self) -> Int[Numbers, "*member"]:
        """Latent dimensions whose KL exceeds `ACTIVE_KL`."""
        return (self.kl_per_dim > ACTIVE_KL).sum(axis=-1)


@partial(jax.jit, static_argnames=("vae", "preprocess", "batch_size", "num_samples"))
def estimate_elbo(
    key: PRNGKey,
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    data: Num[Array, "n *x"],
    count: Int[Array, ""] | None = None,
    *,
    batch_size: int = 1000,
    num_samples: int = 1,
) -> ElboEstimate:
    """Average the terms of the ELBO over every example of a data set.

    ELBO = (1 / n) sum_i [(1 / L) sum_l log p(x_i | z_il) - sum_j KL(q(z_j | x_i) || p(z_j))],
    z_il ~ q(z | x_i), L = `num_samples`; the KL is exact, or of the same samples where the
    posterior has several layers.

    Example i draws from `fold_in(key, i)`, so the estimate does not depend on the batch
    size, and the same key gives every model the same binarisation and the same noise; of a key
    that is not threefry's, JAX's default, `vmap` draws otherwise for another batch size.

    Args:
        key: the key of the estimate.
        vae: the model.
        preprocess: from one stored example to x.
        params: the model's parameters.
        data: the stored examples.
        count: how many of them are averaged, from the first, at least 1 and at most all, or the
            averages are NaN; those behind only give data sets of several lengths one shape, and so
            one program. None: all.
        batch_size: examples that are in memory at once; the last batch may be short.
        num_samples: samples of each posterior; more where there are few examples.

    Returns:
        The averages, in nats per example: of log p(x | z), and of the KL of each latent dimension.

    Raises:
        ValueError: if there are no data, or the batch size or num_samples is under 1.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.preprocess import intensities
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> key, images = jax.random.key(0), jnp.zeros((5, 8, 8, 1), jnp.uint8)
        >>> params = vae.init(key)
        >>> estimate = estimate_elbo(key, vae, intensities, params, images)
        >>> bool(estimate.elbo < 0)
        True

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), equation 7.
    """
    if len(data) == 0 or batch_size < 1:
        raise ValueError(f"{len(data)} examples in batches of {batch_size}: at least 1 is needed")
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    n: Int[ArrayLike, ""] = len(data)
    if count is not None:  # of none the average is 0 / 0
        n = jnp.where((count >= 1) & (count <= len(data)), count, 0)
    size = min(batch_size, len(data))
    num_batches = -(-len(data) // size)

    def add_batch(total: ElboEstimate, indices: Int[Array, " batch"]) -> tuple[ElboEstimate, None]:
        def keys_of(index: Int[Array, ""]) -> Key[Array, " keys"]:
            return jax.random.split(jax.random.fold_in(key, index), 1 + num_samples)

        keys = jax.vmap(keys_of)(indices)
        examples = data[jnp.minimum(indices, len(data) - 1)]
        xs = jax.vmap(preprocess)(keys[:, 0], examples)
        terms = batch_elbo_terms(keys[:, 1:], vae, params, xs)
        # What fills up the last batch, or the data, is left out; a sum, not a product with
        # weights, which an accelerator may round to fewer digits.
        counted = indices < n
        log_lik = jnp.where(counted, jnp.mean(terms.log_lik, axis=1), 0.0)
        # An exact KL is alike for all samples.
        kl = jnp.mean(terms.kl_per_dim, axis=1) if vae.is_layered else terms.kl_per_dim[:, 0]
        kl_per_dim = jnp.where(counted[:, None], kl, 0.0)
        batch = ElboEstimate(jnp.sum(log_lik), jnp.sum(kl_per_dim, axis=0))
        return jax.tree.map(jnp.add, total, batch), None

    zero = ElboEstimate(jnp.zeros(()), jnp.zeros(vae.latent_dim))
    indices = jnp.arange(num_batches * size).reshape(num_batches, size)
    total, _ = jax.lax.scan(add_batch, zero, indices)
    return jax.tree.map(lambda leaf: leaf / n, total)
