"""The noise that every model is judged and drawn with; `--seed` takes numbers under 2^31."""

import jax
from jaxtyping import Array, Int, Num

from vae_jax.evaluation import ElboEstimate, estimate_elbo
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.sweep import Evaluate
from vae_jax.types import Params

# The same for every model, so that a difference of two models is not one of their noise.
EVALUATION_SEED = 2**31
# The next three are one number on purpose: the recorded results were drawn with it.
SURGERY_SEED = 2**31 + 1  # of samples of the aggregate posterior
SCORE_SEED = 2**31 + 1  # of the scores of rows and images
PICTURE_SEED = 2**31 + 1
DRAW_SEED = 2**31 + 2  # of rows that models of tables generate


def elbo_of(vae: VAE, preprocess: Preprocess, *, num_samples: int = 1) -> Evaluate:
    """How a model is evaluated: its ELBO on all of a split, with the noise of `EVALUATION_SEED`.

    Args:
        vae: the model.
        preprocess: from a stored example to x, with the same noise for every model.
        num_samples: samples of each posterior.

    Returns:
        `(params, stored examples) -> ElboEstimate`, in nats per example; a third argument says
        how many of the examples count, see `estimate_elbo`.
    """

    def evaluate(
        params: Params, test: Num[Array, "n *x"], count: Int[Array, ""] | None = None
    ) -> ElboEstimate:
        key = jax.random.key(EVALUATION_SEED)
        return estimate_elbo(key, vae, preprocess, params, test, count, num_samples=num_samples)

    return evaluate
