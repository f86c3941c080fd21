"""What a run detects anomalies in: its data, the tasks made of them, and the model."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments._anomaly_options import Config
from experiments._completed import complete
from experiments._folds import as_subsets, each_once, split_of
from experiments._images import image_vae
from experiments._outliers import Detection, image_tasks, table_tasks
from vae_jax.data import load_images
from vae_jax.model import VAE
from vae_jax.networks import ACTIVATIONS
from vae_jax.preprocess import BINARIZE, Preprocess, as_stored
from vae_jax.sweep import Subsets
from vae_jax.tabular import make_table_vae

# What the runs of images are called, and what is loaded for each: without MNIST digits stand for
# it, under a name that tells them from the table.
IMAGES = {"mnist": "auto", "digits28": "digits"}
Halves = Callable[[tuple[int, int]], tuple[np.ndarray, np.ndarray]]  # task -> (train, test)


@dataclasses.dataclass(frozen=True)
class Problem:
    """What one run detects anomalies in.

    Attributes:
        name: of the data that were really loaded.
        task: which of `PROTOCOLS`.
        features: the column that each feature belongs to; none of images.
        vae: the model.
        preprocess: from a stored example to x.
        tasks: by the class that is left out (-1: always the same) and the seed.
        data: the normal training examples of each task, cut to the same number.
        test: the normal test examples of each task, of which none is left out.
        halves: `task -> (train, test)`, stored examples to score.
        plain: `task -> (train, test)`, complete and on one scale, for the methods beside ours.
        source: for the provenance.
    """

    name: str
    task: str
    features: Sequence[str]
    vae: VAE
    preprocess: Preprocess
    tasks: Mapping[tuple[int, int], Detection]
    data: Subsets
    test: Subsets
    halves: Halves
    plain: Halves
    source: dict[str, Any]


def of_table(config: Config, name: str) -> Problem:
    """The tasks of a table that scikit-learn carries, and its model.

    Args:
        config: with its defaults filled in.
        name: of the table.

    Returns:
        The problem.
    """
    assert config.hidden is not None
    source, tasks = table_tasks(name, config.seed)
    splits = {key: split_of(source, task.train, task.test) for key, task in tasks.items()}
    normals = [
        split._replace(test_features=split.test_features[~tasks[key].is_anomaly])
        for key, split in splits.items()
    ]
    data, test = as_subsets(normals)
    first = next(iter(splits.values()))
    vae = make_table_vae(
        first.encoding.blocks,
        hidden=config.hidden,
        latent_dim=config.latent_dim[0],
        activation=ACTIVATIONS[config.activation],
    )

    def halves(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return splits[key].train_features, splits[key].test_features

    def plain(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        train, test = (complete(splits[key], half) for half in halves(key))
        return train, test

    about = {"source": source.source, "sha256": source.sha256}
    return Problem(
        name=name,
        task=name,
        features=[source.columns[index].name for index in first.encoding.column_of],
        vae=vae,
        preprocess=as_stored,
        tasks=tasks,
        data=data,
        test=test,
        halves=halves,
        plain=plain,
        source=about,
    )


def of_images(config: Config) -> Problem:
    """The tasks of MNIST, or of the digits that stand in for it, and their model.

    Args:
        config: with its defaults filled in.

    Returns:
        The problem.

    Raises:
        DataError: if the data cannot be read.
    """
    assert config.hidden is not None
    images = load_images(IMAGES[config.dataset[0]], config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    vae = image_vae(
        images.train_images.shape[1:],
        hidden=config.hidden,
        latent_dim=config.latent_dim[0],
        network=config.network,
        activation=config.activation,
        likelihood=config.likelihood,
        scale=config.scale,
    )
    tasks = image_tasks(images.train_labels, images.test_labels, config.seed)
    normal = [task.test[~task.is_anomaly] for task in tasks.values()]

    def halves(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        return images.train_images[tasks[key].train], images.test_images[tasks[key].test]

    def plain(key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        vectors = (half.reshape(len(half), -1) for half in halves(key))
        bits = config.binarize == "threshold"
        train, test = ((half >= 128).astype(np.float32) if bits else half / 255 for half in vectors)
        return train, test

    return Problem(
        name="mnist" if images.name == "mnist" else f"{images.name}28",
        task="mnist",
        features=(),
        vae=vae,
        preprocess=BINARIZE[config.binarize],
        tasks=tasks,
        data=Subsets(images.train_images, np.array([t.train for t in tasks.values()], np.int32)),
        test=each_once(images.test_images, normal),
        halves=halves,
        plain=plain,
        source={"source": images.source, "sha256": images.sha256},
    )
