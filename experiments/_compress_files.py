"""Images from the files that people have, and the lossless codecs that they know."""

import bz2
import gzip
import io
import lzma
import math
import struct
import tokenize
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from experiments._run import UsageError
from vae_jax.data import DataError, read_idx

IDX_MAGIC = {bytes([0, 0, 8, axes]): axes for axes in (3, 4)}
PNG_MODES = {"1": 1, "L": 1, "RGB": 3}  # and their channels
# What NumPy raises at headers that are damaged.
DAMAGED = (ValueError, OverflowError, TypeError, SyntaxError, tokenize.TokenError)
DEFLATED = 1032  # bytes, at most, that one byte of a gzip file is unpacked to
ALLOWED = "a .npy file, an IDX file or a folder of PNG files is needed"


def read_images(path: Path) -> UInt8[np.ndarray, "n *x"]:
    """Read images as they are stored.

    Args:
        path: a `.npy` file of bytes, an IDX file, gzipped or not, or a folder of PNG files of
            one size, which are taken in the order of their names.

    Returns:
        The pixels.

    Raises:
        UsageError: if there is no such file, or it is something else or damaged.
    """
    try:
        if path.is_dir():
            return _read_pngs(path)
        with path.open("rb") as file:
            start = file.read(6)
        if start == b"\x93NUMPY":
            return _read_npy(path)
        if start[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                shape = _idx_shape(path, file.read(20))
            size = path.stat().st_size
            if math.prod(shape) > DEFLATED * size:
                said = " x ".join(map(str, shape))
                raise UsageError(f"{path}: the header announces {said}, too many for {size} bytes")
            return read_idx(path, shape)
        shape = _idx_shape(path, path.read_bytes()[:20])
        content = path.read_bytes()[4 + 4 * len(shape) :]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path}: cannot be read ({reason})") from None
    except DataError as error:
        raise UsageError(str(error)) from None
    if len(content) != np.prod(shape, dtype=object):
        said = " x ".join(map(str, shape))
        raise UsageError(f"{path}: {len(content)} bytes of data, but the header announces {said}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Mapped, so that a header that announces more than there is asks for no memory.
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise UsageError(f"{path}: no array of bytes, or damaged ({error})") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        found = f"{images.dtype} of shape {images.shape}"
        raise UsageError(f"{path}: {found}; bytes of shape [n, height, width] are needed")
    return np.array(images)


def _idx_shape(path: Path, head: bytes) -> tuple[int, ...]:
    axes = IDX_MAGIC.get(head[:4])
    if axes is None or len(head) < 4 + 4 * axes:
        raise UsageError(f"{path}: {ALLOWED}")
    return struct.unpack(f">{axes}I", head[4 : 4 + 4 * axes])


def _read_pngs(folder: Path) -> np.ndarray:
    images = []
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() == ".png"):
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if image.mode not in PNG_MODES:
                    modes = ", ".join(PNG_MODES)
                    raise UsageError(f"{path}: pixels of kind {image.mode}; {modes} can be read")
                if getattr(image, "n_frames", 1) > 1:
                    raise UsageError(f"{path}: several images in one file; one is needed")
                pixels = np.asarray(image if image.mode == "RGB" else image.convert("L"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{path}: no PNG file, or damaged ({error})") from None
        if images and pixels.shape != images[0].shape:
            sizes = [" x ".join(map(str, one.shape)) for one in (pixels, images[0])]
            raise UsageError(f"{path}: {sizes[0]}, and the first of them is {sizes[1]}")
        images.append(pixels)
    if not images:
        raise UsageError(f"{folder}: no PNG files in it; {ALLOWED}")
    return np.stack(images)


def sizes_of_codecs(images: UInt8[np.ndarray, "n *x"]) -> dict[str, int]:
    """What other lossless codecs make of images.

    Args:
        images: grey levels, or bits as 0 and 255.

    Returns:
        Bytes, by the codec's name: gzip, bz2 and lzma, at their best level, of all pixels as
        one file, of bits also with eight in a byte; PNG and WebP summed over the images.
    """
    whole: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda data: gzip.compress(data, 9, mtime=0),
        "bz2": lambda data: bz2.compress(data, 9),
        "lzma": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
    }
    is_bits = bool(np.isin(images, (0, 255)).all())
    sizes = {name: len(code(images.tobytes())) for name, code in whole.items()}
    if is_bits:
        packed = np.packbits(images > 0).tobytes()
        for name, code in whole.items():
            sizes[f"{name}, 8 pixels a byte"] = len(code(packed))
    sizes["PNG"] = sizes["WebP"] = 0
    for pixels in images.reshape(images.shape[:3]) if images.shape[-1] == 1 else images:
        image = Image.fromarray(pixels)
        image = image.convert("1") if is_bits else image
        sizes["PNG"] += _size(image, "PNG", optimize=True)
        sizes["WebP"] += _size(image.convert("RGB"), "WEBP", lossless=True, quality=100)
    return sizes


def _size(image: Image.Image, kind: str, **options: object) -> int:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.tell()
