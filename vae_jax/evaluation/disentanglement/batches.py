"""What batches of rows that share the value of a factor tell of it: FactorVAE and beta-VAE."""

import numpy as np
from jaxtyping import Float, Int, Integer

from vae_jax.evaluation.disentanglement.rows import Rows, generator_of, halved, rescaled
from vae_jax.types import PRNGKey


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
        >>> import jax
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> factor_vae_score(jax.random.key(0), factors.astype(float), factors)
        1.0
    """
    _check_draws(num_samples, batch_size, least_batch=2)
    rng = generator_of(key)
    codes = rescaled(codes, factors, least_factors=2)
    scale = np.var(codes, axis=0)

    def count_votes(half: Rows) -> Int[np.ndarray, "factor latent"]:
        votes = []
        for values in half.factors.T:
            chosen = rng.integers(len(values), size=(num_samples, 1))
            rows = _sharing(rng, values, np.repeat(chosen, batch_size, axis=1))
            spread = np.var(half.codes[rows], axis=1)
            # One that never moves rests in every batch, and so would win every vote.
            ratio = np.divide(spread, scale, out=np.full_like(spread, np.inf), where=scale > 0)
            votes.append(np.bincount(np.argmin(ratio, axis=1), minlength=len(scale)))
        return np.array(votes)

    learned, judged = (count_votes(half) for half in halved(rng, codes, factors))
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
        >>> import jax
        >>> factors = np.random.default_rng(0).integers(3, size=(200, 2))
        >>> beta_vae_score(jax.random.key(0), factors.astype(float), factors)
        1.0
    """
    _check_draws(num_samples, batch_size, least_batch=1)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = generator_of(key)

    def differences(half: Rows) -> Float[np.ndarray, "samples latent"]:
        averages = []
        for values in half.factors.T:
            first = rng.integers(len(values), size=(num_samples, batch_size))
            second = _sharing(rng, values, first)
            averages.append(np.mean(np.abs(half.codes[first] - half.codes[second]), axis=1))
        return np.concatenate(averages)

    halves = halved(rng, rescaled(codes, factors, least_factors=2), factors)
    learned, judged = (differences(half) for half in halves)
    shared = np.repeat(np.arange(factors.shape[1]), num_samples)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(learned, shared).score(judged, shared))


def _check_draws(num_samples: int, batch_size: int, least_batch: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples}: at least 1 is needed")
    if batch_size < least_batch:
        raise ValueError(f"batch_size {batch_size}: at least {least_batch} needed")


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
