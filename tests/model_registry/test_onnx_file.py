from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from model_registry import testing
from model_registry.errors import ArtifactError
from model_registry.onnx_file import summarise

NET = testing.with_metadata(testing.conv_chain(layers=1, classes=3, size=(64, 32), batch=2), a="1", b="ü")
BYTES = NET.SerializeToString()


def test_agrees_with_the_onnx_package():
    found = summarise(BYTES)
    assert found.inputs == (("x", (2, 3, 64, 32)),) and found.outputs == (("scores", (2, 3, 64, 32)),)
    assert found.metadata == {"a": "1", "b": "ü"}
    assert found.output_op == "Identity" and not found.external_data
    assert summarise(testing.strided_unet(1).SerializeToString()).inputs == (("x", ("n", 3, "h", "w")),)


def external() -> TensorProto:
    tensor = numpy_helper.from_array(np.ones((2, 1, 1, 1), dtype=np.float32), "w")
    external_data_helper.set_external_data(tensor, location="../secret.bin")
    tensor.data_location = TensorProto.EXTERNAL
    return tensor


def wrap(nodes, initializers=(), functions=()) -> bytes:
    axes = ["n", 1, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)],
        list(initializers),
    )
    return helper.make_model(graph, functions=list(functions)).SerializeToString()


CONSTANT = helper.make_node("Constant", [], ["w"], value=external())
BRANCH = helper.make_graph([CONSTANT], "b", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, None)])


@pytest.mark.parametrize(
    "data",
    [
        wrap([helper.make_node("Conv", ["x", "w"], ["y"])], [external()]),
        wrap([CONSTANT, helper.make_node("Conv", ["x", "w"], ["y"])]),
        wrap([helper.make_node("If", ["x"], ["y"], then_branch=BRANCH, else_branch=BRANCH)]),
        wrap(
            [helper.make_node("f", ["x"], ["y"], domain="d")],
            functions=[helper.make_function("d", "f", ["x"], ["w"], [CONSTANT], [helper.make_opsetid("", 17)])],
        ),
    ],
    ids=["initializer", "constant", "subgraph", "function"],
)
def test_external_data_is_found_wherever_it_hides(data: bytes):
    onnx.load_from_string(data)  # a real model file, not just bytes that look like one
    assert summarise(data).external_data


@given(st.binary(max_size=200))
def test_garbage_is_an_artifact_error_or_a_summary(data: bytes):
    try:
        summarise(data)
    except ArtifactError as error:
        assert "not an ONNX model" in error.reason


@given(st.integers(0, len(BYTES) - 1))
def test_truncation_never_crashes(length: int):
    try:
        summarise(BYTES[:length])
    except ArtifactError:
        return


def test_real_models(real):
    data = (real / "dynamicworld" / "dynamicworld_forward_dn.onnx").read_bytes()
    found = summarise(data)
    assert found.inputs == (("s2_dn", ("N", 9, "H", "W")),) and not found.external_data
