"""What the models of a table are worth on held-out rows, in numbers and figures."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments._completed import as_features, complete
from experiments._folder import RunFolder
from experiments._folds import Split
from experiments._imputation import Imputation
from experiments._progress import print_table
from experiments._report import (
    Result,
    by_label,
    by_seed,
    markdown_table,
    over_seeds,
    plus_minus,
    repeated,
    spread_over,
)
from experiments._representation import (
    MEANING,
    METRICS,
    REFERENCES,
    REPRESENTATIONS,
    Halves,
    references,
    representation,
)
from experiments._scores import RowScorer
from experiments._spread import as_record
from experiments._train import Trained
from experiments._verdict import UNDECIDED, difference
from vae_jax.data import Table
from vae_jax.model import VAE

# Rows of a fold that neighbourhoods and clusters are measured on, at most.
MOST_ROWS = 2_000
NUMBERS = ("continuous", "heavy_tailed")


@dataclasses.dataclass(frozen=True)
class TableReport:
    """Measures and draws the members of a sweep over a table.

    Attributes:
        vae: the model.
        table: the data.
        splits: of the members.
        latent_dim: dimensions of z.
        num_samples: samples of z behind a row's scores.
        contamination: share of the training rows beyond the anomaly threshold.
        title: what was trained.
        figures: whether to draw.
        imputation: what takes numbers of the held-out rows away to fill them in; None if
            nothing is to be filled in.
    """

    vae: VAE
    table: Table
    splits: Sequence[Split]
    latent_dim: int
    num_samples: int
    contamination: float
    title: str
    figures: bool
    imputation: Imputation | None = None

    def measure(self, trained: list[Trained], run: RunFolder) -> list[dict[str, float]]:
        """Measure every member on its held-out rows; write the comparison and the figures.

        Args:
            trained: the members, with their parameters.
            run: the folder.

        Returns:
            The numbers of each member by name, those of `METRICS`; none of one that diverged.
        """
        scorer = RowScorer(self.vae, self.num_samples)
        measured, errors, models = [], [], []
        for member in trained:
            if member.problem is not None:
                measured.append({})
                continue
            numbers, by_column = self._numbers(scorer, member)
            measured.append(numbers)
            result = Result(member.member.name, member.member.columns, [], {}, None, numbers)
            models.append(result)
            errors.append(result._replace(also=by_column))
        if models:
            beside, beside_errors = self._references(trained)
            found = by_label(models) | beside
            self._write(run, found, by_label(errors) | beside_errors)
            if self.figures:
                from experiments._table_figures import TableFigures

                TableFigures(self, scorer, run.figures).draw(trained, found)
        return measured

    def _numbers(
        self, scorer: RowScorer, member: Trained
    ) -> tuple[dict[str, float], dict[str, float]]:
        split, params = self.splits[member.member.split], member.params
        few = self._few(split)
        # All of the held-out rows; of the training rows only those that are looked at.
        train, test = (
            scorer(params, split.train_features[few[0]]),
            scorer(params, split.test_features),
        )
        points = Halves(train.means, test.means[few[1]])
        seen = self._complete(split)
        numbers = {
            "log_likelihood": -float(test.scores["neg_log_likelihood"].mean()),
            "elbo": -float(test.scores["neg_elbo"].mean()),
            "rmse": self._rmse(split, test.reconstruction),
            **representation(points, seen, self._labels(split)),
        }
        if self.imputation is not None:
            holes = self.imputation.holes(split, self.is_number(split))
            numbers["imputed_rmse"] = self.imputation.by_model(params, split, holes)
        return numbers, self._errors(split, test.reconstruction)

    def _references(
        self, trained: Sequence[Trained]
    ) -> tuple[dict[str, list[Result]], dict[str, list[Result]]]:
        """The reference methods on the same folds, and their error in each column."""
        places = {member.member.split: member.member.columns for member in trained}
        found: dict[str, list[Result]] = {name: [] for name in REPRESENTATIONS}
        errors: dict[str, list[Result]] = {}
        kinds = {column.kind for column in self.table.columns}
        whole = kinds <= set(NUMBERS) and not np.isnan(self.table.values).any()
        for index, columns in places.items():
            split = self.splits[index]
            repeat = {name: columns[name] for name in ("seed", "fold")}
            seen = Halves(*(complete(split, half) for half in self.features(split)))
            numbers, reconstructions = references(
                seen,
                self._labels(split),
                self.latent_dim,
                few=self._few(split),
                densities=whole,
            )
            for name, completed in reconstructions.items():
                back = as_features(split, completed)
                numbers[name]["rmse"] = self._rmse(split, back)
                own = Result(name, repeat, [], {}, None, self._errors(split, back))
                errors.setdefault(name, []).append(own)
            numbers = {**numbers, **self._imputed_by_others(split)}
            for name, own in numbers.items():
                found.setdefault(name, []).append(Result(name, repeat, [], {}, None, own))
        return found, errors

    def _imputed_by_others(self, split: Split) -> dict[str, dict[str, float]]:
        if self.imputation is None:
            return {}
        is_number = self.is_number(split)
        holes = self.imputation.holes(split, is_number)
        found = self.imputation.by_others(split, holes, is_number)
        return {name: {"imputed_rmse": value} for name, value in found.items()}

    def _rmse(self, split: Split, reconstruction: np.ndarray) -> float:
        """Over the observed cells of the standardised columns."""
        off = (reconstruction - split.test_features)[:, self.is_number(split)]
        return float(np.sqrt(np.nanmean(off**2))) if np.isfinite(off).any() else np.nan

    def _errors(self, split: Split, reconstruction: np.ndarray) -> dict[str, float]:
        """Of each column: the RMSE in its own units, or the share of wrong categories."""
        back = split.encoding.decode(reconstruction)
        truth = self.table.values[split.test]
        errors = {}
        for index, column in enumerate(self.table.columns):
            seen = ~np.isnan(truth[:, index])
            off = back[seen, index] - truth[seen, index]
            is_code = column.kind in ("binary", "categorical")
            error = np.mean(off != 0) if is_code else np.sqrt(np.mean(off**2))
            errors[column.name] = float(error) if seen.any() else np.nan
        return errors

    def features(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """The training rows and the held-out rows of a split."""
        return split.train_features, split.test_features

    def is_number(self, split: Split) -> np.ndarray:
        """Which features are standardised numbers."""
        kinds = np.array([column.kind for column in self.table.columns])
        return np.isin(kinds[split.encoding.column_of], NUMBERS)

    def _few(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """The rows of both halves that neighbourhoods are measured on: all of a small table."""
        rng = np.random.default_rng(0)
        halves = (split.train, split.test)
        train, test = (rng.permutation(len(half))[:MOST_ROWS] for half in halves)
        return np.sort(train), np.sort(test)

    def _complete(self, split: Split) -> Halves:
        """Those rows, without gaps and on one scale."""
        pairs = zip(self.features(split), self._few(split), strict=True)
        return Halves(*(complete(split, half)[rows] for half, rows in pairs))

    def _labels(self, split: Split) -> Halves | None:
        if self.table.labels is None:
            return None
        train, test = self._few(split)
        return Halves(self.table.labels[split.train][train], self.table.labels[split.test][test])

    def _write(
        self,
        run: RunFolder,
        found: Mapping[str, list[Result]],
        errors: Mapping[str, list[Result]],
    ) -> None:
        columns, rows, best = _comparison(found)
        title = f"{self.table.name}: held-out rows{spread_of(found)}"
        remarks = _who_wins(found)
        meaning = MEANING + ("" if self.imputation is None else f" {self.imputation.meaning}")
        if any("–" in row for row in rows):
            meaning += (
                " –: not defined on every fold, as the silhouette of a single cluster is not."
            )
        compared = markdown_table(columns, _in_bold(rows, best))
        said = "".join(f"- {line}\n" for line in remarks)
        text = f"{title}, the best in bold. {meaning}\n\n{compared}\n\n{said}"
        names = [column.name for column in self.table.columns]
        header = ["column", "kind", *errors]
        body = [
            [
                name,
                column.kind,
                *(plus_minus(*over_seeds(own, name), digits=3) for own in errors.values()),
            ]
            for name, column in zip(names, self.table.columns, strict=True)
        ]
        text += (
            "\nReconstruction of each column: RMSE in its own units, of binary and categorical "
            "columns the share that is wrong; raw features have no error. PCA sees the mean of "
            "a column where a value is missing, counts as log(1 + x), and a category as "
            f"indicators, of which the largest is taken.\n\n{markdown_table(header, body)}\n"
        )
        run.write_text("comparison.md", text)
        run.write_json(
            "comparison.json",
            {
                method: {
                    **_means(own, [name for name in METRICS if name in own[0].also]),
                    **({"columns": _means(errors[method], names)} if method in errors else {}),
                }
                for method, own in found.items()
            },
        )
        print_table(title, columns, rows)
        for line in (meaning, *remarks):
            print(line)


def spread_of(found: Mapping[str, Sequence[Result]]) -> str:
    """What stands beside a mean, in words that follow what it is of; of one split nothing does."""
    every = [result for own in found.values() for result in own]
    over, seeds = repeated(every), len({result.columns["seed"] for result in every})
    return spread_over(f"{seeds} {over}" if seeds > 1 else over, ", ")


def _means(results: Sequence[Result], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The mean and the standard error of some numbers, by name."""
    return {name: as_record(over_seeds(results, name)) for name in names}


def _comparison(
    found: Mapping[str, list[Result]],
) -> tuple[list[str], list[list[str]], dict[int, int]]:
    """Columns and rows of the table, and the row that is best in each column."""
    shown = [name for name in METRICS if any(name in own[0].also for own in found.values())]
    rows = []
    for method, own in found.items():
        cells = [
            plus_minus(*over_seeds(own, name), digits=3) if name in own[0].also else "-"
            for name in shown
        ]
        rows.append([method, *cells])
    best = {}
    for place, name in enumerate(shown):
        ranked = _ranked(found, name)
        if ranked:
            best[place + 1] = list(found).index(ranked[0])
    return ["", *(METRICS[name][0] for name in shown)], rows, best


def _ranked(found: Mapping[str, list[Result]], name: str) -> list[str]:
    """The methods that have a number, the best one first."""
    means = {
        method: over_seeds(own, name)[0] for method, own in found.items() if name in own[0].also
    }
    means = {method: mean for method, mean in means.items() if np.isfinite(mean)}
    return sorted(means, key=lambda method: means[method], reverse=METRICS[name][1])


def _who_wins(found: Mapping[str, list[Result]]) -> list[str]:
    """Where a reference is ahead of every model, in words; or that none is.

    The model is that with the best mean. Whether the seeds tell the two apart is by `_verdict`.
    """
    lines = []
    for name, (words, _) in METRICS.items():
        ranked = _ranked(found, name)
        if not ranked or ranked[0] not in REFERENCES:
            continue
        model = next((method for method in ranked if method not in REFERENCES), None)
        if model is not None:
            ahead, behind = (
                plus_minus(*over_seeds(found[method], name), digits=3)
                for method in (ranked[0], model)
            )
            verb = "are" if ranked[0].endswith("features") else "is"
            lead = difference(*(by_seed(found[method], name) for method in (ranked[0], model)))
            tail = f" ({UNDECIDED})" if lead.verdict == UNDECIDED else ""
            lines.append(
                f"{words}: {ranked[0]} {verb} ahead, {ahead} against {behind} at {model}{tail}"
            )
    return lines or ["no reference is ahead of the best model in any column"]


def _in_bold(rows: Sequence[Sequence[str]], best: Mapping[int, int]) -> list[list[str]]:
    """The cells of a table for Markdown, in bold that of the best row of a column."""
    return [
        [f"**{cell}**" if best.get(place) == number else cell for place, cell in enumerate(row)]
        for number, row in enumerate(rows)
    ]
