"""How cost grows with members and rows: `python -m experiments.benchmark growth`."""

import dataclasses
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments._benchmark_job import (
    OnCpu,
    environment,
    files_of,
    peak_of_process,
    subject,
)
from experiments._benchmark_lines import computed, growth_figure, lines_of, write
from experiments._benchmark_page import in_json, measured_of
from experiments._benchmark_trial import Trial
from experiments._grid import grid
from experiments._noise import elbo_of
from experiments._program import bytes_used
from experiments._run import check, check_counts
from experiments._sweep import Task
from experiments._timing import Bystanders, alternate, machine, seconds_of, spread
from vae_jax import figures
from vae_jax.likelihoods import bernoulli
from vae_jax.model import make_vae
from vae_jax.networks import mlp
from vae_jax.objectives import elbo
from vae_jax.preprocess import intensities
from vae_jax.train import make_trainer

FEATURES, HIDDEN, LATENT_DIM, BATCH_SIZE = 64, 64, 2, 128
MEMBER_ROWS = 4096
FEWEST_ROWS = 1000
# A small size has several epochs in a turn, so that none is over in a moment.
ROWS_PER_TURN = 2**16
RESIDENT = """
import sys
from experiments._benchmark_growth import train_once
train_once(int(sys.argv[1]))
"""
# Members, and hosts that share them, for which this machine is too small.
FAR = ((1_000, 1), (10_000, 1), (10_000, 16), (100_000, 128))


@dataclasses.dataclass(frozen=True)
class Growth(OnCpu):
    """How time and memory grow with the members of a sweep and the rows of its data.

    Small fully connected VAEs on generated rows, on the CPU, one member after the other: time
    per member and epoch against members, time per epoch of one model against rows, and memory
    against members, each beside the line it should follow.
    """

    members: int = 256
    """Members of the largest population; the others have 1, 2, 4, 8, ... below it."""
    rows: int = 1_000_000
    """Rows of the largest table; the others have 1,000, 3,000, 10,000, ... below it."""
    turns: int = 5
    """How often each size is measured; an epoch that warms up precedes them."""


class Counted(Trial):
    """A population in training whose memory is counted, not measured."""

    def program_bytes(self) -> int:
        """Bytes that the compiled epoch runs in, its arguments and results among them."""
        return bytes_used(self._epoch)

    def state_bytes(self) -> int:
        """Bytes of the parameters, the optimiser and the status of all members."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self._population))


def run(config: Growth) -> None:
    """Measure the time, count the memory, and write what came out.

    Raises:
        UsageError: if a setting, the device or the folder does not allow it.
    """
    check_counts(config, "turns")
    check(config.members > 1, "--members", config.members, "2 or more are needed")
    enough = config.rows > FEWEST_ROWS
    check(enough, "--rows", config.rows, f"more than {FEWEST_ROWS:,} are needed")
    files = files_of("growth", config)
    resident = resident_bytes(config.members)
    by_members, by_rows, hardware = measure(config)
    lines = lines_of(by_members, by_rows)
    architecture = f"{FEATURES}-{HIDDEN}-{LATENT_DIM}"
    title = f"VAE {architecture} on generated rows, batch {BATCH_SIZE}"
    result = {
        **subject("growth", config, None),
        "architecture": architecture,
        "batch_size": BATCH_SIZE,
        "rows_per_turn": ROWS_PER_TURN,
        "by_members": by_members,
        "by_rows": by_rows,
        "resident_bytes": resident,
        "measured": in_json(
            measured_of(
                f"{cost['members']:,} x {cost['rows']:,} rows, an epoch",
                cost,
                unit="ms",
                scale=1000,
            )
            for cost in (by_members[0], by_members[-1], by_rows[0], by_rows[-1])
        ),
        "lines": {name: line._asdict() for name, line in lines.items()},
        "computed": [
            {"members": members, "hosts": hosts, **computed(members, hosts, lines)}
            for members, hosts in FAR
        ],
        "machine": hardware,
    }
    write(files, title, result, lines)
    arrays = {
        f"{axis}_{key}": np.array([cost[key] for cost in own])
        for axis, own in (("by_members", by_members), ("by_rows", by_rows))
        for key in ("members", "rows_per_epoch", "seconds", "program_bytes", "state_bytes")
    }
    figure = growth_figure(title, by_members, by_rows, lines)
    figures.save(figure, files.with_suffix(".png"), **arrays)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def measure(config: Growth) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]:
    """What each population cost, and each table; and the machine meanwhile."""
    test, data = np.split(generated(BATCH_SIZE + max(config.rows, MEMBER_ROWS)), [BATCH_SIZE])
    populations = [(members, MEMBER_ROWS) for members in member_counts(config.members)]
    tables = [(1, rows) for rows in row_counts(config.rows)]
    trials: dict[tuple[int, int], Counted] = {}
    measures = {}
    # The table of as many rows as a member has is the population of one.
    for members, rows in dict.fromkeys(populations + tables):
        task = task_of(members, data[:rows], test)
        trials[members, rows] = trial = Counted(task, task.members, "map")
        epochs = -(-ROWS_PER_TURN // (members * rows))
        measures[_name(members, rows)] = partial(epoch_seconds, trial, epochs)

    bystanders = Bystanders()
    for trial in trials.values():
        trial.epoch()
    turns = alternate(measures, turns=config.turns)
    hardware = machine(bystanders)
    costs = {
        (members, rows): {
            "members": members,
            "rows": rows,
            "rows_per_epoch": rows // BATCH_SIZE * BATCH_SIZE,
            **spread(turns[_name(members, rows)]),
            "compile_seconds": trial.compile_seconds,
            "program_bytes": trial.program_bytes(),
            "state_bytes": trial.state_bytes(),
            "test_neg_elbo": trial.neg_elbo(),
        }
        for (members, rows), trial in trials.items()
    }
    by_members, by_rows = ([costs[size] for size in sizes] for sizes in (populations, tables))
    return by_members, by_rows, hardware


def resident_bytes(members: int) -> dict[int, int]:
    """Peak resident memory of a process that trains a quarter of the members, and all of them.

    Python, JAX and the compilation are in it, and alike in both; the data are as many.
    """
    with tempfile.TemporaryDirectory() as scratch:
        variables = environment(Path(scratch))
        return {
            size: peak_of_process(["-c", RESIDENT, str(size)], variables)
            for size in (max(1, members // 4), members)
        }


def train_once(members: int) -> None:
    """Compile and train an epoch of a population, in a process whose memory is measured."""
    test, data = np.split(generated(BATCH_SIZE + MEMBER_ROWS), [BATCH_SIZE])
    task = task_of(members, data, test)
    Trial(task, task.members, "map").epoch()


def member_counts(most: int) -> list[int]:
    """1, 2, 4, 8, ... and the most."""
    return [2**power for power in range((most - 1).bit_length())] + [most]


def row_counts(most: int) -> list[int]:
    """1,000, 3,000, 10,000, 30,000, ... and the most."""
    powers = range(len(str(most)))
    steps = (FEWEST_ROWS * 10**power * mantissa for power in powers for mantissa in (1, 3))
    return [count for count in steps if count < most] + [most]


def generated(rows: int) -> np.ndarray:
    """Rows `[rows, features]` of pixels 0 or 255, the signs of sums of two normal factors."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((LATENT_DIM, FEATURES), np.float32)
    factors = rng.standard_normal((rows, LATENT_DIM), np.float32)
    return 255 * (factors @ weights > 0).astype(np.uint8)


def task_of(members: int, data: np.ndarray, test: np.ndarray) -> Task:
    """Small VAEs of generated rows that differ by their seeds, shuffling included."""
    likelihood, sizes = bernoulli(), {"x_shape": (FEATURES,), "latent_dim": LATENT_DIM}
    networks = mlp((HIDDEN,), theta_dim=likelihood.theta_dim, **sizes)
    vae = make_vae(*networks, likelihood, **sizes)
    return Task(
        experiment="benchmark",
        name="growth",
        title="",
        table="",
        about={},
        members=grid((), range(members), lead=None),
        vae=vae,
        preprocess=intensities,
        trainer=make_trainer(vae, elbo(), batch_size=BATCH_SIZE),
        evaluate=elbo_of(vae, intensities),
        data=data,
        test=test,
        batch_size=BATCH_SIZE,
        source={},
    )


def epoch_seconds(trial: Trial, epochs: int) -> float:
    """Seconds of an epoch of a population, the mean of several."""
    return seconds_of(lambda: [trial.epoch() for _ in range(epochs)]) / epochs


def _name(members: int, rows: int) -> str:
    return f"{members:,} x {rows:,} rows"
