"""The numbers of one model of sentences: what they cost it, what z carries, what it writes."""

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Num, UInt16

from experiments._importance import summed_up
from experiments._noise import DRAW_SEED, EVALUATION_SEED, SURGERY_SEED
from vae_jax.data import Sentences, lengths_of
from vae_jax.data.grammar import accepts, log_prob
from vae_jax.evaluation import active_units, elbo_surgery, encode_all, estimate_log_likelihood
from vae_jax.gaussian import reparameterize
from vae_jax.preprocess import tokens_as_stored
from vae_jax.text import TextVAE, write
from vae_jax.types import PAD, UNKNOWN, Normal, Params, PRNGKey

WRITTEN = 1000  # sentences that each model writes, to be judged
SURGERY = 2000  # held-out sentences behind the mutual information


class TextMeasures(NamedTuple):
    """Measures models of one text, one after the other.

    Attributes:
        model: all of them.
        text: what they were trained on.
        num_samples: importance samples of each log p(x).
        held_out: test sentences whose log p(x) is estimated, the first ones.
    """

    model: TextVAE
    text: Sentences
    num_samples: int
    held_out: int

    @property
    def is_grammar(self) -> bool:
        """Whether the text is of the embedded grammar, in its words."""
        return self.text.entropy is not None and self.text.level == "words"

    @property
    def true_cost(self) -> float | None:
        """What the held-out sentences cost under the grammar itself, nats a sentence."""
        if not self.is_grammar or self.text.truncated:
            return None
        costs = []
        for row in self.text.test[: self.held_out]:
            costs.append(-log_prob([self.text.vocabulary[word] for word in words_of(row)]))
        mean = float(np.mean(costs))
        # A word that the training sentences lack is no word of the grammar here.
        return mean if math.isfinite(mean) else None

    def posteriors(self, params: Params, rows: UInt16[np.ndarray, "n length"]) -> Normal:
        """q(z | x) of every sentence, [n, latent]."""
        key = jax.random.key(EVALUATION_SEED)
        found = encode_all(key, self.model.vae, tokens_as_stored, params, jnp.asarray(rows))
        assert isinstance(found, Normal)
        return found

    def written(
        self,
        key: PRNGKey,
        params: Params,
        zs: Float[Array, "n latent"],
        temperature: float,
        top_k: int | None = None,
    ) -> Int[np.ndarray, "n length"]:
        """The sentence that the decoder writes of every z."""
        length = self.text.train.shape[1]
        return np.asarray(write_all(key, self.model, params, zs, length, temperature, top_k))

    def numbers(self, params: Params, known: Collection[tuple[int, ...]]) -> dict[str, float]:
        """Measure a model.

        Args:
            params: its parameters.
            known: the words of every training sentence.

        Returns:
            The numbers by name, in nats a sentence where they have a unit:
            those of `summed_up`, perplexity per token, mutual_information, active_units,
            accuracy_by_mean and accuracy_by_sample of reconstructions, distinct_1, distinct_2
            and greedy_new of greedy sentences, and for the grammar greedy_accepted,
            sampled_accepted and accepted_and_new.
        """
        test = self.text.test
        some = test[: self.held_out]
        estimate = estimate_log_likelihood(
            jax.random.key(EVALUATION_SEED),
            self.model.vae,
            tokens_as_stored,
            params,
            jnp.asarray(some),
            num_samples=self.num_samples,
        )
        cost = -np.sum(np.asarray(estimate.log_likelihood, np.float64))
        numbers: dict[str, Any] = {
            **summed_up(estimate),
            # A model that went astray may have one beyond all floats.
            "perplexity": np.exp(np.minimum(cost / lengths_of(some).sum(), 700)),
        }
        q = self.posteriors(params, test[:SURGERY])
        surgery = elbo_surgery(jax.random.key(SURGERY_SEED), q)
        numbers["mutual_information"] = surgery.mutual_information
        numbers["active_units"] = active_units(q)

        key_z, key_words, key_sample = jax.random.split(jax.random.key(DRAW_SEED), 3)
        sampled = jax.vmap(reparameterize)(jax.random.split(key_sample, len(q.mean)), q)
        for name, zs in (("mean", q.mean), ("sample", sampled)):
            again = self.written(key_words, params, zs, 0.0)
            numbers[f"accuracy_by_{name}"] = accuracy(test[:SURGERY], again)

        zs = jax.random.normal(key_z, (WRITTEN, self.model.vae.latent_dim))
        greedy = [words_of(row) for row in self.written(key_words, params, zs, 0.0)]
        drawn = [words_of(row) for row in self.written(key_words, params, zs, 1.0)]
        if self.is_grammar:
            vocabulary = self.text.vocabulary
            numbers["greedy_accepted"] = accepted(greedy, vocabulary)
            numbers["sampled_accepted"] = accepted(drawn, vocabulary)
            numbers["accepted_and_new"] = accepted(drawn, vocabulary, but=known)
        numbers["greedy_new"] = np.mean([own not in known for own in greedy])
        numbers["distinct_1"], numbers["distinct_2"] = (distinct(greedy, n) for n in (1, 2))
        return {name: float(value) for name, value in numbers.items()}


@partial(jax.jit, static_argnames=("model", "length", "top_k"))
def write_all(
    key: PRNGKey,
    model: TextVAE,
    params: Params,
    zs: Float[Array, "n latent"],
    length: int,
    temperature: float | Float[Array, ""],
    top_k: int | None = None,
) -> Int[Array, "n length"]:
    """Write a sentence for every z; see `vae_jax.text.write`."""

    def one(index: Int[Array, ""], z: Float[Array, " latent"]) -> Int[Array, " length"]:
        own = jax.random.fold_in(key, index)
        return write(own, model, params, z, length=length, temperature=temperature, top_k=top_k)

    return jax.vmap(one)(jnp.arange(len(zs)), zs)


def between(
    a: Float[Array, " latent"], b: Float[Array, " latent"], steps: int
) -> Float[Array, "steps latent"]:
    """Points on the straight line from one z to another, both ends among them."""
    share = jnp.linspace(0, 1, steps)[:, None]
    return (1 - share) * a[None, :] + share * b[None, :]


def words_of(row: Num[Any, " length"]) -> tuple[int, ...]:
    """The words of a sentence, without its end."""
    return tuple(int(word) for word in np.asarray(row) if word >= UNKNOWN)


def accepted(
    sentences: Sequence[tuple[int, ...]],
    vocabulary: Sequence[str],
    but: Collection[tuple[int, ...]] = (),
) -> float:
    """The share of sentences that the grammar generates, of which those of `but` do not count."""
    judged = {own: accepts([vocabulary[word] for word in own]) for own in {*sentences} - {*but}}
    return float(np.mean([judged.get(own, False) for own in sentences]))


def accuracy(rows: Integer[np.ndarray, "n length"], again: Integer[Any, "n length"]) -> float:
    """The share of tokens that stand where they stood, ends of sentences counted."""
    counted = rows != PAD
    return float(np.mean(np.asarray(again)[counted] == rows[counted]))


def distinct(sentences: Sequence[Sequence[int]], n: int) -> float:
    """Distinct n-grams, as a share of all of them (Li et al., arXiv 1510.03055)."""
    found = [tuple(own[i : i + n]) for own in sentences for i in range(len(own) - n + 1)]
    return len(set(found)) / max(1, len(found))
