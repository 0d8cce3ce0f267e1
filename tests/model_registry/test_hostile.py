"""Broken and hostile files: each is refused in clear words, quickly; no code of theirs runs, nothing is left behind."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from model_registry import child, intake, trust
from model_registry.artifacts import checksum_of
from model_registry.errors import ModelError
from model_registry.intake import Answers
from model_registry.store import Store
from tests.model_registry import hostile
from tests.model_registry.hostile import CORPUS

HERE = "tests.model_registry.test_hostile"
# Asked one by one in a child of their own: they end it, or would harm the others.
ALONE = {"onnx_that_asks_for_a_terabyte", "onnx_with_a_weight_of_a_petabyte"}
SECONDS = 60.0  # for a whole batch; one file takes milliseconds


def answers(name: str) -> Answers:
    extra = {key: tuple(value) if isinstance(value, list) else value for key, value in CORPUS[name].answers.items()}
    return replace(hostile.ALL, **extra)


def attempt(files: dict[str, list]) -> dict[str, str | None]:
    """In the child: what `inside.prepare` says of each file, None where it took one."""
    from model_registry.intake import inside

    said: dict[str, str | None] = {}
    for name, (source, staging, given) in files.items():
        try:
            inside.prepare(source, staging, given, label="it")
        except ModelError as error:
            said[name] = f"{type(error).__name__}: {error}"
        except Exception as error:  # the child process would tell of it too, in words of less use
            said[name] = f"unforeseen {type(error).__name__}"
        else:
            said[name] = None
    return said


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """(the file, its marker) of each of the corpus that can be made here."""
    files = {}
    torch = _has_torch()
    for name, entry in CORPUS.items():
        if entry.torch and not torch:
            continue
        folder = tmp_path_factory.mktemp(name) / "files"
        folder.mkdir()
        files[name] = (entry.write(folder, folder.parent / "marker"), folder.parent / "marker")
    return files


@pytest.fixture(scope="module")
def said(corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What was said of each file: one child for all, since each costs the import of torch."""
    place = tmp_path_factory.mktemp("staging")
    patch = pytest.MonkeyPatch()
    patch.setenv("TILER_TRUST", str(place / "trust.json"))
    files = {}
    for name in set(corpus) - ALONE:
        (place / name).mkdir()
        files[name] = [str(corpus[name][0]), str(place / name), answers(name).to_json()]
    try:
        found = child.run(f"{HERE}:attempt", {"files": files}, seconds=SECONDS, memory_bytes=2 << 30)
    finally:
        patch.undo()
    return found


def _has_torch() -> bool:
    from model_registry.candidates import installed

    return installed("torch") and installed("safetensors")


def test_the_corpus_is_large():
    assert len(CORPUS) >= 50


@pytest.mark.parametrize("name", sorted(set(CORPUS) - ALONE))
def test_it_is_refused_with_a_reason(name: str, corpus, said):
    if name not in corpus:
        pytest.skip("PyTorch is not installed")
    assert said[name] is not None, "it was taken"
    import re

    assert re.search(CORPUS[name].told, said[name]), said[name]
    assert not corpus[name][1].exists(), "its code ran"
    assert str(corpus[name][0].parent) not in said[name], "a path of this machine is told"


@pytest.mark.parametrize(
    "name",
    [
        *sorted(ALONE), "zip_bomb", "artifact_that_is_a_pipe", "a_device", "yaml_bomb",
        pytest.param("pt2_with_a_pickle", marks=pytest.mark.slow),
        pytest.param("pickle_in_a_zip", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_registry_stays_as_it_was(name: str, corpus, tmp_path: Path):
    """The whole way: child process, staging, store."""
    if name not in corpus:
        pytest.skip("PyTorch is not installed")
    store = Store(tmp_path / "registry")
    started = time.monotonic()
    with (
        pytest.raises(ModelError, match=CORPUS[name].told),
        store.publish("cover") as draft,
    ):
        intake.prepare(corpus[name][0], draft.folder, answers(name), seconds=20, memory_bytes=1 << 30)
    assert time.monotonic() - started < 20
    assert not corpus[name][1].exists()
    assert store.names() == () and [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"] == []


@pytest.mark.slow
def test_an_endless_network_is_stopped(tmp_path: Path):
    import onnx
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["go"]), helper.make_node("Add", ["v", "v"], ["out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 5, "h", "w"]),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 5, "h", "w"]),
        ],
    )
    nodes = [
        helper.make_node("Concat", ["x", "x"], ["six"], axis=1),
        helper.make_node("Slice", ["six", "zero", "five", "one"], ["start"]),
        helper.make_node("Loop", ["", "true", "start"], ["scores"], body=body),
    ]
    weights = [
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        *(helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("five", 5), ("one", 1))),
    ]
    (tmp_path / "net.onnx").write_bytes(hostile.graph(nodes, [hostile.scores()], weights))
    onnx.checker.check_model(onnx.load(tmp_path / "net.onnx"))
    started = time.monotonic()
    with pytest.raises(child.ChildError, match="no answer within 2 s"):
        intake.prepare(tmp_path / "net.onnx", tmp_path / "staging", hostile.ALL, seconds=2)
    assert time.monotonic() - started < 10 and list((tmp_path / "staging").iterdir()) == []


# The code in those files is real: what is refused above would run. Otherwise nothing above proves anything.


def run_it(path: str, kind: str) -> None:
    """In the child: load and call the file as torch alone would."""
    import contextlib

    import torch

    with contextlib.suppress(Exception):
        if kind == "pt2":
            torch.export.load(path).module()(torch.zeros(1, 3, 32, 32))
        elif kind == "script":
            torch.jit.load(path)(torch.zeros(1, 3, 32, 32))
        else:
            torch.load(path, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pt2_with_a_pickle", "pt2"),
        ("pt2_with_code_in_a_size", "pt2"),
        ("pt2_with_code_in_a_guard", "pt2"),
        ("torchscript_that_writes_a_file", "script"),
        ("bare_pickle", "pickle"),
        ("pickle_in_a_zip", "pickle"),
    ],
)
def test_the_code_would_run(name: str, kind: str, tmp_path: Path):
    pytest.importorskip("torch")
    path = CORPUS[name].write(tmp_path, tmp_path / "marker")
    child.run(f"{HERE}:run_it", {"path": str(path), "kind": kind}, seconds=60, memory_bytes=2 << 30)
    assert (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pt2_with_code_in_a_size", "pt2_with_code_in_a_guard"])
def test_a_look_before_trusting_shows_it(name: str, tmp_path: Path):
    pytest.importorskip("torch")
    path = CORPUS[name].write(tmp_path, tmp_path / "marker")
    found = intake.describe(path)
    assert found["findings"] and "no plain formula" in str(found) or "no comparison of sizes" in str(found)
    assert not (tmp_path / "marker").exists()


def test_trust_is_for_one_file_only(corpus, tmp_path: Path):
    """A .pt2 that is trusted does not open the door for the next one, nor does a manifest that says so."""
    if "pt2_with_a_pickle" not in corpus:
        pytest.skip("PyTorch is not installed")
    trust.trust(checksum_of(b"another file"))
    path, marker = corpus["pt2_with_a_pickle"]
    with pytest.raises(ModelError, match="is not trusted"):
        intake.prepare(path, tmp_path / "staging", hostile.ALL)
    assert not marker.exists() and os.listdir(tmp_path / "staging") == []
