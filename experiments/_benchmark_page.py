"""One page of what all jobs measured and what became of their goals."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments._benchmark_job import Goal, number
from experiments._folder import RunFolder
from experiments._progress import print_table
from experiments._report import markdown_table
from experiments._timing import times_in_words
from vae_jax import figures

# What the page takes from the file of a job.
OF_A_JOB = ("goals", "measured", "commit", "machine")


class Measured(NamedTuple):
    """A line of the page: something that was measured several times.

    Attributes:
        what: it is.
        unit: of the numbers, after them.
        median: of the times or of the rates.
        low: the least of them.
        high: the most.
        times: how many times as much as another it is: the median and the range over the turns,
            `ratio_in_words`; nothing where it is compared with nothing.
        goal: the name of the goal that is about it, if one is.
    """

    what: str
    unit: str
    median: float
    low: float
    high: float
    times: str = ""
    goal: str | None = None

    @property
    def told(self) -> str:
        """The median with its unit."""
        return f"{number(self.median)} {self.unit}".strip()

    @property
    def range(self) -> str:
        """The least and the most."""
        return f"{number(self.low)} to {number(self.high)}"


def measured_of(
    what: str,
    spread: Mapping[str, Any],
    *,
    unit: str = "s",
    scale: float = 1.0,
    ratio: Mapping[str, float] | None = None,
    other: str = "ours",
    goal: Goal | None = None,
) -> Measured:
    """The line of some seconds.

    Args:
        what: they are of.
        spread: of `_timing.spread`.
        unit: of the line.
        scale: how many of it are a second.
        ratio: of `_timing.compared`, to another.
        other: the name of that one.
        goal: that is about it.
    """
    median, low, high = (scale * spread[f"{which}_seconds"] for which in ("median", "min", "max"))
    times = "" if ratio is None else times_in_words(ratio, other)
    return Measured(what, unit, median, low, high, times, None if goal is None else goal.what)


def in_json(lines: Iterable[Measured]) -> list[dict[str, Any]]:
    """For the measurement's file, where `gather` finds them."""
    return [line._asdict() for line in lines]


def gather(folder: Path, device: str, jobs: Iterable[str]) -> bool:
    """Write what the measurements in a folder say: `<device>.json`, .md and .png.

    Args:
        folder: of the measurements.
        device: that was measured, cpu or gpu.
        jobs: whose measurements.

    Returns:
        Whether there were any.
    """
    results: dict[str, dict[str, Any]] = {}
    for job in jobs:
        file = folder / f"{job}-{device}.json"
        if file.is_file():
            result = json.loads(file.read_text("utf-8"))
            kept = {key: result[key] for key in OF_A_JOB if key in result}
            # Older files have no goals, or have them in another form.
            if not isinstance(kept.get("goals"), list):
                kept.pop("goals", None)
            if kept.get("goals") or kept.get("measured"):
                results[job] = kept
    if not results:
        return False
    RunFolder(folder).write_json(f"{device}.json", results)
    goals = {
        job: [Goal.from_json(goal) for goal in result.get("goals", [])]
        for job, result in results.items()
    }
    columns = ["job", "what", "median", "range", "times", "goal", ""]
    rows = [
        [job, *cells]
        for job, result in results.items()
        for cells in lines_of(result.get("measured", []), goals[job])
    ]
    title = f"What the benchmarks measure, and what they are to reach ({device.upper()})"
    where = (
        "Each from its own file beside this one, with the machine it was measured on. Range: from "
        "the least to the most. Times: how many times as long it takes as another, the median and "
        "the range of the ratios within a turn. A goal stands in the line that it is about; where "
        "it is about none, the line has what was reached."
    )
    (folder / f"{device}.md").write_text(
        f"# {title}\n\n{markdown_table(columns, rows)}\n\n{where}\n", encoding="utf-8"
    )
    print_table(title, columns, rows)
    named = [
        goal._replace(what=f"{job}: {goal.what}") for job, own in goals.items() for goal in own
    ]
    made = f"{device}.json and .md"
    if named:
        shares = np.array([goal.times for goal in named])
        ends = np.array([goal.times_range for goal in named])
        about = f"What the benchmarks are to reach, and what they reach here ({device.upper()})"
        figure = goals_figure(about, named)
        figures.save(figure, folder / f"{device}.png", shares=shares, ranges=ends)
        made = f"{device}.json, .md and .png"
    print(f"{made} are in {folder}")
    return True


def lines_of(measured: Sequence[Mapping[str, Any]], goals: Sequence[Goal]) -> list[list[str]]:
    """The cells of a job's lines: what was measured, and the goals that are about none of it."""
    by_name = {goal.what: goal for goal in goals}
    cells = []
    for fields in measured:
        line = Measured(**fields)
        goal = by_name.pop(line.goal, None) if line.goal else None
        # Named, for it may be about the time or about the ratio, in another unit.
        asked = ("", "") if goal is None else (f"{goal.what}: {goal.asked}", goal.verdict)
        cells.append([line.what, line.told, line.range, line.times, *asked])
    # A goal may be about a share, or a sum; it has a line of its own.
    cells += [
        [goal.what, number(goal.reached), goal.range, "", goal.asked, goal.verdict]
        for goal in by_name.values()
    ]
    return cells


def goals_figure(title: str, goals: Sequence[Goal]) -> Figure:
    """A bar for each goal, how many times it was reached, and the range of that as a line."""
    figure = Figure(figsize=(7.0, 1.0 + 0.3 * len(goals)), layout="constrained")
    axes = figure.add_subplot()
    colors = [figures.BLUE if goal.is_met else figures.VERMILION for goal in goals]
    places = range(len(goals))
    # From the goal outwards: to the right is better than it.
    axes.barh(places, [goal.times - 1 for goal in goals], left=1, color=colors, height=0.6)
    for place, goal in enumerate(goals):
        axes.hlines(place, *goal.times_range, color="0.15", linewidth=1.2)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_yticks(places, [goal.what for goal in goals], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("times the goal; blue: met, orange: missed; line: range", fontsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_title(title, loc="left", fontsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
