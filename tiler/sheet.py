"""Pictures side by side on one sheet, with titles and a legend: for people, not for maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import RequestError
from tiler.ramps import Color

_MARGIN, _LINE, _SWATCH, _SIZE = 12, 18, 12, 13  # px
_INK, _PAPER, _EMPTY = (20, 20, 20), (255, 255, 255), (225, 225, 225)


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: uint8 [rows, cols, 4] or an encoded one, its title, and what its colours mean."""

    title: str
    picture: NDArray[np.uint8] | bytes
    legend: Sequence[tuple[str, Color]] = ()


def draw(panels: Sequence[Panel], caption: str) -> bytes:
    """PNG of the panels in a row, a caption above.

    Raises:
        RequestError: Pillow, which draws the text, is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise RequestError(
            "a picture needs the package pillow, which is not installed", "Run: pip install titiler-inference[check]"
        ) from None
    font = ImageFont.load_default(_SIZE)
    pictures = [_flat(Image, panel.picture) for panel in panels]
    widths = [max(160, picture.width) for picture in pictures]
    tallest = max(picture.height for picture in pictures)
    lines = max(len(panel.legend) for panel in panels)
    height = 4 * _MARGIN + 2 * _LINE + tallest + lines * _LINE
    sheet = Image.new("RGB", (sum(widths) + _MARGIN * (len(panels) + 1), height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), caption, _INK, font)
    left, top = _MARGIN, 2 * _MARGIN + 2 * _LINE
    for panel, picture, width in zip(panels, pictures, widths, strict=True):
        pen.text((left, top - _LINE), _fitting(pen, panel.title, font, width), _INK, font)
        sheet.paste(picture, (left, top))
        for line, (name, color) in enumerate(panel.legend):
            y = top + tallest + _MARGIN + line * _LINE
            swatch = np.full((_SWATCH, _SWATCH, 4), color, np.uint8)
            sheet.paste(_flat(Image, swatch), (left, y))
            pen.text((left + _SWATCH + 6, y - 2), _fitting(pen, name, font, width - _SWATCH - 6), _INK, font)
        left += width + _MARGIN
    file = BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _flat(image: Any, picture: NDArray[np.uint8] | bytes) -> Any:
    """The picture on grey where it is transparent."""
    opened = image.open(BytesIO(picture)) if isinstance(picture, bytes) else image.fromarray(picture.copy())
    top = opened.convert("RGBA")
    return image.alpha_composite(image.new("RGBA", top.size, (*_EMPTY, 255)), top).convert("RGB")


def _fitting(pen: Any, text: str, font: Any, width: int) -> str:
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}..."
