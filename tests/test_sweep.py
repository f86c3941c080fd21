"""A population against its members trained alone, and what happens when one fails."""

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_train import assert_same_bits, compilations, image_vae, leaves

from experiments._chunks import chunks_of
from experiments._grid import Member
from experiments._program import bytes_used
from vae_jax.evaluation import estimate_elbo
from vae_jax.networks import NETWORKS
from vae_jax.objectives import Objective, beta
from vae_jax.preprocess import intensities
from vae_jax.sweep import (
    CAUSES,
    Members,
    Population,
    Report,
    Subsets,
    Sweep,
    make_members,
    make_sweep,
    plan_chunks,
    refit,
    side_by_side,
)
from vae_jax.train import Trainer, make_trainer
from vae_jax.types import Hyper

EXECUTIONS = ("map", "vmap")
BATCH, STEPS = 32, 6  # of the 200 images; 8 of them fill no minibatch


@pytest.fixture(scope="module")
def images(digits) -> jax.Array:
    return jnp.asarray(digits[:200])


@pytest.fixture(scope="module")
def test_images(digits) -> jax.Array:
    return jnp.asarray(digits[200:250])


# Cached, because what is made again is compiled again; and for the same reason nearly all
# populations here have six members.
@functools.cache
def trainer_of(network: str) -> Trainer:
    return make_trainer(image_vae(network), beta(), batch_size=BATCH)


@functools.cache
def evaluation(network: str = "mlp") -> Callable[..., Any]:
    vae = image_vae(network)
    return jax.jit(
        lambda params, *test: estimate_elbo(jax.random.key(99), vae, intensities, params, *test)
    )


@functools.cache
def sweep_of(execution: Any, network: str = "mlp") -> Sweep:
    return make_sweep(trainer_of(network), evaluation(network), execution=execution)


class One(NamedTuple):
    """A member as it stands in a grid."""

    seed: int
    beta: float
    rate: float

    @property
    def hyper(self) -> Hyper:
        return Hyper(*map(jnp.float32, Hyper(beta=self.beta, learning_rate=self.rate)))


SETTINGS = ((0.5, 1e-3), (4.0, 1e-3), (4.0, 1e-2))
GRID = [One(seed, *setting) for setting in SETTINGS for seed in (7, 3)]


def members_of(grid: Sequence[One], size: int = 0, num_seeds: int = 0) -> Members:
    hypers, seeds = [one.hyper for one in grid], [one.seed for one in grid]
    return make_members(hypers, seeds, size=size, num_seeds=num_seeds)


def train(
    sweep: Sweep,
    members: Members,
    images: jax.Array,
    test: jax.Array,
    *,
    epochs: int,
    population: Population | None = None,
) -> tuple[Population, Report]:
    """A new population, or copies of one, after some epochs."""
    state = sweep.init(members) if population is None else copy(population)
    report = None
    for _ in range(epochs):
        state, report = sweep.epoch(state, members, images, test)
    assert report is not None
    return state, report


def alone(one: One, images: jax.Array, epochs: int, network: str = "mlp") -> Any:
    """A member as `Trainer.epoch` trains it: `(state, metrics)`."""
    solo = trainer_of(network)
    state, metrics = solo.init(jax.random.key(one.seed), one.hyper), None
    for _ in range(epochs):
        state, metrics = solo.epoch(state, one.hyper, images)
    return state, metrics


def at(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def copy(tree: Any) -> Any:
    """Of what is about to be donated."""
    return jax.tree.map(jnp.copy, tree)


# A population is its members.


@pytest.mark.parametrize("network", NETWORKS)
def test_map_is_every_member_trained_alone_bit_for_bit(network, images, test_images):
    """Weights, optimiser, step and key, and the numbers reported, after several epochs."""
    sweep, members = sweep_of("map", network), members_of(GRID)
    population, report = train(sweep, members, images, test_images, epochs=3)
    for i, one in enumerate(GRID):
        state, metrics = alone(one, images, 3, network)
        assert_same_bits(at(population.train, i), state)
        assert_same_bits(at(report.metrics, i), metrics)
        assert_same_bits(at(report.test, i), evaluation(network)(state.params, test_images))
        assert_same_bits(sweep.pick(population, i), state.params)
    assert all(np.isnan(leaf).all() for leaf in leaves(sweep.pick(population, len(GRID))))
    assert population.train.step.tolist() == [3 * STEPS] * len(GRID)
    assert report.status.cause.tolist() == [0] * len(GRID)
    # None of it is equal in a trivial way: all members end in different places.
    assert len(np.unique(report.test.log_lik)) == len(GRID)


@pytest.mark.parametrize("chunk", [1, 2])
def test_the_chunks_make_no_difference_to_map(chunk, images, test_images):
    """Cut as a plan cuts them, and filled up where one is smaller than the program."""
    sweep, grid = sweep_of("map"), GRID[:5]
    filled = members_of(grid, size=6)
    whole = train(sweep, filled, images, test_images, epochs=2)
    plan = plan_chunks(len(grid), chunk=chunk)
    assert plan.sizes == {1: (1, 1, 1, 1, 1), 2: (2, 2, 1)}[chunk]
    start = 0
    for size in plan.sizes:
        members = members_of(grid[start : start + size], size=plan.chunk, num_seeds=2)
        population_and_report = train(sweep, members, images, test_images, epochs=2)
        for i in range(size):
            assert_same_bits(at(population_and_report, i), at(whole, start + i))
        start += size


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_what_fills_up_a_population_is_never_trained(execution, images, test_images):
    sweep = sweep_of(execution)
    members = members_of(GRID[:4], size=6)
    fresh = copy(sweep.init(members))
    population, report = train(sweep, members, images, test_images, epochs=2)
    for i in (4, 5):
        assert_same_bits(at(population, i), at(fresh, i))
    assert population.train.step.tolist() == [2 * STEPS] * 4 + [0] * 2
    assert population.train.alive.tolist() == [True] * 4 + [False] * 2
    assert report.status.cause.tolist() == [0] * 6
    # The bits of the others are those of a population without gaps.
    whole, _ = train(sweep, members_of(GRID), images, test_images, epochs=2)
    for i in range(4):
        assert_same_bits(at(population, i), at(whole, i))


def test_members_of_one_seed_share_weights_minibatches_and_noise(images, test_images):
    """Common random numbers: with a learning rate of 0, beta changes the loss and no more."""
    grid = [One(seed, b, 0.0) for seed in (7, 3) for b in (0.5, 4.0, 4.0)]
    for execution in EXECUTIONS:
        population = sweep_of(execution).init(members_of(grid))
        for i in (1, 2):
            assert_same_bits(at(population.train, i), at(population.train, 0))
            assert_same_bits(at(population.train, 3 + i), at(population.train, 3))
        _, report = train(sweep_of(execution), members_of(grid), images, test_images, epochs=1)
        elbo, loss = report.metrics["elbo"], report.metrics["loss"]
        # Other minibatches or other noise would change the mean over the epoch: it leaves out
        # 8 of the images, and the two seeds differ by more than rounding does.
        assert elbo[0] == elbo[1] == elbo[2]
        assert elbo[3] == elbo[4] == elbo[5]
        assert abs(elbo[0] - elbo[3]) > 1e-3 * abs(elbo[0])
        assert loss[1] > loss[0]
        assert loss[1] == loss[2]


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_members_that_are_alike_stay_alike(execution, images, test_images):
    """Whatever place they have, after weights have moved."""
    grid = [GRID[2], GRID[3], GRID[2], GRID[4], GRID[2], GRID[3]]
    population, _ = train(sweep_of(execution), members_of(grid), images, test_images, epochs=2)
    for i, j in ((0, 2), (0, 4), (1, 5)):
        assert_same_bits(at(population, i), at(population, j))
    for i, j in ((0, 1), (0, 3)):
        assert all(
            (a != b).any()
            for a, b in zip(
                leaves(at(population.train.params, i)),
                leaves(at(population.train.params, j)),
                strict=True,
            )
        )


# vmap.


def distance(a: Population, b: Population) -> float:
    """The largest difference between the parameters of two populations."""
    pairs = zip(leaves(a.train.params), leaves(b.train.params), strict=True)
    return max(float(np.abs(x - y).max()) for x, y in pairs)


def rounding(
    sweep: Sweep, members: Members, images: jax.Array, test: jax.Array, epochs: int
) -> float:
    """How far the parameters of a population may be from those of one that rounds otherwise.

    Measured: the same training from weights that are rounded once more, every one to the
    next float32 above or below. In each step a gradient is rounded in its own layer, in those
    that it comes back through (at most 3 more) and in the optimiser: 5 times, each of them
    on its own, so that they add up as the root of their number does.
    """
    rng = np.random.default_rng(0)

    def round_once_more(leaf: jax.Array) -> jax.Array:
        towards = np.where(rng.random(leaf.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return jnp.asarray(np.nextafter(np.asarray(leaf), towards))

    fresh = sweep.init(members)
    params = jax.tree.map(round_once_more, fresh.train.params)
    moved = fresh._replace(train=fresh.train._replace(params=params))
    given = (sweep, members, images, test)
    plain, _ = train(*given, epochs=epochs, population=fresh)
    rounded, _ = train(*given, epochs=epochs, population=moved)
    steps = int(plain.train.step.max())
    return float(np.sqrt(5 * steps)) * distance(rounded, plain)


def test_vmap_is_map_to_the_rounding_of_float32(images, test_images):
    """The sums of a step are added up in another order; training carries that on."""
    members = members_of(GRID)
    mapped, mapped_report = train(sweep_of("map"), members, images, test_images, epochs=2)
    vmapped, vmapped_report = train(sweep_of("vmap"), members, images, test_images, epochs=2)
    tolerance = rounding(sweep_of("map"), members, images, test_images, epochs=2)
    assert 0 < distance(vmapped, mapped) < tolerance
    # Other draws would be seen: members that differ in their seed alone are much further apart.
    swapped = jax.tree.map(lambda leaf: leaf[np.array([1, 0, 3, 2, 5, 4])], mapped)
    assert distance(swapped, mapped) > 1000 * tolerance
    # A sum over 784 pixels, and of as many weights with that distance.
    for a, b in zip(leaves(mapped_report.test), leaves(vmapped_report.test), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("execution", "network"), [("map", "mlp"), ("map", "conv"), ("vmap", "mlp")]
)
def test_an_evaluation_is_that_of_the_last_epoch(execution, network, images, test_images):
    """To the bit: the summary of a run holds the numbers of the last row of its table."""
    sweep = sweep_of(execution, network)
    members = members_of(GRID)
    population, report = train(sweep, members, images, test_images, epochs=1)
    assert_same_bits(sweep.evaluate(population, members, test_images), (report.test, report.status))


# A member that fails.


def assert_frozen(
    sweep: Sweep,
    members: Members,
    before: Population,
    images: jax.Array,
    test: jax.Array,
    *,
    failing: Sequence[int],
    cause: str,
    step: int,
    whole: Population | None = None,
) -> Report:
    """Some members fail in the next epoch and never train again; the others do not notice.

    Args:
        sweep: of the members.
        members: of a population.
        before: its state before the epoch.
        images: to train on.
        test: to evaluate on.
        failing: the members that must fail.
        cause: of `CAUSES`.
        step: at which the cause is seen.
        whole: the next epoch but one of the population in which no member fails.

    Returns:
        What is reported of the epoch.
    """
    after, report = train(sweep, members, images, test, epochs=1, population=before)
    later, later_report = train(sweep, members, images, test, epochs=1, population=after)
    others = [i for i in range(len(GRID)) if i not in failing]
    for i in failing:
        dead = at(before.train, i)._replace(alive=jnp.array(False))
        assert_same_bits(at(after.train, i), dead)
        assert_same_bits(at(later, i), at(after, i))
        assert (CAUSES[int(report.status.cause[i])], int(report.status.step[i])) == (cause, step)
        assert_same_bits(at(later_report.status, i), at(report.status, i))
        # No number of it passes for the best.
        assert np.isnan(later_report.test.elbo[i])
        assert np.isnan(later_report.metrics["elbo"][i])
        assert_same_bits(at(after.status, i), at(report.status, i))
    for i in others:
        assert after.train.alive[i]
        assert int(later.train.step[i]) == int(before.train.step[i]) + 2 * STEPS
        assert at(report.status, i) == (0, 0, 0)
        if whole is not None:
            assert_same_bits(at(later, i), at(whole, i))
    return report


@pytest.fixture(scope="module")
def good(images, test_images) -> dict[str, list[Population]]:
    """By execution, a population after none, one, two and three epochs."""
    members, states = members_of(GRID), {}
    for execution in EXECUTIONS:
        states[execution] = [sweep_of(execution).init(members)]
        for _ in range(3):
            after, _ = train(
                sweep_of(execution),
                members,
                images,
                test_images,
                epochs=1,
                population=states[execution][-1],
            )
            states[execution].append(after)
    return states


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_nan_stays_in_its_member(execution, place, good, images, test_images):
    """In the decoder's last bias: the loss is NaN at once, the posterior is not yet."""
    before = copy(good[execution][1])
    last = before.train.params["decoder"]["params"]["Dense_1"]
    last["bias"] = last["bias"].at[place, 0].set(jnp.nan)
    report = assert_frozen(
        sweep_of(execution),
        members_of(GRID),
        before,
        images,
        test_images,
        failing=[place],
        cause="loss",
        step=STEPS + 1,
        whole=good[execution][3],
    )
    # Up to there are the images of the first minibatch.
    one, params = GRID[place], at(before.train.params, place)
    root_key, step = jax.random.key(one.seed), before.train.step[place]
    first = images[trainer_of("mlp").shuffle(root_key, step, len(images))[0]]
    qs = jax.vmap(image_vae().encode, (None, 0))(params, first / 255)
    # The log-variances are sums of 16 products, of numbers of order 1: 16 roundings.
    rounding = 16 * float(np.finfo(np.float32).eps)
    expected = float(qs.log_var.max())
    assert float(report.status.max_log_var[place]) == pytest.approx(expected, rel=0, abs=rounding)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_learning_rate_that_explodes_stops_its_member(execution, good, images, test_images):
    grid = [*GRID[:4], GRID[4]._replace(rate=1e30), GRID[5]]
    # When it fails, alone and step by step.
    one, solo = grid[4], trainer_of("mlp")
    state, losses, log_vars = at(good["map"][1].train, 4), [], []
    batches = solo.shuffle(state.root_key, state.step, len(images))
    for batch in batches:
        state, metrics = solo.step(state, one.hyper, images[batch])
        losses.append(float(metrics["loss"]))
        log_vars.append(float(metrics["max_log_var"]))
    [first, *_] = np.flatnonzero(~np.isfinite(losses))
    assert first > 0
    report = assert_frozen(
        sweep_of(execution),
        members_of(grid),
        good[execution][1],
        images,
        test_images,
        failing=[4],
        cause="loss",
        step=STEPS + 1 + int(first),
        whole=good[execution][3],
    )
    largest = max(value for value in log_vars if np.isfinite(value))
    # The end of the range that the model clips to, or a number of the first step.
    assert float(report.status.max_log_var[4]) == pytest.approx(largest, rel=1e-5)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_an_overflow_in_the_optimiser_stops_its_member(execution, good, images, test_images):
    """Every loss is finite, and so is every parameter; the square of the gradient is not."""
    grid = [GRID[0]._replace(beta=1e25), *GRID[1:]]
    assert_frozen(
        sweep_of(execution),
        members_of(grid),
        good[execution][0],
        images,
        test_images,
        failing=[0],
        cause="gradient",
        step=1,
        whole=good[execution][2],
    )


def trap() -> Objective:
    """The beta objective, but a beta of 100 + k has a gradient that is NaN at step k only."""

    def bound(terms, hyper, step):
        value, aux = beta().bound(terms, hyper._replace(beta=jnp.minimum(hyper.beta, 1)), step)
        kl = jnp.mean(jnp.sum(terms.kl_per_dim, axis=-1))
        # The root of 0 is 0, its slope is infinite, and that times 0 is NaN.
        return value - jnp.sqrt(jnp.where(hyper.beta == 100 + step, 0.0, 1.0) * kl), aux

    return Objective(1, bound, frozenset({"beta"}))


LARGEST_BIAS = 0.05


def trapped_evaluation(params: Any, test: jax.Array) -> Any:
    """NaN once a bias has moved as only a learning rate of 0.1 moves it."""
    estimate = evaluation()(params, test)
    bias = jnp.max(jnp.abs(params["decoder"]["params"]["Dense_1"]["bias"]))
    return estimate._replace(log_lik=jnp.where(bias > LARGEST_BIAS, jnp.nan, estimate.log_lik))


@functools.cache
def trapped(execution: Any) -> Sweep:
    train = make_trainer(image_vae(), trap(), batch_size=BATCH)
    return make_sweep(train, trapped_evaluation, execution=execution)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_gradient_or_a_test_elbo_that_is_not_finite_stops_its_member(
    execution, images, test_images
):
    sweep = trapped(execution)
    # Adam moves no weight by more than about its learning rate in a step: 12 steps of 1e-3
    # do not reach the largest bias, and the first of 0.1 does.
    grid = [One(seed, b, 1e-3) for b in (0.5, 1.0, 0.1) for seed in (7, 3)]
    before, _ = train(sweep, members_of(grid), images, test_images, epochs=1)
    whole, _ = train(sweep, members_of(grid), images, test_images, epochs=3)
    given = (sweep, before, images, test_images)

    def fails(place: int, one: One, cause: str, step: int) -> Report:
        members = members_of([*grid[:place], one, *grid[place + 1 :]])
        sweep, before, *data = given
        return assert_frozen(
            sweep, members, before, *data, failing=[place], cause=cause, step=step, whole=whole
        )

    # In mid-epoch, the loss follows a step later.
    report = fails(1, One(3, 100.0 + STEPS + 2, 1e-3), "gradient", STEPS + 3)
    assert report.metrics["bad_gradient"].tolist() == [STEPS, 2] + [STEPS] * 4
    assert report.metrics["bad_loss"].tolist() == [STEPS, 3] + [STEPS] * 4
    # At the last step no loss follows.
    report = fails(4, One(7, 100.0 + 2 * STEPS - 1, 1e-3), "gradient", 2 * STEPS)
    assert report.metrics["bad_gradient"].tolist() == [STEPS] * 4 + [STEPS - 1, STEPS]
    assert report.metrics["bad_loss"].tolist() == [STEPS] * 6
    # All that was trained is finite, and of no use.
    report = fails(2, One(7, 1.0, 0.1), "test ELBO", 2 * STEPS)
    assert np.isfinite(report.metrics["loss"]).all()
    assert np.isfinite(report.test.log_lik).tolist() == [i != 2 for i in range(6)]


# The members of a run draw together.


BY_SEED = [One(seed, *setting) for seed in (7, 3) for setting in SETTINGS]


def test_a_run_of_one_seed_draws_its_noise_once(images, test_images):
    """It is trained as members that draw for themselves are, also beside one that fails."""
    diverges = One(7, 1.0, 1e30)
    grid = [*BY_SEED[:2], diverges, *BY_SEED[3:]]
    each = members_of(grid)
    runs = make_members([one.hyper for one in grid], [one.seed for one in grid], together=3)
    given = (sweep_of("vmap"), each, images, test_images)
    plain, plain_report = train(*given, epochs=2)
    shared, report = train(sweep_of("vmap"), runs, images, test_images, epochs=2)
    assert report.status.cause.tolist() == plain_report.status.cause.tolist()
    assert [cause > 0 for cause in report.status.cause.tolist()] == [i == 2 for i in range(6)]
    # The one that failed stays where it was, its step with it, and the others go on.
    assert_same_bits(at(shared.train.params, 2), at(sweep_of("vmap").init(runs).train.params, 2))
    assert shared.train.step.tolist() == [0 if i == 2 else 2 * STEPS for i in range(6)]
    assert_same_bits(shared.train.root_key, plain.train.root_key)
    # Common noise, not just other noise: it differs by rounding.
    good = members_of(BY_SEED)
    assert distance(plain, shared) <= rounding(sweep_of("map"), good, images, test_images, 2)


def test_only_the_runs_differ_in_what_is_drawn(images, test_images):
    """The program has random bits of every run, not of every member."""

    def arrays_of_bits(together: int) -> set[str]:
        grid = [(one.hyper, one.seed) for one in BY_SEED]
        members = make_members(*zip(*grid, strict=True), together=together)
        population = sweep_of("vmap").init(members)
        program = sweep_of("vmap").epoch.lower(population, members, images, test_images)
        return set(re.findall(r"tensor<((?:\d+x)+)ui32>", program.as_text()))

    of_each = {shape for shape in arrays_of_bits(1) if shape.startswith(f"6x{BATCH}x")}
    of_runs = arrays_of_bits(3)
    assert of_each
    assert not of_each & of_runs
    assert {shape.replace("6x", "2x", 1) for shape in of_each} <= of_runs


@pytest.mark.parametrize(
    ("seeds", "together"), [([7, 7, 3, 3], 2), ([7, 3], 1), ([7, 7, 7, 7, 3, 3], 2), ([5] * 3, 3)]
)
def test_members_of_one_seed_side_by_side_are_runs(seeds, together):
    assert side_by_side(seeds) == together
    hypers = [Hyper()] * len(seeds)
    members = make_members(hypers, seeds, together=together)
    table, runs = np.asarray(members.seeds), np.asarray(members.seed)
    assert np.repeat(table[runs], together).tolist() == seeds
    for others in (0, together + 1):
        with pytest.raises(ValueError, match=f"together {others}: a divisor of {together} is"):
            make_members(hypers, seeds, together=others)
    # What fills up belongs to the last run, and may leave no room for it.
    filled = make_members(hypers, seeds, together=together, size=len(seeds) + together)
    assert len(np.asarray(filled.seed)) == len(runs) + 1
    if together > 1:
        with pytest.raises(ValueError, match=f"together {together}: a divisor"):
            make_members(hypers, seeds, together=together, size=len(seeds) + 1)


@pytest.mark.parametrize(
    ("seeds", "chunk", "together"),
    [
        ([7] * 6 + [3] * 6, None, 6),
        ([7] * 6 + [3] * 6, 4, 2),  # of which one has two of each seed
        ([7] * 5 + [3] * 5, 4, 1),  # chunks of 4 that end in 3
        ([7, 3] * 6, None, 1),
    ],
)
def test_chunks_of_a_sweep_have_the_longest_runs_that_fit(seeds, chunk, together):
    members = [Member(f"seed{seed}", seed, Hyper(), {}) for seed in seeds]
    chunks = chunks_of(plan_chunks(len(members), chunk=chunk), members, Path())
    assert [one.together for one in chunks] == [together] * len(chunks)
    drawn = []
    for one in chunks:
        lined_up = one.population()
        each = np.repeat(np.asarray(lined_up.seeds)[np.asarray(lined_up.seed)], together)
        drawn += each[: len(one.members)].tolist()
    assert drawn == seeds


# Splits.


def test_splits_of_unequal_length_are_one_program_and_count_each_row_once(images, test_images):
    """What fills a split up is not in its mean; training has none, as a sweep says."""
    sweep, hypers = sweep_of("map"), [one.hyper for one in GRID]
    splits = np.array([0, 1, 0, 1, 0, 1])
    members = make_members(hypers, np.array([one.seed for one in GRID]), splits=splits)
    population, before = sweep.init(members), compilations(sweep.evaluate)
    rows, counts = np.arange(2)[:, None] + np.arange(20), np.array([20, 3])
    places, evaluated = np.arange(20) < counts[:, None], []
    for filler in (0, 49):
        test = Subsets(test_images, np.where(places, rows, filler), counts)
        estimates, _ = sweep.evaluate(population, members, test)
        evaluated.append(estimates)
    assert_same_bits(*evaluated)
    for i, split in enumerate(np.asarray(members.split)):
        own = test_images[rows[split][: counts[split]]]
        expected = evaluation()(sweep.pick(population, i), own)
        for found, mean in zip(at(evaluated[0], i), expected, strict=True):
            # Of float32 sums of up to 20 images in another order.
            np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    sweep.evaluate(population, members, test._replace(counts=np.array([19, 20])))
    assert compilations(sweep.evaluate) == before + 1
    with pytest.raises(ValueError, match="training splits of unequal length"):
        sweep.epoch(population, members, test, test_images)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_members_of_another_population_are_refused(execution, images, test_images):
    sweep = sweep_of(execution)
    population = sweep.init(members_of(GRID))
    with pytest.raises(ValueError, match=f"a population of {len(GRID)} with 2 members"):
        sweep.epoch(population, members_of(GRID[:2]), images, test_images)


# One program.


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_another_epoch_and_other_numbers_recompile_nothing(execution, images, test_images):
    sweep = sweep_of(execution)
    jitted = (sweep.init, sweep.epoch, sweep.evaluate, sweep.pick)

    def use(grid: Sequence[One]) -> list[int]:
        members = members_of(grid, size=6, num_seeds=2)
        population, _ = train(sweep, members, images, test_images, epochs=2)
        sweep.evaluate(population, members, test_images)
        sweep.pick(population, len(grid) - 1)
        return [compilations(function) for function in jitted]

    before = use(GRID)
    assert min(before) > 0
    assert use([One(5, 2.5, 3e-4)]) == before
    assert use([One(seed, 1.0, 1e30) for seed in (11, 12, 12)]) == before


def test_map_trains_its_members_in_place(images, test_images):
    """Another member costs its weights and the two moments of Adam, once."""
    sweep, used = sweep_of("map"), {}
    for size in (2, 4):
        members = members_of(GRID[:size])
        lowered = sweep.epoch.lower(sweep.init(members), members, images, test_images)
        used[size] = bytes_used(lowered.compile())
    shapes = jax.tree.leaves(jax.eval_shape(image_vae().init, jax.random.key(0)))
    weights = sum(leaf.size for leaf in shapes)
    # What is small: each array begins at a multiple of 64 bytes, and there are three for every
    # one of the model and under 40 others.
    small = 64 * (3 * len(shapes) + 40)
    assert small < 0.1 * 12 * weights
    assert 12 * weights <= (used[4] - used[2]) / 2 <= 12 * weights + small


def test_vmap_holds_the_data_once(digits, test_images):
    """A branch under vmap is a choice between two results, and what it reads was copied."""
    sweep, used = sweep_of("vmap"), []
    members = members_of(GRID)
    for length in (200, 1200):
        data = jax.ShapeDtypeStruct((length, *digits.shape[1:]), digits.dtype)
        lowered = sweep.epoch.lower(sweep.init(members), members, data, test_images)
        used.append(bytes_used(lowered.compile()))
    # Once for all six members, and the shuffling of two seeds: some numbers for each image.
    assert used[1] - used[0] < 1.5 * 1000 * digits[0].nbytes


def test_the_population_is_donated(images, test_images):
    for execution in EXECUTIONS:
        population = copy(sweep_of(execution).init(members_of(GRID)))
        sweep_of(execution).epoch(population, members_of(GRID), images, test_images)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(population.train.params))


# Members and chunks.


def test_members_are_lined_up_and_filled_up():
    hypers = [Hyper(beta=b) for b in (1.0, 2.0, 3.0)]
    members = make_members(hypers, [9, 4, 9], size=5, num_seeds=4)
    assert np.asarray(members.hyper.beta).tolist() == [1, 2, 3, 3, 3]
    assert {np.asarray(values).dtype for values in members.hyper} == {np.dtype(np.float32)}
    assert np.asarray(members.seed).tolist() == [0, 1, 0, 0, 0]
    assert np.asarray(members.seeds).tolist() == [9, 4, 4, 4]
    assert np.asarray(members.real).tolist() == [True, True, True, False, False]


@given(
    seeds=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=12),
    size=st.integers(0, 20),
    num_seeds=st.integers(0, 20),
)
def test_every_member_has_its_seed_whatever_fills_up(seeds, size, num_seeds):
    hypers = [Hyper(beta=float(i)) for i in range(len(seeds))]
    members = make_members(hypers, seeds, size=size, num_seeds=num_seeds)
    table = np.asarray(members.seeds)
    assert len(table) == max(len(set(seeds)), num_seeds)
    assert table[np.asarray(members.seed)][: len(seeds)].tolist() == seeds
    count = max(len(seeds), size)
    assert np.asarray(members.real).tolist() == [i < len(seeds) for i in range(count)]
    assert np.asarray(members.hyper.beta)[: len(seeds)].tolist() == list(range(len(seeds)))
    assert {len(np.asarray(values)) for values in (*members.hyper, members.seed)} == {count}


@pytest.mark.parametrize(
    ("betas", "seeds", "says"),
    [
        ((), (), "0 members with 0 seeds"),
        ((1.0, 2.0), (0,), "2 members with 1 seeds"),
        ((1.0,), (2**31,), "seed 2147483648: at least -2147483648 and under 2147483648"),
    ],
)
def test_members_without_a_seed_each_are_refused(betas, seeds, says):
    with pytest.raises(ValueError, match=says):
        make_members([Hyper(beta=b) for b in betas], seeds)


MEMORY = st.tuples(st.integers(0, 10**6), st.integers(1, 10**5), st.integers(0, 10**7))


@given(
    members=st.integers(1, 300),
    shards=st.integers(1, 9),
    memory=st.none() | MEMORY,
    chunk=st.none() | st.integers(1, 400),
)
def test_a_plan_holds_every_member_and_fits_the_memory(members, shards, memory, chunk):
    if memory is None:
        plan = plan_chunks(members, chunk=chunk, shards=shards)
    else:
        fixed, each, free = memory

        def bytes_of(size: int) -> int:
            assert size % shards == 0
            return fixed + each * (size // shards)

        plan = plan_chunks(members, bytes_of, free, chunk=chunk, shards=shards)
    assert sum(plan.sizes) == members
    assert list(plan.sizes) == sorted(plan.sizes, reverse=True)
    assert plan.sizes[0] - plan.sizes[-1] <= 1
    # A program has room for every chunk, and no more than the devices make it have.
    assert plan.chunk % shards == 0
    assert 0 <= plan.chunk - plan.sizes[0] < shards
    if chunk is not None:
        assert plan.sizes[0] <= chunk
        # No chunk more than there must be.
        assert len(plan.sizes) == -(-members // min(chunk, members))
    elif memory is None:
        assert plan.sizes == (members,)
    else:
        fixed, each, free = memory
        on_a_device = plan.chunk // shards
        assert (plan.chunk_bytes, plan.free_bytes) == (fixed + each * on_a_device, free)
        assert on_a_device == 1 or fixed + each * on_a_device <= 0.8 * free
        if len(plan.sizes) > 1:
            # One chunk fewer would not have fitted.
            larger = math.ceil(math.ceil(members / (len(plan.sizes) - 1)) / shards)
            assert fixed + each * larger > 0.8 * free


@pytest.mark.parametrize(("members", "sizes"), [(75, (75,)), (76, (38, 38)), (151, (51, 50, 50))])
def test_a_fifth_of_the_memory_is_left(members, sizes):
    """Of 1000 bytes 800: 50 besides and 75 members of 10 each."""
    measured = []

    def bytes_of(size: int) -> int:
        measured.append(size)
        return 50 + 10 * size

    assert plan_chunks(members, bytes_of, 1000).sizes == sizes
    # What fits is compiled as it is trained, and nothing else is.
    assert measured == ([75] if members == 75 else [members, 2, 3])


def test_what_did_not_fit_is_not_trained_whole_whatever_two_and_three_tell():
    """Ten take more than their line says: 900 of 800 bytes, where it says 120."""
    plan = plan_chunks(10, {10: 900, 2: 40, 3: 50}.__getitem__, 1000)
    assert plan.sizes == (5, 5)
    assert plan_chunks(1, {1: 900, 2: 40, 3: 50}.__getitem__, 1000).sizes == (1,)


@pytest.mark.parametrize(("members", "chunk"), [(0, None), (3, 0)])
def test_a_plan_of_nothing_is_refused(members, chunk):
    with pytest.raises(ValueError, match=f"{members} members in chunks of {chunk}"):
        plan_chunks(members, chunk=chunk)


@pytest.mark.parametrize("size", [3, 4, 6])
def test_refit_keeps_the_members_and_fills_up_anew(size):
    sweep = sweep_of("map")
    loaded = sweep.init(members_of(GRID[:3], size=6))
    loaded = loaded._replace(train=loaded.train._replace(step=jnp.arange(6) + 10))
    fresh = at(sweep.init(members_of([One(1, 1.0, 1e-3)] * 6)), np.arange(size))
    fitted = refit(loaded, fresh, 3)
    for i in range(size):
        assert_same_bits(at(fitted, i), at(loaded if i < 3 else fresh, i))
    assert len(fitted.train.step) == size
