"""The golden test: passes on the author's own answer, fails on everything that silently changes it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml

from model_registry import check, golden, testing
from model_registry.artifacts import checksum_of
from model_registry.errors import ArtifactError, ContractError, ManifestError
from model_registry.manifest import open_model
from model_registry.runtimes import load_runner
from tests.model_registry.networks import CLASSES, NETWORKS

NET = NETWORKS["plain"].make()
PIXELS = np.random.default_rng(8).integers(0, 255, (3, 64, 80)).astype(np.uint8)


def answer(folder: Path) -> np.ndarray:
    model = open_model(folder)
    return load_runner(model).logits(PIXELS[None].astype(np.float32) / 255)[0]


def write(folder: Path, output: np.ndarray | None = None, pixels: np.ndarray = PIXELS, **test) -> Path:
    """A model with a golden test; by default its own scores."""
    testing.write_model(folder, NET, classes=CLASSES)
    block = golden.write(folder, pixels, answer(folder) if output is None else output)
    return edited(folder, lambda document: document["serving"].update(test=block | test))


def edited(folder: Path, change) -> Path:
    document = yaml.safe_load((folder / "model.yaml").read_text())
    change(document)
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


def run(folder: Path) -> golden.GoldenResult:
    model = open_model(folder)
    result = golden.run(model, load_runner(model))
    assert result is not None
    return result


def test_its_own_scores_pass(tmp_path: Path):
    result = run(write(tmp_path / "m"))
    assert result.passed and (result.kind, result.mismatched_per_million) == ("scores", 0)
    assert result.compared == 5 * 64 * 80 and result.largest < 1e-5


def test_classes_pass_and_are_values_not_indices(tmp_path: Path):
    folder = testing.write_model(
        tmp_path / "m", NET, classes=[{"value": 10 * n + 7, "name": c} for n, c in enumerate(CLASSES)]
    )
    classes = answer(folder).argmax(axis=0)
    block = golden.write(folder, PIXELS, (10 * classes + 7).astype(np.uint8))
    result = run(edited(folder, lambda document: document["serving"].update(test=block)))
    assert result.passed and result.kind == "classes" and result.largest == 0
    block = golden.write(folder, PIXELS, classes.astype(np.uint8))
    result = run(edited(folder, lambda document: document["serving"].update(test=block)))
    assert not result.passed and result.mismatched_per_million > 990_000


def test_several_windows_and_no_test_at_all(tmp_path: Path):
    folder = write(tmp_path / "m")
    both = np.stack([PIXELS, PIXELS[:, ::-1]])
    scores = np.stack([answer(folder), load_runner(open_model(folder)).logits(both[1:].astype(np.float32) / 255)[0]])
    assert run(write(tmp_path / "n", output=scores, pixels=both)).passed
    assert golden.run(open_model(testing.write_model(tmp_path / "o", NET, classes=CLASSES)), None) is None  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["scaling", "band order", "shift", "not a number"])
def test_what_peers_get_wrong_in_silence_fails(tmp_path: Path, what: str):
    folder = write(tmp_path / "m")
    if what == "scaling":
        scaling = [{"type": "scale", "value": 10000}]
        edited(folder, lambda d: d["properties"]["input"][0].update(value_scaling=scaling))
    else:
        wanted = answer(folder)
        wrong = {"shift": np.roll(wanted, 1, axis=2), "not a number": np.where(wanted > 0, wanted, np.nan)}
        changed = {"band order": (PIXELS[::-1], wanted)}.get(what) or (PIXELS, wrong[what])
        block = golden.write(folder, *changed)
        edited(folder, lambda d: d["serving"].update(test=block))
    found = check.check(str(folder))
    assert not found["golden"]["passed"]
    assert [f["subject"] for f in found["findings"] if f["level"] == "error"] == ["golden test"]


def test_tolerances_are_the_manifests(tmp_path: Path):
    folder = testing.write_model(tmp_path / "m", NET, classes=CLASSES)
    wanted = answer(folder)
    near = wanted + np.float32(0.004)
    assert not run(write(tmp_path / "m", near)).passed
    assert run(write(tmp_path / "m", near, atol=0.005)).passed
    few = wanted.copy()
    few[0, :2, :2] += 1  # 4 of 25600: 156 of a million
    assert not run(write(tmp_path / "m", few)).passed
    assert run(write(tmp_path / "m", few, mismatched_per_million=200)).passed


def test_a_golden_test_decides_no_pixel(tmp_path: Path):
    plain = open_model(testing.write_model(tmp_path / "m", NET, classes=CLASSES))
    assert open_model(write(tmp_path / "m")).digest == plain.digest


def npy(array: np.ndarray, **kwargs) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **kwargs)
    return file.getvalue()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_pickles_are_not_read(tmp_path: Path):
    folder = write(tmp_path / "m")
    marker = tmp_path / "marker"
    for data in (npy(np.array([Bomb(marker)], dtype=object), allow_pickle=True), pickle.dumps(Bomb(marker))):
        (folder / "test" / "input.npy").write_bytes(data)
        edited(folder, lambda d, data=data: d["serving"]["test"].update(input_checksum=checksum_of(data)))
        with pytest.raises(ArtifactError, match="no array of numbers"):
            run(folder)
        assert not marker.exists()


@pytest.mark.parametrize("kind", ["empty", "zip", "claims too much", "truncated", "version", "strings"])
def test_broken_arrays_are_refused(tmp_path: Path, kind: str):
    folder = write(tmp_path / "m")
    good = npy(PIXELS)
    archive = io.BytesIO()
    np.savez(archive, PIXELS)
    data = {
        "empty": b"",
        "zip": archive.getvalue(),
        "claims too much": good.replace(b"(3, 64, 80)", b"(99999,9,9)"),
        "truncated": good[:-1],
        "version": good[:6] + b"\x09\x00" + good[8:],
        "strings": npy(np.array(["a"])),
    }[kind]
    (folder / "test" / "input.npy").write_bytes(data)
    edited(folder, lambda d: d["serving"]["test"].update(input_checksum=checksum_of(data)))
    with pytest.raises(ArtifactError, match="no array of numbers"):
        run(folder)


def test_altered_missing_and_linked_files_are_refused(tmp_path: Path):
    folder = write(tmp_path / "m")
    path = folder / "test" / "output.npy"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="checksum"):
        run(folder)
    found = check.check(str(folder))
    assert [f["subject"] for f in found["findings"]] == ["golden test"] and found["golden"] is None
    path.unlink()
    with pytest.raises(ArtifactError, match="cannot be opened"):
        run(folder)
    (tmp_path / "elsewhere.npy").write_bytes(good)
    path.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(ArtifactError, match="symbolic link"):
        run(folder)
    edited(folder, lambda d: d["serving"]["test"].update(output="../elsewhere.npy"))
    with pytest.raises(ArtifactError, match="not lie inside"):
        run(folder)


def test_shapes_that_do_not_fit(tmp_path: Path):
    with pytest.raises(ContractError, match="golden input has the shape"):
        run(write(tmp_path / "m", output=np.zeros((5, 64, 80), np.float32), pixels=PIXELS[:2]))
    with pytest.raises(ContractError, match="golden output is"):
        run(write(tmp_path / "m", output=np.zeros((4, 64, 80), np.float32)))


@pytest.mark.parametrize("change", [{"rtol": -1}, {"input_checksum": "12"}, {"inputs": "x"}, {"atol": "much"}])
def test_the_block_is_strict(tmp_path: Path, change):
    folder = write(tmp_path / "m")
    edited(folder, lambda d: d["serving"]["test"].update(change))
    with pytest.raises(ManifestError):
        open_model(folder)
