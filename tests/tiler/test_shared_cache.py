"""Replicas share cells through a real Redis; whatever is wrong with it is a miss."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import RES, Host, host, landscape, tiles_over, write_scene
from tiler.engine import Engine
from tiler.shared_cache import HEADER, SharedCache, decode, encode
from tiler.values import Cell, Key, Scores

redis = pytest.importorskip("redis")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    running = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    client = redis.Redis(port=port)
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0"
    running.terminate()
    running.wait()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(
        tmp_path_factory.mktemp("models") / "m", strided_unet(), classes=list("abcde"), gsd=round(RES, 4)
    )


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", landscape(300, 400))


def replica(model: Path, url: str) -> tuple[Host, Engine]:
    engine = Engine(shared=SharedCache(url))
    return host({"m": model}, engine=engine), engine


def answers(replica: Host, scene: Path) -> list[bytes]:
    paths = [f"m/tiles/WebMercatorQuad/{t.z}/{t.x}/{t.y}.npy" for t in tiles_over(scene)]
    return [replica.get(path, scene).content for path in paths]


def settled(engine: Engine, url: str) -> None:
    """Wait until what an engine has inferred has reached the cache."""
    client = redis.Redis.from_url(url)
    for _ in range(500):
        if client.dbsize() >= engine.counters.inferred:
            return
        time.sleep(0.01)
    raise AssertionError("the cells did not reach the shared cache")


@pytest.mark.parametrize("count", [0, 3])
def test_a_cell_survives_its_bytes(count: int) -> None:
    random = np.random.default_rng(1)
    cell = Scores(
        classes=random.integers(0, 255, (13, 32)).astype(np.uint8),
        valid=random.random((13, 32)) > 0.3,
        probabilities=random.random((count, 13, 32)).astype(np.float16) if count else None,
    )
    back = decode(encode(cell))
    assert (back.classes == cell.classes).all() and (back.valid == cell.valid).all()
    assert (back.probabilities is None) == (count == 0)
    if back.probabilities is not None and cell.probabilities is not None:
        assert (back.probabilities == cell.probabilities).all()


@pytest.mark.parametrize(("values", "components"), [(1, 0), (16, 3), (0, 3)])
def test_a_cell_without_classes_survives_its_bytes(values: int, components: int) -> None:
    random = np.random.default_rng(1)
    cell = Scores(
        classes=None,
        valid=random.random((13, 32)) > 0.3,
        values=random.normal(20, 5, (values, 13, 32)).astype(np.float32) if values else None,
        components=random.normal(0, 5, (components, 13, 32)).astype(np.float16) if components else None,
    )
    back = decode(encode(cell))
    assert back.classes is None and back.probabilities is None and (back.valid == cell.valid).all()
    for name in ("values", "components"):
        kept, wanted = getattr(back, name), getattr(cell, name)
        assert (kept is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(kept, wanted)
    assert cell.nbytes == 13 * 32 * (1 + 4 * values + 2 * components) == back.nbytes


@pytest.mark.parametrize("damage", ["", "short", "version", "zip", "bomb"])
def test_other_bytes_are_refused(damage: str) -> None:
    whole = encode(Scores(np.zeros((32, 32), np.uint8), np.ones((32, 32), bool)))
    damaged = {
        "": b"",
        "short": whole[:-4],
        "version": b"\x07" + whole[1:],
        "zip": whole[: HEADER.size] + b"not deflated",
        "bomb": whole[: HEADER.size]
        + encode(Scores(np.zeros((2000, 2000), np.uint8), np.ones((2000, 2000), bool)))[HEADER.size :],
    }[damage]  # fmt: skip
    with pytest.raises((ValueError, zlib.error)):
        decode(damaged)


def test_a_second_replica_infers_nothing(server: str, model: Path, scene: Path) -> None:
    first, one = replica(model, server)
    expected = answers(first, scene)
    settled(one, server)
    second, two = replica(model, server)
    assert answers(second, scene) == expected
    assert one.forwards > 0 and two.forwards == 0
    one.close()
    two.close()


@pytest.mark.slow
def test_values_and_components_are_shared_too(server: str, tmp_path: Path, scene: Path) -> None:
    gsd, net = round(RES, 4), conv_chain(layers=2, classes=8)
    vectors = write_model(tmp_path / "v", net, tasks=["embedding"], channels=8, gsd=gsd)
    item = tiles_over(scene)[0]
    for end in (".png", ".tif"):
        path = f"m/tiles/WebMercatorQuad/{item.z}/{item.x}/{item.y}{end}"
        first, one = replica(vectors, server)
        expected = first.get(path, scene).content
        for _ in range(500):
            if one.shared is not None and not one._openers._work_queue.qsize():
                break
            time.sleep(0.01)
        one.close()
        second, two = replica(vectors, server)
        assert second.get(path, scene).content == expected
        assert one.forwards > 0 and two.forwards == 0
        two.close()


@pytest.mark.slow
def test_damaged_cells_are_inferred_again(server: str, model: Path, scene: Path) -> None:
    first, one = replica(model, server)
    expected = answers(first, scene)
    settled(one, server)
    client = redis.Redis.from_url(server)
    for key in client.keys():
        client.set(key, b"\x80\x04\x95 a pickle, for all we know")
    second, two = replica(model, server)
    assert answers(second, scene) == expected
    assert two.forwards > 0 and two.shared is not None and two.shared.errors > 0
    one.close()
    two.close()


def test_without_a_server_everything_is_a_miss(model: Path, scene: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{probe.getsockname()[1]}/0"
        alone, engine = replica(model, url)
        assert all(answers(alone, scene))
        assert engine.forwards > 0 and engine.shared is not None and engine.shared.errors > 0
        engine.close()


def test_a_silent_server_is_given_up_at_once(model: Path, scene: Path) -> None:
    """It accepts connections and never answers: the time-out makes it a miss, and the pause keeps it to one."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        cache = SharedCache(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        key = Key("r", Cell(0, 0), False)
        assert cache.get([key]) == {}
        assert cache.errors == 1
        assert cache.get([key]) == {}
        assert cache.errors == 1
        cache.close()


def test_precise_probabilities_come_back_to_the_bit() -> None:
    random = np.random.default_rng(0)
    planes = random.random((5, 9, 7)).astype(np.float32)
    back = decode(encode(Scores(random.integers(0, 5, (9, 7)).astype(np.uint8), np.ones((9, 7), bool), planes)))
    assert back.probabilities is not None and back.probabilities.dtype == np.float32
    np.testing.assert_array_equal(back.probabilities, planes)
