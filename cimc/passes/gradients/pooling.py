"""Pools: the maximum by the indices that the forward node gives, averages by a transposed convolution with ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.scatter import scatter_flat
from cimc.passes.gradients.term import Term
from cimc.passes.gradients.windows import coverage, fitted, window_of


@gradient("MaxPool")
def _max_pool(r: Rule) -> Sequence[Term]:
    """Each output sends its gradient to the element that won; of equal ones the first, as ONNX Runtime chooses."""
    if r.int_attr("storage_order", 0) == 0:
        return [scatter_flat(r, r.save_output(1, ir.DataType.INT64), r.dy, r.x)]
    # Column-major indices: the node gives others for the gradient.
    attributes = {name: a.value for name, a in r.node.attributes.items() if name != "storage_order"}
    return [scatter_flat(r, r.ops("MaxPool", r.x, outputs=2, **attributes)[1], r.dy, r.x)]


@gradient("AveragePool")
def _average_pool(r: Rule) -> Sequence[Term]:
    kernel = r.ints_attr("kernel_shape", [])
    window = window_of(r, kernel, r.x, r.y)
    padded = any((*window.begin, *window.end)) or r.int_attr("ceil_mode", 0)
    if padded:
        include = bool(r.int_attr("count_include_pad", 0))
        count = coverage(r, window, r.x.static("AveragePool with pads", 2), r.y.static("AveragePool with pads", 2), include)
    else:
        count = r.scalar(math.prod(kernel))
    # Channels become images, so that one kernel of ones serves all.
    one_channel = r.op("Concat", r.ints([-1, 1]), r.shape(r.y, 2), axis=0)
    ones = r.constant(np.ones((1, 1, *kernel)))
    share = r.op("Reshape", r.dy / count, one_channel)
    return [r.reshape(fitted(r, share, ones, window, r.x, r.y), r.x)]


@gradient("LpPool")
def _lp_pool(r: Rule) -> Sequence[Term]:
    """y = (Σ |x|^p)^(1/p): sign(x)·|x|^(p-1) times the sum of dy·y^(1-p) over the windows; zero where y is zero."""
    p, kernel = r.int_attr("p", 2), r.ints_attr("kernel_shape", [])
    window, ones = window_of(r, kernel, r.x, r.y), r.constant(np.ones((1, 1, *kernel)))
    share = r.dy * r.op("Pow", r.where(r.y.equals(0), 1, r.y), r.scalar(1 - p))
    one_channel = r.op("Concat", r.ints([-1, 1]), r.shape(r.y, 2), axis=0)
    spread = fitted(r, r.op("Reshape", share, one_channel), ones, window, r.x, r.y)
    slope = r.x if p == 2 else r.op("Sign", r.x) * r.op("Pow", r.op("Abs", r.x), r.scalar(p - 1))
    return [slope * r.reshape(spread, r.x)]


@gradient("GlobalAveragePool")
def _global_average_pool(r: Rule) -> Sequence[Term]:
    count = r.op("Div", r.size(r.x), r.size(r.y)).cast(r.dtype)
    return [r.expand(r.dy / count, r.x)]


@gradient("GlobalMaxPool")
def _global_max_pool(r: Rule) -> Sequence[Term]:
    """The elements that attain the maximum share the gradient evenly."""
    mask = r.x.equals(r.y).mask()
    return [mask * (r.dy / mask.sum(range(2, r.x.rank)))]
