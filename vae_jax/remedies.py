"""Training a text model so that its decoder does not ignore z.

A decoder that reads the words before explains most of a sentence without z, and the KL falls to
nothing (posterior collapse). The remedies are settings of `Hyper`, each neutral by default (but
for the first step, at which a warm-up of one step has no KL), in one objective and one program: a
sweep over them is a sweep like any other.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Num

from vae_jax.model import VAE, batch_elbo_terms
from vae_jax.objectives import Aux, Objective, cyclical, free_bits, warmup
from vae_jax.preprocess import tokens_as_stored
from vae_jax.text import scale_z
from vae_jax.train import (
    OPTIMIZERS,
    Loss,
    Metrics,
    OptimizerOf,
    Trainer,
    TrainState,
    elbo_metrics,
    flat,
    keys_of,
    trainer_of,
)
from vae_jax.types import PAD, ElboTerms, Hyper, Nats, Params, PRNGKey, Scalar, Step

# Steps of the encoder for one of the decoder while the encoder is trained aggressively.
ENCODER_STEPS = 5


def remedied() -> Objective:
    """The ELBO with every remedy of the KL term at once, each neutral by its default.

    E_q[log p(x | z)] - weight sum_j max(lambda, KL_j), weight = beta times the linear warm-up
    times the cycle, lambda the free bits.

    Returns:
        The objective, of one sample of each posterior; it reports `kl_weight`, that of this step.

    Reference:
        Bowman et al. (arXiv 1511.06349), section 3.1, for the warm-up; Fu et al. (arXiv
        1903.10145) for the cycle; Kingma et al. (arXiv 1606.04934), equation 15, for free bits.
    """

    def bound(terms: ElboTerms, hyper: Hyper, step: Step) -> tuple[Nats, Aux]:
        _, warm = warmup().bound(terms, hyper, step)
        _, cycle = cyclical().bound(terms, hyper._replace(beta=warm["kl_weight"]), step)
        value, _ = free_bits().bound(terms, hyper._replace(beta=cycle["kl_weight"]), step)
        return value, cycle

    reads = frozenset({"beta", "warmup_steps", "cycle_steps", "free_bits"})
    return Objective(1, bound, reads)


def hide_words(key: PRNGKey, x: Float[Array, " length"], rate: Scalar) -> Float[Array, " length"]:
    """Hide each word of a sentence from the decoder with a probability (word dropout).

    x'_t = -x_t with the probability `rate`, each word by itself, and x_t otherwise.

    Args:
        key: the key of the choice.
        x: the sentence.
        rate: the probability, on [0, 1].

    Returns:
        The sentence, hidden words with a negative sign: the decoder reads an unknown word there,
        is still to give the word itself, and the encoder sees it.

    Reference:
        Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349),
        section 3.1.
    """
    return jnp.where(jax.random.uniform(key, x.shape) < rate, -x, x)


def make_text_trainer(
    vae: VAE,
    *,
    batch_size: int,
    lengths: Int[np.ndarray, " n"],
    buckets: Sequence[int],
    optimizer: OptimizerOf = OPTIMIZERS["adam"],
) -> Trainer:
    """Build the training functions of a text model, with every remedy as a setting of `Hyper`.

    A minibatch has sentences of about one length, and is cut to the shortest bucket that holds
    it; all buckets are branches of one program. For the first `aggressive_steps` the decoder is
    trained in one step of `ENCODER_STEPS` only. With `latent` 0 the decoder has no z: a
    recurrent language model of the same shape.

    Args:
        vae: of `make_text_vae`.
        batch_size: sentences in a minibatch.
        lengths: tokens of each training sentence.
        buckets: the lengths that minibatches are cut to, ascending; the last holds them all.
        optimizer: from a learning rate to an optax optimiser.

    Returns:
        The compiled functions, with the metrics of `make_trainer`.

    Raises:
        ValueError: if a sentence is longer than the last bucket, or the batch size is under 1.

    Reference:
        He et al., Lagging inference networks (arXiv 1901.05534), algorithm 1, with a fixed
        number of steps in the place of its two criteria.
    """
    if not len(lengths) or max(lengths) > buckets[-1]:
        raise ValueError(f"buckets {tuple(buckets)}: one must hold every sentence")
    objective = remedied()
    bucket_of = np.searchsorted(buckets, lengths).astype(np.int32)

    def loss_at(
        key: PRNGKey,
        params: Params,
        xs: Float[Array, "batch length"],
        hyper: Hyper,
        step: Step,
        *,
        length: int,
    ) -> tuple[Nats, Metrics]:
        key_hide, key_latent = jax.random.split(key)
        hide = jax.vmap(hide_words, (0, 0, None))
        shown = hide(jax.random.split(key_hide, len(xs)), xs[:, :length], hyper.word_dropout)
        trained = _decoder_held(scale_z(params, hyper.latent), hyper, step)
        keys = jax.random.split(key_latent, (len(xs), objective.num_samples))
        terms = batch_elbo_terms(keys, vae, trained, shown)
        bound, aux = objective.bound(terms, hyper, step)
        return -bound, aux | {"loss": -bound} | elbo_metrics(terms)

    trainer = trainer_of(
        vae,
        _cut(loss_at, buckets),
        batch_size=batch_size,
        optimizer=_resting(optimizer),
        preprocess=tokens_as_stored,
    )

    def init(key: PRNGKey, hyper: Hyper) -> TrainState:
        state = trainer.init(key, hyper)
        return state._replace(params=scale_z(state.params, hyper.latent))

    def shuffle(root_key: PRNGKey, step: Step, n: int) -> Int[Array, "steps batch"]:
        if n != len(lengths):
            raise ValueError(f"{n} sentences, and the lengths of {len(lengths)}")
        batches = trainer.shuffle(root_key, step, n)
        order = batches.reshape(-1)
        by_bucket = jnp.argsort(jnp.asarray(bucket_of)[order], stable=True)
        by_length = order[by_bucket].reshape(batches.shape)
        # Of the key of this step, the training step takes the first two.
        key_batches = jax.random.fold_in(jax.random.fold_in(keys_of(root_key).steps, step), 2)
        return jax.random.permutation(key_batches, by_length)

    def epoch(
        state: TrainState,
        hyper: Hyper,
        data: Num[Array, "n length"],
        batches: Int[Array, "steps batch"] | None = None,
    ) -> tuple[TrainState, Metrics]:
        if batches is None:
            batches = shuffle(state.root_key, state.step, len(data))
        return trainer.epoch(state, hyper, data, batches)

    return trainer._replace(
        init=jax.jit(init), shuffle=shuffle, epoch=jax.jit(epoch, donate_argnums=0)
    )


def _cut(loss_at: Any, buckets: Sequence[int]) -> Loss:
    """The loss of a minibatch at the shortest length that holds it."""
    branches = [
        jax.value_and_grad(partial(loss_at, length=length), argnums=1, has_aux=True)
        for length in buckets
    ]

    # The gradient of a switch keeps what every one of its branches would keep, so each branch
    # computes its own.
    @jax.custom_vjp
    def chosen(key: PRNGKey, params: Params, xs: Array, *rest: Any) -> tuple[Nats, Metrics]:
        return forward(key, params, xs, *rest)[0]

    def forward(
        key: PRNGKey, params: Params, xs: Array, *rest: Any
    ) -> tuple[tuple[Nats, Metrics], Params]:
        longest = jnp.max(jnp.sum(xs != PAD, axis=1))
        bucket = jnp.sum(longest > jnp.asarray(buckets[:-1], longest.dtype))
        return jax.lax.switch(bucket, branches, key, params, xs, *rest)

    def backward(grads: Params, flowing: tuple[Nats, Metrics]) -> tuple[Any, ...]:
        return None, jax.tree.map(lambda grad: flowing[0] * grad, grads), None, None, None

    chosen.defvjp(forward, backward)

    def loss(
        key: PRNGKey, params: Params, xs: Float[Array, "batch length"], hyper: Hyper, step: Step
    ) -> tuple[Nats, Metrics]:
        return chosen(key, params, xs, hyper, step)

    return loss


def _decoder_held(params: Params, hyper: Hyper, step: Step) -> Params:
    """The parameters; no gradient reaches the decoder in the steps of the encoder alone."""
    held = (step < hyper.aggressive_steps) & (step % ENCODER_STEPS != 0)

    def hold(leaf: Array) -> Array:
        return jnp.where(held, jax.lax.stop_gradient(leaf), leaf)

    return {**params, "decoder": jax.tree.map(hold, params["decoder"])}


def _resting(optimizer: OptimizerOf) -> OptimizerOf:
    """An optimiser for each network, which rests where the gradient is exactly nought.

    A moment that decays would move a decoder that is held.
    """

    def of(learning_rate: Scalar) -> optax.GradientTransformation:
        own = flat(optimizer)(learning_rate)

        def init(params: Params) -> Any:
            return {name: own.init(network) for name, network in params.items()}

        def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
            moved, after = {}, {}
            for name, grad in updates.items():
                moves = jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(grad)]).any()
                found, later = own.update(grad, state[name], params[name])
                moved[name] = jax.tree.map(lambda u, m=moves: jnp.where(m, u, 0), found)
                after[name] = jax.tree.map(
                    lambda new, old, m=moves: jnp.where(m, new, old), later, state[name]
                )
            return moved, after

        return optax.GradientTransformation(init, update)

    return of
