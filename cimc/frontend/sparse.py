"""Sparse initializers become dense ones: no later stage knows the sparse form."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

from cimc.errors import ModelError

#: Dense bytes that a stored value may become: beyond it the file is hostile rather than sparse.
_MAX_GROWTH = 1 << 16


def make_dense(graph: onnx.GraphProto, where: str) -> None:
    """Replace the main graph's sparse initializers, whose bytes have been checked against their shapes.

    Raises:
        ModelError: Indices outside the shape, or a shape out of all proportion to the stored values.
    """
    for sparse in graph.sparse_initializer:
        name, dims = sparse.values.name, list(sparse.dims)
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        size = math.prod(dims)
        if any(d < 0 for d in dims) or size > max(1 << 20, values.size * _MAX_GROWTH):
            wrong = f"sparse tensor {name!r} has the shape {dims} and {values.size} values"
            raise ModelError(wrong, where=where, fix="store it dense")
        if indices.ndim == 2 and indices.shape == (values.size, len(dims)):
            limits = np.asarray(dims)
            inside = bool(((indices >= 0) & (indices < limits)).all())
            flat = np.ravel_multi_index(tuple(indices.T), dims) if inside and values.size else indices[:, 0]
        else:
            flat = indices.reshape(-1)
            inside = flat.size == values.size and bool(((flat >= 0) & (flat < size)).all())
        if not inside:
            wrong = f"sparse tensor {name!r} has indices outside its shape {dims}"
            raise ModelError(wrong, where=where, fix="export the model again")
        dense = np.zeros(size, values.dtype)
        dense[flat] = values
        graph.initializer.append(numpy_helper.from_array(dense.reshape(dims), name))
    del graph.sparse_initializer[:]
