"""The training loop that every experiment runs: members one after the other, resumable."""

import itertools
import shlex
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._progress import TrainingProgress
from experiments._run import Interrupted, RunFolder, UsageError, module_name
from vae_jax.checkpoint import Checkpoints
from vae_jax.evaluation import ElboEstimate
from vae_jax.train import Trainer, TrainState
from vae_jax.types import Hyper, Params

Row = dict[str, Any]


class Member(NamedTuple):
    """One model of a run.

    Attributes:
        name: what tells it from its siblings, `beta4-seed0`; its folder's name.
        seed: of its root key.
        hyper: its swept numbers.
        columns: the same as columns of `metrics.csv`, `{"beta": 4.0, "seed": 0}`.
    """

    name: str
    seed: int
    hyper: Hyper
    columns: dict[str, float]


class Trained(NamedTuple):
    """A member when its training ended.

    Attributes:
        member: which.
        state: its last state; the last finite one if it diverged.
        rows: its rows of `metrics.csv`.
        snapshots: pictures after some epochs, `{epoch: [n, height, width, channels]}`.
        problem: why training ended early, or None.
    """

    member: Member
    state: TrainState
    rows: list[Row]
    snapshots: dict[int, np.ndarray]
    problem: str | None


class Loop(NamedTuple):
    """What the loop needs besides a member.

    Attributes:
        trainer: the compiled training functions.
        data: the stored training examples, on the device.
        evaluate: the ELBO of the test split.
        picture: pictures to keep of some epochs, means in [0, 1].
        epochs: how many.
        steps_per_epoch: minibatches in one.
        batch_size: images in a minibatch.
        checkpoint_every: epochs between checkpoints.
    """

    trainer: Trainer
    data: jax.Array
    evaluate: Callable[[Params], ElboEstimate]
    picture: Callable[[Params], jax.Array]
    epochs: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_every: int


def train(
    loop: Loop,
    members: Sequence[Member],
    run: RunFolder,
    saved: Mapping[str, list[Row]] | None = None,
) -> list[Trained]:
    """Train every member to the end, or go on where an earlier run stopped.

    Args:
        loop: what is trained.
        members: the models.
        run: the folder; `metrics.csv` is written after every epoch.
        saved: what `saved_rows` found, to start each member from its latest checkpoint.

    Returns:
        The members, trained.

    Raises:
        Interrupted: after Ctrl-C, when a checkpoint is saved.
        UsageError: if the pictures kept for the figures are missing or damaged.
        CheckpointError: if a checkpoint is damaged.
    """
    rows = {member.name: list((saved or {}).get(member.name, ())) for member in members}
    total = loop.epochs * len(members)
    with StopRequest() as stop:
        began = time.perf_counter()
        loop = loop._replace(trainer=_compiled(loop, members[0]))
        print(f"compiled in {time.perf_counter() - began:.1f} s", flush=True)
        with TrainingProgress(total, done=sum(map(len, rows.values()))) as progress:
            return [_train_member(loop, member, run, rows, stop, progress) for member in members]


def _compiled(loop: Loop, member: Member) -> Trainer:
    """The trainer with its epoch compiled ahead, once for all members, to be timed apart."""
    state = jax.eval_shape(loop.trainer.init, jax.random.key(member.seed), member.hyper)
    epoch: Any = loop.trainer.epoch
    return loop.trainer._replace(epoch=epoch.lower(state, member.hyper, loop.data).compile())


def _train_member(
    loop: Loop,
    member: Member,
    run: RunFolder,
    rows: dict[str, list[Row]],
    stop: "StopRequest",
    progress: TrainingProgress,
) -> Trained:
    state = loop.trainer.init(jax.random.key(member.seed), member.hyper)
    snapshots_file = run.checkpoints / member.name / "snapshots.npz"
    snapshots: dict[int, np.ndarray] = {}
    problem = None
    own = rows[member.name]
    start = len(own)
    with Checkpoints(run.checkpoints / member.name / "states") as checkpoints:
        if start > 0:
            state = checkpoints.restore(state, start)
            snapshots = _load_snapshots(snapshots_file, until=start)
        for epoch in range(start + 1, loop.epochs + 1):
            before = jax.tree.map(jnp.copy, state)  # the epoch takes the state's own buffers
            began = time.perf_counter()
            state, metrics = jax.block_until_ready(
                loop.trainer.epoch(state, member.hyper, loop.data)
            )
            seconds = time.perf_counter() - began
            # The one place where the host reads from the device, once an epoch.
            metrics, alive, test = jax.device_get(
                (metrics, state.alive, loop.evaluate(state.params))
            )
            # The last step of an epoch may leave parameters that are finite and yet of no use.
            if not (alive and np.isfinite(test.elbo)):
                state = before
                bad, steps = int(metrics["first_bad_step"]), loop.steps_per_epoch
                place = f"at step {bad + 1} of {steps}" if bad < steps else "after its last step"
                problem = f"diverged in epoch {epoch} {place}; kept as after epoch {epoch - 1}"
                progress.say(f"{member.name}: {problem}")
                if epoch - 1 > (checkpoints.latest or 0):
                    _save_snapshots(snapshots_file, snapshots)
                    checkpoints.save(epoch - 1, state)
                break
            row = _row(
                member, epoch, metrics, test, loop.steps_per_epoch * loop.batch_size / seconds
            )
            own.append(row)
            run.write_rows("metrics.csv", list(itertools.chain(*rows.values())))
            if epoch in snapshot_epochs(loop.epochs):
                snapshots[epoch] = np.asarray(loop.picture(state.params))
            progress.epoch(member.name, epoch, loop.epochs, row)
            if stop.requested or epoch == loop.epochs or epoch % loop.checkpoint_every == 0:
                _save_snapshots(snapshots_file, snapshots)
                checkpoints.save(epoch, state)
            if stop.requested:
                checkpoints.wait()
                raise Interrupted(
                    f"stopped after epoch {epoch} of {loop.epochs} of {member.name}; to go on:\n"
                    f"  {_resume_command()}"
                )
    return Trained(member, state, own, snapshots, problem)


def snapshot_epochs(epochs: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... and the last: the epochs whose pictures are kept."""
    steps = (mantissa * 10**power for power in range(9) for mantissa in (1, 2, 5))
    return sorted({epoch for epoch in steps if epoch < epochs} | {epochs})


def _row(
    member: Member, epoch: int, metrics: dict[str, Any], test: ElboEstimate, rate: float
) -> Row:
    """A row of `metrics.csv`: nats per example, costs positive."""
    named = ("loss", "elbo", "log_lik", "kl", "first_bad_step")
    scheduled = {f"train_{name}": float(metrics[name]) for name in metrics if name not in named}
    return {
        "member": member.name,
        **member.columns,
        "epoch": epoch,
        "train_loss": float(metrics["loss"]),
        "train_neg_elbo": -float(metrics["elbo"]),
        "train_reconstruction": -float(metrics["log_lik"]),
        "train_kl": float(metrics["kl"]),
        **scheduled,
        "test_neg_elbo": -float(test.elbo),
        "test_reconstruction": -float(test.log_lik),
        "test_kl": float(test.kl),
        "active_dims": int(test.active_dims),
        "images_per_second": round(rate, 1),
    }


def saved_rows(run: RunFolder, members: Sequence[Member], epochs: int) -> dict[str, list[Row]]:
    """The rows of a run to resume, up to each member's latest checkpoint; changes nothing.

    Rows that a killed run wrote after its last checkpoint are left out: they are run again.

    Args:
        run: the folder.
        members: the models.
        epochs: how many each is to have in the end.

    Returns:
        By the member's name, one row for each epoch of its checkpoint.

    Raises:
        UsageError: if rows are missing or damaged, if checkpoints are missing, or if there are
            more epochs already.
    """
    done = {member.name: _latest_checkpoint(run, member) for member in members}
    rows: dict[str, list[Row]] = {name: [] for name in done}
    written = dict.fromkeys(done, 0)
    started = run.read_json("config.json")
    integers = ("epoch", "seed", "active_dims")
    path = run.path / "metrics.csv"
    try:
        for texts in run.read_rows("metrics.csv"):
            row: Row = {
                name: text if name == "member" else (int if name in integers else float)(text)
                for name, text in texts.items()
            }
            written[row["member"]] += 1
            if row["epoch"] <= done[row["member"]]:
                rows[row["member"]].append(row)
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); --overwrite starts again") from None
    for name, own in rows.items():
        if [row["epoch"] for row in own] != list(range(1, done[name] + 1)):
            raise UsageError(
                f"{path}: {len(own)} rows of {name}, the checkpoint to resume from needs "
                f"{done[name]}; --overwrite starts again"
            )
        # A killed run may lack the checkpoint that it was writing, but not more than that.
        lost = written[name] - done[name] >= 2 * int(started.get("checkpoint_every", 1))
        finished = written[name] >= int(started.get("epochs", 0)) and written[name] > 0
        if lost or (finished and done[name] == 0):
            raise UsageError(
                f"{run.checkpoints / name}: no checkpoint of the last of {written[name]} epochs; "
                "--overwrite starts again"
            )
        if done[name] > epochs:
            raise UsageError(f"--epochs {epochs}: {name} has been trained for {done[name]}")
    return rows


def _latest_checkpoint(run: RunFolder, member: Member) -> int:
    with Checkpoints(run.checkpoints / member.name / "states") as checkpoints:
        return checkpoints.latest or 0


def _save_snapshots(path: Path, snapshots: dict[int, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("." + path.name)
    named = {str(epoch): images for epoch, images in snapshots.items()}
    np.savez_compressed(temporary, allow_pickle=False, **named)
    temporary.replace(path)


def _load_snapshots(path: Path, until: int) -> dict[int, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as saved:
            return {int(epoch): saved[epoch] for epoch in saved.files if int(epoch) <= until}
    except Exception as error:
        raise UsageError(f"{path}: damaged ({error}); --overwrite starts again") from None


def _resume_command() -> str:
    words = [word for word in sys.argv[1:] if word not in ("--resume", "--overwrite")]
    return shlex.join(["python", "-m", module_name(), *words, "--resume"])


class StopRequest:
    """Ctrl-C (or a scheduler's SIGTERM) asks to stop after this epoch; a second one stops now."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this epoch; again to stop at once", file=sys.stderr, flush=True)
