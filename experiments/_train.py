"""The training loop that every experiment runs: a sweep in chunks, resumable to the bit.

A single model is a sweep of one member. A chunk is one compiled program; where the memory
takes all members there is one chunk.
"""

import contextlib
import ctypes
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments._folder import Row, RunFolder
from experiments._grid import Member
from experiments._metrics import good_epochs, problem_of, row_of
from experiments._program import Chunk, Loop, bytes_of_state, bytes_used, compiled
from experiments._progress import TrainingProgress
from experiments._saved import Snapshots, load_population, trimmed
from experiments._stop import StopRequest, interruption
from vae_jax import sharding
from vae_jax.checkpoint import Checkpoints
from vae_jax.evaluation import ElboEstimate
from vae_jax.sweep import Status, place_members
from vae_jax.types import Params


class Trained(NamedTuple):
    """A member when its training ended.

    Attributes:
        member: which.
        rows: its rows of `metrics.csv`.
        final: its evaluation, of its last good state if it diverged.
        problem: why training ended early, or None.
        params: its parameters on the host, where they were asked for.
        snapshots: pictures after some epochs, `{epoch: [n, height, width, channels]}`,
            where they were asked for.
    """

    member: Member
    rows: list[Row]
    final: ElboEstimate
    problem: str | None
    params: Params | None
    snapshots: dict[int, np.ndarray]


def train(
    loop: Loop,
    chunks: Sequence[Chunk],
    run: RunFolder,
    *,
    drawn: set[str],
    saved: dict[str, list[Row]] | None = None,
) -> list[Trained]:
    """Train every member to the end, or go on where an earlier run stopped.

    Args:
        loop: what is trained.
        chunks: the models.
        run: the folder; `metrics.csv` grows after every epoch.
        drawn: the names of the members whose parameters and snapshots are wanted.
        saved: what `saved_rows` found, to start each chunk from its latest checkpoint.

    Returns:
        The members, trained.

    Raises:
        Interrupted: after Ctrl-C, when a checkpoint is saved.
        UsageError: if rows or pictures that an earlier run kept are missing or damaged.
        CheckpointError: if every checkpoint of a chunk is damaged.
    """
    members = [member for chunk in chunks for member in chunk.members]
    rows = {member.name: [] for member in members} if saved is None else dict(saved)
    results = []
    with StopRequest() as stop:
        program = compiled(loop, chunks[0])
        loop.programs.clear()  # those of other sizes were compiled to plan
        _give_back_memory()
        used = f"{bytes_used(program.epoch) / 1e6:,.0f} MB"
        print(f"compiled in {program.seconds:.1f} s: {used}", flush=True)
        data, test = (sharding.place(array, loop.mesh) for array in (loop.data, loop.test))
        each = bytes_of_state(loop, chunks[0])
        with TrainingProgress(len(members), loop.epochs, loop.passes, each) as progress:
            session = _Session(loop, program.epoch, data, test, run, rows, drawn, stop, progress)
            for chunk in chunks:
                results += _train_chunk(session, chunk, resume=saved is not None)
    _give_back_memory()
    # Whatever the order of chunks and resumptions, the file of a finished run is the same.
    run.write_rows("metrics.csv", [row for own in rows.values() for row in own])
    return results


class _Session(NamedTuple):
    """What every chunk is trained with."""

    loop: Loop
    epoch: Any
    data: jax.Array
    test: jax.Array
    run: RunFolder
    rows: dict[str, list[Row]]
    drawn: set[str]
    stop: StopRequest
    progress: TrainingProgress


def _train_chunk(session: _Session, chunk: Chunk, *, resume: bool) -> list[Trained]:
    """Train some members together, from the start or from their latest checkpoint."""
    loop = session.loop
    members = place_members(chunk.population(), loop.mesh)
    snapshots = Snapshots(chunk.folder / "snapshots.npz")
    start, population = 0, loop.sweep.init(members)
    none_failed: Any = np.zeros((3, chunk.size))
    status = Status(*none_failed)
    with Checkpoints(chunk.folder / "states") as checkpoints:
        if resume:
            start, population = load_population(checkpoints, population, len(chunk.members))
            snapshots.load(start)
            _, status = jax.device_get(loop.sweep.evaluate(population, members, session.test))
            _trim_rows(session, chunk, status, start)
        for epoch in range(start + loop.passes, loop.epochs + 1, loop.passes):
            training = _training(chunk, status)
            if not training:
                break
            began = time.perf_counter()
            population, report = session.epoch(population, members, session.data, session.test)
            report = jax.device_get(report)  # the one place where the host reads, once an epoch
            seconds = time.perf_counter() - began

            status = report.status
            left = _training(chunk, status)
            seen = loop.passes * loop.steps_per_epoch * loop.batch_size
            rate = len(training) * seen / seconds
            new = [row_of(chunk.members[i], epoch, report, i, rate) for i in left]
            _write_epoch(session, chunk, epoch, new, len(training) - len(left))
            if loop.picture is not None and epoch in snapshot_epochs(loop.epochs):
                for member in _shown(session, [chunk.members[i] for i in left]):
                    params = _params(session, chunk, population, member)
                    snapshots.add(member.name, epoch, loop.picture, params)
            for i in training:
                if i not in left:
                    said = problem_of(status, i, loop)
                    session.progress.say(f"{chunk.members[i].name}: {said}")
            stopping = sharding.any_of(session.stop.requested)
            ends = not left or epoch == loop.epochs
            due = epoch % loop.checkpoint_every < loop.passes
            if stopping or ends or due:
                snapshots.save()
                checkpoints.save(epoch, population)
            if stopping:
                checkpoints.wait()
                raise interruption(str(chunk), epoch, loop.epochs)
        final, status = jax.device_get(loop.sweep.evaluate(population, members, session.test))
        shown = _shown(session, chunk.members)
        params = {member.name: _params(session, chunk, population, member) for member in shown}
    return [
        Trained(
            member=member,
            rows=session.rows[member.name],
            final=ElboEstimate(*(leaf[i] for leaf in final)),
            problem=problem_of(status, i, loop),
            params=params.get(member.name),
            snapshots=snapshots.of(member.name),
        )
        for i, member in enumerate(chunk.members)
    ]


def _trim_rows(session: _Session, chunk: Chunk, status: Status, start: int) -> None:
    """Leave of the rows that were saved those up to the checkpoint to start from."""
    loop, run, rows = session.loop, session.run, session.rows
    good = good_epochs(loop, status, start)
    rows.update(trimmed(rows, chunk.members, good, loop.passes, run))
    session.progress.resume(good[: len(chunk.members)], start)
    run.write_rows("metrics.csv", [row for own in rows.values() for row in own])


def _write_epoch(session: _Session, chunk: Chunk, epoch: int, new: list[Row], failed: int) -> None:
    """Write the rows of an epoch, and the line that sums them up."""
    for row in new:
        session.rows[row["member"]].append(row)
    session.run.append_rows("metrics.csv", new)
    session.progress.epoch(str(chunk), epoch, new, failed)


def _shown(session: _Session, members: Sequence[Member]) -> list[Member]:
    """Those of some members whose pictures and parameters are wanted."""
    return [member for member in members if member.name in session.drawn]


def _training(chunk: Chunk, status: Status) -> list[int]:
    """The places of the members that have not failed."""
    return [i for i in range(len(chunk.members)) if status.cause[i] == 0]


def _params(session: _Session, chunk: Chunk, population: Any, member: Member) -> Params:
    """One member's parameters, on the host of every process."""
    picked = session.loop.sweep.pick(population, chunk.members.index(member))
    return jax.tree.map(np.asarray, picked)


def _give_back_memory() -> None:
    """Return to the system what compiling used: with glibc, a third of the process."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def snapshot_epochs(epochs: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last: the epochs whose pictures are kept."""
    steps = (mantissa * 10**power for power in range(9) for mantissa in (1, 2, 5))
    return sorted({epoch for epoch in steps if epoch < epochs} | {epochs})
