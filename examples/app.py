"""A prediction inside a TiTiler application: the one line is the extension. `uvicorn app:app`, then

/cog/inference/landcover/tiles/WebMercatorQuad/{z}/{x}/{y}.png?url=https://.../scene.tif
"""

import os

from fastapi import FastAPI
from titiler.core.factory import TilerFactory

from tiler.extension import inferenceExtension

MODEL = os.environ.get("MODEL", "models/landcover")  # a folder with model.yaml, or an ONNX file with metadata

app = FastAPI()
cog = TilerFactory(router_prefix="/cog", extensions=[inferenceExtension(models={"landcover": MODEL})])
app.include_router(cog.router, prefix="/cog")
