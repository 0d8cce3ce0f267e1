"""Test-time augmentation: the mean of a network's answers to flipped and turned views of a window.

Probabilities (after the activation) or finished values are averaged, never logits. The wrapper is a `Runner`, so the
contract, the probe and the choice of a runtime see the augmented network: its halo is that of all views, its speed its
own.

A turned view starts at another corner of the window. What a network of period p computes for a pixel then depends on
the distance to the far edge, modulo p: windows must start and end on multiples of p, which they do (`probe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.errors import ContractError
from model_registry.manifest import Augment, Model, Precision, RuntimeName
from model_registry.postprocess import Float32, Prediction, activated, predict
from model_registry.values import finished

if TYPE_CHECKING:
    from model_registry.runtimes import Demands, Runner, Unscale


class Turn(NamedTuple):
    """A view: quarter turns against the clock, after flipping left and right."""

    quarters: int
    flip: bool = False

    def of(self, x: Float32) -> Float32:
        """Return the view of `x` [B, C, H, W]."""
        return np.rot90(x[..., ::-1] if self.flip else x, self.quarters, axes=(2, 3))

    def undo(self, x: Float32) -> Float32:
        """Return `x`, an answer to the view, as an answer to what was viewed."""
        x = np.rot90(x, -self.quarters, axes=(2, 3))
        return x[..., ::-1] if self.flip else x


# flips: none, left and right, both, up and down. d4: all eight of the square.
TURNS: Mapping[Augment, Sequence[Turn]] = {
    "none": (Turn(0),),
    "flips": (Turn(0), Turn(0, True), Turn(2), Turn(2, True)),
    "rotations": tuple(Turn(quarters) for quarters in range(4)),
    "d4": tuple(Turn(quarters, flip) for flip in (False, True) for quarters in range(4)),
}


def passes(augment: Augment) -> int:
    """Return how many forward passes a window takes."""
    return len(TURNS[augment])


class AugmentedRunner:
    """A `Runner` that asks another one for each view of a window, one after the other, and answers their mean.

    One after the other and not as a batch: a network that is not exact may answer otherwise in a batch.
    """

    def __init__(self, runner: Runner, model: Model) -> None:
        """Wrap the `runner` of a model whose `augment` is not "none".

        Raises:
            ContractError: quarter turns of windows that must be higher than wide, or wider than high.
        """
        self._runner, self._model, self._turns = runner, model, TURNS[model.augment]
        fixed = model.window.fixed or runner.demands.fixed
        if fixed is not None and fixed[0] != fixed[1] and any(turn.quarters % 2 for turn in self._turns):
            raise ContractError(
                f"augment is {model.augment}, but the network accepts {fixed[0]} x {fixed[1]} px only",
                "Write augment: flips, or export it for square windows",
            )
        # What the views' mean is still to go through: everything but argmax, threshold and components is done.
        values = None if model.values is None else replace(model.values, scale=1.0, offset=0.0, clip=(None, None))
        emits = "probabilities" if model.values is None else model.emits
        self._rest = replace(model, emits=emits, activation="none", values=values)

    @property
    def runtime(self) -> RuntimeName:
        """See `Runner`."""
        return self._runner.runtime

    @property
    def device(self) -> str:
        """See `Runner`."""
        return self._runner.device

    @property
    def precision(self) -> Precision:
        """See `Runner`."""
        return self._runner.precision

    @property
    def demands(self) -> Demands:
        """See `Runner`."""
        return self._runner.demands

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """See `Runner`."""
        from model_registry.runtimes import to_float32

        x = scaling.apply(self._model.scaling, to_float32(pixels, unscale))
        return predict(self.logits(x), self._rest, probabilities)

    def logits(self, x: Float32) -> Float32:
        """Return the mean float32[B, K, H, W] of probabilities or finished values; see `Runner` for `x`."""
        total: Float32 | None = None
        for turn in self._turns:
            answer = turn.undo(self._finished(self._runner.logits(np.ascontiguousarray(turn.of(x)))))
            # In one order, so that a pixel gets the same bits in every window.
            total = np.ascontiguousarray(answer) if total is None else total + answer
        assert total is not None, "there is at least one view"
        return np.asarray(total / np.float32(len(self._turns)))

    def _finished(self, scores: Float32) -> Float32:
        model = self._model
        if model.values is not None:
            return finished(scores, model.values, model.activation == "sigmoid")
        return activated(scores, model)

    def stop(self) -> bool:
        """See `Runner`."""
        return self._runner.stop()

    def close(self) -> None:
        """See `Runner`."""
        self._runner.close()
