"""What a client reads before it asks for tiles: TileJSON 3.0 and a WMTS 1.0.0 document (OGC 07-057r7).

The WMTS has one layer in WebMercatorQuad and not one per tile matrix set: clients pick the first they find, and a
layer's name must not hold a path. REST and KVP are both named, since Esri's clients ask one and older ones the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rasterio.warp import transform_bounds

from model_registry import LoadedModel
from model_registry.augment import passes
from tiler import zoom
from tiler.legend import answer_of, kind_of, windows_of
from tiler.reader import PredictingReader
from tiler.scene import WGS84
from tiler.values import hex_of

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=select_autoescape(["xml", "html"])
)


def tilejson(reader: PredictingReader, base: str, query: str, title: str) -> dict[str, Any]:
    """TileJSON of a prediction.

    Args:
        reader: the prediction.
        base: absolute address below which its tiles lie, with the revision.
        query: what to add to the tiles' address, beginning with `?`, or empty.
        title: name for people.
    """
    layer, model = reader.layer, reader.layer.model
    west, south, east, north = layer.scene.geographic_bounds
    wanted = model.resolution.value if model.resolution else None
    return {
        "tilejson": "3.0.0",
        "name": title,
        "description": model.description,
        "attribution": model.attribution or "",
        "version": "1.0.0",
        "scheme": "xyz",
        "tiles": [f"{base}/{{z}}/{{x}}/{{y}}.png{query}"],
        "bounds": [west, south, east, north],
        "center": [(west + east) / 2, (south + north) / 2, reader.maxzoom],
        "minzoom": reader.minzoom,
        "maxzoom": reader.maxzoom,
        "live_minzoom": reader.live_minzoom,
        "materialised": materialised(reader),
        "revision": layer.revision,
        "point": f"{base}/point/{{lon}},{{lat}}{query}",
        "classes": [{"value": item.value, "name": item.name, "color": hex_of(item.color)} for item in model.classes],
        **kind_of(model),
        **answer_of(model),
        "gsd": layer.grid.gsd,
        "model_gsd": wanted,
        "exactness": model.exactness,
        **windows_of(layer),
        **running(layer.loaded),
    }


def materialised(reader: PredictingReader) -> list[dict[str, Any]]:
    """What was exported of a prediction, newest first: output, bounds (degrees), and whether it is all of the scene."""
    grid = reader.layer.grid
    told = []
    for item in reader.exports.files:
        region = item.region
        left, top = grid.transform * (region.col_off, region.row_off)
        right, bottom = grid.transform * (region.col_off + region.width, region.row_off + region.height)
        bounds = transform_bounds(grid.crs, WGS84, left, bottom, right, top, densify_pts=21)
        whole = replace(reader.exports, files=(item,)).cover(item.output, grid.height, grid.width)
        told.append({"output": item.output, "bounds": list(bounds), "whole": whole})
    return told


def running(loaded: LoadedModel) -> dict[str, Any]:
    """How a model runs here: runtime and precision; the share of pixels that the precision moves against fp32; and the
    share that depends on the window, measured on noise (0 for an exact model, None where it was not measured).

    Of an augmented model also the views, and how many forward passes a window takes.
    """
    error = loaded.probe.error if loaded.probe.exactness == loaded.model.exactness else None
    augment = loaded.model.augment
    return {
        **({} if augment == "none" else {"augment": augment, "passes": passes(augment)}),
        "runtime": loaded.choice.runtime,
        "precision": loaded.choice.precision,
        "moved": round(loaded.choice.moved, 6),
        "seam_error": None if error is None else round(error.moved, 6),
    }


def page(template: str, content: Mapping[str, Any]) -> str:
    """An HTML page from a template: no script, no style of its own, every text escaped."""
    return _templates.get_template(f"{template}.html").render(content)


def wmts(reader: PredictingReader, base: str, title: str, identifier: str, query: str = "") -> str:
    """Capabilities document of a prediction, as XML.

    Args:
        reader: the prediction; its tile matrix set is the document's only one.
        base: absolute address of the pair, with the revision.
        title: name for people.
        identifier: name for programs, the same at every revision.
        query: what to add to the address of REST tiles, beginning with `?`, or empty; GetTile by KVP takes none.
    """
    tms, scene = reader.tms, reader.layer.scene
    west, south, east, north = scene.geographic_bounds
    matrices = []
    for z in range(reader.minzoom, reader.maxzoom + 1):
        first = tms.tile(west, north, z)
        last = tms.tile(east, south, z)
        matrices.append({"matrix": tms.matrix(z), "limits": (first.y, last.y, first.x, last.x)})
    return _templates.get_template("wmts.xml").render(
        title=title,
        identifier=identifier,
        tms=tms,
        epsg=zoom.epsg_of(tms),
        bounds=(west, south, east, north),
        matrices=matrices,
        tiles_url=f"{base}/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png{query}",
        kvp_url=f"{base}?",
    )
