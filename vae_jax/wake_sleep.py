"""The wake-sleep algorithm, the baseline that auto-encoding variational Bayes was held against."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from vae_jax.gaussian import log_density
from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.preprocess import Preprocess, intensities
from vae_jax.train import Metrics, OptimizerOf, Trainer, elbo_metrics, trainer_of
from vae_jax.types import Hyper, Nats, Params, PRNGKey, Step


def make_wake_sleep(
    vae: VAE,
    *,
    batch_size: int,
    optimizer: OptimizerOf = optax.adam,
    preprocess: Preprocess = intensities,
) -> Trainer:
    """Build the training functions of one model by the wake-sleep algorithm.

    The decoder learns from codes of the data, the encoder from dreams of the decoder:

    wake:   maximise log p(x | z) over the decoder,  x from the data, z ~ q(z | x)
    sleep:  maximise log q(z | x) over the encoder,  z ~ p(z), x ~ p(x | z)

    One minibatch and as many dreams make one step. The sleep phase minimises
    KL(p(z | x) || q(z | x)) over dreams, the other way round from the KL in the ELBO, so that the
    two phases have no bound in common. Dreams are samples: those of a Bernoulli decoder are bits,
    also where the data are grey levels, which the encoder then never learns from.

    Args:
        vae: the model, with its parameters under "encoder" and "decoder" as `make_vae` has them.
        batch_size: examples in a minibatch.
        optimizer: from a learning rate to an optax optimiser.
        preprocess: from one stored example to x.

    Returns:
        The compiled functions of `make_trainer`, with its metrics on the data. `loss` is the sum
        of both phases' negative log-probabilities, nats per example, which nothing bounds.

    Raises:
        ValueError: as `make_trainer` does, and if the model has two stochastic layers or
            a decoder that reads x, which dreams no sample of p(x | z).

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> trainer = make_wake_sleep(vae, batch_size=4)
        >>> state = trainer.init(jax.random.key(0), Hyper())
        >>> state, metrics = trainer.epoch(state, Hyper(), jnp.zeros((12, 8, 8, 1), jnp.uint8))
        >>> int(state.step), bool(metrics["elbo"] < 0)
        (3, True)

    Reference:
        Hinton, Dayan, Frey and Neal, The wake-sleep algorithm for unsupervised neural networks
        (Science 1995); with these networks in arXiv 1312.6114, section 5.
    """
    if vae.is_layered:
        raise ValueError("a model of two stochastic layers: wake-sleep here takes one")
    if vae.decode_given is not None:
        raise ValueError("a decoder that reads x: wake-sleep here dreams all of x at once")

    def loss(
        key: PRNGKey, params: Params, xs: Float[Array, "batch *x"], hyper: Hyper, step: Step
    ) -> tuple[Nats, Metrics]:
        key_wake, key_sleep = jax.random.split(key)
        fixed = jax.lax.stop_gradient(params)
        keys_wake = jax.random.split(key_wake, (len(xs), 1))
        terms = batch_elbo_terms(keys_wake, vae, {**params, "encoder": fixed["encoder"]}, xs)
        asleep = {**params, "decoder": fixed["decoder"]}
        keys_dream = jax.random.split(key_sleep, len(xs))
        recognised = jax.vmap(lambda key: _log_posterior_of_dream(key, vae, asleep))(keys_dream)
        metrics = elbo_metrics(terms)
        minimised = -metrics["log_lik"] - jnp.mean(recognised)
        return minimised, {"loss": minimised} | metrics

    return trainer_of(vae, loss, batch_size=batch_size, optimizer=optimizer, preprocess=preprocess)


def _log_posterior_of_dream(key: PRNGKey, vae: VAE, params: Params) -> Nats:
    """Log q(z | x) in nats, of z ~ p(z) and x ~ p(x | z)."""
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (vae.latent_dim,))
    # A sample of a continuous x is differentiable in theta, which is not what is learned here.
    x = jax.lax.stop_gradient(vae.likelihood.sample(key_x, vae.decode(params, z)))
    return log_density(vae.encode(params, x), z)
