"""The house's arrows, as drawn below, and as the code has them."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# The rooms of tiler/, from the ground up. A room knows only rooms of storeys below its own.
STOREYS = (
    {
        "confusion",
        "values",
        "errors",
        "flight",
        "gdal",
        "leaving",
        "pace",
        "policy",
        "roster",
        "taps",
        "vendor",
        "watch",
    },
    {"cache", "grid", "middleware", "pool", "scene", "settings", "shared_cache", "windows"},
    {
        "allowed",
        "answers",
        "blend",
        "combine",
        "crs",
        "imagery",
        "materialised",
        "models",
        "pixels",
        "ramps",
        "waiting",
        "zoom",
    },
    {"areas", "layer", "mosaic", "naming", "sampled", "sheet", "turnover"},
    {"assemble", "catalog", "labels", "outputs", "paint", "ready", "warming"},
    {"device", "ensemble", "legend", "overview", "seams"},
    {"engine"},
    {"metrics", "predict"},
    {"shadow", "survey"},
    {"check", "export", "fitting", "info", "reader"},
    {"documents", "jobs", "marks", "routes"},
    {"cards", "exporting", "label_params", "params", "tiles"},
    {"truth"},
    {"extension", "showcase", "state"},
    {"pairs"},
    {"home"},
    {"app"},
    {"background", "cli"},
    {"notebook"},
)

# The way of a tile: these arrows must be there.
WAY = {
    "app": {"extension", "pairs"},
    "pairs": {"extension"},
    "extension": {"predict", "reader", "tiles"},
    "reader": {"predict", "catalog"},
    "predict": {"engine", "grid", "assemble"},
    "engine": {"cache", "flight", "device", "pixels"},
}

# The home of each heavy dependency: all files that import it, at the top or inside a function.
HOMES = {
    "fastapi": "tiler/allowed tiler/app tiler/exporting tiler/extension tiler/home tiler/label_params tiler/pairs "
    "tiler/params tiler/routes tiler/showcase tiler/truth",
    "starlette": "tiler/app tiler/exporting tiler/extension tiler/home tiler/label_params tiler/middleware "
    "tiler/pairs tiler/params tiler/routes tiler/showcase tiler/tiles tiler/truth",
    "titiler": "tiler/app tiler/extension tiler/pairs tiler/params tiler/tiles tiler/truth",
    "uvicorn": "tiler/background tiler/cli/serving",
    "ipyleaflet": "tiler/notebook",
    "folium": "tiler/notebook",
    "PIL": "tiler/sheet",
    "typer": "tiler/cli/__init__ tiler/cli/check tiler/cli/common tiler/cli/components tiler/cli/ensemble "
    "tiler/cli/export tiler/cli/intake tiler/cli/models tiler/cli/reload tiler/cli/reporting tiler/cli/serving",
    "pydantic_settings": "tiler/settings",
    "jinja2": "tiler/documents",
    "prometheus_client": "tiler/home tiler/metrics",
    "redis": "tiler/shared_cache",
    "rasterio": "tiler/allowed tiler/areas tiler/background tiler/cli/serving tiler/demo/canvas "
    "tiler/crs tiler/demo/scene tiler/documents tiler/export/aoi tiler/export/area tiler/export/cog "
    "tiler/export/features tiler/export/frame tiler/export/ground tiler/export/parts "
    "tiler/export/vector tiler/gdal tiler/grid tiler/labels tiler/materialised tiler/overview tiler/paint "
    "tiler/pixels tiler/predict tiler/reader tiler/sampled tiler/scene tiler/tiles tiler/truth "
    "tiler/values tiler/zoom",
    "rio_tiler": "tiler/allowed tiler/extension tiler/imagery tiler/paint tiler/params tiler/ramps tiler/reader "
    "tiler/tiles",
    "torch": "model_registry/architectures/unet model_registry/intake/checkpoint model_registry/intake/torchscript "
    "model_registry/runtimes/pt2 model_registry/runtimes/torch model_registry/runtimes/torchscript "
    "model_registry/runtimes/weights tiler/demo/probe tiler/demo/train",
    "safetensors": "model_registry/intake/checkpoint model_registry/runtimes/torch model_registry/runtimes/weights "
    "tiler/demo/train",
    "segmentation_models_pytorch": "model_registry/architectures/smp",
    "huggingface_hub": "model_registry/intake/huggingface",
    "onnxruntime": "model_registry/runtimes/onnx model_registry/testing",
    "onnx": "model_registry/testing",
    "openvino": "model_registry/runtimes/openvino",
    "obstore": "model_registry/remote_files",
    "dask": "tiler/export/cluster",
    "filelock": "tiler/export/parts",
    "pyogrio": "tiler/export/features",
    "pystac": "tiler/export/scenes",
    "scipy": "tiler/export/regions",
    "shapely": "tiler/export/features tiler/export/ground tiler/export/trace tiler/export/vector",
}

# Rooms of plain Python and numpy, tested in milliseconds; besides values, errors and the standard library.
PLAIN = (
    "answers", "assemble", "blend", "combine", "confusion", "ensemble", "flight", "mosaic", "pace", "pool", "roster",
    "taps", "waiting", "watch", "windows",
)  # fmt: skip


@functools.cache
def imported(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere, but for those that only a type checker sees."""
    found: set[str] = set()
    for node in running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name}: relative imports hide where they lead"
            found |= {f"{node.module}.{item.name}" for item in node.names}
    return found


def running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield child
        yield from running(child)


def files(package: str) -> dict[str, Path]:
    """Every module of a package, by its path without ending."""
    return {str(path.relative_to(ROOT).with_suffix("")): path for path in sorted((ROOT / package).rglob("*.py"))}


def rooms() -> dict[str, set[str]]:
    """Which rooms of tiler/ each room knows."""
    found = {}
    for name, path in files("tiler").items():
        room = name.split("/")[1]
        known = {name.split(".")[1] for name in imported(path) if name.startswith("tiler.")} - {"__version__"}
        found[room] = found.get(room, set()) | known - {room}
    return found


def test_every_room_has_its_storey() -> None:
    drawn = [room for storey in STOREYS for room in storey]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == set(rooms()) - {"__init__", "demo"}


def test_arrows_lead_downwards_only() -> None:
    height = {room: number for number, storey in enumerate(STOREYS) for room in storey}
    wrong = {
        f"{room} -> {known}"
        for room, others in rooms().items()
        if room in height
        for known in others - {"demo"}
        if height[known] >= height[room]
    }
    assert wrong == set()


def test_the_way_of_a_tile_is_as_drawn() -> None:
    found = rooms()
    assert {room: found[room] & known for room, known in WAY.items()} == WAY


def test_the_demo_stands_beside_the_house() -> None:
    found = rooms()
    assert found["demo"] == set()
    assert {room for room, known in found.items() if "demo" in known} == {"cli"}


def test_model_registry_knows_nothing_of_tiler() -> None:
    for name, path in files("model_registry").items():
        assert not [item for item in imported(path) if item.split(".")[0] == "tiler"], name
    assert any(name.startswith("model_registry") for path in files("tiler").values() for name in imported(path))


@pytest.mark.parametrize("package", HOMES)
def test_a_heavy_dependency_is_at_home_where_the_table_says(package: str) -> None:
    found = {
        name
        for tree in ("tiler", "model_registry")
        for name, path in files(tree).items()
        if any(item.split(".")[0] == package for item in imported(path))
    }
    assert found == set(HOMES[package].split())


@pytest.mark.parametrize("room", PLAIN)
def test_a_plain_room_needs_numpy_at_most(room: str) -> None:
    foreign = {item.split(".")[0] for item in imported(ROOT / "tiler" / f"{room}.py")} & (
        set(HOMES) | {"morecantile", "affine", "pyproj", "pydantic", "cachetools", "attrs"}
    )
    assert foreign == set()


def test_an_export_does_not_wait_for_what_only_maps_need() -> None:
    code = (
        "import sys, tiler.cli, tiler.export.local, tiler.export.cluster\n"
        "web = {'morecantile', 'pydantic', 'fastapi', 'titiler', 'rio_tiler', 'distributed', 'torch'}\n"
        "print(sorted(web & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
