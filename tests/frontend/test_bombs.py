"""Small models that unfold to more than any machine holds are refused by a sentence, before anything of that size is made."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cimc
from cimc.frontend.load import load

HUGE = 10**12


def _function(name: str, *nodes: onnx.NodeProto) -> onnx.FunctionProto:
    return helper.make_function("f", name, ["a"], ["b"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)])


def _call(name: str, x: str = "a", y: str = "b") -> onnx.NodeProto:
    return helper.make_node(name, [x], [y], domain="f")


def calls(*functions: onnx.FunctionProto, first: str = "F0") -> onnx.ModelProto:
    """``y = F0(x)``."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("x", "y")]
    graph = helper.make_graph([_call(first, "x", "y")], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def doubling(depth: int) -> onnx.ModelProto:
    """Each function calls the next one twice."""
    steps = [_function(f"F{i}", _call(f"F{i + 1}", "a", "t"), _call(f"F{i + 1}", "t", "b")) for i in range(depth)]
    return calls(*steps, _function(f"F{depth}", helper.make_node("Neg", ["a"], ["b"])))


def nested(depth: int) -> onnx.ModelProto:
    """Each function calls the next one."""
    steps = [_function(f"F{i}", _call(f"F{i + 1}")) for i in range(depth)]
    return calls(*steps, _function(f"F{depth}", helper.make_node("Neg", ["a"], ["b"])))


def within_a_body() -> onnx.ModelProto:
    branch = helper.make_graph([_call("F0", "a", "q")], "branch", [], [onnx.ValueInfoProto(name="q")])
    true = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
    return calls(_function("F0", true, helper.make_node("If", ["c"], ["b"], then_branch=branch, else_branch=branch)))


@pytest.mark.parametrize(
    "model",
    [
        calls(_function("F0", _call("F0"))),
        calls(_function("F0", _call("F1")), _function("F1", _call("F0"))),
        within_a_body(),
        calls(_function("F0", helper.make_node("Neg", ["a"], ["b"])), _function("F1", _call("F1"))),
    ],
    ids=["itself", "through another", "in a body", "never called"],
)
def test_a_function_that_calls_itself_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(cimc.ModelError, match="a function calls itself: f::F"):
        load(model)


def test_functions_that_unfold_to_too_much_are_refused_at_once() -> None:
    begin = time.process_time()
    with pytest.raises(cimc.ModelError, match=r"unfold to 3.3e\+12 nodes, more than 100000"):
        load(doubling(40))
    with pytest.raises(cimc.ModelError, match=r"unfold to 3e\+03 nested calls, more than 100"):
        load(nested(3000))
    assert time.process_time() - begin < 60  # unfolding would take hours


@pytest.mark.parametrize(("model", "sign"), [(doubling(5), 1), (nested(60), -1)], ids=["doubling", "nested"])
def test_what_stays_below_the_limits_is_unfolded(model: onnx.ModelProto, sign: int) -> None:
    x = np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(cimc.Chip(cimc.compile(model, target="ideal")).run({"x": x})["y"], sign * x)


def _constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(value, np.int64), name)


BOMBS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConstantOfShape": ("c = ConstantOfShape(d) y = Add(x, c)", {"d": [HUGE]}),
    "ConstantOfShape as weight": ("c = ConstantOfShape(d) y = MatMul(x, c)", {"d": [1, HUGE]}),
    "Expand": ("y = Expand(x, d)", {"d": [HUGE]}),
    "Tile": ("y = Tile(x, d)", {"d": [HUGE]}),
    "Range": ("r = Range(z, d, o) f = Cast<to = 1>(r) y = Add(x, f)", {"z": 0, "d": HUGE, "o": 1}),
    "Pad": ("y = Pad(x, d)", {"d": [0, HUGE]}),
    "Resize": ('y = Resize(x, "", "", d)', {"d": [HUGE]}),
}


@pytest.mark.parametrize("what", BOMBS)
def test_values_of_terabytes_are_refused(what: str) -> None:
    nodes, constants = BOMBS[what]
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[n] y) {{ {nodes} }}')
    model.graph.initializer.extend(_constant(name, value) for name, value in constants.items())
    with pytest.raises(cimc.ModelError, match=r"of shape \[.*1000000.*\] takes .* GB for one image"):
        load(model)


@pytest.mark.parametrize("shape", [[HUGE], [1, HUGE], [2**62, 2**62], ["N", HUGE, 4]])
@pytest.mark.parametrize("target", ["ideal", "bulk-rram"])
def test_inputs_of_terabytes_are_refused(shape: list[Any], target: str) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(cimc.ModelError, match="value 'x' of shape"):
        cimc.compile(model, target=target)


def test_a_model_without_outputs_is_refused() -> None:
    model = nested(1)
    del model.graph.output[:]
    with pytest.raises(cimc.ModelError, match="the model has no outputs"):
        load(model)


def test_two_outputs_of_one_name_are_refused() -> None:
    """Outputs come by name."""
    model = nested(1)
    model.graph.output.append(model.graph.output[0])
    with pytest.raises(cimc.ModelError, match="'y' is an output twice"):
        load(model)


def test_a_chain_of_thousands_of_nodes_does_not_recurse() -> None:
    nodes = " ".join(f"v{i + 1} = Neg(v{i})" for i in range(5000))
    head = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 4] x) => (float[N, 3] v5000)'
    model = onnx.parser.parse_model(f"{head} {{ v0 = MatMul(x, w) {nodes} }}")
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    got = cimc.Chip(cimc.compile(model, target="ideal")).run({"x": x})["v5000"]
    np.testing.assert_allclose(got, x @ weight, rtol=1e-5, atol=1e-6)
