"""Read a model folder: `model.yaml`, which is MLM's metadata-only YAML (`properties:`) and one block `serving:`.

`properties:` is read leniently (MLM is at candidate maturity and its versions 1.2 to 1.6 differ; unknown keys and the
`mlm:` prefix are accepted). `serving:` is ours and is read strictly: an unknown key there is a typing error that would
otherwise change pixels unnoticed.

Which rasters fit, when `serving.input` does not say it, follows from U, the upper end of the range that the scaling is
written for (`scaling.raw_range`; min-max and clip: maximum, z-score: mean + 4 stddev, clip-max and scale: the value):

    U <= 2         physical values (reflectance): floats, or integers whose scene carries scale and offset
    2 < U <= 300   dn, uint8
    U > 300        dn, uint16 or int16
    no scaling     the input's data_type when that is uint8, uint16 or int16

and everything else is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from model_registry import palette, scaling
from model_registry.artifacts import check_checksum, locate, read_file
from model_registry.ensemble import at_gsds, normalised
from model_registry.errors import ArtifactError, ManifestError, UnsupportedModel
from model_registry.manifest import (
    Artifact,
    Emits,
    GoldenTest,
    InputValues,
    Member,
    Model,
    ModelClass,
    Nodata,
    Op,
    PrecisionSpec,
    Resolution,
    WindowSpec,
    make_model,
)
from model_registry.output_yaml import channels_of, read_activation, read_kind, read_values
from model_registry.values import Values
from model_registry.yaml_schema import (
    ArtifactBlock,
    Auto,
    GoldenBlock,
    InputBlock,
    MlmInput,
    MlmOutput,
    Properties,
    ResolutionBlock,
    Serving,
    parse,
    unprefixed,
)
from model_registry.yaml_text import read_yaml

MANIFEST = "model.yaml"
_MAX_MANIFEST_BYTES = 1 << 20
FLOATS = ("float32", "float64")
_INTEGERS = ("uint8", "uint16", "int16")
_ORDER = (("batch",), ("bands", "band", "channel", "channels"), ("height", "y"), ("width", "x"))


def read_folder(folder: Path) -> Model:
    """Read `folder`/model.yaml.

    Raises:
        ManifestError: unreadable, an unknown key under `serving:`, or contradictory statements.
        UnsupportedModel: several inputs or outputs, or an axis order other than batch, band, row, column.
    """
    try:
        data = read_file(folder, MANIFEST, _MAX_MANIFEST_BYTES)
    except ArtifactError as error:
        raise ManifestError(f"the manifest cannot be read: {error.reason}", error.remedy) from None
    document = read_yaml(data, MANIFEST)
    if not isinstance(document, Mapping) or not {"properties", "serving"} <= set(document):
        raise ManifestError(f"{MANIFEST} lacks the blocks 'properties' and 'serving'", "Write both")
    serving = parse(Serving, document["serving"], "serving")
    properties = parse(Properties, unprefixed(document["properties"]), "properties")
    return _build(folder, serving, properties)


def _build(folder: Path, serving: Serving, properties: Properties) -> Model:
    if len(properties.input) != 1 or len(properties.output) != 1:
        raise UnsupportedModel(
            f"the model has {len(properties.input)} inputs and {len(properties.output)} outputs",
            "Export it with one image input and one map output",
        )
    entry, output = properties.input[0], properties.output[0]
    bands, fixed = _bands_and_size(entry)
    ops = _ops(serving, entry, len(bands))
    values, dtypes = _rasters(serving.input, ops, len(bands), entry.input.data_type)
    kind = read_kind(serving.output, output, properties)
    classes: tuple[ModelClass, ...] = ()
    answers: Values | None = None
    emits: Emits = serving.output.emits
    if kind == "classes":
        classes = _classes(output)
        single = len(output.classes) == 1 or channels_of(output.result) == 1
        activation = serving.output.activation or ("none" if emits != "logits" else "sigmoid" if single else "softmax")
    else:
        answers, emits = read_values(folder, serving.output, output, kind), "values"
        activation = read_activation(serving.output)
    name, version = _name_and_version(folder, properties)
    window = serving.window
    others = _others(serving)
    model = make_model(
        name=name,
        version=version,
        title=properties.name or name,
        folder=folder,
        artifacts=tuple(_artifact(folder, block) for block in serving.artifacts),
        architecture=properties.architecture,
        hyperparameters=properties.hyperparameters or {},
        bands=bands,
        kind=kind,
        values=answers,
        input_values=values,
        input_dtypes=dtypes,
        scaling=ops,
        resolution=Resolution(others[0].gsd) if others else _resolution(serving.resolution),
        window=WindowSpec(
            multiple=_number(window.multiple),
            period=_number(window.period),
            halo=_number(window.halo),
            fixed=fixed,
            preferred=window.preferred,
            max=window.max,
            cell=_number(window.cell),
        ),
        nodata=Nodata(serving.nodata.fill, serving.nodata.mask),
        emits=emits,
        activation=activation,
        threshold=serving.output.threshold,
        classes=classes,
        exactness=serving.exactness,
        precision=PrecisionSpec(**serving.precision.model_dump()),
        test=None if serving.test is None else _test(serving.test),
        augment=serving.augment,
        members=others,
        license=properties.license,
        attribution=properties.attribution,
        description=properties.description or "",
    )
    if serving.members and not others:
        return at_gsds(model, [block.gsd for block in serving.members], [block.weight for block in serving.members])
    return model


def _others(serving: Serving) -> tuple[Member, ...]:
    """The members of an ensemble of other models; none of a network, or of an ensemble of the folder's own artifact."""
    if (serving.kind == "ensemble") != bool(serving.members):
        raise ManifestError(
            f"serving.kind is {serving.kind} and serving.members has {len(serving.members)} entries",
            "Write kind: ensemble and its members, or neither",
        )
    others = any(block.model for block in serving.members)
    if bool(serving.artifacts) == others:
        raise ManifestError(
            f"serving.artifacts has {len(serving.artifacts)} entries"
            + (", although the members are other models" if others else ""),
            "Leave it out, or write members without `model`" if others else "List the network's file",
        )
    if not others:
        if any(block.digest for block in serving.members):
            raise ManifestError("a member of serving.members has a digest and no model", "Write both, or neither")
        return ()
    for block in serving.members:
        if not re.fullmatch("[0-9a-f]{64}", block.digest):
            raise ManifestError(
                f"the member {block.model!r} has the digest {block.digest[:80]!r}",
                "Write what `tiler models show` says, or make the ensemble with `tiler models ensemble`",
            )
    return normalised(Member(block.gsd, block.weight, block.digest, block.model) for block in serving.members)


def derive_rasters(ops: tuple[Op, ...], bands: int, data_type: str = "") -> tuple[InputValues, tuple[str, ...]]:
    """Return (input_values, input_dtypes) by the rule at the head of this file.

    Raises:
        ManifestError: the scaling and `data_type` tell nothing.
    """
    ends = scaling.raw_range(ops, bands)
    if ends is not None:
        upper = float(ends[1].max())
        if upper <= 2:
            return "physical", FLOATS
        return "dn", ("uint8",) if upper <= 300 else ("uint16", "int16")
    if not ops and data_type in _INTEGERS:
        return "dn", (data_type,)
    raise ManifestError(
        "the manifest does not tell which rasters the model is meant for",
        "Write serving.input, e.g. {values: dn, dtypes: [uint16]}, or the value_scaling that it was trained with",
    )


def _rasters(block: InputBlock, ops: tuple[Op, ...], bands: int, data_type: str) -> tuple[InputValues, tuple[str, ...]]:
    if block.values == "physical":
        return "physical", block.dtypes or FLOATS
    if block.dtypes:
        return block.values or ("physical" if set(block.dtypes) <= set(FLOATS) else "dn"), block.dtypes
    values, dtypes = derive_rasters(ops, bands, data_type)
    if block.values is not None and block.values != values:
        raise ManifestError(
            f"serving.input.values is {block.values}, but the scaling is written for values up to 2",
            "Add serving.input.dtypes, or correct one of the two",
        )
    return values, dtypes


def _ops(serving: Serving, entry: MlmInput, bands: int) -> tuple[Op, ...]:
    if serving.preprocess is not None:
        return tuple(scaling.read_op(op, bands) for op in serving.preprocess)
    if entry.pre_processing_function is not None:
        raise UnsupportedModel(
            "the input has a pre_processing_function, which is code", "Write its steps under serving.preprocess"
        )
    return scaling.read_value_scaling(entry.value_scaling, bands)


def _bands_and_size(entry: MlmInput) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    names = []
    for band in entry.bands:
        if isinstance(band, Mapping) and band.get("expression") is not None:
            raise UnsupportedModel(f"band {band.get('name')!r} is an expression", "Give the computed band as a raster")
        names.append(str(band.get("name") if isinstance(band, Mapping) else band))
    shape, order = entry.input.shape, entry.input.dim_order
    if order and (len(order) != 4 or any(o not in known for o, known in zip(order, _ORDER, strict=True))):
        raise UnsupportedModel(f"the input's dim_order is {order}", "Export it as batch, bands, height, width")
    if not shape:
        return tuple(names), None
    if len(shape) != 4:
        raise ManifestError(f"the input's shape {shape} has {len(shape)} axes", "Write [batch, bands, height, width]")
    if not names and shape[1] > 0:
        names = [str(i + 1) for i in range(shape[1])]
    if shape[1] > 0 and shape[1] != len(names):
        raise ManifestError(f"the input's shape {shape} has {shape[1]} bands, {len(names)} are listed", "Correct one")
    height, width = shape[2:]
    return tuple(names), (height, width) if height > 0 and width > 0 else None


def _classes(output: MlmOutput) -> tuple[ModelClass, ...]:
    classes = []
    for index, entry in enumerate(output.classes):
        color = palette.parse_hex(entry.color_hint) if entry.color_hint else palette.color(index)
        if color is None:
            raise ManifestError(f"color_hint {entry.color_hint!r} of class {entry.value}", "Write RRGGBB")
        name = entry.name or entry.title or str(entry.value)
        classes.append(ModelClass(entry.value, name, color, entry.description or ""))
    if len(classes) == 1:
        # A binary network described by its one interesting class: the rest of the picture needs a value too.
        if classes[0].value == 0:
            raise ManifestError("the only class has the value 0", "Give it another value; 0 becomes the background")
        classes.insert(0, ModelClass(0, "background", palette.TRANSPARENT))
    return tuple(classes)


def _number(value: int | Auto) -> int | None:
    return None if value == "auto" else value


def _resolution(block: ResolutionBlock | None) -> Resolution | None:
    return None if block is None else Resolution(block.value, block.tolerance, block.policy)


def _artifact(folder: Path, block: ArtifactBlock) -> Artifact:
    path = locate(folder, block.href)
    try:
        size = path.stat().st_size
    except OSError:
        raise ArtifactError(f"artifact {path.name!r} is missing", "Put it beside model.yaml") from None
    declared = size if block.size is None else block.size
    return Artifact(block.href, block.format, check_checksum(block.checksum), declared)


def _test(block: GoldenBlock) -> GoldenTest:
    checksums = {name: check_checksum(getattr(block, name)) for name in ("input_checksum", "output_checksum")}
    return GoldenTest(**{**block.model_dump(), **checksums})


def _name_and_version(folder: Path, properties: Properties) -> tuple[str, str]:
    """`<name>/<integer>/` is a version folder; any other folder is the model's name itself."""
    path = folder.absolute()
    if path.name.isdigit() and path.parent.name:
        return slug(path.parent.name), path.name
    return slug(path.name or properties.name), str(properties.version or "1")


def slug(text: str) -> str:
    """Return `text` with everything that does not stand in a URL path turned into "-"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
