"""Frey Face: 1,965 frames of one face from a short film, the small data set of the first VAE."""

import hashlib
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vae_jax.data.download import UnavailableError, one_line
from vae_jax.data.idx import DataError
from vae_jax.data.images import find_data_dir

FREY_FACES = "frey_faces/frey_faces.npy"
_SHAPE = (1965, 28, 20)
_TRAIN, _SEED = 1765, 0
_LONGEST_HEADER = 4096  # bytes; that of NumPy takes 128


class FaceData(NamedTuple):
    """Faces, and what is needed to say which ones they were.

    Attributes:
        name: of the data set.
        train_images: intensities 0 to 255, 28 x 20 x 1.
        test_images: as `train_images`.
        source: where they were found.
        sha256: checksum of the file.
    """

    name: str
    train_images: UInt8[np.ndarray, "train height width channels"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    source: str
    sha256: dict[str, str]


def load_frey_faces(data_dir: Path | None = None) -> FaceData:
    """Load Frey Face from the user's data folder; there is no official place to download it from.

    The frames are split by a fixed seed into 1,765 to train on and 200 to test on. A random
    split is the custom (1,565 + 200 + 200, the second part for validation, which is in the
    training part here), and an easy one: neighbouring frames of a film are alike.

    Args:
        data_dir: folder that holds `frey_faces/frey_faces.npy`; None stands for the environment
            variable VAE_JAX_DATA.

    Returns:
        The faces.

    Raises:
        UnavailableError: if there is no such file.
        DataError: if data_dir is no folder, or the file is not 1,965 x 28 x 20 uint8.
    """
    folder = find_data_dir(data_dir)
    advice = f"put it in FOLDER/{FREY_FACES} and pass --data-dir FOLDER"
    if folder is None or not os.path.lexists(folder / FREY_FACES):
        where = "no data folder is known" if folder is None else f"no {FREY_FACES} in {folder}"
        raise UnavailableError(f"frey_faces: {where}; {advice}")
    images, sha256 = _read(folder / FREY_FACES)
    # NumPy promises this generator's stream for good; that of `default_rng` may change.
    order = np.random.RandomState(_SEED).permutation(len(images))
    return FaceData(
        name="frey_faces",
        train_images=images[order[:_TRAIN]],
        test_images=images[order[_TRAIN:]],
        source=f"Frey Face, {FREY_FACES} of the data folder",
        sha256={Path(FREY_FACES).name: sha256},
    )


def _read(path: Path) -> tuple[UInt8[np.ndarray, "n height width 1"], str]:
    """The images of a file, and its checksum."""
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    needed = f"{' x '.join(map(str, _SHAPE))} uint8 is needed"
    longest = math.prod(_SHAPE) + _LONGEST_HEADER
    try:
        with path.open("rb") as file:
            content = file.read(longest + 1)
        if not content.startswith(np.lib.format.MAGIC_PREFIX) or len(content) > longest:
            raise DataError(f"{path}: not a .npy file, or too long a one; {needed}")
        # Mapped, so that a header that promises more than the file holds costs nothing.
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except DataError:
        raise
    except Exception as error:  # whatever NumPy's parser of headers stumbles over
        raise DataError(f"{path}: a damaged .npy file ({one_line(error)})") from None
    if images.shape != _SHAPE or images.dtype != np.uint8:
        found = f"{' x '.join(map(str, images.shape))} {images.dtype}"
        raise DataError(f"{path}: {found}, {needed}")
    return np.array(images)[..., None], hashlib.sha256(content).hexdigest()
