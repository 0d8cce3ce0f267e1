"""From a file that somebody has to a model's folder: read it, ask for what it does not say, run it once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from model_registry import child
from model_registry.errors import ArtifactError, ManifestError
from model_registry.intake import huggingface
from model_registry.intake.answers import Answers
from model_registry.intake.writing import document_of, write_manifest
from model_registry.model_yaml import slug

__all__ = ["Answers", "convert", "describe", "document_of", "name_of", "prepare", "questions", "write_manifest"]

SECONDS = 300.0
MEMORY_BYTES = 8 << 30


def prepare(
    source: str | Path,
    staging: Path,
    answers: Answers | None = None,
    *,
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Make a whole version folder in `staging`: model.yaml, the artifact, and a golden test.

    Args:
        source: an ONNX, safetensors, .pt2 or TorchScript file, a checkpoint (.pth, .ckpt; it becomes safetensors), a
            folder (model.yaml, `save_pretrained`, or one model), an MLM item.json with its model beside it, or
            `org/name@commit` of the Hugging Face hub.
        staging: an empty folder, made if it is not there; on any error it is left empty.
        answers: what the file does not say.
        seconds, memory_bytes: limits of the child process that does it all.

    Raises:
        ManifestError: facts are missing (one error lists them all), or contradict the file.
        ArtifactError, ContractError, UnsupportedModel: the file is damaged, hostile, or cannot be run so.
        ChildError: it took too long or too much memory, or crashed.
    """
    staging = Path(staging)
    staging.mkdir(parents=True, exist_ok=True)
    if any(staging.iterdir()):
        raise ManifestError(f"the folder {staging.name!r} is not empty", "Name a new one")
    with tempfile.TemporaryDirectory(prefix="tiler-intake-") as fetched:
        path, label = _local(source, Path(fetched))
        arguments = {
            "source": str(path),
            "staging": str(staging.absolute()),
            "answers": (answers or Answers()).to_json(),
            "label": label,
        }
        try:
            child.run("model_registry.intake.inside:prepare", arguments, seconds=seconds, memory_bytes=memory_bytes)
        except BaseException:
            _empty(staging)
            raise


def questions(source: str | Path, answers: Answers) -> list[dict[str, str]]:
    """Return what is still to be said about a local `source`: {"field": of Answers, "what", "option"} each.

    Raises:
        ModelError: as `prepare`, for what no answer mends.
    """
    arguments = {"source": str(_existing(source)), "answers": answers.to_json()}
    found: list[dict[str, str]] = child.run(
        "model_registry.intake.inside:ask", arguments, seconds=SECONDS, memory_bytes=MEMORY_BYTES
    )
    return found


def convert(
    source: str | Path,
    target: Path,
    architecture: str,
    hyperparameters: dict[str, Any],
    *,
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY_BYTES,
) -> None:
    """Write the weights of a checkpoint to `target`, a new .safetensors file; errors as in `prepare`."""
    path = _existing(source)
    if not os.access(target.parent, os.W_OK):
        raise ManifestError(f"{target.name!r} cannot be written there", "Name a folder that is yours with --output")
    descriptor, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(descriptor)
    arguments = {
        "source": str(path), "target": aside, "architecture": architecture, "hyperparameters": hyperparameters,
    }  # fmt: skip
    try:
        child.run("model_registry.intake.inside:convert", arguments, seconds=seconds, memory_bytes=memory_bytes)
        os.chmod(aside, 0o644)
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def describe(source: str | Path, *, seconds: float = 60.0, memory_bytes: int = MEMORY_BYTES) -> dict[str, Any]:
    """Return what a file is, without running it: {"kind", "sha256", "size", "findings": [what no honest file has]}."""
    path = _existing(source)
    found: dict[str, Any] = child.run(
        "model_registry.intake.inside:describe", {"source": str(path)}, seconds=seconds, memory_bytes=memory_bytes
    )
    return found


def name_of(source: str | Path) -> str:
    """Return a name for the registry, from the source's own."""
    named = huggingface.parse(str(source))
    if named is not None:
        return slug(Path(named.file).stem if named.file else named.repository.rpartition("/")[2]).lower()
    path = Path(source)
    generic = path.stem in ("model", "item", "weights", "network")
    return slug(path.absolute().parent.name if generic else path.stem if path.suffix else path.name).lower()


def _local(source: str | Path, fetched: Path) -> tuple[Path, str]:
    """Return (path, what to call it): the source itself, or what was fetched of it."""
    named = None if os.path.exists(source) else huggingface.parse(str(source))
    if named is None:
        path = _existing(source)
        return path, path.name
    file = f":{named.file}" if named.file else ""
    return huggingface.fetch(named, fetched), f"{named.repository}@{named.commit}{file}"


def _existing(source: str | Path) -> Path:
    path = Path(source).absolute()
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise ArtifactError(f"there is no {path.name!r}", "Check the path; a model of the hub is org/name@commit")
    return path


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
