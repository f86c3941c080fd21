"""What a run leaves for the one that resumes it: rows, pictures and populations."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments._folder import Row, RunFolder
from experiments._grid import Member
from experiments._run import UsageError
from vae_jax import sharding
from vae_jax.checkpoint import Checkpoints
from vae_jax.sweep import Population, refit
from vae_jax.types import Params

INTEGERS = ("epoch", "seed", "fold", "left_out", "active_dims", "collapsed_dims")


class Snapshots:
    """Pictures of some members after some epochs, kept for the figures.

    Args:
        path: the file, `.npz`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: dict[str, np.ndarray] = {}

    def add(self, member: str, epoch: int, picture: Any, params: Params) -> None:
        """Take a picture; in the process that writes."""
        if sharding.is_first():
            self._images[f"{member}:{epoch}"] = np.asarray(picture(params))

    def of(self, member: str) -> dict[int, np.ndarray]:
        """The pictures of a member, by epoch."""
        pairs = ((name.rpartition(":"), images) for name, images in self._images.items())
        return {int(epoch): images for (whose, _, epoch), images in pairs if whose == member}

    def save(self) -> None:
        """Write the file whole or not at all."""
        if not sharding.is_first():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name("." + self._path.name)
        np.savez_compressed(temporary, allow_pickle=False, **self._images)
        temporary.replace(self._path)

    def load(self, until: int) -> None:
        """Read what was taken up to an epoch.

        Raises:
            UsageError: if the file is missing or damaged.
        """
        if until == 0 or not sharding.is_first():
            return
        try:
            with np.load(self._path, allow_pickle=False) as saved:
                names = (name for name in saved.files if int(name.rpartition(":")[2]) <= until)
                self._images = {name: saved[name] for name in names}
        except Exception as error:
            raise UsageError(f"{self._path}: damaged ({error}); --overwrite starts again") from None


def load_population(
    checkpoints: Checkpoints, fresh: Population, members: int
) -> tuple[int, Population]:
    """The latest population that is whole, on the devices there are now.

    A population that was filled up for another number of devices is cut to its members and
    filled up for these.

    Args:
        checkpoints: of the chunk.
        fresh: a new population, which it takes its shapes and its place from.
        members: how many of them are real.

    Returns:
        The epoch it was saved after, and the population; 0 and the fresh one without any.

    Raises:
        CheckpointError: if it is of another model, or every checkpoint is damaged.
    """

    def load(number: int) -> Population:
        rows = checkpoints.layout(number).get(".train.step", {}).get("shape", [0])[0]
        if rows == len(fresh.train.step) or rows < members:
            return checkpoints.restore(fresh, number)
        like = jax.tree.map(lambda leaf: sharding.whole_shape((rows, *leaf.shape[1:]), leaf), fresh)
        return refit(checkpoints.restore(like, number), fresh, members)

    found = checkpoints.restore_latest(load)
    if found is None:
        return 0, fresh
    for reason in found.set_aside if sharding.is_first() else ():
        print(f"warning: {reason}; set aside, going on from {found.number}", file=sys.stderr)
    return found.number, found.state


def saved_rows(
    run: RunFolder,
    chunks: Sequence[tuple[Sequence[Member], Path]],
    epochs: int,
    passes: int = 1,
) -> dict[str, list[Row]]:
    """The rows of a run to resume; changes nothing.

    Args:
        run: the folder.
        chunks: the members of each chunk and their folder.
        epochs: how many each is to have in the end.
        passes: epochs between two rows.

    Returns:
        By the member's name.

    Raises:
        UsageError: if rows are damaged, if checkpoints are missing, or if there are more
            epochs already.
    """
    rows: dict[str, list[Row]] = {m.name: [] for members, _ in chunks for m in members}
    path = run.path / "metrics.csv"
    try:
        for texts in run.read_rows("metrics.csv"):
            row = parsed(texts)
            rows[row["member"]].append(row)
            if row["epoch"] < 1:
                raise ValueError(f"epoch {row['epoch']}")
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{path}: damaged ({error}); --overwrite starts again") from None
    started = run.read_json("config.json")
    every = int(started.get("checkpoint_every", 1))
    for members, folder in chunks:
        with Checkpoints(folder / "states") as checkpoints:
            done = checkpoints.latest or 0
        written = max((row["epoch"] for m in members for row in rows[m.name]), default=0)
        # A killed run may lack the checkpoint under way and the one that waited for it.
        lost = written - done > 2 * max(every, passes)
        finished = written >= int(started.get("epochs", 0)) and written > 0
        if lost or (finished and done == 0):
            raise UsageError(
                f"{folder}: no checkpoint of the last of {written} epochs; --overwrite starts again"
            )
        if done > epochs:
            raise UsageError(f"--epochs {epochs}: {members[0].name} has been trained for {done}")
        for member in members:
            rows[member.name] = [row for row in rows[member.name] if row["epoch"] <= done]
    return rows


def parsed(texts: Mapping[str, str]) -> Row:
    """A row of `metrics.csv` with its numbers read."""
    return {
        name: text if name == "member" else (int if name in INTEGERS else float)(text)
        for name, text in texts.items()
    }


def trimmed(
    rows: Mapping[str, list[Row]],
    members: Sequence[Member],
    good: Sequence[int],
    passes: int,
    run: RunFolder,
) -> dict[str, list[Row]]:
    """The rows up to the checkpoint of each member; what a killed run wrote after is run again.

    Args:
        rows: of each member, by its name.
        members: of a chunk.
        good: the last epoch of each in its checkpoint.
        passes: epochs between two rows.
        run: the folder.

    Returns:
        By the member's name.

    Raises:
        UsageError: if rows are missing.
    """
    kept = {}
    for member, until in zip(members, good, strict=False):
        kept[member.name] = [row for row in rows[member.name] if row["epoch"] <= until]
        if [row["epoch"] for row in kept[member.name]] != list(range(passes, until + 1, passes)):
            raise UsageError(
                f"{run.path / 'metrics.csv'}: {len(kept[member.name])} rows of {member.name}, the "
                f"checkpoint to resume from needs {until // passes}; --overwrite starts again"
            )
    return kept
