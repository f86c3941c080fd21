"""A variational autoencoder of the rows of a table: one likelihood for each kind of column."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vae_jax.likelihoods import COLUMN_LIKELIHOODS, joint, missing_at_nan
from vae_jax.model import VAE, make_vae
from vae_jax.networks import MLPEncoder, TableDecoder
from vae_jax.networks.table import ScaleOf
from vae_jax.types import Activation, Normal, Params


def make_table_vae(
    blocks: Sequence[tuple[str, int]],
    *,
    hidden: Sequence[int],
    latent_dim: int,
    activation: Activation,
    scale_of: ScaleOf = "column",
) -> VAE:
    """Build the model of rows whose features are blocks of columns of one kind.

    log p(x | z) = sum over the observed columns j of log p_j(x_j | z), p_j of the kind of column j.

    Every column counts in full, whatever its kind. A feature that is NaN is missing: it counts
    nothing in the likelihood, and the encoder sees a 0, the mean of its column where that is
    standardised; of a count or a category it cannot tell the gap from the value.

    Args:
        blocks: the kind, a key of `COLUMN_LIKELIHOODS`, and the width of each block of
            features; see `vae_jax.data.Encoding`.
        hidden: widths of the encoder's hidden layers; the decoder's are the reverse.
        latent_dim: dimensions of z.
        activation: between layers.
        scale_of: what the spread of a column depends on; see `TableDecoder`.

    Returns:
        The bundle, of rows `x [features]`.

    Raises:
        ValueError: if a kind is not known, there is no block or one without a feature, or
            latent_dim is under 1.

    Example:
        >>> import jax
        >>> vae = make_table_vae(
        ...     [("continuous", 3), ("categorical", 4)],
        ...     hidden=(16,), latent_dim=2, activation=jax.nn.tanh)
        >>> params = vae.init(jax.random.key(0))
        >>> row = jnp.array([0.1, jnp.nan, 2.0, 0.0, 1.0, 0.0, 0.0])
        >>> vae.encode(params, row).mean.shape
        (2,)

    Reference:
        Nazabal et al., Handling incomplete heterogeneous data using VAEs (arXiv 1807.03653), for
        a likelihood of each kind of column and zeros for what is missing; here p(z) = N(0, I).
    """
    for kind, _ in blocks:
        if kind not in COLUMN_LIKELIHOODS:
            raise ValueError(f"kind {kind!r}: one of {', '.join(COLUMN_LIKELIHOODS)} is needed")
    likelihood = joint([(COLUMN_LIKELIHOODS[kind](), width) for kind, width in blocks])
    features = sum(width for _, width in blocks)
    encoder = MLPEncoder(tuple(hidden), latent_dim, activation)
    decoder = TableDecoder(
        tuple(hidden)[::-1], features, likelihood.theta_dim, scale_of, activation
    )
    vae = make_vae(
        encoder, decoder, missing_at_nan(likelihood), x_shape=(features,), latent_dim=latent_dim
    )
    counts = np.array([kind == "count" for kind, width in blocks for _ in range(width)])

    def encode(params: Params, x: Float[Array, " features"]) -> Normal:
        filled = jnp.where(jnp.isnan(x), 0.0, x)
        # A count of a thousand is three times one of ten, not a hundred times.
        seen = jnp.where(counts, jnp.log1p(jnp.maximum(filled, 0.0)), filled)
        return vae.encode(params, seen)

    return vae._replace(encode=encode)
