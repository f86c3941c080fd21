"""A variational autoencoder as a scikit-learn transformer and outlier detector.

>>> from sklearn.datasets import load_wine
>>> from vae_jax.estimator import VAE
>>> X = load_wine().data
>>> vae = VAE(latent_dim=2, random_state=0).fit(X)
>>> vae.transform(X).shape
(178, 2)
"""

from vae_jax.estimator.vae import VAE

__all__ = ["VAE"]
