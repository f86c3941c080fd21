"""A GRU VAE of sentences beside the same one in PyTorch: `python -m experiments.benchmark text`."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import text
from experiments._benchmark_cost import (
    PRODUCTS,
    Cost,
    Product,
    limits_of,
    moved_bytes,
    told,
    training_products,
)
from experiments._benchmark_job import Goal, Output, check_counts, files_of, said_of, subject
from experiments._noise import elbo_of
from experiments._peers import import_torch
from experiments._run import check
from experiments._timing import (
    Bystanders,
    alternate,
    compared,
    machine,
    seconds_of,
    single_figure,
    spread,
    write_results,
)
from vae_jax import figures
from vae_jax.data import lengths_of
from vae_jax.types import PAD

GOAL = 1.5  # times PyTorch's tokens a second
OURS, TORCH = "vae_jax", "torch eager"


@dataclasses.dataclass(frozen=True)
class Text(Output):
    """Time per epoch of one sentence VAE, against the same model in PyTorch.

    Both train the same sizes on the same minibatches of similar lengths, in turns of an epoch
    each. Needs PyTorch: pip install 'vae_jax[bench]'.
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
    import_torch()
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
    theirs = Torch(asked, words, batches, rows, np.asarray(task.test))
    mean_length = max(1, round(float(lengths_of(rows).mean())))
    products = sentence_products(asked, words, mean_length)
    measures = {
        OURS: partial(seconds_of, ours.epoch),
        TORCH: partial(seconds_of, theirs.epoch),
        PRODUCTS: partial(seconds_of, training_products(products, steps)),
    }
    bystanders = Bystanders()
    first = {name: measure() for name, measure in measures.items()}
    turns = alternate(measures, turns=config.turns)
    hardware = machine(bystanders)
    tokens = int(lengths_of(rows).mean() * (len(rows) // config.batch_size * config.batch_size))
    quality = {OURS: ours.cost(np.asarray(task.test)), TORCH: theirs.cost()}
    peers = {
        name: {
            "first_epoch_seconds": first[name],
            **spread(turns[name]),
            "tokens_per_second": tokens / spread(turns[name])["median_seconds"],
            **compared(turns[name], turns[OURS]),
            "test_neg_elbo": quality[name],
        }
        for name in (OURS, TORCH)
    }
    alone = spread(turns[PRODUCTS]) | compared(turns[PRODUCTS], turns[OURS])
    limits = limits_of(
        sentence_cost(products, ours.num_params, config.batch_size, mean_length),
        steps,
        alone["median_seconds"],
        alone["median_of_turn_ratios"],
    )
    times = peers[TORCH]["median_of_turn_ratios"]
    goals = [Goal("times torch, tokens a second", GOAL, times)]
    result = {
        **subject("text", config, None),
        "dataset": config.dataset,
        "tokens_per_epoch": tokens,
        "goals": [goal.as_json() for goal in goals],
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
                **{which: f"{own[f'{which}_seconds']:.3f}" for which in ("median", "min", "max")},
                "tokens/s": f"{own['tokens_per_second']:,.0f}",
                "times ours": f"{own['ratio_of_medians']:.2f}",
                "by turns": f"{own['median_of_turn_ratios']:.2f}",
                "first epoch": f"{own['first_epoch_seconds']:.2f}",
                f"-ELBO, {1 + config.turns} epochs": f"{own['test_neg_elbo']:.2f}",
            }
            for name, own in peers.items()
        ],
        f"An epoch is {len(rows):,} sentences, {tokens:,} tokens with their ends and without what "
        f"fills up. Median, minimum and maximum over {config.turns} turns, in which the two "
        "and the matrix products alone alternate in one process, on the same minibatches of "
        "similar lengths; PyTorch cuts each to its longest sentence, ours to one of three "
        "lengths. Times ours: ratio of the medians; by turns: median of the ratios within a turn. "
        "The first epoch compiles and warms up. PyTorch: nn.GRU, data in memory, "
        "fused Adam, eager. -ELBO in nats per held-out sentence.",
        told(limits) + " Counted for sentences of the mean length.",
        said_of(goals),
    )
    seconds = {name.replace(" ", "_"): np.array(turns[name]) for name in turns}
    figures.save(single_figure(title, turns), files.with_suffix(".png"), **seconds)
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


def sentence_cost(products: Sequence[Product], parameters: int, batch: int, length: int) -> Cost:
    """What a step with these products costs; the weights of a recurrence are counted once."""
    outputs = sum(one.rows * one.outputs * one.times for one in products)
    flops = sum(one.flops for one in products)
    return Cost(flops, moved_bytes(parameters, outputs, batch * length))


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
        self.num_params = sum(leaf.size for leaf in jax.tree.leaves(self._state.params))

    def batches(self, step: int) -> np.ndarray:
        """The minibatches of the epoch that begins at a step."""
        return np.asarray(self._shuffle(jax.random.key(0), jnp.int32(step)))

    def epoch(self) -> None:
        """Train for an epoch."""
        self._state, metrics = self._epoch(self._state, self._data)
        jax.block_until_ready((self._state, metrics))

    def cost(self, test: np.ndarray) -> float:
        """The held-out negative ELBO, nats per sentence."""
        evaluate = elbo_of(self._task.vae, self._task.preprocess)
        return -float(evaluate(self._state.params, jnp.asarray(test)).elbo)


class Torch:
    """The same model as a PyTorch user would write it.

    Args:
        config: of the experiment.
        words: tokens of the vocabulary.
        batches: the minibatches of every epoch.
        rows: the training sentences.
        test: the held-out ones.
    """

    def __init__(
        self,
        config: text.Config,
        words: int,
        batches: list[np.ndarray],
        rows: np.ndarray,
        test: np.ndarray,
    ) -> None:
        torch = import_torch()
        torch.manual_seed(0)
        self._torch = torch
        self._epochs = iter([torch.from_numpy(own.copy()) for own in batches])
        self._rows = torch.from_numpy(rows.astype(np.int64))
        self._test = torch.from_numpy(test.astype(np.int64))
        nn, hidden, embedding, latent = torch.nn, config.hidden, config.embedding, config.latent_dim
        self._model = nn.ModuleDict(
            {
                "read": nn.Embedding(words, embedding),
                "encoder": nn.GRU(embedding, hidden, batch_first=True),
                "posterior": nn.Linear(hidden, 2 * latent),
                "before": nn.Embedding(words, embedding),
                "first": nn.Linear(latent, hidden, bias=False),
                "decoder": nn.GRU(embedding + latent, hidden, batch_first=True),
                "logits": nn.Linear(hidden, words),
            }
        )
        rate = config.learning_rate[0]
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=rate, fused=True)

    def _loss(self, x: Any) -> Any:
        torch, model = self._torch, self._model
        lengths = (x != PAD).sum(1)
        states, _ = model["encoder"](model["read"](x))
        last = states[torch.arange(len(x)), lengths - 1]
        mean, log_var = model["posterior"](last).chunk(2, dim=1)
        z = mean + torch.exp(log_var / 2) * torch.randn_like(mean)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        inputs = torch.cat([model["before"](before), z[:, None].expand(-1, x.shape[1], -1)], dim=2)
        states, _ = model["decoder"](inputs, torch.tanh(model["first"](z))[None])
        logits = model["logits"](states).flatten(0, 1)
        nats = torch.nn.functional.cross_entropy(
            logits, x.flatten(), ignore_index=PAD, reduction="sum"
        )
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
        return (nats + kl) / len(x)

    def epoch(self) -> None:
        """Train for an epoch."""
        for batch in next(self._epochs):
            x = self._rows[batch]
            x = x[:, : int((x != PAD).sum(1).max())]
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(x).backward()
            self._optimizer.step()

    def cost(self) -> float:
        """The held-out negative ELBO, nats per sentence."""
        with self._torch.no_grad():
            return float(self._loss(self._test))
