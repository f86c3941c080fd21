"""What is told of models of sentences: how much z carries, what it buys, and what they write."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Num

from experiments._noise import DRAW_SEED, EVALUATION_SEED, SURGERY_SEED
from experiments._progress import console, table
from experiments._report import markdown_table, plus_minus
from experiments._run import RunFolder
from experiments._train import Trained
from vae_jax.data import Sentences, lengths_of, text_of
from vae_jax.data.grammar import accepts, log_prob
from vae_jax.evaluation import active_units, elbo_surgery, encode_all, estimate_log_likelihood
from vae_jax.gaussian import reparameterize
from vae_jax.preprocess import tokens_as_stored
from vae_jax.text import TextVAE, write
from vae_jax.types import PAD, UNKNOWN, Params, PRNGKey

WRITTEN = 1000  # sentences that each model writes, to be judged
SURGERY = 2000  # held-out sentences behind the mutual information
SHOWN = 10  # sentences of each kind on a page
STEPS = 7  # sentences of an interpolation

NUMBERS = {
    "neg_log_likelihood": "-log p(x)",
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


class TextReport(NamedTuple):
    """Measures the models of a run and draws them.

    Attributes:
        model: all of them.
        text: what they were trained on.
        num_samples: importance samples of each log p(x).
        held_out: test sentences whose log p(x) is estimated.
        title: what was trained.
        figures: whose figures are wanted, as `--figures` says.
        first_seed: the seed whose models are drawn by `first_seed`.
    """

    model: TextVAE
    text: Sentences
    num_samples: int
    held_out: int
    title: str
    figures: str
    first_seed: int

    def measure(self, trained: list[Trained], folder: RunFolder) -> list[dict[str, float]]:
        """Measure every model, write `text.md` and draw what compares them.

        Args:
            trained: the models, of which the decoder without z leads.
            folder: of the run.

        Returns:
            The numbers of each by name; none of one that diverged.
        """
        known = {tuple(_words_of(row)) for row in self.text.train}
        found = []
        for number, one in enumerate(trained, start=1):
            if one.problem is not None:
                found.append({})
                continue
            print(f"{number}/{len(trained)}  measuring {one.member.name}", flush=True)
            found.append(self._numbers(one, known))
        without = {
            _rate_and_seed(one): numbers["neg_log_likelihood"]
            for one, numbers in zip(trained, found, strict=True)
            if numbers and one.member.columns["latent"] == 0
        }
        for one, numbers in zip(trained, found, strict=True):
            if numbers and _rate_and_seed(one) in without:
                numbers["gain"] = without[_rate_and_seed(one)] - numbers["neg_log_likelihood"]
        self._write_table(trained, found, folder)
        if self.figures != "none" and any(found):
            self._draw_comparison(trained, found, folder.figures)
        return found

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
        means = np.asarray(self._posteriors(trained.params, SURGERY).mean)
        points, kinds, axis_names = _plane(means, self.text.test_kinds[: len(means)])
        figures.save(
            figures.latent_scatter(
                points,
                kinds,
                self.text.kind_names,
                title=title,
                axis_names=axis_names,
            ),
            folder / "latent.png",
            points=points,
            kinds=kinds,
        )

    @property
    def _true_cost(self) -> float | None:
        """What the held-out sentences cost under the grammar itself, nats a sentence."""
        if self.text.entropy is None or self.text.truncated or self.text.level != "words":
            return None
        costs = []
        for row in self.text.test[: self.held_out]:
            words = [self.text.vocabulary[word] for word in _words_of(row)]
            costs.append(-log_prob(words))
        mean = float(np.mean(costs))
        # A word that the training sentences lack is no word of the grammar here.
        return mean if math.isfinite(mean) else None

    def _posteriors(self, params: Params, count: int) -> Any:
        key = jax.random.key(EVALUATION_SEED)
        test = jnp.asarray(self.text.test[:count])
        return encode_all(key, self.model.vae, tokens_as_stored, params, test)

    def _numbers(self, one: Trained, known: set[tuple[int, ...]]) -> dict[str, float]:
        params, key = one.params, jax.random.key(EVALUATION_SEED)
        test = self.text.test
        some = test[: self.held_out]
        estimate = estimate_log_likelihood(
            key,
            self.model.vae,
            tokens_as_stored,
            params,
            jnp.asarray(some),
            num_samples=self.num_samples,
        )
        costs = -np.asarray(estimate.log_likelihood, np.float64)
        numbers = {
            "neg_log_likelihood": costs.mean(),
            "neg_log_likelihood_standard_error": costs.std(ddof=1) / math.sqrt(len(costs))
            if len(costs) > 1
            else math.nan,
            # A model that went astray may have one beyond all floats.
            "perplexity": float(np.exp(np.minimum(costs.sum() / lengths_of(some).sum(), 700))),
            "effective_samples": float(np.median(np.asarray(estimate.effective_samples))),
            "kl": float(one.final.kl),
        }
        posteriors = self._posteriors(params, SURGERY)
        surgery = elbo_surgery(jax.random.key(SURGERY_SEED), posteriors)
        numbers["mutual_information"] = float(surgery.mutual_information)
        numbers["active_units"] = int(active_units(posteriors))

        key_z, key_words, key_sample = jax.random.split(jax.random.key(DRAW_SEED), 3)
        means = posteriors.mean
        sampled = jax.vmap(reparameterize)(jax.random.split(key_sample, len(means)), posteriors)
        for name, zs in (("mean", means), ("sample", sampled)):
            again = write_all(key_words, self.model, params, zs, test.shape[1], 0.0)
            numbers[f"accuracy_by_{name}"] = _accuracy(test[: len(means)], again)
        zs = jax.random.normal(key_z, (WRITTEN, self.model.vae.latent_dim))
        greedy = write_all(key_words, self.model, params, zs, test.shape[1], 0.0)
        drawn = write_all(key_words, self.model, params, zs, test.shape[1], 1.0)
        if self.text.entropy is not None and self.text.level == "words":
            numbers["greedy_accepted"] = self._accepted(greedy)
            numbers["sampled_accepted"] = self._accepted(drawn)
            numbers["accepted_and_new"] = self._accepted(drawn, known)
        words = [_words_of(row) for row in greedy]
        numbers["greedy_new"] = float(np.mean([tuple(own) not in known for own in words]))
        numbers["distinct_1"], numbers["distinct_2"] = (_distinct(words, n) for n in (1, 2))
        return {name: float(value) for name, value in numbers.items()}

    def _accepted(
        self, rows: Integer[np.ndarray, "n length"], known: Collection[tuple[int, ...]] = ()
    ) -> float:
        """The share of sentences that the grammar generates and that are not known."""
        vocabulary = self.text.vocabulary
        judged: dict[tuple[int, ...], bool] = {}
        for row in rows:
            own = tuple(_words_of(row))
            if own not in judged:
                judged[own] = own not in known and accepts([vocabulary[word] for word in own])
        return float(np.mean([judged[tuple(_words_of(row))] for row in rows]))

    def _page(self, params: Params) -> list[tuple[str, list[str]]]:
        """What a model writes: from the prior, between two sentences, and of given ones."""
        key_z, key = jax.random.split(jax.random.key(DRAW_SEED))
        length, test = self.text.test.shape[1], self.text.test
        zs = jax.random.normal(key_z, (SHOWN, self.model.vae.latent_dim))
        q = self._posteriors(params, SHOWN)
        ends = q.mean[:2]
        path = between(ends[0], ends[1], STEPS)
        written = {
            "greedy from the prior": write_all(key, self.model, params, zs, length, 0.0),
            "drawn from the prior": write_all(key, self.model, params, zs, length, 1.0),
            "held-out sentence": test[:SHOWN],
            "rebuilt from its mean": write_all(key, self.model, params, q.mean, length, 0.0),
            "interpolation": write_all(key, self.model, params, path, length, 0.0),
        }
        return [(name, self._texts(rows)) for name, rows in written.items()]

    def _texts(self, rows: Integer[np.ndarray, "n length"]) -> list[str]:
        return [text_of(row, self.text.vocabulary, self.text.level) for row in np.asarray(rows)]

    def _write_table(
        self, trained: Sequence[Trained], found: Sequence[dict[str, float]], folder: RunFolder
    ) -> None:
        groups = groups_of(trained)
        columns = [title for name, title in NUMBERS.items() if any(name in n for n in found)]
        rows = []
        for label, places in groups.items():
            own = [found[i] for i in places if found[i]]
            cells = []
            for name, title in NUMBERS.items():
                if title in columns:
                    cells.append(_mean_and_error([n[name] for n in own if name in n]))
            rows.append([label, str(len(own)), *cells])
        columns = ["", "seeds", *columns]
        true_cost, entropy = self._true_cost, self.text.entropy
        counted = f"{self.held_out:,} held-out sentences, {self.num_samples} importance samples"
        known = "" if entropy is None else f" The entropy of the grammar is {entropy:.3f} nats."
        if true_cost is not None:
            known += f" Under the grammar itself these sentences cost {true_cost:.3f}."
        said = (
            f"Nats per sentence; -log p(x) of the first {counted}; perplexity per "
            f'{self.text.level[:-1]}, ends of sentences counted. "z buys": -log p(x) of the same '
            "decoder without z less that of the model, for each seed. Mean ± standard error over "
            f"seeds. Rebuilt: share of tokens at their place, greedily. {WRITTEN:,} sentences are "
            "written from the prior; new: not among the training sentences. The KL is that of all "
            f"{len(self.text.test):,} held-out sentences, I(x; z) and active units of the first "
            f"{min(SURGERY, len(self.text.test)):,}.{known}"
        )
        title = f"{self.title}: what z carries"
        folder.write_text("text.md", f"{title}\n\n{markdown_table(columns, rows)}\n\n{said}\n")
        cut = 2 + 6
        console().print(table(title, columns[:cut], [row[:cut] for row in rows]))
        rest = [*columns[:1], *columns[cut:]]
        console().print(table("what it writes", rest, [[row[0], *row[cut:]] for row in rows]))

    def _draw_comparison(
        self, trained: Sequence[Trained], found: Sequence[dict[str, float]], folder: Path
    ) -> None:
        from vae_jax import figures

        groups = groups_of(trained)
        epochs = [row["epoch"] for row in max((one.rows for one in trained), key=len)]
        seeds = max(map(len, groups.values()))
        shape = (len(groups), seeds, len(epochs))
        kl, active = np.full(shape, np.nan), np.full(shape, np.nan)
        nll = np.full(shape[:2], np.nan)
        for i, places in enumerate(groups.values()):
            for j, place in enumerate(places):
                rows = trained[place].rows
                kl[i, j, : len(rows)] = [row["test_kl"] for row in rows]
                active[i, j, : len(rows)] = [row["active_dims"] for row in rows]
                nll[i, j] = found[place].get("neg_log_likelihood", np.nan)
        names = list(groups)
        with_z = [i for i, places in enumerate(groups.values()) if _has_z(trained[places[0]])]
        if not with_z:  # a slice may have none
            return
        shown = [names[i] for i in with_z]
        figures.save(
            figures.draw_remedies(
                np.array(epochs), kl[with_z], active[with_z], shown, title=self.title
            ),
            folder / "remedies.png",
            epochs=np.array(epochs),
            kl=kl[with_z],
            active_dims=active[with_z],
        )
        references = {
            names[i]: float(np.nanmean(nll[i]))
            for i in range(len(names))
            if i not in with_z and np.isfinite(nll[i]).any()
        }
        if self._true_cost is not None:
            references["the grammar itself"] = self._true_cost
        title = f"{self.title} · {self.num_samples} importance samples"
        figures.save(
            figures.draw_nll(shown, nll[with_z], references, title=title),
            folder / "neg_log_likelihood.png",
            neg_log_likelihood=nll,
        )


@partial(jax.jit, static_argnames=("model", "length", "top_k"))
def write_all(
    key: PRNGKey,
    model: TextVAE,
    params: Params,
    zs: Float[Array, "n latent"],
    length: int,
    temperature: float | Float[Array, ""],
    top_k: int | None = None,
) -> Int[Array, "n length"]:
    """Write a sentence for every z; see `vae_jax.text.write`."""

    def one(index: Int[Array, ""], z: Float[Array, " latent"]) -> Int[Array, " length"]:
        own = jax.random.fold_in(key, index)
        return write(own, model, params, z, length=length, temperature=temperature, top_k=top_k)

    return jax.vmap(one)(jnp.arange(len(zs)), zs)


def between(
    a: Float[Array, " latent"], b: Float[Array, " latent"], steps: int
) -> Float[Array, "steps latent"]:
    """Points on the straight line from one z to another, both ends among them."""
    share = jnp.linspace(0, 1, steps)[:, None]
    return (1 - share) * a[None, :] + share * b[None, :]


def groups_of(trained: Sequence[Trained]) -> dict[str, list[int]]:
    """The places of the models of each setting, by what it is called."""
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(trained):
        label = one.member.name.removesuffix(f"-seed{one.member.seed}").replace("_", " ")
        groups.setdefault(label, []).append(place)
    return groups


def _has_z(one: Trained) -> bool:
    return one.member.columns["latent"] != 0


def _rate_and_seed(one: Trained) -> tuple[float, int]:
    """What a model shares with the decoder without z that it is compared with."""
    return float(one.member.hyper.learning_rate), one.member.seed


def _words_of(row: Num[Any, " length"]) -> list[int]:
    """The words of a sentence, without its end."""
    own = np.asarray(row)
    return [int(word) for word in own if word >= UNKNOWN]


def _accuracy(rows: Integer[np.ndarray, "n length"], again: Int[Array, "n length"]) -> float:
    """The share of tokens that stand where they stood, ends of sentences counted."""
    counted = rows != PAD
    return float(np.mean(np.asarray(again)[counted] == rows[counted]))


def _distinct(sentences: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams, as a share of all of them (Li et al., arXiv 1510.03055)."""
    found = [tuple(own[i : i + n]) for own in sentences for i in range(len(own) - n + 1)]
    return len(set(found)) / max(1, len(found))


def _plane(
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
    points, shares = _principal(means)
    first, second = (f"principal component {i + 1} ({shares[i]:.0%})" for i in (0, 1))
    return points, kinds, (first, second)


def _principal(
    means: Float[np.ndarray, "n latent"],
) -> tuple[Float[np.ndarray, "n 2"], list[float]]:
    """The first two principal components, and their shares of the variance."""
    centred = means - means.mean(axis=0)
    # A row and a column of zeros: there are two components, however few the sentences.
    left, sizes, _ = np.linalg.svd(np.pad(centred, (0, 1)), full_matrices=False)
    variances = sizes**2
    shares = variances[:2] / max(variances.sum(), np.finfo(np.float32).tiny)
    return (left * sizes)[:-1, :2], shares.tolist()


def _mean_and_error(values: Sequence[float]) -> str:
    if not values:
        return "–"
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    mean = float(np.mean(values))
    digits = 3 if abs(mean) < 2 else 2
    return plus_minus(round(mean, digits) + 0.0, float(error), digits)  # and no -0.000
