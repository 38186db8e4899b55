"""Small models, and ONNX Runtime's answer to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper, parser

from cimc.frontend.load import Loaded
from cimc.ir import onnx_io

WEIGHT = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32)


def text(source: str, *weights: onnx.TensorProto) -> onnx.ModelProto:
    """A model in ONNX's textual form, with further initializers."""
    model = parser.parse_model(source)
    model.graph.initializer.extend(weights)
    return model


def linear(**tensor: Any) -> onnx.ModelProto:
    """``y = relu(x @ w)``, with ``w`` changed as the keywords say."""
    weight = numpy_helper.from_array(WEIGHT, "w")
    for key, value in tensor.items():
        if key == "dims":
            del weight.dims[:]
            weight.dims.extend(value)
        else:
            setattr(weight, key, value)
    return text(
        '<ir_version: 8, opset_import: ["" : 17]> linear (float[n, 8] x) => (float[n, 16] y) { h = MatMul(x, w) y = Relu(h) }',
        weight,
    )


def external(folder: Path, location: str = "w.bin", offset: str = "0", length: str = "512") -> Path:
    """`linear` written to a file whose weight is external data at that place; the data file is not written."""
    model = linear()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        weight.external_data.add(key=key, value=value)
    path = folder / "linear.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(model: onnx.ModelProto | Path, feeds: dict[str, Any]) -> list[Any]:
    """ONNX Runtime on the model as it was given, without optimisation."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def run_loaded(loaded: Loaded, feeds: dict[str, Any]) -> list[Any]:
    """ONNX Runtime on what `load` made, saved whole."""
    whole = ir.to_proto(onnx_io.join(*onnx_io.split(loaded.model)))
    onnx.checker.check_model(whole)
    return run(whole, feeds)


def assert_same(got: Sequence[Any], want: Sequence[Any]) -> None:
    """Equal arrays, sequences of arrays, or absent values."""
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        if isinstance(theirs, list):
            assert_same(mine, theirs)
        else:
            np.testing.assert_array_equal(mine, theirs)


def node_graph(name: str, *outputs: str, value: float) -> onnx.GraphProto:
    """A branch that adds a constant to the outer ``x``."""
    constant = helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [value])
    infos = [helper.make_tensor_value_info(o, onnx.TensorProto.FLOAT, ["m"]) for o in outputs]
    return helper.make_graph([helper.make_node("Add", ["x", "c"], [o]) for o in outputs], name, [], infos, [constant])
