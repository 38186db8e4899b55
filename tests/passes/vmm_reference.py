"""What a ``Vmm`` means, as plain as can be, and a run of a selected graph with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from cimc.ir.geometry import Conv, ConvTranspose, Dense
from cimc.ir.vmm import geometry_of, view_of
from cimc.passes.base import Compilation
from cimc.passes.fold import Fold
from cimc.passes.legalise import Legalise
from cimc.passes.manager import PassManager
from cimc.passes.select import Select
from cimc.targets.description import Target

Array = NDArray[Any]
IDEAL = Target(name="ideal")


def vmm(node: ir.Node, x: Array, w: Array, b: Array | None) -> Array:
    """One product, position by position, in float64 (and the bias where ONNX has it)."""
    geometry, view = geometry_of(node), view_of(node)
    matrix = w[view.index].reshape(view.split).transpose(view.perm).reshape(view.shape).astype(np.float64)
    alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
    bias = None if b is None else b.astype(np.float64).reshape(-1) * beta
    dtype, x = x.dtype, x.astype(np.float64)
    if isinstance(geometry, Dense):
        y = _dense(geometry, x, matrix, alpha, bias)
    elif isinstance(geometry, Conv):
        y = _conv(geometry, x, matrix, alpha, bias)
    else:
        y = _conv_transpose(geometry, x, matrix, alpha, bias)
    return y.astype(dtype)


def _product(rows: Array, matrix: Array, alpha: float) -> Array:
    """``rows [positions, groups * rows]`` -> ``[positions, groups * columns]``."""
    groups, height, columns = matrix.shape
    split = rows.reshape(-1, groups, height)
    return np.einsum("pgr,grc->pgc", split, matrix).reshape(-1, groups * columns) * alpha


def _dense(g: Dense, x: Array, matrix: Array, alpha: float, bias: Array | None) -> Array:
    shape = g.output_shape(x.shape)
    moved = x.transpose(g.input_perm)
    y = _product(moved.reshape(-1, matrix.shape[0] * matrix.shape[1]), matrix, alpha)
    if bias is not None:
        y = y + bias
    return y.reshape(moved.shape[: g.kept] + g.output_dims).transpose(g.output_perm).reshape(shape)


def _conv(g: Conv, x: Array, matrix: Array, alpha: float, bias: Array | None) -> Array:
    channels = matrix.shape[0] * matrix.shape[2]
    out = np.zeros(g.output_shape(x.shape, channels))
    begin, end = g.resolved_pads(x.shape[2:])
    padded = np.pad(x, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    for position in np.ndindex(*out.shape[2:]):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(position, g.strides, g.dilations, g.kernel_shape, strict=True)
        )
        rows = padded[(slice(None), slice(None), *window)].reshape(x.shape[0], -1)
        y = _product(rows, matrix, alpha)
        out[(slice(None), slice(None), *position)] = y if bias is None else y + bias
    return out


def _conv_transpose(g: ConvTranspose, x: Array, matrix: Array, alpha: float, bias: Array | None) -> Array:
    channels = matrix.shape[0] * matrix.shape[2] // int(np.prod(g.kernel_shape))
    begin, sizes = g.resolved(x.shape[2:])
    spatial = x.shape[2:]
    full = [
        max(s * (n - 1) + d * (k - 1) + 1, b + size)
        for n, s, d, k, b, size in zip(spatial, g.strides, g.dilations, g.kernel_shape, begin, sizes, strict=True)
    ]
    out = np.zeros((x.shape[0], channels, *full))
    for position in np.ndindex(*spatial):
        y = _product(x[(slice(None), slice(None), *position)], matrix, alpha)
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(position, g.strides, g.dilations, g.kernel_shape, strict=True)
        )
        out[(slice(None), slice(None), *window)] += y.reshape(x.shape[0], channels, *g.kernel_shape)
    crop = tuple(slice(b, b + size) for b, size in zip(begin, sizes, strict=True))
    out = out[(slice(None), slice(None), *crop)]
    return out if bias is None else out + bias.reshape(1, -1, *([1] * len(spatial)))


def select(model: onnx.ModelProto | str, target: Target = IDEAL) -> Compilation:
    """A model (or the text of one) after legalise, fold, select, each checked."""
    proto = onnx.parser.parse_model(model) if isinstance(model, str) else model
    return PassManager((Legalise(), Fold(), Select())).run(Compilation(ir.from_proto(proto), target))


def run(state: Compilation, inputs: Mapping[str, Array]) -> list[Array]:
    """The selected graph's outputs: `vmm` for products, ONNX Runtime for each other node."""
    model = state.model
    values: dict[str, Array | None] = {"": None, **inputs}
    for initializer in model.graph.initializers.values():
        assert initializer.const_value is not None
        values[initializer.name or ""] = initializer.const_value.numpy()
    for node in model.graph:
        names = [v.name or "" if v is not None else "" for v in node.inputs]
        if node.domain == "cimc":
            x, w, b = (values[n] for n in [*names, ""][:3])
            assert x is not None
            assert w is not None
            values[node.outputs[0].name or ""] = vmm(node, x, w, b)
            continue
        captured = sorted(_captured(node) - set(names))
        results = _one_node(node, {n: values[n] for n in [*names, *captured] if n}, model)
        values.update(results)
    return [values[o.name or ""] for o in model.graph.outputs]  # type: ignore[misc]


def _captured(node: ir.Node) -> set[str]:
    """Names that bodies take from the main graph."""
    found: set[str] = set()
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            inner = {o.name for n in ir.traversal.RecursiveGraphIterator(body) for o in n.outputs}
            inner |= {v.name for v in (*body.inputs, *body.initializers.values())}
            used = {v.name for n in ir.traversal.RecursiveGraphIterator(body) for v in n.inputs if v is not None}
            found |= {n for n in used - inner if n}
    return found


def _one_node(node: ir.Node, feeds: Mapping[str, Array | None], model: ir.Model) -> dict[str, Array]:
    proto = ir.to_proto(node)
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
        if a is not None
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in proto.output if n]
    graph = onnx.helper.make_graph([proto], "one", inputs, outputs)
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items() if d != "cimc"]
    whole = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(model.ir_version, 4))
    session = session_of(whole)
    names = [o.name for o in outputs]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    """ONNX Runtime as it comes, on one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def oracle(model: onnx.ModelProto | str, inputs: Mapping[str, Array]) -> list[Array]:
    """The original model by ONNX Runtime."""
    proto = onnx.parser.parse_model(model) if isinstance(model, str) else model
    return list(session_of(proto).run(None, dict(inputs)))


def same(model: onnx.ModelProto | str, inputs: Mapping[str, Array], target: Target = IDEAL, rtol: float = 1e-4) -> Compilation:
    """Assert that the model gives the same before and after, and that the checker takes it; returns the compilation."""
    state = select(model, target)
    onnx.checker.check_model(ir.to_proto(state.model))
    for got, want in zip(run(state, inputs), oracle(model, inputs), strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
    return state


def products(state: Compilation) -> list[ir.Node]:
    """The ``Vmm`` nodes."""
    return [n for n in state.model.graph if n.domain == "cimc"]


def build(
    op_type: str, inputs: Mapping[str, Array], constants: Mapping[str, Array], opset: int = 17, **attributes: Any
) -> onnx.ModelProto:
    """A model of one node, named as its operator in lower case; ``order`` names its inputs, by default constants last."""
    order = attributes.pop("order", [*inputs, *constants])
    outputs = attributes.pop("outputs", ["y"])
    node = onnx.helper.make_node(op_type, order, outputs, name=op_type.lower(), **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "test",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(n) for n in outputs if n],
        [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def parse(text: str, opset: int = 17, **constants: Array) -> onnx.ModelProto:
    """A model from the text of its graph, with these initializers; shapes inferred."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in constants.items())
    return onnx.shape_inference.infer_shapes(proto)
