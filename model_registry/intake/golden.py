"""The golden test of a version that comes in: a person's own pixels and answer, or noise and what the network says now.

The first proves that scaling, order of bands and order of classes are right; the second only that whoever runs the
model later, with another runtime or machine, gets the same. Files and comparison are those of `model_registry.golden`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import golden, live, scaling
from model_registry.artifacts import checksum_of, read_named
from model_registry.errors import ContractError, ManifestError
from model_registry.intake.answers import Answers
from model_registry.manifest import GoldenTest, Model
from model_registry.noise import Noise
from model_registry.postprocess import Float32
from model_registry.runtimes import Runner, to_float32

_SEED = 20
_SAME = 1e-3  # answers to the same pixels may differ so far: threads add up in another order


def emits_of(scores: Float32, said: str | None) -> str:
    """Return what the network emits, as said, or as its answer to noise shows beyond doubt.

    Values outside 0..1 are no probabilities; several channels that add up to 1 everywhere are.

    Raises:
        ManifestError: neither; a person has to say it.
    """
    if said is not None:
        return said
    if not np.isfinite(scores).all():
        return "logits"  # the contract's check names it
    if scores.min() < -1e-3 or scores.max() > 1.001:
        if scores.shape[1] > 1 or not np.array_equal(scores, np.rint(scores)):
            return "logits"
    elif scores.shape[1] > 1 and float(np.abs(scores.sum(axis=1) - 1).max()) < 1e-2:
        return "probabilities"
    low, high = scores.min(), scores.max()
    raise ManifestError(
        f"the network answers numbers from {low:.3g} to {high:.3g}, which may be logits, probabilities or labels",
        "Say it with --emits logits, probabilities or labels",
    )


def answer_to_noise(model: Model, runner: Runner) -> tuple[npt.NDArray[Any], Float32]:
    """Return (raw pixels [1, C, H, W], scores [1, K, H, W]) of the first window size that the network takes.

    Raises:
        ContractError: it takes none of those that are tried.
    """
    noise = Noise(model, seed=_SEED)
    failure: ContractError | None = None
    for height, width in live.trial_sizes(model.window):
        pixels = noise.raw((1, noise.channels, height, width))
        try:
            return pixels, _run(model, runner, pixels)
        except ContractError as error:
            failure = failure or error
    assert failure is not None
    raise failure


def make(place: Path, model: Model, runner: Runner, answers: Answers, brought: Mapping[str, bytes]) -> dict[str, Any]:
    """Write `place`/test/ and return the block `serving.test`; given pixels and answers win over noise.

    Raises:
        ManifestError: an answer without its pixels.
        ArtifactError: a given file is no array.
        ContractError: the network answers differently each time, or not as given.
    """
    given = dict(brought)
    for key, path in (("input", answers.test_input), ("output", answers.test_output)):
        if path is not None:
            given[key] = read_named(Path(path), golden.MAX_BYTES)
    if "output" in given and "input" not in given:
        raise ManifestError("the test's answer was given without its pixels", "Give --test-input as well")
    (place / "test").mkdir(exist_ok=True)
    arrays = {key: _array(place, key, data) for key, data in given.items()}
    if "input" in arrays:
        pixels = arrays["input"]
        batch = pixels if pixels.ndim == 4 else pixels[None]
        if batch.ndim != 4 or batch.shape[1] != len(model.bands):
            raise ManifestError(
                f"the test's pixels have the shape {list(pixels.shape)}, the model has {len(model.bands)} bands",
                "Save raw pixels [band, row, column] with numpy.save",
            )
        scores = _run(model, runner, batch)
    else:
        pixels, scores = answer_to_noise(model, runner)
        batch = pixels
    difference = float(np.abs(scores - _run(model, runner, batch)).max())
    if difference > _SAME * max(1.0, float(np.abs(scores).max())):
        raise ContractError(
            f"the network answers the same pixels differently each time (by {difference:.3g})",
            "Export it in evaluation mode (model.eval()), without dropout",
        )
    expected = arrays.get("output", scores if pixels.ndim == 4 else scores[0])
    block = golden.write(place, pixels, expected)
    if "output" in arrays:
        test = GoldenTest(block["input"], block["input_checksum"], block["output"], block["output_checksum"])
        result = golden.run(replace(model, folder=place, test=test), runner)
        if result is not None and not result.passed:
            raise ContractError(
                f"the network's {result.kind} are not the test's: {result.mismatched_per_million / 1e4:.3g} % differ",
                "Check the scaling, the order of the bands and the order of the classes",
            )
    return dict(block)


def _array(place: Path, key: str, data: bytes) -> npt.NDArray[Any]:
    href = f"test/{key}.npy"
    (place / href).write_bytes(data)
    return golden.read_array(place, href, checksum_of(data))


def _run(model: Model, runner: Runner, pixels: npt.NDArray[Any]) -> Float32:
    # A copy: a runtime may hand out memory that its next call overwrites.
    return runner.logits(scaling.apply(model.scaling, to_float32(pixels, None))).copy()
