"""The three doors of `load_images`, and what happens when each is shut or broken."""

import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.utils import Size

from vae_jax.data import DATASETS, DataError, default_cache_dir, load_images, read_idx
from vae_jax.data.download import PROBE_SECONDS, fetch_official, probe
from vae_jax.data.idx import FILES, SHA256, Arrays
from vae_jax.data.images import CLASS_NAMES, _enlarge
from vae_jax.sharding import AXIS, place

ROOT = Path(__file__).resolve().parent.parent
REAL = Path(os.environ.get("VAE_JAX_DATA") or ROOT.parent / "shared" / "data")
needs_mnist = pytest.mark.skipif(
    not (REAL / "mnist").is_dir(), reason="no folder mnist in VAE_JAX_DATA or ../shared/data"
)
OFFICIAL = ("mnist", "fashion_mnist", "kmnist")
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (file for file, _ in FILES.values())


def pack(values: np.ndarray, *, sizes: tuple[int, ...] | None = None) -> bytes:
    sizes = values.shape if sizes is None else sizes
    header = struct.pack(f">4B{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
    return gzip.compress(header + values.tobytes(), mtime=0)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def assert_same(found: Any, arrays: Any) -> None:
    for part in FILES:
        np.testing.assert_array_equal(getattr(found, part), getattr(arrays, part), strict=True)


def error_of(call: Callable[[], object]) -> str:
    """The message of the DataError that a call must raise: one line."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home_cache"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield
    assert not list(temporary.iterdir()), "a temporary folder was left behind"
    assert not list(tmp_path.rglob(".*")), "half a cache file was left behind"


class Small(NamedTuple):
    """A stand-in for the official MNIST, small enough to be damaged in many ways."""

    data_dir: Path
    arrays: Arrays
    folder: Path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Small:
    rng = np.random.default_rng(0)
    arrays = Arrays(
        rng.integers(0, 256, (7, 28, 28, 1), np.uint8),
        rng.integers(0, 10, 7, np.uint8),
        rng.integers(0, 256, (3, 28, 28, 1), np.uint8),
        rng.integers(0, 10, 3, np.uint8),
    )
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    checksums = {}
    for part, array in arrays._asdict().items():
        file = FILES[part][0]
        values = array[..., 0] if array.ndim > 1 else array
        (folder / file).write_bytes(pack(values))
        checksums[file] = sha256(pack(values))
        monkeypatch.setitem(FILES, part, (file, values.shape))
    monkeypatch.setitem(SHA256, "mnist", checksums)
    return Small(folder.parent, arrays, folder)


PointTfds = Callable[[str], None]


@pytest.fixture
def point_tfds_at(small: Small, monkeypatch: pytest.MonkeyPatch) -> PointTfds:
    """Give TensorFlow Datasets the small files at another address; the rest of it is real."""
    sizes = {file: (small.folder / file).stat().st_size for file, _ in FILES.values()}

    def point(address: str) -> None:
        url_infos = {
            f"{address}/{file}": UrlInfo(Size(size), SHA256["mnist"][file], file)
            for file, size in sizes.items()
        }
        builder = SimpleNamespace(url_infos=url_infos, VERSION="3.0.1")
        monkeypatch.setattr(tfds, "builder_cls", lambda name: builder)

    return point


class Server(NamedTuple):
    """A web server of the small files, which also plays the proxy."""

    address: str
    folder: Path
    status: dict[str, int]
    asked: list[str]


@pytest.fixture
def server(small: Small, tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "served"
    shutil.copytree(small.folder, folder)
    status: dict[str, int] = {}
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path: str) -> str:
            return str(folder / Path(urllib.parse.urlsplit(path).path).name)

        def send_head(self) -> Any:
            asked.append(f"{self.command} {self.path}")
            if self.command in status:
                return self.send_error(status[self.command])
            return super().send_head()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield Server(f"http://127.0.0.1:{running.server_port}", folder, status, asked)
        running.shutdown()


def closed_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def forbid_tfds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


# One IDX file


@pytest.mark.parametrize("shape", [(5,), (4, 3, 2), (0,)])
def test_read_idx_returns_what_was_written(shape: tuple[int, ...], tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "file.gz"
    path.write_bytes(pack(values))
    found = read_idx(path, shape, sha256=sha256(pack(values)))
    np.testing.assert_array_equal(found, values, strict=True)


def test_the_data_are_in_memory_once(tmp_path: Path) -> None:
    """What is read is taken by JAX as it is, and nobody can change it from then on."""
    values = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    path = tmp_path / "file.gz"
    path.write_bytes(pack(values))
    found = read_idx(path, values.shape)
    placed = place(found, None)
    np.testing.assert_array_equal(placed, values, strict=True)
    if jax.default_backend() == "cpu":
        assert placed.unsafe_buffer_pointer() == found.ctypes.data
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


@pytest.mark.parametrize("with_mesh", [False, True])
def test_what_somebody_may_write_to_is_copied(with_mesh: bool) -> None:
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((1,), (AXIS,), auto, devices=jax.devices()[:1]) if with_mesh else None
    room = np.zeros(1000 + 64, np.uint8)
    start = -room.ctypes.data % 64  # where JAX could take it as it is
    own = room[start : start + 1000]
    placed = place(own, mesh)
    own[:] = 1
    assert not np.any(placed)


VALUES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
GOOD = pack(VALUES)
PLAIN = gzip.decompress(GOOD)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(b"", "the file is empty", id="empty"),
        pytest.param(PLAIN, "not a gzip file", id="unpacked"),
        pytest.param(b"\x1f", "not a gzip file", id="one-byte"),
        pytest.param(GOOD[:25], "truncated", id="truncated-gzip"),
        pytest.param(GOOD[:-1], "truncated", id="truncated-trailer"),
        pytest.param(GOOD[:-8] + bytes(8), "damaged gzip data", id="wrong-crc"),
        pytest.param(GOOD + b"\0", "trailing data", id="trailing-byte"),
        pytest.param(GOOD + GOOD, "trailing data", id="second-member"),
        pytest.param(gzip.compress(b""), "0 bytes are too few for an IDX header", id="nothing"),
        pytest.param(gzip.compress(PLAIN[:15]), "15 bytes are too few", id="half-a-header"),
        pytest.param(gzip.compress(PLAIN[:-1]), "23 bytes of data, but the header", id="short"),
        pytest.param(gzip.compress(PLAIN + b"\0"), "more than the 40 bytes", id="long"),
        pytest.param(pack(VALUES.reshape(-1)), "magic number 0x00000801", id="labels"),
        pytest.param(gzip.compress(b"PNG!" + PLAIN[4:]), "magic number 0x504e4721", id="magic"),
        pytest.param(pack(VALUES[:3]), "announces 3 x 3 x 2, not 4 x 3 x 2", id="fewer"),
        pytest.param(pack(VALUES.repeat(9, 0)), "announces 36 x 3 x 2, not 4", id="more"),
        pytest.param(pack(VALUES, sizes=(5, 3, 2)), "announces 5 x 3 x 2", id="header-lies"),
        pytest.param(gzip.compress(PLAIN, 0, mtime=9), "SHA-256", id="other-file-same-data"),
    ],
)
def test_read_idx_says_what_is_wrong(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    message = error_of(lambda: read_idx(path, VALUES.shape, sha256=sha256(GOOD)))
    assert message.startswith(f"{path}: ")
    assert says in message


def test_read_idx_of_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    assert "No such file" in error_of(lambda: read_idx(tmp_path / "none.gz", (1,)))
    assert "directory" in error_of(lambda: read_idx(tmp_path, (1,)))


def test_read_idx_finds_every_flipped_byte_and_every_cut(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    for at in range(len(GOOD)):
        path.write_bytes(GOOD)
        flip(path, at)
        error_of(lambda: read_idx(path, VALUES.shape, sha256=sha256(GOOD)))
        path.write_bytes(GOOD[:at])
        error_of(lambda: read_idx(path, VALUES.shape))


def test_read_idx_holds_values_to_the_highest(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(pack(np.array([9, 0, 10], np.uint8)))
    assert "value 10 at 2, but the highest is 9" in error_of(
        lambda: read_idx(path, (3,), highest=9)
    )
    assert read_idx(path, (3,), highest=10).max() == 10


def test_a_gzip_bomb_is_unpacked_no_further_than_the_official_size(tmp_path: Path) -> None:
    shape = (2, 28, 28)
    path = tmp_path / "bomb.gz"
    path.write_bytes(pack(np.zeros(32 << 20, np.uint8), sizes=shape))
    tracemalloc.start()
    try:
        assert "more than the 1584 bytes" in error_of(lambda: read_idx(path, shape))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Without the limit, the first 16 KiB that are read would unpack to 16 MiB.
    assert peak < 1 << 20


# The first door: a folder


@needs_mnist
def test_real_mnist_from_a_folder() -> None:
    data = load_images("mnist", REAL)
    assert (data.name, data.warning) == ("mnist", None)
    assert data.train_images.shape == (60_000, 28, 28, 1)
    assert data.test_images.shape == (10_000, 28, 28, 1)
    assert {getattr(data, part).dtype for part in FILES} == {np.dtype(np.uint8)}
    # Known of this data set: its first labels, and how often each digit occurs.
    assert data.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    train_counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test_counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.train_labels).tolist() == train_counts
    assert np.bincount(data.test_labels).tolist() == test_counts
    # The usual mean and standard deviation for normalising, to the digits always quoted.
    assert round(float(data.train_images.mean() / 255), 4) == 0.1307
    assert round(float(data.train_images.std() / 255), 4) == 0.3081
    assert data.sha256 == SHA256["mnist"]
    assert "mnist/ of the data folder" in data.source


def test_the_folder_may_come_from_the_environment(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAE_JAX_DATA", str(small.data_dir))
    forbid_tfds(monkeypatch)
    for name in ("mnist", "auto"):
        data = load_images(name)
        assert (data.name, data.warning) == ("mnist", None)
        assert_same(data, small.arrays)
    # An argument goes before the environment.
    assert str(tmp_path / "none") in error_of(lambda: load_images("mnist", tmp_path / "none"))


def test_a_data_folder_that_is_none_is_an_error(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("mnist", "auto"):
        for wrong in (tmp_path / "none", small.folder / TRAIN_IMAGES):
            assert f"data folder {wrong}" in error_of(lambda n=name, w=wrong: load_images(n, w))
        monkeypatch.setenv("VAE_JAX_DATA", str(tmp_path / "none"))
        assert f"VAE_JAX_DATA {tmp_path / 'none'}" in error_of(lambda n=name: load_images(n))
        monkeypatch.delenv("VAE_JAX_DATA")


def test_an_empty_environment_variable_is_no_folder(
    point_tfds_at: PointTfds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAE_JAX_DATA", "")
    point_tfds_at(closed_port())
    assert error_of(lambda: load_images("mnist")).startswith("mnist: no network")


@pytest.mark.parametrize("name", ["mnist", "auto"])
@pytest.mark.parametrize("file", [file for file, _ in FILES.values()])
def test_a_damaged_folder_is_never_replaced(
    name: str, file: str, small: Small, server: Server, point_tfds_at: PointTfds
) -> None:
    point_tfds_at(server.address)
    path = small.folder / file
    flip(path, path.stat().st_size // 2)
    assert str(path) in error_of(lambda: load_images(name, small.data_dir))
    path.unlink()
    assert f"{path}: No such file" in error_of(lambda: load_images(name, small.data_dir))
    assert not server.asked


def test_labels_must_be_as_many_as_images_and_name_a_class(small: Small) -> None:
    path = small.folder / TRAIN_LABELS
    path.write_bytes(pack(np.zeros(6, np.uint8)))
    assert f"{path}: the header announces 6, not 7" in error_of(
        lambda: load_images("mnist", small.data_dir)
    )
    path.write_bytes(pack(np.full(7, 10, np.uint8)))
    assert "value 10 at 0, but the highest is 9" in error_of(
        lambda: load_images("mnist", small.data_dir)
    )


def test_files_of_another_data_set_have_another_checksum(small: Small) -> None:
    path = small.folder / TEST_IMAGES
    path.write_bytes(pack(np.zeros((3, 28, 28), np.uint8)))
    message = error_of(lambda: load_images("mnist", small.data_dir))
    assert str(path) in message
    assert SHA256["mnist"][TEST_IMAGES][:12] in message


def test_a_link_that_points_nowhere_is_a_damaged_folder(tmp_path: Path) -> None:
    (tmp_path / "mnist").symlink_to(tmp_path / "unmounted")
    assert str(tmp_path / "mnist") in error_of(lambda: load_images("auto", tmp_path))


# The second door: TensorFlow Datasets


@pytest.mark.parametrize("name", OFFICIAL)
def test_tables_are_those_of_tensorflow_datasets(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where a builder leaves a folder
    builder: Any = tfds.builder(name, data_dir=tmp_path)
    registered = {info.filename: info.checksum for info in builder.url_infos.values()}
    assert registered == SHA256[name]
    assert set(registered) == {file for file, _ in FILES.values()}
    assert CLASS_NAMES[name] == tuple(builder.info.features["label"].names)


@needs_mnist
def test_real_mnist_through_tensorflow_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fetched = fetch_official("mnist", tmp_path / "cache", REAL / "mnist")
    assert fetched.warning is None
    assert fetched.source == f"TensorFlow Datasets {tfds.__version__}, mnist 3.0.1"
    assert_same(fetched.arrays, load_images("mnist", REAL))

    forbid_tfds(monkeypatch)
    cached = load_images("mnist", cache_dir=tmp_path / "cache")
    assert (cached.name, cached.warning) == ("mnist", None)
    assert cached.source == f"{fetched.source}, kept in the cache"
    assert cached.sha256 == SHA256["mnist"]
    assert_same(cached, fetched.arrays)
    assert capfd.readouterr() == ("", "")


def test_download_is_verified_kept_and_not_repeated(
    small: Small,
    server: Server,
    point_tfds_at: PointTfds,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    point_tfds_at(server.address)
    data = load_images("auto")
    assert (data.name, data.warning) == ("mnist", None)
    assert_same(data, small.arrays)
    assert len(server.asked) == 5, "one question, four files"

    forbid_tfds(monkeypatch)
    again = load_images("auto")
    assert again.source == f"{data.source}, kept in the cache"
    assert_same(again, small.arrays)
    assert len(server.asked) == 5
    assert (default_cache_dir() / "mnist" / "manifest.json").is_file()
    assert capfd.readouterr() == ("", "")


def test_a_data_folder_without_the_data_set_goes_on_to_the_second_door(
    small: Small, server: Server, point_tfds_at: PointTfds, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    point_tfds_at(server.address)
    assert_same(load_images("mnist", tmp_path / "other"), small.arrays)


def test_a_download_that_is_not_the_official_file_is_refused(
    server: Server, point_tfds_at: PointTfds
) -> None:
    point_tfds_at(server.address)
    (server.folder / TRAIN_IMAGES).write_bytes(b"<html>please log in</html>")
    message = error_of(lambda: load_images("mnist"))
    assert "NonMatchingChecksumError" in message
    assert TRAIN_IMAGES in message
    assert len(server.asked) == 2, "nothing may be under way when the folder is removed"
    assert load_images("auto").name == "digits"
    assert not default_cache_dir().exists()


def test_a_proxy_is_used_by_the_question_and_the_download(
    small: Small, server: Server, point_tfds_at: PointTfds, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A host that cannot be resolved, so that only the proxy can reach it.
    point_tfds_at("http://data.invalid")
    monkeypatch.setenv("http_proxy", server.address)
    assert_same(load_images("mnist"), small.arrays)
    assert all("http://data.invalid/" in request for request in server.asked)


@pytest.mark.parametrize("status", [405, 501])
def test_a_server_may_refuse_to_answer_head(
    status: int, small: Small, server: Server, point_tfds_at: PointTfds
) -> None:
    server.status["HEAD"] = status
    point_tfds_at(server.address)
    assert_same(load_images("mnist"), small.arrays)


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_that_refuses_is_not_asked_again(
    status: int, server: Server, point_tfds_at: PointTfds
) -> None:
    server.status["HEAD"] = status
    point_tfds_at(server.address)
    assert f"127.0.0.1 answered HTTP {status}" in error_of(lambda: load_images("mnist"))
    assert len(server.asked) == 1


def test_a_certificate_unknown_here_is_left_to_the_download(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError(ssl.SSLCertVerificationError("unable to get local issuer"))

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    probe("https://data.invalid/file.gz")


def test_without_tensorflow_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_tfds(monkeypatch)
    assert "ModuleNotFoundError" in error_of(lambda: load_images("kmnist"))


# No network


@pytest.mark.parametrize("name", OFFICIAL)
def test_offline_an_explicit_name_is_an_error_that_says_what_to_do(
    name: str, point_tfds_at: PointTfds, tmp_path: Path
) -> None:
    point_tfds_at(closed_port())
    (tmp_path / "other").mkdir()
    message = error_of(lambda: load_images(name, tmp_path / "other"))
    for part in (
        f"{name}: no folder {name} in {tmp_path / 'other'}",
        "no network: 127.0.0.1: Connection refused",
        f"{TEST_LABELS}) in FOLDER/{name} and pass --data-dir FOLDER",
        "--dataset digits",
    ):
        assert part in message


def test_offline_auto_falls_back_and_says_so(point_tfds_at: PointTfds) -> None:
    point_tfds_at(closed_port())
    data = load_images("auto")
    assert data.name == "digits"
    assert data.warning is not None
    assert data.warning.startswith("mnist is not available (no network: 127.0.0.1: Connection")
    assert "1797 small digits of scikit-learn" in data.warning
    assert "--data-dir" in data.warning
    explicit = load_images("digits")
    assert explicit.warning is None
    assert_same(data, explicit)


def test_a_resolver_that_hangs_is_noticed_within_five_seconds(
    point_tfds_at: PointTfds, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    def getaddrinfo(*_: object, **__: object) -> None:
        released.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    point_tfds_at("http://data.invalid")
    start = time.monotonic()
    try:
        message = error_of(lambda: load_images("mnist"))
        assert time.monotonic() - start < 5
    finally:
        released.set()
    assert f"no network: data.invalid did not answer within {PROBE_SECONDS:g} seconds" in message


def test_a_host_that_accepts_and_says_nothing_is_out_of_reach(
    point_tfds_at: PointTfds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vae_jax.data.download.PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_tfds_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "no network: 127.0.0.1" in error_of(lambda: load_images("mnist"))


# The cache


@pytest.fixture
def cache(server: Server, point_tfds_at: PointTfds) -> Path:
    """The folder of a filled cache, which can be filled again from the server."""
    point_tfds_at(server.address)
    assert load_images("mnist").warning is None
    return default_cache_dir() / "mnist"


def overwrite(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        pytest.param("train_images.npy", lambda path: flip(path, 3000), id="flipped-byte"),
        pytest.param("test_images.npy", lambda path: os.truncate(path, 200), id="truncated"),
        pytest.param("test_labels.npy", overwrite(b""), id="empty"),
        pytest.param("train_labels.npy", Path.unlink, id="missing"),
        pytest.param("manifest.json", overwrite(b"{"), id="no-json"),
        pytest.param("manifest.json", overwrite(b"\xff"), id="no-text"),
        pytest.param("manifest.json", overwrite(b"[1]"), id="no-object"),
        pytest.param("manifest.json", overwrite(b"{}"), id="nothing-in-it"),
        pytest.param("manifest.json", overwrite(b"[" * 50_000), id="too-deep"),
    ],
)
def test_a_damaged_cache_is_reported_and_rebuilt(
    file: str,
    damage: Callable[[Path], object],
    small: Small,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(cache / file)
    rebuilt = load_images("mnist")
    assert rebuilt.warning is not None
    assert f"damaged cache {cache / file}" in rebuilt.warning
    assert rebuilt.warning.endswith("rebuilt")
    assert_same(rebuilt, small.arrays)

    forbid_tfds(monkeypatch)
    assert load_images("mnist").warning is None


def sign(cache: Path, **changes: object) -> None:
    """Write a manifest to which every array belongs, as it lies there."""
    manifest = json.loads((cache / "manifest.json").read_text())
    manifest["arrays"] = {part: sha256((cache / f"{part}.npy").read_bytes()) for part in FILES}
    (cache / "manifest.json").write_text(json.dumps(manifest | changes))


class Bait:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_the_cache_never_runs_a_pickle(small: Small, cache: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickled = io.BytesIO()
    np.save(pickled, np.array([Bait(mark)], object), allow_pickle=True)
    for content in (pickle.dumps(Bait(mark)), pickled.getvalue()):
        (cache / "test_labels.npy").write_bytes(content)
        sign(cache)
        assert "test_labels.npy" in (load_images("mnist").warning or "")
    assert not mark.exists()
    np.load(io.BytesIO(pickled.getvalue()), allow_pickle=True)
    assert mark.exists(), "the bait must be able to bite"


def test_the_cache_holds_what_this_version_expects(small: Small, cache: Path) -> None:
    np.save(cache / "test_labels.npy", small.arrays.test_labels.astype(np.int64))
    sign(cache)
    assert "int64" in (load_images("mnist").warning or "")
    for changes in ({"format": 0}, {"files": {}}):
        sign(cache, **changes)
        assert "written for other files" in (load_images("mnist").warning or "")
    sign(cache)
    assert load_images("mnist").warning is None


def test_a_damaged_cache_without_a_network(
    cache: Path, point_tfds_at: PointTfds, small: Small
) -> None:
    flip(cache / "train_images.npy", 3000)
    point_tfds_at(closed_port())
    message = error_of(lambda: load_images("mnist"))
    assert "damaged cache" in message
    assert "no network" in message
    assert "damaged cache" in (load_images("auto").warning or "")


def test_a_cache_that_cannot_be_written_costs_a_warning(
    small: Small, server: Server, point_tfds_at: PointTfds, tmp_path: Path
) -> None:
    point_tfds_at(server.address)
    (tmp_path / "file").touch()
    data = load_images("mnist", cache_dir=tmp_path / "file")
    assert data.warning is not None
    assert f"mnist could not be kept in {tmp_path / 'file' / 'mnist'}" in data.warning
    assert_same(data, small.arrays)


def test_a_cache_half_written_is_no_cache(
    small: Small, server: Server, point_tfds_at: PointTfds, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_tfds_at(server.address)
    replace = os.replace

    def full(source: str | Path, target: str | Path) -> None:
        if Path(target).name == "manifest.json":
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert "No space left on device" in (load_images("mnist").warning or "")
    whole = load_images("mnist")
    assert whole.warning is None
    assert "cache" not in whole.source
    assert_same(whole, small.arrays)


# The third door: digits


def test_digits_are_what_they_are_documented_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAE_JAX_DATA", "/no/such/folder")  # needed by none of this
    data = load_images("digits")
    assert (data.name, data.warning) == ("digits", None)
    assert data.train_images.shape == (1437, 28, 28, 1)
    assert data.test_images.shape == (360, 28, 28, 1)
    assert data.train_labels.shape == (1437,)
    assert data.test_labels.shape == (360,)
    assert {getattr(data, part).dtype for part in FILES} == {np.dtype(np.uint8)}
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert data.class_names == tuple("0123456789")
    assert data.source.startswith("scikit-learn ")
    for part, checksum in data.sha256.items():
        assert checksum == sha256(getattr(data, part).tobytes())
    # Written down once: the split may not change from one NumPy or machine to the next.
    assert data.sha256["train_images"].startswith("285c675792952dd4")
    assert data.sha256["train_labels"].startswith("53f898fb81bedc19")


def test_digits_are_split_without_loss_or_overlap() -> None:
    data = load_images("digits")
    bunch: Any = load_digits()
    whole = np.rint(_enlarge(bunch.images) * (255 / 16))
    expected = np.column_stack([bunch.target, whole.reshape(1797, -1)])
    labels = np.concatenate([data.train_labels, data.test_labels])
    pixels = np.concatenate([data.train_images, data.test_images]).reshape(1797, -1)
    found = np.column_stack([labels, pixels])
    # As multisets of labelled images: each of the 1,797 stands in one part, once.
    np.testing.assert_array_equal(
        found[np.lexsort(found.T)], expected[np.lexsort(expected.T)].astype(found.dtype)
    )


def test_enlarging_is_exact_area_resampling() -> None:
    bunch: Any = load_digits()
    # In sevenths of an old pixel, new pixel i covers [2i, 2i + 2] and old pixel j [7j, 7j + 7].
    new, old = np.ogrid[:28, :8]
    overlap = np.minimum(2 * new + 2, 7 * old + 7) - np.maximum(2 * new, 7 * old)
    weights = np.maximum(overlap, 0) / 2
    enlarged = _enlarge(bunch.images)
    # Quarters of whole numbers, so that every sum and mean here is exact.
    np.testing.assert_array_equal(enlarged, weights @ bunch.images @ weights.T)
    np.testing.assert_array_equal(
        enlarged.sum((1, 2)) * 64, bunch.images.sum((1, 2)) * 784, "the mean must be kept"
    )


# All of them


@pytest.mark.parametrize("name", ["MNIST", "", "cifar10", "../mnist"])
def test_an_unknown_name_is_answered_with_the_known_ones(name: str) -> None:
    message = error_of(lambda: load_images(name))
    assert repr(name) in message
    for known in DATASETS:
        assert known in message


def test_importing_the_package_imports_nothing_heavy() -> None:
    # In a bare parent, because only the data package is asked about.
    code = """
import sys, types
sys.modules["vae_jax"] = parent = types.ModuleType("vae_jax")
parent.__path__ = ["vae_jax"]
import vae_jax.data
heavy = {"jax", "flax", "sklearn", "tensorflow_datasets"} & set(sys.modules)
above = [m for m in sys.modules if m.startswith("vae_jax.") and ".data" not in m]
print(heavy | set(above))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"
