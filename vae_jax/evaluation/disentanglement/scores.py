"""The five scores of one set of codes together."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Integer

from vae_jax.evaluation.disentanglement.batches import beta_vae_score, factor_vae_score
from vae_jax.evaluation.disentanglement.dimensions import dci, mig, sap
from vae_jax.types import PRNGKey


class Disentanglement(NamedTuple):
    """The five scores of one set of codes, from 0 to 1.

    Attributes:
        mig: mutual information gap; 0 for codes that tell nothing.
        dci_disentanglement: of `Dci`; 0 for codes that tell nothing.
        dci_completeness: of `Dci`; 0 for codes that tell nothing.
        dci_informativeness: of `Dci`; codes that tell nothing reach the frequency of the most
            frequent value.
        sap: separated attribute predictability; 0 for codes that tell nothing, and perfect ones
            reach one less the mean of 1 / values over the factors.
        factor_vae: the FactorVAE score; codes that tell nothing reach 1 / factors.
        beta_vae: the beta-VAE score; codes that tell nothing reach 1 / factors.
    """

    mig: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    sap: float
    factor_vae: float
    beta_vae: float


def disentanglement(
    key: PRNGKey,
    codes: Float[np.ndarray, "n latent"],
    factors: Integer[np.ndarray, "rows factor"],
    *,
    num_samples: int = 1000,
    batch_size: int = 64,
) -> Disentanglement:
    """Score codes by all five measures.

    Every dimension is scaled, so that one counts however little it moves: leave collapsed ones
    out of the codes first (`posterior_mean_variance`).

    Args:
        key: split into those of `dci`, `sap`, `factor_vae_score` and `beta_vae_score`.
        codes: the posterior mean of every row.
        factors: the factor values of every row.
        num_samples: of `factor_vae_score` and `beta_vae_score`.
        batch_size: of `factor_vae_score` and `beta_vae_score`.

    Returns:
        The scores; each is what its own function returns.

    Raises:
        ValueError: as the five functions do.

    Example:
        >>> factors = np.tile(np.indices((3, 3)).reshape(2, 9).T, (40, 1))
        >>> scores = disentanglement(jax.random.key(0), factors.astype(float), factors)
        >>> round(scores.mig, 6), scores.dci_disentanglement, scores.factor_vae
        (1.0, 1.0, 1.0)
    """
    key_dci, key_sap, key_factor_vae, key_beta_vae = jax.random.split(key, 4)
    drawn = {"num_samples": num_samples, "batch_size": batch_size}
    return Disentanglement(
        mig(codes, factors),
        *dci(key_dci, codes, factors),
        sap(key_sap, codes, factors),
        factor_vae_score(key_factor_vae, codes, factors, **drawn),
        beta_vae_score(key_beta_vae, codes, factors, **drawn),
    )
