"""What a registry says of its models: what lies under one name, one version of it, and the state that it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from model_registry.errors import UnknownModel
from model_registry.manifest import Model
from model_registry.refs import DEFAULT, ModelRef

StateName = Literal["registered", "verified", "probed", "ready", "failed", "retired"]


@dataclass(frozen=True, slots=True)
class State:
    """How far a version has come; `reason` is empty unless it failed."""

    name: StateName
    reason: str = ""

    def __str__(self) -> str:
        """Return the name, with the reason where there is one."""
        return f"{self.name} ({self.reason})" if self.reason else self.name


def state_of(
    *, retired: bool = False, loaded: bool = False, failed: str = "", probed: bool = False, verified: bool = False
) -> State:
    """Return the state that follows from what is known of a version.

    Args:
        retired: an operator has marked it: it is not chosen any more unless it is asked for by number.
        loaded: somebody serves it now; a failure that was recorded before is outlived.
        failed: why it could not be loaded the last time, empty if it could.
        probed: its probe.json belongs to this very model.
        verified: its files are those that were hashed and found right.
    """
    if retired:
        return State("retired")
    if loaded:
        return State("ready")
    if failed:
        return State("failed", failed)
    return State("probed" if probed else "verified" if verified else "registered")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model.

    folder: where its files are, or will be once `Registry.open` has fetched them. Never shown over HTTP.
    aliases: those that point to it.
    """

    name: str
    number: int
    folder: Path
    aliases: tuple[str, ...] = ()
    state: State = State("registered")

    @property
    def ref(self) -> ModelRef:
        """The reference that always means this version."""
        return ModelRef(self.name, version=self.number)


@dataclass(frozen=True, slots=True)
class Shelf:
    """What lies under one name: numbers in ascending order, aliases, and the numbers that are retired."""

    name: str
    versions: tuple[int, ...]
    aliases: Mapping[str, int]
    retired: frozenset[int] = frozenset()

    def pick(self, ref: ModelRef) -> int:
        """Return the number that `ref` means here.

        Raises:
            UnknownModel: no such version or alias, an alias that points to nothing, or every version is retired.
        """
        known = f"Known are: {self._known()}"
        if not self.versions:
            raise UnknownModel(f"the model {self.name!r} has no version", "Add one with `tiler models add`")
        if ref.version is not None:
            if ref.version not in self.versions:
                raise UnknownModel(f"there is no version {ref.version} of {self.name!r}", known)
            return ref.version
        alias = ref.alias or DEFAULT
        number = self.aliases.get(alias)
        if number is not None:
            if number not in self.versions:
                raise UnknownModel(
                    f"the alias {self.name}@{alias} points to version {number}, which is not there",
                    f"Set it anew with `tiler models alias`. {known}",
                )
            return number
        if ref.alias is not None:
            raise UnknownModel(f"{self.name!r} has no alias {alias!r}", known)
        served = [number for number in self.versions if number not in self.retired]
        if not served:
            raise UnknownModel(f"every version of {self.name!r} is retired", f"Ask for one by number. {known}")
        return served[-1]

    def aliases_of(self, number: int) -> tuple[str, ...]:
        """Return the aliases that point to `number`, sorted."""
        return tuple(sorted(alias for alias, to in self.aliases.items() if to == number))

    def _known(self) -> str:
        numbers = [f"{self.name}:{n}" for n in self.versions[-10:]]
        return ", ".join([*(f"{self.name}@{a}" for a in sorted(self.aliases)[:10]), *numbers])


class Registry(Protocol):
    """Where models are found: a local `Store` or a `RemoteStore`; see `remote.open_store`.

    A remote one asks the network in every call: hold on to a `Version`, and ask `fingerprint` whether to ask again.
    """

    def names(self) -> tuple[str, ...]:
        """Return the names that have at least one version, sorted."""
        ...

    def shelf(self, name: str) -> Shelf:
        """Return what lies under `name`; UnknownModel when nothing does."""
        ...

    def versions(self, name: str) -> tuple[int, ...]:
        """Return the numbers of `name`'s versions, ascending."""
        ...

    def resolve(self, ref: str | ModelRef) -> Version:
        """Return the version that `ref` means now."""
        ...

    def open(self, ref: str | ModelRef | Version) -> Model:
        """Return the model, its files in place and its manifest read."""
        ...

    def documents(self, version: Version) -> tuple[Any, dict[str, Any] | None]:
        """Return the content of model.yaml, and of probe.json where there is one; fetches no artifact."""
        ...

    def record_failure(self, version: Version, reason: str) -> None:
        """Remember why `version` could not be loaded, "" once it could."""
        ...

    def fingerprint(self, name: str | None = None) -> str:
        """Return a text that differs once a version, an alias or a retirement of `name` (None: of any) has changed."""
        ...


def nearest(wanted: str, names: tuple[str, ...]) -> UnknownModel:
    """Return the error for a name that is not there, with some that are."""
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    return UnknownModel(
        f"there is no model {wanted!r} in the registry",
        f"Known are: {listed}" if names else "It is empty: add a model with `tiler models add`",
    )
