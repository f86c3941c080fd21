"""The published images of dSprites; reading them needs h5py, `pip install -e '.[dsprites]'`.

Two doors, tried in this order: the official file in a folder of the user's; TensorFlow
Datasets, which knows its address, downloads it once and verifies it.
"""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vae_jax.data.download import UnavailableError, default_cache_dir, download_official, one_line
from vae_jax.data.files import check_official
from vae_jax.data.idx import DataError
from vae_jax.data.images import find_data_dir

FILE = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.hdf5"
SHA256 = "729fa22e884c9c500e1f17415d580746b4c5894fbbb780a1319bbcfa39a745bb"
"""Checksum of the official file, as TensorFlow Datasets has it."""

SIZES = (1, 3, 6, 40, 32, 32)
"""How many values each factor takes: colour, shape, scale, orientation, x, y."""

_SIDE = 64
_AT_ONCE = 4096  # images that are unpacked together


class DSprites(NamedTuple):
    """The images of dSprites and where they came from.

    Attributes:
        images: bits, eight to a byte along the rows of an image (`numpy.packbits`); one image
            for each combination of the factors, the last factor fastest.
        source: the door that they came through.
        sha256: checksum of the official file.
    """

    images: UInt8[np.ndarray, "n 64 8"]
    source: str
    sha256: dict[str, str]


def load_dsprites(data_dir: Path | None = None, cache_dir: Path | None = None) -> DSprites:
    """Load the 737,280 images of dSprites.

    Args:
        data_dir: folder that holds the official file in `<data_dir>/dsprites/`; None stands for
            the environment variable VAE_JAX_DATA, if it is set. Without a folder `dsprites` in
            it the file is downloaded.
        cache_dir: where the downloaded file is kept, or None for `default_cache_dir()`.

    Returns:
        The images.

    Raises:
        DataError: if h5py is not installed, the file is damaged or not the official one, or it
            can neither be found nor downloaded.

    Reference:
        Matthey, Higgins, Hassabis and Lerchner, dSprites: Disentanglement testing Sprites
        dataset (2017), https://github.com/google-deepmind/dsprites-dataset.
    """
    _import_h5py()  # before half a minute of download
    looked_in = find_data_dir(data_dir)
    # lexists: a link that points nowhere is a damaged data set, not an absent one.
    if looked_in is not None and os.path.lexists(looked_in / "dsprites"):
        path, source = looked_in / "dsprites" / FILE, "official file, dsprites/ of the data folder"
        check_official(path, SHA256)
    else:
        folder = default_cache_dir() if cache_dir is None else Path(os.path.expanduser(cache_dir))
        path, source = folder / "dsprites" / FILE, "TensorFlow Datasets, dsprites"
        if not path.exists():
            try:
                download_official("dsprites", path)
            except UnavailableError as error:
                where = f"put its official file {FILE} in FOLDER/dsprites"
                raise DataError(f"dsprites: {error}; {where} and pass --data-dir FOLDER") from error
        check_official(path, SHA256)
    return DSprites(read_dsprites(path), source, {FILE: SHA256})


def read_dsprites(path: Path, sizes: tuple[int, ...] = SIZES) -> UInt8[np.ndarray, "n 64 8"]:
    """Read a file of the layout of dSprites.

    Args:
        path: the `.hdf5` file.
        sizes: how many values each factor takes, as `SIZES`.

    Returns:
        The images, as in `DSprites`.

    Raises:
        DataError: if h5py is not installed, the file cannot be read, an image is not 64 x 64
            bits, or the images are not in the order of the factors.
    """
    h5py = _import_h5py()
    count = math.prod(sizes)
    packed = np.empty((count, _SIDE, _SIDE // 8), np.uint8)
    try:
        with h5py.File(path, "r") as file:
            stored, classes = file["imgs"], file["latents"]["classes"]
            if stored.shape != (count, _SIDE, _SIDE) or stored.dtype != np.uint8:
                raise DataError(f"{path}: imgs is {stored.dtype} of shape {stored.shape}")
            if not np.array_equal(classes[:], np.indices(sizes).reshape(len(sizes), count).T):
                raise DataError(f"{path}: the images are not in the order of their factors")
            for start in range(0, count, _AT_ONCE):
                images = stored[start : start + _AT_ONCE]
                if images.max() > 1:
                    raise DataError(f"{path}: a pixel is {images.max()}, not 0 or 1")
                packed[start : start + _AT_ONCE] = np.packbits(images, axis=-1)
    except DataError:
        raise
    except Exception as error:  # whatever h5py finds wrong with the file
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    return packed


def _import_h5py() -> Any:
    try:
        import h5py  # pyright: ignore[reportMissingImports]: an extra
    except ImportError:
        raise DataError("dsprites: h5py is needed: pip install -e '.[dsprites]'") from None
    return h5py
