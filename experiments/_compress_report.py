"""What the models of a run make of its test images, beside other lossless codecs."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments._compress_files import sizes_of_codecs
from experiments._folder import RunFolder
from experiments._loaded import Run
from experiments._noise import elbo_of
from experiments._run import UsageError
from vae_jax.compression import Codec, pack, read, unpack
from vae_jax.compression.bits_back import padding
from vae_jax.compression.exact import Layer
from vae_jax.types import Params

SAMPLES = 4  # of each posterior behind the ELBO
Verify = Callable[[Path, Path, UInt8[np.ndarray, "n *x"]], float]


class Coded(NamedTuple):
    """What a model makes of the test images.

    Attributes:
        name: of the model.
        epoch: after which.
        bytes: of the container.
        initial_bits: among them, that the chains began with.
        neg_elbo_bits: of the rounded model on the same images.
        seconds: of packing and of unpacking; the latter is measured of one model only.
    """

    name: str
    epoch: int
    bytes: int
    initial_bits: int
    neg_elbo_bits: float
    seconds: tuple[float, float | None]


def write_report(run: Run, codecs: Mapping[str, Mapping[int, Codec]], verify: Verify) -> None:
    """Compress the test images of a run, and write the table and the figure.

    Args:
        run: the run.
        codecs: its models, by name and epoch.
        verify: `(run, file, images) -> seconds`, unpacks in a second process and compares.

    Raises:
        UsageError: if the folder of the report cannot be made.
        CodecError: if a model cannot code the images.
    """
    from vae_jax import figures

    folder = RunFolder(run.folder.path / "report")
    try:
        folder.path.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder.path}: cannot be made ({error.strerror})") from None
    settings = run.folder.read_json("config.json")
    images = np.asarray(run.task.test)
    if settings["binarize"] == "threshold":
        images = np.where(images >= 128, 255, 0).astype(np.uint8)
    coded = []
    for name, epochs in codecs.items():
        for epoch, codec in epochs.items():
            coded.append(_code(run, name, epoch, codec, images))
            print(_line(coded[-1], images), flush=True)
    last = [
        max((one for one in coded if one.name == name), key=lambda one: one.epoch)
        for name in codecs
    ]
    best = min(last, key=lambda one: one.bytes)
    best = _verified(run, best, codecs[best.name][best.epoch], images, verify)
    print(f"{best.name}: a second process has given back all {len(images):,} images", flush=True)

    others = {name: 8 * size / images.size for name, size in sizes_of_codecs(images).items()}
    kind = "thresholded at 128" if settings["binarize"] == "threshold" else "raw, 8 bits"
    what = f"{len(images):,} test images of {settings['dataset']}, {kind}"
    table = _table(best, len(codecs), images, others, what)
    curves = {name: _curve([c for c in coded if c.name == name], images) for name in codecs}
    figure = figures.rate_against_elbo(
        curves, _shortest(others), title=f"{run.task.title} · {what}"
    )
    folder.write_text("report.md", table)
    folder.write_json(
        "report.json",
        {
            "images": what,
            "unit": "bits a pixel",
            "source": run.task.source,
            "best": best.name,
            "models": [_numbers(best if one[:2] == best[:2] else one, images) for one in coded],
            "codecs": others,
        },
    )
    arrays = {
        f"{name}/{field}": np.asarray(values)
        for name, curve in curves.items()
        for field, values in curve._asdict().items()
    }
    figures.save(figure, folder.path / "report.png", **arrays)
    folder.write_provenance(run.task.source)
    print(f"{table}\nreport.md, report.json, report.png: in {folder.path}")


def params_of(codec: Codec) -> Params:
    """The parameters of the rounded networks, as linen has them.

    A multiple of 2^-16 under 256 is a float32, so nothing is rounded again.
    """

    def dense(layers: tuple[Layer, ...]) -> dict[str, Any]:
        named = {f"Dense_{index}": layer._asdict() for index, layer in enumerate(layers)}
        return {"params": jax.tree.map(np.float32, named)}

    return {"encoder": dense(codec.encoder), "decoder": dense(codec.decoder)}


def _code(run: Run, name: str, epoch: int, codec: Codec, images: np.ndarray) -> Coded:
    began = time.perf_counter()
    content = pack(codec, images)
    seconds = time.perf_counter() - began
    task = run.task
    evaluate = elbo_of(task.vae, task.preprocess, num_samples=SAMPLES)
    estimate = evaluate(params_of(codec), jnp.asarray(images))
    return Coded(
        name,
        epoch,
        len(content),
        32 * len(padding(codec)) * len(read(content).chains),
        -float(estimate.elbo) * len(images) / np.log(2),
        (seconds, None),
    )


def _verified(run: Run, coded: Coded, codec: Codec, images: np.ndarray, verify: Verify) -> Coded:
    content = pack(codec, images)
    began = time.perf_counter()
    unpack(codec, content)
    seconds = time.perf_counter() - began
    path = run.folder.path / "report" / ".images.vae.tmp"
    try:
        path.write_bytes(content)
        verify(run.folder.path, path, images)
    finally:
        path.unlink(missing_ok=True)
    return coded._replace(seconds=(coded.seconds[0], seconds))


def _numbers(coded: Coded, images: np.ndarray) -> dict[str, Any]:
    bits, pixels = 8 * coded.bytes, images.size
    packing, unpacking = coded.seconds
    return {
        "model": coded.name,
        "epoch": coded.epoch,
        "bytes": coded.bytes,
        "bits_per_pixel": bits / pixels,
        "bits_per_pixel_without_initial_bits": (bits - coded.initial_bits) / pixels,
        "initial_bits": coded.initial_bits,
        "neg_elbo_bits_per_pixel": coded.neg_elbo_bits / pixels,
        "overhead": bits / coded.neg_elbo_bits - 1,
        "packed_images_per_second": len(images) / packing,
        "unpacked_images_per_second": len(images) / unpacking if unpacking else None,
    }


def _line(coded: Coded, images: np.ndarray) -> str:
    numbers = _numbers(coded, images)
    return (
        f"{coded.name} after epoch {coded.epoch}  {numbers['bits_per_pixel']:.4f} bits a pixel  "
        f"-ELBO {numbers['neg_elbo_bits_per_pixel']:.4f}  overhead {numbers['overhead']:.2%}  "
        f"{numbers['packed_images_per_second']:,.0f} images/s"
    )


def _table(
    best: Coded, models: int, images: np.ndarray, others: Mapping[str, float], what: str
) -> str:
    numbers = _numbers(best, images)
    rows = [
        (f"VAE, {best.name}, epoch {best.epoch}", numbers["bits_per_pixel"]),
        ("the same without the initial bits", numbers["bits_per_pixel_without_initial_bits"]),
        ("its negative ELBO on these images", numbers["neg_elbo_bits_per_pixel"]),
        *sorted(others.items(), key=lambda row: row[1]),
    ]
    lines = [f"| {what} | bits a pixel |", "|---|---:|"]
    lines += [f"| {name} | {rate:.4f} |" for name, rate in rows]
    lines += [
        "",
        "Everything is counted of the file: header, checksums, initial bits. The model is not in "
        "it; both sides have it. gzip, bz2 and lzma see all pixels as one file, PNG and WebP one "
        "image at a time.",
        "",
        f"Overhead over the negative ELBO {numbers['overhead']:.2%}; packed at "
        f"{numbers['packed_images_per_second']:,.0f} images/s, unpacked at "
        f"{numbers['unpacked_images_per_second']:,.0f}; a second process gave back every byte. The "
        "overhead may be negative: what the model thinks impossible costs it more than the coder, "
        "which gives each answer, yes or no, a chance of 2^-20 at least.",
        "",
    ]
    if models > 1:
        lines += [
            f"Of {models} models, after their last epochs, this one was chosen because it makes "
            "the fewest bytes of these same test images.",
            "",
        ]
    return "\n".join(lines)


def _curve(coded: list[Coded], images: np.ndarray) -> Any:
    from vae_jax.figures import CodingCurve

    return CodingCurve(
        np.array([one.epoch for one in coded]),
        np.array([one.neg_elbo_bits / images.size for one in coded]),
        np.array([8 * one.bytes / images.size for one in coded]),
    )


def _shortest(others: Mapping[str, float]) -> dict[str, float]:
    """The better form of each codec, for the figure."""
    found: dict[str, float] = {}
    for name, rate in others.items():
        codec = name.partition(",")[0]
        found[codec] = min(rate, found.get(codec, rate))
    return found
