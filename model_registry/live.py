"""From a path to a network that may be served: verified, loaded, held to its manifest, measured, run at its best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from pathlib import Path

import numpy as np

from model_registry import probe as probing
from model_registry.candidates import Candidate, Policy, RuntimeWish
from model_registry.choice import Choice, choose
from model_registry.errors import ContractError
from model_registry.manifest import Exactness, Model, WindowSpec, open_model
from model_registry.noise import Noise
from model_registry.probe import Probe
from model_registry.runtimes import Demands, Runner, Unscale, load_runner
from model_registry.trials import Raw

# One forward pass on each, until one is accepted: multiples of 64, of 7 and 32, of 3 and 128.
_TRIAL_EDGES = (128, 224, 384)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready: every "auto" of `model.window` and `model.exactness` is resolved.

    `model.digest` stays the one of `open_model`: it names what was given, not what was measured on this machine.
    `channels` is how many the network answers; 0 where nobody looked.
    `replicas` are the same network on further devices.
    `members` are those of an ensemble, one for each of `model.members`; see `loaded_ensemble`.
    """

    model: Model
    runner: Runner
    probe: Probe
    choice: Choice
    replicas: tuple[Runner, ...] = ()
    channels: int = 0
    members: tuple[LoadedModel, ...] = ()

    @property
    def networks(self) -> tuple[LoadedModel, ...]:
        """What really runs: the model itself, or an ensemble's networks, each once."""
        return tuple({id(one.runner): one for one in self.members}.values()) or (self,)

    @property
    def binary(self) -> bool:
        """Whether the classes are a mask: the second of two, where its probability reaches a threshold."""
        one = self.channels == 1 and self.model.emits != "labels"
        return len(self.model.classes) == 2 and (one or self.model.threshold is not None)

    @property
    def devices(self) -> tuple[str, ...]:
        """Where it runs, the runner's first."""
        return (self.runner.device, *(replica.device for replica in self.replicas))

    def runner_on(self, device: str) -> Runner:
        """The network on one of `devices`."""
        return next((replica for replica in self.replicas if replica.device == device), self.runner)

    def warm(self, shapes: Iterable[tuple[int, int]], batch: int = 1) -> None:
        """Run a window of noise of each (height, width) in px once; a runtime prepares for a shape when it first comes.

        Call it on the thread that will serve: some of that is kept per thread. Sizes must be multiples of
        `model.window.multiple`.

        Raises:
            ContractError: a size that the network does not accept.
            MemoryError: a size for which there is no room.
        """
        noise = Noise(self.model, seed=3)
        for height, width in shapes:
            self.runner(noise.raw((batch, noise.channels, height, width)))

    def close(self) -> None:
        """Free the network."""
        for runner in (self.runner, *self.replicas):
            runner.close()


def load(
    path_or_model: str | Path | Model,
    device: str = "cpu",
    threads: int | None = None,
    *,
    policy: Policy | None = None,
    runtime: RuntimeWish = "auto",
    samples: Sequence[Raw] = (),
    unscale: Unscale | None = None,
    allowed_moved: float | None = None,
) -> LoadedModel:
    """Verify, load, check against the manifest, measure what it leaves to "auto", and choose how to run it.

    Everything is measured with the reference, the runtime that the model's format was made for, in fp32; then the
    fastest right runtime takes its place (`choice`). What was measured is kept, so a second load measures nothing.

    Args:
        path_or_model: what `open_model` takes, or what it returned.
        device: "cpu", "cuda" or "cuda:<index>"; several, separated by commas, get a copy each. Measured on the first.
        threads: threads inside the runtime; None takes the cores that this process may use.
        policy: "fp32", "bf16", "fp16" or "auto"; None takes the manifest's, which is fp32 unless it says auto.
        runtime: "auto" or the name of one.
        samples: raw windows [C, H, W] of the scene, on which a low precision is judged; see `choice.choose`.
        unscale: (scale, offset) of the samples, as in `Runner`.
        allowed_moved: share (0..1) of pixels that "auto" may move; None takes the manifest's.

    Raises:
        ModelError: any of its subclasses; nothing stays loaded then.
    """
    model = path_or_model if isinstance(path_or_model, Model) else open_model(path_or_model)
    if model.members:
        from model_registry.loaded_ensemble import load_ensemble

        def load_member(network: Model) -> LoadedModel:
            fitting = samples if network.bands == model.bands else ()
            return load(
                network, device, threads, policy=policy, runtime=runtime, samples=fitting, unscale=unscale,
                allowed_moved=allowed_moved,
            )  # fmt: skip

        return load_ensemble(model, load_member)
    device, *others = dict.fromkeys(name.strip() for name in device.split(","))
    reference = load_runner(model, device, threads)
    try:
        model = with_demands(model, reference.demands)
        channels = check_contract(model, reference)
        measured = probing.measure_or_recall(model, reference)
        model = resolve(model, measured)
        choice = choose(
            model, policy, runtime, samples, allowed_moved,
            device=device, threads=threads, unscale=unscale, reference=reference,
        )  # fmt: skip
        if choice.seams:
            model = replace(model, exactness="bounded")
        if choice.candidate == Candidate(reference.runtime, reference.precision):
            loaded = LoadedModel(model, reference, measured, choice, channels=channels)
            return _with_replicas(loaded, others, threads)
        runner = load_runner(model, device, threads, *choice.candidate)
    except BaseException:
        reference.close()
        raise
    reference.close()
    return _with_replicas(LoadedModel(model, runner, measured, choice, channels=channels), others, threads)


def _with_replicas(loaded: LoadedModel, devices: Sequence[str], threads: int | None) -> LoadedModel:
    """Load the same network, run the same way, on further devices. When one fails, nothing stays loaded."""
    for device in devices:
        try:
            replica = load_runner(loaded.model, device, threads, *loaded.choice.candidate)
        except BaseException:
            loaded.close()
            raise
        loaded = replace(loaded, replicas=(*loaded.replicas, replica))
    return loaded


def with_demands(model: Model, demands: Demands) -> Model:
    """Add what the artifact itself asks for; refuse a manifest that says otherwise."""
    window = model.window
    if demands.fixed is not None:
        if window.fixed is not None and window.fixed != demands.fixed:
            raise ContractError(
                f"the manifest says windows of {_size(window.fixed)}, the network accepts {_size(demands.fixed)} only",
                "Correct the input's shape",
            )
        window = replace(window, fixed=demands.fixed)
    if demands.multiple is not None:
        if window.multiple is not None and window.multiple % demands.multiple:
            raise ContractError(
                f"window.multiple is {window.multiple}, the network demands multiples of {demands.multiple}",
                "Correct it, or write auto",
            )
        window = replace(window, multiple=window.multiple or demands.multiple)
    return replace(model, window=window)


def check_contract(model: Model, runner: Runner) -> int:
    """Run one forward pass on noise and compare the answer with what the manifest declares; return its channels.

    Raises:
        ContractError: another shape (both are named), or numbers that are not finite.
    """
    noise = Noise(model, seed=1)
    answer, failure = None, None
    for height, width in trial_sizes(model.window):
        x = noise.scaled((1, len(model.bands), height, width))
        try:
            answer = runner.logits(x)
        except ContractError as error:
            failure = failure or error
            continue
        break
    if answer is None:
        assert failure is not None
        raise failure
    classes = len(model.classes)
    allowed = {1} if model.emits == "labels" else {classes, 1} if classes == 2 else {classes}
    declared, remedy = f"{classes} classes", "Correct classification:classes and output.emits"
    if model.values is not None:
        allowed, remedy = {model.values.channels}, "Correct output[0].result.shape and output.kind"
        declared = f"{model.values.channels} channels"
    if answer.shape[1] not in allowed or answer.shape[2:] != (height, width):
        raise ContractError(
            f"the network answers {answer.shape[1]} channels of {_size(answer.shape[2:])} for an input of "
            f"{_size((height, width))}; the manifest declares {declared} at {_size((height, width))}",
            f"{remedy}, or export a network that answers at its input's size",
        )
    if not np.isfinite(answer).all():
        share = 100 * float(np.mean(~np.isfinite(answer)))
        raise ContractError(
            f"{share:.3g} % of the network's answers to plausible input are not finite",
            "Check the scaling and the weights",
        )
    if answer.shape[1] == 1 and model.activation == "softmax":
        raise ContractError(
            "the network has one output channel, whose softmax is 1 everywhere", "Write output.activation: sigmoid"
        )
    if model.emits == "probabilities" and not (answer.min() >= -1e-3 and answer.max() <= 1.001):
        raise ContractError(
            f"the network emits values from {answer.min():.3g} to {answer.max():.3g}, which are no probabilities",
            "Write output.emits: logits",
        )
    return int(answer.shape[1])


def trial_sizes(window: WindowSpec) -> list[tuple[int, int]]:
    """Return the (height, width) of windows to try, in this order, until the network takes one."""
    if window.fixed is not None:
        return [window.fixed]
    multiple = window.multiple or 1
    return [(edge, edge) for edge in (-(-e // multiple) * multiple for e in _TRIAL_EDGES)]


def resolve(model: Model, probe: Probe) -> Model:
    """Fill in what was "auto"; a manifest may be stricter than the measurement, never laxer, unless it says so."""
    window = model.window
    period = lcm(window.period or 1, probe.period)
    # Windows start on multiples of the period, so the halo is rounded up to one.
    halo = -(-(window.halo if window.halo is not None else probe.halo) // period) * period
    exactness: Exactness = model.exactness or probe.exactness
    if model.exactness == "exact" and probe.exactness != "exact":
        raise ContractError(
            f"exactness is declared exact, measured is {probe.exactness} ({'; '.join(probe.notes)})",
            "Leave serving.exactness out",
        )
    if exactness == "exact" and halo < probe.halo:
        if model.exactness == "exact":
            raise ContractError(
                f"window.halo is {halo}, an exact answer needs {probe.halo}",
                f"Write at least {probe.halo}, or exactness: bounded",
            )
        exactness = "bounded"
    return replace(
        model,
        window=replace(
            window,
            multiple=lcm(window.multiple or 1, probe.multiple),
            period=period,
            halo=halo,
        ),
        exactness=exactness,
    )


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"
