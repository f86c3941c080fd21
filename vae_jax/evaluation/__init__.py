"""What a trained model is worth, measured over whole data sets."""

from vae_jax.evaluation.annealed import (
    Annealed,
    annealed_log_likelihood,
    annealed_upper_bound,
)
from vae_jax.evaluation.anomaly import (
    SCORES,
    AnomalyScores,
    anomaly_scores,
    conformal_p_values,
    threshold_at,
)
from vae_jax.evaluation.disentanglement import (
    Dci,
    Disentanglement,
    beta_vae_score,
    dci,
    disentanglement,
    factor_vae_score,
    mig,
    sap,
)
from vae_jax.evaluation.elbo import ACTIVE_KL, ElboEstimate, estimate_elbo
from vae_jax.evaluation.latents import (
    ElboSurgery,
    Moments,
    active_units,
    elbo_surgery,
    encode_all,
    posterior_mean_variance,
)
from vae_jax.evaluation.log_likelihood import (
    Average,
    Importance,
    average_log_likelihood,
    estimate_log_likelihood,
    log_likelihood,
    posterior_predictive,
)
from vae_jax.evaluation.rate_distortion import RateDistortion, rate_distortion
from vae_jax.evaluation.representation import knn_accuracy, linear_accuracy

__all__ = [
    "ACTIVE_KL",
    "SCORES",
    "Annealed",
    "AnomalyScores",
    "Average",
    "Dci",
    "Disentanglement",
    "ElboEstimate",
    "ElboSurgery",
    "Importance",
    "Moments",
    "RateDistortion",
    "active_units",
    "annealed_log_likelihood",
    "annealed_upper_bound",
    "anomaly_scores",
    "average_log_likelihood",
    "beta_vae_score",
    "conformal_p_values",
    "dci",
    "disentanglement",
    "elbo_surgery",
    "encode_all",
    "estimate_elbo",
    "estimate_log_likelihood",
    "factor_vae_score",
    "knn_accuracy",
    "linear_accuracy",
    "log_likelihood",
    "mig",
    "posterior_mean_variance",
    "posterior_predictive",
    "rate_distortion",
    "sap",
    "threshold_at",
]
