"""log p(x) by importance sampling from the posterior, and what else its weights give.

Every function is written for one example and takes the key of its samples; the same key for
all examples gives them the same noise, so that a score does not depend on who stands beside.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from vae_jax.gaussian import standard_log_density
from vae_jax.model import VAE, log_posterior
from vae_jax.preprocess import Preprocess
from vae_jax.types import Nats, Params, PRNGKey, Step

# Samples that are decoded at once; more are streamed.
_AT_ONCE = 128


class Importance(NamedTuple):
    """The importance-weighted estimate of one example, or of many with a leading axis.

    Attributes:
        log_likelihood: log (1 / K) sum_k w_k, nats: a lower bound of log p(x) in expectation.
        effective_samples: (sum_k w_k)^2 / sum_k w_k^2, from 1 to K; where it is near 1 the
            posterior misses the model's own and the estimate is low.
    """

    log_likelihood: Float[Array, "*n"]
    effective_samples: Float[Array, "*n"]


def log_likelihood(
    key: PRNGKey, vae: VAE, params: Params, x: Float[Array, "*x"], num_samples: int
) -> Importance:
    """Estimate log p(x) of one example with K samples of its posterior.

    log p(x) >= E[log (1 / K) sum_k w_k],  w_k = p(x | z_k) p(z_k) / q(z_k | x),  z_k ~ q.

    Samples are streamed, so memory does not grow with their number.

    Args:
        key: the key of the samples.
        vae: the model.
        params: its parameters.
        x: one example.
        num_samples: K.

    Returns:
        The estimate, in nats.

    Raises:
        ValueError: if num_samples is under 1.

    Reference:
        Burda et al., Importance weighted autoencoders (arXiv 1509.00519), equation 8.
    """
    weights, _ = _streamed(key, vae, params, x, num_samples, wanted=lambda theta: jnp.zeros(()))
    return Importance(
        weights.log_sum - jnp.log(num_samples),
        jnp.exp(2 * weights.log_sum - weights.log_sum_of_squares),
    )


def posterior_predictive(
    key: PRNGKey, vae: VAE, params: Params, x: Float[Array, "*x"], num_samples: int
) -> Float[Array, "*x"]:
    """The mean of what the model expects of one example, given what was observed of it.

    E[x' | x] = sum_k w_k E[x' | z_k] / sum_k w_k, with the weights of `log_likelihood`. For
    a likelihood that leaves out what is missing in x, this is its imputation.

    Args:
        key: the key of the samples.
        vae: the model.
        params: its parameters.
        x: one example, NaN where it is missing.
        num_samples: K.

    Returns:
        The mean of every dimension of x, of the observed ones too.

    Raises:
        ValueError: if num_samples is under 1.

    Reference:
        Mattei and Frellsen, MIWAE (arXiv 1812.02633), equation 13.
    """
    _, mean = _streamed(key, vae, params, x, num_samples, wanted=vae.likelihood.mean)
    return mean


@partial(jax.jit, static_argnames=("vae", "preprocess", "num_samples", "batch_size"))
def estimate_log_likelihood(
    key: PRNGKey,
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    data: Num[Array, "n *x"],
    *,
    num_samples: int,
    batch_size: int = 32,
    first: Step = 0,
) -> Importance:
    """Estimate log p(x) of every example of a data set.

    Example i draws from `fold_in(key, i)`, so the estimate depends neither on the batch size nor
    on whether the data come whole or in parts.

    Args:
        key: the key of the estimate.
        vae: the model.
        preprocess: from one stored example to x.
        params: the model's parameters.
        data: the stored examples.
        num_samples: K; they are streamed, so memory does not grow with it.
        batch_size: examples that are in memory at once; the last batch may be short.
        first: the number i of the first example, where the data are a part of a set.

    Returns:
        The estimate of each example, with the leading axis `n`. Their mean and its standard
        error are those of the model; many effective samples are no proof, few are a warning.

    Raises:
        ValueError: if there are no data, or num_samples or the batch size is under 1.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.preprocess import intensities
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> key, images = jax.random.key(0), jnp.zeros((5, 8, 8, 1), jnp.uint8)
        >>> params = vae.init(key)
        >>> found = estimate_log_likelihood(
        ...     key, vae, intensities, params, images, num_samples=20)
        >>> found.log_likelihood.shape
        (5,)
    """
    if len(data) == 0 or batch_size < 1:
        raise ValueError(f"{len(data)} examples in batches of {batch_size}: at least 1 is needed")

    def one(index: Int[Array, ""]) -> Importance:
        key_x, key_z = jax.random.split(jax.random.fold_in(key, first + index))
        x = preprocess(key_x, data[jnp.minimum(index, len(data) - 1)])
        return log_likelihood(key_z, vae, params, x, num_samples)

    return jax.lax.map(one, jnp.arange(len(data)), batch_size=min(batch_size, len(data)))


class _Weights(NamedTuple):
    log_sum: Float[Array, ""]
    log_sum_of_squares: Float[Array, ""]


def _streamed(
    key: PRNGKey, vae: VAE, params: Params, x: Float[Array, "*x"], num_samples: int, wanted
) -> tuple[_Weights, Array]:
    """The sums of the weights and of their squares, and the weighted mean of `wanted(theta)`."""
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    q = vae.encode(params, x)

    def weigh(key: PRNGKey) -> tuple[Nats, Array]:
        sample = vae.draw(key, params, q)
        theta = vae.theta_of(params, sample.z, x)
        log_joint = vae.likelihood.log_prob(theta, x) + standard_log_density(sample.z)
        return log_joint - log_posterior(q, sample), wanted(theta)

    def add(
        total: tuple[_Weights, Array], some: tuple[Key[Array, " k"], Bool[Array, " k"]]
    ) -> tuple[tuple[_Weights, Array], None]:
        (log_sum, log_squares), mean = total
        keys, counted = some
        log_w, values = jax.vmap(weigh)(keys)
        log_w = jnp.where(counted, log_w, -jnp.inf)
        new_sum = jnp.logaddexp(log_sum, jax.nn.logsumexp(log_w))
        # Of weights that all underflow the mean is that of what came before.
        share = jnp.where(jnp.isfinite(new_sum), jnp.exp(log_w - new_sum), 0.0)
        kept = jnp.where(jnp.isfinite(log_sum), jnp.exp(log_sum - new_sum), 0.0)
        mean = kept * mean + jnp.tensordot(share, values, axes=1)
        log_squares = jnp.logaddexp(log_squares, jax.nn.logsumexp(2 * log_w))
        return (_Weights(new_sum, log_squares), mean), None

    at_once = min(num_samples, _AT_ONCE)
    num_batches = -(-num_samples // at_once)
    index = jnp.arange(num_batches * at_once).reshape(num_batches, at_once)
    keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(index)
    shape = jax.eval_shape(weigh, key)[1]
    nothing = _Weights(jnp.float32(-jnp.inf), jnp.float32(-jnp.inf))
    start = (nothing, jnp.zeros(shape.shape, shape.dtype))
    total, _ = jax.lax.scan(add, start, (keys, index < num_samples))
    return total
