"""Likelihoods for the columns of a table, and how they are put side by side."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

from vae_jax.likelihoods.base import Likelihood, Theta, parameters_of
from vae_jax.likelihoods.levels import RAISED_BY, stirling_tail
from vae_jax.types import PRNGKey

# Where log-means and log-dispersions may lie: means of 3e-7 to 3e6.
_LOG_MEAN_RANGE = (-15.0, 15.0)
_LOG_SIZE_RANGE = (-5.0, 5.0)


def student_t(df: float = 4.0, min_scale: float = 0.01) -> Likelihood:
    """Student's t with a location and a scale: a Gaussian with heavy tails.

    log p(x) = sum_i [log G((df + 1) / 2) - log G(df / 2) - 1/2 log(df pi) - log s_i
                      - (df + 1) / 2 log(1 + (x_i - theta_i0)^2 / (df s_i^2))],
    s_i = min_scale + softplus(theta_i1), G the gamma function.

    Args:
        df: degrees of freedom; at 1 or under there is no mean, with many it is the Gaussian.
        min_scale: the smallest scale, in the units of x.

    Returns:
        The likelihood; x real, theta_dim 2.

    Raises:
        ValueError: if df is not finite and above 1, or min_scale not finite and positive.

    Reference:
        Lange, Little and Taylor, Robust statistical modeling using the t distribution
        (JASA 1989).
    """
    if not 1 < df < float("inf"):
        raise ValueError(f"df {df}: a finite number above 1 is needed")
    if not 0 < min_scale < float("inf"):
        raise ValueError(f"min_scale {min_scale}: a positive finite number is needed")

    def location_and_scale(theta: Theta) -> tuple[Float[Array, "*x"], Float[Array, "*x"]]:
        location, free = parameters_of(theta)
        return location, min_scale + jax.nn.softplus(free)

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        location, s = location_and_scale(theta)
        constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * jnp.log(df * jnp.pi)
        square = ((x - location) / s) ** 2
        return constant.astype(x.dtype) - jnp.log(s) - (df + 1) / 2 * jnp.log1p(square / df)

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return theta[..., 0]

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        location, scale = location_and_scale(theta)
        return location + scale * jax.random.t(key, df, theta.shape[:-1], theta.dtype)

    return Likelihood(log_prob, mean, sample, theta_dim=2)


def negative_binomial() -> Likelihood:
    """Negative binomial for counts, with the variance m + m^2 / r: a Poisson that may spread.

    log p(x) = log G(x + r) - log G(r) - log x! + r log(r / (r + m)) + x log(m / (r + m)),
    m = exp(theta_0) clipped to [e^-15, e^15], r = exp(theta_1) clipped to [e^-5, e^5], G the
    gamma function.

    Returns:
        The likelihood; x in {0, 1, 2, ...}, theta_dim 2.

    Reference:
        Lopez et al., Deep generative modeling for single-cell transcriptomics
        (Nature Methods 2018), without the zero inflation.
    """

    def logs(theta: Theta) -> tuple[Float[Array, "*x"], Float[Array, "*x"]]:
        log_mean, log_size = parameters_of(theta)
        return jnp.clip(log_mean, *_LOG_MEAN_RANGE), jnp.clip(log_size, *_LOG_SIZE_RANGE)

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        log_mean, log_size = logs(theta)
        log_odds = log_mean - log_size  # of another event against the r-th stop
        stops = jnp.exp(log_size) * jax.nn.softplus(log_odds)
        return _log_ways(jnp.exp(log_size), x) - stops - x * jax.nn.softplus(-log_odds)

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return jnp.exp(logs(theta)[0])

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        # A Poisson whose rate is gamma distributed.
        key_gamma, key_poisson = jax.random.split(key)
        log_mean, log_size = logs(theta)
        # JAX has a Poisson for this generator only.
        words = jax.random.bits(key_poisson, (2,), jnp.uint32)
        key_poisson = jax.random.wrap_key_data(words, impl="threefry2x32")
        rate = jax.random.gamma(key_gamma, jnp.exp(log_size)) * jnp.exp(log_mean - log_size)
        return jax.random.poisson(key_poisson, rate).astype(theta.dtype)

    return Likelihood(log_prob, mean, sample, theta_dim=2)


def _log_ways(size: Float[Array, "*x"], x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    """Log of G(x + r) / (G(r) x!), r = size.

    By Stirling's formula for r and 1 raised by 6 (`RAISED_BY`), with what is large in their
    difference taken together before it is computed. In float32 the error is 1e-3 nats up to ten
    million, where differences of `gammaln` are wrong by more than ten.
    """
    from_size, from_one = size + RAISED_BY, 1.0 + RAISED_BY
    # (r + i) / (r + x + i), i < 6, brings r to r + 6, and (1 + i) / (1 + x + i) 1 to 7. Either
    # product by itself would vanish in float32.
    ratio = math.prod(
        ((size + i) * (x + 1 + i)) / ((size + x + i) * (1 + i)) for i in range(RAISED_BY)
    )
    tails = stirling_tail(from_size + x) - stirling_tail(from_size)
    tails_of_one = stirling_tail(from_one + x) - stirling_tail(jnp.full_like(x, from_one))
    return (
        x * jnp.log1p((size - 1) / (from_one + x))
        + jnp.log(ratio)
        + (from_size - 0.5) * jnp.log1p(x / from_size)
        - (from_one - 0.5) * jnp.log1p(x / from_one)
        + tails
        - tails_of_one
    )


def categorical() -> Likelihood:
    """Softmax over the dimensions of x: exactly one of them is 1.

    log p(x) = sum_k x_k log softmax(theta)_k, and 0 where all of x is 0.

    Returns:
        The likelihood; x one-hot, theta_dim 1.

    Example:
        >>> die = categorical()
        >>> p = jnp.exp(die.log_prob(jnp.zeros((6, 1)), jnp.eye(6)[2]))
        >>> round(float(1 / p), 3)
        6.0
    """

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return x * jax.nn.log_softmax(theta[..., 0])

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return jax.nn.softmax(theta[..., 0])

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        logits = theta[..., 0]
        return jax.nn.one_hot(jax.random.categorical(key, logits), logits.shape[-1])

    return Likelihood(log_prob, mean, sample, theta_dim=1)


def joint(parts: Sequence[tuple[Likelihood, int]]) -> Likelihood:
    """Independent likelihoods side by side: the features of x are cut into blocks.

    log p(x) = sum over the blocks of log p_block(x_block).

    Args:
        parts: the likelihood and the number of features of each block, in order.

    Returns:
        The likelihood of one row, `x [features]`; its theta_dim is the largest of them.

    Raises:
        ValueError: if there is no part, or one without a feature.
    """
    if not parts or any(width < 1 for _, width in parts):
        raise ValueError(f"widths {[width for _, width in parts]}: each must be 1 or more")
    ends = [sum(width for _, width in parts[: i + 1]) for i in range(len(parts))]
    blocks = [
        (likelihood, slice(end - width, end))
        for (likelihood, width), end in zip(parts, ends, strict=True)
    ]

    def theta_of(
        likelihood: Likelihood, theta: Float[Array, "features theta"], own: slice
    ) -> Float[Array, "width own"]:
        return theta[own, : likelihood.theta_dim]

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return jnp.concatenate(
            [part.log_prob_per_dim(theta_of(part, theta, own), x[own]) for part, own in blocks]
        )

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return jnp.concatenate([part.mean(theta_of(part, theta, own)) for part, own in blocks])

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        keys = jax.random.split(key, len(blocks))
        return jnp.concatenate(
            [
                part.sample(key, theta_of(part, theta, own))
                for key, (part, own) in zip(keys, blocks, strict=True)
            ]
        )

    return Likelihood(log_prob, mean, sample, max(part.theta_dim for part, _ in parts))


def missing_at_nan(likelihood: Likelihood) -> Likelihood:
    """The same likelihood of what was observed: a dimension of x that is NaN counts nothing.

    log p(x_observed | z), for rows whose values are missing at random.

    Args:
        likelihood: of complete rows; 0 must be a possible value of each dimension.

    Returns:
        The likelihood.

    Reference:
        Nazabal et al., Handling incomplete heterogeneous data using VAEs (arXiv 1807.03653),
        section 2.1; Mattei and Frellsen, MIWAE (arXiv 1812.02633), equation 4.
    """

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        # Both branches of a `where` are differentiated, so no NaN may enter either.
        observed = ~jnp.isnan(x)
        filled = jnp.where(observed, x, 0.0)
        return jnp.where(observed, likelihood.log_prob_per_dim(theta, filled), 0.0)

    return likelihood._replace(log_prob_per_dim=log_prob)
