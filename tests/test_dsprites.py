"""The loader of dSprites, on small files of the same layout."""

import functools
import hashlib
import http.server
import math
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from vae_jax.data import DataError, dsprites, load_dsprites

SIZES = (1, 3, 2, 2, 2, 2)
COUNT = math.prod(SIZES)
SHARED = np.random.default_rng(0).integers(2, size=(COUNT, 64, 64)).astype(np.uint8)


def write(path, images=SHARED, classes=None):
    h5py = pytest.importorskip("h5py")
    if classes is None:
        classes = np.indices(SIZES).reshape(len(SIZES), -1).T
    with h5py.File(path, "w") as file:
        file["imgs"] = images
        file["latents/classes"] = classes.astype(np.int64)
        file["latents/values"] = classes.astype(float)
    return path


def test_every_bit_is_read_in_its_place(tmp_path):
    packed = dsprites.read_dsprites(write(tmp_path / "file.hdf5"), SIZES)
    assert (packed.shape, packed.dtype) == ((COUNT, 64, 8), np.uint8)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=-1), SHARED)


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr(dsprites, "_AT_ONCE", 7)
    packed = dsprites.read_dsprites(write(tmp_path / "file.hdf5"), SIZES)
    np.testing.assert_array_equal(np.unpackbits(packed, axis=-1), SHARED)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": SHARED[:-1]}, "imgs is uint8 of shape"),
        ({"images": SHARED.astype(float)}, "imgs is float64"),
        ({"images": 255 * SHARED}, "a pixel is 255, not 0 or 1"),
        ({"classes": np.zeros((COUNT, 6))}, "not in the order of their factors"),
    ],
)
def test_a_file_of_other_content_is_refused(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        dsprites.read_dsprites(write(tmp_path / "file.hdf5", **changes), SIZES)


def test_what_is_no_such_file_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"no hdf5")
    with pytest.raises(DataError, match="cannot be read"):
        dsprites.read_dsprites(path, SIZES)
    with h5py.File(path, "w") as file:
        file["other"] = 1
    with pytest.raises(DataError, match="cannot be read"):
        dsprites.read_dsprites(path, SIZES)


def test_only_the_official_file_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(dsprites, "_import_h5py", lambda: None)
    (tmp_path / "dsprites").mkdir()
    with pytest.raises(DataError, match=r"hdf5: No such file"):
        load_dsprites(tmp_path)
    (tmp_path / "dsprites" / dsprites.FILE).write_bytes(b"another file")
    with pytest.raises(DataError, match="not the official file"):
        load_dsprites(tmp_path)


def test_the_official_file_is_read_from_the_folder(tmp_path, monkeypatch):
    (tmp_path / "dsprites").mkdir()
    path = write(tmp_path / "dsprites" / dsprites.FILE)
    monkeypatch.setattr(dsprites, "check_official", lambda path, sha256: None)
    read = dsprites.read_dsprites
    monkeypatch.setattr(dsprites, "read_dsprites", lambda path: read(path, SIZES))
    found = load_dsprites(tmp_path)
    np.testing.assert_array_equal(found.images, read(path, SIZES))
    assert found.sha256 == {dsprites.FILE: dsprites.SHA256}


def test_the_checksum_is_that_of_tensorflow_datasets():
    tfds = pytest.importorskip("tensorflow_datasets")
    ((_, info),) = (tfds.builder_cls("dsprites").url_infos or {}).items()
    assert (info.filename, info.checksum) == (dsprites.FILE, dsprites.SHA256)


def test_it_is_downloaded_once(tmp_path, monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.core.utils import Size

    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    path = write(tmp_path / "served" / dsprites.FILE)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(dsprites, "SHA256", sha256)
    read, asked = dsprites.read_dsprites, []
    monkeypatch.setattr(dsprites, "read_dsprites", lambda path: read(path, SIZES))

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.command)

    def builder_cls(name: str) -> SimpleNamespace:
        assert name == "dsprites"
        return SimpleNamespace(url_infos={url: info}, VERSION="2.0.0")

    handler = functools.partial(Handler, directory=str(path.parent))
    cache = tmp_path / "cache"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        info = UrlInfo(Size(path.stat().st_size), sha256, path.name)
        monkeypatch.setattr(tfds, "builder_cls", builder_cls)
        first = load_dsprites(cache_dir=cache)
        server.shutdown()
    assert asked == ["HEAD", "GET"]
    again = load_dsprites(cache_dir=cache)  # the server is gone
    for found in (first, again):
        np.testing.assert_array_equal(np.unpackbits(found.images, axis=-1), SHARED)
        assert found.source == "TensorFlow Datasets, dsprites"
        assert found.sha256 == {dsprites.FILE: sha256}
    assert [one.name for one in cache.rglob("*") if one.is_file()] == [dsprites.FILE]
    (cache / "dsprites" / dsprites.FILE).write_bytes(b"torn")
    with pytest.raises(DataError, match="not the official file"):
        load_dsprites(cache_dir=cache)


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(dsprites, "_import_h5py", lambda: None)
    monkeypatch.delenv("VAE_JAX_DATA", raising=False)
    for variable in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"no network.*put its official file") as caught:
        load_dsprites(cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_without_h5py_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"h5py is needed: pip install -e '.\[dsprites\]'"):
        load_dsprites()
