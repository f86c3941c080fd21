"""Sentence VAEs that use their latent space: `python -m experiments.text --remedy free_bits`.

A GRU reads a sentence, a GRU writes it word by word, with z at every step. Every remedy against
posterior collapse, every beta and every seed is a model of one program, and beside them, for
each seed, the same decoder without z, so that what z buys is one number. What a run has learned
can be tried:

    python -m experiments.text generate    results/text/RUN --number 10 --temperature 0.7
    python -m experiments.text interpolate results/text/RUN "the chef bakes ." "did the chef bake ?"
    python -m experiments.text nearest     results/text/RUN "the chef bakes ."
    python -m experiments.text reconstruct results/text/RUN "the chef bakes ."

Reference:
    Bowman et al., Generating sentences from a continuous space (arXiv 1511.06349); He et al.,
    Lagging inference networks (arXiv 1901.05534); Fu et al. (arXiv 1903.10145).
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

from experiments._distributed import connected
from experiments._folder import RunFolder
from experiments._grid import Axis, Member, grid, short, shown_axes
from experiments._loaded import as_config
from experiments._noise import elbo_of
from experiments._options import RunOptions, check_options, folder_name
from experiments._run import as_words, check, check_members, flag_of, main
from experiments._shards import Conclude, launch, merge
from experiments._sweep import Task, run_sweep
from experiments._text_commands import COMMANDS, answer
from experiments._text_numbers import TextMeasures
from experiments._text_report import TextReport
from vae_jax.data import Sentences, TextRules, buckets, lengths_of, load_sentences, read_text_file
from vae_jax.preprocess import tokens_as_stored
from vae_jax.remedies import make_text_trainer
from vae_jax.text import make_text_vae
from vae_jax.train import OPTIMIZERS

EXPERIMENT = "text"
PROG = "python -m experiments.text"
WITHOUT_Z = "without_z"
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
    check(len(config.remedy) > 0, "--remedy", "(nothing)", f"some of {named}")
    used = set()
    for remedy in config.remedy:
        parts = remedy.split("+")
        known = all(part in STRENGTHS for part in parts)
        check(known, "--remedy", remedy, f"{named}, or several joined by +")
        once = len(set(parts)) == len(parts) and (len(parts) == 1 or "none" not in parts)
        check(once, "--remedy", remedy, "each part once, and none alone")
        check(config.remedy.count(remedy) == 1, "--remedy", remedy, "given twice")
        used |= set(parts)
    for remedy, field in STRENGTHS.items():
        if field is None:
            continue
        values = getattr(config, field)
        allowed = "a finite number above 0 is needed; --remedy none is without"
        check_members(flag_of(field), values, allowed, low=1e-30)
        given = values != getattr(Config, field)
        belongs = not given or remedy in used
        check(belongs, flag_of(field), as_words(values), f"belongs to --remedy {remedy}")
    for rate in config.word_dropout:
        check(rate <= 1, "--word-dropout", rate, "a share from 0 to 1 is needed")
    check_members("--beta", config.beta, "a finite number of 0 or more is needed", low=0)
    allowed = "a finite number above 0 is needed"
    check_members("--learning-rate", config.learning_rate, allowed, low=1e-30)
    check_members("--seed", config.seed, "a whole number of 0 or more is needed", low=0)
    for seed in config.seed:
        check(seed < 2**31, "--seed", seed, "a number under 2^31 is needed")
    for field, least in (("max_length", 2), ("max_words", 2), ("min_count", 1)):
        value = getattr(config, field)
        fits = value is None or value >= least
        check(fits, flag_of(field), value, f"a whole number of {least} or more is needed")
    positive = ("latent_dim", "hidden", "embedding", "batch_size", "num_samples")
    for field in (*positive, "eval_sentences", "sentences"):
        value = getattr(config, field)
        check(value >= 1, flag_of(field), value, "a whole number of 1 or more is needed")
    return dataclasses.replace(config, dataset=dataset)


def text_of_run(config: Config) -> Sentences:
    """The sentences that the configuration names.

    Raises:
        UsageError: if they are in no folder.
        DataError: if they cannot be had.
    """
    rules = TextRules(
        config.level, config.max_length, config.max_words, config.min_count, config.strict
    )
    if config.text_file is not None:
        moved = None if config.data_dir is None else config.data_dir / config.text_file.name
        return read_text_file(config.text_file if moved is None else moved, rules)
    if config.dataset == "grammar":
        check(config.data_dir is None, "--data-dir", config.data_dir, "the grammar has no files")
    return load_sentences(
        config.dataset or "grammar", rules, num_train=config.sentences, data_dir=config.data_dir
    )


def members_of(config: Config, steps_per_epoch: int) -> list[Member]:
    """The decoder without z, then every remedy, with every strength, beta and seed.

    Args:
        config: with its defaults filled in.
        steps_per_epoch: minibatches in an epoch.

    Returns:
        The members; every column of one is a column of all.
    """
    rates = Axis("learning_rate", config.learning_rate, "learning_rate")
    betas = Axis("beta", config.beta, "beta")
    strengths = {
        remedy: Axis(
            field,
            getattr(config, field),
            field.replace("_epochs", "_steps"),
            steps_per_epoch if field.endswith("_epochs") else 1,
        )
        for remedy, field in STRENGTHS.items()
        if field is not None
    }
    groups = [(WITHOUT_Z, [rates])]
    for remedy in config.remedy:
        own = [strengths[part] for part in remedy.split("+") if part in strengths]
        groups.append((remedy, [betas, *own, rates]))
    shown = [axis for _, axes in groups for axis in axes if axis is not rates]
    shown = list(dict.fromkeys([*shown, *shown_axes([rates], None)]))
    members = []
    for remedy, axes in groups:
        for member in grid(axes, config.seed, lead=None):
            latent = 0.0 if remedy == WITHOUT_Z else 1.0
            hyper = member.hyper._replace(latent=latent)
            columns = {"latent": latent}
            for axis in shown:
                # What a model was not given has its neutral value.
                values = hyper._asdict() if axis in axes or axis is betas else {}
                columns[axis.field] = _short(values.get(axis.hyper, 0.0) / axis.factor)
            columns["seed"] = member.seed
            members.append(Member(f"{remedy}-{member.name}", member.seed, hyper, columns))
    return members


def _short(value: Any) -> float:
    """A float32 as it was given: to six digits."""
    return float(f"{float(value):.6g}")


def run_name(config: Config, text: Sentences) -> str:
    """The folder's name: text, network, latent size, remedies, what is swept, and seeds.

    Raises:
        UsageError: if it is too long for a folder.
    """
    parts = [text.name, config.level, f"gru{config.hidden}", f"z{config.latent_dim}"]
    parts += config.remedy
    swept = ("beta", *filter(None, STRENGTHS.values()), "learning_rate")
    for field in swept:
        values = getattr(config, field)
        if values != getattr(Config, field):
            parts.append(field + "+".join(map(short, values)))
    parts.append("seed" + "+".join(map(str, config.seed)))
    return folder_name(parts)


def run(config: Config) -> None:
    """Train, measure and draw, as the configuration says.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        DataError: if the text cannot be had.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    if config.merge is not None:
        merge(config, partial(concluding, config.data_dir))
    elif config.launch is not None:
        launch(config, prepare(validate(config))[1])
    else:
        config = validate(config)
        with connected(config):
            run_sweep(*prepare(config))


def concluding(data_dir: Path | None, slices: list[RunFolder]) -> Conclude | None:
    """What tells of the models of slices together, with the text that they were trained on.

    Raises:
        UsageError: if that is another one now.
        DataError: if it cannot be had.
    """
    config = as_config(Config, slices[0].read_json("config.json"), slices[0].path)
    if data_dir is not None:
        config = dataclasses.replace(config, data_dir=data_dir)
    task = prepare(config)[1]
    for folder in slices:
        folder.check_same_data(task.source)
    return task.conclude


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the sentences and build what is trained.

    Args:
        config: with its defaults filled in.

    Returns:
        The configuration and the task.

    Raises:
        UsageError: if the data do not allow it.
        DataError: if they cannot be had.
    """
    text = text_of_run(config)
    for count, what in (
        (text.truncated, "cut off at --max-length"),
        (text.dropped, "left out, as no word of theirs is in the vocabulary"),
    ):
        if count:
            print(f"warning: sentences {what}: {count:,}", file=sys.stderr)
    fits, most = config.batch_size <= len(text.train), f"at most the {len(text.train)} to train on"
    check(fits, "--batch-size", config.batch_size, most)
    model = make_text_vae(
        len(text.vocabulary),
        text.train.shape[1],
        embedding=config.embedding,
        hidden=config.hidden,
        latent_dim=config.latent_dim,
    )
    trainer = make_text_trainer(
        model.vae,
        batch_size=config.batch_size,
        lengths=lengths_of(text.train),
        buckets=buckets(text.train),
        optimizer=OPTIMIZERS[config.optimizer],
    )
    size = f"{len(text.vocabulary):,} {config.level}"
    title = f"{text.name} · {size} · GRU {config.hidden} · z {config.latent_dim}"
    measures = TextMeasures(
        model, text, config.num_samples, held_out=min(config.eval_sentences, len(text.test))
    )
    report = TextReport(measures, title, config.figures, first_seed=config.seed[0])
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config, text),
        title=title,
        table=f"{text.name}: held-out sentences, nats per sentence (-ELBO at beta 1)",
        about={
            "dataset": text.name,
            "example": "sentence",
            "likelihood": "tokens",
            "entropy": text.entropy,
            "unit": "nats per held-out sentence, at beta 1",
        },
        members=members_of(config, len(text.train) // config.batch_size),
        vae=model.vae,
        preprocess=tokens_as_stored,
        trainer=trainer,
        evaluate=elbo_of(model.vae, tokens_as_stored),
        data=text.train,
        test=text.test,
        batch_size=config.batch_size,
        source={"source": text.source, "sha256": text.sha256},
        measure=report.measure,
        conclude=report.conclude,
        context=measures,
        draw=report.draw,
        labels=(text.train_kinds, text.test_kinds),
    )


def start() -> None:
    """The command line: training, or one of the commands that ask a run."""
    if len(sys.argv) > 1 and sys.argv[1] in COMMANDS:
        name = sys.argv.pop(1)
        main(COMMANDS[name], answer, f"{PROG} {name}")
    else:
        main(Config, run, PROG)


if __name__ == "__main__":
    start()
