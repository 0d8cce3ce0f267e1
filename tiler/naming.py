"""Names for URLs, from files' own."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

from tiler.scene import display_name
from tiler.settings import NAME, RESERVED


def name_for(path: str, fallback: str, taken: Container[str] = ()) -> str:
    """A name that may stand in a URL, from a file's or a folder's own.

    Args:
        path: of a scene or a model, or its URL.
        fallback: what it is called, or begins with, where its own name will not do.
        taken: names that others have already; another one than those is made.
    """
    # A version's folder is models/NAME/3.
    last = Path(path).parent.name if Path(path).name.isdigit() and Path(path).is_dir() else display_name(path)
    stem = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in Path(last).stem)
    stem = stem.strip("-_") or fallback
    if not NAME.fullmatch(stem) or stem in RESERVED:
        stem = f"{fallback}-{stem}"
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}"
    return name
