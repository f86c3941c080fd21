"""What a model says of each of many rows or images, as one program, arrays on the host."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from experiments._noise import SCORE_SEED
from vae_jax.evaluation.memory import examples_at_once
from vae_jax.evaluation.noise import fingerprint
from vae_jax.model import VAE
from vae_jax.preprocess import Preprocess, as_stored
from vae_jax.types import Params, PRNGKey

_AT_ONCE = 1_024  # rows
_COPIES = 2  # of each sample theta, and what is computed of every dimension of it
_MULTIPLE = 8  # of the rows of a program: folds that differ by a row share one


def of_each_row(
    one: Callable[[PRNGKey, Params, Array], Any],
    vae: VAE,
    num_samples: int,
    preprocess: Preprocess = as_stored,
) -> Callable[[Params, np.ndarray], Any]:
    """A function of one row, over many.

    What is found of a row depends on it and on `SCORE_SEED` only, not on the other rows or their
    order. Different rows have independent noise, which the mean over many rows averages out.

    Args:
        one: `(key, params, x)` of a row, whose key is its own.
        vae: the model that it asks, for the memory of what is computed at once.
        num_samples: samples of z that it takes of a row.
        preprocess: from a stored row to x; one that draws nothing.

    Returns:
        `(params, rows)` to what `one` finds, with a leading axis of rows; compiled once for about
        as many rows.
    """
    key = jax.random.key(SCORE_SEED)

    def of_stored(params: Params, stored: Array) -> Any:
        key_row = jax.random.fold_in(key, fingerprint(stored))
        return one(key_row, params, preprocess(key, stored))

    @jax.jit
    def of_all(params: Params, rows: Array) -> Any:
        x, most = jax.eval_shape(preprocess, key, rows[0]), min(_AT_ONCE, len(rows))
        at_once = examples_at_once(vae, params, x, num_samples, most=most, copies=_COPIES)
        return jax.lax.map(functools.partial(of_stored, params), rows, batch_size=at_once)

    def of_rows(params: Params, rows: np.ndarray) -> Any:
        filled_up = -(-len(rows) // _MULTIPLE) * _MULTIPLE
        found = jax.device_get(of_all(params, np.resize(rows, (filled_up, *rows.shape[1:]))))
        return jax.tree.map(lambda leaf: leaf[: len(rows)], found)

    return of_rows
