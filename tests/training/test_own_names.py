"""Trained values go back to the initializers of the user, also where the compiler has moved these into others."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

import cimc
from cimc.passes.recipes import Recipes
from cimc.training.trained import in_own_names, initializers_of, into_model
from tests.training.small import trainer

TEXT = """moved (TYPE[N, 6] x) => (TYPE[N, 4] y) {
    p = Slice (a, from, to)  q = Concat <axis = 0> (p, b)  w = Transpose <perm = [1, 0]> (q)
    v = Identity (w)  m = MatMul (x, v)  c = Concat <axis = 0> (s, t)  y = Add (m, c)
}"""
SHAPES = {"a": (3, 6), "b": (2, 6), "s": (1,), "t": (3,)}


def model(kind: str) -> onnx.ModelProto:
    """The weight is two rows of ``a`` above ``b``, the bias ``s`` before ``t``."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {TEXT.replace("TYPE", kind)}')
    random, real = np.random.default_rng(0), np.dtype({"float": "f4", "double": "f8"}[kind])
    arrays = {name: random.normal(size=shape).astype(real) for name, shape in SHAPES.items()}
    arrays |= {"from": np.array([1]), "to": np.array([3])}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    return proto


def values(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("kind", ["float", "double"])
def test_the_users_model_computes_what_the_trained_chip_does(kind: str) -> None:
    proto = model(kind)
    x = np.random.default_rng(1).normal(size=(8, 6)).astype("f8" if kind == "double" else "f4")
    t = trainer(cimc.Chip(cimc.compile(proto, "ideal")), loss="mse", batch_size=8)
    for _ in range(3):
        t.step(x, np.ones((8, 4), x.dtype))
    own = in_own_names(t.program(), t.weights())
    assert set(own) == {"a", "b", "s", "t"}
    before = values(proto)
    np.testing.assert_array_equal(own["a"][0], before["a"][0])  # the row that is cut off
    assert (own["a"][1:] != before["a"][1:]).all()
    assert into_model(proto, own) == []
    (there,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(t.chip.run({"x": x}, 0)["y"], there, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(in_own_names(t.program(), initializers_of(t.program()))["b"], own["b"])


def test_what_is_computed_cannot_be_taken_apart() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        computed (float[N, 3] x) => (float[N, 2] y) { w = Mul (a, b)  y = MatMul (x, w) }""")
    for name in "ab":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 2), np.float32), name))
    program = cimc.compile(proto, "ideal")
    assert Recipes.of(program).before({"w": np.zeros((3, 2), np.float32)}) == {}
    assert set(in_own_names(program, {"w": np.zeros((3, 2), np.float32)})) == {"w"}
