"""The flags of `experiments.text`: their help, their defaults, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments._options import RunOptions, check_options
from experiments._run import (
    as_words,
    check,
    check_counts,
    check_members,
    check_once,
    check_positive,
    check_seeds,
    flag_of,
)

EXPERIMENT = "text"
# Of each remedy, the setting that says how much of it; `none` has none.
STRENGTHS = {
    "none": None,
    "warmup": "warmup_epochs",
    "cyclical": "cycle_epochs",
    "free_bits": "free_bits",
    "word_dropout": "word_dropout",
    "aggressive": "aggressive_epochs",
}


@dataclasses.dataclass(frozen=True)
class Config(RunOptions):
    """Train variational autoencoders of sentences, and show what their latent space holds.

    Other commands: generate, interpolate, nearest, reconstruct, each with --help.
    """

    dataset: Literal["grammar", "tinyshakespeare"] | None = None
    """grammar: sentences of a probabilistic grammar whose entropy is known (without it and
    without --text-file); tinyshakespeare: its lines."""
    text_file: Path | None = None
    """A text of your own, UTF-8, one sentence a line; its last tenth is held out."""
    level: Literal["words", "characters"] = "words"
    """What a token is."""
    max_length: int | None = None
    """Tokens of the longest sentence with its end, 32 words or 128 characters without it;
    longer ones are cut off, and counted."""
    strict: bool = False
    """Refuse a text with a longer sentence."""
    max_words: int = 10_000
    """The most frequent tokens are the vocabulary, at most so many."""
    min_count: int = 2
    """How often a token must stand in the training text to be one of them."""
    sentences: int = 40_000
    """Sentences of the grammar to train on."""
    remedy: tuple[str, ...] = ("none", "free_bits")
    """Against posterior collapse: none, warmup, cyclical, free_bits, word_dropout, aggressive,
    or several in one model, warmup+word_dropout."""
    beta: tuple[float, ...] = (1.0,)
    """Weight of the KL term; 1 is the evidence lower bound."""
    warmup_epochs: tuple[float, ...] = (3.0,)
    """warmup: epochs in which the weight of the KL rises from 0."""
    cycle_epochs: tuple[float, ...] = (3.0,)
    """cyclical: epochs from one weight of 0 to the next."""
    free_bits: tuple[float, ...] = (0.25,)
    """free_bits: nats of each latent dimension that cost nothing."""
    word_dropout: tuple[float, ...] = (0.3,)
    """word_dropout: share of the words that the decoder is not shown in training."""
    aggressive_epochs: tuple[float, ...] = (2.0,)
    """aggressive: epochs in which the encoder takes five steps for each of the decoder."""
    seed: tuple[int, ...] = (0,)
    """Seeds of the weights, the shuffling and the noise."""
    epochs: int = 10
    """Passes through the training sentences."""
    latent_dim: int = 16
    """Dimensions of the latent z."""
    hidden: int = 64
    """Units of each GRU."""
    embedding: int = 32
    """Numbers for each token."""
    batch_size: int = 64
    """Sentences in a minibatch; the remainder of an epoch that fills none is left out."""
    optimizer: Literal["adam", "adamw", "adagrad", "adamax", "rmsprop", "sgd"] = "adam"
    """From optax."""
    learning_rate: tuple[float, ...] = (2e-3,)
    """Step size of the optimiser."""
    num_samples: int = 500
    """Importance samples of each log p(x)."""
    eval_sentences: int = 500
    """Held-out sentences whose log p(x) is estimated, the first ones."""
    data_dir: Path | None = None
    """Folder with tinyshakespeare, VAE_JAX_DATA without it; or with the file of --text-file,
    where it is no longer at its own place."""


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Args:
        config: as given.

    Returns:
        The configuration with its data set filled in.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_options(config, EXPERIMENT)
    if config.text_file is not None:
        check(config.dataset is None, "--dataset", config.dataset, "not together with --text-file")
    dataset = config.dataset or (None if config.text_file else "grammar")
    if dataset != "grammar":
        own = config.sentences == Config.sentences
        check(own, "--sentences", config.sentences, "belongs to --dataset grammar")
    named = ", ".join(STRENGTHS)
    used = set()
    for remedy in config.remedy:
        parts = remedy.split("+")
        known = all(part in STRENGTHS for part in parts)
        check(known, "--remedy", remedy, f"{named}, or several joined by +")
        once = len(set(parts)) == len(parts) and (len(parts) == 1 or "none" not in parts)
        check(once, "--remedy", remedy, "each part once, and none alone")
        used |= set(parts)
    check_once("--remedy", config.remedy, f"some of {named}")
    for remedy, field in STRENGTHS.items():
        if field is None:
            continue
        values = getattr(config, field)
        allowed = "a finite number above 0 is needed; --remedy none is without"
        check_positive(flag_of(field), values, allowed)
        given = values != getattr(Config, field)
        belongs = not given or remedy in used
        check(belongs, flag_of(field), as_words(values), f"belongs to --remedy {remedy}")
    for rate in config.word_dropout:
        check(rate <= 1, "--word-dropout", rate, "a share from 0 to 1 is needed")
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    check_positive("--learning-rate", config.learning_rate)
    check_seeds(config.seed)
    check_counts(config, "max_length", "max_words", least=2)
    check_counts(config, "min_count", "latent_dim", "hidden", "embedding", "batch_size")
    check_counts(config, "num_samples", "eval_sentences", "sentences")
    return dataclasses.replace(config, dataset=dataset)
