"""The engine that runs a graph: independent of neighbours and threads, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from products import good_image

from uflow_cli.config import ModelConfig
from uflow_cli.engine import INPUT, build_engine, simplified, why_refused
from uflow_cli.errors import CheckpointError
from uflow_cli.run.graph import load_engine
from uflow_cli.run.record import load_run

CONFIG = ModelConfig(input_size=64)


def sum_graph(*, outputs: int = 1) -> onnx.ModelProto:
    """A graph that sums the channels, through a tensor of ones."""
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [3], np.ones(3, np.float32).tobytes(), raw=True)
    nodes = [helper.make_node("Cast", [INPUT], ["x"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("MatMul", ["x", "ones"], [f"u_{i}"]) for i in range(outputs)]
    pixels = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 64, 64, 3])
    maps = [helper.make_tensor_value_info(f"u_{i}", TensorProto.FLOAT, ["batch", 64, 64]) for i in range(outputs)]
    graph = helper.make_graph(nodes, "sum", [pixels], maps, [ones])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_map_depends_on_no_other_image_and_no_number_of_threads(graph_run: Path) -> None:
    images = [good_image(seed) for seed in range(5)]
    engine = load_engine(load_run(graph_run))
    few, many = replace(engine, n_threads=1), replace(engine, n_threads=4)
    together = many.evidence_maps(images)
    for index, image in enumerate(images):
        for source, alone in zip(together, few.evidence_maps([image]), strict=True):
            np.testing.assert_array_equal(source[index], alone[0])


def test_a_graph_of_other_maps_than_promised_is_refused() -> None:
    with pytest.raises(CheckpointError, match="gives 2 maps for 1 sources"):
        build_engine(sum_graph(outputs=2).SerializeToString(), config=CONFIG, source_channels=(3,), reach=(0,))


def test_a_graph_of_another_input_size_says_so_in_one_line() -> None:
    data = sum_graph().SerializeToString()
    engine = build_engine(data, config=ModelConfig(input_size=96), source_channels=(3,), reach=(0,))
    with pytest.raises(CheckpointError, match="does not run") as caught:
        engine.evidence_maps([good_image(0)])
    assert "\n" not in str(caught.value)


def external(model: onnx.ModelProto) -> onnx.ModelProto:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    return model


def in_a_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same where the tensor is in an attribute of a node in a graph of an attribute."""
    tensor = model.graph.initializer[0]
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
    del model.graph.initializer[:]
    return model


def test_weights_in_other_files_are_found_wherever_they_hide() -> None:
    assert not why_refused(sum_graph().SerializeToString())
    assert not why_refused(in_a_branch(sum_graph()).SerializeToString())
    for model in (external(sum_graph()), in_a_branch(external(sum_graph()))):
        assert why_refused(model.SerializeToString())
        with pytest.raises(CheckpointError, match="never read"):
            build_engine(model.SerializeToString(), config=CONFIG, source_channels=(3,), reach=(0,))


def test_a_simplified_graph_computes_the_same_with_fewer_operators_that_every_runtime_knows() -> None:
    model = sum_graph()
    model.graph.node[1].input[1] = "twice"
    model.graph.node.insert(0, helper.make_node("Add", ["ones", "ones"], ["twice"]))
    data = simplified(model.SerializeToString())
    simple = onnx.load_from_string(data)
    assert [node.op_type for node in simple.graph.node] == ["Cast", "MatMul"]
    assert {node.domain for node in simple.graph.node} == {""}
    image = good_image(0)
    maps = [
        build_engine(graph, config=CONFIG, source_channels=(3,), reach=(0,)).evidence_maps([image])[0]
        for graph in (model.SerializeToString(), data)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])


def test_a_graph_with_a_loop_is_refused() -> None:
    model = sum_graph()
    body = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["x", "x"], ["y"], body=body))
    with pytest.raises(CheckpointError, match="has loops"):
        build_engine(model.SerializeToString(), config=CONFIG, source_channels=(3,), reach=(0,))


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_graph_that_gives_no_evidence_is_one_line(value: float) -> None:
    model = sum_graph()
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), value), tensor.name))
    engine = build_engine(model.SerializeToString(), config=CONFIG, source_channels=(3,), reach=(0,))
    with pytest.raises(CheckpointError, match="gives no map of finite evidence"):
        engine.evidence_maps([good_image(0)])


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_damaged_graph_is_refused_in_one_line(cut: int) -> None:
    with pytest.raises(CheckpointError, match=r"damaged|cannot be loaded") as caught:
        build_engine(sum_graph().SerializeToString()[:-cut], config=CONFIG, source_channels=(3,), reach=(0,))
    assert "\n" not in str(caught.value)
