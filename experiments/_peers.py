"""What the benchmark compares: a VAE in training by this library, and by a plain JAX loop."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import UInt8

from vae_jax.evaluation import estimate_elbo
from vae_jax.model import VAE
from vae_jax.objectives import beta
from vae_jax.preprocess import intensities
from vae_jax.train import Trainer, make_trainer
from vae_jax.types import Hyper, Params

OURS = "vae_jax"
LEARNING_RATE = 1e-3
# Every model is judged with the same noise on the same test images.
NOISE_SEED = 0

# Intensities 0 to 255.
Images = UInt8[np.ndarray, "n height width channels"]


class Problem(NamedTuple):
    """What every peer trains; the seed is of shuffling and noise, `params` are where to start."""

    vae: VAE
    batch_size: int
    seed: int
    params: Params
    images: Images


class Peer(NamedTuple):
    """A model in training.

    Attributes:
        epoch: train one epoch, and return its average loss (nats per image) when it is done.
        params: the weights as they are now, in the layout of `vae_jax`.
        compile_seconds: that the program was compiled in before the first epoch; None if it is
            not compiled ahead.
    """

    epoch: Callable[[], float]
    params: Callable[[], Params]
    compile_seconds: float | None = None


@functools.cache
def trainer_of(vae: VAE, batch_size: int) -> Trainer:
    """The library's training functions, compiled once for all the seeds of a model."""
    return make_trainer(vae, beta(), batch_size=batch_size)


class Compiled(NamedTuple):
    """A program, and the seconds that it was compiled in."""

    program: Any
    seconds: float


def compiled_for(function: Any, *arguments: Any) -> Compiled:
    """Compile a jitted function ahead, for arguments of such shapes and types."""
    began = time.perf_counter()
    program = function.lower(*arguments).compile()
    return Compiled(program, time.perf_counter() - began)


@functools.cache
def compiled_epoch(vae: VAE, batch_size: int, shape: tuple[int, ...]) -> Compiled:
    """An epoch on uint8 images of a shape, compiled once for all the seeds of a model."""
    trainer, hyper = trainer_of(vae, batch_size), Hyper(*map(jnp.float32, Hyper()))
    state = jax.eval_shape(trainer.init, jax.random.key(0), hyper)
    return compiled_for(trainer.epoch, state, hyper, jax.ShapeDtypeStruct(shape, jnp.uint8))


def jax_peer(problem: Problem) -> Peer:
    """This library, an epoch as one compiled program."""
    trainer = trainer_of(problem.vae, problem.batch_size)
    compiled = compiled_epoch(problem.vae, problem.batch_size, problem.images.shape)
    hyper = jax.tree.map(jnp.float32, Hyper(learning_rate=LEARNING_RATE))
    state = trainer.init(jax.random.key(problem.seed), hyper)
    # Copied, because an epoch donates what it is given.
    state = state._replace(params=jax.tree.map(jnp.array, problem.params))
    data = jnp.asarray(problem.images)

    def epoch() -> float:
        nonlocal state
        state, metrics = jax.block_until_ready(compiled.program(state, hyper, data))
        return float(metrics["loss"])

    return Peer(epoch, lambda: state.params, compiled.seconds)


def plain_loss(vae: VAE, params: Params, eps: jax.Array, x: jax.Array) -> jax.Array:
    """The negative ELBO of a minibatch (nats per image), written out as a user would.

    Args:
        vae: the model, of Bernoulli pixels.
        params: its weights.
        eps: [batch, latent], standard normal noise.
        x: [batch, height, width, 1], intensities on [0, 1].
    """
    q = jax.vmap(vae.encode, (None, 0))(params, x)
    z = q.mean + jnp.exp(q.log_var / 2) * eps
    logits = jax.vmap(vae.decode, (None, 0))(params, z)[..., 0]
    log_lik = -optax.sigmoid_binary_cross_entropy(logits, x).sum()
    kl = -0.5 * jnp.sum(1 + q.log_var - q.mean**2 - jnp.exp(q.log_var))
    return (kl - log_lik) / len(x)


def jax_steps_peer(problem: Problem) -> Peer:
    """A JAX loop that dispatches every step, in the style of Flax's VAE example.

    An optimiser step of the same networks is one jitted function with optax's Adam, called with
    minibatches that NumPy gathers.
    """
    vae, batch = problem.vae, problem.batch_size
    optimizer = optax.adam(LEARNING_RATE)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, moments: Any, key: jax.Array, x: jax.Array) -> Any:
        eps = jax.random.normal(key, (len(x), vae.latent_dim))
        loss, gradient = jax.value_and_grad(plain_loss, 1)(vae, params, eps, x)
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(params, updates), moments, loss

    params = jax.tree.map(jnp.array, problem.params)
    moments, done = optimizer.init(params), 0
    images = problem.images.astype(np.float32) / 255
    order_of, root = np.random.default_rng(problem.seed), jax.random.key(problem.seed)
    compiled = compiled_for(step, params, moments, root, images[:batch])

    def epoch() -> float:
        nonlocal params, moments, done
        order, losses = order_of.permutation(len(images)), []
        for start in range(0, len(images) - batch + 1, batch):
            x = images[order[start : start + batch]]
            key = jax.random.fold_in(root, done)
            params, moments, loss = compiled.program(params, moments, key, x)
            losses.append(loss)
            done += 1
        return float(jnp.stack(losses).mean())

    return Peer(epoch, lambda: params, compiled.seconds)


def neg_elbo_of(vae: VAE, params: Params, images: Images) -> float:
    """The negative ELBO over a whole test split (nats per image), one ruler for every peer."""
    estimate = estimate_elbo(
        key=jax.random.key(NOISE_SEED),
        vae=vae,
        preprocess=intensities,
        params=params,
        data=jnp.asarray(images),
    )
    return -float(estimate.elbo)
