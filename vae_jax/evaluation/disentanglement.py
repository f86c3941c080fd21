"""Whether each latent dimension tells of one factor: five scores of codes with known factors.

Codes are posterior means, factors the indices that the data were made with. All of it runs on
the host, on stored rows, and needs no model: a batch that shares the value of a factor is drawn,
with replacement, from the rows that hold this value.

What learns is judged on rows that it did not see: the rows are divided at random into halves.
Every dimension is brought to the interval [0, 1] first, so no score depends on the sign or the
scale of a dimension, and one that never moves tells nothing.

The first argument is a JAX key, as everywhere, and not a generator, which would answer a second
call differently. It is the seed of NumPy's generator inside.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Integer

from vae_jax.types import PRNGKey

BINS = 20
# Of every value of every factor, in each half: a tree's leaf holds no fewer.
LEAST_ROWS = 5


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


class Disentanglement(NamedTuple):
    """The five scores of one set of codes, from 0 to 1.

    Attributes:
        mig: mutual information gap; 0 for codes that tell nothing.
        dci_disentanglement: of `Dci`; 0 for codes that tell nothing.
        dci_completeness: of `Dci`; 0 for codes that tell nothing.
        dci_informativeness: of `Dci`; codes that tell nothing reach the frequency of the most
            frequent value.
        sap: separated attribute predictability; 0 for codes that tell nothing, and perfect ones
            reach one less the mean of 1 / values over the factors.
        factor_vae: the FactorVAE score; codes that tell nothing reach 1 / factors.
        beta_vae: the beta-VAE score; codes that tell nothing reach 1 / factors.
    """

    mig: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    sap: float
    factor_vae: float
    beta_vae: float


def disentanglement(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    *,
    num_samples: int = 1000,
    batch_size: int = 64,
) -> Disentanglement:
    """Score codes by all five measures.

    Every dimension is scaled, so that one counts however little it moves: leave collapsed ones
    out of the codes first (`posterior_mean_variance`).

    Args:
        key: split into those of `dci`, `sap`, `factor_vae_score` and `beta_vae_score`.
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        num_samples: of `factor_vae_score` and `beta_vae_score`.
        batch_size: of `factor_vae_score` and `beta_vae_score`.

    Returns:
        The scores; each is what its own function returns.

    Raises:
        ValueError: as the five functions do.

    Example:
        >>> factors = np.tile(np.indices((3, 3)).reshape(2, 9).T, (40, 1))
        >>> scores = disentanglement(jax.random.key(0), factors.astype(float), factors)
        >>> round(scores.mig, 6), scores.dci_disentanglement, scores.factor_vae
        (1.0, 1.0, 1.0)
    """
    key_dci, key_sap, key_factor_vae, key_beta_vae = jax.random.split(key, 4)
    drawn = {"num_samples": num_samples, "batch_size": batch_size}
    return Disentanglement(
        mig(codes, factors),
        *dci(key_dci, codes, factors),
        sap(key_sap, codes, factors),
        factor_vae_score(key_factor_vae, codes, factors, **drawn),
        beta_vae_score(key_beta_vae, codes, factors, **drawn),
    )


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
    codes = _rescaled(codes, factors, least_factors=1)
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
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> dci(jax.random.key(0), factors.astype(float), factors)
        Dci(disentanglement=1.0, completeness=1.0, informativeness=1.0)
    """
    from sklearn.ensemble import RandomForestClassifier

    rng = _generator(key)
    learn, judge = _halves(rng, _rescaled(codes, factors, least_factors=2), factors)
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
        >>> factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 100)
        >>> round(sap(jax.random.key(0), factors.astype(float), factors), 1)
        0.5
    """
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    learn, judge = _halves(_generator(key), _rescaled(codes, factors, least_factors=1), factors)
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


def factor_vae_score(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    *,
    num_samples: int = 1000,
    batch_size: int = 64,
) -> float:
    """The FactorVAE score: whether the dimension that rests names the factor that is fixed.

    Each batch of rows that share one value of one factor votes for a dimension,
        argmin_j Var_batch(c_j) / Var_all(c_j),
    and the score is the accuracy of the majority: of the factor that most votes for a dimension
    came from.

    Args:
        key: of the halves and the batches.
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        num_samples: votes of each factor, to learn from and again to judge. As many of each
            make chance exactly 1 / factors.
        batch_size: rows of a batch, drawn with replacement. The value they share is that of a
            row drawn at random.

    Returns:
        The accuracy, from chance at 1 / factors to 1.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, there are under two dimensions or factors, a half has under
            five rows of some value, or there is under 1 sample or a batch under 2.

    Reference:
        Kim and Mnih (arXiv 1802.05983), section 4; 64 rows as in arXiv 1811.12359.

    Example:
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> factor_vae_score(jax.random.key(0), factors.astype(float), factors)
        1.0
    """
    _check_draws(num_samples, batch_size, least_batch=2)
    rng = _generator(key)
    codes = _rescaled(codes, factors, least_factors=2)
    scale = np.var(codes, axis=0)

    def count_votes(half: _Rows) -> Int[np.ndarray, "factor latent"]:
        votes = []
        for values in half.factors.T:
            chosen = rng.integers(len(values), size=(num_samples, 1))
            rows = _sharing(rng, values, np.repeat(chosen, batch_size, axis=1))
            spread = np.var(half.codes[rows], axis=1)
            # One that never moves rests in every batch, and so would win every vote.
            ratio = np.divide(spread, scale, out=np.full_like(spread, np.inf), where=scale > 0)
            votes.append(np.bincount(np.argmin(ratio, axis=1), minlength=len(scale)))
        return np.array(votes)

    learned, judged = (count_votes(half) for half in _halves(rng, codes, factors))
    named = np.argmax(learned, axis=0)
    return float(judged[named, np.arange(len(scale))].sum() / judged.sum())


def beta_vae_score(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    *,
    num_samples: int = 1000,
    batch_size: int = 64,
) -> float:
    """The beta-VAE score: whether a linear classifier names the factor that pairs share.

    Its input is mean_pairs |c_1 - c_2|, over pairs of rows that share their value of one factor.

    The classifier is logistic regression on standardised inputs. It weighs all dimensions
    together, so the score is lenient: a factor that is spread over several may still be named.

    Args:
        key: of the halves and the pairs.
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        num_samples: averages for each factor, to learn from and again to judge. As many of
            each make chance exactly 1 / factors.
        batch_size: pairs of an average, each a row drawn at random and one drawn from those
            that share its value.

    Returns:
        The accuracy, from chance at 1 / factors to 1.

    Raises:
        ValueError: if there is not one row of factors for each code, a code is not finite, a
            factor has one value, there are under two dimensions or factors, a half has under
            five rows of some value, or there is under 1 sample or an empty batch.

    Reference:
        Higgins et al., beta-VAE: learning basic visual concepts with a constrained variational
        framework (ICLR 2017), section 3; 64 pairs as in arXiv 1811.12359.

    Example:
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> beta_vae_score(jax.random.key(0), factors.astype(float), factors)
        1.0
    """
    _check_draws(num_samples, batch_size, least_batch=1)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = _generator(key)

    def differences(half: _Rows) -> Float[np.ndarray, "samples latent"]:
        averages = []
        for values in half.factors.T:
            first = rng.integers(len(values), size=(num_samples, batch_size))
            second = _sharing(rng, values, first)
            averages.append(np.mean(np.abs(half.codes[first] - half.codes[second]), axis=1))
        return np.concatenate(averages)

    halves = _halves(rng, _rescaled(codes, factors, least_factors=2), factors)
    learned, judged = (differences(half) for half in halves)
    shared = np.repeat(np.arange(factors.shape[1]), num_samples)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(learned, shared).score(judged, shared))


class _Rows(NamedTuple):
    codes: Float[np.ndarray, "n latent"]
    factors: Integer[np.ndarray, "n factor"]


def _generator(key: PRNGKey) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _rescaled(
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    least_factors: int,
) -> Float[np.ndarray, "n latent"]:
    """Codes from 0 to 1 in every dimension, and 0 in one that never moves; after the checks."""
    if len(codes) == 0 or len(codes) != len(factors):
        raise ValueError(
            f"{len(factors)} rows of factors for {len(codes)} codes: one each is needed"
        )
    if codes.shape[1] < 2:
        raise ValueError(f"latent dimensions: {codes.shape[1]}; at least 2 are needed")
    if factors.shape[1] < least_factors:
        raise ValueError(f"factors: {factors.shape[1]}; at least {least_factors} needed")
    broken = np.argwhere(~np.isfinite(codes))
    if len(broken):
        row, dim = broken[0]
        raise ValueError(f"the code of row {row}, dimension {dim} is {codes[row, dim]}")
    for number, values in enumerate(factors.T):
        if np.all(values == values[0]):
            raise ValueError(f"factor {number} is {values[0]} in every row: 2 values are needed")
    codes = codes.astype(np.float64)
    low, span = np.min(codes, axis=0), np.ptp(codes, axis=0)
    return (codes - low) / np.where(span > 0, span, 1)


def _check_draws(num_samples: int, batch_size: int, least_batch: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    if batch_size < least_batch:
        raise ValueError(f"batch_size {batch_size}: at least {least_batch} needed")


def _halves(
    rng: np.random.Generator,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "n factor"],
) -> tuple[_Rows, _Rows]:
    """The rows to learn from and those to judge by."""
    learn, judge = np.array_split(rng.permutation(len(codes)), 2)
    for rows in (learn, judge):
        for number, values in enumerate(factors.T):
            for value in np.unique(values):
                held = np.count_nonzero(values[rows] == value)
                if held < LEAST_ROWS:
                    raise ValueError(
                        f"factor {number} is {value} in {held} of the {len(rows)} rows of one "
                        f"half: at least {LEAST_ROWS} are needed"
                    )
    return _Rows(codes[learn], factors[learn]), _Rows(codes[judge], factors[judge])


def _sharing(
    rng: np.random.Generator,
    values: Integer[np.ndarray, " n"],
    rows: Integer[np.ndarray, "samples batch"],
) -> Integer[np.ndarray, "samples batch"]:
    """For each given row, one drawn from all that hold the same value."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    # Sorted by value, the rows of one value are a run.
    sorted_rows, starts = np.argsort(index, kind="stable"), np.cumsum(counts) - counts
    value = index[rows]
    return sorted_rows[starts[value] + rng.integers(counts[value])]


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
