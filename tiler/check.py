"""A model on a real scene: everything `model_registry.check` measures, the seams on its pixels, and a picture.

Like `model_registry.check.check` it loads a file that may be anybody's, and is called in a child process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model_registry import Model, ModelError, aside, live, open_model, seams
from model_registry.check import check
from model_registry.runtimes import native_runtime
from model_registry.seams import Seam
from tiler.assemble import Picture
from tiler.catalog import SAMPLE_SHAPE, Catalog
from tiler.engine import Engine
from tiler.errors import InferenceError
from tiler.imagery import Imagery
from tiler.layer import Layer, source_of
from tiler.outputs import offered
from tiler.paint import default_palette, encode
from tiler.pixels import busiest
from tiler.predict import Limits, predict_view
from tiler.ramps import Color, Rescale, rescale_of
from tiler.scene import Scene, SceneRef, open_scene
from tiler.sheet import Panel, draw
from tiler.values import Rect, Style, View

PICTURE = "check.png"
_SIDE = 512  # px of the grid, edge of the picture's panels
_CORE = 256  # px, edge of what is compared at each halo
_PLACES = 2


def on_scene(
    path: str,
    scene: str,
    picture: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    bands: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Measure the model at `path`, also on pixels of `scene`, and draw a picture.

    Args:
        path, device, threads: as for `model_registry.check.check`.
        scene: path or URL of a raster.
        picture: where to write the picture; None draws none.
        bands: bands of the scene (from 1) in the model's order; None finds them.

    Returns:
        what `check` returns, with precisions compared on windows of the scene, and `scene`: its name, `seams` (what
        remains at each halo on its pixels), `shares` of the classes in the picture, and `picture`, its file's name.

    Raises:
        ModelError: the model cannot be loaded, or the scene cannot be opened or does not fit it.
    """
    try:
        return _on_scene(path, scene, picture, device, threads, bands)
    except InferenceError as error:
        # The child process knows the errors of models only.
        raise ModelError(error.reason, error.remedy) from error


def _on_scene(
    path: str, name: str, picture: str | None, device: str, threads: int | None, bands: Sequence[int] | None
) -> dict[str, Any]:
    scene = open_scene(SceneRef(name))
    model = open_model(path)
    source, _ = source_of(scene, model, indexes=bands)
    places = busiest(source, model.window.fixed or SAMPLE_SHAPE, 4)
    found = check(path, device, threads, samples=[pixels for _, pixels, _ in places])
    shown: dict[str, Any] = {"name": scene.display_name, "seams": [], "shares": {}, "picture": None, "why_not": ""}
    found["scene"] = shown
    if not places:
        return found | {"scene": shown | {"why_not": "the scene has no data where windows were looked for"}}
    try:
        # The reference, whose classes every other fp32 runtime must give: nothing is left to choose, and to measure.
        loaded = live.load(path, device, threads, policy="fp32", runtime=native_runtime(model))
    except ModelError as error:
        return found | {"scene": shown | {"why_not": str(error)}}
    engine, catalog = Engine(), Catalog({"model": loaded})
    try:
        layer = catalog.layer("check", "model", lambda: scene, indexes=bands)
        shown["seams"] = [seam._asdict() for seam in _seams(layer)]
        drawn, shown["shares"] = _picture(layer, scene, places[0][0], engine)
        if picture is not None:
            _write(Path(picture), drawn)
            shown["picture"] = Path(picture).name
    finally:
        engine.close()
        catalog.close()
    return found


def _seams(layer: Layer) -> list[Seam]:
    """What remains at each halo, worst and mean of some places of the scene."""
    grid, model, runner = layer.grid, layer.model, layer.loaded.runner
    if layer.window_shape is None:
        edge = -(-_CORE // grid.align) * grid.align + 2 * grid.halo
        halos = sorted({round(grid.halo * part / 4 / grid.align) * grid.align for part in range(5)})
        shape = (edge, edge)
        return _merged([seams.crops(runner, model, pixels, halos) for pixels in _windows(layer, shape)])
    shape = seams.image_shape(layer.window_shape, grid.align)
    return _merged(
        [
            seams.between_windows(runner, model, pixels, layer.window_shape, grid.align)
            for pixels in _windows(layer, shape)
        ]
    )


def _windows(layer: Layer, shape: tuple[int, int]) -> list[Any]:
    return [pixels for _, pixels, _ in busiest(layer.source, shape, _PLACES)]


def _merged(places: list[list[Seam]]) -> list[Seam]:
    found = []
    for same in zip(*places, strict=True):
        moved, dprob = sum(seam.moved for seam in same) / len(same), max(seam.dprob for seam in same)
        found.append(Seam(same[0].window, same[0].halo, moved, dprob))
    return found


def _picture(layer: Layer, scene: Scene, place: Rect, engine: Engine) -> tuple[bytes, dict[str, float]]:
    """PNG of imagery, answer and confidence around `place`, and the share of each class among its valid pixels."""
    view, model = _view(layer, place), layer.model
    shares: dict[str, float] = {}
    panels = [Panel(scene.display_name, Imagery(scene).view(view))]
    # One class's probability is a picture for each class; the winner's says more. Numbers for browsers are no picture.
    for output in (name for name in offered(model) if name not in ("probability", "class_confidence")):
        style = Style(output=output)
        if output == "value" and model.kind == "embedding":
            continue  # as many bands as it has channels
        shown = predict_view(layer, view, style, engine, Limits())
        if output == "class":
            shares = _shares(model, shown)
        ends = rescale_of(model, style)
        png, _ = encode(
            shown.values, shown.valid, colormap=default_palette(layer, style), nodata=layer.nodata, output=output,
            rescale=ends,
        )  # fmt: skip
        title = {"class": "mask", "value": model.values.name if model.values else "", "rgb": "components"}
        panels.append(Panel(title.get(output, output), png, _legend(layer, style, ends, shares)))
    caption = f"{model.name} {model.version}: {_words(model)}; {view.width} x {view.height} px of {layer.grid.gsd:g} m"
    return draw(panels, caption), shares


def _shares(model: Model, shown: Picture) -> dict[str, float]:
    classes = shown.values[0][shown.valid]
    return {item.name: round(float((classes == item.value).sum() / max(1, classes.size)), 4) for item in model.classes}


def _legend(layer: Layer, style: Style, ends: Rescale, shares: dict[str, float]) -> list[tuple[str, Color]]:
    model = layer.model
    if style.output == "class":
        return [(f"{item.name} ({100 * shares[item.name]:.1f} %)", item.color) for item in model.classes]
    if style.output == "rgb":
        pure: tuple[Color, ...] = ((255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255))
        return [(f"component {n + 1}", color) for n, color in enumerate(pure)]
    (low, high), unit = ends[0], f" {model.values.unit}" if model.values and model.values.unit else ""
    colors = default_palette(layer, style)
    return [(f"{low + part * (high - low):.4g}{unit}", colors[round(254 * part)]) for part in (0, 0.25, 0.5, 0.75, 1)]


def _words(model: Model) -> str:
    window = model.window
    return f"{model.exactness}, halo {window.halo} px, period {window.period} px"


def _view(layer: Layer, place: Rect) -> View:
    """The grid's own pixels around the middle of `place`, inside of the grid."""
    grid = layer.grid
    height, width = min(_SIDE, grid.height), min(_SIDE, grid.width)
    row = min(max(0, place.row_off + (place.height - height) // 2), grid.height - height)
    col = min(max(0, place.col_off + (place.width - width) // 2), grid.width - width)
    left, top = grid.left + col * grid.res_x, grid.top - row * grid.res_y
    bounds = (left, top - height * grid.res_y, left + width * grid.res_x, top)
    return View(bounds, grid.crs, height, width)


def _write(path: Path, content: bytes) -> None:
    try:
        aside.write(path, content)
    except OSError as error:
        raise ModelError(f"the picture cannot be written ({error.strerror})", "Choose another place for it") from None
