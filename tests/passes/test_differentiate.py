"""What `differentiate` writes, refuses and says; the numbers are tested in tests/training/test_step.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cimc.compiler import compile as compile_program
from cimc.errors import CimcError, ModelError, TargetError, VerifyError
from cimc.ir.artifact import load
from cimc.ir.printer import print_program
from cimc.ir.program import MaskStep, OuterStep, PoolBackwardStep, Program, UpdateStep, VmmBackwardStep
from cimc.ir.verify import verify
from cimc.passes.gradients.survey import OPSET
from cimc.runtime.chip import Chip
from cimc.training.step import Step, training_program

MLP = """mlp (float[N, 3] x) => (float[N, 2] y) {
    h = Gemm (x, w1, b1)  r = Relu (h)  y = Gemm (r, w2)
}"""
MLP_WEIGHTS = {"w1": (3, 4), "b1": (4,), "w2": (4, 2)}


def model(text: str, weights: dict[str, tuple[int, ...]], opset: int = OPSET) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    rng = np.random.default_rng(1)
    for name, shape in weights.items():
        array = rng.uniform(0.1, 1, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def compiled(text: str = MLP, weights: dict[str, tuple[int, ...]] | None = None, opset: int = OPSET) -> Program:
    return compile_program(model(text, weights or MLP_WEIGHTS, opset), "ideal")


def trained(program: Program) -> tuple[set[str], set[str]]:
    """Layers and digital parameters that get a gradient."""
    updates = [s for s in program.steps if isinstance(s, UpdateStep) and s.action == "descend"]
    return {s.layer for s in updates if s.layer}, {s.parameter for s in updates if not s.layer}


def kinds(program: Program, kind: type[Any]) -> list[str]:
    return [s.layer for s in program.steps if isinstance(s, kind)]


def test_text() -> None:
    """The whole step of a small network: no gradient of the model's input, one digital segment between crossbar steps."""
    lines = [line.split(" {")[0].strip() for line in print_program(training_program(compiled(), loss="mse")).splitlines()]
    kept = ("input", "output", "loss", "parameter", "layer")
    assert [line for line in lines if line.startswith(kept)] == [
        'input %x: float32["N", 3]',
        'input %target: float32["N", 2]',
        'output %y: float32["N", 2]',
        "output %loss: float32[]",
        "parameter %b1",
        "loss %loss",
        "layer @Gemm_0",
        "layer @Gemm_1",
    ]
    words = [line.split(" = ")[-1].split("(")[0] for line in lines if line.startswith(("%", "update"))]
    assert [word for word in words if not word.startswith("digital")] == [
        "vmm @Gemm_0", "vmm @Gemm_1", "vmm_backward @Gemm_1", "outer @Gemm_1", "outer @Gemm_0",
        "update", "update @Gemm_1", "update @Gemm_0",
    ]  # fmt: skip
    assert sum(word.startswith("digital") for word in words) == 3


def test_the_whole_step_is_onnx() -> None:
    step = training_program(compiled(), loss="mse").to_onnx()
    onnx.checker.check_model(step)
    ours = [node.op_type for node in step.graph.node if node.domain == "cimc"]
    assert sorted(ours) == ["Outer", "Outer", "Update", "Update", "Update", "Vmm", "Vmm", "VmmBackward"]
    assert {value.name for value in step.graph.output} >= {"y", "loss", "b1.updated"}


def test_a_training_program_survives_saving(tmp_path: Path) -> None:
    program = compiled()
    step = training_program(program, loss="mse")
    step.save(tmp_path / "step.cim")
    loaded = load(tmp_path / "step.cim")
    assert loaded == step.model_copy(update={"tensors": loaded.tensors})
    assert print_program(loaded) == print_program(step)
    verify(loaded)
    chip, x, y = Chip(program), {"x": np.ones((2, 3), np.float32)}, np.zeros((2, 2), np.float32)
    before, after = (Step(p, chip).run(x, y) for p in (step, loaded))
    assert before.loss == after.loss
    assert {n: g.tobytes() for n, g in before.gradients.items()} == {n: g.tobytes() for n, g in after.gradients.items()}


@pytest.mark.parametrize(
    ("options", "layers", "digital"),
    [
        ({}, {"Gemm_0", "Gemm_1"}, {"b1"}),
        ({"frozen": ["b*"]}, {"Gemm_0", "Gemm_1"}, set()),
        ({"frozen": ["Gemm_0"]}, {"Gemm_1"}, set()),
        ({"frozen": ["w1"]}, {"Gemm_1"}, {"b1"}),
        ({"frozen": ["w2"]}, {"Gemm_0"}, {"b1"}),
        ({"frozen": ["Gemm_0", "b1"]}, {"Gemm_1"}, set()),
        ({"trainable": ["w?"]}, {"Gemm_0", "Gemm_1"}, set()),
        ({"trainable": ["Gemm_0"]}, {"Gemm_0"}, {"b1"}),
        ({"trainable": ["*"], "frozen": ["w?"]}, set(), {"b1"}),
    ],
)
def test_patterns_choose_what_trains(options: dict[str, Any], layers: set[str], digital: set[str]) -> None:
    step = training_program(compiled(), loss="mse", **options)
    verify(step)
    assert trained(step) == (layers, digital)
    assert set(kinds(step, OuterStep)) == layers
    # No gradient goes further back than to what trains.
    assert kinds(step, VmmBackwardStep) == (["Gemm_1"] if "Gemm_0" in layers or digital else [])


def test_a_frozen_bias_stays_in_the_digital_offset() -> None:
    assert "offset/Gemm_0" in training_program(compiled(), loss="mse", frozen=["b1"]).tensors
    assert "offset/Gemm_0" not in training_program(compiled(), loss="mse").tensors


def test_constants_do_not_train_unless_named() -> None:
    text = """g (float[N, 3] x) => (float[N, 4] y) {
        h = Gemm (x, w1)  two = Constant <value = float[4] {2, 2, 2, 2}> ()
        a = Mul (h, two)  c = Mul (a, factor)  y = Mul (c, scalar)
    }"""
    program = compiled(text, {"w1": (3, 4), "factor": (1,), "scalar": ()})
    assert trained(training_program(program, loss="mse"))[1] == {"factor"}
    assert trained(training_program(program, loss="mse", trainable=["scalar", "two"]))[1] == {"scalar", "two"}


def test_what_does_not_touch_the_loss_is_not_updated() -> None:
    """Scales of a Resize are real initializers, but no parameters; nor is what only another output reads."""
    text = """g (float[N, 1, 3, 3] x) => (float[N, 1, 6, 6] y, float[N, 1, 3, 3] other) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  y = Resize <mode = "nearest"> (a, , scales)  other = Mul (x, aside)
    }"""
    proto = model(text, {"w1": (1, 1, 3, 3), "aside": (1,)})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    step = training_program(compile_program(proto, "ideal"), loss="mse")
    verify(step)
    assert trained(step) == ({"Conv_0"}, set())
    assert step.parameters == ()


def test_batch_statistics_and_dropout_are_switched_on_and_said() -> None:
    text = """g (float[N, 3] x) => (float[N, 4] y) {
        h = Gemm (x, w1, b1)  n = BatchNormalization <momentum = 0.8> (h, s, o, m, v)  d = Dropout (n)  y = Relu (d)
    }"""
    program = compiled(text, {"w1": (3, 4), "b1": (4,), "s": (4,), "o": (4,), "m": (4,), "v": (4,)})
    step = training_program(program, loss="mse")
    assert trained(step) == ({"Gemm_0"}, {"b1", "s", "o"})
    assert {s.parameter for s in step.steps if isinstance(s, UpdateStep) and s.action == "assign"} == {"m", "v"}
    assert [s.ratio for s in step.steps if isinstance(s, MaskStep)] == [0.5]
    assert any("1 BatchNormalization" in note for note in step.provenance.notes)
    assert any("1 Dropout" in note for note in step.provenance.notes)
    assert any("mean squared error" in note for note in step.provenance.notes)
    still = training_program(program, loss="mse", frozen=["s"])
    assert not any(isinstance(s, UpdateStep) and s.action == "assign" for s in still.steps)
    assert any("1 BatchNormalization by running statistics" in note for note in still.provenance.notes)
    assert not any("statistics of the batch" in note for note in still.provenance.notes)


def test_running_statistics_follow_the_batch() -> None:
    """ONNX's rule: running' = running · momentum + batch · (1 - momentum), with the population variance."""
    text = "g (float[N, 3] x) => (float[N, 4] y) { h = Gemm (x, w1)  y = BatchNormalization <momentum = 0.8> (h, s, o, m, v) }"
    program = compiled(text, {"w1": (3, 4), "s": (4,), "o": (4,), "m": (4,), "v": (4,)})
    step = Step(training_program(program, loss="mse"), Chip(program))
    x = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    h = x @ program.tensors["initializer/w1"]
    m, v = (np.array(step.parameters[name]) for name in "mv")
    result = step.run({"x": x}, np.zeros((6, 4), np.float32))
    np.testing.assert_allclose(result.statistics["m"], 0.8 * m + 0.2 * h.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(result.statistics["v"], 0.8 * v + 0.2 * h.var(axis=0), rtol=1e-5)


def test_a_softmax_at_the_end_is_part_of_the_loss() -> None:
    text = "g (float[N, 3] x) => (float[N, 4] y) { h = Gemm (x, w1)  y = Softmax <axis = -1> (h) }"
    program = compiled(text, {"w1": (3, 4)})
    step = training_program(program)
    x = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0, 1])
    result = Step(step, Chip(program)).run({"x": x}, labels)
    z = x.astype(np.float64) @ program.tensors["initializer/w1"]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    assert result.loss == pytest.approx(-np.log(p[range(6), labels]).mean(), rel=1e-5)
    np.testing.assert_allclose(result.outputs["y"], p, rtol=1e-5)
    np.testing.assert_allclose(result.gradients["w1"], x.T @ (p - np.eye(4)[labels]) / 6, rtol=0, atol=1e-6)
    assert any("Softmax" in note for note in step.provenance.notes)


def test_classes_lie_along_the_axis_of_the_softmax() -> None:
    text = "g (float[N, 5, 3] x) => (float[N, 5, 4] y) { h = MatMul (x, w1)  y = Softmax <axis = -1> (h) }"
    program = compiled(text, {"w1": (3, 4)})
    step = training_program(program)
    assert step.inputs[-1].shape == ("N", 5)
    x = np.random.default_rng(2).standard_normal((2, 5, 3)).astype(np.float32)
    labels = np.random.default_rng(3).integers(0, 4, (2, 5))
    result = Step(step, Chip(program)).run({"x": x}, labels)
    z = x.astype(np.float64) @ program.tensors["initializer/w1"]
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    assert result.loss == pytest.approx(-np.log(np.take_along_axis(p, labels[..., None], -1)).mean(), rel=1e-5)
    expected = np.einsum("nti,ntc->ic", x, p - np.eye(4)[labels]) / 10
    np.testing.assert_allclose(result.gradients["w1"], expected, rtol=0, atol=1e-6)


def test_the_model_may_compute_its_loss() -> None:
    text = """g (float[N, 3] x, float[N, 4] t) => (float[N, 4] y, float cost) {
        y = Gemm (x, w1)  d = Sub (y, t)  q = Mul (d, d)  cost = ReduceSum <keepdims = 0> (q)
    }"""
    program = compiled(text, {"w1": (3, 4)})
    step = training_program(program, loss="model:cost")
    assert (step.loss, step.labels) == ("cost", None)
    x, t = np.ones((2, 3), np.float32), np.zeros((2, 4), np.float32)
    result = Step(step, Chip(program)).run({"x": x, "t": t})
    y = x @ program.tensors["initializer/w1"]
    assert result.loss == pytest.approx(float((y**2).sum()), rel=1e-6)
    np.testing.assert_allclose(result.gradients["w1"], x.T @ (2 * y), rtol=1e-5)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18, 22, OPSET])
def test_older_models_are_brought_to_the_training_opset(opset: int) -> None:
    text = """g (float[N, 1, 6, 6] x) => (float[N, 8] y) {
        a = Conv (x, w1)  n = BatchNormalization (a, s, o, m, v)  c = Relu (n)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)  f = Flatten (p)
        h = Gemm (f, w2, b2)  y = Softmax <axis = 1> (h)
    }"""
    weights = {
        "w1": (3, 1, 3, 3),
        "s": (3,),
        "o": (3,),
        "m": (3,),
        "v": (3,),
        "w2": (12, 8),
        "b2": (8,),
    }  # w2 lies outside of the small file
    results = []
    for version in (opset, OPSET):
        program = compiled(text, weights, version)
        step = training_program(program)
        verify(step)
        x = np.random.default_rng(3).random((5, 1, 6, 6), np.float32)
        results.append(Step(step, Chip(program)).run({"x": x}, np.array([0, 1, 2, 3, 1])))
    old, new = results
    assert old.loss == pytest.approx(new.loss, rel=1e-6)
    assert old.gradients.keys() == new.gradients.keys()
    for name, gradient in new.gradients.items():
        np.testing.assert_allclose(old.gradients[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("opset", "operator"), [(9, "Upsample"), (10, "Resize")])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", ["2.0", "1.5"])
def test_older_resizing_samples_as_it_did(opset: int, operator: str, mode: str, factor: str) -> None:
    """Gradient of the bias, by differences of the model at its own opset in ONNX Runtime."""
    text = """g (float[N, 1, 3, 4] x) => (float loss) {
        a = Conv (x, w1, b)  s = Constant <value = float[4] {1.0, 1.0, 2.0, FACTOR}> ()  u = OPERATOR <mode = "MODE"> (a, s)
        m = Mul (u, u)  k = Mul (m, r)  loss = ReduceMean <keepdims = 0> (k)
    }"""
    for word, given in (("FACTOR", factor), ("OPERATOR", operator), ("MODE", mode)):
        text = text.replace(word, given)
    columns = 8 if factor == "2.0" else 6
    weights = {"w1": (2, 1, 1, 1), "b": (2,), "r": (2, 6, columns)}
    program = compiled(text, weights, opset)
    x = np.random.default_rng(3).random((2, 1, 3, 4), np.float32)
    gradient = Step(training_program(program, loss="model"), Chip(program)).run({"x": x}, None).gradients["b"]
    numeric = []
    for channel in range(2):
        losses = []
        for move in (0.5, -0.5):  # the loss is a square: no truncation
            proto = model(text, weights, opset)
            (bias,) = (tensor for tensor in proto.graph.initializer if tensor.name == "b")
            moved = onnx.numpy_helper.to_array(bias).copy()
            moved[channel] += move
            bias.CopyFrom(onnx.numpy_helper.from_array(moved, "b"))
            runtime = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
            losses.append(float(runtime.run(["loss"], {"x": x})[0]))
        numeric.append(losses[0] - losses[1])
    np.testing.assert_allclose(gradient, numeric, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attributes", ["", "<alpha = 1.5>"])
def test_an_operator_that_came_later_is_written_out(attributes: str) -> None:
    """Swish, of opset 24: the gradient of the product before it in closed form."""
    text = f"""g (float[N, 3] x) => (float loss) {{
        a = MatMul (x, w1)  s = Swish {attributes} (a)  loss = ReduceMean <keepdims = 0> (s)
    }}"""
    proto = onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["": 24]> {text}')
    w = np.random.default_rng(1).standard_normal((3, 2)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(w, "w1"))
    program = compile_program(proto, "ideal")
    x = np.random.default_rng(3).random((4, 3), np.float32)
    found = Step(training_program(program, loss="model"), Chip(program)).run({"x": x}, None).gradients["w1"]
    alpha = 1.5 if attributes else 1.0
    sigmoid = 1 / (1 + np.exp(-alpha * (x @ w)))
    slope = sigmoid + alpha * (x @ w) * sigmoid * (1 - sigmoid)
    np.testing.assert_allclose(found, x.T @ slope / 8, rtol=1e-4, atol=1e-6)


def test_a_max_pool_gives_no_indices() -> None:
    text = """g (float[N, 1, 6, 6] x) => (float[N, 2] y) {
        a = Conv (x, w1)  p = MaxPool <kernel_shape = [2, 2]> (a)  f = Flatten (p)  y = Gemm (f, w2)
    }"""
    step = training_program(compiled(text, {"w1": (2, 1, 3, 3), "w2": (18, 2)}), loss="mse")
    verify(step)
    graph = step.to_onnx()
    onnx.checker.check_model(graph)
    (pool,) = [node for node in graph.graph.node if node.op_type == "MaxPool"]
    assert len(pool.output) == 1
    assert not any(node.op_type == "ScatterElements" for node in graph.graph.node)
    (back,) = [s for s in step.steps if isinstance(s, PoolBackwardStep)]
    assert (back.activation, back.pooled) == ("a", "p")


REFUSED: list[tuple[dict[str, Any], type[CimcError], str]] = [
    ({"loss": "hinge"}, ModelError, "no loss is called hinge"),
    ({"loss": "mse:z"}, ModelError, "no output z"),
    ({"loss": "model"}, ModelError, "one real number"),
    ({"frozen": ["conv*"]}, CimcError, r"conv\* names no"),
    ({"frozen": ["*"]}, ModelError, "nothing that trains"),
    ({"backward": "analog"}, TargetError, "transposed"),
    ({"ste": "soft"}, CimcError, "ste is soft"),
]


@pytest.mark.parametrize(("options", "error", "match"), REFUSED, ids=[match for *_, match in REFUSED])
def test_what_is_refused(options: dict[str, Any], error: type[CimcError], match: str) -> None:
    with pytest.raises(error, match=match):
        training_program(compiled(), **{"loss": "mse", **options})


def test_an_operator_without_a_rule_is_named() -> None:
    text = "g (float[2, 3] x) => (float[2, 2] y) { h = Gemm (x, w1)  d = Det (h)  y = Mul (h, d) }"
    with pytest.raises(ModelError, match=r"(?s)Det.*no gradient rule"):
        training_program(compiled(text, {"w1": (3, 2)}), loss="mse")


def test_a_weight_that_is_read_digitally_too_has_both_updates() -> None:
    text = "g (int64[N] t) => (float[N, 5] y) { e = Gather (table, t)  k = Transpose <perm = [1, 0]> (table)  y = MatMul (e, k) }"
    program = compiled(text, {"table": (5, 3), "unused": (1,)})
    step = training_program(program)
    verify(step)
    assert trained(step) == ({"MatMul_0"}, {"table"})


def test_layers_of_one_initializer_share_its_gradient() -> None:
    """A weight used twice: both uses add up, in one update."""
    text = "g (float[N, 3] x) => (float[N, 3] y) { h = MatMul (x, w)  r = Tanh (h)  y = MatMul (r, w) }"
    program = compiled(text, {"w": (3, 3)})
    step = training_program(program, loss="mse")
    (update,) = [s for s in step.steps if isinstance(s, UpdateStep)]
    assert len(update.inputs) == 2
    assert update.parameter == "w"


def broken(step: Program, number: int, **changes: Any) -> Program:
    steps = list(step.steps)
    steps[number] = steps[number].model_copy(update=changes)
    return step.model_copy(update={"steps": tuple(steps)})


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        (OuterStep, {"layer": "nope"}, "no layer nope"),
        (OuterStep, {"gradient": "nope"}, "used before it is made"),
        (VmmBackwardStep, {"activation": "nope"}, "used before it is made"),
        (VmmBackwardStep, {"layer": "Gemm_0"}, "do not hold"),
        (UpdateStep, {"layer": "nope"}, "does not hold"),
        (UpdateStep, {"layer": None, "parameter": "w1"}, "is no parameter"),
        (UpdateStep, {"inputs": ("x",)}, "no outer product"),
        (UpdateStep, {"inputs": ()}, "0 inputs"),
    ],
)
def test_the_verifier_refuses(kind: type[Any], changes: dict[str, Any], match: str) -> None:
    step = training_program(compiled(), loss="mse")
    verify(step)
    number = next(n for n, s in enumerate(step.steps) if isinstance(s, kind) and getattr(s, "layer", None))
    with pytest.raises(VerifyError, match=match):
        verify(broken(step, number, **changes))


def test_the_verifier_checks_parameters_and_loss() -> None:
    step = training_program(compiled(), loss="mse")
    again = next(s for s in step.steps if isinstance(s, UpdateStep)).model_copy(update={"name": "again"})
    for changes, match in (
        ({"parameters": (*step.parameters, "nope")}, "no tensor initializer/nope"),
        ({"loss": "nope"}, "no such value as nope"),
        ({"labels": "nope"}, "no such value as nope"),
        ({"steps": (*step.steps, again)}, "two"),
    ):
        with pytest.raises(VerifyError, match=match):
            verify(step.model_copy(update=changes))
