"""What makes a ``Vmm`` well-formed: every number in it fits the arrays that compiled code will index by it."""

from __future__ import annotations

from math import prod

import onnx_ir as ir
from pydantic import ValidationError

from cimc.errors import VerifyError
from cimc.ir.geometry import Conv, ConvTranspose, Dense, WeightView
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
    need(min(view.split, default=1) > 0 and min(view.shape) > 0, f"its view {view.split} -> {view.shape} is empty")
    groups, rows, columns = view.shape
    packing = node.attributes.get_int("group_packing", 1)
    need(packing >= 1 and groups % packing == 0, f"group_packing {packing} does not divide its {groups} groups")
    channel_rows = node.attributes.get_int("channel_rows", 1)
    need(channel_rows >= 1 and rows % channel_rows == 0, "channel_rows does not divide its rows")
    fault = _dense_fault(geometry, groups * columns) if isinstance(geometry, Dense) else _window_fault(geometry, view)
    need(fault is None, str(fault))
    outputs = groups * columns
    if isinstance(geometry, ConvTranspose):
        outputs //= prod(geometry.kernel_shape)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        need(is_constant(bias), "its bias is no initializer")
        count = prod(bias.const_value.shape.numpy()) if bias.const_value is not None else 0
        need(count == outputs, f"its bias has {count} entries for {outputs} outputs")


def _dense_fault(geometry: Dense, outputs: int) -> str | None:
    """What is wrong with a dense geometry of that many outputs; None: nothing."""
    if prod(geometry.output_dims) != outputs:
        return f"output_dims {geometry.output_dims} are not {outputs} columns"
    if sorted(geometry.input_perm) != list(range(len(geometry.input_perm))):
        return "input_perm is no permutation"
    if not 0 <= geometry.kept <= len(geometry.input_perm):
        return f"it keeps {geometry.kept} of {len(geometry.input_perm)} axes"
    if sorted(geometry.output_perm) != list(range(geometry.kept + len(geometry.output_dims))):
        return "output_perm is no permutation"
    return None


def _window_fault(geometry: Conv | ConvTranspose, view: WeightView) -> str | None:
    """What is wrong with a windowed geometry on that matrix; None: nothing."""
    kernel, (_, rows, columns) = geometry.kernel_shape, view.shape
    rank = len(kernel)
    for name in ("kernel_shape", "strides", "dilations"):
        sizes = getattr(geometry, name)
        if len(sizes) != rank or min(sizes, default=0) < 1:
            return f"its {name} {list(sizes)} are not {rank} positive numbers"
    if len(geometry.pads) != 2 * rank or min(geometry.pads, default=0) < 0:
        return f"its pads {list(geometry.pads)} are not two numbers from 0 for each of {rank} axes"
    if isinstance(geometry, Conv):
        return f"{rows} rows are no whole windows of {kernel}" if rows % prod(kernel) else None
    if columns % prod(kernel):
        return f"{columns} columns are no whole kernels {kernel}"
    for name, given in (("output_padding", geometry.output_padding), ("output_shape", geometry.explicit_output)):
        if given is not None and (len(given) != rank or min(given) < 0):
            return f"its {name} {list(given)} is not {rank} numbers from 0"
    return None
