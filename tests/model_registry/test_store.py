"""Versions that never change, aliases that do, and what happens when several do it at once or one dies."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model_registry.errors import ArtifactError, ManifestError, RegistryError, UnknownModel
from model_registry.manifest import open_model
from model_registry.publishing import STALE_SECONDS
from model_registry.store import Store
from tests.model_registry.shelves import put, write

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def hidden(store: Store, name: str = "cover") -> list[str]:
    """What a draft or a removed version left behind."""
    return [entry for entry in os.listdir(store.root / name) if entry.startswith((".staging", ".removed"))]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that runs `code` on this package."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)


# What is there


def test_versions_are_found_and_opened(store: Store):
    assert store.names() == ()
    first = put(store)
    second = put(store, values=(0, 5, 9))
    put(store, "soil")
    assert (first.number, second.number) == (1, 2)
    assert store.names() == ("cover", "soil")
    assert store.versions("cover") == (1, 2)
    model = store.open("cover")
    assert (model.name, model.version, len(model.classes)) == ("cover", "2", 3)
    assert store.open("cover:1").version == "1"
    assert store.resolve("cover").folder == store.root / "cover" / "2"
    assert store.open(first) == open_model(first.folder)


def test_a_folder_laid_there_by_hand_is_a_version_too(store: Store):
    write(store.root / "cover" / "7")
    for name in ("08", "v9", "latest", "-1", "0"):
        write(store.root / "cover" / name)
    (store.root / "cover" / "10").mkdir()  # empty: somebody is copying
    (store.root / "notes.txt").write_text("hello")
    assert store.versions("cover") == (7,)
    assert put(store).number == 11


def test_what_is_not_there_is_told(store: Store):
    with pytest.raises(UnknownModel, match=r"no model 'cover' in the registry. It is empty"):
        store.resolve("cover")
    put(store)
    with pytest.raises(UnknownModel, match=r"no model 'soil' in the registry. Known are: cover"):
        store.resolve("soil")
    with pytest.raises(UnknownModel, match=r"no version 2 of 'cover'. Known are: cover:1"):
        store.resolve("cover:2")
    with pytest.raises(RegistryError, match="cannot be a model name"):
        store.resolve("../cover")


# Publication


def test_a_published_version_cannot_be_changed_by_accident(store: Store):
    version = put(store)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in version.folder.iterdir()}
    assert modes == {"model.yaml": 0o444, "model.onnx": 0o444}
    # But a probe can be put there later, aside and renamed, and others can read it all.
    assert stat.S_IMODE(version.folder.stat().st_mode) == 0o755
    if not AS_ROOT:
        with pytest.raises(PermissionError):
            (version.folder / "model.onnx").write_bytes(b"")


def test_the_version_is_there_only_when_the_block_has_ended(store: Store):
    put(store)
    with store.publish("cover") as draft:
        write(draft.folder, (0, 1, 2))
        assert draft.version is None and draft.folder.name.startswith(".staging-")
        assert store.versions("cover") == (1,) and len(store.open("cover").classes) == 2
    assert draft.version is not None and str(draft.version.ref) == "cover:2"
    assert len(store.open("cover").classes) == 3 and hidden(store) == []


def test_a_block_that_fails_leaves_nothing(store: Store):
    with pytest.raises(ZeroDivisionError), store.publish("cover") as draft:
        write(draft.folder)
        raise ZeroDivisionError
    assert store.names() == () and os.listdir(store.root) == []
    put(store)
    with pytest.raises(KeyboardInterrupt), store.publish("cover") as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "file").write_text("x")
        raise KeyboardInterrupt
    assert store.versions("cover") == (1,) and hidden(store) == []


def break_nothing(folder: Path) -> None:
    (folder / "model.yaml").unlink()


def break_bytes(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\0" * (folder / "model.onnx").stat().st_size)


def break_key(folder: Path) -> None:
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["serving"]["resolutoin"] = 3
    (folder / "model.yaml").write_text(yaml.safe_dump(document))


def break_symlink(folder: Path) -> None:
    (folder / "extra").symlink_to("/etc/hostname")


def break_hard_link(folder: Path) -> None:
    os.link(folder / "model.onnx", folder / "again.onnx")


def break_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (break_nothing, ManifestError, "no model.yaml"),
        (break_bytes, ArtifactError, "checksum"),
        (break_key, ManifestError, "resolutoin"),
        (break_symlink, ArtifactError, "link"),
        (break_hard_link, ArtifactError, "link"),
        (break_pipe, ArtifactError, "no regular file"),
    ],
)
def test_what_is_no_sound_model_gets_no_number(store: Store, spoil, kind, says):
    with pytest.raises(kind, match=says), store.publish("cover") as draft:
        write(draft.folder)
        spoil(draft.folder)
    assert store.names() == ()
    assert put(store).number == 1


PUBLISH = """
import shutil, sys
from pathlib import Path
from model_registry.store import Store
root, source, times = sys.argv[1:]
for _ in range(int(times)):
    with Store(root).publish("cover") as draft:
        shutil.copytree(source, draft.folder, dirs_exist_ok=True)
    print(draft.version.number)
"""


def test_publishers_at_once_get_different_numbers(store: Store, tmp_path: Path):
    write(tmp_path / "source")
    publishers = [run(PUBLISH, store.root, tmp_path / "source", 5) for _ in range(4)]
    numbers = [[int(n) for n in process.communicate(timeout=60)[0].split()] for process in publishers]
    assert sorted(sum(numbers, [])) == list(range(1, 21)) == list(store.versions("cover"))
    assert all(own == sorted(own) for own in numbers) and hidden(store) == []


DIE = """
import os, shutil, signal, sys
from model_registry import publishing
from model_registry.store import Store
root, source, where = sys.argv[1:]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if where != "block":
    setattr(publishing, where, die)
with Store(root).publish("cover") as draft:
    shutil.copytree(source, draft.folder, dirs_exist_ok=True)
    if where == "block":
        die()
"""


@pytest.mark.parametrize("where", ["block", "check", "seal", "move_in"])
def test_a_publisher_that_is_killed_leaves_nothing_visible(store: Store, tmp_path: Path, where: str):
    put(store)
    write(tmp_path / "source", (0, 1, 2))
    killed = run(DIE, store.root, tmp_path / "source", where)
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert store.versions("cover") == (1,) and len(store.open("cover").classes) == 2
    (left,) = hidden(store)

    # Somebody may still be filling it, as far as the next one knows; a day later nobody is.
    assert put(store).number == (3 if where == "move_in" else 2) and hidden(store) == [left]
    long_ago = time.time() - STALE_SECONDS - 60
    for path in [*(store.root / "cover" / left).rglob("*"), store.root / "cover" / left]:
        os.utime(path, (long_ago, long_ago))
    put(store)
    assert hidden(store) == []


@pytest.mark.skipif(AS_ROOT, reason="root may write everywhere")
def test_a_registry_that_cannot_be_written_is_told(store: Store):
    put(store)
    folders = [store.root / "cover" / ".state", store.root / "cover"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with pytest.raises(RegistryError, match="cannot be written") as caught, store.publish("cover"):
            pass
        assert str(store.root) not in str(caught.value)
        store.record_failure(store.resolve("cover"), "no room")  # says nothing: it is not what anybody waits for
        assert store.resolve("cover").state.name == "verified"
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_registry_below_a_file_is_told(tmp_path: Path):
    (tmp_path / "models").write_text("")
    with pytest.raises(RegistryError, match="cannot be written"), Store(tmp_path / "models").publish("cover"):
        pass


# Aliases


def test_aliases_move(store: Store):
    for _ in range(3):
        put(store)
    assert store.resolve("cover").number == 3
    store.alias("cover", "default", 1)
    store.alias("cover", "canary", 3)
    assert store.resolve("cover").number == 1 and store.resolve("cover").aliases == ("default",)
    store.alias("cover", "default", 3)
    assert store.resolve("cover@default").aliases == ("canary", "default")
    assert json.loads((store.root / "cover" / "aliases.json").read_text()) == {"canary": 3, "default": 3}
    store.unalias("cover", "default")
    store.unalias("cover", "canary")
    assert store.resolve("cover:3").aliases == ()


@pytest.mark.parametrize(
    ("alias", "number", "says"),
    [("default", 9, "no version 9"), ("a/b", 1, "cannot be an alias"), ("default", 2, "cover:2 is retired")],
)
def test_an_alias_points_to_what_may_be_served(store: Store, alias, number, says):
    put(store)
    put(store)
    store.retire("cover:2")
    with pytest.raises(RegistryError, match=says):
        store.alias("cover", alias, number)
    assert not (store.root / "cover" / "aliases.json").exists()


def test_taking_away_an_alias_that_is_not_there_is_told(store: Store):
    put(store)
    for alias in ("canary", "default"):
        with pytest.raises(UnknownModel, match=f"no alias '{alias}'"):
            store.unalias("cover", alias)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"default": "1"}', '{"default": true}', '{"../x": 1}'])
def test_an_aliases_file_that_is_none_is_not_taken_for_no_aliases(store: Store, text: str):
    put(store)
    (store.root / "cover" / "aliases.json").write_text(text)
    with pytest.raises(ManifestError, match="aliases.json is not"):
        store.resolve("cover")


MOVE = """
import shutil, sys
from model_registry.store import Store
store = Store(sys.argv[1])
for _ in range(int(sys.argv[3])):
    with store.publish("cover") as draft:
        shutil.copytree(sys.argv[2], draft.folder, dirs_exist_ok=True)
    number = draft.version.number
    store.alias("cover", "default", number)
    store.remove(f"cover:{number - 1}")
print(number)
"""


def test_readers_never_see_a_change_half_done(store: Store, tmp_path: Path):
    """While versions come, the alias moves and old ones go, every reader finds one, and never an older one again."""
    put(store)
    store.alias("cover", "default", 1)
    write(tmp_path / "source")
    seen: list[list[int]] = []
    failures: list[Exception] = []
    done = threading.Event()

    def read() -> None:
        own: list[int] = []
        seen.append(own)
        while not done.is_set():
            try:
                own.append(store.resolve("cover").number)
                own.append(store.resolve("cover@default").number)
            except Exception as error:
                failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    mover = run(MOVE, store.root, tmp_path / "source", 30)
    last = int(mover.communicate(timeout=60)[0])
    done.set()
    for thread in readers:
        thread.join()
    assert failures == []
    assert last == 31 == store.resolve("cover").number and store.versions("cover") == (31,)
    for own in seen:
        assert own == sorted(own) and len(set(own)) > 5, "the readers must have seen it happen"


ALIAS = """
import sys
from model_registry.store import Store
root, prefix = sys.argv[1:]
for i in range(20):
    Store(root).alias("cover", f"{prefix}{i}", 1)
"""


def test_of_aliases_set_at_once_none_is_lost(store: Store):
    put(store)
    processes = [run(ALIAS, store.root, prefix) for prefix in "abc"]
    for process in processes:
        process.communicate(timeout=60)
    assert len(store.shelf("cover").aliases) == 60


# Retirement and removal


def test_a_retired_version_is_only_used_by_number(store: Store):
    put(store)
    put(store)
    assert store.retire("cover:2").state.name == "retired"
    assert store.resolve("cover").number == 1
    assert store.resolve("cover:2").state.name == "retired"
    store.retire("cover:1")
    with pytest.raises(UnknownModel, match="every version of 'cover' is retired"):
        store.resolve("cover")
    assert store.unretire("cover:2").state.name == "verified"
    assert store.resolve("cover").number == 2


def test_a_version_in_use_is_neither_retired_nor_removed(store: Store):
    put(store)
    put(store)
    store.alias("cover", "default", 1)
    for change in (store.retire, store.remove):
        with pytest.raises(RegistryError, match="cover:1 is in use: cover@default"):
            change("cover:1")
    assert store.versions("cover") == (1, 2)
    store.remove("cover:1", force=True)
    assert store.versions("cover") == (2,) and store.shelf("cover").aliases == {}


def test_a_number_is_never_given_twice(store: Store):
    for _ in range(3):
        put(store)
    store.retire("cover:3")
    removed = store.remove("cover:3")
    assert not removed.folder.exists() and hidden(store) == []
    assert put(store).number == 4 and store.resolve("cover:4").state.name == "verified"
    store.remove("cover:1")
    store.remove("cover:2")
    store.remove("cover:4")
    assert store.names() == () and put(store).number == 5


def test_a_sealed_folder_below_a_version_is_removed_as_well(store: Store):
    with store.publish("cover") as draft:
        write(draft.folder)
        (draft.folder / "test").mkdir()
        (draft.folder / "test" / "x.npy").write_bytes(b"x")
    assert draft.version is not None
    store.remove("cover:1")
    assert not draft.version.folder.exists() and hidden(store) == []


# States


def test_states_of_a_version(store: Store):
    version = put(store)
    assert version.state.name == "verified", "publication has hashed it"
    digest = store.open(version).digest
    probe = version.folder / "probe.json"
    for text, state in (
        (json.dumps({"digest": "0" * 64}), "verified"),
        ("{", "verified"),
        (json.dumps({"digest": digest}), "probed"),
    ):
        probe.unlink(missing_ok=True)
        probe.write_text(text)
        assert store.resolve("cover").state.name == state
    store.record_failure(version, "no room")
    assert str(store.resolve("cover").state) == "failed (no room)"
    store.record_failure(version, "")
    assert store.resolve("cover").state.name == "probed"


def test_a_version_laid_there_by_hand_is_verified_when_somebody_has(store: Store):
    folder = write(store.root / "cover" / "1")
    assert store.resolve("cover").state.name == "registered"
    store.verify("cover")
    assert store.resolve("cover").state.name == "verified"
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[:-1] + b"\0")
    assert store.resolve("cover").state.name == "registered"
    with pytest.raises(ArtifactError, match="checksum"):
        store.verify("cover")


def test_documents_are_given_as_they_stand(store: Store):
    version = put(store, license="MIT")
    document, probe = store.documents(version)
    assert document["properties"]["license"] == "MIT" and probe is None
    with pytest.raises(ManifestError, match="cannot be read"):
        store.documents(replace(version, folder=version.folder.parent / "9"))


# Fingerprints


def test_a_fingerprint_tells_of_what_a_server_must_look_at_again(store: Store):
    put(store)
    put(store, "soil")
    seen = {store.fingerprint()}

    def changed(change) -> bool:
        before = store.fingerprint("cover")
        change()
        seen.add(store.fingerprint())
        return store.fingerprint("cover") != before

    version = store.resolve("cover")
    assert not changed(lambda: None)
    # What a reload itself writes must not cause the next one.
    assert not changed(lambda: store.record_failure(version, "no room"))
    assert not changed(lambda: (version.folder / "probe.json").write_text("{}"))
    assert not changed(lambda: store.verify("cover"))
    assert len(seen) == 1
    assert not changed(lambda: put(store, "soil")) and len(seen) == 2
    assert changed(lambda: put(store))
    assert changed(lambda: store.alias("cover", "default", 1))
    assert changed(lambda: store.alias("cover", "default", 2))
    assert changed(lambda: store.retire("cover:1"))
    assert changed(lambda: store.remove("cover:1"))
    assert len(seen) == 7
