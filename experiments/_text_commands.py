"""What a model of sentences can be asked: to write, to lead from one sentence to another."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float, UInt16

from experiments._loaded import Loaded, Run, load_run
from experiments._run import UsageError, check, check_counts, is_finite
from experiments._text_numbers import TextMeasures, between
from vae_jax.data import DataError, Sentences, encode, text_of, tokenizer
from vae_jax.gaussian import reparameterize
from vae_jax.types import UNKNOWN, Normal


@dataclasses.dataclass(frozen=True)
class Ask:
    """What every command is told."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, results/text/<run>."""
    model: str | None = dataclasses.field(default=None, kw_only=True)
    """Name of the model; without it the one whose z carries most, of those whose -log p(x) is at
    most 1% above the decoder's without z."""
    data_dir: Path | None = dataclasses.field(default=None, kw_only=True)
    """Where the data are, if not where the run found them."""


@dataclasses.dataclass(frozen=True)
class Generate(Ask):
    """Write sentences, each from a z of the prior. The same seed writes the same ones."""

    number: int = 10
    """How many."""
    temperature: float = 1.0
    """1 draws words from the model, less is more careful, 0 takes the most probable (greedy)."""
    top_k: int | None = None
    """Draw among so many of the most probable words."""
    greedy: bool = False
    """As --temperature 0."""
    seed: int = 0
    """Of z and of the words."""


@dataclasses.dataclass(frozen=True)
class Interpolate(Ask):
    """Write what lies between two sentences in the latent space, greedily."""

    a: Annotated[str, tyro.conf.Positional]
    """The first sentence."""
    b: Annotated[str, tyro.conf.Positional]
    """The last."""
    steps: int = 7
    """Sentences, both ends among them."""


@dataclasses.dataclass(frozen=True)
class Nearest(Ask):
    """The training sentences whose posterior means are nearest."""

    sentence: Annotated[str, tyro.conf.Positional]
    """The sentence."""
    number: int = 10
    """How many."""


@dataclasses.dataclass(frozen=True)
class Reconstruct(Ask):
    """Write a sentence again from its posterior: from the mean, and from samples."""

    sentence: Annotated[str, tyro.conf.Positional]
    """The sentence."""
    number: int = 5
    """Samples of the posterior."""
    seed: int = 0
    """Of the samples."""


COMMANDS: dict[str, Any] = {
    "generate": Generate,
    "interpolate": Interpolate,
    "nearest": Nearest,
    "reconstruct": Reconstruct,
}


class Asked:
    """A run's model and its text.

    Args:
        command: which run and model.

    Raises:
        UsageError: if there is no such run or model.
    """

    def __init__(self, command: Ask) -> None:
        self._run = load_run(command.run, command.data_dir)
        if self._run.task.experiment != "text":
            raise UsageError(f"{command.run}: not a run of experiments.text")
        self.measures: TextMeasures = self._run.task.context
        self.text: Sentences = self.measures.text
        self.loaded = _model_of(self._run, command.model)
        name, problem = self.loaded.member.name, self.loaded.problem
        print(f"{name}, after epoch {self.loaded.epoch}", flush=True)
        if problem is not None:
            print(f"warning: {name}: {problem}", file=sys.stderr)

    def posterior(self, rows: UInt16[np.ndarray, "n length"]) -> Normal:
        """The posterior of every sentence."""
        return self.measures.posteriors(self.loaded.params, rows)

    def read(self, *sentences: str) -> UInt16[np.ndarray, "n length"]:
        """Sentences of the command line as tokens, with a warning for words that are unknown.

        Raises:
            UsageError: if one is too long, or none of its words is known.
        """
        text = self.text
        try:
            rows = encode(sentences, text.vocabulary, text.level, text.train.shape[1])
        except DataError as error:
            raise UsageError(str(error)) from None
        for sentence, row in zip(sentences, rows, strict=True):
            tokens = tokenizer(text.level)(sentence)
            unknown = [t for t, i in zip(tokens, row, strict=False) if i == UNKNOWN]
            if unknown:
                said = f"not in the vocabulary, read as <unk>: {' '.join(unknown)}"
                print(f"warning: sentence {sentence!r}: {said}", file=sys.stderr)
        return rows

    def written(
        self, key: Any, zs: Float[Any, "n latent"], temperature: float, top_k: int | None
    ) -> list[str]:
        """What the decoder writes of every z."""
        return self.said(self.measures.written(key, self.loaded.params, zs, temperature, top_k))

    def said(self, rows: Any) -> list[str]:
        """Tokens as text."""
        return [text_of(row, self.text.vocabulary, self.text.level) for row in rows]


def answer(command: Ask) -> None:
    """Do what the command line says.

    Raises:
        UsageError: if a setting, the run or a sentence does not allow it.
        DataError: if the run's data cannot be had.
    """
    for field in ("number", "steps", "top_k"):
        if hasattr(command, field):
            check_counts(command, field, least=2 if field == "steps" else 1)
    seed = getattr(command, "seed", 0)
    check(0 <= seed < 2**31, "--seed", seed, "a whole number from 0 to 2^31 - 1 is needed")
    match command:
        case Generate():
            generate(command)
        case Interpolate():
            interpolate(command)
        case Nearest():
            nearest(command)
        case Reconstruct():
            reconstruct(command)


def generate(command: Generate) -> None:
    """Write sentences from the prior."""
    temperature = command.temperature
    fits = is_finite(temperature) and temperature >= 0
    check(fits, "--temperature", temperature, "a finite number of 0 or more is needed")
    one = not command.greedy or temperature == Generate.temperature
    check(one, "--temperature", temperature, "not together with --greedy")
    asked = Asked(command)
    key_z, key_words = jax.random.split(jax.random.key(command.seed))
    size, top_k = len(asked.text.vocabulary), command.top_k
    check(top_k is None or top_k <= size, "--top-k", top_k, f"at most the {size} of the vocabulary")
    zs = jax.random.normal(key_z, (command.number, asked.measures.model.vae.latent_dim))
    temperature = 0.0 if command.greedy else temperature
    print("\n".join(asked.written(key_words, zs, temperature, top_k)))


def interpolate(command: Interpolate) -> None:
    """Write what lies between two sentences."""
    asked = Asked(command)
    means = asked.posterior(asked.read(command.a, command.b)).mean
    path = between(means[0], means[1], command.steps)
    print("\n".join(asked.written(jax.random.key(0), path, 0.0, None)))


def nearest(command: Nearest) -> None:
    """Print the nearest training sentences and how far they are."""
    asked = Asked(command)
    mean = np.asarray(asked.posterior(asked.read(command.sentence)).mean[0])
    rows = np.unique(asked.text.train, axis=0)
    number, most = command.number, f"at most the {len(rows):,} different training sentences"
    check(number <= len(rows), "--number", number, most)
    distances = np.linalg.norm(np.asarray(asked.posterior(rows).mean) - mean, axis=1)
    order = np.argsort(distances, kind="stable")[:number]
    for place, said in zip(order, asked.said(rows[order]), strict=True):
        print(f"{distances[place]:8.3f}  {said}")


def reconstruct(command: Reconstruct) -> None:
    """Write a sentence again, from the mean and from samples of its posterior."""
    asked = Asked(command)
    q = asked.posterior(asked.read(command.sentence))
    own = Normal(q.mean[0], q.log_var[0])
    keys = jax.random.split(jax.random.key(command.seed), command.number)
    zs = jax.vmap(reparameterize, (0, None))(keys, own)
    by_mean, *by_sample = asked.written(jax.random.key(0), jnp.concatenate([q.mean, zs]), 0.0, None)
    print(f"mean    {by_mean}")
    for said in by_sample:
        print(f"sample  {said}")


def _model_of(run: Run, name: str | None) -> Loaded:
    """The model that is asked for.

    Raises:
        UsageError: if there is none of that name.
    """
    names = [member.name for member in run.members]
    if name is None:
        name = _best(run)
    check(name in names, "--model", name, f"one of {' '.join(names)}")
    return next(loaded for loaded in run.models() if loaded.member.name == name)


def _best(run: Run) -> str:
    """The model whose z carries most, of those that cost little more than without it.

    That is the most mutual information among the models whose -log p(x) is at most 1% above that
    of the decoder without z; else the least -log p(x); else, if none was measured, the first.

    Raises:
        UsageError: if no model has z.
    """
    with_z = [member.name for member in run.members if member.columns["latent"] != 0]
    if not with_z:
        raise UsageError(f"{run.folder.path}: no model in it has z; --model names one without")
    if not (run.folder.path / "summary.json").is_file():
        return with_z[0]
    measured = {
        member["name"]: member["also"]
        for member in run.folder.read_json("summary.json")["members"]
        if member["name"] in with_z and member["also"].get("neg_log_likelihood") is not None
    }
    cheap = {
        name: own["mutual_information"]
        for name, own in measured.items()
        if own.get("gain") is not None
        and own["gain"] >= -0.01 * (own["gain"] + own["neg_log_likelihood"])
    }
    if cheap:
        return max(cheap, key=lambda name: cheap[name])
    if measured:
        return min(measured, key=lambda name: measured[name]["neg_log_likelihood"])
    return with_z[0]
