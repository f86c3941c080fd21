"""What the paper says of figure 2 of Auto-Encoding Variational Bayes, held against the runs."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from experiments._aevb_panels import DATASET_NAMES, Finished
from experiments._verdict import HOLDS, Margin, difference, verdict_of, with_error

CLOSE = 2.0  # nats within which 20 and 200 dimensions are to end
CLOSE_PAIR = ("mnist-z20", "mnist-z200")


class Claim(NamedTuple):
    """A statement of the paper, and whether these runs bear it out.

    Attributes:
        text: the statement.
        verdict: whether it is so here, of `experiments._verdict`.
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
    """What the paper says of figure 2, of the panels that were trained, on the test split.

    Args:
        finished: the panels.

    Returns:
        The claims; one whose panels were not trained is not among them.
    """
    test = {(one.panel.name, one.method): one.bound("test") for one in finished}
    names = list(dict.fromkeys(one.panel.name for one in finished if one.panel.in_figure_2))
    found = [_above(test, names)] if names else []
    titles = {one.panel.dataset: DATASET_NAMES[one.panel.pixels.name] for one in finished}
    for dataset, title in titles.items():
        # That 200 dimensions end where 20 do is a claim of its own.
        ordered = [n for n in names if n.startswith(dataset) and n != CLOSE_PAIR[1]]
        if len(ordered) > 1:
            found.append(_rises(test, ordered, title))
    if all(name in names for name in CLOSE_PAIR):
        found.append(_harmless(*(test[name, "aevb"] for name in CLOSE_PAIR)))
    return found


_Bounds = dict[tuple[str, str], tuple[float, float]]


def _above(test: _Bounds, names: Sequence[str]) -> Claim:
    ahead = {name: difference(test[name, "aevb"], test[name, "wake_sleep"]) for name in names}
    held = sum(margin.verdict == HOLDS for margin in ahead.values())
    return Claim(
        f"AEVB ends above wake-sleep in every panel: in {held} of {len(names)}",
        verdict_of(list(ahead.values())),
        ", ".join(f"{name} {margin.words()}" for name, margin in ahead.items()),
    )


def _rises(test: _Bounds, names: Sequence[str], title: str) -> Claim:
    bounds = [test[name, "aevb"] for name in names]
    return Claim(
        f"the bound of AEVB rises with the latent size, {title}",
        verdict_of([difference(more, fewer) for fewer, more in itertools.pairwise(bounds)]),
        ", ".join(
            f"{name} {with_error(*bound)}" for name, bound in zip(names, bounds, strict=True)
        ),
    )


def _harmless(few: tuple[float, float], many: tuple[float, float]) -> Claim:
    gap = difference(many, few)
    return Claim(
        f"superfluous dimensions do no harm: 20 and 200 end within {CLOSE:g} nats",
        verdict_of([Margin(CLOSE - abs(gap.value), gap.error)]),
        f"{with_error(*few, 2)} and {with_error(*many, 2)}, {gap.words(2)}",
    )
