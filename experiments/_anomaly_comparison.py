"""Methods that find anomalies beside each other: the table, the numbers and the figure.

Of one run, or of runs whose models differ in their latent size, from their `anomaly.json`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._folder import RunFolder
from experiments._outliers import MOST_FITTED, PROTOCOLS, WITHOUT_DIMENSIONS
from experiments._progress import print_table
from experiments._report import Result, markdown_table, over_seeds, plus_minus, spread_over
from experiments._run import UsageError
from experiments._spread import as_record

ALPHA = 0.1  # false alarms that the conformal threshold allows
NUMBERS = ("auroc", "ap")
RATES = ("false_alarms", "detections")
Found = Mapping[str, Sequence[Result]]  # by method, a result for each task


class Comparison(NamedTuple):
    """What the methods of a run found.

    Attributes:
        found: `auroc` and `ap` of every method on every task.
        rates: `RATES` of conformal p-values, by what sets the models apart that they are of,
            such as a beta or a latent size; empty where nothing does.
    """

    found: Found
    rates: Mapping[str, Mapping[str, float]]

    def write(self, run: RunFolder, *, title: str, task: str, told: str = "") -> None:
        """Write `anomaly.md` and `anomaly.json`, and print the table.

        Args:
            run: the folder.
            title: what was trained.
            task: which of `PROTOCOLS`.
            told: Markdown below the table.
        """
        title = f"{title}: anomaly detection{self._over()}"
        columns, rows = self._cells()
        protocol = PROTOCOLS[task]
        protocol += f" Methods of scikit-learn are fitted on {MOST_FITTED:,} rows at most."
        said = [_promised(of, rates) for of, rates in self.rates.items()]
        parts = [title, protocol, markdown_table(columns, rows), *said]
        run.write_text("anomaly.md", "\n\n".join(parts) + "\n" + told)
        run.write_json(
            "anomaly.json",
            {
                "methods": {method: _numbers(own) for method, own in self.found.items()},
                "conformal": {"alpha": ALPHA, **self.rates.get("", self.rates)},
            },
        )
        print_table(title, columns[:3], [row[:3] for row in rows])
        for line in said:
            print(line)

    def draw(self, run: RunFolder, *, name: str, title: str, but: Sequence[str] = ()) -> None:
        """Draw the AUROC of every method on every task.

        Args:
            run: the folder.
            name: of the data.
            title: of the figure.
            but: beginnings of the names of methods that are left out; so is one that was not
                measured on every task, since a model diverged.
        """
        from vae_jax import figures

        places, seeds = self._places(), self._seeds()
        names = [name if place < 0 else f"without {place}" for place in places]
        bars = {}
        for method, own in self.found.items():
            values = np.full((len(places), len(seeds)), np.nan)
            for result in own:
                place = places.index(_left_out(result))
                values[place, seeds.index(result.columns["seed"])] = result.also["auroc"]
            if np.isfinite(values).all() and not method.startswith(tuple(but)):
                mean = values.mean(axis=0, keepdims=True)
                bars[method] = values if len(places) == 1 else np.concatenate([values, mean])
        if not bars:
            return
        names += [] if len(places) == 1 else ["mean"]
        error = f", ± standard error over {len(seeds)} seeds" if len(seeds) > 1 else ""
        xlabel = f"AUROC{error}; dotted: chance"
        figures.save(
            figures.score_bars(bars, names, title=title, xlabel=xlabel, chance=0.5),
            run.figures / "auroc.png",
            **{name.replace(" ", "_"): values for name, values in bars.items()},
        )

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        """The table: a row for each method, the best one first."""
        left_out = [place for place in self._places() if place >= 0]
        columns = ["", "AUROC", "average precision", *(f"without {digit}" for digit in left_out)]
        rows = []
        for method in sorted(self.found, key=lambda method: -_mean(self.found[method])):
            own = self.found[method]
            cells = [plus_minus(*over_seeds(own, name), digits=3) for name in NUMBERS]
            for digit in left_out:
                some = [result for result in own if _left_out(result) == digit]
                cells.append(f"{_mean(some):.3f}" if some else "-")
            rows.append([method, *cells])
        return columns, rows

    def _places(self) -> list[int]:
        return sorted({_left_out(result) for own in self.found.values() for result in own})

    def _seeds(self) -> list[float]:
        return sorted({result.columns["seed"] for own in self.found.values() for result in own})

    def _over(self) -> str:
        """What the error in a cell is over; a single number has none."""
        over = "what was left out" if len(self._places()) > 1 else ""
        return spread_over("seeds" if len(self._seeds()) > 1 else over, ", ")


def of_run(run: RunFolder) -> Comparison:
    """The comparison that stands in a run's files.

    Raises:
        UsageError: if they are missing or damaged.
    """
    saved = run.read_json("anomaly.json")
    try:
        found = {
            method: [_as_result(method, each) for each in numbers["each"]]
            for method, numbers in saved["methods"].items()
        }
        rates = {name: value for name, value in saved["conformal"].items() if name != "alpha"}
    except (AttributeError, LookupError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UsageError(f"{run.path}: anomaly.json is damaged ({reason})") from None
    return Comparison(found, {"": rates} if rates.keys() == set(RATES) else rates)


def _as_result(method: str, each: Mapping[str, float]) -> Result:
    """What a method found on one task, from its row of `each`."""
    columns = {name: value for name, value in each.items() if name not in NUMBERS}
    return Result(method, columns, [], {}, None, {name: each[name] for name in NUMBERS})


def joined(by_size: Mapping[int, Comparison]) -> Comparison:
    """The comparisons of several latent sizes as one; methods that have none stand in it once.

    Args:
        by_size: by the dimensions of z, on the same tasks.

    Returns:
        The comparison.
    """
    found: dict[str, Sequence[Result]] = {}
    rates: dict[str, Mapping[str, float]] = {}
    for size, own in by_size.items():
        for method, results in own.found.items():
            name = method if method in WITHOUT_DIMENSIONS else f"{method}, {size}-D"
            found.setdefault(name, results)
        for of, means in own.rates.items():
            rates[f"{of}, {size}-D" if of else f"{size}-D"] = means
    return Comparison(found, rates)


def _left_out(result: Result) -> int:
    return int(result.columns.get("left_out", -1))


def _numbers(own: Sequence[Result]) -> dict[str, Any]:
    """Means and standard errors of a method, and what they are of."""
    means = {name: as_record(over_seeds(own, name)) for name in NUMBERS}
    return {**means, "each": [{**result.columns, **result.also} for result in own]}


def _promised(of: str, rates: Mapping[str, float]) -> str:
    return (
        f"{of + ': conformal' if of else 'Conformal'} p-values of -log p(x), calibrated on half of "
        f"the held-out normal examples: p <= {ALPHA} is a false alarm for "
        f"{rates['false_alarms']:.1%} of the other half (at most {ALPHA:.0%} is promised on "
        f"average) and finds {rates['detections']:.1%} of the anomalies."
    )


def _mean(results: Sequence[Result], name: str = "auroc") -> float:
    return float(np.mean([result.also[name] for result in results]))
