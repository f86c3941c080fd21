"""How well some dimensions stand for the rows of a table: the latent means beside PCA."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments._imputation import IMPUTERS
from vae_jax.evaluation import knn_accuracy
from vae_jax.evaluation.representation import NEIGHBOURS

# By the name of a number: how it reads in a table, and whether more is better.
METRICS = {
    "log_likelihood": ("log p(x)", True),
    "elbo": ("ELBO", True),
    "rmse": ("RMSE", False),
    "knn_accuracy": (f"{NEIGHBOURS}-NN", True),
    "ari": ("ARI", True),
    "silhouette": ("silhouette", True),
    "trustworthiness": ("trust", True),
    "imputed_rmse": ("imputed", False),
}
MEANING = (
    "log p(x), by importance sampling, and ELBO in nats per row, continuous columns in standard "
    "deviations of the training folds; RMSE of reconstructions in the same; "
    f"{NEIGHBOURS}-NN accuracy; ARI and silhouette of k-means; trustworthiness with "
    f"{NEIGHBOURS} neighbours, these four on 2,000 rows of each half at most. A reference is "
    "compared with the setting that is best in that column on these rows, which flatters the "
    "models."
)
_STARTS: Any = 4  # of k-means
REPRESENTATIONS = ("PCA", "probabilistic PCA", "raw features")
REFERENCES = (*REPRESENTATIONS, *IMPUTERS)


class Halves(NamedTuple):
    """Some numbers of the training rows and of the held-out ones.

    Attributes:
        train: of the rows that were fitted.
        test: of those that were held out.
    """

    train: np.ndarray
    test: np.ndarray


def representation(points: Halves, features: Halves, labels: Halves | None) -> dict[str, float]:
    """Judge a representation on held-out rows.

    Args:
        points: the representation, `[rows, dimensions]`.
        features: the standardised features, for the neighbourhoods they should keep.
        labels: the classes, where there are any.

    Returns:
        `trustworthiness`, of the neighbourhoods of the held-out rows; with labels
        `knn_accuracy` of a classifier fitted on the training rows, and `ari` and `silhouette`
        of k-means fitted on the training rows with as many clusters as classes. What cannot
        be told from the rows there are is NaN.
    """
    from sklearn.cluster import KMeans
    from sklearn.manifold import trustworthiness
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    found = {"trustworthiness": np.nan}
    near = min(NEIGHBOURS, (len(points.test) - 1) // 2)
    if near >= 1:
        kept = trustworthiness(features.test, points.test, n_neighbors=near)
        found["trustworthiness"] = float(kept)
    if labels is None:
        return found
    clusters = len(np.unique(labels.train))
    means = KMeans(clusters, n_init=_STARTS, random_state=0).fit(points.train)
    given = means.predict(np.ascontiguousarray(points.test))
    several = 1 < len(np.unique(given)) < len(given)
    return {
        "knn_accuracy": knn_accuracy(points.train, labels.train, points.test, labels.test),
        "ari": float(adjusted_rand_score(labels.test, given)),
        "silhouette": float(silhouette_score(points.test, given)) if several else np.nan,
        **found,
    }


class Reference(NamedTuple):
    """The reference methods on one split.

    Attributes:
        numbers: of each method.
        reconstructions: of the held-out rows, by the methods that have one.
    """

    numbers: Mapping[str, dict[str, float]]
    reconstructions: Mapping[str, np.ndarray]


def references(
    features: Halves,
    labels: Halves | None,
    dims: int,
    *,
    few: tuple[np.ndarray, np.ndarray],
    densities: bool,
) -> Reference:
    """PCA, probabilistic PCA and the raw features, judged like a model.

    Args:
        features: all rows, standardised on the training rows, complete.
        labels: the classes of the few, where there are any.
        dims: dimensions of the representations.
        few: the training and the held-out rows that neighbourhoods are measured on.
        densities: whether all features are continuous, so that a Gaussian's log-likelihood can
            be compared.

    Returns:
        The numbers of each method, and reconstructions on the scale of the features.
        Probabilistic PCA has the posterior means under the maximum-likelihood solution: those
        of PCA, shrunk in each direction; so is what they are mapped back to, W E[z | x] + mean.
    """
    from sklearn.decomposition import PCA

    features = Halves(*(half.astype(np.float64) for half in features))
    dims = min(dims, *features.train.shape)
    with np.errstate(invalid="ignore"):  # of rows that are all the same
        pca = PCA(dims).fit(features.train)
    projected = pca.transform(features.test)
    plain = Halves(*(half[rows] for half, rows in zip(features, few, strict=True)))
    scores = Halves(*(pca.transform(half) for half in plain))
    # W = U (L - s^2)^(1/2), so M^-1 W' x = (L - s^2)^(1/2) / L times the score.
    variance, noise = pca.explained_variance_, pca.noise_variance_
    scale = np.sqrt(np.maximum(variance - noise, 0))
    # A direction in which nothing varies has no score to shrink.
    shrunk = scale / np.maximum(variance, 1e-12)
    found = {
        "PCA": representation(scores, plain, labels),
        "probabilistic PCA": representation(
            Halves(scores.train * shrunk, scores.test * shrunk), plain, labels
        ),
        "raw features": representation(plain, plain, labels),
    }
    # They are what it is measured against.
    del found["raw features"]["trustworthiness"]
    if densities and dims < features.train.shape[1]:
        # Rows that lie in the subspace leave no noise to have a density.
        density = float(pca.score(features.test)) if noise > 1e-12 else np.nan
        found["probabilistic PCA"]["log_likelihood"] = density
    back = {
        "PCA": pca.inverse_transform(projected),
        "probabilistic PCA": pca.inverse_transform(projected * shrunk * scale),
    }
    return Reference(found, back)
