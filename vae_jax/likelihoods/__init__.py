"""Observation models p(x | z): what the numbers that a decoder returns mean.

A decoder returns `theta`, the shape of x with one more axis of `theta_dim` parameters. A
`Likelihood` turns them into a log-probability of one example, a mean and a sample. Each
one is a row of `LIKELIHOODS` or, for the columns of a table, of `COLUMN_LIKELIHOODS`; a
new row inherits the conformance tests.
"""

from collections.abc import Callable

from vae_jax.likelihoods.base import Likelihood, Theta
from vae_jax.likelihoods.columns import (
    categorical,
    joint,
    missing_at_nan,
    negative_binomial,
    student_t,
)
from vae_jax.likelihoods.levels import (
    beta_binomial,
    discretized_logistic,
    discretized_logistic_mixture,
)
from vae_jax.likelihoods.pixels import (
    bernoulli,
    continuous_bernoulli,
    gaussian,
    gaussian_learned_scale,
    squeezed,
)
from vae_jax.likelihoods.tokens import tokens

LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": bernoulli,
    "continuous_bernoulli": continuous_bernoulli,
    "gaussian": gaussian,
    "gaussian_learned_scale": gaussian_learned_scale,
    "discretized_logistic": discretized_logistic,
    "discretized_logistic_mixture": discretized_logistic_mixture,
    "beta_binomial": beta_binomial,
}
# By the kind of a table's column.
COLUMN_LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "continuous": gaussian_learned_scale,
    "heavy_tailed": student_t,
    "binary": bernoulli,
    "count": negative_binomial,
    "categorical": categorical,
}

__all__ = [
    "COLUMN_LIKELIHOODS",
    "LIKELIHOODS",
    "Likelihood",
    "Theta",
    "bernoulli",
    "beta_binomial",
    "categorical",
    "continuous_bernoulli",
    "discretized_logistic",
    "discretized_logistic_mixture",
    "gaussian",
    "gaussian_learned_scale",
    "joint",
    "missing_at_nan",
    "negative_binomial",
    "squeezed",
    "student_t",
    "tokens",
]
