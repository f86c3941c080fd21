"""Lossless compression of images with a VAE: `python -m experiments.compress train`.

Training leaves, beside what every experiment leaves, the models in a form that gives the same
numbers on every machine: `models/<model>/epoch<k>.npz` in the run's folder. `pack` and `unpack`
need no more of a run than these, and the entropy coder, `pip install -e '.[compress]'`:

    python -m experiments.compress train --name bits
    python -m experiments.compress pack results/compress/bits images.npy images.vae
    python -m experiments.compress unpack results/compress/bits images.vae again.npy
    python -m experiments.compress report results/compress/bits

A model of bits, which `train` leaves unless it is told otherwise, packs images of 0 and 255:
np.where(x >= 128, 255, 0).astype(np.uint8) makes them of grey ones.

Reference:
    Townsend, Bird and Barber, Practical lossless compression with latent variables using bits
    back coding (arXiv 1901.04866).
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import tyro
from jaxtyping import UInt8

from experiments._compress_files import read_images
from experiments._compress_models import PROG, codec_of, codec_that_packed, models_of
from experiments._compress_report import write_report
from experiments._compress_train import Config, prepare, validate
from experiments._loaded import load_run
from experiments._run import Interrupted, UsageError, check, main
from experiments._sweep import run_sweep
from vae_jax.compression import (
    CodecError,
    load_codec,
    pack,
    read,
    unpack,
)
from vae_jax.compression.stack import import_constriction


@dataclasses.dataclass(frozen=True)
class Pack:
    """Compress images; the file is unpacked once more by a second process before it is kept."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run, results/compress/<run>."""
    images: Annotated[Path, tyro.conf.Positional]
    """A .npy file of bytes, an IDX file of bytes, gzipped or not, or a folder of PNG files, taken
    in the order of their names (10.png before 2.png); `unpack` gives a .npy file back."""
    output: Annotated[Path, tyro.conf.Positional]
    """The compressed file."""
    model: str | None = None
    """Name of the model, where the run has several."""
    overwrite: bool = False
    """Replace the output."""


@dataclasses.dataclass(frozen=True)
class Unpack:
    """Give back every byte of the images that were packed."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run whose model packed them."""
    packed: Annotated[Path, tyro.conf.Positional]
    """The compressed file."""
    output: Annotated[Path, tyro.conf.Positional]
    """The .npy file for the images."""
    overwrite: bool = False
    """Replace the output."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Compress the test images with every model of a run, beside gzip, bz2, lzma, PNG and WebP."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run; the report goes to report/ in it."""
    data_dir: Path | None = None
    """Where the data are, if not where the run found them."""


Command = (
    Annotated[Config, tyro.conf.subcommand("train")]
    | Annotated[Pack, tyro.conf.subcommand("pack")]
    | Annotated[Unpack, tyro.conf.subcommand("unpack")]
    | Annotated[Report, tyro.conf.subcommand("report")]
)


class Meter:
    """Images, bits a pixel and images a second, once a second while lanes are coded.

    Args:
        what: is done to them.
        pixels: of an image.
        total: images that there are.
    """

    def __init__(self, what: str, pixels: int, total: int) -> None:
        self._what, self._pixels, self._total = what, pixels, total
        self._lanes: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._began = self._said = time.monotonic()

    def __call__(self, lane: int, images: int, bits: int) -> None:
        """Take note of what a lane has come to."""
        with self._lock:
            self._lanes[lane] = images, bits
            if time.monotonic() - self._said > 1:
                self._said = time.monotonic()
                done, size = (sum(column) for column in zip(*self._lanes.values(), strict=True))
                rate = done / (self._said - self._began)
                words = [f"{self._what}  {done:,} of {self._total:,} images"]
                if self._what == "packing":
                    words.append(f"{size / max(done, 1) / self._pixels:.4f} bits a pixel")
                print("  ".join([*words, f"{rate:,.0f} images/s"]), flush=True)

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began


def run(command: Config | Pack | Unpack | Report) -> None:
    """Do what the command line says.

    Raises:
        UsageError: if a setting, a file or a folder does not allow it.
        Interrupted: if the user stops what has no checkpoint to go on from.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    if isinstance(command, Config):
        train(command)
        return
    # What a scheduler stops must leave as little behind as what a user stops.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        match command:
            case Pack():
                pack_images(command)
            case Unpack():
                unpack_images(command)
            case Report():
                report(command)
    except KeyboardInterrupt:
        raise Interrupted("stopped; nothing was written") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def train(config: Config) -> None:
    """Train, and leave the models in the form that compresses.

    Raises:
        UsageError: if a setting, the data or the folder does not allow it.
        SystemExit: with 1, when all is written, if a member diverged.
    """
    run_sweep(*prepare(validate(config)))


def pack_images(command: Pack) -> None:
    """Compress, and keep the file only if a second process gives back the same images.

    Raises:
        UsageError: if a file or the model does not allow it.
        SystemExit: with 1, if the second process came to something else.
    """
    with as_usage(command.run):
        codec = codec_of(command.run, command.model)
    _check_free(command.output, command.overwrite)
    there = command.output.exists() and command.images.exists()
    same = there and command.output.samefile(command.images)
    check(not same, "output", command.output, "a file other than the images is needed")
    images = read_images(command.images)
    meter = Meter("packing", int(np.prod(codec.x_shape)), len(images))
    with as_usage(command.images):
        content = pack(codec, images, progress=meter)
    seconds = meter.seconds
    with _replacing(command.output) as temporary:
        temporary.write_bytes(content)
        took = verify(command.run, temporary, images)
    size = f"{len(content):,} bytes"
    if images.size:
        size += f", {8 * len(content) / images.size:.4f} bits a pixel, everything counted"
    print(
        f"{command.output}: {len(images):,} images in {size}; packed at "
        f"{len(images) / seconds:,.0f} images/s, and a second process has given them back, every "
        f"byte, in {took:.1f} s"
    )


def verify(run: Path, packed: Path, images: UInt8[np.ndarray, "n *x"]) -> float:
    """Unpack a file in a second process and compare.

    Args:
        run: the run's folder.
        packed: the file.
        images: what must come out.

    Returns:
        Seconds that it took, the start of the process counted.

    Raises:
        SystemExit: with 1, if something else comes out.
    """
    print("unpacking it again in a second process", flush=True)
    began = time.monotonic()
    root = str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "images.npy"
        words = ["unpack", str(run.resolve()), str(packed.resolve()), str(output)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.compress", *words],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            if np.array_equal(np.load(output), images):
                return time.monotonic() - began
            reason = "the images differ"
        else:
            said = done.stderr.strip().splitlines()
            reason = said[-1] if said else f"it ended with code {done.returncode}"
    print(f"error: not kept, a second process could not unpack it ({reason})", file=sys.stderr)
    raise SystemExit(1)


def unpack_images(command: Unpack) -> None:
    """Decompress into a `.npy` file.

    Raises:
        UsageError: if a file or the model does not allow it.
    """
    is_npy = command.output.suffix == ".npy"
    check(is_npy, "output", command.output, "a name that ends in .npy is needed")
    with as_usage(command.packed):
        _check_free(command.output, command.overwrite)
        try:
            content = command.packed.read_bytes()
        except OSError as error:
            raise UsageError(f"{command.packed}: cannot be read ({error.strerror})") from None
        header, _ = read(content)
        codec = codec_that_packed(command.run, header["model"])
        meter = Meter("unpacking", int(np.prod(codec.x_shape)), header["count"])
        images = unpack(codec, content, progress=meter)
    seconds = meter.seconds
    with _replacing(command.output) as temporary, temporary.open("wb") as file:
        np.save(file, images)
    print(
        f"{command.output}: {len(images):,} images of {' x '.join(map(str, images.shape[1:]))}, "
        f"unpacked at {len(images) / seconds:,.0f} images/s"
    )


def report(command: Report) -> None:
    """Measure every model of a run, and write the table and the figure.

    Raises:
        UsageError: if the run or its data do not allow it.
        SystemExit: with 1, if a second process could not unpack what was packed.
    """
    with as_usage(command.run):
        codecs = {
            name: {epoch: load_codec(path) for epoch, path in epochs.items()}
            for name, epochs in models_of(command.run).items()
        }
        write_report(load_run(command.run, command.data_dir), codecs, verify)


@contextlib.contextmanager
def as_usage(path: Path) -> Iterator[None]:
    """Within it, what cannot be coded is the user's mistake, and named with its file.

    Raises:
        UsageError: instead of a `CodecError`, or if the entropy coder is not installed.
    """
    try:
        import_constriction()
    except CodecError as error:
        raise UsageError(str(error)) from None
    try:
        yield
    except CodecError as error:
        said = str(error)
        raise UsageError(said if said.startswith(str(path)) else f"{path}: {said}") from None


def _check_free(output: Path, overwrite: bool) -> None:
    """Refuse what cannot be written, before minutes are spent on it."""
    try:
        if output.is_dir():
            raise UsageError(f"{output}: a folder is in the way")
        if output.exists() and not overwrite:
            raise UsageError(f"{output}: this file exists; --overwrite replaces it")
        with _beside(output) as temporary:
            temporary.touch()
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A file beside the output, which becomes it at the end unless something went wrong."""
    with _beside(output) as temporary:
        try:
            yield temporary
            temporary.replace(output)
        except OSError as error:  # a failed write does not know its file
            said = error.strerror or "not written whole, the disk may be full"
            raise OSError(error.errno, said, str(output)) from None


@contextlib.contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """The name of a file beside the output; a file that still has it at the end is removed."""
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main(cast(Any, Command), run, PROG)
