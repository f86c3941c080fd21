"""A grid of models: trained here, or in slices as jobs of their own, and their joined report.

Members of a sweep do not talk to each other, so a cluster needs no more than a job array.
"""

import dataclasses
import itertools
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import ChainMap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments._distributed import connected
from experiments._folder import RunFolder, filled_up, first_difference, module_name
from experiments._options import RunOptions
from experiments._report import NUMBERS, Result
from experiments._run import Interrupted, UsageError, check, flag_of
from experiments._saved import parsed
from experiments._sweep import OF_A_SLICE, Task, check_slices, finish, run_sweep

POLL_SECONDS = 1.0
Conclude = Callable[[RunFolder, list[Result]], list[Result]]  # as of `Task`
Concluding = Callable[[list[RunFolder]], Conclude | None]
# Of submitit's constructor; its other settings are given afterwards.
AT_FIRST = ("slurm_max_num_timeout",)
Options = TypeVar("Options", bound=RunOptions)


def run_grid(
    config: Options,
    validate: Callable[[Options], Options],
    prepare: Callable[[Options], tuple[Options, Task]],
    concluding: Concluding | None = None,
) -> None:
    """Train a grid here, or launch its slices as jobs, or join them, as the configuration says.

    Args:
        config: as given.
        validate: refuses what cannot be trained, and fills in the defaults.
        prepare: loads the data and builds what is trained.
        concluding: see `merge`.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    if config.merge is not None:
        merge(config, concluding)
    elif config.launch is not None:
        launch(config, prepare(validate(config))[1])
    else:
        config = validate(config)
        with connected(config):
            run_sweep(*prepare(config))


def merge(config: RunOptions, concluding: Concluding | None = None) -> None:
    """Join the slices of a sweep that are done into one report, and name those that are not.

    Args:
        config: that says which.
        concluding: gives the `conclude` of the task that these slices are of, where it has one;
            it loads the data, which `--data-dir` may say the place of.

    Raises:
        UsageError: if there are no slices, or they are of different sweeps.
        SystemExit: with 1, when all is written, if a slice is missing or a member diverged.
    """
    assert config.merge is not None
    usual = type(config)()
    given = [
        flag_of(field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("merge", *(["data_dir"] if concluding else []))
        and getattr(config, field.name) != getattr(usual, field.name)
    ]
    allowed = f"without {' '.join(given)}; the slices know their settings"
    check(not given, "--merge", config.merge, allowed)
    join_slices(config, config.merge, concluding=concluding)


def join_slices(
    config: RunOptions,
    path: Path,
    failed: Sequence[str] = (),
    concluding: Concluding | None = None,
) -> None:
    """Write the report of a sweep from its slices, but for those that failed; see `merge`."""
    try:
        found = slices_in(path)
    except UsageError as error:
        raise UsageError(f"--merge {error}") from None
    slices = next(iter(found.values()))[1]
    done = {
        number: RunFolder(folder)
        for folder, (number, _) in found.items()
        if (folder / "summary.json").is_file() and f"{number}/{slices}" not in failed
    }
    missing = [f"{number}/{slices}" for number in range(1, slices + 1) if number not in done]
    if not done:
        raise UsageError(f"--merge {path}: none of its {slices} slices is done")
    shared, said = _common(path, list(done.values()), config)
    by_slice = {number: results_in(folder) for number, folder in done.items()}
    # Members were dealt to the slices in turn, and are gathered likewise.
    turns = itertools.zip_longest(*(by_slice.get(k + 1, ()) for k in range(slices)))
    results = [result for turn in turns for result in turn if result is not None]

    # Before anything is replaced: it may find that the data are others now.
    conclude = None if concluding is None else concluding(list(done.values()))
    folder = RunFolder(path)
    folder.write_json("config.json", shared)
    shutil.rmtree(path / "evaluation", ignore_errors=True)  # of the slices as they were
    folder.write_rows("metrics.csv", [row for result in results for row in result.rows])
    about = {**said, "missing_slices": missing}
    words = {key: about.pop(key) for key in ("title", "table")}
    results = results if conclude is None else conclude(folder, results)
    finish(folder, results, **words, about=about, missing=missing)
    folder.write_provenance({"slices": sorted(str(run.path.name) for run in done.values())})
    print(f"{len(done)} of {slices} slices, {len(results)} models: in {path}")
    if missing:
        print(f"missing: {' '.join(missing)}", file=sys.stderr)
    if missing or any(result.problem for result in results):
        raise SystemExit(1)


def slices_in(path: Path) -> dict[Path, tuple[int, int]]:
    """The folders of slices, each with its number and the number of slices.

    Raises:
        UsageError: if there are none, or they are of sweeps cut into different numbers.
    """
    found = {}
    for folder in sorted((path / "shards").glob("*-of-*")):
        match = re.fullmatch(r"(\d+)-of-(\d+)", folder.name)
        if match is not None:
            found[folder] = (int(match[1]), int(match[2]))
    if not found:
        if not path.is_dir():
            raise UsageError(f"{path}: there is no such folder")
        raise UsageError(f"{path}: there are no slices in it (no shards/ of --shard)")
    if (path / "checkpoints").exists():
        raise UsageError(f"{path}: a run that was not cut into slices is in it")
    counts = sorted({slices for _, slices in found.values()})
    if len(counts) > 1:
        several = " and ".join(map(str, counts))
        raise UsageError(f"{path}: its slices are of sweeps cut into {several}")
    return found


def _common(
    path: Path, runs: list[RunFolder], config: RunOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configuration that all slices share, and what their summaries say of it."""
    configs = [run.read_json("config.json") for run in runs]
    first, *others = (filled_up(saved, config) for saved in configs)
    for run, other in zip(runs[1:], others, strict=True):
        different = first_difference(first, other, but=OF_A_SLICE)
        if different is not None:
            field, one, another = different
            raise UsageError(
                f"--merge {path}: slices of different sweeps, {flag_of(field)} is "
                f"{one} in {runs[0].path.name} and {another} in {run.path.name}"
            )
    own = {"members", "diverged", "collapsed", "by_setting"}
    summary = runs[0].read_json("summary.json")
    said = {key: value for key, value in summary.items() if key not in own}
    saved = ChainMap(*configs)  # what one of an earlier version does not say, another may
    return {key: value for key, value in saved.items() if key != "shard"}, said


def results_in(run: RunFolder) -> list[Result]:
    """The members of a run that is done, from its files.

    Raises:
        UsageError: if they are damaged.
    """
    try:
        rows = [parsed(texts) for texts in run.read_rows("metrics.csv")]
        results = []
        for member in run.read_json("summary.json")["members"]:
            numbers = {name: member.pop(name) for name in (*NUMBERS, "kl_per_dim")}
            name, problem = member.pop("name"), member.pop("problem")
            # A number that is not finite is null in a file.
            also = {k: math.nan if v is None else v for k, v in member.pop("also").items()}
            own = [row for row in rows if row["member"] == name]
            epochs, first = member.pop("epochs"), own[0]["epoch"] if own else 1
            if [row["epoch"] for row in own] != list(range(first, epochs + 1, first)):
                raise ValueError(f"metrics.csv has {len(own)} rows of {name}")
            results.append(Result(name, member, own, numbers, problem, also))
        return results
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(f"{run.path}: damaged ({error})") from None


def launch(config: RunOptions, task: Task) -> None:
    """Submit every slice as a job of its own, wait for them, and join them.

    Args:
        config: as it was given on the command line.
        task: what it trains.

    Raises:
        UsageError: if submitit or the cluster cannot be used.
        Interrupted: on Ctrl-C; the jobs go on.
        SystemExit: with 1, if a slice failed or a member diverged.
    """
    try:
        import submitit
    except ImportError:
        needed = "submitit is needed: pip install -e '.[launch]'"
        raise UsageError(f"--launch {config.launch}: {needed}") from None
    slices = config.slices or 1
    allowed = f"the grid has {len(task.members)} models; at most as many slices are allowed"
    check(slices <= len(task.members), "--slices", slices, allowed)
    run = RunFolder.at(config.output_dir, task.experiment, task.name)
    check_slices(run, slices)
    try:
        options = dict(map(_parameter, config.launch_options))
        first = {name: options.pop(name) for name in AT_FIRST if name in options}
        folder = run.path / "jobs"
        executor = submitit.AutoExecutor(folder=folder, cluster=config.launch, **first)
        executor.update_parameters(**options)
        shards = [f"{number}/{slices}" for number in range(1, slices + 1)]
        command = [sys.executable, "-m", module_name(), *as_arguments(config)]
        jobs = executor.map_array(SliceJob(command), shards)
    except (RuntimeError, NameError, TypeError, ValueError) as error:
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"--launch {config.launch}: {line}") from None
    print(f"{slices} jobs, their logs in {executor.folder}:", flush=True)
    for job, shard in zip(jobs, shards, strict=True):
        print(f"  {job.job_id}: slice {shard}", flush=True)
    failed = _wait(dict(zip(shards, jobs, strict=True)), run.path)
    join_slices(config, run.path, failed, lambda _: task.conclude)


def _wait(jobs: dict[str, Any], path: Path) -> list[str]:
    """Say of every job when it ended, and how; the slices that failed."""
    left, failed = dict(jobs), []
    try:
        while left:
            for shard in [shard for shard, job in left.items() if job.done()]:
                problem = left.pop(shard).exception()
                failed += [shard] if problem is not None else []
                how = "done" if problem is None else f"failed ({_last_line(problem)})"
                print(f"slice {shard}: {how}, {len(left)} left", flush=True)
            if left:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        raise Interrupted(
            "the jobs go on; to join them when they are done:\n"
            f"  python -m {module_name()} --merge {path}"
        ) from None
    return failed


def _last_line(error: Exception) -> str:
    """What went wrong, from the trace that submitit hands on; below it is where its logs are."""
    above = str(error).partition("You can check full logs")[0]
    lines = [line for line in above.splitlines() if line.strip(" -")]
    return lines[-1].strip().removeprefix("RuntimeError: ") if lines else type(error).__name__


def _parameter(option: str) -> tuple[str, Any]:
    name, _, value = option.partition("=")
    return name, int(value) if value.isdigit() else value


def as_arguments(config: RunOptions) -> list[str]:
    """The command line that gives a configuration, without what launches it."""
    words = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in ("launch", "slices", "launch_options", "requeue"):
            continue
        if value == field.default:
            continue
        words.append(flag_of(field.name))
        if not isinstance(value, bool):
            words += map(str, value) if isinstance(value, tuple) else [str(value)]
    return words


class SliceJob:
    """A slice as a job that may be preempted and queued again.

    Args:
        command: trains it, but for `--shard`.
    """

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __call__(self, shard: str) -> None:
        """Train a slice, from its latest checkpoint if it was begun.

        Raises:
            RuntimeError: if it ends with an error; the message is its last line.
        """
        command = [*self._command, "--shard", shard, "--requeue"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as self._child:
            said = ""
            for line in self._child.stderr or ():
                print(line, end="", file=sys.stderr, flush=True)
                said = line.strip() or said
        if self._child.returncode != 0:
            raise RuntimeError(said or f"exit code {self._child.returncode}")

    def checkpoint(self, shard: str) -> Any:
        """Called before the time is up: let the epoch end and be saved, and queue again."""
        import submitit

        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._child.kill()  # the latest checkpoint stays good
        return submitit.helpers.DelayedSubmission(SliceJob(self._command), shard)
