"""The digital scale and offset of a layer, and the nodes that merge into them.

Behind a crossbar stands ``y = product * scale + offset``, one pair a column. Bias, alpha and beta go there, and so do a
batch normalisation in inference form and an added constant vector that directly follow, if nothing else reads the product.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.geometry import Dense, Geometry


@dataclass
class Affine:
    """``scale`` and ``offset`` are float64 ``[channels]`` until lowered; ``merged`` are the nodes now inside."""

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    output: ir.Value
    merged: list[ir.Node] = field(default_factory=list)


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer that is no graph input; None for anything else."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def affine_of(node: ir.Node, geometry: Geometry, columns: int) -> Affine:
    """Bias and factors of a Vmm node, with all that merges behind it.

    Args:
        columns: Output columns, all groups together; for a transposed convolution, output channels.
    """
    alpha = node.attributes.get_float("alpha", 1.0)
    beta = node.attributes.get_float("beta", 1.0)
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    offset = np.zeros(columns) if bias is None else beta * bias.astype(np.float64).reshape(-1)
    affine = Affine(np.full(columns, alpha, np.float64), offset, node.outputs[0])
    while (following := _only_reader(affine.output)) is not None and _merge(affine, following, geometry):
        affine.merged.append(following)
        affine.output = following.outputs[0]
    return affine


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    node = uses[0].node
    return node if node.graph is value.graph and node.domain in ("", "ai.onnx") else None


def _merge(affine: Affine, node: ir.Node, geometry: Geometry) -> bool:
    if node.op_type == "BatchNormalization":
        return _merge_normalisation(affine, node, geometry)
    if node.op_type == "Add":
        return _merge_addition(affine, node, geometry)
    return False


def _merge_normalisation(affine: Affine, node: ir.Node, geometry: Geometry) -> bool:
    on_channels = not isinstance(geometry, Dense) or (geometry.kept == 1 and _columns_last(geometry))
    training = node.attributes.get_int("training_mode", 0) or sum(1 for out in node.outputs if out.name) > 1
    unusual = not node.attributes.get_int("spatial", 1) or node.attributes.get_int("is_test", 1) == 0
    if not on_channels or training or unusual or node.inputs[0] is not affine.output:
        return False
    arrays = [constant(value) for value in node.inputs[1:5]]
    parameters = [array.astype(np.float64) for array in arrays if array is not None]
    if len(parameters) != 4 or any(p.shape != affine.scale.shape for p in parameters):
        return False
    gamma, beta, mean, variance = parameters
    factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    affine.scale *= factor
    affine.offset = (affine.offset - mean) * factor + beta
    return True


def _merge_addition(affine: Affine, node: ir.Node, geometry: Geometry) -> bool:
    if node.attributes.get("broadcast") is not None or node.attributes.get("axis") is not None:
        return False  # the explicit broadcasting of opsets below 7
    other = node.inputs[1] if node.inputs[0] is affine.output else node.inputs[0]
    added = constant(other)
    if added is None:
        return False
    if isinstance(geometry, Dense):
        fits = _columns_last(geometry) and added.shape == affine.offset.shape
    else:
        fits = added.shape == (affine.offset.size,) + (1,) * len(geometry.kernel_shape)
    if fits:
        affine.offset = affine.offset + added.astype(np.float64).reshape(-1)
    return fits


def _columns_last(geometry: Dense) -> bool:
    """Whether the output ends with one axis of all columns."""
    return len(geometry.output_dims) == 1 and geometry.output_perm[-1] == geometry.kept
