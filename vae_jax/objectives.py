"""Objectives: bounds to MAXIMISE, in nats per example.

Each one receives the terms of a minibatch with axes `[batch, samples]`, the traced
hyperparameters and the step, and returns a scalar and a dictionary of what it scheduled.
Nats are summed over the dimensions of x and of z and averaged over examples; the sign is
turned once, in `train.py`. A row of `OBJECTIVES` names the `Hyper` fields that it reads,
so that a command line can refuse a setting that would do nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.types import ElboTerms, Hyper, Nats, Scalar, Step

Aux = dict[str, Float[Array, ""]]


class Objective(NamedTuple):
    """A bound and what it needs.

    Attributes:
        num_samples: samples of each posterior in the terms.
        bound: `(terms[batch samples], hyper, step) -> (nats per example, aux)`.
        reads: the fields of `Hyper` that change it.
    """

    num_samples: int
    bound: Callable[[ElboTerms, Hyper, Step], tuple[Nats, Aux]]
    reads: frozenset[str] = frozenset()


def elbo() -> Objective:
    """The evidence lower bound, E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    Returns:
        The objective.

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), equation 7.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, 1.0)

    return Objective(1, bound)


def beta() -> Objective:
    """The beta-VAE, E_q[log p(x | z)] - beta KL(q(z | x) || p(z)).

    Beta multiplies a KL in nats per example. The normalised beta of Higgins et al. is
    beta_norm = beta * latent_dim / x_dim. A loss that averages the squared error over x_dim
    pixels and adds `kld_weight` times the KL is a Gaussian of a fixed scale with
    beta = kld_weight * x_dim / (2 scale^2).

    Returns:
        The objective.

    Reference:
        Higgins et al., beta-VAE (ICLR 2017), equation 4.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, hyper.beta)

    return Objective(1, bound, frozenset({"beta"}))


def warmup() -> Objective:
    """The beta-VAE whose weight rises linearly from 0 to beta over `warmup_steps`.

    Returns:
        The objective.

    Reference:
        Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349),
        section 3.1; the linear form is Sonderby et al. (arXiv 1602.02282), section 2.3.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, hyper.beta * _ramp(step, hyper.warmup_steps))

    return Objective(1, bound, frozenset({"beta", "warmup_steps"}))


def cyclical() -> Objective:
    """The beta-VAE whose weight restarts from 0 every `cycle_steps`.

    Within a cycle it rises linearly to beta over the first half and stays there.

    Returns:
        The objective.

    Reference:
        Fu et al., Cyclical annealing schedule (arXiv 1903.10145), equations 6 and 7, R = 0.5.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        # A cycle of one step would never leave its weight of 0: that is no schedule.
        is_cycle = jnp.asarray(hyper.cycle_steps) >= 2
        in_cycle = jnp.mod(step, jnp.maximum(hyper.cycle_steps, 1.0))
        ramp = jnp.where(is_cycle, _ramp(in_cycle, hyper.cycle_steps / 2), 1.0)
        return _weighted(terms, hyper.beta * ramp)

    return Objective(1, bound, frozenset({"beta", "cycle_steps"}))


def capacity() -> Objective:
    """Controlled capacity, E_q[log p(x | z)] - gamma |KL - C|.

    C rises linearly from 0 to `capacity` nats over `capacity_steps`. The KL inside the bars
    is the minibatch average.

    Returns:
        The objective.

    Reference:
        Burgess et al., Understanding disentangling in beta-VAE (arXiv 1804.03599), equation 8.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        target = hyper.capacity * _ramp(step, hyper.capacity_steps)
        kl = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1))
        return jnp.mean(terms.log_lik) - hyper.gamma * jnp.abs(kl - target), {"capacity": target}

    return Objective(1, bound, frozenset({"gamma", "capacity", "capacity_steps"}))


def free_bits() -> Objective:
    """Free bits, E_q[log p(x | z)] - beta sum_j max(lambda, KL_j).

    KL_j is averaged over the minibatch before the maximum is taken, and lambda is
    `free_bits`, in nats for each latent dimension.

    Returns:
        The objective.

    Reference:
        Kingma et al., Improved variational inference with inverse autoregressive flow
        (arXiv 1606.04934), equation 15, with every dimension a group of its own.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        kl_per_dim = jnp.mean(terms.kl_per_dim, axis=(0, 1))
        paid = jnp.sum(jnp.maximum(hyper.free_bits, kl_per_dim))
        return jnp.mean(terms.log_lik) - hyper.beta * paid, {}

    return Objective(1, bound, frozenset({"beta", "free_bits"}))


def _weighted(terms: ElboTerms, weight: Scalar) -> tuple[Nats, Aux]:
    kl = jnp.sum(terms.kl_per_dim, axis=-1)
    weight = jnp.asarray(weight, terms.log_lik.dtype)
    return jnp.mean(terms.log_lik - weight * kl), {"kl_weight": weight}


def _ramp(step: Step | Scalar, length: Scalar) -> Float[Array, ""]:
    """From 0 at step 0 to 1 at `length`, and 1 thereafter."""
    return jnp.minimum(1.0, step / jnp.maximum(length, 1.0))


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "elbo": elbo,
    "beta": beta,
    "warmup": warmup,
    "cyclical": cyclical,
    "capacity": capacity,
    "free_bits": free_bits,
}
