"""What classes can be read off the posterior means."""

import numpy as np
from jaxtyping import Float, Integer

NEIGHBOURS = 5


def knn_accuracy(
    train: Float[np.ndarray, "n latent"],
    train_labels: Integer[np.ndarray, " labels"],
    test: Float[np.ndarray, "m latent"],
    test_labels: Integer[np.ndarray, " others"],
) -> float:
    """The share of held-out examples whose class the five nearest neighbours name.

    Args:
        train: posterior means to look for neighbours in.
        train_labels: their classes.
        test: means that are judged.
        test_labels: their classes.

    Returns:
        From 0 to 1.

    Raises:
        ValueError: if there are no examples, or not one label for each.

    Example:
        >>> means, labels = np.array([[-1.0], [1.0]] * 6), np.array([0, 1] * 6)
        >>> knn_accuracy(means, labels, means, labels)
        1.0
    """
    from sklearn.neighbors import KNeighborsClassifier

    _check(train, train_labels)
    _check(test, test_labels)
    neighbours = KNeighborsClassifier(min(NEIGHBOURS, len(train)))
    return float(neighbours.fit(train, train_labels).score(test, test_labels))


def linear_accuracy(
    train: Float[np.ndarray, "n latent"],
    train_labels: Integer[np.ndarray, " labels"],
    test: Float[np.ndarray, "m latent"],
    test_labels: Integer[np.ndarray, " others"],
) -> float:
    """The share of held-out examples whose class a linear probe finds.

    The probe is a logistic regression on standardised means.

    Args:
        train: posterior means that it is fitted on.
        train_labels: their classes.
        test: means that it is judged on.
        test_labels: their classes.

    Returns:
        From 0 to 1; NaN where there is one class to learn from.

    Raises:
        ValueError: if there are no examples, or not one label for each.

    Example:
        >>> means, labels = np.array([[-1.0], [1.0]] * 6), np.array([0, 1] * 6)
        >>> linear_accuracy(means, labels, means, labels)
        1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train, train_labels)
    _check(test, test_labels)
    if len(np.unique(train_labels)) < 2:
        return float("nan")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train, train_labels).score(test, test_labels))


def _check(means: np.ndarray, labels: np.ndarray) -> None:
    if len(means) == 0 or len(means) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(means)} means: one each is needed")
