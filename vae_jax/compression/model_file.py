"""A codec as a file: what the receiver of compressed images needs, and no more."""

import io
import json
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vae_jax.compression.bits_back import Codec, check_codec
from vae_jax.compression.container import model_hash
from vae_jax.compression.exact import STEP, CodecError, Layer, steps

NETWORKS = ("encoder", "decoder")
# What NumPy, zipfile and json raise at files that are not what they were.
DAMAGED = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    RuntimeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_codec(path: str | os.PathLike[str], codec: Codec) -> None:
    """Write a codec as `.npz`, whole or not at all.

    The same codec gives the same arrays, whole numbers of steps; no pickle is needed to read
    them.

    Args:
        path: where to, ending in `.npz`.
        codec: the model.
    """
    arrays = {}
    for name, layers in zip(NETWORKS, (codec.encoder, codec.decoder), strict=True):
        for index, layer in enumerate(layers):
            arrays[f"{name}/{index}/kernel"] = steps(layer.kernel)
            arrays[f"{name}/{index}/bias"] = steps(layer.bias)
    settings = {
        "likelihood": codec.likelihood,
        "x_shape": codec.x_shape,
        "bucket_bits": codec.bucket_bits,
        "sha256": model_hash(codec),
    }
    temporary = Path(path).with_suffix(".tmp.npz")
    try:
        np.savez_compressed(temporary, settings=json.dumps(settings), **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_codec(path: str | os.PathLike[str]) -> Codec:
    """Read a codec that `save_codec` wrote.

    Args:
        path: of the file.

    Returns:
        The codec, checked as `make_codec` checks one.

    Raises:
        CodecError: if the file cannot be read, is damaged or no codec.
    """
    try:
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as arrays:
            settings = json.loads(str(arrays["settings"]))
            networks = []
            for name in NETWORKS:
                count = sum(key.startswith(f"{name}/") for key in arrays) // 2
                networks.append(
                    tuple(
                        Layer(
                            arrays[f"{name}/{index}/kernel"] * STEP,
                            arrays[f"{name}/{index}/bias"] * STEP,
                        )
                        for index in range(count)
                    )
                )
        codec = Codec(
            networks[0],
            networks[1],
            settings["likelihood"],
            tuple(settings["x_shape"]),
            settings["bucket_bits"],
        )
        codec = check_codec(codec)
        is_whole = model_hash(codec) == settings["sha256"]
    except OSError as error:
        raise CodecError(f"{path}: {error.strerror or error}") from None
    except DAMAGED as error:
        raise CodecError(f"{path}: damaged, or no codec ({error})") from None
    if not is_whole:
        raise CodecError(f"{path}: damaged, its SHA-256 differs")
    return codec
