"""What makes a ``Vmm`` well-formed."""

from __future__ import annotations

from math import prod

import onnx_ir as ir
from pydantic import ValidationError

from cimc.errors import VerifyError
from cimc.ir.geometry import Conv, Dense
from cimc.ir.vmm import geometry_of, view_of
from cimc.passes.selection.operand import is_constant


def check_vmm(node: ir.Node) -> None:
    """Check that view, geometry, bias and weight of a ``Vmm`` fit each other.

    Raises:
        VerifyError: They do not.
    """

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise VerifyError(what, where=f"Vmm '{node.name}'")

    weight = node.inputs[1]
    need(is_constant(weight), "its weight is no initializer")
    tensor = weight.const_value if weight is not None else None
    need(bool(node.attributes.get_string("layer")), "it has no layer")
    try:
        geometry, view = geometry_of(node), view_of(node)
    except (ValidationError, ValueError) as error:
        raise VerifyError(f"its geometry or view is malformed: {error}", where=f"Vmm '{node.name}'") from error
    shape = tensor.shape.numpy() if tensor is not None else ()
    need(len(view.index) <= len(shape), f"its view index {view.index} is longer than the shape {shape}")
    need(all(0 <= i < size for i, size in zip(view.index, shape, strict=False)), f"its view index {view.index} leaves {shape}")
    size = prod(shape[len(view.index) :])
    need(prod(view.split) == size == prod(view.shape), f"its view {view.split} -> {view.shape} does not fit the tensor {shape}")
    need(sorted(view.perm) == list(range(len(view.split))), f"its view perm {view.perm} is no permutation")
    groups, rows, columns = view.shape
    packing = node.attributes.get_int("group_packing", 1)
    need(packing >= 1 and groups % packing == 0, f"group_packing {packing} does not divide its {groups} groups")
    need(rows % node.attributes.get_int("channel_rows", 1) == 0, "channel_rows does not divide its rows")
    outputs = groups * columns
    if isinstance(geometry, Dense):
        need(prod(geometry.output_dims) == outputs, f"output_dims {geometry.output_dims} are not {outputs} columns")
        need(sorted(geometry.input_perm) == list(range(len(geometry.input_perm))), "input_perm is no permutation")
        rank = geometry.kept + len(geometry.output_dims)
        need(sorted(geometry.output_perm) == list(range(rank)), "output_perm is no permutation")
    elif isinstance(geometry, Conv):
        need(rows % prod(geometry.kernel_shape) == 0, f"{rows} rows are no whole windows of {geometry.kernel_shape}")
    else:
        need(columns % prod(geometry.kernel_shape) == 0, f"{columns} columns are no whole kernels {geometry.kernel_shape}")
        outputs //= prod(geometry.kernel_shape)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        need(is_constant(bias), "its bias is no initializer")
        count = prod(bias.const_value.shape.numpy()) if bias.const_value is not None else 0
        need(count == outputs, f"its bias has {count} entries for {outputs} outputs")
