"""Reverse accumulation: what needs a rule, what is reused, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from cimc.errors import ModelError
from cimc.ir.dialect import register_schemas
from cimc.passes.gradients import registry
from cimc.passes.gradients.build import add_backward, backward
from cimc.passes.gradients.registry import gradient, registered
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.survey import OPSET
from cimc.passes.gradients.term import Term

from .harness import Array, rng, run_gradients, session


def parse(body: str, opset: int = OPSET) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}, "cimc": 1]> {body}')


def gradients(body: str, wrt: Sequence[str], **feeds: Any) -> list[Array]:
    return run_gradients(parse(body), {n: np.asarray(a) for n, a in feeds.items()}, wrt)


def operators(body: str, wrt: Sequence[str]) -> list[str]:
    """Operator types of the backward nodes."""
    return [n.op_type for n in add_backward(ir.from_proto(parse(body)), "loss", wrt).nodes]


def test_readers_of_a_value_add_up() -> None:
    """x² + x + Σ x: 2x + 1 + 1."""
    x = np.array([1.5, -2.0])
    body = """g (double[2] x) => (double loss) {
        square = Mul(x, x)  both = Add(square, x)  a = ReduceSum<keepdims=0>(both)  b = ReduceSum<keepdims=0>(x)  loss = Add(a, b)
    }"""
    (grad,) = gradients(body, ["x"], x=x)
    np.testing.assert_allclose(grad, 2 * x + 2)


PERCEPTRON = """g (float[N, 5] x, int64[N] labels, float[5, 4] w1, float[4] b1, float[4, 3] w2)
        => (float loss, float[N, 3] scores) {
    product = MatMul(x, w1)  raw = Add(product, b1)  hidden = Tanh(raw)  scores = MatMul(hidden, w2)
    loss = SoftmaxCrossEntropyLoss(scores, labels)
}"""


def test_perceptron_against_closed_form() -> None:
    g = rng(3)
    x, w1, b1, w2 = (g.standard_normal(s).astype(np.float32) for s in ((6, 5), (5, 4), (4,), (4, 3)))
    labels = np.array([0, 1, 2, 1, 1, 0])
    hidden = np.tanh(x @ w1 + b1)
    scores = hidden @ w2
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    error = (p - np.eye(3)[labels]) / 6
    back = error @ w2.T * (1 - hidden**2)
    grads = gradients(PERCEPTRON, ["w2", "w1", "b1", "x"], x=x, labels=labels, w1=w1, b1=b1, w2=w2)
    for grad, expected in zip(grads, (hidden.T @ error, x.T @ back, back.sum(0), back @ w1.T), strict=True):
        np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_forward_values_are_kept_not_computed_again() -> None:
    result = add_backward(ir.from_proto(parse(PERCEPTRON)), "loss", ["w1", "w2"])
    saved = [v.name for v in result.saved]
    assert {"hidden", "x", "w2"} <= set(saved)
    assert not {"raw", "product"} & set(saved)
    assert "Tanh" not in [n.op_type for n in result.nodes]
    assert {n.metadata_props["cimc.gradient_of"] for n in result.nodes} - {"constant"}


def test_nodes_for_what_is_not_wanted_are_not_left() -> None:
    """With w2 alone wanted, the first layer gets no backward nodes and only one product is left."""
    assert operators(PERCEPTRON, ["w2"]).count("Gemm") + operators(PERCEPTRON, ["w2"]).count("MatMul") == 1
    model = ir.from_proto(parse(PERCEPTRON))
    result = add_backward(model, "loss", ["w2"])
    assert all(v.uses() or v in result.gradients.values() for n in result.nodes for v in n.outputs[:1])


def test_shapes_and_integers_need_no_rule() -> None:
    """Shape, Gather of integers and Concat of integers between a value and a Reshape."""
    body = """g (double[2, 3] x) => (double loss) {
        shape = Shape(x)  zero = Constant<value_ints=[0]>()  rows = Gather(shape, zero)  minus = Constant<value_ints=[-1]>()
        target = Concat<axis=0>(minus, rows)  best = ArgMax(x)  turned = Reshape(x, target)  square = Mul(turned, turned)
        loss = ReduceSum<keepdims=0>(square)
    }"""
    x = rng(1).standard_normal((2, 3))
    (grad,) = gradients(body, ["x"], x=x)
    np.testing.assert_allclose(grad, 2 * x)


WITHOUT_RULE = """g (float[2, 2] x, float[2, 2] w) => (float loss) {
    [determinant] d = Det(x)  [product] m = Mul(d, w)  [total] loss = ReduceSum<keepdims=0>(m)
}"""


def test_operator_without_rule_is_named() -> None:
    with pytest.raises(ModelError) as error:
        backward(ir.from_proto(parse(WITHOUT_RULE)), "loss", ["x"])
    text = str(error.value)
    assert "node 'determinant' (Det)" in text
    assert "Det has no gradient rule" in text
    assert "freeze" in text
    assert error.value.exit_code == 2


def test_operator_without_rule_does_no_harm_off_the_path() -> None:
    x, w = np.array([[2.0, 1.0], [0.5, 3.0]], np.float32), np.ones((2, 2), np.float32)
    (grad,) = gradients(WITHOUT_RULE, ["w"], x=x, w=w)
    np.testing.assert_allclose(grad, np.full((2, 2), 5.5))


def test_producer_of_a_wanted_value_needs_no_rule() -> None:
    (grad,) = gradients(WITHOUT_RULE, ["d"], x=np.eye(2, dtype=np.float32), w=np.full((2, 2), 3, np.float32))
    np.testing.assert_allclose(grad, 12.0)


def test_subgraphs_have_no_rule_even_if_they_only_capture() -> None:
    body = """g (bool c, double[2] x) => (double loss) {
        [branch] y = If (c) <then_branch = t () => (double[2] a) { a = Mul(x, x) },
                             else_branch = e () => (double[2] b) { b = Identity(x) }>
        loss = ReduceSum<keepdims=0>(y)
    }"""
    with pytest.raises(ModelError, match="node 'branch'"):
        backward(ir.from_proto(parse(body)), "loss", ["x"])


def test_value_without_influence_gets_zeros() -> None:
    body = "g (double[3] x, double[2, N] z) => (double loss) { f = Floor(x) loss = ReduceSum<keepdims=0>(f) }"
    for grad, shape in zip(gradients(body, ["x", "z"], x=np.ones(3), z=np.ones((2, 4))), [(3,), (2, 4)], strict=True):
        np.testing.assert_array_equal(grad, np.zeros(shape))


def test_twice_is_the_second_derivative() -> None:
    model = ir.from_proto(parse("g (double[1] x) => (double[1] loss) { square = Mul(x, x) loss = Mul(square, x) }"))
    first = backward(model, "loss", ["x"])
    value = add_backward(first, "x.grad", ["x"]).gradients["x"]
    first.graph.outputs.append(value)
    (second,) = session(ir.to_proto(first)).run([value.name], {"x": np.array([2.0])})
    np.testing.assert_allclose(second, 6 * 2.0)
    with pytest.raises(ModelError, match=r"already has a value 'x\.grad'"):
        backward(backward(model, "loss", ["x"]), "loss", ["x"])


def test_given_model_stays_as_it_was() -> None:
    proto = parse(
        "g (float[1, 1, 4, 4] x) => (float loss) { y = MaxPool<kernel_shape=[2, 2]>(x) loss = ReduceSum<keepdims=0>(y) }"
    )
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString()
    backward(model, "loss", ["x"])
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize(
    ("body", "opset", "loss", "wrt", "message"),
    [
        ("g (float[2] x) => (float loss) { loss = ReduceSum<keepdims=0>(x) }", 17, "loss", "x", "opset 23, this one has 17"),
        ("g (float[2] x) => (float loss) { loss = ReduceSum<keepdims=0>(x) }", OPSET, "loss", "w", "no value 'w'"),
        ("g (float[2] x) => (float loss) { loss = ReduceSum<keepdims=0>(x) }", OPSET, "cost", "x", "no value 'cost'"),
        ("g (int64 x) => (float y) { y = Cast<to=1>(x) }", OPSET, "y", "x", "'x' is INT64"),
        ("g (float[2] x) => (float[2] y) { y = Exp(x) }", OPSET, "y", "x", "one real number, 'y' is FLOAT of shape \\[2\\]"),
        ("g (float[2] x) => (int64 y) { y = ArgMax<keepdims=0>(x) }", OPSET, "y", "x", "'y' is INT64"),
    ],
)
def test_refusals(body: str, opset: int, loss: str, wrt: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        backward(ir.from_proto(parse(body, opset)), loss, [wrt])
    assert error.value.fix


def test_operators_of_the_dialect_take_rules_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product on crossbars between digital nodes: types and gradients flow through it, and its weight gets one too."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    registry._RULES.pop(("cimc", "Vmm"), None)

    @gradient("Vmm", domain="cimc")
    def vmm(r: Rule) -> Sequence[Term | None]:
        back = r.op("VmmBackward", r.dy, r.arg(1), domain="cimc", layer=r.str_attr("layer", ""))
        return [back, r.op("Outer", r.x, r.dy, domain="cimc", layer=r.str_attr("layer", ""))]

    register_schemas()
    attributes = 'layer="fc", geometry="{}", view_split=[1], view_perm=[0, 1], view_shape=[1, 5, 4]'
    body = f"""g (float[2, 5] x, float[5, 4] w) => (float loss) {{
        a = Sigmoid(x)  y = cimc.Vmm<{attributes}>(a, w)  z = Softmax(y)  loss = ReduceMean<keepdims=0>(z)
    }}"""
    model = ir.from_proto(parse(body))
    result = add_backward(model, "loss", ["w", "x"])
    kinds = [(n.domain, n.op_type) for n in result.nodes]
    assert kinds.count(("cimc", "VmmBackward")) == kinds.count(("cimc", "Outer")) == 1
    outer = result.gradients["w"].producer()
    assert outer is not None
    assert outer.inputs[0] is not None
    assert outer.inputs[0].name == "a"
    assert result.gradients["w"].dtype == ir.DataType.FLOAT


def test_one_rule_an_operator() -> None:
    with pytest.raises(RuntimeError, match="two gradient rules"):
        gradient("Relu")(lambda r: [])


@pytest.mark.parametrize("training", ["known", "run time"])
def test_dropout_uses_the_mask_of_the_forward_pass(training: str) -> None:
    source = "t = Constant<value = bool {1}>()" if training == "known" else "t = Identity(given)"
    body = f"""g (float[400] x, bool given) => (float loss, float[400] y) {{
        ratio = Constant<value = float {{0.25}}>()  {source}  y = Dropout<seed=5>(x, ratio, t)  loss = ReduceSum<keepdims=0>(y)
    }}"""
    step = session(ir.to_proto(backward(ir.from_proto(parse(body)), "loss", ["x"])))
    feeds = {"x": np.ones(400, np.float32), "given": np.array(True)}
    y, grad = step.run(["y", "x.grad"], {i.name: feeds[i.name] for i in step.get_inputs()})
    assert 0 < (y == 0).sum() < 400
    np.testing.assert_allclose(grad, y)
    if training == "run time":
        (grad,) = step.run(["x.grad"], {**feeds, "given": np.array(False)})
        np.testing.assert_array_equal(grad, np.ones(400))


def test_dropout_out_of_training_passes_the_gradient() -> None:
    body = "g (float[4] x) => (float loss) { y = Dropout(x) loss = ReduceSum<keepdims=0>(y) }"
    (grad,) = gradients(body, ["x"], x=np.ones(4, np.float32))
    np.testing.assert_array_equal(grad, np.ones(4))


def test_norm_and_pool_outputs_in_one_network_under_full_optimisation() -> None:
    """One step against the gradient lowers the loss of a small network, with all of ONNX Runtime's graph rewriting on."""
    body = """g (float[N, 1, 8, 8] x, int64[N] labels, float[4, 1, 3, 3] k, float[4] s, float[4] o, float[4] m, float[4] v,
               float[64, 3] w) => (float loss) {
        c = Conv<pads=[1, 1, 1, 1]>(x, k)  n, rm, rv = BatchNormalization<training_mode=1>(c, s, o, m, v)  a = Relu(n)
        p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a)  f = Flatten(p)  q = MatMul(f, w)
        loss = SoftmaxCrossEntropyLoss(q, labels)
    }"""
    g, names = rng(2), ["k", "s", "o", "w"]
    shapes = {"x": (6, 1, 8, 8), "k": (4, 1, 3, 3), "s": (4,), "o": (4,), "m": (4,), "v": (4,), "w": (64, 3)}
    feeds: dict[str, Array] = {n: (g.standard_normal(s) * 0.3).astype(np.float32) for n, s in shapes.items()}
    feeds["labels"] = np.array([0, 1, 2, 0, 1, 2])
    feeds["s"] += 1
    step = ir.to_proto(backward(ir.from_proto(parse(body)), "loss", names))
    runtime = ort.InferenceSession(step.SerializeToString(), providers=["CPUExecutionProvider"])
    losses = []
    for _ in range(30):
        given = {i.name: feeds[i.name] for i in runtime.get_inputs()}
        loss, *grads = runtime.run(["loss", *(f"{n}.grad" for n in names)], given)
        losses.append(float(loss))
        feeds.update({n: feeds[n] - 0.2 * grad for n, grad in zip(names, grads, strict=True)})
    assert losses[-1] < 0.1 * losses[0]


def test_operators_that_training_needs_have_rules() -> None:
    needed = """
    Add Sub Mul Div Neg Pow Sqrt Exp Log Erf Abs Min Max Clip Relu LeakyRelu PRelu Elu Selu Celu Gelu HardSigmoid HardSwish
    Sigmoid Tanh Softplus Softsign Mish Softmax LogSoftmax MaxPool AveragePool GlobalAveragePool GlobalMaxPool
    BatchNormalization LayerNormalization InstanceNormalization GroupNormalization RMSNormalization Dropout
    Reshape Flatten Squeeze Unsqueeze Transpose
    Concat Split Slice Pad Gather Expand Tile Where Identity Cast ReduceSum ReduceMean ReduceMax MatMul Gemm Conv ConvTranspose
    Resize Einsum Reciprocal Sum Mean Sin Cos Floor Round Sign"""
    assert not set(needed.split()) - set(registered())


def test_half_precision_runs() -> None:
    """Scalars and constants of rules take the type of the node: x·sigmoid(x) in float16 within its rounding."""
    body = """g (float16[3, 4] x, float16[4] w) => (float16 loss) {
        s = Sigmoid(x)  y = Mul(x, s)  n = LayerNormalization(y, w)  g = Relu(n)  loss = ReduceMean<keepdims=0>(g)
    }"""
    double = body.replace("float16", "double")
    x, w = rng(1).standard_normal((3, 4)), np.array([1.0, 2.0, -1.0, 0.5])
    half = gradients(body, ["x", "w"], x=x.astype(np.float16), w=w.astype(np.float16))
    for low, high in zip(half, gradients(double, ["x", "w"], x=x, w=w), strict=True):
        assert low.dtype == np.float16
        np.testing.assert_allclose(low, high, atol=5e-3)


def test_parameters_may_be_initializers() -> None:
    body = "g (double[2] x) => (double loss) <double[2] w = {3, 4}> { y = Mul(x, w) loss = ReduceSum<keepdims=0>(y) }"
    for grad, expected in zip(gradients(body, ["w", "x"], x=np.array([5.0, 6.0])), ([5, 6], [3, 4]), strict=True):
        np.testing.assert_array_equal(grad, expected)


def test_the_documentation_lists_the_operators_that_have_a_rule() -> None:
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    listed = text.partition("There is one for ")[2].partition(".\n")[0]
    assert listed.replace("\n", " ").split(", ") == registered()
