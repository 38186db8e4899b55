"""Pools before what grows with their input: the same outputs from fewer elements."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from cimc.passes.training.pools import pool_first

POOL = "MaxPool <kernel_shape = [2, 3], strides = [2, 1], pads = [0, 1, 1, 0]>"
HEAD = "g (float[N, 3, 6, 7] x) => (float[N, 3, d, e] y"

MOVED = {
    "relu": f"{HEAD}) {{ r = Relu (x)  y = {POOL} (r) }}",
    "bias": f"{HEAD}) <float[3, 1, 1] b> {{ a = Add (b, x)  y = {POOL} (a) }}",
    "bias and relu": f"{HEAD}) <float[1, 3, 1, 1] b> {{ a = Add (x, b)  r = Relu (a)  y = {POOL} (r) }}",
    "a scalar": f"{HEAD}) <float b> {{ a = Add (x, b)  y = {POOL} (a) }}",
    "read further on": f"{HEAD}, float[N, 3, d, e] z) {{ r = Relu (x)  y = {POOL} (r)  z = Neg (y) }}",
}
LEFT = {
    "read twice": f"{HEAD}, float[N, 3, 6, 7] z) {{ r = Relu (x)  y = {POOL} (r)  z = Neg (r) }}",
    "an output": f"{HEAD}, float[N, 3, 6, 7] r) {{ r = Relu (x)  y = {POOL} (r) }}",
    "indices": f"{HEAD}, int64[N, 3, d, e] i) {{ r = Relu (x)  y, i = {POOL} (r) }}",
    "one number a pixel": f"{HEAD}) <float[6, 7] b> {{ a = Add (x, b)  y = {POOL} (a) }}",
    "falls": f"{HEAD}) {{ a = Neg (x)  y = {POOL} (a) }}",
}


def graphs(text: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model before and after."""
    proto = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    random = np.random.default_rng(2)
    for info in list(proto.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        proto.graph.initializer.append(onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), info.name))
    del proto.graph.value_info[:]
    proto = onnx.shape_inference.infer_shapes(proto)
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}_{number}"
    model = ir.from_proto(proto)
    pool_first(model.graph)
    after = ir.to_proto(model)
    onnx.checker.check_model(after)
    return proto, after


def outputs(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).standard_normal((4, 3, 6, 7)).astype(np.float32)
    return dict(zip([value.name for value in session.get_outputs()], session.run(None, {"x": x}), strict=True))


@pytest.mark.parametrize("name", MOVED)
def test_outputs_keep_their_bytes_and_names(name: str) -> None:
    before, after = graphs(MOVED[name])
    assert after.graph.node[0].op_type == "MaxPool"
    assert sorted(n.op_type for n in after.graph.node) == sorted(n.op_type for n in before.graph.node)
    old, new = outputs(before), outputs(after)
    assert {key: value.tobytes() for key, value in old.items()} == {key: value.tobytes() for key, value in new.items()}


@pytest.mark.parametrize("name", LEFT)
def test_what_would_change_something_stays(name: str) -> None:
    before, after = graphs(LEFT[name])
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
