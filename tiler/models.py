"""The models that are served, by name: an operator's own, and a registry's. Loaded on first use, reloaded on request.

Every model has an identity: the name of an operator's own (a folder, which may change under its name), or `name:3` of a
registry's (which never changes). What a name or an alias means is a question to the roster; to move it is one
assignment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from model_registry import (
    LoadedModel,
    Model,
    ModelError,
    ModelRef,
    Registry,
    RegistryError,
    Store,
    UnknownModel,
    at_gsds,
    open_model,
    open_store,
    parse_ref,
)
from model_registry.ensemble import member_models, refs_of
from model_registry.loaded_ensemble import composed
from model_registry.versions import State, state_of
from tiler.errors import BusyError, InferenceError, MisfitError, UnknownNameError
from tiler.pool import Pool, artifact_bytes
from tiler.roster import Roster, look, number_of

Samples = Sequence[NDArray[Any]]
Load = Callable[[Model, Samples], LoadedModel]

# A version that could not be loaded is not tried again for so long (seconds), or until the models are reloaded.
FAILED_SECONDS = 60.0


class Models:
    """Models by name. Thread-safe.

    Attributes:
        own: the operator's names, in the order given.
        registry: where those come from that the operator has not named one by one, or None.
        roster: what its names mean now.
        pool: those that are loaded.
        pinned: names whose model is never unloaded.
        sources, refs: the operator's own, which are files and which are references.
        gsds: of the operator's own: the ground resolutions of those that are served as an ensemble of themselves.
        samples: real windows by identity, that a lower precision was judged by.
        served: names without a version that have answered.
        reloading: held by whoever reloads, see `turnover`.
        load, replaced: load a model; tell that another one took its place under its name.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Path | LoadedModel],
        registry: Registry | str | Path | None,
        load: Load,
        *,
        in_use: Callable[[], Collection[str]] = tuple,
        left: Callable[[str], None] = lambda identity: None,
        max_bytes: int | None = None,
        max_models: int | None = None,
        gsds: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        """Look at the registry; nothing is loaded yet.

        Args:
            sources: by name: a folder with model.yaml, a bare ONNX with metadata, a reference into the registry
                (`landcover@champion`), or a model loaded already.
            registry: a folder, a URL, or a registry that was opened.
            load: loads a model, given real windows to judge a lower precision by.
            in_use, left, max_bytes, max_models: see `pool.Pool`; `in_use` need not know the pinned.
            gsds: see above; metres per pixel, by name.

        Raises:
            MisfitError, BusyError: the registry cannot be used, or reached; `gsds` of what is no file.
        """
        self.pinned: set[str] = set()
        self.own = tuple(sources)
        self.load, self.replaced = load, left
        self.samples: dict[str, Samples] = {}
        self._failures: dict[str, tuple[InferenceError, float]] = {}
        self._ensembles: dict[str, Model | None] = {}
        self.served: set[str] = set()
        self.reloading = threading.Lock()
        self.pool = Pool(
            max_bytes=max_bytes, max_models=max_models, in_use=lambda: {*in_use(), *self._pinned()}, left=left
        )
        try:
            self.registry = open_store(registry) if isinstance(registry, str | Path) else registry
            self.roster = look(self.registry, Roster()) if self.registry is not None else Roster()
        except ModelError as error:
            raise in_our_words("registry", error) from error
        self.sources, self.refs = _split(sources, self.registry is not None)
        self.gsds = dict(gsds or {})
        for name in self.gsds:
            if isinstance(self.sources.get(name, None), LoadedModel) or name not in self.sources:
                raise MisfitError(
                    f"gsds names {name!r}, which is no model's folder or file",
                    "Of a registry's model make an ensemble there: `tiler models ensemble`",
                )

    @property
    def names(self) -> tuple[str, ...]:
        """The operator's own names in the order given, then the registry's."""
        return (*self.own, *(name for name in self.roster.shelves if name not in self.own))

    def add(self, name: str, source: str | Path) -> None:
        """Serve one more of the operator's own, as if it had been given from the start; nothing is loaded yet."""
        files, refs = _split({name: source}, self.registry is not None)
        # New mappings and not longer ones: others may be walking through those.
        self.sources, self.refs = {**self.sources, **files}, {**self.refs, **refs}
        self.own = (*self.own, name)

    def identify(self, name: str) -> str:
        """The identity of what `name`, `name@alias` or `name:3` means now.

        Raises:
            UnknownNameError: no such model; the message lists those there are.
        """
        if name in self.sources:
            return name
        roster = self.roster
        try:
            ref = self.refs.get(name) or parse_ref(name)
            return f"{ref.name}:{roster.pick(ref)}"
        except UnknownModel as error:
            raise UnknownNameError(error.reason, error.remedy) from None
        except (KeyError, RegistryError):
            known = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
            raise UnknownNameError(f"there is no model {name[:120]!r}", f"Known are: {known or 'none'}") from None

    def find(self, identity: str) -> Model:
        """What a model says of itself. It is not loaded, but a remote one is fetched.

        Raises:
            ModelError: see `Registry.open` and `open_model`.
        """
        source = self.sources.get(identity)
        if isinstance(source, LoadedModel):
            return source.model
        if source is not None:
            model = open_model(source)
            return at_gsds(model, self.gsds[identity]) if identity in self.gsds else model
        ref = number_of(identity)
        if self.registry is None or ref is None:
            raise UnknownModel(f"there is no model {identity!r}", "Ask for one by its name")
        return self.registry.open(self.registry.resolve(ref))

    def look_at(self, identity: str) -> Model:
        """As `find`, in the words of the domain.

        Raises:
            UnknownNameError, MisfitError, BusyError: it cannot be used.
        """
        loaded = self.peek(identity)
        if loaded is not None:
            return loaded.model
        try:
            return self.find(identity)
        except ModelError as error:
            raise in_our_words(identity, error) from error

    def networks(self, identity: str) -> tuple[Model, ...]:
        """As `look_at`: the model itself, or of an ensemble the network of each member at its resolution.

        Raises:
            UnknownNameError, MisfitError, BusyError: as `look_at`, also of a member.
        """
        loaded = self.peek(identity)
        if loaded is not None:
            return tuple(member.model for member in loaded.members) or (loaded.model,)
        try:
            return member_models(self.look_at(identity), None if identity in self.sources else self.find)
        except ModelError as error:
            raise in_our_words(identity, error) from error

    def is_here(self, identity: str) -> bool:
        """Whether it can be looked at without fetching it."""
        return self.peek(identity) is not None or identity in self.sources or isinstance(self.registry, Store)

    def peek(self, identity: str) -> LoadedModel | None:
        """The model if it is loaded."""
        source = self.sources.get(identity)
        return source if isinstance(source, LoadedModel) else self.pool.peek(identity)

    def get(
        self, identity: str, sample: Callable[[Model], Samples] | None = None, *, must: bool = False
    ) -> LoadedModel:
        """The model, loaded if it is not.

        Args:
            identity: as `identify` says.
            sample: gives real windows [bands, rows, cols] of a scene that it fits; called when it is loaded first.
            must: whether it is loaded even if there is no room.

        Raises:
            UnknownNameError: it is gone.
            MisfitError: its own files are not usable, or it is larger than the budget.
            BusyError: there is no room for it now, or the registry cannot be reached.
        """
        source = self.sources.get(identity)
        if isinstance(source, LoadedModel):
            return source
        self.check(identity)

        def load(model: Model) -> LoadedModel:
            if sample is not None and identity not in self.samples:
                with suppress(InferenceError):  # the scene's, and not the model's: those who use another must not hear
                    self.samples[identity] = sample(model)
            loaded = self.load(model, self.samples.get(identity, ()))
            # Whatever an earlier process could not do with it is outlived.
            self._record(identity, "")
            return loaded

        try:
            if self.pool.peek(identity) is None and (whole := self._ensemble(identity)) is not None:
                return self._joined(identity, whole, sample, must)
            return self.pool.get(identity, partial(self.find, identity), load, must=must)
        except ModelError as error:
            told = in_our_words(identity, error)
            if number_of(identity) is not None and not isinstance(told, BusyError):
                self.failed(identity, told, str(error))
            raise told from error

    def _ensemble(self, identity: str) -> Model | None:
        """A registry's model if it is made of others of the registry; what it is never changes. Raises as `find`."""
        if identity in self.sources:
            return None  # loaded as one, with what it needs
        if identity not in self._ensembles:
            model = self.find(identity)
            self._ensembles[identity] = model if refs_of(model) else None
        return self._ensembles[identity]

    def _joined(
        self, identity: str, model: Model, sample: Callable[[Model], Samples] | None, must: bool
    ) -> LoadedModel:
        """An ensemble of others, each of which is loaded as if it had been asked for itself."""
        networks = self.networks(identity)
        needs = refs_of(model)
        self._check_room(identity, {network.digest: network for network in networks})
        with self.pool.holding(needs):
            loaded = {ref: self.get(ref, sample, must=must) for ref in needs}
            whole = composed(model, [loaded[member.model] for member in model.members])
            self.pool.put(identity, whole, 0, needs=needs)
        # Whoever was here at the same time has made another one of the same parts: one answers for all.
        return self.pool.peek(identity) or whole

    def _check_room(self, identity: str, networks: Mapping[str, Model]) -> None:
        """Refuse an ensemble that can never be loaded: no request would ever have an answer."""
        nbytes, limit, most = sum(map(artifact_bytes, networks.values())), self.pool.max_bytes, self.pool.max_models
        if limit is not None and nbytes > limit:
            raise MisfitError(
                f"the members of {identity!r} take {nbytes / 1e6:.0f} MB, the budget is {limit / 1e6:.0f} MB",
                "Raise TILER_MODEL_BYTES",
            )
        if most is not None and len(networks) > most:
            raise MisfitError(
                f"{identity!r} has {len(networks)} networks, {most} may be loaded", "Raise TILER_MAX_MODELS"
            )

    def serves(self, name: str) -> None:
        """A name has answered: what takes its place later has to be as good."""
        if name not in self.served and ":" not in name:
            self.served.add(name)

    def state(self, identity: str) -> State:
        """How far a model has come, here; of a registry's not loaded one without its own record."""
        ref = number_of(identity) if identity not in self.sources else None
        shelf = self.roster.shelves.get(ref.name) if ref else None
        failure = self._failures.get(identity)
        return state_of(
            retired=bool(shelf and ref and ref.version in shelf.retired),
            loaded=self.peek(identity) is not None,
            failed=str(failure[0]) if failure else "",
        )

    def close(self) -> None:
        """Free all models."""
        self.pool.close()
        for source in self.sources.values():
            if isinstance(source, LoadedModel):
                source.close()

    def check(self, identity: str) -> None:
        """Raise again what kept a version from being loaded a short while ago."""
        error, until = self._failures.get(identity, (None, 0.0))
        if error is not None and self.pool.peek(identity) is None and time.monotonic() < until:
            # Another one: an exception that is raised twice would keep the frames of both.
            raise type(error)(error.reason, error.remedy)

    def failed(self, identity: str, error: InferenceError, reason: str) -> None:
        """A version cannot be used: whoever asks for it is told `error` for a while; the registry keeps `reason`."""
        self._failures[identity] = (error, time.monotonic() + FAILED_SECONDS)
        self._record(identity, reason)

    def forget_failures(self) -> None:
        """What could not be loaded is tried again."""
        self._failures.clear()

    def _record(self, identity: str, reason: str) -> None:
        ref = number_of(identity)
        if self.registry is not None and ref is not None:
            with suppress(ModelError):
                self.registry.record_failure(self.registry.resolve(ref), reason)

    def _pinned(self) -> set[str]:
        found = set()
        for name in self.pinned:
            with suppress(UnknownNameError):
                found.add(self.identify(name))
        return found


def _split(
    sources: Mapping[str, str | Path | LoadedModel], has_registry: bool
) -> tuple[dict[str, str | Path | LoadedModel], dict[str, ModelRef]]:
    """Sources that are files, and those that are references. A path that exists is one, whatever it looks like."""
    files: dict[str, str | Path | LoadedModel] = {}
    refs: dict[str, ModelRef] = {}
    for name, source in sources.items():
        if has_registry and isinstance(source, str) and not Path(source).exists():
            with suppress(RegistryError):
                refs[name] = parse_ref(source)
                continue
        files[name] = source
    return files, refs


def in_our_words(identity: str, error: ModelError) -> InferenceError:
    """An error of the registry's, as one that has an HTTP answer."""
    if isinstance(error, UnknownModel):
        return UnknownNameError(error.reason, error.remedy)
    if isinstance(error, RegistryError):
        return BusyError(error.reason, error.remedy, retry_after=10)
    return MisfitError(f"model {identity!r}: {error.reason}", error.remedy)
