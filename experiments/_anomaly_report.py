"""How well anomalies are found: every model's scores beside other methods'."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from experiments._anomaly_comparison import ALPHA, RATES, Comparison
from experiments._anomaly_problems import Problem
from experiments._folder import RunFolder
from experiments._grid import Member, described, short
from experiments._outliers import other_methods
from experiments._report import Result, markdown_table
from experiments._scores import RowScorer
from experiments._train import Trained
from vae_jax.evaluation import SCORES, conformal_p_values, threshold_at

MOST_TOLD = 10  # columns that are named
PASSED = 0.05  # of the training examples lie above the threshold that is drawn
NAMES = {
    "neg_elbo": "VAE, -ELBO",
    "neg_log_likelihood": "VAE, -log p(x)",
    "reconstruction": "VAE, reconstruction",
    "kl": "VAE, KL",
}


class Shown(NamedTuple):
    """The model whose scores are drawn: the first that trained to its end.

    Attributes:
        name: of the member, in words.
        setting: of the member.
        arrays: its scores, by what was scored, and the nats that each column adds.
    """

    name: str
    setting: dict[str, float]
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass
class _Found:
    """What is found from member to member.

    Attributes:
        results: of every method, by its name.
        rates: the conformal rates of the models of each beta.
        tasks: which the other methods were given.
        maps: what each pixel adds to the cost of the anomalies of a task.
        shown: the model that is drawn.
    """

    results: dict[str, list[Result]] = dataclasses.field(default_factory=dict)
    rates: dict[str, list[dict[str, float]]] = dataclasses.field(default_factory=dict)
    tasks: set[tuple[int, int]] = dataclasses.field(default_factory=set)
    maps: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)
    shown: Shown | None = None

    def judge(
        self, method: str, columns: dict[str, float], scores: np.ndarray, truth: np.ndarray
    ) -> Result:
        """Add the AUROC and the average precision of some scores."""
        from sklearn.metrics import average_precision_score, roc_auc_score

        numbers = {
            "auroc": float(roc_auc_score(truth, scores)),
            "ap": float(average_precision_score(truth, scores)),
        }
        result = Result(method, columns, [], {}, None, numbers)
        self.results.setdefault(method, []).append(result)
        return result


@dataclasses.dataclass(frozen=True)
class AnomalyReport:
    """Scores the test examples of every member, and of the methods beside it.

    Attributes:
        problem: what is detected.
        title: for figures.
        latent_dim: dimensions of z, and components of PCA.
        betas: of the members.
        num_samples: samples of z behind a score.
        figures: whether to draw.
    """

    problem: Problem
    title: str
    latent_dim: int
    betas: Sequence[float]
    num_samples: int
    figures: bool

    def measure(self, trained: list[Trained], run: RunFolder) -> list[dict[str, float]]:
        """AUROC and average precision of every member; the comparison and its figures.

        Args:
            trained: the members, with their parameters.
            run: the folder.

        Returns:
            The numbers of each member, by name; none of one that diverged.
        """
        found, measured = _Found(), []
        for number, one in enumerate(trained):
            if one.problem is not None:
                measured.append({})
                continue
            measured.append(self._measure_one(one, found))
            print(f"scored {number + 1}/{len(trained)}: {one.member.name}", flush=True)
        if found.shown is not None:
            self._write(run, found, found.shown)
        return measured

    def _measure_one(self, trained: Trained, found: _Found) -> dict[str, float]:
        """Judge the scores of one member, and of the methods beside it once for each task."""
        member = trained.member
        key = list(self.problem.tasks)[member.split]
        truth = self.problem.tasks[key].is_anomaly
        train, test = self.problem.halves(key)
        scored = self._scorer(trained.params, test)
        swept = _swept(member)
        if key not in found.tasks:
            found.tasks.add(key)
            others = other_methods(*self.problem.plain(key), self.latent_dim, key[1])
            # Of the task alone: they know nothing of what is swept.
            columns = {name: of for name, of in member.columns.items() if name not in swept}
            for name, scores in others.items():
                found.judge(name, columns, scores, truth)
        numbers = {}
        for score in SCORES:
            name = self._method(member, score)
            result = found.judge(name, member.columns, scored.scores[score], truth)
            numbers |= {f"{score}_{what}": value for what, value in result.also.items()}
        costs = scored.scores["neg_log_likelihood"]
        rates = _conformal(costs, truth)
        found.rates.setdefault(self._beta_of(member), []).append(rates)
        told = above_normal(scored.per_dim, truth)
        if found.shown is None:
            normal = self._scorer(trained.params, train[:5_000]).scores["neg_log_likelihood"]
            arrays = {"normal": costs[~truth], "anomaly": costs[truth], "train": normal}
            arrays |= {"per_dim": told.reshape(-1)}
            found.shown = Shown(described(member.columns), swept, arrays)
        if not self.problem.features and swept == found.shown.setting:
            found.maps[key] = told[..., 0]
        return numbers | rates

    @functools.cached_property
    def _scorer(self) -> RowScorer:
        return RowScorer(self.problem.vae, self.num_samples, self.problem.preprocess)

    def _write(self, run: RunFolder, found: _Found, shown: Shown) -> None:
        """The comparison of all methods, and the figures."""
        rates = {
            of: {name: float(np.mean([rates[name] for rates in own])) for name in RATES}
            for of, own in found.rates.items()
        }
        comparison = Comparison(found.results, rates)
        told = passed(shown) + self._told(shown)
        comparison.write(run, title=self.title, task=self.problem.task, told=told)
        if self.figures:
            comparison.draw(run, name=self.problem.name, title=self.title)
            self._draw(run, shown)
            self._draw_maps(run, found.maps, described(shown.setting))

    def _method(self, member: Member, score: str) -> str:
        beta = self._beta_of(member)
        return f"{NAMES[score]}, {beta}" if beta else NAMES[score]

    def _beta_of(self, member: Member) -> str:
        """What tells the model from those of other betas; empty where there is one."""
        return f"beta {short(member.columns['beta'])}" if len(self.betas) > 1 else ""

    def _told(self, shown: Shown) -> str:
        """Which columns give the anomalies away, as a table."""
        if not self.problem.features:
            return ""
        told = by_column(self.problem.features, shown.arrays["per_dim"])
        first = sorted(told, key=lambda name: -told[name])[:MOST_TOLD]
        rows = [[name, f"{told[name]:.2f}"] for name in first]
        said = "Nats that a column adds to the reconstruction cost of the anomalies, on average"
        most = f", the {len(first)} largest of {len(told)}" if len(told) > len(first) else ""
        body = markdown_table(["column", "nats"], rows)
        return f"\n{said} above the normal rows ({shown.name}){most}:\n\n{body}\n"

    def _draw(self, run: RunFolder, shown: Shown) -> None:
        from vae_jax import figures

        figures.save(
            figures.score_histogram(
                {name: shown.arrays[name] for name in ("normal", "anomaly")},
                threshold_at(shown.arrays["train"], PASSED),
                title=f"{self.title} · {shown.name} · the threshold is passed by {PASSED:.0%} of "
                "the training examples",
                xlabel="−log p(x) (nats)",
            ),
            run.figures / "scores.png",
            **shown.arrays,
        )

    def _draw_maps(
        self, run: RunFolder, maps: Mapping[tuple[int, int], np.ndarray], setting: str
    ) -> None:
        """Where in the image a digit that was left out costs more than the others."""
        from vae_jax import figures

        seed = next((seed for _, seed in maps), None)
        of_seed = {left_out: own for (left_out, own_seed), own in maps.items() if own_seed == seed}
        if not of_seed:
            return
        stacked = np.array(list(of_seed.values()))
        figures.save(
            figures.nats_maps(
                stacked,
                [f"without {left_out}" for left_out in of_seed],
                title=f"{self.title} · {setting} · reconstruction cost of the anomalies above the "
                f"normal examples, mean of each pixel, seed {seed}",
            ),
            run.figures / "pixels.png",
            maps=stacked,
        )


def passed(shown: Shown) -> str:
    """How many examples lie above the threshold that is drawn, in a sentence."""
    threshold = threshold_at(shown.arrays["train"], PASSED)
    normal, anomaly = (np.mean(shown.arrays[name] > threshold) for name in ("normal", "anomaly"))
    return (
        f"\nA quantile promises nothing of examples that were not trained on: the -log p(x) that "
        f"{PASSED:.0%} of the training examples pass is passed by {normal:.1%} of the held-out "
        f"normal ones and by {anomaly:.1%} of the anomalies ({shown.name}).\n"
    )


def above_normal(per_dim: np.ndarray, is_anomaly: np.ndarray) -> np.ndarray:
    """What each feature adds to the cost of the anomalies, on average above the normal rows.

    Args:
        per_dim: nats of each feature, `[rows, *x]`; 0 where a value is missing.
        is_anomaly: which rows are anomalies.

    Returns:
        The difference of the means, nats, `[*x]`.
    """
    return per_dim[is_anomaly].mean(axis=0) - per_dim[~is_anomaly].mean(axis=0)


def by_column(names: Sequence[str], nats: np.ndarray) -> dict[str, float]:
    """The nats of each column: those of its features added up.

    Args:
        names: the column that each feature belongs to.
        nats: of each feature.

    Returns:
        Nats by column, in the order of its first feature.
    """
    told = dict.fromkeys(names, 0.0)
    for name, own in zip(names, nats, strict=True):
        told[name] += float(own)
    return told


def _swept(member: Member) -> dict[str, float]:
    """The setting of a member; what is left out of its training is none."""
    return {name: value for name, value in member.setting.items() if name != "left_out"}


def _conformal(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """False alarms and detections of p <= alpha, calibrated on every other normal example."""
    normal = scores[~truth]
    calibration, other = normal[::2], normal[1::2]
    return {
        "false_alarms": float(np.mean(conformal_p_values(calibration, other) <= ALPHA)),
        "detections": float(np.mean(conformal_p_values(calibration, scores[truth]) <= ALPHA)),
    }
