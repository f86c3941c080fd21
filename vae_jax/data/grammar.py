"""A probabilistic grammar of English-like sentences whose entropy is known exactly.

No symbol leads back to itself and no sentence has two derivations, so entropy and probabilities
are finite sums, and a model of these sentences can be judged by the truth.

Reference:
    Soule, Entropies of Probabilistic Grammars (1974), for the entropy; Baker, Trainable Grammars
    for Speech Recognition (1979), for the inside algorithm.
"""

import itertools
import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from vae_jax.data.grammar_words import RULES, START, Content, Rule, Rules


class Sample(NamedTuple):
    """A sentence that was drawn.

    Attributes:
        words: with the punctuation mark as the last.
        content: what was chosen first.
        log_prob: of the choices that were made, nats.
    """

    words: tuple[str, ...]
    content: Content
    log_prob: float


def vocabulary(rules: Rules = RULES) -> tuple[str, ...]:
    """Every word and punctuation mark of the rules.

    Args:
        rules: the grammar.

    Returns:
        The words in alphabetical order.

    Example:
        >>> len(vocabulary()), vocabulary()[:4]
        (340, ('.', '?', 'accuse', 'accused'))
    """
    written = {part for ways in rules.values() for rule in ways for part in rule.expansion}
    return tuple(sorted(written - rules.keys()))


def entropy(rules: Rules = RULES) -> float:
    """Entropy of the derivations, which is that of the sentences if each has only one.

    H(symbol) = sum_r p_r (-log p_r + sum of H over the expansion of r), and H(word) = 0: the
    choices of a derivation are independent given the symbols.

    Args:
        rules: the grammar.

    Returns:
        Nats a sentence.

    Example:
        >>> round(entropy(), 3)
        17.223
        >>> coin = {START: (Rule(0.5, ("heads",)), Rule(0.5, ("tails",)))}
        >>> round(entropy(coin) / math.log(2), 3)
        1.0
    """

    @cache
    def of(symbol: str) -> float:
        ways = rules.get(symbol, ())
        return math.fsum(p * (math.fsum(map(of, parts)) - math.log(p)) for p, parts in ways)

    return of(START)


def global_information(rules: Rules = RULES) -> float:
    """Entropy of the content of a sentence, log(topics x kinds x numbers x tenses).

    Each sentence tells its content, so this is what a latent variable must carry to know it.

    Args:
        rules: made by `grammar_rules`.

    Returns:
        Nats a sentence.

    Example:
        >>> round(global_information(), 3), round(math.log(8 * 3 * 2 * 2), 3)
        (4.564, 4.564)
    """
    return -math.fsum(p * math.log(p) for p, _ in rules[START])


def log_prob(words: Sequence[str], rules: Rules = RULES) -> float:
    """Log-probability of a sentence by the inside algorithm.

    The probability that a symbol becomes words i to k is the sum over its rules, and over the
    places where their parts can meet, of p_r times the product of the parts' probabilities.

    Args:
        words: of the sentence, punctuation included.
        rules: the grammar.

    Returns:
        Nats, summed over all derivations; -inf if there is none.

    Example:
        >>> round(log_prob("the sailor steers .".split()), 3)
        -11.719
        >>> log_prob("the sailor steer .".split())
        -inf
    """
    probability = _inside(tuple(words), rules)(START, 0).get(len(words), 0.0)
    return math.log(probability) if probability > 0 else -math.inf


def accepts(words: Sequence[str], rules: Rules = RULES) -> bool:
    """Whether the grammar can write a sentence.

    Args:
        words: of the sentence, punctuation included.
        rules: the grammar.

    Returns:
        True if its probability is positive.

    Example:
        >>> accepts("the captain of the ships does not sink .".split())
        True
        >>> accepts("the captain of the ships do not sink .".split())
        False
    """
    return log_prob(words, rules) > -math.inf


def content_of(words: Sequence[str], rules: Rules = RULES) -> Content | None:
    """What holds for a whole sentence.

    Args:
        words: of the sentence, punctuation included.
        rules: made by `grammar_rules`.

    Returns:
        The content, or None if the grammar cannot write the sentence.

    Example:
        >>> content_of("did the spies guard the fort ?".split())
        Content(topic='army', kind='question', number='plural', tense='past')
    """
    inside = _inside(tuple(words), rules)
    for rule in rules[START]:
        if len(words) in inside(rule.expansion[0], 0):
            return _content(rule)
    return None


def sample(seed: int, count: int, rules: Rules = RULES) -> list[Sample]:
    """Independent sentences.

    Args:
        seed: of NumPy's generator.
        count: how many; fewer are the first of more.
        rules: made by `grammar_rules`.

    Returns:
        The sentences.

    Example:
        >>> (drawn,) = sample(0, 1)
        >>> " ".join(drawn.words)
        'the customer cheated these customers on the square .'
        >>> math.isclose(drawn.log_prob, log_prob(drawn.words))
        True
    """
    generator = np.random.default_rng(seed)
    edges = {symbol: list(itertools.accumulate(p for p, _ in rules[symbol])) for symbol in rules}

    def choose(symbol: str) -> Rule:
        # Rounding may leave the last edge below one.
        last = len(rules[symbol]) - 1
        return rules[symbol][bisect(edges[symbol], generator.random(), hi=last)]

    def draw() -> Sample:
        first = choose(START)
        words, log_probability = [], math.log(first.probability)
        waiting = list(reversed(first.expansion))
        while waiting:
            symbol = waiting.pop()
            if symbol in rules:
                probability, parts = choose(symbol)
                log_probability += math.log(probability)
                waiting += reversed(parts)
            else:
                words.append(symbol)
        return Sample(tuple(words), _content(first), log_probability)

    return [draw() for _ in range(count)]


def _content(rule: Rule) -> Content:
    return Content(*rule.expansion[0].split())


def _inside(words: tuple[str, ...], rules: Rules) -> Callable[[str, int], dict[int, float]]:
    """The probabilities that a symbol becomes words[start:end], by each possible end."""

    @cache
    def inside(symbol: str, start: int) -> dict[int, float]:
        if symbol not in rules:
            return {start + 1: 1.0} if words[start : start + 1] == (symbol,) else {}
        total = defaultdict(float)
        for probability, parts in rules[symbol]:
            reached = {start: probability}
            for part in parts:
                if not reached:  # most rules end at their first part
                    break
                further = defaultdict(float)
                for middle, before in reached.items():
                    for end, own in inside(part, middle).items():
                        further[end] += before * own
                reached = further
            for end, own in reached.items():
                total[end] += own
        return total

    return inside
