"""A scene's labels: a raster of numbers that somebody has drawn as the truth, and what they mean to a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from model_registry import Model
from tiler.errors import MisfitError, SceneError
from tiler.grid import NO_PLACE, Grid
from tiler.pixels import Source
from tiler.ramps import Color
from tiler.scene import Scene
from tiler.values import OTHERS, LabelRef, Mask

Truth = NDArray[np.int16]

# What a label pixel is that is none of the judged classes.
UNLABELLED, IGNORED, UNKNOWN = -1, -2, -3

OTHERS_COLOR: Color = (150, 150, 150, 255)


@dataclass(frozen=True)
class Labels:
    """A label raster that may be used. `source` reads it on its own pixels, whose grid `grid` is."""

    scene: Scene
    source: Source
    ref: LabelRef

    @property
    def grid(self) -> Grid:
        """The labels' own pixels, rows from the north."""
        return self.source.grid

    @property
    def title(self) -> str:
        """For people."""
        return self.ref.title or self.scene.display_name

    @cached_property
    def version(self) -> str:
        """12 hex digits; changes when the file does, or what its numbers mean."""
        decides = (self.scene.fingerprint, self.ref.classes, self.ref.ignore)
        return hashlib.sha256(repr(decides).encode()).hexdigest()[:12]


def labels_over(raster: Scene, ref: LabelRef, imagery: Scene) -> Labels:
    """Labels for a scene.

    Args:
        raster: the label raster, opened.
        ref: what was said of it.
        imagery: the scene that is predicted.

    Raises:
        SceneError: it is no raster of class numbers, or lies elsewhere.
    """
    name = raster.display_name
    bands = raster.data_bands
    if len(bands) != 1:
        raise SceneError(f"labels {name!r} have {len(bands)} bands", "Give a raster with one band of class numbers")
    dtype = np.dtype(bands[0].dtype)
    if dtype.kind not in "iu":
        raise SceneError(
            f"labels {name!r} hold {dtype.name}, which are no class numbers",
            "Write them as whole numbers (gdal_translate -ot Byte in.tif out.tif)",
        )
    try:
        left, bottom, right, top = transform_bounds(imagery.crs, raster.crs, *imagery.bounds, densify_pts=21)
    except NO_PLACE:
        left = bottom = right = top = np.nan
    own = raster.bounds
    # Comparisons with NaN or infinity as they come out here are False: no overlap.
    if not (left < own[2] and right > own[0] and bottom < own[3] and top > own[1]):
        raise SceneError(
            f"labels {name!r} do not overlap {imagery.display_name!r}", "Check the coordinate reference systems of both"
        )
    res_x, res_y = raster.transform.a, abs(raster.transform.e)
    along_x, along_y = raster.gsd
    grid = Grid(
        raster.crs, own[0], own[3], res_x, res_y, raster.height, raster.width,
        cell=256, align=1, halo=0, gsd=max(along_x, along_y), native=True,
    )  # fmt: skip
    source = Source(scene=raster, grid=grid, indexes=(bands[0].index,), unscale=None, fill=(0.0,), mask="any")
    return Labels(raster, source, ref)


@dataclass(frozen=True, slots=True)
class Judged:
    """One class that predictions are judged by: one of the model's, or several that a label does not tell apart.

    `values`: the model's class numbers; `labels`: the label numbers that mean it, if any.
    """

    name: str
    values: tuple[int, ...]
    color: Color
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What label numbers mean to a model.

    Attributes:
        classes: the judged classes; every class of the model is in exactly one.
        of_label: label number -> position in `classes`; None: label numbers are the model's own class numbers.
        of_class: int16 [256], class number -> position in `classes`.
        ignore: label numbers that are not judged.
    """

    classes: tuple[Judged, ...]
    of_label: Mapping[int, int]
    of_class: NDArray[np.int16]
    ignore: frozenset[int]

    def truth(self, values: NDArray[np.integer], valid: Mask) -> tuple[Truth, dict[int, int]]:
        """Judged class of label pixels, and how many pixels have numbers that mean nothing to the model.

        Args:
            values, valid: [rows, cols] of the label raster.

        Returns:
            int16 [rows, cols]: position in `classes`, or UNLABELLED, IGNORED, UNKNOWN; and pixels by unknown number.
        """
        found, inverse, counts = np.unique(values[valid], return_inverse=True, return_counts=True)
        meaning = np.empty(len(found), np.int16)
        unknown = {}
        for place, (value, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
            meaning[place] = IGNORED if value in self.ignore else self.of_label.get(value, UNKNOWN)
            if meaning[place] == UNKNOWN:
                unknown[value] = count
        truth: Truth = np.full(values.shape, UNLABELLED, np.int16)
        truth[valid] = meaning[inverse]
        return truth, unknown


def reading_of(ref: LabelRef, model: Model) -> Reading:
    """What labels mean to a model.

    Raises:
        MisfitError: the model has no classes, not these, or two labels share one of them and differ in others.
    """
    if model.kind != "classes":
        raise MisfitError(f"model {model.name!r} answers no classes", "Labels are compared with class numbers")
    own = {item.value: item for item in model.classes}
    means = _meanings(ref, model)
    members: dict[int, tuple[int, ...]] = {}
    for label, values in means.items():
        for value in values:
            if members.setdefault(value, values) != values:
                raise MisfitError(
                    f"label {label} shares the class {own[value].name!r} with another label that stands for others too",
                    "Labels stand for the same classes, or for different ones",
                )
    groups: list[tuple[int, ...]] = []
    for item in model.classes:
        group = members.get(item.value, (item.value,))
        if group not in groups:
            groups.append(group)
    others = {means[label] for label, names in ref.classes or () if names == (OTHERS,)}
    judged = []
    for group in groups:
        name, color = " + ".join(own[value].name for value in group), own[group[0]].color
        if group in others and len(group) > 1:
            name, color = _free_name(model), OTHERS_COLOR
        labels = tuple(label for label, values in means.items() if values == group)
        judged.append(Judged(name, group, color, labels))
    of_class = np.zeros(256, np.int16)
    for place, entry in enumerate(judged):
        of_class[list(entry.values)] = place
    of_label = {label: place for place, entry in enumerate(judged) for label in entry.labels}
    return Reading(tuple(judged), of_label, of_class, frozenset(ref.ignore))


def _meanings(ref: LabelRef, model: Model) -> dict[int, tuple[int, ...]]:
    """Class numbers, ascending as the model lists them, of each label number."""
    if ref.classes is None:
        return {item.value: (item.value,) for item in model.classes if item.value not in ref.ignore}
    by_name = {item.name.casefold(): item.value for item in model.classes}
    by_number = {str(item.value): item.value for item in model.classes}
    named: dict[int, set[int]] = {}
    for label, names in ref.classes:
        if names == (OTHERS,):
            continue
        named[label] = set()
        for name in names:
            value = by_name.get(name.casefold(), by_number.get(name))
            if value is None:
                known = ", ".join(f"{item.name} ({item.value})" for item in model.classes)
                raise MisfitError(f"label {label}: {name!r} is not a class of {model.name!r}", f"Known are: {known}")
            named[label].add(value)
    rest = {item.value for item in model.classes} - {value for values in named.values() for value in values}
    for label, names in ref.classes:
        if names == (OTHERS,):
            if not rest:
                raise MisfitError(f"label {label}: '*' stands for nothing, every class is named", "Leave it out")
            named[label] = rest
    return {
        label: tuple(item.value for item in model.classes if item.value in values)
        for label, values in sorted(named.items())
    }


def _free_name(model: Model) -> str:
    taken = {item.name.casefold() for item in model.classes}
    return next(name for name in ("other", "any other", "all the others", "*") if name not in taken)
