"""Sizes that a model leaves open, states wrongly, or computes: what follows from its inputs is known to the selection."""

from __future__ import annotations

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from tests.frontend.models import run

RNG = np.random.default_rng(11)


def real(*shape: int) -> Any:
    return (RNG.standard_normal(shape) * 0.4).astype(np.float32)


def build(nodes: list[onnx.NodeProto], x: list[Any], y: list[Any], opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """A model from ``x`` to ``y``, both float32."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in sorted({n.domain for n in nodes} - {""}))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def placed(model: onnx.ModelProto, *inputs: Any) -> dict[str, tuple[str, str]]:
    """Where each node went, and why, once the chip was seen to agree with ONNX Runtime on these inputs."""
    program = cimc.compile(model, "ideal")
    chip, name = cimc.Chip(program), model.graph.input[0].name
    for x in inputs:
        for have, want in zip(chip.run({name: x}).values(), run(model, {name: x}), strict=True):
            np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)
    return {row.name: (row.where, row.why) for row in program.placements}


@pytest.mark.parametrize("stated", [None, [None, None, None], [5, None, 4], ["a", "b", "c"]])
def test_a_value_info_that_knows_less_hides_nothing(stated: list[Any] | None) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Reshape", ["x", "s"], ["x2"]),
        helper.make_node("LSTM", ["x2", "w", "r"], ["y"], name="lstm", hidden_size=8),
    ]
    model = build(nodes, [5, "b", 4], [5, 1, "b", 8], w=real(1, 32, 4), r=real(1, 32, 8))
    if stated:
        model.graph.value_info.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, stated))
    assert placed(model, real(5, 2, 4), real(5, 3, 4))["lstm"][0] == "analog"


def test_a_value_info_older_than_the_inputs_narrows_nothing() -> None:
    """An exporter's batch of 1 stays in value_info when the input's batch is opened afterwards: it must not make W a batch."""
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"], name="mm")]
    model = build(nodes, ["b", 3, 4], ["b", 3, 5], w=real(2, 4, 5))
    model.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 3, 4]))
    where, why = placed(model, real(2, 3, 4))["mm"]
    assert where == "digital"
    assert "broadcasts is not known" in why


def test_a_size_is_folded_though_the_batch_is_open() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "one"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "zero"], ["n1"]),
        helper.make_node("Mul", ["n1", "two"], ["n2"]),
        helper.make_node("Div", ["n2", "two"], ["n3"]),
        helper.make_node("Slice", ["w", "zero", "n3", "zero"], ["w1"]),
        helper.make_node("Transpose", ["w1"], ["w2"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w2"], ["y"], name="mm"),
    ]
    constants = {"one": 1, "zero": [0], "two": [2]}
    model = build(nodes, ["b", 4], ["b", 4], w=real(8, 4), **{k: np.array(v, np.int64) for k, v in constants.items()})
    assert placed(model, real(2, 4), real(3, 4))["mm"][0] == "analog"


_MLP = [helper.make_node("MatMul", ["c", "w1"], ["h"], name="fc1"), helper.make_node("MatMul", ["h", "w2"], ["y"], name="fc2")]
_NORM: dict[str, Any] = {"s": np.ones(4, np.float32), "o": np.zeros(4, np.float32)}
_RANKS: dict[str, tuple[list[onnx.NodeProto], list[Any], int, dict[str, Any]]] = {
    "Scaler": (
        [helper.make_node("Scaler", ["x"], ["c"], domain="ai.onnx.ml", offset=[0.5] * 6, scale=[2.0] * 6)], ["n", 6], 6, {},
    ),
    "Normalizer": ([helper.make_node("Normalizer", ["x"], ["c"], domain="ai.onnx.ml", norm="L2")], ["n", 6], 6, {}),
    "Gelu": ([helper.make_node("Gelu", ["x"], ["c"], domain="com.microsoft")], ["n", 6], 6, {}),
    "GroupNormalization": (
        [helper.make_node("GroupNormalization", ["x", "s", "o"], ["g"], num_groups=2), helper.make_node("Flatten", ["g"], ["c"])],
        ["n", 4, 5, 5], 100, _NORM,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _RANKS)
def test_an_operator_without_shape_inference_hides_no_product(name: str) -> None:
    nodes, shape, rows, constants = _RANKS[name]
    model = build([*nodes, *_MLP], shape, ["n", 3], 21, w1=real(rows, 8), w2=real(8, 3), **constants)
    where = placed(model, real(2, *shape[1:]), real(3, *shape[1:]))
    assert {where[name][0] for name in ("fc1", "fc2")} == {"analog"}


@pytest.mark.parametrize("steps", ["static", "computed"])
def test_sizes_that_no_inference_tells_are_seen_in_a_run(steps: str) -> None:
    """A Reshape whose target passes a Where: the sequence has 5 steps whatever the batch, or as many as the input has."""
    shape = ["n", 5, 4] if steps == "static" else ["n", "t", 4]
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Equal", ["s", "minus"], ["e"]),
        helper.make_node("Where", ["e", "ones", "s"], ["target"]),
        helper.make_node("Reshape", ["x", "target"], ["x2"]),
        helper.make_node("Transpose", ["x2"], ["x3"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["x3", "w", "r"], ["y"], name="lstm", hidden_size=8),
    ]
    constants = {"minus": np.full(3, -1, np.int64), "ones": np.ones(3, np.int64)}
    model = build(nodes, shape, [None, 1, None, 8], w=real(1, 32, 4), r=real(1, 32, 8), **constants)
    where, why = placed(model, real(2, 5, 4), real(3, 5, 4) if steps == "static" else real(3, 7, 4))["lstm"]
    if steps == "static":
        assert where == "analog"
    else:
        assert where == "digital"
        assert "length of its sequence" in why
        assert "--shape NAME=SIZE,… fixes the sizes of 'x'" in why


def test_a_size_that_depends_on_the_data_is_not_taken_from_a_run() -> None:
    """As many rows as the input has positive values: every run of the probe may have seen the same number."""
    nodes = [
        helper.make_node("Relu", ["x"], ["p"]),
        helper.make_node("NonZero", ["p"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["f", "zero"], ["f3"]),
        helper.make_node("Transpose", ["f3"], ["f4"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["f4", "w", "r"], ["y"], name="lstm", hidden_size=8),
    ]
    model = build(nodes, [6], [None, 1, 1, 8], zero=np.array([0], np.int64), w=real(1, 32, 1), r=real(1, 32, 8))
    where, _ = placed(model, np.array([1, 2, 3, 4, 5, 6], np.float32), np.array([1, -2, 3, 4, 5, 6], np.float32))["lstm"]
    assert where == "digital"


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_networks_of_pytorch_are_unrolled(kind: str, batch_first: bool, optimize: bool) -> None:
    """Two layers, two directions, an open batch; by the present exporter, and (optimize) by the older one."""
    torch, _ = pytest.importorskip("torch"), pytest.importorskip("onnxscript")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = getattr(torch.nn, kind)(6, 8, 2, bidirectional=True, batch_first=batch_first)
            self.fc = torch.nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            y = self.recurrent(x)[0]
            return self.fc(y[:, -1] if batch_first else y[-1])

    torch.manual_seed(0)
    net, example, batch = Net().eval(), torch.randn((2, 5, 6) if batch_first else (5, 2, 6)), 0 if batch_first else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            net, (example,), dynamo=True, optimize=optimize, dynamic_shapes=({batch: "b"},), verbose=False
        )
        models = [exported.model_proto]
        if optimize:
            file = BytesIO()
            torch.onnx.export(net, (example,), file, dynamo=False, input_names=["x"], dynamic_axes={"x": {batch: "b"}})
            models.append(onnx.load_from_string(file.getvalue()))
    for model in models:
        where = placed(model, *_batches_of(model))
        ops = {node.name: node.op_type for node in model.graph.node}
        products = [where[name][0] for name, op in ops.items() if op in (kind, "Gemm", "MatMul")]
        assert len(products) >= 3
        assert set(products) == {"analog"}


def _batches_of(model: onnx.ModelProto) -> list[Any]:
    dims = [d.dim_value or None for d in model.graph.input[0].type.tensor_type.shape.dim]
    return [real(*(d or size for d in dims)) for size in (2, 3)]
