"""Figures: arrays in, a `matplotlib.figure.Figure` out.

No function here sees a model, and none touches `pyplot` or the caller's rcParams: every
figure is drawn, and saved, under Matplotlib's defaults plus one style, so that the same arrays
give the same file on every desk. Latent dimensions are counted from 1, as z1, z2, ...
"""

from vae_jax.figures.aevb import BoundCurve, bounds_against_points
from vae_jax.figures.charts import kl_per_dimension, latent_scatter, loss_curves
from vae_jax.figures.compression import CodingCurve, rate_against_elbo
from vae_jax.figures.disentanglement import ObjectiveScores, disentanglement_scores
from vae_jax.figures.evaluation import Evaluated, evaluation_page
from vae_jax.figures.iwae import BySamples, samples_in_bound
from vae_jax.figures.pictures import (
    inverse_cdf_grid,
    manifold,
    mosaic,
    reconstructions,
    samples,
    traversals,
)
from vae_jax.figures.style import BLUE, CLASS_COLORS, DPI, GREY, VERMILION, save
from vae_jax.figures.sweep_kl import kl_against
from vae_jax.figures.sweeps import (
    RateDistortionCurve,
    member_curves,
    rate_distortion,
    side_by_side,
)
from vae_jax.figures.tables import LatentPanel, latent_panels, traversal_curves
from vae_jax.figures.tables_generated import correlation_matrices, marginals, pair_plot
from vae_jax.figures.tables_scores import (
    nats_maps,
    representation_bars,
    score_bars,
    score_histogram,
)
from vae_jax.figures.text import draw_nll, draw_remedies, draw_sentences

__all__ = [
    "BLUE",
    "CLASS_COLORS",
    "DPI",
    "GREY",
    "VERMILION",
    "BoundCurve",
    "BySamples",
    "CodingCurve",
    "Evaluated",
    "LatentPanel",
    "ObjectiveScores",
    "RateDistortionCurve",
    "bounds_against_points",
    "correlation_matrices",
    "disentanglement_scores",
    "draw_nll",
    "draw_remedies",
    "draw_sentences",
    "evaluation_page",
    "inverse_cdf_grid",
    "kl_against",
    "kl_per_dimension",
    "latent_panels",
    "latent_scatter",
    "loss_curves",
    "manifold",
    "marginals",
    "member_curves",
    "mosaic",
    "nats_maps",
    "pair_plot",
    "rate_against_elbo",
    "rate_distortion",
    "reconstructions",
    "representation_bars",
    "samples",
    "samples_in_bound",
    "save",
    "score_bars",
    "score_histogram",
    "side_by_side",
    "traversal_curves",
    "traversals",
]
