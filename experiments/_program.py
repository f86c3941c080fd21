"""What is trained as one program: the loop, a chunk of members, and their compiled epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments._grid import Member
from vae_jax import sharding
from vae_jax.sweep import Data, Members, Sweep, make_members, num_examples, place_members
from vae_jax.types import Params


class Program(NamedTuple):
    """The compiled epoch of a chunk.

    Attributes:
        epoch: of the sweep.
        seconds: that compiling took.
    """

    epoch: Any
    seconds: float


class Loop(NamedTuple):
    """What the loop needs besides the members.

    Attributes:
        sweep: the functions that train a population.
        mesh: the devices that members are spread over, or None for one.
        data: the stored training examples, of which each member may have a part.
        test: the stored test examples, likewise.
        picture: pictures to keep of some epochs, means in [0, 1].
        epochs: how many.
        passes: epochs in a call of the program, each with one evaluation and one row.
        batch_size: examples in a minibatch.
        checkpoint_every: epochs between checkpoints.
        chunk: members in the program at once; None is what the memory takes.
        programs: what was compiled, by the size of a chunk, its seeds and members to a run.
    """

    sweep: Sweep
    mesh: sharding.Mesh | None
    data: Data
    test: Data
    picture: Callable[[Params], Any] | None
    epochs: int
    passes: int
    batch_size: int
    checkpoint_every: int
    chunk: int | None
    programs: dict[tuple[int, int, int], Program]

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch."""
        return num_examples(self.data) // self.batch_size


class Chunk(NamedTuple):
    """Some members that are trained as one program.

    Attributes:
        members: which.
        size: members of the program; what is missing is filled up.
        num_seeds: seeds that the program has room for.
        folder: of their checkpoints and pictures.
        together: members of one seed that stand side by side throughout.
    """

    members: list[Member]
    size: int
    num_seeds: int
    folder: Path
    together: int = 1

    def population(self) -> Members:
        """The members as the program takes them, on the host."""
        return make_members(
            [member.hyper for member in self.members],
            [member.seed for member in self.members],
            splits=[member.split for member in self.members],
            size=self.size,
            num_seeds=self.num_seeds,
            together=self.together,
        )

    def __str__(self) -> str:
        """The member's name, or how many there are."""
        return self.members[0].name if len(self.members) == 1 else f"{len(self.members)} models"


def compiled(loop: Loop, chunk: Chunk) -> Program:
    """The epoch of a chunk, compiled ahead and once, to be timed and measured apart."""
    key = chunk.size, chunk.num_seeds, chunk.together
    if key in loop.programs:
        return loop.programs[key]
    began = time.perf_counter()
    members = place_members(chunk.population(), loop.mesh)
    population = sharding.shapes_of(jax.eval_shape(loop.sweep.init, members), loop.mesh, split=True)
    data, test = (
        sharding.shapes_of(array, loop.mesh, split=False) for array in (loop.data, loop.test)
    )
    epoch = loop.sweep.epoch.lower(population, members, data, test).compile()
    loop.programs[key] = Program(epoch, time.perf_counter() - began)
    return loop.programs[key]


def bytes_of_state(loop: Loop, chunk: Chunk) -> int:
    """Bytes of a member's parameters, optimiser and status."""
    members = place_members(chunk.population(), loop.mesh)
    leaves = jax.tree.leaves(jax.eval_shape(loop.sweep.init, members))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // chunk.size


def bytes_used(program: Any) -> int:
    """Bytes of a device's memory that a compiled program runs in."""
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
