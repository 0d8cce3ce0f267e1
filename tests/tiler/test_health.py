"""What is seen from outside: health while everything is full, metrics, and what each tile says of how it came."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.tiler.controlled import Gate, World, at_rest, until, world
from tests.tiler.servers import Served, answer_of, call, get, serving, standalone
from tiler.engine import Engine

ANYIO_THREADS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def served(place: World) -> Iterator[Served]:
    made = standalone(place)
    yield made
    made.runner.gate.open()
    made.engine.close()


def metrics(client: TestClient) -> dict[str, float]:
    """Every sample of /metrics by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation and family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Counters that moved; gauges and times left out."""
    counters = (name for name in after if "_total{" in name and "seconds" not in name)
    return {name: after[name] - before.get(name, 0) for name in counters if after[name] != before.get(name, 0)}


# Health


def test_health_is_answered_while_everything_is_full(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers, device, openers, finishers and anyio's own threads all stand still, and stay so until we have asked."""
    served = standalone(place, read_ahead=0, finish_threads=2)
    engine, device = served.engine, served.runner.gate
    finishers, openers, readers = Gate(opened=False), Gate(), Gate()
    lon, lat = TestClient(served.app).get("/tilejson.json").json()["center"][:2]
    before = device.entered
    device.hold()
    monkeypatch.setattr("tiler.engine.read_window", gated_read(readers))
    with serving(served.app) as port:
        readers.hold()
        readers_busy = call(port, served.paths[0])
        readers.wait_for(1)
        # A reader is let go, so that the device has a window too; the next read stands still again.
        readers.let(1)
        device.wait_for(before + 1)
        engine.pace.read_ahead = 4
        more = [call(port, path) for path in served.paths[1:]]
        readers.wait_for(2)
        # TiTiler's own endpoints are synchronous: each waits in one of anyio's threads.
        points = [call(port, f"/point/{lon},{lat}?output=confidence") for _ in range(ANYIO_THREADS + 10)]
        until(
            lambda: sum("AnyIO" in thread.name for thread in threading.enumerate()) >= ANYIO_THREADS, "anyio's threads"
        )
        openers.hold()
        stuck = [engine._openers.submit(openers.enter) for _ in range(6)]
        stuck += [engine._finishers.submit(finishers.enter) for _ in range(6)]
        openers.wait_for(4)
        finishers.wait_for(2)
        reading = readers.inside
        for _ in range(20):
            health = get(port, "/healthz")
            assert health.status == 200 and health.getheader("cache-control") == "no-store"
            assert get(port, "/metrics").status == 200
        # Nothing of it was let go meanwhile.
        assert (device.inside, readers.inside, openers.inside, finishers.inside) == (1, reading, 4, 2)
        assert reading >= 1 and not any(future.done() for future in stuck)
        for gate in (readers, device, openers, finishers):
            gate.open()
        for connection in (readers_busy, *more, *points):
            assert answer_of(connection).status == 200
        until(lambda: at_rest(engine))


def anyio_threads() -> int:
    return sum("AnyIO" in thread.name for thread in threading.enumerate())


def gated_read(gate: Gate) -> Any:
    from tiler.pixels import read_window

    def read(source: Any, window: Any) -> Any:
        gate.enter()
        return read_window(source, window)

    return read


def test_a_dead_device_makes_health_fail_and_tiles_fail_at_once(served: Served) -> None:
    client = TestClient(served.app, raise_server_exceptions=False)
    assert client.get("/healthz").json()["status"] == "ok"
    kept = client.get(served.paths[1])
    served.runner.faults.append(SystemExit("out of the blue"))
    answer = client.get(served.paths[0], params={"output": "confidence"})
    assert answer.status_code == 500 and answer.headers["cache-control"] == "no-store"
    health = client.get("/healthz")
    assert health.status_code == 503 and health.headers["cache-control"] == "no-store"
    body = health.json()
    assert body["status"] == "failed" and body["devices"]["cpu"]["alive"] is False
    assert metrics(client)["tiler_device_alive{device=cpu}"] == 0
    forwards = served.runner.gate.entered
    assert client.get(served.paths[2], params={"output": "confidence"}).status_code == 500
    assert served.runner.gate.entered == forwards
    # What is kept is still answered.
    again = client.get(served.paths[1])
    assert again.status_code == 200 and again.content == kept.content


@pytest.mark.slow
def test_a_device_that_runs_one_window_for_too_long_is_not_healthy(served: Served) -> None:
    client = TestClient(served.app)
    before = served.runner.gate.entered
    served.runner.gate.hold()
    asking = threading.Thread(target=client.get, args=(served.paths[0],))
    asking.start()
    served.runner.gate.wait_for(before + 1)
    assert client.get("/healthz").status_code == 200
    (device,) = served.engine.devices.values()
    device._beat -= 100
    assert client.get("/healthz").status_code == 503
    assert metrics(client)["tiler_device_heartbeat_age_seconds{device=cpu}"] >= 100
    served.runner.gate.open()
    asking.join()
    until(lambda: client.get("/healthz").status_code == 200)


def test_a_dead_reader_makes_health_fail(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without readers nothing would ever be answered, however well the devices are."""
    client = TestClient(served.app)
    with monkeypatch.context() as patch:
        patch.setattr(served.engine.pace, "delay", lambda *_: 1 / 0)
        patch.setattr("threading.excepthook", lambda _: None)
        asking = threading.Thread(target=client.get, args=(served.paths[0],))
        asking.start()
        until(lambda: client.get("/healthz").status_code == 503)
    served.engine.close()
    asking.join()


# Metrics


def test_metrics_count_what_happened(served: Served) -> None:
    client = TestClient(served.app)
    path = served.paths[0]
    start = metrics(client)
    assert client.get(path).headers["x-cache"] == "miss"
    first = metrics(client)
    (window,) = served.runner.shapes
    cells = first["tiler_cells_total{result=inferred}"] - start["tiler_cells_total{result=inferred}"]
    assert cells > 1 and moved(start, first) == {
        "tiler_cells_total{result=inferred}": cells,
        "tiler_windows_total{device=cpu}": 1,
        "tiler_forwards_total{device=cpu}": 1,
        "tiler_pixels_total{device=cpu}": window[2] * window[3],
        "tiler_cache_lookups_total{cache=scores,result=miss}": cells,
        "tiler_cache_lookups_total{cache=pictures,result=miss}": 1,
    }
    for stage in ("queue", "read", "forward", "warp", "encode"):
        assert first[f"tiler_stage_seconds_count{{stage={stage}}}"] == 1
        assert first[f"tiler_stage_seconds_bucket{{le=+Inf,stage={stage}}}"] == 1
    assert first["tiler_device_busy_seconds_total{device=cpu}"] > start.get(
        "tiler_device_busy_seconds_total{device=cpu}", 0
    )
    assert first["tiler_cache_bytes{cache=scores}"] > 0 and first["tiler_cache_bytes{cache=pictures}"] > 0

    client.get(path)
    second = metrics(client)
    assert moved(first, second) == {"tiler_cache_lookups_total{cache=pictures,result=hit}": 1}

    client.get(path, params={"class": "a"})
    third = metrics(client)
    assert moved(second, third) == {
        "tiler_cells_total{result=hits}": cells,
        "tiler_cache_lookups_total{cache=scores,result=hit}": cells,
        "tiler_cache_lookups_total{cache=pictures,result=miss}": 1,
    }
    assert third["tiler_stage_seconds_count{stage=forward}"] == 1
    assert third["tiler_stage_seconds_count{stage=encode}"] == 2


def test_metrics_show_what_waits_now(served: Served) -> None:
    engine: Engine = served.engine
    client = TestClient(served.app)
    before = served.runner.gate.entered
    served.runner.gate.hold()
    engine.pace.read_ahead = 0
    askers = [threading.Thread(target=client.get, args=(path,)) for path in served.paths[:2]]
    askers[0].start()
    served.runner.gate.wait_for(before + 1)
    askers[1].start()
    until(lambda: engine.queued > 0)
    seen = metrics(client)
    assert seen["tiler_queued_cells{}"] == engine.queued > 0
    assert seen["tiler_pending_cells{}"] == engine.pending > engine.queued
    assert seen["tiler_device_alive{device=cpu}"] == 1
    served.runner.gate.open()
    for asker in askers:
        asker.join()
    until(lambda: at_rest(engine))
    rest = metrics(client)
    assert rest["tiler_queued_cells{}"] == rest["tiler_pending_cells{}"] == rest["tiler_ready_windows{}"] == 0


def test_metrics_count_what_was_shared_dropped_and_refused(place: World) -> None:
    served = standalone(place, read_ahead=0, finish_threads=2)
    engine, gate = served.engine, served.runner.gate
    client = TestClient(served.app)
    start = metrics(client)
    with serving(served.app) as port:
        before = gate.entered
        gate.hold()
        first = call(port, served.paths[0])
        gate.wait_for(before + 1)
        shared = call(port, served.paths[0])
        until(lambda: engine.counters.shared > 0)
        lost = call(port, served.paths[1])
        until(lambda: engine.queued > 0)
        lost.close()
        until(lambda: engine.queued == 0)
        engine._max_pending_cells = 1
        refused = get(port, served.paths[2])
        assert refused.status == 503 and refused.getheader("retry-after")
        seen = moved(start, metrics(client))
        assert seen["tiler_refused_requests_total{}"] == 1
        assert seen["tiler_cells_total{result=dropped}"] > 0
        assert seen["tiler_cells_total{result=shared}"] == engine.counters.shared
        gate.open()
        assert answer_of(first).status == answer_of(shared).status == 200


# What a tile says of itself


def stages(header: str) -> list[str]:
    """Names in a Server-Timing header, whose grammar is checked."""
    entries = header.split(", ")
    assert all(re.fullmatch(r"[a-z]+;dur=\d+\.\d", entry) for entry in entries), header
    return [entry.partition(";")[0] for entry in entries]


def test_a_tile_says_where_it_came_from_and_what_took_how_long(served: Served) -> None:
    client = TestClient(served.app)
    path = served.paths[0]
    missed = client.get(path)
    assert missed.headers["x-cache"] == "miss"
    assert stages(missed.headers["server-timing"]) == ["queue", "read", "forward", "warp", "encode"]
    kept = client.get(path)
    assert kept.headers["x-cache"] == "tile" and "server-timing" not in kept.headers
    assert kept.content == missed.content and kept.headers["etag"] == missed.headers["etag"]
    styled = client.get(path, params={"class": "a"})
    assert styled.headers["x-cache"] == "hit"
    assert stages(styled.headers["server-timing"]) == ["warp", "encode"]
    assert styled.headers["etag"] != missed.headers["etag"]
    # What a browser may read from another origin must be named.
    exposed = client.get(path, headers={"Origin": "https://maps.example.org"}).headers["access-control-expose-headers"]
    assert {"X-Cache", "Server-Timing"} <= set(exposed.split(", "))


def test_a_tile_that_others_had_asked_for_says_so(place: World) -> None:
    served = standalone(place)
    engine, gate = served.engine, served.runner.gate
    with serving(served.app) as port:
        before = gate.entered
        gate.hold()
        first = call(port, served.paths[0])
        gate.wait_for(before + 1)
        others = []
        for number in range(1, 4):
            seen = engine.counters.shared
            others.append(call(port, served.paths[0]))
            until(lambda seen=seen: engine.counters.shared > seen, f"request {number}")
        gate.open()
        assert answer_of(first).getheader("x-cache") == "miss"
        for connection in others:
            response = answer_of(connection)
            assert response.getheader("x-cache") == "shared"
            assert "forward" in stages(str(response.getheader("server-timing")))
        assert len(served.runner.shapes) == 1
