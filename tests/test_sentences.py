"""Text as token ids: the tokens, the two data sets, the user's file, and lengths."""

import functools
import hashlib
import http.server
import itertools
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_jax import types
from vae_jax.data import (
    DataError,
    TextRules,
    buckets,
    encode,
    grammar,
    lengths_of,
    load_sentences,
    read_text_file,
    sentences,
    text_of,
)
from vae_jax.data.download import UnavailableError
from vae_jax.data.sentences import KINDS, SHAKESPEARE
from vae_jax.data.tokens import END, MARKS, PAD, UNKNOWN, tokenizer

REAL = Path(os.environ.get("VAE_JAX_DATA") or Path(__file__).parents[2] / "shared" / "data")
needs_shakespeare = pytest.mark.skipif(
    not (REAL / SHAKESPEARE).is_file(), reason=f"no {SHAKESPEARE} in the data folder"
)
EVERY_TOKEN = TextRules(min_count=1)


def error_of(call) -> str:
    """The message of the DataError that a call must raise: one line."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.fixture
def read(tmp_path):
    """Read a text as a file, `text.txt`."""
    path = tmp_path / "text.txt"

    def call(text: str | bytes, **rules):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_text_file(path, EVERY_TOKEN._replace(**rules))

    return call


# Tokens and text


def test_the_marks_are_those_of_the_models():
    assert (PAD, END, UNKNOWN) == (types.PAD, types.END, types.UNKNOWN)
    assert MARKS[END] == "<eos>"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("We know't, DON’T!", ["we", "know't", ",", "don’t", "!"]),
        ("'Tis soft-headed--", ["'", "tis", "soft", "-", "headed", "-", "-"]),
        ('"No?" (3.14)', ['"', "no", "?", '"', "(", "3", ".", "14", ")"]),
        ("the <UNK> of snake_case", ["the", "<unk>", "of", "snake", "_", "case"]),
        ("Ça naît où ? 😀", ["ça", "naît", "où", "?", "😀"]),
    ],
)
def test_inner_apostrophes_stay_and_every_mark_is_a_token(read, text, tokens):
    data = read(f"{text}\nlast")
    known = [UNKNOWN if token == "<unk>" else data.vocabulary.index(token) for token in tokens]
    assert data.train[0].tolist() == [*known, END]


@pytest.mark.parametrize(
    "text",
    [
        "we are accounted poor citizens, the patricians good.",
        "first: is't a verdict? away, away!",
        "what he hath done 'twas soft-conscienced--to please his mother (and so on);",
    ],
)
def test_text_has_no_space_before_punctuation(read, text):
    data = read(f"{text}\nlast")
    assert text_of(data.train[0], data.vocabulary, "words") == text


LINES = st.text(st.sampled_from("aéB3'’ -_.,!?(<>\"\u0301İΣ"), min_size=1, max_size=20)


@given(st.lists(st.one_of(LINES, st.text(max_size=20)), min_size=1, max_size=3))
def test_what_is_written_encodes_to_the_same_ids(texts):
    tokens_of = tokenizer("words")
    # Some tokens are left out, so that there are unknown ones as well.
    words = sorted({token for text in texts for token in tokens_of(text)} - {"<unk>"})[:12]
    vocabulary = [*MARKS, *words]
    known = [text for text in texts if set(words) & set(tokens_of(text))]
    ids = encode(known, vocabulary, "words", 50)
    for row in ids:
        again = encode([text_of(row, vocabulary, "words")], vocabulary, "words", 50)
        np.testing.assert_array_equal(again[0], row)


@given(st.text(min_size=1, max_size=20).filter(str.strip))
def test_characters_come_back_with_single_spaces(text):
    vocabulary = [*MARKS, *sorted({*text, " "})]
    (row,) = encode([text], vocabulary, "characters", 50)
    assert text_of(row, vocabulary, "characters") == " ".join(text.split())


def test_a_sentence_ends_at_its_first_end():
    vocabulary = [*MARKS, "a", "b"]
    assert text_of(np.array([3, END, 4, END, PAD]), vocabulary, "words") == "a"
    assert text_of(np.array([3, 4]), vocabulary, "characters") == "ab"
    assert text_of(np.array([END]), vocabulary, "words") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" \t", r"sentence ' \\t' is empty"),
        ("<unk> dogs, cats", "'<unk> dogs, cats': none of its words is in the vocabulary"),
        ("the the the the", "'the the the the': 4 words and <eos>, but at most 4 fit"),
    ],
)
def test_a_users_sentence_that_tells_nothing_is_refused(text, said):
    assert re.search(said, error_of(lambda: encode(["the", text], [*MARKS, "the"], "words", 4)))


# A file of the user's


def test_ids_follow_frequency_and_then_the_alphabet(read):
    data = read("b c a\nb, c, c\nd\nlast")
    assert data.vocabulary == (*MARKS, "c", ",", "b", "a", "d")
    expected = [[5, 3, 6, 1, 0, 0], [5, 4, 3, 4, 3, 1], [7, 1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(data.train, np.array(expected, np.uint16), strict=True)
    np.testing.assert_array_equal(data.test, np.array([[2, 1, 0, 0, 0, 0]], np.uint16))
    assert (data.name, data.level, data.entropy) == ("text", "words", None)


def test_ids_are_counted_from_the_training_lines_alone(read):
    text = "one two\n" * 17 + "three\n" + "one three three\nfour one two\n"
    data = read(text)
    assert data.vocabulary == (*MARKS, "one", "two", "three")
    assert (len(data.train), len(data.test)) == (18, 2)
    assert text_of(data.test[1], data.vocabulary, "words") == "<unk> one two"
    assert data.unknown_share == pytest.approx(1 / 6)
    assert data.sha256 == {"text.txt": hashlib.sha256(text.encode()).hexdigest()}


def test_rare_words_are_unknown(read):
    text = "a b c\na b\na d <unk> <unk>\nlast"
    assert read(text, min_count=2).vocabulary == (*MARKS, "a", "b")
    assert read(text, max_words=3).vocabulary == (*MARKS, "a", "b", "c")


def test_what_is_cut_off_left_out_and_repeated_is_counted(read):
    text = "a b\na b a b a\na b\nx\nx y\n\na a b\n" + "b\n" * 13 + "b\nx x x x x x\n"
    data = read(text, min_count=3, max_length=4)
    assert data.vocabulary == (*MARKS, "b", "a")
    assert (data.truncated, data.dropped, data.repeated) == (2, 2, 1)
    assert [text_of(row, data.vocabulary, "words") for row in data.train[:4]] == [
        "a b",
        "a b a",
        "a b",
        "a a b",
    ]
    assert len(data.train) == len(data.train_kinds) == 17
    # A test sentence is never left out: that would make the test easier.
    assert text_of(data.test[1], data.vocabulary, "words") == "<unk> <unk> <unk>"


def test_a_line_too_long_can_be_refused(read):
    said = error_of(lambda: read("a b\n\na b c\na\nb", strict=True, max_length=3))
    assert said.endswith("text.txt: line 3 has 3 words and <eos>, but at most 3 are allowed")
    assert read("a b\n\na b c\na\nb", strict=True, max_length=4).truncated == 0


def test_the_kind_is_told_by_the_last_mark(read):
    lines = ["A dog.", "Is it?", 'He said, "Run!"', "and then,", "(It was.)", "?!", '"', "last"]
    data = read("\n".join(lines))
    names = [data.kind_names[kind] for kind in (*data.train_kinds, *data.test_kinds)]
    told = ["statement", "question", "exclamation", "open", "statement", "exclamation"]
    assert names == [*told, "open", "open"]


def test_kinds_stay_with_their_sentences_when_others_are_left_out(read):
    data = read("z\nb b?\ny.\nb b!\nlast", max_words=2)
    assert [KINDS[kind] for kind in data.train_kinds] == ["question", "exclamation"]
    assert data.dropped == 2


def test_ends_of_lines_and_byte_order_marks_do_not_count(read):
    plain = read("one two\nthree\nfour")
    for text in (b"\xef\xbb\xbfone two\nthree\nfour\n", b"one two\r\nthree\r\rfour\r\n"):
        np.testing.assert_array_equal(read(text).train, plain.train)
        assert read(text).vocabulary == plain.vocabulary
    # An editor shows this as one line.
    assert len(read("one\u2028two\x0cthree\nfour").train) == 1


def test_characters_keep_capitals_and_single_spaces(read):
    data = read("A  dog\t.\nlast", level="characters")
    assert text_of(data.train[0], data.vocabulary, "characters") == "A dog ."
    assert data.vocabulary[:4] == (*MARKS, " ")
    assert read("ab" * 100 + "\nlast", level="characters").train.shape == (1, 128)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b" \n\t\r\n\n", "at least 2 sentences are needed, found 0"),
        (b"\xef\xbb\xbf", "at least 2 sentences are needed, found 0"),
        (b"one line\n\n", "at least 2 sentences are needed, found 1"),
        (b"caf\xe9\nlast", "not UTF-8 at byte 3"),
        ("one\ntwo".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"one\ntw\0o\n", "a NUL byte at byte 6"),
        (b"one\nONE one\nlast", "has size 1, but at least 2 words are needed (with min_count 1)"),
        (b"<unk>\n<unk>\nlast", "has size 0, but at least 2 words are needed"),
    ],
)
def test_a_file_without_sentences_is_refused(read, content, said, tmp_path):
    message = error_of(lambda: read(content))
    assert message.startswith(f"{tmp_path / 'text.txt'}: ")
    assert said in message


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "a folder, not a file" in error_of(lambda: read_text_file(tmp_path))
    assert "No such file" in error_of(lambda: read_text_file(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"level": "syllables"}, "level 'syllables': not one of words, characters"),
        ({"max_length": 1}, "max_length 1: at least 2"),
        ({"max_words": 1}, "max_words 1: not from 2 to 65,533"),
        ({"max_words": 65_534}, "max_words 65534: not from 2 to 65,533"),
        ({"min_count": 0}, "min_count 0: at least 1"),
    ],
)
def test_rules_out_of_range_are_refused(read, rules, said):
    assert error_of(lambda: read("one two\nthree", **rules)).startswith(said)
    assert error_of(lambda: load_sentences("grammar", TextRules(**rules))).startswith(said)


# The grammar


def test_sentences_of_the_grammar_are_drawn_anew_for_the_test():
    data = load_sentences("grammar", EVERY_TOKEN, num_train=600, num_test=200)
    again = load_sentences("grammar", EVERY_TOKEN, num_train=600, num_test=200)
    np.testing.assert_array_equal(data.train, again.train)
    assert data.sha256 == again.sha256
    assert data.entropy == pytest.approx(grammar.entropy())
    assert (data.truncated, data.dropped) == (0, 0)
    assert set(data.vocabulary[len(MARKS) :]) <= set(grammar.vocabulary())

    drawn = [grammar.sample(seed, count) for seed, count in ((0, 600), (1, 200))]
    seen = {one.words for one in drawn[0]}
    assert data.repeated == sum(one.words in seen for one in drawn[1])
    unknown = [word not in data.vocabulary for one in drawn[1] for word in one.words]
    assert data.unknown_share == pytest.approx(np.mean(unknown))
    for ids, kinds, part in zip(
        (data.train, data.test), (data.train_kinds, data.test_kinds), drawn, strict=True
    ):
        for row, kind, one in zip(ids, kinds, part, strict=True):
            words = [data.vocabulary[i] for i in row if i not in (PAD, END)]
            assert all(a in (b, "<unk>") for a, b in zip(words, one.words, strict=True))
            assert data.kind_names[kind] == one.content.kind


def test_characters_spell_the_same_sentences():
    rules = TextRules(level="characters", min_count=1)
    data = load_sentences("grammar", rules, num_train=200, num_test=20)
    texts = [text_of(row, data.vocabulary, "characters") for row in data.train]
    tokens_of = tokenizer("words")
    assert [tuple(tokens_of(text)) for text in texts] == [
        one.words for one in grammar.sample(0, 200)
    ]


def test_what_the_grammar_cannot_give_is_refused():
    assert "num_test 0: at least 1" in error_of(lambda: load_sentences("grammar", num_test=0))
    said = error_of(lambda: load_sentences("ptb"))
    assert said == "text 'ptb': not one of grammar, tinyshakespeare"
    rules = TextRules(max_length=5, strict=True)
    assert "grammar: line" in error_of(
        lambda: load_sentences("grammar", rules, num_train=20, num_test=1)
    )


# tinyshakespeare

PLAY = """First Citizen:
Speak, speak.
You answer'd:
know this:

All:
Resolved.

ROMEO:
Ay me!
"""


@pytest.fixture
def play(tmp_path, monkeypatch):
    """A folder with a short stand-in for tinyshakespeare."""
    path = tmp_path / SHAKESPEARE
    path.parent.mkdir()
    path.write_bytes(PLAY.encode())
    monkeypatch.setattr(sentences, "SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    return path


def test_speakers_are_left_out(play, monkeypatch):
    data = load_sentences("tinyshakespeare", EVERY_TOKEN, data_dir=play.parents[1])
    lines = [text_of(row, data.vocabulary, "words") for row in data.train]
    assert lines == ["speak, speak.", "you answer'd:", "know this:", "resolved."]
    assert text_of(data.test[0], data.vocabulary, "words") == "<unk> <unk> <unk>"
    assert data.kind_names[data.test_kinds[0]] == "exclamation"
    assert data.sha256 == {"tinyshakespeare.txt": sentences.SHA256}
    monkeypatch.setenv("VAE_JAX_DATA", str(play.parents[1]))
    np.testing.assert_array_equal(load_sentences("tinyshakespeare", EVERY_TOKEN).train, data.train)


def test_only_the_official_file_is_taken(play):
    play.write_text("another file\n")
    load = functools.partial(load_sentences, "tinyshakespeare", data_dir=play.parents[1])
    assert "not the official file (its SHA-256 begins with" in error_of(load)
    play.unlink()
    play.symlink_to(play.with_name("nowhere"))
    assert "No such file" in error_of(load)


def test_the_checksum_is_that_of_tensorflow_datasets():
    tfds = pytest.importorskip("tensorflow_datasets")
    ((_, info),) = (tfds.builder_cls("tiny_shakespeare").url_infos or {}).items()
    assert info.checksum == sentences.SHA256


def test_it_is_downloaded_once(play, tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(play.parent))
    cache = tmp_path / "cache"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{play.name}"
        info = UrlInfo(Size(len(PLAY)), sentences.SHA256, play.name)
        builder = SimpleNamespace(url_infos={url: info}, VERSION="1.0.0")
        monkeypatch.setattr(tfds, "builder_cls", lambda name: builder)
        first = load_sentences("tinyshakespeare", EVERY_TOKEN, cache_dir=cache)
        server.shutdown()
    again = load_sentences("tinyshakespeare", EVERY_TOKEN, cache_dir=cache)
    np.testing.assert_array_equal(first.train, again.train)
    assert "TensorFlow Datasets" in again.source
    assert [path.name for path in cache.rglob("*") if path.is_file()] == ["tinyshakespeare.txt"]


def test_without_a_network_it_says_what_was_looked_for(tmp_path, monkeypatch):
    def no_network(url: str) -> None:
        raise UnavailableError("no network: the host did not answer")

    monkeypatch.setattr("vae_jax.data.download.probe", no_network)
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    said = error_of(lambda: load_sentences("tinyshakespeare", data_dir=folder, cache_dir=cache))
    assert f"no {SHAKESPEARE} in {folder}, and no network" in said
    assert "pass --data-dir FOLDER" in said
    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    said = error_of(lambda: load_sentences("tinyshakespeare", cache_dir=cache))
    assert "no data folder is known" in said
    assert not cache.exists()


@needs_shakespeare
def test_the_real_one_has_its_lines():
    data = load_sentences("tinyshakespeare", data_dir=REAL)
    assert (len(data.train), len(data.test)) == (23_000, 2_555)
    assert text_of(data.train[1], data.vocabulary, "words") == "speak, speak."
    assert data.truncated == 0
    assert UNKNOWN in data.train
    assert 0 < data.unknown_share < 0.1


# Lengths


def rows(lengths) -> np.ndarray:
    longest = max(lengths)
    return np.array([[3] * (n - 1) + [END] + [PAD] * (longest - n) for n in lengths], np.uint16)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 4))
def test_buckets_waste_the_fewest_tokens(lengths, count):
    def cost(chosen: tuple[int, ...]) -> int:
        return np.sum(np.array(chosen)[np.searchsorted(chosen, lengths)])

    distinct = sorted(set(lengths))
    choices = [
        (*some, distinct[-1])
        for number in range(count)
        for some in itertools.combinations(distinct[:-1], number)
    ]
    found = buckets(rows(lengths), count)
    assert found in choices
    assert cost(found) == min(map(cost, choices))
    np.testing.assert_array_equal(lengths_of(rows(lengths)), lengths)


def test_buckets_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="0 buckets of 2 sentences"):
        buckets(rows([2, 3]), 0)
    with pytest.raises(ValueError, match="3 buckets of 0 sentences"):
        buckets(np.empty((0, 4), np.uint16))
