"""How a version comes into being: made in a hidden folder, checked, sealed, and renamed into its place in one step.

What dies on the way leaves a hidden folder that nobody sees; the next publication sweeps it once it is a day old.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model_registry import aside
from model_registry.artifacts import read_artifact
from model_registry.errors import ArtifactError, RegistryError
from model_registry.manifest import Model, open_model
from model_registry.versions import Version

STAGING = ".staging-"
REMOVED = ".removed-"
STALE_SECONDS = 24 * 3600.0
_TRIES = 5
_LATE = ("probe.json", "check.png")


@dataclass
class Draft:
    """A version in the making: fill `folder`; `version` is set once it is published."""

    folder: Path
    version: Version | None = None


def stage(home: Path) -> Path:
    """Make a hidden folder in `home`, which is made too, and sweep what others left there long ago.

    Raises:
        RegistryError: `home` cannot be written.
    """
    for _ in range(_TRIES):
        try:
            home.mkdir(parents=True, exist_ok=True)
            _sweep(home)
            return Path(tempfile.mkdtemp(prefix=STAGING, dir=home))
        except FileNotFoundError:  # somebody's failed publication has just tidied up the empty folder
            continue
        except OSError as error:
            raise cannot_write(error) from None
    raise RegistryError(f"{home.name!r} is removed as often as it is made", "Try again")


def check(folder: Path) -> Model:
    """Read the manifest in `folder` and verify every artifact against it.

    Raises:
        ModelError: no usable manifest; a file that is missing, altered or linked.
    """
    for path in walk(folder):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) and (not stat.S_ISREG(status.st_mode) or status.st_nlink != 1):
            raise ArtifactError(f"{path.name!r} is a link or no regular file", "Copy the file itself there")
    model = open_model(folder)
    for artifact in model.artifacts:
        read_artifact(model.folder, artifact)
    return model


def seal(folder: Path) -> None:
    """Bring everything in `folder` to the disk and take the right to write away.

    The folder itself stays writable for its owner: the probe puts its probe.json there, once.
    """
    for path in walk(folder):
        if path.is_dir():
            aside.sync_folder(path)
        else:
            aside.sync_file(path)
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o755)
    aside.sync_folder(folder)


def move_in(folder: Path, place: Path) -> bool:
    """Rename `folder` to `place`; False when somebody else's version lies there."""
    try:
        os.rename(folder, place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise cannot_write(error) from None
    aside.sync_folder(place.parent)
    return True


def discard(folder: Path) -> None:
    """Delete a folder, sealed or not, as far as the system lets us."""
    if folder.is_symlink():
        folder.unlink()
        return
    for path in [folder, *walk(folder)]:
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def walk(folder: Path) -> Iterator[Path]:
    """Give everything below `folder`, folders after what is in them, in the order of their names."""
    for parent, children, files in os.walk(folder, topdown=False):
        for name in sorted([*files, *children]):
            yield Path(parent, name)


def stamp(folder: Path) -> str:
    """Return sizes and times of all files but what a check leaves: what was verified under this stamp still is.

    "" when the folder goes away meanwhile.
    """
    found = []
    try:
        for path in walk(folder):
            if path.name not in _LATE and not path.name.startswith(".") and not path.is_dir():
                status = path.lstat()
                found.append(f"{path.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}")
    except OSError:
        return ""
    return " ".join(sorted(found))


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold the lock of `home` against others that publish or point aliases; readers need none.

    Where the system has no such lock, the renames are still atomic, but of two changes of the aliases one may be lost.
    """
    try:
        file = (home / ".lock").open("wb")
    except OSError as error:
        raise cannot_write(error) from None
    with file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def cannot_write(error: OSError) -> RegistryError:
    """Return the error for a registry that cannot be written."""
    return RegistryError(
        f"the registry cannot be written ({error.strerror or type(error).__name__})",
        "Check that its folder exists, is yours, and has room",
    )


def _sweep(home: Path) -> None:
    for path in home.iterdir():
        if path.name.startswith((STAGING, REMOVED)):
            with contextlib.suppress(OSError):
                # Of a draft that is still being filled the newest file counts, not the folder.
                newest = max(p.lstat().st_mtime for p in [path, *walk(path)])
                if time.time() - newest > STALE_SECONDS:
                    discard(path)
