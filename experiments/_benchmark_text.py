"""A GRU VAE of sentences beside the same one in PyTorch: `python -m experiments.benchmark text`."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import text
from experiments._benchmark_cost import (
    PRODUCTS,
    Product,
    copy_ceiling,
    cost_of,
    limits_in_words,
    limits_of,
    training_products,
)
from experiments._benchmark_job import Goal, OnCpu, files_of, said_of, subject
from experiments._benchmark_page import in_json, measured_of
from experiments._benchmark_single import USUAL_EPOCHS, seconds_in_words, total_seconds
from experiments._noise import elbo_of
from experiments._peers import OURS, compiled_for
from experiments._peers_text import TorchSentences
from experiments._peers_torch import import_torch
from experiments._run import check, check_counts
from experiments._timing import (
    Bystanders,
    against_first,
    alternate,
    compared,
    machine,
    ratio_in_words,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.data import lengths_of
from vae_jax.types import Params

GOAL = 1.5  # times PyTorch's tokens a second
TORCH = "torch eager"


@dataclasses.dataclass(frozen=True)
class Text(OnCpu):
    """Time per epoch of one sentence VAE, against the same model in PyTorch.

    Both start from the same weights and train on the same minibatches of similar lengths, in
    turns of an epoch each. Needs PyTorch: pip install 'vae_jax[bench]'.
    """

    dataset: Literal["grammar", "tinyshakespeare"] = "grammar"
    """What to train on."""
    sentences: int = 12_800
    """Training sentences of the grammar; tinyshakespeare is taken whole."""
    hidden: int = 64
    """Units of each GRU."""
    embedding: int = 32
    """Numbers for each token."""
    batch_size: int = 64
    """Sentences in a minibatch."""
    turns: int = 5
    """How often each has its turn; an epoch that compiles and warms up precedes them."""
    data_dir: Path | None = None
    """Folder with the data, VAE_JAX_DATA without it."""


def run(config: Text) -> None:
    """Time both and write what came out.

    Raises:
        UsageError: if PyTorch is missing, or a setting, the data or the folder does not allow it.
        DataError: if the data cannot be had.
    """
    check_counts(config, "sentences", "hidden", "embedding", "batch_size", "turns")
    own = config.dataset == "grammar" or config.sentences == Text.sentences
    check(own, "--sentences", config.sentences, "belongs to --dataset grammar")
    torch = import_torch()
    files = files_of("text", config)
    sizes = {name: getattr(config, name) for name in ("hidden", "embedding", "batch_size")}
    if config.dataset == "grammar":
        sizes["sentences"] = config.sentences
    asked = text.Config(dataset=config.dataset, remedy=("none",), data_dir=config.data_dir, **sizes)
    _, task = text.prepare(text.validate(asked))
    rows = np.asarray(task.data)

    ours = Ours(task, rows)
    steps = len(rows) // config.batch_size
    batches = [ours.batches(turn * steps) for turn in range(1 + config.turns)]
    words = task.vae.likelihood.theta_dim
    theirs = TorchSentences(ours.params, asked.learning_rate[0])
    torch_rows, torch_test = (torch.from_numpy(np.asarray(a, np.int64)) for a in (rows, task.test))
    epochs = iter([torch.from_numpy(own.copy()) for own in batches])
    mean_length = max(1, round(float(lengths_of(rows).mean())))
    products = sentence_products(asked, words, mean_length)
    measures = {
        OURS: partial(seconds_of, ours.epoch),
        TORCH: lambda: seconds_of(lambda: theirs.epoch(torch_rows, next(epochs))),
        PRODUCTS: partial(seconds_of, training_products(products, steps)),
    }
    bystanders = Bystanders()
    first = {name: measure() for name, measure in measures.items()}
    first[OURS] += ours.compile_seconds
    turns = alternate(measures, turns=config.turns)
    copied = copy_ceiling()
    hardware = machine(bystanders)
    tokens = int(lengths_of(rows).mean() * steps * config.batch_size)
    quality = {OURS: ours.neg_elbo(np.asarray(task.test)), TORCH: theirs.neg_elbo(torch_test)}
    summaries = {name: spread(turns[name]) for name in measures}
    peers = {
        name: {
            "compile_seconds": ours.compile_seconds if name == OURS else None,
            "first_epoch_seconds": first[name],
            "usual_seconds": total_seconds(first[name], summaries[name]["median_seconds"]),
            **summaries[name],
            "tokens_per_second": tokens / summaries[name]["median_seconds"],
            **compared(turns[name], turns[OURS]),
            "test_neg_elbo": quality[name],
        }
        for name in (OURS, TORCH)
    }
    alone = summaries[PRODUCTS] | compared(turns[PRODUCTS], turns[OURS])
    parameters = sum(leaf.size for leaf in jax.tree.leaves(ours.params))
    limits = limits_of(
        cost_of(products, parameters, config.batch_size * mean_length),
        steps,
        seconds=alone["median_seconds"],
        share=alone["median_of_turn_ratios"],
        copied=copied,
    )
    goals = [Goal.of_ratio("times torch, tokens a second", GOAL, peers[TORCH])]
    both = peers | {PRODUCTS: alone}
    measured = [
        measured_of(
            f"{name}, an epoch",
            one,
            ratio=None if name == OURS else one,
            goal=goals[0] if name == TORCH else None,
        )
        for name, one in both.items()
    ]
    result = {
        **subject("text", config, None),
        "dataset": config.dataset,
        "tokens_per_epoch": tokens,
        "goals": [goal.as_json() for goal in goals],
        "measured": in_json(measured),
        "peers": peers,
        "matrix_products": alone,
        "limits": limits,
        "machine": hardware,
    }
    title = f"{task.title}, batch {config.batch_size}"
    write_results(
        files,
        f"{title}: seconds per epoch, CPU",
        result,
        [
            {
                "peer": name,
                **{which: f"{peer[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
                "tokens/s": f"{peer['tokens_per_second']:,.0f}",
                "times ours": f"{peer['ratio_of_medians']:.2f}",
                "by turns": ratio_in_words(peer),
                "compiled in": seconds_in_words(peer["compile_seconds"]),
                "first epoch": f"{peer['first_epoch_seconds']:.2f}",
                f"{USUAL_EPOCHS} epochs": f"{peer['usual_seconds']:.1f}",
                f"-ELBO, {1 + config.turns} epochs": f"{peer['test_neg_elbo']:.2f}",
            }
            for name, peer in peers.items()
        ],
        f"An epoch is {len(rows):,} sentences, {tokens:,} tokens with their ends and without what "
        f"fills up. Median, minimum and maximum over {config.turns} turns, in which the two "
        "and the matrix products alone alternate in one process, on the same minibatches of "
        "similar lengths; PyTorch cuts each to its longest sentence, ours to one of three "
        "lengths. Times ours: ratio of the medians; by turns: median and range of the ratios "
        "within a turn. The first epoch compiles and warms up; compiled in: that part of it; "
        f"{USUAL_EPOCHS} epochs: it and {USUAL_EPOCHS - 1} medians, what a user waits for. "
        "PyTorch: nn.GRU, data in memory, fused Adam, eager. Both start from the same weights, "
        "with noise of their own. -ELBO in "
        "nats per held-out sentence.",
        limits_in_words(limits) + " Counted for sentences of the mean length.",
        said_of(goals),
    )
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    figure = single_figure(title, turns, others=against_first(turns))
    figures.save(figure, files.with_suffix(".png"), **seconds)
    print(f"{files.name}.json, .md and .png are in {files.parent}")


def sentence_products(config: text.Config, words: int, length: int) -> list[Product]:
    """The matrix products of a step, for sentences of one length.

    What the tokens and z add to the states is one product for all times; what the state adds
    is one for each, after that of the time before.

    Args:
        config: of the experiment.
        words: of the vocabulary.
        length: of a sentence, tokens.
    """
    batch, units = config.batch_size, config.hidden
    read = Product(batch * length, config.embedding, 3 * units)
    recurrent = Product(batch, units, 3 * units, times=length)
    return [
        read,
        recurrent,
        Product(batch, units, 2 * config.latent_dim),
        Product(batch, config.latent_dim, units),
        Product(batch, config.latent_dim, 3 * units),
        read,
        recurrent,
        Product(batch * length, units, words),
    ]


class Ours:
    """An epoch as the experiment runs it.

    Args:
        task: of the experiment.
        rows: the training sentences.
    """

    def __init__(self, task: Any, rows: np.ndarray) -> None:
        self._task, self._data = task, jnp.asarray(rows)
        trainer, hyper = task.trainer, task.members[-1].hyper
        self._shuffle = jax.jit(lambda key, step: trainer.shuffle(key, step, len(rows)))
        self._epoch = jax.jit(
            lambda state, data: trainer.epoch(
                state, hyper, data, trainer.shuffle(state.root_key, state.step, len(rows))
            ),
            donate_argnums=0,
        )
        self._state = trainer.init(jax.random.key(0), hyper)
        self._compiled = compiled_for(self._epoch, self._state, self._data)

    @property
    def compile_seconds(self) -> float:
        """That an epoch was compiled in."""
        return self._compiled.seconds

    @property
    def params(self) -> Params:
        """The weights as they are now."""
        return self._state.params

    def batches(self, step: int) -> np.ndarray:
        """The minibatches of the epoch that begins at a step."""
        return np.asarray(self._shuffle(jax.random.key(0), jnp.int32(step)))

    def epoch(self) -> None:
        """Train for an epoch."""
        self._state, metrics = self._compiled.program(self._state, self._data)
        jax.block_until_ready((self._state, metrics))

    def neg_elbo(self, test: np.ndarray) -> float:
        """The held-out negative ELBO, nats per sentence."""
        evaluate = elbo_of(self._task.vae, self._task.preprocess)
        return -float(evaluate(self._state.params, jnp.asarray(test)).elbo)
