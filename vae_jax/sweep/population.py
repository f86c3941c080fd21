"""A population of models as one compiled program: a grid of hyperparameters and seeds.

Every array of a population has a leading axis `member`. Members of one seed share its
shuffling and its noise (common random numbers), so a difference over beta is one of beta.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from vae_jax.evaluation import ElboEstimate
from vae_jax.sharding import Mesh, num_shards, over_devices, to_every_process
from vae_jax.sweep.execution import (
    all_at_once,
    all_at_once_by_seed,
    chosen,
    one_by_one,
    one_by_one_in_place,
)
from vae_jax.sweep.members import (
    Data,
    Members,
    Subsets,
    evaluated_part,
    num_examples,
    seed_of_each,
)
from vae_jax.train import Metrics, Trainer, TrainState, quick_options
from vae_jax.types import Hyper, Params, PRNGKey, Step

Execution = Literal["map", "vmap"]
# `(params, test) -> estimate`; `(params, test, count)` where the members' parts are of several
# lengths, to average the first `count` examples only (`evaluated_part`).
Evaluate = Callable[..., ElboEstimate]

# Why a member was stopped; the index of each stands in its `Status`.
CAUSES = ("", "loss", "gradient", "parameters", "test ELBO")


class Status(NamedTuple):
    """Whether a member still trains, and if not, why.

    Attributes:
        cause: what was not finite, an index into `CAUSES`; 0 while it trains.
        step: the optimiser step at which it was seen, from 1; 0 while it trains.
        max_log_var: the largest log-variance of a posterior in that epoch up to there.
    """

    cause: Int[Array, " member"]
    step: Int[Array, " member"]
    max_log_var: Float[Array, " member"]


class Population(NamedTuple):
    """The state of a sweep: arrays only, so that it is one checkpoint.

    Attributes:
        train: the state of each member, frozen at its last good one when it failed.
        status: why it failed.
    """

    train: TrainState
    status: Status


class Report(NamedTuple):
    """What the host reads of an epoch: small arrays, whole in every process.

    Those of a member that was frozen before are NaN, so that none passes for the best one, and
    0 where they are whole numbers.

    Attributes:
        metrics: of training.
        test: the evaluation after the epoch.
        status: of each member.
    """

    metrics: Metrics
    test: ElboEstimate
    status: Status


class Sweep(NamedTuple):
    """The functions that train a population, each one compiled program.

    Attributes:
        init: `members -> population`.
        epoch: `(population, members, data, test) -> (population, report)`: one epoch of
            every member and its evaluation, on all the data or on a member's part of
            `Subsets`, of which each example counts once. The population's buffers are donated.
        evaluate: `(population, members, test) -> (estimates, status)`, whole in every process.
        pick: `(population, i) -> params` of one member, whole in every process; NaN beyond the
            last member.
    """

    init: Callable[[Members], Population]
    epoch: Any
    evaluate: Callable[[Population, Members, Data], tuple[ElboEstimate, Status]]
    pick: Callable[[Population, Step], Params]


def make_sweep(
    trainer: Trainer,
    evaluate: Evaluate,
    *,
    execution: Execution,
    mesh: Mesh | None = None,
    passes: int = 1,
    compile_quickly: bool = False,
) -> Sweep:
    """Build the functions that train many models of one kind together.

    Args:
        trainer: the training functions of one model.
        evaluate: `(params, test) -> ElboEstimate` of one model, see `Evaluate`.
        execution: `map` trains member after member, each to the same bits as alone;
            `vmap` all at once, which fills an accelerator and rounds differently; noise is
            then drawn once for each run of members of one seed (`make_members`).
        mesh: devices to spread the members over (`sharding.member_mesh`); their number must
            then be a multiple of the devices.
        passes: passes through the data in a call of `epoch`; several where a model is so
            small that its evaluation and its report would take longer than its training.
        compile_quickly: with fewer of XLA's optimisations on a CPU, for models that take
            longer to compile than to train.

    Returns:
        The compiled functions.

    Raises:
        ValueError: if the execution is neither, or there are no passes; `init` raises
            it for members that the devices do not divide, `epoch` for those of another population.

    Example:
        >>> from vae_jax.evaluation import estimate_elbo
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.objectives import beta
        >>> from vae_jax.preprocess import intensities
        >>> from vae_jax.sweep import make_members
        >>> from vae_jax.train import make_trainer
        >>> networks = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> vae = make_vae(*networks, bernoulli(), x_shape=(8, 8, 1), latent_dim=2)
        >>> def evaluate(params, test):
        ...     return estimate_elbo(jax.random.key(1), vae, intensities, params, test)
        >>> sweep = make_sweep(
        ...     make_trainer(vae, beta(), batch_size=4), evaluate, execution="map")
        >>> members = make_members([Hyper(beta=b) for b in (1.0, 4.0)], [0, 0])
        >>> population = sweep.init(members)
        >>> images = jnp.zeros((12, 8, 8, 1), jnp.uint8)
        >>> population, report = sweep.epoch(population, members, images, images)
        >>> report.test.elbo.shape
        (2,)
    """
    if execution not in ("map", "vmap"):
        raise ValueError(f"execution {execution!r}: 'map' or 'vmap' is needed")
    if passes < 1:
        raise ValueError(f"passes {passes}: at least 1 is needed")
    each, each_epoch, choose = (
        (one_by_one, one_by_one_in_place, jax.lax.cond)
        if execution == "map"
        else (all_at_once, all_at_once_by_seed, chosen)
    )

    def init_one(member: tuple[Hyper, Array, Array], seeds: Int[Array, " seed"]) -> Population:
        hyper, seed, real = member
        state = trainer.init(jax.random.key(seeds[seed]), hyper)
        return Population(state._replace(alive=real), Status(*map(jnp.array, _TRAINS)))

    def epoch_one(
        member_and_its: tuple[Population, tuple[Hyper, Array, Array]],
        source: tuple[PRNGKey, Step],
        data: Data,
        batches: Int[Array, "seed steps batch"],
        test: Data,
    ) -> tuple[Population, Report]:
        member, (hyper, seed, split) = member_and_its
        examples, own_batches = data, batches[seed]
        if isinstance(data, Subsets):
            examples, own_batches = data.examples, jnp.asarray(data.rows)[split][own_batches]

        def train(member: Population) -> tuple[Population, Report]:
            before, (root_key, step) = member.train, source
            start = before._replace(root_key=root_key, step=step)
            after, metrics = trainer.epoch(start, hyper, examples, own_batches)
            estimate = evaluate(after.params, *evaluated_part(test, split))
            # The last step may leave parameters that are finite and yet of no use.
            good = after.alive & jnp.isfinite(estimate.elbo)
            kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
            status = _status(before.step, metrics, after.alive, good, batches.shape[1])
            return Population(kept._replace(alive=good), status), Report(metrics, estimate, status)

        def skip(member: Population) -> tuple[Population, Report]:
            _, report = jax.eval_shape(train, member)
            return member, _nothing(report)._replace(status=member.status)

        return choose(member.train.alive, train, skip, member)

    def evaluate_one(member_and_split: tuple[Population, Array], test: Data) -> ElboEstimate:
        member, split = member_and_split

        # Always, and yet in a branch as in an epoch: XLA then rounds alike, and the summary of
        # a run holds the numbers of its last epoch.
        own = evaluated_part(test, split)

        def skip(params: Params) -> ElboEstimate:
            return _nothing(jax.eval_shape(evaluate, params, *own))

        always = member.train.step >= 0
        return choose(always, lambda params: evaluate(params, *own), skip, member.train.params)

    def epoch_of_some(
        members_and_seeds: tuple[Any, Int[Array, " run"]],
        data: Data,
        seeds: Int[Array, " seed"],
        test: Data,
    ) -> tuple[Population, Report]:
        (population, _), _ = members_and_seeds
        # All that still train are at one step. One permutation for each seed, not for each
        # member: it takes as long as ten steps. On every device, so that none waits.
        step = jnp.max(population.train.step)
        n = num_examples(data)

        def shuffled(seed: Array) -> Int[Array, "steps batch"]:
            key = jax.random.key(seed)
            one_pass = jax.eval_shape(lambda: trainer.shuffle(key, step, n)).shape[0]
            starts = step + one_pass * jnp.arange(passes)
            orders = jax.vmap(lambda start: trainer.shuffle(key, start, n))(starts)
            return orders.reshape(-1, orders.shape[-1])

        batches = jax.vmap(shuffled)(jnp.asarray(seeds))
        return each_epoch(epoch_one)(members_and_seeds, data, batches, test)

    init_all = over_devices(each(init_one), mesh, (True, False))
    epoch_all = over_devices(epoch_of_some, mesh, (True, False, False, False))
    evaluate_all = over_devices(each(evaluate_one), mesh, (True, False))

    def init(members: Members) -> Population:
        size, devices = np.shape(members.real)[0], num_shards(mesh)
        if size % devices:
            needed = -(-size // devices) * devices
            raise ValueError(
                f"{size} members on {devices} devices: a multiple is needed, "
                f"make_members(..., size={needed}) fills them up"
            )
        return init_all((members.hyper, seed_of_each(members), members.real), members.seeds)

    def epoch(
        population: Population, members: Members, data: Data, test: Data
    ) -> tuple[Population, Report]:
        size, given = len(population.train.step), np.shape(members.real)[0]
        if size != given:
            raise ValueError(f"a population of {size} with {given} members")
        all_members = (population, (members.hyper, seed_of_each(members), members.split))
        population, report = epoch_all((all_members, members.seed), data, members.seeds, test)
        return population, to_every_process(report, mesh)

    def evaluate_population(
        population: Population, members: Members, test: Data
    ) -> tuple[ElboEstimate, Status]:
        estimates = evaluate_all((population, members.split), test)
        return to_every_process((estimates, population.status), mesh)

    def pick(population: Population, index: Step) -> Params:
        def of_member(leaf: Array) -> Array:
            return leaf.at[index].get(mode="fill")  # an index alone would take the last one

        return to_every_process(jax.tree.map(of_member, population.train.params), mesh)

    # What runs once is never worth XLA's whole effort. An evaluation rounds as that of an
    # epoch only if it is compiled like it.
    once, often = quick_options("moment"), quick_options("many") if compile_quickly else {}
    return Sweep(
        init=jax.jit(init, compiler_options=once),
        epoch=jax.jit(epoch, donate_argnums=0, compiler_options=often),
        evaluate=jax.jit(evaluate_population, compiler_options=often),
        pick=jax.jit(pick, compiler_options=once),
    )


def refit(loaded: Population, fresh: Population, members: int) -> Population:
    """Take the first members of one population and fill up with those of another.

    Args:
        loaded: a population that may have been filled up to another size, whole everywhere.
        fresh: one of the size and in the place that is wanted.
        members: how many of both are real.

    Returns:
        The members of the first where the second is.
    """

    def joined(old: Array, new: Array) -> Array:
        return jnp.concatenate([old[:members], new[members:]])

    where = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    return jax.jit(lambda a, b: jax.tree.map(joined, a, b), out_shardings=where)(loaded, fresh)


# The status of a member that trains: its arrays' types are those of `_status`.
_TRAINS = (np.int32(0), np.int32(0), np.float32(0))


def _status(
    start: Int[Array, ""], metrics: Metrics, trained: Array, good: Array, steps: int
) -> Status:
    """What was the first to be not finite in an epoch that began at step `start`."""
    bad_loss, bad_gradient = metrics["bad_loss"], metrics["bad_gradient"]
    cause = jnp.select(
        [good, bad_gradient < bad_loss, bad_loss < steps, ~trained],
        [CAUSES.index(name) for name in ("", "gradient", "loss", "parameters")],
        CAUSES.index("test ELBO"),
    )
    last = jnp.minimum(jnp.minimum(bad_loss, bad_gradient) + 1, steps)
    return Status(
        cause=cause.astype(jnp.int32),
        step=jnp.where(good, 0, start + last).astype(jnp.int32),
        max_log_var=jnp.where(good, 0.0, metrics["max_log_var"]).astype(jnp.float32),
    )


def _nothing(shapes: PyTree) -> Any:
    """NaN, and 0 of whole numbers."""

    def fill(leaf: jax.ShapeDtypeStruct) -> Array:
        value = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0
        return jnp.full(leaf.shape, value, leaf.dtype)

    return jax.tree.map(fill, shapes)
