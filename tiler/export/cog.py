"""Part files -> one COG, by GDAL's own driver, over a virtual raster of the parts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import rasterio
from rasterio.errors import RasterioError
from rasterio.shutil import copy

from tiler.export.parts import TILE, ExportError, Parts, Receipt
from tiler.export.plan import bounds_of
from tiler.export.products import Product
from tiler.export.session import Facts

TAG = "TITILER_INFERENCE_"

# Characters that no XML may hold, escaped or not (XML 1.0, 2.2); names of files and classes may.
NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")

GDAL_TYPES = {"uint8": "Byte", "float32": "Float32"}


def path_of(out: Path, product: Product, first: Product) -> Path:
    """Where a product goes: what `-o` names is the first one, `out_probability.tif` another."""
    return out if product == first else out.with_name(f"{out.stem}_{product.name}{out.suffix}")


def job_in(path: Path) -> str | None:
    """The job that an exported file says that it is the result of; None for any other file, or none."""
    try:
        with rasterio.open(path) as dataset:
            job: str | None = dataset.tags().get(f"{TAG}JOB")
            return job
    except RasterioError:
        return None


def write_cog(facts: Facts, product: Product, receipts: Sequence[Receipt], parts: Parts, out: Path) -> None:
    """Make a product's COG, and put it in its place when it is whole.

    Args:
        facts: of the export.
        product: which of its products.
        receipts: of all blocks.
        parts: where their files are.
        out: the result's final path.

    Raises:
        ExportError: the disk is full, a part cannot be read.
    """
    virtual, aside = parts.folder / f"{product.name}.vrt", parts.folder / f"{product.name}.cog.tmp.tif"
    options = {
        "COMPRESS": "DEFLATE",
        "PREDICTOR": "YES" if product.dtype == "float32" else "NO",
        "BLOCKSIZE": str(TILE),
        "OVERVIEW_RESAMPLING": product.overviews,
        "BIGTIFF": "IF_SAFER",
        "NUM_THREADS": "2",
    }
    try:
        virtual.write_text(_virtual(facts, product, receipts), encoding="utf-8")
        # Beside the parts, so that GDAL's own temporary overviews are there, too.
        copy(virtual, aside, driver="COG", **options)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        # Names of classes: GDAL keeps them beside a TIFF.
        names, told = aside.with_name(f"{aside.name}.aux.xml"), out.with_name(f"{out.name}.aux.xml")
        if names.exists():
            os.replace(names, told)
        else:
            told.unlink(missing_ok=True)
        os.replace(aside, out)
    except (RasterioError, OSError) as error:
        for left in parts.folder.glob(f"{aside.name}*"):
            left.unlink(missing_ok=True)
        room = parts.free() < facts.frame.region.pixels * product.pixel_bytes // 8
        raise ExportError(
            f"{out.name!r} could not be put together" + (": the disk is nearly full" if room else ""),
            "Make room and give the same command again: all parts are there" if room else "Give the command again",
        ) from error
    virtual.unlink(missing_ok=True)


def tags_of(facts: Facts, product: Product) -> dict[str, str]:
    """What a file says of itself."""
    region = facts.frame.region
    told = {f"{TAG}{key}": value for key, value in facts.tags.items() if value}
    told[f"{TAG}OUTPUT"] = product.name
    if facts.attribution:
        told["TIFFTAG_COPYRIGHT"] = facts.attribution
    if facts.registers:
        told[f"{TAG}REGION"] = json.dumps([region.row_off, region.col_off, region.height, region.width])
    if facts.geometry is not None:
        told[f"{TAG}AREA"] = json.dumps(facts.geometry)
    return told


def _virtual(facts: Facts, product: Product, receipts: Sequence[Receipt]) -> str:
    """GDAL's VRT of the parts (https://gdal.org/en/stable/drivers/raster/vrt.html)."""
    region, grid = facts.frame.region, facts.frame.grid
    left, _, _, top = bounds_of(grid, region)
    root = ElementTree.Element("VRTDataset", rasterXSize=str(region.width), rasterYSize=str(region.height))
    _text(root, "SRS", grid.crs.to_wkt())
    _text(root, "GeoTransform", ", ".join(repr(float(v)) for v in (left, grid.res_x, 0, top, 0, -grid.res_y)))
    metadata = ElementTree.SubElement(root, "Metadata")
    for key, value in sorted(tags_of(facts, product).items()):
        _text(metadata, "MDI", value, key=key)
    for number, name in enumerate(product.bands, 1):
        band = ElementTree.SubElement(
            root, "VRTRasterBand", dataType=GDAL_TYPES[product.dtype], band=str(number), blockXSize=str(TILE),
            blockYSize=str(TILE),
        )  # fmt: skip
        _text(band, "Description", name)
        _text(band, "NoDataValue", repr(product.nodata))
        if product.scale is not None:
            _text(band, "Offset", "0")
            _text(band, "Scale", repr(product.scale))
        _add_classes(band, product)
        for receipt in receipts:
            if product.name not in receipt.files:
                continue
            rect = facts.blocks[receipt.number]
            source = ElementTree.SubElement(band, "SimpleSource")
            _text(source, "SourceFilename", f"{receipt.number:05d}.{product.name}.tif", relativeToVRT="1")
            _text(source, "SourceBand", str(number))
            width, height, kind = str(rect.width), str(rect.height), GDAL_TYPES[product.dtype]
            _text(source, "SourceProperties", "", RasterXSize=width, RasterYSize=height, DataType=kind)
            _text(source, "SrcRect", "", xOff="0", yOff="0", xSize=width, ySize=height)
            left_px, top_px = str(rect.col_off - region.col_off), str(rect.row_off - region.row_off)
            _text(source, "DstRect", "", xOff=left_px, yOff=top_px, xSize=width, ySize=height)
    return ElementTree.tostring(root, encoding="unicode")


def _add_classes(band: ElementTree.Element, product: Product) -> None:
    if not product.classes:
        return
    _text(band, "ColorInterp", "Palette")
    colors = {value: color for value, _, color in product.classes}
    names = {value: name for value, name, _ in product.classes}
    metadata = ElementTree.SubElement(band, "Metadata")
    for value, name in sorted(names.items()):
        _text(metadata, "MDI", name, key=f"CLASS_{value}")
    table = ElementTree.SubElement(band, "ColorTable")
    for value in range(256):
        red, green, blue, alpha = colors.get(value, (0, 0, 0, 0))
        ElementTree.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    categories = ElementTree.SubElement(band, "CategoryNames")
    for value in range(max(names) + 1):
        _text(categories, "Category", names.get(value, ""))


def _text(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = NOT_XML.sub("?", text)
