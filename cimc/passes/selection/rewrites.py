"""What `legalise` rewrites, by domain and operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from cimc.passes.selection import fused, fused_quantised, quantised
from cimc.passes.selection.site import Site

Rewrite = Callable[[ir.Node, Site], Sequence[ir.Value]]

_STANDARD: dict[str, Rewrite] = {
    "QLinearConv": quantised.qlinear_conv,
    "QLinearMatMul": quantised.qlinear_matmul,
    "ConvInteger": quantised.conv_integer,
    "MatMulInteger": quantised.matmul_integer,
}
_MICROSOFT: dict[str, Rewrite] = {
    "FusedConv": fused.fused_conv,
    "FusedGemm": fused.fused_gemm,
    "FusedMatMul": fused.fused_matmul,
    "TransposeMatMul": fused.fused_matmul,
    "MatMulNBits": fused.matmul_n_bits,
    "QLinearConv": fused_quantised.qlinear_conv,
    "QGemm": fused_quantised.qgemm,
    "MatMulIntegerToFloat": fused_quantised.matmul_integer_to_float,
    "DynamicQuantizeMatMul": fused_quantised.dynamic_quantize_matmul,
}


def rewrite_of(node: ir.Node) -> Rewrite | None:
    """How a node becomes nodes that later passes know; None: it stays."""
    if node.domain in ("", "ai.onnx"):
        return _STANDARD.get(node.op_type)
    return _MICROSOFT.get(node.op_type) if node.domain == fused.MICROSOFT else None
