"""A ``Vmm`` as plain ONNX: Conv, ConvTranspose, Gemm or MatMul with reshapes, valid at the model's own opset.

Example::

    before  fc | y = cimc.Vmm <geometry = Dense, view_perm = [1, 0], ...> (x, w, b)
    after   fc | y = Gemm <transB = 1> (x, w, b)

Weights are numpy views of the initializers wherever the layout allows; half-precision products are computed in float32.

With a `Disturbance` a product is what a chip would make of it: other weights, clipped inputs, and noise on its sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.vmm import geometry_of, view_of

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Disturbance:
    """What becomes of the products of one layer."""

    matrix: NDArray[Any]
    """Weights, ``[groups, rows, columns]``."""
    sigma: NDArray[np.float64]
    """Standard deviation of the noise on the sums, ``[groups, columns]``, drawn anew for each; overlapping windows add up."""
    clip: tuple[float, float] | None = None
    """Ends of the inputs; None: none."""
    seed: int = 0


def expand(model: ir.Model, disturbances: Mapping[str, Disturbance] | None = None) -> ir.Model:
    """A copy of the model without ``Vmm``; large initializers are shared, the model itself stays as it is.

    Args:
        model: In the dialect.
        disturbances: By layer; a layer without one is computed as it is.
    """
    copy = model.clone()
    for number, node in enumerate(list(copy.graph)):
        if node.domain == DOMAIN and node.op_type == "Vmm":
            operands = [value for value in node.inputs[1:] if value is not None]
            disturbance = (disturbances or {}).get(node.attributes.get_string("layer") or "")
            _Expansion(copy, node, disturbance, number).run()
            for value in operands:
                if not value.uses() and not value.is_graph_output():
                    copy.graph.initializers.pop(str(value.name), None)
    copy.opset_imports.pop(DOMAIN, None)
    return copy


class _Expansion:
    def __init__(self, model: ir.Model, node: ir.Node, disturbance: Disturbance | None, number: int) -> None:
        self.disturbance, self.number = disturbance, number
        self.node, self.graph = node, cast(ir.Graph, node.graph)
        self.opset = model.opset_imports.get("", 1)
        self.geometry, self.view = geometry_of(node), view_of(node)
        self.nodes: list[ir.Node] = []
        weight = cast(ir.Value, node.inputs[1])
        tensor = cast(ir.TensorProtocol, weight.const_value)
        self.dtype = tensor.dtype
        self.matrix = self._wide(self.view.matrix_of(tensor.numpy()))
        if disturbance is not None:
            self.matrix = disturbance.matrix.astype(self.matrix.dtype, copy=False)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        self.alpha = float(node.attributes.get_float("alpha", 1.0))
        beta = float(node.attributes.get_float("beta", 1.0))
        self.bias = None
        if bias is not None and bias.const_value is not None:
            self.bias = self._wide(bias.const_value.numpy()).reshape(-1) * self.matrix.dtype.type(beta)

    def run(self) -> None:
        old = self.node.outputs[0]
        x = cast(ir.Value, self.node.inputs[0])
        if self.dtype in _NARROW:
            x = self.add("Cast", [x], to=int(ir.DataType.FLOAT))
        if self.disturbance is not None and self.disturbance.clip is not None:
            low, high = (
                self.constant(word, self._real(end)) for word, end in zip(("low", "high"), self.disturbance.clip, strict=True)
            )
            x = self.add("Min", [self.add("Max", [x, low]), high])
        y = self._dense(x, self.geometry) if isinstance(self.geometry, Dense) else self._window(x, self.geometry)
        if self.dtype in _NARROW:
            y = self.add("Cast", [y], to=int(self.dtype))
        name, y.type, y.shape = old.name, old.type, old.shape
        old.name = None
        ir.convenience.replace_nodes_and_values(self.graph, self.node, [self.node], self.nodes, [old], [y])
        y.name = name

    def _wide(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.astype(np.float32) if self.dtype in _NARROW else array

    def add(self, op_type: str, inputs: list[ir.Value], **attributes: Any) -> ir.Value:
        name = f"{self.node.name}/{len(self.nodes)}"
        attributes = {key: value for key, value in attributes.items() if value is not None}
        made = ir.node(op_type, inputs, attributes=attributes, name=name)
        made.outputs[0].name = f"cimc/{name}"
        self.nodes.append(made)
        return made.outputs[0]

    def constant(self, word: str, array: NDArray[Any]) -> ir.Value:
        array = np.ascontiguousarray(array)
        name = f"cimc/{self.node.name}/{word}"
        value = ir.val(name, const_value=ir.tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def _real(self, values: Any) -> NDArray[Any]:
        return np.asarray(values, self.matrix.dtype)

    def _noisy(self, y: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        """Sums with noise; the deviations have this shape when they are broadcast with ``y``."""
        if self.disturbance is None or not self.disturbance.sigma.any():
            return y
        sigma = self.disturbance.sigma * abs(self.alpha)
        if isinstance(self.geometry, ConvTranspose):
            taps = sigma.reshape(sigma.shape[0], -1, int(np.prod(self.geometry.kernel_shape)))
            sigma = np.sqrt(np.square(taps).sum(axis=2) / np.prod(self.geometry.strides))
        seed = float(self.disturbance.seed * 4096 + self.number % 4096)
        drawn = self.add("RandomNormalLike", [y], dtype=int(ir.DataType.from_numpy(self.matrix.dtype)), seed=seed)
        scaled = self.add("Mul", [drawn, self.constant("sigma", self._real(sigma).reshape(shape))])
        return self.add("Add", [y, scaled])

    def _broadcast(self) -> dict[str, int]:
        return {"broadcast": 1} if self.opset < 7 else {}

    def _window(self, x: ir.Value, geometry: Conv | ConvTranspose) -> ir.Value:
        groups, rows, columns = self.view.shape
        kernel = geometry.kernel_shape
        same = geometry.auto_pad != "NOTSET"
        transposed = isinstance(geometry, ConvTranspose)
        if isinstance(geometry, ConvTranspose):
            per = int(np.prod(kernel))
            weight = self.matrix.reshape(groups * rows, columns // per, *kernel)
        else:
            weight = self.matrix.transpose(0, 2, 1).reshape(groups * columns, rows // int(np.prod(kernel)), *kernel)
        extra: dict[str, Any] = {}
        if isinstance(geometry, ConvTranspose):
            extra = {"output_padding": geometry.output_padding, "output_shape": geometry.explicit_output}
        inputs = [x, self.constant("weight", self._scaled(weight))]
        if self.bias is not None:
            inputs.append(self.constant("bias", self.bias))
        y = self.add(
            "ConvTranspose" if transposed else "Conv",
            inputs,
            kernel_shape=kernel,
            strides=geometry.strides,
            dilations=geometry.dilations,
            group=groups,
            auto_pad=geometry.auto_pad if same else None,
            pads=None if same or extra.get("output_shape") is not None else geometry.pads,
            **extra,
        )
        return self._noisy(y, (-1, *[1] * len(kernel)))

    def _scaled(self, weight: NDArray[Any]) -> NDArray[Any]:
        return weight if self.alpha == 1.0 else weight * weight.dtype.type(self.alpha)

    def _dense(self, x: ir.Value, geometry: Dense) -> ir.Value:
        groups, rows, columns = self.view.shape
        if geometry.input_perm != tuple(range(len(geometry.input_perm))):
            x = self.add("Transpose", [x], perm=geometry.input_perm)
        kept = [0] * geometry.kept
        inner = [rows] if groups == 1 else [groups, 1, rows]
        if len(geometry.input_perm) != geometry.kept + len(inner):
            x = self._reshape(x, [*kept, *inner], "rows")
        if groups == 1 and geometry.kept == 1:
            across = self.matrix[0].T.flags.c_contiguous
            weight = self.matrix[0].T if across else self.matrix[0]
            bias = np.zeros(columns, weight.dtype) if self.bias is None else self.bias
            operands = [x, self.constant("weight", weight), self.constant("bias", bias)]
            y = self.add("Gemm", operands, alpha=self.alpha, transB=int(across), **self._broadcast())
            y = self._noisy(y, (columns,))
        else:
            matrix = self.matrix[0] if groups == 1 else self.matrix
            y = self.add("MatMul", [x, self.constant("weight", self._scaled(matrix))])
            y = self._noisy(y, (columns,) if groups == 1 else (groups, 1, columns))
        if groups > 1 or len(geometry.output_dims) != 1:
            y = self._reshape(y, [*kept, *geometry.output_dims], "columns")
        if self.bias is not None and not (groups == 1 and geometry.kept == 1):
            y = self.add("Add", [y, self.constant("bias", self.bias.reshape(geometry.output_dims))], **self._broadcast())
        if geometry.output_perm != tuple(range(len(geometry.output_perm))):
            y = self.add("Transpose", [y], perm=geometry.output_perm)
        return y

    def _reshape(self, x: ir.Value, shape: list[int], word: str) -> ir.Value:
        return self.add("Reshape", [x, self.constant(word, np.array(shape, np.int64))])
