"""Likelihoods whose dimensions are alike: pixels, and the columns of one kind in a table."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.gaussian import LOG_2PI
from vae_jax.likelihoods.base import Likelihood, Theta, parameters_of
from vae_jax.types import PRNGKey


def bernoulli() -> Likelihood:
    """Bernoulli, parameterised by its logit l.

    log p(x) = x log sigmoid(l) + (1 - x) log sigmoid(-l)
             = (x - 1/2) l - |l| / 2 - log(1 + exp(-|l|))

    The last form is finite and accurate for every finite l, with the gradient x - sigmoid(l)
    at l = 0 too. For x strictly between 0 and 1
    (grey pixels) it is the usual cross-entropy, which is not a normalised density: see
    `continuous_bernoulli`.

    Returns:
        The likelihood; x in {0, 1}, theta_dim 1.

    Example:
        >>> coin = bernoulli()
        >>> theta = jnp.zeros((3, 1))  # three fair coins
        >>> float(coin.log_prob(theta, jnp.array([0.0, 1.0, 1.0])) / jnp.log(2))
        -3.0

    Reference:
        arXiv 1312.6114, appendix C.1, equation 11.
    """

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return jax.nn.sigmoid(theta[..., 0])

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        return jax.random.bernoulli(key, mean(theta)).astype(theta.dtype)

    return Likelihood(_cross_entropy, mean, sample, theta_dim=1)


def continuous_bernoulli() -> Likelihood:
    """Continuous Bernoulli: the density on [0, 1] proportional to exp(l x).

    log p(x) = x l - log((exp(l) - 1) / l)

    which is the Bernoulli's cross-entropy plus the log-normaliser
    log C = log(2 arctanh(1 - 2 lambda) / (1 - 2 lambda)) = log(l / tanh(l / 2)),
    lambda = sigmoid(l). At l = 0 (lambda = 1/2) both are 0 / 0, and a Taylor series in l
    stands in: its error at |l| = 1/2 is under 1e-8.

    Returns:
        The likelihood; x in [0, 1], theta_dim 1.

    Reference:
        Loaiza-Ganem and Cunningham, The continuous Bernoulli (arXiv 1907.06845), section 3.
    """

    def away_from_zero(logits: Float[Array, "*x"]) -> tuple[Array, Float[Array, "*x"]]:
        # Both branches of a `where` are differentiated, so the exact branch must not see 0.
        near = jnp.abs(logits) < 0.5
        return near, jnp.where(near, 1.0, logits)

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        logits = theta[..., 0]
        near, safe = away_from_zero(logits)
        square = jnp.where(near, logits, 0.0) ** 2
        terms = 31 / 90720 - square * 127 / 4838400
        series = jnp.log(2.0) + square * (1 / 12 + square * (-7 / 1440 + square * terms))
        exact = jnp.log(jnp.abs(safe)) - jnp.log(jnp.tanh(jnp.abs(safe) / 2))
        return _cross_entropy(theta, x) + jnp.where(near, series, exact)

    def mean(theta: Theta) -> Float[Array, "*x"]:
        logits = theta[..., 0]
        # For a negative logit, where exp cannot overflow in a gradient, then mirrored.
        near, safe = away_from_zero(jnp.abs(logits))
        small = jnp.where(near, logits, 0.0)
        series = 0.5 + small * (1 / 12 + small**2 * (-1 / 720 + small**2 / 30240))
        low = 1 / safe + jnp.exp(-safe) / jnp.expm1(-safe)  # of a negative logit
        return jnp.where(near, series, jnp.where(logits < 0, low, 1 - low))

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        # Inverse of the distribution function for a negative logit, where exp cannot overflow,
        # then mirrored. The floor stands in for the limit l = 0, the uniform distribution.
        logits = theta[..., 0]
        uniform = jax.random.uniform(key, logits.shape, logits.dtype)
        rate = -jnp.maximum(jnp.abs(logits), 1e-6)
        x = jnp.log1p(uniform * jnp.expm1(rate)) / rate
        return jnp.where(logits > 0, 1 - x, x)

    return Likelihood(log_prob, mean, sample, theta_dim=1)


def gaussian(scale: float = 0.1) -> Likelihood:
    """Gaussian with a fixed standard deviation; theta is the mean.

    log p(x) = -1/2 sum_i [log 2 pi + 2 log scale + (x_i - theta_i)^2 / scale^2]

    Args:
        scale: the standard deviation, in the units of x. On one model it plays the part of
            beta: beta = 2 scale^2 is the weight against a plain sum of squared errors.

    Returns:
        The likelihood; x real, theta_dim 1.

    Raises:
        ValueError: if scale is not a positive finite number.

    Reference:
        arXiv 1312.6114, appendix C.2, equation 12.
    """
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale {scale}: a positive finite number is needed")

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return _log_normal(x - theta[..., 0], jnp.asarray(scale, x.dtype))

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return theta[..., 0]

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        return mean(theta) + scale * jax.random.normal(key, theta.shape[:-1], theta.dtype)

    return Likelihood(log_prob, mean, sample, theta_dim=1)


def gaussian_learned_scale(min_scale: float = 0.01) -> Likelihood:
    """Gaussian whose mean and standard deviation both come from the decoder.

    log p(x) = sum_i log N(x_i; theta_i0, s_i^2),  s_i = min_scale + softplus(theta_i1)

    The floor is needed: on a pixel that never changes the density grows without limit as
    its scale shrinks, and training would chase that pixel alone.

    Args:
        min_scale: the smallest standard deviation, in the units of x.

    Returns:
        The likelihood; x real, theta_dim 2.

    Raises:
        ValueError: if min_scale is not a positive finite number.

    Reference:
        arXiv 1312.6114, appendix C.2, equation 12.
    """
    if not 0 < min_scale < float("inf"):
        raise ValueError(f"min_scale {min_scale}: a positive finite number is needed")

    def location_and_scale(theta: Theta) -> tuple[Float[Array, "*x"], Float[Array, "*x"]]:
        location, free = parameters_of(theta)
        return location, min_scale + jax.nn.softplus(free)

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        location, scale = location_and_scale(theta)
        return _log_normal(x - location, scale)

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return theta[..., 0]

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        location, scale = location_and_scale(theta)
        return location + scale * jax.random.normal(key, theta.shape[:-1], theta.dtype)

    return Likelihood(log_prob, mean, sample, theta_dim=2)


def squeezed(likelihood: Likelihood) -> Likelihood:
    """The same likelihood with its location squeezed into (0, 1) by a sigmoid.

    p(x | theta) = p'(x | sigmoid(theta_0), theta_1, ...)

    The mean of a Gaussian is then a grey level, while its density still reaches beyond [0, 1].

    Args:
        likelihood: whose first parameter is a location on the scale of x.

    Returns:
        The likelihood.

    Example:
        >>> pixel = squeezed(gaussian_learned_scale())
        >>> pixel.mean(jnp.array([[0.0, 1.0], [9.0, 1.0]])).round(2).tolist()
        [0.5, 1.0]

    Reference:
        arXiv 1312.6114, section 5: the decoder's means for continuous data.
    """

    def squeeze(theta: Theta) -> Theta:
        location, *others = parameters_of(theta)
        return jnp.stack([jax.nn.sigmoid(location), *others], axis=-1)

    def log_prob(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        return likelihood.log_prob_per_dim(squeeze(theta), x)

    def mean(theta: Theta) -> Float[Array, "*x"]:
        return likelihood.mean(squeeze(theta))

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        return likelihood.sample(key, squeeze(theta))

    return Likelihood(log_prob, mean, sample, likelihood.theta_dim)


def _cross_entropy(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
    logits = theta[..., 0]
    size = jnp.abs(logits)
    return (x - 0.5) * logits - size / 2 - jnp.log1p(jnp.exp(-size))


def _log_normal(residual: Float[Array, "*x"], scale: Float[Array, "..."]) -> Float[Array, "*x"]:
    return -0.5 * (LOG_2PI + (residual / scale) ** 2) - jnp.log(scale)
