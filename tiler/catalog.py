"""Models by name and the layers they make: what is open now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cachetools import TTLCache

from model_registry import LoadedModel, ModelError, load
from tiler.errors import MisfitError, UnknownNameError
from tiler.layer import MAX_GSD_FACTOR, MAX_WINDOW_PIXELS, Layer, fit
from tiler.scene import Scene


class Catalog:
    """Loads each model once, when first asked for, and keeps layers for a while.

    A scene's header is read again once its layer has been kept for `ttl` seconds: a scene that was replaced gets its
    new revision then.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path | LoadedModel],
        *,
        device: str = "cpu",
        threads: int | None = None,
        max_gsd_factor: float = MAX_GSD_FACTOR,
        max_window_pixels: int = MAX_WINDOW_PIXELS,
        ttl: float = 60.0,
        max_layers: int = 256,
    ) -> None:
        """Make a catalog.

        Args:
            models: by name: a folder with model.yaml, a bare ONNX with metadata, or a model loaded already.
            device: where models run, e.g. `cpu` or `cuda:0`.
            threads: CPU threads per forward pass; None lets the runtime choose.
            max_gsd_factor, max_window_pixels: see `layer.fit`.
            ttl: seconds a layer is kept.
            max_layers: layers kept.
        """
        self._sources = dict(models)
        self._loaded: dict[str, LoadedModel] = {}
        self._device, self._threads = device, threads
        self._max_gsd_factor, self._max_window_pixels = max_gsd_factor, max_window_pixels
        self._layers: TTLCache[Any, Layer] = TTLCache(max_layers, ttl)
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models, in the order given."""
        return tuple(self._sources)

    def model(self, name: str) -> LoadedModel:
        """The model called `name`, loaded if it is not yet.

        Raises:
            UnknownNameError: no such model; the message lists those there are.
            MisfitError: the model's own files are not usable.
        """
        if name not in self._sources:
            raise UnknownNameError(f"there is no model {name!r}", f"Known are: {', '.join(self.names)}")
        with self._loading:
            if name not in self._loaded:
                source = self._sources[name]
                try:
                    loaded = load(source, self._device, self._threads) if isinstance(source, (str, Path)) else source
                except ModelError as error:
                    raise MisfitError(f"model {name!r}: {error.reason}", error.remedy) from error
                self._loaded[name] = loaded
            return self._loaded[name]

    def layer(
        self, key: Any, model: str, open_it: Callable[[], Scene], *, indexes: Sequence[int] | None = None
    ) -> Layer:
        """The layer of a model over a scene; opened unless it was lately.

        Args:
            key: whatever decides what `open_it` returns.
            model: name of the model.
            open_it: opens the scene.
            indexes: bands of the scene, in the model's order.
        """
        full_key = (key, model, tuple(indexes) if indexes else None)
        with self._lock:
            kept = self._layers.get(full_key)
        if kept is not None:
            return kept
        loaded = self.model(model)
        layer = fit(
            open_it(),
            loaded,
            indexes=indexes,
            max_gsd_factor=self._max_gsd_factor,
            max_window_pixels=self._max_window_pixels,
        )
        with self._lock:
            self._layers[full_key] = layer
        return layer

    def close(self) -> None:
        """Free all models."""
        with self._loading:
            for loaded in self._loaded.values():
                loaded.close()
            self._loaded.clear()
