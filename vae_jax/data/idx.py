"""The IDX files of MNIST and the two data sets published in its format."""

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from vae_jax.data.memory import aligned

_BLOCK_BYTES = 1 << 14

FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train_images": ("train-images-idx3-ubyte.gz", (60_000, 28, 28)),
    "train_labels": ("train-labels-idx1-ubyte.gz", (60_000,)),
    "test_images": ("t10k-images-idx3-ubyte.gz", (10_000, 28, 28)),
    "test_labels": ("t10k-labels-idx1-ubyte.gz", (10_000,)),
}
"""For each field of `Arrays`, its file and the shape in it; the same for all data sets."""

SHA256: dict[str, dict[str, str]] = {
    "mnist": {
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte.gz": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
    "kmnist": {
        "train-images-idx3-ubyte.gz": (
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
        ),
        "train-labels-idx1-ubyte.gz": (
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
        ),
    },
}
"""Checksums of the official files, by data set and file, as TensorFlow Datasets has them."""


class DataError(ValueError):
    """Data that cannot be used: one line that names the file or value and what is wrong."""


class Arrays(NamedTuple):
    """The arrays of one data set: intensities 0 to 255, and classes 0 to 9."""

    train_images: UInt8[np.ndarray, "train height width channels"]
    train_labels: UInt8[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    test_labels: UInt8[np.ndarray, " test"]


def read_idx(
    path: Path, shape: tuple[int, ...], *, sha256: str | None = None, highest: int = 255
) -> UInt8[np.ndarray, "..."]:
    """Read one gzipped IDX file of unsigned bytes whose shape is known beforehand.

    The shape bounds the work: not more than the official size and one byte is ever
    unpacked. What is wrong with the structure is told first, because it says more than a
    checksum that differs.

    Args:
        path: the `.gz` file.
        shape: sizes that the header must announce and the data must have, count first.
        sha256: checksum of the `.gz` file in hexadecimal, or None to go without.
        highest: largest value allowed; 9 for labels.

    Returns:
        The values, of the given shape, `aligned`.

    Raises:
        DataError: if the file cannot be read, is no gzip file, is damaged, truncated or
            longer than it should be, has another magic number or other sizes, a value
            above `highest`, or another checksum.

    Reference:
        LeCun, Cortes and Burges, The MNIST database of handwritten digits.
    """
    header_bytes = 4 * (1 + len(shape))
    total_bytes = header_bytes + math.prod(shape)
    try:
        content, digest, problem = _inflate(path, total_bytes)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error

    # What could be unpacked of a damaged file may still tell that it is the wrong file.
    if len(content) < header_bytes:
        short = f"{len(content)} bytes are too few for an IDX header of {header_bytes}"
        raise DataError(f"{path}: {problem or short}")
    magic, right_magic = bytes(content[:4]), bytes([0, 0, 8, len(shape)])
    if magic != right_magic:
        raise DataError(
            f"{path}: magic number 0x{magic.hex()}, but 0x{right_magic.hex()} is that of an "
            f"IDX file of bytes in {len(shape)} dimensions"
        )
    sizes = struct.unpack(f">{len(shape)}I", content[4:header_bytes])
    if sizes != shape:
        raise DataError(f"{path}: the header announces {_by(sizes)}, not {_by(shape)}")
    if problem is None and len(content) < total_bytes:
        held = len(content) - header_bytes
        problem = f"{held} bytes of data, but the header announces {math.prod(shape)}"
    if problem is not None:
        raise DataError(f"{path}: {problem}")

    values = np.frombuffer(content, np.uint8, offset=header_bytes)
    if values.size and values.max() > highest:
        first = int(np.argmax(values > highest))
        raise DataError(f"{path}: value {values[first]} at {first}, but the highest is {highest}")
    if sha256 is not None and digest != sha256:
        raise DataError(
            f"{path}: SHA-256 {digest[:12]}... is not {sha256[:12]}..., that of the official file"
        )
    return aligned(values.reshape(shape))


def read_official(name: str, paths: Mapping[str, Path]) -> Arrays:
    """Read and verify the four files of an official data set.

    Each file is held to its official count, so images and labels cannot disagree.

    Args:
        name: a key of `SHA256`.
        paths: where each file of `FILES` lies, by its official name.

    Returns:
        The data; images have one channel.

    Raises:
        DataError: if a file is missing or is not, byte for byte, the official one.
    """
    arrays = {}
    for part, (file, shape) in FILES.items():
        is_images = len(shape) > 1
        values = read_idx(
            paths[file], shape, sha256=SHA256[name][file], highest=255 if is_images else 9
        )
        arrays[part] = values[..., None] if is_images else values
    return Arrays(**arrays)


def _inflate(path: Path, limit: int) -> tuple[bytearray, str, str | None]:
    """Unpack at most limit + 1 bytes; return them, the file's SHA-256, and what is wrong."""
    content = bytearray()
    digest = hashlib.sha256()
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)

    def stopped(problem: str | None) -> tuple[bytearray, str, str | None]:
        return content, digest.hexdigest(), problem

    with path.open("rb") as file:
        start = file.read(2)
        if not start:
            return stopped("the file is empty")
        if start != b"\x1f\x8b":
            return stopped("not a gzip file")
        file.seek(0)
        while not inflater.eof:
            packed = file.read(_BLOCK_BYTES)
            digest.update(packed)
            if not packed:
                return stopped("truncated, the gzip data end too early")
            try:
                # Short of the limit, zlib keeps nothing back: no unconsumed tail to feed again.
                content += inflater.decompress(packed, limit + 1 - len(content))
            except zlib.error as error:
                return stopped(f"damaged gzip data ({error})")
            if len(content) > limit:
                return stopped(f"unpacks to more than the {limit} bytes that it should hold")
        if inflater.unused_data or file.read(1):
            return stopped("trailing data after the end of the gzip data")
    return stopped(None)


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in sizes)
