"""A prediction in ArcGIS Pro: run this in its Python window (Analysis > Python).

By hand: Insert > Connections > Server > New WMTS Server, with the address below. ArcGIS drops whatever stands behind a
`?`, so scene, model and revision are in the path. This file was never run: there was no ArcGIS at hand. The tests ask
for what Esri's web client was seen to ask for.
"""

import arcpy

WMTS = "http://127.0.0.1:8000/demo/landcover/1.0.0/WMTSCapabilities.xml"

project = arcpy.mp.ArcGISProject("CURRENT")
project.activeMap.addDataFromPath(WMTS)
