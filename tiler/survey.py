"""How right a prediction is, and how much of it there is: pixel by pixel over an area, block by block.

Labels are compared on their own pixels: each one's centre takes the class of the grid pixel that holds it, from the
same cells that tiles show. Only cells under labels that count are inferred, and one block after the other is held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiler.areas import Area, Place, bounds_in, hectares, placed
from tiler.assemble import assemble, wants
from tiler.confusion import MEASURES, Counts, Numbers, matrix, measures, number, summary
from tiler.engine import Engine
from tiler.errors import RequestError, TooLargeError
from tiler.grid import Grid, cells_covering, centres
from tiler.labels import IGNORED, UNKNOWN, UNLABELLED, Labels, Reading, Truth
from tiler.layer import Layer
from tiler.pixels import read_window
from tiler.predict import Limits
from tiler.values import Classes, Mask, Rect, Style, View, hex_of
from tiler.waiting import Origin

# Pixels along each side of a block, of the labels or of the grid, whichever has more.
BLOCK = 1024


async def classes_at(
    layer: Layer, view: View, wanted: Mask, style: Style, engine: Engine, origin: Origin
) -> tuple[Classes, Mask]:
    """What a layer says at the centres of a view's pixels, never pooled.

    Args:
        layer: whose prediction.
        view: the pixels.
        wanted: bool [rows, cols]; for the others nothing is inferred.
        style: its threshold may mask pixels.
        engine, origin: who infers, for whom.

    Returns:
        class numbers, uint8 [rows, cols], and where there are some among the wanted, bool [rows, cols].

    Raises:
        BusyError, ReadError, DeviceError: as `Engine.scores`.
    """
    where, cells = await engine.finish(_cells_of, layer, view, wanted)
    if not cells:
        return np.zeros(wanted.shape, np.uint8), np.zeros(wanted.shape, bool)
    answer = await engine.scores_async(layer, cells, probabilities=wants(layer, style), origin=origin)
    picture = await engine.finish(assemble, layer, view, where, answer.scores, style)
    return np.asarray(picture.values[0], np.uint8), picture.valid & wanted


def _cells_of(layer: Layer, view: View, wanted: Mask) -> Any:
    where = centres(view, layer.grid)
    # Arrays of a grid's own CRS are read-only views.
    rows, cols = (np.where(wanted, numbers, np.nan) for numbers in (where.rows, where.cols))
    where = type(where)(rows, cols, where.samples)
    return where, cells_covering(where, layer.grid) if wanted.any() else []


def whole_classes(style: Style) -> Style:
    """The style that is counted.

    Raises:
        RequestError: it shows no classes, or not all of them.
    """
    if style.output != "class":
        raise RequestError(f"output={style.output} cannot be counted by class", "Leave output= out")
    if style.classes:
        raise RequestError("class= leaves classes out of the count", "Leave it out; the answer lists each class")
    return style


@dataclass(frozen=True)
class Survey:
    """What is to be counted: a layer's classes at the pixels of a place."""

    layer: Layer
    place: Place
    style: Style
    side: int

    @classmethod
    def of(cls, layer: Layer, grid: Grid, area: Area | None, style: Style, limits: Limits, what: str) -> Survey:
        """A survey over an area on a grid, the layer's own or that of labels.

        Raises:
            RequestError: the style shows no classes, or the area is somewhere else.
            TooLargeError: more pixels than one request may have.
        """
        place = placed(area, grid, bounds_in(grid.crs, layer.grid), what)
        # Model pixels along one pixel of the labels.
        ratio = max(1.0, grid.gsd / layer.grid.gsd)
        pixels = place.rect.pixels * ratio**2
        limit = limits.max_request_pixels
        # An area of exactly the limit must not fail by a rounding error.
        if pixels > limit * 1.01:
            finer = "the labels" if ratio == 1 else f"{layer.grid.gsd:g} m"
            raise TooLargeError(
                f"the area covers {pixels / 1e6:.1f} Mpx of {finer}, the limit is {limit / 1e6:.1f} Mpx",
                "Ask for a smaller polygon or bbox",
            )
        side = min(BLOCK, math.isqrt(limits.max_tile_pixels))
        return cls(layer, place, whole_classes(style), max(1, math.floor(side / ratio)))

    def blocks(self) -> Iterator[Rect]:
        """Blocks of the place, one after the other."""
        return self.place.blocks(self.side)

    def view_of(self, rect: Rect) -> View:
        """A block as a view."""
        grid = self.place.grid
        left, top = grid.left + rect.col_off * grid.res_x, grid.top - rect.row_off * grid.res_y
        right, bottom = left + rect.width * grid.res_x, top - rect.height * grid.res_y
        return View((left, bottom, right, top), grid.crs, rect.height, rect.width)


@dataclass
class Tally:
    """What was counted of labels and prediction; hectares beside pixels, since a pixel's size may differ by place.

    Attributes:
        reading: whose classes.
        counts, hectares: [classes, classes], rows the truth, columns the prediction.
        missing: int64 [classes], pixels of each class without a prediction.
        left_out: pixels and hectares in the area that are not judged, by why: no label, an ignored one, one that means
            nothing to the model, or no prediction.
        unknown: pixels by label number that means nothing to the model.
    """

    reading: Reading
    counts: Counts = field(init=False)
    hectares: Numbers = field(init=False)
    missing: Counts = field(init=False)
    left_out: dict[str, list[float]] = field(init=False)
    unknown: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = len(self.reading.classes)
        self.counts, self.hectares = np.zeros((size, size), np.int64), np.zeros((size, size))
        self.missing = np.zeros(size, np.int64)
        self.left_out = {name: [0, 0.0] for name in ("unlabelled", "ignored", "unknown", "no_prediction")}

    def add(self, truth: Truth, classes: Classes, known: Mask, inside: Mask, hectares: float) -> None:
        """Count one block: truth int16, classes uint8, known and inside bool, all [rows, cols]."""
        judged = inside & (truth >= 0) & known
        block = matrix(truth[judged], self.reading.of_class[classes[judged]], len(self.counts))
        self.counts += block
        self.hectares += block * hectares
        lost = truth[inside & (truth >= 0) & ~known]
        self.missing += np.bincount(lost, minlength=len(self.missing))
        for name, count in (
            ("unlabelled", ((truth == UNLABELLED) & inside).sum()),
            ("ignored", ((truth == IGNORED) & inside).sum()),
            ("unknown", ((truth == UNKNOWN) & inside).sum()),
            ("no_prediction", lost.size),
        ):
            self.left_out[name][0] += int(count)
            self.left_out[name][1] += int(count) * hectares

    def report(self) -> dict[str, Any]:
        """For JSON."""
        each = measures(self.counts)
        support, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        rows = []
        for place, item in enumerate(self.reading.classes):
            rows.append(
                {
                    **described(item.name, item.values, item.color),
                    "labels": list(item.labels),
                    "support": int(support[place]),
                    "support_ha": _ha(self.hectares[place].sum()),
                    "predicted": int(predicted[place]),
                    "predicted_ha": _ha(self.hectares[:, place].sum()),
                    "no_prediction": int(self.missing[place]),
                    **{name: number(each[name][place]) for name in MEASURES},
                }
            )
        judged = [int(self.counts.sum()), float(self.hectares.sum())]
        parts = {"judged": judged, **self.left_out}
        parts["total"] = [sum(part[0] for part in parts.values()), sum(part[1] for part in parts.values())]
        return {
            **summary(self.counts),
            "classes": rows,
            "confusion_matrix": self.counts.tolist(),
            "pixels": {name: int(part[0]) for name, part in parts.items()},
            "hectares": {name: _ha(part[1]) for name, part in parts.items()},
            "unknown_labels": [{"value": value, "pixels": count} for value, count in sorted(self.unknown.items())],
        }


async def accuracy(survey: Survey, labels: Labels, reading: Reading, engine: Engine, origin: Origin) -> Tally:
    """Compare a layer with labels; the survey's grid is theirs.

    Raises:
        ReadError: the labels or the scene cannot be read.
        BusyError, DeviceError: as `Engine.scores`. One block may take as long as a request.
    """
    tally = Tally(reading)

    def truth_of(rect: Rect, inside: Mask) -> Truth:
        values, valid = read_window(labels.source, rect)
        truth, unknown = reading.truth(values[0], valid & inside)
        for value, count in unknown.items():
            tally.unknown[value] = tally.unknown.get(value, 0) + count
        return truth

    for rect in survey.blocks():
        inside = await engine.finish(survey.place.inside, rect)
        if not inside.any():
            continue
        truth = await engine.open(truth_of, rect, inside)
        classes, known = await classes_at(
            survey.layer, survey.view_of(rect), inside & (truth >= 0), survey.style, engine, origin
        )
        await engine.finish(tally.add, truth, classes, known, inside, hectares(survey.place.grid, rect))
    return tally


async def areas(survey: Survey, engine: Engine, origin: Origin) -> dict[str, Any]:
    """Pixels, hectares and percent of each class; the survey's grid is the layer's own. For JSON.

    Raises:
        ReadError, BusyError, DeviceError: as `Engine.scores`.
    """
    pixels, grounds = np.zeros(256, np.int64), np.zeros(256)
    missing = [0, 0.0]
    for rect in survey.blocks():
        inside = await engine.finish(survey.place.inside, rect)
        if not inside.any():
            continue
        classes, known = await classes_at(survey.layer, survey.view_of(rect), inside, survey.style, engine, origin)
        found = np.bincount(classes[known], minlength=256)
        size = hectares(survey.place.grid, rect)
        pixels, grounds = pixels + found, grounds + found * size
        lost = int(inside.sum() - found.sum())
        missing = [missing[0] + lost, missing[1] + lost * size]
    whole = float(grounds.sum())
    return {
        "pixels": int(pixels.sum()),
        "hectares": _ha(whole),
        "no_prediction": {"pixels": missing[0], "hectares": _ha(missing[1])},
        "classes": [
            {
                **described(item.name, (item.value,), item.color),
                "pixels": int(pixels[item.value]),
                "hectares": _ha(grounds[item.value]),
                "percent": round(100 * float(grounds[item.value]) / whole, 4) if whole else None,
            }
            for item in survey.layer.model.classes
        ],
    }


def described(name: str, values: tuple[int, ...], color: tuple[int, ...]) -> dict[str, Any]:
    """A class for JSON; `value` is the first of its numbers, `values` all."""
    return {"value": values[0], "values": list(values), "name": name, "color": hex_of(color)}


def _ha(value: float) -> float:
    """Hectares with square centimetres: more digits would be noise."""
    return round(float(value), 8)
