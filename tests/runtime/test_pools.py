"""The gradient of max pools, against the winners that ONNX Runtime names."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from cimc.ir.geometry import Conv
from cimc.runtime import pools
from cimc.threads import set_threads

POOLS = {
    "plain": ("kernel_shape = [2, 2], strides = [2, 2]", (2, 3, 6, 8)),
    "pairs": ("kernel_shape = [2, 2], strides = [2, 2]", (2, 3, 7, 9)),
    "pairs of a last line": ("kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1", (2, 3, 7, 9)),
    "overlapping": ("kernel_shape = [3, 2], strides = [2, 1]", (2, 3, 7, 6)),
    "padded": ("kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 0, 2]", (2, 2, 7, 6)),
    "dilated": ("kernel_shape = [2, 2], dilations = [2, 3], pads = [1, 0, 1, 1]", (2, 2, 6, 7)),
    "ceil": ("kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1", (2, 2, 6, 7)),
    "same": ('kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_LOWER"', (2, 2, 6, 5)),
    "line": ("kernel_shape = [3], strides = [2], pads = [1, 1]", (3, 2, 9)),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", POOLS)
def test_each_gradient_goes_to_the_element_that_won(name: str, ties: bool) -> None:
    attributes, shape = POOLS[name]
    rng = np.random.default_rng(1)
    x = rng.standard_normal(shape).astype(np.float32)
    if ties:
        x = np.maximum(x, 0).round()
    dims, out = (", ".join(map(str, d)) for d in (shape, [f"d{a}" for a in range(len(shape))]))
    text = f"g (float[{dims}] x) => (float[{out}] y, int64[{out}] i) {{ y, i = MaxPool <{attributes}> (x) }}"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {text}')
    y, winners = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    dy = rng.standard_normal(y.shape).astype(np.float32)
    expected = np.zeros(x.size)
    np.add.at(expected, winners.reshape(-1), dy.reshape(-1).astype(np.float64))
    node = model.graph.node[0]
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    rank = len(shape) - 2
    geometry = Conv(
        kernel_shape=tuple(values["kernel_shape"]),
        strides=tuple(values.get("strides", [1] * rank)),
        dilations=tuple(values.get("dilations", [1] * rank)),
        pads=tuple(values.get("pads", [0] * (2 * rank))),
        auto_pad=values.get("auto_pad", b"NOTSET").decode(),
    )
    found = []
    try:
        for threads in (1, 3):
            set_threads(threads)
            found.append(pools.max_pool_gradient(dy, x, y, geometry))
    finally:
        set_threads(None)
    assert found[0].tobytes() == found[1].tobytes()
    np.testing.assert_allclose(found[0], expected.reshape(shape), rtol=0, atol=1e-5)
