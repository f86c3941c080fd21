"""Progress of a run: one line an epoch, and on a terminal a live bar with the time left."""

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


def console() -> Console:
    """The terminal, or where there is none a width at which a log neither wraps nor is cut."""
    return Console() if sys.stdout.isatty() else Console(width=140)


class TrainingProgress:
    """A line for each epoch of each member; use it as a context manager.

    Args:
        total_epochs: epochs of all members together.
        done: epochs that an earlier run has done already.
    """

    def __init__(self, total_epochs: int, done: int = 0) -> None:
        self._total = total_epochs
        self._done = self._first = done
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
        self._task = self._bar.add_task("first epoch", total=total_epochs, completed=done, left="")

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

    def epoch(self, member: str, epoch: int, epochs: int, row: Mapping[str, float]) -> None:
        """Report a finished epoch.

        Args:
            member: its name.
            epoch: its number, from 1.
            epochs: how many the member runs.
            row: the row of `metrics.csv`.
        """
        self._done += 1
        elapsed = time.monotonic() - self._began
        left = elapsed / (self._done - self._first) * (self._total - self._done)
        self.say(
            f"{member}  epoch {epoch:>{len(str(epochs))}}/{epochs}"
            f"  -ELBO {row['test_neg_elbo']:8.2f}"
            f"  reconstruction {row['test_reconstruction']:8.2f}"
            f"  KL {row['test_kl']:6.2f}"
            f"  active {row['active_dims']:d}"
            f"  {row['images_per_second']:,.0f} images/s"
            f"  {clock(left)} left"
        )
        self._bar.update(
            self._task, completed=self._done, description=member, left=f"{clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is a name and the others are numbers."""
    drawn = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn
