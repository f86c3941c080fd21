"""A model of sentences against loops of its own steps, and against all the sentences there are."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.model import elbo_terms
from vae_jax.text import TextVAE, make_text_vae, scale_z, write
from vae_jax.types import END, PAD, UNKNOWN

# Every test compiles a program that runs for a moment.
pytestmark = pytest.mark.usefixtures("compiled_quickly")

VOCABULARY, LENGTH = 5, 4
SENTENCE = (4, 3, 4, 1)


class Small(NamedTuple):
    """A model with what it is made of, compiled once."""

    model: TextVAE
    params: dict
    encode: Any
    theta_of: Any
    log_lik: Any
    first: Any
    advance: Any


@functools.cache
def small(vocabulary: int = VOCABULARY) -> Small:
    """Weights and biases of order 1, so that every one of them matters."""
    model = make_text_vae(vocabulary, LENGTH, embedding=3, hidden=4, latent_dim=2)
    shapes = jax.eval_shape(model.vae.init, jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.float32(rng.normal(size=leaf.shape)), shapes)
    vae = model.vae
    functions = (vae.encode, vae.theta_of, vae.log_lik, model.first, model.advance)
    return Small(model, params, *map(jax.jit, functions))


def log_softmax(logits: np.ndarray, without: tuple[int, ...] = (PAD,)) -> np.ndarray:
    """Over the tokens but some, in float64."""
    logits = np.array(logits, np.float64)
    logits[list(without)] = -np.inf
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def sentence(*words: float, length: int = LENGTH) -> jax.Array:
    return jnp.zeros(length).at[: len(words)].set(jnp.array(words, float))


@pytest.fixture
def z() -> jax.Array:
    return jnp.array([0.8, -1.3])


def test_no_decoder_reads_the_word_that_it_is_to_give(z):
    """Another word at a place leaves the logits up to there, and changes those behind it."""
    _, params, _, decode, *_ = small()
    before = decode(params, z, sentence(*SENTENCE))
    for place, word in itertools.product(range(LENGTH), (2, 3, 4)):
        other = (*SENTENCE[:place], word, *SENTENCE[place + 1 :])
        after = decode(params, z, sentence(*other))
        np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
        changed = np.any(np.asarray(after != before), axis=1)
        assert np.all(changed[place + 1 :] == (word != SENTENCE[place]))


@pytest.mark.parametrize("words", [(1,), (3, 1), (4, 2, 1), SENTENCE, (3, 4, 4, 3)])
def test_the_likelihood_of_a_sentence_is_the_sum_over_its_words(words, z):
    """Step by step, each word by the logits that the decoder gives before it reads it."""
    one, total, word = small(), 0.0, PAD
    h = one.first(one.params, z)
    for following in words:
        h, logits = one.advance(one.params, h, z, jnp.array(word))
        total += log_softmax(logits)[following]
        word = following
    found = one.log_lik(one.params, z, sentence(*words))
    # Four log-probabilities of order 1, in float32.
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_the_probabilities_of_all_sentences_sum_to_one(z):
    """Those that end, and those that are cut off; every one is counted once."""
    words = range(UNKNOWN, VOCABULARY)
    ended = [(*some, END) for k in range(LENGTH) for some in itertools.product(words, repeat=k)]
    cut_off = list(itertools.product(words, repeat=LENGTH))
    assert (len(ended), len(cut_off)) == (1 + 3 + 9 + 27, 81)
    xs = jnp.stack([sentence(*some) for some in ended + cut_off])
    log_liks = jax.jit(jax.vmap(small().log_lik, (None, None, 0)))(small().params, z, xs)
    p = np.exp(np.asarray(log_liks, np.float64))
    # Neither part is next to nothing; each p has the relative rounding of a few float32 sums.
    assert 0.05 < p[: len(ended)].sum() < 0.95
    assert p.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("length", [3, 9])
def test_a_sentence_means_the_same_in_an_array_of_another_length(length, z):
    """Its posterior, and the terms of the bound that a training step takes of it."""
    one, words = small(), (3, 4, 1)

    @jax.jit
    def of(x: jax.Array) -> Any:
        terms = elbo_terms(jax.random.key(3), one.model.vae, one.params, x)
        return one.model.vae.encode(one.params, x), terms, one.log_lik(one.params, terms.z, x)

    found, expected = of(sentence(*words, length=length)), of(sentence(*words))
    # The same sums in another program: a few roundings of float32.
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(same, found, expected)
    _, terms, log_lik = found
    same(terms.log_lik, log_lik)


def test_a_hidden_word_is_hidden_from_the_decoder_alone(z):
    """It reads an unknown word; the encoder reads the word, and it is still to be given."""
    _, params, encode, decode, log_lik, *_ = small()
    x = sentence(*SENTENCE)
    for places in ((0,), (1,), (0, 2), (0, 1, 2, 3)):
        is_hidden = np.isin(np.arange(LENGTH), places)
        hidden, unknown = jnp.where(is_hidden, -x, x), jnp.where(is_hidden, UNKNOWN, x)
        jax.tree.map(np.testing.assert_array_equal, encode(params, hidden), encode(params, x))
        theta = decode(params, z, unknown)
        np.testing.assert_array_equal(decode(params, z, hidden), theta)
        log_probs = [log_softmax(row)[word] for row, word in zip(theta, SENTENCE, strict=True)]
        found = log_lik(params, z, hidden)
        assert float(found) == pytest.approx(sum(log_probs), rel=1e-5)
        assert abs(float(found - log_lik(params, z, x))) > 1e-3


def greedy(vocabulary: int, z: jax.Array, length: int, never: tuple[int, ...]) -> list[int]:
    """The most probable word after each other, without an end."""
    one, words = small(vocabulary), [PAD]
    h = one.first(one.params, z)
    for _ in range(length):
        h, logits = one.advance(one.params, h, z, jnp.array(words[-1]))
        words.append(int(np.argmax(log_softmax(logits, never))))
    return words[1:]


def several(n: int = 12) -> jax.Array:
    return jax.random.normal(jax.random.key(5), (n, 2))


def test_decoding_reads_its_own_most_probable_words():
    one = small(9)
    thetas = jax.jit(jax.vmap(one.model.vae.decode, (None, 0)))(one.params, several())
    words = 1 + np.argmax(thetas[..., 1:], axis=-1)
    for z, theta, own in zip(several(), thetas, words, strict=True):
        assert own.tolist() == greedy(9, z, LENGTH, (PAD,))
        # What it would have given had it been shown them; in another program, so rounded anew.
        given = one.theta_of(one.params, z, jnp.array(own, float))
        np.testing.assert_allclose(theta, given, rtol=1e-5, atol=1e-5)
    assert len(np.unique(words, axis=0)) > 2


# One program for each length, and for each number of words that are drawn from.
@functools.cache
def writer(vocabulary: int, length: int, top_k: int | None) -> Any:
    model = small(vocabulary).model

    def of_one(key: jax.Array, params: dict, z: jax.Array, temperature: jax.Array) -> jax.Array:
        return write(key, model, params, z, length=length, temperature=temperature, top_k=top_k)

    return jax.jit(jax.vmap(of_one, (0, None, 0, None)))


def written(
    zs: jax.Array,
    length: int,
    temperature: float = 1.0,
    *,
    top_k: int | None = None,
    vocabulary: int = VOCABULARY,
    params: dict | None = None,
    seed: int = 0,
) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), len(zs))
    own = small(vocabulary).params if params is None else params
    return np.asarray(writer(vocabulary, length, top_k)(keys, own, zs, jnp.array(temperature)))


@pytest.mark.parametrize(("temperature", "top_k"), [(0.0, None), (1.0, 1)])
def test_writing_without_chance_takes_the_most_probable_words(temperature, top_k):
    found = written(several(), 7, temperature, top_k=top_k, vocabulary=9)
    for z, words in zip(several(), found, strict=True):
        expected = greedy(9, z, 7, (PAD, UNKNOWN))
        if END in expected:
            end = expected.index(END) + 1
            expected[end:] = [PAD] * (7 - end)
        assert words.tolist() == expected
    assert len(np.unique(found, axis=0)) > 2


def test_no_word_is_so_near_that_greedy_writing_takes_it():
    """Two words whose logits are neighbours in float32, in a model that knows nothing else."""
    params = jax.tree.map(jnp.zeros_like, small().params)
    near = jnp.array([0.0, 0.0, 0.0, 1.0, np.nextafter(np.float32(1), np.float32(2))])
    params["decoder"]["params"]["out"]["bias"] = near
    assert np.all(written(jnp.zeros((200, 2)), 8, 0.0, params=params) == 4)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (2.0, None), (1.0, 2), (0.5, 2)])
def test_words_are_written_as_often_as_they_are_probable(temperature, top_k, z):
    """Two words, the second by what the first one was."""
    one, n = small(), 20_000
    pairs = written(jnp.tile(z, (n, 1)), 2, temperature, top_k=top_k)

    def probabilities(logits: jax.Array) -> np.ndarray:
        some = sorted((END, *range(UNKNOWN + 1, VOCABULARY)), key=lambda word: -logits[word])
        never = tuple(set(range(VOCABULARY)) - set(some[:top_k]))
        return np.exp(log_softmax(np.asarray(logits) / temperature, never))

    h, logits = one.advance(one.params, one.first(one.params, z), z, jnp.array(PAD))
    first = probabilities(logits)
    expected = np.zeros((VOCABULARY, VOCABULARY))
    expected[END, PAD] = first[END]
    for word in range(UNKNOWN + 1, VOCABULARY):
        _, logits = one.advance(one.params, h, z, jnp.array(word))
        expected[word] = first[word] * probabilities(logits)
    assert expected.sum() == pytest.approx(1)
    counts = np.zeros_like(expected)
    np.add.at(counts, tuple(pairs.T), 1)
    # Four standard errors, and never a pair that is impossible.
    error = np.sqrt(expected * (1 - expected) / n)
    assert np.all(abs(counts / n - expected) <= 4 * error)


@pytest.mark.parametrize("temperature", [20.0, np.inf])
def test_after_the_end_there_is_nothing_and_before_it_there_are_words(temperature):
    """At a temperature at which every word is drawn."""
    found = written(several(500), 8, temperature)
    is_end = found == END
    over = np.cumsum(is_end, axis=1) - is_end > 0
    assert np.all(found[over] == PAD)
    assert set(np.unique(found[~over])) == {END, *range(UNKNOWN + 1, VOCABULARY)}
    assert 0 < is_end.any(axis=1).sum() < len(found)


def test_the_same_key_writes_the_same_sentences():
    found = written(several(500), 8, 2.0)
    np.testing.assert_array_equal(found, written(several(500), 8, 2.0))
    assert np.any(found != written(several(500), 8, 2.0, seed=1))


def test_without_its_weights_of_z_the_decoder_does_not_depend_on_z(z):
    _, params, _, _, log_lik, *_ = small()
    x, blind = sentence(*SENTENCE), scale_z(params, 0.0)
    assert log_lik(blind, z, x) == log_lik(blind, -2 * z, x)
    assert abs(log_lik(params, z, x) - log_lik(params, -2 * z, x)) > 1e-2
    # A z that is zero is no z; and the factor 1 is none.
    assert log_lik(blind, z, x) == log_lik(params, 0 * z, x)
    jax.tree.map(np.testing.assert_array_equal, scale_z(params, 1.0), params)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size 1: at least 3 is needed"),
        ({"length": 0}, "length 0: at least 1 is needed"),
        ({"embedding": 0}, "embedding 0: at least 1 is needed"),
        ({"hidden": -1}, "hidden -1: at least 1 is needed"),
        ({"latent_dim": 0}, "latent_dim 0: at least 1 is needed"),
    ],
)
def test_a_model_of_nothing_is_refused(settings, line):
    sizes = {"vocabulary_size": 5, "length": 4, "embedding": 3, "hidden": 4, "latent_dim": 2}
    with pytest.raises(ValueError, match=line):
        make_text_vae(**(sizes | settings))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"length": 0}, "length 0: at least 1 is needed"),
        ({"top_k": 0}, "top_k 0: at least 1 is needed"),
        ({"top_k": -2}, "top_k -2: at least 1 is needed"),
    ],
)
def test_writing_nothing_is_refused(settings, line, z):
    one, key = small(), jax.random.key(0)
    with pytest.raises(ValueError, match=line):
        write(key, one.model, one.params, z, **({"length": LENGTH} | settings))
