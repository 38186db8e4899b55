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

#: Largest stride, dilation or pad of a crossbar product: what lies beyond is a mistake, or hostile.
MOST_STEP = 1 << 16


@rule("Conv", weights=(1,))
def conv(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``W [M, C/g, *k]`` as ``[g, C/g * prod(k), M/g]``."""
    weight = site.weight(node, 1)
    groups, geometry = windows_of(node, site, weight.shape)
    outputs, channels, *kernel = weight.shape
    split = weight.reshape([groups, outputs // groups, channels, *kernel])
    if split is None:
        raise StaysDigital(f"its weight cannot be cut to {groups} groups where it lies")
    axes = range(2, 3 + len(kernel))
    view = split.view([0], axes, [1])
    return with_bias(
        node, site, outputs, len(kernel), lambda x, bias: site.vmm(x, split, view, geometry, bias=bias, channel_rows=prod(kernel))
    )


def windows_of(node: ir.Node, site: Site, weight: Sequence[int]) -> tuple[int, Conv]:
    """Groups and geometry of a convolution, real or quantised, with a weight of the shape ``weight``.

    Raises:
        ModelError: Attributes, input and weight do not fit each other.
        StaysDigital: A crossbar does not hold it.
    """
    if len(weight) < 3:
        site.refuse(f"its weight has {len(weight)} axes, it must have 3 or more")
    outputs, channels, *kernel = weight
    groups = groups_of(node, site, outputs)
    check_channels(node, site, channels * groups, len(kernel))
    refuse_depthwise(groups, channels, prod(kernel), site)
    geometry = Conv(**window(node, kernel, site))
    if geometry.auto_pad.startswith("SAME") and max(geometry.dilations) > 1:
        raise StaysDigital(f"auto_pad {geometry.auto_pad} with dilations {list(geometry.dilations)}")
    return groups, geometry


def groups_of(node: ir.Node, site: Site, channels: int) -> int:
    """The attribute ``group``, which divides ``channels``."""
    groups = node.attributes.get_int("group", 1)
    if groups < 1 or channels % groups:
        site.refuse(f"{groups} groups do not divide the {channels} channels of its weight")
    return groups


def check_channels(node: ir.Node, site: Site, channels: int, rank: int) -> None:
    """Refuse an activation that is known to have other channels, or another rank.

    Raises:
        ModelError: It has.
    """
    x = node.inputs[0]
    if x is None or x.shape is None:
        return
    found = x.shape[1] if len(x.shape) == 2 + rank else None
    if len(x.shape) != 2 + rank or (isinstance(found, int) and found != channels):
        shape = ", ".join(str(d) for d in x.shape)
        site.refuse(f"its input '{x.name}' has the shape [{shape}], its weight takes {channels} channels and {rank} spatial axes")


def window(node: ir.Node, kernel: Sequence[int], site: Site | None = None) -> dict[str, Any]:
    """Fields of a windowed geometry, with ONNX's defaults.

    Raises:
        StaysDigital: They are no plain windows.
    """
    rank = len(kernel)
    named = node.attributes.get_ints("kernel_shape")
    if site is not None and named and list(named) != list(kernel):
        site.refuse(f"its kernel_shape {list(named)} is not that of its weight, {list(kernel)}")
    pads = node.attributes.get_ints("pads") or [0] * (2 * rank)
    if min(pads, default=0) < 0:
        raise StaysDigital(f"negative pads {list(pads)}")
    for name, count in (("strides", rank), ("dilations", rank), ("pads", 2 * rank)):
        sizes = node.attributes.get_ints(name) or [1] * count
        if len(sizes) != count or min(sizes) < (0 if name == "pads" else 1):
            raise StaysDigital(f"{name} {list(sizes)} for a kernel of {rank} axes")
        if max(sizes) > MOST_STEP:
            raise StaysDigital(f"{name} {list(sizes)}, of more than {MOST_STEP}")
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
    node: ir.Node, site: Site, outputs: int, rank: int, product: Callable[[ir.Value, ir.Value | None], ir.Value]
) -> Sequence[ir.Value]:
    """The product with its bias, one an output channel; a bias computed at run time is added digitally.

    Raises:
        ModelError: The bias has another shape than ``[outputs]``.
        StaysDigital: A digital bias would need an Add that broadcasts, or its shape is not known.
    """
    x = node.inputs[0]
    if x is None:
        raise StaysDigital("it has no input")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    site.need_shape(bias, (outputs,), "bias")
    if bias is None or is_constant(bias):
        return [product(x, bias)]
    if site.opset < 7:
        raise StaysDigital(f"its bias '{bias.name}' is computed at run time, and Add does not broadcast at opset {site.opset}")
    y = product(x, None)
    (spread,) = site.op("Reshape", [bias, site.constant(np.array([-1] + [1] * rank, np.int64), "bias_shape")], "spread_bias")
    return site.op("Add", [y, spread], "add_bias")
