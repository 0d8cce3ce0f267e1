"""A model of the Hugging Face hub, named with the commit that is meant: `org/name@<40 hex digits>`.

A branch or tag moves, so only a commit names the same files for ever. The files are fetched by `huggingface_hub` (extra
`hf`) into its own cache, with the user's own token, at import time only; nothing in a server ever asks the hub. They
are copied out of the cache here, and parsed by nobody in this process.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from model_registry.artifacts import MAX_BYTES
from model_registry.errors import ArtifactError, ManifestError, ModelError, UnsupportedModel

_NAMED = re.compile(r"(?:hf:(?://)?)?(?P<id>[\w.-]+/[\w.-]+)@(?P<commit>[\w./-]+?)(?::(?P<file>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_WANTED = (
    "*.onnx", "*.safetensors", "*.pt2", "*.pt", "*.pts", "*.torchscript", "*.pth", "*.ckpt", "*.json", "model.yaml",
    "test/*.npy",
)  # fmt: skip


class Named(NamedTuple):
    """A repository, its commit, and the one file of it that is meant, if one was named."""

    repository: str
    commit: str
    file: str | None


def parse(source: str) -> Named | None:
    """Return what `org/name@commit[:file]` names; None where the text is no such name.

    Raises:
        ManifestError: it names a branch or a tag instead of a commit.
    """
    found = _NAMED.fullmatch(source)
    if found is None:
        return None
    if not _COMMIT.fullmatch(found["commit"]):
        raise ManifestError(
            f"{found['commit'][:60]!r} is no commit: a branch or tag may be another model tomorrow",
            f"Write {found['id']}@ and the 40 digits of the commit, as the hub shows them under 'History'",
        )
    if found["file"] is not None and ".." in PurePosixPath(found["file"]).parts:
        raise ManifestError(f"the file {found['file'][:60]!r} lies outside the repository", "Name a file inside it")
    return Named(found["id"], found["commit"], found["file"])


def fetch(named: Named, into: Path) -> Path:
    """Copy the repository's model files at that commit below `into`; return the folder, or the one file named.

    Raises:
        UnsupportedModel: `huggingface_hub` is not installed.
        ModelError: the hub, or the cache when HF_HUB_OFFLINE is set, does not have it.
        ArtifactError: a file in the cache leads out of it, or the files are too large.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UnsupportedModel(
            "huggingface_hub is not installed", "Run: pip install titiler-inference[hf], or download the files yourself"
        ) from None
    wanted = [named.file] if named.file else list(_WANTED)
    try:
        snapshot = huggingface_hub.snapshot_download(named.repository, revision=named.commit, allow_patterns=wanted)
    except Exception as error:  # its own, its HTTP client's, and the system's
        raise ModelError(
            f"{named.repository}@{named.commit[:12]} cannot be fetched ({type(error).__name__})",
            "Check the name, the commit, the network, and that you may read it (HF_TOKEN)",
        ) from None
    copy(Path(snapshot), into)
    chosen = into / named.file if named.file else into
    if not chosen.exists():
        raise ManifestError(f"{named.repository} has no file {named.file!r} at that commit", "Check its name")
    return chosen


def copy(snapshot: Path, into: Path) -> None:
    """Copy a snapshot's model files, whose names are links to `blobs/` of the same cache folder, as plain files.

    Raises:
        ArtifactError: a link that leads elsewhere, something that is no file, or too many bytes.
    """
    home = snapshot.parent.parent.resolve()  # <cache>/models--org--name/snapshots/<commit>
    total = 0
    for path in sorted(snapshot.rglob("*")):
        relative = path.relative_to(snapshot)
        if path.is_dir() and not path.is_symlink():
            continue
        if not any(relative.match(pattern) for pattern in _WANTED):
            continue
        real = path.resolve()
        if not real.is_relative_to(home) or not real.is_file():
            raise ArtifactError(
                f"{path.name!r} in the hub's cache is not one of its files", "Empty the cache, and try again"
            )
        total += real.stat().st_size
        if total > MAX_BYTES:
            raise ArtifactError(
                f"the repository's models have more than {MAX_BYTES} bytes", "Name one: org/name@commit:file"
            )
        target = into / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(real, target)
