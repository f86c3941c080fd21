"""The wake-sleep algorithm: the gradients of its phases, and the posterior that it learns."""

import functools
from collections.abc import Callable

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from scipy import stats

from vae_jax.gaussian import log_density
from vae_jax.likelihoods import bernoulli, gaussian
from vae_jax.model import VAE, batch_elbo_terms, make_vae
from vae_jax.networks import mlp, two_layer_mlp
from vae_jax.preprocess import as_stored
from vae_jax.text import make_text_vae
from vae_jax.train import Trainer, keys_of
from vae_jax.two_layer import make_two_layer_vae
from vae_jax.types import Hyper, Scalar
from vae_jax.wake_sleep import make_wake_sleep

X_DIM = 5
# Every test compiles a program that runs for a moment.
pytestmark = pytest.mark.usefixtures("compiled_quickly")


def linear_vae(scale: float) -> VAE:
    encoder, decoder = mlp((), x_shape=(X_DIM,), latent_dim=2, theta_dim=1)
    return make_vae(encoder, decoder, gaussian(scale), x_shape=(X_DIM,), latent_dim=2)


def params_of(model: oracles.LinearGaussian, encoder: dict) -> dict:
    layer = {"kernel": jnp.float32(model.weights.T), "bias": jnp.float32(model.offset)}
    return {"encoder": encoder, "decoder": {"params": {"Dense_0": layer}}}


def gradient_of_a_step(vae: VAE, params: dict, xs: jax.Array, key: jax.Array) -> dict:
    """What one step of plain gradient descent at rate 1 takes off the parameters."""
    trainer = make_wake_sleep(vae, batch_size=len(xs), optimizer=optax.sgd, preprocess=as_stored)
    hyper = Hyper(learning_rate=1.0)
    state = trainer.init(key, hyper)._replace(params=jax.tree.map(jnp.copy, params))
    after, _ = trainer.step(state, hyper, xs)
    return jax.tree.map(lambda old, new: old - new, params, after.params)


def dream(key: jax.Array, vae: VAE, params: dict) -> tuple[jax.Array, jax.Array]:
    key_z, key_x = jax.random.split(key)
    z = jax.random.normal(key_z, (vae.latent_dim,))
    return z, vae.likelihood.sample(key_x, vae.decode(params, z))


def test_each_half_of_the_gradient_is_that_of_its_own_phase():
    """Finite differences of the two objectives, each over its own parameters, in float64."""
    with jax.enable_x64(True):
        key = jax.random.key(3)
        vae = linear_vae(0.5)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), vae.init(key))
        xs = jnp.asarray(np.random.default_rng(0).normal(size=(4, X_DIM)))
        grads = gradient_of_a_step(vae, params, xs, key)
        key_loss = jax.random.split(jax.random.fold_in(keys_of(key).steps, 0))[1]
        key_wake, key_sleep = jax.random.split(key_loss)
        wake_keys = jax.random.split(key_wake, (len(xs), 1))
        # Codes and dreams are drawn here, once: neither phase sees how they depend on weights.
        codes = batch_elbo_terms(wake_keys, vae, params, xs).z[:, 0]
        zs, dreams = jax.vmap(lambda key: dream(key, vae, params))(
            jax.random.split(key_sleep, len(xs))
        )

        def wake(decoder):
            thetas = jax.vmap(lambda z: vae.decode({"decoder": decoder}, z))(codes)
            return -jnp.mean(jax.vmap(vae.likelihood.log_prob)(thetas, xs))

        def sleep(encoder):
            qs = jax.vmap(lambda x: vae.encode({"encoder": encoder}, x))(dreams)
            return -jnp.mean(jax.vmap(log_density)(qs, zs))

        for part, phase in (("decoder", wake), ("encoder", sleep)):
            found, _ = jax.flatten_util.ravel_pytree(grads[part])
            # Central differences: an error of step^2, and the rounding of float64 over step.
            np.testing.assert_allclose(found, slopes(phase, params[part]), rtol=1e-6, atol=1e-8)


def slopes(phase: Callable[[dict], jax.Array], params: dict, step: float = 1e-5) -> jax.Array:
    """The derivative by each parameter, from two values of the function."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    moved = jax.jit(jax.vmap(lambda shift: phase(unravel(flat + shift))))
    shifts = step * jnp.eye(len(flat))
    return (moved(shifts) - moved(-shifts)) / (2 * step)


def held(rate: Scalar) -> optax.GradientTransformation:
    """Adam for the encoder, and a decoder that stays what it is."""
    stays = optax.masked(optax.set_to_zero(), {"encoder": False, "decoder": True})
    return optax.chain(optax.adam(rate), stays)


def left_by_adam(
    xs: jax.Array, variances: np.ndarray, *, rate: float, batch: int
) -> tuple[float, float]:
    """Mean and standard deviation of KL(p(z | x) || q(z | x)) after Adam's noise, in nats.

    Weights w off the optimum cost w F w / 2, F their Fisher information. Their gradient is F w
    with noise of covariance F / batch, which Adam divides by its deviation, sqrt(F_ii / batch).
    At a small rate w then keeps the covariance C = rate / 2 diag(1 / sqrt(batch F_ii)), so that
    the mean of the cost is tr(F C) / 2 and its variance tr(F C F C) / 2.
    """
    inputs = np.column_stack([xs, np.ones(len(xs))])
    # A weight of a mean counts in units of the posterior's variance, one of a log-variance half.
    heads = np.concatenate([1 / variances, np.full_like(variances, 0.5)])
    fisher = np.kron(np.diag(heads), inputs.T @ inputs / len(inputs))
    cost = fisher * rate / 2 / np.sqrt(batch * np.diag(fisher))[None, :]
    return np.trace(cost) / 2, np.sqrt(np.trace(cost @ cost) / 2)


def test_asleep_the_encoder_learns_the_true_posterior():
    model = oracles.random_model(np.random.default_rng(2), x_dim=X_DIM)
    vae = linear_vae(model.scale)
    xs = jnp.float32(oracles.sample(model, np.random.default_rng(3), 2000))
    trainer = make_wake_sleep(vae, batch_size=200, optimizer=held, preprocess=as_stored)
    state = trainer.init(jax.random.key(0), Hyper(learning_rate=0.0))
    start = params_of(model, state.params["encoder"])
    state = state._replace(params=start)
    for rate in (1e-1, 1e-2, 1e-3):
        for _ in range(30):
            state, _ = trainer.epoch(state, Hyper(learning_rate=rate), xs)
    found = jax.vmap(vae.encode, (None, 0))(state.params, xs)
    true = jax.vmap(oracles.as_vae(model).encode, (None, 0))({}, xs)
    ratio = jnp.exp(true.log_var - found.log_var)
    shift = (found.mean - true.mean) ** 2 * jnp.exp(-found.log_var)
    gap = 0.5 * jnp.sum(ratio + shift - 1 - jnp.log(ratio), axis=1).mean()
    mean, deviation = left_by_adam(xs, np.exp(np.asarray(true.log_var[0])), rate=1e-3, batch=200)
    assert gap < mean + 5 * deviation
    jax.tree.map(
        np.testing.assert_array_equal,
        state.params["decoder"],
        params_of(model, {})["decoder"],
    )


@functools.cache
def of_images() -> Trainer:
    networks = mlp((32,), x_shape=(28, 28, 1), latent_dim=3, theta_dim=1)
    vae = make_vae(*networks, bernoulli(), x_shape=(28, 28, 1), latent_dim=3)
    return make_wake_sleep(vae, batch_size=50)


def test_wake_sleep_learns_images(digits):
    hyper = Hyper(learning_rate=3e-3)
    state = of_images().init(jax.random.key(0), hyper)
    elbos, metrics = [], {}
    for _ in range(20):
        state, metrics = of_images().epoch(state, hyper, jnp.asarray(digits[:500]))
        elbos.append(float(metrics["elbo"]))
    # From ln 2 a pixel, 543 nats, to below the best that ignores x: the entropy of each pixel.
    entropy = float(np.sum(stats.bernoulli.entropy(np.mean(digits[:500] / 255, axis=0))))
    assert elbos[0] < -entropy < elbos[-1]
    assert bool(state.alive)
    # Each an average of 10 steps, rounded to float32.
    parts = float(metrics["log_lik"] - metrics["kl"])
    assert elbos[-1] == pytest.approx(parts, rel=1e-5)


def test_a_divergence_is_contained_as_in_every_trainer(digits):
    state = of_images().init(jax.random.key(0), Hyper())
    before = jax.tree.map(jnp.copy, state.params)
    hyper = Hyper(learning_rate=1e30)
    state, metrics = of_images().epoch(state, hyper, jnp.asarray(digits[:500]))
    assert not bool(state.alive)
    assert int(metrics["bad_loss"]) < 10
    jax.tree.map(np.testing.assert_array_equal, before, state.params)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch_size 0"):
        make_wake_sleep(linear_vae(0.5), batch_size=0)


def test_a_model_of_two_stochastic_layers_is_refused():
    likelihood, sizes = bernoulli(), (3, 2)
    networks = two_layer_mlp(((4,), (4,)), x_shape=(6,), latent_dims=sizes, theta_dim=1)
    vae = make_two_layer_vae(*networks, likelihood, x_shape=(6,), latent_dims=sizes)
    with pytest.raises(ValueError, match="two stochastic layers: wake-sleep here takes one"):
        make_wake_sleep(vae, batch_size=2)


def test_a_decoder_that_reads_x_is_refused():
    model = make_text_vae(10, 6, embedding=4, hidden=8, latent_dim=2)
    with pytest.raises(ValueError, match="a decoder that reads x: wake-sleep here dreams all of"):
        make_wake_sleep(model.vae, batch_size=2)
