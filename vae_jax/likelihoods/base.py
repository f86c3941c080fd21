"""The bundle that every observation model is."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from vae_jax.types import Nats, PRNGKey

Theta = Float[Array, "*x theta"]


def parameters_of(theta: Theta) -> list[Float[Array, "*x"]]:
    """The parameters of p(x | theta), each of x's shape.

    Cut as `jnp.split` does, whose gradient puts the parts together again: that of an index
    fills up a theta of zeros for each, twice the time of a small step.
    """
    return [part[..., 0] for part in jnp.split(theta, theta.shape[-1], axis=-1)]


class Likelihood(NamedTuple):
    """One observation model, as pure functions of one example.

    Attributes:
        log_prob_per_dim: `(theta, x) -> nats` of each dimension of x, of x's shape; for
            pixels it must not care whether they lie in a row or in an image.
        mean: `theta -> E[x | theta]`, of x's shape.
        sample: `(key, theta) -> x`.
        theta_dim: parameters for each dimension of x.
    """

    log_prob_per_dim: Callable[[Theta, Float[Array, "*x"]], Float[Array, "*x"]]
    mean: Callable[[Theta], Float[Array, "*x"]]
    sample: Callable[[PRNGKey, Theta], Float[Array, "*x"]]
    theta_dim: int

    def log_prob(self, theta: Theta, x: Num[Array, "*x"]) -> Nats:
        """Log p(x | theta) in nats, summed over the dimensions of x.

        Raises:
            ValueError: if theta and x do not fit each other, or `log_prob_per_dim` does not give
                one number for each dimension.
        """
        if theta.shape[:-1] != x.shape:
            raise ValueError(f"theta of shape {theta.shape} does not fit x of shape {x.shape}")
        # Flat, because XLA's CPU compiler sums over three image axes six times slower than
        # over one.
        x = x.reshape(-1).astype(jnp.result_type(theta, x))  # bits may be whole numbers
        nats = self.log_prob_per_dim(theta.reshape(-1, theta.shape[-1]), x)
        if nats.shape != (x.size,):  # or [n, 1] less [n] would be summed as [n, n]
            raise ValueError(f"log_prob_per_dim of {x.size} dimensions has shape {nats.shape}")
        return jnp.sum(nats)
