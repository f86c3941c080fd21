"""The members of a population: their numbers, their seeds and what they see of the data."""

import itertools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Int, Num

from vae_jax.sharding import Mesh, num_shards, place
from vae_jax.types import Hyper


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
        counts: how many of them are the split's own, from the first, where splits to evaluate
            on are of several lengths; those behind give them one shape and count nowhere.
            None: all are its own, which training needs.
    """

    examples: Num[ArrayLike, "n *x"]
    rows: Int[ArrayLike, "split part"]
    counts: Int[ArrayLike, " split"] | None = None


Data = Num[ArrayLike, "_ ..."] | Subsets


def num_examples(data: Data) -> int:
    """How many examples a member trains on.

    Raises:
        ValueError: if there are not as many in each split.
    """
    if isinstance(data, Subsets) and data.counts is not None:
        raise ValueError("training splits of unequal length: as many examples in each are needed")
    return np.shape(data.rows)[1] if isinstance(data, Subsets) else np.shape(data)[0]


def part_of(data: Data, split: Int[ArrayLike, ""]) -> Array:
    """The examples that a member of a split sees."""
    if isinstance(data, Subsets):
        return jnp.asarray(data.examples)[jnp.asarray(data.rows)[split]]
    return jnp.asarray(data)


def evaluated_part(data: Data, split: Int[ArrayLike, ""]) -> tuple[Array, ...]:
    """The examples that a member of a split is evaluated on, as `Evaluate` takes them.

    Args:
        data: the test examples.
        split: of the member.

    Returns:
        The examples; and behind them, where splits are of several lengths, how many are its own.
    """
    part = part_of(data, split)
    if isinstance(data, Subsets) and data.counts is not None:
        return part, jnp.asarray(data.counts)[split]
    return (part,)


def make_members(
    hypers: Sequence[Hyper],
    seeds: Sequence[int] | Int[np.ndarray, " member"],
    *,
    splits: Sequence[int] | Int[np.ndarray, " member"] = (),
    size: int = 0,
    num_seeds: int = 0,
    together: int = 1,
) -> Members:
    """Line up the members of a population.

    Args:
        hypers: the numbers of each.
        seeds: the seed of each; equal seeds share weights, shuffling and noise.
        splits: which part of `Subsets` each has, from 0; none is needed where all see all the data.
        size: members to fill up to, with ones that are never trained.
        num_seeds: seeds to fill up to, so that programs of different members are one.
        together: members to a run, which share their noise; a divisor of `side_by_side`.

    Returns:
        The members, as NumPy arrays.

    Raises:
        ValueError: if there are none, or not one seed, or one split, for each; if a seed is
            no int32; or if `together` is under 1, or members of a run would differ in their
            seeds.
    """
    if not hypers or len(hypers) != len(seeds):
        raise ValueError(f"{len(hypers)} members with {len(seeds)} seeds: one each is needed")
    if len(splits) not in (0, len(hypers)):
        raise ValueError(f"{len(hypers)} members with {len(splits)} splits: one each is needed")
    seeds = [operator.index(seed) for seed in seeds]
    if wrong := [seed for seed in seeds if not -(2**31) <= seed < 2**31]:
        raise ValueError(f"seed {wrong[0]}: at least {-(2**31)} and under {2**31} is needed")
    unique = list(dict.fromkeys(seeds))
    missing = max(0, size - len(hypers))
    filled = [*hypers, *[hypers[-1]] * missing]
    indices = [unique.index(seed) for seed in [*seeds, *[seeds[-1]] * missing]]
    if together < 1 or side_by_side(indices) % together:
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
        split=np.array([*(splits if len(splits) else [0] * len(hypers)), *[0] * missing], np.int32),
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


def seed_of_each(members: Members) -> Array:
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
