"""Several devices and several processes: the only module that knows of them.

Members of a sweep do not talk to each other, so a mesh has one axis, `member`, and every
device trains its share. What all members read (the data, the shuffling) is on every device.

A function is called collective where every process must call it, in the same order as its other
collective calls: it waits for all of them.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxtyping import PyTree

T = TypeVar("T")
AXIS = "member"
CGROUP = Path("/sys/fs/cgroup")  # the limits of a container, version 2


class Peers(NamedTuple):
    """How the processes of one run find each other; every field None: from the scheduler.

    Attributes:
        coordinator: `host:port` of process 0.
        num_processes: how many there are.
        process_id: which one this is, from 0.
        heartbeat: seconds without a sign of life after which a process counts as lost.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat: int = 100


def join(peers: Peers) -> None:
    """Connect to the other processes, before anything else that JAX does; collective.

    Without an address they are found from the environment of Slurm, Open MPI, Kubernetes or a
    Cloud TPU.

    Args:
        peers: how they are found.

    Raises:
        ValueError: if they are not found or do not come, in one line.

    Reference:
        https://docs.jax.dev/en/latest/multi_process.html
    """
    try:
        jax.distributed.initialize(
            peers.coordinator,
            peers.num_processes,
            peers.process_id,
            heartbeat_timeout_seconds=peers.heartbeat,
            initialization_timeout=int(os.environ.get("VAE_JAX_JOIN_SECONDS", "300")),
        )
    except (RuntimeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"the other processes were not found: {line}") from None


def leave() -> None:
    """Part from the other processes in good order; collective."""
    jax.distributed.shutdown()


def num_cores() -> int:
    """Threads that XLA computes with on a CPU: `NPROC`, or the cores that this process may use."""
    said = os.environ.get("NPROC", "")
    return int(said) if said.isdigit() and int(said) > 0 else len(os.sched_getaffinity(0))


def usable_cores() -> int:
    """Cores that this process can keep busy: `num_cores`, within the limit of its container.

    One on a machine of 64 cores may be given the time of two.
    """
    limit, cores = CGROUP / "cpu.max", num_cores()
    quota, _, period = (
        limit.read_text("utf-8").partition(" ") if limit.exists() else ("max", "", "")
    )
    return min(cores, max(1, int(quota) // int(period))) if quota.isdigit() else cores


def split_cpu(devices: int) -> None:
    """Count the processor as several devices, before JAX starts.

    The products of small models, or of a small minibatch, do not keep two threads busy: spread
    over a device for each core, several such models take less time. Nothing happens where JAX
    has started, or where the user has said how many there are (`JAX_NUM_CPU_DEVICES`,
    `XLA_FLAGS`).
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if said or jax.config.values["jax_num_cpu_devices"] != -1:
        return
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", max(1, devices))


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def any_of(flag: bool) -> bool:
    """Whether a flag is set in any process; collective.

    Args:
        flag: that of this process.

    Returns:
        The same answer in every process.
    """
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def is_same_everywhere(text: str) -> bool:
    """Whether every process passes the same text; collective.

    Args:
        text: that of this process.

    Returns:
        The same answer in every process.
    """
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    everyone = gather(digest)
    return bool((everyone == everyone[0]).all())


def gather(local: np.ndarray) -> np.ndarray:
    """The arrays of all processes side by side; collective.

    Args:
        local: that of this process; of one shape and type in all of them.

    Returns:
        `[processes, ...]` on the host, in the order of their numbers, the same in every process.
    """
    if jax.process_count() == 1:
        return local[None]
    return np.asarray(multihost_utils.process_allgather(local))


def member_mesh(devices: Sequence[Any] | None = None) -> Mesh | None:
    """A mesh with the axis `member` over all devices of all processes.

    With one device nothing is to be placed, and the program is that of a machine without a
    mesh, to the bit. No process waits for another, but each must make the same mesh.

    Args:
        devices: at least one; None: all that the processes have together.

    Returns:
        The mesh, of shape `[devices]`; None for a single device.
    """
    devices = jax.devices() if devices is None else list(devices)
    if len(devices) == 1:
        return None
    return jax.make_mesh((len(devices),), (AXIS,), (AxisType.Auto,), devices=devices)


def num_shards(mesh: Mesh | None) -> int:
    """Devices that members are spread over."""
    return 1 if mesh is None else mesh.size


def over_devices(
    fun: Callable[..., Any], mesh: Mesh | None, split: tuple[bool, ...]
) -> Callable[..., Any]:
    """Run a function of members on every device's share of them.

    Args:
        fun: of trees of arrays; what it returns has the members as its leading axis.
        mesh: the devices, or None.
        split: of each argument, whether its leading axis is the members; the others are
            whole on every device.

    Returns:
        The same function of all members.
    """
    if mesh is None:
        return fun
    of_members = PartitionSpec(AXIS)
    specs = tuple(of_members if is_split else PartitionSpec() for is_split in split)
    return jax.shard_map(fun, mesh=mesh, in_specs=specs, out_specs=of_members, check_vma=False)


def to_every_process(tree: T, mesh: Mesh | None) -> T:
    """Inside `jit`: results that every process can read whole.

    A single process reads them from its devices as they are. Were they brought together by the
    program, the devices would wait for each other, and XLA ends a process of which a device on
    a CPU waits for a minute.
    """
    if mesh is None or jax.process_count() == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def place(tree: PyTree[np.ndarray], mesh: Mesh | None, *, split: bool = False) -> PyTree:
    """Host arrays as arrays of the mesh: split along their leading axis, or whole everywhere.

    Every process passes the same ones, and each puts on its own devices what belongs there; none
    waits for another.

    An array that may be written to is copied. On a CPU a read-only one stays where it is, if it
    begins where XLA wants it to (`vae_jax.data.memory.aligned`).

    Args:
        tree: arrays on the host, `[members, ...]` where they are split.
        mesh: the devices; None is one device.
        split: whether the leading axis is the members, a multiple of the devices of the mesh.

    Returns:
        Arrays of the same shapes; those of a mesh are of all processes together.

    Raises:
        ValueError: if the members cannot be split evenly.
    """

    def whole(leaf: np.ndarray) -> jax.Array:
        if isinstance(leaf, np.ndarray) and leaf.flags.writeable:
            return jax.numpy.array(leaf)
        return jax.device_put(leaf)

    if mesh is None:
        return jax.tree.map(whole, tree)
    placed = placement(mesh, split=split)

    def put(leaf: np.ndarray) -> jax.Array:
        leaf = np.asarray(leaf)
        leaf = leaf.copy() if leaf.flags.writeable else leaf
        return jax.make_array_from_callback(leaf.shape, placed, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def placement(mesh: Mesh, *, split: bool) -> NamedSharding:
    """The sharding of arrays whose leading axis is the members, or of whole ones."""
    return NamedSharding(mesh, PartitionSpec(AXIS) if split else PartitionSpec())


def shapes_of(tree: PyTree, mesh: Mesh | None, *, split: bool) -> PyTree:
    """Shapes, types and placement of arrays that `place` will put there, to compile for."""
    one = SingleDeviceSharding(jax.devices()[0])
    placed = one if mesh is None else placement(mesh, split=split)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed), tree
    )


def whole_shape(shape: tuple[int, ...], like: jax.Array) -> jax.ShapeDtypeStruct:
    """An array of a shape and of the type of another, whole on each of its devices."""
    placed = like.sharding
    if isinstance(placed, NamedSharding):
        placed = NamedSharding(placed.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(shape, like.dtype, sharding=placed)


def free_bytes(mesh: Mesh | None = None) -> int:
    """Bytes that are free for new arrays on the device, of any process, that has least; collective.

    Args:
        mesh: the devices that are used, or None for one.

    Returns:
        Bytes, the same number in every process: those of the accelerator, or of a host's memory
        within the limit of its container, divided by the devices of its processor that are used.
    """
    free = []
    for device in jax.local_devices():
        stats = device.memory_stats()
        if stats is not None and "bytes_limit" in stats:
            free.append(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    # The devices of a host's processor share its memory.
    used = 1 if mesh is None else len(mesh.local_devices)
    least = min(free) if free else _free_host_bytes() // used
    return int(gather(np.array(least)).min())


def _free_host_bytes() -> int:
    """What the host has left, within the limit of its container."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used, stat = (CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.exists() and limit.read_text("utf-8").strip().isdigit():
        counts = dict(line.split() for line in stat.read_text("utf-8").splitlines())
        cache = int(counts.get("inactive_file", 0))  # given up when it is needed
        taken = int(used.read_text("utf-8")) - cache
        free = min(free, int(limit.read_text("utf-8")) - taken)
    return free
