"""Pictures -> colours -> bytes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rio_tiler.utils import render as rio_render

from tiler.errors import RequestError
from tiler.layer import Layer
from tiler.ramps import PROBABILITIES, SPREAD, Color, Rescale, ramp
from tiler.values import NUMBERS, Classes, Floats, Mask, Output, Style

Palette = Mapping[int, Color]
# TiTiler's colormaps are palettes, or intervals of values with a colour each.
ColorMap = Palette | Sequence[tuple[tuple[float, float], Color]]

MEDIA_TYPES = {
    "png": "image/png",
    "pngraw": "image/png",
    "webp": "image/webp",
    "tif": "image/tiff; application=geotiff",
    "tiff": "image/tiff; application=geotiff",
    "npy": "application/x-binary",
}

# Probabilities and values are shown in this many steps; one index of the palette is kept for 'no data'.
STEPS = 255
CLEAR = 255


def default_palette(layer: Layer, style: Style) -> dict[int, Color]:
    """The model's own colours for classes and values, a ramp for probabilities; none for what has its own colours.

    Raises:
        MisfitError: the model names a ramp that there is not.
    """
    if style.output == "class":
        return {item.value: item.color for item in layer.model.classes}
    if style.output in ("rgb", "class_confidence"):
        return {}
    if style.output == "spread":
        return ramp(SPREAD)
    values = layer.model.values
    return ramp(PROBABILITIES if values is None else values.ramp)


def check_format(output_format: str, bands: int = 1, output: Output = "class") -> None:
    """Refuse what cannot be encoded, so that nothing is inferred for it.

    Raises:
        RequestError: a format that would change classes, or an image of several bands.
    """
    if output_format not in MEDIA_TYPES:
        raise RequestError(
            f"format {output_format!r} is not offered for predictions",
            "Use png, webp, tif or npy: lossy formats would invent classes",
        )
    if bands > 1 and output not in ("rgb", "class_confidence") and is_picture(output_format):
        if output in NUMBERS:
            raise RequestError(
                f"an image shows one band or three colours, but {bands} channels were asked for",
                "Ask for output=rgb, or for tif or npy",
            )
        raise RequestError(
            f"an image shows one band, but {bands} classes' probabilities were asked for",
            "Choose one with class=, or ask for tif or npy",
        )


def is_picture(output_format: str) -> bool:
    """Whether a format holds colours and no numbers."""
    return MEDIA_TYPES.get(output_format, "") in ("image/png", "image/webp")


def check_colors(output: Output, bands: int, colormap: ColorMap | None, rescale: Rescale | None) -> None:
    """Refuse colours that an output does not have.

    Args:
        output, bands: what is shown.
        colormap, rescale: what the request gives, None where it gives none.

    Raises:
        RequestError: one of them has no meaning here.
    """
    if output in ("class", "class_confidence") and rescale:
        raise RequestError("rescale= is not for class numbers", "Leave it out, or use output=probability")
    if output == "class_confidence" and colormap:
        raise RequestError("output=class_confidence holds numbers and no colours", "Leave colormap= out, or the output")
    if output == "rgb" and colormap:
        raise RequestError("an embedding's picture has its own colours", "Leave colormap= out; rescale= changes them")
    if rescale and len(rescale) not in (1, bands):
        raise RequestError(f"rescale= was given {len(rescale)} times", f"Give it once, or for each of {bands} bands")


def encode(
    values: Classes | Floats,
    valid: Mask,
    *,
    output_format: str = "png",
    colormap: ColorMap,
    nodata: int,
    crs: CRS | None = None,
    transform: Affine | None = None,
    add_mask: bool = True,
    output: Output = "class",
    rescale: Rescale = ((0.0, 1.0),),
    band_names: Sequence[str] = (),
) -> tuple[bytes, str]:
    """Bytes and media type of a picture.

    Args:
        values: uint8 [1, rows, cols] class numbers, or float32 [bands, rows, cols].
        valid: bool [rows, cols]; the rest is transparent (images), nodata (tif) or 0 in the mask (npy).
        output_format: one of `MEDIA_TYPES`.
        colormap: palette by class number (or by 0..255 for `rescale`), or intervals.
        nodata: class number that stands for 'no data' in a tif.
        crs, transform: where the pixels lie; only a tif says so.
        add_mask: False leaves transparency, and the mask of npy, out.
        output: what the values are; `rgb` ones become red, green and blue.
        rescale: the floats that get the first and the last colour, once or per band; a tif and npy keep the numbers.
        band_names: descriptions of the bands of a tif.

    Raises:
        RequestError: a format that cannot hold the values.
    """
    check_format(output_format, len(values), output)
    media_type = MEDIA_TYPES[output_format]
    if output_format == "npy":
        return _npy(values, valid, add_mask), media_type
    if output_format.startswith("tif"):
        return _tif(values, valid, colormap, nodata, crs, transform, band_names), media_type
    if output == "rgb":
        return _rgb(values, valid, output_format, add_mask, rescale), media_type
    if output == "class_confidence":
        return _numbers(values, valid, output_format), media_type
    indices = _indices(values, rescale[0])
    if not isinstance(colormap, Mapping) or output_format == "webp":
        return _rendered(values, indices, valid, output_format, colormap, add_mask), media_type
    return palette_png(*_with_clear(indices, valid, colormap, add_mask), areas=output == "class"), media_type


def palette_png(indices: Classes, palette: Sequence[Color], *, areas: bool = True) -> bytes:
    """An indexed PNG (colour type 3, 8 bit; ISO/IEC 15948): PLTE and tRNS say what an index looks like.

    Args:
        indices: uint8 [rows, cols], each less than len(palette).
        palette: red, green, blue, alpha per index, at most 256.
        areas: whether neighbours are mostly alike. Then looking for nothing but runs takes a third of the time, for a
            quarter more bytes.
    """
    height, width = indices.shape
    colors = np.asarray(palette, np.uint8).reshape(-1, 4)
    alpha = colors[:, 3].tobytes().rstrip(b"\xff")
    # Every row begins with its filter: none, which compresses flat class regions best.
    rows = np.zeros((height, width + 1), np.uint8)
    rows[:, 1:] = indices
    packer = zlib.compressobj(6, strategy=zlib.Z_RLE if areas else zlib.Z_DEFAULT_STRATEGY)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", colors[:, :3].tobytes()),
        (b"tRNS", alpha),
        (b"IDAT", packer.compress(rows.tobytes()) + packer.flush()),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind == b"IEND"
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _indices(values: Classes | Floats, ends: tuple[float, float]) -> Classes:
    if values.dtype == np.uint8:
        return np.asarray(values[0], np.uint8)
    return _steps(values[0], ends, STEPS - 1)


def _steps(plane: Classes | Floats, ends: tuple[float, float], last: int) -> Classes:
    """0 .. last for low .. high; what lies beyond is at the end."""
    low, high = ends
    # In float64: whatever range an address gives, the two ends are apart there.
    with np.errstate(over="ignore"):
        share = (np.asarray(plane, np.float64) - low) / (high - low)
    return np.asarray(np.round(np.clip(share, 0, 1) * last), np.uint8)


def _rgb(values: Classes | Floats, valid: Mask, output_format: str, add_mask: bool, rescale: Rescale) -> bytes:
    ends = rescale if len(rescale) > 1 else rescale * 3
    data = np.stack([_steps(plane, pair, 255) for plane, pair in zip(values, ends, strict=True)]) * valid
    mask = valid.astype(np.uint8) * 255 if add_mask else None
    if output_format == "webp":
        return rio_render(data, mask, img_format="WEBP", lossless=True)
    return rio_render(data, mask, img_format="PNG", zlevel=1)


def _numbers(values: Classes | Floats, valid: Mask, output_format: str) -> bytes:
    """Class number, confidence in `STEPS` steps (the last is 'not known') and validity as red, green and blue.

    Not as an alpha channel: browsers multiply colours by it before a script sees them, and a clear pixel loses its
    number. Without gAMA, sRGB and iCCP chunks, which rio-tiler does not write, no colour is managed either.
    """
    sure = np.where(values[1] < 0, STEPS, _steps(values[1], (0.0, 1.0), STEPS - 1))
    data = np.stack([values[0], sure, np.full(valid.shape, 255)]).astype(np.uint8) * valid
    if output_format == "webp":
        return rio_render(data, img_format="WEBP", lossless=True)
    return rio_render(data, img_format="PNG", zlevel=6)


def _with_clear(indices: Classes, valid: Mask, palette: Palette, add_mask: bool) -> tuple[Classes, Sequence[Color]]:
    """Indices and colours with one entry for 'no data'; numbers that the palette does not know are clear, too."""
    colors = [palette.get(index, (0, 0, 0, 0)) for index in range(256)]
    if not add_mask:
        colors = [(*color[:3], 255) for color in colors]
        return indices, [(int(r), int(g), int(b), a) for r, g, b, a in colors]
    clear = next((index for index in range(256) if index not in palette), CLEAR)
    colors[clear] = (0, 0, 0, 0)
    masked = np.where(valid, indices, np.uint8(clear)).astype(np.uint8)
    return masked, colors[: int(masked.max()) + 1]


def _rendered(
    values: Classes | Floats, indices: Classes, valid: Mask, output_format: str, colormap: ColorMap, add_mask: bool
) -> bytes:
    driver = "WEBP" if output_format == "webp" else "PNG"
    # WEBP is lossy unless told otherwise, and a blurred class edge is a third class.
    options = {"lossless": True} if driver == "WEBP" else {}
    data = indices[None] if isinstance(colormap, Mapping) or values.dtype == np.uint8 else values
    mask = valid.astype(np.uint8) * 255 if add_mask else None
    return rio_render(
        data, mask, img_format=driver, colormap=dict(colormap) if isinstance(colormap, Mapping) else colormap, **options
    )


def _npy(values: Classes | Floats, valid: Mask, add_mask: bool) -> bytes:
    """Values, then the mask (0 or 255) as the last band, as TiTiler does."""
    mask = (valid.astype(np.uint8) * 255).astype(values.dtype)[None]
    with BytesIO() as file:
        np.save(file, np.concatenate([values, mask]) if add_mask else values)
        return file.getvalue()


def _tif(
    values: Classes | Floats,
    valid: Mask,
    colormap: ColorMap,
    nodata: int,
    crs: CRS | None,
    transform: Affine | None,
    band_names: Sequence[str],
) -> bytes:
    """Class numbers with colour table, or probabilities and values in float32 with NaN where there is no data."""
    classes = values.dtype == np.uint8
    empty = nodata if classes else np.nan
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "dtype": values.dtype,
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "nodata": empty,
        "crs": crs,
        "transform": transform,
        "compress": "deflate",
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as dataset:
            dataset.write(np.where(valid, values, np.asarray(empty, values.dtype)))
            if band_names:
                dataset.descriptions = tuple(band_names)
            if classes and isinstance(colormap, Mapping):
                dataset.write_colormap(1, dict(colormap))
        return bytes(memory.read())
