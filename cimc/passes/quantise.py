"""Say how large the weights are that are to span the conductance window, and how far the quantised weights are off.

Example, 4 levels a device, one scale for the layer::

    before  fc | y = cimc.Vmm <layer = "fc", ...> (x, w)          w = [[0.5, -1.0], [0.2, 0.9]]
    after   fc | y = cimc.Vmm <layer = "fc", ..., weight_max = [1.0], weight_error = 0.160> (x, w)

Weights stay as they are; the encoding itself is `cimc.ir.encoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import ModelError, VerifyError
from cimc.ir import encoding
from cimc.ir.dialect import DOMAIN
from cimc.ir.vmm import layer_of, view_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_reasons
from cimc.targets.description import Target

#: Values of a chunk: its float64 temporaries stay in the second-level cache.
_CHUNK = 1 << 15
_LOOKED_AT = 1 << 20


class Quantise(Pass):
    """Sets ``weight_max`` of every ``Vmm``, and ``weight_error`` where the target quantises at all."""

    name: ClassVar[str] = "quantise"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `select` and after `lower`."""
        need_reasons(state)

    def call(self, state: Compilation) -> Sequence[str]:
        """Raises ModelError for NaN or Inf in a weight, TargetError where the cells of a weight cannot hold its bits."""
        done: dict[str, tuple[NDArray[np.float32], float | None]] = {}
        for node in vmms(state.model):
            layer = node.attributes.get_string("layer") or ""
            if layer not in done:
                weight = cast(ir.Value, node.inputs[1])
                tensor = cast(ir.TensorProtocol, weight.const_value).numpy()
                matrix = view_of(node).matrix_of(tensor)
                span = weight_max(matrix, state.target)
                if not np.isfinite(span).all():
                    raise ModelError(f"weight '{weight.name}' holds NaN or Inf; no conductance can", where=f"layer {layer}")
                error = None if state.target.is_ideal else weight_error(matrix, span, state.target)
                span = layer_of(node).repeats.on_columns(span, layer_of(node).groups)  # repeats of a column have its scale
                done[layer] = span, error
            span, error = done[layer]
            node.attributes.add(ir.AttrFloat32s("weight_max", [float(w) for w in span]))
            if error is not None:
                node.attributes.add(ir.AttrFloat32("weight_error", error))
        return list(done)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a scale is missing, negative, or of a wrong length."""
        check_scales(state)

    def unchanged(self, state: Compilation) -> str:
        """There is no layer."""
        return "no product is on crossbars"


def check_scales(state: Compilation) -> None:
    """Raise a VerifyError where a weight scale is missing, negative, or of a wrong length."""
    for node in vmms(state.model):
        layer = layer_of(node)
        span = node.attributes.get_floats("weight_max") or ()
        wanted = layer.groups * layer.columns if _by_column(state.target) else 1
        if len(span) != wanted or not all(w >= 0 for w in span):
            raise VerifyError(f"weight_max wants {wanted} numbers from 0", where=f"Vmm '{node.name}'")


def weight_max(matrix: NDArray[Any], target: Target) -> NDArray[np.float32]:
    """The largest weight, at most ``clip_sigma`` RMS of the layer.

    It is 0 where all weights are 0: the digital factor of the product is then 0, so what is exactly zero carries no error.

    Args:
        matrix: ``[groups, rows, columns]``.
        target: Its ``weights.scale`` says whether one number or one for each column comes back.

    Returns:
        ``[1]`` or ``[groups * columns]``.
    """
    groups, _, columns = matrix.shape
    by_column = _by_column(target)
    span = np.zeros((groups, columns) if by_column else 1, np.float32)
    square, clip = 0.0, target.weights.clip_sigma
    for group, _rows, _columns, part in _chunks(matrix):
        low, high = part.min(axis=0 if by_column else None), part.max(axis=0 if by_column else None)
        largest = np.maximum(-low, high).astype(np.float32)
        if by_column:
            np.maximum(span[group, _columns], largest, out=span[group, _columns])
        else:
            span[0] = max(span[0], largest) if np.isfinite(largest) else largest
            if not np.isfinite(largest):
                return span
        if clip is not None:
            square += _square_sum(part.astype(np.float64))
    if clip is not None and matrix.size:
        limit = np.float32(clip * np.sqrt(square / matrix.size))
        span = np.where(np.isfinite(span), np.minimum(span, limit), span).astype(np.float32)
    return span.reshape(-1)


def weight_error(matrix: NDArray[Any], span: NDArray[np.float32], target: Target) -> float:
    """RMS of what quantisation and clipping change, over the RMS of the weights; 0 where all are 0.

    Of a layer with more than a million weights, about a million of them at even distances are looked at: that tells the
    error to a few in a thousand.

    Args:
        matrix: ``[groups, rows, columns]``.
        span: ``[1]`` or ``[groups * columns]``.
        target: The chip.
    """
    weights = target.weights
    rounds = weights.rounded and bool(target.device.levels or weights.bits)
    if not (rounds or weights.clip_sigma is not None or weights.window == "least_error"):
        return 0.0
    full = encoding.steps_of_full_weight(target)
    spans = span.astype(np.float64).reshape(matrix.shape[0], -1) if span.size > 1 else span.astype(np.float64)
    total = lost = 0.0
    parts = list(_chunks(matrix))
    for group, _rows, columns, part in parts[:: max(1, len(parts) * _CHUNK // _LOOKED_AT)]:
        mine = np.broadcast_to(spans[group, columns] if span.size > 1 else spans, part.shape[1])
        # Columns as groups of one column: the memory order of most weights, several times as fast.
        exact = np.ascontiguousarray(part.T, np.float64)
        error = encoding.quantise(exact[:, :, None], mine, target)[:, :, 0]
        error *= (mine / full)[:, None]
        error -= exact
        lost += _square_sum(error)
        total += _square_sum(exact)
    error_share = float(np.sqrt(lost / total)) if total > 0 else 0.0
    return error_share if error_share > 1e-12 else 0.0  # less is the rounding of float64


def _by_column(target: Target) -> bool:
    """Whether each column has a weight scale of its own."""
    return target.weights.scale == "column"


def _square_sum(values: NDArray[np.float64]) -> float:
    flat = values.ravel(order="K")
    return float(flat @ flat)


def _chunks(matrix: NDArray[Any]) -> Iterator[tuple[int, slice, slice, NDArray[Any]]]:
    """Cache-sized parts of a matrix in the order of its memory: group, rows, columns, ``[rows, columns]``."""
    groups, rows, columns = matrix.shape
    for group in range(groups):
        by_row = matrix.strides[1] >= matrix.strides[2]
        across, along = (columns, rows) if by_row else (rows, columns)
        step = max(1, _CHUNK // max(1, across))
        for begin in range(0, along, step):
            part, every = slice(begin, min(begin + step, along)), slice(0, across)
            r, c = (part, every) if by_row else (every, part)
            yield group, r, c, matrix[group, r, c]


def vmms(model: ir.Model) -> list[ir.Node]:
    """The crossbar products of a graph."""
    return [node for node in model.graph if node.domain == DOMAIN and node.op_type == "Vmm"]
