"""Run by GeoDeep's own Python: its command, with its median filter as installed, as SciPy's, or left out.

`python geodeep_run.py plain|scipy|unfiltered SCENE MODEL -t mask ...`
"""

from __future__ import annotations

import sys


def main() -> None:
    """Its command."""
    way = sys.argv.pop(1)
    if way == "plain":
        sys.modules["scipy"] = None  # type: ignore[assignment]  # it is no dependency of GeoDeep's, which then uses numpy
    from geodeep import geodeep
    from geodeep.scripts.main import main as command

    if way == "unfiltered":
        geodeep.median_filter = lambda mask, size: mask
    command()


if __name__ == "__main__":
    main()
