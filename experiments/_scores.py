"""Scores of rows or images under a trained model, on the host."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from experiments._noise import SCORE_SEED
from vae_jax.evaluation import SCORES, anomaly_scores
from vae_jax.evaluation.memory import examples_at_once
from vae_jax.evaluation.noise import fingerprint
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess, as_stored
from vae_jax.types import Params

_AT_ONCE = 1_024  # rows
_COPIES = 2  # of each sample theta, and the log-density of every dimension


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
    """Scores rows of one kind of model, compiled once for a number of rows.

    A score depends on the row and on `SCORE_SEED` only, not on the other rows or their order, and
    different rows have independent noise, which the mean over many rows therefore averages out.

    Args:
        vae: the model.
        num_samples: samples of z behind the scores.
        preprocess: from a stored row to x; one that draws nothing.
    """

    def __init__(self, vae: VAE, num_samples: int, preprocess: Preprocess = as_stored) -> None:
        key = jax.random.key(SCORE_SEED)

        def one(params: Params, stored: Array) -> Any:
            row = preprocess(key, stored)
            q = vae.encode(params, row)
            back = vae.likelihood.mean(vae.decode(params, q.mean))
            key_row = jax.random.fold_in(key, fingerprint(stored))
            scores = anomaly_scores(key_row, vae, params, row, num_samples)
            return q.mean, jnp.exp(q.log_var / 2), back, scores

        @jax.jit
        def all_rows(params: Params, rows: Array) -> Any:
            x, most = jax.eval_shape(preprocess, key, rows[0]), min(_AT_ONCE, len(rows))
            at_once = examples_at_once(vae, params, x, num_samples, most=most, copies=_COPIES)
            return jax.lax.map(functools.partial(one, params), rows, batch_size=at_once)

        self._all_rows = all_rows

    def __call__(self, params: Params, rows: np.ndarray) -> RowScores:
        """Score some rows of features."""
        # Folds that differ by a row share a program.
        padded = np.resize(rows, (-(-len(rows) // 8) * 8, *rows.shape[1:]))
        found = jax.device_get(self._all_rows(params, padded))
        means, scales, back, scores = jax.tree.map(lambda leaf: leaf[: len(rows)], found)
        by_name = {name: getattr(scores, name).astype(np.float64) for name in SCORES}
        return RowScores(means, scales, back, by_name, scores.per_dim)
