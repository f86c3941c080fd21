"""What every experiment can be told about how to run, whatever it trains."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments._folder import RunFolder
from experiments._run import UsageError, as_words, check, check_counts, flag_of

LONGEST_NAME = 120  # characters of a run's name


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a sweep is run: where, how long, on which devices and machines.

    Those of `NOT_THE_MODEL` may change on resuming.
    """

    epochs: int = 20
    """Passes through the training data."""
    output_dir: Path = Path("results")
    """The run's folder is made in <experiment>/ below it."""
    name: str | None = None
    """Name of the run's folder; made from the settings without it."""
    overwrite: bool = False
    """Replace a run of the same name."""
    resume: bool = False
    """Go on with a run of the same name from its latest checkpoints, to the same bits."""
    requeue: bool = False
    """Start a run, or go on with it if it was started: for schedulers that run a job again. A
    finished run then ends with 0 even if a model diverged."""
    checkpoint_every: int = 5
    """Epochs between checkpoints; the last epoch always has one."""
    figures: Literal["first_seed", "all", "none"] = "first_seed"
    """Models with figures of their own; a sweep has those of all of them together."""
    execution: Literal["auto", "map", "vmap"] = "auto"
    """map: one model after the other in one program, to the same bits as alone; vmap: all at
    once. auto: map on a CPU, vmap on an accelerator and for the small models of tables."""
    chunk: int | None = None
    """Models in the program at once; as many as fit the memory without it."""
    shard: str | None = None
    """3/16 trains the third of sixteen slices of the grid, to be joined by --merge."""
    merge: Path | None = None
    """Folder of a run of which slices were trained: joins them into one report."""
    launch: Literal["slurm", "local"] | None = None
    """Submit --slices jobs, one for each slice, and join them when they are done."""
    slices: int | None = None
    """Slices that --launch cuts the grid into."""
    launch_options: tuple[str, ...] = ()
    """Of the jobs, as name=value: timeout_min=240 slurm_partition=gpu gpus_per_node=1."""
    distributed: bool = False
    """This is one of several processes that train the sweep together; each runs the same
    command. They are found from Slurm, Kubernetes or a TPU, or by the next three, and waited
    for 300 seconds, or VAE_JAX_JOIN_SECONDS."""
    coordinator: str | None = None
    """host:port at which process 0 can be reached."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Which one this is, from 0."""
    heartbeat: int = 100
    """Seconds without a sign of life after which a process counts as lost."""


def check_options(options: RunOptions, experiment: str) -> None:
    """Refuse what cannot be run, before anything is read or written.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_counts(options, "epochs", "checkpoint_every", "chunk", "slices")
    if options.name is not None:
        RunFolder.at(options.output_dir, experiment, options.name)
    chosen = [
        flag_of(flag) for flag in ("overwrite", "resume", "requeue") if getattr(options, flag)
    ]
    check(len(chosen) < 2, " ".join(chosen[:1]), " ".join(chosen[1:]), "only one of them")
    if options.shard is not None:
        slice_of(options.shard)
    _check_launch(options)
    _check_distributed(options)


def slice_of(shard: str) -> tuple[int, int]:
    """`3/16` as (3, 16).

    Raises:
        UsageError: if it is not a slice.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    allowed = "a slice such as 3/16 is needed, from 1/16 to 16/16"
    check(match is not None, "--shard", shard, allowed)
    number, slices = map(int, shard.split("/"))
    check(1 <= number <= slices, "--shard", shard, f"1/{slices} to {slices}/{slices} is allowed")
    return number, slices


def folder_name(parts: Sequence[str]) -> str:
    """The name of a run's folder: what was trained on, and settings.

    Args:
        parts: the data's name, of which what a folder's name cannot have becomes `_`, then the
            settings that stand in it.

    Returns:
        The parts, joined.

    Raises:
        UsageError: if that is too long for a folder.
    """
    data, *settings = parts
    safe = re.sub(r"[^A-Za-z0-9._+]+", "_", data).strip("._") or "data"
    name = "-".join([safe, *settings])
    if len(name) > LONGEST_NAME:
        raise UsageError(f"--name: the settings make one of {len(name)} characters; give a shorter")
    return name


def _check_launch(options: RunOptions) -> None:
    if options.launch is None:
        for field in ("slices", "launch_options"):
            value = getattr(options, field)
            check(not value, flag_of(field), as_words(value), "belongs to --launch")
        return
    check(options.slices is not None, "--launch", options.launch, "--slices is needed with it")
    for field in ("shard", "merge", "distributed", "resume", "overwrite"):
        value = getattr(options, field)
        check(not value, "--launch", options.launch, f"not together with {flag_of(field)}")
    for option in options.launch_options:
        named = re.fullmatch(r"[a-z][a-z0-9_]*=.+", option) is not None
        check(named, "--launch-options", option, "name=value is needed")


def _check_distributed(options: RunOptions) -> None:
    addresses = ("coordinator", "num_processes", "process_id")
    given = [field for field in addresses if getattr(options, field) is not None]
    if not options.distributed:
        given += ["heartbeat"] if options.heartbeat != RunOptions.heartbeat else []
        for field in given:
            check(False, flag_of(field), getattr(options, field), "belongs to --distributed")
        return
    complete = len(given) in (0, 3)
    missing = " ".join(flag_of(field) for field in addresses if field not in given)
    check(complete, "--distributed", " ".join(map(flag_of, given)), f"{missing} is missing")
    check(options.heartbeat >= 1, "--heartbeat", options.heartbeat, "1 second or more is needed")
    if given:
        address, count, number = (getattr(options, field) for field in addresses)
        port = re.fullmatch(r".+:(\d{1,5})", address)
        usable = port is not None and 0 < int(port[1]) < 2**16
        check(usable, "--coordinator", address, "host:port is needed")
        check_counts(options, "num_processes")
        check(0 <= number < count, "--process-id", number, f"0 to {count - 1} is allowed")
