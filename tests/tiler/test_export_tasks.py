"""Export tasks as a cluster's worker runs them: sessions that stay open, and what becomes of them."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from affine import Affine

from model_registry.errors import ModelError
from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.errors import BusyError, InferenceError, ReadError
from tiler.export import drive
from tiler.export.order import Order, SceneOrder
from tiler.export.parts import ExportError, Parts
from tiler.export.session import Session

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    left = list(drive._sessions.values())
    drive._sessions.clear()
    for held in left:
        held.session.close()
    assert not any(held.using for held in left)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "field.tif", landscape(300, 300), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture
def order(scene: Path, tmp_path: Path) -> Order:
    model = write_model(tmp_path / "cover", conv_chain(layers=2), classes=["a", "b", "c", "d", "e"], gsd=round(RES, 4))
    return Order((SceneOrder(str(scene)),), str(model), runtime="onnxruntime")


def ready(order: Order, folder: Path) -> tuple[str, str, Parts]:
    text = order.to_json()
    facts = drive.describe(text)
    parts = Parts(folder)
    parts.claim(facts.job).release()
    return text, facts.job, parts


@pytest.mark.parametrize(
    "error",
    [
        ExportError("a worker sees another scene", "Give all the same"),
        ReadError("'a.tif' could not be read", "Try again"),
        InferenceError("no"),
        BusyError("full", "Wait", 30),
        ModelError("model 'x' is none", "Look"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_with_their_words(error: Exception) -> None:
    there = pickle.loads(pickle.dumps(error))
    assert type(there) is type(error) and str(there) == str(error)
    assert there.remedy == error.remedy
    assert getattr(there, "retry_after", 0) == getattr(error, "retry_after", 0)


def test_an_order_survives_the_way(order: Order) -> None:
    from dataclasses import replace

    given = replace(order, bbox=(1, 2, 3, 4), gsds=(0.5, 1.0), outputs=("probability",), aoi={"type": "Polygon"})
    assert Order.from_json(given.to_json()) == given


def test_a_worker_that_sees_another_scene_says_so(order: Order, scene: Path, tmp_path: Path) -> None:
    text, job, parts = ready(order, tmp_path / "parts")
    os.utime(scene, ns=(1, 1))
    with pytest.raises(ExportError, match="another scene"):
        drive.make(text, job, 0, str(parts.folder))
    assert not list(parts.folder.glob("*.tif"))


def test_a_session_of_an_earlier_export_sees_the_new_scene(order: Order, scene: Path, tmp_path: Path) -> None:
    text, job, parts = ready(order, tmp_path / "parts")
    drive.make(text, job, 0, str(parts.folder))
    write_scene(scene, landscape(300, 300, seed=9), transform=Affine(RES, 0, 1000, 0, -RES, 5000))
    text, fresh, again = ready(order, tmp_path / "again")
    assert fresh != job
    receipt = drive.make(text, fresh, 0, str(again.folder))
    assert receipt.valid == 300 * 300


def test_two_exports_share_a_worker(order: Order, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second must not close what the first is at work with."""
    from dataclasses import replace

    text, job, parts = ready(order, tmp_path / "one")
    begun, go, done = threading.Event(), threading.Event(), []
    real = Session.block

    def slowly(self: Session, rect: Any) -> Any:
        if self.order == order:
            begun.set()
            assert go.wait(DEADLINE)
        return real(self, rect)

    monkeypatch.setattr(Session, "block", slowly)

    def work() -> None:
        try:
            done.append(drive.make(text, job, 0, str(parts.folder)))
        except BaseException as error:
            done.append(error)

    first = threading.Thread(target=work)
    first.start()
    assert begun.wait(DEADLINE)
    other = replace(order, attribution="me")
    theirs, their_job, their_parts = ready(other, tmp_path / "two")
    assert drive.make(theirs, their_job, 0, str(their_parts.folder)).valid == 300 * 300
    go.set()
    first.join(DEADLINE)
    assert getattr(done[0], "valid", done[0]) == 300 * 300
    # Now that it is idle it goes with the next.
    ready(replace(order, attribution="you"), tmp_path / "three")
    assert len(drive._sessions) == 1


def test_slots_come_back_whatever_happens(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from tiler.export.products import Product

    session = Session.open(replace(order, block=256, max_window_pixels=10000))
    try:
        facts = session.facts
        slots = session._slots._initial_value  # type: ignore[attr-defined]

        def free() -> int:
            return session._slots._value  # type: ignore[attr-defined]

        session.block(facts.blocks[0])
        assert free() == slots
        walking = session._inferred_pictures(facts.blocks[0], None)
        next(walking)
        assert free() < slots
        walking.close()
        assert free() == slots
        with monkeypatch.context() as patch:
            patch.setattr(Product, "encoded", lambda self, picture: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.block(facts.blocks[0])
        assert free() == slots
        with monkeypatch.context() as patch:
            patch.setattr(session.engine, "infer", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.block(facts.blocks[0])
        assert free() == slots
        # Four blocks at once on three slots.
        threads = [threading.Thread(target=session.block, args=(facts.blocks[0],)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads) and free() == slots
        session.stop.set()
        from tiler.export.session import Stopped

        with pytest.raises(Stopped):
            session.block(facts.blocks[0])
        assert free() == slots
    finally:
        session.close()
