"""Recurrent encoder and decoder of sentences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vae_jax.networks.mlp import KERNEL_INIT
from vae_jax.networks.rows import Dense
from vae_jax.types import PAD, UNKNOWN


class GRU(nn.Module):
    """A gated recurrent unit whose reset gate r is applied after the product with h.

    r, u = sigmoid(a + U h), n = tanh(a_n + r (U_n h + b)), h' = u h + (1 - u) n

    a and a_n are what the inputs add, biases included. They are computed outside, for all times in
    one product; only U h and U_n h, one product too, need the time before. With U_n (r h), which
    the paper's last version has, they would be two.

    Attributes:
        hidden: units of h.

    Reference:
        Cho et al., Learning phrase representations using RNN encoder-decoder for statistical
        machine translation (arXiv 1406.1078), version 1; linen's `GRUCell` is the same.
    """

    hidden: int

    def setup(self) -> None:
        """Declare the weights of h."""
        shape = (self.hidden, 3 * self.hidden)
        self.kernel = self.param("kernel", KERNEL_INIT, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.hidden,), jnp.float32)

    def step(
        self, h: Float[Array, " hidden"], added: Float[Array, " three_hidden"]
    ) -> Float[Array, " hidden"]:
        """The state after one input."""
        gates, new = jnp.split(h @ self.kernel, [2 * self.hidden])
        added_gates, added_new = jnp.split(added, [2 * self.hidden])
        reset, update = jnp.split(nn.sigmoid(gates + added_gates), 2)
        return update * h + (1 - update) * nn.tanh(added_new + reset * (new + self.bias))

    def __call__(
        self,
        h: Float[Array, " hidden"],
        added: Float[Array, "length three_hidden"],
        is_word: Bool[Array, " length"],
    ) -> tuple[Float[Array, " hidden"], Float[Array, "length hidden"]]:
        """The last state and the states after every input; what is no word changes none."""

        def body(
            h: Float[Array, " hidden"], now: tuple[Array, Array]
        ) -> tuple[Float[Array, " hidden"], Float[Array, " hidden"]]:
            added, is_word = now
            h = jnp.where(is_word, self.step(h, added), h)
            return h, h

        return jax.lax.scan(body, h, (added, is_word))


class SentenceEncoder(nn.Module):
    """x -> the mean and log-variance of q(z | x), side by side.

    Attributes:
        vocabulary_size: tokens.
        embedding: numbers for each.
        hidden: units of the recurrence.
        latent_dim: dimensions of z.
    """

    vocabulary_size: int
    embedding: int
    hidden: int
    latent_dim: int

    @nn.compact
    def __call__(self, x: Float[Array, " length"]) -> Float[Array, " two_latent"]:
        """Read one sentence; the signs of its tokens do not matter."""
        words = jnp.abs(x).astype(jnp.int32)
        embedded = nn.Embed(self.vocabulary_size, self.embedding)(words)
        added = Dense(3 * self.hidden, kernel_init=KERNEL_INIT)(embedded)
        last, _ = GRU(self.hidden)(jnp.zeros(self.hidden, added.dtype), added, words != PAD)
        return Dense(2 * self.latent_dim, kernel_init=KERNEL_INIT)(last)


class SentenceDecoder(nn.Module):
    """z -> theta, the logits of every token at every place.

    z sets the first state and is an input at every step.

    Attributes:
        vocabulary_size: tokens.
        length: places of the sentence that it writes by itself.
        embedding: numbers for each token.
        hidden: units of the recurrence.
    """

    vocabulary_size: int
    length: int
    embedding: int
    hidden: int

    def setup(self) -> None:
        """Declare the layers."""
        self.embed = nn.Embed(self.vocabulary_size, self.embedding)
        self.words_in = Dense(3 * self.hidden, kernel_init=KERNEL_INIT)
        self.z_in = Dense(3 * self.hidden, use_bias=False, kernel_init=KERNEL_INIT)
        self.z_first = Dense(self.hidden, use_bias=False, kernel_init=KERNEL_INIT)
        self.gru = GRU(self.hidden)
        self.out = Dense(self.vocabulary_size, kernel_init=KERNEL_INIT)

    def first(self, z: Float[Array, " latent"]) -> Float[Array, " hidden"]:
        """The state before the first word."""
        return nn.tanh(self.z_first(z))

    def advance(
        self, h: Float[Array, " hidden"], z: Float[Array, " latent"], word: Int[Array, ""]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " token"]]:
        """The state after a word, and the logits of the next one."""
        h = self.gru.step(h, self.words_in(self.embed(word)) + self.z_in(z))
        return h, self.out(h)

    def given(
        self, z: Float[Array, " latent"], x: Float[Array, " length"]
    ) -> Float[Array, "length token"]:
        """The logits at every place of a sentence, given the words before it.

        A word of negative sign is not shown: an unknown one is read in its place.
        """
        read = jnp.where(x < 0, UNKNOWN, x).astype(jnp.int32)
        before = jnp.concatenate([jnp.full(1, PAD), read[:-1]])
        added = self.words_in(self.embed(before)) + self.z_in(z)[None, :]
        _, states = self.gru(self.first(z), added, x != PAD)
        return self.out(states)

    def __call__(self, z: Float[Array, " latent"]) -> Float[Array, "length token"]:
        """The logits at every place of the sentence that reads its own most probable words."""

        def body(
            now: tuple[Array, Array], _: None
        ) -> tuple[tuple[Array, Array], Float[Array, " token"]]:
            h, logits = self.advance(now[0], z, now[1])
            return (h, 1 + jnp.argmax(logits[1:])), logits

        start = (self.first(z), jnp.asarray(PAD))
        if self.is_initializing():
            return jnp.tile(body(start, None)[1], (self.length, 1))
        _, theta = jax.lax.scan(body, start, length=self.length)
        return theta
