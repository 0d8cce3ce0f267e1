"""Models that take the place of others: loaded, verified and warmed beside them; then one assignment, for everybody."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from model_registry import LoadedModel, ModelError, Registry, UnknownModel, parse_ref
from tiler.errors import InferenceError, MisfitError
from tiler.models import Models, in_our_words
from tiler.pool import artifact_bytes
from tiler.roster import alias_of, look

logger = logging.getLogger(__name__)

Warm = Callable[[LoadedModel], None]


@dataclass(frozen=True)
class Reloaded:
    """What a reload did: names that mean another model now, and by name why others do not: it cannot be used."""

    changed: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


def reload(models: Models, warm: Warm | None = None) -> Reloaded:
    """Look at folders and registry again, and let what changed take over.

    A new model is loaded, verified and warmed beside the old one, which goes on answering; requests that have begun
    finish with the model they began with. When it fails, the old one stays.

    Args:
        models: those that are served.
        warm: called with each new model before it takes over.
    """
    with models.reloading:
        models.forget_failures()
        changed: list[str] = []
        failed: dict[str, str] = {}
        for name, source in models.sources.items():
            if not isinstance(source, LoadedModel) and models.pool.peek(name) is not None:
                _reload_folder(models, name, warm, changed, failed)
        if models.registry is not None:
            _reload_registry(models, models.registry, warm, changed, failed)
    for name in changed:
        logger.info("model %s was replaced", name)
    for name, reason in failed.items():
        logger.error("model %s was not replaced: %s", name, reason)
    return Reloaded(tuple(changed), failed)


def _reload_folder(models: Models, name: str, warm: Warm | None, changed: list[str], failed: dict[str, str]) -> None:
    kept = models.pool.peek(name)
    try:
        model = models.find(name)
        if kept is None or (model.digest, model.precision) == (kept.model.digest, kept.model.precision):
            return
        begun = time.monotonic()
        fresh = models.load(model, models.samples.get(name, ()))
        if warm is not None:
            warm(fresh)
    except Exception as error:  # whatever is wrong with it, the old one answers
        failed[name] = _reason(error)
        return
    models.pool.put(name, fresh, artifact_bytes(model), time.monotonic() - begun)
    models.replaced(name)
    changed.append(name)


def _reload_registry(
    models: Models, registry: Registry, warm: Warm | None, changed: list[str], failed: dict[str, str]
) -> None:
    try:
        fresh = look(registry, models.roster)
    except ModelError as error:
        failed["registry"] = in_our_words("registry", error).reason
        return
    failed |= fresh.unreadable
    held: dict[tuple[str, str], int] = {}
    for name in sorted(models.served):
        ref = models.refs.get(name)
        if ref is None:
            if name in models.sources:
                continue
            ref = parse_ref(name)
        try:
            old, new = models.roster.pick(ref), fresh.pick(ref)
        except (KeyError, UnknownModel):
            continue  # gone: whoever asks for it is told
        if old == new:
            continue
        try:
            _beside(models, f"{ref.name}:{new}", f"{ref.name}:{old}", warm)
        except Exception as error:  # whatever is wrong with it, the last good one answers
            failed[name] = _reason(error)
            held[alias_of(ref)] = old
        else:
            changed.append(name)
    # From here on, for everybody.
    models.roster = replace(fresh, held=held)


def _beside(models: Models, identity: str, old: str, warm: Warm | None) -> None:
    """Load and warm a version while the one before it answers."""
    before = models.peek(old)
    if before is not None and identity not in models.samples and old in models.samples:
        if models.find(identity).bands == before.model.bands:
            models.samples[identity] = models.samples[old]
    loaded = models.get(identity, must=True)
    try:
        if warm is not None:
            warm(loaded)
    except Exception as error:
        models.pool.drop(identity)
        told = MisfitError(f"model {identity!r} was loaded, but does not run: {_reason(error)}")
        models.failed(identity, told, _reason(error))
        raise


def _reason(error: Exception) -> str:
    """What went wrong, for a log and for HTTP: nobody else's message, which may name a path."""
    if isinstance(error, InferenceError | ModelError):
        return str(error)
    return f"it failed with {type(error).__name__}"
