"""Models: ``.onnx``, with ONNX Runtime as the oracle on the target ``ideal``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

import cimc
from cimc.errors import CimcError
from tests.fuzz.mutations import Random, mutate_arrays, pick

SUFFIX = ".onnx"
#: Set to 1, a refusal of what ONNX Runtime runs is a failure too: to look at them.
STRICT = bool(os.environ.get("FUZZ_STRICT"))

#: name -> text of the model, and shape and dtype of each initializer
MODELS: dict[str, tuple[str, dict[str, tuple[tuple[int, ...], str]]]] = {
    "conv": (
        """(float[N, 4, 5, 5] x) => (float[N, 3] y) {
        a = Conv <kernel_shape = [3, 3], pads = [1, 0, 1, 0], strides = [1, 2], dilations = [1, 1], group = 2> (x, w, b)
        n = BatchNormalization (a, s, o, m, v)  c = Relu (n)  p = MaxPool <kernel_shape = [2, 2]> (c)  f = Flatten (p)
        y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (f, w2, b2) }""",
        {"w": ((4, 2, 3, 3), "f4"), "b": ((4,), "f4"), "s": ((4,), "f4"), "o": ((4,), "f4"), "m": ((4,), "f4"), "v": ((4,), "f4"),
         "w2": ((3, 16), "f4"), "b2": ((3,), "f4")},
    ),
    "transposed": (
        """(float[N, 2, 3] x) => (float[N, 6, M] y) {
        y = ConvTranspose <kernel_shape = [3], strides = [2], pads = [1, 0], output_padding = [1], group = 2> (x, w, b) }""",
        {"w": ((2, 3, 3), "f4"), "b": ((6,), "f4")},
    ),
    "matrices": (
        """(float[N, 3, 6] x) => (float[N, 3, 5] y) { a = MatMul (x, w)  t = Tanh (a)
        e = Einsum <equation = "nij,jk->nik"> (t, v)  d = Add (e, b)  r = Reshape (d, shape)
        q = Transpose <perm = [0, 2, 1]> (r)  y = Transpose <perm = [0, 2, 1]> (q) }""",
        {"w": ((6, 4), "f4"), "v": ((4, 5), "f4"), "b": ((5,), "f4"), "shape": ((3,), "shape")},
    ),
    "lstm": (
        """(float[4, 2, 3] x) => (float[4, 1, 2, 2] y, float[1, 2, 2] h) {
        y, h = LSTM <hidden_size = 2, direction = "forward"> (x, w, r, b, "", h0, c0, p) }""",
        {"w": ((1, 8, 3), "f4"), "r": ((1, 8, 2), "f4"), "b": ((1, 16), "f4"), "h0": ((1, 2, 2), "f4"), "c0": ((1, 2, 2), "f4"),
         "p": ((1, 6), "f4")},
    ),
    "gru": (
        """(float[3, 2, 3] x) => (float[3, 2, 2, 2] y) {
        y = GRU <hidden_size = 2, direction = "bidirectional", linear_before_reset = 1> (x, w, r, b) }""",
        {"w": ((2, 6, 3), "f4"), "r": ((2, 6, 2), "f4"), "b": ((2, 12), "f4")},
    ),
    "quantised": (
        """(uint8[N, 2, 4] x) => (uint8[N, 3, 3] y, int32[N, 2, 5] z) { y = QLinearConv (x, xs, xz, w, ws, wz, xs, xz, b)
        z = MatMulInteger (x, v, xz, vz) }""",
        {"xs": ((), "f4"), "xz": ((), "u1"), "w": ((3, 2, 2), "u1"), "ws": ((3,), "f4"), "wz": ((3,), "same"), "b": ((3,), "i4"),
         "v": ((4, 5), "u1"), "vz": ((5,), "u1")},
    ),
    "control": (
        """(float[N, 3] x) => (float[N, 2] y) { n = ReduceSum <keepdims = 0> (x)  c = Greater (n, zero)
        y = If (c) <then_branch = t () => (float[N, 2] p) { p = MatMul (x, w) },
                    else_branch = e () => (float[N, 2] q) { z = MatMul (x, w)  q = Neg (z) }> }""",
        {"w": ((3, 2), "f4"), "zero": ((), "f4")},
    ),
}  # fmt: skip
_OPS = (
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "LSTM",
    "GRU",
    "RNN",
    "Relu",
    "Add",
    "Identity",
    "Flatten",
    "ConvInteger",
    "If",
)


def sound() -> dict[str, bytes]:
    random, found = np.random.default_rng(0), {}
    for name, (text, weights) in MODELS.items():
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {name} {text}')
        for weight, (shape, kind) in weights.items():
            if kind == "shape":
                array: Any = np.array([0, 3, -1])
            elif kind == "same":
                array = np.full(shape, 3, np.uint8)
            else:
                array = (
                    random.uniform(0.1, 0.9, shape).astype("f4") if kind == "f4" else random.integers(1, 99, shape).astype(kind)
                )
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), weight))
        found[name] = proto.SerializeToString()
    return found


def mutate(data: bytes, random: Random) -> tuple[str, bytes]:
    if random.random() < 0.15:
        return _bytes(data, random)
    model = onnx.ModelProto.FromString(data)
    changes = (_attribute, _attribute, _attribute, _initializers, _initializers, _initializers, _node, _node, _model, _value)
    return pick(random, changes)(model, random), model.SerializeToString()


def _bytes(data: bytes, random: Random) -> tuple[str, bytes]:
    if random.random() < 0.3:
        end = int(random.integers(len(data)))
        return f"cut at byte {end}", data[:end]
    at = [int(k) for k in random.integers(len(data) * 8, size=int(random.integers(1, 4)))]
    changed = bytearray(data)
    for bit in at:
        changed[bit // 8] ^= 1 << bit % 8
    return f"bits {at} inverted", bytes(changed)


def _nodes(graph: onnx.GraphProto) -> list[Any]:
    found = list(graph.node)
    for node in graph.node:
        found += [inner for attribute in node.attribute if attribute.HasField("g") for inner in _nodes(attribute.g)]
    return found


def _attribute(model: onnx.ModelProto, random: Random) -> str:
    node = pick(random, [n for n in _nodes(model.graph) if n.attribute] or list(model.graph.node))
    if not node.attribute or random.random() < 0.15:
        name = pick(
            random, ("group", "pads", "strides", "dilations", "auto_pad", "transA", "hidden_size", "axis", "absent", "layout")
        )
        value: Any = pick(random, (0, 1, 2, -1, 1 << 40, [1, 1], [0], "SAME_UPPER", "reverse", 0.5))
        node.attribute.append(helper.make_attribute(name, value))
        return f"{node.op_type}: {name} = {value} added"
    attribute = pick(random, list(node.attribute))
    old = helper.get_attribute_value(attribute)
    if random.random() < 0.1:
        node.attribute.remove(attribute)
        return f"{node.op_type}: {attribute.name} dropped"
    if isinstance(old, list) and old:
        k = int(random.integers(len(old)))
        near = [old[k] + 1, old[k] - 1, -old[k], 0, 1 << 40, 9_000_000]
        new: Any = pick(random, (old[:-1], old[::-1], [*old, 1], *[[*old[:k], v, *old[k + 1 :]] for v in near for _ in range(2)]))
        new = new or [0]
    elif isinstance(old, bytes):
        new = pick(
            random, ("", "SAME_UPPER", "VALID", "reverse", "bidirectional", "nij,jk->nkj", "ij,jk->ik", "nij,jj->nij", "...,jk->")
        )
    elif isinstance(old, float):
        new = pick(random, (0.0, -1.0, 1e30, float("nan"), float("inf"), 2.0))
    elif isinstance(old, int):
        new = pick(random, (0, 1, 2, 3, -1, old + 1, 2 * old, 1 << 40, -(1 << 40), 4.5))
    else:
        new = 1
    name = attribute.name
    node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, new))
    return f"{node.op_type}: {name} {str(old)[:60]} -> {new}"


def _initializers(model: onnx.ModelProto, random: Random) -> str:
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    what, arrays = mutate_arrays(arrays, random)
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items())
    return what


def _node(model: onnx.ModelProto, random: Random) -> str:
    nodes = _nodes(model.graph)
    node = pick(random, nodes)
    names = sorted({name for n in nodes for name in (*n.input, *n.output)} | {"absent", ""})
    kind = pick(
        random, ("input", "input", "input", "drop", "add", "swap", "output", "op_type", "domain", "remove", "twice", "name")
    )
    k = int(random.integers(len(node.input))) if node.input else 0
    new = pick(random, names)
    if kind == "input" and node.input:
        node.input[k] = new
    elif kind == "drop" and node.input:
        del node.input[k:]
    elif kind == "add":
        node.input.append(new)
    elif kind == "swap" and len(node.input) > 1:
        other = int(random.integers(len(node.input)))
        node.input[k], node.input[other] = node.input[other], node.input[k]
    elif kind == "output":
        node.output[0] = new
    elif kind == "op_type":
        node.op_type = new = pick(random, _OPS)
    elif kind == "domain":
        node.domain = new = pick(random, ("ai.onnx", "absent", "com.microsoft", "cimc"))
    elif kind == "remove" and node in model.graph.node:
        model.graph.node.remove(node)
    elif kind == "twice":
        model.graph.node.append(node)
    else:
        node.name = new = pick(random, ("", "x", "a/b", "é", "x" * 300))
    return f"{node.op_type}: {kind} {k} {new}"


def _model(model: onnx.ModelProto, random: Random) -> str:
    kind = pick(
        random, ("opset", "opset", "ir_version", "import", "no import", "name", "no output", "output", "no input", "reverse")
    )
    number = int(pick(random, (-1, 0, 1, 3, 6, 7, 9, 11, 12, 13, 18, 20, 21, 23, 99, 1 << 40)))
    graph = model.graph
    if kind == "opset":
        model.opset_import[0].version = number
    elif kind == "ir_version":
        model.ir_version = number
    elif kind == "import":
        model.opset_import.append(helper.make_opsetid(pick(random, ("", "ai.onnx", "absent", "com.microsoft")), max(number, 0)))
    elif kind == "no import":
        del model.opset_import[:]
    elif kind == "name":
        graph.name = ""
    elif kind == "no output":
        del graph.output[int(random.integers(len(graph.output))) :]
    elif kind == "output":
        graph.output.append(onnx.ValueInfoProto(name=pick(random, ("x", "w", "a", "absent", graph.output[0].name))))
    elif kind == "no input":
        del graph.input[:]
    else:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node][::-1]
        del graph.node[:]
        graph.node.extend(nodes)
    return f"{kind} {number}"


def _value(model: onnx.ModelProto, random: Random) -> str:
    value = pick(random, [*model.graph.input, *model.graph.output])
    tensor = value.type.tensor_type
    kind = pick(random, ("dim", "dim", "dim", "no shape", "no type", "dtype", "rank", "rank"))
    number = int(pick(random, (1, 2, 3, 7, -1, 1 << 40)))
    if kind == "dim" and tensor.shape.dim:
        pick(random, list(tensor.shape.dim)).dim_value = number
    elif kind == "no shape":
        tensor.ClearField("shape")
    elif kind == "no type":
        value.ClearField("type")
    elif kind == "dtype":
        tensor.elem_type = number = int(pick(random, (0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 16, 99)))
    elif tensor.shape.dim and random.random() < 0.5:
        del tensor.shape.dim[-1]
    else:
        tensor.shape.dim.add(dim_value=max(number, 1))
    return f"{value.name}: {kind} {number}"


def use(path: Path) -> None:
    """Compile and run; what ONNX Runtime refuses must be refused, what both run must be equal."""
    feeds: dict[str, Any] = {}
    wanted: list[Any] | None = None
    asked = False
    try:
        program = cimc.compile(path, target="ideal", settings={"mapping.depthwise": "analog"})
        # Asked only now: ONNX Runtime itself crashes on some models that cimc refuses.
        (feeds, wanted), asked = _oracle(path), True
        feeds = feeds or {spec.name: _made(spec.dtype, spec.shape) for spec in program.inputs}
        got = list(cimc.Chip(program).run(feeds).values())
    except CimcError as error:
        if STRICT and (wanted if asked else _oracle(path)[1]) is not None:
            raise AssertionError(f"ONNX Runtime runs it: {error}") from None
        raise
    assert wanted is not None, "ONNX Runtime refuses it"
    assert len(got) == len(wanted)
    odd = any(map(_odd, onnx.load(path).graph.initializer))
    for mine, theirs in zip(got, wanted, strict=True):
        assert np.shape(mine) == np.shape(theirs), f"{np.shape(mine)}, not {np.shape(theirs)}"
        if not odd and np.size(mine) < 1 << 20:
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-3)


def _odd(tensor: onnx.TensorProto) -> bool:
    """Whether results are no promise: ONNX Runtime clips the gates of recurrent kernels, so that a NaN among their parameters
    may show or not, and its integer sums wrap around."""
    array = numpy_helper.to_array(tensor)
    if array.dtype.kind == "f":
        return not np.isfinite(array).all()
    return bool(array.dtype.kind in "iu" and array.size and max(abs(int(array.min())), int(array.max())) > 1 << 24)


def _oracle(path: Path) -> tuple[dict[str, Any], list[Any] | None]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    feeds: dict[str, Any] = {}
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        types = {f"tensor({word})": name for word, name in (("float", "float32"), ("double", "float64"), ("float16", "float16"))}
        for value in session.get_inputs():
            kind = types.get(value.type, value.type.removeprefix("tensor(").removesuffix(")"))
            feeds[value.name] = _made(kind, value.shape)
        return feeds, session.run(None, feeds)
    except Exception:
        return feeds, None


def _made(dtype: str, shape: Any) -> Any:
    sizes = [min(size, 64) if isinstance(size, int) and size >= 0 else 2 for size in shape or ()]
    if dtype == "string":
        return np.full(sizes, "a", object)
    random = np.random.default_rng(0)
    made = random.uniform(0, 1, sizes) if "float" in dtype else random.integers(0, 2 if dtype == "bool" else 99, sizes)
    return np.asarray(made).astype(dtype)
