"""A prediction in ArcGIS Pro: run this in its Python window (Analysis > Python).

By hand: Insert > Connections > Server > New WMTS Server, with the address below. ArcGIS drops whatever stands behind a `?`,
so scene, model and revision are in the path. Not run by our tests: there was no ArcGIS; they ask what it asks for.
"""

import arcpy

WMTS = "http://127.0.0.1:8000/demo/landcover/1.0.0/WMTSCapabilities.xml"

project = arcpy.mp.ArcGISProject("CURRENT")
project.activeMap.addDataFromPath(WMTS)
