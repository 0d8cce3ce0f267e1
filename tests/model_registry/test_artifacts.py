from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from model_registry import artifacts, live, testing
from model_registry.errors import ArtifactError, ManifestError
from model_registry.manifest import Artifact, open_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    net = testing.value_classes([0, 100])
    return testing.write_model(tmp_path / "m", net, classes=["a", "b"], bands=["x"], scaling=None)


def test_checksum_is_the_multihash_of_sha256():
    assert artifacts.checksum_of(b"abc") == "1220" + hashlib.sha256(b"abc").hexdigest()


def test_tampered_artifact_is_refused(folder: Path):
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        live.load(folder)
    path.write_bytes(bytes(data) + b"x")
    with pytest.raises(ArtifactError, match="bytes, the manifest says"):
        live.load(folder)


def test_hard_link_is_refused(folder: Path, tmp_path: Path):
    os.link(folder / "model.onnx", tmp_path / "second")
    with pytest.raises(ArtifactError, match="2 hard links"):
        live.load(folder)


def test_symbolic_link_is_refused(folder: Path, tmp_path: Path):
    (folder / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ArtifactError, match="symbolic link"):
        live.load(folder)


def test_symbolic_link_to_a_folder_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "f").write_bytes(b"1")
    (folder / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(ArtifactError, match="symbolic link"):
        artifacts.read_file(folder, "sub/f")


@pytest.mark.parametrize(
    "href", ["../model.onnx", "/etc/hostname", "a/../../x", "https://x/y.onnx", "..\\x", "", "a\0b"]
)
def test_paths_out_of_the_folder_are_refused(folder: Path, href: str):
    with pytest.raises(ArtifactError, match="inside the model's folder"):
        artifacts.read_file(folder, href)
    text = (folder / "model.yaml").read_text()
    if "\0" not in href:
        (folder / "model.yaml").write_text(text.replace("href: model.onnx", f"href: '{href}'"))
        with pytest.raises(ArtifactError):
            open_model(folder)


def test_messages_hold_no_path_of_this_machine(folder: Path):
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError) as caught:
        live.load(folder)
    assert str(folder.parent) not in str(caught.value) and "model.onnx" in str(caught.value)


def test_fifo_and_folder_are_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "sub").mkdir()
    for name in ("pipe", "sub"):
        with pytest.raises(ArtifactError, match="not a regular file"):
            artifacts.read_file(tmp_path, name)


def test_size_is_bounded(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"12345")
    assert artifacts.read_file(tmp_path, "f", limit=5) == b"12345"
    with pytest.raises(ArtifactError, match="more than the limit of 4"):
        artifacts.read_file(tmp_path, "f", limit=4)


def test_verified_bytes_are_the_ones_returned(tmp_path: Path):
    (tmp_path / "f").write_bytes(b"weights")
    artifact = Artifact("f", "onnx", artifacts.checksum_of(b"weights"), 7)
    assert artifacts.read_artifact(tmp_path, artifact) == b"weights"


@pytest.mark.parametrize("checksum", ["", "abc", "1220" + "g" * 64, "1114" + "0" * 64, hashlib.sha256(b"").hexdigest()])
def test_other_checksums_are_refused(checksum: str):
    with pytest.raises(ManifestError, match="multihash"):
        artifacts.check_checksum(checksum)
