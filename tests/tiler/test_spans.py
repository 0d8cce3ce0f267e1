"""OpenTelemetry: where a host has switched it on, a tile is a span that tells where its time went."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, landscape, write_scene
from tests.tiler.pages import EXACT
from tiler.extension import inferenceExtension

trace = pytest.importorskip("opentelemetry.trace")
sdk = pytest.importorskip("opentelemetry.sdk.trace")
export = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")


def test_a_tile_is_a_span_with_its_stages(tmp_path: Path) -> None:
    spans, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    scene = write_scene(tmp_path / "scene.tif", landscape(300, 300))
    model = write_model(tmp_path / "cover", conv_chain(layers=2, classes=3), classes=list("abc"), **EXACT)
    extension = inferenceExtension(models={"cover": str(model)})
    app = FastAPI()
    app.include_router(TilerFactory(extensions=[extension]).router)
    tile = MERCATOR.tile(*MERCATOR.lnglat(1000 + 150 * RES, 5000 - 150 * RES), ZOOM)
    path = f"/inference/cover/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    # Another palette is another picture of the same cells.
    for style, cells, stages in (
        ({}, "miss", {"queue", "read", "forward", "warp", "encode"}),
        ({"colormap": '{"1":"#ff0000"}'}, "hit", {"warp", "encode"}),
    ):
        spans.clear()
        with TestClient(app) as client:
            answer = client.get(path, params={"url": str(scene), **style})
        assert answer.status_code == 200, answer.text
        (span,) = [span for span in spans.get_finished_spans() if span.name == "inference.predict"]
        told = dict(span.attributes)
        seconds = {name: told.pop(name) for name in stages}
        assert all(isinstance(value, float) and 0 <= value < 60 for value in seconds.values()), seconds
        revision = answer.headers["x-revision"]
        assert told == {"model": "cover", "revision": revision, "kind": "predicted", "cells": cells}
    engine = extension.engine
    assert engine is not None
    engine.close()
