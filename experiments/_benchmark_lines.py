"""The straight lines that time and memory should follow as members and rows grow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from experiments._timing import write_results
from vae_jax import figures
from vae_jax.figures.style import chart_figure, styled

# What was measured and counted of one size.
Costs = Mapping[str, Any]
SUMMARY = ("median", "min", "max")


class Line(NamedTuple):
    """A cost that grows as a straight line: intercept + slope size.

    Attributes:
        intercept: what it costs without any.
        slope: what each one adds.
        largest_deviation: the largest |cost / line - 1| of what it was fitted to.
    """

    intercept: float
    slope: float
    largest_deviation: float = 0.0

    def at(self, size: float) -> float:
        """The cost of a size."""
        return self.intercept + self.slope * size

    def deviation(self, size: float, cost: float) -> float:
        """How far a cost lies above the line, as a share of it."""
        return cost / self.at(size) - 1


def fitted(sizes: Sequence[int], costs: Sequence[float], *, fixed: bool = False) -> Line:
    """Fit the line of a cost by least squares of its relative deviations.

    Each size counts the same, whatever its magnitude:

        minimise sum_i ((intercept + slope size_i) / cost_i - 1)^2.

    Args:
        sizes: members, or rows.
        costs: of each size, seconds or bytes.
        fixed: whether there is an intercept; without one the cost is proportional to the size.

    Returns:
        The line.
    """
    powers = (0, 1) if fixed else (1,)
    shares = np.stack([np.array(sizes, float) ** power for power in powers], axis=1)
    shares /= np.array(costs, float)[:, None]
    *intercept, slope = np.linalg.lstsq(shares, np.ones(len(costs)))[0].tolist()
    line = Line(sum(intercept), slope)
    deviations = [abs(line.deviation(*pair)) for pair in zip(sizes, costs, strict=True)]
    return line._replace(largest_deviation=max(deviations))


def lines_of(by_members: Sequence[Costs], by_rows: Sequence[Costs]) -> dict[str, Line]:
    """The four lines, under the units of their slopes.

    That the time per member is constant is that an epoch of all members is proportional to
    their number.
    """
    members = [cost["members"] for cost in by_members]
    rows = [cost["rows_per_epoch"] for cost in by_rows]
    program = [cost["program_bytes"] for cost in by_members]
    return {
        "seconds_per_member": fitted(members, [cost["median_seconds"] for cost in by_members]),
        "seconds_per_row": fitted(rows, [cost["median_seconds"] for cost in by_rows]),
        "program_bytes_per_member": fitted(members, program, fixed=True),
        "state_bytes_per_member": fitted(members, [cost["state_bytes"] for cost in by_members]),
    }


def computed(members: int, hosts: int, lines: Mapping[str, Line]) -> dict[str, float]:
    """What an epoch of a sweep costs on hosts that share its members, by the lines of one.

    Args:
        members: of the sweep.
        hosts: how many; they say nothing to each other while they train.
        lines: of `lines_of`.

    Returns:
        `seconds`, and `bytes_of_a_host`.
    """
    share = -(-members // hosts)
    return {
        "seconds": lines["seconds_per_member"].at(share),
        "bytes_of_a_host": lines["program_bytes_per_member"].at(share),
    }


@styled
def growth_figure(
    title: str, by_members: Sequence[Costs], by_rows: Sequence[Costs], lines: Mapping[str, Line]
) -> Figure:
    """Time against members, time against rows, and memory against members, with their lines."""
    figure = chart_figure(9.0, 2.9, title)
    per_member, per_epoch, memory = figure.subplots(1, 3)
    members = np.array([cost["members"] for cost in by_members])
    rows = np.array([cost["rows_per_epoch"] for cost in by_rows])

    level = 1e3 * lines["seconds_per_member"].slope
    per_member.axhline(level, color=figures.GREY, label=f"constant, {level:.3g} ms")
    _range(per_member, members, by_members, 1e3 / members)
    per_member.set_xscale("log", base=2)
    per_member.set_xticks(members, list(map(str, members)))
    per_member.set_ylim(bottom=0)
    _label(per_member, "time per member and epoch", "members", "milliseconds", "lower right")

    slope = lines["seconds_per_row"].slope
    label = f"proportional, {1e6 * slope:.3g} µs a row"
    per_epoch.loglog(rows, slope * rows, color=figures.GREY, label=label)
    _range(per_epoch, rows, by_rows, np.ones(len(rows)))
    per_epoch.xaxis.set_minor_formatter(NullFormatter())
    _label(per_epoch, "time per epoch of one model", "rows", "seconds", "upper left")

    ends = (0, int(members[-1]))
    for name, color in (("program", figures.BLUE), ("state", figures.VERMILION)):
        line = lines[f"{name}_bytes_per_member"]
        fixed = f"{line.intercept / 1e6:.2g} + " if line.intercept else ""
        label = f"{name}, {fixed}{line.slope / 1e6:.2g} a member"
        memory.plot(ends, [line.at(end) / 1e6 for end in ends], color=figures.GREY)
        counted = np.array([cost[f"{name}_bytes"] for cost in by_members]) / 1e6
        memory.plot(members, counted, "o", color=color, label=label)
    memory.set_ylim(0, 1.4 * memory.get_ylim()[1])  # room for the legend
    _label(memory, "memory, counted", "members", "MB", "upper left")
    return figure


def _range(axes: Axes, sizes: np.ndarray, costs: Sequence[Costs], factor: np.ndarray) -> None:
    median, low, high = (
        factor * np.array([cost[f"{which}_seconds"] for cost in costs]) for which in SUMMARY
    )
    axes.vlines(sizes, low, high, color=figures.BLUE, alpha=0.3, linewidth=4)
    axes.plot(sizes, median, "o", color=figures.BLUE, label="median and range")


def _label(
    axes: Axes, title: str, across: str, up: str, legend: Literal["upper left", "lower right"]
) -> None:
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend(loc=legend)
    axes.grid(axis="y")


def write(files: Path, title: str, result: Mapping[str, Any], lines: Mapping[str, Line]) -> None:
    """Write the result as JSON, and as a table with what the lines say."""
    member, row, program, state = lines.values()
    rows = [
        _cells(
            f"{cost['members']:,} x {cost['rows']:,}",
            cost,
            member.deviation(cost["members"], cost["median_seconds"]),
            f"{program.deviation(cost['members'], cost['program_bytes']):+.1%}",
        )
        for cost in result["by_members"]
    ]
    rows += [
        _cells(
            f"1 x {cost['rows']:,}",
            cost,
            row.deviation(cost["rows_per_epoch"], cost["median_seconds"]),
            "",
        )
        for cost in result["by_rows"]
    ]
    member_rows = result["by_members"][0]["rows"]
    far = [
        f"{each['members']:,} members on {each['hosts']:,} machine{'s' * (each['hosts'] > 1)}: "
        f"{each['seconds']:,.1f} s, {each['bytes_of_a_host'] / 1e6:,.0f} MB on each"
        for each in result["computed"]
    ]
    write_results(
        files,
        f"{title}: how cost grows, CPU",
        result,
        rows,
        "Milliseconds of an epoch of all members, each evaluated on one minibatch after it: "
        f"median, minimum and maximum over {result['settings']['turns']} turns, in which the "
        "sizes alternate in one process. A turn is the mean of as many epochs as have "
        f"{result['rows_per_turn']:,} rows, or of one. The members are trained one after the "
        "other in one program (`map`), each with a seed of its own. Compiling is not in the "
        "times; rows that fill no minibatch are not counted. Memory is counted: what the compiled "
        "epoch asks for, data and state included; the state is parameters, optimiser and status. "
        f"{said_of_resident(result['resident_bytes'], program)}",
        "The lines are fitted by least squares of the relative deviations, so that each size "
        f"counts the same. An epoch of m members of {member_rows:,} rows: "
        f"{1e3 * member.slope:.3g} ms x m, largest deviation {member.largest_deviation:.1%}. Of "
        f"one model on n rows: {1e6 * row.slope:.3g} µs x n, {row.largest_deviation:.1%}. "
        f"Program: {program.intercept / 1e6:.3g} MB + {program.slope / 1e6:.3g} MB x m, "
        f"{program.largest_deviation:.1%}. State: {state.slope / 1e6:.3g} MB x m, "
        f"{state.largest_deviation:.1%}.",
        "Computed from these lines and not measured, on machines like this one that share the "
        f"members evenly, an epoch and the program. {'; '.join(far)}.",
    )


def said_of_resident(peaks: Mapping[int, int], program: Line) -> str:
    """What processes took at the most, beside what was counted of a further member.

    Args:
        peaks: resident bytes of a process by its members, of two.
        program: the line of what was counted.
    """
    (few, less), (many, more) = peaks.items()
    added = (more - less) / (many - few) / 1e6
    return (
        f"Measured beside it, the peak of a process that trains an epoch: {less / 1e6:,.0f} MB "
        f"resident with {few} member{'s' * (few > 1)} and {more / 1e6:,.0f} MB with {many}, "
        f"{added:.3f} MB for each further one; counted were {program.slope / 1e6:.3f} MB."
    )


def _cells(name: str, cost: Costs, above: float, program_above: str) -> dict[str, str]:
    trained = cost["members"] * cost["rows_per_epoch"]
    return {
        "members x rows": name,
        **{f"{which} ms": f"{1e3 * cost[f'{which}_seconds']:.2f}" for which in SUMMARY},
        "µs a row": f"{1e6 * cost['median_seconds'] / trained:.2f}",
        "off its line": f"{above:+.1%}",
        "program MB": f"{cost['program_bytes'] / 1e6:.2f}",
        "program off its line": program_above,
        "state MB": f"{cost['state_bytes'] / 1e6:.2f}",
    }
