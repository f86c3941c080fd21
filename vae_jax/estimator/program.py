"""The compiled functions of one kind of model, and the loops that call them."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PyTree

from vae_jax.data import Block
from vae_jax.data.encoding import Encoding
from vae_jax.evaluation import log_likelihood, posterior_predictive
from vae_jax.evaluation.memory import examples_at_once
from vae_jax.evaluation.noise import draw_shifted, fingerprints
from vae_jax.model import VAE as Bundle
from vae_jax.networks import ACTIVATIONS
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import as_stored
from vae_jax.tabular import make_table_vae
from vae_jax.train import TrainState, flat, make_trainer, quick_options
from vae_jax.types import Hyper, Params, PRNGKey

# Rows that are scored at once: one shape, so one compilation, and a row's score is the same
# to the bit whoever stands beside it. A power of two.
_ROWS = 512
# Of each sample of a row that is scored theta is kept, and what its columns contribute.
_COPIES = 2
# Optimiser steps of one call: what Ctrl-C has to wait for.
_STEPS = 512
# Tables whose lengths differ by less share their compiled programs.
_PADDING = 64


class Program(NamedTuple):
    """The compiled functions of one kind of model; those of rows take `(params, rows)`.

    `score` takes the rows' fingerprints too, which shift the noise of each.
    """

    vae: Bundle
    start: Callable[[int, np.random.RandomState], TrainState]
    train: Callable[..., tuple[TrainState, dict[str, Array]]]
    history: tuple[str, ...]
    encode: Callable[[Params, Array], Array]
    decode: Callable[[Params, Array], Array]
    score: Callable[[PRNGKey, Params, ArrayLike, ArrayLike], Array]
    impute: Callable[[PRNGKey, Params, Array], Array]
    sample: Callable[[PRNGKey, Params, Array], Array]


@functools.lru_cache(maxsize=128)
def program_of(
    blocks: tuple[Block, ...],
    hidden: tuple[int, ...],
    latent_dim: int,
    activation: str,
    scale_of: Any,
    batch_size: int,
    num_samples: int,
) -> Program:
    """Functions that are compiled once for a shape, whatever is fitted with it."""
    vae = make_table_vae(
        blocks,
        hidden=hidden,
        latent_dim=latent_dim,
        activation=ACTIVATIONS[activation],
        scale_of=scale_of,
    )
    trainer = make_trainer(
        vae,
        OBJECTIVES["beta"](),
        batch_size=batch_size,
        # One kernel for all parameters: compiled and run in a third of the time.
        optimizer=flat(optax.adam),
        preprocess=as_stored,
    )
    names = ("loss", "elbo", "log_lik", "kl")

    def start(seed: int, rng: np.random.RandomState) -> TrainState:
        # As `trainer.init`, whose compilation would take longer than the training.
        shapes = jax.eval_shape(lambda: trainer.init(jax.random.key(0), Hyper()))
        shapes = shapes._replace(root_key=shapes.step)
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        params = jax.tree.map_with_path(functools.partial(_drawn, rng), zeros.params)
        return zeros._replace(params=params, root_key=key_of(seed), alive=np.array(True))

    def train(
        state: TrainState, hyper: Hyper, rows: Array, batches: Array, count: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        def one(i: Array, carry: tuple[TrainState, dict[str, Array]]) -> Any:
            state, trace = carry
            state, metrics = trainer.step(state, hyper, rows[batches[i]])
            return state, {name: trace[name].at[i].set(metrics[name]) for name in names}

        empty = {name: jnp.zeros(_STEPS) for name in names}
        return jax.lax.fori_loop(0, count, one, (state, empty))

    def encode(params: Params, rows: Array) -> Array:
        return jax.vmap(lambda row: vae.encode(params, row).mean)(rows)

    def decode(params: Params, zs: Array) -> Array:
        return jax.vmap(lambda z: vae.likelihood.mean(vae.decode(params, z)))(zs)

    def score(key: PRNGKey, params: Params, rows: Array, numbers: Array) -> Array:
        def one(row: Array, number: Array) -> Array:
            # Not a key for each row: under `vmap` this generator looks at the first one only.
            own = vae._replace(draw=functools.partial(draw_shifted, number=number))
            return log_likelihood(key, own, params, row, num_samples).log_likelihood

        return in_turns(one, params, rows, numbers)

    def impute(key: PRNGKey, params: Params, rows: Array) -> Array:
        def one(row: Array) -> Array:
            return posterior_predictive(key, vae, params, row, num_samples)

        return in_turns(one, params, rows)

    def in_turns(one: Callable[..., Array], params: Params, rows: Array, *more: Array) -> Array:
        most = len(rows)
        fit = examples_at_once(vae, params, rows[0], num_samples, most=most, copies=_COPIES)
        if fit == most:
            return jax.vmap(one)(rows, *more)  # without a loop, which would have to be compiled
        # A power of two, as the number of rows is: a remainder would be compiled by itself.
        at_once = 1 << (fit.bit_length() - 1)
        return jax.lax.map(lambda each: one(*each), (rows, *more), batch_size=at_once)

    def sample(key: PRNGKey, params: Params, numbers: Array) -> Array:
        def one(number: Array) -> Array:
            key_z, key_x = jax.random.split(jax.random.fold_in(key, number))
            theta = vae.decode(params, jax.random.normal(key_z, (latent_dim,)))
            return vae.likelihood.sample(key_x, theta)

        return jax.vmap(one)(numbers)

    def compiled(fun: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        return jax.jit(fun, compiler_options=quick_options("moment"), **how)

    return Program(
        vae=vae,
        start=start,
        # Nothing is donated: after Ctrl-C the state before it must still be there.
        train=compiled(train),
        history=names,
        encode=compiled(encode),
        decode=compiled(decode),
        score=compiled(score),
        impute=compiled(impute),
        sample=compiled(sample),
    )


def key_of(seed: int) -> PRNGKey:
    """The key of a seed, for a generator that is one instruction."""
    # Threefry would be most of what there is to compile, and `jnp.asarray` compiles too.
    words = jax.device_put(np.array([seed, 1, 2, 3], np.uint32))
    return jax.random.wrap_key_data(words, impl="unsafe_rbg")


def _drawn(rng: np.random.RandomState, path: Any, leaf: np.ndarray) -> np.ndarray:
    """A kernel as `networks.mlp.KERNEL_INIT` draws it; all else starts at zero."""
    if path[-1].key != "kernel":
        return leaf
    bound = 1 / np.sqrt(leaf.shape[0])
    return rng.uniform(-bound, bound, leaf.shape).astype(leaf.dtype)


def train_epochs(
    program: Program,
    hyper: Hyper,
    X: np.ndarray,
    encoding: Encoding,
    rng: np.random.RandomState,
    *,
    seed: int,
    size: int,
    epochs: Any,
    verbose: Any,
) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Train on minibatches of some rows, and warn if it was stopped or nothing was learned.

    Args:
        program: what is compiled for the model.
        hyper: its numbers, as the user gave them.
        X: the rows, in their own units.
        encoding: how they become features.
        rng: of the weights and the minibatches.
        seed: of the noise.
        size: rows in a minibatch.
        epochs: passes through the rows.
        verbose: whether to print a line of progress now and then.

    Returns:
        The state after all epochs, or those before Ctrl-C, and their history.

    Raises:
        ValueError: if training diverges.
    """
    steps = len(X) // size
    padded = -(-len(X) // _PADDING) * _PADDING
    rows = jax.device_put(encoding.encode(X, size=padded))
    numbers: list[Any] = [np.float32(v) for v in hyper]
    traced = Hyper(*numbers)
    state = program.start(seed, rng)
    trace = {name: np.empty(0, np.float32) for name in program.history}
    said = 0
    try:
        order = np.empty((0, size), np.int32)
        for done in range(0, epochs * steps, _STEPS):
            count = min(_STEPS, epochs * steps - done)
            while len(order) < count:
                shuffled = rng.permutation(len(X))[: steps * size].astype(np.int32)
                order = np.concatenate([order, shuffled.reshape(steps, size)])
            batches = np.zeros((_STEPS, size), np.int32)
            batches[:count], order = order[:count], order[count:]
            after, seen = program.train(state, traced, rows, batches, count)
            longer = {
                name: np.append(trace[name], np.asarray(seen[name])[:count]) for name in trace
            }
            # At once, so that Ctrl-C finds the state that the history tells of.
            state, trace = after, longer
            if not np.isfinite(trace["loss"]).all():
                epoch = int(np.argmin(np.isfinite(trace["loss"]))) // steps + 1
                raise diverged(hyper.learning_rate, epoch)
            whole = (done + count) // steps
            if verbose and whole > said:
                said, elbo = whole, trace["elbo"][(whole - 1) * steps : whole * steps].mean()
                print(f"epoch {whole}/{epochs}  ELBO {elbo:.3f} nats a row", flush=True)
    except KeyboardInterrupt:
        if len(trace["loss"]) < steps:
            raise
        done = len(trace["loss"]) // steps
        warnings.warn(f"stopped after epoch {done} of {epochs}", stacklevel=3)
    kept = len(trace["loss"]) // steps * steps
    means = {name: v[:kept].reshape(-1, steps).mean(axis=1) for name, v in trace.items()}
    last = means["elbo"][-1]
    # Standardised columns cost 1.4 nats each under the simplest model there is.
    if last < -100 * len(encoding.shift):
        told = f"an ELBO of {last:.3g} nats a row: nothing was learned"
        warnings.warn(f"{told}, a smaller learning_rate is needed", stacklevel=3)
    return state, means


def diverged(learning_rate: Any, epoch: Any) -> ValueError:
    """The error of a training that diverged."""
    return ValueError(
        f"learning_rate {learning_rate}: training diverged in epoch {epoch}; "
        "a smaller one is needed"
    )


def score_rows(
    program: Program,
    key: PRNGKey,
    params: PyTree[np.ndarray],
    features: Float[np.ndarray, "rows features"],
) -> Float[np.ndarray, " rows"]:
    """The importance-weighted log p(x) of rows as the model sees them, each with its own noise.

    Args:
        program: what is compiled for the model.
        key: of the noise; what stands in a row shifts it.
        params: of the model.
        features: the rows, encoded; NaN where a value is missing.

    Returns:
        Nats of each row, of a density of its features.
    """

    def score(params: PyTree[np.ndarray], rows: np.ndarray) -> Array:
        # Not the last bits, in which the same table in float32 and in float64 differs, nor
        # the sign of a zero.
        numbers = fingerprints(np.round(rows, 3) + np.float32(0))
        return program.score(key, params, rows, numbers)

    return by_rows(score, params, features).astype(np.float64)


def by_rows(fun: Callable[..., Array], params: PyTree[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Apply `fun(params, rows)` to all rows, filled up to one shape."""
    results = []
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        padded = np.zeros((_ROWS, *rows.shape[1:]), rows.dtype)
        padded[: len(some)] = some
        results.append(np.asarray(fun(params, padded))[: len(some)])
    return np.concatenate(results)
