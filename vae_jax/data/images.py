"""Images: MNIST, Fashion-MNIST, Kuzushiji-MNIST, and the digits of scikit-learn.

Three doors, tried in this order: the official files in a folder of the user's; TensorFlow
Datasets, which downloads and verifies them once; and, for "auto" alone, the small digits
that scikit-learn carries. What was really loaded, and from where, stands in the result.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.data.download import UnavailableError, default_cache_dir, fetch_official
from vae_jax.data.idx import FILES, SHA256, Arrays, DataError, read_official
from vae_jax.data.memory import aligned

DATASETS = ("auto", "mnist", "fashion_mnist", "kmnist", "digits")

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "digits": tuple("0123456789"),
}

_DIGITS_TRAIN = 1437
_DIGITS_SEED = 0


class ImageData(NamedTuple):
    """A data set of grey images, and what is needed to say which one it was.

    Attributes:
        name: what was really loaded; never "auto".
        train_images: intensities 0 to 255, 28 x 28 x 1; read-only, as JAX may use their memory.
        train_labels: classes 0 to 9.
        test_images: as `train_images`.
        test_labels: as `train_labels`.
        class_names: the name of each class.
        source: the door it came through, with the version of the library behind it.
        sha256: checksum of each official `.gz` file, or of each array for "digits".
        warning: what the user should be told, or None: "auto" fell back to other data, or
            the cache was damaged or could not be written.
    """

    name: str
    train_images: UInt8[np.ndarray, "train height width channels"]
    train_labels: UInt8[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    test_labels: UInt8[np.ndarray, " test"]
    class_names: tuple[str, ...]
    source: str
    sha256: dict[str, str]
    warning: str | None = None


def load_images(
    name: str, data_dir: Path | None = None, cache_dir: Path | None = None
) -> ImageData:
    """Load a data set of images.

    Args:
        name: one of `DATASETS`. "auto" is MNIST, or "digits" with a warning where MNIST
            can neither be read nor downloaded; the others never fall back. "digits" are
            1,437 + 360 real digits of 8 x 8, brought to 28 x 28, split by a fixed seed;
            they need neither folder.
        data_dir: folder that holds the official files in `<data_dir>/<name>/`; None stands
            for the environment variable VAE_JAX_DATA, if it is set. Without a folder
            `<name>` in it the data are downloaded; with one, it must be whole.
        cache_dir: where downloaded data are kept, or None for `default_cache_dir()`.

    Returns:
        The data set.

    Raises:
        DataError: if the name is unknown, data_dir is no folder, a file in
            `<data_dir>/<name>/` is missing or damaged, or the data cannot be downloaded.
    """
    if name not in DATASETS:
        raise DataError(f"data set {name!r}: not one of {', '.join(DATASETS)}")
    if name == "digits":
        return _load_digits()
    wanted = "mnist" if name == "auto" else name

    looked_in = find_data_dir(data_dir)
    # lexists: a link that points nowhere is a damaged data set, not an absent one.
    if looked_in is not None and os.path.lexists(looked_in / wanted):
        folder = looked_in / wanted
        arrays = read_official(wanted, {file: folder / file for file in SHA256[wanted]})
        return _official(wanted, arrays, f"official IDX files, {wanted}/ of the data folder")

    try:
        fetched = fetch_official(wanted, default_cache_dir() if cache_dir is None else cache_dir)
    except UnavailableError as error:
        reason = str(error)
        if looked_in is not None:
            reason = f"no folder {wanted} in {looked_in}, and {reason}"
        files = ", ".join(file for file, _ in FILES.values())
        advice = f"put its official files ({files}) in FOLDER/{wanted} and pass --data-dir FOLDER"
        if name != "auto":
            raise DataError(f"{wanted}: {reason}; {advice}, or use --dataset digits") from error
        digits = _load_digits()
        count = len(digits.train_images) + len(digits.test_images)
        warning = (
            f"{wanted} is not available ({reason}): the {count} small digits of scikit-learn "
            f"stand in for it; for {wanted}, {advice}"
        )
        return digits._replace(warning=warning)
    return _official(wanted, *fetched)


def find_data_dir(data_dir: Path | None) -> Path | None:
    """The folder that holds the user's data: the one given, or VAE_JAX_DATA; None without one.

    Raises:
        DataError: if it is no folder, or may not be read.
    """
    given = os.environ.get("VAE_JAX_DATA") if data_dir is None else data_dir
    if not given:
        return None
    found = Path(os.path.expanduser(given))
    if not (os.path.isdir(found) and os.access(found, os.R_OK | os.X_OK)):
        whose = "VAE_JAX_DATA" if data_dir is None else "data folder"
        raise DataError(f"{whose} {found}: no such folder, or it may not be read")
    return found


def _official(name: str, arrays: Arrays, source: str, warning: str | None = None) -> ImageData:
    return ImageData(
        name,
        *arrays,
        class_names=CLASS_NAMES[name],
        source=source,
        sha256=dict(SHA256[name]),
        warning=warning,
    )


def _load_digits() -> ImageData:
    import sklearn
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    # 127.5 goes to the even 128; no other value lies half-way.
    images = np.rint(_enlarge(bunch.images) * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.uint8)
    # NumPy promises this generator's stream for good; that of `default_rng` may change.
    order = np.random.RandomState(_DIGITS_SEED).permutation(len(images))
    train, test = order[:_DIGITS_TRAIN], order[_DIGITS_TRAIN:]
    parts = images[train], labels[train], images[test], labels[test]
    arrays = Arrays(*map(aligned, parts))
    return ImageData(
        "digits",
        *arrays,
        class_names=CLASS_NAMES["digits"],
        source=f"scikit-learn {sklearn.__version__}, load_digits, 8 x 8 brought to 28 x 28",
        sha256={
            part: hashlib.sha256(array.tobytes()).hexdigest()
            for part, array in arrays._asdict().items()
        },
    )


def _enlarge(images: Float[np.ndarray, "n 8 8"]) -> Float[np.ndarray, "n 28 28"]:
    """Bring 8 x 8 images to 28 x 28 by area: the exact mean of what each new pixel covers.

    A new pixel is 2/7 of an old one wide, so every old pixel is repeated 7 x 7 and means
    are taken over 2 x 2. An image keeps its mean.
    """
    fine = images.repeat(7, axis=1).repeat(7, axis=2)
    return fine.reshape(-1, 28, 2, 28, 2).mean(axis=(2, 4))
