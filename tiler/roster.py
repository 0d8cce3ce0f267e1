"""What model names mean now: what a registry held when it was last looked at.

A name is never looked up in the registry itself while somebody waits for a tile: what it means changes only when a new
roster takes the old one's place, so every request sees either the one or the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from model_registry import ModelError, ModelRef, Registry
from model_registry.refs import DEFAULT
from model_registry.versions import Shelf

# Of a layer; what looks like one is never taken for an alias.
REVISION = re.compile(r"[0-9a-f]{12}")


class Address(NamedTuple):
    """A model as it stands in a URL: what is asked for, and the revision that must answer ("": the present one)."""

    model: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model


def parse_address(text: str) -> Address:
    """Read `name`, `name@alias` or `name:3`, each with or without `@` and a revision (12 hex digits) behind it."""
    model, at, last = text.rpartition("@")
    return Address(model, last) if at and REVISION.fullmatch(last) else Address(text)


def number_of(identity: str) -> ModelRef | None:
    """The reference that an identity `name:3` is, None for one that is no version of a registry."""
    name, colon, number = identity.rpartition(":")
    return ModelRef(name, version=int(number)) if colon else None


@dataclass(frozen=True)
class Roster:
    """Shelves by name, and what was held back.

    Attributes:
        shelves: what the registry held.
        fingerprint: the registry's own just before; another one means that it is worth looking again.
        held: (name, alias): version that goes on answering, because the one that took its place cannot be used.
        unreadable: names whose shelf could not be read, with the reason; an earlier one counts as long.
    """

    shelves: Mapping[str, Shelf] = field(default_factory=dict)
    fingerprint: str = ""
    held: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def pick(self, ref: ModelRef) -> int:
        """The number of the version that answers for `ref`.

        Raises:
            UnknownModel: no such version or alias.
            KeyError: no such name.
        """
        number = self.shelves[ref.name].pick(ref)
        return number if ref.version is not None else self.held.get(alias_of(ref), number)


def alias_of(ref: ModelRef) -> tuple[str, str]:
    """(name, alias) of a reference without a version; a bare name is its default."""
    return ref.name, ref.alias or DEFAULT


def look(registry: Registry, before: Roster) -> Roster:
    """Look at a registry again.

    Raises:
        ModelError: it cannot be read at all.
    """
    # First: what changes while the shelves are read must be noticed the next time.
    fingerprint = registry.fingerprint()
    shelves: dict[str, Shelf] = {}
    unreadable: dict[str, str] = {}
    for name in registry.names():
        try:
            shelves[name] = registry.shelf(name)
        except ModelError as error:
            unreadable[name] = str(error)
            if name in before.shelves:
                shelves[name] = before.shelves[name]
    return Roster(shelves, fingerprint, {}, unreadable)
