"""What there is to know of a scene and a model before anything is served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from morecantile import tms

from model_registry import LoadedModel, Model, at_gsds, load, open_model
from model_registry.augment import passes
from tiler import zoom
from tiler.layer import MAX_GSD_FACTOR, Finding, Layer, examine, fit, member_name
from tiler.predict import Limits
from tiler.scene import Scene, SceneRef, open_scene
from tiler.seams import Seam, measure


def _answers(model: Model) -> str:
    values = model.values
    if values is None:
        return "classes " + ", ".join(f"{item.value} {item.name}" for item in model.classes)
    if model.kind == "regression":
        low, high = values.range
        return f"{values.name}, shown from {low:g} to {high:g} {values.unit}".rstrip()
    shown = "its first three" if values.components is None else "three components of them"
    return f"{values.channels} channels, of which {shown} are shown as colours"


def _augmentation(model: Model) -> dict[str, str]:
    if model.augment == "none":
        return {}
    count = passes(model.augment)
    return {"augmentation": f"{model.augment}: {count} forward passes per window, 1/{count} of the speed"}


def _members(model: Model) -> dict[str, str]:
    if not model.members:
        return {}
    shares = (
        f"{member.model or model.name} at {member.gsd:g} m ({100 * member.weight:.3g} %)" for member in model.members
    )
    return {"members": ", ".join(shares)}


def _findings(scene: Scene, loaded: LoadedModel, **given: Any) -> Iterator[Finding]:
    """What fits and what does not; of an ensemble, of each member."""
    if not loaded.members:
        yield from examine(scene, loaded.model, **given)
    for member in loaded.members:
        for finding in examine(scene, member.model, **given):
            yield replace(finding, subject=f"{finding.subject}, {member_name(member.model)}")


def _all_windows(layer: Layer) -> dict[str, str]:
    told = _windows(layer)
    for member in layer.members:
        told |= {f"{name}, {member_name(member.model)}": text for name, text in _windows(member).items()}
    return told


def _windows(layer: Layer) -> dict[str, str]:
    """How the windows of a model that is not exact are put together, and what is seen of their borders."""
    if layer.window_shape is None or layer.model.exactness == "exact":
        return {}
    grid, seam = layer.grid, measure(layer)
    height, width = layer.window_shape
    how = f"blended over {2 * grid.overlap} px" if grid.overlap else "side by side: class numbers cannot be blended"
    told = {
        "windows": f"fixed, {width} x {height} px around cells of {grid.cell} px, {how}; "
        f"{layer.redundancy:.3g} pixels inferred per pixel shown"
    }
    return told | {"seams": _seams(layer, seam)}


def _seams(layer: Layer, seam: Seam | None) -> str:
    if seam is None:
        return "none measured: one window holds the scene, or its borders lie where there is no data"
    what = "class" if layer.model.kind == "classes" else "value"
    told = f"{100 * seam.moved:.2g} % of the pixels near borders get another {what} from a window that lies elsewhere"
    if seam.step is not None and seam.unblended is not None:
        told += (
            f" (differences up to {seam.largest:.2g}); steps across borders are {seam.step:.3g} times those inside a "
            f"window, unblended {seam.unblended:.3g}"
        )
    return told


def report(
    source: str,
    model_path: str,
    indexes: Sequence[int] | None = None,
    max_gsd_factor: float | None = None,
    gsds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Facts and findings of a pair; with `gsds` (metres per pixel), of the model's ensemble with itself at each.

    Returns:
        `facts`: names and values for people; `findings`: what fits and what does not, each with `subject`, `fits`,
        `detail` and `remedy`.

    Raises:
        SceneError: the scene cannot be opened at all.
        ModelError: the model cannot be loaded at all.
    """
    scene = open_scene(SceneRef(source))
    loaded = load(at_gsds(open_model(model_path), gsds) if gsds else model_path)
    model, factor = loaded.model, max_gsd_factor or MAX_GSD_FACTOR
    try:
        findings = list(_findings(scene, loaded, indexes=indexes, max_gsd_factor=factor))
        along_x, along_y = scene.gsd
        facts: dict[str, Any] = {
            "scene": f"{scene.display_name}, {scene.width} x {scene.height} px, {len(scene.bands)} bands, "
            f"{'/'.join(sorted({band.dtype for band in scene.bands}))}, {scene.crs.to_string()}",
            "scene gsd": f"{along_x:.4g} x {along_y:.4g} m",
            "scene nodata": scene.nodata if scene.nodata is not None else ("mask or alpha" if scene.masked else "none"),
            "model": f"{model.title} ({model.name} {model.version}), {loaded.runner.runtime} {loaded.runner.precision}",
            "model gsd": f"{model.resolution.value:g} m" if model.resolution else "not stated",
            **_members(model),
            "answers": _answers(model),
            **_augmentation(model),
            "exactness": f"{model.exactness}, halo {model.window.halo} px, period {model.window.period} px, "
            f"size multiple {model.window.multiple} px",
        }
        if loaded.probe.notes:
            facts["measured"] = "; ".join(loaded.probe.notes)
        if all(finding.fits for finding in findings):
            layer = fit(scene, loaded, indexes=indexes, max_gsd_factor=factor)
            grid, mercator, limits = layer.grid, tms.get("WebMercatorQuad"), Limits()
            facts |= {
                "grid": f"{grid.width} x {grid.height} px of {grid.gsd:g} m, "
                + ("the scene's own pixels" if grid.native else "resampled"),
                "cells": f"{grid.cell} px, {grid.cell_cols} x {grid.cell_rows}; windows start at multiples of "
                f"{grid.align} px with a halo of {grid.halo} px",
                "zooms": f"{zoom.minzoom(grid, mercator, limits.max_tile_pixels)} to {zoom.maxzoom(grid, mercator)} "
                "(WebMercatorQuad)",
                "revision": layer.revision,
                **_all_windows(layer),
            }
        return {"facts": facts, "findings": [asdict(finding) for finding in findings]}
    finally:
        loaded.close()
