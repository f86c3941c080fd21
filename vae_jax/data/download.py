"""Official files through TensorFlow Datasets; those of images are kept decoded in a cache folder.

TensorFlow Datasets knows the addresses and verifies what it downloads; TensorFlow is not
needed for that. A second start reads the cache and imports neither.
"""

import contextlib
import hashlib
import http.client
import io
import json
import os
import ssl
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vae_jax.data.idx import FILES, SHA256, Arrays, DataError, read_official

PROBE_SECONDS = 3.0
"""How long a host may take to answer before it counts as out of reach."""

_MANIFEST = "manifest.json"
_CACHE_FORMAT = 1


class UnavailableError(DataError):
    """The data can neither be downloaded nor read from the cache."""


class Fetched(NamedTuple):
    """What came out of the cache or the download.

    Attributes:
        arrays: the data.
        source: version of TensorFlow Datasets and of the data set.
        warning: that the cache was damaged or could not be written, or None.
    """

    arrays: Arrays
    source: str
    warning: str | None


def fetch_official(name: str, cache_dir: Path, manual_dir: Path | None = None) -> Fetched:
    """Read an official data set from the cache, or else through TensorFlow Datasets.

    Nothing is taken from the cache that does not have the checksum it was written with. A
    damaged cache is rebuilt, and `warning` says so; a cache that cannot be written costs a
    warning, not the data.

    Args:
        name: a key of `SHA256`.
        cache_dir: folder of the decoded arrays; made if it does not exist.
        manual_dir: folder in which TensorFlow Datasets looks for the official files before
            it downloads them.

    Returns:
        The data.

    Raises:
        UnavailableError: if the files can neither be downloaded nor found, or are not the
            official ones. Without a network this is known after `PROBE_SECONDS`.
    """
    folder = Path(os.path.expanduser(cache_dir)) / name
    damage = None
    try:
        cached = _read_cache(name, folder)
        if cached is not None:
            return cached
    except DataError as error:
        damage = str(error)

    try:
        fetched = _download(name, manual_dir)
    except UnavailableError as error:
        if damage is None:
            raise
        raise UnavailableError(f"{damage}, and {error}") from error

    warning = None if damage is None else f"{damage}: rebuilt"
    try:
        _write_cache(name, folder, fetched)
    except OSError as error:
        warning = f"{name} could not be kept in {folder} ({one_line(error)})"
        warning = warning if damage is None else f"{damage}; {warning}"
    return fetched._replace(warning=warning)


def default_cache_dir() -> Path:
    """Where downloaded data are kept: below $XDG_CACHE_HOME, or else below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "vae_jax" / "datasets"


def one_line(error: BaseException | str) -> str:
    """What an error says, on one line, with its type where the words alone may not do."""
    text = getattr(error, "strerror", None) or str(error)
    speaks_for_itself = isinstance(error, OSError | ValueError | str)
    if not text or not speaks_for_itself:
        text = f"{type(error).__name__}: {text}"
    return " ".join(text.split())


def download_official(name: str, path: Path) -> None:
    """Download a data set of one file through TensorFlow Datasets, which verifies it.

    Args:
        name: of the data set there.
        path: where the file is put, whole or not at all.

    Raises:
        UnavailableError: if the file cannot be downloaded, is not the official one, or cannot
            be put there. Without a network this is known after `PROBE_SECONDS`.
    """
    # Beside its place, so that it can be moved there in one stroke.
    with _official_files(name, path.parent) as (paths, _):
        (downloaded,) = paths.values()
        os.replace(downloaded, path)


def _download(name: str, manual_dir: Path | None) -> Fetched:
    with _official_files(name, manual_dir=manual_dir) as (paths, source):
        return Fetched(read_official(name, paths), source, warning=None)


@contextlib.contextmanager
def _official_files(
    name: str, folder: Path | None = None, *, manual_dir: Path | None = None
) -> Iterator[tuple[dict[str, Path], str]]:
    """The files of a data set by name, kept in a folder until the block ends, and their source."""
    # Whatever the library, its dependencies or the server do wrong is one thing to the user:
    # this door is shut, for the reason given.
    try:
        import tensorflow_datasets as tfds

        builder = tfds.builder_cls(name)
        url_infos = builder.url_infos or {}
        url_of = {Path(urllib.parse.urlsplit(url).path).name: url for url in url_infos}
        local = [] if manual_dir is None else os.listdir(manual_dir)
        missing = [url for file, url in url_of.items() if file not in local]
        if missing:
            probe(missing[0])
        tfds.disable_progress_bar()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as temporary:
            manager = tfds.download.DownloadManager(
                download_dir=temporary,
                manual_dir=manual_dir,
                url_infos=url_infos,
                dataset_name=name,
                force_checksums_validation=True,
            )
            # One after the other: of several at once, those still under way when one fails
            # would go on writing into the folder that is being removed.
            paths = {file: Path(manager.download(url)) for file, url in url_of.items()}
            yield paths, f"TensorFlow Datasets {tfds.__version__}, {name} {builder.VERSION}"
    except UnavailableError:
        raise
    except Exception as error:
        reason = f"TensorFlow Datasets could not fetch it ({one_line(error)})"
        raise UnavailableError(reason) from error


def probe(url: str) -> None:
    """Raise unless the host of `url` answers within `PROBE_SECONDS`.

    TensorFlow Datasets retries for minutes before it gives up. The question goes through
    urllib, so that it takes the proxy that the download would take, and is asked from a
    daemon thread, because no timeout reaches into a resolver of names that hangs.
    """
    host = urllib.parse.urlsplit(url).hostname
    late = f"no network: {host} did not answer within {PROBE_SECONDS:g} seconds"
    answers: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            # Not `urlopen`: it keeps the proxies that were set when it was first called.
            with urllib.request.build_opener().open(request, timeout=PROBE_SECONDS):
                answers.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            refused_only_head = error.code in (405, 501)
            answers.append(None if refused_only_head else f"{host} answered HTTP {error.code}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            # A host whose certificate this Python does not know has answered all the same;
            # the download brings certificates of its own.
            known = isinstance(cause, ssl.SSLCertVerificationError)
            answers.append(None if known else f"no network: {host}: {one_line(cause)}")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    problem = answers[0] if answers else late
    if problem is not None:
        raise UnavailableError(problem)


def _read_cache(name: str, folder: Path) -> Fetched | None:
    """Read the cache; None if there is none, DataError if it is damaged."""
    # The manifest is written last: without it there is no cache, only an attempt at one.
    path = folder / _MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        manifest = json.loads(path.read_bytes())
        if (manifest["format"], manifest["files"]) != (_CACHE_FORMAT, SHA256[name]):
            raise ValueError("written for other files")
        source = f"{manifest['source']}, kept in the cache"
        arrays = {}
        for part, (_, shape) in FILES.items():
            path = folder / f"{part}.npy"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest["arrays"][part]:
                    raise ValueError("its SHA-256 is not that of the manifest")
                file.seek(0)
                array = np.load(file, allow_pickle=False)
            stored_shape = (*shape, 1) if len(shape) > 1 else shape
            if (array.shape, array.dtype) != (stored_shape, np.uint8):
                raise ValueError(f"{array.dtype} of shape {array.shape}")
            arrays[part] = array
    except (OSError, ValueError, LookupError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(f"damaged cache {path} ({one_line(error)})") from error
    return Fetched(Arrays(**arrays), source, warning=None)


def _write_cache(name: str, folder: Path, fetched: Fetched) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for part, array in fetched.arrays._asdict().items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        # Of the bytes meant, not of those on disk: a torn write shows when it is read.
        checksums[part] = hashlib.sha256(buffer.getbuffer()).hexdigest()
        _replace(folder / f"{part}.npy", buffer.getbuffer())
    manifest = {
        "format": _CACHE_FORMAT,
        "source": fetched.source,
        "files": SHA256[name],
        "arrays": checksums,
    }
    _replace(folder / _MANIFEST, json.dumps(manifest, indent=2).encode())


def _replace(path: Path, content: bytes | memoryview) -> None:
    # Under a name of its own, because two processes may fill one cache at the same time.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
