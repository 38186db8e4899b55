"""Fold computes what constants alone decide, and keeps what may be trained."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cimc.errors import ModelError
from cimc.passes.base import Compilation
from cimc.passes.fold import Fold
from cimc.passes.legalise import Legalise
from cimc.passes.manager import PassManager
from tests.passes.graph_text import nodes, through

from .vmm_reference import IDEAL, Array, oracle, parse, products, same, select

RNG = np.random.default_rng(5)


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def folded(model: onnx.ModelProto) -> Compilation:
    return PassManager((Legalise(), Fold())).run(Compilation(ir.from_proto(model), IDEAL))


def keeps(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[str]:
    """Assert the same result in ONNX Runtime; operators that are left."""
    state = folded(model)
    after = ir.to_proto(state.model)
    onnx.checker.check_model(after, full_check=True)
    for got, want in zip(oracle(after, inputs), oracle(model, inputs), strict=True):
        np.testing.assert_array_equal(got, want)
    return [n.op_type for n in state.model.graph]


def test_computed_weights() -> None:
    model = parse(
        """g (float[2,3] x) => (float[2,4] y) {
        s = Constant <value_ints = [3, 4]> ()  c = ConstantOfShape <value = float[1] {0.5}> (s)
        w = Add (c, a)  y = MatMul (x, w) }""",
        a=real(4),
    )
    x = real(2, 3)
    assert keeps(model, {"x": x}) == ["MatMul"]
    state = same(model, {"x": x})
    assert [(p.where) for p in state.placements.values()] == ["folded", "folded", "folded", "analog"]


def test_shape_arithmetic() -> None:
    model = parse(
        """g (float[2,6] x) => (float[2,2,3] y) {
        s = Shape (k)  t = Cast <to = 7> (f)  o = Concat <axis = 0> (t, s)  y = Reshape (x, o) }""",
        k=real(2, 3), f=np.array([2], np.float32),
    )  # fmt: skip
    assert keeps(model, {"x": real(2, 6)}) == ["Reshape"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_weights_are_cast_once(dtype: Any) -> None:
    model = parse("g (float[2,3] x) => (float[2,4] y) { w = Cast <to = 1> (h)  y = MatMul (x, w) }", h=real(3, 4).astype(dtype))
    assert keeps(model, {"x": real(2, 3)}) == ["MatMul"]


def test_chains_of_views_of_a_weight_are_left_to_its_product() -> None:
    model = parse(
        """g (float[2,6] x) => (float[2,4] y) {
        a = Unsqueeze (w, zero)  b = Transpose <perm = [2, 0, 1]> (a)  c = Reshape (b, s)  y = MatMul (x, c) }""",
        w=real(4, 6), zero=np.array([0], np.int64), s=np.array([6, 4], np.int64),
    )  # fmt: skip
    assert [n.op_type for n in folded(model).model.graph] == ["Unsqueeze", "Transpose", "Reshape", "MatMul"]
    state = same(model, {"x": real(2, 6)})
    (vmm,) = products(state)
    assert vmm.inputs[1] is not None
    assert vmm.inputs[1].name == "w"
    assert [n.op_type for n in state.model.graph] == ["Vmm"]


def test_a_view_of_a_weight_that_feeds_no_product_is_folded() -> None:
    model = parse("g (float[3,2] x) => (float[3,2] y) { t = Transpose <perm = [1, 0]> (w)  y = Add (x, t) }", w=real(2, 3))
    assert keeps(model, {"x": real(3, 2)}) == ["Add"]


def test_equal_parameters_stay_apart() -> None:
    b = real(3)
    model = parse("g (float[2,3] x) => (float[2,3] z) { y = Add (x, a)  z = Add (y, b) }", a=b, b=b)
    assert set(folded(model).model.graph.initializers) == {"a", "b"}


def test_random_nodes_and_model_outputs_are_not_folded() -> None:
    model = parse(
        "g (float[2] x) => (float[2] y, float[2] z) { r = RandomNormal <shape = [2]> ()  y = Add (x, r)  z = Neg (a) }", a=real(2)
    )
    assert [n.op_type for n in folded(model).model.graph] == ["RandomNormal", "Add", "Neg"]


def test_nothing_huge_is_made() -> None:
    """A filled tensor takes no memory; what is computed from it would."""
    model = parse(
        """g (float[2] x) => (float[1] y) {
        h = ConstantOfShape (s)  k = Add (h, a)  m = ReduceMax <keepdims = 0> (k)  y = Add (m, a) }""",
        s=np.array([1 << 20, 1 << 20], np.int64), a=real(1),
    )  # fmt: skip
    state = folded(model)
    assert "h" in state.model.graph.initializers
    assert "k" not in state.model.graph.initializers


def test_a_failing_node_is_left_to_the_run() -> None:
    model = parse(
        "g (float[2,3] x) => (float[2,3] y) { b = Reshape (a, s)  y = Add (x, b) }", a=real(6), s=np.array([4, 2], np.int64)
    )
    assert [n.op_type for n in folded(model).model.graph] == ["Reshape", "Add"]


def test_unsorted_nodes_are_refused() -> None:
    model = parse("g (float[2] x) => (float[2] y) { [a] b = Neg (x)  [c] y = Relu (b) }")
    model.graph.node.reverse()
    with pytest.raises(ModelError, match="reads 'b' before 'a'"):
        Fold().requires(Compilation(ir.from_proto(model), IDEAL))


def test_names_that_only_folding_used_go() -> None:
    model = parse("g (float[2] x) => (float[2] y) { b = Neg (a)  y = Add (x, b) }", a=real(2))
    state = folded(model)
    assert set(state.model.graph.initializers) == {"b"}
    assert not select(model).notes


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        ("Reshape (a, i)", (6, 4)),
        ("Reshape (a, j)", (2, 12)),
        ("Flatten <axis = 2> (a)", (6, 4)),
        ("Flatten <axis = -1> (a)", (6, 4)),
        ("Unsqueeze (a, k)", (2, 1, 3, 4, 1)),
        ("Squeeze (b, k)", (2, 3, 4)),
        ("Squeeze (b)", (2, 3, 4)),
        ("Transpose (a)", (4, 3, 2)),
        ("Transpose <perm = [1, 0, 2]> (a)", (3, 2, 4)),
        ("Identity (a)", (2, 3, 4)),
    ],
)
def test_rearrangements(node: str, shape: tuple[int, ...]) -> None:
    dims = ",".join(map(str, shape))
    constants = {
        "a": real(2, 3, 4), "b": real(2, 1, 3, 4, 1), "i": np.array([-1, 4]), "j": np.array([0, -1]), "k": np.array([1, -1]),
    }  # fmt: skip
    used = {n: a for n, a in constants.items() if n in node.partition("(")[2]}
    model = parse(f"g (float[{dims}] x) => (float[{dims}] y) {{ t = {node}  y = Add (x, t) }}", **used)
    assert keeps(model, {"x": real(*shape)}) == ["Add"]


def test_text() -> None:
    """The example of the module's text."""
    model = parse(
        """g (float[n,4] x) => (float[n,3] z) {
        [s] y = Shape (k)  [c] w = ConstantOfShape <value = float[1] {0.5}> (y)  [fc] z = MatMul (x, w) }""",
        k=np.zeros((4, 3), np.float32),
    )
    assert nodes(through(model, Legalise()).model)[1:] == [
        "[c] w = ConstantOfShape <value: tensor = float[1] {0.5}> (y)",
        "[fc] z = MatMul (x, w)",
    ]
    assert nodes(through(model, Legalise(), Fold()).model) == ["[fc] z = MatMul (x, w)"]
