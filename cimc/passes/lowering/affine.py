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
    left: dict[ir.Node, str] = field(default_factory=dict)
    """Batch normalisations and additions of constants that follow and are not merged, each with the reason."""


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
    while followers := [use.node for use in affine.output.uses() if _may_merge(use.node, affine.output)]:
        following = followers[0]
        if affine.output.is_graph_output():
            why: str | None = "what it reads is an output of the model"
        elif len(affine.output.uses()) > 1:
            why = "other nodes read the product too"
        elif following.op_type == "BatchNormalization":
            why = _merge_normalisation(affine, following, geometry)
        else:
            why = _merge_addition(affine, following, geometry)
        if why is not None:
            affine.left = dict.fromkeys(followers, why)
            break
        affine.merged.append(following)
        affine.output = following.outputs[0]
    return affine


def _may_merge(node: ir.Node, product: ir.Value) -> bool:
    """Whether a reader is a batch normalisation, or adds a constant."""
    if node.graph is not product.graph or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "BatchNormalization":
        return True
    return node.op_type == "Add" and any(constant(value) is not None for value in node.inputs)


def _merge_normalisation(affine: Affine, node: ir.Node, geometry: Geometry) -> str | None:
    """Merge a batch normalisation, or tell why not."""
    on_channels = not isinstance(geometry, Dense) or (geometry.kept == 1 and _columns_last(geometry))
    training = node.attributes.get_int("training_mode", 0) or sum(1 for out in node.outputs if out.name) > 1
    unusual = not node.attributes.get_int("spatial", 1) or node.attributes.get_int("is_test", 1) == 0
    if not on_channels:
        return "its channels are not the columns of the product"
    if training:
        return "it uses the statistics of the batch"
    if unusual or node.inputs[0] is not affine.output:
        return "a form of old opsets, or the product is one of its parameters"
    arrays = [constant(value) for value in node.inputs[1:5]]
    parameters = [array.astype(np.float64) for array in arrays if array is not None]
    if len(parameters) != 4:
        return "its parameters are no constants"
    if any(p.shape != affine.scale.shape for p in parameters):
        return f"its parameters are not {affine.scale.size} numbers, one a channel"
    gamma, beta, mean, variance = parameters
    factor = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    affine.scale *= factor
    affine.offset = (affine.offset - mean) * factor + beta
    return None


def _merge_addition(affine: Affine, node: ir.Node, geometry: Geometry) -> str | None:
    """Merge the addition of a constant, or tell why not."""
    if node.attributes.get("broadcast") is not None or node.attributes.get("axis") is not None:
        return "it broadcasts as in opsets below 7"
    other = node.inputs[1] if node.inputs[0] is affine.output else node.inputs[0]
    added = constant(other)
    if added is None:
        return "what it adds is no constant"
    if isinstance(geometry, Dense):
        fits = _columns_last(geometry) and added.shape == affine.offset.shape
    else:
        fits = added.shape == (affine.offset.size,) + (1,) * len(geometry.kernel_shape)
    if not fits:
        return f"its constant of shape {list(added.shape)} is not one number a channel"
    affine.offset = affine.offset + added.astype(np.float64).reshape(-1)
    return None


def _columns_last(geometry: Dense) -> bool:
    """Whether the output ends with one axis of all columns."""
    return len(geometry.output_dims) == 1 and geometry.output_perm[-1] == geometry.kept
