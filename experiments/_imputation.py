"""How well values that were taken out of held-out rows are filled in."""

import numpy as np
from jaxtyping import Array

from experiments._completed import on_one_scale
from experiments._folds import Split
from experiments._rows import of_each_row
from vae_jax.evaluation import posterior_predictive
from vae_jax.model import VAE
from vae_jax.types import Params, PRNGKey

IMPUTERS = ("column means", "5-NN imputation")


class Imputation:
    """Takes some of the observed numbers of held-out rows away and compares what stands in.

    Args:
        vae: the model.
        num_samples: samples of z behind its posterior predictive means.
        share: of the numbers that are taken away, each by chance.
    """

    def __init__(self, vae: VAE, num_samples: int, share: float) -> None:
        def one(key: PRNGKey, params: Params, row: Array) -> Array:
            return posterior_predictive(key, vae, params, row, num_samples)

        self._of_rows, self._share = of_each_row(one, vae, num_samples), share
        self.meaning = (
            f"imputed: {share:.0%} of the numbers of the held-out rows are taken away and filled "
            "in, RMSE in standard deviations of the training folds; column means and the five "
            "nearest rows, by all columns, are those of the training folds."
        )

    def holes(self, split: Split, is_number: np.ndarray) -> np.ndarray:
        """The held-out features with gaps, the same ones for every method.

        Args:
            split: whose rows they are.
            is_number: the features of which values may be taken away.

        Returns:
            The features, NaN where a value was taken away or was never there.
        """
        # From the rows themselves, so that every fold has gaps of its own.
        rng = np.random.default_rng(split.test)
        away = (rng.random(split.test_features.shape) < self._share) & is_number
        return np.where(away, np.float32(np.nan), split.test_features)

    def by_model(self, params: Params, split: Split, holes: np.ndarray) -> float:
        """The RMSE of what the model fills in, standard deviations of the training rows."""
        return _rmse(split, holes, self._of_rows(params, holes))

    def by_others(self, split: Split, holes: np.ndarray, is_number: np.ndarray) -> dict[str, float]:
        """That of the means of the training rows, and of their nearest rows, by `IMPUTERS`."""
        from sklearn.impute import KNNImputer

        means = np.zeros_like(holes)  # the numbers are standardised on these rows
        # By all columns, as the model is given them all.
        near = KNNImputer(keep_empty_features=True).fit(on_one_scale(split, split.train_features))
        filled = means.copy()
        found = np.asarray(near.transform(on_one_scale(split, holes)))
        filled[:, is_number] = found[:, is_number]
        own = (_rmse(split, holes, values) for values in (means, filled))
        return dict(zip(IMPUTERS, own, strict=True))


def _rmse(split: Split, holes: np.ndarray, filled: np.ndarray) -> float:
    away = np.isnan(holes) & ~np.isnan(split.test_features)
    off = (filled - split.test_features)[away].astype(np.float64)
    return float(np.sqrt(np.mean(off**2))) if len(off) else np.nan
