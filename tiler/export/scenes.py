"""What a user names as scenes: files, URLs, globs, STAC items and collections of items."""

from __future__ import annotations

import glob
import json
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin, urlsplit

from pystac import Asset, Item
from pystac.utils import is_absolute_href

from tiler.errors import RequestError
from tiler.scene import display_name

MOST_SCENES = 10_000
MOST_BYTES = 64 * 2**20
TIMEOUT_S = 30
DOCUMENTS = (".json", ".geojson")
TIFFS = (".tif", ".tiff")
# Where a document that came over the network may point: never to a file of this machine.
REMOTE = ("http", "https", "s3", "gs", "az")
# Roles of pictures for people.
NOT_DATA = frozenset({"thumbnail", "overview"})


@dataclass(frozen=True, slots=True)
class NamedScene:
    """A scene to be exported.

    Attributes:
        name: for its output file, without an ending; unique in a list whatever the case of its letters.
        source: what GDAL opens. May hold credentials: never shown, see `scene.display_name`.
        folder: name of the folder, or the STAC collection, that it is from.
    """

    name: str
    source: str = field(repr=False)
    folder: str = field(default="", repr=False)


def scenes_of(words: Sequence[str], *, asset: str | None = None) -> tuple[NamedScene, ...]:
    """The scenes that are meant, in the order of the words; each once.

    Args:
        words: each a path or URL of a raster, a glob ('scenes/*.tif', '**' for all folders below; found files in the
            order of their paths), or a STAC Item or collection of Items: a .json or .geojson file, or an http(s) URL
            that ends like that or is an address of a STAC API (.../items/...). Pages that follow are read as well.
        asset: key of the items' asset. By default the only GeoTIFF, else `visual`, else the only one with role data.

    Raises:
        RequestError: a glob finds nothing, a document or its items cannot be used, an asset must be chosen, names
            cannot be told apart.
    """
    found: dict[str, NamedScene] = {}
    for word in words:
        for scene in _of_word(word, asset):
            found.setdefault(scene.source, scene)
            if len(found) > MOST_SCENES:
                raise RequestError(f"more than {MOST_SCENES:,} scenes are named", "Name fewer at a time")
    if not found:
        raise RequestError("no scene is named", "Name a file, a URL, a glob or a STAC item")
    return _told_apart(list(found.values()))


def _of_word(word: str, asset: str | None) -> Iterator[NamedScene]:
    scheme = urlsplit(word).scheme if "://" in word else ""
    if scheme == "file":
        word, scheme = urllib.request.url2pathname(urlsplit(word).path), ""
    path = urlsplit(word).path if scheme else word
    is_document = path.lower().endswith(DOCUMENTS) or (scheme in ("http", "https") and "items" in path.split("/"))
    if is_document:
        yield from _of_document(word, asset, is_remote=bool(scheme))
    elif scheme or word.startswith("/vsi") or Path(word).is_file():
        yield NamedScene(_stem(word), word, PurePosixPath(path).parent.name)
    elif glob.has_magic(word):
        files = [file for file in sorted(glob.glob(word, recursive=True)) if Path(file).is_file()]
        if not files:
            raise RequestError(f"{display_name(word)!r} finds no file", "Correct the pattern; quote it for the shell")
        for file in files:
            yield NamedScene(_stem(file), file, Path(file).absolute().parent.name)
    elif Path(word).is_dir():
        raise RequestError(f"{display_name(word)!r} is a folder", f"Name its files: '{display_name(word)}/*.tif'")
    else:
        raise RequestError(f"there is no file {display_name(word)!r}", "Correct the path")


def _of_document(place: str, asset: str | None, *, is_remote: bool) -> Iterator[NamedScene]:
    """The scenes of a STAC Item, or of an ItemCollection and its following pages."""
    seen: set[str] = set()
    here: str | None = place
    while here is not None:
        seen.add(here)
        document = _read(here, is_remote=is_remote)
        kind = document.get("type")
        features = [document] if kind == "Feature" else document.get("features")
        if kind not in ("Feature", "FeatureCollection") or not isinstance(features, list):
            raise RequestError(
                f"{display_name(here)!r} is not a STAC Item or a collection of Items, but {str(kind)[:40]!r}",
                "Name the items themselves, or a FeatureCollection of them",
            )
        if not features:
            raise RequestError(f"{display_name(here)!r} holds no items", "Widen the search that made it")
        base = here if is_remote else str(Path(here).absolute())
        for feature in features:
            item = _item(feature, base, here, alone=kind == "Feature")
            key, chosen = _chosen(item, asset)
            yield _scene(item, key, chosen, is_remote=is_remote)
        here = _next_page(document, here, is_remote=is_remote) if kind == "FeatureCollection" else None
        if here in seen:
            raise RequestError(f"{display_name(place)!r} names one of its pages twice", "Save the items into one file")


def _read(place: str, *, is_remote: bool) -> dict[str, Any]:
    name = display_name(place)
    try:
        if not is_remote:
            with open(place, "rb") as file:
                content = file.read(MOST_BYTES + 1)
        elif urlsplit(place).scheme in ("http", "https"):
            request = urllib.request.Request(place, headers={"Accept": "application/geo+json, application/json"})
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                content = response.read(MOST_BYTES + 1)
        else:
            raise RequestError(f"{name!r} is a document in an object store", "Name its http(s) address or a copy")
    except urllib.error.HTTPError as error:
        raise RequestError(f"the server answered {error.code} for {name!r}", "Check the URL") from None
    except (OSError, ValueError, HTTPException) as error:
        reason = "is not there" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise RequestError(f"{name!r} {reason}", "Check its address") from None
    if len(content) > MOST_BYTES:
        raise RequestError(f"{name!r} is larger than {MOST_BYTES >> 20} MiB", "Split it")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RequestError(f"{name!r} is not a JSON object", "Name a STAC Item or a collection of Items")
    return document


def _item(feature: Any, base: str, place: str, *, alone: bool) -> Item:
    """An item that knows where it is from, so that its relative links can be followed."""
    try:
        # As it is written: pystac would take a relative one from the working folder.
        own = [link["href"] for link in feature.get("links", []) if link["rel"] == "self"]
        item: Item = Item.from_dict(feature, href=own[0] if own and not alone and is_absolute_href(own[0]) else base)
    except Exception:  # pystac lets through whatever a wrong document makes Python raise
        raise RequestError(
            f"{display_name(place)!r} holds something that is not a STAC Item", "Check it with a STAC validator"
        ) from None
    return item


def _chosen(item: Item, key: str | None) -> tuple[str, Asset]:
    """The asset that holds the scene."""
    shown = f"the item {item.id[:80]!r}"
    listed = ", ".join(sorted(item.assets)[:40]) or "none"
    if key is not None:
        if key not in item.assets:
            raise RequestError(f"{shown} has no asset {key!r}", f"Its assets: {listed}")
        return key, item.assets[key]
    tiffs = {name: asset for name, asset in item.assets.items() if _is_tiff(asset)}
    data = {name: asset for name, asset in tiffs.items() if "data" in (asset.roles or [])}
    for group in (tiffs, {name: tiffs[name] for name in tiffs.keys() & {"visual"}}, data):
        if len(group) == 1:
            return next(iter(group.items()))
    reason = "several assets that may be the scene" if tiffs else "no asset that is a GeoTIFF"
    raise RequestError(f"{shown} has {reason}", f"Choose one with --asset: {', '.join(sorted(tiffs)) or listed}")


def _is_tiff(asset: Asset) -> bool:
    if NOT_DATA & set(asset.roles or []):
        return False
    if asset.media_type:
        return asset.media_type.lower().startswith("image/tiff")
    return urlsplit(asset.href).path.lower().endswith(TIFFS)


def _scene(item: Item, key: str, asset: Asset, *, is_remote: bool) -> NamedScene:
    href = asset.get_absolute_href() or asset.href
    scheme = urlsplit(href).scheme
    if scheme == "file":
        href, scheme = urllib.request.url2pathname(urlsplit(href).path), ""
    if is_remote and scheme not in REMOTE:
        raise RequestError(
            f"the asset {key!r} of the item {item.id[:80]!r} is not at a URL", f"Use items whose assets are at {REMOTE}"
        )
    return NamedScene(_safe(item.id), href, item.collection_id or "")


def _next_page(document: dict[str, Any], here: str, *, is_remote: bool) -> str | None:
    """Address of the page that follows, if the server says so."""
    links = document.get("links")
    for link in links if isinstance(links, list) else []:
        if not isinstance(link, dict) or link.get("rel") != "next":
            continue
        page = urljoin(here, str(link.get("href", ""))) if is_remote else ""
        if str(link.get("method", "GET")).upper() != "GET" or urlsplit(page).scheme not in ("http", "https"):
            raise RequestError(
                f"{display_name(here)!r} is one page of several, and the next cannot be fetched from here",
                "Save all items into one file (pystac-client: search.item_collection().save_object)",
            )
        return page
    return None


def _told_apart(scenes: list[NamedScene]) -> tuple[NamedScene, ...]:
    """Scenes of one name get the name of their folder in front."""
    count = Counter(scene.name.casefold() for scene in scenes)
    found = [
        replace(scene, name=_safe(f"{scene.folder}-{scene.name}"))
        if count[scene.name.casefold()] > 1 and scene.folder
        else scene
        for scene in scenes
    ]
    count = Counter(scene.name.casefold() for scene in found)
    twice = next((scene.name for scene in found if count[scene.name.casefold()] > 1), None)
    if twice is not None:
        raise RequestError(
            f"several scenes would be exported as {twice!r}", "Export them one at a time, or rename the files"
        )
    return tuple(found)


def _stem(source: str) -> str:
    name = display_name(source) if "://" in source else PurePosixPath(source).name
    return _safe(PurePosixPath(name).stem or name)


def _safe(name: str) -> str:
    """A name that a file may have everywhere."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-. ")[:120] or "scene"
