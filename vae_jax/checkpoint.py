"""Saving and restoring a training state, with a checksum for every array.

Orbax writes the files, in the background. What it leaves open is closed here: a state of
another shape or type is refused by name before anything is loaded, and bits that changed on
the disk are found after.
"""

import contextlib
import gc
import hashlib
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

T = TypeVar("T")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another model; the message is one line."""


class Checkpoints:
    """The numbered checkpoints of one run in a folder, the latest few kept.

    Use it as a context manager: leaving it waits for the save that is under way.

    Args:
        folder: where they are; made at the first save.
        keep: how many of the latest are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._pending: tuple[int, Any] | None = None

    @cached_property
    def _orbax(self) -> Any:
        # Opened at first use: Orbax takes as long to import as JAX itself.
        from orbax.checkpoint import v1 as ocp

        policies: Any = ocp.training.preservation_policies
        return ocp.training.Checkpointer(
            str(self._folder),
            preservation_policy=policies.LatestN(self._keep),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.wait()
        if "_orbax" in vars(self):
            self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The number of the latest complete checkpoint, or None."""
        if not self._folder.is_dir():
            return None
        with _quiet():
            newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(self, number: int, state: PyTree) -> None:
        """Start writing a checkpoint, after the one before it is finished.

        The state's buffers may be donated as soon as this returns.

        Args:
            number: its number, greater than that of every earlier one.
            state: a tree of `jax.Array`s.

        Raises:
            CheckpointError: if this save, or the one before it, failed.
        """
        self.wait()
        manifest = {"arrays": _manifest(state)}
        try:
            response = self._orbax.save_async(number, state, custom_metadata=manifest)
        except Exception as error:
            raise self._not_saved(number, error) from error
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
        reason = _line(error)
        return CheckpointError(f"{self._folder}: checkpoint {number} was not saved: {reason}")

    def restore(self, like: PyTree, number: int | None = None) -> PyTree:
        """Load a checkpoint, every bit of it checked.

        Args:
            like: a state of the same model, whose tree, shapes, types and placement the
                loaded one takes.
            number: which one; None is the latest.

        Returns:
            The state.

        Raises:
            CheckpointError: if there is none, if it is of another model, or if a file of it
                is damaged.
        """
        number = self.latest if number is None else number
        if number is None:
            raise CheckpointError(f"{self._folder}: there is no checkpoint to restore")
        where = f"{self._folder}: checkpoint {number}"
        abstract = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like
        )
        metadata = _attempt(where, lambda: self._orbax.checkpointables_metadata(number))
        manifest = metadata.custom_metadata
        saved = manifest.get("arrays") if isinstance(manifest, dict) else None
        if not isinstance(saved, dict):
            raise CheckpointError(f"{where} is damaged: it has no list of checksums")
        _compare_layout(where, saved, like)
        state = _attempt(where, lambda: self._orbax.load(number, abstract))
        for name, entry in _manifest(state).items():
            if entry != saved[name]:
                raise CheckpointError(f"{where} is damaged: the checksum of {name} differs")
        return state


def _manifest(state: PyTree) -> dict[str, dict[str, Any]]:
    """Shape, type and SHA-256 of every array, by its path in the tree."""
    return {
        jax.tree_util.keystr(path): {**_layout(leaf), "sha256": _sha256(leaf)}
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _layout(leaf: jax.Array) -> dict[str, Any]:
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _sha256(leaf: jax.Array) -> str:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()


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
    raise CheckpointError(f"{where} is damaged: {reason}")


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


def _line(error: Exception) -> str:
    """The first line of what a library said, cut short."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return line if len(line) <= 120 else line[:117] + "..."
