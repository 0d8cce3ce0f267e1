"""What there is to say of the served models, JSON-ready: the registry's own card, and how it goes with them here."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from cachetools import TTLCache

from model_registry import LoadedModel, Model, ModelError, ModelRef, State, Version, card, records
from model_registry.mlm import item_from_model
from tiler.documents import running
from tiler.errors import InferenceError, UnknownNameError
from tiler.legend import answer_of, kind_of
from tiler.models import Models, in_our_words
from tiler.roster import number_of
from tiler.shadow import Shadow

# What a registry says of a version is read again after so many seconds: a check may have been made of it meanwhile.
SUMMARY_SECONDS = 60.0


class Cards:
    """Cards of models. Thread-safe; reads small files, and loads no network."""

    def __init__(self, models: Models, shadow: Shadow | None = None) -> None:
        """Tell of `models`, and of what `shadow` has compared."""
        self._models, self._shadow = models, shadow
        self._summaries: TTLCache[tuple[str, str], tuple[dict[str, Any], State]] = TTLCache(1024, SUMMARY_SECONDS)
        self._lock = threading.Lock()

    def everything(self) -> list[dict[str, Any]]:
        """One entry for each of the operator's own names, then one for each version of the registry."""
        models = self._models
        own = []
        for name in models.own:
            with suppress(UnknownNameError):
                own.append({**self.entry(models.identify(name)), "id": name})
        shelves = models.roster.shelves.values()
        return [*own, *(self.entry(f"{shelf.name}:{number}") for shelf in shelves for number in shelf.versions)]

    def entry(self, identity: str) -> dict[str, Any]:
        """What a list shows of a model."""
        ref = number_of(identity)
        found, state = self._of_version(ref) if ref else self._of_folder(identity)
        return {"id": identity, **found, **self._here(identity, ref, state)}

    def details(self, name: str) -> dict[str, Any]:
        """Everything about a model; a remote one's files are fetched.

        Raises:
            UnknownNameError, MisfitError, BusyError: there is none, or it cannot be used.
        """
        identity = self._models.identify(name)
        model, loaded = self._models.look_at(identity), self._models.peek(identity)
        ref = number_of(identity)
        version, registry = self._version(identity, ref, model)
        try:
            found = card.card(registry, version)
        except ModelError as error:
            raise in_our_words(identity, error) from error
        found |= {} if ref else {"ref": None, "version": model.version}
        return {
            "id": identity,
            **found,
            **self._here(identity, ref, version.state),
            **kind_of(model),
            **answer_of(model),
            "running": None if loaded is None else self._running(identity, loaded),
            "shadow": [] if self._shadow is None else self._shadow.report(identity),
        }

    def item(self, name: str) -> dict[str, Any]:
        """A model as an item of STAC's MLM extension.

        Raises:
            UnknownNameError, MisfitError, BusyError: there is none, or it cannot be used.
        """
        identity = self._models.identify(name)
        try:
            return item_from_model(self._models.look_at(identity))
        except ModelError as error:
            raise in_our_words(identity, error) from error

    def state(self, name: str) -> State:
        """How far a model has come.

        Raises:
            UnknownNameError: there is no such model.
        """
        identity = self._models.identify(name)
        ref = number_of(identity)
        _, state = self._of_version(ref) if ref else self._of_folder(identity)
        return self._state(identity, state)

    def _here(self, identity: str, ref: ModelRef | None, known: State) -> dict[str, Any]:
        state = self._state(identity, known)
        shelf = self._models.roster.shelves.get(ref.name) if ref else None
        kept = self._models.pool.entries().get(identity)
        return {
            "aliases": [] if shelf is None or ref is None or not ref.version else list(shelf.aliases_of(ref.version)),
            "answers": sorted(name for name in self._names_of(ref) if self._means(name, identity)) if ref else [],
            "state": state.name,
            "reason": state.reason,
            "loaded": self._models.peek(identity) is not None,
            "bytes": None if kept is None else kept.nbytes,
        }

    def _names_of(self, ref: ModelRef) -> list[str]:
        shelf = self._models.roster.shelves.get(ref.name)
        return [ref.name, *(f"{ref.name}@{alias}" for alias in (shelf.aliases if shelf else ()))]

    def _means(self, name: str, identity: str) -> bool:
        """Whether a name is answered by a model now: not always the one that its alias points to (`Roster.held`)."""
        try:
            return self._models.identify(name) == identity
        except UnknownNameError:
            return False

    def _state(self, identity: str, known: State) -> State:
        here = self._models.state(identity)
        return known if here.name == "registered" else here

    def _of_version(self, ref: ModelRef) -> tuple[dict[str, Any], State]:
        registry, key = self._models.registry, (str(ref), self._models.roster.fingerprint)
        with self._lock:
            kept = self._summaries.get(key)
        if kept is not None:
            return kept
        assert registry is not None
        try:
            version = registry.resolve(ref)
            found = card.summary(registry, version)
        except ModelError as error:
            found = {"ref": str(ref), "name": ref.name, "version": ref.version, "title": ref.name}
            return found, State("failed", in_our_words(str(ref), error).reason)
        kept = found, State(found["state"], found["reason"])
        with self._lock:
            self._summaries[key] = kept
        return kept

    def _of_folder(self, name: str) -> tuple[dict[str, Any], State]:
        head = {"ref": None, "name": name}
        try:
            model = self._models.look_at(name)
        except InferenceError as error:
            return head | {"version": None, "title": name}, State("failed", error.reason)
        gsd = model.resolution.value if model.resolution else None
        found = {"version": model.version, "title": model.title, "license": model.license, "gsd": gsd}
        found |= {"classes": len(model.classes), "exactness": model.exactness}
        return head | found, State("probed" if records.is_probed(model.folder) else "registered")

    def _version(self, identity: str, ref: ModelRef | None, model: Model) -> tuple[Version, Any]:
        registry = self._models.registry
        if ref is None or registry is None:
            _, state = self._of_folder(identity)
            return Version(identity, 0, model.folder, (), state), _Folder(model)
        try:
            return registry.resolve(ref), registry
        except ModelError as error:
            raise in_our_words(identity, error) from error

    def _running(self, identity: str, loaded: LoadedModel) -> dict[str, Any]:
        kept = self._models.pool.entries().get(identity)
        window = loaded.model.window
        return {
            **running(loaded),
            "devices": list(loaded.devices),
            "exactness": loaded.model.exactness,
            "window": {"multiple": window.multiple, "period": window.period, "halo": window.halo},
            "trials": [
                {
                    "runtime": trial.runtime,
                    "precision": trial.precision,
                    "mpx_per_s": round(trial.pixels_per_second / 1e6, 2),
                    "moved": round(trial.moved, 6),
                }
                for trial in loaded.choice.trials
                if not trial.dropped
            ],
            "reasons": list(loaded.choice.reasons),
            "bytes": None if kept is None else kept.nbytes,
            "load_seconds": None if kept is None else round(kept.seconds, 2),
        }


class _Folder:
    """A folder that belongs to no registry, for whoever asks one."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def open(self, _: Version) -> Model:
        return self._model

    def documents(self, _: Version) -> tuple[Any, dict[str, Any] | None]:
        folder = self._model.folder
        return records.read_documents(folder) if (folder / records.MANIFEST).is_file() else ({}, None)
