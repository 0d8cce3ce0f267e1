"""A child: nothing but the model, in a process of its own. What serving is measured against.

Reads questions as lines of JSON: `{"model": folder, "shapes": [[batch, height, width], ...]}`.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np

from benchmarks.processes import tell
from model_registry import LoadedModel, load


class Floor:
    """The bare forward loop over given shapes: the same loader, hence runtime, precision and threads, as the server."""

    def __init__(self, device: str, threads: int | None) -> None:
        self._device, self._threads = device, threads
        self._loaded: dict[str, LoadedModel] = {}
        self._noise = np.random.default_rng(1)
        self._seen: set[tuple[str, int, int, int]] = set()

    def answer(self, model: str, shapes: list[list[int]], channels: int = 3, dtype: str = "uint8") -> dict[str, Any]:
        """Seconds of the loop. Shapes that a runtime sees for the first time are run once before the clock starts."""
        if model not in self._loaded:
            self._loaded[model] = load(model, self._device, self._threads)
        runner = self._loaded[model].runner
        sizes = [(batch, height, width) for batch, height, width in shapes]
        inputs = {
            (batch, height, width): self._noise.integers(1, 255, (batch, channels, height, width)).astype(dtype)
            for batch, height, width in set(sizes)
        }
        first = 0.0
        for size, pixels in inputs.items():
            if (model, *size) not in self._seen:
                begun = time.perf_counter()
                runner(pixels)
                first += time.perf_counter() - begun
                self._seen.add((model, *size))
        pixels_run = sum(batch * height * width for batch, height, width in sizes)
        used, each = resource.getrusage(resource.RUSAGE_SELF), []
        for size in sizes:
            begun = time.perf_counter()
            runner(inputs[size])
            each.append(time.perf_counter() - begun)
        now = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "seconds": sum(each),
            "each": each,
            "pixels": pixels_run,
            "cpu_seconds": now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
            "first_seconds": first,
            "distinct": len(inputs),
            "runtime": runner.runtime,
            "precision": runner.precision,
        }


def main() -> None:
    """Answer questions until standard input ends."""
    device, threads = sys.argv[1], int(sys.argv[2]) or None
    floor = Floor(device, threads)
    tell({"ready": True})
    for line in sys.stdin:
        tell(floor.answer(**json.loads(line)))


if __name__ == "__main__":
    main()
