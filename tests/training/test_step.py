"""Gradients of a training step on the ideal chip, against finite differences and the purely digital backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from cimc.compiler import compile as compile_program
from cimc.errors import CimcError
from cimc.ir.program import Program
from cimc.passes.gradients.build import backward
from cimc.runtime.chip import Chip
from cimc.training.step import Step, StepResult, training_program

from .networks import CONVOLUTIONS, LENET, MLP, NETWORKS, Network

Array = NDArray[Any]


def built(network: Network, **options: Any) -> tuple[Program, Step]:
    program = compile_program(network.model(), "ideal", settings=network.settings)
    step = training_program(program, loss=network.loss, **options)
    return program, Step(step, Chip(program))


def run(network: Network, **options: Any) -> tuple[Step, StepResult]:
    inputs, labels = network.batch()
    _, step = built(network, **options)
    return step, step.run(inputs, labels)


def with_loss(network: Network, kind: str) -> onnx.ModelProto:
    """The network in training form with its loss, written without the package."""
    model = network.model(kind=kind, plain=kind == "double")
    graph = model.graph
    for node in graph.node:
        if node.op_type == "BatchNormalization":
            node.attribute.append(helper.make_attribute("training_mode", 1))
            node.output.extend([f"{node.input[3]}.next", f"{node.input[4]}.next"])
    out = graph.output[0].name
    element = graph.output[0].type.tensor_type.elem_type
    if network.loss == "softmax_cross_entropy":
        graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, network.labels))
        graph.node.append(helper.make_node("SoftmaxCrossEntropyLoss", [out, "labels"], ["loss"]))
    else:
        graph.input.append(helper.make_tensor_value_info("labels", element, network.labels))
        if network.loss == "mse":
            graph.node.extend([helper.make_node("Sub", [out, "labels"], ["d"]), helper.make_node("Mul", ["d", "d"], ["parts"])])
        else:  # -t·log s - (1 - t)·log(1 - s)
            one = onnx.numpy_helper.from_array(np.ones((), helper.tensor_dtype_to_np_dtype(element)), "one")
            graph.initializer.append(one)
            pairs = [("Log", [out], "l1"), ("Mul", ["labels", "l1"], "m1"), ("Sub", ["one", out], "s0"), ("Log", ["s0"], "l0")]
            pairs += [("Sub", ["one", "labels"], "t0"), ("Mul", ["t0", "l0"], "m0"), ("Add", ["m1", "m0"], "sum")]
            pairs += [("Neg", ["sum"], "parts")]
            graph.node.extend(helper.make_node(op, args, [name]) for op, args, name in pairs)
        graph.node.append(helper.make_node("ReduceMean", ["parts"], ["loss"], keepdims=0))
    graph.output.append(helper.make_tensor_value_info("loss", element, []))
    return model


def in_double(network: Network) -> Callable[[dict[str, Array]], float]:
    """The loss as a function of initializers that are moved, in double precision, by ONNX's reference evaluator."""
    model = with_loss(network, "double")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name in network.weights}
    kept = [t for t in model.graph.initializer if t.name not in network.weights]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for name, array in values.items():
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.DOUBLE, array.shape))
    evaluator = ReferenceEvaluator(model)
    inputs, labels = network.batch(np.float64)

    def loss(moves: dict[str, Array]) -> float:
        moved = {name: values[name] + move for name, move in moves.items()}
        outputs: list[Any] = evaluator.run(["loss"], {**inputs, "labels": labels, **values, **moved})  # type: ignore[assignment]
        return float(outputs[0])

    return loss


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite_differences(name: str) -> None:
    network = NETWORKS[name]
    step, result = run(network)
    assert len(step.program.layers) == network.layers
    expected = [n for n in network.weights if not n.endswith(("mean", "var"))]
    assert sorted(result.gradients) == sorted(expected)
    loss = in_double(network)
    assert result.loss == pytest.approx(loss({}), rel=1e-6)
    rng, h = np.random.default_rng(5), 1e-5
    for weight, gradient in result.gradients.items():
        assert gradient.shape == network.weights[weight]
        direction = rng.standard_normal(gradient.shape)
        numeric = (loss({weight: h * direction}) - loss({weight: -h * direction})) / (2 * h)
        # float32: a few hundred roundings of the largest terms.
        bound = 1e-5 * float(np.abs(gradient * direction).sum() + 1e-2)
        assert abs(float((gradient * direction).sum()) - numeric) < bound, weight


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_digital_graph(name: str) -> None:
    """Also where an element hides in a sum: every single one, in float32, to the roundings of its products."""
    network = NETWORKS[name]
    if name == "recurrent":
        pytest.skip("the digital graph has no gradient of RNN")
    _, result = run(network)
    inputs, labels = network.batch()
    model = ir.to_proto(backward(ir.from_proto(with_loss(network, "float")), "loss", list(result.gradients)))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for weight, gradient in result.gradients.items():
        expected = session.run([f"{weight}.grad"], {**inputs, "labels": labels})[0]
        assert gradient.dtype == expected.dtype == np.float32
        bound = 1e-5 * max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=bound, err_msg=weight)


def on_chip(network: Network, **options: Any) -> tuple[Chip, Step]:
    """On the noisy chip, seed 1."""
    chip = Chip(compile_program(network.model(), "bulk-rram", settings=network.settings), 1)
    return chip, Step(training_program(chip.program, loss=network.loss, **options), chip)


def test_the_forward_pass_is_that_of_the_chip() -> None:
    """The same crossbars and codes: without read noise, a step's outputs are what inference gives."""
    chip = Chip(compile_program(LENET.model(), "bulk-rram", settings={"device.read_sigma_us": 0.0}), 1)
    step = Step(training_program(chip.program, loss=LENET.loss), chip)
    inputs, labels = LENET.batch()
    expected = chip.run(inputs)["y"]
    found = step.run(inputs, labels).outputs["y"]
    # A bias adds in float32 here, in float64 there; that may move an input by a code at most.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * float(np.abs(expected).max()))


def test_other_images_meet_other_noise() -> None:
    _, step = on_chip(LENET)
    inputs, labels = LENET.batch()
    assert (step.run(inputs, labels, 0).outputs["y"] != step.run(inputs, labels, 70).outputs["y"]).any()


def test_a_step_repeats_to_the_byte() -> None:
    inputs, labels = CONVOLUTIONS.batch()
    found = []
    for _ in range(2):
        _, step = on_chip(CONVOLUTIONS)
        result = step.run(inputs, labels, 3)
        arrays = {**result.layers, **result.digital, **result.statistics}
        found.append((result.loss, {name: array.tobytes() for name, array in arrays.items()}))
    assert found[0] == found[1]


def test_the_backward_pass_reads_the_digital_copies() -> None:
    """Doubled W of the last layer doubles what flows back through it, and nothing else."""
    _, step = on_chip(LENET)
    inputs, labels = LENET.batch()
    before = step.run(inputs, labels)
    step.weights["Gemm_0"] = step.weights["Gemm_0"] * 2
    after = step.run(inputs, labels)
    assert after.loss == before.loss
    np.testing.assert_array_equal(after.gradients["w3"], before.gradients["w3"])
    for name in ("w1", "b1", "w2", "b2"):
        np.testing.assert_allclose(after.gradients[name], 2 * before.gradients[name], rtol=1e-5, atol=1e-7)


def test_digital_parameters_are_read_anew() -> None:
    _, step = on_chip(LENET)
    inputs, labels = LENET.batch()
    before = step.run(inputs, labels)
    step.parameters["b3"] += np.float32(1) * np.array([1, 0, 0, 0], np.float32)
    moved = step.run(inputs, labels).outputs["y"] - before.outputs["y"]
    np.testing.assert_allclose(moved, np.broadcast_to([2.0, 0, 0, 0], moved.shape), atol=1e-5)  # beta is 2


def test_gradients_stop_at_a_saturated_dac_where_asked() -> None:
    """A layer whose inputs all lie far beyond full scale passes no gradient on, or all of it."""
    network = MLP
    program = compile_program(network.model(), "bulk-rram")
    inputs, labels = network.batch()
    found = {}
    for ste in ("pass", "clipped"):
        chip = Chip(program)
        step = Step(training_program(program, loss=network.loss, ste=ste), chip)
        last = chip.crossbars["MatMul_1"]
        last.recode(last.layer.model_copy(update={"coding": last.layer.coding.model_copy(update={"gain": 1e9})}))
        found[ste] = step.run(inputs, labels).gradients
    assert (found["pass"]["w1"] != 0).any()
    assert (found["clipped"]["w1"] == 0).all()
    np.testing.assert_array_equal(found["clipped"]["w2"], found["pass"]["w2"])


def test_dropout_draws_anew_for_other_images_and_the_same_for_these() -> None:
    text = "dropped (double[N, 6] x) => (double[N, 2] y) { a = MatMul (x, w1)  d = Dropout (a)  y = MatMul (d, w2) }"
    network = Network(text, {"w1": (6, 30), "w2": (30, 2)}, {"x": (7, 6)}, (7, 2), loss="mse")
    inputs, labels = network.batch()
    _, step = built(network)
    first, again, other = (step.run(inputs, labels, image) for image in (0, 0, 7))
    assert first.loss == again.loss
    assert first.loss != other.loss
    # The forward pass and the backward pass drop the same.
    kept = step.run(inputs, labels, 0)
    assert {n: g.tobytes() for n, g in kept.gradients.items()} == {n: g.tobytes() for n, g in first.gradients.items()}


def test_an_inference_program_is_no_step() -> None:
    program = compile_program(MLP.model(), "ideal")
    with pytest.raises(CimcError, match="no loss"):
        Step(program, Chip(program))


def test_ranges_are_chosen_without_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    program = compile_program(LENET.model(), "bulk-rram", settings=LENET.settings)
    chip = Chip(program)
    step = Step(training_program(program, loss=LENET.loss), chip)
    inputs, labels = LENET.batch()

    def refuse(*_: Any) -> Any:
        raise AssertionError("calibration went on to the backward pass")

    monkeypatch.setattr("cimc.runtime.backward.weight_gradient", refuse)
    monkeypatch.setattr("cimc.runtime.backward.activation_gradient", refuse)
    step.calibrate(inputs, labels)
    assert all(layer.adc_range_ua for layer in chip.program.layers)
