"""A split model is the same model: ONNX Runtime on the original is the oracle."""

from __future__ import annotations

import gc

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from cimc.ir import onnx_io


def mlp(*, initializer_is_input: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(16, 32)).astype(np.float32)
    low = rng.normal(size=(32, 8)).astype(ml_dtypes.bfloat16)
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 16])]
    if initializer_is_input:
        inputs.append(helper.make_tensor_value_info("layer/../w", onnx.TensorProto.FLOAT, [16, 32]))
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "layer/../w"], ["h"], name="first"),
            helper.make_node("Cast", ["low"], ["wide"], to=onnx.TensorProto.FLOAT, name="widen"),
            helper.make_node("MatMul", ["h", "wide"], ["z"], name="second"),
            helper.make_node("Add", ["z", "b"], ["y"], name="bias"),
        ],
        "mlp",
        inputs,
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 8])],
        [
            numpy_helper.from_array(weight, "layer/../w"),
            numpy_helper.from_array(low, "low"),
            numpy_helper.from_array(np.arange(8, dtype=np.float32), "b"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)


def reference(model: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]


@pytest.mark.parametrize("initializer_is_input", [False, True])
@pytest.mark.parametrize("optimise", [False, True])
def test_session_of_the_split_form_equals_the_original(initializer_is_input: bool, optimise: bool) -> None:
    proto = mlp(initializer_is_input=initializer_is_input)
    small, tensors = onnx_io.split(ir.from_proto(proto))
    assert set(tensors) == {"layer/../w"}, "bfloat16 and small initializers stay in the file"
    got = onnx_io.session(small, tensors, optimise=optimise).run(None, {"x": X})[0]
    np.testing.assert_allclose(got, reference(proto), rtol=1e-5, atol=1e-5)


def test_split_leaves_the_model_as_it_was() -> None:
    model = ir.from_proto(mlp())
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    onnx_io.split(model, keep_below=0)
    assert all(model.graph.initializers[name].const_value is tensor for name, tensor in before.items())


def test_split_shares_the_models_buffers() -> None:
    model = ir.from_proto(mlp())
    weight = np.ones((16, 32), np.float32)
    model.graph.initializers["layer/../w"].const_value = ir.Tensor(weight, name="layer/../w")
    _, tensors = onnx_io.split(model)
    assert tensors["layer/../w"] is weight


def test_session_reads_the_arrays_in_place_and_keeps_them_alive() -> None:
    small, tensors = onnx_io.split(ir.from_proto(mlp()))
    weight = tensors["layer/../w"].copy()
    made = onnx_io.session(small, {"layer/../w": weight})
    before = made.run(None, {"x": X})[0]
    weight[:] = 0
    assert not np.array_equal(made.run(None, {"x": X})[0], before)
    del weight
    gc.collect()
    np.testing.assert_array_equal(made.run(None, {"x": X})[0], np.broadcast_to(np.arange(8, dtype=np.float32), (5, 8)))


def test_transposed_and_unaligned_arrays_are_taken() -> None:
    proto = mlp()
    model = ir.from_proto(proto)
    value = model.graph.initializers["layer/../w"]
    assert value.const_value is not None
    weight = value.const_value.numpy()
    unaligned = np.frombuffer(b"\0" + weight.tobytes(), np.float32, offset=1).reshape(weight.shape)
    for array in (np.asfortranarray(weight), unaligned):
        value.const_value = ir.Tensor(array, name=value.name)
        small, tensors = onnx_io.split(model)
        np.testing.assert_array_equal(onnx_io.session(small, tensors).run(None, {"x": X})[0], reference(proto))


def test_join_gives_the_whole_model_back() -> None:
    proto = mlp()
    whole = ir.to_proto(onnx_io.join(*onnx_io.split(ir.from_proto(proto), keep_below=0)))
    onnx.checker.check_model(whole)
    for mine, theirs in zip(whole.graph.initializer, proto.graph.initializer, strict=True):
        assert mine.name == theirs.name
        assert numpy_helper.to_array(mine).tobytes() == numpy_helper.to_array(theirs).tobytes()
    np.testing.assert_array_equal(reference(whole), reference(proto))


def test_join_wants_every_array() -> None:
    small, _ = onnx_io.split(ir.from_proto(mlp()))
    with pytest.raises(KeyError, match="w"):
        onnx_io.join(small, {})


def test_outputs_choose_intermediate_values() -> None:
    small, tensors = onnx_io.split(ir.from_proto(mlp()))
    h, x, w, y = onnx_io.session(small, tensors, outputs=["h", "x", "layer/../w", "y"]).run(None, {"x": X})
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(w, tensors["layer/../w"])
    np.testing.assert_allclose(h, X @ tensors["layer/../w"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y, reference(mlp()))


@pytest.mark.parametrize("shape", [(80, 1, 1), (80, 5, 2)])
def test_optimised_session_may_transpose_a_large_initializer(shape: tuple[int, ...]) -> None:
    """ONNX Runtime pushes transpositions through, and rewrites the constants on their way."""
    rng = np.random.default_rng(0)
    scale, x = rng.random(shape, np.float32), rng.random((1, 5, 80, 2), np.float32)
    body = "t = Transpose <perm=[0,2,1,3]> (x) m = Mul (t, scale) y = Transpose <perm=[0,2,1,3]> (m)"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g (float[1,5,80,2] x) => (float y) {{ {body} }}')
    model.graph.initializer.append(numpy_helper.from_array(scale, "scale"))
    (got,) = onnx_io.session(*onnx_io.split(ir.from_proto(model)), optimise=True).run(None, {"x": x})
    np.testing.assert_allclose(got, x * scale.swapaxes(0, 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("message", "told"),
    [("a node\nat /build/x.cc:12", "a node"), ("\n a node ", "a node"), ("", "ValueError"), ("\n", "ValueError")],
)
def test_a_refusal_is_told_in_one_line(message: str, told: str) -> None:
    assert onnx_io.reason(ValueError(message)) == told
