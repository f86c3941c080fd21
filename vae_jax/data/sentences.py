"""Sentences as rows of token ids: an embedded grammar, tinyshakespeare, and the user's own file.

The vocabulary is that of the training sentences alone; every other word is `<unk>`.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt16

from vae_jax.data import grammar
from vae_jax.data.download import UnavailableError, default_cache_dir, download_official
from vae_jax.data.files import check_official, read_bytes
from vae_jax.data.grammar_words import KINDS as GRAMMAR_KINDS
from vae_jax.data.idx import DataError
from vae_jax.data.images import find_data_dir
from vae_jax.data.tokens import (
    DEFAULT_RULES,
    END,
    MARKS,
    MAX_LENGTH,
    UNKNOWN,
    TextRules,
    check_rules,
    join,
    pack,
    tokenizer,
    vocabulary_of,
)

TEXTS = ("grammar", "tinyshakespeare")
KINDS = ("statement", "question", "exclamation", "open")
"""What a line of a text is by its last mark: `.`, `?`, `!` or another."""

SHAKESPEARE = "text/tinyshakespeare.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
"""Checksum of the official tinyshakespeare, as TensorFlow Datasets has it."""

_KIND_OF = {".": "statement", "?": "question", "!": "exclamation"}
_TRAIN_SEED, _TEST_SEED = 0, 1


class Sentences(NamedTuple):
    """Sentences, and what is needed to say which ones they were.

    Attributes:
        name: one of `TEXTS`, or the name of the file without its ending.
        train: token ids of each sentence, then `<eos>`, then `<pad>`.
        test: as `train`.
        vocabulary: the token of each id: `MARKS`, then words by falling frequency, those of
            the same frequency in alphabetical order.
        level: one of `LEVELS`.
        train_kinds: for each sentence, a place in `kind_names`.
        test_kinds: as `train_kinds`.
        kind_names: what the sentences are told apart by.
        entropy: of the grammar, in nats a sentence as it was drawn; None for other text.
        truncated: how many sentences of both parts were cut off at the longest length.
        dropped: how many training sentences were left out for having no word in the vocabulary.
        repeated: how many test sentences are also in the training part.
        unknown_share: share of the test tokens that are `<unk>`; `<eos>` does not count.
        source: where the sentences come from.
        sha256: checksum of the file, or of each array for "grammar".
    """

    name: str
    train: UInt16[np.ndarray, "train length"]
    test: UInt16[np.ndarray, "test length"]
    vocabulary: tuple[str, ...]
    level: str
    train_kinds: Int[np.ndarray, " train"]
    test_kinds: Int[np.ndarray, " test"]
    kind_names: tuple[str, ...]
    entropy: float | None
    truncated: int
    dropped: int
    repeated: int
    unknown_share: float
    source: str
    sha256: dict[str, str]


def load_sentences(
    dataset: str,
    rules: TextRules = DEFAULT_RULES,
    *,
    num_train: int = 40_000,
    num_test: int = 4_000,
    data_dir: Path | None = None,
    cache_dir: Path | None = None,
) -> Sentences:
    """Load a data set of sentences.

    A sentence of "tinyshakespeare" is a line; the names of the speakers ("ROMEO:", a first
    line after a blank one) are left out. The last tenth of the lines is the test part.

    Args:
        dataset: one of `TEXTS`.
        rules: how text becomes tokens.
        num_train: sentences drawn from the grammar to train on.
        num_test: sentences drawn from the grammar, by another seed, to test on.
        data_dir: folder that may hold `text/tinyshakespeare.txt`; None stands for the
            environment variable VAE_JAX_DATA, if it is set. Without that file it is downloaded.
        cache_dir: where the downloaded file is kept, or None for `default_cache_dir()`.

    Returns:
        The sentences.

    Raises:
        DataError: if an argument is out of its range, data_dir is no folder, the file can
            neither be found nor downloaded or is not the official one, or a sentence is too
            long and the rules are strict.

    Example:
        >>> from vae_jax.data import text_of
        >>> data = load_sentences("grammar", num_train=1000, num_test=10)
        >>> text_of(data.test[0], data.vocabulary, data.level)
        'every florist grew this wild flower alone.'
        >>> data.kind_names[data.test_kinds[0]]
        'statement'
    """
    check_rules(rules)
    if dataset not in TEXTS:
        raise DataError(f"text {dataset!r}: not one of {', '.join(TEXTS)}")
    if dataset == "grammar":
        return _load_grammar(rules, num_train, num_test)
    path, source = _find_shakespeare(data_dir, cache_dir)
    check_official(path, SHA256)
    lines = _lines(read_bytes(path))
    spoken = [
        line
        for before, line in zip([_Line(0, ""), *lines[:-1]], lines, strict=True)
        if before.text or not line.text.endswith(":")
    ]
    parts = _split(_not_blank(spoken))
    return _tokenize(dataset, str(path), parts, KINDS, rules)._replace(
        source=source, sha256={path.name: SHA256}
    )


def read_text_file(path: Path, rules: TextRules = DEFAULT_RULES) -> Sentences:
    """Read a text file: UTF-8, one sentence a line, blank lines passed over.

    The last tenth of the sentences, and at least one, is the test part.

    Args:
        path: the file.
        rules: how text becomes tokens.

    Returns:
        The sentences.

    Raises:
        DataError: if a rule is out of its range, the file cannot be read or is no text, it has
            fewer than two sentences or two words, or a sentence is too long and the rules are
            strict.
    """
    check_rules(rules)
    content = read_bytes(path)
    lines = _not_blank(_lines(content))
    if len(lines) < 2:
        raise DataError(f"{path}: at least 2 sentences are needed, found {len(lines)}")
    sentences = _tokenize(path.stem, str(path), _split(lines), KINDS, rules)
    return sentences._replace(
        source=f"{path.name}, {len(lines):,} sentences",
        sha256={path.name: hashlib.sha256(content).hexdigest()},
    )


class _Line(NamedTuple):
    """A line of a text, and which one it is, counted from 1."""

    number: int
    text: str
    kind: int = 0


def _load_grammar(rules: TextRules, num_train: int, num_test: int) -> Sentences:
    for name, value in (("num_train", num_train), ("num_test", num_test)):
        if value < 1:
            raise DataError(f"{name} {value}: at least 1 sentence is needed")
    train, test = (
        [
            _Line(i, join(drawn.words), GRAMMAR_KINDS.index(drawn.content.kind))
            for i, drawn in enumerate(grammar.sample(seed, count), start=1)
        ]
        for seed, count in ((_TRAIN_SEED, num_train), (_TEST_SEED, num_test))
    )
    sentences = _tokenize("grammar", "grammar", (train, test), GRAMMAR_KINDS, rules)
    return sentences._replace(
        entropy=grammar.entropy(),
        source=f"embedded grammar, {num_train:,} + {num_test:,} sentences",
        sha256={
            part: hashlib.sha256(array.tobytes()).hexdigest()
            for part, array in (("train", sentences.train), ("test", sentences.test))
        },
    )


def _tokenize(
    name: str,
    where: str,
    parts: tuple[list[_Line], list[_Line]],
    kind_names: tuple[str, ...],
    rules: TextRules,
) -> Sentences:
    """The sentences of both parts; where they come from is left to the caller to fill in."""
    longest = rules.max_length or MAX_LENGTH[rules.level]
    tokens_of = tokenizer(rules.level)
    truncated = 0
    tokens: tuple[list[list[str]], list[list[str]]] = ([], [])
    for part, lines in zip(tokens, parts, strict=True):
        for line in lines:
            sentence = tokens_of(line.text)
            if len(sentence) >= longest:
                if rules.strict:
                    raise DataError(
                        f"{where}: line {line.number} has {len(sentence)} {rules.level} and "
                        f"<eos>, but at most {longest} are allowed"
                    )
                truncated += 1
            part.append(sentence[: longest - 1])
    train, test = tokens
    vocabulary = vocabulary_of(train, rules)
    known = set(vocabulary[len(MARKS) :])
    if len(known) < 2:
        raise DataError(
            f"{where}: the vocabulary of the training sentences has size {len(known)}, but at "
            f"least 2 {rules.level} are needed (with min_count {rules.min_count})"
        )
    is_known = np.array([not known.isdisjoint(sentence) for sentence in train])
    train = [sentence for sentence, keep in zip(train, is_known, strict=True) if keep]
    length = 1 + max(map(len, train + test))
    train_ids, test_ids = pack(train, vocabulary, length), pack(test, vocabulary, length)
    train_kinds, test_kinds = (np.array([line.kind for line in part], np.int64) for part in parts)
    seen = {row.tobytes() for row in train_ids}
    return Sentences(
        name,
        train_ids,
        test_ids,
        vocabulary,
        rules.level,
        train_kinds[is_known],
        test_kinds,
        kind_names,
        entropy=None,
        truncated=truncated,
        dropped=int(np.sum(~is_known)),
        repeated=sum(row.tobytes() in seen for row in test_ids),
        unknown_share=float(np.sum(test_ids == UNKNOWN) / np.sum(test_ids > END)),
        source="",
        sha256={},
    )


def _lines(content: bytes) -> list[_Line]:
    # An editor may put a byte order mark first.
    text = content.decode().removeprefix("\ufeff")
    # Not `splitlines`: an editor does not count the rarer separators as ends of lines.
    lines = enumerate(map(str.strip, io.StringIO(text, newline=None)), start=1)
    return [_Line(number, line, _kind(line)) for number, line in lines]


def _kind(line: str) -> int:
    last = line.rstrip("\"'”’)]»")[-1:]
    return KINDS.index(_KIND_OF.get(last, "open"))


def _not_blank(lines: list[_Line]) -> list[_Line]:
    return [line for line in lines if line.text]


def _split(lines: list[_Line]) -> tuple[list[_Line], list[_Line]]:
    num_test = max(1, len(lines) // 10)
    return lines[:-num_test], lines[-num_test:]


def _find_shakespeare(data_dir: Path | None, cache_dir: Path | None) -> tuple[Path, str]:
    """The file, which is downloaded if there is none, and the door that it came through."""
    folder = find_data_dir(data_dir)
    # lexists: a link that points nowhere is a damaged data set, not an absent one.
    if folder is not None and os.path.lexists(folder / SHAKESPEARE):
        return folder / SHAKESPEARE, f"official file, {SHAKESPEARE} of the data folder"
    cache = default_cache_dir() if cache_dir is None else Path(os.path.expanduser(cache_dir))
    path = cache / SHAKESPEARE
    if not path.exists():
        try:
            download_official("tiny_shakespeare", path)
        except UnavailableError as error:
            where = "no data folder is known" if folder is None else f"no {SHAKESPEARE} in {folder}"
            raise DataError(
                f"tinyshakespeare: {where}, and {error}; put it in FOLDER/{SHAKESPEARE} and pass "
                f"--data-dir FOLDER"
            ) from error
    return path, "TensorFlow Datasets, tiny_shakespeare"
