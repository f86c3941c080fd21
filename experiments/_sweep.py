"""From an experiment's models to a finished run: every experiment goes through here."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments._chunks import chunks_of, described_plan, plan_of, useful_devices
from experiments._folder import NOT_THE_MODEL, RunFolder, as_json, filled_up, first_difference
from experiments._grid import Member
from experiments._options import RunOptions, slice_of
from experiments._program import Loop
from experiments._report import Result, markdown, result_of, show, summary
from experiments._report_figures import draw
from experiments._run import RefusedError, UsageError, as_words, check, flag_of
from experiments._saved import saved_rows
from experiments._train import Trained, train
from vae_jax import sharding
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.sweep import Data, Evaluate, Execution, Plan, make_sweep
from vae_jax.train import Trainer
from vae_jax.types import Params

# What may differ between the slices of one sweep.
OF_A_SLICE = (NOT_THE_MODEL - {"epochs"}) | {"shard", "chunk", "execution"}


class Task(NamedTuple):
    """What an experiment trains, and how it shows it.

    Attributes:
        experiment: its folder below `--output-dir`.
        name: of the run's folder.
        title: what is trained, for figures.
        table: the title of the closing table.
        about: what `summary.json` says of the numbers.
        members: the grid.
        vae: the model of all of them.
        preprocess: from a stored example to its x.
        trainer: of one model.
        evaluate: one model.
        data: the stored training examples, of which each member may have a part.
        test: the stored test examples, likewise.
        batch_size: examples in a minibatch.
        source: of the data, for the provenance.
        picture: `params -> pictures` to keep of some epochs, for experiments with images.
        draw: `(trained, folder)` draws one member's figures, for experiments that have some.
        measure: `(trained, run)` writes and draws what an experiment alone can tell of all
            its members together, and returns each one's further numbers, by name.
        conclude: `(run, results)` does so from the results, which it returns, and so can
            again when slices are joined.
        context: what the experiment's own commands need of a run that is loaded.
        passes: epochs between two rows of `metrics.csv`.
        execution: `--execution auto` on a CPU.
        compile_quickly: as of `make_sweep`.
        labels: the classes of the stored training and test examples, where there are any.
    """

    experiment: str
    name: str
    title: str
    table: str
    about: dict[str, Any]
    members: list[Member]
    vae: VAE
    preprocess: Preprocess
    trainer: Trainer
    evaluate: Evaluate
    data: Data
    test: Data
    batch_size: int
    source: dict[str, Any]
    picture: Callable[[Params], Any] | None = None
    draw: Callable[[Trained, Path], None] | None = None
    measure: Callable[[list[Trained], RunFolder], list[dict[str, float]]] | None = None
    conclude: Callable[[RunFolder, list[Result]], list[Result]] | None = None
    context: Any = None
    passes: int = 1
    execution: Execution = "map"
    compile_quickly: bool = False
    labels: tuple[np.ndarray, np.ndarray] | None = None


def run_sweep(config: RunOptions, task: Task) -> None:
    """Train, evaluate and draw the members of a task, or the slice of them that is asked for.

    Args:
        config: the experiment's configuration, with every default filled in.
        task: what it trains.

    Raises:
        UsageError: if a setting or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    problem: UsageError | None = None
    resume, members, folder = False, task.members, RunFolder(Path())
    execution, useful = task.execution, 1
    try:
        members = _slice(config, task.members)
        folder = _folder(config, task)
        resume = config.resume or (config.requeue and (folder.path / "config.json").is_file())
        folder.check_free(overwrite=config.overwrite, resume=resume)
        before = folder.read_json("config.json") if resume else {}
        chunk = before.get("chunk") if config.chunk is None else config.chunk
        execution = _execution(config, before, task.execution)
        useful = useful_devices(len(members), (task.data, task.test), execution, chunk)
        if not config.distributed:
            sharding.split_cpu(min(sharding.usable_cores(), useful))
        if jax.default_backend() != "cpu":
            execution = _execution(config, before, "vmap")
        # A resumed run goes on as it was started, so that it ends in the same bits.
        config = dataclasses.replace(config, execution=execution, chunk=chunk)
        if resume:
            folder.check_same_model(config)
            folder.check_same_data(task.source)
    except UsageError as error:
        problem = error
    # Whatever one process finds wrong keeps all of them from starting.
    if sharding.any_of(problem is not None):
        raise RefusedError(str(problem or "another process refused to start"))
    what = as_json(config) | {"process_id": None, "output_dir": None, "data_dir": None}
    if not sharding.is_same_everywhere(repr((sorted(what.items()), task.source, resume))):
        raise RefusedError(
            "--distributed: the processes were started with other settings, data or folders"
        )

    loop, plan = _planned(config, task, members, execution, useful)
    chunks = chunks_of(plan, members, folder.checkpoints)
    saved = None
    if resume:
        saved = saved_rows(
            folder, [(c.members, c.folder) for c in chunks], config.epochs, task.passes
        )
    config = dataclasses.replace(config, chunk=plan.sizes[0])
    folder.create(config, overwrite=config.overwrite)
    folder.write_provenance(task.source, finished=False)
    if config.shard is not None:  # what was found of the whole is of its slices as they were
        shutil.rmtree(folder.path.parents[1] / "evaluation", ignore_errors=True)
    sharding.any_of(False)  # the folder is there for all
    print(f"{task.source['source']}\n{folder.path}", flush=True)
    if len(members) > 1:
        print(described_plan(plan, execution, sharding.num_shards(loop.mesh)), flush=True)

    first = {member.name for member in task.members if member.seed == task.members[0].seed}
    everyone = {member.name for member in task.members}
    drawn = {"first_seed": first, "all": everyone, "none": set()}[config.figures]
    drawn = drawn if task.measure is None else everyone
    trained = train(loop, chunks, folder, drawn=drawn, saved=saved)
    results = []
    if sharding.is_first():
        also = [{}] * len(trained) if task.measure is None else task.measure(trained, folder)
        results = [result_of(*pair) for pair in zip(trained, also, strict=True)]
        results = results if task.conclude is None else task.conclude(folder, results)
        for member in trained:
            if task.draw is not None and member.params is not None and member.rows:
                task.draw(member, folder.figures / member.member.name)
        finish(folder, results, title=task.title, table=task.table, about=task.about)
        folder.write_provenance(task.source)
        print(f"{', '.join(_left(folder))}: in {folder.path}")
    sharding.any_of(False)  # nobody leaves while the first one draws
    # A scheduler that asks for what is left of a run has nothing to run again.
    if any(member.problem for member in trained) and not config.requeue:
        raise SystemExit(1)


def finish(
    folder: RunFolder,
    results: list[Result],
    *,
    title: str,
    table: str,
    about: dict[str, Any],
    missing: Sequence[str] = (),
) -> None:
    """Write the summary, the table and the figures of a whole sweep, and print the table."""
    said = {"title": title, "table": table, **about}
    folder.write_text("table.md", markdown(table, results, missing))
    folder.write_json("summary.json", {**said, **summary(results)})
    # A model of images draws its own curves; one of a table has none but these.
    if len(results) > 1 or about.get("example") == "row":
        draw(results, folder.path, title=title, example=about.get("example", "image"))
    show(table, results, missing)


def _slice(config: RunOptions, members: list[Member]) -> list[Member]:
    """The members of the slice that is asked for: every sixteenth, so that slices are alike."""
    if config.shard is None:
        return members
    number, slices = slice_of(config.shard)
    allowed = f"the grid has {len(members)} models; at most as many slices are allowed"
    check(slices <= len(members), "--shard", config.shard, allowed)
    return members[number - 1 :: slices]


def _folder(config: RunOptions, task: Task) -> RunFolder:
    run = RunFolder.at(config.output_dir, task.experiment, task.name)
    path = run.path
    if config.shard is not None:
        check_slices(run, slice_of(config.shard)[1], config)
        path = path / "shards" / config.shard.replace("/", "-of-")
    else:
        with run.usable():
            if (path / "shards").exists():
                raise UsageError(
                    f"{path}: slices of a sweep are in it; --merge joins them, --name gives "
                    "another name"
                )
    # Asking which process this is starts JAX, before its devices are chosen.
    return RunFolder(path, writes=not config.distributed or sharding.is_first())


def check_slices(run: RunFolder, slices: int, config: RunOptions | None = None) -> None:
    """Refuse to cut a run into slices that was not, or into others than those that it has.

    A slice of another sweep is refused before it is trained, not when the slices are joined.

    Raises:
        UsageError: saying which.
    """
    hint = "--name gives another name"
    with run.usable():
        if run.checkpoints.exists():
            raise UsageError(f"{run.path}: this run was not cut into slices; {hint}")
        for folder in sorted((run.path / "shards").glob("*-of-*")):
            if folder.name.rpartition("-of-")[2] != str(slices):
                found = f"its slice {folder.name} is not one of {slices}"
                raise UsageError(f"{run.path}: {found}; {hint}")
            own = config is None or folder.name == (config.shard or "").replace("/", "-of-")
            if not own and (folder / "config.json").is_file():
                saved = filled_up(RunFolder(folder).read_json("config.json"), config)
                different = first_difference(saved, as_json(config), but=OF_A_SLICE)
                if different is not None:
                    field, there, now = different
                    raise UsageError(
                        f"{flag_of(field)} {as_words(now)}: slice {folder.name} in {run.path} is "
                        f"of a sweep with {as_words(there)}; {hint}"
                    )


def _planned(
    config: RunOptions, task: Task, members: list[Member], execution: Execution, useful: int
) -> tuple[Loop, Plan]:
    """What trains the members, and in which chunks: on a CPU with as many devices as fit."""
    may_choose = jax.default_backend() == "cpu" and not config.distributed
    devices = jax.devices()[:useful] if may_choose else jax.devices()
    while True:
        loop = _loop(config, task, execution, sharding.member_mesh(devices))
        plan = plan_of(loop, members)
        if plan.fits or not may_choose or len(devices) == 1:
            return loop, plan
        devices = devices[: len(devices) // 2]


def _loop(config: RunOptions, task: Task, execution: Execution, mesh: sharding.Mesh | None) -> Loop:
    sweep = make_sweep(
        task.trainer,
        task.evaluate,
        execution=execution,
        mesh=mesh,
        passes=task.passes,
        compile_quickly=task.compile_quickly,
    )
    return Loop(
        sweep=sweep,
        mesh=mesh,
        data=task.data,
        test=task.test,
        picture=task.picture,
        epochs=config.epochs,
        passes=task.passes,
        batch_size=task.batch_size,
        checkpoint_every=config.checkpoint_every,
        chunk=config.chunk,
        programs={},
    )


def _execution(config: RunOptions, before: dict[str, Any], default: Execution) -> Execution:
    """What was asked for, or else that of a run to go on with, or else the device's usual one."""
    said = config.execution
    said = before.get("execution", default) if said == "auto" else said
    check(said in ("map", "vmap"), "--execution", said, "map or vmap is needed")
    return "vmap" if said == "vmap" else "map"


def _left(folder: RunFolder) -> list[str]:
    names = ("figures", "metrics.csv", "summary.json", "table.md", "comparison.md", "anomaly.md")
    return [name for name in names if (folder.path / name).exists()]
