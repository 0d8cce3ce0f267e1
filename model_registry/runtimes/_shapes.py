"""What the runtimes share: what a network's input demands, batches of a fixed size, and answers of four axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from model_registry.errors import ContractError, UnsupportedModel
from model_registry.onnx_file import Dim, OnnxSummary
from model_registry.postprocess import Float32
from model_registry.runtimes import Demands


def refuse_external_data(summary: OnnxSummary) -> None:
    """Refuse weights in other files: a runtime that loads from memory looks for them in the working directory."""
    if summary.external_data:
        raise UnsupportedModel(
            "the ONNX file keeps weights in other files (external data)",
            "Save it as one file, e.g. onnx.save(model, path, save_as_external_data=False)",
        )


def check_dims(dims: Sequence[Dim | None], bands: int) -> None:
    """Raise a ContractError unless `dims` are [batch, band, row, column] with that many bands."""
    if len(dims) != 4 or (isinstance(dims[1], int) and dims[1] > 0 and dims[1] != bands):
        hint = "; it looks like [batch, row, column, band]" if len(dims) == 4 and dims[3] == bands else ""
        raise ContractError(
            f"the network's input is {list(dims)}, the manifest has {bands} bands{hint}",
            "The input must be [batch, band, row, column] with that many bands",
        )


def channels_last(dims: Sequence[Dim | None]) -> bool:
    """Whether four dims can only be [batch, row, column, band]: few at the end, and sizes of a picture before them."""
    _, second, third, last = dims
    if not isinstance(last, int) or not 0 < last < _NARROWEST:
        return False
    if isinstance(second, int) and isinstance(third, int):
        return min(second, third) >= _NARROWEST
    return not isinstance(second, int) and not isinstance(third, int)


# No window is as narrow as that.
_NARROWEST = 16


def demands_of(dims: Sequence[Dim | None]) -> Demands:
    """Read what the input's dims tell: numbers are fixed, "16*h" (torch.export) is a multiple of 16."""
    batch, _, height, width = dims
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    multiples = [int(m[1] or m[2]) for d in (height, width) if (m := _MULTIPLE.fullmatch(str(d)))]
    return Demands(
        fixed=fixed,
        multiple=int(np.lcm.reduce(multiples)) if multiples and fixed is None else None,
        batch=batch if isinstance(batch, int) else None,
    )


_MULTIPLE = re.compile(r"(?:(\d+)\s*\*\s*[A-Za-z_]\w*|[A-Za-z_]\w*\s*\*\s*(\d+))")


def in_batches(
    run: Callable[[npt.NDArray[np.generic]], Float32], x: npt.NDArray[np.generic], batch: int | None
) -> Float32:
    """Return `run(x)`; a graph with a fixed `batch` gets parts of it, the last filled up with copies of its end."""
    if batch is None or batch == len(x):
        return run(x)
    parts = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        parts.append(run(filled)[: len(part)].copy())
    return np.concatenate(parts)


def as_scores(answer: npt.NDArray[np.generic]) -> Float32:
    """Return a network's `answer` as float32[B, K, H, W]; [B, H, W] becomes one channel."""
    if answer.ndim == 3:
        answer = answer[:, None]
    if answer.ndim != 4:
        raise ContractError(
            f"the network answers an array of shape {list(answer.shape)}", "It must be [batch, class, row, column]"
        )
    return answer.astype(np.float32, copy=False)


def failure(shape: Sequence[int], error: Exception) -> ContractError | MemoryError:
    """What a forward pass that raised means: too large for the memory (try a smaller window), or not this network's."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return MemoryError(f"no memory left for an input of shape {list(shape)}")
    return ContractError(
        f"the network fails on an input of shape {list(shape)} ({short(error)})",
        "Check the number of bands and the window's size multiple; serving.window.max says how large windows may be",
    )


_NO_MEMORY = re.compile(r"out of memory|(?:can't|cannot|failed to|not) allocate|not enough memory|bad_alloc", re.I)


def short(error: Exception) -> str:
    """The first line of a runtime's message that says something, without anything that looks like a path."""
    lines = [line for line in str(error).strip().splitlines() if line.strip() and not _WHERE.match(line)]
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][\w.+-]+){2,}", "<path>", (lines or [type(error).__name__])[0])[:200]


_WHERE = re.compile(r"Exception from |Check '|Traceback |\s")  # where OpenVINO and Python were, not what was wrong
