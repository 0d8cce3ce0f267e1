"""What does not fit together between a manifest and what was measured of its network.

A manifest may be stricter than the measurement (a larger halo, a coarser period, `bounded` for an exact network), never
laxer: that would be a seam, or a probability that is none, which nobody is told of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_registry.errors import ModelError
from model_registry.manifest import Model
from model_registry.postprocess import Float32
from model_registry.probe import Probe

_STRICTNESS = ("exact", "bounded", "unsafe")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong ("error": the model must not be served so) or worth knowing ("warning")."""

    subject: str
    level: Literal["error", "warning"]
    detail: str
    remedy: str = ""


def of_error(subject: str, error: ModelError) -> Finding:
    """Return the finding that an exception tells of."""
    return Finding(subject, "error", error.reason, error.remedy)


def contradictions(model: Model, measured: Probe) -> list[Finding]:
    """Return where `model`, as its manifest has it, claims more than was measured.

    measured: of the network alone, with none of the manifest's claims taken for granted.
    """
    window, found = model.window, []
    if model.exactness and _STRICTNESS.index(model.exactness) < _STRICTNESS.index(measured.exactness):
        found.append(
            Finding(
                "exactness",
                "error",
                f"serving.exactness is {model.exactness}, measured is {measured.exactness} "
                f"({'; '.join(measured.notes)})",
                f"Write {measured.exactness}, or leave it out",
            )
        )
    if measured.exactness != "exact":
        return found
    sizes = (("multiple", window.multiple, measured.multiple), ("period", window.period, measured.period))
    for name, stated, least in sizes:
        if stated is not None and stated % least:
            what = "sizes" if name == "multiple" else "places"
            found.append(
                Finding(
                    name,
                    "error",
                    f"serving.window.{name} is {stated}, windows must have {what} in multiples of {least} px",
                    f"Write a multiple of {least}, or auto",
                )
            )
    step = measured.period
    if window.halo is not None and -(-window.halo // step) * step < measured.halo:
        on_purpose = model.exactness in ("bounded", "unsafe")
        found.append(
            Finding(
                "halo",
                "warning" if on_purpose else "error",
                f"serving.window.halo is {window.halo}, an exact answer needs {measured.halo} px",
                f"Write at least {measured.halo}, or auto" + ("" if on_purpose else "; or exactness: bounded as well"),
            )
        )
    return found


def plausibility(model: Model, scores: Float32) -> list[Finding]:
    """Return what the answer `scores` float32[B, K, H, W] to plausible input says against the manifest's output block.

    Shapes and finite numbers are `live.check_contract`'s business.
    """
    lowest, highest = float(scores.min()), float(scores.max())
    if lowest == highest:
        return [Finding("answer", "warning", f"the network answers noise with {lowest:g} everywhere", "Check weights")]
    if model.kind != "classes":
        return []
    if model.emits == "labels":
        if np.array_equal(scores, np.rint(scores)):
            return []
        remedy = "Write output.emits: logits or probabilities, with one class for each channel"
        return [Finding("answer", "error", "labels must be whole numbers, the network answers others", remedy)]
    shares = lowest >= 0 and highest <= 1
    several = scores.shape[1] > 1
    sums = bool(np.allclose(scores.sum(axis=1), 1, atol=1e-3)) if several else shares
    if model.emits == "logits" and shares and sums:
        return [
            Finding(
                "answer",
                # One channel of logits may happen to lie there; several that sum to 1 everywhere may not.
                "error" if several else "warning",
                f"the manifest says logits, the network answers {lowest:.3g} to {highest:.3g}"
                + (", which sum to 1 in every pixel" if several else "")
                + ": these are probabilities, and a second activation would falsify them",
                "Write output: {emits: probabilities, activation: none}",
            )
        ]
    if several and len(np.unique(scores.argmax(axis=1))) == 1:
        return [Finding("answer", "warning", "the network answers noise with one class only", "Look at real imagery")]
    return []
