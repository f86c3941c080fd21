"""How a sweep is cut into chunks, each a program that the memory of the devices takes."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments._grid import Member
from experiments._program import Chunk, Loop, bytes_of_state, bytes_used, compiled
from vae_jax import sharding
from vae_jax.sweep import Data, Execution, Plan, Subsets, plan_chunks, side_by_side

# Models that a device needs to be worth its while: one after the other they leave a core idle
# that another device can use, all at once they need some to fill a core.
FEWEST_MODELS = {"map": 1, "vmap": 8}
MOST_COPIED = 256e6  # bytes of the examples, on all devices together


def useful_devices(
    models: int, data: Sequence[Data], execution: Execution, chunk: int | None = None
) -> int:
    """Devices that a processor with cores enough is best counted as to train some models.

    Devices share the threads of the processor, so that a product is cut up as before, and models
    that are trained one after the other keep their bits.

    Args:
        models: to be trained together.
        data: what they are trained and evaluated on. Examples that may be written to are copied
            to each device.
        execution: of `make_sweep`, on a CPU.
        chunk: models that are to be in memory at most, if that was said.

    Returns:
        The devices, 1 or more.
    """
    models = min(models, chunk or models)
    parts = [np.asarray(one.examples if isinstance(one, Subsets) else one) for one in data]
    copied = sum(part.nbytes for part in parts if part.flags.writeable)
    most = int(MOST_COPIED // copied) if copied else models
    return max(1, min(models // FEWEST_MODELS[execution], most))


def plan_of(loop: Loop, members: Sequence[Member]) -> Plan:
    """Cut a sweep into chunks that fit the memory of the devices."""
    shards = sharding.num_shards(loop.mesh)

    def bytes_of(size: int) -> int:
        if size < len(members):  # each draws for itself, which needs no less than a run of them
            chunk = Chunk(list(members[:size]), size, len(members), Path())
        else:  # the one that trains them all, if it fits
            [chunk] = chunks_of(Plan((len(members),), size), members, Path())
        # A checkpoint in the making is a copy on the host, which is where a CPU's arrays are.
        on_host = jax.default_backend() == "cpu"
        copy = bytes_of_state(loop, chunk) * size // shards if on_host else 0
        try:
            return bytes_used(compiled(loop, chunk).epoch) + copy
        except jax.errors.JaxRuntimeError as error:
            if size < len(members) or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return sys.maxsize  # all of them together do not even compile

    if loop.chunk is None and len(members) > 1:
        free = sharding.free_bytes(loop.mesh)
        return plan_chunks(len(members), bytes_of, free, shards=shards)
    return plan_chunks(len(members), None, None, chunk=loop.chunk, shards=shards)


def described_plan(plan: Plan, execution: str, devices: int) -> str:
    """`24 models (map) on 2 devices: 431 MB of 9,000 MB free on a device`."""
    words = f"{sum(plan.sizes)} models ({execution})"
    if devices > 1:
        words += f" on {devices} devices"
    if len(plan.sizes) > 1:
        words += f" in {len(plan.sizes)} chunks of {plan.sizes[0]}"
    if plan.free_bytes is not None and plan.chunk_bytes < sys.maxsize:
        used, free = f"{plan.chunk_bytes / 1e6:,.0f}", f"{plan.free_bytes / 1e6:,.0f}"
        words += f": {used} MB of {free} MB free on a device"
    return words


def chunks_of(plan: Plan, members: Sequence[Member], folder: Path) -> list[Chunk]:
    """The members of each chunk, in order, their folders below one."""
    ends = [int(end) for end in np.cumsum(plan.sizes)]
    shares = [list(members[end - size : end]) for end, size in zip(ends, plan.sizes, strict=True)]
    num_seeds = max(len({member.seed for member in share}) for share in shares)
    runs = [side_by_side([member.seed for member in share]) for share in shares]
    together = math.gcd(plan.chunk, *runs)
    return [
        Chunk(share, plan.chunk, num_seeds, folder / f"{end - len(share) + 1}-{end}", together)
        for share, end in zip(shares, ends, strict=True)
    ]
