"""Importance-weighted log-likelihood of a whole data set, with its progress."""

import jax
import jax.numpy as jnp
from jaxtyping import Array
from rich.progress import Progress

from experiments._progress import console
from vae_jax.evaluation import Importance, estimate_log_likelihood
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess
from vae_jax.types import Params, PRNGKey

AT_ONCE = 1000  # examples between two signs of progress


def importance_of(
    key: PRNGKey,
    vae: VAE,
    preprocess: Preprocess,
    params: Params,
    test: Array,
    *,
    num_samples: int,
    name: str,
) -> Importance:
    """The estimate of every example, some at a time to show progress.

    Args:
        key: of the estimate.
        vae: the model.
        preprocess: from a stored example to x.
        params: the model's parameters.
        test: the stored examples.
        num_samples: K of each.
        name: of the model, beside the bar.

    Returns:
        As `estimate_log_likelihood`, the same numbers.
    """
    parts, terminal = [], console()
    with Progress(console=terminal, disable=not terminal.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"{name}: log p(x)", total=len(test))
        for first in range(0, len(test), AT_ONCE):
            some = test[first : first + AT_ONCE]
            found = estimate_log_likelihood(
                key, vae, preprocess, params, some, num_samples=num_samples, first=first
            )
            parts.append(jax.block_until_ready(found))
            progress.advance(bar, len(some))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
