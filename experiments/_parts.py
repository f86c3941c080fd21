"""Experiments of several runs: the panels of a figure, the rows of a table.

Models whose shapes differ cannot be one program. Each group of equal shape is a part: a run of
its own, in `results/<experiment>/<run>/<part>/`, through the runner of every experiment. What
they come to together is written beside them.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

from experiments._folder import NOT_THE_MODEL, RunFolder, as_json
from experiments._options import RunOptions
from experiments._report import Result
from experiments._run import check, check_counts, check_seeds, flag_of, is_finite
from experiments._shards import results_in
from experiments._sweep import Task, run_sweep
from vae_jax import sharding

Budget = Literal["smoke", "cpu", "full"]
Options = TypeVar("Options", bound="PartsOptions")


@dataclasses.dataclass(frozen=True)
class PartsOptions:
    """How an experiment of several runs is run.

    Attributes:
        LENGTH: the name of the field that replaces the budget's own length of training, such as
            `epochs`; the field is None where no other length was asked for.
        PARTS: the names of the fields that say which parts there are. A run that is resumed
            may be given more of them.
    """

    LENGTH: ClassVar[str]
    PARTS: ClassVar[tuple[str, ...]]

    budget: Budget = "cpu"
    """smoke: a minute or three, to see that it runs; cpu: for two cores; full: as published."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the weights, the shuffling and the noise."""
    output_dir: Path = Path("results")
    """The run's folder is made in <experiment>/ below it."""
    name: str | None = None
    """Name of the run's folder; without it the budget, and the length if that is another."""
    overwrite: bool = False
    """Replace a run of the same name."""
    resume: bool = False
    """Go on with a run of the same name: parts that are done stay as they are, and there may be
    more of them than before."""
    checkpoint_every: int = 5
    """Rows of metrics.csv between checkpoints; the last one of a part always has one."""
    data_dir: Path | None = None
    """Folder with the data, VAE_JAX_DATA without it."""

    @property
    def length(self) -> float | None:
        """The length of training that was asked for in place of the budget's."""
        return getattr(self, self.LENGTH)

    @property
    def folder(self) -> str:
        """The name of the run's folder: `cpu`, or `cpu-epochs30`."""
        length = "" if self.length is None else f"-{self.LENGTH}{self.length:.0f}"
        return self.name or f"{self.budget}{length}"

    def words(self, unit: str, published: float) -> str:
        """What was run, for a title: `budget cpu`, or `budget cpu, 30 of 3,280 epochs`.

        Args:
            unit: what the length counts.
            published: how many of them the paper has.
        """
        if self.length is None:
            return f"budget {self.budget}"
        return f"budget {self.budget}, {self.length:,.0f} of {published:,.0f} {unit}"


class Part(NamedTuple):
    """One run of several.

    Attributes:
        config: its own configuration, which is all that there is to know of it.
        task: what it trains, under the configuration's name.
    """

    config: RunOptions
    task: Task


def check_parts(options: PartsOptions, experiment: str) -> None:
    """Refuse what cannot be run, before anything is read or written.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_seeds(options.seed)
    check_counts(options, "checkpoint_every")
    check(not (options.overwrite and options.resume), "--overwrite", "--resume", "only one of them")
    _whole(options, experiment)


def check_length(options: Options, usual: float, most: float, step: int = 1) -> Options:
    """Refuse a length of training that is too short, too long or no whole number of steps.

    Args:
        options: as given.
        usual: the budget's own length.
        most: the longest that is allowed: the paper's.
        step: of what it must be a multiple.

    Returns:
        The options; the budget's own length, where it was given, counts as not given.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    length = options.length
    if length is None:
        return options
    allowed = f"a {'whole number' if step == 1 else f'multiple of {step:,}'} from {step:,} to "
    whole = is_finite(length) and step <= length <= most and length % step == 0
    check(whole, flag_of(options.LENGTH), length, f"{allowed}{most:,.0f} is needed")
    return dataclasses.replace(options, **{options.LENGTH: None}) if length == usual else options


def part_settings(options: PartsOptions, part: str, passes: int = 1) -> dict[str, Any]:
    """What every part is told of how to run: fields of `RunOptions`.

    Args:
        options: of the whole.
        part: the name of the part, and of its folder.
        passes: epochs between two rows of its `metrics.csv`.

    Returns:
        The fields by name.
    """
    return {
        "name": part,
        "resume": options.resume,
        "checkpoint_every": options.checkpoint_every * passes,
    }


def start_parts(options: PartsOptions, experiment: str) -> RunFolder:
    """Make the folder of the whole, or take up one that was begun.

    Raises:
        UsageError: if the folder does not allow it, or a run to resume had other settings.
    """
    sharding.split_cpu(sharding.usable_cores())  # each part takes those it has use for
    folder = _whole(options, experiment)
    folder.check_free(overwrite=options.overwrite, resume=options.resume)
    if options.resume:
        _check_resumed(options, folder)
    with folder.usable():
        if options.overwrite and folder.path.exists():
            shutil.rmtree(folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_json("config.json", as_json(options))
    return folder


def run_parts(whole: RunFolder, parts: Sequence[Part]) -> list[list[Result]]:
    """Train the parts one after the other, each in a folder of its own in that of the whole.

    Args:
        whole: the folder of the whole run.
        parts: all that are to be trained; those that are done already are left as they are.

    Returns:
        The members of each part, from its files.

    Raises:
        UsageError: if a part was begun with other settings.
    """
    found = []
    for number, (config, task) in enumerate(parts, start=1):
        config = dataclasses.replace(config, output_dir=whole.path.parent)
        task = task._replace(experiment=whole.path.name)
        folder = RunFolder.at(config.output_dir, task.experiment, task.name)
        print(f"\n{number}/{len(parts)}  {task.title}", flush=True)
        if _is_done(folder, config):
            print(f"done before: {folder.path}", flush=True)
        else:
            begun = (folder.path / "config.json").is_file()
            config = dataclasses.replace(config, resume=config.resume and begun)
            with contextlib.suppress(SystemExit):  # a member diverged: its results say so
                run_sweep(config, task)
        found.append(results_in(folder))
    return found


def _check_resumed(options: PartsOptions, folder: RunFolder) -> None:
    """Refuse other settings than those of before, or fewer parts.

    Raises:
        UsageError: naming the first difference.
    """
    saved = folder.read_json("config.json")
    fewer = set()
    for field in options.PARTS:
        # None is whatever there was then: it may be other parts now.
        before, now = saved.get(field), getattr(options, field)
        if before is None or now is None or not set(before) <= set(now):
            fewer.add(field)
    # A schedule hangs on the length of training: going on for longer would be another run.
    may_differ = NOT_THE_MODEL - {options.LENGTH} | set(options.PARTS) - fewer
    folder.check_same_model(options, but=may_differ)


def _whole(options: PartsOptions, experiment: str) -> RunFolder:
    return RunFolder.at(options.output_dir, experiment, options.folder)


def _is_done(folder: RunFolder, config: RunOptions) -> bool:
    """Whether an earlier start of the same part came to its end."""
    if not (config.resume and (folder.path / "summary.json").is_file()):
        return False
    saved = folder.read_json("config.json")
    # What was left to the machine is what the machine chose then.
    chosen = {field: saved.get(field) for field in ("execution", "chunk")}
    folder.check_same_model(dataclasses.replace(config, **chosen))
    return True
