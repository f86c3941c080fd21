"""The lengths of sentences, and the few to which they are padded."""

import numpy as np
from jaxtyping import Int, Integer

from vae_jax.data.tokens import PAD


def lengths_of(ids: Integer[np.ndarray, "n length"]) -> Int[np.ndarray, " n"]:
    """How many tokens each sentence has, `<eos>` included.

    Args:
        ids: the sentences.

    Returns:
        The number of each.

    Example:
        >>> lengths_of(np.array([[4, 3, 1, 0], [3, 1, 0, 0]]))
        array([3, 2])
    """
    return np.count_nonzero(ids != PAD, axis=1)


def buckets(ids: Integer[np.ndarray, "n length"], count: int = 3) -> tuple[int, ...]:
    """Choose the lengths to which sentences are padded, for the fewest tokens in all.

    A sentence goes into the first bucket that is long enough. The choice is exact: with
    n(i, j) sentences longer than length i and not longer than length j,

        tokens(j) = min over i < j of tokens(i) + j n(i, j).

    Args:
        ids: the sentences.
        count: how many buckets; fewer where there are fewer lengths.

    Returns:
        Lengths in rising order, the last that of the longest sentence.

    Raises:
        ValueError: if there is no sentence, or no bucket may be.

    Example:
        >>> buckets(np.array([[3, 1, 0, 0, 0], [4, 1, 0, 0, 0], [4, 3, 4, 3, 1]]), count=2)
        (2, 5)
    """
    if count < 1 or not len(ids):
        raise ValueError(f"{count} buckets of {len(ids)} sentences: at least 1 of each is needed")
    lengths, counts = np.unique(lengths_of(ids), return_counts=True)
    ends = lengths.tolist()
    below = [0, *np.cumsum(counts).tolist()]
    # For the sentences of the first `j` lengths: fewest tokens, and the buckets that have them.
    # A bucket more never costs more, so only the last round counts.
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}
    for _ in range(min(count, len(ends))):
        best = {
            j: min(
                (tokens + ends[j - 1] * (below[j] - below[i]), (*chosen, ends[j - 1]))
                for i, (tokens, chosen) in best.items()
                if i < j
            )
            for j in range(min(best) + 1, len(ends) + 1)
        }
    return best[len(ends)][1]
