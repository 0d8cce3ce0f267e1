"""What can go wrong with a model, in the words of the person who brought it.

Every error says what was wrong (`reason`) and what to do about it (`remedy`). No message holds a path of this machine:
file names only, so that a message can be shown over HTTP.
"""

from __future__ import annotations


class ModelError(Exception):
    """Base of all errors of this package; `str(error)` is "reason. remedy"."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        """Keep `reason` (what was wrong, with which value) and `remedy` (what to do)."""
        self.reason = reason.rstrip(". ")
        self.remedy = remedy.rstrip(". ")
        super().__init__(self.reason, self.remedy)

    def __str__(self) -> str:
        """Return "reason. remedy", or the reason alone where no remedy is known."""
        return f"{self.reason}. {self.remedy}" if self.remedy else self.reason


class ManifestError(ModelError):
    """The description of the model (model.yaml, ONNX metadata) is missing, unreadable or contradicts itself."""


class ArtifactError(ModelError):
    """A file of the model is missing, altered, unsafe to open or not what its format says."""


class UnsupportedModel(ModelError):
    """The model is well described, but this package or this installation cannot run it that way."""


class ContractError(ModelError):
    """The network does not do what its manifest says: shapes, channels, finite numbers."""


class StoppedError(ModelError):
    """A forward pass was given up half way, because whoever had asked for it said so."""


class RegistryError(ModelError):
    """The registry cannot do what was asked: a version in use, a place that cannot be written or reached."""


class UnknownModel(RegistryError):
    """A name, alias or version that the registry does not hold."""
