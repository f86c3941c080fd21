"""What a trained model is worth, measured over whole data sets."""

from vae_jax.evaluation.anomaly import (
    SCORES,
    AnomalyScores,
    anomaly_scores,
    conformal_p_values,
    threshold_at,
)
from vae_jax.evaluation.elbo import ACTIVE_KL, ElboEstimate, estimate_elbo
from vae_jax.evaluation.log_likelihood import Importance, log_likelihood, posterior_predictive

__all__ = [
    "ACTIVE_KL",
    "SCORES",
    "AnomalyScores",
    "ElboEstimate",
    "Importance",
    "anomaly_scores",
    "conformal_p_values",
    "estimate_elbo",
    "log_likelihood",
    "posterior_predictive",
    "threshold_at",
]
