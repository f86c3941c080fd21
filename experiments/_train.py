"""The training loop that every experiment runs: a sweep in chunks, resumable to the bit.

A single model is a sweep of one member. A chunk is one compiled program; where the memory
takes all members there is one chunk.
"""

import contextlib
import ctypes
import math
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments._folder import Row, RunFolder, module_name
from experiments._grid import Member
from experiments._progress import TrainingProgress
from experiments._run import Interrupted
from experiments._saved import Snapshots, load_population, trimmed
from vae_jax import sharding
from vae_jax.checkpoint import Checkpoints
from vae_jax.evaluation import ElboEstimate
from vae_jax.sweep import (
    CAUSES,
    Data,
    Members,
    Plan,
    Report,
    Status,
    Sweep,
    make_members,
    num_examples,
    place_members,
    plan_chunks,
    side_by_side,
)
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
    programs: dict[tuple[int, int, int], "Program"]

    @property
    def steps_per_epoch(self) -> int:
        """Minibatches in an epoch."""
        return num_examples(self.data) // self.batch_size


class Program(NamedTuple):
    """The compiled epoch of a chunk.

    Attributes:
        epoch: of the sweep.
        seconds: that compiling took.
    """

    epoch: Any
    seconds: float

    @property
    def bytes_used(self) -> int:
        """Bytes of a device's memory that it runs in."""
        return bytes_used(self.epoch)


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
        copy = _bytes_of_state(loop, chunk) * size // shards if on_host else 0
        try:
            return _compiled(loop, chunk).bytes_used + copy
        except jax.errors.JaxRuntimeError as error:
            if size < len(members) or "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return sys.maxsize  # all of them together do not even compile

    if loop.chunk is None and len(members) > shards:
        return plan_chunks(len(members), bytes_of, sharding.free_bytes(), shards=shards)
    return plan_chunks(len(members), None, None, chunk=loop.chunk, shards=shards)


def described_plan(plan: Plan, execution: str) -> str:
    """`24 models (map): 431 MB of 18,000 MB free on a device`."""
    words = f"{sum(plan.sizes)} models ({execution})"
    if len(plan.sizes) > 1:
        words += f" in {len(plan.sizes)} chunks of {plan.sizes[0]}"
    if plan.free_bytes is not None:
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
        program = _compiled(loop, chunks[0])
        loop.programs.clear()  # those of other sizes were compiled to plan
        _give_back_memory()
        used = f"{program.bytes_used / 1e6:,.0f} MB"
        print(f"compiled in {program.seconds:.1f} s: {used}", flush=True)
        data, test = (sharding.place(array, loop.mesh) for array in (loop.data, loop.test))
        each = _bytes_of_state(loop, chunks[0])
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
    stop: "StopRequest"
    progress: TrainingProgress


def _train_chunk(session: _Session, chunk: Chunk, *, resume: bool) -> list[Trained]:
    loop, run, rows = session.loop, session.run, session.rows
    members = place_members(chunk.population(), loop.mesh)
    shown = [member for member in chunk.members if member.name in session.drawn]
    snapshots = Snapshots(chunk.folder / "snapshots.npz")
    start, population = 0, loop.sweep.init(members)
    with Checkpoints(chunk.folder / "states") as checkpoints:
        if resume:
            start, population = load_population(checkpoints, population, len(chunk.members))
            snapshots.load(start)
        none_failed: Any = np.zeros((3, chunk.size))
        status = Status(*none_failed)
        if resume:
            _, status = jax.device_get(loop.sweep.evaluate(population, members, session.test))
            good = _good_epochs(loop, status, start)
            rows.update(trimmed(rows, chunk.members, good, loop.passes, run))
            session.progress.resume(good[: len(chunk.members)], start)
            run.write_rows("metrics.csv", [row for own in rows.values() for row in own])
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
            new = [_row(chunk.members[i], epoch, report, i, rate) for i in left]
            for row in new:
                rows[row["member"]].append(row)
            run.append_rows("metrics.csv", new)
            session.progress.epoch(str(chunk), epoch, new, len(training) - len(left))
            if loop.picture is not None and epoch in snapshot_epochs(loop.epochs):
                for member in shown:
                    if chunk.members.index(member) in left:
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
                done = f"stopped after epoch {epoch} of {loop.epochs} of {chunk}, which is saved"
                left_to_do = "go on" if epoch < loop.epochs else "finish"
                raise Interrupted(f"{done}; to {left_to_do}:\n  {_resume_command()}")
        final, status = jax.device_get(loop.sweep.evaluate(population, members, session.test))
        params = {m.name: _params(session, chunk, population, m) for m in shown}
    return [
        Trained(
            member=member,
            rows=rows[member.name],
            final=ElboEstimate(*(leaf[i] for leaf in final)),
            problem=problem_of(status, i, loop),
            params=params.get(member.name),
            snapshots=snapshots.of(member.name),
        )
        for i, member in enumerate(chunk.members)
    ]


def _compiled(loop: Loop, chunk: Chunk) -> Program:
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


def _give_back_memory() -> None:
    """Return to the system what compiling used: with glibc, a third of the process."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _bytes_of_state(loop: Loop, chunk: Chunk) -> int:
    """Bytes of a member's parameters, optimiser and status."""
    members = place_members(chunk.population(), loop.mesh)
    leaves = jax.tree.leaves(jax.eval_shape(loop.sweep.init, members))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) // chunk.size


def bytes_used(compiled: Any) -> int:
    """Bytes of a device's memory that a compiled program runs in."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _training(chunk: Chunk, status: Status) -> list[int]:
    """The places of the members that have not failed."""
    return [i for i in range(len(chunk.members)) if status.cause[i] == 0]


def _params(session: _Session, chunk: Chunk, population: Any, member: Member) -> Params:
    """One member's parameters, on the host of every process."""
    picked = session.loop.sweep.pick(population, chunk.members.index(member))
    return jax.tree.map(np.asarray, picked)


def _good_epochs(loop: Loop, status: Status, done: int) -> list[int]:
    """Up to which epoch each member is good, of those that are done."""
    epochs = (np.asarray(status.step) - 1) // loop.steps_per_epoch // loop.passes * loop.passes
    return np.where(np.asarray(status.cause) == 0, done, epochs).tolist()


def problem_of(status: Status, i: int, loop: Loop) -> str | None:
    """Why a member was stopped, in words; None if it was not."""
    if status.cause[i] == 0:
        return None
    epoch, step = divmod(int(status.step[i]) - 1, loop.steps_per_epoch)
    what = CAUSES[status.cause[i]]
    seen = {
        "gradient": "at step {}: its gradient, or the square of it, was",
        "parameters": "by step {}: its parameters or the optimiser's moments were",
    }.get(what, f"at step {{}}: its {what} was")
    step_of = f"{step + 1} of {loop.steps_per_epoch}"
    return (
        f"diverged in epoch {epoch + 1} {seen.format(step_of)} not finite, largest log-variance "
        f"{status.max_log_var[i]:.3g}; kept as after epoch {_good_epochs(loop, status, 0)[i]}"
    )


def snapshot_epochs(epochs: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last: the epochs whose pictures are kept."""
    steps = (mantissa * 10**power for power in range(9) for mantissa in (1, 2, 5))
    return sorted({epoch for epoch in steps if epoch < epochs} | {epochs})


def _row(member: Member, epoch: int, report: Report, i: int, rate: float) -> Row:
    """A row of `metrics.csv`: nats per example, costs positive."""
    metrics = {name: float(values[i]) for name, values in report.metrics.items()}
    test = ElboEstimate(*(leaf[i] for leaf in report.test))
    named = ("loss", "elbo", "log_lik", "kl", "bad_loss", "bad_gradient", "max_log_var")
    scheduled = {f"train_{name}": metrics[name] for name in metrics if name not in named}
    return {
        "member": member.name,
        **member.columns,
        "epoch": epoch,
        "train_loss": metrics["loss"],
        "train_neg_elbo": -metrics["elbo"],
        "train_reconstruction": -metrics["log_lik"],
        "train_kl": metrics["kl"],
        **scheduled,
        "train_max_log_var": metrics["max_log_var"],
        "test_neg_elbo": -float(test.elbo),
        "test_reconstruction": -float(test.log_lik),
        "test_kl": float(test.kl),
        "active_dims": int(test.active_dims),
        "collapsed_dims": len(test.kl_per_dim) - int(test.active_dims),
        "examples_per_second": round(rate, 1),
    }


def _resume_command() -> str:
    again = ("--resume", "--overwrite", "--requeue")
    words = [word for word in sys.argv[1:] if word not in again]
    return shlex.join(["python", "-m", module_name(), *words, "--resume"])


class StopRequest:
    """Ctrl-C asks to stop after this epoch, a second one stops now.

    A scheduler asks by SIGTERM or SIGUSR2, and may ask by both.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            now = "; again to stop at once" if number == signal.SIGINT else ""
            print(f"\nstopping after this epoch{now}", file=sys.stderr, flush=True)
        self.requested = True
