"""Scores of rows or images under a trained model, on the host."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._rows import of_each_row
from vae_jax.evaluation import SCORES, anomaly_scores
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess, as_stored
from vae_jax.types import Params, PRNGKey


class RowScores(NamedTuple):
    """What a model says of some rows, arrays on the host.

    Attributes:
        means: of the posteriors, `[rows, latent]`.
        scales: their standard deviations.
        reconstruction: the mean of x at the posterior's mean, as features.
        scores: costs in nats by the names in `SCORES`, `[rows]` each.
        per_dim: what each feature contributes to `reconstruction`, nats.
    """

    means: np.ndarray
    scales: np.ndarray
    reconstruction: np.ndarray
    scores: dict[str, np.ndarray]
    per_dim: np.ndarray


class RowScorer:
    """Scores rows of one kind of model, each with noise of its own: see `of_each_row`.

    Args:
        vae: the model.
        num_samples: samples of z behind the scores.
        preprocess: from a stored row to x; one that draws nothing.
    """

    def __init__(self, vae: VAE, num_samples: int, preprocess: Preprocess = as_stored) -> None:
        def one(key: PRNGKey, params: Params, x: Array) -> Any:
            q = vae.encode(params, x)
            back = vae.likelihood.mean(vae.decode(params, q.mean))
            scores = anomaly_scores(key, vae, params, x, num_samples)
            return q.mean, jnp.exp(q.log_var / 2), back, scores

        self._of_rows = of_each_row(one, vae, num_samples, preprocess)

    def __call__(self, params: Params, rows: np.ndarray) -> RowScores:
        """Score some rows of features."""
        means, scales, back, scores = self._of_rows(params, rows)
        by_name = {name: getattr(scores, name).astype(np.float64) for name in SCORES}
        return RowScores(means, scales, back, by_name, scores.per_dim)
