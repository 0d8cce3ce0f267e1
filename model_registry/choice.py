"""Which runtime and precision serve a model on this machine: the fastest whose answers are right, measured.

The policy is the operator's word on precision:

    fp32        only fp32
    bf16, fp16  that one, whatever it moves (the share is measured and shown); an error where the machine lacks it
    auto        fp32, or a lower precision that the model's author allows (`precision.allowed`), where the hardware has
                it and the share of pixels that it moves against fp32, on real windows of the scene, is small enough

Where nobody says anything it is the manifest's `precision.default`, which is fp32 unless the author wrote auto: a
model's map changes by bf16 only when somebody asked for it. A pixel of a regression or an embedding counts as
moved when its value differs by more than 1 % of the answer's own spread (`values.moved`).

The reference is the runtime that the model's format was made for, in fp32. An fp32 candidate must give its classes,
except where the two best probabilities lie within 1e-4; a lower precision may move what the policy allows. And windows
of the chosen one must fit together without seams (`moat`); where they do not, "auto" takes the next one, and a
precision that the operator named is served in fixed windows (`Choice.seams`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from model_registry import json_cache, moat
from model_registry.candidates import Candidate, Policy, RuntimeWish, machine, versions, wanted
from model_registry.errors import UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.runtimes import Runner, Unscale, load_runner, native_runtime
from model_registry.threads import default_threads
from model_registry.trials import Bench, Raw, Trial

VERSION = 1  # part of the cache key: raise it when a change here can change a result
ROOM = "choice"
_WORTH = 1.1  # as fast as the reference is not enough to leave it: its maintainers and ours test it most


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    moved: share of pixels (0..1) whose class differs from the fp32 reference's.
    seams: why its windows must be of one fixed size; "" for exact tiling as probed.
    trials: everything that was measured; empty when there was nothing to choose from.
    """

    runtime: RuntimeName
    precision: Precision
    moved: float = 0.0
    seams: str = ""
    trials: tuple[Trial, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def candidate(self) -> Candidate:
        """What was chosen, as `load_runner` takes it."""
        return Candidate(self.runtime, self.precision)


def choose(
    model: Model,
    policy: Policy | None = None,
    runtime: RuntimeWish = "auto",
    samples: Sequence[Raw] = (),
    allowed_moved: float | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    unscale: Unscale | None = None,
    reference: Runner | None = None,
    remeasure: bool = False,
) -> Choice:
    """Return the runtime and precision for `model`; what was measured is kept in the user's cache folder.

    Args:
        model: with its window resolved, as `live.load` has it.
        policy: see above; None takes the manifest's default.
        runtime: "auto", or the one to use.
        samples: raw windows [C, H, W] of the scene that will be served, in its own dtype; noise where there are none,
            which a low precision moves more than images. Another scene's samples are measured anew.
        allowed_moved: share (0..1) that "auto" allows; None takes the manifest's `precision.max_moved`.
        device, threads: as in `load_runner`.
        unscale: (scale, offset) of the samples, as in `Runner`.
        reference: the loaded reference runner, if there is one already.
        remeasure: whether to ignore what was kept.

    Raises:
        UnsupportedModel: nothing that was asked for can run here, or nothing that can run is right.
    """
    policy = policy or model.precision.default
    threads = threads or default_threads()
    entries = wanted(model, device, policy, runtime)
    native = Candidate(native_runtime(model), "fp32")
    if entries == [native]:
        return Choice(*native, reasons=("nothing else to choose from",))
    limit = model.precision.max_moved if allowed_moved is None else allowed_moved
    key = _key(model, device, threads, entries, samples)
    trials = None if remeasure else _recall(key, entries)
    if trials is None:
        own = reference or load_runner(model, device, threads)
        try:
            bench = Bench(model, own, samples, unscale)
            trials = [bench.trial(entry, own, device, threads) for entry in entries]
        finally:
            if reference is None:
                own.close()

    def seams_of(trial: Trial) -> str:
        if trial.candidate == native or model.exactness != "exact":
            return ""
        runner = load_runner(model, device, threads, *trial.candidate)
        try:
            return moat.fault(runner, model)
        finally:
            runner.close()

    trials = examine(trials, policy, limit, seams_of)
    json_cache.write(ROOM, key, [asdict(trial) for trial in trials])
    return decide(trials, policy, limit, "noise" if not len(samples) else "the scene")


def examine(trials: Sequence[Trial], policy: Policy, limit: float, seams_of: Callable[[Trial], str]) -> list[Trial]:
    """Look for seams from the fastest candidate down, until one has none; return the trials with what was found."""
    found = list(trials)
    for trial in ranked(trials, policy, limit):
        if trial.seams is None:
            found[found.index(trial)] = trial = replace(trial, seams=seams_of(trial))
        if not trial.seams:
            break
    return found


def decide(trials: Sequence[Trial], policy: Policy, limit: float, measured_on: str = "the scene") -> Choice:
    """Choose from what was measured; a pure function.

    Raises:
        UnsupportedModel: every trial was dropped.
    """
    order = ranked(trials, policy, limit)
    clean = [trial for trial in order if not trial.seams]
    named = policy in ("bf16", "fp16")
    if not order or not (clean or named):
        told = "; ".join(f"{t.candidate}: {_why_not(t, policy, limit) or t.seams}" for t in trials)
        raise UnsupportedModel(f"no runtime gives the right answer ({told})", "Use runtime: auto, precision: fp32")
    best = clean[0] if clean else order[0]
    reasons = [f"{t.candidate}: {why}" for t in trials if (why := _why_not(t, policy, limit))]
    reasons += [f"{t.candidate}: {t.seams}" for t in order if t.seams]
    reasons.append(f"{best.candidate}: the fastest that is left, {best.pixels_per_second / 1e6:.1f} Mpx/s")
    if best.precision != "fp32":
        reasons.append(f"{best.precision} moves {100 * best.moved:.3g} % of the pixels of {measured_on}")
    return Choice(best.runtime, best.precision, best.moved, best.seams or "", tuple(trials), tuple(reasons))


def ranked(trials: Sequence[Trial], policy: Policy, limit: float) -> list[Trial]:
    """Return the trials that may be used, the best first; the first one given is the reference if it is in fp32."""
    usable = [trial for trial in trials if not _why_not(trial, policy, limit)]
    bonus = {trials[0].candidate: _WORTH} if trials else {}
    return sorted(usable, key=lambda t: -t.pixels_per_second * bonus.get(t.candidate, 1.0))


def _why_not(trial: Trial, policy: Policy, limit: float) -> str:
    if trial.dropped:
        return trial.dropped
    if policy == "auto" and trial.precision != "fp32" and trial.moved > limit:
        return f"it moves {100 * trial.moved:.3g} % of the pixels, {100 * limit:.3g} % are allowed"
    return ""


def _key(model: Model, device: str, threads: int, entries: Sequence[Candidate], samples: Sequence[Raw]) -> str:
    """Return the cache's key: everything that a trial's outcome depends on, but not the policy that judges it."""
    seen = hashlib.sha256()
    for sample in samples:
        seen.update(f"{sample.shape} {sample.dtype}".encode())
        seen.update(np.ascontiguousarray(sample).data)
    window = (model.window, model.exactness)
    return json_cache.key(
        VERSION, model.digest, window, device, machine(device), threads, versions(), *entries, seen.hexdigest()
    )


def _recall(key: str, entries: Sequence[Candidate]) -> list[Trial] | None:
    kept = json_cache.read(ROOM, key)
    try:
        trials = [Trial(**entry) for entry in kept]
        sound = all(
            isinstance(t.pixels_per_second, float) and isinstance(t.moved, float) and isinstance(t.dropped, str)
            and isinstance(t.seams, str | None)
            for t in trials
        )  # fmt: skip
    except TypeError:
        return None
    return trials if sound and [t.candidate for t in trials] == list(entries) else None
