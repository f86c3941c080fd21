"""How one function is run for every member of a population: at once, or one by one."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def chosen(condition: Array, yes: Callable[[Any], Any], no: Callable[[Any], Any], x: Any) -> Any:
    """`lax.cond` for `vmap`, which would copy all that a branch reads for each member."""
    return jax.tree.map(functools.partial(jnp.where, condition), yes(x), no(x))


def all_at_once(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` over the first argument; the others are shared."""

    def mapped(members: PyTree, *shared: Any) -> Any:
        return jax.vmap(lambda member: fun(member, *shared))(members)

    return mapped


def all_at_once_by_seed(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`vmap` of `(member, source) -> results` that draws once for a run of members of one seed.

    `source` is what the members of a run draw their noise from, the root key and the step.
    Where it has no axis over which `vmap` maps, neither has the noise.
    """

    def mapped(members_and_runs: tuple[PyTree, Array], *shared: Any) -> Any:
        members, runs = members_and_runs

        def of_run(members: tuple[Any, PyTree]) -> Any:
            train = members[0].train
            # A member that failed stays behind; the others are at one step.
            source = train.root_key[0], jnp.max(train.step)
            return jax.vmap(lambda member: fun(member, source, *shared))(members)

        cut = jax.tree.map(lambda leaf: leaf.reshape(len(runs), -1, *leaf.shape[1:]), members)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.vmap(of_run)(cut))

    return mapped


def one_by_one(fun: Callable[..., Any]) -> Callable[..., Any]:
    """`lax.map` over the first argument; the others are shared."""

    def mapped(members: PyTree, *shared: Any) -> Any:
        return jax.lax.map(lambda member: fun(member, *shared), members)

    return mapped


def one_by_one_in_place(fun: Callable[..., Any]) -> Callable[..., Any]:
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
