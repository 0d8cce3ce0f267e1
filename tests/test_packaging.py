"""What goes into the repository, the wheel and the page, and what must not."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tiler import vendor

ROOT = Path(__file__).resolve().parent.parent
STATIC = ROOT / "static"
OURS = sorted(path for path in STATIC.glob("*") if path.suffix in {".html", ".js", ".css"})

# Addresses of registries belong to the settings of whoever installs. Escaped dots keep this list from finding itself.
REGISTRY = re.compile(
    r"registry\.npmjs|registry\.yarnpkg|npmmirror\.|pypi\.org|pythonhosted\.org|pypi\.python|deb\.debian|"
    r"archive\.ubuntu|download\.pytorch|unpkg\.com|jsdelivr\.net|cdnjs\.|esm\.sh",
)
NOT_OURS = {".git", ".venv", ".venv-lowest", ".demo", "vendor", "node_modules", "__pycache__", "dist", "build"}


def committed_files() -> list[Path]:
    """Files that git tracks or would; without git, all outside the folders that are made or fetched."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        found = (Path(folder) / name for folder, names in _walk() for name in names)
        return sorted(found)
    paths = (ROOT / name for name in done.stdout.split("\0") if name)
    return sorted(path for path in paths if path.is_file())


def _walk():
    for folder, children, names in os.walk(ROOT):
        children[:] = [name for name in children if name not in NOT_OURS and not name.endswith("_cache")]
        yield folder, names


def text_of(path: Path) -> str | None:
    data = path.read_bytes()
    return None if b"\0" in data else data.decode("utf-8", errors="replace")


def test_no_registry_host_in_any_committed_file():
    found = {}
    for path in committed_files():
        if (text := text_of(path)) and (hosts := REGISTRY.findall(text)):
            found[str(path.relative_to(ROOT))] = hosts
    assert found == {}


def test_the_lock_pins_exactly_with_integrity_and_without_addresses():
    wanted = json.loads((ROOT / "package.json").read_text())["dependencies"]
    packages = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert wanted.keys() == set(vendor.LIBRARIES)
    assert re.fullmatch(r"10\.\d+\.\d+", wanted["ol"])
    assert all(packages[f"node_modules/{name}"]["version"] == wanted[name] for name in wanted)
    for name, entry in packages.items():
        if name:
            assert entry["integrity"].startswith("sha512-"), name
            assert "resolved" not in entry, name


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_the_page_loads_nothing_from_another_host(path):
    assert not re.search(r"""["'(\s=](https?:)?//[a-z0-9]""", re.sub(r"(?m)//\s.*$", "", path.read_text())), path


def test_the_page_has_no_inline_script_or_style():
    page = "".join(path.read_text() for path in OURS if path.suffix == ".html")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)


def test_what_the_page_names_exists():
    pages = "".join(path.read_text() for path in OURS if path.suffix == ".html")
    names = re.findall(r'(?:src|href)="(static/[^"]+)"', pages)
    names += [f"static/{name}" for path in OURS for name in re.findall(r"from '\./([^']+)'", path.read_text())]
    assert names
    for name in names:
        if "/vendor/" in name:
            assert Path(name).name in {Path(file).name for files in vendor.LIBRARIES.values() for file in files}
        else:
            assert (ROOT / name).is_file(), name


def test_elements_that_the_modules_ask_for_are_in_the_page():
    page = (STATIC / "index.html").read_text()
    asked = {name for path in OURS for name in re.findall(r"\bat\('([\w-]+)'\)", path.read_text())}
    assert len(asked) > 20
    assert asked <= set(re.findall(r'id="([\w-]+)"', page))


# The vendored library


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the lock, and an npm on PATH that writes three files and counts its calls."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    npm = tools / "npm"
    npm.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        f"with open({str(tmp_path / 'calls')!r}, 'a') as log: log.write(' '.join(sys.argv[1:]) + '\\n')\n"
        "assert pathlib.Path('package-lock.json').is_file()\n"
        f"for name in {[f'{library}/{name}' for library, names in vendor.LIBRARIES.items() for name in names]!r}:\n"
        "    path = pathlib.Path('node_modules', name); path.parent.mkdir(parents=True, exist_ok=True)\n"
        "    path.write_text('content of ' + name)\n"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    return tmp_path


needs_sh = pytest.mark.skipif(os.name == "nt", reason="the stand-in for npm is a script with a #! line")


@needs_sh
def test_files_are_copied_once_and_again_when_the_lock_moves(checkout):
    assert vendor.fetch(checkout)
    folder = vendor.vendor_dir(checkout)
    assert sorted(path.name for path in folder.iterdir()) == ["LICENSE.md", vendor.STAMP, "ol.css", "ol.js"]
    assert (folder / "ol.js").read_text() == "content of ol/dist/ol.js"
    assert not vendor.fetch(checkout)

    lock = checkout / "package-lock.json"
    lock.write_text(lock.read_text().replace(vendor.locked(checkout).split()[1], "sha512-another"))
    assert not vendor.is_current(checkout)
    assert vendor.fetch(checkout)
    assert vendor.is_current(checkout)
    calls = (checkout / "calls").read_text().splitlines()
    assert len(calls) == 2
    assert {path.name for path in folder.parent.iterdir()} == set(vendor.LIBRARIES)
    assert all(call.startswith("ci --ignore-scripts") for call in calls)


@needs_sh
def test_a_failing_npm_is_one_line_and_leaves_the_old_files(checkout):
    vendor.fetch(checkout)
    (checkout / "bin" / "npm").write_text("#!/bin/sh\necho 'npm error code ECONNREFUSED' >&2\nexit 1\n")
    (vendor.vendor_dir(checkout) / vendor.STAMP).write_text("older\n")
    with pytest.raises(vendor.VendorError, match="ECONNREFUSED") as caught:
        vendor.fetch(checkout)
    assert "\n" not in str(caught.value)
    assert (vendor.vendor_dir(checkout) / "ol.js").is_file()


def test_without_npm_the_message_says_what_to_install(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout / "nowhere"))
    monkeypatch.setattr(vendor.importlib.util, "find_spec", lambda name: None)
    assert vendor.requirements(checkout) == [vendor.NODE_WHEEL]
    with pytest.raises(vendor.VendorError, match="install"):
        vendor.fetch(checkout)


# The wheel


def build(root: Path, target: str, out: Path, **environment: str) -> tuple[Path, str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built, done.stdout + done.stderr


def copy_of_checkout(place: Path) -> Path:
    for path in committed_files():
        target = place / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return place


@pytest.mark.slow
def test_the_wheel_has_page_library_and_demo(tmp_path):
    if not vendor.is_current(ROOT):
        pytest.skip(f"OpenLayers is not here: {vendor.COMMAND}")
    wheel, _ = build(ROOT, "wheel", tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tiler/static/{path.name}" for path in OURS}
    expected |= {f"tiler/static/vendor/ol/{name}" for name in ("ol.js", "ol.css", "LICENSE.md")}
    expected |= {"tiler/package-lock.json", "tiler/vendor.py", "model_registry/__init__.py"}
    demo = ROOT / "tiler" / "demo" / "model"
    expected |= {str(path.relative_to(ROOT)) for path in demo.rglob("*") if path.is_file()}
    assert expected <= names
    assert not [name for name in names if name.startswith(("tests/", "static/"))]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("tiler/static/vendor/ol/ol.js") == (vendor.vendor_dir(ROOT) / "ol.js").read_bytes()


@pytest.mark.slow
def test_a_build_without_npm_succeeds_and_warns(tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    wheel, output = build(checkout, "wheel", tmp_path / "out", PATH=str(tmp_path / "nowhere"))
    assert vendor.COMMAND in output
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if "static/vendor/" in name]


@pytest.mark.slow
def test_an_sdist_carries_the_library(tmp_path):
    if not vendor.is_current(ROOT):
        pytest.skip(f"OpenLayers is not here: {vendor.COMMAND}")
    sdist, _ = build(ROOT, "sdist", tmp_path)
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(sdist, unpacked)
    (root,) = unpacked.iterdir()
    assert vendor.is_current(root)
    # What the tests read and the README leads to is there, too.
    for name in ("docs/export.md", "deploy/compose.yaml", "examples", "Dockerfile", "tests/test_docs.py"):
        assert (root / name).exists(), name
    wheel, output = build(root, "wheel", tmp_path / "out", PATH=str(tmp_path / "nowhere"))
    assert vendor.COMMAND not in output
    assert "tiler/static/vendor/ol/ol.js" in zipfile.ZipFile(wheel).namelist()


SERVES = """
import json, re, sys, urllib.request
import tiler, tiler.vendor
from starlette.testclient import TestClient
from tiler.app import create_app
from tiler.settings import Settings

root = tiler.vendor.default_root()
print(json.dumps({"root": str(root), "current": tiler.vendor.is_current(root)}))
with TestClient(create_app(Settings())) as client:
    page = client.get("/")
    assert page.status_code == 200
    named = set(re.findall(r'(?:src|href)="([^":]+)"', page.text))
    assert any("vendor/ol" in name for name in named), named
    for name in sorted(named):
        answer = client.get("/" + name.lstrip("./"))
        assert answer.status_code == 200 and answer.content, name
    print(client.get("/static/vendor/ol/ol.js").headers["content-length"])
"""


@pytest.mark.slow
def test_installed_into_a_fresh_environment_without_any_registry_the_viewer_is_there(tmp_path):
    """Everything that the page names is served by what the wheel brought, with no network to build, install or run."""
    if not vendor.is_current(ROOT):
        pytest.skip(f"OpenLayers is not here: {vendor.COMMAND}")
    dead = "http://127.0.0.1:9"
    offline = {
        "NPM_CONFIG_REGISTRY": dead, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HTTP_PROXY": dead, "HTTPS_PROXY": dead, "http_proxy": dead, "https_proxy": dead,
    }  # fmt: skip
    wheel, output = build(ROOT, "wheel", tmp_path / "dist", PATH=str(tmp_path / "nowhere"), **offline)
    assert vendor.COMMAND not in output
    fresh = tmp_path / "fresh"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TILER_", "VIRTUAL"))}
    environment = {**kept, **offline}

    def run(*command: object) -> str:
        done = subprocess.run(
            [str(part) for part in command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", fresh)
    python = fresh / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    # What we depend on is lent by this environment, behind the fresh one's own: nothing of ours can come from there.
    (site,) = {sysconfig.get_path("purelib", vars={"base": str(fresh), "platbase": str(fresh)})}
    (Path(site) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    told, length = run(python, "-c", SERVES).splitlines()
    told = json.loads(told)
    assert Path(told["root"]) == Path(site) / "tiler" and told["current"]
    assert int(length) == (vendor.vendor_dir(ROOT) / "ol.js").stat().st_size
    assert "Serve predictions" in run(python, "-m", "tiler.cli", "serve", "--help")
