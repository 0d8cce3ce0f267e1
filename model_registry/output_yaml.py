"""Read what a model.yaml says of an answer that is no class: its kind, its values, its components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from model_registry import palette
from model_registry.artifacts import check_checksum, checksum_of, read_file
from model_registry.components import MAX_BYTES, Components, from_json
from model_registry.errors import ArtifactError, ManifestError
from model_registry.manifest import Activation, Kind
from model_registry.values import Rgba, Values
from model_registry.yaml_schema import ComponentsBlock, MlmOutput, OutputBlock, Properties, Structure

# MLM's tasks, and those that people write for what MLM has no word for.
_KINDS: dict[str, Kind] = {
    "semantic-segmentation": "classes",
    "segmentation": "classes",
    "classification": "classes",
    "regression": "regression",
    "pixel-regression": "regression",
    "embedding": "embedding",
    "embeddings": "embedding",
    "feature-extraction": "embedding",
    "representation-learning": "embedding",
    "similarity-search": "embedding",
}
EMBEDDING_RANGE = (-1.0, 1.0)  # of channels whose author says nothing


def read_kind(block: OutputBlock, output: MlmOutput, properties: Properties) -> Kind:
    """Return what the answer is: the manifest's word, else classes where there are some, else what the tasks tell.

    Raises:
        ManifestError: classes are listed for something else, or nothing tells.
    """
    tasks = output.tasks or properties.tasks
    found = {_KINDS[task] for name in tasks if (task := name.strip().lower().replace("_", "-")) in _KINDS}
    told = block.kind
    if told is None:
        told = found.pop() if len(found) == 1 else "classes" if output.classes else None
    if told is None:
        raise ManifestError(
            f"the model has 0 classes, and its tasks ({', '.join(tasks) or 'none'}) tell no other answer",
            "List classification:classes, or write serving.output.kind: regression or embedding",
        )
    if told != "classes" and output.classes:
        raise ManifestError(
            f"the model answers a {told}, but lists {len(output.classes)} classes",
            "Take one of the two out, or write serving.output.kind: classes",
        )
    if told == "classes" and (block.value is not None or block.components is not None):
        raise ManifestError(
            "output.value and output.components are not for classes", "Write output.kind: regression or embedding"
        )
    return told


def read_activation(block: OutputBlock) -> Activation:
    """Return the activation of a regression or an embedding: none unless one is written.

    Raises:
        ManifestError: settings that are for classes only.
    """
    if block.threshold is not None or {"emits", "threshold"} & block.model_fields_set:
        raise ManifestError(
            "output.emits and output.threshold are for classes only", "Leave them out of a regression or embedding"
        )
    return block.activation or "none"


def read_values(folder: Path, block: OutputBlock, output: MlmOutput, kind: Kind) -> Values:
    """Return the values of a regression or an embedding.

    Raises:
        ManifestError: something is missing that nobody should guess, or contradicts.
        ArtifactError: the components' file is missing, unsafe or altered.
    """
    channels = channels_of(output.result)
    if kind == "regression":
        channels = channels or 1
        if block.components is not None:
            raise ManifestError("a regression has no components", "Take output.components out")
    if channels is None:
        raise ManifestError(
            "the manifest does not tell how many channels the embedding has",
            "Write them as the second number of output[0].result.shape, e.g. [-1, 64, -1, -1]",
        )
    value = block.value
    ends = value.range if value is not None else None
    if ends is None and kind == "regression":
        raise ManifestError(
            "the manifest does not tell which values the regression's colours stand for",
            "Write serving.output.value, e.g. {name: canopy height, unit: m, range: [0, 40]}",
        )
    return Values(
        channels=channels,
        name=(value and value.name) or ("value" if kind == "regression" else "embedding"),
        unit=(value and value.unit) or "",
        range=ends or EMBEDDING_RANGE,
        ramp="viridis" if value is None else value.ramp if isinstance(value.ramp, str) else _colors(value.ramp),
        scale=1.0 if value is None else value.scale,
        offset=0.0 if value is None else value.offset,
        clip=(None, None) if value is None else value.clip,
        components=None if block.components is None else _components(folder, block.components),
    )


def channels_of(result: Structure) -> int | None:
    """Return the number of output channels that a result's shape states."""
    return result.shape[1] if len(result.shape) == 4 and result.shape[1] > 0 else None


def _colors(hints: Sequence[str]) -> tuple[Rgba, ...]:
    colors = [palette.parse_hex(hint) for hint in hints]
    wrong = [hint for hint, color in zip(hints, colors, strict=True) if color is None]
    if wrong or len(colors) < 2:
        raise ManifestError(
            f"output.value.ramp is {list(hints)[:8]}", "Write the name of a colour map, or two and more RRGGBB"
        )
    return tuple(color for color in colors if color is not None)


def _components(folder: Path, block: ComponentsBlock) -> Components:
    data = read_file(folder, block.href, MAX_BYTES)
    if checksum_of(data) != check_checksum(block.checksum):
        raise ArtifactError(
            f"the components' file has the checksum {checksum_of(data)}, the manifest says {block.checksum}",
            "Restore the file, or write the checksum of the new one",
        )
    return from_json(data)
