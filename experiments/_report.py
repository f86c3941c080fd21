"""What a sweep comes to: the summary, the table and the figures over all its members."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments._grid import described, short
from experiments._progress import console, table
from experiments._run import Row
from experiments._train import Trained
from vae_jax.evaluation import ACTIVE_KL

NUMBERS = ("neg_elbo", "reconstruction", "kl", "active_dims")
# Panels of a figure that puts pictures side by side.
MOST_PANELS = 12


class Result(NamedTuple):
    """One member, as it stands in a run's files.

    Attributes:
        name: of its folder.
        columns: what it is, `{"beta": 4.0, "seed": 0}`.
        rows: its rows of `metrics.csv`.
        numbers: of its last good state on the test split: `NUMBERS`, in nats per example, and
            `kl_per_dim`.
        problem: why it was stopped, or None.
    """

    name: str
    columns: dict[str, float]
    rows: list[Row]
    numbers: dict[str, Any]
    problem: str | None

    @property
    def setting(self) -> dict[str, float]:
        """Its columns without the seed."""
        return {field: value for field, value in self.columns.items() if field != "seed"}

    @property
    def collapsed(self) -> bool:
        """Whether no latent dimension carries anything."""
        return self.problem is None and self.numbers["active_dims"] == 0


def result_of(trained: Trained) -> Result:
    """A trained member as its files will have it."""
    final = trained.final
    numbers = {
        "neg_elbo": -float(final.elbo),
        "reconstruction": -float(final.log_lik),
        "kl": float(final.kl),
        "active_dims": int(final.active_dims),
        "kl_per_dim": np.asarray(final.kl_per_dim).tolist(),
    }
    member = trained.member
    return Result(member.name, member.columns, trained.rows, numbers, trained.problem)


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """The numbers that a sweep ends with: each member's, and each setting's over its seeds."""
    return {
        "members": [
            {
                "name": result.name,
                **result.columns,
                "epochs": len(result.rows),
                "problem": result.problem,
                **result.numbers,
            }
            for result in results
        ],
        "diverged": [result.name for result in results if result.problem is not None],
        "collapsed": [result.name for result in results if result.collapsed],
        "by_setting": [
            {
                **dict(setting),
                "seeds": len(values),
                **{
                    name: {"mean": float(mean), "standard_error": float(error)}
                    for name, mean, error in zip(
                        NUMBERS, values.mean(axis=0), standard_error(values), strict=True
                    )
                },
            }
            for setting, values in _by_setting(results).items()
        ],
    }


def show(title: str, results: Sequence[Result]) -> None:
    """Print the closing table: mean and standard error over seeds for each setting.

    Below it stand the members that diverged, and those that collapsed.
    """
    columns, rows = _cells(results)
    console().print(table(title, columns, rows))
    for line in _remarks(results):
        print(line)


def markdown(title: str, results: Sequence[Result]) -> str:
    """The closing table as Markdown."""
    columns, rows = _cells(results)
    lines = [columns, ["---"] * len(columns), *rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    remarks = "".join(f"- {line}\n" for line in _remarks(results))
    return f"{title}\n\n{body}\n" + (f"\n{remarks}" if remarks else "")


def _cells(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """The columns and rows of the table; a setting whose members all diverged has no numbers."""
    names = [field.replace("_", " ") for field in results[0].setting]
    columns = [*names, "seeds", "-ELBO", "reconstruction", "KL", "active"]
    stopped = [_key(result) for result in results if result.problem is not None]
    columns += ["diverged"] if stopped else []
    numbers, rows = _by_setting(results), []
    for setting in dict.fromkeys(map(_key, results)):
        values = numbers.get(setting, np.empty((0, len(NUMBERS))))
        cells = ["-"] * len(NUMBERS)
        if len(values):
            cells = [
                f"{mean:.2f}" + (f" ± {error:.2f}" if np.isfinite(error) else "")
                for mean, error in zip(values.mean(axis=0), standard_error(values), strict=True)
            ]
        cells += [str(stopped.count(setting))] if stopped else []
        rows.append([*(short(value) for _, value in setting), str(len(values)), *cells])
    return columns, rows


def _remarks(results: Sequence[Result]) -> list[str]:
    lines = []
    for result in results:
        if result.problem is not None:
            lines.append(f"{result.name}: {result.problem}")
        elif result.collapsed:
            lines.append(
                f"{result.name}: collapsed, none of its {len(result.numbers['kl_per_dim'])} latent "
                f"dimensions has a KL over {ACTIVE_KL} nats"
            )
    return lines


def draw(results: Sequence[Result], run: Path, *, title: str) -> None:
    """Draw the figures of a sweep, each with the arrays behind it.

    Args:
        results: its members.
        run: the run's folder; the members' own figures, where there are any, are in
            `figures/<member>/` below it or below its slices.
        title: what was trained.
    """
    # Here, not above: Matplotlib is not needed before training ends.
    from vae_jax import figures

    settings = list(dict.fromkeys(_key(result) for result in results))
    names = [described(dict(setting)) or "all" for setting in settings]
    seeds = list(dict.fromkeys(int(result.columns["seed"]) for result in results))
    places = {
        (_key(result), int(result.columns["seed"])): result
        for result in results
        if result.problem is None
    }
    folder = run / "figures"

    def cube(of: Any, width: int) -> np.ndarray:
        """[settings, seeds, width], NaN where a member diverged or is missing."""
        values = np.full((len(settings), len(seeds), width), np.nan)
        for i, setting in enumerate(settings):
            for j, seed in enumerate(seeds):
                if (setting, seed) in places:
                    values[i, j] = of(places[setting, seed])
        return values

    by_member = {(_key(result), int(result.columns["seed"])): result for result in results}
    epochs = np.arange(1, 1 + max((len(result.rows) for result in results), default=0))
    if len(epochs):
        panels = {}
        for panel, column in (
            ("negative ELBO", "test_neg_elbo"),
            ("reconstruction", "test_reconstruction"),
            ("KL", "test_kl"),
        ):
            values = np.full((len(settings), len(seeds), len(epochs)), np.nan)
            for i, setting in enumerate(settings):
                for j, seed in enumerate(seeds):
                    rows = by_member[setting, seed].rows if (setting, seed) in by_member else []
                    values[i, j, : len(rows)] = [row[column] for row in rows]
            panels[panel] = values
        figures.save(
            figures.member_curves(epochs, panels, names, title=f"{title} · test split"),
            folder / "loss_curves.png",
            epochs=epochs,
            **{panel.replace(" ", "_"): values for panel, values in panels.items()},
        )
    # Along the first setting that takes several values, a curve for each combination of others.
    swept = {field: {dict(setting)[field] for setting in settings} for field in dict(settings[0])}
    lead = next((field for field, found in swept.items() if len(found) > 1), None)
    if lead is None or not places:
        return

    rate = cube(lambda result: result.numbers["kl"], 1)[..., 0]
    distortion = cube(lambda result: result.numbers["reconstruction"], 1)[..., 0]
    kl = cube(lambda result: result.numbers["kl_per_dim"], len(results[0].numbers["kl_per_dim"]))
    values = np.array([dict(setting)[lead] for setting in settings])
    curves: dict[str, list[int]] = {}
    for i in np.argsort(values, kind="stable"):
        others = {field: value for field, value in settings[i] if field != lead}
        curves.setdefault(described(others), []).append(int(i))
    lead_name = lead.replace("_", " ")
    figures.save(
        figures.rate_distortion(
            {
                name: figures.RateDistortion(values[i], rate[i], distortion[i])
                for name, i in curves.items()
            },
            title=title,
            setting=lead_name,
        ),
        folder / "rate_distortion.png",
        **{lead: values},
        rate=rate,
        distortion=distortion,
    )
    for name, i in curves.items():
        if len(i) < 2:
            continue
        suffix = "" if len(curves) == 1 else "-" + name.replace(", ", "-").replace(" ", "_")
        figures.save(
            figures.kl_against(
                values[i],
                kl[i],
                title=f"{title} · {name}" if name else title,
                setting=lead_name,
                threshold=ACTIVE_KL,
            ),
            folder / f"kl_against_{lead}{suffix}.png",
            **{lead: values[i]},
            kl=kl[i],
        )
    _draw_side_by_side(results, settings, names, run, title)


def _draw_side_by_side(
    results: Sequence[Result],
    settings: Sequence[Any],
    names: Sequence[str],
    run: Path,
    title: str,
) -> None:
    """Manifolds and samples of the first member of each setting that has them."""
    from vae_jax import figures

    for picture, array in (("manifold", "images"), ("samples", "samples")):
        found: dict[str, np.ndarray] = {}
        for setting, name in zip(settings, names, strict=True):
            for result in results:
                good = _key(result) == setting and result.problem is None
                if good and name not in found:
                    images = _picture(run, result.name, picture, array)
                    if images is not None:
                        # Every other picture of a manifold: side by side they are small.
                        found[name] = images[::2, ::2] if picture == "manifold" else images
        chosen = np.unique(np.linspace(0, len(found) - 1, min(len(found), MOST_PANELS)).round())
        if len(chosen) < 2:
            continue
        shown = [list(found)[int(i)] for i in chosen]
        left_out = "" if len(shown) == len(found) else f" · {len(shown)} of {len(found)} settings"
        figures.save(
            figures.side_by_side(
                [found[name] for name in shown], shown, title=f"{title} · {picture}{left_out}"
            ),
            run / "figures" / f"{picture}_side_by_side.png",
            **{f"panel{i}": found[name] for i, name in enumerate(shown)},
        )


def _picture(run: Path, member: str, picture: str, array: str) -> np.ndarray | None:
    """`[rows, cols, h, w, c]` images behind a member's figure, if it has one."""
    for path in (run, *sorted((run / "shards").glob("*-of-*"))):
        file = path / "figures" / member / f"{picture}.npz"
        if file.is_file():
            with np.load(file, allow_pickle=False) as saved:
                images = saved[array][::-1] if picture == "manifold" else saved[array]
            if images.ndim == 4:
                side = math.isqrt(len(images))
                images = images[: side * side].reshape(side, side, *images.shape[1:])
            return images
    return None


def _key(result: Result) -> tuple[tuple[str, float], ...]:
    return tuple(result.setting.items())


def _by_setting(results: Sequence[Result]) -> Mapping[tuple[tuple[str, float], ...], np.ndarray]:
    """[seeds, numbers] of each setting's members that did not diverge."""
    values: dict[tuple[tuple[str, float], ...], list[list[float]]] = {}
    for result in results:
        if result.problem is None:
            numbers = [float(result.numbers[name]) for name in NUMBERS]
            values.setdefault(_key(result), []).append(numbers)
    return {setting: np.array(rows) for setting, rows in values.items()}


def standard_error(values: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis; NaN where there is one value only."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / math.sqrt(len(values))
