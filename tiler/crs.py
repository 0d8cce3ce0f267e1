"""A CRS as somebody spells it. Never a file or an address: GDAL would open both for it."""

from __future__ import annotations

import re

from rasterio.crs import CRS
from rasterio.errors import CRSError

from tiler.errors import RequestError
from tiler.scene import WGS84

# The OGC's long names of codes, as GeoJSON of 2008 has them.
NAMED = re.compile(
    r"(?:urn:(?:x-)?ogc:def:crs:(?=\w+:)|https?://(?:www\.)?opengis\.net/def/crs/(?=\w+/))(\w+)[:/][\w.]*[:/](\w+)",
    re.I,
)
# How a CRS is spelt: a code, GDAL's own words, or a definition.
SPELT = re.compile(
    r"\w+:\w+$|(WGS|NAD)\d\d$|\+proj=|\{"
    r"|(PROJCS|GEOGCS|GEOCCS|COMPD_CS|LOCAL_CS|(PROJ|GEOG|GEOD|COMPOUND|BOUND|ENG|PROJECTED|GEOGRAPHIC|GEODETIC)CRS)\[",
    re.I,
)


def crs_of(text: str) -> CRS:
    """A CRS by its code, WKT, PROJ string or PROJJSON.

    Raises:
        RequestError: there is none of that name.
    """
    if text.upper().endswith("CRS84"):
        return WGS84
    named = NAMED.fullmatch(text)
    if named is not None:
        text = ":".join(named.groups())
    check_spelling(text)
    try:
        return CRS.from_user_input(text)
    except CRSError:
        raise _unknown(text) from None


def check_spelling(text: str) -> None:
    """Refuse what GDAL would look for on the disk or in the network.

    Raises:
        RequestError: it is neither a code nor a definition.
    """
    if not (SPELT.match(text) or NAMED.fullmatch(text)) or "grids" in text:
        raise _unknown(text)


def _unknown(text: str) -> RequestError:
    return RequestError(f"{text[:60]!r} is not a CRS", "Name one like EPSG:32632")
