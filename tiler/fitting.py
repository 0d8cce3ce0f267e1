"""An embedding's components, fitted once to windows of a scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model_registry import load
from model_registry.components import Components, fit_components
from tiler.errors import RequestError
from tiler.layer import MAX_GSD_FACTOR, fit
from tiler.pixels import samples
from tiler.scene import SceneRef, open_scene

WINDOW = 512  # px, edge of a window that is looked at, halo included
COUNT = 9  # windows
PER_WINDOW = 5000  # pixels of a window at most: a network may have a thousand channels


def components_of(
    source: str, model_path: str, indexes: Sequence[int] | None = None, max_gsd_factor: float | None = None
) -> Components:
    """The three principal components of a model's vectors over a scene; pixels without data are left out.

    Raises:
        SceneError, MisfitError: the scene cannot be opened, or the model does not fit it.
        ModelError: the model cannot be loaded, or its vectors do not vary.
        RequestError: the model is no embedding.
    """
    scene = open_scene(SceneRef(source))
    loaded = load(model_path)
    try:
        model = loaded.model
        if model.kind != "embedding":
            raise RequestError(f"model {model.name!r} answers {model.kind}", "Only an embedding has components")
        layer = fit(scene, loaded, indexes=indexes, max_gsd_factor=max_gsd_factor or MAX_GSD_FACTOR)
        align, halo = layer.grid.align, layer.grid.halo
        edge = max(-(-WINDOW // align), -(-2 * halo // align) + 1) * align
        vectors = []
        for pixels, valid in samples(layer.source, layer.window_shape or (edge, edge), COUNT):
            values = loaded.runner(np.ascontiguousarray(pixels[None]), probabilities=True).values
            assert values is not None, "an embedding has values"
            inner = (slice(halo, values.shape[2] - halo), slice(halo, values.shape[3] - halo))
            found = values[0][:, *inner][:, valid[inner]].T
            vectors.append(found[:: -(-len(found) // PER_WINDOW) or 1])
        return fit_components(vectors)
    finally:
        loaded.close()
