"""An ensemble that is ready: its networks loaded, each once, and what follows from them for the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import cast

from model_registry.choice import Choice
from model_registry.ensemble import at, member_models
from model_registry.live import LoadedModel
from model_registry.manifest import Exactness, Model, RuntimeName, WindowSpec
from model_registry.probe import Probe

_ORDER: tuple[Exactness, ...] = ("exact", "bounded", "unsafe")


@dataclass(frozen=True)
class LoadedEnsemble(LoadedModel):
    """A loaded ensemble. `runner` is its finest member's; nobody runs the whole at once.

    `own` are the networks that are freed with it; a server's are others' too, and stay.
    """

    own: tuple[LoadedModel, ...] = ()

    def close(self) -> None:
        """Free the networks that are its own."""
        for network in self.own:
            network.close()


def load_ensemble(model: Model, load: Callable[[Model], LoadedModel]) -> LoadedEnsemble:
    """Load an ensemble's networks, each once, and put them together.

    Raises:
        ModelError: one of them cannot be found or loaded; then nothing stays loaded.
    """
    networks = member_models(model)
    with ExitStack() as undo:
        loaded: dict[str, LoadedModel] = {}
        for network in networks:
            if network.digest not in loaded:
                loaded[network.digest] = load(network)
                undo.callback(loaded[network.digest].close)
        whole = composed(model, [loaded[network.digest] for network in networks], own=tuple(loaded.values()))
        undo.pop_all()
    return whole


def composed(model: Model, networks: Sequence[LoadedModel], own: tuple[LoadedModel, ...] = ()) -> LoadedEnsemble:
    """Put loaded networks together.

    Args:
        model: the ensemble.
        networks: one for each member, in the members' order; the same one where members share it.
        own: those that are freed with the ensemble.
    """
    members = tuple(
        replace(loaded, model=at(loaded.model, member)) for loaded, member in zip(networks, model.members, strict=True)
    )
    worst = max((_ORDER.index(member.model.exactness or "unsafe") for member in members), default=0)
    finest = model.members[0].gsd
    # How far a member looks on the ground, in pixels of the finest.
    pairs = list(zip(members, model.members, strict=True))
    halo = max(math.ceil((loaded.model.window.halo or 0) * member.gsd / finest) for loaded, member in pairs)
    notes = tuple(f"{member.gsd:g} m: {note}" for loaded, member in pairs for note in loaded.probe.notes)
    first = members[0]
    return LoadedEnsemble(
        model=replace(
            model, exactness=_ORDER[worst], window=WindowSpec(multiple=1, period=1, halo=halo), emits="probabilities"
        ),
        runner=first.runner,
        probe=Probe(1, 1, halo, _ORDER[worst], notes),
        choice=_choice(members),
        replicas=first.replicas,
        # One channel each is a mask, whose threshold holds for the mean as for each.
        channels=1 if all(member.channels == 1 for member in members) else len(model.classes),
        members=members,
        own=own,
    )


def _choice(members: tuple[LoadedModel, ...]) -> Choice:
    """How the members run; where they run differently, all ways are named."""
    choices = list({member.choice.candidate: member.choice for member in members}.values())
    if len(choices) == 1:
        return choices[0]
    runtimes = ", ".join(f"{choice.runtime} {choice.precision}" for choice in choices)
    lowest = min(choices, key=lambda choice: choice.precision == "fp32")
    return Choice(
        # For people only: nothing is loaded by it.
        runtime=cast(RuntimeName, " + ".join(dict.fromkeys(choice.runtime for choice in choices))),
        precision=lowest.precision,
        moved=max(choice.moved for choice in choices),
        reasons=(f"its members run on {runtimes}",),
    )
