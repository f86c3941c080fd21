"""How the benchmark measures, and how it writes down what it measured and where."""

import importlib.metadata
import itertools
import operator
import os
import platform
import re
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

from experiments._folder import RunFolder
from experiments._progress import print_table
from experiments._report import markdown_table
from vae_jax import figures, sharding

# Seconds, `[turns][calls in a turn]`.
Turns = list[list[float]]
# Processors kept busy by others: more is worth a warning.
QUIET = 0.1
# Letters in a line of a figure: of the name of a row, and of the one that it is compared with,
# which is as wide as the numbers above it.
LABEL_WIDTH, NAME_WIDTH = 28, 20


def seconds_of(work: Callable[[], object]) -> float:
    """Wall time of a call, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(
    measures: Mapping[str, Callable[[], float]], *, turns: int, calls: int = 1
) -> dict[str, Turns]:
    """Let each measure have its turn, again and again, and print every time.

    A measure returns its seconds. Who begins rotates, so that nobody always runs behind the
    same neighbour.
    """
    names = list(measures)
    seconds: dict[str, Turns] = {name: [] for name in names}
    for turn in range(turns):
        begin = turn % len(names)
        for name in names[begin:] + names[:begin]:
            seconds[name].append([measures[name]() for _ in range(calls)])
            told = " ".join(f"{value:.3f}" for value in seconds[name][-1])
            print(f"turn {turn + 1}/{turns}  {name}  {told} s", flush=True)
    return seconds


def flat(turns: Turns) -> list[float]:
    """The times of all turns in one list."""
    return list(itertools.chain.from_iterable(turns))


def spread(turns: Turns) -> dict[str, Any]:
    """Every time and what sums them up, in seconds."""
    times = flat(turns)
    return {
        "seconds": turns,
        "median_seconds": statistics.median(times),
        "min_seconds": min(times),
        "max_seconds": max(times),
    }


def compared(turns: Turns, reference: Turns) -> dict[str, float]:
    """How many times as long as a reference it took: above 1 is slower.

    Args:
        turns: seconds.
        reference: the seconds to compare with, of as many turns.

    Returns:
        The ratio of the medians over all calls; and the median and the range over the turns of
        the ratio of a turn's means, which what slows both in the same turn leaves alone.
    """
    both = map(statistics.fmean, turns), map(statistics.fmean, reference)
    ratios = [*map(operator.truediv, *both)]
    return {
        "ratio_of_medians": statistics.median(flat(turns)) / statistics.median(flat(reference)),
        "median_of_turn_ratios": statistics.median(ratios),
        "min_of_turn_ratios": min(ratios),
        "max_of_turn_ratios": max(ratios),
    }


def ratio_in_words(ratio: Mapping[str, float]) -> str:
    """The median and the range of what `compared` found: `1.45 (1.31 to 1.94)`."""
    middle, low, high = (ratio[f"{which}_of_turn_ratios"] for which in ("median", "min", "max"))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def times_in_words(ratio: Mapping[str, float], other: str) -> str:
    """`1.45 (1.31 to 1.94) x ours`."""
    return f"{ratio_in_words(ratio)} x {other}"


class Bystanders:
    """How much of the processors other processes take while something is measured.

    PyTorch's threads wait for each other by spinning: one busy neighbour on two cores makes
    its epoch ten times as long, and a comparison worthless.
    """

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[float, float] | None:
        """Wall time, and processor time of everybody else since the machine started."""
        try:
            line = Path("/proc/stat").read_text("utf-8").splitlines()[0]
        except OSError:  # only Linux tells
            return None
        user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.perf_counter(), busy - sum(os.times()[:4])

    def share(self) -> float | None:
        """Processors that others kept busy since this was made, on average; None if unknown."""
        now = self._now()
        if now is None or self._before is None:
            return None
        return max(0.0, (now[1] - self._before[1]) / (now[0] - self._before[0]))


def machine(bystanders: Bystanders) -> dict[str, Any]:
    """What the times depend on: processor, threads, neighbours and versions; no names.

    Prints a warning if others were busy since the bystanders were made.
    """
    busy = bystanders.share()
    if busy is not None and busy > QUIET:
        print(
            f"warning: other processes kept {busy:.2f} processors busy; measure again on an "
            "idle machine",
            file=sys.stderr,
        )
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text("utf-8") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    torch = sys.modules.get("torch")
    packages = ["jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn"]
    packages += [name for name in ("torch", "pythae") if name in sys.modules]
    versions = {name: importlib.metadata.version(name) for name in packages}
    gpu = jax.default_backend() == "gpu"
    return {
        "cpu_model": model[1] if model else platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "device": jax.devices()[0].device_kind if gpu else None,
        "threads": sharding.num_cores(),
        "cpus_busy_with_others": None if busy is None else round(busy, 3),
        "NPROC": os.environ.get("NPROC"),
        "torch_threads": torch.get_num_threads() if torch else None,
        "versions": {"python": platform.python_version(), **versions},
    }


def write_results(
    files: Path,
    title: str,
    result: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    *notes: str,
) -> None:
    """Write the result to `<files>.json`, and a table to `<files>.md` and the terminal.

    A row is `{column: cell}`; the first column holds names, the others numbers. Below the table
    come the notes, a paragraph each, and a last one on the `machine` of the result.
    """
    RunFolder(files.parent).write_json(f"{files.name}.json", result)
    columns, cells = list(rows[0]), [list(row.values()) for row in rows]

    on = result["machine"]
    about = [f"{on['cpu_model']}, {on['cpu_count']} cores, {on['memory_bytes'] / 1e9:.0f} GB"]
    if on["device"]:
        about.append(on["device"])
    about.append(f"{on['threads']} threads of XLA (NPROC {on['NPROC'] or 'not set'})")
    if on["torch_threads"]:
        about.append(f"{on['torch_threads']} PyTorch threads")
    if on["cpus_busy_with_others"] is not None:
        about.append(f"{on['cpus_busy_with_others']:.2f} processors busy with other processes")
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())

    body = markdown_table(columns, cells, numbers_right=True)
    paragraphs = [f"# {title}", body, *notes, f"{', '.join(about)}; {versions}."]
    files.with_suffix(".md").write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
    print_table(title, columns, cells)


def against_first(rows: Iterable[str]) -> dict[str, str]:
    """That every row but the first is compared with it, as `single_figure` is told."""
    first, *others = rows
    return dict.fromkeys(others, first)


def single_figure(
    title: str,
    turns: Mapping[str, Turns],
    what: str = "seconds per epoch on the CPU: median, range, and every epoch",
    *,
    others: Mapping[str, str] | None = None,
) -> Figure:
    """A row for each peer, the first in a colour of its own: range, every epoch, and median.

    Args:
        title: above.
        turns: of each row, by its name.
        what: the times are, below.
        others: rows that some are compared with, by their names: how many times as long these
            take (`compared`) is written beside them, of the first row or else of the one named.
    """
    figure = Figure(figsize=(6.0, 1.0 + 0.5 * len(turns)), layout="constrained")
    axes = figure.add_subplot()
    first, *_ = turns
    for row, (name, seconds) in enumerate(turns.items()):
        times = flat(seconds)
        median = statistics.median(times)
        color = figures.BLUE if row == 0 else figures.VERMILION
        axes.hlines(row, min(times), max(times), color=color, linewidth=5, alpha=0.25)
        axes.plot(times, [row] * len(times), "|", color=color, markersize=8)
        axes.plot(median, row, "o", color=color, markersize=6)
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center"}
        told = f"{median:.2f} s" if median >= 1 else f"{median:.3g} s"
        axes.annotate(told, (median, row), fontsize=8, **above)
        other = (others or {}).get(name)
        if other is not None:
            named = [] if other == first else textwrap.wrap(f"of {other}", NAME_WIDTH)
            beside = "\n".join([_times_as_long(compared(seconds, turns[other])), *named])
            right = {"transform": axes.get_yaxis_transform(), "va": "center"}
            axes.text(1.02, row, beside, fontsize=8, color="0.3", **right)
    if others:
        what += f"\nx: times as long as {first}, median and range within a turn"
    wrapped = [textwrap.fill(name, LABEL_WIDTH) for name in turns]
    axes.set_yticks(range(len(turns)), wrapped, fontsize=9)
    axes.set_ylim(len(turns) - 0.5, -0.7)  # the first row on top
    axes.set_xlim(0, 1.1 * max(max(flat(seconds)) for seconds in turns.values()))
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    # Of the figure's width, not of the axes': names and ratios may leave these little.
    figure.supxlabel(what, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure


def _times_as_long(ratio: Mapping[str, float]) -> str:
    """`1.51x (1.33–1.54)`: the median and the range of what `compared` found."""
    middle, low, high = (ratio[f"{which}_of_turn_ratios"] for which in ("median", "min", "max"))
    return f"{middle:.2f}x ({low:.2f}–{high:.2f})"
