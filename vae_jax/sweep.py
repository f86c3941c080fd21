"""A population of models as one compiled program: a grid of hyperparameters and seeds.

Every array of a population has a leading axis `member`. Members of one seed share its
shuffling and its noise (common random numbers), so a difference over beta is one of beta.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Num, PyTree

from vae_jax.evaluation import ElboEstimate
from vae_jax.sharding import Mesh, num_shards, over_devices, place, to_every_device
from vae_jax.train import Metrics, Trainer, TrainState, quick_options
from vae_jax.types import Hyper, Params, PRNGKey, Step

Execution = Literal["map", "vmap"]
Evaluate = Callable[[Params, Num[Array, "n *x"]], ElboEstimate]

# Why a member was stopped; the index of each stands in its `Status`.
CAUSES = ("", "loss", "gradient", "parameters", "test ELBO")


class Members(NamedTuple):
    """What a population is made of.

    Attributes:
        hyper: the numbers of each member.
        seed: which of the seeds each run draws from: members of one seed that stand side by
            side, equally many in every run.
        seeds: the seeds of the root keys.
        real: False for a member that only fills up a chunk; it is never trained.
        split: which rows of `Subsets` are its own.
    """

    hyper: Hyper
    seed: Int[ArrayLike, " run"]
    seeds: Int[ArrayLike, " seed"]
    real: Bool[ArrayLike, " member"]
    split: Int[ArrayLike, " member"]


class Subsets(NamedTuple):
    """Data of which each member sees a part: the folds of a cross-validation.

    Attributes:
        examples: all that are stored.
        rows: the examples of each split; a member has those of its `Members.split`.
    """

    examples: Num[ArrayLike, "n *x"]
    rows: Int[ArrayLike, "split part"]


Data = Num[ArrayLike, "_ ..."] | Subsets


def num_examples(data: Data) -> int:
    """How many examples a member trains on."""
    return np.shape(data.rows)[1] if isinstance(data, Subsets) else np.shape(data)[0]


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

    Those of a member that was frozen before mean nothing.

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
            `Subsets`. The population's buffers are donated.
        evaluate: `(population, members, test) -> (estimates, status)`, whole in every process.
        pick: `(population, i) -> params` of one member, whole on every device.
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
        evaluate: `(params, test) -> ElboEstimate` of one model.
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
        ValueError: if the execution is neither, or there are no passes.

    Example:
        >>> from vae_jax.evaluation import estimate_elbo
        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.model import make_vae
        >>> from vae_jax.networks import mlp
        >>> from vae_jax.objectives import beta
        >>> from vae_jax.preprocess import intensities
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
        (_one_by_one, _one_by_one_in_place, jax.lax.cond)
        if execution == "map"
        else (_all_at_once, _all_at_once_by_seed, _chosen)
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
            estimate = evaluate(after.params, part_of(test, split))
            # The last step may leave parameters that are finite and yet of no use.
            good = after.alive & jnp.isfinite(estimate.elbo)
            kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, before)
            status = _status(before.step, metrics, after.alive, good, batches.shape[1])
            return Population(kept._replace(alive=good), status), Report(metrics, estimate, status)

        def skip(member: Population) -> tuple[Population, Report]:
            _, report = jax.eval_shape(train, member)
            return member, _zeros(report)._replace(status=member.status)

        return choose(member.train.alive, train, skip, member)

    def evaluate_one(member_and_split: tuple[Population, Array], test: Data) -> ElboEstimate:
        member, split = member_and_split

        # Always, and yet in a branch as in an epoch: XLA then rounds alike, and the summary of
        # a run holds the numbers of its last epoch.
        own = part_of(test, split)

        def skip(params: Params) -> ElboEstimate:
            return _zeros(jax.eval_shape(evaluate, params, own))

        always = member.train.step >= 0
        return choose(always, lambda params: evaluate(params, own), skip, member.train.params)

    init_all = over_devices(each(init_one), mesh, (True, False))
    epoch_all = over_devices(each_epoch(epoch_one), mesh, (True, False, False, False))
    evaluate_all = over_devices(each(evaluate_one), mesh, (True, False))

    def init(members: Members) -> Population:
        return init_all((members.hyper, _seed_of_each(members), members.real), members.seeds)

    def epoch(
        population: Population, members: Members, data: Data, test: Data
    ) -> tuple[Population, Report]:
        # All that still train are at one step. One permutation for each seed, not for each
        # member: it takes as long as ten steps.
        step = jnp.max(population.train.step)
        n = num_examples(data)

        def shuffled(seed: Array) -> Int[Array, "steps batch"]:
            key = jax.random.key(seed)
            one_pass = jax.eval_shape(lambda: trainer.shuffle(key, step, n)).shape[0]
            starts = step + one_pass * jnp.arange(passes)
            orders = jax.vmap(lambda start: trainer.shuffle(key, start, n))(starts)
            return orders.reshape(-1, orders.shape[-1])

        batches = jax.vmap(shuffled)(jnp.asarray(members.seeds))
        all_members = (population, (members.hyper, _seed_of_each(members), members.split))
        population, report = epoch_all((all_members, members.seed), data, batches, test)
        return population, to_every_device(report, mesh)

    def evaluate_population(
        population: Population, members: Members, test: Data
    ) -> tuple[ElboEstimate, Status]:
        estimates = evaluate_all((population, members.split), test)
        return to_every_device((estimates, population.status), mesh)

    def pick(population: Population, index: Step) -> Params:
        picked = jax.tree.map(lambda leaf: leaf[index], population.train.params)
        return to_every_device(picked, mesh)

    # What runs once is never worth XLA's whole effort. An evaluation rounds as that of an
    # epoch only if it is compiled like it.
    once, often = quick_options(), quick_options(many=True) if compile_quickly else {}
    return Sweep(
        init=jax.jit(init, compiler_options=once),
        epoch=jax.jit(epoch, donate_argnums=0, compiler_options=often),
        evaluate=jax.jit(evaluate_population, compiler_options=often),
        pick=jax.jit(pick, compiler_options=once),
    )


def make_members(
    hypers: Sequence[Hyper],
    seeds: Sequence[int],
    *,
    splits: Sequence[int] = (),
    size: int = 0,
    num_seeds: int = 0,
    together: int = 1,
) -> Members:
    """Line up the members of a population.

    Args:
        hypers: the numbers of each.
        seeds: the seed of each; equal seeds share weights, shuffling and noise.
        splits: which part of `Subsets` each has; none is needed where all see all the data.
        size: members to fill up to, with ones that are never trained.
        num_seeds: seeds to fill up to, so that programs of different members are one.
        together: members to a run, which share their noise; a divisor of `side_by_side`.

    Returns:
        The members, as NumPy arrays.

    Raises:
        ValueError: if there are none, or not one seed, or one split, for each; or if members
            of a run would differ in their seeds.
    """
    if not hypers or len(hypers) != len(seeds):
        raise ValueError(f"{len(hypers)} members with {len(seeds)} seeds: one each is needed")
    if len(splits) not in (0, len(hypers)):
        raise ValueError(f"{len(hypers)} members with {len(splits)} splits: one each is needed")
    unique = list(dict.fromkeys(seeds))
    missing = max(0, size - len(hypers))
    filled = [*hypers, *[hypers[-1]] * missing]
    indices = [unique.index(seed) for seed in [*seeds, *[seeds[-1]] * missing]]
    if side_by_side(indices) % together:
        raise ValueError(
            f"together {together}: a divisor of {side_by_side(indices)} is needed, as many "
            "members of one seed stand side by side"
        )
    numbers: list[Any] = [np.array(values, np.float32) for values in zip(*filled, strict=True)]
    return Members(
        hyper=Hyper(*numbers),
        seed=np.array(indices[::together], np.int32),
        seeds=np.array(unique + unique[-1:] * (num_seeds - len(unique)), np.int32),
        real=np.arange(len(filled)) < len(hypers),
        split=np.array([*(splits or [0] * len(hypers)), *[0] * missing], np.int32),
    )


def side_by_side(seeds: Sequence[int]) -> int:
    """The greatest number of members to a run, so that every run has one seed.

    Args:
        seeds: the seed of each member.

    Returns:
        The greatest divisor that all stretches of one seed have in common.

    Example:
        >>> side_by_side([7, 7, 7, 7, 3, 3]), side_by_side([7, 3, 7, 3])
        (2, 1)
    """
    return math.gcd(*(len(list(stretch)) for _, stretch in itertools.groupby(seeds)))


def _seed_of_each(members: Members) -> Array:
    """The seed of every member, not of every run."""
    runs = jnp.asarray(members.seed)
    return jnp.repeat(runs, np.shape(members.real)[0] // len(runs))


def place_members(members: Members, mesh: Mesh | None) -> Members:
    """Put members on the devices of a mesh, or on the one device.

    A run that would lie on two devices is cut.
    """
    count, runs = len(np.asarray(members.real)), np.asarray(members.seed)
    together = math.gcd(count // len(runs), count // num_shards(mesh))
    return Members(
        hyper=place(members.hyper, mesh, split=True),
        seed=place(np.repeat(runs, count // len(runs) // together), mesh, split=True),
        seeds=place(members.seeds, mesh),
        real=place(members.real, mesh, split=True),
        split=place(members.split, mesh, split=True),
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


class Plan(NamedTuple):
    """How a population is cut into chunks that fit the memory.

    Attributes:
        sizes: real members of each chunk, the larger ones first.
        chunk: members of the one compiled program; a smaller chunk is filled up to it.
        chunk_bytes: memory of a device that a chunk needs; 0 if not measured.
        free_bytes: what a device has; None if it was not asked for.
    """

    sizes: tuple[int, ...]
    chunk: int
    chunk_bytes: int = 0
    free_bytes: int | None = None


def plan_chunks(
    members: int,
    bytes_of: Callable[[int], int] | None = None,
    free_bytes: int | None = None,
    *,
    chunk: int | None = None,
    shards: int = 1,
) -> Plan:
    """Choose the size of a chunk, from the memory that populations need unless it is given.

    If all members fit together, a single program was measured, the one that will train them.
    Else two small populations tell what any needs: a constant and a multiple of its members.
    A fifth of the memory is left for what else lives there.

    Args:
        members: members to train.
        bytes_of: memory of a device, in bytes, for a population of a size.
        free_bytes: memory of a device that is free.
        chunk: members of a chunk at most; overrules the memory.
        shards: devices that share a chunk.

    Returns:
        The plan.

    Raises:
        ValueError: if there are no members or the chunk is under 1.
    """
    if members < 1 or (chunk is not None and chunk < 1):
        raise ValueError(f"{members} members in chunks of {chunk}: at least 1 is needed")
    fixed = per_member = 0
    if chunk is None and bytes_of is not None and free_bytes is not None:
        fixed, usable = bytes_of(-(-members // shards) * shards), int(0.8 * free_bytes)
        if fixed > usable:
            # A loop over one member is no loop, and needs less: two and three are typical.
            two = bytes_of(2 * shards)
            per_member = max(1, bytes_of(3 * shards) - two)
            fixed = max(0, two - 2 * per_member)
            # Whatever these two tell, all of them did not fit.
            each = min((usable - fixed) // per_member, -(-members // shards) - 1)
            chunk = max(1, each) * shards
    number = -(-members // min(members, chunk or members))
    least, more = divmod(members, number)
    sizes = (least + 1,) * more + (least,) * (number - more)
    each = -(-sizes[0] // shards)  # on a device
    return Plan(sizes, each * shards, fixed + per_member * each, free_bytes)


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


def part_of(data: Data, split: Int[ArrayLike, ""]) -> Array:
    """The examples that a member of a split sees."""
    if isinstance(data, Subsets):
        return jnp.asarray(data.examples)[jnp.asarray(data.rows)[split]]
    return jnp.asarray(data)


def _zeros(shapes: PyTree) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _chosen(condition: Array, yes: Callable[[Any], Any], no: Callable[[Any], Any], x: Any) -> Any:
    """`lax.cond` for `vmap`, which would copy all that a branch reads for each member."""
    return jax.tree.map(functools.partial(jnp.where, condition), yes(x), no(x))


def _all_at_once(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` over the first argument; the others are shared."""

    def mapped(members: PyTree, *shared: Any) -> Any:
        return jax.vmap(lambda member: fun(member, *shared))(members)

    return mapped


def _all_at_once_by_seed(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` of `(member, source) -> results` that draws once for a run of members of one seed.

    `source` is what the members of a run draw their noise from, the root key and the step.
    Where it has no axis over which `vmap` maps, neither has the noise.
    """

    def mapped(members_and_runs: tuple[PyTree, Array], *shared: Any) -> Any:
        members, runs = members_and_runs

        def of_run(members: tuple[Population, PyTree]) -> Any:
            train = members[0].train
            # A member that failed stays behind; the others are at one step.
            source = train.root_key[0], jnp.max(train.step)
            return jax.vmap(lambda member: fun(member, source, *shared))(members)

        cut = jax.tree.map(lambda leaf: leaf.reshape(len(runs), -1, *leaf.shape[1:]), members)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(of_run)(cut))

    return mapped


def _one_by_one(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`lax.map` over the first argument; the others are shared."""

    def mapped(members: PyTree, *shared: Any) -> Any:
        return jax.lax.map(lambda member: fun(member, *shared), members)

    return mapped


def _one_by_one_in_place(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`lax.map` of `(member, source) -> (member, seen)` that overwrites the population.

    Each draws its noise from its own root key and step. `lax.map` holds what it reads and what
    it writes, two copies of every model and its optimiser; here there is one, and the bits are
    the same.
    """

    def mapped(members_and_runs: tuple[PyTree, Array], *shared: Any) -> tuple[PyTree, PyTree]:
        def train(population: PyTree, place_and_rest: tuple[Array, PyTree]) -> tuple[PyTree, Any]:
            place, rest = place_and_rest
            member = jax.tree.map(lambda leaf: leaf[place], population)
            source = member.train.root_key, member.train.step
            member, seen = fun((member, rest), source, *shared)
            put = jax.tree.map(lambda leaf, new: leaf.at[place].set(new), population, member)
            return put, seen

        (population, rest), _ = members_and_runs
        places = jnp.arange(len(jax.tree.leaves(population)[0]))
        return jax.lax.scan(train, population, (places, rest))

    return mapped
