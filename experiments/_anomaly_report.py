"""How well anomalies are found: every model's scores beside other methods'."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments._grid import Member, short
from experiments._outliers import MOST_FITTED, PROTOCOLS, Detection, other_methods
from experiments._progress import console, table
from experiments._report import Result, markdown_table, over_seeds, plus_minus
from experiments._run import RunFolder
from experiments._scores import RowScorer
from experiments._train import Trained
from vae_jax.evaluation import SCORES, conformal_p_values, threshold_at
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.sweep import Subsets

MOST_TOLD = 10  # columns that are named
ALPHA = 0.1  # false alarms that the conformal threshold allows
NAMES = {
    "neg_elbo": "VAE, -ELBO",
    "neg_log_likelihood": "VAE, -log p(x)",
    "reconstruction": "VAE, reconstruction",
    "kl": "VAE, KL",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """What one run detects anomalies in.

    Attributes:
        name: of the data that were really loaded.
        task: which of `PROTOCOLS`.
        features: the column that each feature belongs to; none of images.
        vae: the model.
        preprocess: from a stored example to x.
        tasks: by the class that is left out (-1: always the same) and the seed.
        data: the normal training examples of each task.
        test: the normal test examples of each task, cut to the same number.
        halves: `task -> (train, test)`, stored examples to score.
        plain: `task -> (train, test)`, complete and on one scale, for the methods beside ours.
        source: for the provenance.
    """

    name: str
    task: str
    features: Sequence[str]
    vae: VAE
    preprocess: Preprocess
    tasks: Mapping[tuple[int, int], Detection]
    data: Subsets
    test: Subsets
    halves: Any
    plain: Any
    source: dict[str, Any]


class Shown(NamedTuple):
    """The model whose scores are drawn: the first that trained to its end.

    Attributes:
        name: of the member.
        arrays: its scores, by what was scored, and the nats that each column adds.
    """

    name: str
    arrays: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class AnomalyReport:
    """Scores the test examples of every member, and of the methods beside it.

    Attributes:
        problem: what is detected.
        title: for figures.
        latent_dim: dimensions of z, and components of PCA.
        seeds: of the members.
        betas: of the members.
        num_samples: samples of z behind a score.
        figures: whether to draw.
    """

    problem: Problem
    title: str
    latent_dim: int
    seeds: Sequence[int]
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
        scorer = RowScorer(self.problem.vae, self.num_samples, self.problem.preprocess)
        keys = list(self.problem.tasks)
        measured: list[dict[str, float]] = []
        found: dict[str, list[Result]] = {}
        beside: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        shown: Shown | None = None
        for number, member in enumerate(trained):
            if member.problem is not None:
                measured.append({})
                continue
            key = keys[member.member.split]
            truth = self.problem.tasks[key].is_anomaly
            train, test = self.problem.halves(key)
            scored = scorer(member.params, test)
            if key not in beside:
                dims, seed = self.latent_dim, key[1]
                train_plain, test_plain = self.problem.plain(key)
                beside[key] = dict(other_methods(train_plain, test_plain, dims, seed))
                for name, scores in beside[key].items():
                    found.setdefault(name, []).append(_judged(name, member.member, scores, truth))
            own = {}
            for score in SCORES:
                name = self._method(member.member, score)
                result = _judged(name, member.member, scored.scores[score], truth)
                found.setdefault(name, []).append(result)
                own |= {f"{score}_{what}": value for what, value in result.also.items()}
            own |= _conformal(scored.scores["neg_log_likelihood"], truth)
            measured.append(own)
            if shown is None:
                normal = scorer(member.params, train[:5_000]).scores["neg_log_likelihood"]
                costs = scored.scores["neg_log_likelihood"]
                told = scored.per_dim.reshape(len(truth), -1)[truth].mean(axis=0)
                told = told - scored.per_dim.reshape(len(truth), -1)[~truth].mean(axis=0)
                arrays = {"normal": costs[~truth], "anomaly": costs[truth], "train": normal}
                shown = Shown(member.member.name, arrays | {"per_dim": told})
            print(f"scored {number + 1}/{len(trained)}: {member.member.name}", flush=True)
        if shown is not None:
            self._write(run, found, measured, shown)
            if self.figures:
                self._draw(run, found, shown)
        return measured

    def _method(self, member: Member, score: str) -> str:
        several = len(self.betas) > 1
        return NAMES[score] + (f", beta {short(member.columns['beta'])}" if several else "")

    def _write(
        self,
        run: RunFolder,
        found: Mapping[str, list[Result]],
        measured: Sequence[Mapping[str, float]],
        shown: Shown,
    ) -> None:
        order = sorted(found, key=lambda method: -_mean(found[method], "auroc"))
        left_out = sorted(
            {
                int(own.columns["left_out"])
                for own in next(iter(found.values()))
                if "left_out" in own.columns
            }
        )
        columns = ["", "AUROC", "average precision", *(f"without {digit}" for digit in left_out)]
        rows = []
        for method in order:
            own = found[method]
            cells = [plus_minus(*over_seeds(own, name), digits=3) for name in ("auroc", "ap")]
            for digit in left_out:
                some = [result for result in own if result.columns["left_out"] == digit]
                cells.append(f"{_mean(some, 'auroc'):.3f}")
            rows.append([method, *cells])
        rates = {
            name: float(np.mean([own[name] for own in measured if own]))
            for name in ("false_alarms", "detections")
        }
        over = " over seeds" if len(self.seeds) > 1 else ""
        over = " over what was left out" if left_out and not over else over
        title = f"{self.title}: anomaly detection, mean ± standard error{over}"
        said = (
            f"Conformal p-values of -log p(x), calibrated on half of the held-out normal examples: "
            f"p <= {ALPHA} is a false alarm for {rates['false_alarms']:.1%} of the other half (at "
            f"most {ALPHA:.0%} is promised on average) and finds {rates['detections']:.1%} of the "
            "anomalies."
        )
        protocol = PROTOCOLS[self.problem.task]
        protocol += f" Methods of scikit-learn are fitted on {MOST_FITTED:,} rows at most."
        text = f"{title}\n\n{protocol}\n\n{markdown_table(columns, rows)}\n\n{said}\n"
        run.write_text("anomaly.md", text + self._told(shown))
        numbers = {
            method: {
                name: dict(zip(("mean", "standard_error"), over_seeds(own, name), strict=True))
                for name in ("auroc", "ap")
            }
            for method, own in found.items()
        }
        run.write_json("anomaly.json", {"methods": numbers, "conformal": {"alpha": ALPHA, **rates}})
        console().print(table(title, columns[:3], [row[:3] for row in rows]))
        print(said)

    def _told(self, shown: Shown) -> str:
        """Which columns give the anomalies away, as a table."""
        names = self.problem.features
        if not names:
            return ""
        told = dict.fromkeys(names, 0.0)
        for name, nats in zip(names, shown.arrays["per_dim"], strict=True):
            told[name] += float(nats)
        first = sorted(told, key=lambda name: -told[name])[:MOST_TOLD]
        rows = [[name, f"{told[name]:.2f}"] for name in first]
        said = "Nats that a column adds to the reconstruction cost of the anomalies, on average"
        body = markdown_table(["column", "nats"], rows)
        return f"\n{said} above the normal rows ({shown.name}):\n\n{body}\n"

    def _draw(self, run: RunFolder, found: Mapping[str, list[Result]], shown: Shown) -> None:
        from vae_jax import figures

        places = list(
            dict.fromkeys(own.columns.get("left_out", -1) for own in next(iter(found.values())))
        )
        names = [self.problem.name if place < 0 else f"without {place:g}" for place in places]
        repeats = len(self.seeds)
        bars = {}
        for method, own in found.items():
            values = np.full((len(places), repeats), np.nan)
            for result in own:
                row = places.index(result.columns.get("left_out", -1))
                column = self.seeds.index(int(result.columns["seed"]))
                values[row, column] = result.also["auroc"]
            if np.isfinite(values).all():
                mean = values.mean(axis=0, keepdims=True)
                bars[method] = values if len(places) == 1 else np.concatenate([values, mean])
        if bars:
            names += [] if len(places) == 1 else ["mean"]
            error = f", ± standard error over {repeats} seeds" if repeats > 1 else ""
            xlabel = f"AUROC{error}; dotted: chance"
            figures.save(
                figures.score_bars(bars, names, title=self.title, xlabel=xlabel, chance=0.5),
                run.figures / "auroc.png",
                **{name.replace(" ", "_"): values for name, values in bars.items()},
            )
        threshold = threshold_at(shown.arrays["train"], 0.05)
        figures.save(
            figures.score_histogram(
                {name: shown.arrays[name] for name in ("normal", "anomaly")},
                threshold,
                title=f"{self.title} · {shown.name} · the threshold is passed by 5% of the "
                "training examples",
                xlabel="−log p(x) (nats)",
            ),
            run.figures / "scores.png",
            **shown.arrays,
        )


def _judged(method: str, member: Member, scores: np.ndarray, truth: np.ndarray) -> Result:
    from sklearn.metrics import average_precision_score, roc_auc_score

    numbers = {
        "auroc": float(roc_auc_score(truth, scores)),
        "ap": float(average_precision_score(truth, scores)),
    }
    return Result(method, member.columns, [], {}, None, numbers)


def _conformal(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """False alarms and detections of p <= alpha, calibrated on every other normal example."""
    normal = scores[~truth]
    calibration, other = normal[::2], normal[1::2]
    return {
        "false_alarms": float(np.mean(conformal_p_values(calibration, other) <= ALPHA)),
        "detections": float(np.mean(conformal_p_values(calibration, scores[truth]) <= ALPHA)),
    }


def _mean(results: Sequence[Result], name: str) -> float:
    return float(np.mean([result.also[name] for result in results]))
