"""Reading files whose damage is told in one line, and the words that such lines quote."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vae_jax.data.idx import DataError


def read_bytes(path: Path) -> bytes:
    """Read a text file as it is stored.

    Args:
        path: the file.

    Returns:
        Its bytes: at least one, and UTF-8 without a NUL.

    Raises:
        DataError: if the file cannot be read, is empty, or is no text.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder, not a file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not content:
        raise DataError(f"{path}: the file is empty")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from error
    if b"\0" in content:
        raise DataError(f"{path}: a NUL byte at byte {content.index(0)}, this is no text")
    return content


def check_official(path: Path, sha256: str) -> None:
    """Refuse a file that is not the official one.

    Args:
        path: the file.
        sha256: checksum of the official file, in hexadecimal.

    Raises:
        DataError: if the file cannot be read or has another checksum.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if found != sha256:
        raise DataError(f"{path}: not the official file (its SHA-256 begins with {found[:12]})")


def listed(names: Sequence[str]) -> str:
    """Names in a line for people to read, the first ten of them."""
    return ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")


def shortened(value: object) -> str:
    """What was found, quoted in an error: at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
