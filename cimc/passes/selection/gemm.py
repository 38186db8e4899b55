"""Gemm: a MatMul with factors and a bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cimc.ir.geometry import Dense
from cimc.passes.selection.operand import is_constant
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("Gemm", weights=(0, 1))
def gemm(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``alpha * A' @ B' + beta * C`` with A or B constant; a C that is no constant, one a column, is added digitally."""
    slot, weight = site.constant_side(node)
    x = node.inputs[1 - slot]
    if x is None:
        raise StaysDigital("it has no input")
    if len(weight.axes) != 2:
        site.refuse(f"its weight has {len(weight.axes)} axes, it must have 2")
    flipped = [bool(node.attributes.get_int(name, 0)) for name in ("transA", "transB")]
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    # The summed axis is A's last and B's first, before they are transposed.
    w_rows = (1 if slot == 0 else 0) ^ flipped[slot]
    x_rows = (1 if slot == 1 else 0) ^ flipped[1 - slot]
    view = weight.view([], [w_rows], [1 - w_rows])
    columns = view.shape[2]
    geometry = Dense(
        input_perm=(1 - x_rows, x_rows),
        kept=1,
        output_dims=(columns,),
        output_perm=(0, 1) if slot == 1 else (1, 0),
    )
    x_dims = site.dims(x)
    if len(x_dims) != 2 or x_dims[x_rows] not in (None, view.shape[1]):
        site.refuse(f"its input '{x.name}' of shape {list(x_dims)} does not fit the {view.shape[1]} rows of its weight")
    c = node.inputs[2] if len(node.inputs) > 2 else None
    if c is not None:
        kept = x.shape[1 - x_rows] if x.shape is not None else None
        _check_c(c, (kept, columns) if slot == 1 else (columns, kept), site)
    c = c if beta != 0 else None
    if c is None or _is_bias(c, columns, slot):
        return [site.vmm(x, weight, view, geometry, bias=c, alpha=alpha, beta=beta if c else 1.0)]
    if site.opset < 7:
        raise StaysDigital(f"C is no constant vector, one a column, and Add does not broadcast at opset {site.opset}")
    product = site.vmm(x, weight, view, geometry, alpha=alpha)
    if beta != 1:
        tensor = weight.initializer.const_value
        factor = site.constant(np.array(beta, tensor.dtype.numpy() if tensor else np.float32), "beta")
        (c,) = site.op("Mul", [c, factor], "scale_c")
    return site.op("Add", [product, c], "add_c")


def _check_c(c: ir.Value, outputs: tuple[int | ir.SymbolicDim | None, ...], site: Site) -> None:
    """C must broadcast to the outputs, and not they to it.

    Raises:
        ModelError: It does not.
        StaysDigital: Whether it does is not known.
    """
    if c.shape is None:
        raise StaysDigital(f"the rank of its C '{c.name}' is not known")
    if len(c.shape) > 2:
        site.refuse(f"its C '{c.name}' has {len(c.shape)} axes, it must have 2 or less")
    for size, wanted in zip(reversed(c.shape.dims), reversed(outputs), strict=False):
        if size == 1 or (size == wanted and str(size) != "None"):
            continue
        if isinstance(size, int) and isinstance(wanted, int):
            site.refuse(f"its C '{c.name}' of shape {[str(d) for d in c.shape]} does not fit {size} to {wanted} outputs")
        raise StaysDigital(f"whether its C '{c.name}' fits the outputs is not known before it runs")


def _is_bias(c: ir.Value, columns: int, slot: int) -> bool:
    if not is_constant(c) or c.const_value is None:
        return False
    shape = c.const_value.shape.numpy()
    if slot == 1:
        return shape in ((columns,), (1, columns))
    return shape == (columns, 1) or (columns == 1 and shape in ((1,), ()))
