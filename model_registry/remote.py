"""A registry at `s3://`, `gs://` or `https://`: read only, and versions are fetched one by one when they are needed.

The layout is that of `store`; an `index.json` at the root (`index`) is used when there is one, else the root is listed.
A version is fetched into a local cache: model.yaml, what it names, and probe.json, nothing else. Every file is held to
the digest in model.yaml before the folder takes its name, and again when the model is loaded. The cache's folders carry
the digest of their model.yaml, so one that changed under its number cannot be taken for what it was.

Whoever uploads a version puts its model.yaml there last.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from model_registry import aside, json_cache, publishing, records
from model_registry.artifacts import MAX_BYTES, check_checksum, checksum_of, locate
from model_registry.errors import ArtifactError, ManifestError, ModelError, RegistryError
from model_registry.index import INDEX, Index, read_index
from model_registry.manifest import Model, open_model
from model_registry.records import ALIASES, MANIFEST, PROBE, RETIRED
from model_registry.refs import ModelRef, check_name, parse_ref, version_number
from model_registry.remote_files import AccessRefused, RemoteFiles
from model_registry.store import Store
from model_registry.versions import Registry, Shelf, State, Version, nearest, state_of

CACHE_VARIABLE = "TILER_REGISTRY_CACHE"
_SMALL = 1 << 20
_FILES = 256


def open_store(root: str | Path, cache: Path | None = None) -> Registry:
    """Return the registry at `root`: a folder, or a URL.

    Args:
        root: a path, or `s3://bucket/...`, `gs://bucket/...`, `https://...`.
        cache: where remote versions are kept; None takes $TILER_REGISTRY_CACHE, else the user's cache folder.

    Raises:
        RegistryError, UnsupportedModel: see `RemoteFiles`.
    """
    return RemoteStore(str(root), cache) if "://" in str(root) else Store(root)


class RemoteStore:
    """The versions and aliases below a remote root; every call asks it anew."""

    def __init__(self, root: str, cache: Path | None = None, limit: int = MAX_BYTES) -> None:
        """Make ready to read `root`; see `open_store`. `limit`: bytes that one version may have."""
        self._files = RemoteFiles(root)
        place = cache or Path(os.environ.get(CACHE_VARIABLE) or json_cache.folder("models"))
        self._cache = place / hashlib.sha256(root.rstrip("/").encode()).hexdigest()[:16]
        self._limit = limit
        self._failures: dict[Path, str] = {}

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, sorted."""
        return self._names(self._index())

    def shelf(self, name: str) -> Shelf:
        """Return what lies under `name`; see `Store.shelf`."""
        return self._shelf(name, self._index())

    def versions(self, name: str) -> tuple[int, ...]:
        """Return the numbers of `name`'s versions, ascending."""
        return self.shelf(name).versions

    def resolve(self, ref: str | ModelRef) -> Version:
        """Return the version that `ref` means now; its folder is there once `open` has fetched it."""
        ref = parse_ref(ref)
        index = self._index()
        shelf = self._shelf(ref.name, index)
        number = shelf.pick(ref)
        manifest = index.manifests[ref.name, number] if index else checksum_of(self._manifest(ref.name, number))
        folder = self._cache / manifest[4:20] / ref.name / str(number)
        state = self._state(folder, number in shelf.retired)
        return Version(ref.name, number, folder, shelf.aliases_of(number), state)

    def open(self, ref: str | ModelRef | Version) -> Model:
        """Return the model, fetched and verified unless it was before.

        Raises:
            ManifestError, ArtifactError: it is not what its model.yaml or the index says, or larger than may be.
            RegistryError: it cannot be fetched, or the cache cannot be written.
        """
        version = ref if isinstance(ref, Version) else self.resolve(ref)
        if not (version.folder / MANIFEST).is_file():
            try:
                self._fetch(version)
            except OSError as error:
                raise RegistryError(
                    f"the cache of remote models cannot be written ({error.strerror})",
                    f"Make room, or name another folder in {CACHE_VARIABLE}",
                ) from None
        if not (version.folder / PROBE).exists():
            self._fetch_probe(version)
        return open_model(version.folder)

    def documents(self, version: Version) -> tuple[Any, dict[str, Any] | None]:
        """Return the content of model.yaml, and of probe.json where there is one; nothing else is fetched."""
        if (version.folder / MANIFEST).is_file():
            return records.read_documents(version.folder)
        text = self._manifest(version.name, version.number)
        return records.parse_manifest(text), records.parse_object(self._files.small(_path(version, PROBE), _SMALL))

    def fingerprint(self, name: str | None = None) -> str:
        """Return a text that differs once a version, an alias or a retirement of `name` (None: of any) has changed."""
        index = self._index()
        names = self._names(index) if name is None else (name,)
        shelves = [self._shelf(name, index) for name in names]
        found = [(s.name, s.versions, sorted(s.aliases.items()), sorted(s.retired)) for s in shelves]
        return hashlib.sha256(repr((found, sorted(index.manifests.items()) if index else ())).encode()).hexdigest()

    def record_failure(self, version: Version, reason: str) -> None:
        """Remember, in this process, why `version` could not be loaded; "" once it could."""
        self._failures[version.folder] = reason

    # What is there.

    def _index(self) -> Index | None:
        try:
            data = self._files.small(INDEX, aside.MAX_BYTES)
        except AccessRefused:  # some stores say so of files that are not there; listing them will tell
            return None
        return None if data is None else read_index(data)

    def _names(self, index: Index | None) -> tuple[str, ...]:
        names = index.shelves if index else filter(records.is_name, self._files.folders())
        return tuple(sorted(names))

    def _shelf(self, name: str, index: Index | None) -> Shelf:
        check_name(name)
        if index is not None:
            if name not in index.shelves:
                raise nearest(name, self._names(index))
            return index.shelves[name]
        # Aliases first, as in `Store.shelf`.
        aliases, retired = (
            records.parse_json(self._files.small(f"{name}/{file}", _SMALL)) for file in (ALIASES, RETIRED)
        )
        numbers = sorted(n for n in map(version_number, self._files.folders(name)) if n is not None)
        while numbers and not self._files.has(f"{name}/{numbers[-1]}/{MANIFEST}"):
            numbers.pop()  # still being uploaded
        if not numbers:
            raise nearest(name, self._names(None))
        return Shelf(
            name,
            tuple(numbers),
            {} if aliases is None else records.aliases_from(aliases),
            frozenset() if retired is None else records.retired_from(retired),
        )

    def _state(self, folder: Path, retired: bool) -> State:
        return state_of(
            retired=retired,
            failed=self._failures.get(folder, ""),
            probed=records.is_probed(folder),
            verified=(folder / MANIFEST).is_file(),
        )

    def _manifest(self, name: str, number: int) -> bytes:
        data = self._files.small(f"{name}/{number}/{MANIFEST}", _SMALL)
        if data is None:
            raise RegistryError(f"{name}:{number} has no {MANIFEST} in the registry", "Upload it, after its artifacts")
        return data

    # Fetching.

    def _fetch(self, version: Version) -> None:
        text = self._manifest(version.name, version.number)
        if checksum_of(text)[4:20] != version.folder.parent.parent.name:
            raise ArtifactError(
                f"the {MANIFEST} of {version.ref} is not the one that the registry's index means",
                f"Versions do not change: publish a new one, or write {INDEX} anew",
            )
        wanted = list(named_files(records.parse_manifest(text)))
        staging = publishing.stage(version.folder.parent)
        try:
            (staging / MANIFEST).write_bytes(text)
            left = self._limit
            for file in wanted:
                left -= self._fetch_file(version, file, staging, left)
            open_model(staging)
            publishing.seal(staging)
            if not publishing.move_in(staging, version.folder):
                publishing.discard(staging)  # another process was faster
        except BaseException:
            publishing.discard(staging)
            raise

    def _fetch_file(self, version: Version, file: NamedFile, staging: Path, limit: int) -> int:
        """Fetch one file into `staging` and hold it to size and digest; return how many bytes it has."""
        place = locate(staging, file.href)
        if place.exists() or place.name == PROBE:
            raise ManifestError(f"{MANIFEST} names the file {file.href!r} twice", "Name each file once")
        place.parent.mkdir(parents=True, exist_ok=True)
        # The declared size bounds what is read; where none is declared, what is left of the version's limit does.
        most = limit if file.size is None else file.size
        if most > limit:
            raise ArtifactError(
                f"{version.ref} has more than the {self._limit} bytes that a version may have", "Use a smaller model"
            )
        digest, size = hashlib.sha256(), 0
        with place.open("xb") as out:
            for piece in self._files.pieces(_path(version, file.href)):
                size += len(piece)
                if size > most:
                    break
                digest.update(piece)
                out.write(piece)
        if size > most or (file.size is not None and size != file.size):
            raise ArtifactError(
                f"{file.href!r} of {version.ref} has {'more than ' if size > most else ''}{min(size, most)} bytes, "
                f"{most} are declared or allowed",
                "Upload the file that the manifest means",
            )
        if "1220" + digest.hexdigest() != file.checksum:
            raise ArtifactError(
                f"{file.href!r} of {version.ref} has the checksum 1220{digest.hexdigest()}, the manifest says "
                f"{file.checksum}",
                "Upload the file that the manifest means",
            )
        return size

    def _fetch_probe(self, version: Version) -> None:
        """Take along what was measured; without it the model is measured here."""
        try:
            found = records.parse_object(self._files.small(_path(version, PROBE), _SMALL))
            if found is not None and found.get("digest") == open_model(version.folder).digest:
                aside.write_json(version.folder / PROBE, found)
        except (ModelError, OSError):
            return


class NamedFile(NamedTuple):
    """A file that a manifest names; `size` None where it does not say."""

    href: str
    checksum: str
    size: int | None


def named_files(document: Any) -> Iterator[NamedFile]:
    """Give the files that a model.yaml names: artifacts, an embedding's components, the golden test.

    Raises:
        ManifestError: there are none or far too many, or one without a digest.
    """
    serving = document.get("serving") if isinstance(document, Mapping) else None
    blocks = serving.get("artifacts") if isinstance(serving, Mapping) else None
    if blocks is None and isinstance(serving, Mapping) and serving.get("kind") == "ensemble":
        return  # of other models, which are versions of their own
    if not isinstance(serving, Mapping) or not isinstance(blocks, list) or not 0 < len(blocks) <= _FILES:
        raise ManifestError(f"{MANIFEST} names no artifacts, or more than {_FILES}", "List them in serving.artifacts")
    output, test = (serving.get(key) for key in ("output", "test"))
    components = output.get("components") if isinstance(output, Mapping) else None
    found = [*blocks, *([components] if components is not None else [])]
    if isinstance(test, Mapping):
        found += [{"href": test.get(key), "checksum": test.get(f"{key}_checksum")} for key in ("input", "output")]
    for block in found:
        href, checksum, size = (block.get(key) if isinstance(block, Mapping) else None for key in NamedFile._fields)
        if not isinstance(href, str) or not isinstance(checksum, str):
            raise ManifestError(f"{MANIFEST} names a file without href or checksum", "Write both for every file")
        if size is not None and (not isinstance(size, int) or size < 0):
            raise ManifestError(f"the size of {href!r} is {str(size)[:40]}", "Write its bytes as a number")
        yield NamedFile(href, check_checksum(checksum), size)


def _path(version: Version, href: str) -> str:
    return f"{version.name}/{version.number}/{href.removeprefix('./')}"
