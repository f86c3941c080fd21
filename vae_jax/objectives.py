"""Objectives: bounds to MAXIMISE, in nats per example.

Each one receives the terms of a minibatch with axes `[batch, samples]`, the traced
hyperparameters and the step, and returns a scalar and a dictionary of what it scheduled or
estimated. Nats are summed over the dimensions of x and of z and averaged over examples; the sign
is turned once, in `train.py`. A row of `OBJECTIVES` names the `Hyper` fields that it reads,
so that a command line can refuse a setting that would do nothing; each is made for a number of
samples of every posterior, which is part of the program and not swept.

The dictionary holds `kl_weight`, the number that `elbo`, `beta`, `warmup` and `cyclical` multiply
the KL by at this step; `capacity`, the C of this step, in nats; `total_correlation`, the TC of
`beta_tc` in this minibatch, in nats. That of the other objectives is empty.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vae_jax.gaussian import log_density, log_density_per_dim
from vae_jax.types import ElboTerms, Hyper, Nats, Normal, Scalar, Step

Aux = dict[str, Float[Array, ""]]


class Objective(NamedTuple):
    """A bound and what it needs.

    Attributes:
        num_samples: samples of each posterior in the terms.
        bound: `(terms[batch samples], hyper, step) -> (nats per example, aux)`.
        reads: the fields of `Hyper` that change it.
        weigh_z: `terms -> [batch samples]`, factors of the gradient that reaches the encoder
            through each sample; None leaves it as it is.
    """

    num_samples: int
    bound: Callable[[ElboTerms, Hyper, Step], tuple[Nats, Aux]]
    reads: frozenset[str] = frozenset()
    weigh_z: Callable[[ElboTerms], Float[Array, "batch samples"]] | None = None


def elbo(num_samples: int = 1) -> Objective:
    """The evidence lower bound, E_q[log p(x | z)] - KL(q(z | x) || p(z)).

    Args:
        num_samples: samples of each posterior.

    Returns:
        The objective.

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114), equation 7.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, 1.0)

    return Objective(num_samples, bound)


def beta(num_samples: int = 1) -> Objective:
    """The beta-VAE, E_q[log p(x | z)] - beta KL(q(z | x) || p(z)).

    Beta multiplies a KL in nats per example. The normalised beta of Higgins et al. is
    beta_norm = beta * latent_dim / x_dim. A loss that averages the squared error over x_dim
    pixels and adds `kld_weight` times the KL is a Gaussian of a fixed scale with
    beta = kld_weight * x_dim / (2 scale^2).

    Args:
        num_samples: samples of each posterior.

    Returns:
        The objective.

    Reference:
        Higgins et al., beta-VAE (ICLR 2017), equation 4.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, hyper.beta)

    return Objective(num_samples, bound, frozenset({"beta"}))


def warmup(num_samples: int = 1) -> Objective:
    """The beta-VAE whose weight rises linearly from 0 to beta over `warmup_steps`.

    weight(t) = beta min(1, t / warmup_steps),  t the optimiser steps taken, from 0.

    Under 1 `warmup_steps` counts as 1, with which the first step alone has no KL.

    Args:
        num_samples: samples of each posterior.

    Returns:
        The objective.

    Reference:
        Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349),
        section 3.1; the linear form is Sonderby et al. (arXiv 1602.02282), section 2.3.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _weighted(terms, hyper.beta * _ramp(step, hyper.warmup_steps))

    return Objective(num_samples, bound, frozenset({"beta", "warmup_steps"}))


def cyclical(num_samples: int = 1) -> Objective:
    """The beta-VAE whose weight restarts from 0 every `cycle_steps`.

    weight(t) = beta min(1, 2 (t mod T) / T),  T = `cycle_steps`, t the optimiser steps taken.

    Within a cycle it rises linearly to beta over the first half and stays there. With T under 2
    there is no schedule and the weight is beta: a cycle of one step would never leave 0.

    Args:
        num_samples: samples of each posterior.

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

    return Objective(num_samples, bound, frozenset({"beta", "cycle_steps"}))


def capacity(num_samples: int = 1) -> Objective:
    """Controlled capacity, E_q[log p(x | z)] - gamma |KL - C|.

    C rises linearly from 0 to `capacity` nats over `capacity_steps`. The KL inside the bars
    is the minibatch average.

    Args:
        num_samples: samples of each posterior.

    Returns:
        The objective.

    Reference:
        Burgess et al., Understanding disentangling in beta-VAE (arXiv 1804.03599), equation 8.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        target = hyper.capacity * _ramp(step, hyper.capacity_steps)
        kl = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1))
        return jnp.mean(terms.log_lik) - hyper.gamma * jnp.abs(kl - target), {"capacity": target}

    return Objective(num_samples, bound, frozenset({"gamma", "capacity", "capacity_steps"}))


def free_bits(num_samples: int = 1) -> Objective:
    """Free bits, E_q[log p(x | z)] - beta sum_j max(lambda, KL_j).

    KL_j is averaged over the minibatch before the maximum is taken, and lambda is
    `free_bits`, in nats for each latent dimension.

    Args:
        num_samples: samples of each posterior.

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

    return Objective(num_samples, bound, frozenset({"beta", "free_bits"}))


def iwae(num_samples: int = 50) -> Objective:
    """The importance-weighted bound, E[log (1 / K) sum_k w_k].

    w_k = p(x | z_k) p(z_k) / q(z_k | x), z_k ~ q. It rises with K to log p(x); its gradient
    is that of the log-weights, each weighted by its share w_k / sum_i w_i. With K = 1 it is the
    ELBO with the KL by one sample.

    Args:
        num_samples: K.

    Returns:
        The objective.

    Reference:
        Burda et al., Importance weighted autoencoders (arXiv 1509.00519), equations 8 and 14.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _log_mean_weight(_log_weights(terms)), {}

    return Objective(num_samples, bound)


def dreg(num_samples: int = 50) -> Objective:
    """The importance-weighted bound with the doubly reparameterised gradient.

    The decoder's gradient is that of `iwae`. The encoder's is
    sum_k (w_k / sum_i w_i)^2 (d log w_k / d z_k) (d z_k / d phi): the same in expectation, and
    its signal does not vanish in its noise as K grows.

    Args:
        num_samples: K.

    Returns:
        The objective.

    Reference:
        Tucker et al., Doubly reparameterized gradient estimators (arXiv 1810.04152),
        equation 8.
    """

    def log_weights(terms: ElboTerms) -> Float[Array, "batch samples"]:
        # The score of q has no part in it: only z depends on the encoder.
        q = jax.lax.stop_gradient(terms.q)
        return _log_weights(
            terms._replace(log_posterior=jax.vmap(jax.vmap(log_density))(q, terms.z))
        )

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        return _log_mean_weight(log_weights(terms)), {}

    def share(terms: ElboTerms) -> Float[Array, "batch samples"]:
        # The bound's own gradient weighs each sample by its share once; z carries the second.
        return jax.nn.softmax(_log_weights(terms), axis=1)

    return Objective(num_samples, bound, weigh_z=share)


def beta_tc(num_samples: int = 1) -> Objective:
    """The beta-TC-VAE, ELBO - (beta - 1) TC(z).

    TC(z) = KL(q(z) || prod_j q(z_j)), under the aggregate posterior q(z) of the training set:
    beta weighs the dependence between latent dimensions alone. Of a minibatch of M + 1 examples,
    and the `num_examples` N of the training set, q(z) for a z of example n is estimated by
    q(z | x_n) / N + sum_{m < M} q(z | x_m) / M + q(z | x_M) (1 / M - 1 / N)
    (minibatch-stratified sampling; m numbers the other examples). Without `num_examples` the
    training set counts as endless, and the estimate is that of its other examples alone.

    Args:
        num_samples: samples of each posterior.

    Returns:
        The objective.

    Raises:
        ValueError: when it is computed, of a minibatch of one example.

    Reference:
        Chen et al., Isolating sources of disentanglement (arXiv 1802.04942), equation 4 with
        alpha = gamma = 1, and appendix C.2.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        tc = _total_correlation(terms, hyper.num_examples)
        elbo, _ = _weighted(terms, 1.0)
        return elbo - (hyper.beta - 1) * tc, {"total_correlation": tc}

    return Objective(num_samples, bound, frozenset({"beta", "num_examples"}))


def _total_correlation(terms: ElboTerms, num_examples: Scalar) -> Nats:
    """Log q(z) - sum_j log q(z_j), averaged over the samples of a minibatch."""
    size = len(terms.log_lik)
    if size < 2:
        raise ValueError(f"a minibatch of {size}: total correlation needs 2 examples or more")
    q = Normal(terms.q.mean[:, 0], terms.q.log_var[:, 0])  # alike for all samples

    def of_sample(z: Float[Array, " latent"], log_weights: Float[Array, " batch"]) -> Nats:
        under_each = jax.vmap(log_density_per_dim, (0, None))(q, z)
        joint = jax.nn.logsumexp(log_weights + jnp.sum(under_each, axis=1))
        return joint - jnp.sum(jax.nn.logsumexp(log_weights[:, None] + under_each, axis=0))

    # No set is smaller than its minibatch.
    log_weights = jnp.log(_stratified(size, jnp.maximum(num_examples, size)))
    return jnp.mean(jax.vmap(jax.vmap(of_sample, (0, None)))(terms.z, log_weights))


def _stratified(size: int, num_examples: Scalar) -> Float[Array, "batch batch"]:
    """Of each example's row: the weights of itself, of the next one, and of all others."""
    others = size - 1
    place = jnp.arange(size)
    step = (place[None, :] - place[:, None]) % size
    weights = jnp.where(step == 1, 1 / others - 1 / num_examples, 1 / others)
    return jnp.where(step == 0, 1 / num_examples, weights)


def _log_weights(terms: ElboTerms) -> Float[Array, "batch samples"]:
    return terms.log_lik + terms.log_prior - terms.log_posterior


def _log_mean_weight(log_weights: Float[Array, "batch samples"]) -> Nats:
    num_samples = log_weights.shape[1]
    return jnp.mean(jax.nn.logsumexp(log_weights, axis=1)) - jnp.log(num_samples)


def _weighted(terms: ElboTerms, weight: Scalar) -> tuple[Nats, Aux]:
    kl = jnp.sum(terms.kl_per_dim, axis=-1)
    weight = jnp.asarray(weight, terms.log_lik.dtype)
    return jnp.mean(terms.log_lik - weight * kl), {"kl_weight": weight}


def _ramp(step: Step | Scalar, length: Scalar) -> Float[Array, ""]:
    """From 0 at step 0 to 1 at `length`, and 1 thereafter."""
    return jnp.minimum(1.0, step / jnp.maximum(length, 1.0))


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "elbo": elbo,
    "beta": beta,
    "warmup": warmup,
    "cyclical": cyclical,
    "capacity": capacity,
    "free_bits": free_bits,
    "iwae": iwae,
    "dreg": dreg,
    "beta_tc": beta_tc,
}
