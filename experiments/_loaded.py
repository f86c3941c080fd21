"""A run that is on the disk: its configuration, its data and its trained models."""

import dataclasses
import importlib
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments._grid import Member
from experiments._options import slice_of
from experiments._run import RunFolder, UsageError, check
from experiments._sweep import Task
from experiments._train import chunks_of
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

EXPERIMENTS = ("mnist", "tabular")
OF_PARTS = ("iwae",)  # experiments whose runs are made of several


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


class Run(NamedTuple):
    """A run on the disk.

    Attributes:
        folder: where it is.
        task: what it trained, the data loaded.
        chunk: models of a checkpoint.
        members: those that it trained.
    """

    folder: RunFolder
    task: Task
    chunk: int
    members: list[Member]

    def models(self) -> Iterator[Loaded]:
        """Its models, chunk by chunk, from the latest checkpoints.

        Raises:
            UsageError: if there is no checkpoint.
            CheckpointError: if one is damaged or of another model.
        """
        sweep = make_sweep(self.task.trainer, self.task.evaluate, execution="map")
        plan = plan_chunks(len(self.members), chunk=self.chunk)
        chunks = chunks_of(plan, self.members, self.folder.checkpoints)
        for chunk in chunks:  # before the first is evaluated
            with Checkpoints(chunk.folder / "states", writes=False) as checkpoints:
                if checkpoints.latest is None:
                    raise UsageError(f"{chunk.folder}: there is no checkpoint to evaluate")
        for chunk in chunks:
            with Checkpoints(chunk.folder / "states", writes=False) as checkpoints:
                epoch = checkpoints.latest or 0
                population = _restored(sweep, checkpoints, epoch, chunk.members)
            causes = np.asarray(population.status.cause)
            for index, member in enumerate(chunk.members):
                cause = CAUSES[causes[index]]
                problem = f"diverged ({cause} not finite)" if cause else None
                yield Loaded(member, sweep.pick(population, index), epoch, problem)


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
    folder = RunFolder(path)
    if (path / "shards").is_dir():
        raise UsageError(f"{path}: cut into slices; evaluate one of them, in shards/")
    if not (path / "config.json").is_file():
        raise UsageError(f"{path}: not a run (no config.json)")
    if not folder.checkpoints.is_dir():
        raise UsageError(f"{path}: no checkpoints in it; they are needed")
    # results/<experiment>/<run>, or .../<run>/shards/<slice>, or .../<run>/<part>
    home = path.resolve().parent
    experiment = (home.parents[1] if home.name == "shards" else home).name
    is_part = home.parent.name in OF_PARTS
    experiment = home.parent.name if is_part else experiment
    if not (is_part or experiment in EXPERIMENTS):
        known = [f"{name}/<run>" for name in EXPERIMENTS] + [f"{n}/<run>/<part>" for n in OF_PARTS]
        found = f"in a folder {experiment}/"
        raise UsageError(f"{path}: {found}; runs in {' or '.join(known)} can be evaluated")
    module = importlib.import_module(f"experiments.{experiment}")
    config_type = module.PartConfig if is_part else module.Config
    prepare = module.prepare_part if is_part else module.prepare
    saved = folder.read_json("config.json")
    config = _as_config(config_type, saved, path)
    if data_dir is not None:
        has_folder = hasattr(config, "data_dir")
        check(has_folder, "--data-dir", data_dir, f"a run of {experiment} has no data folder")
        config = dataclasses.replace(config, data_dir=data_dir)
    config, task = prepare(config)
    _check_data(folder, task)
    members = task.members
    if config.shard is not None:
        number, slices = slice_of(config.shard)
        members = members[number - 1 :: slices]
    return Run(folder, task, int(saved.get("chunk") or len(members)), members)


def _restored(
    sweep: Sweep, checkpoints: Checkpoints, epoch: int, members: list[Member]
) -> Population:
    # It may have been filled up, to a multiple of the devices it was trained on.
    shape = checkpoints.layout(epoch).get(".train.step", {}).get("shape") or [len(members)]
    hypers, seeds = [m.hyper for m in members], [m.seed for m in members]
    lined_up = make_members(hypers, seeds, size=max(len(members), shape[0]))
    shapes = jax.eval_shape(sweep.init, place_members(lined_up, None))
    return checkpoints.restore(sharding.shapes_of(shapes, None, split=True), epoch)


def _as_config(config_type: type, saved: dict[str, Any], path: Path) -> Any:
    """A dataclass from its JSON: lists as tuples, text as paths."""
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
        values[name] = value
    return config_type(**values)


def _options(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _check_data(folder: RunFolder, task: Task) -> None:
    """Refuse data that are not those the run was trained on."""
    if not (folder.path / "provenance.json").exists():
        print(
            f"warning: {folder.path}: stopped before its end, so it is not known whether the data "
            "are still those it was trained on",
            file=sys.stderr,
        )
        return
    trained_on = folder.read_json("provenance.json")["runs"][-1]["data"]
    if trained_on.get("sha256") != task.source.get("sha256"):
        raise UsageError(
            f"{folder.path}: trained on other data ({trained_on.get('source')}) than there are now "
            f"({task.source.get('source')}): their SHA-256 differ"
        )
