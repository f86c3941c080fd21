"""A population of `experiments.mnist` in training, an epoch at a time."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments._grid import Member
from experiments._run import UsageError
from experiments._sweep import Task
from vae_jax.evaluation import ElboEstimate
from vae_jax.sharding import Mesh, num_shards, place
from vae_jax.sweep import (
    Execution,
    Population,
    make_members,
    make_sweep,
    place_members,
    plan_chunks,
    side_by_side,
)
from vae_jax.types import Params


class Trial:
    """A population in training, a compiled epoch at a time.

    Args:
        task: what is trained.
        members: which of its members.
        execution: of `make_sweep`.
        mesh: the devices that the members are spread over, or None for one.
    """

    def __init__(
        self,
        task: Task,
        members: Sequence[Member],
        execution: Execution,
        mesh: Mesh | None = None,
    ) -> None:
        self.execution: Execution = execution
        self.size = len(members)
        self.devices = num_shards(mesh)
        sweep = make_sweep(task.trainer, task.evaluate, execution=execution, mesh=mesh)
        hypers, seeds = [member.hyper for member in members], [member.seed for member in members]
        size = plan_chunks(self.size, shards=num_shards(mesh)).chunk
        together = math.gcd(size, side_by_side(seeds))
        lined_up = make_members(hypers, seeds, size=size, together=together)
        self._members = place_members(lined_up, mesh)
        self._population = sweep.init(self._members)
        self._data, self._test = place((task.data, task.test), mesh)
        began = time.perf_counter()
        lowered = sweep.epoch.lower(self._population, self._members, self._data, self._test)
        self._epoch = lowered.compile()
        self.compile_seconds = time.perf_counter() - began
        self._sweep = sweep
        self._report: Any = None
        self._yardstick = next(i for i, m in enumerate(members) if m == yardstick(members))

    def epoch(self) -> None:
        """Train every member for an epoch and evaluate it; the host reads the report."""
        state = (self._population, self._members, self._data, self._test)
        self._population, report = self._epoch(*state)
        self._report = jax.device_get(report)

    def evaluate(self) -> None:
        """Evaluate every member once more."""
        jax.device_get(self._sweep.evaluate(self._population, self._members, self._test))

    def neg_elbo(self) -> float:
        """The test negative ELBO of the member at beta 1 after the last epoch, nats per image.

        Raises:
            UsageError: as `check_all_trained`.
        """
        self.check_all_trained()
        test = ElboEstimate(*(leaf[self._yardstick] for leaf in self._report.test))
        return -float(test.elbo)

    def check_all_trained(self) -> None:
        """Refuse to go on if a member has diverged, and no longer takes its time.

        Raises:
            UsageError: saying how many.
        """
        stopped = int(np.count_nonzero(self._report.status.cause))
        if stopped:
            raise UsageError(f"{stopped} of {self.size} members diverged; nothing to compare")

    @property
    def population(self) -> Population:
        """The members as they are now."""
        return self._population

    def program_text(self) -> str:
        """The compiled epoch, as XLA writes it."""
        return str(self._epoch.as_text())

    def params(self) -> Params:
        """The parameters of the member of `neg_elbo`."""
        return self._sweep.pick(self._population, self._yardstick)


def yardstick(members: Sequence[Member]) -> Member:
    """The member at beta 1 with the first seed: what a model alone is."""
    return next(member for member in members if member.hyper.beta == 1)
