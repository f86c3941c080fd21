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
from typing import Any

from experiments._folder import RunFolder
from experiments._grid import Axis, Member, grid, short, shown_axes
from experiments._loaded import as_config
from experiments._noise import elbo_of
from experiments._options import folder_name
from experiments._run import check, main
from experiments._shards import Conclude, run_grid
from experiments._sweep import Task
from experiments._text_commands import COMMANDS, answer
from experiments._text_numbers import TextMeasures
from experiments._text_options import EXPERIMENT, STRENGTHS, Config, validate
from experiments._text_report import TextReport
from vae_jax.data import Sentences, TextRules, buckets, lengths_of, load_sentences, read_text_file
from vae_jax.preprocess import tokens_as_stored
from vae_jax.remedies import make_text_trainer
from vae_jax.text import make_text_vae
from vae_jax.train import OPTIMIZERS

PROG = "python -m experiments.text"
WITHOUT_Z = "without_z"


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
    run_grid(config, validate, prepare, partial(concluding, config.data_dir))


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
