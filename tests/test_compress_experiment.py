"""`experiments.compress`: trained, packed, unpacked and reported for real."""

import gzip
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call, surroundings  # noqa: F401
from PIL import Image

from experiments import _compress_report, compress
from experiments._compress_files import read_images, sizes_of_codecs
from experiments._loaded import load_run
from experiments._run import Interrupted, UsageError
from vae_jax import figures
from vae_jax.compression import load_codec, model_hash
from vae_jax.compression.exact import rounded
from vae_jax.data import load_images

TINY = ("--dataset", "digits", "--epochs", "2", "--hidden", "8", "--latent-dim", "3")

pytestmark = pytest.mark.usefixtures("compiled_quickly", "drawn_small")


def refused(folder: Path, *words: str) -> str:
    """The one line that is said."""
    done = call(compress, folder, *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


@pytest.fixture(scope="module")
def grey() -> np.ndarray:
    return load_images("digits").test_images


@pytest.fixture(scope="module")
def home(compiled_quickly, grey, tmp_path_factory) -> Path:
    """A folder with runs of bits (two betas) and of grey levels, and images."""
    folder = tmp_path_factory.mktemp("compress")
    bits = ("--name", "bits", "--beta", "1", "4")
    raw = ("--name", "raw", "--binarize", "none", "--likelihood", "beta_binomial")
    for flags in ((*bits, "--figures", "none"), raw):
        done = call(compress, folder, "train", *TINY, *flags)
        assert (done.code, done.err) == (0, "")
    np.save(folder / "bits.npy", np.where(grey >= 128, 255, 0).astype(np.uint8))
    np.save(folder / "grey.npy", grey[:50])
    return folder


BITS, RAW = "results/compress/bits", "results/compress/raw"
MODEL = ("--model", "beta1-seed0")


def test_training_leaves_the_models_as_codecs(home):
    run = home / BITS
    files = sorted(str(path.relative_to(run)) for path in run.glob("models/**/*.npz"))
    assert files == [
        f"models/{name}/epoch{epoch}.npz"
        for name in ("beta1-seed0", "beta4-seed0")
        for epoch in (1, 2)
    ]
    codecs = [load_codec(run / file) for file in files]
    assert len({model_hash(codec) for codec in codecs}) == 4
    assert codecs[0].x_shape == (28, 28, 1)
    assert json.loads((run / "config.json").read_text("utf-8"))["likelihood"] == "bernoulli"


def test_figures_are_those_of_every_experiment(home):
    folder = home / RAW / "figures"
    names = {path.stem for path in folder.rglob("*.png")}
    assert {"loss_curves", "reconstructions", "samples"} <= names
    with np.load(folder / "beta1-seed0" / "reconstructions.npz") as arrays:
        assert arrays["reconstructions"].shape == (2, 10, 28, 28, 1)
    assert not list((home / BITS).glob("figures/beta*"))


@pytest.mark.parametrize(
    ("run", "images", "flags"), [(BITS, "bits.npy", MODEL), (RAW, "grey.npy", ())]
)
def test_images_are_packed_and_unpacked(home, tmp_path, run, images, flags):
    packed, found = tmp_path / "out.vae", tmp_path / "out.npy"
    done = call(compress, home, "pack", run, images, str(packed), *flags)
    assert (done.code, done.err) == (0, "")
    size = packed.stat().st_size
    whole = np.load(home / images)
    assert f"{len(whole):,} images in {size:,} bytes, {8 * size / whole.size:.4f} bits" in done.out
    assert "unpacking it again in a second process\n" in done.out
    assert "a second process has given them back, every byte" in done.out
    done = call(compress, home, "unpack", run, str(packed), str(found))
    assert (done.code, done.err) == (0, "")
    np.testing.assert_array_equal(np.load(found), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.vae"]


def test_a_file_that_cannot_be_given_back_is_not_kept(home, tmp_path, monkeypatch):
    real = compress.pack

    def damaged(*args: Any, **named: Any) -> bytes:
        content = bytearray(real(*args, **named))
        content[-1] ^= 1
        return bytes(content)

    monkeypatch.setattr(compress, "pack", damaged)
    done = call(compress, home, "pack", RAW, "grey.npy", str(tmp_path / "out.vae"))
    assert done.code == 1
    assert "not kept, a second process could not unpack it (error: " in done.err
    assert "lane 0 is damaged: its checksum differs" in done.err
    assert list(tmp_path.iterdir()) == []


def test_what_was_packed_earlier_is_unpacked_after_further_epochs(home, tmp_path):
    run, packed = tmp_path / "run", str(tmp_path / "out.vae")
    shutil.copytree(home / RAW, run)
    assert call(compress, home, "pack", str(run), "grey.npy", packed).code == 0
    models = run / "models" / "beta1-seed0"
    shutil.copy(models / "epoch1.npz", models / "epoch3.npz")
    assert call(compress, home, "unpack", str(run), packed, str(tmp_path / "x.npy")).code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), np.load(home / "grey.npy"))


@pytest.mark.parametrize(
    ("code", "said_by_it", "said"),
    [(0, "a warning", "the images differ"), (-9, "", "code -9"), (2, "x\ny", "(y)")],
)
def test_why_a_file_is_not_kept(tmp_path, monkeypatch, capsys, code, said_by_it, said):
    def child(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        np.save(words[-1], np.ones((1, 2, 2), np.uint8))
        return subprocess.CompletedProcess(words, code, "", said_by_it)

    monkeypatch.setattr(compress.subprocess, "run", child)
    with pytest.raises(SystemExit):
        compress.verify(tmp_path, tmp_path / "out.vae", np.zeros((1, 2, 2), np.uint8))
    assert said in capsys.readouterr().err


def test_a_stop_leaves_nothing_and_says_so(home, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    packed = str(tmp_path / "out.vae")
    monkeypatch.setattr("experiments._run.signal.signal", stop_is_heard)
    monkeypatch.setattr(compress, "verify", stop)
    done = call(compress, home, "pack", RAW, "grey.npy", packed)
    assert (done.code, done.err) == (130, "stopped; nothing was written\n")
    monkeypatch.setattr("experiments._compress_report.pack", stop)
    done = call(compress, home, "report", BITS)
    assert (done.code, done.err) == (130, "stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_stops_it_finds_nothing_left(home, tmp_path, monkeypatch):
    def stop(*_: object, **__: object) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        return 0.0

    monkeypatch.setattr(compress, "verify", stop)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="nothing was written"):
        compress.run(compress.Pack(home / RAW, home / "grey.npy", tmp_path / "out.vae"))
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_disk_that_is_full_is_named_with_its_file(home, tmp_path, monkeypatch):
    def write(*_: object) -> None:
        raise OSError("3 requested and 1 written")  # as NumPy says it

    packed, output = str(tmp_path / "out.vae"), tmp_path / "x.npy"
    assert call(compress, home, "pack", RAW, "grey.npy", packed).code == 0
    monkeypatch.setattr(compress.np, "save", write)
    done = call(compress, home, "unpack", RAW, packed, str(output))
    said = f"error: {output}: not written whole, the disk may be full\n"
    assert (done.code, done.err) == (1, said)
    assert not output.exists()


def test_the_images_are_not_replaced_by_their_container(home):
    said = refused(home, "pack", RAW, "grey.npy", "grey.npy", "--overwrite")
    assert said == "error: output grey.npy: a file other than the images is needed\n"


def stop_is_heard(number: int, action: object) -> None:
    """In place of `signal.signal`: `main` would turn Ctrl-C off for the tests after this one."""


def test_progress_is_told_while_it_runs(monkeypatch, capsys):
    times = iter([0.0, 0.5, 2.0, 2.0, 2.1])
    monkeypatch.setattr(compress.time, "monotonic", lambda: next(times))
    meter = compress.Meter("packing", 784, 3000)
    meter(0, 100, 7840)
    meter(1, 100, 7840)
    meter(1, 200, 15680)
    said = capsys.readouterr().out
    assert said == "packing  200 of 3,000 images  0.1000 bits a pixel  100 images/s\n"


def test_what_is_refused_is_refused_in_one_line(home, tmp_path):
    out = str(tmp_path / "out.vae")
    (tmp_path / "not.vae").write_bytes(b"no container at all")
    for words, said in (
        (("pack", "nowhere", "grey.npy", out), "nowhere: there is no such run"),
        (("pack", ".", "grey.npy", out), ".: no models in it"),
        (("pack", BITS, "bits.npy", out), "--model (nothing): the run has beta1-seed0, beta4"),
        (("pack", BITS, "bits.npy", out, "--model", "x"), "--model x: the run has beta1-seed0"),
        (
            ("pack", BITS, "grey.npy", out, *MODEL),
            "grey.npy: grey levels: the model is one of bits",
        ),
        (("pack", RAW, "none.npy", out), "none.npy: cannot be read (No such file or directory)"),
        (("pack", RAW, "grey.npy", "bits.npy"), "bits.npy: this file exists; --overwrite replaces"),
        (("pack", RAW, "grey.npy", "results"), "results: a folder is in the way"),
        (("pack", RAW, "grey.npy", "none/x.vae"), "none/x.vae: cannot be written (No such file"),
        (("unpack", RAW, out, "bits.npy/x.npy"), "x.npy: cannot be written (Not a directory)"),
        (("unpack", RAW, out, "x.npy", "--model", "x"), "--help lists what is allowed"),
        (("unpack", RAW, str(tmp_path / "not.vae"), "new.npy"), "not a container of compressed"),
        (("unpack", RAW, "none.vae", "new.npy"), "none.vae: cannot be read (No such file"),
        (("unpack", RAW, "none.vae", "new.idx"), "output new.idx: a name that ends in .npy"),
        (("train", "--network", "conv"), "--network"),
        (("train", "--activation", "tanh"), "--activation"),
        (("train", "--likelihood", "beta_binomial"), "--binarize threshold needs bernoulli"),
        (("train", "--binarize", "none"), "--likelihood bernoulli: grey levels need one"),
        (("train", "--shard", "1/2"), "--shard 1/2: compress trains its models in one process"),
        (("report", "nowhere"), "nowhere: there is no such run"),
        (("shrink",), "--help lists what is allowed"),
    ):
        assert said in refused(home, *words)
    assert not (tmp_path / "out.vae").exists()


def test_without_the_entropy_coder_one_line_says_so(home, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    out = str(tmp_path / "out.vae")
    for words in (("pack", RAW, "grey.npy", out), ("unpack", RAW, out, "x.npy"), ("report", RAW)):
        said = refused(home, *words)
        assert said == "error: constriction is needed: pip install -e '.[compress]'\n"


def test_a_damaged_or_another_model_is_refused(home, tmp_path):
    shutil.copytree(home / RAW, tmp_path / "run")
    packed = str(tmp_path / "out.vae")
    assert call(compress, home, "pack", RAW, "grey.npy", packed).code == 0
    said = refused(home, "unpack", BITS, packed, str(tmp_path / "x.npy"))
    assert "out.vae: packed with model" in said
    assert f"which {BITS} does not have" in said
    model = tmp_path / "run" / "models" / "beta1-seed0" / "epoch2.npz"
    model.write_bytes(model.read_bytes()[:-40])
    said = refused(home, "unpack", str(tmp_path / "run"), packed, str(tmp_path / "x.npy"))
    assert "epoch2.npz: damaged, or no codec" in said


def test_the_report(home, grey):
    done = call(compress, home, "report", BITS)
    assert (done.code, done.err) == (0, "")
    folder = home / BITS / "report"
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert found["images"] == "360 test images of digits, thresholded at 128"
    assert [(one["model"], one["epoch"]) for one in found["models"]] == [
        ("beta1-seed0", 1), ("beta1-seed0", 2), ("beta4-seed0", 1), ("beta4-seed0", 2)
    ]  # fmt: skip
    pixels = 360 * 784
    for one in found["models"]:
        assert one["bits_per_pixel"] == 8 * one["bytes"] / pixels
        # The message itself is the negative ELBO; a header of 700 bytes weighs on so few images.
        assert -0.01 < one["overhead"] < 0.01 + 8 * 700 / pixels / one["neg_elbo_bits_per_pixel"]
        assert one["bits_per_pixel_without_initial_bits"] < one["bits_per_pixel"]
    best = min((one for one in found["models"] if one["epoch"] == 2), key=lambda one: one["bytes"])
    assert found["best"] == best["model"]
    assert best["unpacked_images_per_second"] > 0
    bits = np.where(grey >= 128, 255, 0).astype(np.uint8)
    assert found["codecs"]["gzip"] == 8 * len(gzip.compress(bits.tobytes(), 9)) / pixels
    text = (folder / "report.md").read_text("utf-8")
    assert f"| VAE, {best['model']}, epoch 2 | {best['bits_per_pixel']:.4f} |" in text
    assert "Everything is counted of the file" in text
    assert "Of 2 models, after their last epochs, this one was chosen" in text
    assert np.asarray(Image.open(folder / "report.png").convert("L")).std() > 5
    assert not list(folder.glob(".images*"))


def test_the_runs_are_loaded_as_those_of_every_experiment(home):
    """What `experiments.evaluate` needs; the models are those that the codecs were made of."""
    (loaded,) = load_run(home / RAW).models()
    kernel = np.asarray(loaded.params["encoder"]["params"]["Dense_0"]["kernel"], np.float64)
    codec = load_codec(home / RAW / "models" / "beta1-seed0" / "epoch2.npz")
    np.testing.assert_array_equal(codec.encoder[0].kernel, rounded(kernel))


def test_the_rounded_networks_are_given_to_jax_as_they_are(home):
    codec = load_codec(home / RAW / "models" / "beta1-seed0" / "epoch2.npz")
    dense = _compress_report.params_of(codec)["decoder"]["params"]
    for index, layer in enumerate(codec.decoder):
        kernel = dense[f"Dense_{index}"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel.astype(np.float64), layer.kernel)


# Files


def as_idx(images: np.ndarray) -> bytes:
    return struct.pack(f">I{images.ndim}I", 2048 + images.ndim, *images.shape) + images.tobytes()


def test_every_kind_of_file_is_read(grey, tmp_path):
    images = grey[:5, ..., 0]
    np.save(tmp_path / "a.npy", images)
    (tmp_path / "b-idx3-ubyte").write_bytes(as_idx(images))
    (tmp_path / "c.gz").write_bytes(gzip.compress(as_idx(images)))
    (tmp_path / "d").mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / "d" / f"{index}.png")
    for name in ("a.npy", "b-idx3-ubyte", "c.gz", "d"):
        found = read_images(tmp_path / name)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, images)


def test_png_files_of_bits_are_black_and_white(grey, tmp_path):
    bits = np.where(grey[0, ..., 0] >= 128, 255, 0).astype(np.uint8)
    Image.fromarray(bits).convert("1").save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_images(tmp_path)[0], bits)


def test_files_that_are_something_else_are_refused(grey, tmp_path):
    images = grey[:3, ..., 0]
    np.save(tmp_path / "floats.npy", images / 255)
    np.save(tmp_path / "flat.npy", images.reshape(3, -1))
    np.save(tmp_path / "whole.npy", images)
    whole = (tmp_path / "whole.npy").read_bytes()
    contents = {
        "short.npy": whole[:-1],
        "header.npy": whole[:50],
        "huge.npy": whole.replace(b"(3, 28, 28)", b"(3, 28, " + b"9" * 20 + b")"),
        "open.npy": whole.replace(b"(3, 28, 28)", b"(3, 28, 28("),
        "keys.npy": whole.replace(b"'shape'", b"1234567"),
        "huge.gz": gzip.compress(struct.pack(">4I", 2051, 2**31, 2**31, 2**31)),
        "forged.npy": whole.replace(b"(3, 28, 28)", b"(3, 28, 2800000000)"),
        "text": b"hello, these are no images",
        "empty": b"",
        "short-idx": as_idx(images)[:-1],
        "long-idx": as_idx(images) + b"\0",
        "short.gz": gzip.compress(as_idx(images))[:-30],
        "labels.gz": gzip.compress(struct.pack(">II", 2049, 3) + b"abc"),
        "no.gz": b"\x1f\x8bno",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "pngs").mkdir()
    (tmp_path / "none").mkdir()
    for name in [*contents, "floats.npy", "flat.npy", "none", "nowhere"]:
        with pytest.raises(UsageError) as caught:
            read_images(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)
    folder = tmp_path / "pngs"
    Image.fromarray(images[0]).save(folder / "a.png")
    Image.fromarray(images[0, :14]).save(folder / "b.PNG")
    with pytest.raises(UsageError, match=r"huge.gz: the header announces 2147483648 x .* too many"):
        read_images(tmp_path / "huge.gz")
    with pytest.raises(UsageError, match=r"b.PNG: 14 x 28, and the first of them is 28 x 28"):
        read_images(folder)
    Image.fromarray(images[0]).convert("RGBA").save(folder / "a.png")
    with pytest.raises(UsageError, match=r"a.png: pixels of kind RGBA; 1, L, RGB can be read"):
        read_images(folder)
    frames = [Image.fromarray(frame) for frame in images]
    frames[0].save(folder / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UsageError, match=r"a.png: several images in one file; one is needed"):
        read_images(folder)
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"a.png: no PNG file, or damaged"):
        read_images(folder)


def test_other_codecs_are_given_their_best(grey):
    bits = np.where(grey[:20] >= 128, 255, 0).astype(np.uint8)
    sizes = sizes_of_codecs(bits)
    assert {"gzip", "bz2", "lzma", "bz2, 8 pixels a byte", "PNG", "WebP"} <= sizes.keys()
    # A PNG of bits has 57 bytes around its data, and less data than pixels.
    assert 20 * 57 < sizes["PNG"] < 20 * (57 + 28 * 4 + 28)
    assert sizes_of_codecs(grey[:20]).keys() == {"gzip", "bz2", "lzma", "PNG", "WebP"}


# The figure


def test_the_figure_has_a_curve_for_each_model_and_a_line_for_each_codec_nearby():
    epochs = np.array([1, 2, 5])
    elbo = np.array([0.3, 0.25, 0.2])
    curves = {
        "beta 1": figures.CodingCurve(epochs, elbo, elbo * 1.01),
        "beta 4": figures.CodingCurve(epochs, elbo * 1.2, elbo * 1.21),
    }
    figure = figures.rate_against_elbo(curves, {"bz2": 0.22, "PNG": 1.3}, title="digits")
    (axes,) = figure.axes
    first = axes.lines[0]
    np.testing.assert_array_equal(np.asarray(first.get_xdata()), elbo)
    np.testing.assert_array_equal(np.asarray(first.get_ydata()), elbo * 1.01)
    assert any(set(np.asarray(line.get_ydata())) == {0.22} for line in axes.lines)
    said = [text.get_text() for text in axes.texts]
    assert "bz2 0.220" in said
    assert "above: PNG 1.300" in said
    assert said.count("epoch 1") == said.count("epoch 5") == 2
    legend = axes.get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["beta 1", "beta 4", "rate = $-$ELBO"]


def test_a_figure_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no model"):
        figures.rate_against_elbo({}, {}, title="")
    bad = figures.CodingCurve(np.array([1]), np.array([np.nan]), np.array([0.2]))
    with pytest.raises(ValueError, match="beta 1: as many finite numbers above 0"):
        figures.rate_against_elbo({"beta 1": bad}, {}, title="")
