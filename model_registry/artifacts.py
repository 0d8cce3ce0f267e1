"""The files of a model: which may be opened, and whether they are the ones that the manifest means.

A file is read once; the checksum is taken of the very bytes that are handed on to the runtime, so nothing can be
swapped in between. Symbolic and hard links are refused: ONNX Runtime follows hard links out of the model's folder
(compare CVE-2026-34446), and a link's target can change after the check.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from model_registry.errors import ArtifactError, ManifestError
from model_registry.manifest import Artifact

SHA256_PREFIX = "1220"  # multihash: function 0x12 (sha2-256), length 0x20 bytes, as in STAC's file:checksum
MAX_BYTES = 4 * 1024**3


def checksum_of(data: bytes) -> str:
    """Return the multihash of `data`: "1220" and the sha256 in hex."""
    return SHA256_PREFIX + hashlib.sha256(data).hexdigest()


def check_checksum(checksum: str) -> str:
    """Return `checksum` in lower case, refusing anything but a sha256 multihash."""
    text = checksum.strip().lower()
    if len(text) != 68 or not text.startswith(SHA256_PREFIX) or set(text) - set("0123456789abcdef"):
        raise ManifestError(
            f"checksum {checksum!r} is not a sha256 multihash", 'Write "1220" followed by the 64 digits of sha256sum'
        )
    return text


def locate(folder: Path, href: str) -> Path:
    """Return the path of `href` inside `folder`.

    Raises:
        ArtifactError: absolute, with "..", a URL, or passing through a symbolic link.
    """
    parts = PurePosixPath(href).parts
    if not parts or "\\" in href or ":" in href or "\0" in href or href.startswith("/") or ".." in parts:
        raise ArtifactError(
            f"artifact {PurePosixPath(href).name!r} does not lie inside the model's folder",
            "Copy it there and write its path relative to model.yaml, without '..'",
        )
    path = folder
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"artifact {part!r} is a symbolic link", "Put the file itself into the model's folder")
    return path


def read_file(folder: Path, href: str, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file with one hard link inside `folder`, at most `limit` of them.

    Raises:
        ArtifactError: missing, not a regular file, linked, or larger than `limit`.
    """
    path = locate(folder, href)
    # O_NOFOLLOW and the checks on the open descriptor: the file that is checked is the file that is read.
    return _read(path, getattr(os, "O_NOFOLLOW", 0), limit, links=1)


def read_named(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file that a person named, wherever links to it lead.

    Raises:
        ArtifactError: missing, not a regular file, or larger than `limit`.
    """
    return _read(path, 0, limit, links=None)


def _read(path: Path, flags: int, limit: int, links: int | None) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO must not hang before it can be refused.
        descriptor = os.open(path, os.O_RDONLY | flags | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise ArtifactError(
            f"artifact {path.name!r} cannot be opened ({error.strerror})", "Check that the file is there and readable"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"artifact {path.name!r} is not a regular file", "Put the file itself there")
        if links is not None and status.st_nlink != links:
            raise ArtifactError(
                f"artifact {path.name!r} has {status.st_nlink} hard links", "Copy the file instead of linking it"
            )
        if status.st_size > limit:
            raise ArtifactError(
                f"artifact {path.name!r} has {status.st_size} bytes, more than the limit of {limit}",
                "Raise the limit or use a smaller file",
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            # One byte more than it has; read(limit) would set the whole limit's memory aside first.
            data = file.read(status.st_size + 1)
    finally:
        os.close(descriptor)
    if len(data) > status.st_size:
        raise ArtifactError(
            f"artifact {path.name!r} grew beyond {status.st_size} bytes", "Do not write to it while it is read"
        )
    return data


def read_artifact(folder: Path, artifact: Artifact, limit: int = MAX_BYTES) -> bytes:
    """Return the verified bytes of `artifact`.

    Raises:
        ArtifactError: see `read_file`; or size or checksum are not those of the manifest.
    """
    data = read_file(folder, artifact.href, limit)
    name = PurePosixPath(artifact.href).name
    if len(data) != artifact.size:
        raise ArtifactError(
            f"artifact {name!r} has {len(data)} bytes, the manifest says {artifact.size}",
            "Restore the file, or write a new manifest for the new file",
        )
    found = checksum_of(data)
    if found != artifact.checksum:
        raise ArtifactError(
            f"artifact {name!r} has the checksum {found}, the manifest says {artifact.checksum}",
            "Restore the file, or write a new manifest for the new file",
        )
    return data
