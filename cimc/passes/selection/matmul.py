"""MatMul by numpy's rules with a constant on either side, told as an Einsum over named axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.passes.selection.contraction import contract
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("MatMul", weights=(0, 1))
def matmul(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """Batch axes are numbered from the right, so that equal labels broadcast."""
    slot, weight = site.constant_side(node)
    x = node.inputs[1 - slot]
    if x is None:
        raise StaysDigital("it has no input")
    ranks = [len(weight.axes) if slot == side else len(site.dims(v)) for side, v in enumerate(node.inputs) if v is not None]
    batch = [[f"b{i}" for i in range(rank - 2, 0, -1)] for rank in ranks]
    left = [*batch[0], "m", "k"] if ranks[0] > 1 else ["k"]
    right_labels = [*batch[1], "k", "n"] if ranks[1] > 1 else ["k"]
    output = [*max(batch, key=len), *(["m"] if ranks[0] > 1 else []), *(["n"] if ranks[1] > 1 else [])]
    labels = (left, right_labels)
    return [contract(site, x, labels[1 - slot], weight, labels[slot], output)]
