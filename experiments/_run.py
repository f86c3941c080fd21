"""What every experiment shares: its command line, and errors of one line."""

import ast
import contextlib
import io
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from experiments import started

Config = TypeVar("Config")


class UsageError(ValueError):
    """Something the user asked for cannot be had; the message is one line."""


class RefusedError(UsageError):
    """A `UsageError` that every process of a distributed run raises at the same place."""


class Interrupted(Exception):
    """The user stopped the run; the message says how to go on."""


def main(config_type: type[Config], run: Callable[[Config], None], prog: str) -> None:
    """Parse the command line, run the experiment, and turn errors into exit codes.

    Args:
        config_type: a frozen dataclass; its fields are the flags, its docstrings the help.
        run: the experiment.
        prog: how the experiment is called, `python -m experiments.mnist`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows no ±
    started()
    try:
        config = parse(config_type, prog)
        enable_compilation_cache()
        run(config)
    except (Exception, KeyboardInterrupt) as error:
        said = explained(error)
        if said is None:
            raise  # a bug: its traceback is what we want to see
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient third Ctrl-C
        print(said[0], file=sys.stderr)
        raise SystemExit(said[1]) from None


def explained(error: BaseException) -> tuple[str, int] | None:
    """What the user is told of an error, and the exit code; None for a bug.

    2 is for what the user can mend, 1 for what happened on the way, 130 for a stop.
    """
    from vae_jax.checkpoint import CheckpointError
    from vae_jax.data import DataError

    if isinstance(error, Interrupted):
        return str(error), 130
    if isinstance(error, KeyboardInterrupt):
        return "stopped at once; --resume goes on from the last checkpoint, if there is one", 130
    if isinstance(error, OSError):
        # A full or vanished disk in mid-run: earlier checkpoints stay good.
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror or error or type(error).__name__}", 1
    if isinstance(error, UsageError | CheckpointError | DataError):
        return f"error: {error}", 2
    # XLA's own error is a RuntimeError.
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        line = str(error).splitlines()[0][:160]
        hint = "--chunk trains fewer models at once, --batch-size takes fewer examples"
        return f"error: out of memory ({line}); {hint}", 1
    return None


def parse(config_type: type[Config], prog: str) -> Config:
    """The command line as a dataclass, by tyro.

    Raises:
        UsageError: one line, where tyro would draw a box.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config_type,
                prog=prog,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as stop:
        if stop.code != 2:
            raise
        raise UsageError(_unboxed(said.getvalue())) from None


def _unboxed(box: str) -> str:
    """One line of a box of tyro's: what was written, and what may be."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()[1:]]
    # Where the output is not UTF-8 the title stands above the first rule.
    parts = [list(part) for between, part in itertools.groupby(lines, _is_rule) if not between]
    said = re.sub(r"(?<=one of )\((.*)\)", _choices, " ".join(parts[0]).removesuffix("."))
    beside = {title: below[0] for title, *below in parts if below}
    if usage := beside.get("Argument helptext:"):
        return _unreadable(said, usage)
    meant = beside.get("Perhaps you meant:", "").partition(" ")[0]
    if meant and f"{meant} " not in said:  # not one that is only out of its place
        return f"{said}; perhaps you meant {meant}"
    return f"{said}; --help lists what is allowed"


def _unreadable(said: str, usage: str) -> str:
    """That a flag's value is not of its type.

    Args:
        said: "Error parsing --beta: Could not find valid parse for arguments: ['1', 'x']".
        usage: "--beta [FLOAT [FLOAT ...]]".
    """
    flag, _, kind = usage.partition(" ")
    numbers = {"INT": "a whole number", "FLOAT": "a number"}
    needed = next((words for name, words in numbers.items() if name in kind), kind)
    written = re.search(r"(?:: |from )(\[.*\]|'.*'|\".*\")$", said)
    try:
        values = as_words(ast.literal_eval(written[1] if written else ""))
    except (SyntaxError, ValueError):  # a control character, on which the box was broken
        return f"{said}; {needed} is needed"
    return f"{flag} {values}: {needed} is needed"


def _choices(listed: re.Match[str]) -> str:
    """What tyro offers for a flag, without the None that it refuses.

    Where there is one, the others come from a set, in another order each time.
    """
    names = listed[1].split(", ")
    if "'None'" in names:
        names = sorted(set(names) - {"'None'"})
    return f"({', '.join(names)})"


def _is_rule(line: str) -> bool:
    return not line.strip("─- ")


def enable_compilation_cache() -> None:
    """Let the next run of the same program skip XLA, unless the user has set a cache."""
    import jax

    from vae_jax.data import default_cache_dir

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir().parent / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def check(condition: bool, flag: str, value: object, allowed: str) -> None:
    """Refuse a setting in one line that names its value and what is allowed.

    Raises:
        UsageError: if the condition does not hold.
    """
    if not condition:
        raise UsageError(f"{flag} {value}: {allowed}")


def as_words(value: object) -> str:
    """A setting as it is written on the command line."""
    if value is None:
        return "(not given)"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float32, the type that models compute in."""
    return abs(value) <= 3.4028234663852886e38


def flag_of(field: str) -> str:
    """The command line's name for a field."""
    return "--" + field.replace("_", "-")


def check_counts(config: object, *fields: str, least: int = 1) -> None:
    """Refuse settings of whole numbers, each one or several, under the least that is allowed.

    Args:
        config: whose settings they are.
        fields: their names; one that is None was not given.
        least: that is allowed.

    Raises:
        UsageError: naming the value.
    """
    for field in fields:
        values = getattr(config, field)
        for value in values if isinstance(values, tuple) else (values,):
            fits = value is None or value >= least
            check(fits, flag_of(field), value, f"a whole number of {least} or more is needed")


def check_widths(widths: Sequence[int]) -> None:
    """Refuse hidden layers without a unit.

    Raises:
        UsageError: naming the value.
    """
    for width in widths:
        check(width >= 1, "--hidden", width, "widths of 1 or more are needed")


def check_once(flag: str, values: Sequence[object], needed: str = "at least one is needed") -> None:
    """Refuse choices of which there is none, or one twice.

    Raises:
        UsageError: naming the value.
    """
    check(len(values) > 0, flag, "(nothing)", needed)
    for value in values:
        check(values.count(value) == 1, flag, value, "given twice")


def check_members(flag: str, values: Sequence[float], allowed: str, low: float) -> None:
    """Refuse an empty, repeated, too small or non-finite swept setting.

    Raises:
        UsageError: naming the value.
    """
    check(len(values) > 0, flag, "(nothing)", "at least one value is needed")
    for value in values:
        check(is_finite(value) and value >= low, flag, value, allowed)
        # Two numbers that are one in float32 would train the same model twice.
        kind = int if isinstance(value, int) else np.float32
        same = [other for other in values if kind(other) == kind(value)]
        check(len(same) == 1, flag, value, "given twice; members must differ")


def check_positive(
    flag: str, values: Sequence[float], allowed: str = "a finite number above 0 is needed"
) -> None:
    """Refuse a setting that must be above 0, as `check_members` does.

    One under the smallest normal float32 counts as 0, which is what a device may make of it.

    Raises:
        UsageError: naming the value.
    """
    check_members(flag, values, allowed, low=float(np.finfo(np.float32).tiny))


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that are repeated, negative or too large; those from 2^31 are not for users.

    Raises:
        UsageError: naming the value.
    """
    check_members("--seed", seeds, "a whole number of 0 or more is needed", low=0)
    for seed in seeds:
        check(seed < 2**31, "--seed", seed, "a number under 2^31 is needed")
