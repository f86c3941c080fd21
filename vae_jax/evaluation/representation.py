"""What classes can be read off the posterior means."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

NEIGHBOURS = 5


class Accuracies(NamedTuple):
    """Shares of held-out examples whose class is found.

    Attributes:
        knn: by the five nearest neighbours.
        linear: by logistic regression, a linear probe.
    """

    knn: float
    linear: float


def representation(
    train: Float[np.ndarray, "n latent"],
    train_labels: Integer[np.ndarray, " labels"],
    test: Float[np.ndarray, "m latent"],
    test_labels: Integer[np.ndarray, " others"],
) -> Accuracies:
    """Judge posterior means by the classes that a simple classifier finds from them.

    Args:
        train: means that the classifiers are fitted on.
        train_labels: their classes.
        test: means that they are judged on.
        test_labels: their classes.

    Returns:
        Both accuracies, from 0 to 1. The linear probe sees standardised means; with one class
        to learn from it is NaN.

    Raises:
        ValueError: if there are no examples, or not one label for each.

    Example:
        >>> means = np.array([[-1.0], [-0.9], [0.9], [1.0]] * 3)
        >>> labels = np.array([0, 0, 1, 1] * 3)
        >>> representation(means, labels, means, labels)
        Accuracies(knn=1.0, linear=1.0)
    """
    for means, labels in ((train, train_labels), (test, test_labels)):
        if len(means) == 0 or len(means) != len(labels):
            raise ValueError(f"{len(labels)} labels for {len(means)} means: one each is needed")
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train))).fit(train, train_labels)
    linear = float("nan")
    if len(np.unique(train_labels)) > 1:
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        linear = float(probe.fit(train, train_labels).score(test, test_labels))
    return Accuracies(float(neighbours.score(test, test_labels)), linear)
