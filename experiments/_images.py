"""A model of images: made of its settings, and its figures from its parameters."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from experiments._noise import PICTURE_SEED
from experiments._train import Trained, snapshot_epochs
from vae_jax import sharding
from vae_jax.data import ImageData
from vae_jax.evaluation import ACTIVE_KL, encode_all
from vae_jax.likelihoods import LIKELIHOODS
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, NETWORKS
from vae_jax.preprocess import Preprocess
from vae_jax.types import Normal, Params, PRNGKey

MANIFOLD_SIDE = 20
SAMPLES = 100
TRAVERSAL = np.linspace(-3.0, 3.0, 11)
# Images that are decoded at once.
CHUNK = 1000


def image_vae(
    x_shape: Sequence[int],
    *,
    hidden: Sequence[int],
    latent_dim: int,
    network: str = "mlp",
    activation: str = "relu",
    likelihood: str = "bernoulli",
    scale: float | None = None,
    compute_dtype: DTypeLike | None = None,
) -> VAE:
    """The model that settings describe.

    Args:
        x_shape: shape of an image.
        hidden: widths of the encoder's dense layers; the decoder mirrors them.
        latent_dim: dimensions of z.
        network: a row of `NETWORKS`.
        activation: a row of `ACTIVATIONS`, between layers.
        likelihood: a row of `LIKELIHOODS`.
        scale: of the likelihood, where it takes one; its own without it.
        compute_dtype: what the networks compute in, see `make_vae`.

    Returns:
        The model.
    """
    observed = LIKELIHOODS[likelihood](*(() if scale is None else (scale,)))
    encoder, decoder = NETWORKS[network](
        hidden,
        x_shape=x_shape,
        latent_dim=latent_dim,
        theta_dim=observed.theta_dim,
        activation=ACTIVATIONS[activation],
    )
    return make_vae(
        encoder,
        decoder,
        observed,
        x_shape=x_shape,
        latent_dim=latent_dim,
        compute_dtype=compute_dtype,
    )


class ImagePictures(NamedTuple):
    """What is needed to draw a model.

    Attributes:
        vae: the model.
        preprocess: from a stored image to x.
        images: the data set.
    """

    vae: VAE
    preprocess: Preprocess
    images: ImageData

    def reconstruct(self, params: Params) -> Float[Array, "n height width channels"]:
        """The first test image of each class, encoded and decoded by the means of q and p."""
        return decoded_means(self.vae, params, _means(self.vae, params, self.originals()))

    def originals(self) -> Float[Array, "n height width channels"]:
        """The first test image of each class, as the model sees it."""
        labels = self.images.test_labels
        first = [int(np.argmax(labels == label)) for label in np.unique(labels)]
        keys = jax.random.split(_keys().preprocess, len(first))
        return jax.vmap(self.preprocess)(keys, jnp.asarray(self.images.test_images[first]))

    def draw(self, result: Trained, folder: Path, *, title: str) -> None:
        """Draw every figure of a member, each with the arrays behind it.

        Args:
            result: the member, trained, with its parameters.
            folder: where the figures go.
            title: what was trained.
        """
        # Here, not above: Matplotlib is not needed before training ends.
        from vae_jax import figures

        params, latent_dim = result.params, self.vae.latent_dim
        kl = np.asarray(result.final.kl_per_dim)
        save = figures.save

        epochs, train, test = _curves(result)
        save(
            figures.loss_curves(epochs, train, test, title=title),
            folder / "loss_curves.png",
            epochs=epochs,
            **{f"train_{name}": values for name, values in train.items()},
            **{f"test_{name}": values for name, values in test.items()},
        )

        snapshots = dict(result.snapshots)
        if int(epochs[-1]) not in snapshots:  # a run that was stopped, or had no figures so far
            snapshots[int(epochs[-1])] = np.asarray(self.reconstruct(params))
        shown = [e for e in snapshot_epochs(int(epochs[-1])) if e in snapshots]
        originals = np.asarray(self.originals())
        strips = np.stack([snapshots[epoch] for epoch in shown])
        save(
            figures.reconstructions(originals, strips, np.array(shown), title=title),
            folder / "reconstructions.png",
            originals=originals,
            reconstructions=strips,
            epochs=np.array(shown),
        )

        prior = jax.random.normal(_keys().prior, (SAMPLES, latent_dim))
        samples = self._decode(params, prior)
        save(figures.samples(samples, title=title), folder / "samples.png", samples=samples)

        save(
            figures.kl_per_dimension(kl, title=title, threshold=ACTIVE_KL),
            folder / "kl_per_dimension.png",
            kl=kl,
        )

        # The two dimensions that carry most; in order, so that a 2-D latent is z1 and z2.
        widest = np.sort(np.argsort(-kl, kind="stable")[:2])
        names = (f"z{widest[0] + 1}", f"z{widest[-1] + 1}")
        test_images = sharding.place(self.images.test_images, None)
        q = encode_all(_keys().preprocess, self.vae, self.preprocess, params, test_images)
        assert isinstance(q, Normal)
        means, log_vars = np.asarray(q.mean), np.asarray(q.log_var)
        if latent_dim == 1:
            points = np.stack([means[:, 0], np.exp(log_vars[:, 0] / 2)], axis=1)
            axis_names = ("mean of z1", "standard deviation of z1")
        else:
            points, axis_names = means[:, widest], names
        save(
            figures.latent_scatter(
                points,
                self.images.test_labels,
                self.images.class_names,
                title=title,
                axis_names=axis_names,
            ),
            folder / "latent_scatter.png",
            means=means,
            log_vars=log_vars,
            labels=self.images.test_labels,
        )

        if latent_dim > 1:
            side = figures.inverse_cdf_grid(MANIFOLD_SIDE)
            zs = np.zeros((MANIFOLD_SIDE, MANIFOLD_SIDE, latent_dim), np.float32)
            zs[..., widest[0]] = side[None, :]
            zs[..., widest[1]] = side[:, None]
            grid = self._decode(params, zs.reshape(-1, latent_dim))
            grid = grid.reshape(MANIFOLD_SIDE, MANIFOLD_SIDE, *grid.shape[1:])
            save(
                figures.manifold(grid, side, side, title=title, axis_names=names),
                folder / "manifold.png",
                images=grid,
                values=side,
                dims=widest,
            )
        if latent_dim != 2:
            zs = np.zeros((latent_dim, len(TRAVERSAL), latent_dim), np.float32)
            zs[np.arange(latent_dim), :, np.arange(latent_dim)] = TRAVERSAL
            rows = self._decode(params, zs.reshape(-1, latent_dim))
            rows = rows.reshape(latent_dim, len(TRAVERSAL), *rows.shape[1:])
            save(
                figures.traversals(rows, TRAVERSAL, np.arange(latent_dim), title=title, kl=kl),
                folder / "traversals.png",
                images=rows,
                values=TRAVERSAL,
            )

    def _decode(self, params: Params, zs: np.ndarray | Array) -> np.ndarray:
        return np.asarray(decoded_means(self.vae, params, jnp.asarray(zs)))


class _Keys(NamedTuple):
    prior: PRNGKey
    preprocess: PRNGKey


def _keys() -> _Keys:
    return _Keys(*jax.random.split(jax.random.key(PICTURE_SEED)))


@partial(jax.jit, static_argnums=0)
def _means(
    vae: VAE, params: Params, xs: Float[Array, "n height width channels"]
) -> Float[Array, "n latent"]:
    return jax.vmap(lambda x: vae.encode(params, x).mean)(xs)


@partial(jax.jit, static_argnums=0)
def decoded_means(
    vae: VAE, params: Params, zs: Float[Array, "n latent"]
) -> Float[Array, "n height width channels"]:
    """Means of p(x | z) on [0, 1]; a Gaussian's mean may lie outside and is clipped."""

    def mean(z: Float[Array, " latent"]) -> Float[Array, "height width channels"]:
        return jnp.clip(vae.likelihood.mean(vae.decode(params, z)), 0.0, 1.0)

    return jax.lax.map(mean, zs, batch_size=CHUNK)


def _curves(
    result: Trained,
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Epochs, and the training and test metrics at each, as bounds (not costs), in nats."""
    columns = {"elbo": "neg_elbo", "log_lik": "reconstruction", "kl": "kl"}
    signs = {"elbo": -1.0, "log_lik": -1.0, "kl": 1.0}

    def side(split: str) -> dict[str, np.ndarray]:
        return {
            name: signs[name] * np.array([row[f"{split}_{column}"] for row in result.rows])
            for name, column in columns.items()
        }

    return np.array([row["epoch"] for row in result.rows]), side("train"), side("test")
