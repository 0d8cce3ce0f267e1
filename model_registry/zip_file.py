"""Look into PyTorch's zip files (.pt2, TorchScript, checkpoints) without unpickling anything, and without a bomb."""

from __future__ import annotations

import io
import zipfile

from model_registry.errors import ArtifactError

_MAX_ENTRIES = 100_000
# PyTorch stores weights as they are and deflates little texts only.
_GROWTH, _ALWAYS = 4, 64 << 20


class TorchZip:
    """The entries of a zip file, by their path below its one top folder."""

    def __init__(self, data: bytes) -> None:
        """Read the directory of `data`.

        Raises:
            ArtifactError: not a zip file, or one that would grow when unpacked.
        """
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
            entries = self._zip.infolist()
        except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, UnicodeDecodeError):
            raise ArtifactError("the file is not a complete zip archive", "Export the network again") from None
        total = sum(entry.file_size for entry in entries)
        if len(entries) > _MAX_ENTRIES or total > max(_ALWAYS, _GROWTH * len(data)):
            raise ArtifactError(
                f"the archive of {len(data)} bytes says that it unpacks to {total} bytes in {len(entries)} files",
                "That is no network: do not use it",
            )
        names = [entry.filename for entry in entries]
        if len(set(names)) != len(names):
            raise ArtifactError("the archive has two files of one name", "Export the network again")
        # Not every writer has a top folder: `archive/data/x` and `data/x` are both found as `data/x`.
        self._entries = {entry.filename.partition("/")[2] or entry.filename: entry for entry in entries}

    @property
    def names(self) -> frozenset[str]:
        """Paths of the entries, below the top folder."""
        return frozenset(self._entries)

    def read(self, name: str, limit: int = 64 << 20) -> bytes:
        """Return one entry.

        Raises:
            ArtifactError: missing, damaged, encrypted, or larger than `limit` bytes.
        """
        entry = self._entries.get(name)
        if entry is None or entry.file_size > limit:
            raise ArtifactError(f"the archive has no {name!r} of a usable size", "Export the network again")
        try:
            with self._zip.open(entry) as file:
                data = file.read(limit + 1)
        except Exception as error:  # zlib, lzma and zipfile have each their own
            raise ArtifactError(
                f"{name!r} in the archive is damaged ({type(error).__name__})", "Export it again"
            ) from None
        if len(data) > limit:
            raise ArtifactError(f"{name!r} in the archive is larger than it says", "Export the network again")
        return data
