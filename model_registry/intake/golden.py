"""The golden test of a version: pixels, and what the network answered to them when it came in.

Whoever runs the model later, in another version of a runtime or on another machine, can see whether it still does.
`test/input.npy` holds raw pixels [1, C, H, W] in the dtype of the rasters, before scaling; `test/output.npy` holds the
network's scores [1, K, H, W], float32, before activation.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.artifacts import read_named
from model_registry.errors import ArtifactError, ContractError, ManifestError
from model_registry.intake.answers import Answers
from model_registry.manifest import Model
from model_registry.noise import Noise
from model_registry.postprocess import Float32
from model_registry.runtimes import Runner, to_float32

INPUT, OUTPUT = "test/input.npy", "test/output.npy"
RTOL = ATOL = 1e-3
MISMATCHED = 100  # pixels per million whose class may differ
_EDGES = (128, 224, 256, 384, 512)
_SEED = 20
_MAX_BYTES = 1 << 30


def emits_of(model: Model, runner: Runner, said: str | None) -> str:
    """Return what the network emits, as said, or as its answer to noise shows beyond doubt.

    Values outside 0..1 are no probabilities; several channels that add up to 1 everywhere are.

    Raises:
        ManifestError: neither; a person has to say it.
    """
    if said is not None:
        return said
    scores = _answer(model, runner)
    if not np.isfinite(scores).all():
        return "logits"  # the contract's check will name it
    if scores.min() < -1e-3 or scores.max() > 1.001:
        whole = scores.shape[1] == 1 and bool((scores == np.rint(scores)).all())
        if not whole:
            return "logits"
    elif scores.shape[1] > 1 and float(np.abs(scores.sum(axis=1) - 1).max()) < 1e-2:
        return "probabilities"
    raise ManifestError(
        f"the network's values lie between {scores.min():.3g} and {scores.max():.3g}: logits, probabilities or labels?",
        "Say it with --emits logits, probabilities or labels",
    )


def channels_of(model: Model, runner: Runner) -> int:
    """Return how many channels the network answers."""
    return int(_answer(model, runner).shape[1])


def make(place: Path, model: Model, runner: Runner, answers: Answers, brought: Mapping[str, bytes]) -> dict[str, Any]:
    """Write both files below `place` and return the block `serving.test`.

    The pixels are those that came with the model or that a person gave, else noise with a fixed seed. An answer that
    came with them must be the network's.

    Raises:
        ManifestError, ArtifactError: given files that are no such arrays.
        ContractError: the network answers differently each time, or not as given.
    """
    pixels, expected = _given(model, answers, brought)
    if pixels is None:
        pixels = _pixels(model, runner)
    scores = _run(model, runner, pixels)
    if not np.array_equal(scores, _run(model, runner, pixels)):
        difference = float(np.abs(scores - _run(model, runner, pixels)).max())
        if difference > ATOL:
            raise ContractError(
                f"the network answers the same pixels differently each time (by {difference:.3g})",
                "Export it in evaluation mode (model.eval()), without dropout",
            )
    if expected is not None:
        _compare(model, scores, expected)
    (place / "test").mkdir()
    for name, array in ((INPUT, pixels), (OUTPUT, scores)):
        np.save(place / name, np.ascontiguousarray(array), allow_pickle=False)
    return {"input": INPUT, "output": OUTPUT, "rtol": RTOL, "atol": ATOL, "mismatched_per_million": MISMATCHED}


def _given(model: Model, answers: Answers, brought: Mapping[str, bytes]) -> tuple[Any, Any]:
    files = dict(brought)
    for key, path in (("input", answers.test_input), ("output", answers.test_output)):
        if path is not None:
            files[key] = read_named(Path(path), _MAX_BYTES)
    if "input" not in files:
        if "output" in files:
            raise ManifestError("a test's answer was given without its pixels", "Give --test-input as well")
        return None, None
    pixels = _load(files["input"], "the test's pixels")
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[1] != len(model.bands) or pixels.dtype.kind not in "uif":
        raise ManifestError(
            f"the test's pixels have the shape {list(pixels.shape)} and are {pixels.dtype}",
            f"Save [{len(model.bands)}, row, column] of the raster's own numbers with numpy.save",
        )
    return pixels, _load(files["output"], "the test's answer") if "output" in files else None


def _load(data: bytes, what: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError, SyntaxError):
        raise ArtifactError(f"{what} cannot be read", "Save it with numpy.save") from None
    if not isinstance(array, np.ndarray) or array.size == 0:
        raise ArtifactError(f"{what} is not one array", "Save it with numpy.save")
    return array


def _compare(model: Model, scores: Float32, expected: npt.NDArray[Any]) -> None:
    """Scores [K, H, W], or class numbers (values of the classes) [H, W], each with a batch axis or without."""
    if expected.shape in (scores.shape, scores.shape[1:]) and scores.shape[1] > 1:
        wrong = ~np.isclose(scores, expected.reshape(scores.shape), rtol=RTOL, atol=ATOL)
        share, what = float(wrong.mean()), "of the scores"
    elif expected.shape[-2:] == scores.shape[-2:] and expected.size == scores[0, 0].size:
        from model_registry.postprocess import predict

        classes = np.asarray([c.value for c in model.classes])[predict(scores, model).classes[0]]
        share, what = float(np.mean(classes != expected.reshape(classes.shape))), "of the pixels' classes"
    else:
        raise ContractError(
            f"the test's answer has the shape {list(expected.shape)}, the network's {list(scores.shape)}",
            "Save scores [class, row, column] or class numbers [row, column]",
        )
    if share > MISMATCHED / 1e6:
        raise ContractError(
            f"the network gives another answer than the test's for {100 * share:.3g} % {what}",
            "Check the scaling, the order of the bands and the order of the classes",
        )


def _pixels(model: Model, runner: Runner) -> npt.NDArray[Any]:
    noise = Noise(model, seed=_SEED)
    for height, width in _sizes(model):
        pixels = noise.raw((1, noise.channels, height, width))
        try:
            _run(model, runner, pixels)
        except ContractError:
            continue
        return pixels
    raise ContractError(
        f"the network takes no window of {_EDGES} px", "Say its size in the export, or write a model.yaml"
    )


def _answer(model: Model, runner: Runner) -> Float32:
    return _run(model, runner, _pixels(model, runner))


def _run(model: Model, runner: Runner, pixels: npt.NDArray[Any]) -> Float32:
    # A copy: a runtime may hand out memory that its next call overwrites.
    return runner.logits(scaling.apply(model.scaling, to_float32(pixels, None))).copy()


def _sizes(model: Model) -> list[tuple[int, int]]:
    if model.window.fixed is not None:
        return [model.window.fixed]
    multiple = model.window.multiple or 1
    return [(edge, edge) for edge in (-(-e // multiple) * multiple for e in _EDGES)]
