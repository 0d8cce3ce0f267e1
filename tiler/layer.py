"""A layer: one model over one scene. Whether they belong together is decided here, before any pixel is read."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from model_registry import LoadedModel, Model
from model_registry.scaling import fill_values
from tiler import zoom
from tiler.errors import MisfitError, RequestError
from tiler.grid import Grid
from tiler.pixels import Source
from tiler.scene import Band, Scene
from tiler.values import Cell, Rect
from tiler.windows import Shape

if TYPE_CHECKING:
    from morecantile import TileMatrixSet

# Raise this when a change of ours moves a pixel: it is part of every revision, so no old tile survives it.
MATHS_VERSION = 3

# Without permission a scene may be at most this much coarser or finer than the model's own resolution.
MAX_GSD_FACTOR = 4.0

# Largest window put through a model, halo included; more costs memory and does not make a device faster.
MAX_WINDOW_PIXELS = 1024 * 1024

# Colours that GDAL gives to bands of which it knows nothing.
SAYS_NOTHING = ("", "undefined", "gray", "palette")
ONLY_COUNTS = re.compile(r"(band|layer|channel|b)?[ _-]*\d*[a-z]?")

# Cells of an exact model: small enough that little is inferred beyond what is seen.
PREFERRED_CELL = 32

# Cells of an ensemble: no network sees them, so nothing but their number speaks against small ones.
LARGEST_ENSEMBLE_CELL = 64

# Windows of any other model have a halo of at least this share of their side: what is blended has to be wide enough to
# hide a difference of tone. An eighth costs (8 / 6)^2 = 1.8 pixels inferred per pixel shown.
LEAST_HALO = 1 / 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that fits, or does not. `remedy` is empty when it fits."""

    subject: str
    fits: bool
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Layer:
    """A model over a scene, on its grid.

    Attributes:
        scene, loaded: what was fitted.
        source: how the scene's pixels reach the model.
        window_shape: (height, width) in pixels that every window must have, or None when any multiple of the
            alignment will do (exact models).
        max_window_pixels: largest window of an exact model, halo included.
        version: `name:3` of a registry's model, empty for others.
        members, weights: of an ensemble: the layers that are averaged, and their shares; the grid is the finest one's.
        revision: 12 hex digits; changes whenever any pixel of the answer may.
    """

    scene: Scene
    loaded: LoadedModel
    source: Source
    window_shape: tuple[int, int] | None
    revision: str
    max_window_pixels: int = MAX_WINDOW_PIXELS
    version: str = ""
    members: tuple[Layer, ...] = ()
    weights: tuple[float, ...] = ()

    @property
    def model(self) -> Model:
        """The model's description."""
        return self.loaded.model

    @property
    def grid(self) -> Grid:
        """The model's pixels over the scene."""
        return self.source.grid

    @cached_property
    def shape(self) -> Shape:
        """How large windows may get; those of a model that is not exact hold one cell each."""
        grid = self.grid
        longest = self.model.window.max
        return Shape(grid.cell, grid.halo, self.max_window_pixels, self.window_shape is not None, longest)

    @property
    def exactness(self) -> str:
        """The model's exactness class, and for one that is not exact how its windows are put together."""
        if self.model.exactness == "exact":
            return "exact"
        parts = [layer for layer in self.members or (self,) if layer.model.exactness != "exact"]
        blended = all(layer.grid.overlap for layer in parts)
        return f"{self.model.exactness}; {'blended' if blended else 'fixed windows'}"

    @property
    def redundancy(self) -> float:
        """Pixels inferred per pixel of the scene when all of it is inferred; 0 where windows follow what is wanted."""
        if self.members and any(layer.redundancy for layer in self.members):
            own = self.grid.res_x * self.grid.res_y
            shares = [own / (layer.grid.res_x * layer.grid.res_y) for layer in self.members]
            return sum(max(1.0, layer.redundancy) * share for layer, share in zip(self.members, shares, strict=True))
        return 0.0 if self.window_shape is None else math.prod(self.window_shape) / self.grid.cell**2

    @cached_property
    def nodata(self) -> int:
        """A class number that no class has: what stands for 'no data' in files.

        Raises:
            MisfitError: there is none, with 256 classes.
        """
        free = set(range(256)) - {item.value for item in self.model.classes}
        if not free:
            raise MisfitError(
                f"model {self.model.name!r} has 256 classes, which leaves no number for 'no data'", "Merge two of them"
            )
        return max(free)

    @cached_property
    def _minzooms(self) -> dict[tuple[str, int], int]:
        return {}

    def minzoom(self, tms: TileMatrixSet, max_pixels: int) -> int:
        """`zoom.minzoom`, worked out once: every tile asks for it."""
        key = (str(tms.id), max_pixels)
        if key not in self._minzooms:
            self._minzooms[key] = zoom.minzoom(self.grid, tms, max_pixels)
        return self._minzooms[key]

    def window_of(self, first: Cell, last: Cell) -> tuple[Rect, Rect]:
        """(core, window): the pixels of the cells `first`..`last`, and what has to be read to infer them."""
        core = self.grid.core_of(first, last)
        if self.window_shape is None:
            return core, core.grown(self.grid.halo)
        height, width = self.window_shape
        return core, Rect(core.row_off - self.grid.halo, core.col_off - self.grid.halo, height, width)

    def class_values(self, names: str | None) -> tuple[int, ...]:
        """Class values from a comma-separated list of names or numbers; empty for None.

        Raises:
            RequestError: a name that the model does not have; the message lists those it has.
        """
        if names is None:
            return ()
        by_name = {item.name.casefold(): item.value for item in self.model.classes}
        by_number = {str(item.value): item.value for item in self.model.classes}
        wanted = []
        for name in (part.strip() for part in names.split(",")):
            value = by_name.get(name.casefold(), by_number.get(name))
            if value is None:
                known = ", ".join(f"{item.name} ({item.value})" for item in self.model.classes)
                raise RequestError(f"class={name!r} is not a class of this model", f"Known are: {known}")
            wanted.append(value)
        return tuple(wanted)


def fit(
    scene: Scene,
    loaded: LoadedModel,
    *,
    indexes: Sequence[int] | None = None,
    max_gsd_factor: float = MAX_GSD_FACTOR,
    max_window_pixels: int = MAX_WINDOW_PIXELS,
    version: str = "",
) -> Layer:
    """Put a model over a scene.

    Args:
        scene, loaded: what to fit.
        indexes: bands of the scene (from 1) in the model's order; None finds them by name or position.
        max_gsd_factor: how much coarser or finer than the model's resolution the scene may be.
        max_window_pixels: largest window put through an exact model, halo included.
        version: `name:3` of a registry's model.

    Raises:
        MisfitError: they do not belong together; the message has every reason with its remedy.
        RequestError: `indexes` names bands that the scene does not have.
    """
    if loaded.members:
        given: dict[str, Any] = {"max_gsd_factor": max_gsd_factor, "max_window_pixels": max_window_pixels}
        members = tuple(_fit_member(scene, member, indexes=indexes, **given) for member in loaded.members)
        return _joined(scene, loaded, members, max_window_pixels, version)
    source, window_shape = source_of(scene, loaded.model, indexes=indexes, max_gsd_factor=max_gsd_factor)
    return Layer(
        scene=scene,
        loaded=loaded,
        source=source,
        window_shape=window_shape,
        revision=_revision(loaded, source, window_shape),
        max_window_pixels=max_window_pixels,
        version=version,
    )


def _fit_member(scene: Scene, loaded: LoadedModel, **given: Any) -> Layer:
    try:
        return fit(scene, loaded, **given)
    except MisfitError as error:
        raise MisfitError(f"{member_name(loaded.model)}: {error.reason}", error.remedy) from None


def member_name(model: Model) -> str:
    """What a member of an ensemble is called in messages."""
    return f"{model.name} at {model.resolution.value:g} m" if model.resolution else model.name


def _joined(
    scene: Scene, loaded: LoadedModel, members: tuple[Layer, ...], max_window_pixels: int, version: str
) -> Layer:
    """The layer of an ensemble: on its finest member's pixels, in cells that lie side by side."""
    # Not always the first: within the tolerance of its resolution one member may take the scene's own pixels.
    finest = min(members, key=lambda layer: layer.grid.res_x * layer.grid.res_y)
    cell = min(finest.grid.cell, LARGEST_ENSEMBLE_CELL)
    grid = replace(finest.grid, cell=cell, align=1, halo=loaded.model.window.halo or 0, overlap=0)
    weights = tuple(member.weight for member in loaded.model.members)
    decides = (
        MATHS_VERSION,
        loaded.model.digest,
        (grid.transform, grid.height, grid.width, grid.cell),
        [(layer.revision, weight) for layer, weight in zip(members, weights, strict=True)],
    )
    return Layer(
        scene=scene,
        loaded=loaded,
        source=replace(finest.source, grid=grid),
        window_shape=None,
        revision=_short_hash(decides),
        max_window_pixels=max_window_pixels,
        version=version,
        members=members,
        weights=weights,
    )


def source_of(
    scene: Scene, model: Model, *, indexes: Sequence[int] | None = None, max_gsd_factor: float = MAX_GSD_FACTOR
) -> tuple[Source, tuple[int, int] | None]:
    """Which pixels of a scene a model sees, and the shape that its windows must have (None: any).

    The model need not be loaded: where its halo is not known yet, it counts as none.

    Raises:
        MisfitError, RequestError: as `fit`.
    """
    findings = examine(scene, model, indexes=indexes, max_gsd_factor=max_gsd_factor)
    wrong = [finding for finding in findings if not finding.fits]
    if wrong:
        raise MisfitError(
            "; ".join(f"{finding.subject}: {finding.detail}" for finding in wrong),
            ". ".join(finding.remedy for finding in wrong),
        )
    chosen = tuple(indexes) if indexes else match_bands(scene, model)
    bands = [band_at(scene, index) for index in chosen]
    grid, window_shape = _grid_over(scene, model)
    physical = model.input_values == "physical" and any((band.scale, band.offset) != (1.0, 0.0) for band in bands)
    unscale = (tuple(band.scale for band in bands), tuple(band.offset for band in bands)) if physical else None
    fill = tuple(float(value) for value in fill_values(model.nodata, model.scaling, len(bands)))
    # Whoever names an alpha band as input says that it is data (NAIP's infrared often is): then it masks nothing.
    mask = "none" if any(band not in scene.data_bands for band in bands) else model.nodata.mask
    return Source(scene=scene, grid=grid, indexes=chosen, unscale=unscale, fill=fill, mask=mask), window_shape


def examine(
    scene: Scene, model: Model, *, indexes: Sequence[int] | None = None, max_gsd_factor: float = MAX_GSD_FACTOR
) -> list[Finding]:
    """Everything that decides whether a model fits a scene, what fits and what does not."""
    bands = _examine_bands(scene, model, indexes)
    findings = [bands]
    if bands.fits:
        chosen = indexes or match_bands(scene, model)
        findings.extend(_examine_values([band_at(scene, index) for index in chosen], model))
    findings.append(_examine_resolution(scene, model, max_gsd_factor))
    return findings


def match_bands(scene: Scene, model: Model) -> tuple[int, ...]:
    """Bands of the scene for the model's inputs: the choice of the operator, else by name, colour, index or position.

    Position is used only when the scene has exactly as many bands as the model wants and no name contradicts it.

    Raises:
        MisfitError: neither tells.
    """
    if scene.chosen is not None:
        return scene.chosen
    wanted = [_plain_name(name) for name in model.bands]
    # Names go first: what GDAL calls red, green and blue is often only the order in which a file was written.
    # And names that tell something else (NIR, SWIR1) forbid to go on by colour or position.
    tells = all(_tells(band.name) for band in scene.data_bands) and all(_tells(name) for name in model.bands)
    for label in ("name",) if tells else ("name", "color"):
        # By name an alpha band counts too: GDAL calls the fourth band of any four so, named NIR or not.
        there = scene.bands if label == "name" else scene.data_bands
        have = {_plain_name(getattr(band, label)): band.index for band in there}
        found = [have.get(name) if name not in SAYS_NOTHING else None for name in wanted]
        if any(index is not None for index in found):
            break
    if all(index is not None for index in found):
        return tuple(index for index in found if index is not None)
    if all(name.isdecimal() for name in wanted) and wanted != [str(n + 1) for n in range(len(wanted))]:
        # 4, 3, 2 or 1, 1, 1 are places in the scene; 1, 2, 3 only count, as whoever has no names for them does.
        return tuple(int(name) for name in wanted)
    contradicted = tells or any(index is not None for index in found)
    if len(scene.data_bands) == len(wanted) and not contradicted:
        return tuple(band.index for band in scene.data_bands)
    known = ", ".join(f"{band.index}: {band.name or band.color}" for band in scene.bands)
    raise MisfitError(
        f"the model wants {len(wanted)} bands ({', '.join(model.bands)}), the scene has {len(scene.bands)} ({known})",
        "Say which bands to use, in the model's order (bidx=1&bidx=2..., `bands:` in the settings, or --bidx)",
    )


def _tells(name: str) -> bool:
    """Whether a band's name says what it shows; `3`, `Band 3` and `b3` only count."""
    plain = name.strip().casefold()
    return plain not in SAYS_NOTHING and not ONLY_COUNTS.fullmatch(plain)


def band_at(scene: Scene, index: int) -> Band:
    """The band with an index counted from 1."""
    return scene.bands[index - 1]


def _plain_name(name: str) -> str:
    """Names as people write them: B02, b2, B2 and Red, red are the same."""
    text = name.strip().casefold()
    head, digits = text.rstrip("0123456789"), text[len(text.rstrip("0123456789")) :]
    return head + (str(int(digits)) if digits else "")


def _examine_bands(scene: Scene, model: Model, indexes: Sequence[int] | None) -> Finding:
    try:
        chosen = tuple(indexes) if indexes else match_bands(scene, model)
    except MisfitError as error:
        return Finding("bands", False, error.reason, error.remedy)
    by_index = {band.index: band for band in scene.bands}
    if len(chosen) != len(model.bands) or not set(chosen) <= set(by_index):
        return Finding(
            "bands",
            False,
            f"bands {', '.join(map(str, chosen))} were given, the model wants {len(model.bands)} "
            f"({', '.join(model.bands)}), the scene has {', '.join(map(str, by_index))}",
            "Give one band of the scene for each band of the model, in the model's order",
        )
    if not indexes and scene.chosen is None and any(by_index[index].color == "palette" for index in chosen):
        return Finding(
            "bands",
            False,
            "the scene's pixels are numbers of colours in a palette, not brightness",
            "Write the colours themselves (gdal_translate -expand rgb); or, if the numbers are what the model wants, "
            "name the band (bidx=1, `bands:` in the settings, or --bidx)",
        )
    pairs = ", ".join(
        f"{name} <- {index}" + (f" ({by_index[index].name})" if by_index[index].name else "")
        for name, index in zip(model.bands, chosen, strict=True)
    )
    return Finding("bands", True, pairs)


def _examine_values(bands: Sequence[Band], model: Model) -> Iterator[Finding]:
    dtypes = sorted({band.dtype for band in bands})
    have, want = "/".join(dtypes), ", ".join(model.input_dtypes)
    if any(dtype.startswith("complex") for dtype in dtypes):
        yield Finding("dtype", False, f"the scene is {have}", "Convert it to a real dtype first")
        return
    if model.input_values == "dn":
        if set(dtypes) <= set(model.input_dtypes):
            yield Finding("dtype", True, f"{have}, digital numbers as the model's scaling expects")
        else:
            yield Finding(
                "dtype",
                False,
                f"the scene is {have}, the model's scaling is for {want} digital numbers",
                "Convert the scene, or, if its values do have the range that the model was trained on, "
                f"add {have} to serving.input.dtypes in model.yaml",
            )
        return
    unscaled = [
        band for band in bands if not band.dtype.startswith("float") and (band.scale, band.offset) == (1.0, 0.0)
    ]
    if unscaled:
        yield Finding(
            "scaling",
            False,
            f"the model wants physical values, but band {unscaled[0].index} is {unscaled[0].dtype} without scale and "
            "offset",
            "Write the scale into the file (rio edit-info --scale, gdal_edit.py -scale 0.0001)",
        )
    else:
        how = ", ".join(sorted({f"x {band.scale:g} + {band.offset:g}" for band in bands}))
        yield Finding("scaling", True, f"{have} {how} to physical values")


def _examine_resolution(scene: Scene, model: Model, max_gsd_factor: float) -> Finding:
    along_x, along_y = scene.gsd
    have = f"{along_x:.4g} m" if math.isclose(along_x, along_y, rel_tol=1e-3) else f"{along_x:.4g} x {along_y:.4g} m"
    resolution = model.resolution
    if resolution is None:
        return Finding("resolution", True, f"{have}; the model does not say which it wants, so the scene's own is used")
    want = f"{resolution.value:g} m"
    factor = max(max(gsd / resolution.value, resolution.value / gsd) for gsd in (along_x, along_y))
    if factor <= 1 + resolution.tolerance:
        return Finding("resolution", True, f"{have} for a model of {want}: the scene's own pixels are used")
    if resolution.policy == "refuse":
        return Finding(
            "resolution",
            False,
            f"the scene has {have}, the model {want} and forbids resampling",
            "Use a scene of that resolution, or set serving.resolution.policy: resample in model.yaml",
        )
    if factor > max_gsd_factor:
        return Finding(
            "resolution",
            False,
            f"the scene has {have}, the model {want}: a factor of {factor:.3g}, above the limit of {max_gsd_factor:g}",
            "Use a model for that resolution, or permit it (max_gsd_factor in the settings, --max-gsd-factor)",
        )
    how = "averaged" if min(along_x, along_y) < resolution.value else "interpolated"
    return Finding("resolution", True, f"{have}, {how} to the model's {want}")


class Cutting(NamedTuple):
    """How windows are cut, in pixels: see `grid.Grid`. `shape`: (height, width) that each must have, or None."""

    align: int
    cell: int
    halo: int
    overlap: int
    shape: tuple[int, int] | None


def cutting(model: Model) -> Cutting:
    """How a model's windows are cut, whatever the scene."""
    window = model.window
    align = math.lcm(window.multiple or 1, window.period or 1)
    halo = -(-(window.halo or 0) // align) * align
    shape = window.fixed
    if shape is None and model.exactness != "exact":
        side = max(align, min(window.preferred, window.max or window.preferred) // align * align)
        shape = (side, side)
    if shape is None:
        most = None if window.max is None else (window.max - 2 * halo) // align
        cell = max(1, round((window.cell or PREFERRED_CELL) / align))
        if most is not None and most < 1:
            raise MisfitError(
                f"windows of at most {window.max} px leave nothing inside a halo of {halo} px",
                "Raise serving.window.max, or lower serving.window.halo",
            )
        return Cutting(align, align * min(cell, most or cell), halo, 0, None)
    # Of a model that was not probed yet nothing is known, and nothing blended.
    blends = model.exactness in ("bounded", "unsafe") and model.emits != "labels"
    return Cutting(align, *_cut(shape, halo, align, blends=blends), shape)


def _grid_over(scene: Scene, model: Model) -> tuple[Grid, tuple[int, int] | None]:
    align, cell, halo, overlap, shape = cutting(model)
    gsd_x, gsd_y = scene.gsd
    left, bottom, right, top = scene.bounds
    wanted = model.resolution
    native = wanted is None or all(
        max(gsd / wanted.value, wanted.value / gsd) <= 1 + wanted.tolerance for gsd in (gsd_x, gsd_y)
    )
    if native or wanted is None:
        res_x, res_y = abs(scene.transform.a), abs(scene.transform.e)
        height, width, gsd = scene.height, scene.width, math.sqrt(gsd_x * gsd_y)
    else:
        along_x, along_y = scene.ground_metres_per_unit
        res_x, res_y, gsd = wanted.value / along_x, wanted.value / along_y, wanted.value
        # Whole pixels only; a sliver of less than half a pixel at the far edges has no honest value.
        height, width = max(1, round((top - bottom) / res_y)), max(1, round((right - left) / res_x))
    grid = Grid(
        crs=scene.crs,
        left=left,
        top=top,
        res_x=res_x,
        res_y=res_y,
        height=height,
        width=width,
        cell=cell,
        align=align,
        halo=halo,
        gsd=gsd,
        native=native,
        overlap=overlap,
    )
    return grid, shape


def _cut(shape: tuple[int, int], halo: int, align: int, *, blends: bool) -> tuple[int, int, int]:
    """(cell, halo, overlap) of windows of one shape, one cell each.

    Those that are blended overlap by their whole halo, so that a window is used up to its edge and blending costs
    nothing beyond the halo; with a cell of at least two halos no pixel is inferred more than four times.

    Raises:
        MisfitError: the halo leaves nothing of the window.
    """
    side = min(shape)
    wider = max(halo, -(-int(side * LEAST_HALO) // align) * align)
    if blends and side - 2 * wider >= align:
        halo = wider
    cell = (side - 2 * halo) // align * align
    if cell < align:
        raise MisfitError(
            f"windows of {shape[0]} x {shape[1]} px leave nothing inside a halo of {halo} px",
            "Export the model with a larger or dynamic input size, or lower serving.window.halo",
        )
    return cell, halo, min(halo, cell // 2) if blends else 0


def _revision(loaded: LoadedModel, source: Source, window_shape: tuple[int, int] | None) -> str:
    runner = loaded.runner
    decides = (
        MATHS_VERSION,
        source.scene.fingerprint,
        loaded.model.digest,
        (runner.runtime, runner.precision, loaded.model.exactness),
        (source.grid.transform, source.grid.height, source.grid.width),
        (source.grid.cell, source.grid.align, source.grid.halo, source.grid.overlap, window_shape),
        (source.indexes, source.unscale, source.fill, source.mask),
    )
    return _short_hash(decides)


def _short_hash(decides: object) -> str:
    return hashlib.sha256(repr(decides).encode()).hexdigest()[:12]
