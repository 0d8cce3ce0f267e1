"""The floor: read a window with its halo by rasterio, infer, keep. Nothing is written but the classes, at the end.

`python -m benchmarks.export.bare MODEL SCENE OUT.npy WINDOWS.json PRECISION THREADS`; the network is loaded as an
export loads it, hence the same runtime, and the windows are an export's own (`windows.py`).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from model_registry import load


def main() -> None:
    """Classes uint8[H, W] of a scene; 255 where it has no data at all."""
    model, scene, out, plan, precision, threads = sys.argv[1:]
    wish: Any = {"policy": precision, "runtime": os.environ.get("TILER_RUNTIME", "auto")}
    runner = load(model, "cpu", int(threads), **wish).runner
    with rasterio.open(scene) as dataset:
        height, width = dataset.shape
        kept = np.full((height, width), 255, np.uint8)
        for (top, left, rows, cols), (own_top, own_left, own_rows, own_cols) in json.loads(Path(plan).read_text()):
            first, before = max(top, 0), max(left, 0)
            last, after = min(top + rows, height), min(left + cols, width)
            pixels = dataset.read(window=Window(before, first, after - before, last - first))
            if not pixels.any():
                continue
            missing = ((0, 0), (first - top, top + rows - last), (before - left, left + cols - after))
            if any(map(any, missing)):
                pixels = np.pad(pixels, missing, mode="reflect")
            classes = runner(pixels[None]).classes
            assert classes is not None
            row, col = own_top - top, own_left - left
            kept[own_top : own_top + own_rows, own_left : own_left + own_cols] = classes[
                0, row : row + own_rows, col : col + own_cols
            ]
    np.save(out, kept)
    print(json.dumps({"runtime": runner.runtime, "precision": runner.precision}))


if __name__ == "__main__":
    main()
