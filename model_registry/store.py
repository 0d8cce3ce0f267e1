"""A registry in a folder: immutable versions, movable aliases.

    <root>/<name>/<int>/          one version: model.yaml, artifacts, test files. Sealed when it is published
    <root>/<name>/<int>/probe.json   what was measured of it: written aside and renamed, once; the only late file
    <root>/<name>/aliases.json    {"default": 3, "canary": 4}
    <root>/<name>/retired.json    [1, 2]
    <root>/<name>/.state/<int>.json   when it was published, verified, why it failed, that it was removed
    <root>/<name>/.staging-*, .removed-*   in the making, and on the way out; nobody sees them

A number is never given twice, not even after its version was removed: `name:3` means one thing for ever. Readers take
no lock: every change is one rename. A folder that somebody laid there by hand is a version too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_registry import aside, ensemble, publishing, records
from model_registry.errors import ManifestError, ModelError, RegistryError
from model_registry.manifest import Model, open_model
from model_registry.publishing import Draft
from model_registry.records import ALIASES, MANIFEST, RETIRED
from model_registry.refs import ModelRef, check_name, parse_ref, version_number
from model_registry.versions import Shelf, State, Version, nearest, state_of

_READS = 3
_REVISION = re.compile(r"[0-9a-f]{12}")


class Store:
    """The versions and aliases below a local folder; it need not exist yet."""

    def __init__(self, root: str | Path) -> None:
        """Look into `root`; nothing is read or made yet."""
        self.root = Path(root)

    # What is there.

    def names(self) -> tuple[str, ...]:
        """Return the names that have at least one version, sorted."""
        return tuple(name for name in sorted(_entries(self.root)) if records.is_name(name) and self._numbers(name))

    def shelf(self, name: str) -> Shelf:
        """Return what lies under `name`.

        Raises:
            UnknownModel: nothing does.
            ManifestError: aliases.json is not what it should be.
        """
        home = self.root / name
        for _ in range(_READS):
            # Aliases first: one that is set after its version was published must not seem to point to nothing.
            aliases = records.read_aliases(home) if records.is_name(name) else {}
            numbers = self._numbers(name) if records.is_name(name) else ()
            if set(aliases.values()) <= set(numbers):
                break  # else it was moved and its version removed meanwhile, or it does point to nothing
        if not numbers:
            raise nearest(name, self.names())
        return Shelf(name, numbers, aliases, records.read_retired(home))

    def versions(self, name: str) -> tuple[int, ...]:
        """Return the numbers of `name`'s versions, ascending."""
        return self.shelf(name).versions

    def resolve(self, ref: str | ModelRef) -> Version:
        """Return the version that `ref` means now.

        Raises:
            UnknownModel: no such name, alias or version.
            RegistryError: `ref` is not well-formed.
        """
        ref = parse_ref(ref)
        return self._version(self.shelf(ref.name), ref)

    def open(self, ref: str | ModelRef | Version) -> Model:
        """Return the model; its manifest is read, its artifacts are verified when they are loaded (`live.load`)."""
        if isinstance(ref, Version):
            return open_model(ref.folder)
        while True:
            version = self.resolve(ref)
            try:
                return open_model(version.folder)
            except ModelError:
                if self.resolve(ref).number == version.number:
                    raise  # else the alias was moved and its version removed meanwhile

    def documents(self, version: Version) -> tuple[Any, dict[str, Any] | None]:
        """Return the content of model.yaml, and of probe.json where there is one, as they stand."""
        return records.read_documents(version.folder)

    def fingerprint(self, name: str | None = None) -> str:
        """Return a text that differs once a version, an alias or a retirement of `name` (None: of any) has changed.

        Reads small files and times only, and counts neither probe.json nor recorded failures, so that whoever reloads
        upon a change does not cause the next one.
        """
        return _fingerprint(self, self.names() if name is None else (name,))

    # New versions.

    @contextlib.contextmanager
    def publish(self, name: str) -> Iterator[Draft]:
        """Give a hidden folder to fill; at the end of the block it is checked, sealed and becomes the next version.

            with store.publish("cover") as draft:
                ...  # write model.yaml and what it names into draft.folder
            draft.version  # cover:4

        Two publishers at once get different numbers. When the block or the check fails, nothing is left.

        Raises:
            ModelError: what was put there is no model, or a file is not the one that its manifest means.
            RegistryError: not a name, or the registry cannot be written.
        """
        home = self.root / check_name(name)
        draft = Draft(publishing.stage(home))
        try:
            yield draft
            if not (draft.folder / MANIFEST).is_file():
                raise ManifestError(f"nothing was published as {name!r}: there is no {MANIFEST}", "Write one")
            ensemble.member_models(publishing.check(draft.folder), self.open)
            publishing.seal(draft.folder)
            number = self._move_in(name, draft.folder)
        except BaseException:
            publishing.discard(draft.folder)
            with contextlib.suppress(OSError):
                home.rmdir()  # made for this draft, and empty
            raise
        draft.version = self.resolve(ModelRef(name, version=number))

    def _move_in(self, name: str, draft: Path) -> int:
        home = self.root / name
        now = _now()
        with publishing.locked(home):
            number = 1 + max(self._taken(home), default=0)
            while True:
                # The record first: a number that was once in use is never given again, whatever happens next.
                records.write_record(home, number, published=now, verified=publishing.stamp(draft))
                if publishing.move_in(draft, home / str(number)):
                    return number
                number += 1

    # Aliases, and versions that go.

    def alias(self, name: str, alias: str, number: int) -> None:
        """Point `name@alias` to version `number`, in one step for all readers.

        Raises:
            UnknownModel: no such version.
            RegistryError: the version is retired, or the alias cannot be one.
        """
        ref = ModelRef(name, alias=alias)
        if _REVISION.fullmatch(alias):
            raise RegistryError(
                f"{alias!r} has 12 hexadecimal digits: addresses of tiles would take it for a revision",
                "Use another alias",
            )
        with self._changing(name) as shelf:
            shelf.pick(ModelRef(name, version=number))
            if number in shelf.retired:
                raise RegistryError(f"{name}:{number} is retired", "Bring it back first: `tiler models retire --undo`")
            self._write_aliases(name, {**shelf.aliases, str(ref.alias): number})

    def unalias(self, name: str, alias: str) -> None:
        """Take `name@alias` away.

        Raises:
            UnknownModel: there is no such alias.
        """
        with self._changing(name) as shelf:
            if alias not in shelf.aliases:
                shelf.pick(ModelRef(name, alias=alias))
            self._write_aliases(name, {key: to for key, to in shelf.aliases.items() if key != alias})

    def retire(self, ref: str | ModelRef) -> Version:
        """Mark a version so that it is only used when it is asked for by number.

        Raises:
            RegistryError: an alias points to it.
        """
        return self._mark(ref, lambda retired, number: retired | {number}, refuse=True)

    def unretire(self, ref: str | ModelRef) -> Version:
        """Take the mark of `retire` away."""
        return self._mark(ref, lambda retired, number: retired - {number}, refuse=False)

    def remove(self, ref: str | ModelRef, force: bool = False) -> Version:
        """Delete a version for good; its number stays taken. With `force` the aliases to it go as well.

        Raises:
            RegistryError: an ensemble has it as a member, an alias points to it and `force` is not set, or the registry
                cannot be written.
        """
        ref = parse_ref(ref)
        with self._changing(ref.name) as shelf:
            version = self._version(shelf, ref)
            home, number = self.root / ref.name, version.number
            if version.aliases and not force:
                raise _in_use(version)
            if used_by := ensemble.users(self, version.ref):
                raise RegistryError(
                    f"{version.ref} is a member of {', '.join(used_by)}", "Remove what is made of it first"
                )
            if version.aliases:
                self._write_aliases(ref.name, {key: to for key, to in shelf.aliases.items() if to != number})
            if number in shelf.retired:
                aside.write_json(home / RETIRED, sorted(shelf.retired - {number}))
            records.write_record(home, number, removed=_now())
            grave = Path(tempfile.mkdtemp(prefix=publishing.REMOVED, dir=home))
            os.rename(version.folder, grave / str(number))
        publishing.discard(grave)
        return version

    # What was found out.

    def verify(self, ref: str | ModelRef | Version) -> Model:
        """Hash every file of a version, and remember that they are right until one of them changes.

        Raises:
            ModelError: see `publishing.check`.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        before = publishing.stamp(version.folder)
        model = publishing.check(version.folder)
        ensemble.member_models(model, self.open)
        self._remember(version, verified=before, failed="")
        return model

    def record_failure(self, version: Version, reason: str) -> None:
        """Remember why `version` could not be loaded, "" once it could; where nothing can be written, nothing is."""
        self._remember(version, failed=reason)

    def _state(self, name: str, number: int, folder: Path, retired: bool) -> State:
        record = records.read_record(self.root / name, number)
        return state_of(
            retired=retired,
            failed=str(record.get("failed") or ""),
            probed=records.is_probed(folder),
            verified=bool(record.get("verified")) and record["verified"] == publishing.stamp(folder),
        )

    def _version(self, shelf: Shelf, ref: ModelRef) -> Version:
        number = shelf.pick(ref)
        folder = self.root / shelf.name / str(number)
        state = self._state(shelf.name, number, folder, number in shelf.retired)
        return Version(shelf.name, number, folder, shelf.aliases_of(number), state)

    def _numbers(self, name: str) -> tuple[int, ...]:
        home = self.root / name
        numbers = sorted(n for n in map(version_number, _entries(home)) if n is not None)
        return tuple(n for n in numbers if (home / str(n) / MANIFEST).is_file())

    def _taken(self, home: Path) -> set[int]:
        """Every number that is in use or ever was."""
        used = (text.removesuffix(".json") for text in _entries(home / records.STATE))
        return {n for n in map(version_number, [*_entries(home), *used]) if n is not None}

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[Shelf]:
        self.shelf(name)
        with publishing.locked(self.root / name):
            try:
                yield self.shelf(name)
            except OSError as error:
                raise publishing.cannot_write(error) from None

    def _mark(
        self, ref: str | ModelRef, change: Callable[[frozenset[int], int], frozenset[int]], refuse: bool
    ) -> Version:
        ref = parse_ref(ref)
        with self._changing(ref.name) as shelf:
            version = self._version(shelf, ref)
            if refuse and version.aliases:
                raise _in_use(version)
            aside.write_json(self.root / ref.name / RETIRED, sorted(change(shelf.retired, version.number)))
        return self.resolve(version.ref)

    def _write_aliases(self, name: str, aliases: dict[str, int]) -> None:
        aside.write_json(self.root / name / ALIASES, aliases)

    def _remember(self, version: Version, **news: str) -> None:
        # A server often sees the registry through a mount that it cannot write.
        with contextlib.suppress(OSError):
            home = self.root / version.name
            known = records.read_record(home, version.number)
            if any(known.get(key, "") != value for key, value in news.items()):
                records.write_record(home, version.number, **news)


def _fingerprint(store: Store, names: tuple[str, ...]) -> str:
    found: list[Any] = []
    for name in names:
        home = store.root / name
        # The content, not the times: a replaced file can get the old one's inode within one tick of the clock.
        texts = [_text(home / file) for file in (ALIASES, RETIRED)]
        found.append((name, texts, [_stat(home / str(n) / MANIFEST) for n in store._numbers(name)]))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _stat(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [int(path.parent.name), status.st_ino, status.st_mtime_ns, status.st_size]


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _in_use(version: Version) -> RegistryError:
    pointing = ", ".join(f"{version.name}@{alias}" for alias in version.aliases)
    return RegistryError(
        f"{version.ref} is in use: {pointing}", "Point the alias elsewhere first: `tiler models alias`"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
