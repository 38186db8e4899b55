"""Products in ONNX Runtime's own operators (domain ``com.microsoft``) as products of the standard and what was fused to them.

ONNX Runtime's optimiser writes such operators into the models that it saves. Only those with a constant weight are rewritten::

    FusedConv    act(Conv(x, w, b) + z)              FusedGemm    act(Gemm(a, b, c))
    FusedMatMul  alpha * (op(a) @ op(b))             MatMulNBits  a @ dequantised(b)' + bias
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.passes.selection.conv import windows_of
from cimc.passes.selection.nodes import input_at
from cimc.passes.selection.operand import Operand, is_constant, resolve
from cimc.passes.selection.site import Site, StaysDigital

MICROSOFT = "com.microsoft"
#: Parameters of the activations that may be fused to a product, in the order of FusedConv's ``activation_params``.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "ThresholdedRelu"), ("alpha",)),
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
    "Selu": ("alpha", "gamma"),
}
#: Operators of ONNX Runtime that hold products and that no rule reads.
_HOLD_PRODUCTS = frozenset(
    {
        "Attention", "QAttention", "PackedAttention", "DecoderAttention", "DecoderMaskedSelfAttention", "LongformerAttention",
        "QOrderedAttention", "QOrderedMatMul", "NhwcFusedConv", "NhwcConv", "Conv", "MatMulBnb4", "MatMulFpQ4",
        "GemmFastGelu", "GemmFloat8", "FusedMatMulActivation", "DynamicQuantizeLSTM", "MoE", "QMoE", "SparseToDenseMatMul",
    }
)  # fmt: skip


def fused_conv(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(x, w, b, z)``: z is added before the activation."""
    windows_of(node, site, _need_weight(node, (1,)).shape)
    name = node.attributes.get_string("activation", "") or ""
    values = list(node.attributes.get_floats("activation_params") or ())
    if len(values) > len(_ACTIVATIONS.get(name, ())):
        raise StaysDigital(f"its activation {name} has {len(values)} parameters")
    _need_activation(name)
    z = input_at(node, 3)
    (y,) = site.op("Conv", node.inputs[:3], "", _others(node))
    if z is not None:
        (y,) = site.op("Add", [y, z], "add")
    return [_activated(y, name, dict(zip(_ACTIVATIONS.get(name, ()), values, strict=False)), site)]


def fused_gemm(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """Parameters of the activation are attributes ``activation_alpha`` and the like."""
    _need_weight(node, (1, 0))
    name = node.attributes.get_string("activation", "") or ""
    _need_activation(name)
    names = (key for key in _ACTIVATIONS.get(name, ()) if f"activation_{key}" in node.attributes)
    values = {key: node.attributes.get_float(f"activation_{key}", 0.0) for key in names}
    (y,) = site.op("Gemm", node.inputs, "", _others(node))
    return [_activated(y, name, values, site)]


def fused_matmul(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``transA`` swaps the last two axes; before it, ``transBatchA`` moves the first axis behind the batch axes; alike of B."""
    _need_weight(node, (1, 0))
    operands = []
    for value, side in zip(node.inputs, "AB", strict=False):
        if value is None:
            raise StaysDigital("it has no input")
        last, batch = (bool(node.attributes.get_int(f"{word}{side}", 0)) for word in ("trans", "transBatch"))
        if not last and not batch:
            operands.append(value)
            continue
        rank = len(site.dims(value))
        axes = [*range(1, rank - 1), 0, rank - 1] if batch and rank > 2 else list(range(rank))
        if last and rank > 1:
            axes[-2:] = axes[:-3:-1]
        operands += site.op("Transpose", [value], f"transpose_{side.lower()}", {"perm": axes})
    (y,) = site.op("MatMul", operands, "")
    alpha = node.attributes.get_float("alpha", 1.0)
    return [y] if alpha == 1 else site.op("Mul", [y, site.constant(np.array(alpha, _numpy(y)), "alpha")], "scale")


def matmul_n_bits(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``(a, b, scales, zero_points, g_idx, bias)``: b is ``[N, blocks, bytes]``, quantised in blocks along K."""
    arrays = [_array(node, k) for k in range(1, 5)]
    packed, scales, zeros, order = arrays
    if packed is None or scales is None:
        raise StaysDigital(f"no product with a constant weight: '{_name(node, 1)}' is known only at run time")
    if order is not None or input_at(node, 4) is not None:
        raise StaysDigital("its groups of rows are in an order of their own (g_idx)")
    if zeros is None and input_at(node, 3) is not None:
        raise StaysDigital(f"its zero points '{_name(node, 3)}' are known only at run time")
    rows, columns, block, bits = (node.attributes.get_int(name, 0) for name in ("K", "N", "block_size", "bits"))
    blocks = -(-rows // block) if block > 0 else 0
    size = columns * blocks
    if bits not in (2, 4, 8) or size < 1 or packed.size * 8 != size * block * bits or scales.size != size:
        site.refuse(f"its weight of {packed.size} bytes and {scales.size} scales is not {rows} × {columns} in {bits} bits")
    codes = _unpacked(packed.reshape(columns, -1), bits).reshape(columns, blocks, block).astype(np.float32)
    zero: NDArray[Any] = np.full((columns, blocks), 1 << (bits - 1))
    if zeros is not None:
        zero = _unpacked(zeros.reshape(columns, -1), bits)[:, :blocks] if zeros.dtype == np.uint8 else zeros
    zero, factors = (values.reshape(columns, blocks, 1).astype(np.float32) for values in (zero, scales))
    weight = (codes - zero) * factors
    matrix = np.ascontiguousarray(weight.reshape(columns, -1)[:, :rows].T).astype(scales.dtype)
    (y,) = site.op("MatMul", [node.inputs[0], site.constant(matrix, "weight")], "")
    return site.op("Add", [y, node.inputs[5]], "add_bias") if input_at(node, 5) is not None else [y]


def why_foreign(node: ir.Node) -> str | None:
    """Why a node of ONNX Runtime's own operators stays digital; None: it is no such node, or has no product in it."""
    if node.domain.startswith(MICROSOFT) and node.op_type in _HOLD_PRODUCTS:
        what = f"ONNX Runtime's own operator {node.op_type} ({node.domain}), whose products are not read"
        return f"{what}: give the model from before ONNX Runtime's optimiser"
    return None


def _need_weight(node: ir.Node, slots: tuple[int, ...]) -> Operand:
    """The first of these inputs that is a constant weight."""
    for slot in slots:
        if (weight := resolve(input_at(node, slot))) is not None:
            return weight
    raise StaysDigital(f"no product with a constant weight: '{_name(node, slots[0])}' is known only at run time")


def _need_activation(name: str) -> None:
    if name and name not in _ACTIVATIONS:
        raise StaysDigital(f"the activation {name} is fused to it: give the model from before ONNX Runtime's optimiser")


def _activated(y: ir.Value, name: str, values: dict[str, float], site: Site) -> ir.Value:
    if not name:
        return y
    if name == "Clip" and site.opset >= 11:
        ends = [site.constant(np.array(values[key], _numpy(y)), key) if key in values else None for key in ("min", "max")]
        return site.op("Clip", [y, *ends], "activation")[0]
    return site.op(name, [y], "activation", values)[0]


def _unpacked(packed: NDArray[Any], bits: int) -> NDArray[Any]:
    """The numbers of ``bits`` bits in each byte, the lowest first, along the last axis."""
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, -1).reshape(*packed.shape[:-1], -1)


def _others(node: ir.Node) -> dict[str, Any]:
    return {name: attribute.value for name, attribute in node.attributes.items() if not name.startswith("activation")}


def _array(node: ir.Node, slot: int) -> NDArray[Any] | None:
    value = input_at(node, slot)
    return value.const_value.numpy() if value is not None and is_constant(value) and value.const_value is not None else None


def _name(node: ir.Node, slot: int) -> str:
    value = input_at(node, slot)
    return value.name or "" if value is not None else ""


def _numpy(value: ir.Value) -> Any:
    return np.float32 if value.dtype is None else value.dtype.numpy()
