"""QuantizeLinear and DequantizeLinear: straight-through estimators.

Between the two a gradient is of the real number that the code stands for, so that moves of codes (Reshape, Transpose, …) pass
it on as it is. Scales and zero points are constants. (Straight-through: Bengio, Léonard, Courville 2013, arXiv:1308.3432.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


@gradient("DequantizeLinear")
def _dequantize(r: Rule) -> Sequence[Term]:
    return [r.dy]


@gradient("QuantizeLinear")
def _quantize(r: Rule) -> Sequence[Term]:
    """1 where the input lies within the codes' range, 0 where it saturates."""
    code = r.y.value.dtype
    if code not in (ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT16, ir.DataType.UINT16):
        r.refuse(f"codes of type {code.name if code else 'unknown'}", "quantise to integers of 8 or 16 bits")
    dx, scale, limits = r.dy, r.arg(1), np.iinfo(code.numpy())
    for limit, outside in ((limits.min, Term.__lt__), (limits.max, Term.__gt__)):
        codes = r.constant(limit, code)
        if scale.dims != ():
            codes = r.expand(codes, r.x)
        attributes = {name: a.value for name, a in r.node.attributes.items() if name in ("axis", "block_size")}
        edge = r.op("DequantizeLinear", codes, scale, r.optional(2), **attributes)
        dx = dx - r.dy * outside(r.x, edge).mask()
    return [dx]
