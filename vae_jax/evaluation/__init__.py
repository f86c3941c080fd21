"""What a trained model is worth, measured over whole data sets."""

from vae_jax.evaluation.elbo import ACTIVE_KL, ElboEstimate, estimate_elbo

__all__ = ["ACTIVE_KL", "ElboEstimate", "estimate_elbo"]
