"""Colours for classes whose author gave none.

The first eight are the qualitative palette of Okabe and Ito, "Color Universal Design" (2008), which stays distinct for
the common colour vision deficiencies; black, which hides as a map colour, is moved to the end.
More classes than colours repeat them darker.
"""

from __future__ import annotations

from model_registry.manifest import Rgba

_OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (0, 0, 0),
)
TRANSPARENT: Rgba = (0, 0, 0, 0)


def color(index: int) -> Rgba:
    """Return the opaque colour (RGBA, 0..255) of the class at `index` >= 0."""
    round_, place = divmod(index, len(_OKABE_ITO))
    shade = 0.7**round_
    red, green, blue = _OKABE_ITO[place]
    return (int(red * shade), int(green * shade), int(blue * shade), 255)


def parse_hex(text: str) -> Rgba | None:
    """Return "RRGGBB" or "RRGGBBAA" (a leading # allowed) as RGBA, None when it is neither."""
    digits = text.strip().removeprefix("#")
    if len(digits) not in (6, 8):
        return None
    try:
        numbers = bytes.fromhex(digits)
    except ValueError:
        return None
    return (numbers[0], numbers[1], numbers[2], numbers[3] if len(numbers) == 4 else 255)
