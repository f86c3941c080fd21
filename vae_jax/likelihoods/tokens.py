"""The words of a sentence: one categorical distribution at every place."""

from typing import NoReturn

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vae_jax.likelihoods.base import Likelihood, Theta
from vae_jax.types import PAD, PRNGKey


def tokens(vocabulary_size: int) -> Likelihood:
    """Tokens, log p(x_t | z) = theta_t[x_t] - log sum_{v > 0} exp theta_t[v].

    Token 0 fills a sentence up: it has no probability, and where it stands in x nothing is
    counted, so sentences of any length share one array. The sign of x does not matter; a
    decoder may tell by it which words it is not to see.

    Args:
        vocabulary_size: tokens, the one that fills up among them.

    Returns:
        The likelihood, of an x of whole numbers; `theta_dim` is the vocabulary's size. A token
        has no mean, and `mean` refuses.

    Raises:
        ValueError: if the vocabulary has no token but the one that fills up; by `mean`, always.

    Reference:
        Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349),
        section 2.
    """
    if vocabulary_size < 2:
        raise ValueError(f"vocabulary_size {vocabulary_size}: at least 2 is needed")

    def values(theta: Theta) -> Int[Array, "*x token"]:
        return jax.lax.broadcasted_iota(jnp.int32, theta.shape, theta.ndim - 1)

    def logits_of(theta: Theta) -> Float[Array, "*x token"]:
        return jnp.where(values(theta) == PAD, -jnp.inf, theta)

    def log_prob_per_dim(theta: Theta, x: Float[Array, "*x"]) -> Float[Array, "*x"]:
        token = jnp.abs(x)
        # By comparison: the gradient of an index is a loop over the words of a minibatch.
        chosen = jnp.where(values(theta) == token[..., None], theta, 0.0)
        log_prob = jnp.sum(chosen, axis=-1) - jax.nn.logsumexp(logits_of(theta), axis=-1)
        return jnp.where(token == PAD, 0.0, log_prob)

    def mean(theta: Theta) -> NoReturn:
        raise ValueError("a token has no mean: its most probable value or a sample is wanted")

    def sample(key: PRNGKey, theta: Theta) -> Float[Array, "*x"]:
        return jax.random.categorical(key, logits_of(theta)).astype(theta.dtype)

    return Likelihood(log_prob_per_dim, mean, sample, vocabulary_size)
