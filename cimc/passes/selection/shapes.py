"""Shapes for the selection rules: inferred where the model says none, and those of a ``Vmm``'s output."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import onnx_ir as ir

from cimc.ir.geometry import Conv, ConvTranspose, Dense, WeightView

Dims = tuple[int | None, ...]
#: With the names of symbolic sizes.
NamedDims = tuple[int | str | None, ...]


def infer_missing_shapes(model: ir.Model, values: Iterable[ir.Value | None]) -> None:
    """Run ONNX's shape inference if one of the values needs it; weights are not copied. What it cannot tell stays unknown."""
    if all(value is None or value.shape is not None for value in values):
        return
    from onnx_ir.passes.common import ShapeInferencePass

    log = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
    finally:
        log.setLevel(level)


def named_dims(shape: ir.Shape) -> NamedDims:
    """Sizes of a shape: a number, the name of a symbolic size, or None."""
    return tuple(d if isinstance(d, int) else d.value for d in shape)


def output_dims(geometry: Dense | Conv | ConvTranspose, dims: NamedDims, view: WeightView) -> NamedDims | None:
    """Sizes of a product's output, by name or None where dynamic; None altogether where spatial sizes are.

    Names matter in training: gradients know from them that nothing was broadcast.
    """
    groups, _, columns = view.shape
    if isinstance(geometry, Dense):
        full = tuple(dims[a] for a in geometry.input_perm[: geometry.kept]) + geometry.output_dims
        return tuple(full[a] for a in geometry.output_perm)
    spatial = [d for d in dims[2:] if isinstance(d, int)]
    if len(spatial) != len(geometry.kernel_shape):
        return None
    shape = (0, 0, *spatial)
    if isinstance(geometry, Conv):
        return (dims[0], *geometry.output_shape(shape, groups * columns)[1:])
    channels = groups * columns
    for size in geometry.kernel_shape:
        channels //= size
    return (dims[0], *geometry.output_shape(shape, channels)[1:])
