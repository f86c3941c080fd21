"""Statements on figure 2 of Auto-Encoding Variational Bayes, held against the runs.

They are what the paper says of it, and one goal that is ours: how close two of its curves end.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from experiments._aevb_panels import DATASET_NAMES, Finished
from experiments._verdict import Margin, difference, tally, with_error

CLOSE = 2.0  # nats within which 20 and 200 dimensions are to end: our goal, not the paper's
CLOSE_PAIR = ("mnist-z20", "mnist-z200")


class Claim(NamedTuple):
    """A statement, and whether these runs bear it out.

    Attributes:
        text: the statement.
        verdict: whether it is so here, of `experiments._verdict`; of several panels in how many.
        numbers: why.
    """

    text: str
    verdict: str
    numbers: str

    @property
    def line(self) -> str:
        """`holds: ... (...)`."""
        return f"{self.verdict}: {self.text} ({self.numbers})"


def claims(finished: Sequence[Finished]) -> list[Claim]:
    """What is claimed of figure 2, of the panels that were trained, on the test split.

    Args:
        finished: the panels.

    Returns:
        The claims; one whose panels were not trained is not among them.
    """
    test = {(one.panel.name, one.method): one for one in finished}
    names = list(dict.fromkeys(one.panel.name for one in finished if one.panel.in_figure_2))
    found = [_above(test, names)] if names else []
    titles = {one.panel.dataset: DATASET_NAMES[one.panel.pixels.name] for one in finished}
    for dataset, title in titles.items():
        # Of 200 dimensions beside 20 there are claims of their own.
        ordered = [n for n in names if n.startswith(dataset) and n != CLOSE_PAIR[1]]
        if len(ordered) > 1:
            found.append(_rises(test, ordered, title))
    if all(name in names for name in CLOSE_PAIR):
        found += _superfluous(*(test[name, "aevb"] for name in CLOSE_PAIR))
    return found


_Panels = dict[tuple[str, str], Finished]


def _above(test: _Panels, names: Sequence[str]) -> Claim:
    ahead = {name: _ahead(test[name, "aevb"], test[name, "wake_sleep"]) for name in names}
    return Claim(
        "AEVB ends above wake-sleep",
        tally(list(ahead.values()), "panels"),
        ", ".join(f"{name} {margin.words()}" for name, margin in ahead.items()),
    )


def _rises(test: _Panels, names: Sequence[str], title: str) -> Claim:
    panels = [test[name, "aevb"] for name in names]
    return Claim(
        f"the bound of AEVB rises with the latent size, {title}",
        tally([_ahead(more, fewer) for fewer, more in itertools.pairwise(panels)], "steps"),
        ", ".join(f"{one.panel.name} {with_error(*one.bound('test'))}" for one in panels),
    )


def _superfluous(few: Finished, many: Finished) -> list[Claim]:
    """Our goal of two curves that end together, and what the paper says: no overfitting."""
    gap = _ahead(many, few)
    bounds = [with_error(*one.bound("test"), 2) for one in (few, many)]
    numbers = f"{bounds[0]} and {bounds[1]}, {gap.words(2)}"
    return [
        Claim(
            f"20 and 200 latent dimensions end within {CLOSE:g} nats of each other, a goal of ours",
            gap._replace(value=CLOSE - abs(gap.value)).verdict,
            numbers,
        ),
        Claim(
            "superfluous latent variables do not overfit, as the paper says; by our measure, 200 "
            f"dimensions end at most {CLOSE:g} nats below 20",
            gap._replace(value=CLOSE + gap.value).verdict,
            numbers,
        ),
    ]


def _ahead(more: Finished, less: Finished) -> Margin:
    return difference(more.bound_by_seed("test"), less.bound_by_seed("test"))
