"""Variational autoencoders in JAX and Flax linen: a functional reference implementation.

The names below are the core; `vae_jax.data`, `vae_jax.checkpoint`, `vae_jax.sharding`,
`vae_jax.figures` and the scikit-learn estimator, `vae_jax.estimator.VAE`, are imported where
they are used.
"""

from vae_jax.evaluation import (
    ElboEstimate,
    anomaly_scores,
    estimate_elbo,
    log_likelihood,
    posterior_predictive,
)
from vae_jax.likelihoods import COLUMN_LIKELIHOODS, LIKELIHOODS, Likelihood
from vae_jax.model import VAE, batch_elbo_terms, elbo_terms, make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES, Objective
from vae_jax.preprocess import BINARIZE
from vae_jax.remedies import make_text_trainer
from vae_jax.sweep import Sweep, make_members, make_sweep
from vae_jax.tabular import make_table_vae
from vae_jax.text import make_text_vae, write
from vae_jax.train import OPTIMIZERS, Trainer, TrainState, make_trainer
from vae_jax.two_layer import make_two_layer_vae
from vae_jax.types import ElboTerms, Hyper, Normal
from vae_jax.wake_sleep import make_wake_sleep

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "BINARIZE",
    "COLUMN_LIKELIHOODS",
    "LIKELIHOODS",
    "NETWORKS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "VAE",
    "ElboEstimate",
    "ElboTerms",
    "Hyper",
    "Likelihood",
    "Normal",
    "Objective",
    "Sweep",
    "TrainState",
    "Trainer",
    "anomaly_scores",
    "batch_elbo_terms",
    "elbo_terms",
    "estimate_elbo",
    "log_likelihood",
    "make_members",
    "make_sweep",
    "make_table_vae",
    "make_text_trainer",
    "make_text_vae",
    "make_trainer",
    "make_two_layer_vae",
    "make_vae",
    "make_wake_sleep",
    "posterior_predictive",
    "write",
]
