"""The child's side of the intake: parse the source, ask, run the network once, write the version's folder.

Everything here sees bytes that nobody has looked at before, so it is called through `child.run` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_registry import live
from model_registry.artifacts import checksum_of, read_named
from model_registry.errors import ManifestError
from model_registry.intake import checkpoint, folder, golden, mlm, onnx, pt2, safetensors, smp, sniff, torchscript
from model_registry.intake.answers import Answers
from model_registry.intake.found import Document, Found, finish, questions
from model_registry.intake.writing import write_manifest
from model_registry.manifest import Model, open_model
from model_registry.model_yaml import MANIFEST
from model_registry.runtimes import Runner, load_runner

# Names of our own: a hostile name never becomes a path.
_FILES = {
    "onnx": "model.onnx",
    "safetensors": "model.safetensors",
    "pt2": "model.pt2",
    "torchscript": "model.torchscript",
}

_LIMITS = ("rtol", "atol", "mismatched_per_million")


def prepare(source: str, staging: str, answers: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Write the folder of `source`, a path, into the empty folder `staging`; see `intake.prepare`.

    Returns:
        {"format", "checksum", "notes"}.
    """
    given = Answers.from_json(answers)
    found = _read(Path(source), given)
    document = finish(found, given, label)
    place = Path(staging)
    name = _FILES[found.format]
    (place / name).write_bytes(found.data)
    for href, data in found.beside.items():
        (place / href).write_bytes(data)
    checksum = checksum_of(found.data)
    entry = {"href": name, "format": found.format, "checksum": checksum, "size": len(found.data)}
    document["serving"] = {"schema": 1, "artifacts": [entry]} | {
        key: value for key, value in document["serving"].items() if key not in ("schema", "artifacts")
    }
    write_manifest(document, place)
    _try(place, document, found, given)
    return {"format": found.format, "checksum": checksum, "notes": found.notes}


def ask(source: str, answers: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what is still to be said about `source`: {"field", "what", "option"} each; see `found.Missing`."""
    given = Answers.from_json(answers)
    return [item._asdict() for item in questions(_read(Path(source), given), given)]


def convert(source: str, target: str, architecture: str, hyperparameters: Mapping[str, Any]) -> None:
    """Write the weights of the checkpoint `source` to `target`, a .safetensors file."""
    Path(target).write_bytes(checkpoint.convert(read_named(Path(source)), architecture, hyperparameters))


def describe(source: str) -> dict[str, Any]:
    """Return what a file is, without running any of it: {"kind", "sha256", "size", "findings"}."""
    from model_registry import pt2_file

    data = read_named(Path(source))
    kind = sniff.kind_of(data)
    findings = pt2_file.suspicions(data) if kind == "pt2" else []
    return {"kind": kind, "sha256": checksum_of(data)[4:], "size": len(data), "findings": findings}


def _read(path: Path, answers: Answers) -> Found:
    """Find out what the source is, and let its own room read it."""
    if path.is_dir():
        if (path / MANIFEST).exists() or (path / MANIFEST).is_symlink():
            return folder.read(path)
        if (config := smp.config_of(path)) is not None:
            return smp.read(path, config, answers)
        path = folder.only_file(path)
    if path.name == MANIFEST:
        return folder.read(path.parent)
    if path.suffix.lower() == ".json":
        item = mlm.item_of(path)
        if item is None:
            raise ManifestError(f"{path.name!r} is not a STAC item", "Give an MLM item, a model file or a folder")
        name, data = mlm.artifact_of(item, path.parent)
        found = _read_bytes(data, name, answers)
        found.document = mlm.document_of(item)
        return found
    return _read_bytes(read_named(path), path.name, answers)


def _read_bytes(data: bytes, name: str, answers: Answers) -> Found:
    kind = sniff.kind_of(data)
    if kind == "checkpoint":
        return checkpoint.read(data, answers)
    if kind == "onnx":
        return onnx.read(data, name)
    if kind == "safetensors":
        return safetensors.read(data, answers)
    return pt2.read(data) if kind == "pt2" else torchscript.read(data)


def _try(place: Path, document: Document, found: Found, answers: Answers) -> None:
    """Load the network from its new folder, hold it to its manifest, and keep a question with its answer."""
    model = open_model(place)
    runner = load_runner(model)
    try:
        model = live.with_demands(model, runner.demands)
        if not found.complete and model.kind == "classes":
            _settle_output(document["serving"], model, runner)
            write_manifest(document, place)
            model = live.with_demands(open_model(place), runner.demands)
        live.check_contract(model, runner)
        limits = {k: v for k, v in (document["serving"].get("test") or {}).items() if k in _LIMITS}
        document["serving"]["test"] = golden.make(place, model, runner, answers, found.tests) | limits
    finally:
        runner.close()
    write_manifest(document, place)
    open_model(place)


def _settle_output(serving: dict[str, Any], model: Model, runner: Runner) -> None:
    """Say what the network emits and what is still to be done to it, where nobody has said it."""
    output = dict(serving.get("output") or {})
    _, scores = golden.answer_to_noise(model, runner)
    output["emits"] = golden.emits_of(scores, output.get("emits"))
    if "activation" not in output:
        output["activation"] = (
            "none" if output["emits"] != "logits" else "sigmoid" if scores.shape[1] == 1 else "softmax"
        )
    serving["output"] = {key: output[key] for key in ("emits", "activation", *output)}
