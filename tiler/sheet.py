"""Pictures side by side on one sheet, with titles and a legend: for people, not for maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.errors import RequestError

Color = tuple[int, int, int, int]

_MARGIN, _LINE, _SWATCH, _SIZE = 12, 18, 12, 13  # px
_INK, _PAPER, _EMPTY = (20, 20, 20), (255, 255, 255), (225, 225, 225)


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture: `rgba` uint8 [rows, cols, 4], its title, and what its colours mean."""

    title: str
    rgba: NDArray[np.uint8]
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
    widths = [max(160, panel.rgba.shape[1]) for panel in panels]
    tallest = max(panel.rgba.shape[0] for panel in panels)
    lines = max(len(panel.legend) for panel in panels)
    height = 4 * _MARGIN + 2 * _LINE + tallest + lines * _LINE
    sheet = Image.new("RGB", (sum(widths) + _MARGIN * (len(panels) + 1), height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), caption, _INK, font)
    left, top = _MARGIN, 2 * _MARGIN + 2 * _LINE
    for panel, width in zip(panels, widths, strict=True):
        pen.text((left, top - _LINE), panel.title, _INK, font)
        sheet.paste(_flat(Image, panel.rgba), (left, top))
        for line, (name, color) in enumerate(panel.legend):
            y = top + tallest + _MARGIN + line * _LINE
            box = Image.new("RGBA", (_SWATCH, _SWATCH), color)
            sheet.paste(_flat(Image, np.asarray(box)), (left, y))
            pen.text((left + _SWATCH + 6, y - 2), _fitting(pen, name, font, width - _SWATCH - 6), _INK, font)
        left += width + _MARGIN
    file = BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _flat(image: Any, rgba: NDArray[np.uint8]) -> Any:
    """The picture on grey where it is transparent."""
    top = image.fromarray(np.ascontiguousarray(rgba))
    paper = image.new("RGBA", top.size, (*_EMPTY, 255))
    return image.alpha_composite(paper, top).convert("RGB")


def _fitting(pen: Any, text: str, font: Any, width: int) -> str:
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(f"{text}...", font=font) > width:
        text = text[:-1]
    return f"{text}..."
