"""Convolutions of any rank: a row is a channel-major window, a column is an output channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from cimc.ir.geometry import Conv
from cimc.passes.selection.operand import is_constant
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("Conv", weights=(1,))
def conv(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``W [M, C/g, *k]`` as ``[g, C/g * prod(k), M/g]``."""
    weight = site.weight(node, 1)
    outputs, channels, *kernel = weight.shape
    groups = node.attributes.get_int("group", 1)
    refuse_depthwise(groups, channels, prod(kernel), site)
    split = weight.reshape([groups, outputs // groups, channels, *kernel])
    if split is None:
        raise StaysDigital(f"its weight cannot be cut to {groups} groups where it lies")
    axes = range(2, 3 + len(kernel))
    geometry = Conv(**window(node, kernel))
    view = split.view([0], axes, [1])
    return with_bias(
        node, site, len(kernel), lambda x, bias: site.vmm(x, split, view, geometry, bias=bias, channel_rows=prod(kernel))
    )


def window(node: ir.Node, kernel: Sequence[int]) -> dict[str, Any]:
    """Fields of a windowed geometry, with ONNX's defaults."""
    rank = len(kernel)
    pads = node.attributes.get_ints("pads") or [0] * (2 * rank)
    if min(pads, default=0) < 0:
        raise StaysDigital(f"negative pads {list(pads)}")
    return {
        "kernel_shape": tuple(kernel),
        "strides": tuple(node.attributes.get_ints("strides") or [1] * rank),
        "dilations": tuple(node.attributes.get_ints("dilations") or [1] * rank),
        "pads": tuple(pads),
        "auto_pad": node.attributes.get_string("auto_pad", "NOTSET") or "NOTSET",
    }


def refuse_depthwise(groups: int, channels: int, rows: int, site: Site) -> None:
    """The target's rule for one input channel a group.

    Raises:
        StaysDigital: Under ``auto`` or ``digital``.
    """
    option = site.target.mapping.depthwise
    if groups == 1 or channels != 1 or option == "analog":
        return
    why = f"a column would use but {rows} row{'s' if rows > 1 else ''}" if option == "auto" else "so says the target"
    raise StaysDigital(f"depthwise, {why} (mapping.depthwise={option}; --set mapping.depthwise=analog maps it)")


def with_bias(
    node: ir.Node, site: Site, rank: int, product: Callable[[ir.Value, ir.Value | None], ir.Value]
) -> Sequence[ir.Value]:
    """The product with its bias, one an output channel; a bias computed at run time is added digitally.

    Raises:
        StaysDigital: A digital bias would need an Add that broadcasts.
    """
    x = node.inputs[0]
    if x is None:
        raise StaysDigital("it has no input")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or is_constant(bias):
        return [product(x, bias)]
    if site.opset < 7:
        raise StaysDigital(f"its bias '{bias.name}' is computed at run time, and Add does not broadcast at opset {site.opset}")
    y = product(x, None)
    (spread,) = site.op("Reshape", [bias, site.constant(np.array([-1] + [1] * rank, np.int64), "bias_shape")], "spread_bias")
    return site.op("Add", [y, spread], "add_bias")
