"""Text as token ids and token ids as text: the marks, the rules, and the vocabulary.

Words are in small letters, with their inner apostrophes, and every other mark is a token;
characters are taken as they are, white space as one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt16

from vae_jax.data.idx import DataError

LEVELS = ("words", "characters")
MARKS = ("<pad>", "<eos>", "<unk>")
PAD, END, UNKNOWN = range(len(MARKS))

MAX_LENGTH = {"words": 32, "characters": 128}
"""The longest sentence of each level, `<eos>` included, where none is given."""

# A word with its inner apostrophes, or any one mark.
_TOKEN = r"<unk>|[^\W_]+(?:['’][^\W_]+)*|\S"
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}…%-")
_NO_SPACE_AFTER = frozenset("([{'’-")
_MOST_WORDS = 2**16 - len(MARKS)


class TextRules(NamedTuple):
    """How text becomes tokens.

    Attributes:
        level: one of `LEVELS`.
        max_length: tokens of the longest sentence, `<eos>` included; None stands for that of
            `MAX_LENGTH`.
        max_words: the most frequent tokens of the training sentences that become words.
        min_count: how often a token must stand there to become a word; from 2 on `<unk>`
            occurs in training.
        strict: refuse a sentence that is too long, rather than truncate it.
    """

    level: str = "words"
    max_length: int | None = None
    max_words: int = 10_000
    min_count: int = 2
    strict: bool = False


DEFAULT_RULES = TextRules()


def check_rules(rules: TextRules) -> None:
    """Refuse rules that are out of their range.

    Args:
        rules: how text becomes tokens.

    Raises:
        DataError: if one of them is out of its range.
    """
    if rules.level not in LEVELS:
        raise DataError(f"level {rules.level!r}: not one of {', '.join(LEVELS)}")
    if rules.max_length is not None and rules.max_length < 2:
        raise DataError(f"max_length {rules.max_length}: at least 2, a token and <eos>")
    if not 2 <= rules.max_words <= _MOST_WORDS:
        raise DataError(f"max_words {rules.max_words}: not from 2 to {_MOST_WORDS:,}")
    if rules.min_count < 1:
        raise DataError(f"min_count {rules.min_count}: at least 1")


def tokenizer(level: str) -> Callable[[str], list[str]]:
    """Build the function that splits a text into tokens.

    Args:
        level: one of `LEVELS`.

    Returns:
        The function.

    Example:
        >>> tokenizer("words")("Is't a verdict?")
        ["is't", 'a', 'verdict', '?']
    """
    from sklearn.feature_extraction.text import CountVectorizer

    if level == "words":
        return CountVectorizer(token_pattern=_TOKEN).build_analyzer()
    characters_of = CountVectorizer(analyzer="char", lowercase=False).build_analyzer()
    return lambda text: characters_of(" ".join(text.split()))


def join(tokens: Sequence[str]) -> str:
    """Write words and marks as text.

    Args:
        tokens: the words and marks.

    Returns:
        The text, without spaces where none belongs.

    Example:
        >>> join(["away", ",", "away", "!"])
        'away, away!'
    """
    text, before = "", "("
    for token in tokens:
        tight = token in _NO_SPACE_BEFORE or before in _NO_SPACE_AFTER
        text += token if tight else " " + token
        before = token
    return text


def vocabulary_of(sentences: Sequence[Sequence[str]], rules: TextRules) -> tuple[str, ...]:
    """Choose the vocabulary of some sentences.

    Args:
        sentences: the tokens of each.
        rules: how many words there may be, and how often each must occur.

    Returns:
        The token of each id: `MARKS`, then words by falling frequency, those of the same
        frequency in alphabetical order.

    Example:
        >>> vocabulary_of([["b", "a"], ["c", "b"]], TextRules(min_count=1, max_words=2))
        ('<pad>', '<eos>', '<unk>', 'b', 'a')
    """
    # Not `max_features` of scikit-learn: it breaks ties by chance, and counts documents.
    counts = Counter(token for sentence in sentences for token in sentence)
    del counts[MARKS[UNKNOWN]]
    often = sorted((-count, token) for token, count in counts.items() if count >= rules.min_count)
    return (*MARKS, *(token for _, token in often[: rules.max_words]))


def pack(
    sentences: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int
) -> UInt16[np.ndarray, "n length"]:
    """Write the ids of sentences as rows of one length.

    Args:
        sentences: the tokens of each, fewer than `length`.
        vocabulary: the token of each id.
        length: tokens of a row, `<eos>` included.

    Returns:
        Token ids of each sentence, then `<eos>`, then `<pad>`.

    Example:
        >>> pack([["the", "cat"]], [*MARKS, "the"], 4)
        array([[3, 2, 1, 0]], dtype=uint16)
    """
    id_of = {token: i for i, token in enumerate(vocabulary)}
    ids = np.full((len(sentences), length), PAD, np.uint16)
    for row, tokens in zip(ids, sentences, strict=True):
        row[: len(tokens)] = [id_of.get(token, UNKNOWN) for token in tokens]
        row[len(tokens)] = END
    return ids


def encode(
    texts: Sequence[str], vocabulary: Sequence[str], level: str, length: int
) -> UInt16[np.ndarray, "n length"]:
    """Turn sentences of a user's into token ids.

    Args:
        texts: the sentences.
        vocabulary: the token of each id, as in `Sentences`.
        level: one of `LEVELS`.
        length: tokens of a row, `<eos>` included.

    Returns:
        Token ids, as in `Sentences`.

    Raises:
        DataError: if a sentence is empty, has no word in the vocabulary, or is too long.

    Example:
        >>> encode(["The cat!"], [*MARKS, "!", "the"], "words", 5)
        array([[4, 2, 3, 1, 0]], dtype=uint16)
    """
    tokens_of, known = tokenizer(level), set(vocabulary[len(MARKS) :])
    sentences = [tokens_of(text) for text in texts]
    for text, tokens in zip(texts, sentences, strict=True):
        if not tokens:
            raise DataError(f"sentence {text!r} is empty")
        if known.isdisjoint(tokens):
            raise DataError(f"sentence {text!r}: none of its {level} is in the vocabulary")
        if len(tokens) >= length:
            raise DataError(
                f"sentence {text!r}: {len(tokens)} {level} and <eos>, but at most {length} fit"
            )
    return pack(sentences, vocabulary, length)


def text_of(ids: Integer[np.ndarray, " length"], vocabulary: Sequence[str], level: str) -> str:
    """Write token ids as text, up to the first `<eos>` or `<pad>`.

    At level "words" `encode` turns the text of an encoded sentence into the same ids again.

    Args:
        ids: the tokens of one sentence.
        vocabulary: the token of each id, as in `Sentences`.
        level: one of `LEVELS`.

    Returns:
        The sentence, without spaces where none belongs, as before a full stop.

    Example:
        >>> text_of(np.array([4, 2, 3, 1, 0]), [*MARKS, "!", "the"], "words")
        'the <unk>!'
    """
    written: Iterator[int] = takewhile(lambda i: i not in (PAD, END), ids.tolist())
    tokens = [vocabulary[i] for i in written]
    return "".join(tokens) if level == "characters" else join(tokens)
