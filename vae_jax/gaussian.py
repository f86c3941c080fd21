"""Diagonal normal distributions: the posterior q(z | x) and the prior p(z) = N(0, I).

Every function is written for one example; callers `vmap`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.types import Nats, Normal, PRNGKey

LOG_2PI = 1.8378770664093453


def reparameterize(key: PRNGKey, q: Normal) -> Float[Array, " latent"]:
    """Draw z ~ q as a differentiable function of q's parameters.

    z = mean + exp(log_var / 2) * eps, with eps ~ N(0, I).

    Args:
        key: the key of this one draw.
        q: the posterior of one example.

    Returns:
        One sample, of q's shape.

    Example:
        >>> q = Normal(mean=jnp.array([1.0, 2.0]), log_var=jnp.array([-200.0, -200.0]))
        >>> reparameterize(jax.random.key(0), q).tolist()
        [1.0, 2.0]

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), section 2.4.
    """
    eps = jax.random.normal(key, q.mean.shape, q.mean.dtype)
    return q.mean + jnp.exp(q.log_var / 2) * eps


def log_density(q: Normal, z: Float[Array, " latent"]) -> Nats:
    """Log-density of z under a diagonal normal distribution.

    log q(z) = -1/2 sum_j [log 2 pi + log_var_j + (z_j - mean_j)^2 / exp(log_var_j)]

    Args:
        q: the distribution.
        z: the point.

    Returns:
        Nats, summed over the latent dimensions.

    Reference:
        arXiv 1312.6114, equation 9.
    """
    return jnp.sum(log_density_per_dim(q, z))


def log_density_per_dim(q: Normal, z: Float[Array, " latent"]) -> Float[Array, " latent"]:
    """Log-density of each z_j under a diagonal normal distribution: the summands of `log_density`.

    log q(z_j) = -1/2 [log 2 pi + log_var_j + (z_j - mean_j)^2 / exp(log_var_j)]

    Args:
        q: the distribution.
        z: the point.

    Returns:
        Nats, one number for each latent dimension.
    """
    return -0.5 * (LOG_2PI + q.log_var + (z - q.mean) ** 2 * jnp.exp(-q.log_var))


def standard_log_density(z: Float[Array, " latent"]) -> Nats:
    """Log-density of z under the prior.

    log p(z) = -1/2 sum_j [log 2 pi + z_j^2]

    Args:
        z: the point.

    Returns:
        Nats, summed over the latent dimensions.

    Reference:
        arXiv 1312.6114, section 3: the prior N(0, I).
    """
    return -0.5 * jnp.sum(LOG_2PI + z**2)


def kl_to_standard_normal(q: Normal) -> Float[Array, " latent"]:
    """Exact KL(q || N(0, I)) of each latent dimension.

    KL_j = 1/2 [mean_j^2 + exp(log_var_j) - 1 - log_var_j]

    It is written with `expm1`, because near the prior exp(log_var) - 1 cancels.

    Args:
        q: the posterior of one example.

    Returns:
        Nats, one number for each dimension; their sum is the KL of the ELBO.

    Example:
        >>> kl_to_standard_normal(Normal(jnp.array([0.0, 2.0]), jnp.zeros(2))).tolist()
        [0.0, 2.0]

    Reference:
        arXiv 1312.6114, appendix B.
    """
    return 0.5 * (q.mean**2 + jnp.expm1(q.log_var) - q.log_var)
