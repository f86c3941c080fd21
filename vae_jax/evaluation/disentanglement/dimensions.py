"""What each dimension tells of each factor, a number for every two: MIG, DCI and SAP."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer

from vae_jax.evaluation.disentanglement.rows import LEAST_ROWS, generator_of, halved, rescaled
from vae_jax.types import PRNGKey

BINS = 20


class Dci(NamedTuple):
    """What a forest that predicts the factors makes of the dimensions; all from 0 to 1.

    Attributes:
        disentanglement: 1 where each dimension serves one factor.
        completeness: 1 where each factor is served by one dimension.
        informativeness: the share of held-out rows whose factor is found, averaged over the
            factors. Guessing finds the share of the most frequent value.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def mig(
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    *,
    bins: int = BINS,
) -> float:
    """The mutual information gap: how far the best dimension is ahead of the second best.

    MIG = mean_k (I(c_j*; v_k) - max_{j != j*} I(c_j; v_k)) / H(v_k),  j* = argmax_j I(c_j; v_k)

    The information is that of the table of counts, each dimension in bins of equal width. It is
    too large by about (bins - 1)(values - 1) / (2 n) nats, which the gap takes off again where
    both dimensions fill as many bins.

    Args:
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        bins: of each dimension, between its least and its greatest code.

    Returns:
        The gap, from 0 to 1; a factor of more values than there are bins cannot reach 1.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, there are under two dimensions or no factors, or under 2 bins.

    Reference:
        Chen et al. (arXiv 1802.04942), section 4; the bins are those of Locatello et al.
        (arXiv 1811.12359).

    Example:
        >>> factors = np.array([[0], [0], [1], [1]])
        >>> mig(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), factors)
        1.0
    """
    if bins < 2:
        raise ValueError(f"{bins} bins: at least 2 are needed")
    codes = rescaled(codes, factors, least_factors=1)
    binned = np.minimum(codes * bins, bins - 1).astype(int)
    entropies = np.array([_entropy(values) for values in factors.T])
    information = np.array(
        [
            [_entropy(dim) + _entropy(values) - _entropy(dim, values) for values in factors.T]
            for dim in binned.T
        ]
    )
    return float(np.mean(_gaps(information) / entropies))


def dci(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
) -> Dci:
    """Disentanglement, completeness and informativeness, by a forest for each factor.

    R_jk: importance of dimension j for factor k;  H: entropy of the shares, of the given base
    D = sum_j w_j (1 - H_factors(R_j. / sum_k R_jk)),  w_j = sum_k R_jk / sum R
    C = sum_k u_k (1 - H_latent(R_.k / sum_j R_jk)),   u_k = sum_j R_jk / sum R

    The predictor is a random forest, one of the paper's two, whose trees choose among all
    dimensions at every split (of a random subset, dimensions that tell nothing would have to be
    chosen) and hold five rows or more in a leaf (the splits below that fit noise). Boosted trees,
    the choice of disentanglement_lib, give much the same importances, but grow one tree for each
    value of a factor at every stage: over ten times the time where a factor has 40 values.

    Args:
        key: of the halves and the forests.
        codes: the posterior mean of every row.
        factors: the factor values of every row.

    Returns:
        The three; disentanglement and completeness are 0 where no split is found at all.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, there are under two dimensions or factors, or a half has under
            five rows of some value.

    Reference:
        Eastwood and Williams, A framework for the quantitative evaluation of disentangled
        representations (ICLR 2018), section 2.

    Example:
        >>> import jax
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> dci(jax.random.key(0), factors.astype(float), factors)
        Dci(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    """
    from sklearn.ensemble import RandomForestClassifier

    rng = generator_of(key)
    learn, judge = halved(rng, rescaled(codes, factors, least_factors=2), factors)
    importances, found = [], []
    for number in range(factors.shape[1]):
        forest = RandomForestClassifier(
            max_features=1.0,  # pyright: ignore[reportArgumentType]: of scikit-learn's default
            min_samples_leaf=LEAST_ROWS,
            random_state=int(rng.integers(2**31)),
        ).fit(learn.codes, learn.factors[:, number])
        importances.append(forest.feature_importances_)
        found.append(forest.score(judge.codes, judge.factors[:, number]))
    by_dim = np.stack(importances, axis=1)
    return Dci(_concentration(by_dim), _concentration(by_dim.T), float(np.mean(found)))


def sap(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
) -> float:
    """Separated attribute predictability: the best dimension's lead as a linear classifier.

    SAP = mean_k (S_j*k - max_{j != j*} S_jk),  j* = argmax_j S_jk,
    S_jk: balanced accuracy, on held-out rows, of thresholds on c_j for the value of factor k

    The thresholds are those of a linear support vector machine between every two values. A
    machine of each value against the rest, as in disentanglement_lib, draws one line a value, and
    on a single dimension those do not tell apart values in the middle: of a code that equals a
    factor of 40 values, it finds 5 rows in 100. Scores are higher here than published ones.

    Its time is quadratic in the rows: about a minute for 10,000 rows, ten dimensions and five
    factors.

    Args:
        key: of the halves.
        codes: the posterior mean of every row.
        factors: the factor values of every row.

    Returns:
        The gap; 1 - mean_k (1 / values of k) for perfect codes, because the second best
        dimension still guesses.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, there are under two dimensions or no factors, or a half has
            under five rows of some value.

    Reference:
        Kumar et al. (arXiv 1711.00848), section 3.

    Example:
        >>> import jax
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 100)
        >>> round(sap(jax.random.key(0), factors.astype(float), factors), 1)
        0.5
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    learn, judge = halved(generator_of(key), rescaled(codes, factors, least_factors=1), factors)
    scores = np.empty((codes.shape[1], factors.shape[1]))
    for j, k in np.ndindex(*scores.shape):
        # A smaller C would give up margins as narrow as those between 40 values.
        machine = make_pipeline(
            StandardScaler(), SVC(C=10, kernel="linear", class_weight="balanced")
        )
        machine.fit(learn.codes[:, [j]], learn.factors[:, k])
        predicted = machine.predict(judge.codes[:, [j]])
        scores[j, k] = balanced_accuracy_score(judge.factors[:, k], predicted)
    return float(np.mean(_gaps(scores)))


def _entropy(*labels: Integer[np.ndarray, " n"]) -> float:
    """Of the joint frequencies of labels, in nats."""
    _, counts = np.unique(np.stack(labels), axis=1, return_counts=True)
    shares = counts / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def _gaps(scores: Float[np.ndarray, "latent factor"]) -> Float[np.ndarray, " factor"]:
    ordered = np.sort(scores, axis=0)
    return ordered[-1] - ordered[-2]


def _concentration(importances: Float[np.ndarray, "rows columns"]) -> float:
    """One less the entropy of each row's shares, averaged by the weight of the rows."""
    weights = importances.sum(axis=1, keepdims=True)
    if not weights.any():
        return 0.0
    shares = importances / np.where(weights > 0, weights, 1)
    logs = np.log(np.where(shares > 0, shares, 1)) / np.log(importances.shape[1])
    one_less_entropy = 1 + np.sum(shares * logs, axis=1)
    return float(np.average(one_less_entropy, weights=weights[:, 0]))
