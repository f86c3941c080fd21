"""Beta-VAEs on MNIST and its relatives: `python -m experiments.mnist --beta 4`."""

import dataclasses
import sys
from functools import partial
from pathlib import Path

from experiments._grid import described
from experiments._images import ImagePictures, image_vae
from experiments._mnist_grid import PIXELS, members_of, run_name, title_of
from experiments._mnist_options import EXPERIMENT, Config, validate
from experiments._noise import elbo_of
from experiments._run import check, main
from experiments._shards import run_grid
from experiments._sweep import Task
from experiments._train import Trained
from vae_jax.data import ImageData, load_images
from vae_jax.objectives import OBJECTIVES
from vae_jax.preprocess import BINARIZE
from vae_jax.train import OPTIMIZERS, make_trainer

PROG = "python -m experiments.mnist"
SMOKE_IMAGES = (1000, 200)  # training and test images of --budget smoke


def run(config: Config) -> None:
    """Train, evaluate and draw, as the configuration says.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged or a slice is missing.
    """
    run_grid(config, validate, prepare)


def prepare(config: Config) -> tuple[Config, Task]:
    """Load the data and build what is trained.

    Args:
        config: with its defaults filled in.

    Returns:
        The configuration, the data set named as it is, and the task.

    Raises:
        UsageError: if the data do not allow it.
    """
    images = load_images(config.dataset, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    if config.budget == "smoke":
        images = _first(images, *SMOKE_IMAGES)
    total = len(images.train_images)
    fits = config.batch_size <= total
    check(fits, "--batch-size", config.batch_size, f"at most the {total} images of {images.name}")
    # What is written down is what was trained, not what was asked for.
    config = dataclasses.replace(config, dataset=images.name)

    vae = image_vae(
        images.train_images.shape[1:],
        hidden=config.hidden,
        latent_dim=config.latent_dim,
        network=config.network,
        activation=config.activation,
        likelihood=config.likelihood,
        scale=config.scale,
        compute_dtype=config.compute_dtype,
    )
    preprocess = BINARIZE[config.binarize]
    trainer = make_trainer(
        vae,
        OBJECTIVES[config.objective](num_samples=config.samples),
        batch_size=config.batch_size,
        optimizer=OPTIMIZERS[config.optimizer],
        preprocess=preprocess,
    )
    pictures = ImagePictures(vae, preprocess, images)
    title = title_of(config)
    return config, Task(
        experiment=EXPERIMENT,
        name=config.name or run_name(config),
        title=title,
        table=(
            f"{config.dataset}, {PIXELS[config.binarize]}, {config.likelihood}: test split, "
            "nats per image (-ELBO at beta 1)"
        ),
        about={
            "dataset": config.dataset,
            "binarize": config.binarize,
            "likelihood": config.likelihood,
            "unit": "nats per image on the test split, at beta 1",
        },
        members=members_of(config, total),
        vae=vae,
        preprocess=preprocess,
        trainer=trainer,
        evaluate=elbo_of(vae, preprocess),
        data=images.train_images,
        test=images.test_images,
        batch_size=config.batch_size,
        picture=pictures.reconstruct,
        draw=partial(_draw, pictures, title),
        source={"source": images.source, "sha256": images.sha256},
        labels=(images.train_labels, images.test_labels),
    )


def _first(images: ImageData, train: int, test: int) -> ImageData:
    """The first images of both splits."""
    return images._replace(
        train_images=images.train_images[:train],
        train_labels=images.train_labels[:train],
        test_images=images.test_images[:test],
        test_labels=images.test_labels[:test],
    )


def _draw(pictures: ImagePictures, title: str, result: Trained, folder: Path) -> None:
    parts = [title, described(result.member.setting), f"seed {result.member.seed}"]
    if result.problem:
        parts.append(f"diverged after epoch {result.rows[-1]['epoch']}")
    pictures.draw(result, folder, title=" · ".join(filter(None, parts)))


if __name__ == "__main__":
    main(Config, run, PROG)
