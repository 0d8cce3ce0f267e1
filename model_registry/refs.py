"""How a model is asked for: `name`, `name@alias` or `name:version`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from model_registry.errors import RegistryError

# The same names stand in URLs, in folders and as keys of remote stores.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A name with at most one of alias and version; with neither it means the alias `default` or the newest version."""

    name: str
    alias: str | None = None
    version: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a name, an alias or a version."""
        check_name(self.name)
        if self.alias is not None and self.version is not None:
            raise RegistryError(f"{self.name!r} is asked for by alias and by version", "Write name@alias or name:3")
        if self.alias is not None:
            check_name(self.alias, "an alias")
        if self.version is not None and not 0 < self.version < 10**9:
            raise RegistryError(f"version {self.version} of {self.name!r}", "Write a whole number from 1")

    def __str__(self) -> str:
        """Return what `parse_ref` reads."""
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}:{self.version}"


def check_name(text: str, what: str = "a model name") -> str:
    """Return `text` when it can be a name or an alias; raise a RegistryError otherwise."""
    if not _NAME.fullmatch(text):
        raise RegistryError(
            f"{text[:120]!r} cannot be {what}",
            "Use at most 100 letters, digits, '_', '-' and '.', starting with a letter",
        )
    return text


def version_number(text: str) -> int | None:
    """Return the version that a folder's name stands for, None when it stands for none: `3`, not `03` or `v3`."""
    return int(text) if _NUMBER.fullmatch(text) else None


def parse_ref(text: str | ModelRef) -> ModelRef:
    """Read `name`, `name@alias` or `name:version`.

    Raises:
        RegistryError: anything else; the message says which part is wrong.
    """
    if isinstance(text, ModelRef):
        return text
    if "@" in text and ":" in text:
        raise RegistryError(f"{text[:120]!r} has an alias and a version", "Write name@alias or name:3, not both")
    if "@" in text:
        name, alias = text.split("@", 1)
        return ModelRef(name, alias=alias)
    if ":" in text:
        name, number = text.split(":", 1)
        check_name(name)
        version = version_number(number)
        if version is None:
            raise RegistryError(
                f"{number[:120]!r} is not a version of {name!r}", f"Write a whole number from 1, or {name}@alias"
            )
        return ModelRef(name, version=version)
    return ModelRef(text)
