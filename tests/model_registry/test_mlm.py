"""Models as MLM items: valid where others check them, the same model when they come back; and others' items."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_registry import testing
from model_registry.errors import ArtifactError, ManifestError, ModelError, UnsupportedModel
from model_registry.manifest import Model, open_model
from model_registry.mlm import SCHEMA_URI, document_from_item, item_from_model
from tests.model_registry.shelves import write

Json = dict[str, Any]


def _plain(folder: Path) -> Path:
    return write(folder)


def _rich(folder: Path) -> Path:
    classes = ["open water", {"value": 7, "name": "a/b", "color_hint": "00FF0080", "description": "wet"}, "x"]
    scaling = [{"type": "scale", "value": 255}, None, {"type": "z-score", "mean": 1, "stddev": 2}]
    net = testing.conv_chain(layers=1, classes=3)
    return testing.write_model(
        folder, net, classes=classes, scaling=scaling, title="Fläche (S2)", license="CC BY 4.0",
        nodata={"fill": "mean"}, window={"multiple": 4, "halo": "auto"}, exactness="bounded", output={"threshold": 0.4},
    )  # fmt: skip


def _chained(folder: Path) -> Path:
    steps = [{"type": "clip", "minimum": 0, "maximum": [1, 2, 3]}, {"type": "scale", "value": 2}]
    net = testing.conv_chain(layers=1, classes=3)
    return testing.write_model(folder, net, classes=list("abc"), scaling=None, preprocess=steps)


def _binary(folder: Path) -> Path:
    """One output channel, one class: the background is only implied."""
    one = [{"value": 1, "name": "field", "color_hint": "E6B800"}]
    net = testing.conv_chain(layers=1, classes=1)
    return testing.write_model(folder, net, classes=one, gsd=None, license="MIT")


def _repeated_bands(folder: Path) -> Path:
    net = testing.conv_chain(layers=1, classes=2)
    return testing.write_model(folder, net, classes=list("ab"), bands=["1", "1", "1"], scaling=[])


def _derived_rasters(folder: Path) -> Path:
    net = testing.conv_chain(layers=1, classes=2)
    scaling = [{"type": "z-score", "mean": 0, "stddev": 3000}]
    return testing.write_model(folder, net, classes=list("ab"), values=None, scaling=scaling)


def _bare_onnx(folder: Path) -> Path:
    net = testing.with_metadata(
        testing.conv_chain(layers=1, classes=2),
        model_type='"Segmentor"',
        class_names=json.dumps({0: "none", 1: "tree"}),
        resolution="50",
        standardization_mean="[0.4, 0.5, 0.6]",
        standardization_std="[0.2, 0.2, 0.2]",
    )
    folder.mkdir(parents=True)
    (folder / "trees.onnx").write_bytes(net.SerializeToString())
    return folder / "trees.onnx"


MAKERS = [_plain, _rich, _chained, _binary, _repeated_bands, _derived_rasters, _bare_onnx]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__.strip("_"))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    make: Callable[[Path], Path] = request.param
    return open_model(make(tmp_path / "cover" / "3"))


# Out, and back


def test_an_item_comes_back_as_the_same_model(model: Model, tmp_path: Path):
    item = json.loads(json.dumps(item_from_model(model)))
    place = tmp_path / "again" / "cover" / "3"
    place.mkdir(parents=True)
    for artifact in model.artifacts:
        os.link(model.folder / artifact.href, place / artifact.href)
    (place / "model.yaml").write_text(yaml.safe_dump(document_from_item(item)))
    again = open_model(place)
    assert again.digest == model.digest
    for name in ("title", "bands", "classes", "scaling", "resolution", "window", "license", "precision"):
        assert getattr(again, name) == getattr(model, name), name


NAME = r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]"
KNOWN = set(
    "name architecture tasks framework framework_version memory_size total_parameters pretrained pretrained_source "
    "batch_size_suggestion accelerator accelerator_constrained accelerator_summary accelerator_count input output "
    "hyperparameters artifact_type compile_method entrypoint".split()
)
TASKS = {"semantic-segmentation", "segmentation", "regression"}
SCALINGS = {
    "min-max": {"minimum", "maximum"}, "z-score": {"mean", "stddev"}, "clip": {"minimum", "maximum"},
    "clip-min": {"minimum"}, "clip-max": {"maximum"}, "offset": {"value"}, "scale": {"value"},
}  # fmt: skip


def check_item(item: Json) -> None:
    """The rules of MLM 1.6's and STAC 1.1's JSON schemas that an item of ours can break."""
    assert item["type"] == "Feature" and item["stac_version"] == "1.1.0" and item["links"] == []
    assert SCHEMA_URI in item["stac_extensions"] and SCHEMA_URI.endswith("/v1.6.0/schema.json")
    assert item["geometry"] is None and "bbox" not in item and "collection" not in item
    properties, assets = item["properties"], item["assets"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", properties["datetime"])
    assert {key.removeprefix("mlm:") for key in properties if key.startswith("mlm:")} <= KNOWN
    assert re.fullmatch(NAME, properties["mlm:name"]) and properties["mlm:architecture"]
    assert properties["mlm:tasks"] and set(properties["mlm:tasks"]) <= TASKS
    assert re.fullmatch(r"[\w\-.+]+", properties.get("license", "other"))

    (entry,), (output,) = properties["mlm:input"], properties["mlm:output"]
    structure = entry["input"]
    assert entry["name"] and "bands" in structure["dim_order"] and len(structure["shape"]) == 4
    assert all(isinstance(n, int) and n >= -1 for n in structure["shape"])
    assert len(entry["bands"]) == structure["shape"][1]
    # Named bands must be defined: in the properties, which STAC's core allows only where an asset has some as well.
    named = [band["name"] for band in properties["bands"]]
    assert set(entry["bands"]) == set(named) and len(named) == len(set(named)) and assets["model"]["bands"]
    for one in entry.get("value_scaling", ()):
        assert set(one) - {"type"} == SCALINGS[one["type"]]
        assert all(isinstance(value, int | float) for key, value in one.items() if key != "type")
    assert len(entry.get("value_scaling", [0])) in (1, structure["shape"][1])
    for function in filter(None, [entry.get("pre_processing_function"), output.get("post_processing_function")]):
        assert set(function) >= {"format", "expression"}
    assert "bands" not in output["result"]["dim_order"] and "bands" not in output
    assert len(output["result"]["dim_order"]) == len(set(output["result"]["dim_order"])) == 4
    for one in output.get("classification:classes", ()):
        assert set(one) == {"value", "name", "description", "color_hint"} and one["description"]
        assert re.fullmatch(r"[0-9A-Za-z-_]+", one["name"]) and re.fullmatch("[0-9A-F]{6}", one["color_hint"])

    assert "mlm:model" in assets["model"]["roles"]
    for asset in assets.values():
        assert ("mlm:model" in asset["roles"]) == ("mlm:artifact_type" in asset)
        assert not {"mlm:name", "mlm:input", "mlm:output", "mlm:hyperparameters"} & set(asset)
        assert re.fullmatch("1220[0-9a-f]{64}", asset.get("file:checksum", "1220" + "0" * 64))


def test_an_item_keeps_the_rules_of_the_schemas(model: Model):
    check_item(item_from_model(model))


def test_the_rules_are_kept_by_any_name(tmp_path: Path):
    for number, title in enumerate(["", "a", "ab", "3D", "Fläche", "x/y", " lead", "trail ", "ok name", "." * 5]):
        folder = write(tmp_path / "m" / str(number + 1), title=title)
        check_item(item_from_model(open_model(folder)))
    check_item(item_from_model(open_model(write(tmp_path / "3"))))


def test_an_item_is_what_stac_model_reads(model: Model):
    """Against the classes of the extension's own authors, where they are installed (stac-model 0.7)."""
    schema = pytest.importorskip("stac_model.schema")
    properties = item_from_model(model)["properties"]
    read = schema.MLModelProperties(**{key: value for key, value in properties.items() if key.startswith("mlm:")})
    assert read.name == properties["mlm:name"] and len(read.input[0].bands) == len(model.bands)


def test_what_an_item_says(tmp_path: Path):
    folder = _rich(tmp_path / "cover" / "3")
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["properties"] |= {
        "framework": "PyTorch", "framework_version": "2.10", "total_parameters": 7, "pretrained_source": None,
        "source": "trees.onnx", "providers": [{"name": "us"}], "mlm:batch_size_suggestion": 4, "mlm:made_up": 1,
    }  # fmt: skip
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    model = open_model(folder)
    (folder / "probe.json").write_text(json.dumps({"digest": model.digest, "halo": 2, "machine": {"processor": "x"}}))
    item = item_from_model(model, base="https://host/models/cover/3/")
    properties, assets = item["properties"], item["assets"]
    assert (item["id"], properties["title"], properties["mlm:name"]) == ("cover-3", "Fläche (S2)", "cover")
    assert (properties["license"], properties["serving:license"]) == ("other", "CC BY 4.0")
    assert properties["gsd"] == 0.5 and properties["serving:window"] == {"multiple": 4, "halo": "auto"}
    assert properties["serving:measured"] == {"halo": 2}
    assert properties["mlm:framework"] == "PyTorch" and properties["mlm:total_parameters"] == 7
    assert properties["mlm:pretrained_source"] is None and properties["mlm:batch_size_suggestion"] == 4
    assert "mlm:framework_version" not in properties, "its schema wants three numbers"
    assert "mlm:made_up" not in properties and properties["source"] == "trees.onnx"
    assert assets["model"]["href"] == "https://host/models/cover/3/model.onnx"
    assert assets["model"]["file:checksum"] == model.artifacts[0].checksum and assets["model"]["file:size"] > 0
    assert set(assets) == {"model", "model-document", "probe-document"}
    assert [one["name"] for one in properties["mlm:output"][0]["classification:classes"]] == ["open-water", "a-b", "x"]
    check_item(item)
    assert str(tmp_path) not in json.dumps(item)


def test_tasks_that_mlm_has_no_word_for_come_back(tmp_path: Path):
    folder = write(tmp_path / "m")
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["properties"]["output"][0]["tasks"] = ["semantic-segmentation", "crop-mapping"]
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    item = item_from_model(open_model(folder))
    check_item(item)
    document = document_from_item(item)
    assert document["properties"]["output"][0]["tasks"] == ["semantic-segmentation", "crop-mapping"]
    assert "&id" not in yaml.safe_dump(document), "an alias, which a reader of YAML may refuse"


def test_a_fixed_window_is_the_shape(tmp_path: Path):
    folder = write(tmp_path / "m")
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["properties"]["input"][0]["input"]["shape"] = [1, 1, 256, 512]
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    item = item_from_model(open_model(folder))
    assert item["properties"]["mlm:input"][0]["input"]["shape"] == [-1, 1, 256, 512]


# Others' items


@pytest.fixture
def foreign(tmp_path: Path) -> Json:
    """A sound item of somebody else's, its model beside it."""
    net = testing.conv_chain(layers=1, classes=2, bands=4)
    (tmp_path / "fields.onnx").write_bytes(net.SerializeToString())
    order = ["batch", "bands", "height", "width"]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
        "id": "fields",
        "geometry": {"type": "Point", "coordinates": [0, 0]},
        "properties": {
            "datetime": None,
            "start_datetime": "2015-06-23T00:00:00Z",
            "mlm:name": "Fields",
            "mlm:architecture": "U-Net",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "PyTorch",
            "mlm:input": [
                {
                    "name": "x",
                    "bands": ["B04", "B03", "B02", {"name": "B08"}],
                    "variables": [],
                    "input": {"shape": [-1, 4, 256, 256], "dim_order": order, "data_type": "float32"},
                    "value_scaling": [{"type": "z-score", "mean": 0, "stddev": 3000}],
                    "pre_processing_function": None,
                }
            ],
            "mlm:output": [
                {
                    "name": "y",
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, 2, 256, 256], "dim_order": ["batch", "class", "height", "width"],
                        "data_type": "float32",
                    },
                    "classification:classes": [{"value": 0, "name": "no"}, {"value": 1, "name": "field"}],
                    "post_processing_function": None,
                }
            ],
        },
        "assets": {
            "weights": {"href": "./fields.onnx", "roles": ["mlm:model"], "mlm:artifact_type": "onnx"},
            "code": {"href": "https://host/x.py", "roles": ["mlm:source_code"]},
        },
        "links": [],
    }  # fmt: skip


def read(item: Json, folder: Path) -> Model:
    """The model that an item amounts to, by way of the file that would be written."""
    (folder / "model.yaml").write_text(yaml.safe_dump(document_from_item(item, folder=folder)))
    return open_model(folder)


def first(item: Json, what: str = "input") -> Json:
    found: Json = item["properties"][f"mlm:{what}"][0]
    return found


def test_a_sound_item_is_read(foreign: Json, tmp_path: Path):
    model = read(foreign, tmp_path)
    assert model.bands == ("B04", "B03", "B02", "B08") and model.window.fixed == (256, 256)
    assert [op.kind for op in model.scaling] == ["z-score"] and model.input_dtypes == ("uint16", "int16")
    assert [item.name for item in model.classes] == ["no", "field"] and model.resolution is None
    assert model.title == "Fields" and model.artifacts[0].size > 0


def test_the_prefix_may_be_missing(foreign: Json, tmp_path: Path):
    plain = copy.deepcopy(foreign)
    plain["properties"] = {key.removeprefix("mlm:"): value for key, value in foreign["properties"].items()}
    assert document_from_item(plain, folder=tmp_path) == document_from_item(foreign, folder=tmp_path)


def test_the_metadata_only_form_is_read(foreign: Json):
    document = document_from_item({"properties": foreign["properties"]})
    assert "artifacts" not in document["serving"] and len(document["properties"]["input"][0]["bands"]) == 4


def test_a_checksum_is_taken_over_or_taken(foreign: Json, tmp_path: Path):
    taken = document_from_item(foreign, folder=tmp_path)["serving"]["artifacts"]
    assert re.fullmatch("1220[0-9a-f]{64}", taken[0]["checksum"])
    assert document_from_item(foreign)["serving"]["artifacts"] == [{"href": "fields.onnx", "format": "onnx"}]
    foreign["assets"]["weights"] |= {"file:checksum": "1220" + "A" * 64, "file:size": 3}
    stated = document_from_item(foreign, folder=tmp_path)["serving"]["artifacts"]
    assert stated == [{"href": "fields.onnx", "format": "onnx", "checksum": "1220" + "a" * 64, "size": 3}]
    with pytest.raises(ArtifactError, match="3"):
        from model_registry.artifacts import read_artifact

        model = read(foreign, tmp_path)
        read_artifact(model.folder, model.artifacts[0])


def test_min_and_max_mean_minimum_and_maximum(foreign: Json, tmp_path: Path):
    """As terratorch writes them; the schema has never known these words."""
    first(foreign)["value_scaling"] = [{"type": "min-max", "min": 0, "max": 10000, "description": "reflectance"}]
    assert read(foreign, tmp_path).scaling[0].numbers == ((0,) * 4, (10000,) * 4)


def test_a_kernels_shape_is_no_window(foreign: Json, tmp_path: Path):
    """As stac-model's from_torch writes it: the first convolution's, and an answer without an image."""
    first(foreign)["input"]["shape"] = [1, 4, 3, 3]
    first(foreign)["input"]["dim_order"] = ["batch", "channel", "height", "width"]
    first(foreign, "output")["result"] = {"shape": [1, 2], "dim_order": ["batch", "classes"], "data_type": "float32"}
    model = read(foreign, tmp_path)
    assert model.window.fixed is None and len(model.bands) == 4 and len(model.classes) == 2


def test_a_band_listed_twice_is_left_to_be_asked_for(foreign: Json):
    """Most likely two dates of one scene, which no file tells apart."""
    first(foreign)["bands"] = ["B04", "B03"] * 2
    entry = document_from_item(foreign)["properties"]["input"][0]
    assert entry["bands"] == [] and entry["input"]["shape"][1] == 4


def test_colours_and_classes_as_others_write_them(foreign: Json, tmp_path: Path):
    output = first(foreign, "output")
    output["classification_classes"] = [
        {"value": 0, "name": "BACKGROUND", "color_hint": [0, 0, 255], "nodata": False},
        {"value": 1, "description": "a city", "color_hint": None, "title": None},
    ]
    del output["classification:classes"]
    model = read(foreign, tmp_path)
    assert model.classes[0].color == (0, 0, 255, 255) and model.classes[1].description == "a city"


@pytest.mark.parametrize(
    ("more", "gsd"),
    [
        ({}, None),
        ({"gsd": 10}, 10),
        ({"bands": [{"name": "B04", "gsd": 10}, {"name": "B03", "gsd": 10}]}, 10),
        ({"eo:bands": [{"name": "B04", "gsd": 10}, {"name": "B11", "gsd": 20}]}, None),
        ({"bands": [{"name": "B04", "gsd": 10}, {"name": "B03"}]}, None),
    ],
)
def test_a_resolution_is_taken_only_where_one_is_stated(foreign: Json, more: Json, gsd: float | None):
    foreign["properties"] |= more
    resolution = document_from_item(foreign)["serving"].get("resolution")
    assert resolution == (None if gsd is None else {"value": gsd, "unit": "m"})


def test_of_several_files_the_one_that_is_served_best_is_taken(foreign: Json):
    foreign["assets"] = {
        "a": {"href": "m.pt2", "roles": ["mlm:model"], "mlm:artifact_type": "torch.export.save"},
        "b": {"href": "m.safetensors", "roles": ["mlm:model"], "mlm:artifact_type": "safetensors.torch.save_file"},
        "c": {"href": "m.pth", "roles": ["mlm:model"], "mlm:artifact_type": "torch.save"},
        "d": {"href": "s.pt", "roles": ["mlm:model"], "mlm:artifact_type": "torch.jit.save"},
    }
    formats = []
    while artifacts := document_from_item(foreign)["serving"].get("artifacts"):
        formats.append(artifacts[0]["format"])
        foreign["assets"] = {k: a for k, a in foreign["assets"].items() if a["href"] != artifacts[0]["href"]}
    assert formats == ["safetensors", "pt2", "torchscript"], "and a pickle never"


def spoil(path: str, value: Any) -> Callable[[Json], None]:
    def change(item: Json) -> None:
        at: Any = item
        *way, last = path.split(".")
        for part in way:
            at = at[int(part)] if isinstance(at, list) else at[part]
        at[last] = value

    return change


INPUT, OUTPUT = "properties.mlm:input.0", "properties.mlm:output.0"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        (spoil("properties", None), ManifestError, "no STAC item"),
        (spoil("properties.mlm:input", None), ManifestError, "no mlm:input"),
        (spoil("properties.mlm:output", []), ManifestError, "no mlm:output"),
        (spoil("properties.mlm:input", [{}, {}]), UnsupportedModel, "2 inputs"),
        (spoil(f"{INPUT}.input.shape", [-1, 12, 4, 256, 256]), UnsupportedModel, "5 axes"),
        (spoil(f"{INPUT}.input.shape", [-1, 3, 256, 256]), ManifestError, "4 bands for 3 channels"),
        (spoil(f"{INPUT}.input.dim_order", ["batch", "height", "width", "bands"]), UnsupportedModel, "dim_order"),
        (spoil(f"{INPUT}.input.dim_order", ["batch", "time", "height", "width"]), UnsupportedModel, "dim_order"),
        (spoil(f"{INPUT}.bands", [{"name": "NDVI", "expression": "a - b"}]), UnsupportedModel, "is an expression"),
        (spoil(f"{INPUT}.bands", "B04"), ManifestError, "no list"),
        (spoil(f"{INPUT}.pre_processing_function", {"format": "python"}), UnsupportedModel, "pre_processing_function"),
        (spoil(f"{OUTPUT}.post_processing_function", "softmax"), UnsupportedModel, "post_processing_function"),
        (spoil(f"{INPUT}.resize_type", "interpolation-linear"), UnsupportedModel, "resized"),
        (spoil(f"{INPUT}.value_scaling", "z-score"), ManifestError, "no list"),
        (spoil(f"{INPUT}.value_scaling", [{"type": "z-score", "mean": 0}]), ManifestError, "stddev"),
        (spoil(f"{INPUT}.value_scaling", [{"type": "min-max", "lo": 0, "hi": 1}]), ManifestError, "unknown key"),
        (spoil(f"{INPUT}.value_scaling", [{"type": "l2"}]), ManifestError, "unknown scaling type"),
        (spoil(f"{INPUT}.value_scaling", [{"type": "processing", "expression": "x"}]), ManifestError, "processing"),
        (spoil(f"{INPUT}.value_scaling", [{"type": "scale", "value": 2}] * 3), ManifestError, "3 entries for 4 bands"),
        (spoil(f"{OUTPUT}.classification:classes", {"no": 0}), ManifestError, "no list of"),
        (spoil("assets.weights.href", "https://host/fields.onnx"), ArtifactError, "lies elsewhere"),
        (spoil("assets.weights.href", "../fields.onnx"), ArtifactError, "does not lie inside"),
        (spoil("assets.weights.href", "/fields.onnx"), ArtifactError, "does not lie inside"),
        (spoil("assets.weights.file:checksum", "1114" + "a" * 40), ManifestError, "not a sha256 multihash"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_with_the_reason(foreign: Json, change, kind, says):
    change(foreign)
    with pytest.raises(kind, match=re.escape(says)) as caught:
        document_from_item(foreign)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "old",
    [
        {"norm": {"type": "z-score"}},
        {"norm_by_channel": True},
        {"norm_type": "z-score"},
        {"statistics": [{"mean": 1, "stddev": 2}]},
        {"norm_clip": [0, 1], "value_scaling": None},
    ],
)
def test_scaling_in_words_that_are_gone_is_refused(foreign: Json, old: Json):
    """As FDR4VGT-CLOUD writes it: dropping it would feed raw numbers to a network that was trained on scaled ones."""
    del first(foreign)["value_scaling"]
    first(foreign).update(old)
    with pytest.raises(ManifestError, match="which MLM gave up") as caught:
        document_from_item(foreign)
    assert "value_scaling" in caught.value.remedy


def test_words_that_are_gone_do_no_harm_beside_the_new_ones(foreign: Json, tmp_path: Path):
    first(foreign).update({"norm_by_channel": True, "resize_type": "crop"})
    assert len(read(foreign, tmp_path).scaling) == 1
    del first(foreign)["value_scaling"]
    first(foreign).update({"norm_by_channel": False, "norm_type": None, "statistics": []})
    assert "value_scaling" not in document_from_item(foreign)["properties"]["input"][0]


def test_a_network_for_whole_images_is_no_map(foreign: Json):
    foreign["properties"]["mlm:tasks"] = ["classification"]
    first(foreign, "output").update(tasks=["scene-classification"], result={"shape": [-1, 10]})
    with pytest.raises(UnsupportedModel, match="one answer for a whole image"):
        document_from_item(foreign)


@pytest.mark.parametrize("item", [None, [], "x", {}, {"type": "Collection", "links": []}, {"properties": {"a": 1}}])
def test_what_is_no_item_at_all_is_refused(item):
    with pytest.raises(ModelError):
        document_from_item(item)
