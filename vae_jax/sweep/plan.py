"""Populations that are larger than the memory, in chunks that are not."""

from collections.abc import Callable
from typing import NamedTuple

USABLE = 0.8  # of the free memory; the rest is for what else lives there


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

    @property
    def fits(self) -> bool:
        """Whether the memory takes a chunk, as far as it was asked for."""
        return self.free_bytes is None or self.chunk_bytes <= USABLE * self.free_bytes


def plan_chunks(
    members: int,
    bytes_of: Callable[[int], int] | None = None,
    free_bytes: int | None = None,
    *,
    chunk: int | None = None,
    shards: int = 1,
) -> Plan:
    """Choose the size of a chunk, from the memory that populations need unless it is given.

    If all members fit together, a single program was measured, the one that will train them; so
    it is, whether they fit or not (`Plan.fits`), if no device has more than one.
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
        fixed, usable = bytes_of(-(-members // shards) * shards), int(USABLE * free_bytes)
        if fixed > usable and members > shards:
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
