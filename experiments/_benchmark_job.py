"""What the jobs of the benchmark share: their options, their checks and their files."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, Literal

import jax

from experiments._run import UsageError, as_json, check, commit, flag_of
from vae_jax.data import ImageData, default_cache_dir, load_images

# What neither changes the measurement nor belongs into a file that is shared.
NOT_A_SETTING = {"dataset", "data_dir", "output_dir", "overwrite"}


@dataclasses.dataclass(frozen=True)
class Job:
    """What every job has to be told."""

    dataset: Literal["auto", "mnist", "fashion_mnist", "kmnist", "digits"] = "auto"
    """auto: MNIST, or the digits of scikit-learn with a warning where it cannot be had."""
    data_dir: Path | None = None
    """Folder with the official files in mnist/; VAE_JAX_DATA without it."""
    output_dir: Path = Path("results")
    """The files are written to benchmark/ below it."""
    overwrite: bool = False
    """Replace the files of an earlier measurement."""


def check_counts(config: Job, *fields: str) -> None:
    """Refuse a setting, or one of its several values, that is under 1.

    Raises:
        UsageError: naming the value.
    """
    for field in fields:
        values = getattr(config, field)
        for value in values if isinstance(values, tuple) else (values,):
            check(value >= 1, flag_of(field), value, "a whole number of 1 or more is needed")


def begin(job: str, config: Job, device: Literal["cpu", "gpu"] = "cpu") -> tuple[Path, ImageData]:
    """Where to write, without an ending and known to be writable, and the data.

    Raises:
        UsageError: if the device, the folder or an earlier result does not allow it.
    """
    backend = jax.default_backend()
    if device == "cpu":
        needed = "the CPU is measured, JAX_PLATFORMS=cpu is needed"
        check(backend == "cpu", "JAX_PLATFORMS", backend, needed)
    elif backend != "gpu":
        needed = "a GPU and pip install 'vae_jax[cuda]' are needed"
        raise UsageError(f"--device gpu: the backend is {backend}, {needed}")
    folder = config.output_dir / "benchmark"
    files = folder / f"{job}-{device}"
    free = config.overwrite or not files.with_suffix(".json").exists()
    check(free, "--output-dir", folder, f"{files.name}.json exists; --overwrite replaces it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir {folder}: cannot be written ({error.strerror})") from None
    check(os.access(folder, os.W_OK), "--output-dir", folder, "cannot be written")
    images = load_images(config.dataset, config.data_dir)
    if images.warning is not None:
        print(f"warning: {images.warning}", file=sys.stderr)
    print(images.source, flush=True)
    return files, images


def subject(job: str, config: Job, images: ImageData) -> dict[str, Any]:
    """What was measured, on which data, by which code and with which settings."""
    settings = as_json(config)
    return {
        "job": job,
        "dataset": images.name,
        "source": images.source,
        "commit": commit(),
        "settings": {key: settings[key] for key in settings if key not in NOT_A_SETTING},
    }


def isolated(scratch: Path) -> tuple[Path, dict[str, str]]:
    """Empty caches below a folder, and the environment of a process that uses them.

    A download is no part of what is measured: the data set that was just loaded is at hand.
    """
    caches = scratch / "vae_jax"
    caches.mkdir()
    (caches / "datasets").symlink_to(default_cache_dir().absolute())
    return caches, environment(scratch)


def environment(cache: Path) -> dict[str, str]:
    """This process's, with caches of its own and with this checkout to import from."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    # A cache that the user has set would be filled already.
    variables.pop("JAX_COMPILATION_CACHE_DIR", None)
    roots = (str(Path(__file__).parents[1]), variables.get("PYTHONPATH"))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, roots))
    return variables


def data_arguments(config: Job, images: ImageData) -> list[str]:
    """The flags that make an experiment train on the data that were loaded."""
    folder = [] if config.data_dir is None else ["--data-dir", str(config.data_dir)]
    return ["--dataset", images.name, *folder]
