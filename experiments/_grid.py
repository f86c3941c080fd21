"""The grid of a sweep: every combination of the swept settings with every seed."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vae_jax.types import Hyper

# Columns that tell the repetitions of one setting apart.
REPEATS = ("seed", "fold")


class Axis(NamedTuple):
    """One setting of the grid.

    Attributes:
        field: its name on the command line and in the tables, `warmup_epochs`.
        values: as they were given.
        hyper: the field of `Hyper` that it sets.
        factor: from the value given to that of `Hyper`: the steps in an epoch, or 1.
    """

    field: str
    values: tuple[float, ...]
    hyper: str
    factor: int = 1


class Member(NamedTuple):
    """One model of a sweep.

    Attributes:
        name: what tells it from its siblings, `beta4-seed0`; its folder's name.
        seed: of its root key.
        hyper: its numbers.
        columns: what it is, as columns of `metrics.csv`: `{"beta": 4.0, "seed": 0}`.
        split: which part of the data is its own, where members have parts.
    """

    name: str
    seed: int
    hyper: Hyper
    columns: dict[str, float]
    split: int = 0

    @property
    def setting(self) -> dict[str, float]:
        """Its columns without what only repeats it."""
        return setting_of(self.columns)


def setting_of(columns: Mapping[str, float]) -> dict[str, float]:
    """The columns of a member that its repetitions share."""
    return {field: value for field, value in columns.items() if field not in REPEATS}


def repeat_of(columns: Mapping[str, float]) -> tuple[int, ...]:
    """Which repetition of its setting a member is: the seed, and the fold if it has one."""
    return tuple(int(columns[field]) for field in REPEATS if field in columns)


def shown_axes(axes: Sequence[Axis], lead: str | None) -> list[Axis]:
    """The axes that tell members apart: the leading one, always, and those of many values."""
    return [axis for axis in axes if axis.field == lead or len(axis.values) > 1]


def grid(axes: Sequence[Axis], seeds: Sequence[int], *, lead: str | None) -> list[Member]:
    """Every combination of values and seeds; the seeds of one combination follow each other.

    Args:
        axes: the settings.
        seeds: the seeds.
        lead: the axis that stands in every name, though it may have one value only.

    Returns:
        The members.
    """
    names = {axis.field for axis in shown_axes(axes, lead)}
    members = []
    for values in itertools.product(*(axis.values for axis in axes)):
        pairs = list(zip(axes, values, strict=True))
        # Rounded as a model will have it, so that what is written down is what was trained.
        numbers = {axis.hyper: float(np.float32(value * axis.factor)) for axis, value in pairs}
        hyper = Hyper()._replace(**numbers)
        setting = {axis.field: value for axis, value in pairs if axis.field in names}
        for seed in seeds:
            parts = [f"{field}{short(value)}" for field, value in setting.items()]
            name = "-".join([*parts, f"seed{seed}"])
            members.append(Member(name, seed, hyper, {**setting, "seed": seed}))
    return members


def short(number: float) -> str:
    """The shortest text that gives the number back: 4 for 4.0, so no two share a name."""
    return repr(float(number)).removesuffix(".0")


def described(setting: dict[str, float]) -> str:
    """A setting in words: `beta 4, learning rate 0.001`."""
    return ", ".join(f"{field.replace('_', ' ')} {short(v)}" for field, v in setting.items())
