from __future__ import annotations

from model_registry import palette


def test_colours_are_distinct_and_opaque():
    colors = [palette.color(i) for i in range(24)]
    assert len(set(colors[:8])) == 8 and all(c[3] == 255 for c in colors)
    assert colors[0] != colors[8] and colors[8][0] < colors[0][0], "a second round must be darker, not the same"


def test_parse_hex():
    assert palette.parse_hex("#FF8000") == (255, 128, 0, 255)
    assert palette.parse_hex("ff800040") == (255, 128, 0, 64)
    assert palette.parse_hex("red") is None and palette.parse_hex("gggggg") is None
