"""Saving and restoring a training state, with a checksum for every array.

Orbax writes the files, in the background. What it leaves open is closed here: a state of
another shape or type is refused by name before anything is loaded, bits that changed on
the disk are found after, and where the latest checkpoint is damaged the one before it is used.
Arrays may be spread over the devices of several processes, which then call together.
"""

import contextlib
import gc
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from vae_jax.sharding import any_of, gather, is_first

T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another model; the message is one line."""


class DamagedError(CheckpointError):
    """A checkpoint does not hold what was saved."""


class Restored(NamedTuple):
    """What `Checkpoints.restore_latest` found.

    Attributes:
        number: the checkpoint that was loaded.
        state: its state.
        set_aside: of each later one, why it could not be used; it is now `<number>.damaged`.
    """

    number: int
    state: Any
    set_aside: list[str]


class Checkpoints:
    """The numbered checkpoints of one run in a folder, the latest few kept.

    Use it as a context manager: leaving it waits for the save that is under way, which a program
    that ends without it would lose.

    Args:
        folder: where they are; made at the first save.
        keep: how many of the latest are kept.
        writes: False leaves damaged checkpoints where they are.

    Raises:
        ValueError: if none would be kept.
    """

    def __init__(self, folder: str | Path, keep: int = 2, *, writes: bool = True) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}: at least 1 is needed")
        self._folder = Path(folder).absolute()
        self._keep, self._writes = keep, writes
        self._pending: tuple[int, Any] | None = None
        self._has_saved = False

    @cached_property
    def _orbax(self) -> Any:
        # Opened at first use: Orbax takes as long to import as JAX itself.
        from orbax.checkpoint import v1 as ocp

        policies: Any = ocp.training.preservation_policies
        logging.getLogger("absl").addFilter(_not_of_orbax)
        return ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=policies.LatestN(self._keep),
            # One that looks must not remove what another one is writing.
            cleanup_tmp_directories=self._has_saved,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        finally:
            self._close()

    def _close(self) -> None:
        if "_orbax" in vars(self):
            # A save that failed is raised here once more; `wait` has said so in one line.
            with contextlib.suppress(Exception):
                self._orbax.close()
            del self._orbax
            logging.getLogger("absl").removeFilter(_not_of_orbax)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the complete checkpoints, rising."""
        if not self._folder.is_dir():
            return []
        with _quiet():
            if not self._has_saved:
                self._orbax.reload()  # another one may have written since the last look
            return sorted(saved.step for saved in self._orbax.checkpoints)

    @property
    def latest(self) -> int | None:
        """The number of the latest complete checkpoint, or None."""
        return max(self.numbers, default=None)

    def save(self, number: int, state: PyTree) -> None:
        """Start writing a checkpoint, after the one before it is finished.

        The state's buffers may be donated as soon as this returns.

        Args:
            number: its number, greater than that of every earlier one.
            state: a tree of `jax.Array`s.

        Raises:
            CheckpointError: if this save, or the one before it, failed.
            TypeError: if the tree holds what is no `jax.Array`.
        """
        self.wait()
        if not self._has_saved:
            self._close()  # opened to look at what is there
            self._has_saved = True
        arrays = _manifest(state)
        manifest = {"arrays": arrays, "sha256": _sha256_of_manifest(arrays)}
        try:
            response = self._orbax.save_async(number, state, custom_metadata=manifest)
        except Exception as error:
            raise self._not_saved(number, error) from error
        # Not by a look ahead: a process that finds the folder there would open Orbax once more than
        # one that does not, and Orbax waits for all processes.
        if response is None:
            later = f"its number must be above {self.latest}"
            raise self._not_saved(number, ValueError(later))
        self._pending = number, response

    def wait(self) -> None:
        """Wait for the save that is under way.

        Raises:
            CheckpointError: if it failed, a full disk for one.
        """
        pending, self._pending = self._pending, None
        if pending is not None and pending[1] is not None:
            try:
                pending[1].result()
            except Exception as error:
                raise self._not_saved(pending[0], error) from error

    def _not_saved(self, number: int, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self._named(number)} was not saved: {_line(error)}")

    def layout(self, number: int) -> dict[str, dict[str, Any]]:
        """The `shape` and `dtype` of every array of a checkpoint, by its path in the tree.

        Raises:
            DamagedError: if the list of them is damaged.
        """
        where = self._named(number)
        metadata = _attempt(where, lambda: self._orbax.checkpointables_metadata(number))
        manifest = metadata.custom_metadata
        saved = manifest.get("arrays") if isinstance(manifest, dict) else None
        if not isinstance(saved, dict) or not all(isinstance(v, dict) for v in saved.values()):
            raise DamagedError(f"{where} is damaged: it has no list of checksums")
        # Or a changed bit in a name or a shape would pass for another model.
        if manifest.get("sha256") != _sha256_of_manifest(saved):
            raise DamagedError(f"{where} is damaged: the checksum of its list differs")
        return saved

    def restore(self, like: PyTree, number: int | None = None) -> PyTree:
        """Load a checkpoint, every bit of it checked, once the save under way is done.

        Args:
            like: a state of the same model, or its shapes, types and shardings, which the
                loaded one takes.
            number: which one; None is the latest.

        Returns:
            The state.

        Raises:
            CheckpointError: if there is none, or none of that number, it is of another model,
                or the save failed.
            DamagedError: if a file of it is damaged.
        """
        self.wait()
        numbers = self.numbers
        if not numbers:
            raise CheckpointError(f"{self._folder}: there is no checkpoint to restore")
        number = numbers[-1] if number is None else number
        if number not in numbers:
            there = ", ".join(map(str, numbers))
            raise CheckpointError(f"{self._named(number)} is not there; there are: {there}")
        where = self._named(number)
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        saved = self.layout(number)
        _compare_layout(where, saved, like)
        state = _attempt(where, lambda: self._orbax.load(number, abstract))
        for name, entry in _manifest(state).items():
            if entry != saved[name]:
                raise DamagedError(f"{where} is damaged: the checksum of {name} differs")
        return state

    def restore_latest(self, load: Callable[[int], PyTree]) -> Restored | None:
        """Load the latest checkpoint that is whole, and set the damaged ones after it aside.

        One that only reads leaves them where they are. A save that is under way is waited for.

        Args:
            load: from a number to its state, by `restore`.

        Returns:
            What was found; None if there is no checkpoint at all.

        Raises:
            CheckpointError: if it is of another model, or the save failed.
            DamagedError: if all of them are damaged; then none is set aside.
        """
        self.wait()
        damaged: dict[int, DamagedError] = {}
        for number in reversed(self.numbers):
            state = None
            try:
                state = load(number)
            except DamagedError as error:
                damaged[number] = error
            # One process may read what another one cannot: they go on with the same.
            if any_of(state is None):
                damaged.setdefault(number, DamagedError(f"{self._named(number)} is damaged"))
                continue
            self._set_aside(list(damaged) if self._writes else [])
            return Restored(number, state, [str(error) for error in damaged.values()])
        if damaged:
            raise next(iter(damaged.values()))
        return None

    def _set_aside(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        self._close()  # it remembers what it has seen
        if is_first():
            for number in numbers:
                aside = self._folder / f"{number}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(number)).rename(aside)
        any_of(False)  # wait for it

    def _named(self, number: int) -> str:
        return f"{self._folder}: checkpoint {number}"


def _manifest(state: PyTree) -> dict[str, dict[str, Any]]:
    """Shape, type and SHA-256 of every array, by its path in the tree."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    for path, leaf in leaves:
        if not isinstance(leaf, jax.Array):
            name = jax.tree_util.keystr(path) or "the state"
            raise TypeError(f"{name} is a {type(leaf).__name__}: a jax.Array is needed")
    return {
        jax.tree_util.keystr(path): {**_layout(leaf), "sha256": _sha256(leaf)}
        for path, leaf in leaves
    }


def _sha256_of_manifest(arrays: dict[str, Any]) -> str:
    """The SHA-256 of the list of checksums itself, in whatever order JSON brought it back."""
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


def _layout(leaf: jax.Array | jax.ShapeDtypeStruct) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _sha256(leaf: jax.Array) -> str:
    """The SHA-256 of the SHA-256s of a leaf's rows along its first axis.

    Of rows, so that processes which hold some of them each need to exchange digests only.
    """
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    rows = leaf.shape[0] if leaf.ndim else 1
    digests = np.zeros((rows, 32), np.uint8)
    for shard in (shard for shard in leaf.addressable_shards if shard.replica_id == 0):
        start = (shard.index[0].start or 0) if shard.index else 0
        for row, values in enumerate(np.atleast_1d(np.asarray(shard.data)), start):
            digest = hashlib.sha256(np.asarray(values).tobytes()).digest()
            digests[row] = np.frombuffer(digest, np.uint8)
    # A row is in one process, and zero in the others.
    whole = np.bitwise_or.reduce(gather(digests), axis=0)
    return hashlib.sha256(whole.tobytes()).hexdigest()


def _compare_layout(where: str, saved: dict[str, Any], like: PyTree) -> None:
    wanted = {
        jax.tree_util.keystr(path): _layout(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(like)
    }
    for name in sorted(saved.keys() ^ wanted.keys()):
        side = "it has" if name in saved else "it lacks"
        raise CheckpointError(f"{where} is of another model: {side} {name}")
    for name, layout in wanted.items():
        for field, value in layout.items():
            if saved[name].get(field) != value:
                raise CheckpointError(
                    f"{where} is of another model: {field} of {name} is "
                    f"{saved[name].get(field)}, {value} is needed"
                )


def _attempt(where: str, read: Callable[[], T]) -> T:
    """Read with Orbax; what it throws and logs about a damaged file becomes one line."""
    with _quiet():
        try:
            return read()
        except Exception as error:
            reason = _line(error)
        # The reads that Orbax abandoned complain when they end and are collected: now.
        time.sleep(0.1)
        gc.collect()
    raise DamagedError(f"{where} is damaged: {reason}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before = [logger.disabled for logger in loggers]
    unraisable = sys.unraisablehook
    try:
        sys.unraisablehook = lambda _: None
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.unraisablehook = unraisable
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Drop what Orbax logs, a hundred lines from every thread of a save that fails: it raises."""
    return "orbax" not in Path(record.pathname).parts


def _line(error: Exception) -> str:
    """The first line of what a library said, cut short; the system's own words where it has any."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is not None:
        return os.strerror(int(code[1]))  # which stand after a path that is cut off
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= 120 else line[:117] + "..."
