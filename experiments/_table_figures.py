"""Figures of the models of a table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from experiments._completed import complete
from experiments._folds import Split
from experiments._grid import described
from experiments._noise import DRAW_SEED
from experiments._report import Result, over_seeds
from experiments._representation import NEIGHBOURS, REFERENCES
from experiments._tables import spread_of
from experiments._train import Trained
from vae_jax import figures
from vae_jax.data import Encoding
from vae_jax.evaluation import threshold_at
from vae_jax.types import Params

if TYPE_CHECKING:
    from experiments._scores import RowScorer
    from experiments._tables import TableReport

# Columns of a pair plot, rows drawn at most, and how far a traversal goes: 98% of the prior.
MOST_PAIRS, MOST_DRAWN = 5, 1_000
TRAVERSAL = np.linspace(-2.5, 2.5, 41)
MOST_PANELS = 6
MOST_SCORED = 10_000
MOST_IN_BANDS = 100_000
SHOWN_METRICS = {  # without the text beside a table they have their whole names
    "knn_accuracy": f"{NEIGHBOURS}-NN accuracy",
    "ari": "ARI of k-means",
    "silhouette": "silhouette of k-means",
    "trustworthiness": f"trustworthiness of {NEIGHBOURS}-NN",
}


class TableFigures:
    """Draws what a sweep over a table has found.

    Args:
        report: what was trained.
        scorer: of rows.
        folder: where the figures go.
    """

    def __init__(self, report: "TableReport", scorer: "RowScorer", folder: Path) -> None:
        self._report, self._scorer, self._folder = report, scorer, folder
        self._names = [column.name for column in report.table.columns]

    def draw(self, trained: Sequence[Trained], found: Mapping[str, list[Result]]) -> None:
        """Draw the latent space, what is generated, the errors and the comparison."""
        first = trained[0].member.columns
        shown = [
            member
            for member in trained
            if member.problem is None
            and all(member.member.columns[name] == first[name] for name in ("seed", "fold"))
        ]
        if shown:
            # The vanilla VAE, or what is nearest to it.
            vanilla = min(shown, key=lambda member: abs(float(member.member.hyper.beta) - 1))
            self._latents(shown, vanilla)
            self._traversals(vanilla)
            self._generated(vanilla)
            self._errors([m for m in trained if m.member.setting == vanilla.member.setting])
        self._comparison(found)

    def _title(self, member: Trained, what: str) -> str:
        setting = described(member.member.setting)
        return " · ".join(filter(None, (self._report.title, setting, what)))

    def _latents(self, shown: Sequence[Trained], vanilla: Trained) -> None:
        from sklearn.decomposition import PCA

        split = self._report.splits[vanilla.member.split]
        rows = self._some_rows(split)
        labels = self._report.table.labels
        labels = None if labels is None else labels[rows]
        features = split.encoding.encode(self._report.table.values[rows])
        seen, train = complete(split, features), complete(split, split.train_features)
        if min(train.shape) < 2:
            return
        with np.errstate(invalid="ignore"):  # of rows that are all the same
            pca = PCA(2).fit(train)
        share = np.nan_to_num(pca.explained_variance_ratio_)
        beside = figures.LatentPanel(
            pca.transform(seen), None, (f"PC1 ({share[0]:.0%})", f"PC2 ({share[1]:.0%})")
        )

        def panel(member: Trained) -> figures.LatentPanel:
            scored = self._scorer(member.params, features)
            if self._report.latent_dim == 1:
                flat = np.zeros((len(rows), 1))
                return figures.LatentPanel(np.hstack([scored.means, flat]), None, ("z1", ""))
            # The two that carry most.
            kl = np.asarray(member.final.kl_per_dim)
            two = np.sort(np.argsort(-kl, kind="stable")[:2])
            axes = (f"z{two[0] + 1}", f"z{two[1] + 1}")
            return figures.LatentPanel(scored.means[:, two], scored.scales[:, two], axes)

        fold = "all rows, fitted without one fold; ellipses: one standard deviation of q(z | x)"
        names = self._report.table.class_names
        name = described(vanilla.member.setting) or "VAE"
        own = panel(vanilla)
        self._save(
            figures.latent_panels(
                {f"VAE, {name}": own, "PCA": beside},
                labels,
                names,
                title=self._title(vanilla, fold),
            ),
            "latent",
            means=own.points,
            scales=own.points * 0 if own.scales is None else own.scales,
            pca=beside.points,
        )
        kept = next(place for place, member in enumerate(shown) if member is vanilla)
        few = [shown[place] for place in panels_of(len(shown), kept)]
        if len(few) > 1:
            panels = {described(member.member.setting): panel(member) for member in few}
            self._save(
                figures.latent_panels(
                    panels, labels, names, title=f"{self._report.title} · {fold}"
                ),
                "latent_over_beta",
                **{f"panel{i}": each.points for i, each in enumerate(panels.values())},
            )

    def _traversals(self, member: Trained) -> None:
        vae, split = self._report.vae, self._report.splits[member.member.split]

        @jax.jit
        def decode(params: Params, zs: jax.Array) -> jax.Array:
            return jax.vmap(lambda z: vae.likelihood.mean(vae.decode(params, z)))(zs)

        curves = []
        for dim in range(self._report.latent_dim):
            zs = np.zeros((len(TRAVERSAL), self._report.latent_dim), np.float32)
            zs[:, dim] = TRAVERSAL
            curves.append(as_numbers(split.encoding, np.asarray(decode(member.params, zs))))
        values = self._report.table.values
        step = -(-len(values) // MOST_IN_BANDS)
        rows = as_numbers(split.encoding, split.encoding.encode(values[::step]))
        with np.errstate(all="ignore"):
            observed = np.nanquantile(rows, (0.05, 0.95), axis=0).T
        if not np.isfinite(observed).all():
            observed = None
        curves = np.array(curves)
        what = "one latent at a time, in the table's units; band: 5% to 95% of the rows"
        names, title = names_of_numbers(split.encoding), self._title(member, what)
        self._save(
            figures.traversal_curves(TRAVERSAL, curves, names, title=title, observed=observed),
            "traversals",
            z=TRAVERSAL,
            curves=curves,
        )

    def _generated(self, member: Trained) -> None:
        vae, split = self._report.vae, self._report.splits[member.member.split]
        rows = self._some_rows(split)
        real = self._report.table.values[rows]
        real = real[~np.isnan(real).any(axis=1)]
        if len(real) < 2:
            found = f"{len(real)} of {len(rows)} rows have a value in every column"
            print(f"no figures of generated rows: {found}, 2 are needed")
            return

        def draw(params: Params, key: jax.Array) -> jax.Array:
            key_z, key_x = jax.random.split(key)
            z = jax.random.normal(key_z, (self._report.latent_dim,))
            return vae.likelihood.sample(key_x, vae.decode(params, z))

        keys = jax.random.split(jax.random.key(DRAW_SEED), len(real))
        drawn = jax.jit(jax.vmap(draw, (None, 0)))(member.params, keys)
        generated = split.encoding.decode(np.asarray(drawn))
        columns = self._report.table.columns
        # Those that vary most between the classes, or the first.
        chosen = self._telling(real, rows)
        whole = " without a gap" if len(real) < len(rows) else ""
        what = f"{len(real)} rows of the table{whole}, as many drawn from the model"
        self._save(
            figures.pair_plot(
                real[:, chosen],
                generated[:, chosen],
                [self._names[i] for i in chosen],
                title=self._title(member, what),
            ),
            "generated_pairs",
            real=real[:, chosen],
            generated=generated[:, chosen],
        )
        self._save(
            figures.marginals(
                real,
                generated,
                self._names,
                [column.kind for column in columns],
                [column.categories for column in columns],
                title=self._title(member, what),
            ),
            "generated_marginals",
            real=real,
            generated=generated,
        )
        if len(self._names) > 1:
            with np.errstate(all="ignore"):
                own, drawn = (np.corrcoef(part, rowvar=False) for part in (real, generated))
            self._save(
                figures.correlation_matrices(
                    own, drawn, self._names, title=self._title(member, "correlations")
                ),
                "generated_correlations",
                real=own,
                generated=drawn,
            )

    def _telling(self, real: np.ndarray, rows: np.ndarray) -> list[int]:
        """Columns for a pair plot: those in which the classes differ most, or the first."""
        count = min(MOST_PAIRS, real.shape[1])
        labels = self._report.table.labels
        values = self._report.table.values[rows]
        whole = ~np.isnan(values).any(axis=1)
        if labels is None or len(np.unique(labels[rows][whole])) < 2:
            return list(range(count))
        own = labels[rows][whole]
        means = np.array([real[own == label].mean(axis=0) for label in np.unique(own)])
        spread = real.std(axis=0)
        told = means.std(axis=0) / np.where(spread > 0, spread, np.inf)
        return sorted(np.argsort(-told, kind="stable")[:count].tolist())

    def _errors(self, members: Sequence[Trained]) -> None:
        """Held-out reconstruction errors of all folds, and the threshold."""
        held_out, trained_on = [], []
        for member in members:
            if member.problem is None:
                split = self._report.splits[member.member.split]
                rng = np.random.default_rng(0)
                train, test = (
                    self._scorer(member.params, rng.permutation(half)[:MOST_SCORED])
                    for half in self._report.features(split)
                )
                held_out.append(test.scores["reconstruction"])
                trained_on.append(train.scores["reconstruction"])
        share = self._report.contamination
        threshold = threshold_at(np.concatenate(trained_on), share)
        passed = f"the threshold is passed by {share:.0%} of the training rows"
        what = f"held-out rows of every seed and fold; {passed}"
        scores = np.concatenate(held_out)
        self._save(
            figures.score_histogram(
                {"held out": scores},
                threshold,
                title=self._title(members[0], what),
                xlabel="reconstruction error, −log p(x | z) at the posterior's mean (nats)",
            ),
            "reconstruction_error",
            held_out=scores,
            threshold=np.array(threshold),
        )

    def _comparison(self, found: Mapping[str, list[Result]]) -> None:
        values = {}
        for name, words in SHOWN_METRICS.items():
            own = {
                method: np.array([result.also[name] for result in results])
                for method, results in found.items()
                if name in results[0].also and np.isfinite(over_seeds(results, name)[0])
            }
            if own:
                values[words] = {method: _by_seed(found[method], name) for method in own}
        if values:
            title = f"{self._report.title} · held-out rows{spread_of(found)}"
            self._save(
                figures.representation_bars(
                    values,
                    title=title,
                    references=[name for name in REFERENCES if name in _methods(values)],
                ),
                "comparison",
                **{
                    f"{metric}/{method}".replace(" ", "_"): each
                    for metric, methods in values.items()
                    for method, each in methods.items()
                },
            )

    def _some_rows(self, split: Split) -> np.ndarray:
        """All rows of a small table, training rows and held-out ones."""
        rows = np.sort(np.concatenate([split.train, split.test]))
        if len(rows) <= MOST_DRAWN:
            return rows
        return np.sort(np.random.default_rng(0).choice(rows, MOST_DRAWN, replace=False))

    def _save(self, figure: Any, name: str, **arrays: np.ndarray) -> None:
        figures.save(figure, self._folder / f"{name}.png", **arrays)


def as_numbers(encoding: Encoding, features: np.ndarray) -> np.ndarray:
    """Features, or their means, in the table's units; of categories the probability of each.

    Args:
        encoding: of the table.
        features: of some rows.

    Returns:
        A number for each of `names_of_numbers`; NaN where a value is missing.
    """
    own = features * encoding.scale + encoding.shift
    return own[:, np.argsort(encoding.column_of, kind="stable")]


def names_of_numbers(encoding: Encoding) -> list[str]:
    """What they are, in the order of the columns: `height`, `P(city = Oslo)`."""
    names: list[str] = []
    for column in encoding.columns:
        shown = {"categorical": column.categories, "binary": column.categories[1:2]}
        values = shown.get(column.kind)
        names += [column.name] if not values else [f"P({column.name} = {v})" for v in values]
    return names


def panels_of(count: int, kept: int) -> list[int]:
    """Which of several settings have a panel: at equal distances, one of them in any case.

    Args:
        count: settings.
        kept: the one that is shown, the nearest of the others giving way.

    Returns:
        `MOST_PANELS` at most, in order.
    """
    chosen = np.linspace(0, count - 1, min(count, MOST_PANELS)).round().astype(int)
    chosen[np.argmin(np.abs(chosen - kept))] = kept
    return np.unique(chosen).tolist()


def _methods(values: Mapping[str, Mapping[str, np.ndarray]]) -> set[str]:
    return {method for methods in values.values() for method in methods}


def _by_seed(results: Sequence[Result], name: str) -> np.ndarray:
    """A number of each seed, its folds averaged; of a single seed that of each fold."""
    seeds: dict[float, list[float]] = {}
    for result in results:
        seeds.setdefault(result.columns["seed"], []).append(result.also[name])
    each = list(seeds.values())
    return np.array(each[0] if len(each) == 1 else [np.mean(folds) for folds in each])
