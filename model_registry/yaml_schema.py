"""The shape of model.yaml: which keys there are, and what may stand in them.

`Serving` is ours and strict; `Properties` holds what we read of MLM's and ignores the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_registry.errors import ManifestError
from model_registry.manifest import ArtifactFormat, Augment, InputValues

Auto = Literal["auto"]
_Block = TypeVar("_Block", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArtifactBlock(_Strict):
    """One file of the model."""

    href: str
    format: ArtifactFormat
    checksum: str
    size: int | None = None


class InputBlock(_Strict):
    """Which rasters fit; left out, it follows from the scaling."""

    values: InputValues | None = None
    dtypes: tuple[Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"], ...] = ()


class ResolutionBlock(_Strict):
    """Ground sampling distance."""

    value: float
    unit: Literal["m"] = "m"
    tolerance: float = 0.01
    policy: Literal["resample", "refuse"] = "resample"


class WindowBlock(_Strict):
    """Windows in pixels; "auto" is measured."""

    multiple: int | Auto = "auto"
    period: int | Auto = "auto"
    halo: int | Auto = "auto"
    preferred: int = 512
    max: int | None = None
    cell: int | Auto = "auto"


class ValueBlock(_Strict):
    """The number that a regression or an embedding answers, and how it is shown."""

    name: str | None = None
    unit: str | None = None
    range: tuple[float, float] | None = None
    ramp: str | tuple[str, ...] = "viridis"
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float | None, float | None] = (None, None)


class ComponentsBlock(_Strict):
    """The file with an embedding's three components."""

    href: str
    checksum: str


class OutputBlock(_Strict):
    """What the network emits and what is still to be done."""

    kind: Literal["classes", "regression", "embedding"] | None = None
    value: ValueBlock | None = None
    components: ComponentsBlock | None = None
    emits: Literal["logits", "probabilities", "labels"] = "logits"
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)


class NodataBlock(_Strict):
    """What stands in for missing pixels."""

    fill: float | Literal["mean"] = 0.0
    mask: Literal["any", "all"] = "any"


class PrecisionBlock(_Strict):
    """Which arithmetic may be used."""

    default: Literal["fp32", "auto"] = "fp32"
    allowed: tuple[Literal["fp32", "bf16", "fp16"], ...] = ("bf16", "fp16")
    max_moved: float = Field(default=0.005, ge=0, le=1)


class GoldenBlock(_Strict):
    """A golden test."""

    input: str
    input_checksum: str
    output: str
    output_checksum: str
    rtol: float = Field(default=1e-3, ge=0)
    atol: float = Field(default=1e-3, ge=0)
    mismatched_per_million: float = Field(default=100, ge=0, le=1e6)


class MemberBlock(_Strict):
    """A member of an ensemble: the artifact itself, or another model of the registry, with its digest."""

    gsd: float
    weight: float = 1.0
    model: str = ""
    digest: str = ""


class Serving(_Strict):
    """The block `serving:`."""

    schema_: Literal[1] = Field(alias="schema")
    kind: Literal["network", "ensemble"] = "network"
    artifacts: tuple[ArtifactBlock, ...] = ()
    members: tuple[MemberBlock, ...] = ()
    input: InputBlock = InputBlock()
    preprocess: list[dict[str, Any]] | None = None
    resolution: ResolutionBlock | None = None
    window: WindowBlock = WindowBlock()
    output: OutputBlock = OutputBlock()
    nodata: NodataBlock = NodataBlock()
    precision: PrecisionBlock = PrecisionBlock()
    test: GoldenBlock | None = None
    augment: Augment = "none"
    exactness: Literal["exact", "bounded", "unsafe"] | None = None


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Structure(_Lenient):
    """MLM's input or result structure."""

    shape: list[int] = []
    dim_order: list[str] = []
    data_type: str = ""


class MlmInput(_Lenient):
    """MLM's input."""

    bands: list[Any] = []
    input: Structure = Structure()
    value_scaling: Any = None
    pre_processing_function: Any = None


class MlmClass(_Lenient):
    """An entry of MLM's classification:classes."""

    value: int
    name: str | None = None
    title: str | None = None
    description: str | None = None
    color_hint: str | None = None


class MlmOutput(_Lenient):
    """MLM's output."""

    tasks: list[str] = []
    result: Structure = Structure()
    classes: list[MlmClass] = Field(default=[], alias="classification:classes")


class Properties(_Lenient):
    """The block `properties:`."""

    name: str = ""
    architecture: str = ""
    tasks: list[str] = []
    version: str | int | float | None = None
    description: str | None = None
    license: str | None = None
    attribution: str | None = None
    hyperparameters: dict[str, Any] | None = None
    input: list[MlmInput]
    output: list[MlmOutput]


def unprefixed(properties: Any) -> Any:
    """Return `properties` without MLM's optional prefix `mlm:` on its keys."""
    if not isinstance(properties, Mapping):
        return properties
    return {str(key).removeprefix("mlm:"): value for key, value in properties.items()}


def parse(kind: type[_Block], value: Any, where: str) -> _Block:
    """Return `value` as a block of that `kind`, or raise a ManifestError that names the key at fault under `where`."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join([where, *(str(part) for part in first["loc"])])
        if first["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(kind, first["loc"][:-1]))
            raise ManifestError(f"unknown key {place!r}", f"Known keys there: {known}") from None
        raise ManifestError(f"{place}: {first['msg']} (found {str(first.get('input'))[:80]!r})", "Correct it") from None


def _known_keys(kind: Any, location: tuple[int | str, ...]) -> list[str]:
    """Walk from a block's class down `location` and return the keys that are allowed there."""
    for part in location:
        if isinstance(part, str) and part in kind.model_fields:
            annotation = kind.model_fields[part].annotation
            inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
            kind = inner[0] if inner else kind
    return sorted(f.alias or name for name, f in kind.model_fields.items())
