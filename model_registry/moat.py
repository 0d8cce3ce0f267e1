"""Whether a runner's windows put together are one picture: the probe's finding, verified for another runner.

The probe measures halo and period with the reference runtime in fp32. Another runtime may sum in another order near a
window's edge (Winograd tiles), and in bf16 a sum in another order rounds to another number, so that the window's shape
would show as a seam.
"""

from __future__ import annotations

from math import lcm

import numpy as np

from model_registry.errors import ModelError
from model_registry.manifest import Model
from model_registry.noise import Noise
from model_registry.postprocess import Float32
from model_registry.runtimes import Runner
from model_registry.strips import Strip, moved

_CORE = 64  # px, edge of the compared block, rounded up to the step


def fault(runner: Runner, model: Model) -> str:
    """Return why the windows of `runner` would show seams at the model's own halo and period; "" when they do not.

    Surroundings beyond the halo may not change one bit. A window of another shape, and on a GPU a window in a batch,
    may not either in bf16 and fp16; in fp32 by what summing in another order costs.

    model: with halo and period resolved, of exactness "exact" (of others no such thing is asked).
    """
    period, halo = model.window.period, model.window.halo
    assert period is not None and halo is not None
    try:
        return _moat(runner, model, period, halo) or ("" if model.window.fixed else _shapes(runner, model, halo))
    except ModelError as error:
        return f"windows of the probe fail ({error.reason})"


def _moat(runner: Runner, model: Model, period: int, halo: int) -> str:
    step = lcm(period, model.window.multiple or 1)
    across = -(-_CORE // step) * step
    length = -(-(2 * (halo + 2 * period) + 2 * _CORE) // step) * step
    for axis, shape in ((1, (across, length)), (0, (length, across))):
        strip = Strip(runner.logits, Noise(model, seed=11), model.window.fixed or shape, axis)
        if halo > strip.reach(period):
            continue  # a fixed window with no room for anything beyond its halo
        # Without NaN: the probe has already found what is connected, and a runtime that multiplies a neighbour by 0
        # (OpenVINO in bf16 does) hands its NaN on, but no number.
        if not strip.noise_holds(period, halo):
            return f"pixels beyond the halo of {halo} px count"
    return ""


def _shapes(runner: Runner, model: Model, halo: int) -> str:
    """Compare one block in windows of three shapes (and on a GPU in a batch)."""
    step = lcm(model.window.period or 1, model.window.multiple or 1)
    block = -(-_CORE // step) * step
    # Windows start on the period; the halo is one of its multiples, the sizes are multiples of the step.
    around = -(-halo // step) * step
    noise = Noise(model, seed=12)
    whole = noise.scaled((1, noise.channels, 2 * around + 3 * block, 2 * around + 4 * block))
    wanted = runner.logits(whole)[..., around + block : around + 2 * block, around + block : around + 2 * block]
    # Both start `around` before the block; `small` ends as much after it, `wide` has one more block to the right.
    small = np.ascontiguousarray(whole[..., block : 2 * (block + around), block : 2 * (block + around)])
    wide = np.ascontiguousarray(whole[..., block : 2 * (block + around), block : 3 * block + 2 * around])
    answers = {"another shape": [runner.logits(x)[:1] for x in (small, wide)]}
    if runner.device != "cpu":
        answers["a batch"] = [runner.logits(np.concatenate([small, small[..., ::-1]]))[:1]]
    for place, scores in answers.items():
        for got in scores:
            core = got[..., around : around + block, around : around + block]
            if not _same(wanted, core, runner.precision == "fp32"):
                share = 100 * moved(wanted, core, model.kind)
                return f"a window of {place} gives other scores, moving {share:.2g} % of the pixels of noise"
    return ""


def _same(a: Float32, b: Float32, rounding_allowed: bool) -> bool:
    if not rounding_allowed:
        return bool(np.array_equal(a, b))
    # As in the probe: a few times the float32 resolution of the scores, relative to their spread.
    allowed = 8e-6 * float(a.std()) + 8 * float(np.finfo(np.float32).eps) * float(np.max(np.abs(a)))
    return float(np.max(np.abs(a - b))) <= allowed
