"""What the engine does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tiler.cache import ByteCache
from tiler.engine import Engine

STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


def registry_of(
    engine: Engine,
    model_bytes: Callable[[], Mapping[str, int]] = dict,
    shadow: Callable[[], list[dict[str, Any]]] = list,
    materialised: Callable[[], Mapping[str, int]] = dict,
) -> CollectorRegistry:
    """A registry of one engine's metrics: counters and gauges read when asked for, and a histogram of its stages.

    Args:
        engine: whose.
        model_bytes: gives the loaded models with the bytes they count for.
        shadow: gives what was compared, as `Shadow.report`.
        materialised: gives answers that came from exported files, as `Materialised.counts`.
    """
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine))
    registry.register(ModelCollector(model_bytes, shadow))
    registry.register(ExportCollector(materialised))
    stages = Histogram(
        "tiler_stage_seconds",
        "Seconds per stage: queue, read and forward of windows, warp and encode of tiles",
        ["stage"],
        buckets=STAGE_BUCKETS,
        registry=registry,
    )
    engine.listeners.append(lambda stage, seconds: stages.labels(stage).observe(seconds))
    return registry


class EngineCollector(Collector):
    """Reads an engine's own numbers whenever Prometheus asks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """All metrics but the histogram."""
        engine, counters = self._engine, self._engine.counters
        yield GaugeMetricFamily("tiler_queued_cells", "Cells that wait to be formed into windows", engine.queued)
        yield GaugeMetricFamily("tiler_pending_cells", "Cells in flight", engine.pending)
        yield CounterMetricFamily(
            "tiler_refused_requests", "Requests refused because the queue was full", counters.refused
        )
        cells = CounterMetricFamily("tiler_cells", "Cells by what became of them", labels=["result"])
        for result in ("hits", "shared", "inferred", "again", "dropped"):
            cells.add_metric([result], getattr(counters, result))
        yield cells
        yield from self._caches()
        yield from self._devices()

    def _caches(self) -> Iterator[Metric]:
        kept: dict[str, ByteCache[Any]] = {"scores": self._engine.cache, "pictures": self._engine.pictures}
        shared = self._engine.shared
        size = GaugeMetricFamily("tiler_cache_bytes", "Bytes kept", labels=["cache"])
        limit = GaugeMetricFamily("tiler_cache_max_bytes", "Bytes kept at most", labels=["cache"])
        asked = CounterMetricFamily("tiler_cache_lookups", "Look-ups", labels=["cache", "result"])
        for name, cache in kept.items():
            size.add_metric([name], cache.nbytes)
            limit.add_metric([name], cache.max_bytes)
            asked.add_metric([name, "hit"], cache.hits)
            asked.add_metric([name, "miss"], cache.misses)
        if shared is not None:
            for result, count in (("hit", shared.hits), ("miss", shared.misses), ("error", shared.errors)):
                asked.add_metric(["shared", result], count)
        yield from (size, limit, asked)

    def _devices(self) -> Iterator[Metric]:
        windows = CounterMetricFamily("tiler_windows", "Windows put through models", labels=["device"])
        pixels = CounterMetricFamily("tiler_pixels", "Pixels put through models, halo included", labels=["device"])
        busy = CounterMetricFamily("tiler_device_busy_seconds", "Seconds spent in models", labels=["device"])
        forwards = CounterMetricFamily(
            "tiler_forwards", "Forward passes; windows divided by them is the batch size", labels=["device"]
        )
        ready = GaugeMetricFamily(
            "tiler_ready_windows", "Windows read and waiting for a device", len(self._engine.ready)
        )
        age = GaugeMetricFamily("tiler_device_heartbeat_age_seconds", "Since the last sign of life", labels=["device"])
        rate = GaugeMetricFamily(
            "tiler_device_pixels_per_second", "What it lately did, which windows are sized by", labels=["device"]
        )
        alive = GaugeMetricFamily("tiler_device_alive", "1 while the device takes windows", labels=["device"])
        for name, device in list(self._engine.devices.items()):
            windows.add_metric([name], device.windows)
            forwards.add_metric([name], device.forwards)
            pixels.add_metric([name], device.pixels)
            busy.add_metric([name], device.busy)
            age.add_metric([name], device.heartbeat_age)
            rate.add_metric([name], device.rate)
            alive.add_metric([name], device.alive)
        yield from (windows, forwards, pixels, busy, ready, age, rate, alive)
        pace = self._engine.pace
        yield GaugeMetricFamily("tiler_read_seconds", "What reading a window lately took", pace.read_seconds)
        yield GaugeMetricFamily(
            "tiler_read_ahead_windows", "Windows formed beyond those on the devices", pace.ahead(self._engine.rate)
        )


class ExportCollector(Collector):
    """What was read from exported files instead of being inferred."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Their metrics."""
        answers = CounterMetricFamily(
            "tiler_materialised_answers",
            "Answers from exported files: whole, in part, or from overviews; and files that were refused",
            labels=["result"],
        )
        for name, count in self._counts().items():
            answers.add_metric([name], count)
        yield answers


class ModelCollector(Collector):
    """Which models are loaded, and what their shadows say."""

    def __init__(
        self, model_bytes: Callable[[], Mapping[str, int]], shadow: Callable[[], list[dict[str, Any]]]
    ) -> None:
        self._model_bytes, self._shadow = model_bytes, shadow

    def collect(self) -> Iterator[Metric]:
        """All metrics of models."""
        sizes = GaugeMetricFamily("tiler_model_bytes", "Bytes that a loaded model counts for", labels=["model"])
        for name, nbytes in self._model_bytes().items():
            sizes.add_metric([name], nbytes)
        yield sizes
        names = ["model", "shadow"]
        tiles = CounterMetricFamily(
            "tiler_shadow_tiles", "Tiles by what became of their comparison", labels=[*names, "result"]
        )
        pixels = CounterMetricFamily(
            "tiler_shadow_pixels", "Pixels compared, by the model's class", labels=[*names, "class", "result"]
        )
        for pair in self._shadow():
            who = [pair["model"], pair["shadow"]]
            for result, key in (("compared", "tiles"), ("skipped", "skipped"), ("failed", "failed")):
                tiles.add_metric([*who, result], pair[key])
            for item in pair["classes"]:
                pixels.add_metric([*who, item["name"], "agree"], item["agreed"])
                pixels.add_metric([*who, item["name"], "differ"], item["pixels"] - item["agreed"])
        yield from (tiles, pixels)
