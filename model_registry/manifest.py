"""What a model is: frozen values that say how a network must be fed and what its answer means.

Plain data: nothing here imports a runtime. `open_model` is the one door in; the readers it calls
(`model_yaml`, `onnx_metadata`) do the parsing and produce the `Model` defined here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from model_registry.errors import ManifestError
from model_registry.values import Values

Rgba = tuple[int, int, int, int]
Kind = Literal["classes", "regression", "embedding"]
Exactness = Literal["exact", "bounded", "unsafe"]
Emits = Literal["logits", "probabilities", "labels", "values"]
Activation = Literal["softmax", "sigmoid", "none"]
InputValues = Literal["dn", "physical"]
OpKind = Literal["z-score", "min-max", "offset", "scale", "clip", "clip-min", "clip-max"]
ArtifactFormat = Literal["onnx", "safetensors", "pt2", "torchscript"]
RuntimeName = Literal["onnxruntime", "openvino", "torch"]
Precision = Literal["fp32", "bf16", "fp16"]
Augment = Literal["none", "flips", "rotations", "d4"]


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One class of the answer: its pixel value (0..255), name and colour (RGBA, 0..255 each)."""

    value: int
    name: str
    color: Rgba
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse values that do not fit a byte."""
        if not 0 <= self.value <= 255:
            raise ManifestError(f"class {self.name!r} has the value {self.value}", "Use a value from 0 to 255")


# px; a cell is read and inferred whole, whatever little of it is seen.
LARGEST_CELL = 1024


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Which windows the network may be given, in pixels of the model's grid. None means "auto": measured by the probe.

    multiple: height and width must be multiples of it.
    period: windows must start on multiples of it, counted from the grid's origin.
    halo: context on each side that an exact answer needs.
    fixed: (height, width) where the artifact accepts one size only.
    preferred, max: edge length to aim for, and never to exceed (None: no limit of the model's own).
    cell: edge length of the squares in which answers are kept, where windows may have any size (None: 32 or so).
    """

    multiple: int | None = None
    period: int | None = None
    halo: int | None = None
    fixed: tuple[int, int] | None = None
    preferred: int = 512
    max: int | None = None
    cell: int | None = None

    def __post_init__(self) -> None:
        """Refuse sizes that no window can have."""
        least_of = {"multiple": 1, "period": 1, "halo": 0, "preferred": 1, "max": 1, "cell": 1}
        for name, least in least_of.items():
            value: int | None = getattr(self, name)
            if value is not None and value < least:
                raise ManifestError(f"window.{name} is {value}", f"Use a number of pixels >= {least}")
        if self.cell is not None and self.cell > LARGEST_CELL:
            raise ManifestError(f"window.cell is {self.cell}", f"Use a number of pixels <= {LARGEST_CELL}")

    def edge(self, wish: int, step: int) -> int:
        """Return the edge length of a window of `wish` px: a multiple of `step`, rounded up, or down to `max`."""
        edge = -(-wish // step) * step
        return edge if self.max is None else max(step, min(edge, self.max // step * step))


@dataclass(frozen=True, slots=True)
class Resolution:
    """Ground sampling distance the network was trained at.

    value: metres per pixel. tolerance: relative; within it the scene's own pixels are used.
    policy: what to do with another resolution.
    """

    value: float
    tolerance: float = 0.01
    policy: Literal["resample", "refuse"] = "resample"

    def __post_init__(self) -> None:
        """Refuse a resolution that is not a positive number of metres."""
        if not self.value > 0 or not self.tolerance >= 0:
            raise ManifestError(
                f"resolution is {self.value} m with tolerance {self.tolerance}", "Write metres > 0, tolerance >= 0"
            )


@dataclass(frozen=True, slots=True)
class Nodata:
    """What stands in for missing pixels.

    fill: in raw input units, before scaling; "mean" is the value that scales to 0 (`scaling.fill_values`).
    mask: a pixel is missing when "any" or when "all" of its bands are.
    """

    fill: float | Literal["mean"] = 0.0
    mask: Literal["any", "all"] = "any"


@dataclass(frozen=True, slots=True)
class PrecisionSpec:
    """Which arithmetic the model's author allows; see `choice`.

    default: the policy where the operator says none.
    allowed: what "auto" may use beside fp32.
    max_moved: the share of pixels (0..1) whose class may differ from the fp32 answer, measured, for "auto" to use it.
    """

    default: Literal["fp32", "auto"] = "fp32"
    allowed: tuple[Precision, ...] = ("bf16", "fp16")
    max_moved: float = 0.005


@dataclass(frozen=True, slots=True)
class GoldenTest:
    """Pixels and the answer to them that the model's author has seen; `golden` compares.

    input, output: hrefs of .npy files relative to the model's folder, with their multihashes.
    rtol, atol: a score is right within atol + rtol * |expected|; classes must be equal.
    mismatched_per_million: scores (or classes) that may be wrong all the same.
    """

    input: str
    input_checksum: str
    output: str
    output_checksum: str
    rtol: float = 1e-3
    atol: float = 1e-3
    mismatched_per_million: float = 100.0


@dataclass(frozen=True, slots=True)
class Op:
    """One scaling step in MLM's words; `scaling` gives its arithmetic.

    numbers: one tuple per parameter, each with one number per entry of `bands`:
    (minimum, maximum) for min-max and clip, (mean, stddev) for z-score, one tuple for the others.
    bands: the zero-based channels that the step applies to; the rest pass unchanged.
    """

    kind: OpKind
    numbers: tuple[tuple[float, ...], ...]
    bands: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file of the model: href relative to its folder, multihash "1220" + sha256 hex, size in bytes."""

    href: str
    format: ArtifactFormat
    checksum: str
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an ensemble; see `ensemble`.

    gsd: metres per pixel at which it looks at a scene, whatever the model's own are.
    weight: its share of the mean; those of all members sum to 1.
    digest: of the model that is meant.
    model: that model, `name:3` of the registry that holds the ensemble; "" for the ensemble's own artifact.
    """

    gsd: float
    weight: float
    digest: str
    model: str = ""


@dataclass(frozen=True)
class Model:
    """A network with everything needed to use it rightly. Axis order of its input is [batch, band, row, column].

    input_values: "dn" feeds the raster's own numbers; "physical" feeds dn * scale + offset of the scene.
    input_dtypes: raster dtypes the scaling is meant for; for "physical" the dtypes after unscaling, so an integer
    raster fits only when its scene carries a scale or offset.
    kind: what the answer is: one class a pixel, one number, or a vector. values: of the last two, else None; they have
        no classes, emit "values", and know the activations none and sigmoid.
    threshold: smallest score of a class other than the first; see `postprocess`.
    exactness: None until the probe has measured it.
    augment: the views of a window whose answers are averaged; see `augment`.
    members: of an ensemble, sorted by resolution; empty for a network. An ensemble of other models has no artifacts.
    digest: sha256 over all that decides a pixel; not names, colours, licence, `test`, and not `precision`, a wish.
    """

    name: str
    version: str
    title: str
    digest: str
    folder: Path
    artifacts: tuple[Artifact, ...]
    bands: tuple[str, ...]
    classes: tuple[ModelClass, ...] = ()
    kind: Kind = "classes"
    values: Values | None = None
    input_values: InputValues = "dn"
    input_dtypes: tuple[str, ...] = ("uint8",)
    scaling: tuple[Op, ...] = ()
    resolution: Resolution | None = None
    window: WindowSpec = WindowSpec()
    nodata: Nodata = Nodata()
    emits: Emits = "logits"
    activation: Activation = "softmax"
    threshold: float | None = None
    exactness: Exactness | None = None
    precision: PrecisionSpec = PrecisionSpec()
    test: GoldenTest | None = None
    augment: Augment = "none"
    members: tuple[Member, ...] = ()
    architecture: str = ""
    hyperparameters: dict[str, Any] = field(default_factory=dict, hash=False)
    license: str | None = None
    attribution: str | None = None
    description: str = ""


# Everything that a pixel of the answer depends on. Names, colours, title, version, licence and texts stay out, so that
# a new palette invalidates no cached answer.
_DECIDING = (
    "architecture", "hyperparameters", "bands", "input_values", "input_dtypes", "scaling", "resolution", "window",
    "nodata", "emits", "activation", "threshold", "exactness",
)  # fmt: skip


def digest_of(fields: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of those fields of a `Model`, given by name, that decide a pixel of its answer."""

    def plain(value: Any) -> Any:
        return asdict(value) if hasattr(value, "__dataclass_fields__") else str(value)

    deciding: dict[str, Any] = {name: fields[name] for name in _DECIDING if name in fields}
    deciding["artifacts"] = [(a.format, a.checksum) for a in fields["artifacts"]]
    deciding["values"] = [c.value for c in fields["classes"]]
    # Only where it is told: a digest outlives the release that knew nothing of it.
    window = asdict(fields["window"])
    if window["cell"] is None:
        del window["cell"]
    deciding["window"] = window
    if fields.get("augment", "none") != "none":
        deciding["augment"] = fields["augment"]
    if fields.get("members"):
        deciding["members"] = [(member.digest, member.gsd, member.weight) for member in fields["members"]]
    if fields.get("values") is not None:
        deciding["answer"] = (fields["kind"], *fields["values"].deciding)
    return hashlib.sha256(json.dumps(deciding, sort_keys=True, default=plain).encode()).hexdigest()


def make_model(**fields: Any) -> Model:
    """Build a `Model` from its fields and add the digest.

    Raises:
        ManifestError: no bands, fewer than two classes, a class value used twice, or output settings that clash.
    """
    fields.setdefault("classes", ())
    if not fields["bands"]:
        raise ManifestError("the model has no input bands", "List them under input[0].bands")
    if fields.get("kind", "classes") == "classes":
        _check_classes(**fields)
    else:
        _check_values(**fields)
    if fields.get("augment", "none") != "none" and fields.get("emits") == "labels":
        raise ManifestError(
            f"augment is {fields['augment']}, but class numbers cannot be averaged",
            "Export the network without its final argmax, or leave serving.augment out",
        )
    # digest_of must see defaults too: a default that changes between releases changes pixels.
    model = Model(digest="", **fields)
    return Model(digest=digest_of(vars(model)), **fields)


def _check_classes(
    classes: tuple[ModelClass, ...],
    emits: Emits = "logits",
    activation: Activation = "softmax",
    values: Values | None = None,
    **_: Any,
) -> None:
    if emits == "values" or values is not None:
        raise ManifestError("a model with classes emits no values", "Write output.kind: regression or embedding")
    if len(classes) < 2:
        raise ManifestError(f"the model has {len(classes)} classes", "List at least two, or one for a binary network")
    if len(classes) > 256 or len({c.value for c in classes}) != len(classes):
        raise ManifestError(
            f"{len(classes)} classes with the values {[c.value for c in classes]}", "Give each class its own value"
        )
    if emits != "logits" and activation != "none":
        raise ManifestError(
            f"output.emits is {emits} and output.activation is {activation}",
            "Write activation: none, or emits: logits if the activation is still to be applied",
        )


def _check_values(
    kind: Kind,
    classes: tuple[ModelClass, ...],
    values: Values | None = None,
    emits: Emits = "logits",
    activation: Activation = "softmax",
    threshold: float | None = None,
    **_: Any,
) -> None:
    if classes or values is None or emits != "values" or threshold is not None:
        raise ManifestError(
            f"a model of kind {kind} has {len(classes)} classes, emits {emits} and has the threshold {threshold}",
            "Leave classes, output.emits and output.threshold out, and state its channels",
        )
    if activation == "softmax":
        raise ManifestError(f"a model of kind {kind} has the activation softmax", "Write none or sigmoid")
    if (kind == "regression" and values.channels != 1) or (kind == "embedding" and values.channels < 3):
        raise ManifestError(
            f"a model of kind {kind} has {values.channels} output channels",
            "A regression has one, an embedding at least three: export it so, or correct output[0].result.shape",
        )


def open_model(path: str | Path) -> Model:
    """Read what a model says about itself; no network is loaded and no checksum verified (see `live.load`).

    Args:
        path: a folder with a model.yaml, or a bare .onnx file that carries Deepness or GeoDeep metadata keys.

    Raises:
        ManifestError: no description found, or one that cannot be used.
        ArtifactError: a file that may not be opened (`artifacts`).
    """
    path = Path(path)
    if path.is_dir():
        from model_registry.model_yaml import read_folder

        return read_folder(path)
    if path.suffix.lower() == ".onnx":
        from model_registry.onnx_metadata import read_onnx

        return read_onnx(path)
    if path.name == "model.yaml" and path.is_file():
        from model_registry.model_yaml import read_folder

        return read_folder(path.parent)
    raise ManifestError(
        f"{path.name!r} is neither a folder with a model.yaml nor an .onnx file", "Point to one of the two"
    )
