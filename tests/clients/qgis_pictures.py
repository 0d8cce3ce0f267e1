"""Run by QGIS's own Python: paste the example as into its console, then draw each layer in each projection.

    python qgis_pictures.py EXAMPLE OUT WIDTH HEIGHT  CRS=left,bottom,right,top ...

Writes OUT/{kind}-{crs}.png for each layer and projection, prints one JSON object and ends without QGIS's own clean-up,
which crashes now and then when it is run from Python.
"""

import json
import os
import re
import sys
import tempfile

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsNetworkAccessManager,
    QgsProject,
    QgsRectangle,
)
from qgis.PyQt.QtCore import QEventLoop, QSize, QTimer
from qgis.PyQt.QtGui import QColor

example, out, width, height, *views = sys.argv[1:]
app = QgsApplication([], False)
app.initQgis()
asked = []
QgsNetworkAccessManager.instance().finished.connect(lambda answer: asked.append(answer.request().url().toString()))
with open(example, encoding="utf-8") as file:
    exec(compile(file.read(), example, "exec"), {"__name__": "__console__"})  # as pasted into the console

told = {"version": Qgis.QGIS_VERSION, "timeout_ms": QgsNetworkAccessManager.instance().timeout(), "pictures": {}}
for layer in QgsProject.instance().mapLayers().values():
    kind = re.search(r"\((\w+)\)$", layer.name()).group(1)
    for view in views:
        crs, _, bounds = view.partition("=")
        settings = QgsMapSettings()
        settings.setLayers([layer])
        settings.setDestinationCrs(QgsCoordinateReferenceSystem(crs))
        left, bottom, right, top = map(float, bounds.split(","))
        settings.setOutputSize(QSize(int(width), int(height)))
        settings.setOutputDpi(96)
        settings.setExtent(QgsRectangle(left, bottom, right, top))
        settings.setBackgroundColor(QColor(255, 0, 255))
        asked.clear()
        job, loop = QgsMapRendererParallelJob(settings), QEventLoop()
        job.finished.connect(loop.quit)
        QTimer.singleShot(60_000, loop.quit)
        job.start()
        loop.exec_()
        name = f"{kind}-{crs.replace(':', '')}"
        job.renderedImage().save(os.path.join(out, f"{name}.png"))
        seen = settings.visibleExtent()
        told["pictures"][name] = {
            "crs": crs,
            "bounds": [seen.xMinimum(), seen.yMinimum(), seen.xMaximum(), seen.yMaximum()],
            "errors": [error.message for error in job.errors()],
            "asked": list(asked),
        }
print(json.dumps(told))
sys.stdout.flush()
os._exit(0)
