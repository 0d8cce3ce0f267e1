"""Models by name and the layers they make: what is open now."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cachetools import LRUCache, TTLCache
from numpy.typing import NDArray

from model_registry import LoadedModel, Model, Registry, load
from model_registry.candidates import Candidate, Policy, RuntimeWish
from model_registry.manifest import PrecisionSpec
from tiler.errors import MisfitError, UnknownNameError
from tiler.layer import MAX_GSD_FACTOR, MAX_WINDOW_PIXELS, Layer, fit, source_of
from tiler.models import Models
from tiler.pixels import sample_windows
from tiler.roster import number_of
from tiler.scene import Scene
from tiler.turnover import Reloaded, Warm, reload

# How many layers of replaced models stay, and for how long (seconds).
RETIRED_LAYERS = 16
RETIRED_SECONDS = 600.0

# Revisions of a registry's versions that are found again after their alias has moved on.
KNOWN_REVISIONS = 4096

# (height, width) of the windows that a lower precision is judged by.
SAMPLE_SHAPE = (512, 512)


class Catalog:
    """Loads each model once, when first asked for, and keeps layers for a while.

    A local scene that was replaced gets its new revision at once; that of any other source when its layer has been kept
    for `ttl` seconds and its header is read again.

    Attributes:
        models: those there are, by name.
        busy: gives the revisions that have work in flight; their models are not unloaded. An engine's own `busy`.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path | LoadedModel],
        *,
        registry: Registry | str | Path | None = None,
        model_bytes: int | None = None,
        max_models: int | None = None,
        device: str = "cpu",
        threads: int | None = None,
        policy: Policy | None = None,
        runtime: RuntimeWish = "auto",
        max_gsd_factor: float = MAX_GSD_FACTOR,
        max_window_pixels: int = MAX_WINDOW_PIXELS,
        ttl: float = 60.0,
        max_layers: int = 256,
        gsds: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Make a catalog.

        Args:
            models: by name: a folder with model.yaml, a bare ONNX with metadata, a model loaded already, or, as text, a
                reference into the registry.
            registry: a folder or URL, or a registry that was opened; every name in it is served.
            model_bytes: what loaded models may take together; None: any.
            max_models: how many may be loaded; None: any.
            device: where models run, e.g. `cpu` or `cuda:0`.
            threads: CPU threads per forward pass; None takes the cores that the process may use.
            policy: `fp32`, `bf16`, `fp16` or `auto`; None takes each model's own. See `model_registry.choice`.
            runtime: `auto`, or the one to use.
            max_gsd_factor, max_window_pixels: see `layer.fit`.
            ttl: seconds a layer is kept.
            max_layers: layers kept.
            gsds: metres per pixel, by name, of models (files) that are served as an ensemble of themselves.

        Raises:
            MisfitError, BusyError: the registry cannot be used, or reached.
        """
        self.busy: Callable[[], Collection[str]] = tuple
        self._device, self._threads, self._policy, self._runtime = device, threads, policy, runtime
        self._choices: dict[tuple[str, PrecisionSpec], Candidate] = {}
        self._max_gsd_factor, self._max_window_pixels = max_gsd_factor, max_window_pixels
        self._layers: TTLCache[Any, Layer] = TTLCache(max_layers, ttl)
        # Maps that are open go on asking for the revision that they know.
        self._retired: TTLCache[Any, Layer] = TTLCache(RETIRED_LAYERS, RETIRED_SECONDS)
        self._homes: LRUCache[Any, str] = LRUCache(KNOWN_REVISIONS)
        self._lock = threading.Lock()
        self.models = Models(
            models,
            registry,
            self._load,
            in_use=self._in_use,
            left=self._forget,
            max_bytes=model_bytes,
            max_models=max_models,
            gsds=gsds,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all models: the operator's own in the order given, then the registry's."""
        return self.models.names

    def model(self, name: str) -> LoadedModel:
        """The model called `name`, `name@alias` or `name:3`, loaded if it is not yet.

        Raises:
            UnknownNameError: no such model; the message lists those there are.
            MisfitError: the model's own files are not usable.
            BusyError: there is no room for it now, or the registry cannot be reached.
        """
        loaded = self.models.get(self.models.identify(name))
        self.models.serves(name)
        return loaded

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
            model: name of the model, `name@alias` or `name:3`.
            open_it: opens the scene.
            indexes: bands of the scene, in the model's order.
            revision: the one that is asked for; the present one if empty.

        Raises:
            UnknownNameError: no such model, or a revision that is not served any more.
            SceneError, MisfitError: the scene cannot be opened, or the model does not fit it.
            BusyError: there is no room for the model now, or the registry cannot be reached.
        """
        identity = self.models.identify(model)
        place = (key, tuple(indexes) if indexes else None)
        if revision and (old := self._earlier(place, identity, revision, open_it, indexes)) is not None:
            return old
        present = self._present(place, identity, open_it, indexes)
        self.models.serves(model)
        if revision in ("", present.revision):
            return present
        raise UnknownNameError(
            f"revision {revision!r} of {model!r} is not served any more", f"The present one is {present.revision}"
        )

    def fits(self, model: str, scene: Scene, indexes: Sequence[int] | None = None) -> Model:
        """Whether a model fits a scene, as far as can be told without loading it; returns the model.

        Raises:
            UnknownNameError, MisfitError, RequestError, BusyError: as `layer`.
        """
        identity = self.models.identify(model)
        self.models.check(identity)
        found = self.models.look_at(identity)
        self._examine(scene, identity, indexes)
        return found

    def _examine(self, scene: Scene, identity: str, indexes: Sequence[int] | None) -> None:
        """Raise what keeps a model, or a member of an ensemble, from a scene; nothing is loaded for it."""
        for network in self.models.networks(identity):
            source_of(scene, network, indexes=indexes, max_gsd_factor=self._max_gsd_factor)

    def reload(self, warm: Warm | None = None) -> list[str]:
        """As `turnover.reload`; returns the names that mean another model now.

        Raises:
            MisfitError: one of them cannot be used; the others have taken over.
        """
        done = self.refresh(warm)
        for name, reason in done.failed.items():
            raise MisfitError(f"{name} was not replaced: {reason}")
        return list(done.changed)

    def refresh(self, warm: Warm | None = None) -> Reloaded:
        """As `turnover.reload`."""
        return reload(self.models, warm)

    def close(self) -> None:
        """Free all models."""
        self.models.close()

    def _earlier(
        self, place: Any, identity: str, revision: str, open_it: Callable[[], Scene], indexes: Sequence[int] | None
    ) -> Layer | None:
        """The layer of a revision that was served under this name before."""
        with self._lock:
            retired = self._retired.get((place, identity, revision))
            home = self._homes.get((place, revision))
        if retired is not None:
            return retired
        name, colon, _ = identity.rpartition(":")
        if home is None or home == identity or not colon or home.rpartition(":")[0] != name:
            return None
        layer = self._present(place, home, open_it, indexes)
        return layer if layer.revision == revision else None

    def _present(self, place: Any, identity: str, open_it: Callable[[], Scene], indexes: Sequence[int] | None) -> Layer:
        key = (place, identity)
        while True:
            with self._lock:
                kept = self._layers.get(key)
            if kept is not None and kept.scene.is_current:
                self.models.pool.touch(identity)
                return kept
            scene = open_it()
            if self.models.peek(identity) is None:
                # A scene that does not fit must not have the model loaded for it.
                self._examine(scene, identity, indexes)
            loaded = self.models.get(identity, partial(self._sample, scene, indexes))
            layer = fit(
                scene,
                loaded,
                indexes=indexes,
                max_gsd_factor=self._max_gsd_factor,
                max_window_pixels=self._max_window_pixels,
                version=identity if number_of(identity) is not None else "",
            )
            with self._lock:
                current = self.models.peek(identity)
                if current is None or current is loaded:
                    self._homes[place, layer.revision] = identity
                    self._homes[layer.revision] = identity
                    for member, ref in zip(layer.members, layer.model.members, strict=True):
                        # What flies for an ensemble belongs to the member's own model where it has one.
                        self._homes[member.revision] = ref.model or identity
                if current is loaded:
                    self._layers[key] = layer
                if current is None or current is loaded:
                    return layer
            # It was replaced meanwhile: it must not come back for as long as its layer would be kept.

    def _load(self, model: Model, samples: Sequence[NDArray[Any]]) -> LoadedModel:
        loaded = load(model, self._device, self._threads, policy=self._policy, runtime=self._runtime, samples=samples)
        # One that comes back runs as it did before: runtime and precision are part of the revision.
        # The same weights under another wish, as another model or a newer version, are chosen for anew.
        before = self._choices.setdefault((model.digest, model.precision), loaded.choice.candidate)
        if before == loaded.choice.candidate:
            return loaded
        loaded.close()
        return load(
            model, self._device, self._threads, policy=before.precision, runtime=before.runtime, samples=samples
        )

    def _sample(self, scene: Scene, indexes: Sequence[int] | None, model: Model) -> list[NDArray[Any]]:
        source, shape = source_of(scene, model, indexes=indexes, max_gsd_factor=self._max_gsd_factor)
        return sample_windows(source, model.window.fixed or SAMPLE_SHAPE)

    def _in_use(self) -> set[str]:
        """Identities of models with work in flight."""
        revisions = self.busy()
        with self._lock:
            return {home for revision in revisions if (home := self._homes.get(revision)) is not None}

    def _forget(self, identity: str) -> None:
        """A model was unloaded, or replaced under its name: its layers go. A replaced one's answer for a while."""
        current = self.models.peek(identity)
        with self._lock:
            for key in [key for key in self._layers if key[1] == identity]:
                if self._layers[key].loaded is not current:
                    layer = self._layers.pop(key)
                    if current is not None:
                        self._retired[(*key, layer.revision)] = layer
            if current is None:
                for key in [key for key in self._retired if key[1] == identity]:
                    del self._retired[key]
