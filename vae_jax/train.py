"""Training: the state, one step, and one epoch as a single `lax.scan`."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Num, PyTree

from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.objectives import Objective
from vae_jax.preprocess import Preprocess, intensities
from vae_jax.types import ElboTerms, Hyper, Nats, Params, PRNGKey, Scalar, Step

OptimizerOf = Callable[[Scalar], optax.GradientTransformation]
Metrics = dict[str, Num[Array, "..."]]
# (key, params, xs, hyper, step) -> what is minimised, and the metrics of a minibatch.
Loss = Callable[[PRNGKey, Params, Float[Array, "batch *x"], Hyper, Step], tuple[Nats, Metrics]]

OPTIMIZERS: dict[str, OptimizerOf] = {
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adagrad": optax.adagrad,
    "adamax": optax.adamax,
    "rmsprop": optax.rmsprop,
    "sgd": optax.sgd,
}


def flat(optimizer: OptimizerOf) -> OptimizerOf:
    """The same optimiser over one vector of all parameters.

    The bits are the same. For a model of a few thousand parameters it is one kernel instead
    of one for each layer, compiled in half the time and faster to run; for a large model it is
    a copy of every gradient.

    Args:
        optimizer: a value of `OPTIMIZERS`; each of its parameters' updates depends on that
            parameter alone.

    Returns:
        The optimiser.
    """
    return lambda learning_rate: optax.flatten(optimizer(learning_rate))


class TrainState(NamedTuple):
    """All that the next step needs, and arrays only: it checkpoints and vmaps as it is.

    Attributes:
        params: parameters of the model.
        opt_state: state of the optimiser.
        step: optimiser steps taken.
        root_key: the run's one key; every other is derived from it and `step`.
        alive: False once an epoch ended with a loss, a parameter or a moment of the
            optimiser that is not finite; the state is then the one before that epoch,
            and further epochs leave it as it is.
    """

    params: Params
    opt_state: PyTree
    step: Int[Array, ""]
    root_key: PRNGKey
    alive: Bool[Array, ""]


class Trainer(NamedTuple):
    """The functions that train one model, compiled.

    Attributes:
        init: `(key, hyper) -> state`.
        step: `(state, hyper, batch) -> (state, metrics)`, for a batch as it is stored.
            The state's buffers are donated. A divergence is contained by `epoch` only.
        shuffle: `(root_key, step, n) -> indices [steps, batch]`, the minibatches of the epoch
            that begins at a step, of n examples; the remainder that fills no batch is left
            out. Models of one root key share them.
        epoch: `(state, hyper, data, batches=None) -> (state, metrics)`, over the stored data
            in the order of `batches`, or of `shuffle` without them. The state's buffers are
            donated.
    """

    init: Callable[[PRNGKey, Hyper], TrainState]
    step: Callable[[TrainState, Hyper, Num[Array, "batch *x"]], tuple[TrainState, Metrics]]
    shuffle: Callable[[PRNGKey, Step, int], Int[Array, "steps batch"]]
    epoch: Callable[..., tuple[TrainState, Metrics]]


def make_trainer(
    vae: VAE,
    objective: Objective,
    *,
    batch_size: int,
    optimizer: OptimizerOf = optax.adam,
    preprocess: Preprocess = intensities,
) -> Trainer:
    """Build the training functions of one model.

    Args:
        vae: the model.
        objective: the bound to maximise.
        batch_size: examples in a minibatch.
        optimizer: from a learning rate to an optax optimiser, a value of `OPTIMIZERS`.
        preprocess: from one stored example to x.

    Returns:
        The compiled functions. The metrics are nats per example: `loss` (the negative
        bound), `elbo` (always unweighted), `log_lik`, `kl`, and what the objective
        scheduled. An epoch's are averages over its steps, and with them what tells why it
        failed: `bad_loss` and `bad_gradient`, the first step of the epoch whose loss or
        squared gradient was not finite, or the number of steps; and `max_log_var`, the largest
        log-variance of any posterior up to there.

    Raises:
        ValueError: if the batch size or the objective's samples are under 1; when it is run, if
            the batch size is larger than the data, or a setting of `Hyper` is not one number.

    Example:
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.objectives import elbo
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> trainer = make_trainer(vae, elbo(), batch_size=4)
        >>> state = trainer.init(jax.random.key(0), Hyper())
        >>> state, metrics = trainer.epoch(state, Hyper(), jnp.zeros((12, 8, 8, 1), jnp.uint8))
        >>> int(state.step), bool(state.alive)
        (3, True)
    """
    if objective.num_samples < 1:
        raise ValueError(f"num_samples {objective.num_samples}: at least 1 is needed")

    def loss(
        key: PRNGKey, params: Params, xs: Float[Array, "batch *x"], hyper: Hyper, step: Step
    ) -> tuple[Nats, Metrics]:
        keys = jax.random.split(key, (len(xs), objective.num_samples))
        terms = batch_elbo_terms(keys, vae, params, xs, objective.weigh_z)
        bound, aux = objective.bound(terms, hyper, step)
        return -bound, aux | {"loss": -bound} | elbo_metrics(terms)

    return trainer_of(vae, loss, batch_size=batch_size, optimizer=optimizer, preprocess=preprocess)


def elbo_metrics(terms: ElboTerms) -> Metrics:
    """What is reported of a minibatch whatever is optimised: nats per example.

    Args:
        terms: of a minibatch, with axes `[batch, samples]`.

    Returns:
        `elbo`, unweighted, and its parts `log_lik` and `kl`; with them `max_log_var`, the
        largest log-variance of a posterior.
    """
    log_lik = jnp.mean(terms.log_lik)
    kl = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1))
    max_log_var = jnp.max(terms.q.log_var)
    return {"elbo": log_lik - kl, "log_lik": log_lik, "kl": kl, "max_log_var": max_log_var}


def trainer_of(
    vae: VAE,
    loss: Loss,
    *,
    batch_size: int,
    optimizer: OptimizerOf = optax.adam,
    preprocess: Preprocess = intensities,
) -> Trainer:
    """Build the training functions of one model and any loss; `make_trainer` has that of a bound.

    Args:
        vae: the model.
        loss: of a minibatch; its metrics hold `loss` and those of `elbo_metrics`.
        batch_size: examples in a minibatch.
        optimizer: from a learning rate to an optax optimiser.
        preprocess: from one stored example to x.

    Returns:
        The compiled functions, with the metrics of `make_trainer`.

    Raises:
        ValueError: as `make_trainer` does.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1 is needed")

    def init_state(key: PRNGKey, hyper: Hyper) -> TrainState:
        _check_numbers(hyper)
        params = vae.init(keys_of(key).init)
        return TrainState(
            params=params,
            opt_state=optimizer(hyper.learning_rate).init(params),
            step=jnp.zeros((), jnp.int32),
            root_key=key,
            alive=jnp.ones((), bool),
        )

    def train_step(
        state: TrainState, hyper: Hyper, batch: Num[Array, "batch *x"]
    ) -> tuple[TrainState, Metrics]:
        return step_by(keys_of_step(state.root_key, state.step), state, hyper, batch)

    def step_by(
        keys: StepKeys, state: TrainState, hyper: Hyper, batch: Num[Array, "batch *x"]
    ) -> tuple[TrainState, Metrics]:
        _check_numbers(hyper)
        xs = jax.vmap(preprocess)(jax.random.split(keys.preprocess, len(batch)), batch)

        def of_params(params: Params) -> tuple[Nats, Metrics]:
            return loss(keys.loss, params, xs, hyper, state.step)

        grads, metrics = jax.grad(of_params, has_aux=True)(state.params)
        metrics["gradient_squares"] = _squares_of_bias_gradients(grads)
        updates, opt_state = optimizer(hyper.learning_rate).update(
            grads, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return state._replace(params=params, opt_state=opt_state, step=state.step + 1), metrics

    def shuffle(root_key: PRNGKey, step: Step, n: int) -> Int[Array, "steps batch"]:
        num_steps = n // batch_size
        if num_steps == 0:
            raise ValueError(f"batch_size {batch_size}: more than the {n} examples")
        key_epoch = jax.random.fold_in(keys_of(root_key).shuffle, step // num_steps)
        order = jax.random.permutation(key_epoch, n)
        return order[: num_steps * batch_size].reshape(num_steps, batch_size)

    def train_epoch(
        state: TrainState,
        hyper: Hyper,
        data: Num[Array, "n *x"],
        batches: Int[Array, "steps batch"] | None = None,
    ) -> tuple[TrainState, Metrics]:
        if batches is None:
            batches = shuffle(state.root_key, state.step, len(data))

        def body(
            state: TrainState, of_step: tuple[StepKeys, Int[Array, " batch"]]
        ) -> tuple[TrainState, Metrics]:
            keys, batch = of_step
            return step_by(keys, state, hyper, data[batch])

        # All at once: one by one in the steps they are a tenth of a small model's time.
        steps = state.step + jnp.arange(len(batches))
        keys = jax.vmap(keys_of_step, (None, 0))(state.root_key, steps)
        after, trace = jax.lax.scan(body, state, (keys, batches))
        # A NaN stays in the model that made it, so one look at the end of the epoch is enough.
        bad_loss = _first_not_finite(trace["loss"])
        good = state.alive & (bad_loss == len(batches))
        good &= all_finite((after.params, after.opt_state))
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        log_var, gradient = trace.pop("max_log_var"), trace.pop("gradient_squares")
        metrics = jax.tree.map(jnp.mean, trace)
        metrics |= {"bad_loss": bad_loss, "bad_gradient": _first_not_finite(gradient)}
        metrics["max_log_var"] = jnp.max(log_var, where=jnp.isfinite(log_var), initial=-jnp.inf)
        return kept._replace(alive=good), metrics

    return Trainer(
        init=jax.jit(init_state),
        step=jax.jit(train_step, donate_argnums=0),
        shuffle=shuffle,
        epoch=jax.jit(train_epoch, donate_argnums=0),
    )


# On a CPU XLA hands sums over an axis to a library, which takes two to three times as long for
# those of many small models as the loop that XLA writes itself; products stay with the library.
_OWN_SUMS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def quick_options(run: Literal["moment", "many"]) -> dict[str, bool | int | str]:
    """Compiler options with which XLA is done sooner, on a CPU.

    Args:
        run: what for. A `moment`: in a third of the time, for a program that then takes half as
            long again. `many`: in half the time, for a program of many small models that takes no
            longer.

    Returns:
        The options, none on an accelerator.
    """
    if jax.default_backend() != "cpu":
        return {}
    level: dict[str, bool | int | str] = {"xla_backend_optimization_level": 1}
    if run == "moment":
        return {**level, "xla_cpu_use_fusion_emitters": False}
    return {**level, **_OWN_SUMS} if _are_known(**_OWN_SUMS) else level


@functools.cache
def _are_known(**options: str) -> bool:
    """Whether this XLA has experimental options, which may be gone from the next."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


class Keys(NamedTuple):
    """What a run draws from, by purpose."""

    init: PRNGKey
    shuffle: PRNGKey
    steps: PRNGKey


def keys_of(root_key: PRNGKey) -> Keys:
    """The keys of a run: of its weights, its minibatches and its steps."""
    return Keys(*jax.random.split(root_key, 3))


class StepKeys(NamedTuple):
    """What a step draws from, by purpose."""

    preprocess: PRNGKey
    loss: PRNGKey


def keys_of_step(root_key: PRNGKey, step: Step) -> StepKeys:
    """The keys of a step of a run."""
    return StepKeys(*jax.random.split(jax.random.fold_in(keys_of(root_key).steps, step)))


def _check_numbers(hyper: Hyper) -> None:
    """Refuse several numbers of one, over which a bound would be averaged."""
    for name, value in hyper._asdict().items():
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(value)]
        if shapes != [()]:
            raise ValueError(f"{name}: one number is needed; models of several are a sweep")


def _squares_of_bias_gradients(grads: Params) -> Float[Array, ""]:
    """Finite where the gradient is, and next to free: the norm of all of it costs 7% of a step.

    Squared, because an optimiser's second moment overflows first. A layer's weights and its
    bias share what is propagated back to it, so a NaN there stands in both. A product that
    overflows in the weights alone shows in the next step's loss.
    """
    leaves = jax.tree.leaves(grads)
    small = [leaf for leaf in leaves if leaf.ndim < 2] or leaves
    return jnp.stack([jnp.sum(leaf**2) for leaf in small]).sum()


def _first_not_finite(values: Float[Array, " steps"]) -> Int[Array, ""]:
    """The first index of a value that is not finite, or their number."""
    finite = jnp.isfinite(values)
    return jnp.where(jnp.all(finite), len(values), jnp.argmin(finite))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number in a tree of arrays is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
