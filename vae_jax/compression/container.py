"""The file that holds compressed images, and what keeps it from being read wrongly.

    magic, version, length of the header | header | CRC | words of lane 0 | words of lane 1 | ...

The header names the model by its SHA-256 and the environment that wrote the file, and says how
long everything is. Images are cut into lanes, chains of their own that run side by side.
"""

import concurrent.futures
import functools
import importlib.metadata
import json
import os
import platform
import struct
import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
from jaxtyping import UInt8

from vae_jax.compression import tables
from vae_jax.compression.bits_back import (
    MOST_BATCH,
    Chain,
    Codec,
    padding,
    pop_chain,
    push_chain,
)
from vae_jax.compression.exact import STEP, CodecError, steps
from vae_jax.compression.pixels import PIXELS
from vae_jax.compression.stack import CHANCES, import_constriction
from vae_jax.likelihoods.levels import LOG_SCALE_RANGE
from vae_jax.model import LOG_VAR_RANGE

# As in PNG: a byte that is not text, and line ends that a transfer as text would change.
MAGIC = b"\x89VAE\r\n\x1a\n"
VERSION = 1
LANE = 5000  # images of a lane, at most
LONGEST_HEADER = 2**20  # bytes, unpacked
_PREFIX = struct.Struct("<8sHI")
_CRC = struct.Struct("<I")

# What the numbers that both sides must agree on depend on. The networks are exact, so the batch,
# the threads and the instruction set are not among them; jaxlib only trained the model.
DECISIVE = ("constriction", "grids", "tables")
LIBRARIES = ("constriction", "jaxlib", "numpy", "scipy")

Progress = Callable[[int, int, int], None]


class Packed(NamedTuple):
    """A container taken apart.

    Attributes:
        header: what it says of itself.
        chains: the messages.
    """

    header: dict[str, Any]
    chains: list[Chain]


def model_hash(codec: Codec) -> str:
    """SHA-256 of a codec: of its rounded weights and its settings.

    Args:
        codec: the model.

    Returns:
        64 hexadecimal digits, the same on every machine.
    """
    settings = json.dumps([codec.likelihood, codec.x_shape, codec.bucket_bits])
    layers = [steps(array) for layer in (*codec.encoder, *codec.decoder) for array in layer]
    return tables.digest(np.frombuffer(settings.encode(), np.uint8), *layers)


def environment(codec: Codec) -> dict[str, str]:
    """What a container was written by: those of `DECISIVE` must be the same to read it.

    Args:
        codec: the model, whose tables are built here if they are not yet.

    Returns:
        Versions, settings and digests, by their names.

    Raises:
        CodecError: if `constriction` is not installed.
    """
    import_constriction()
    grids = [STEP, tables.MASS, CHANCES, tables.PER_UNIT, *LOG_VAR_RANGE, *LOG_SCALE_RANGE]
    simd = np.show_config(mode="dicts").get("SIMD Extensions", {})  # pyright: ignore
    return {
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "grids": tables.digest(np.array(grids, np.float64), padding(codec)),
        "tables": _tables_hash(codec.likelihood, codec.bucket_bits),
        "machine": platform.machine(),
        "instructions": (simd.get("found") or simd.get("baseline") or ["unknown"])[-1],
        "NPROC": os.environ.get("NPROC", ""),
    }


def pack(
    codec: Codec,
    images: UInt8[np.ndarray, "n *x"],
    *,
    lane: int = LANE,
    progress: Progress = lambda lane, images, bits: None,
) -> bytes:
    """Compress images.

    Args:
        codec: the model.
        images: every pixel a level of the likelihood; those of a model of bits may be 0 and 255.
        lane: images that make a lane.
        progress: told of the lane, and of how many of its images and bits there are.

    Returns:
        The container.

    Raises:
        CodecError: if the images are not what the model can code, a lane has none, or there are
            more lanes than a header can list.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from vae_jax.compression import make_codec
        >>> from vae_jax.networks import mlp
        >>> encoder, decoder = mlp((16,), x_shape=(8, 8, 1), latent_dim=2, theta_dim=1)
        >>> params = encoder.init(jax.random.key(0), jnp.zeros((8, 8, 1)))
        >>> params = params, decoder.init(jax.random.key(1), jnp.zeros(2))
        >>> codec = make_codec(*params, "bernoulli", (8, 8, 1))  # not trained, only to show
        >>> images = np.eye(8, dtype=np.uint8).reshape(1, 8, 8, 1)
        >>> bool(np.all(unpack(codec, pack(codec, images)) == images))
        True
    """
    if images.dtype != np.uint8:
        raise CodecError(f"pixels of type {images.dtype}: bytes (uint8) are needed")
    if lane < 1:
        raise CodecError(f"lane {lane}: at least 1 image is needed")
    _check_shape(codec, images.shape[1:])
    unit = 255 if codec.pixels.levels == 2 and images.max(initial=0) > 1 else 1
    symbols, remainder = np.divmod(images.reshape(-1, int(np.prod(codec.x_shape))), np.uint8(unit))
    if remainder.any():
        raise CodecError(
            "grey levels: the model is one of bits, 0 and 1 or 0 and 255; "
            "np.where(x >= 128, 255, 0).astype(np.uint8) makes them"
        )
    written_by = environment(codec)  # before the lanes, so that tables are built once

    def push(index: int, told: Callable[[int, int], None]) -> Chain:
        return push_chain(codec, symbols[index * lane : (index + 1) * lane], told)

    chains = _side_by_side(push, -(-len(symbols) // lane), progress)
    blocks = [chain.words.astype("<u4").tobytes() for chain in chains]
    header = {
        "model": model_hash(codec),
        "environment": written_by,
        "shape": images.shape[1:],
        "count": len(images),
        "unit": unit,
        "lanes": [
            {"words": len(chain.words), "batches": chain.batches, "crc": _crc_of(index, block)}
            for index, (chain, block) in enumerate(zip(chains, blocks, strict=True))
        ],
    }
    said = json.dumps(header, separators=(",", ":")).encode()
    if len(said) > LONGEST_HEADER:
        raise CodecError(f"{len(chains)} lanes of {lane} images: too many, make longer ones")
    packed = zlib.compress(said, 9)
    head = _PREFIX.pack(MAGIC, VERSION, len(packed)) + packed
    return b"".join([head, _CRC.pack(zlib.crc32(head)), *blocks])


def unpack(
    codec: Codec, content: bytes, *, progress: Progress = lambda lane, images, bits: None
) -> UInt8[np.ndarray, "n *x"]:
    """Decompress what `pack` compressed.

    Args:
        codec: the model that packed them.
        content: the container.
        progress: told of the lane, of how many of its images are done and of its bits left.

    Returns:
        The images, every byte as it was.

    Raises:
        CodecError: if the container is damaged, or of another model or environment.
    """
    header, chains = read(content)
    if header["model"] != model_hash(codec):
        raise CodecError(
            f"packed with model {header['model'][:12]}, and this is {model_hash(codec)[:12]}"
        )
    check_environment(header["environment"], environment(codec))
    shape = tuple(header["shape"])
    _check_shape(codec, shape)

    def pop(index: int, told: Callable[[int, int], None]) -> np.ndarray:
        return pop_chain(codec, chains[index], told)

    lanes = _side_by_side(pop, len(chains), progress)
    symbols = np.concatenate([np.zeros((0, int(np.prod(shape))), np.uint8), *lanes])
    return (symbols * np.uint8(header["unit"])).reshape(-1, *shape)


def read(content: bytes) -> Packed:
    """Take a container apart; every length is checked before it is believed.

    Args:
        content: the file.

    Returns:
        Its header and its messages, none of them decoded.

    Raises:
        CodecError: if it is no container, of another version, or damaged.
    """
    if len(content) < _PREFIX.size or content[: len(MAGIC)] != MAGIC:
        raise CodecError("not a container of compressed images, or its beginning is damaged")
    _, version, length = _PREFIX.unpack_from(content)
    if version != VERSION:
        raise CodecError(f"a container of version {version}; this program reads {VERSION}")
    end = _PREFIX.size + length
    if len(content) < end + _CRC.size:
        raise CodecError(f"truncated: {len(content)} bytes, the header needs {end + _CRC.size}")
    if _CRC.unpack_from(content, end)[0] != zlib.crc32(content[:end]):
        raise CodecError("the header is damaged: its checksum differs")
    header = _header(content[_PREFIX.size : end])
    place, chains = end + _CRC.size, []
    for index, lane in enumerate(header["lanes"]):
        block = content[place : place + 4 * lane["words"]]
        if len(block) < 4 * lane["words"]:
            raise CodecError(
                f"truncated: lane {index} has {len(block)} of {4 * lane['words']} bytes"
            )
        if _crc_of(index, block) != lane["crc"]:
            raise CodecError(f"lane {index} is damaged: its checksum differs")
        chains.append(Chain(np.frombuffer(block, "<u4"), lane["batches"]))
        place += len(block)
    if place != len(content):
        raise CodecError(f"{len(content) - place} bytes too many at the end")
    return Packed(header, chains)


def check_environment(written: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Refuse what another environment wrote, where its numbers could be others.

    Args:
        written: the `environment` of the container.
        here: the present one.

    Raises:
        CodecError: naming what differs.
    """
    for name in DECISIVE:
        if written.get(name) != here[name]:
            there = ", ".join(
                f"{key} {value}"
                for key, value in sorted(written.items())
                if key not in ("grids", "tables")
            )
            raise CodecError(
                f"packed where {name} is {str(written.get(name))[:20]}, here it is "
                f"{here[name][:20]}: it cannot be unpacked here (written by {there})"
            )


def _header(packed: bytes) -> dict[str, Any]:
    """The header, whose checksum is right; one that was made by hand is refused too."""
    try:
        unpacked = zlib.decompressobj().decompress(packed, LONGEST_HEADER)
        header = json.loads(unpacked)
        lanes = header["lanes"]
        numbers = [header["count"], header["unit"], *header["shape"]]
        for lane in lanes:
            numbers += [lane["words"], lane["crc"], *lane["batches"]]
        is_sound = (
            all(type(number) is int and 0 <= number < 2**53 for number in numbers)
            and header["unit"] in (1, 255)
            and sum(sum(lane["batches"]) for lane in lanes) == header["count"]
            and all(0 < size <= MOST_BATCH for lane in lanes for size in lane["batches"])
            and isinstance(header["model"], str)
            and isinstance(header["environment"], dict)
        )
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError):
        is_sound, header = False, {}
    if not is_sound:
        raise CodecError("the header does not say what a container must say")
    return header


def _check_shape(codec: Codec, shape: tuple[int, ...]) -> None:
    """Refuse images that are not the model's; grey ones may go without their one channel."""
    if codec.x_shape not in (shape, (*shape, 1)):
        said = " x ".join(map(str, shape)), " x ".join(map(str, codec.x_shape))
        raise CodecError(f"images of {said[0]}: those of the model are {said[1]}")


def _crc_of(index: int, block: bytes) -> int:
    # With its place, so that two lanes that were swapped are noticed.
    return zlib.crc32(block, index)


@functools.cache
def _tables_hash(likelihood: str, bucket_bits: int) -> str:
    used = [tables.normal_mass().values, tables.exponential().values]
    return tables.digest(*tables.buckets(bucket_bits), *used, *PIXELS[likelihood].tables())


def _side_by_side(
    code: Callable[[int, Callable[[int, int], None]], Any], count: int, progress: Progress
) -> list[Any]:
    """The lanes, as many at once as there are cores; what they come to is the same."""
    stopped = threading.Event()

    def told(lane: int, images: int, bits: int) -> None:
        if stopped.is_set():
            raise CodecError("another lane failed, or the user has stopped it")
        progress(lane, images, bits)

    def one(lane: int) -> Any:
        return code(lane, functools.partial(told, lane))

    # Products as small as these are not worth a second thread, which would wait for them busily.
    with (
        threadpoolctl.threadpool_limits(1),
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            return list(pool.map(one, range(count)))
        finally:
            stopped.set()  # for the lanes that the pool would wait for
