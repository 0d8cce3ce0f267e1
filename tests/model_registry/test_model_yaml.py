from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model_registry import testing
from model_registry.errors import ArtifactError, ManifestError, ModelError, UnsupportedModel
from model_registry.manifest import PrecisionSpec, Resolution, WindowSpec, open_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    net = testing.conv_chain(layers=1, classes=3)
    return testing.write_model(tmp_path / "fields", net, classes=["a", "b", "c"], title="Field boundaries")


def edit(folder: Path, change) -> Path:
    document = yaml.safe_load((folder / "model.yaml").read_text())
    change(document)
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    return folder


def test_everything_that_a_manifest_says_is_read(folder: Path):
    def change(d):
        d["serving"].update(
            resolution={"value": 10, "unit": "m", "tolerance": 0.25, "policy": "refuse"},
            window={"multiple": 16, "period": "auto", "halo": 96, "preferred": 256, "max": 1024, "cell": 64},
            output={"emits": "logits", "activation": "sigmoid", "threshold": 0.4},
            nodata={"fill": "mean", "mask": "all"},
            exactness="bounded",
            preprocess=[{"type": "clip", "minimum": 0, "maximum": [1, 2, 3]}, {"type": "scale", "value": 2}],
        )
        d["properties"]["output"][0]["classification:classes"] = [
            {"value": 7, "name": "water", "color_hint": "0000ff", "description": "wet"},
            {"value": 9, "name": "land"},
            {"value": 0},
        ]
        d["properties"].update(license="MIT", version=3)

    model = open_model(edit(folder, change))
    assert (model.name, model.version, model.title, model.license) == ("fields", "3", "Field boundaries", "MIT")
    assert model.resolution == Resolution(10, 0.25, "refuse")
    assert model.window == WindowSpec(16, None, 96, None, 256, 1024, 64)
    assert (model.activation, model.threshold, model.exactness) == ("sigmoid", 0.4, "bounded")
    assert (model.nodata.fill, model.nodata.mask) == ("mean", "all")
    assert [op.kind for op in model.scaling] == ["clip", "scale"]
    assert model.scaling[0].numbers == ((0, 0, 0), (1, 2, 3))
    assert [(c.value, c.name) for c in model.classes] == [(7, "water"), (9, "land"), (0, "0")]
    assert model.classes[0].color == (0, 0, 255, 255) and model.classes[0].description == "wet"
    assert model.bands == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("block", "key", "known"),
    [
        ((), "resolutoin", "resolution"),
        (("window",), "halo_px", "halo"),
        (("output",), "activaton", "activation"),
        (("artifacts", 0), "sha256", "checksum"),
        (("input",), "dtype", "dtypes"),
    ],
)
def test_unknown_serving_key_is_named_with_the_known_ones(folder: Path, block, key, known):
    def change(d):
        at = d["serving"]
        for part in block:
            at = at.setdefault(part, {}) if isinstance(at, dict) else at[part]
        at[key] = 1

    with pytest.raises(ManifestError) as caught:
        open_model(edit(folder, change))
    assert f"{key}'" in caught.value.reason and known in caught.value.remedy.split(": ")[1].split(", ")


def test_unknown_mlm_properties_and_prefixes_are_accepted(folder: Path):
    def change(d):
        d["properties"] = {f"mlm:{k}": v for k, v in d["properties"].items()} | {"mlm:framework": "pytorch"}

    assert open_model(edit(folder, change)).title == "Field boundaries"


@pytest.mark.parametrize(
    ("entries", "data_type", "expected"),
    [
        ([{"type": "min-max", "minimum": 0, "maximum": 1}], "float32", ("physical", ("float32", "float64"))),
        ([{"type": "z-score", "mean": 0.1, "stddev": 0.1}], "float32", ("physical", ("float32", "float64"))),
        ([{"type": "scale", "value": 255}], "float32", ("dn", ("uint8",))),
        ([{"type": "z-score", "mean": 120, "stddev": 40}], "float32", ("dn", ("uint8",))),
        ([{"type": "z-score", "mean": 0, "stddev": 3000}], "float32", ("dn", ("uint16", "int16"))),
        (None, "uint16", ("dn", ("uint16",))),
    ],
)
def test_rasters_follow_from_the_scaling(tmp_path: Path, entries, data_type, expected):
    net = testing.conv_chain(layers=1, classes=3)
    folder = testing.write_model(tmp_path / "m", net, classes=["a", "b", "c"], values=None, scaling=entries)
    edit(folder, lambda d: d["properties"]["input"][0]["input"].update(data_type=data_type))
    model = open_model(folder)
    assert (model.input_values, model.input_dtypes) == expected


@pytest.mark.parametrize("entries", [None, [{"type": "offset", "value": 3}]])
def test_rasters_are_not_guessed(tmp_path: Path, entries):
    net = testing.conv_chain(layers=1, classes=3)
    folder = testing.write_model(tmp_path / "m", net, classes=["a", "b", "c"], values=None, scaling=entries)
    with pytest.raises(ManifestError, match="serving.input"):
        open_model(folder)


def test_one_class_gets_a_background(folder: Path):
    def change(d):
        d["properties"]["output"][0]["classification:classes"] = [{"value": 5, "name": "water"}]

    model = open_model(edit(folder, change))
    assert [(c.value, c.name, c.color[3]) for c in model.classes] == [(0, "background", 0), (5, "water", 255)]
    assert model.activation == "sigmoid"


def classes(d):
    return d["properties"]["output"][0]["classification:classes"]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda d: d.pop("serving"), ManifestError, "'serving'"),
        (lambda d: d["serving"].pop("artifacts"), ManifestError, "serving.artifacts"),
        (lambda d: d["serving"].update(schema=2), ManifestError, "serving.schema"),
        (lambda d: d["serving"]["artifacts"][0].update(href="gone.onnx"), ArtifactError, "gone.onnx"),
        (lambda d: d["serving"].update(resolution={"value": 30, "unit": "cm"}), ManifestError, "unit"),
        (lambda d: d["serving"].update(resolution={"value": -1}), ManifestError, "-1.0 m"),
        (lambda d: d["serving"].update(window={"halo": -4}), ManifestError, "window.halo is -4"),
        (lambda d: d["serving"].update(output={"threshold": 2}), ManifestError, "threshold"),
        (lambda d: d["serving"].update(output={"emits": "labels", "activation": "softmax"}), ManifestError, "labels"),
        (lambda d: d["properties"]["input"].append({}), UnsupportedModel, "2 inputs"),
        (lambda d: d["properties"]["input"][0]["input"].update(shape=[-1, 4, -1, -1]), ManifestError, "4 bands"),
        (
            lambda d: d["properties"]["input"][0]["input"].update(dim_order=["batch", "height", "width", "bands"]),
            UnsupportedModel,
            "dim_order",
        ),
        (lambda d: d["properties"]["input"][0].update(pre_processing_function={}), UnsupportedModel, "preprocess"),
        (
            lambda d: d["properties"]["input"][0].update(bands=["a", "b", {"name": "c", "expression": "a+b"}]),
            UnsupportedModel,
            "'c'",
        ),
        (lambda d: classes(d).clear(), ManifestError, "0 classes"),
        (lambda d: classes(d)[1].update(value=0), ManifestError, "own value"),
        (lambda d: classes(d)[1].update(value=256), ManifestError, "256"),
        (lambda d: classes(d)[1].update(color_hint="red"), ManifestError, "RRGGBB"),
    ],
)
def test_refusals(folder: Path, change, kind, message):
    with pytest.raises(kind, match=message):
        open_model(edit(folder, change))


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "!!python/object/apply:os.getcwd []", "a: &x [*x, *x]"])
def test_files_that_are_no_manifest(folder: Path, text: str):
    (folder / "model.yaml").write_text(text)
    with pytest.raises(ManifestError):
        open_model(folder)


def test_neither_folder_nor_onnx(tmp_path: Path):
    for name in ("nothing", "weights.pth"):
        with pytest.raises(ModelError, match=name):
            open_model(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="model.yaml"):
        open_model(tmp_path / "empty")


def test_version_folders_take_the_name_of_their_parent(folder: Path):
    moved = folder.rename(folder.with_name("12"))
    model = open_model(moved)
    assert (model.name, model.version) == (moved.parent.name, "12")


@pytest.mark.parametrize("cell", [0, -32, 1025, 10**9])
def test_cells_that_no_window_could_hold_are_refused(folder: Path, cell: int):
    with pytest.raises(ManifestError, match=rf"window\.cell is {cell}"):
        open_model(edit(folder, lambda d: d["serving"].update(window={"cell": cell})))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["serving"].update(resolution={"value": 2}),
        lambda d: d["serving"].update(nodata={"fill": 1}),
        lambda d: d["serving"].update(window={"halo": 3}),
        lambda d: d["serving"].update(window={"cell": 64}),
        lambda d: d["serving"].update(output={"threshold": 0.5}),
        lambda d: d["serving"].update(preprocess=[{"type": "scale", "value": 254}]),
        lambda d: d["serving"].update(input={"values": "dn", "dtypes": ["uint16"]}),
        lambda d: classes(d)[0].update(value=9),
        lambda d: d["properties"]["input"][0]["bands"].reverse(),
    ],
)
def test_digest_follows_what_decides_a_pixel(folder: Path, change):
    before = open_model(folder).digest
    assert open_model(edit(folder, change)).digest != before


def test_models_can_be_keys(folder: Path):
    assert {open_model(folder): 1}[open_model(folder)] == 1


def test_digest_ignores_what_does_not(folder: Path):
    before = open_model(folder)

    def change(d):
        d["properties"].update(name="Other", license="MIT", version=9, description="x")
        classes(d)[0].update(color_hint="123456", name="renamed")

    after = open_model(edit(folder, change))
    assert after.digest == before.digest and after.title == "Other"
    assert replace(after, digest="") != replace(before, digest="")


def test_precision_is_fp32_unless_the_author_says_more(folder: Path):
    before = open_model(folder)
    assert before.precision == PrecisionSpec(default="fp32", allowed=("bf16", "fp16"), max_moved=0.005)
    block = {"default": "auto", "allowed": ["bf16"], "max_moved": 0.001}
    model = open_model(edit(folder, lambda d: d["serving"].update(precision=block)))
    assert model.precision == PrecisionSpec("auto", ("bf16",), 0.001)
    assert model.digest == before.digest, "what is allowed decides no pixel; what was chosen does"


@pytest.mark.parametrize(
    ("block", "named"),
    [
        ({"default": "bf16"}, "precision.default"),
        ({"allowed": ["int8"]}, "precision.allowed"),
        ({"max_moved": 1.5}, "precision.max_moved"),
        ({"maximum": 0.1}, "precision.maximum"),
    ],
)
def test_precision_blocks_that_make_no_sense(folder: Path, block, named: str):
    with pytest.raises(ManifestError, match=named):
        open_model(edit(folder, lambda d: d["serving"].update(precision=block)))
