"""Variational autoencoders in JAX and Flax linen: a functional reference implementation.

The names below are the core; `vae_jax.data`, `vae_jax.checkpoint`, `vae_jax.sharding` and
`vae_jax.figures` are imported where they are used.
"""

from vae_jax.evaluation import ElboEstimate, estimate_elbo
from vae_jax.likelihoods import LIKELIHOODS, Likelihood
from vae_jax.model import VAE, batch_elbo_terms, elbo_terms, make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.objectives import OBJECTIVES, Objective
from vae_jax.preprocess import BINARIZE
from vae_jax.sweep import Sweep, make_members, make_sweep
from vae_jax.train import OPTIMIZERS, Trainer, TrainState, make_trainer
from vae_jax.types import ElboTerms, Hyper, Normal

__version__ = "0.1.0"

__all__ = [
    "ACTIVATIONS",
    "BINARIZE",
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
    "batch_elbo_terms",
    "elbo_terms",
    "estimate_elbo",
    "make_members",
    "make_sweep",
    "make_trainer",
    "make_vae",
]
