"""A stack of bits: numbers are pushed onto it under a distribution, and popped again.

The entropy coder is `constriction`'s. It is given nothing but yes-or-no questions: a number is
found by asking whether it lies above the middle of what is left, and each answer is coded under
the probability that the distribution function gives it. So a distribution needs only whole
masses below a few levels, which is all that both sides have to agree on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from vae_jax.compression.exact import CodecError

CHANCES = 2**20  # a probability is a multiple of 1 / CHANCES, and neither 0 nor 1

MassBelow = Callable[[Integer[np.ndarray, " some"], Integer[np.ndarray, " some"]], np.ndarray]


class Discrete(NamedTuple):
    """Independent distributions on the numbers 0, ..., levels - 1.

    Attributes:
        size: how many distributions.
        levels: numbers of each.
        total: mass of each, in whole units.
        mass_below: `(which, level)`, of the distributions at the places `which`, the whole
            units below `level`; between 0 and levels it must rise by 1 at least for each level.
        first: the level that the first question asks for.
    """

    size: int
    levels: int
    total: int
    mass_below: MassBelow
    first: int


class Stack:
    """The words of a message, the last pushed first to be popped.

    Args:
        words: what lies on it.
        seal: whether they are any words, not those of an earlier stack.

    Raises:
        CodecError: if `constriction` is not installed, or the words are no stack's.
    """

    def __init__(self, words: np.ndarray, *, seal: bool = False) -> None:
        constriction = import_constriction()
        try:
            self._coder = constriction.stream.stack.AnsCoder(words.astype(np.uint32), seal=seal)
        except ValueError as error:
            raise CodecError(f"the words are no stack's ({error})") from None
        self._coin = constriction.stream.model.Bernoulli(perfect=False)
        self._uniform = constriction.stream.model.Uniform

    @property
    def bits(self) -> int:
        """Bits on it."""
        return self._coder.num_valid_bits()

    def words(self) -> np.ndarray:
        """What lies on it."""
        return self._coder.get_compressed()

    def holds(self, words: np.ndarray) -> bool:
        """Whether it is as it was when it was made of these words and sealed."""
        return np.array_equal(self.words(), Stack(words, seal=True).words())

    def push(self, symbols: Integer[np.ndarray, " count"], discrete: Discrete) -> None:
        """Push numbers, each under its distribution."""
        answers: list[tuple[np.ndarray, np.ndarray]] = []

        def answer(which: np.ndarray, level: np.ndarray, chance: np.ndarray) -> np.ndarray:
            is_above = symbols[which] >= level
            answers.append((is_above.astype(np.int32), chance))
            return is_above

        _ask(discrete, answer)
        for is_above, chance in reversed(answers):
            self._coder.encode_reverse(is_above, self._coin, chance)

    def pop(self, discrete: Discrete) -> Integer[np.ndarray, " count"]:
        """Pop numbers: from random bits this draws them from their distributions."""
        return _ask(discrete, lambda _, __, chance: self._coder.decode(self._coin, chance) > 0)

    def push_uniform(self, symbols: Integer[np.ndarray, " count"], bits: int) -> None:
        """Push numbers under 2^bits, all alike: exactly that many bits each."""
        self._coder.encode_reverse(symbols.astype(np.int32), self._uniform(2**bits))

    def pop_uniform(self, count: int, bits: int) -> Integer[np.ndarray, " count"]:
        """Pop numbers under 2^bits, all alike."""
        return self._coder.decode(self._uniform(2**bits), count).astype(np.int64)


def _ask(
    discrete: Discrete,
    answer: Callable[
        [Integer[np.ndarray, " some"], Integer[np.ndarray, " some"], Float[np.ndarray, " some"]],
        Bool[np.ndarray, " some"],
    ],
) -> Integer[np.ndarray, " count"]:
    """Find each number by halving what is left, one question to all that are open at a time.

    Args:
        discrete: their distributions.
        answer: `(which, level, chance)`, whether those numbers are `level` or more, which has
            that probability.

    Returns:
        The numbers.
    """
    found = np.zeros(discrete.size, np.int64)
    which = np.arange(discrete.size)
    low, high = np.zeros_like(which), np.full_like(which, discrete.levels)
    below, upto = np.zeros_like(which), np.full_like(which, discrete.total)
    level = np.full_like(which, discrete.first)
    while which.size:
        mass = discrete.mass_below(which, level)
        above = answer(which, level, _chance(upto - mass, upto - below))
        low, below = np.where(above, level, low), np.where(above, mass, below)
        high, upto = np.where(above, high, level), np.where(above, upto, mass)
        is_open = high - low > 1
        found[which[~is_open]] = low[~is_open]
        which, low, high = which[is_open], low[is_open], high[is_open]
        below, upto = below[is_open], upto[is_open]
        level = (low + high) // 2
    return found


def _chance(
    part: Integer[np.ndarray, " some"], whole: Integer[np.ndarray, " some"]
) -> Float[np.ndarray, " some"]:
    """A quotient of whole numbers on the grid of chances, neither 0 nor 1."""
    units = np.rint(part / whole * CHANCES)
    return np.minimum(np.maximum(units, 1), CHANCES - 1) / CHANCES


def import_constriction() -> Any:
    """The library of the entropy coder, which is an extra.

    Raises:
        CodecError: if it is not installed.
    """
    try:
        import constriction
    except ImportError:
        raise CodecError("constriction is needed: pip install -e '.[compress]'") from None
    return constriction
