"""Unrolled LSTM, GRU and RNN against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.passes.selection.recurrent import _GATES
from cimc.targets.description import Mapping, Target

from .vmm_reference import build, oracle, products, run, same, select

RNG = np.random.default_rng(4)
OUTPUTS = {"LSTM": ["y", "h", "c"], "GRU": ["y", "h"], "RNN": ["y", "h"]}
T, B, I, H = 3, 2, 4, 5  # noqa: E741


def real(*shape: int) -> Any:
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def case(op: str, direction: str, *, bias: bool, initial: str, lengths: bool, peephole: bool, **attributes: Any) -> Any:
    """A model and its inputs. ``initial``: "none", "constant" or "input"."""
    directions, gates = 2 if direction == "bidirectional" else 1, _GATES[op]
    inputs: dict[str, Any] = {"x": real(T, B, I)}
    constants: dict[str, Any] = {"w": real(directions, gates * H, I), "r": real(directions, gates * H, H)}
    order = ["x", "w", "r", "", "", "", "", ""]
    if bias:
        constants["b"], order[3] = real(directions, 2 * gates * H), "b"
    if lengths:
        constants["lengths"], order[4] = np.full(B, T, np.int32), "lengths"
    if initial != "none":
        for slot, name in [(5, "h0"), (6, "c0")] if op == "LSTM" else [(5, "h0")]:
            (inputs if initial == "input" else constants)[name], order[slot] = real(directions, B, H), name
    if peephole and op == "LSTM":
        constants["p"], order[7] = real(directions, 3 * H), "p"
    order = order[: 8 if op == "LSTM" else 6]
    while not order[-1]:
        order.pop()
    outputs = OUTPUTS[op]
    model = build(op, inputs, constants, order=order, outputs=outputs, direction=direction, hidden_size=H, **attributes)
    return model, inputs


@given(
    op=st.sampled_from(["LSTM", "GRU", "RNN"]),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    bias=st.booleans(),
    initial=st.sampled_from(["none", "constant", "input"]),
    lengths=st.booleans(),
    peephole=st.booleans(),
    clip=st.sampled_from([None, 0.4]),
    flag=st.booleans(),
    opset=st.sampled_from([7, 11, 14]),
)
@settings(max_examples=25, deadline=None)
def test_unrolled(op: str, direction: str, clip: float | None, flag: bool, opset: int, **options: Any) -> None:
    attributes: dict[str, Any] = {"opset": opset}
    if clip is not None:
        attributes["clip"] = clip
    if op == "GRU":
        attributes["linear_before_reset"] = int(flag)
    if op == "LSTM":
        attributes["input_forget"] = int(flag)
    model, inputs = case(op, direction, **options, **attributes)
    state = same(model, inputs)
    assert state.placements[op.lower()].where == "analog"
    layers = {n.attributes.get_string("layer") for n in products(state)}
    name = op.lower()
    one = {"forward": [""], "reverse": [".reverse"], "bidirectional": ["", ".reverse"]}[direction]
    assert layers == {f"{name}.{matrix}{suffix}" for matrix in "WR" for suffix in one}


@pytest.mark.parametrize(
    ("names", "alpha", "beta"),
    [
        (["Relu", "Softsign", "Softplus"], [], []),
        (["HardSigmoid", "LeakyRelu", "Elu"], [0.3, 0.05, 0.9], [0.4]),
        (["Sigmoid", "ThresholdedRelu", "ScaledTanh"], [0.2, 1.2], [0.8]),
        (["Affine", "Tanh", "Tanh"], [0.5], [0.1]),
        (["HardSigmoid", "LeakyRelu", "Elu"], [], []),
    ],
)
def test_activations(names: list[str], alpha: list[float], beta: list[float]) -> None:
    rest = {k: v for k, v in (("activation_alpha", alpha), ("activation_beta", beta)) if v}
    model, inputs = case("LSTM", "forward", bias=True, initial="none", lengths=False, peephole=False, activations=names, **rest)
    assert products(same(model, inputs))


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_batch_first(op: str) -> None:
    gates = _GATES[op]
    x = real(B, T, I)
    constants = {"w": real(1, gates * H, I), "r": real(1, gates * H, H)}
    model = build(op, {"x": x}, constants, outputs=OUTPUTS[op], hidden_size=H, layout=1)
    state = select(model)
    plain = build(op, {"x": x.transpose(1, 0, 2).copy()}, constants, outputs=OUTPUTS[op], hidden_size=H)
    want = oracle(plain, {"x": x.transpose(1, 0, 2).copy()})
    perms = [(2, 0, 1, 3), (1, 0, 2), (1, 0, 2)]
    for got, expected, perm in zip(run(state, {"x": x}), want, perms, strict=False):
        np.testing.assert_allclose(got, expected.transpose(perm), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_unrolled_stays_digital() -> None:
    options: dict[str, Any] = {"bias": True, "initial": "none", "lengths": False, "peephole": False}
    model, inputs = case("LSTM", "forward", **options)
    state = same(model, inputs, Target(name="short", mapping=Mapping(max_unroll=2)))
    assert "--set mapping.max_unroll=3" in state.placements["lstm"].why
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "T"
    assert "the length of its sequence is not known" in select(model).placements["lstm"].why
    model, inputs = case("RNN", "forward", **options | {"lengths": True})
    short = onnx.numpy_helper.from_array(np.array([T, 1], np.int32), "lengths")
    next(i for i in model.graph.initializer if i.name == "lengths").CopyFrom(short)
    assert "full length" in same(model, inputs).placements["rnn"].why
    model, inputs = case("RNN", "forward", **options, activations=["Affine"])
    assert "no alpha" in select(model).placements["rnn"].why


@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_weights_without_a_direction_that_unsqueeze_gives_one(op: str) -> None:
    """As exporters of cells write them: the initializer is ``[G*H, I]``, and Unsqueeze makes it ``[1, G*H, I]``."""
    model, inputs = case(op, "forward", bias=True, initial="input", lengths=False, peephole=False)
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "r"):
            name, shape = tensor.name, list(tensor.dims)
            tensor.name = f"{name}_flat"
            del tensor.dims[:]
            tensor.dims.extend(shape[1:])
            node = onnx.helper.make_node("Unsqueeze", [f"{name}_flat", "first"], [name])
            model.graph.node.insert(0, node)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "first"))
    layers = {node.attributes.get_string("layer") for node in products(same(model, inputs))}
    assert len(layers) == 2


@pytest.mark.parametrize("how", ["ConstantOfShape", "Expand", "one"])
def test_a_state_of_zeros_needs_no_product(how: str) -> None:
    """As PyTorch exports a state that nobody gave; a state that is not zero is multiplied at the first step too."""
    maker = "ConstantOfShape (size)" if how == "ConstantOfShape" else "Expand (number, size)"
    text = f"""<ir_version: 8, opset_import: ["": 17]> net (float[{T}, N, {I}] x) => (float[{T}, 1, N, {H}] y)
    <float number = {{{float(how == "one")}}}> {{
        shape = Shape (x)  one = Constant <value_ints = [1]> ()  two = Constant <value_ints = [2]> ()
        n = Slice (shape, one, two)  h = Constant <value_ints = [{H}]> ()  size = Concat <axis = 0> (one, n, h)
        zeros = {maker}  y = GRU <hidden_size = {H}> (x, w, r, , , zeros)
    }}"""
    model = onnx.parser.parse_model(text)
    for name, shape in (("w", (1, 3 * H, I)), ("r", (1, 3 * H, H))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(real(*shape), name))
    state = same(model, {"x": real(T, B, I)})
    # Without a reset after the product, a step with a state takes two.
    assert len(products(state)) == 1 + 2 * (T if how == "one" else T - 1)
