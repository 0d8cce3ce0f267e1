"""A prediction as a layer in a notebook: ipyleaflet, folium, leafmap, or anything that takes a tile URL.

    from tiler.notebook import layer
    m.add(layer("scene.tif", "models/landcover"))

The first call starts a server in this process, on a free port of this machine; later ones join it. It ends with the
process, or by `stop()`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from tiler.background import serve, stop
from tiler.errors import BusyError, InferenceError, MisfitError, RequestError, UnknownNameError

__all__ = ["Tiles", "layer", "stop"]

Kind = Literal["auto", "ipyleaflet", "folium", "plain"]

# Longer than a request may take, model loading included.
PATIENCE = 120.0  # seconds
# Zooms past the deepest that is predicted, in which the browser enlarges.
CLOSER = 4
STYLES = (
    "output classes threshold colormap colormap_name resampling rescale bidx nodata return_mask tilesize".split()
)  # fmt: skip
_ERRORS: Mapping[int, type[InferenceError]] = {404: UnknownNameError, 422: MisfitError, 503: BusyError}


@dataclass(frozen=True)
class Tiles:
    """A prediction as any map library takes it.

    Attributes:
        url: address of its tiles, with {z}, {x} and {y}, revision and style.
        name, attribution: for people.
        bounds: west, south, east, north in degrees.
        minzoom, maxzoom: zooms of 256 px tiles that are predicted.
        tilejson: all that the server says of it: classes, revision, exactness.
    """

    url: str
    name: str
    attribution: str
    bounds: tuple[float, float, float, float]
    minzoom: int
    maxzoom: int
    tilejson: Mapping[str, Any] = field(repr=False)

    @property
    def corners(self) -> list[list[float]]:
        """[[south, west], [north, east]], as Leaflet's `fit_bounds` wants them."""
        west, south, east, north = self.bounds
        return [[south, west], [north, east]]


def layer(
    scene: str | Path,
    model: str | Path,
    *,
    kind: Kind = "auto",
    server: str | None = None,
    reach: str | None = None,
    bands: Sequence[int] | None = None,
    name: str | None = None,
    opacity: float = 1.0,
    **style: Any,
) -> Any:
    """A tile layer with a model's prediction over a scene.

    Args:
        scene: path or URL of a raster; with `server` the name of one of its scenes.
        model: folder with model.yaml, or an ONNX file; with `server` the name of one of its models.
        kind: `ipyleaflet`, `folium`, or `plain` for `Tiles`; `auto` takes what is imported already, else installed.
        server: address of one that runs; without, this process has its own.
        reach: address under which the browser reaches the server, if it is another one, e.g. behind
            jupyter-server-proxy: `https://hub.example.org/user/me/proxy/{port}`.
        bands: of the scene, in the model's order, where names do not tell.
        name: of the layer; default: the scene's and the model's.
        opacity: 0..1; of ipyleaflet's and folium's layers.
        style: as in a tile's address: output, classes (names or numbers), threshold, colormap (a dict),
            colormap_name, resampling, rescale, bidx, nodata, return_mask, tilesize.

    Returns:
        `ipyleaflet.TileLayer`, `folium.TileLayer` or `Tiles`. Each has `bounds`, the first two as `fit_bounds` wants
        them.

    Raises:
        InferenceError: scene and model do not belong together, a style is unknown, or no server answers.
    """
    kind = _chosen(kind)
    query = _query(style)
    if server is None:
        address, *pair = serve(scene, model, bands)
    else:
        address, pair = server.rstrip("/"), [str(scene), str(model)]
        if bands is not None:
            raise RequestError("bands= is for a server of this process", "Use bidx=, or name them in its settings")
    tiles = _tiles(address, pair, query, name, reach)
    if kind == "ipyleaflet":
        return _ipyleaflet(tiles, opacity)
    return _folium(tiles, opacity) if kind == "folium" else tiles


def _tiles(address: str, pair: Sequence[str], query: str, name: str | None, reach: str | None) -> Tiles:
    base = "/".join([address, *(quote(part, safe="@:") for part in pair)])
    told = json.loads(_get(f"{base}/tilejson.json{query}"))
    # A style that the server refuses should be an error here, and no map without tiles.
    _get(f"{base}/0/0/0.png{query}")
    (url,) = told["tiles"]
    if reach is not None:
        port = address.rpartition(":")[2]
        url = reach.replace("{port}", port).rstrip("/") + url.removeprefix(address)
    west, south, east, north = told["bounds"]
    title = name or str(told["name"])
    return Tiles(
        url=url,
        name=title,
        attribution=told["attribution"] or title,
        bounds=(west, south, east, north),
        minzoom=told["minzoom"],
        maxzoom=told["maxzoom"],
        tilejson=told,
    )


def _get(url: str) -> bytes:
    """The body of an answer.

    Raises:
        InferenceError: the server's own words, or that there is none.
    """
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise _ERRORS.get(error.code, RequestError)(_detail(error)) from None
    except (OSError, ValueError) as error:
        host = url.split("/")[2] if "//" in url else url
        raise InferenceError(
            f"no server answers at {host} ({getattr(error, 'reason', error)})",
            "Start one (tiler serve), or leave server= out",
        ) from None


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        detail = json.loads(error.read())["detail"]
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"
    if isinstance(detail, str):
        return detail
    # FastAPI's own list of what is wrong with parameters.
    return "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in detail)


def _query(style: Mapping[str, Any]) -> str:
    """A style as the query of an address, with its `?`, or nothing."""
    unknown = sorted(set(style) - set(STYLES))
    if unknown:
        raise RequestError(f"{unknown[0]!r} is not a style", f"Known are: {', '.join(STYLES)}")
    pairs: list[tuple[str, str]] = []
    for key, value in style.items():
        if value is None:
            continue
        listed = list(value) if isinstance(value, list | tuple) else [value]
        if key == "classes":
            pairs.append(("class", ",".join(map(str, listed))))
        elif key == "colormap":
            pairs.append((key, value if isinstance(value, str) else json.dumps(value)))
        elif key == "rescale":
            pairs.append((key, ",".join(map(str, listed))))
        else:
            pairs += [(key, str(item).lower() if isinstance(item, bool) else str(item)) for item in listed]
    return f"?{urlencode(pairs)}" if pairs else ""


def _chosen(kind: Kind) -> Kind:
    known = ("ipyleaflet", "folium")
    if kind == "auto":
        there = [name for name in known if name in sys.modules] or [
            name for name in known if importlib.util.find_spec(name) is not None
        ]
        return there[0] if there else "plain"  # type: ignore[return-value]
    if kind not in (*known, "plain"):
        raise RequestError(f"kind={kind!r} is not known", f"Known are: auto, {', '.join(known)}, plain")
    if kind in known and importlib.util.find_spec(kind) is None:
        raise InferenceError(
            f"{kind} is not installed", "pip install 'titiler-inference[notebook]', or use kind='plain'"
        )
    return kind


def _sharp(url: str) -> str:
    """Leaflet's own mark for screens with more pixels."""
    return url.replace("{y}.png", "{y}{r}.png")


def _ipyleaflet(tiles: Tiles, opacity: float) -> Any:
    import ipyleaflet

    return ipyleaflet.TileLayer(
        url=_sharp(tiles.url),
        name=tiles.name,
        attribution=tiles.attribution,
        min_zoom=tiles.minzoom,
        max_zoom=tiles.maxzoom + CLOSER,
        max_native_zoom=tiles.maxzoom,
        bounds=tiles.corners,
        opacity=opacity,
    )


def _folium(tiles: Tiles, opacity: float) -> Any:
    import folium

    made: Any = folium.TileLayer(
        tiles=_sharp(tiles.url),
        attr=tiles.attribution,
        name=tiles.name,
        min_zoom=tiles.minzoom,
        max_zoom=tiles.maxzoom + CLOSER,
        max_native_zoom=tiles.maxzoom,
        overlay=True,
        opacity=opacity,
        bounds=tiles.corners,
    )
    made.bounds = tiles.corners
    return made
