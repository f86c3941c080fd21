"""Anomaly detection tasks: what is normal, what is not, and how others detect it.

- `wine`: the classes 1 and 2 of scikit-learn's Wine (119 rows) are normal, and the first ten
  rows of class 0 are anomalies. This is the make-up of ADBench's "wine" (129 rows, 10
  anomalies); which ten rows it has is not stated, and an isolation forest finds the first
  ten as well as it finds ADBench's.
- `breast_cancer`: the 357 benign rows are normal, and the first ten malignant ones are
  anomalies: the make-up of ADBench's "WDBC", another data set than its "breastw".
  The unsupervised protocol, with the anomalies among the training rows, is not run.
- `digits`: of scikit-learn's 8x8 digits each one in turn is the anomaly, all of its rows.
- `mnist`: each digit in turn is the anomaly. Trained on the other nine digits of the training
  images, cut at random to the same number for every digit; tested on all test images.

Of the tables a random half of the normal rows is trained on, by the seed; the other half and the
anomalies are the test. Of digits, where the halves have 807 to 811 rows, models train on 807 of
each (`as_subsets`), and scikit-learn's methods on all.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from vae_jax.data import Table, load_table

PROTOCOLS = {
    "wine": "Classes 1 and 2 are normal, the first ten rows of class 0 are anomalies; trained on a "
    "random half of the normal rows, by the seed, tested on the other half and the anomalies.",
    "breast_cancer": "scikit-learn's breast cancer (WDBC, 569 rows of 30 columns): the 357 benign "
    "rows are normal, the first ten malignant ones are anomalies; trained on a random half of the "
    "normal rows, by the seed, tested on the other half and the anomalies. This is not ADBench's "
    "breastw (683 rows of 9 columns), whose numbers are not comparable. The unsupervised protocol, "
    "with the anomalies among the training rows, is not run.",
    "digits": "Each digit in turn is the anomaly, all of its rows; trained on a random half of the "
    "other nine, by the seed (models on as many rows for every digit, the fewest there are), "
    "tested on the other half and the anomalies.",
    "mnist": "Each digit in turn is the anomaly; trained on the training images of the other nine, "
    "cut to the same number for every digit, tested on all test images.",
}
ANOMALIES = {"wine": 0, "breast_cancer": 0}  # the class of the anomalies
MOST_ANOMALIES = 10
NEIGHBOURS = 5
FOREST, DISTANCE = "isolation forest", f"{NEIGHBOURS}-NN distance"
WITHOUT_DIMENSIONS = (FOREST, DISTANCE)  # methods that know no latent size
# Training rows that the methods beside ours are fitted on, at most.
MOST_FITTED = 10_000


class Detection(NamedTuple):
    """One detection task.

    Attributes:
        train: normal rows to train on.
        test: rows to judge.
        is_anomaly: the truth of each of them.
    """

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]
    is_anomaly: Bool[np.ndarray, " test"]


def table_tasks(name: str, seeds: Sequence[int]) -> tuple[Table, dict[tuple[int, int], Detection]]:
    """The tasks of a table, by the class that is left out (-1 where it is fixed) and the seed."""
    table = load_table(name)
    labels = table.labels
    assert labels is not None
    tasks = {}
    fixed = name in ANOMALIES
    for left_out in [ANOMALIES[name]] if fixed else range(len(table.class_names)):
        for seed in seeds:
            rng = np.random.default_rng([seed, left_out])
            normal = rng.permutation(np.flatnonzero(labels != left_out))
            odd = np.flatnonzero(labels == left_out)
            odd = odd[:MOST_ANOMALIES] if fixed else odd
            half = len(normal) // 2
            test = np.concatenate([normal[half:], odd])
            truth = np.arange(len(test)) >= len(normal) - half
            key = (-1 if fixed else left_out, seed)
            tasks[key] = Detection(np.sort(normal[:half]), test, truth)
    return table, tasks


def image_tasks(
    train_labels: np.ndarray, test_labels: np.ndarray, seeds: Sequence[int]
) -> dict[tuple[int, int], Detection]:
    """Each class in turn left out of the training images, by the class and the seed.

    One program trains them all, so each trains on as many images as the fewest there are without
    a class; which of the others are left out is drawn at random.
    """
    classes = np.unique(train_labels)
    fewest = min(int(np.sum(train_labels != left_out)) for left_out in classes)
    tasks = {}
    for left_out in classes:
        for seed in seeds:
            rng = np.random.default_rng([seed, int(left_out)])
            normal = rng.permutation(np.flatnonzero(train_labels != left_out))[:fewest]
            test = np.arange(len(test_labels))
            tasks[int(left_out), seed] = Detection(np.sort(normal), test, test_labels == left_out)
    return tasks


def other_methods(
    train: np.ndarray, test: np.ndarray, dims: int, seed: int
) -> Mapping[str, np.ndarray]:
    """The scores of scikit-learn's methods, the higher the more anomalous.

    Args:
        train: standardised features of normal rows.
        test: those to judge.
        dims: components of PCA.
        seed: of the isolation forest and of the rows that all are fitted on, 10,000 at most.

    Returns:
        Isolation forest, the squared reconstruction error of PCA with as many components as
        the VAE has latent dimensions, and the distance to the fifth neighbour.
    """
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(seed)
    train = train[np.sort(rng.permutation(len(train))[:MOST_FITTED])].astype(np.float64)
    test = test.astype(np.float64)
    forest = IsolationForest(random_state=seed).fit(train)
    pca = PCA(min(dims, *train.shape), random_state=seed).fit(train)
    back = pca.inverse_transform(pca.transform(test))
    near = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(train))).fit(train)
    return {
        FOREST: -forest.score_samples(test),
        "PCA": np.sum((test - back) ** 2, axis=1),
        DISTANCE: near.kneighbors(test)[0][:, -1],
    }
