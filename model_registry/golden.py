"""The golden test: pixels that the model's author put through the network, and the answer that came out.

It is the one proof that scaling, band order and weights are together what they were in training. Both are .npy files,
read without pickle, from the very bytes whose checksum was verified.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.artifacts import checksum_of, read_file
from model_registry.errors import ArtifactError, ContractError
from model_registry.manifest import GoldenTest, Model
from model_registry.postprocess import predict
from model_registry.runtimes import Runner, to_float32

MAX_BYTES = 256 << 20
_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class GoldenResult:
    """How far an answer is from the expected one.

    kind: "scores" or "classes", what was compared. compared: how many numbers.
    mismatched_per_million: those that are wrong, of a million. allowed: as many as may be.
    largest: the largest difference of a score; for classes 0 or 1.
    """

    kind: str
    compared: int
    mismatched_per_million: float
    allowed: float
    largest: float

    @property
    def passed(self) -> bool:
        """Whether no more is wrong than may be."""
        return self.mismatched_per_million <= self.allowed


def run(model: Model, runner: Runner) -> GoldenResult | None:
    """Put the model's golden input through `runner`; None where the manifest names no test.

    The input is raw pixels [C, H, W] or [B, C, H, W], as a raster would hold them (physical values for a model that
    wants these). The output is scores [K, H, W] or [B, K, H, W] in floating point, as the network emits them, or class
    values [H, W] or [B, H, W] in whole numbers.

    Raises:
        ArtifactError: a file is missing, altered or no array.
        ContractError: shapes that do not fit the model.
    """
    test = model.test
    if test is None:
        return None
    pixels = read_array(model.folder, test.input, test.input_checksum)
    wanted = read_array(model.folder, test.output, test.output_checksum)
    if pixels.ndim == 3:
        pixels, wanted = pixels[None], wanted[None]
    if pixels.ndim != 4 or pixels.shape[1] != len(model.bands):
        raise ContractError(
            f"the golden input has the shape {list(pixels.shape)}, the model {len(model.bands)} bands",
            "Write raw pixels [band, row, column]",
        )
    scores = runner.logits(scaling.apply(model.scaling, to_float32(pixels, None)))
    if wanted.dtype.kind == "f":
        return _scores(scores, wanted.astype(np.float32), test)
    classes = predict(scores, model).classes
    if classes is None:
        raise ContractError("the golden output holds whole numbers, the model has no classes", "Write its scores")
    return _classes(np.asarray([item.value for item in model.classes])[classes], wanted, test)


def read_array(folder: Path, href: str, checksum: str) -> npt.NDArray[Any]:
    """Return the array in a .npy file inside `folder`: numbers only, as many as its bytes hold.

    Raises:
        ArtifactError: not such a file, or not the one that `checksum` names.
    """
    data = read_file(folder, href, MAX_BYTES)
    name = Path(href).name
    if checksum_of(data) != checksum:
        raise ArtifactError(f"{name!r} is not the file that the manifest's checksum names", "Restore it")
    try:
        return _parse(data)
    except (ValueError, TypeError, SyntaxError, OverflowError) as error:
        raise ArtifactError(f"{name!r} is no array of numbers ({error})", "Write it with numpy.save") from None


def write(folder: Path, pixels: npt.NDArray[Any], answer: npt.NDArray[Any]) -> dict[str, str]:
    """Write `folder`/test/input.npy and output.npy and return the entries of `serving.test` that name them."""
    (folder / "test").mkdir(exist_ok=True)
    found: dict[str, str] = {}
    for name, array in (("input", pixels), ("output", answer)):
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        (folder / "test" / f"{name}.npy").write_bytes(file.getvalue())
        found |= {name: f"test/{name}.npy", f"{name}_checksum": checksum_of(file.getvalue())}
    return found


def _parse(data: bytes) -> npt.NDArray[Any]:
    # Not numpy.load: it opens zip archives too, and sets aside whatever size a header claims before it reads.
    file = io.BytesIO(data)
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin as a .npy file does")
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format version {version}")
    shape, fortran, dtype = read(file)
    if dtype.kind not in "fiu":
        raise ValueError(f"it holds {dtype}")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"its size is not that of {list(shape)} {dtype}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def _scores(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], test: GoldenTest) -> GoldenResult:
    _check_shapes(got.shape, wanted.shape)
    difference = np.abs(got - wanted)
    # Not-a-number is right nowhere, and compares as wrong only this way round.
    wrong = ~(difference <= test.atol + test.rtol * np.abs(wanted))
    largest = float(np.where(np.isfinite(difference), difference, np.finfo(np.float32).max).max())
    return GoldenResult("scores", wrong.size, 1e6 * float(wrong.mean()), test.mismatched_per_million, largest)


def _classes(got: npt.NDArray[Any], wanted: npt.NDArray[Any], test: GoldenTest) -> GoldenResult:
    _check_shapes(got.shape, wanted.shape)
    wrong = got != wanted
    return GoldenResult(
        "classes", wrong.size, 1e6 * float(wrong.mean()), test.mismatched_per_million, float(wrong.any())
    )


def _check_shapes(got: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if got != wanted:
        raise ContractError(
            f"the network answers {list(got)} to the golden input, the golden output is {list(wanted)}",
            "Write scores [class, row, column] or classes [row, column] of the same pixels",
        )
