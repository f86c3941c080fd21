"""A model whose every quantity is known: a linear decoder with Gaussian noise.

x = W z + b + scale * noise is probabilistic PCA (Tipping and Bishop 1999). With orthogonal
columns in W the posterior has a diagonal covariance, so that a VAE can represent it exactly.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vae_jax.likelihoods import gaussian
from vae_jax.model import VAE
from vae_jax.types import Normal


class LinearGaussian(NamedTuple):
    weights: np.ndarray  # [x, latent], orthogonal columns
    offset: np.ndarray  # [x]
    scale: float


def random_model(rng: np.random.Generator, x_dim: int = 5, latent_dim: int = 2) -> LinearGaussian:
    columns, _ = np.linalg.qr(rng.normal(size=(x_dim, latent_dim)))
    return LinearGaussian(columns * rng.uniform(0.5, 2, latent_dim), rng.normal(size=x_dim), 0.5)


def sample(model: LinearGaussian, rng: np.random.Generator, n: int) -> np.ndarray:
    z = rng.normal(size=(n, model.weights.shape[1]))
    noise = rng.normal(size=(n, len(model.offset)))
    return z @ model.weights.T + model.offset + model.scale * noise


def log_marginal(model: LinearGaussian, xs: np.ndarray) -> np.ndarray:
    """log p(x) of each row: x ~ N(b, W W' + scale^2 I)."""
    covariance = model.weights @ model.weights.T + model.scale**2 * np.eye(len(model.offset))
    centred = xs - model.offset
    mahalanobis = np.sum(centred * np.linalg.solve(covariance, centred.T).T, axis=1)
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (log_det + mahalanobis)


def as_vae(model: LinearGaussian, posterior_shift: float = 0.0) -> VAE:
    """The model with its true posterior; a shift of the mean makes the posterior wrong."""
    weights, offset = jnp.asarray(model.weights), jnp.asarray(model.offset)
    precision = jnp.sum(weights**2, axis=0) / model.scale**2 + 1

    def encode(params, x):
        mean = weights.T @ (x - offset) / model.scale**2 / precision
        return Normal(mean + posterior_shift, -jnp.log(precision))

    return VAE(
        init=lambda key: {},
        encode=encode,
        decode=lambda params, z: (weights @ z + offset)[:, None],
        likelihood=gaussian(model.scale),
        latent_dim=model.weights.shape[1],
    )


def maximum_likelihood(xs: np.ndarray, latent_dim: int) -> LinearGaussian:
    """Probabilistic PCA in closed form (Tipping and Bishop 1999, equations 7 and 8)."""
    offset = xs.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(xs.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[latent_dim:].mean()
    weights = vectors[:, :latent_dim] * np.sqrt(values[:latent_dim] - noise)
    return LinearGaussian(weights, offset, float(np.sqrt(noise)))


def conditional_mean(model: LinearGaussian, x: np.ndarray) -> np.ndarray:
    """E[x' | the values of x that are not NaN], the mean of a new x' = W z + b."""
    seen = ~np.isnan(x)
    weights = model.weights[seen]
    precision = weights.T @ weights / model.scale**2 + np.eye(model.weights.shape[1])
    z = np.linalg.solve(precision, weights.T @ (x[seen] - model.offset[seen])) / model.scale**2
    return model.weights @ z + model.offset
