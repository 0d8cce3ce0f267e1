"""Build hook: the map page's library goes into the wheel, the sdist and the checkout of an editable install."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _vendor(root: Path) -> ModuleType:
    """Load ``tiler/vendor.py`` by its path: nothing is installed yet while a package is built."""
    spec = importlib.util.spec_from_file_location("_tiler_vendor", root / "tiler" / "vendor.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class VendorHook(BuildHookInterface):  # type: ignore[type-arg]
    """Fetch the browser's library before the files are collected. Runs for wheel, sdist and editable alike."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Ask for an npm only where there is none and something to fetch."""
        root = Path(self.root)
        required: list[str] = _vendor(root).requirements(root)
        return required

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Fetch what is missing; a build without it still succeeds, and the page then says what to run."""
        root = Path(self.root)
        vendor = _vendor(root)
        try:
            vendor.fetch(root)
        except vendor.VendorError as error:
            self.app.display_warning(f"map page without OpenLayers ({error}); later run: {vendor.COMMAND}")
        if self.target_name == "wheel" and version != "editable":
            # Here and not in pyproject.toml: there an editable install would copy them into site-packages as well.
            for source, place in _BESIDE.items():
                build_data["force_include"][str(root / source)] = place


_BESIDE = {
    "static": "tiler/static",
    "package.json": "tiler/package.json",
    "package-lock.json": "tiler/package-lock.json",
}
