"""Whether each latent dimension tells of one factor: five scores of codes with known factors.

Codes are posterior means, factors the indices that the data were made with. All of it runs on
the host, on stored rows, and needs no model: a batch that shares the value of a factor is drawn,
with replacement, from the rows that hold this value.

What learns is judged on rows that it did not see: the rows are divided at random into halves.
Every dimension is brought to the interval [0, 1] first, so no score depends on the sign or the
scale of a dimension, and one that never moves tells nothing.

The first argument is a JAX key, as everywhere, and not a generator, which would answer a second
call differently. It is the seed of NumPy's generator inside.
"""

from vae_jax.evaluation.disentanglement.batches import beta_vae_score, factor_vae_score
from vae_jax.evaluation.disentanglement.dimensions import Dci, dci, mig, sap
from vae_jax.evaluation.disentanglement.scores import Disentanglement, disentanglement

__all__ = [
    "Dci",
    "Disentanglement",
    "beta_vae_score",
    "dci",
    "disentanglement",
    "factor_vae_score",
    "mig",
    "sap",
]
