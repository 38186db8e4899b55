"""Select decides node by node, says why, and refuses what no crossbar can hold."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cimc
from cimc.errors import ModelError, VerifyError
from cimc.ir.vmm import view_of
from cimc.passes.legalise import Legalise
from cimc.passes.select import Select
from cimc.passes.selection.operand import Operand
from tests.passes.graph_text import new_nodes

from .vmm_reference import build, parse, products, same, select

RNG = np.random.default_rng(6)


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_an_operand_is_what_numpy_makes_of_the_tensor(data: st.DataObject) -> None:
    """Any chain of transpositions and reshapes, where it is a view at all, and any roles of its axes."""
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    array = np.arange(np.prod(shape)).reshape(shape)
    operand = Operand.of(ir.Value(name="w"), shape)
    for _ in range(data.draw(st.integers(0, 4))):
        if data.draw(st.booleans()):
            perm = data.draw(st.permutations(range(array.ndim)))
            operand, array = operand.transpose(perm), array.transpose(perm)
        else:
            rest, target = array.size, []
            while rest > 1:
                target.append(data.draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
                rest //= target[-1]
            other = operand.reshape(target)
            if other is not None:
                operand, array = other, array.reshape(target)
    assert operand.shape == array.shape
    axes = data.draw(st.permutations(range(array.ndim)))
    cuts = sorted(data.draw(st.tuples(st.integers(0, array.ndim), st.integers(0, array.ndim))))
    roles = axes[: cuts[0]], axes[cuts[0] : cuts[1]], axes[cuts[1] :]
    view = operand.view(*roles)
    original = np.arange(np.prod(shape)).reshape(shape)
    matrix = original[view.index].reshape(view.split).transpose(view.perm).reshape(view.shape)
    np.testing.assert_array_equal(matrix, array.transpose(axes).reshape(view.shape))
    assert view.shape == tuple(int(np.prod([array.shape[a] for a in role])) for role in roles)


def test_equal_matrices_have_equal_views() -> None:
    """However a tensor was rearranged on the way."""
    model = parse(
        """g (float[2,6] x) => (float[2,4] z) {
        [a] y = MatMul (x, w)  r = Reshape (w, s)  q = Reshape (r, t)  [b] u = MatMul (x, q)  z = Add (y, u) }""",
        w=real(6, 4), s=np.array([2, 3, 4], np.int64), t=np.array([6, 4], np.int64),
    )  # fmt: skip
    first, second = products(same(model, {"x": real(2, 6)}))
    assert view_of(first) == view_of(second)
    assert [n.attributes.get_string("layer") for n in (first, second)] == ["w", "w"]


def test_one_weight_in_two_views_is_two_layers() -> None:
    model = parse(
        """g (float[2,4] x) => (float[2,4] z) { [up] y = MatMul (x, w)  t = Transpose <perm = [1, 0]> (w)
        [down] z = MatMul (y, t) }""",
        w=real(4, 6),
    )
    state = same(model, {"x": real(2, 4)})
    assert [n.attributes.get_string("layer") for n in products(state)] == ["up", "down"]
    assert {n.inputs[1].name for n in products(state) if n.inputs[1] is not None} == {"w"}


def test_layer_names_suit_files() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] z) { y = MatMul (x, v)  z = MatMul (y, w) }", v=real(4, 4), w=real(4, 4))
    model.graph.node[0].name, model.graph.node[1].name = "/net/0: fc", "/net/0/ FC"
    state = same(model, {"x": real(2, 4)})
    assert [n.attributes.get_string("layer") for n in products(state)] == ["net_0_fc", "net_0_FC_2"]
    assert list(state.placements) == ["/net/0: fc", "/net/0/ FC"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
def test_what_is_not_finite_is_refused(value: float, dtype: Any) -> None:
    w = np.ones((700, 2000), np.float32)
    w[600, 2] = value
    model = build("MatMul", {"x": real(2, 700).astype(dtype)}, {"w": w.astype(dtype)})
    with pytest.raises(ModelError, match=r"w.*\[600, 2\]") as caught:
        select(model)
    assert "node 'matmul'" in str(caught.value)


def test_finite_weights_whose_sum_overflows_are_taken() -> None:
    assert products(select(build("MatMul", {"x": real(2, 700)}, {"w": np.full((700, 3), 3e38, np.float32)})))


def test_an_infinite_constant_elsewhere_is_nobodys_business() -> None:
    model = parse("g (float[2] x) => (float[2] y) { y = Add (x, a) }", a=np.array([np.inf, 0], np.float32))
    assert select(model).placements["Add"].why == "no product with a constant weight"


def test_bodies_stay_digital() -> None:
    model = parse(
        """g (float[2,3] x, bool c) => (float[2,3] y) {
        [choose] y = If (c) <
            then_branch = t () => (float[2,3] a) { [inner] a = MatMul (x, w) },
            else_branch = e () => (float[2,3] b) { b = Neg (x) }> }""",
        w=real(3, 3),
    )
    state = same(model, {"x": real(2, 3), "c": np.array(True)})
    assert not products(state)
    assert state.placements["inner"].why.startswith("inside the body of 'choose' (If)")
    assert [p.where for p in state.placements.values()] == ["digital"] * 3


def test_ambiguous_broadcasting_stays_digital() -> None:
    model = build("MatMul", {"x": real(2, 4, 3)}, {"w": real(2, 3, 5)})
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    state = select(model)
    assert "broadcasts is not known" in state.placements["matmul"].why


def test_dynamic_batches_are_taken() -> None:
    model = build("MatMul", {"x": real(2, 4, 3)}, {"w": real(3, 5)})
    for axis in (0, 1):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
    assert len(products(same(model, {"x": real(7, 2, 3)}))) == 1


def test_integer_products_stay_digital() -> None:
    model = build("MatMul", {"x": np.ones((2, 3), np.int32)}, {"w": np.ones((3, 4), np.int32)})
    assert "not of a real type" in select(model).placements["matmul"].why


def test_every_node_has_a_place_and_inserted_ones_have_none() -> None:
    model = parse(
        """g (float[4,3] x) => (float[4,5] y) {
        s = Shape (k)  z = ConstantOfShape (s)  [fc] g = Gemm <beta = 0.5> (x, w, c)  r = Relu (g)  y = Add (r, z) }""",
        k=real(4, 5), w=real(3, 5), c=real(4, 5),
    )  # fmt: skip
    state = same(model, {"x": real(4, 3)})
    where = {p.op_type: p.where for p in state.placements.values()}
    assert where == {"Shape": "folded", "ConstantOfShape": "folded", "Gemm": "analog", "Relu": "digital", "Add": "digital"}
    assert [n.op_type for n in state.model.graph] == ["Vmm", "Mul", "Add", "Relu", "Add"]
    (vmm,) = products(state)
    assert (vmm.name, vmm.attributes.get_string("origin")) == ("fc", "Gemm")


def test_the_verifier_refuses_a_view_that_does_not_fit() -> None:
    state = select(build("MatMul", {"x": real(2, 3)}, {"w": real(3, 5)}))
    (vmm,) = products(state)
    vmm.attributes.add(ir.AttrInt64s("view_shape", [1, 3, 4]))
    with pytest.raises(VerifyError, match="does not fit the tensor"):
        Select().ensures(state)


def test_refused_input() -> None:
    model = build("MatMul", {"x": real(2, 3)}, {"w": real(3, 5)})
    foreign = onnx.ModelProto.FromString(model.SerializeToString())
    foreign.graph.node[0].domain, foreign.graph.node[0].op_type = "cimc", "Outer"
    state = select(model)
    state.model = ir.from_proto(foreign)
    with pytest.raises(ModelError, match="no operator Outer"):
        Select().requires(state)
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    local = onnx.helper.make_function("mine", "F", ["a"], ["b"], [node], [onnx.helper.make_opsetid("", 17)])
    model.functions.append(local)
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    model.graph.node[0].domain, model.graph.node[0].op_type = "mine", "F"
    state.model = ir.from_proto(model)
    with pytest.raises(ModelError, match="function F"):
        Legalise().requires(state)


def test_selecting_again_changes_nothing() -> None:
    state = select(build("MatMul", {"x": real(2, 3)}, {"w": real(3, 5)}))
    before = ir.to_proto(state.model).SerializeToString()
    assert not Select().call(state)
    assert ir.to_proto(state.model).SerializeToString() == before


def test_initializers_that_are_inputs_are_told_of() -> None:
    model = build("MatMul", {"x": real(2, 3), "w": real(3, 5)}, {})
    model.graph.initializer.append(onnx.numpy_helper.from_array(real(3, 5), "w"))
    (note,) = select(model).notes
    assert "'w'" in note


def test_products_stay_digital_as_asked() -> None:
    """By node, by weight, by pattern; the others go to crossbars."""
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 3] x) => (float[n, 2] y)'
    model = onnx.parser.parse_model(f"{head} {{ a = MatMul (x, w1)  y = MatMul (a, w2) }}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(real(3, c), n) for n, c in (("w1", 3), ("w2", 2)))
    for node, name in zip(model.graph.node, ("layers/one", "layers/two"), strict=True):
        node.name = name
    for pattern in ("layers/one", "layers_one", "w1", "*one"):
        program = cimc.compile(model, "ideal", digital=pattern)
        assert [layer.name for layer in program.layers] == ["layers_two"]
        rows = {row["name"]: row for row in program.placement()}
        assert rows["layers/one"]["where"] == "digital"
        assert rows["layers/one"]["why"].startswith("kept digital, as asked")
    with pytest.raises(cimc.CimcError, match="no product is called three"):
        cimc.compile(model, "ideal", digital=["w1", "three"])


def test_text() -> None:
    """The example of the module's text."""
    w, b = np.ones((8, 3, 3, 3), np.float32), np.ones(8, np.float32)
    model = parse("g (float[n,3,8,8] x) => (float[n,8,8,8] y) { [conv1] y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }", w=w, b=b)
    (line,) = new_nodes(model, Select())
    assert line.startswith("[conv1] y = cimc.Vmm <geometry: string =")
    assert line.endswith(
        'view_split: ints = [8, 27], view_perm: ints = [1, 0], view_shape: ints = [1, 27, 8], origin: string = "Conv", '
        'channel_rows: int = 9, layer: string = "conv1"> (x, w, b)'
    )
