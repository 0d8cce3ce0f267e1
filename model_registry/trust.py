"""Which files with code in them the operator lets run: a list of sha256 digests that no model can write.

`.pt2` and TorchScript files execute code when they are loaded or run, and no scanner can clear them. So such an
artifact is loaded only when its digest is in this file of the operator's, never because a manifest says so. Formats
that hold numbers and a graph only (ONNX, safetensors) need no trust.

The file is JSON, {sha256 hex: {"name", "who", "when"}}, at $TILER_TRUST or else
$XDG_CONFIG_HOME/titiler-inference/trust.json. Like ssh's key files it is believed only while nobody but its owner can
write to it, and its owner is who runs the server, or root.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_registry.errors import ModelError, UnsupportedModel

CODE_FORMATS = frozenset({"pt2", "aoti", "torchscript"})
_MAX_BYTES = 16 << 20
_HEX = frozenset("0123456789abcdef")


class TrustError(ModelError):
    """The list of trusted digests cannot be believed or written."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Who trusted what, and when (UTC, ISO 8601)."""

    name: str
    who: str
    when: str


def path() -> Path:
    """Return where the list lies on this machine."""
    named = os.environ.get("TILER_TRUST")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(base) / "titiler-inference" / "trust.json"


def listed() -> dict[str, Trusted]:
    """Return everything that is trusted, by sha256 hex.

    Raises:
        TrustError: the file cannot be read, is no such list, or somebody else may write to it.
    """
    try:
        descriptor = os.open(path(), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise TrustError(f"the list of trusted files cannot be read ({error.strerror})", _REMEDY) from None
    with os.fdopen(descriptor, "rb") as file:
        _check(os.fstat(descriptor))
        text = file.read(_MAX_BYTES + 1)
    try:
        return {_digest(key): Trusted(**value) for key, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise TrustError("the list of trusted files is not what `tiler models trust` writes", _REMEDY) from None


def is_trusted(sha256: str) -> bool:
    """Whether the operator trusts the file with that digest: 64 hex digits, or a manifest's multihash ("1220" first).

    Raises:
        TrustError: see `listed`.
    """
    return _digest(sha256) in listed()


def require(data: bytes, what: str) -> None:
    """Refuse `data`, the bytes that are about to be loaded, unless their digest is trusted.

    Raises:
        UnsupportedModel: it is not; `what` names the format ("a .pt2 file").
        TrustError: see `listed`.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest not in listed():
        raise UnsupportedModel(
            f"{what} can run code on this machine, and sha256 {digest[:16]}... is not trusted",
            "If you know who made it: tiler models trust FILE; or export the network to ONNX",
        )


def trust(sha256: str, name: str = "", who: str = "") -> Trusted:
    """Add a digest to the list; `who` is the user of this process unless given. Returns what was written.

    Raises:
        TrustError: the list cannot be read or written, or `sha256` is no digest.
    """
    entry = Trusted(name=name, who=who or _user(), when=datetime.now(UTC).isoformat(timespec="seconds"))
    with _changing() as entries:
        entries[_digest(sha256)] = entry
    return entry


def distrust(sha256: str) -> bool:
    """Take a digest off the list; whether it was on it. A model that is loaded stays until it is loaded again."""
    with _changing() as entries:
        return entries.pop(_digest(sha256), None) is not None


_REMEDY = "Check the file that TILER_TRUST names, or ~/.config/titiler-inference/trust.json"


def _digest(sha256: str) -> str:
    text = sha256.strip().lower()
    text = text[4:] if len(text) == 68 and text.startswith("1220") else text
    if len(text) != 64 or set(text) - _HEX:
        raise TrustError(f"{sha256[:80]!r} is not a sha256 digest", "Give its 64 hex digits")
    return text


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise TrustError("the list of trusted files is not a regular file", _REMEDY)
    if os.name == "posix":
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise TrustError("others may write to the list of trusted files", "Run chmod 600 on it, after reading it")
        if status.st_uid not in (0, os.geteuid()):
            raise TrustError("the list of trusted files belongs to another user", "Make it your own, or root's")


@contextlib.contextmanager
def _changing() -> Iterator[dict[str, Trusted]]:
    """Read, let the caller change, and write aside and rename, one process at a time."""
    place = path()
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _locked(place.with_name(place.name + ".lock")):
            entries = listed()
            yield entries
            _write(place, {key: asdict(value) for key, value in sorted(entries.items())})
    except OSError as error:
        raise TrustError(f"the list of trusted files cannot be written ({error.strerror})", _REMEDY) from None


def _write(place: Path, entries: Mapping[str, Any]) -> None:
    descriptor, aside = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(entries, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, place)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two operators at the same moment are unlikely enough
        yield
        return
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid()) if hasattr(os, "getuid") else ""
