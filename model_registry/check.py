"""Everything that can be measured of a model before it serves: what `tiler models check` shows and keeps.

`check` loads the file, so for files that nobody knows it belongs in a child process (`child`); its answer is what JSON
can hold.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import aside, candidates, golden, json_cache, live, moat
from model_registry import probe as probing
from model_registry.candidates import Candidate
from model_registry.ensemble import network_of, refs_of
from model_registry.errors import ContractError, ModelError, UnsupportedModel
from model_registry.findings import Finding, contradictions, of_error, plausibility
from model_registry.manifest import Model, open_model
from model_registry.noise import Noise
from model_registry.postprocess import Float32, predict
from model_registry.probe import Probe
from model_registry.runtimes import Runner, load_runner
from model_registry.strips import Strip
from model_registry.threads import default_threads
from model_registry.trials import Bench, Raw

VERSION = 1  # of the answer's form
REPORT = "probe.json"


def check(path: str, device: str = "cpu", threads: int | None = None, *, samples: Sequence[Raw] = ()) -> dict[str, Any]:
    """Load the model at `path` and measure it: contract, windows, golden test, precisions, speed.

    Args:
        path: as `open_model` takes it.
        device, threads: as in `load_runner`.
        samples: raw windows [C, H, W] of a scene, on which precisions are compared; noise where there are none.

    Returns:
        what docs/models.md lists: `exactness`, `period`, `halo`, `multiple`, `error`, `drift`, `speed`, `findings`, ...
        Those that were not measured, because the network does not do what its manifest says, are None or empty.

    Raises:
        ModelError: there is no such model, or its file cannot be loaded.
    """
    begin, begin_cpu = time.perf_counter(), time.process_time()
    model = open_model(path)
    if refs_of(model):
        raise UnsupportedModel(f"{model.name!r} is an ensemble of other models", "Check those: `tiler models check`")
    threads = threads or default_threads()
    found: dict[str, Any] = {
        "version": VERSION,
        "model": f"{model.name}:{model.version}",
        "title": model.title,
        "digest": model.digest,
        "machine": machine(device, threads),
        "key": key(model.digest, device, threads),
    } | dict.fromkeys(("exactness", "period", "halo", "multiple", "fixed", "error", "contract", "golden", "windows"))
    found |= {"errors": [], "notes": [], "drift": [], "speed": [], "served": None}
    if model.members:
        found["notes"].append("measured of the network that all members share, at no particular resolution")
        model = network_of(model)
    reference = load_runner(model, device, threads)
    try:
        findings = _measure(model, reference, found, device, threads, samples)
    finally:
        reference.close()
    found["findings"] = [asdict(finding) for finding in findings]
    found["seconds"] = round(time.perf_counter() - begin, 2)
    found["cpu_seconds"] = round(time.process_time() - begin_cpu, 2)
    return found


def machine(device: str, threads: int) -> dict[str, Any]:
    """Return what the figures of speed and precision depend on besides the model."""
    name = candidates.machine(device)
    return {"device": device, "processor": name, "threads": threads, "runtimes": candidates.versions()}


def key(digest: str, device: str, threads: int) -> str:
    """Return what a report must carry to be of this model, this machine and this version of the measurement."""
    return json_cache.key(VERSION, probing.VERSION, digest, *machine(device, threads).values())


def write(path: Path, found: dict[str, Any]) -> Path | None:
    """Keep a report beside the model at `path`; None where that folder cannot be written to."""
    place = report_path(path)
    try:
        aside.write_json(place, found)
    except OSError:
        return None
    return place


def read(path: Path, digest: str) -> dict[str, Any] | None:
    """Return the kept report of the model at `path`, None when there is none or it is of another model."""
    found = aside.read_json(report_path(path))
    sound = isinstance(found, dict) and found.get("version") == VERSION and found.get("digest") == digest
    return found if sound else None


def report_path(path: Path) -> Path:
    """Return where the report of the model at `path` is kept: probe.json in its folder, or beside a bare file."""
    if path.is_dir():
        return path / REPORT
    return path.parent / (REPORT if path.name == "model.yaml" else f"{path.stem}.{REPORT}")


def _measure(
    model: Model, reference: Runner, found: dict[str, Any], device: str, threads: int, samples: Sequence[Raw]
) -> list[Finding]:
    """Fill `found`, and return what is wrong."""
    findings: list[Finding] = []
    try:
        demanding = live.with_demands(model, reference.demands)
        live.check_contract(demanding, reference)
        scores = _noise_scores(demanding, reference)
        classes = predict(scores, demanding).classes
    except ContractError as error:
        return [of_error("contract", error)]
    found["contract"] = _contract(demanding, scores, classes)
    findings += plausibility(model, scores)
    measured = _probe(demanding, reference)
    found |= {name: getattr(measured, name) for name in ("exactness", "period", "halo", "multiple")}
    found |= {"fixed": demanding.window.fixed, "notes": [*found["notes"], *measured.notes]}
    found["errors"] = [seam._asdict() for seam in measured.errors]
    found["error"] = measured.error._asdict() if measured.error is not None else None
    if measured.exactness == "exact":
        found["error"]["window"] = None  # of any size
    findings += contradictions(model, measured)
    try:
        # As the server will: with what the manifest states checked instead of searched. It finds this in its cache.
        served = live.resolve(demanding, probing.measure_or_recall(demanding, reference))
        window = served.window
        found["served"] = {
            "exactness": served.exactness, "halo": window.halo, "period": window.period, "multiple": window.multiple
        }  # fmt: skip
    except ContractError as error:  # told by `contradictions`, but for what it may not know of
        served = _as_measured(demanding, measured)
        if not any(finding.level == "error" for finding in findings):
            findings.append(of_error("window", error))
    found["windows"] = _windows(served, reference, measured)
    try:
        result = golden.run(model, reference)
        found["golden"] = None if result is None else asdict(result) | {"passed": result.passed}
        if result is not None and not result.passed:
            detail = f"{result.mismatched_per_million:.4g} of a million {result.kind} are wrong, "
            detail += f"{result.allowed:g} may be (largest difference {result.largest:.3g})"
            findings.append(Finding("golden test", "error", detail, "Check scaling, band order and weights"))
    except ModelError as error:
        findings.append(of_error("golden test", error))
    bench = Bench(served, reference, samples)
    for candidate in candidates.candidates(served, device):
        drift, speed = _trial(bench, candidate, reference, served, device, threads)
        found["drift"].append(drift)
        if speed is not None:
            found["speed"].append(speed)
    return findings


def _noise_scores(model: Model, runner: Runner) -> Float32:
    """Return the scores of one plausible window of a size that the network takes."""
    noise = Noise(model, seed=1)
    sizes = live.trial_sizes(model.window)
    for height, width in sizes:
        try:
            return runner.logits(noise.scaled((1, noise.channels, height, width)))
        except ContractError:
            if (height, width) == sizes[-1]:
                raise
    raise AssertionError("no sizes to try")


def _contract(model: Model, scores: Float32, classes: npt.NDArray[np.uint8] | None) -> dict[str, Any]:
    counts = np.zeros(0)
    if classes is not None:
        counts = np.bincount(classes.ravel(), minlength=len(model.classes)) / classes.size
    return {
        "bands": list(model.bands),
        "sizes": list(model.window.fixed) if model.window.fixed else "any",
        "channels": scores.shape[1],
        "range": [float(scores.min()), float(scores.max())],
        "kind": model.kind,
        "emits": model.emits,
        "activation": model.activation,
        # Shares of what it makes of noise: a class that never comes is nothing to worry about, one class alone is.
        "seen": {item.name: round(float(n), 4) for item, n in zip(model.classes, counts, strict=True)},
    }


def _probe(model: Model, runner: Runner) -> Probe:
    """Measure the network with nothing that its manifest claims taken for granted, and keep that for the server."""
    window = model.window
    bare = replace(model, window=replace(window, multiple=None, period=None, halo=None), exactness=None)
    if bare == model:
        return probing.measure_or_recall(model, runner, remeasure=True)
    try:
        return probing.measure(bare, runner)
    except ContractError:
        if window.multiple is None:
            raise
        return probing.measure(replace(bare, window=replace(bare.window, multiple=window.multiple)), runner)


def _as_measured(model: Model, measured: Probe) -> Model:
    window = replace(model.window, multiple=measured.multiple, period=measured.period, halo=measured.halo)
    return replace(model, window=window, exactness=measured.exactness)


def _windows(model: Model, runner: Runner, measured: Probe) -> dict[str, Any]:
    """Return what size, batch and place of a window change, measured at the halo that is served."""
    period, halo = lcm(measured.period, measured.multiple), measured.halo
    fixed = model.window.fixed
    across, length = (model.window.edge(wish, period) for wish in (64, max(256, 2 * halo + 128 + 2 * period)))
    strip = Strip(runner.logits, Noise(model, seed=21), fixed or (across, length), 1, model.kind)
    rounding = strip.tolerance
    found: dict[str, Any] = {"dynamic": fixed is None, "batch_difference": strip.batch_difference()}
    found["batch_invariant"] = found["batch_difference"] <= rounding
    if fixed is None and halo <= strip.reach(period):
        found["size_difference"] = strip.size_difference(period, halo)
        found["size_invariant"] = found["size_difference"] <= rounding
    if period > 1:
        # One pixel off: what a server that does not keep to the period would show.
        found["moved_one_px_off"] = strip.shift_moves(1)
    return found


def _trial(
    bench: Bench, candidate: Candidate, reference: Runner, model: Model, device: str, threads: int
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return (drift, speed) of one way to run the model; speed None where it cannot."""
    own = candidate == (reference.runtime, reference.precision)
    drift: dict[str, Any] = {
        "runtime": candidate.runtime, "precision": candidate.precision, "moved": 0.0, "on": bench.on, "why_not": "",
        "seams": "", "reference": own,
    }  # fmt: skip
    try:
        runner = reference if own else load_runner(model, device, threads, *candidate)
    except ModelError as error:
        return drift | {"moved": None, "why_not": str(error)}, None
    try:
        if not own:
            drift["moved"], drift["why_not"] = bench.compare(runner)
            drift["seams"] = moat.fault(runner, model) if model.exactness == "exact" else ""
        speed = {
            "runtime": candidate.runtime,
            "precision": candidate.precision,
            "window": list(bench.timed.shape[2:]),
            "mpx_per_s": round(bench.speed(runner) / 1e6, 4),
            "cpu_s_per_mpx": round(bench.cpu_seconds(runner), 4),
        }
        return drift, speed
    except (ModelError, MemoryError) as error:
        return drift | {"moved": None, "why_not": str(error)}, None
    finally:
        if not own:
            runner.close()
