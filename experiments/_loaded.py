"""A run that is on the disk: its configuration, its data and its trained models."""

import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments._chunks import chunks_of
from experiments._folder import RunFolder
from experiments._grid import Member
from experiments._options import slice_of
from experiments._run import UsageError, check
from experiments._shards import slices_in
from experiments._sweep import Task
from vae_jax import sharding
from vae_jax.checkpoint import Checkpoints
from vae_jax.sweep import (
    CAUSES,
    Population,
    Sweep,
    make_members,
    make_sweep,
    place_members,
    plan_chunks,
)
from vae_jax.types import Params

EXPERIMENTS = ("mnist", "tabular", "anomaly", "compress", "text")
OF_PARTS = ("aevb", "iwae", "disentangle")  # experiments whose runs are made of several
PILOT = "-pilot"  # how the name of a part ends that only chose a setting for another


class Loaded(NamedTuple):
    """A model of a run.

    Attributes:
        member: what it is.
        params: its parameters.
        epoch: after which they were saved.
        problem: what stopped its training; None if nothing did.
    """

    member: Member
    params: Params
    epoch: int
    problem: str | None


class Slice(NamedTuple):
    """The checkpoints of a run, or of a slice of it.

    Attributes:
        folder: where they are.
        chunk: models of a checkpoint.
        members: the models.
    """

    folder: RunFolder
    chunk: int
    members: list[Member]


class Run(NamedTuple):
    """A run on the disk.

    Attributes:
        folder: where it is.
        task: what it trained, the data loaded.
        slices: it alone, or those that it was cut into.
        missing: the slices that are not there, `2/3`.
    """

    folder: RunFolder
    task: Task
    slices: list[Slice]
    missing: list[str]

    @property
    def members(self) -> list[Member]:
        """All its models, in the order of their checkpoints."""
        return [member for one in self.slices for member in one.members]

    def models(self) -> Iterator[Loaded]:
        """Its models, chunk by chunk, from the latest checkpoints that are whole.

        Raises:
            UsageError: if there is no checkpoint.
            CheckpointError: if one is of another model, or all of a chunk are damaged.
        """
        sweep = make_sweep(self.task.trainer, self.task.evaluate, execution="map")
        chunks = [
            chunk
            for one in self.slices
            for chunk in chunks_of(
                plan_chunks(len(one.members), chunk=one.chunk), one.members, one.folder.checkpoints
            )
        ]
        for chunk in chunks:  # before the first is evaluated
            with Checkpoints(chunk.folder / "states", writes=False) as checkpoints:
                if checkpoints.latest is None:
                    raise UsageError(f"{chunk.folder}: there is no checkpoint to evaluate")
        for chunk in chunks:
            with Checkpoints(chunk.folder / "states", writes=False) as checkpoints:
                epoch, population = _restored(sweep, checkpoints, chunk.members)
            causes = np.asarray(population.status.cause)
            for index, member in enumerate(chunk.members):
                cause = CAUSES[causes[index]]
                problem = f"diverged ({cause} not finite)" if cause else None
                yield Loaded(member, sweep.pick(population, index), epoch, problem)


def parts_in(path: Path) -> tuple[list[str], list[str]]:
    """The parts of a run that is made of several.

    Args:
        path: the folder of a run.

    Returns:
        The names of those that can be evaluated, none if it is a run by itself; and of the
        others, why not.
    """
    if (path / "shards").is_dir() or (path / "checkpoints").is_dir():
        return [], []
    there = sorted(one.parent.name for one in path.glob("*/config.json"))
    left_out = [f"{name}: no checkpoints in it" for name in there if not _is_saved(path / name)]
    pilots = [name for name in there if _is_saved(path / name) and name.endswith(PILOT)]
    if pilots:
        left_out.append(f"{' '.join(pilots)}: pilots; one is evaluated where it is named itself")
    names = [name for name in there if _is_saved(path / name) and name not in pilots]
    return names, left_out


def _is_saved(part: Path) -> bool:
    return (part / "checkpoints").is_dir()


def load_run(path: Path, data_dir: Path | None = None) -> Run:
    """Read what a run was, and load its data.

    Args:
        path: the folder of the run.
        data_dir: where the data are now, if not where they were.

    Returns:
        The run; its models are read by `Run.models`.

    Raises:
        UsageError: if there is no such run, it cannot be evaluated, or its data are others now.
        DataError: if the data cannot be had.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such run")
    is_cut = (path / "shards").is_dir()
    shards = {number: one for one, number in slices_in(path).items()} if is_cut else {}
    folders = [RunFolder(shards[number]) for number in sorted(shards)] or [RunFolder(path)]
    parts = sorted(one.parent.name for one in path.glob("*/checkpoints"))
    if parts and not is_cut:
        raise UsageError(f"{path}: made of several runs; one of {' '.join(parts)} is needed")
    for folder in folders:
        if not (folder.path / "config.json").is_file():
            raise UsageError(f"{folder.path}: not a run (no config.json)")
        if not folder.checkpoints.is_dir():
            raise UsageError(f"{folder.path}: no checkpoints in it; they are needed")
    module, config_type, prepare = _experiment_of(path)
    configs = [folder.read_json("config.json") for folder in folders]
    config = as_config(config_type, configs[0], folders[0].path)
    if data_dir is not None:
        has_folder = hasattr(config, "data_dir")
        check(has_folder, "--data-dir", data_dir, f"a run of {module} has no data folder")
        config = dataclasses.replace(config, data_dir=data_dir)
    config, task = prepare(config)
    slices = []
    for folder, saved in zip(folders, configs, strict=True):
        folder.check_same_data(task.source)
        members = task.members
        if saved.get("shard") is not None:
            number, count = slice_of(saved["shard"])
            members = members[number - 1 :: count]
        slices.append(Slice(folder, int(saved.get("chunk") or len(members)), members))
    count = max((count for _, count in shards), default=0)
    missing = [f"{k}/{count}" for k in range(1, count + 1) if (k, count) not in shards]
    return Run(RunFolder(path), task, slices, missing)


def _experiment_of(path: Path) -> tuple[str, type, Callable[..., Any]]:
    """The experiment's name, the type of the run's configuration, and what prepares it."""
    # results/<experiment>/<run>, or .../<run>/shards/<slice>, or .../<run>/<part>
    home = path.resolve().parent
    if home.parent.name in OF_PARTS:
        module = importlib.import_module(f"experiments.{home.parent.name}")
        return home.parent.name, module.PartConfig, module.prepare_part
    experiment = (home.parents[1] if home.name == "shards" else home).name
    if experiment not in EXPERIMENTS:
        known = [f"{name}/<run>" for name in EXPERIMENTS] + [f"{n}/<run>/<part>" for n in OF_PARTS]
        found = f"in a folder {experiment}/"
        raise UsageError(f"{path}: {found}; runs in {' or '.join(known)} can be evaluated")
    module = importlib.import_module(f"experiments.{experiment}")
    return experiment, module.Config, module.prepare


def _restored(
    sweep: Sweep, checkpoints: Checkpoints, members: list[Member]
) -> tuple[int, Population]:
    """The latest population that is whole, and the epoch it was saved after."""
    hypers, seeds = [m.hyper for m in members], [m.seed for m in members]

    def load(number: int) -> Population:
        # It may have been filled up, to a multiple of the devices it was trained on.
        shape = checkpoints.layout(number).get(".train.step", {}).get("shape") or [len(members)]
        lined_up = make_members(hypers, seeds, size=max(len(members), shape[0]))
        shapes = jax.eval_shape(sweep.init, place_members(lined_up, None))
        return checkpoints.restore(sharding.shapes_of(shapes, None, split=True), number)

    found = checkpoints.restore_latest(load)
    assert found is not None  # there is one: it was looked for
    for reason in found.set_aside:
        print(f"warning: {reason}; evaluated as after epoch {found.number}", file=sys.stderr)
    return found.number, found.state


def as_config(config_type: type, saved: dict[str, Any], path: Path) -> Any:
    """A dataclass from its JSON: lists as tuples, text as paths.

    Raises:
        UsageError: if there is no setting, one that is not known, or one of another type.
    """
    if not saved:
        raise UsageError(f"{path}/config.json: empty; the settings of a run are needed")
    hints = typing.get_type_hints(config_type)
    unknown = sorted(saved.keys() - hints.keys())
    if unknown:
        raise UsageError(f"{path}/config.json: no setting {unknown[0]!r} is known; another version")
    values = {}
    for name, value in saved.items():
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and Path in _options(hints[name]):
            value = Path(value)
        # Data that stood in for others are saved under a name that cannot be asked for.
        if name != "dataset" and not _fits(value, hints[name]):
            raise UsageError(f"{path}/config.json: {name} {saved[name]!r} is no value of its type")
        values[name] = value
    return config_type(**values)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of a setting, a tuple of one type; an int is a float too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if isinstance(value, bool):
        return hint is bool
    if origin is tuple and isinstance(value, tuple):
        return all(_fits(one, arguments[0]) for one in value)
    return isinstance(value, int | float if hint is float else origin or hint)


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)
