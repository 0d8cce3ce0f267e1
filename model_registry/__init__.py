"""What a model is, where it is found and how it runs. Knows nothing of maps, tiles or HTTP.

The public names are loaded when first used: importing this package imports no runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_registry.choice import Choice, choose
    from model_registry.ensemble import at_gsds
    from model_registry.errors import (
        ArtifactError,
        ContractError,
        ManifestError,
        ModelError,
        RegistryError,
        StoppedError,
        UnknownModel,
        UnsupportedModel,
    )
    from model_registry.live import LoadedModel, load
    from model_registry.manifest import (
        Artifact,
        Member,
        Model,
        ModelClass,
        Nodata,
        Op,
        PrecisionSpec,
        Resolution,
        WindowSpec,
        open_model,
    )
    from model_registry.probe import Probe
    from model_registry.refs import ModelRef, parse_ref
    from model_registry.remote import RemoteStore, open_store
    from model_registry.runtimes import Prediction, Runner, load_runner
    from model_registry.store import Store
    from model_registry.versions import Registry, State, Version

_HOMES = {
    "choice": ("Choice", "choose"),
    "ensemble": ("at_gsds",),
    "errors": (
        "ArtifactError",
        "ContractError",
        "ManifestError",
        "ModelError",
        "RegistryError",
        "StoppedError",
        "UnknownModel",
        "UnsupportedModel",
    ),
    "live": ("LoadedModel", "load"),
    "manifest": (
        "Artifact",
        "Member",
        "Model",
        "ModelClass",
        "Nodata",
        "Op",
        "PrecisionSpec",
        "Resolution",
        "WindowSpec",
        "open_model",
    ),
    "probe": ("Probe",),
    "refs": ("ModelRef", "parse_ref"),
    "remote": ("RemoteStore", "open_store"),
    "runtimes": ("Prediction", "Runner", "load_runner"),
    "store": ("Store",),
    "versions": ("Registry", "State", "Version"),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "Artifact",
    "ArtifactError",
    "Choice",
    "ContractError",
    "LoadedModel",
    "ManifestError",
    "Member",
    "Model",
    "ModelClass",
    "ModelError",
    "ModelRef",
    "Nodata",
    "Op",
    "PrecisionSpec",
    "Prediction",
    "Probe",
    "Registry",
    "RegistryError",
    "RemoteStore",
    "Resolution",
    "Runner",
    "State",
    "StoppedError",
    "Store",
    "UnknownModel",
    "UnsupportedModel",
    "Version",
    "WindowSpec",
    "at_gsds",
    "choose",
    "load",
    "load_runner",
    "open_model",
    "open_store",
    "parse_ref",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its room on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"model_registry.{_HOME_OF[name]}"), name)
