"""A prediction in QGIS: paste this into its Python console (Plugins > Python Console).

By hand: Layer > Add Layer > Add WMS/WMTS Layer > New, with the address of the WMTS below; or an XYZ connection with the
one of the tiles.
"""

import json
import os
from urllib.parse import quote
from urllib.request import urlopen

from qgis.core import QgsProject, QgsRasterLayer

SERVER = os.environ.get("SERVER", "http://127.0.0.1:8000")
SCENE, MODEL = os.environ.get("SCENE", "demo"), os.environ.get("MODEL", "landcover")
BASE = f"{SERVER}/{SCENE}/{MODEL}"

tiles = json.load(urlopen(f"{BASE}/tilejson.json"))
# In a QGIS address everything behind url= is percent-encoded, or the tiles' own query would be lost.
XYZ = f"type=xyz&zmin={tiles['minzoom']}&zmax={tiles['maxzoom']}&url={quote(tiles['tiles'][0], safe=':/{}')}"
WMTS = (
    f"crs=EPSG:3857&format=image/png&layers={SCENE}-{MODEL}&styles=default&tileMatrixSet=WebMercatorQuad"
    f"&url={quote(f'{BASE}/1.0.0/WMTSCapabilities.xml', safe=':/')}"
)
# A project keeps the WMTS up to date: it asks for the present revision when it is opened. XYZ stays at this revision.
for kind, address in (("WMTS", WMTS), ("XYZ", XYZ)):
    layer = QgsRasterLayer(address, f"{tiles['name']} ({kind})", "wms")
    assert layer.isValid(), layer.error().message()
    QgsProject.instance().addMapLayer(layer)
