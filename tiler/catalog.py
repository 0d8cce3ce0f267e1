"""Models by name and the layers they make: what is open now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cachetools import TTLCache
from numpy.typing import NDArray

from model_registry import LoadedModel, Model, ModelError, load, open_model
from model_registry.candidates import Policy, RuntimeWish
from tiler.errors import MisfitError, UnknownNameError
from tiler.layer import MAX_GSD_FACTOR, MAX_WINDOW_PIXELS, Layer, fit, source_of
from tiler.pixels import sample_windows
from tiler.scene import Scene

# How many layers of replaced models stay, and for how long (seconds).
RETIRED_LAYERS = 16
RETIRED_SECONDS = 600.0

# (height, width) of the windows that a lower precision is judged by.
SAMPLE_SHAPE = (512, 512)


class Catalog:
    """Loads each model once, when first asked for, and keeps layers for a while.

    A local scene that was replaced gets its new revision at once; that of any other source when its layer has been kept
    for `ttl` seconds and its header is read again.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path | LoadedModel],
        *,
        device: str = "cpu",
        threads: int | None = None,
        policy: Policy | None = None,
        runtime: RuntimeWish = "auto",
        max_gsd_factor: float = MAX_GSD_FACTOR,
        max_window_pixels: int = MAX_WINDOW_PIXELS,
        ttl: float = 60.0,
        max_layers: int = 256,
    ) -> None:
        """Make a catalog.

        Args:
            models: by name: a folder with model.yaml, a bare ONNX with metadata, or a model loaded already.
            device: where models run, e.g. `cpu` or `cuda:0`.
            threads: CPU threads per forward pass; None takes the cores that the process may use.
            policy: `fp32`, `bf16`, `fp16` or `auto`; None takes each model's own. See `model_registry.choice`.
            runtime: `auto`, or the one to use.
            max_gsd_factor, max_window_pixels: see `layer.fit`.
            ttl: seconds a layer is kept.
            max_layers: layers kept.
        """
        self._sources = dict(models)
        self._loaded: dict[str, LoadedModel] = {}
        self._device, self._threads, self._policy, self._runtime = device, threads, policy, runtime
        self._samples: dict[str, Sequence[NDArray[Any]]] = {}
        self._max_gsd_factor, self._max_window_pixels = max_gsd_factor, max_window_pixels
        self._layers: TTLCache[Any, Layer] = TTLCache(max_layers, ttl)
        # Maps that are open go on asking for the revision that they know.
        self._retired: TTLCache[Any, Layer] = TTLCache(RETIRED_LAYERS, RETIRED_SECONDS)
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models, in the order given."""
        return tuple(self._sources)

    def model(self, name: str, sample: Callable[[Model], Sequence[NDArray[Any]]] | None = None) -> LoadedModel:
        """The model called `name`, loaded if it is not yet.

        Args:
            name: one of `names`.
            sample: gives real windows [bands, rows, cols] of the scene to judge a lower precision by; called only when
                the model has to be loaded.

        Raises:
            UnknownNameError: no such model; the message lists those there are.
            MisfitError: the model's own files are not usable.
        """
        if name not in self._sources:
            raise UnknownNameError(f"there is no model {name!r}", f"Known are: {', '.join(self.names)}")
        with self._loading:
            if name not in self._loaded:
                source = self._sources[name]
                if isinstance(source, LoadedModel):
                    self._loaded[name] = source
                    return source
                try:
                    if sample is not None:
                        self._samples[name] = sample(open_model(source))
                    self._loaded[name] = self._load(name, source)
                except ModelError as error:
                    raise MisfitError(f"model {name!r}: {error.reason}", error.remedy) from error
            return self._loaded[name]

    def layer(
        self,
        key: Any,
        model: str,
        open_it: Callable[[], Scene],
        *,
        indexes: Sequence[int] | None = None,
        revision: str = "",
    ) -> Layer:
        """The layer of a model over a scene; opened unless it was lately.

        Args:
            key: whatever decides what `open_it` returns.
            model: name of the model.
            open_it: opens the scene.
            indexes: bands of the scene, in the model's order.
            revision: the one that is asked for; the present one if empty.

        Raises:
            UnknownNameError: no such model, or a revision that is not served any more.
            SceneError, MisfitError: the scene cannot be opened, or the model does not fit it.
        """
        full_key = (key, model, tuple(indexes) if indexes else None)
        present = self._present(full_key, model, open_it, indexes)
        if revision in ("", present.revision):
            return present
        with self._lock:
            retired = self._retired.get((full_key, revision))
        if retired is None:
            raise UnknownNameError(
                f"revision {revision!r} of {model!r} is not served any more", f"The present one is {present.revision}"
            )
        return retired

    def _present(self, key: Any, model: str, open_it: Callable[[], Scene], indexes: Sequence[int] | None) -> Layer:
        while True:
            with self._lock:
                kept = self._layers.get(key)
            if kept is not None and kept.scene.is_current:
                return kept
            scene = open_it()
            loaded = self.model(model, partial(self._sample, scene, indexes))
            layer = fit(
                scene,
                loaded,
                indexes=indexes,
                max_gsd_factor=self._max_gsd_factor,
                max_window_pixels=self._max_window_pixels,
            )
            with self._lock:
                # A model that was replaced meanwhile must not come back for as long as its layer would be kept.
                if self._loaded.get(model) is loaded:
                    self._layers[key] = layer
                    return layer

    def _load(self, name: str, source: str | Path) -> LoadedModel:
        return load(
            source,
            self._device,
            self._threads,
            policy=self._policy,
            runtime=self._runtime,
            samples=self._samples.get(name, ()),
        )

    def _sample(self, scene: Scene, indexes: Sequence[int] | None, model: Model) -> list[NDArray[Any]]:
        source, shape = source_of(scene, model, indexes=indexes, max_gsd_factor=self._max_gsd_factor)
        return sample_windows(source, model.window.fixed or SAMPLE_SHAPE)

    def reload(self, warm: Callable[[LoadedModel], None] | None = None) -> list[str]:
        """Look at the files of all loaded models again, and let those that changed take over.

        A new model is loaded, checked and warmed beside the old one, which goes on answering; requests that have begun
        finish with the model they began with. When it fails, the old one stays.

        Args:
            warm: called with each new model before it takes over.

        Returns:
            Names of the models that changed.

        Raises:
            MisfitError: a changed model cannot be loaded; those before it have taken over.
        """
        changed = []
        for name, loaded in list(self._loaded.items()):
            source = self._sources[name]
            if isinstance(source, LoadedModel):
                continue
            try:
                if open_model(source).digest == loaded.model.digest:
                    continue
                fresh = self._load(name, source)
            except ModelError as error:
                raise MisfitError(f"model {name!r}: {error.reason}", error.remedy) from error
            if warm is not None:
                warm(fresh)
            with self._loading, self._lock:
                # The old one is freed when the last layer that uses it is gone.
                self._loaded[name] = fresh
                for key in [key for key in self._layers if key[1] == name]:
                    layer = self._layers.pop(key)
                    self._retired[(key, layer.revision)] = layer
            changed.append(name)
        return changed

    def close(self) -> None:
        """Free all models."""
        with self._loading:
            for loaded in self._loaded.values():
                loaded.close()
            self._loaded.clear()
