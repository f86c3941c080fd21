"""log p(x) by importance sampling from the posterior, and what else its weights give.

Every function is written for one example and takes the key of its samples; the same key for
all examples gives them the same noise, so that a score does not depend on who stands beside.
`estimate_log_likelihood` runs over a data set, and `average_log_likelihood` sums it up.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from vae_jax.evaluation.memory import examples_at_once, samples_at_once
from vae_jax.gaussian import standard_log_density
from vae_jax.model import VAE, log_posterior
from vae_jax.preprocess import Preprocess
from vae_jax.types import Nats, Params, PRNGKey, Step


class Importance(NamedTuple):
    """The importance-weighted estimate of one example, or of many with a leading axis.

    Attributes:
        log_likelihood: log (1 / K) sum_k w_k, nats: a lower bound of log p(x) in expectation.
        effective_samples: (sum_k w_k)^2 / sum_k w_k^2, from 1 to K; where it is near 1 the
            posterior misses the model's own and the estimate is low, by at least about
            (1 / effective_samples - 1 / K) / 2 nats: the weights of so few samples do not show
            how far they may spread.
        standard_error: of `log_likelihood`, over other samples of the same posterior, nats:
            sqrt(1 / effective_samples - 1 / K). NaN for K = 1, which tells nothing of it.
    """

    log_likelihood: Float[Array, "*n"]
    effective_samples: Float[Array, "*n"]
    standard_error: Float[Array, "*n"]


class Average(NamedTuple):
    """The mean log-likelihood of a data set, nats.

    Attributes:
        mean: over the examples.
        standard_error: of the mean as that of all data like these, from the spread over the
            examples, of which the noise of the samples is a part; NaN for one example.
        sampling_error: what of it other samples of the same posteriors would change,
            sqrt(sum_i SE_i^2) / n; NaN for K = 1.
    """

    mean: Nats
    standard_error: Nats
    sampling_error: Nats


def log_likelihood(
    key: PRNGKey, vae: VAE, params: Params, x: Float[Array, "*x"], num_samples: int
) -> Importance:
    """Estimate log p(x) of one example with K samples of its posterior.

    log p(x) >= E[log (1 / K) sum_k w_k],  w_k = p(x | z_k) p(z_k) / q(z_k | x),  z_k ~ q.

    Samples are streamed, 256 at a time or as many as have their theta in 32 MiB, so memory does
    not grow with their number.

    By the delta method the variance of the estimate is that of the mean weight over its square,
    Var(w) / (K E[w]^2), which 1 / ESS - 1 / K estimates from the same weights, and what it lacks
    of log p(x) is half of that. Both are leading terms: with few effective samples the weights do
    not show how far they may spread, and both are too small.

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
        Burda et al., Importance weighted autoencoders (arXiv 1509.00519), equation 8; Owen,
        Monte Carlo theory, methods and examples, sections 2.7 (delta method) and 9.3
        (effective samples); Nowozin, Debiasing evidence approximations (ICLR 2018), section 2,
        for the bias.
    """
    weights, _ = _streamed(key, vae, params, x, num_samples, wanted=lambda theta: jnp.zeros(()))
    effective = jnp.exp(2 * weights.log_sum - weights.log_sum_of_squares)
    # Weights that are all alike would leave a rounding of either sign.
    variance = jnp.maximum(1 / effective - 1 / num_samples, 0.0)
    error = jnp.sqrt(variance) if num_samples > 1 else jnp.full((), jnp.nan)
    return Importance(weights.log_sum - jnp.log(num_samples), effective, error)


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
    batch_size: int | None = None,
    first: Step = 0,
) -> Importance:
    """Estimate log p(x) of every example of a data set.

    Example i draws from `fold_in(key, i)`, so that with JAX's default keys, threefry's, the
    estimate depends neither on the batch size nor on whether the data come whole or in parts.

    Args:
        key: the key of the estimate.
        vae: the model.
        preprocess: from one stored example to x.
        params: the model's parameters.
        data: the stored examples.
        num_samples: K; they are streamed, so memory does not grow with it.
        batch_size: examples that are in memory at once; None takes 32, or as many as have the
            theta of their samples in 32 MiB. The last batch may be short.
        first: the number i of the first example, where the data are a part of a set.

    Returns:
        The estimate of each example, with the leading axis `n`; `average_log_likelihood` sums
        them up. Many effective samples are no proof, few are a warning.

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
    if len(data) == 0:
        raise ValueError("0 examples: at least 1 is needed")
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    if batch_size is None:
        shape = jax.eval_shape(preprocess, key, data[0])
        batch_size = examples_at_once(vae, params, shape, num_samples)
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1 is needed")

    def one(index: Int[Array, ""]) -> Importance:
        key_x, key_z = jax.random.split(jax.random.fold_in(key, first + index))
        x = preprocess(key_x, data[jnp.minimum(index, len(data) - 1)])
        return log_likelihood(key_z, vae, params, x, num_samples)

    return jax.lax.map(one, jnp.arange(len(data)), batch_size=min(batch_size, len(data)))


def average_log_likelihood(found: Importance) -> Average:
    """The mean of a data set's estimates and its standard errors.

    Args:
        found: the estimate of each example, with noise of its own.

    Returns:
        The mean, in nats per example.

    Raises:
        ValueError: if it is not of a data set, or of no example.

    Example:
        >>> nats, errors = jnp.array([-90.0, -100.0, -95.0]), jnp.full(3, 0.3)
        >>> average = average_log_likelihood(Importance(nats, jnp.full(3, 9.0), errors))
        >>> [round(float(number), 2) for number in average]
        [-95.0, 2.89, 0.17]
    """
    nats = found.log_likelihood
    if nats.ndim != 1 or len(nats) == 0:
        raise ValueError(f"estimates of shape {nats.shape}: [n] with n at least 1 is needed")
    n = len(nats)
    spread = jnp.std(nats, ddof=1) if n > 1 else jnp.full((), jnp.nan)
    sampling = jnp.sqrt(jnp.sum(found.standard_error**2)) / n
    return Average(jnp.mean(nats), spread / math.sqrt(n), sampling)


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

    at_once = samples_at_once(vae, params, x, num_samples)
    num_batches = -(-num_samples // at_once)
    index = jnp.arange(num_batches * at_once).reshape(num_batches, at_once)
    keys = jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(index)
    log_w, shape = jax.eval_shape(weigh, key)
    nothing = _Weights(*2 * (jnp.full((), -jnp.inf, log_w.dtype),))
    start = (nothing, jnp.zeros(shape.shape, shape.dtype))
    total, _ = jax.lax.scan(add, start, (keys, index < num_samples))
    return total
