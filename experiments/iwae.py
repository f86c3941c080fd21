"""Table 1 of Importance Weighted Autoencoders: `python -m experiments.iwae --budget cpu`.

The set-up is that of the paper and its authors' code: tanh networks 784-200-200-50, or with a
second stochastic layer 784-200-200-100-100-100-50; minibatches of 20 images, binarised anew at each
visit; Adam with epsilon 1e-4; 3^i passes at the learning rate 1e-3 * 10^(-i / 7) for i = 0 to 7,
3,280 in all, of which a smaller budget, or `--epochs`, makes each stage shorter by the same factor.
Three things are ours: the layers start as everywhere in this package, the KL of the ELBO is exact
where it can be, with one stochastic layer, and Adam's first moment decays by 0.9, as in the paper,
where the authors' code has 0.99 and a second moment that starts at one.

Reference:
    Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (arXiv 1509.00519),
    section 5 and table 1; https://github.com/yburda/iwae.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike

from experiments._folder import RunFolder
from experiments._grid import Axis, grid
from experiments._importance import importance_of, summed_up
from experiments._iwae_report import write_table
from experiments._noise import EVALUATION_SEED, elbo_of
from experiments._options import RunOptions
from experiments._parts import (
    Part,
    PartsOptions,
    check_length,
    check_parts,
    part_settings,
    run_parts,
    start_parts,
)
from experiments._run import check, check_counts, check_once, main
from experiments._sweep import Task
from experiments._train import Trained
from vae_jax.data import ImageData, load_images
from vae_jax.evaluation import active_units, encode_all, posterior_mean_variance
from vae_jax.likelihoods import bernoulli
from vae_jax.model import VAE, make_vae
from vae_jax.networks import ACTIVATIONS, mlp, two_layer_mlp
from vae_jax.objectives import elbo, iwae
from vae_jax.preprocess import binarize_dynamic
from vae_jax.train import OptimizerOf, make_trainer
from vae_jax.two_layer import make_two_layer_vae
from vae_jax.types import Scalar

EXPERIMENT = "iwae"
PROG = "python -m experiments.iwae"
BATCH_SIZE = 20
STAGES = 8  # of the learning rate; each is three times as long as the one before
# Passes through the training images; the last is the paper's.
EPOCHS = {"smoke": 1, "cpu": 10, "full": 3280}
NUM_SAMPLES = {"smoke": 50, "cpu": 5000, "full": 5000}
SMOKE_IMAGES = (1000, 100)  # training and test images of --budget smoke

Method = Literal["vae", "iwae"]


@dataclasses.dataclass(frozen=True)
class Config(PartsOptions):
    """Train VAEs and IWAEs with k samples on MNIST, and compare their log-likelihoods.

    Every combination of method and k is a program of its own; its seeds are trained as one
    sweep. With k = 1 both bounds are the ELBO, and it is trained once, with the exact KL.
    """

    LENGTH: ClassVar[str] = "epochs"
    PARTS: ClassVar[tuple[str, ...]] = ("k", "layers")

    epochs: int | None = None
    """Passes through the training images, over all stages of the learning rate; those of the
    budget without it."""
    k: tuple[int, ...] = (1, 5, 50)
    """Samples of each posterior in the bound."""
    method: tuple[Method, ...] = ("vae", "iwae")
    """vae: the mean of k ELBOs; iwae: the importance-weighted bound of k samples."""
    layers: tuple[int, ...] = (1,)
    """Stochastic layers, 1 or 2."""


@dataclasses.dataclass(frozen=True)
class PartConfig(RunOptions):
    """One row of the table."""

    name: str = "part"
    dataset: str = "auto"
    method: Method = "vae"
    k: int = 1
    layers: int = 1
    seed: tuple[int, ...] = (0,)
    num_samples: int = 5000
    images: tuple[int, ...] = ()
    data_dir: Path | None = None


@functools.cache
def load(dataset: str, data_dir: Path | None) -> ImageData:
    """The images, read once for all parts.

    Raises:
        DataError: if they cannot be had.
    """
    return load_images(dataset, data_dir)


def validate(config: Config) -> Config:
    """Refuse what cannot be trained, before anything is read or written.

    Returns:
        The configuration; a length that is the budget's own counts as not given.

    Raises:
        UsageError: naming the value and what is allowed.
    """
    check_parts(config, EXPERIMENT)
    check_once("--k", config.k, "at least one value is needed")
    check_once("--method", config.method, "at least one value is needed")
    for layers in config.layers:
        check(layers in (1, 2), "--layers", layers, "1 or 2 is needed")
    check_once("--layers", config.layers, "1 or 2 is needed")
    check_counts(config, "k")
    return check_length(config, EPOCHS[config.budget], most=EPOCHS["full"])


def parts_of(config: Config) -> list[PartConfig]:
    """The rows of the table, in the order of the paper."""
    smoke, epochs = config.budget == "smoke", config.epochs or EPOCHS[config.budget]
    rows: list[tuple[Method, int, int]] = [
        (method, k, layers)
        for layers in config.layers
        for method in config.method
        for k in config.k
        # The importance-weighted bound of one sample is the ELBO.
        if not (method == "iwae" and k == 1 and "vae" in config.method)
    ]
    return [
        PartConfig(
            **part_settings(config, _name(method, k, layers), passes(epochs)),
            method=method,
            k=k,
            layers=layers,
            seed=config.seed,
            epochs=epochs,
            num_samples=NUM_SAMPLES[config.budget],
            images=SMOKE_IMAGES if smoke else (),
            data_dir=config.data_dir,
        )
        for method, k, layers in rows
    ]


def _name(method: Method, k: int, layers: int) -> str:
    return f"{method}-k{k}" + ("" if layers == 1 else "-2")


def passes(epochs: int) -> int:
    """Epochs between two rows of `metrics.csv`, of which there is a whole number."""
    return 10 if epochs >= 1000 and epochs % 10 == 0 else 1


def staged(steps: int) -> OptimizerOf:
    """Adam whose step size falls in eight stages, each three times as long as the one before.

    Stage i takes 3^i / 3280 of the steps, at 10^(-i / 7) of the learning rate.

    Args:
        steps: of the whole training.

    Returns:
        From a learning rate to the optimiser.
    """
    lengths = 3.0 ** np.arange(STAGES)
    ends = np.round(steps * np.cumsum(lengths) / np.sum(lengths))[:-1]

    def rate(step: ArrayLike) -> Array:
        stage = jnp.sum(jnp.asarray(step) >= ends)
        return 10.0 ** (-stage / (STAGES - 1))

    def optimizer(learning_rate: Scalar) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_adam(eps=1e-4),
            optax.scale_by_schedule(rate),
            optax.scale_by_learning_rate(learning_rate),
        )

    return optimizer


def build_vae(layers: int, x_shape: Sequence[int]) -> VAE:
    """The model of the paper, with one stochastic layer or two."""
    tanh = ACTIVATIONS["tanh"]
    shape = {"x_shape": x_shape, "theta_dim": 1, "activation": tanh}
    if layers == 1:
        networks = mlp((200, 200), latent_dim=50, **shape)
        return make_vae(*networks, bernoulli(), x_shape=x_shape, latent_dim=50)
    sizes = (100, 50)
    networks = two_layer_mlp(((200, 200), (100, 100)), latent_dims=sizes, **shape)
    return make_two_layer_vae(*networks, bernoulli(), x_shape=x_shape, latent_dims=sizes)


def prepare_part(config: PartConfig) -> tuple[PartConfig, Task]:
    """Load the images and build what one row of the table trains.

    Args:
        config: of the row.

    Returns:
        The configuration, the data set named as it is, and the task.

    Raises:
        DataError: if the images cannot be had.
    """
    images = load(config.dataset, config.data_dir)
    config = dataclasses.replace(config, dataset=images.name)
    train, test = images.train_images, images.test_images
    if config.images:
        train, test = train[: config.images[0]], test[: config.images[1]]
    vae = build_vae(config.layers, train.shape[1:])
    objective = {"vae": elbo, "iwae": iwae}[config.method](config.k)
    trainer = make_trainer(
        vae,
        objective,
        batch_size=BATCH_SIZE,
        optimizer=staged(config.epochs * (len(train) // BATCH_SIZE)),
        preprocess=binarize_dynamic,
    )

    label = f"{config.method.upper()} k = {config.k}"
    layers = "one stochastic layer" if config.layers == 1 else "two stochastic layers"
    epochs = f"{config.epochs:,} of {EPOCHS['full']:,} epochs"
    title = f"{images.name} · {label} · {layers} · {epochs}"
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name,
        title=title,
        table=f"{images.name}, dynamically binarised: test split, nats per image",
        about={
            "dataset": images.name,
            "binarize": "dynamic",
            "likelihood": "bernoulli",
            "unit": "nats per image on the test split",
        },
        members=grid([Axis("learning_rate", (1e-3,), "learning_rate")], config.seed, lead=None),
        vae=vae,
        preprocess=binarize_dynamic,
        trainer=trainer,
        evaluate=elbo_of(vae, binarize_dynamic),
        data=train,
        test=test,
        batch_size=BATCH_SIZE,
        source={"source": images.source, "sha256": images.sha256},
        measure=functools.partial(_measure, vae, test, config.num_samples),
        passes=passes(config.epochs),
        labels=(images.train_labels[: len(train)], images.test_labels[: len(test)]),
    )


def _measure(
    vae: VAE, test: np.ndarray, num_samples: int, trained: list[Trained], folder: RunFolder
) -> list[dict[str, float]]:
    """The log-likelihood and the active units of each model; the spectra go to a file."""
    key, found, spectra = jax.random.key(EVALUATION_SEED), [], {}
    for one in trained:
        if one.problem is not None:
            found.append({})
            continue
        model = (vae, binarize_dynamic, one.params)
        estimate = importance_of(
            key, *model, jnp.asarray(test), num_samples=num_samples, name=one.member.name
        )
        posteriors = encode_all(key, *model, jnp.asarray(test))
        spectra[one.member.name] = np.asarray(posterior_mean_variance(posteriors))
        found.append({**summed_up(estimate), "active_units": float(active_units(posteriors))})
    folder.write_json("spectra.json", {name: list(map(float, v)) for name, v in spectra.items()})
    return found


def run(config: Config) -> None:
    """Train every row of the table, and draw it beside the paper's.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    config = validate(config)
    warning = load("auto", config.data_dir).warning
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr)
    parts = [Part(*prepare_part(part)) for part in parts_of(config)]
    folder = start_parts(config, EXPERIMENT)
    results = run_parts(folder, parts)
    write_table(folder, config.budget, [part.config for part in parts], results)


if __name__ == "__main__":
    main(Config, run, PROG)
