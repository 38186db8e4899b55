"""What `onnx.checker` refuses and ONNX Runtime runs: it loads, and gives what ONNX Runtime gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cimc
from tests.frontend import models

X = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)


def _domains(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.domain = "ai.onnx"


def _opset_named(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"


def _unsorted_with_a_body(model: onnx.ModelProto) -> None:
    """An If whose branch reads what a later node makes."""
    branch = helper.make_graph([helper.make_node("Neg", ["h"], ["b"])], "branch", [], [onnx.ValueInfoProto(name="b")])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(0, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    model.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, None))


CHANGES: dict[str, Callable[[onnx.ModelProto], object]] = {
    "output without shape": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "input without shape": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    "output without type": lambda m: m.graph.output[0].ClearField("type"),
    "graph without name": lambda m: m.graph.ClearField("name"),
    "nodes not sorted": lambda m: m.graph.node.append(m.graph.node.pop(0)),
    "nodes not sorted, with a body": _unsorted_with_a_body,
    "domain ai.onnx": _domains,
    "opset of the domain ai.onnx": _opset_named,
    "two opsets of one domain": lambda m: m.opset_import.append(helper.make_opsetid("", 17)),
    "an opset that nothing uses": lambda m: m.opset_import.append(helper.make_opsetid("com.example", 3)),
    "value_info without type": lambda m: m.graph.value_info.append(onnx.ValueInfoProto(name="h")),
    "no producer, an old IR version": lambda m: setattr(m, "ir_version", 4),
}


@pytest.mark.parametrize("what", CHANGES)
def test_it_runs_as_onnx_runtime_runs_it(what: str) -> None:
    model = models.linear()
    CHANGES[what](model)
    wanted = models.run(model, {"x": X})
    program = cimc.compile(model, target="ideal")
    got = cimc.Chip(program).run({"x": X})
    assert list(got) == [output.name for output in model.graph.output]
    assert [output.dtype for output in program.outputs] == ["float32"] * len(wanted)
    for mine, theirs in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_what_onnx_runtime_refuses_too_is_told_in_the_words_of_the_checker() -> None:
    model = models.linear()
    model.graph.node[1].attribute.append(helper.make_attribute("slope", 0.5))
    model.graph.node[1].op_type = "LeakyRelu"
    with pytest.raises(Exception, match="slope"):
        models.run(model, {"x": X})
    with pytest.raises(cimc.ModelError, match=r"onnx.checker refuses it.*slope"):
        cimc.compile(model, target="ideal")


def test_an_order_that_is_right_stays() -> None:
    model = models.text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { b = Neg(x) a = Abs(x) y = Add(a, b) }'
    )
    assert [row["op_type"] for row in cimc.compile(model, target="ideal").placement()] == ["Neg", "Abs", "Add"]
