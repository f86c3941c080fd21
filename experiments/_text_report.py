"""What is told of the models of a text together: the table, and the figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Integer

from experiments._folder import RunFolder
from experiments._importance import few_samples
from experiments._noise import DRAW_SEED
from experiments._progress import print_table
from experiments._report import Result, by_label, markdown_table, plus_minus
from experiments._spread import mean_and_error
from experiments._text_numbers import SURGERY, WRITTEN, TextMeasures, between, words_of
from experiments._train import Trained
from vae_jax.data import text_of
from vae_jax.data.grammar import global_information
from vae_jax.types import UNKNOWN, Params

SHOWN = 10  # sentences of each kind on a page
STEPS = 7  # sentences of an interpolation

NUMBERS = {
    "neg_log_likelihood": "-log p(x)",
    "effective_samples_median": "ESS",
    "perplexity": "perplexity",
    "gain": "z buys",
    "kl": "KL",
    "mutual_information": "I(x; z)",
    "active_units": "active units",
    "accuracy_by_mean": "rebuilt by mean",
    "accuracy_by_sample": "by sample",
    "greedy_accepted": "greedy accepted",
    "sampled_accepted": "sampled accepted",
    "accepted_and_new": "and new",
    "greedy_new": "greedy new",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}
OF_Z = 7  # of them say what z carries, the others what is written


class TextReport(NamedTuple):
    """Measures the models of a run and draws them.

    Attributes:
        measures: of one model.
        title: what was trained.
        figures: whose figures are wanted, as `--figures` says.
        first_seed: the seed whose models are drawn by `first_seed`.
    """

    measures: TextMeasures
    title: str
    figures: str
    first_seed: int

    def measure(self, trained: list[Trained], folder: RunFolder) -> list[dict[str, float]]:
        """Measure every model.

        Args:
            trained: the models.
            folder: of the run.

        Returns:
            The numbers of each by name; none of one that diverged.
        """
        known = {words_of(row) for row in self.measures.text.train}
        found = []
        for number, one in enumerate(trained, start=1):
            if one.problem is not None:
                found.append({})
                continue
            print(f"{number}/{len(trained)}  measuring {one.member.name}", flush=True)
            numbers = self.measures.numbers(one.params, known)
            found.append(numbers | {"kl": float(one.final.kl)})
        return found

    def conclude(self, folder: RunFolder, results: list[Result]) -> list[Result]:
        """Write `text.md` and draw what compares the models of a whole sweep.

        Args:
            folder: of the run.
            results: the models, measured.

        Returns:
            The models with their "gain" over the decoder without z of the same seed.
        """
        results = with_gains(results)
        groups = by_label(results)
        self._write_table(groups, folder)
        if self.figures != "none" and any(one.also for one in results):
            self._draw_comparison(groups, folder.figures)
        return results

    def draw(self, trained: Trained, folder: Path) -> None:
        """Draw what one model writes and where its latent space has what.

        Args:
            trained: the model.
            folder: where its figures go.
        """
        from vae_jax import figures

        is_first = self.figures == "first_seed" and trained.member.seed == self.first_seed
        if self.figures != "all" and not is_first:
            return
        title = f"{self.title} · {trained.member.name}"
        columns = self._page(trained.params)
        figures.save(
            figures.draw_sentences(columns, title=title, interpolated=("interpolation",)),
            folder / "sentences.png",
            **{heading.replace(" ", "_"): np.array(lines) for heading, lines in columns},
        )
        if trained.member.columns["latent"] == 0:
            return
        text = self.measures.text
        means = np.asarray(self.measures.posteriors(trained.params, text.test[:SURGERY]).mean)
        points, kinds, axis_names = plane(means, text.test_kinds[: len(means)])
        scatter = figures.latent_scatter(
            points, kinds, text.kind_names, title=title, axis_names=axis_names
        )
        figures.save(scatter, folder / "latent.png", points=points, kinds=kinds)

    def _page(self, params: Params) -> list[tuple[str, list[str]]]:
        """What a model writes: from the prior, between two sentences, and of given ones."""
        key_z, key = jax.random.split(jax.random.key(DRAW_SEED))
        ours, text = self.measures, self.measures.text
        zs = jax.random.normal(key_z, (SHOWN, ours.model.vae.latent_dim))
        means = ours.posteriors(params, text.test[:SHOWN]).mean
        path = between(means[0], means[-1], STEPS)
        written = {
            "greedy from the prior": ours.written(key, params, zs, 0.0),
            "drawn from the prior": ours.written(key, params, zs, 1.0),
            "held-out sentence": text.test[:SHOWN],
            "rebuilt from its mean": ours.written(key, params, means, 0.0),
            "interpolation": ours.written(key, params, path, 0.0),
        }
        return [
            (name, [text_of(row, text.vocabulary, text.level) for row in rows])
            for name, rows in written.items()
        ]

    def _write_table(self, groups: dict[str, list[Result]], folder: RunFolder) -> None:
        measured = {name for own in groups.values() for one in own for name in one.also}
        numbers = {name: title for name, title in NUMBERS.items() if name in measured}
        rows = []
        for label, members in groups.items():
            own = [one.also for one in members if one.problem is None]
            cells = [_shown([n[name] for n in own if name in n]) for name in numbers]
            rows.append([label, str(len(own)), *cells])
        columns = ["", "seeds", *numbers.values()]
        title = f"{self.title}: what z carries"
        body = markdown_table(columns, rows)
        estimated = {one.name: one.also for own in groups.values() for one in own}
        weak = few_samples(estimated, self.measures.num_samples)
        warnings = "".join(f"\n- {line}\n" for line in weak)
        folder.write_text("text.md", f"{title}\n\n{body}\n\n{self._said}\n{warnings}")
        cut = 2 + OF_Z
        print_table(title, columns[:cut], [row[:cut] for row in rows])
        rest = [*columns[:1], *columns[cut:]]
        print_table("what it writes", rest, [[row[0], *row[cut:]] for row in rows])
        print("".join(f"{line}\n" for line in weak), end="")

    @property
    def _said(self) -> str:
        """What the numbers of the table are."""
        ours, text = self.measures, self.measures.text
        tokens, all_of = text.level[:-1], len(text.test)
        lines = [
            f"Nats per sentence; -log p(x) of the first {ours.held_out:,} held-out sentences, "
            f"{ours.num_samples} importance samples (ESS: effective ones, of the median "
            f"sentence); perplexity per {tokens}, ends of sentences "
            'counted. "z buys": -log p(x) of the same decoder without z less that of the model, '
            "for each seed. Mean ± standard error over seeds. Rebuilt: share of tokens at their "
            f"place, greedily. {WRITTEN:,} sentences are written from the prior; new: not among "
            "the training sentences; distinct: of the greedy ones. The KL is that of all "
            f"{all_of:,} held-out sentences, I(x; z) and active units of the first "
            f"{min(SURGERY, all_of):,}."
        ]
        strange = int(np.sum(~(text.test > UNKNOWN).any(axis=1)))
        lines.append(
            f"Of the held-out sentences {text.repeated:,} are also training sentences, "
            f"{text.unknown_share:.1%} of their {text.level} are not in the vocabulary, and "
            f"{strange:,} have no {tokens} that is."
        )
        if text.entropy is not None:
            lines.append(
                f"The entropy of the grammar is {text.entropy:.3f} nats, of which "
                f"{global_information():.3f} are the topic, kind, number and tense of a sentence."
            )
        if ours.true_cost is not None:
            lines.append(f"Under the grammar itself these sentences cost {ours.true_cost:.3f}.")
        return " ".join(lines)

    def _draw_comparison(self, groups: dict[str, list[Result]], folder: Path) -> None:
        from vae_jax import figures

        members = [one for own in groups.values() for one in own]
        epochs = np.array([row["epoch"] for row in max((one.rows for one in members), key=len)])
        seeds = max(map(len, groups.values()))
        shape = (len(groups), seeds, len(epochs))
        kl, active = np.full(shape, np.nan), np.full(shape, np.nan)
        nll = np.full(shape[:2], np.nan)
        for i, own in enumerate(groups.values()):
            for j, one in enumerate(own):
                kl[i, j, : len(one.rows)] = [row["test_kl"] for row in one.rows]
                active[i, j, : len(one.rows)] = [row["active_dims"] for row in one.rows]
                nll[i, j] = one.also.get("neg_log_likelihood", np.nan)
        names = list(groups)
        with_z = [i for i, own in enumerate(groups.values()) if own[0].columns["latent"] != 0]
        if not with_z:  # a slice may have none
            return
        shown = [names[i] for i in with_z]
        figures.save(
            figures.draw_remedies(epochs, kl[with_z], active[with_z], shown, title=self.title),
            folder / "remedies.png",
            epochs=epochs,
            kl=kl[with_z],
            active_dims=active[with_z],
        )
        references = {
            names[i]: float(np.nanmean(nll[i]))
            for i in range(len(names))
            if i not in with_z and np.isfinite(nll[i]).any()
        }
        if self.measures.true_cost is not None:
            references["the grammar itself"] = self.measures.true_cost
        title = f"{self.title} · {self.measures.num_samples} importance samples"
        figures.save(
            figures.draw_nll(shown, nll[with_z], references, title=title),
            folder / "neg_log_likelihood.png",
            neg_log_likelihood=nll,
        )


def with_gains(results: Sequence[Result]) -> list[Result]:
    """The models with their "gain": what -log p(x) is less than without z, for the same seed."""

    def shared(one: Result) -> tuple[float | None, float]:
        """What a model shares with the decoder without z that it is compared with."""
        return one.columns.get("learning_rate"), one.columns["seed"]

    without = {
        shared(one): one.also["neg_log_likelihood"]
        for one in results
        if one.also and one.columns["latent"] == 0
    }
    return [
        one._replace(
            also={**one.also, "gain": without[shared(one)] - one.also["neg_log_likelihood"]}
        )
        if one.also and shared(one) in without
        else one
        for one in results
    ]


def plane(
    means: Float[np.ndarray, "n latent"], kinds: Integer[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "some 2"], Integer[np.ndarray, " some"], tuple[str, str]]:
    """The plane in which posterior means are looked at, and whose points are drawn.

    With three kinds or more the two directions that tell them apart best, found with the first
    half of the sentences and drawn for the other; else the principal components of all.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    half = len(means) // 2
    several = len(np.unique(kinds[:half])) > 2 and half > 10 * means.shape[1]
    if several and means.shape[1] > 1 and np.ptp(means[:half], axis=0).max() > 0:
        # With shrinkage: dimensions that are not used have next to no variance.
        found = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", n_components=2)
        points = found.fit(means[:half], kinds[:half]).transform(means[half:])
        return points, kinds[half:], ("linear discriminant 1", "linear discriminant 2")
    points, shares = principal(means)
    first, second = (f"principal component {i + 1} ({shares[i]:.0%})" for i in (0, 1))
    return points, kinds, (first, second)


def principal(
    means: Float[np.ndarray, "n latent"],
) -> tuple[Float[np.ndarray, "n 2"], list[float]]:
    """The first two principal components, and their shares of the variance."""
    centred = means - means.mean(axis=0)
    # A row and a column of zeros: there are two components, however few the sentences.
    left, sizes, _ = np.linalg.svd(np.pad(centred, (0, 1)), full_matrices=False)
    variances = sizes**2
    shares = variances[:2] / max(variances.sum(), np.finfo(np.float32).tiny)
    return (left * sizes)[:-1, :2], shares.tolist()


def _shown(values: Sequence[float]) -> str:
    """The mean and its standard error in a cell, small numbers with a digit more."""
    mean, error = mean_and_error(values)
    digits = 3 if abs(mean) < 2 else 2
    return plus_minus(round(mean, digits) + 0.0, error, digits)  # and no -0.000
