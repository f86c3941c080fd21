"""Progress of a run: one line an epoch, and on a terminal a live bar with the time left."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


def console() -> Console:
    """The terminal, or where there is none a width at which a log neither wraps nor is cut."""
    return Console() if sys.stdout.isatty() else Console(width=140)


class TrainingProgress:
    """A line for each epoch; use it as a context manager.

    Args:
        models: how many are trained.
        epochs: of each.
        passes: epochs of a model that are reported together.
        model_bytes: memory that a model's state takes.
    """

    def __init__(self, models: int, epochs: int, passes: int, model_bytes: int) -> None:
        self._models, self._epochs, self._model_bytes = models, epochs, model_bytes
        self._passes = passes
        self._total = models * epochs
        self._done = self._first = 0
        self._began = time.monotonic()
        self.console = console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("first epoch", total=self._total, left="")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def resume(self, good: Sequence[int], done: int) -> None:
        """Some models go on from a checkpoint.

        Args:
            good: the last good epoch of each.
            done: the epoch of the checkpoint; a model that is good for less was stopped.
        """
        self._done += sum(good)
        self._first += sum(good)
        self._total -= sum(self._epochs - own for own in good if own < done)

    def epoch(self, name: str, epoch: int, rows: Sequence[Mapping[str, Any]], failed: int) -> None:
        """Report an epoch that some members have finished together.

        Args:
            name: what they are called.
            epoch: its number, from 1.
            rows: their rows of `metrics.csv`.
            failed: members that failed in it; their remaining epochs are not waited for.
        """
        self._done += len(rows) * self._passes
        self._total -= failed * (self._epochs - epoch + self._passes)
        elapsed = time.monotonic() - self._began
        rate = max(self._done - self._first, 1) / elapsed
        left = f"{clock((self._total - self._done) / rate)} left"
        parts = [f"{name}  epoch {epoch:>{len(str(self._epochs))}}/{self._epochs}"]
        if rows:
            parts += [
                f"-ELBO {_range(rows, 'test_neg_elbo', 8, 2)}",
                f"reconstruction {_range(rows, 'test_reconstruction', 8, 2)}",
                f"KL {_range(rows, 'test_kl', 6, 2)}",
                f"active {_range(rows, 'active_dims', 0, 0)}",
                f"{rows[0]['examples_per_second']:,.0f} examples/s",
            ]
        if self._models > 1:
            parts.append(f"{self._done}/{self._total} models x epochs")
            parts.append(f"{3600 * rate / self._epochs:,.0f} models/h")
            parts.append(f"{self._model_bytes / 1e6:.1f} MB/model")
        self.say("  ".join([*parts, left]))
        self._bar.update(
            self._task, total=self._total, completed=self._done, description=name, left=left
        )


def _range(rows: Sequence[Mapping[str, Any]], column: str, width: int, digits: int) -> str:
    """A number, or from the least to the largest of several."""
    values = [row[column] for row in rows]
    if len(values) == 1:
        return f"{values[0]:{width}.{digits}f}"
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is a name and the others are numbers.

    Columns that the terminal has no room for stand in further tables below it.
    """
    screen = console()
    for part in _parts(columns, rows, screen.width):
        drawn = Table(title=title, title_justify="left")
        for index in part:
            justify = "right" if index else "left"
            drawn.add_column(columns[index], justify=justify, no_wrap=True)
        for row in rows:
            drawn.add_row(*(row[index] for index in part))
        screen.print(drawn)


def _parts(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """The columns of each table: the first is in all of them, every other in one."""
    # A blank on both sides and a rule.
    widths = [3 + max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    parts = [[0]]
    for index in range(1, len(columns)):
        used = 1 + sum(widths[other] for other in parts[-1])
        if len(parts[-1]) > 1 and used + widths[index] > width:
            parts.append([0])
        parts[-1].append(index)
    return parts
