"""The array aliases and named tuples that every other module shares.

Shapes are written with jaxtyping: `" latent"` is one axis called latent, `"*x"` is the
shape of one example (an image, a row of a table), `""` is a scalar. A plural name carries
a leading axis: `x` is one example, `xs` a batch.
"""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax
from jaxtyping import Array, Float, Int, Key, PyTree

Params = PyTree[Float[Array, "..."]]
PRNGKey = Key[Array, ""]
Nats = Float[Array, ""]
Scalar = Float[Array, ""] | float
Step = Int[Array, ""] | int
Activation = Callable[[jax.Array], jax.Array]

# The first tokens of every vocabulary: what fills a sentence up to the length of its array (and
# is read before its first word), its end, and a word that the vocabulary does not have.
PAD, END, UNKNOWN = 0, 1, 2


class Normal(NamedTuple):
    """A diagonal normal distribution N(mean, diag(exp(log_var))).

    Attributes:
        mean: of each latent dimension.
        log_var: logarithm of the variance of each.
    """

    mean: Float[Array, "*axes latent"]
    log_var: Float[Array, "*axes latent"]


class Conditional(Normal):
    """The normals of one sample's layers, each given the sample of the layer before.

    Together they are the posterior of no other sample, so `mean` refuses: an objective that
    asks for it looks at q elsewhere.
    """

    @property
    def mean(self) -> NoReturn:  # pyright: ignore[reportIncompatibleVariableOverride]
        """No such number.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a posterior of two stochastic layers has no mean or density apart from its own "
            "sample, as dreg and beta_tc need: one stochastic layer is needed"
        )


class Chain(NamedTuple):
    """What a posterior of several layers says of one of its samples.

    Attributes:
        log_posterior: log q(z | x), nats.
        kl_per_dim: of each latent dimension, nats; the sum is, in expectation over samples, the
            KL of the ELBO.
        q: the normals that the layers were drawn from, each given the sample of the one before,
            side by side.
    """

    log_posterior: Float[Array, "*axes"]
    kl_per_dim: Float[Array, "*axes latent"]
    q: Normal


class Sample(NamedTuple):
    """A sample of a posterior.

    Attributes:
        z: the sample.
        chain: what is known of it where the posterior has several layers; None where it is one
            normal, which says everything.
    """

    z: Float[Array, "*axes latent"]
    chain: Chain | None = None


class ElboTerms(NamedTuple):
    """Everything an objective may need of one example and one sample of its posterior.

    Objectives receive these with two leading axes, `[batch, samples]`, so that a bound may
    look along either of them: the importance-weighted bound needs the samples,
    the total-correlation penalty the batch.

    Attributes:
        log_lik: log p(x | z), nats, summed over the dimensions of x.
        kl_per_dim: the exact KL(q(z_j | x) || p(z_j)), nats, for each latent dimension; where
            the posterior has several layers, that of `Chain`.
        log_prior: log p(z), nats.
        log_posterior: log q(z | x), nats.
        z: the sample of q(z | x).
        q: the posterior that z was drawn from; a `Conditional` where it has several layers.
    """

    log_lik: Float[Array, "*axes"]
    kl_per_dim: Float[Array, "*axes latent"]
    log_prior: Float[Array, "*axes"]
    log_posterior: Float[Array, "*axes"]
    z: Float[Array, "*axes latent"]
    q: Normal


class Hyper(NamedTuple):
    """The numbers that may be swept: traced scalars, so that another value recompiles nothing.

    A value of another type does: `4.0` after `1.0` is the same program, and `4` is compiled again.

    Attributes:
        beta: weight of the KL term, a KL in nats per example.
        learning_rate: step size of the optimiser.
        warmup_steps: optimiser steps over which the KL weight rises from 0 to beta.
        cycle_steps: optimiser steps in one period of the cyclical schedule; under 2 there is
            no schedule, and the weight is beta.
        capacity: the KL, in nats, that the capacity objective rises to.
        capacity_steps: optimiser steps over which it rises.
        gamma: weight of |KL - capacity|.
        free_bits: nats of KL in each latent dimension that cost nothing.
        num_examples: how many there are in the training set, for an objective that estimates
            the aggregate posterior from a minibatch.
        word_dropout: share of the words of a sentence that its decoder is not shown in training.
        aggressive_steps: optimiser steps of a text model in which the encoder is trained more
            often than the decoder.
        latent: 0 takes z away from the decoder of a text model, 1 leaves it.
    """

    beta: Scalar = 1.0
    learning_rate: Scalar = 1e-3
    warmup_steps: Scalar = 1.0
    cycle_steps: Scalar = 1.0
    capacity: Scalar = 0.0
    capacity_steps: Scalar = 1.0
    gamma: Scalar = 1.0
    free_bits: Scalar = 0.0
    num_examples: Scalar = float("inf")
    word_dropout: Scalar = 0.0
    aggressive_steps: Scalar = 0.0
    latent: Scalar = 1.0
