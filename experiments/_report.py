"""What a sweep comes to: the summary and the table over all its members."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._folder import Row
from experiments._grid import Member, described, repeat_of, setting_of, short
from experiments._progress import print_table
from experiments._spread import as_record, mean_and_error
from experiments._train import Trained
from vae_jax.evaluation import ACTIVE_KL, RateDistortion, rate_distortion

NUMBERS = ("neg_elbo", "reconstruction", "kl", "active_dims")


class Result(NamedTuple):
    """One member, as it stands in a run's files.

    Attributes:
        name: of its folder.
        columns: what it is, `{"beta": 4.0, "seed": 0}`.
        rows: its rows of `metrics.csv`.
        numbers: of its last good state on the test split: `NUMBERS`, in nats per example, and
            `kl_per_dim`.
        problem: why it was stopped, or None.
        also: what its experiment alone measures, by name.
    """

    name: str
    columns: dict[str, float]
    rows: list[Row]
    numbers: dict[str, Any]
    problem: str | None
    also: Mapping[str, float]

    @property
    def setting(self) -> dict[str, float]:
        """Its columns without what only repeats it."""
        return setting_of(self.columns)

    @property
    def collapsed(self) -> bool:
        """Whether no latent dimension carries anything."""
        has_z = self.columns.get("latent", 1) != 0
        return self.problem is None and self.numbers["active_dims"] == 0 and has_z


def label_of(one: Result | Member) -> str:
    """What its setting is called: in words, or by the name of the remedy of a text model."""
    if "latent" in one.columns:
        return one.name.removesuffix(f"-seed{one.columns['seed']}").replace("_", " ")
    return described(one.setting)


def result_of(trained: Trained, also: Mapping[str, float]) -> Result:
    """A trained member as its files will have it, with what its experiment also measured."""
    final = trained.final
    numbers = {
        "neg_elbo": -float(final.elbo),
        "reconstruction": -float(final.log_lik),
        "kl": float(final.kl),
        "active_dims": int(final.active_dims),
        "kl_per_dim": np.asarray(final.kl_per_dim).tolist(),
    }
    if trained.problem is not None and not trained.rows:
        # It has never learned: those of its first weights would look like numbers.
        numbers |= dict.fromkeys(NUMBERS)
    member = trained.member
    return Result(member.name, member.columns, trained.rows, numbers, trained.problem, also)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The numbers that a sweep ends with: each member's, and each setting's over its seeds."""
    return {
        "members": [
            {
                "name": result.name,
                **result.columns,
                "epochs": result.rows[-1]["epoch"] if result.rows else 0,
                "problem": result.problem,
                **result.numbers,
                "also": dict(result.also),
            }
            for result in results
        ],
        "diverged": [result.name for result in results if result.problem is not None],
        "collapsed": [result.name for result in results if result.collapsed],
        "by_setting": [
            {
                **dict(setting),
                "seeds": len({result.columns["seed"] for result in own}),
                **{name: as_record(over_seeds(own, name)) for name in (*NUMBERS, *own[0].also)},
            }
            for setting, own in by_setting(results).items()
        ],
    }


def show(title: str, results: Sequence[Result], missing: Sequence[str]) -> None:
    """Print the closing table: mean and standard error over seeds for each setting.

    Below it stand the slices that are missing, and the members that diverged or collapsed.
    """
    columns, rows = _cells(results)
    print_table(title, columns, rows)
    for line in _remarks(results, missing):
        print(line)


def markdown(title: str, results: Sequence[Result], missing: Sequence[str]) -> str:
    """The closing table as Markdown, with the slices that are missing in it."""
    columns, rows = _cells(results)
    remarks = "".join(f"- {line}\n" for line in _remarks(results, missing))
    body = markdown_table(columns, rows)
    return f"{title}\n\n{body}\n" + (f"\n{remarks}" if remarks else "")


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_right: bool = False
) -> str:
    """A table as Markdown, without a newline at its end.

    Args:
        columns: the first line.
        rows: the others, as long.
        numbers_right: whether all columns but the first are aligned at their right.

    Returns:
        The lines.
    """
    rule = ["---", *["---:" if numbers_right else "---"] * (len(columns) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows))


def _cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table; a setting whose members all diverged has no numbers."""
    fields = [field for field in results[0].setting if field != "latent"]
    has_names = "latent" in results[0].setting  # of its remedies, which the numbers make up
    names = {key_of(result): label_of(result) for result in results}
    columns = [""] if has_names else []
    columns += [field.replace("_", " ") for field in fields]
    columns += ["seeds", "-ELBO", "reconstruction", "KL", "active"]
    stopped = [key_of(result) for result in results if result.problem is not None]
    columns += ["diverged"] if stopped else []
    good, rows = by_setting(results), []
    for setting in dict.fromkeys(map(key_of, results)):
        own = good.get(setting, [])
        cells = [plus_minus(*over_seeds(own, name)) if own else "-" for name in NUMBERS]
        cells += [str(stopped.count(setting))] if stopped else []
        seeds = len({result.columns["seed"] for result in own})
        lead = [names[setting]] if has_names else []
        lead += [short(value) for field, value in setting if field in fields]
        rows.append([*lead, str(seeds), *cells])
    return columns, rows


def plus_minus(mean: float, error: float, digits: int = 2) -> str:
    """`141.22 ± 0.07`; without an error the mean alone, without a mean a dash."""
    if not math.isfinite(mean):
        return "–"
    if not math.isfinite(error):
        return f"{mean:g}" if mean == round(mean) else f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def _remarks(results: Sequence[Result], missing: Sequence[str]) -> list[str]:
    lines = [f"missing: {' '.join(missing)}"] if missing else []
    for result in results:
        if result.problem is not None:
            lines.append(f"{result.name}: {result.problem}")
        elif result.collapsed:
            lines.append(
                f"{result.name}: collapsed, none of its {len(result.numbers['kl_per_dim'])} latent "
                f"dimensions has a KL over {ACTIVE_KL} nats"
            )
    return lines


class Grid(NamedTuple):
    """The members of a sweep in rows of settings and columns of repetitions.

    Attributes:
        settings: of each row.
        places: the member at each row and column, but for those that diverged or are missing.
        repeats: of each column.
    """

    settings: list[tuple[tuple[str, float], ...]]
    places: dict[tuple[Any, Any], Result]
    repeats: list[tuple[int, ...]]

    def cube(self, of: Callable[[Result], Any], width: int) -> np.ndarray:
        """[settings, repeats, width], NaN where a member diverged or is missing."""
        values = np.full((len(self.settings), len(self.repeats), width), np.nan)
        for i, setting in enumerate(self.settings):
            for j, repeat in enumerate(self.repeats):
                if (setting, repeat) in self.places:
                    values[i, j] = of(self.places[setting, repeat])
        return values

    @property
    def lead(self) -> str | None:
        """The setting to draw along: beta if it takes several values, or the first one that does.

        Of sentences it is beta or none: the others belong to one remedy each.
        """
        # A class that was left out is no number to draw along.
        fields = [field for field in dict(self.settings[0]) if field != "left_out"]
        fields = ["beta"] if "latent" in fields else sorted(fields, key=lambda name: name != "beta")
        rows = [dict(self.settings[i]) for i in self.with_z]
        swept = {field: {row[field] for row in rows} for field in fields}
        return next((field for field, found in swept.items() if len(found) > 1), None)

    @property
    def with_z(self) -> list[int]:
        """The rows of models that have a latent space: all, but for the decoder without one."""
        rows = enumerate(self.settings)
        return [i for i, setting in rows if dict(setting).get("latent", 1) != 0]

    def curves(self, lead: str) -> dict[str, list[int]]:
        """Along a setting, the rows of each combination of the others, in rising order.

        One of a model of sentences is called by the settings of its remedies: those that it was not
        given are 0.
        """
        by_value = sorted(self.with_z, key=lambda i: dict(self.settings[i])[lead])
        curves: dict[str, list[int]] = {}
        for i in by_value:
            others = {field: value for field, value in self.settings[i] if field != lead}
            if others.pop("latent", None) is not None:
                others = {field: value for field, value in others.items() if value != 0}
                name = described(others) or "none"
            else:
                name = described(others)
            curves.setdefault(name, []).append(i)
        return curves

    def over_folds(self, cube: np.ndarray) -> np.ndarray:
        """Of `cube` the mean over each seed's folds, `[settings, seeds, width]`, as `over_seeds`.

        Folds share their data, so they are no repetitions that an error could count. Of a single
        seed its folds stay as they are.
        """
        seeds = np.array([repeat[0] for repeat in self.repeats])
        if len(set(seeds)) == 1:
            return cube
        means = []
        for seed in dict.fromkeys(seeds):
            folds = cube[:, seeds == seed]
            known = np.isfinite(folds)
            number = np.where(known.any(axis=1), known.sum(axis=1), np.nan)
            means.append(np.where(known, folds, 0).sum(axis=1) / number)
        return np.stack(means, axis=1)


def grid_of(results: Sequence[Result]) -> Grid:
    """The members of a sweep by their settings and repetitions."""
    return Grid(
        settings=list(dict.fromkeys(key_of(result) for result in results)),
        places={
            (key_of(result), repeat_of(result.columns)): result
            for result in results
            if result.problem is None
        },
        repeats=list(dict.fromkeys(repeat_of(result.columns) for result in results)),
    )


class Swept(NamedTuple):
    """A sweep in the rate-distortion plane.

    Attributes:
        setting: what is swept along each curve.
        curves: by what the other settings are called; the name is empty if there are none.
    """

    setting: str
    curves: Mapping[str, RateDistortion]


def swept(results: Sequence[Result]) -> Swept | None:
    """Rate and distortion along the setting that is swept, if one is.

    Args:
        results: the members, of which `numbers` has "kl" and "reconstruction".

    Returns:
        A curve for each combination of the other settings.
    """
    grid = grid_of(results)
    lead = grid.lead
    if lead is None or not grid.places:
        return None
    pair = grid.cube(lambda one: (one.numbers["kl"], one.numbers["reconstruction"]), 2)
    rates, distortions = np.moveaxis(grid.over_folds(pair), -1, 0)
    values = np.array([dict(setting)[lead] for setting in grid.settings])
    curves = {
        name: rate_distortion(values[i], rates[i], -distortions[i])
        for name, i in grid.curves(lead).items()
    }
    return Swept(lead, curves)


def key_of(result: Result) -> tuple[tuple[str, float], ...]:
    """The setting of a member, as a key of a dictionary."""
    return tuple(result.setting.items())


def by_setting(results: Sequence[Result]) -> Mapping[tuple[tuple[str, float], ...], list[Result]]:
    """The members of each setting that did not diverge."""
    found: dict[tuple[tuple[str, float], ...], list[Result]] = {}
    for result in results:
        if result.problem is None:
            found.setdefault(key_of(result), []).append(result)
    return found


def by_label(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The members of each setting by what it is called, those that diverged among them."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(label_of(result), []).append(result)
    return found


def repeated(results: Sequence[Result]) -> str:
    """What the error of `over_seeds` is over: `seeds`, `folds`, empty if nothing is repeated."""
    repeats = {repeat_of(result.columns) for result in results}
    seeds = {repeat[0] for repeat in repeats}
    if len(seeds) == 1:
        return "folds" if len(repeats) > 1 else ""
    return "seeds, each the mean of its folds" if len(repeats) > len(seeds) else "seeds"


def spread_over(over: str, lead: str = " · ") -> str:
    """What a title says of repetitions, behind what leads over to it."""
    return f"{lead}mean ± standard error over {over}" if over else ""


def by_seed(results: Sequence[Result], name: str) -> dict[int, float]:
    """A number of each seed; where a seed has several folds it is their average."""
    values: dict[int, list[float]] = {}
    for result in results:
        values.setdefault(int(result.columns["seed"]), []).append(number_of(result, name))
    return {seed: float(np.mean(folds)) for seed, folds in values.items()}


def number_of(result: Result, name: str) -> float:
    """A number of a member, whether every member has it or it stands beside."""
    return float(result.numbers[name] if name in result.numbers else result.also[name])


def over_seeds(results: Sequence[Result], name: str) -> tuple[float, float]:
    """The mean of a number and its standard error.

    Where a seed has several folds its number is their average, and the error is that of the
    seeds; of a single seed it is that of the folds. Of no results both are NaN.
    """
    seeds = by_seed(results, name)
    each = list(seeds.values()) if len(seeds) > 1 else [number_of(one, name) for one in results]
    return mean_and_error(each)
