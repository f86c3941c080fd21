"""A variational autoencoder of sentences, and how it writes them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vae_jax.likelihoods import tokens
from vae_jax.model import VAE, make_vae
from vae_jax.networks import SentenceDecoder, SentenceEncoder
from vae_jax.types import END, PAD, UNKNOWN, Params, PRNGKey, Scalar


class TextVAE(NamedTuple):
    """A VAE of sentences, and its decoder word by word.

    Attributes:
        vae: the bundle, of sentences `x [length]`: whole numbers, words and then `END`, filled
            up with 0. A word of negative sign is the same word, hidden from the decoder.
        first: `(params, z) -> h`, the decoder's state before the first word.
        advance: `(params, h, z, word) -> (h, logits)`, the state after a word and the logits
            of the next; the word before the first is 0.
    """

    vae: VAE
    first: Callable[[Params, Float[Array, " latent"]], Float[Array, " hidden"]]
    advance: Callable[..., tuple[Float[Array, " hidden"], Float[Array, " token"]]]


def make_text_vae(
    vocabulary_size: int, length: int, *, embedding: int, hidden: int, latent_dim: int
) -> TextVAE:
    """Build a VAE of sentences: a GRU that reads them and a GRU that writes them.

    log p(x | z) = sum_t log p(x_t | x_1 ... x_{t-1}, z), z being an input at every step.
    `VAE.decode` gives the logits of the sentence that reads its own most probable words.

    Args:
        vocabulary_size: tokens, the three that are no words among them.
        length: places of a sentence; the networks take shorter ones too.
        embedding: numbers for each token.
        hidden: units of each GRU.
        latent_dim: dimensions of z.

    Returns:
        The model.

    Raises:
        ValueError: if a size is under 1, or the vocabulary under 3.

    Example:
        >>> model = make_text_vae(10, 6, embedding=4, hidden=8, latent_dim=2)
        >>> params = model.vae.init(jax.random.key(0))
        >>> model.vae.encode(params, jnp.array([4.0, 3.0, 7.0, 1.0, 0.0, 0.0])).mean.shape
        (2,)

    Reference:
        Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349),
        section 3.
    """
    if vocabulary_size <= UNKNOWN:
        raise ValueError(f"vocabulary_size {vocabulary_size}: at least {UNKNOWN + 1} is needed")
    for name, size in {"length": length, "embedding": embedding, "hidden": hidden}.items():
        if size < 1:
            raise ValueError(f"{name} {size}: at least 1 is needed")
    encoder = SentenceEncoder(vocabulary_size, embedding, hidden, latent_dim)
    decoder = SentenceDecoder(vocabulary_size, length, embedding, hidden)
    vae = make_vae(
        encoder, decoder, tokens(vocabulary_size), x_shape=(length,), latent_dim=latent_dim
    )

    def run(params: Params, *args: Any, method: str) -> Any:
        return decoder.apply(params["decoder"], *args, method=method)

    def first(params: Params, z: Float[Array, " latent"]) -> Float[Array, " hidden"]:
        return run(params, z, method="first")

    def advance(
        params: Params, h: Float[Array, " hidden"], z: Float[Array, " latent"], word: Int[Array, ""]
    ) -> tuple[Float[Array, " hidden"], Float[Array, " token"]]:
        return run(params, h, z, word, method="advance")

    def decode_given(
        params: Params, z: Float[Array, " latent"], x: Float[Array, " length"]
    ) -> Float[Array, "length token"]:
        return run(params, z, x, method="given")

    return TextVAE(vae._replace(decode_given=decode_given), first, advance)


def scale_z(params: Params, factor: Scalar) -> Params:
    """Multiply the weights through which the decoder of a text model sees z.

    h_0 = tanh(factor W z), and factor V z is what z adds to the gates at every word: the decoder
    of factor * z, from z itself.

    Args:
        params: of `make_text_vae`.
        factor: 0 leaves a recurrent language model, the same decoder without z.

    Returns:
        The parameters, all others as they are.

    Reference:
        Bowman et al. (arXiv 1511.06349), section 4, whose baseline is a language model without z.
    """
    own = params["decoder"]["params"]
    through = ("z_in", "z_first")
    scaled = {name: jax.tree.map(lambda kernel: factor * kernel, own[name]) for name in through}
    return {**params, "decoder": {**params["decoder"], "params": {**own, **scaled}}}


def write(
    key: PRNGKey,
    model: TextVAE,
    params: Params,
    z: Float[Array, " latent"],
    *,
    length: int,
    temperature: Scalar = 1.0,
    top_k: int | None = None,
) -> Int[Array, " length"]:
    """Write a sentence word by word, each drawn given those before it.

    p(x_t = v) is proportional to exp(logit_v / temperature) among the `top_k` most probable
    tokens. The token of unknown words is never written.

    Args:
        key: the key of the words.
        model: the model.
        params: its parameters.
        z: what the sentence is to say.
        length: tokens at most, the end among them.
        temperature: 1 draws from the model, less is more careful, 0 always takes the most
            probable word (greedy), infinity draws every word alike.
        top_k: how many tokens are drawn from, at least 1, and those as probable as the last of
            them; all without it.

    Returns:
        Tokens: the words, `END` if they came to it, then 0.

    Raises:
        ValueError: if length or top_k is under 1.

    Example:
        >>> model = make_text_vae(10, 6, embedding=4, hidden=8, latent_dim=2)
        >>> params = model.vae.init(jax.random.key(0))
        >>> key = jax.random.key(1)
        >>> write(key, model, params, jnp.zeros(2), length=6, temperature=0.0).shape
        (6,)

    Reference:
        Fan, Lewis and Dauphin, Hierarchical neural story generation (arXiv 1805.04833), for
        drawing from the `top_k` most probable.
    """
    for name, size in {"length": length, "top_k": top_k}.items():
        if size is not None and size < 1:
            raise ValueError(f"{name} {size}: at least 1 is needed")
    # A tiny temperature makes every other word impossible: greedy, and never a division by 0.
    sharpness = 1 / jnp.maximum(temperature, 1e-30)

    def body(
        now: tuple[Array, Array, Array], key: PRNGKey
    ) -> tuple[tuple[Array, Array, Array], Int[Array, ""]]:
        h, word, is_over = now
        h, logits = model.advance(params, h, z, word)
        logits = logits.at[jnp.array([PAD, UNKNOWN])].set(-jnp.inf)
        if top_k is not None and top_k < len(logits):
            least = jax.lax.top_k(logits, top_k)[0][-1]
            logits = jnp.where(logits < least, -jnp.inf, logits)
        scaled = sharpness * (logits - jnp.max(logits))
        # Also at an infinite temperature, where 0 * -inf is no number.
        scaled = jnp.where(logits == -jnp.inf, -jnp.inf, scaled)
        drawn = jax.random.categorical(key, scaled)
        word = jnp.where(is_over, PAD, drawn)
        return (h, word, is_over | (word == END)), word

    start = (model.first(params, z), jnp.asarray(PAD), jnp.asarray(False))
    _, words = jax.lax.scan(body, start, jax.random.split(key, length))
    return words
