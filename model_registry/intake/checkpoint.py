"""Checkpoints (.pth, .ckpt) become safetensors: once, offline, in the child process, and never in a server.

A checkpoint is a pickle. `weights_only=True` lets it build tensors and plain containers only; it had holes before torch
2.10 (CVE-2025-32434, CVE-2026-24747), so an older torch is refused, and what refuses to load so is never loaded another
way.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any

from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.intake import safetensors
from model_registry.intake.answers import Answers
from model_registry.intake.found import Found
from model_registry.runtimes import weights
from model_registry.zip_file import TorchZip

_LEAST = (2, 10)
_HOLDERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "ema_state_dict")


def read(data: bytes, answers: Answers) -> Found:
    """Convert to safetensors and return that, as if it had been given."""
    if answers.architecture is None:
        raise safetensors.no_architecture("the checkpoint holds weights without a network")
    hyperparameters = dict(answers.hyperparameters or {})
    return safetensors.of_weights(
        convert(data, answers.architecture, hyperparameters), answers.architecture, hyperparameters
    )


def convert(data: bytes, architecture: str, hyperparameters: Mapping[str, Any]) -> bytes:
    """Return the architecture's weights in `data`, a checkpoint, as a .safetensors file; prefixes are taken off.

    Raises:
        ArtifactError: not a checkpoint, or one that cannot be read as weights only.
        ContractError: the architecture wants weights that are not in it.
        UnsupportedModel: torch is missing or too old, or the architecture cannot be built so.
    """
    tensors = _tensors(_load(data))
    wanted = weights.build(architecture, hyperparameters).state_dict()
    chosen = _without_prefix(tensors, set(wanted))
    weights.check(chosen, wanted)
    from safetensors.torch import save

    # Copies: views of one storage (tied weights) cannot be saved as they are.
    return save({key: value.detach().clone().contiguous() for key, value in chosen.items() if key in wanted})


def _load(data: bytes) -> Any:
    import torch

    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _LEAST:
        raise UnsupportedModel(f"torch {torch.__version__} is too old to read a pickle", "Install torch 2.10 or newer")
    if data.startswith(b"PK"):
        TorchZip(data)  # refuses an archive that would grow
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # pickle's, zip's and torch's own
        named = re.search(r"GLOBAL ([\w.]+)|global ([\w.]+)", str(error))
        what = f"it asks for {next(filter(None, named.groups()))}" if named else type(error).__name__
        raise ArtifactError(
            f"the checkpoint cannot be read as weights only ({what})",
            "Where it was trained, save the weights alone: torch.save(model.state_dict(), 'weights.pth')",
        ) from None


def _tensors(content: Any) -> dict[str, Any]:
    """Return the tensors of a state dict, alone or in one of the places where trainers put it."""
    import torch

    for key in _HOLDERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    found = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    )
    if not found:
        raise ArtifactError("the checkpoint holds no weights by name", "Save model.state_dict()")
    return found


def _without_prefix(tensors: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Return what lies below the one prefix ("model.", "net.module.", ...) where all wanted names are found."""
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}
    prefixes = {""}
    for key in tensors:
        parts = key.split(".")
        prefixes |= {".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 5))}
    fitting = [p for p in sorted(prefixes) if all(p + name in tensors for name in needed)]
    if len(fitting) > 1:
        raise ContractError(
            f"the checkpoint holds the network {len(fitting)} times ({', '.join(repr(p) for p in fitting[:4])})",
            "Save the one that is meant: torch.save(model.state_dict(), 'weights.pth')",
        )
    if not fitting:  # the nearest, so that what is missing can be named
        fitting = [max(sorted(prefixes), key=lambda p: sum(p + name in tensors for name in needed))]
    prefix = fitting[0]
    if prefix == "":
        return tensors
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
