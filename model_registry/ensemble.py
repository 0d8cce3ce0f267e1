"""Ensembles: several looks at one scene, each at an absolute ground resolution, whose probabilities are averaged.

The members are one network at several resolutions (`at_gsds`), or other models of the same registry, pinned by version
and digest (`of_models`). Whoever serves an ensemble runs each member over the scene at its own resolution, brings its
probabilities to the finest member's pixels, and takes

    P = sum(weight * valid * probability) / sum(weight * valid)

and the class after. An absolute resolution makes the answer of a place independent of the map's zoom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_registry.errors import ManifestError, ModelError, UnsupportedModel
from model_registry.manifest import Member, Model, Resolution, make_model
from model_registry.refs import ModelRef, parse_ref
from model_registry.versions import Registry

# More looks than this are a mistake: each costs forward passes and memory of its own.
MAX_MEMBERS = 16
DEFAULT_TOLERANCE = 0.01

Find = Callable[[str], Model]


def at_gsds(model: Model, gsds: Sequence[float], weights: Sequence[float] = ()) -> Model:
    """Return the ensemble of a network with itself at several ground resolutions.

    Args:
        model: a network with classes and probabilities; its tolerance and policy of resolution hold at each.
        gsds: metres per pixel.
        weights: one for each, > 0; all the same where there are none.

    Raises:
        ManifestError: it emits no probabilities, is an ensemble already, or the numbers make no sense.
    """
    if model.members:
        raise ManifestError(f"{model.name!r} is an ensemble already", "Name one of its members")
    _check_averageable(model.name, model)
    members = normalised(
        Member(gsd, weight, model.digest) for gsd, weight in zip(gsds, _filled(weights, len(gsds)), strict=True)
    )
    fields = {name: value for name, value in vars(model).items() if name != "digest"}
    return make_model(**{**fields, "members": members, "resolution": _resolution_at(model, members[0].gsd)})


def of_models(
    models: Sequence[tuple[str, Model]],
    gsds: Sequence[float],
    weights: Sequence[float] = (),
    *,
    name: str,
    title: str = "",
    threshold: float | None = None,
    folder: Path = Path(),
) -> Model:
    """Return the ensemble of several models of a registry; what it says of itself is taken from its finest member.

    Args:
        models: (`name:3`, the model) of each member.
        gsds, weights: as in `at_gsds`, one for each.
        name, title, folder: its own.
        threshold: smallest probability of a class other than the first, after averaging; None takes the members' own.

    Raises:
        ManifestError: as `at_gsds`; members with other classes than the first; other thresholds and none given.
    """
    check_alike(models)
    members = normalised(
        Member(gsd, weight, model.digest, ref)
        for (ref, model), gsd, weight in zip(models, gsds, _filled(weights, len(gsds)), strict=True)
    )
    known = dict(models)
    first = known[members[0].model]
    thresholds = {model.threshold for _, model in models}
    if threshold is None and len(thresholds) > 1:
        said = ", ".join(f"{ref}: {model.threshold}" for ref, model in known.items())
        raise ManifestError(f"the members have different thresholds ({said})", "Say which holds for their mean")
    return make_model(
        name=name,
        version="1",
        title=title or name,
        folder=folder,
        artifacts=(),
        bands=first.bands,
        classes=first.classes,
        input_values=first.input_values,
        input_dtypes=first.input_dtypes,
        nodata=first.nodata,
        emits="probabilities",
        activation="none",
        threshold=first.threshold if threshold is None else threshold,
        members=members,
        resolution=_resolution_at(first, members[0].gsd),
        license=_said((model.license for model in known.values()), " AND "),  # as SPDX writes it
        attribution=_said((model.attribution for model in known.values()), "; "),
        description=", ".join(f"{member.model} at {member.gsd:g} m" for member in members),
    )


def normalised(members: Iterable[Member]) -> tuple[Member, ...]:
    """Return members with weights that sum to 1, the finest first: however they were given, the digest is the same.

    Raises:
        ManifestError: none or far too many, a resolution or weight that is not positive, or one of them twice.
    """
    given = list(members)
    if not 0 < len(given) <= MAX_MEMBERS:
        raise ManifestError(f"an ensemble of {len(given)} members", f"Give it 1 to {MAX_MEMBERS}")
    for member in given:
        for what, number in (("gsd", member.gsd), ("weight", member.weight)):
            if not (number > 0 and math.isfinite(number)):
                raise ManifestError(f"a member has the {what} {number:g}", "Write a number above 0")
        if member.model and parse_ref(member.model).version is None:
            raise ManifestError(
                f"the member {member.model!r} does not say which version", f"Write its number: {member.model}:1"
            )
    if len({bool(member.model) for member in given}) > 1:
        raise ManifestError(
            "some members are other models and some the folder's own artifact", "Publish the artifact as a model, too"
        )
    if len({(member.digest, member.gsd) for member in given}) < len(given):
        raise ManifestError("two members are the same model at the same resolution", "Name it once, with a weight")
    total = sum(member.weight for member in given)
    ordered = sorted(given, key=lambda member: (member.gsd, member.model, member.digest))
    # As floats, always: the digest is taken of their text.
    return tuple(replace(member, gsd=float(member.gsd), weight=member.weight / total) for member in ordered)


def network_of(model: Model) -> Model:
    """Return the network of an ensemble whose members are its own artifact, as it is without them."""
    return replace(model, members=(), digest=model.members[0].digest)


def at(network: Model, member: Member) -> Model:
    """Return a member's network with the resolution at which it looks."""
    return replace(network, resolution=_resolution_at(network, member.gsd))


def member_models(model: Model, find: Find | None = None) -> tuple[Model, ...]:
    """Return the network behind each member, with the member's resolution; of a network itself alone.

    Args:
        model: an ensemble, or not.
        find: opens the model that a reference means; None looks beside the ensemble's own folder.

    Raises:
        UnsupportedModel: the members are in a registry that is not known.
        ModelError: one cannot be opened, or is not the one that the ensemble was made of.
    """
    if not model.members:
        return (model,)
    if not refs_of(model):
        return tuple(at(network_of(model), member) for member in model.members)
    find = find or find_beside(model)
    known = {ref: find(ref) for ref in refs_of(model)}
    for member in model.members:
        if known[member.model].digest != member.digest:
            raise ManifestError(
                f"{member.model} is not the model that the ensemble {model.name!r} was made of",
                "Versions do not change: restore it, or make the ensemble anew",
            )
    check_alike([(f"ensemble {model.name!r}", replace(model, members=())), *known.items()])
    return tuple(at(known[member.model], member) for member in model.members)


def refs_of(model: Model) -> tuple[str, ...]:
    """Return the models of the registry that an ensemble is made of, each once; none of any other model."""
    return tuple(dict.fromkeys(member.model for member in model.members if member.model))


def find_beside(model: Model) -> Find:
    """Return what opens the models of the registry in which an ensemble's folder, `<root>/<name>/<number>`, lies.

    Raises:
        UnsupportedModel: it lies in none.
    """
    from model_registry.store import Store

    folder = model.folder.absolute()
    if not folder.name.isdigit():
        raise UnsupportedModel(
            f"the members of {model.name!r} are models of a registry, and its folder lies in none",
            "Ask for it by its name in the registry",
        )
    return Store(folder.parent.parent).open


def users(registry: Registry, ref: ModelRef) -> tuple[str, ...]:
    """Return the ensembles of a registry that have the version `ref` as a member, as `name:3`."""
    found = []
    for name in registry.names():
        for number in registry.versions(name):
            try:
                document, _ = registry.documents(registry.resolve(ModelRef(name, version=number)))
            except ModelError:
                continue  # what cannot be read uses nothing
            if str(ref) in _named(document):
                found.append(f"{name}:{number}")
    return tuple(found)


def check_alike(models: Sequence[tuple[str, Model]]) -> None:
    """Refuse models whose probabilities cannot be averaged.

    Raises:
        ManifestError: an ensemble, no probabilities, or other classes than the first.
    """
    if not models:
        raise ManifestError("an ensemble of no members", "Name at least one")
    first_ref, first = models[0]
    for ref, model in models:
        if model.members:
            raise ManifestError(f"{ref} is an ensemble itself", "Name its members instead")
        _check_averageable(ref, model)
        ours, theirs = ([(item.value, item.name) for item in one.classes] for one in (first, model))
        if ours != theirs:
            raise ManifestError(
                f"{ref} has the classes {_listed(model)}, {first_ref} has {_listed(first)}",
                "An ensemble needs the same numbers and names in the same order",
            )


def _check_averageable(name: str, model: Model) -> None:
    if model.kind != "classes" or model.emits == "labels":
        what = "class numbers only" if model.kind == "classes" else model.kind
        raise ManifestError(
            f"{name} answers {what}, which cannot be averaged", "Use models with classes that emit probabilities"
        )


def _named(document: Any) -> set[str]:
    """The references in a model.yaml, whatever else it says."""
    serving = document.get("serving") if isinstance(document, dict) else None
    members = serving.get("members") if isinstance(serving, dict) else None
    if not isinstance(members, list):
        return set()
    return {str(member["model"]) for member in members if isinstance(member, dict) and member.get("model")}


def _filled(weights: Sequence[float], count: int) -> Sequence[float]:
    if weights and len(weights) != count:
        raise ManifestError(f"{len(weights)} weights for {count} members", "Give one for each, or none")
    return weights or [1.0] * count


def _resolution_at(model: Model, gsd: float) -> Resolution:
    return replace(model.resolution, value=gsd) if model.resolution else Resolution(gsd, DEFAULT_TOLERANCE)


def _listed(model: Model) -> str:
    return ", ".join(f"{item.value} {item.name}" for item in model.classes[:10]) + (
        ", ..." if len(model.classes) > 10 else ""
    )


def _said(texts: Iterable[str | None], between: str) -> str | None:
    """All that the members say, each once."""
    return between.join(dict.fromkeys(text for text in texts if text)) or None
