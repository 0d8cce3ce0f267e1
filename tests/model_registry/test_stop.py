"""A forward pass that nobody waits for any more ends before the network does."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from model_registry import testing
from model_registry.candidates import installed
from model_registry.errors import StoppedError
from model_registry.manifest import RuntimeName, open_model
from model_registry.runtimes import Runner, load_runner

PIXELS = np.random.default_rng(5).integers(0, 250, (1, 3, 512, 512)).astype(np.uint8)


def slow(folder: Path, runtime: RuntimeName, **output: str) -> Runner:
    """Enough operators that a stop meets one of them."""
    net = testing.conv_chain(layers=24, classes=5)
    model = open_model(testing.write_model(folder, net, classes=list("abcde"), **output))
    return load_runner(model, threads=1, runtime=runtime)


def stopped(run: Runner) -> list[BaseException | None]:
    """What a call comes to when it is told to stop from its beginning on."""
    ends: list[BaseException | None] = []

    def call() -> None:
        try:
            run(PIXELS)
        except BaseException as error:
            ends.append(error)
        else:
            ends.append(None)

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        run.stop()
        time.sleep(0.002)
    thread.join()
    return ends


def test_a_stopped_call_raises_and_the_next_one_is_right(tmp_path: Path) -> None:
    run = slow(tmp_path / "m", "onnxruntime")
    wanted = run(PIXELS, probabilities=True)
    for _ in range(3):
        (error,) = stopped(run)
        assert isinstance(error, StoppedError)
        got = run(PIXELS, probabilities=True)
        np.testing.assert_array_equal(got.classes, wanted.classes)
        np.testing.assert_array_equal(got.probabilities, wanted.probabilities)


def test_a_stop_between_calls_does_nothing(tmp_path: Path) -> None:
    run = slow(tmp_path / "m", "onnxruntime")
    wanted = run(PIXELS).classes
    run.stop()
    np.testing.assert_array_equal(run(PIXELS).classes, wanted)


def test_views_of_an_augmented_network_are_stopped(tmp_path: Path) -> None:
    run = slow(tmp_path / "m", "onnxruntime", augment="flips")
    wanted = run(PIXELS).classes
    (error,) = stopped(run)
    assert isinstance(error, StoppedError)
    np.testing.assert_array_equal(run(PIXELS).classes, wanted)


def test_windows_of_any_shape_are_right_between_stops(tmp_path: Path) -> None:
    """A runtime that keeps the shape of a window that it gave up would answer, or fail, as for that one."""
    run = slow(tmp_path / "m", "onnxruntime")
    shapes = [(height, width) for height in (256, 320) for width in (256, 384)]
    wanted = {shape: run(PIXELS[..., : shape[0], : shape[1]]).classes for shape in shapes}
    chance, stops = random.Random(1), 0
    for _ in range(60):
        height, width = chance.choice(shapes)
        timer = threading.Timer(chance.random() * 0.05, run.stop)
        timer.start()
        try:
            got = run(PIXELS[..., :height, :width]).classes
        except StoppedError:
            stops += 1
        else:
            np.testing.assert_array_equal(got, wanted[height, width])
        timer.join()
    assert stops


@pytest.mark.skipif(not installed("openvino"), reason="openvino is not installed")
def test_openvino_is_never_stopped(tmp_path: Path) -> None:
    run = slow(tmp_path / "m", "openvino")
    assert stopped(run) == [None] and run.stop() is False
