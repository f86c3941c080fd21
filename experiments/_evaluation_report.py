"""What `experiments.evaluate` writes of a run: the table, the numbers and the figures."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._evaluation import FITTED, Settings
from experiments._folder import RunFolder
from experiments._importance import enough_samples, few_samples
from experiments._loaded import Run
from experiments._progress import print_table
from experiments._report import (
    Result,
    Swept,
    by_label,
    markdown_table,
    over_seeds,
    plus_minus,
    repeated,
    swept,
)
from experiments._report_figures import draw_rate_distortion
from vae_jax import figures
from vae_jax.figures import Evaluated, evaluation_page
from vae_jax.sweep import Subsets

# By the name of a number: how it reads in the table, and its digits.
COLUMNS = {
    "neg_elbo": ("-ELBO", 2),
    "kl": ("KL", 2),
    "neg_log_likelihood": ("-log p(x)", 2),
    "log_likelihood_error": ("its standard error over the examples", 2),
    "log_likelihood_sampling_error": ("over other samples of z", 3),
    "effective_samples_median": ("ESS", 1),
    "effective_samples_5th": ("ESS, 5th percentile", 1),
    "active_units": ("active units", 1),
    "mutual_information": ("I(x; z)", 2),
    "marginal_kl": ("marginal KL", 2),
    "total_correlation": ("TC", 2),
    "dimension_kl": ("dimension-wise KL", 2),
    "knn_accuracy": ("5-NN", 3),
    "linear_accuracy": ("linear probe", 3),
    "annealed_neg_log_likelihood": ("-log p(x) of a few, annealed", 2),
    "importance_neg_log_likelihood_of_them": ("-log p(x) of the same", 2),
    "annealed_gain": ("the difference", 2),
    "annealed_difference_error": ("its standard error over the examples", 2),
}
SAID = ("neg_elbo", "kl", "neg_log_likelihood", "effective_samples_median", "active_units")


class Evaluation(NamedTuple):
    """A run that was evaluated.

    Attributes:
        run: the run.
        results: its models with their numbers.
        arrays: of each, by its name.
        left_out: of what could not be evaluated, why.
    """

    run: Run
    results: list[Result]
    arrays: dict[str, dict[str, np.ndarray]]
    left_out: list[str]

    @property
    def groups(self) -> dict[str, list[Result]]:
        """The models of each setting, under what it is called."""
        groups = by_label(self.results).items()
        return {label or group[0].name: group for label, group in groups}

    @property
    def unit(self) -> str:
        """Of all numbers but counts and accuracies."""
        return f"nats per {self.run.task.about.get('example', 'image')}"


def line_of(numbers: Mapping[str, float]) -> str:
    """The numbers that are printed as a model is done."""
    shown = ((*COLUMNS[name], numbers[name]) for name in SAID)
    return "  ".join(f"{title} {value:.{digits}f}" for title, digits, value in shown)


def write_evaluation(settings: Settings, done: Evaluation, folder: RunFolder) -> None:
    """Write and print the table and the numbers of a run, and draw its page.

    Args:
        settings: how it was evaluated.
        done: what was found.
        folder: where to.
    """
    task, along = done.run.task, swept(done.results)
    columns, rows = _cells(done)
    remarks = _remarks(settings, done)
    lines = [f"{task.title}: held-out data", "", f"Data and unit: {task.table}.", ""]
    lines += [markdown_table(columns, rows), "", *(f"- {remark}" for remark in remarks)]
    if along is not None:
        lines += ["", *_along(along)]
    folder.write_text("evaluation.md", "\n".join(lines) + "\n")
    folder.write_json("evaluation.json", evaluation_record(settings, done, along))
    _draw_page(settings, done, folder)
    written = ["evaluation.md", "evaluation.json", "evaluation.png"]
    title = f"{task.title} · {task.table}"
    if draw_rate_distortion(done.results, folder.path, title=title, unit=done.unit):
        written.append("rate_distortion.png")
    folder.write_provenance(task.source)
    print_table(f"{task.title}, held-out data: {task.table}", columns, rows)
    print("\n".join(remarks))
    print(f"{', '.join(written)}: in {folder.path}")


def evaluation_record(settings: Settings, done: Evaluation, along: Swept | None) -> dict[str, Any]:
    """What `evaluation.json` holds of a run."""
    task = done.run.task
    record = {
        "run": str(done.run.folder.path.name),
        "title": task.title,
        "table": task.table,
        "about": {**task.about, "unit": done.unit},
        "settings": {
            "num_samples": settings.num_samples,
            "chains": settings.chains,
            "temperatures": settings.temperatures,
            "threshold": settings.threshold,
        },
        "unit": done.unit,
        "left_out": done.left_out,
        "members": [{"name": one.name, **one.columns, **one.also} for one in done.results],
    }
    if along is not None:
        names = ("rate", "rate_error", "distortion", "distortion_error", "on_hull")
        names = (*names, "best_from", "best_to")
        record["rate_distortion"] = {
            "setting": along.setting,
            "curves": [
                {
                    "curve": name,
                    along.setting: curve.values.tolist(),
                    **{field: getattr(curve, field).tolist() for field in names},
                }
                for name, curve in along.curves.items()
            ],
        }
    return record


def _cells(done: Evaluation) -> tuple[list[str], list[list[str]]]:
    """A column for each setting, a row for each number."""
    groups = done.groups
    shown = {name: how for name, how in COLUMNS.items() if name in done.results[0].also}
    rows = [
        [name, *(plus_minus(*over_seeds(group, key), digits) for group in groups.values())]
        for key, (name, digits) in shown.items()
    ]
    return [done.unit, *groups], rows


def error_remark(parts: Iterable[Evaluation]) -> list[str]:
    """What stands behind each ± of a table, a line if there is any."""
    groups = [group for done in parts for group in done.groups.values()]
    over = " or ".join(sorted({repeated(group) for group in groups} - {""}))
    return [f"±: the standard error of the mean over {over}"] if over else []


def _along(along: Swept) -> list[str]:
    """The lines of the table of rates and distortions."""
    setting, several = along.setting.replace("_", " "), len(along.curves) > 1
    rows = []
    for name, curve in along.curves.items():
        for i, value in enumerate(curve.values):
            least, most = curve.best_from[i], curve.best_to[i]
            best = f"{least:.2f} " + (f"to {most:.2f}" if np.isfinite(most) else "and more")
            rows.append(
                [
                    *([name] if several else []),
                    f"{value:g}",
                    plus_minus(curve.rate[i], curve.rate_error[i]),
                    plus_minus(curve.distortion[i], curve.distortion_error[i]),
                    best if curve.on_hull[i] else "–",
                ]
            )
    columns = [*([""] if several else []), setting, "rate", "distortion", "best for beta"]
    return [
        f"Rate and distortion along {setting}:",
        "",
        markdown_table(columns, rows, numbers_right=True),
        "",
        "Rate: KL(q(z | x) || p(z)); distortion: -E log p(x | z). Best for beta: where distortion "
        "+ beta rate is smallest among the settings of a curve, so that they lie on its lower "
        "convex hull; of those the one for beta 1 has the best ELBO.",
    ]


def _draw_page(settings: Settings, done: Evaluation, folder: RunFolder) -> None:
    task, arrays, results = done.run.task, done.arrays, done.results
    found = {}
    for setting, group in done.groups.items():
        own = [arrays[one.name] for one in group]
        mean, error = (
            {key: over_seeds(group, key)[place] for key in group[0].also} for place in (0, 1)
        )
        if len(group) == 1:  # what there is of one model
            error["neg_log_likelihood"] = mean["log_likelihood_error"]
            error["annealed_gain"] = mean.get("annealed_difference_error", np.nan)
        found[setting] = Evaluated(
            # Units of different seeds have no order in common but that of their sizes.
            variance=np.mean([np.sort(one["variance"])[::-1] for one in own], axis=0),
            kl_per_dim=np.mean([_ranked(one, "kl_per_dim") for one in own], axis=0),
            information_per_dim=np.mean(
                [_ranked(one, "information_per_dim") for one in own], axis=0
            ),
            active=mean["active_units"],
            information=mean["mutual_information"],
            total_correlation=mean["total_correlation"],
            dimension_kl=mean["dimension_kl"],
            elbo=-mean["neg_elbo"],
            log_likelihood=-mean["neg_log_likelihood"],
            log_likelihood_error=error["neg_log_likelihood"],
            error_over=repeated(group).partition(",")[0] or "examples",
            annealed_gain=mean.get("annealed_gain", np.nan),
            annealed_gain_error=error.get("annealed_gain", np.nan),
            effective_samples=np.concatenate([one["effective_samples"] for one in own]),
            accuracies={
                COLUMNS[name][0]: mean[name]
                for name in ("knn_accuracy", "linear_accuracy")
                if name in mean
            },
        )
    page = evaluation_page(
        found,
        title=f"{task.title} · {task.table}",
        threshold=settings.threshold,
        information_bound=_information_bound(results),
        num_samples=settings.num_samples,
        unit=done.unit,
    )
    kept = {f"{name}/{key}": array for name, own in arrays.items() for key, array in own.items()}
    figures.save(page, folder.path / "evaluation.png", **kept)


def _information_bound(results: Sequence[Result]) -> float:
    """Log n, of the largest split where the models' held-out data are not equally many."""
    return max(one.also["information_bound"] for one in results)


def _ranked(arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    return arrays[name][np.argsort(arrays["kl_per_dim"])[::-1]]


def _remarks(settings: Settings, done: Evaluation) -> list[str]:
    """What the table does not say by itself."""
    results, first = done.results, done.results[0].also
    remarks = [
        f"-log p(x) by importance sampling, {settings.num_samples:,} samples of each posterior: an "
        "upper bound in expectation, with the standard error of its mean over the examples, and "
        "what of that other samples would change. ESS: its effective samples, of the median "
        "example and of the 5th percentile. A unit is active above a variance of "
        f"{settings.threshold:g}; I(x; z) is at most log n = {_information_bound(results):.2f}. "
        "KL = I(x; z) + marginal KL, KL(q(z) || p(z)), which is TC + dimension-wise KL, "
        "sum_j KL(q(z_j) || p(z_j)).",
        *error_remark([done]),
        *done.left_out,
    ]
    if done.run.task.vae.is_layered:
        remarks.append(
            "–: not defined here; a posterior of two stochastic layers has no density of its own "
            "to aggregate"
        )
    if "knn_accuracy" in first:
        train = done.run.task.data
        rows = np.shape(train.rows)[1] if isinstance(train, Subsets) else np.shape(train)[0]
        remarks.append(
            f"5-NN and the linear probe: fitted on the posterior means of {min(FITTED, rows):,} "
            f"training examples{', drawn at random' if rows > FITTED else ''}, judged on all "
            "held-out ones"
        )
    epochs = sorted({int(one.also["epoch"]) for one in results})
    if len(epochs) > 1:
        remarks.append(
            f"warning: some models were saved after epoch {epochs[0]}, others after {epochs[-1]}: "
            "the run was stopped before its end"
        )
    remarks += [
        f"{line}; --num-samples takes more"
        for line in few_samples({one.name: one.also for one in results}, settings.num_samples)
    ]
    return remarks + _annealed_remarks(settings, results)


def _annealed_remarks(settings: Settings, results: Sequence[Result]) -> list[str]:
    both = [one.also for one in results if "annealed_examples" in one.also]
    if not both:
        return []
    remarks = [
        f"the last rows are of the same {both[0]['annealed_examples']} examples, drawn at random: "
        f"annealed importance sampling with {settings.chains} chains and "
        f"{settings.temperatures:,} temperatures, and importance sampling; both are upper bounds "
        "in expectation. The figure adds the difference to log p(x) of all examples"
    ]
    enough = enough_samples(settings.chains)
    if any(own["annealed_effective_samples"] < enough for own in both):
        remarks.append(
            f"warning: under {enough:.2g} effective chains of {settings.chains}: --temperatures "
            "and --chains take more"
        )
    return remarks
