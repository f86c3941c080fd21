"""What one objective of `experiments.disentangle` trains, how it is scored and drawn."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments._disentangle_grid import Grid, load_grid, split
from experiments._folder import RunFolder
from experiments._grid import Axis, Member, described, grid
from experiments._images import TRAVERSAL, decoded_means
from experiments._noise import EVALUATION_SEED, elbo_of
from experiments._options import RunOptions
from experiments._sweep import Task
from experiments._train import Trained
from vae_jax.evaluation import ACTIVE_KL, disentanglement, encode_all
from vae_jax.likelihoods import bernoulli
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, MLPDecoder, MLPEncoder, conv
from vae_jax.objectives import OBJECTIVES
from vae_jax.sprites import factors_of, index_of
from vae_jax.train import make_trainer

EXPERIMENT = "disentangle"
CHANNELS = (32, 32, 64, 64)
# Of the steps, how many the capacity rises over: the 100,000 of 300,000 of arXiv 1811.12359.
RISE = 1 / 3
SHOWN = (2, 5, 0, 16, 16)  # factors of the image that is traversed: a large heart, in the middle

Dataset = Literal["sprites", "dsprites"]
Network = Literal["conv", "mlp"]
ObjectiveName = Literal["beta", "capacity", "beta_tc"]


@dataclasses.dataclass(frozen=True)
class PartConfig(RunOptions):
    """The models of one objective."""

    name: str = "part"
    objective: ObjectiveName = "beta"
    strength: tuple[float, ...] = (1.0,)
    seed: tuple[int, ...] = (0,)
    gamma: float = 100.0
    dataset: Dataset = "sprites"
    network: Network = "mlp"
    hidden: tuple[int, ...] = ()
    latent_dim: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    images: int = 64_000
    held_out: int = 3000
    data_dir: Path | None = None

    @property
    def field(self) -> str:
        """The setting that its models differ in."""
        return "capacity" if self.objective == "capacity" else "beta"

    @property
    def steps(self) -> int:
        """Minibatches that a model sees."""
        return self.epochs * (self.images // self.batch_size)


def members_of(config: PartConfig) -> list[Member]:
    """Every strength of the objective with every seed."""
    rest = {
        "learning_rate": config.learning_rate,
        "gamma": config.gamma,
        "capacity_steps": config.steps * RISE,
        "num_examples": float(config.images),
    }
    members = grid(
        [Axis(config.field, config.strength, config.field)], config.seed, lead=config.field
    )
    return [member._replace(hyper=member.hyper._replace(**rest)) for member in members]


def build_vae(config: PartConfig) -> VAE:
    """The model, of 64 x 64 bits."""
    likelihood, x_shape = bernoulli(), (64, 64, 1)
    if config.network == "conv":
        encoder, decoder = conv(
            config.hidden,
            x_shape=x_shape,
            latent_dim=config.latent_dim,
            theta_dim=likelihood.theta_dim,
            channels=CHANNELS,
        )
    else:
        theta_shape = (*x_shape, likelihood.theta_dim)
        encoder = MLPEncoder(config.hidden, config.latent_dim)
        # With ReLU here x, y and scale do not part within the steps of the smaller budgets.
        decoder = MLPDecoder(config.hidden[::-1], theta_shape, ACTIVATIONS["tanh"])
    return make_vae(encoder, decoder, likelihood, x_shape=x_shape, latent_dim=config.latent_dim)


def prepare_part(config: PartConfig) -> tuple[PartConfig, Task]:
    """Build what the models of one objective train on.

    Args:
        config: of the part.

    Returns:
        The configuration and the task.

    Raises:
        DataError: if the images cannot be had.
    """
    found = load_grid(config.dataset, config.data_dir)
    train, held_out = split(config.images, config.held_out)
    vae, test = build_vae(config), found.stored(held_out)
    trainer = make_trainer(
        vae,
        OBJECTIVES[config.objective](),
        batch_size=config.batch_size,
        preprocess=found.preprocess,
    )

    title = " · ".join([config.dataset, config.objective, *model_words(config)])
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name,
        title=title,
        table=f"{config.dataset}, {config.objective}: held-out images, nats per image",
        about={
            "dataset": config.dataset,
            "likelihood": "bernoulli",
            "unit": "nats per image on held-out images, at beta 1",
        },
        members=members_of(config),
        vae=vae,
        preprocess=found.preprocess,
        trainer=trainer,
        evaluate=elbo_of(vae, found.preprocess),
        data=found.stored(train),
        test=test,
        batch_size=config.batch_size,
        source=found.source,
        measure=partial(_measure, vae, found, held_out),
        draw=partial(_draw, vae, found, title, config.seed[0]),
    )


def model_words(config: PartConfig) -> list[str]:
    """What the models are, and what they saw, in words for a title."""
    widths = "-".join(map(str, config.hidden)) or "linear"
    seen = config.steps * config.batch_size
    return [
        f"{config.network} {widths}",
        f"z {config.latent_dim}",
        f"{seen:,} images seen ({config.steps:,} steps of {config.batch_size})",
    ]


def _measure(
    vae: VAE, found: Grid, held_out: np.ndarray, trained: list[Trained], folder: RunFolder
) -> list[dict[str, float]]:
    """The five scores of each model, from its posterior means of the held-out images."""
    key_encode, key_scores = jax.random.split(jax.random.key(EVALUATION_SEED))
    factors = np.asarray(jax.vmap(factors_of)(jnp.asarray(held_out)))
    test, scores = jnp.asarray(found.stored(held_out)), []
    for one in trained:
        if one.problem is not None:
            scores.append({})
            continue
        print(f"scores of {one.member.name}", flush=True)
        means = encode_all(key_encode, vae, found.preprocess, one.params, test).mean
        # A collapsed dimension is noise at a small scale, and scores do not see the scale.
        active = np.asarray(one.final.kl_per_dim) > ACTIVE_KL
        codes = np.where(active[None, :], np.asarray(means), 0.0)
        scores.append(disentanglement(key_scores, codes, factors)._asdict())
    return scores


def _draw(
    vae: VAE, found: Grid, title: str, first_seed: int, trained: Trained, folder: Path
) -> None:
    """Traversals from the posterior mean of one image, for the models of the first seed."""
    # Here, not above: Matplotlib is not needed before training ends.
    from vae_jax import figures

    if trained.member.seed != first_seed:
        return
    place = np.asarray(index_of(jnp.asarray(SHOWN)))
    key, example = jax.random.key(EVALUATION_SEED), jnp.asarray(found.stored(place[None]))
    mean = np.asarray(encode_all(key, vae, found.preprocess, trained.params, example).mean[0])
    kl = np.asarray(trained.final.kl_per_dim)
    dims = np.argsort(-kl, kind="stable")
    zs = np.tile(mean, (len(dims), len(TRAVERSAL), 1))
    zs[np.arange(len(dims)), :, dims] = TRAVERSAL
    flat = jnp.asarray(zs.reshape(-1, vae.latent_dim))
    images = np.asarray(decoded_means(vae, trained.params, flat))
    images = images.reshape(*zs.shape[:2], *images.shape[1:])
    words = [title, described(trained.member.setting), f"seed {trained.member.seed}"]
    figures.save(
        figures.traversals(images, TRAVERSAL, dims, title=" · ".join(words), kl=kl[dims]),
        folder / "traversals.png",
        # As they are drawn: in float32 the file would be thirty times as large.
        images=np.round(255 * images).astype(np.uint8),
        values=TRAVERSAL,
        dims=dims,
        kl=kl[dims],
    )
