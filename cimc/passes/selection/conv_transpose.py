"""Transposed convolutions: every input pixel is a position, its outputs are overlap-added digitally."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.ir.geometry import ConvTranspose
from cimc.passes.selection.conv import check_channels, groups_of, refuse_depthwise, window, with_bias
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("ConvTranspose", weights=(1,))
def conv_transpose(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``W [C, M/g, *k]`` as ``[g, C/g, M/g * prod(k)]``; the bias, one an output channel, follows the overlap-add."""
    weight = site.weight(node, 1)
    if len(weight.shape) < 3:
        site.refuse(f"its weight has {len(weight.shape)} axes, it must have 3 or more")
    channels, outputs, *kernel = weight.shape
    groups = groups_of(node, site, channels)
    check_channels(node, site, channels, len(kernel))
    refuse_depthwise(groups, channels // groups, 1, site)
    split = weight.reshape([groups, channels // groups, outputs, *kernel])
    if split is None:
        raise StaysDigital(f"its weight cannot be cut to {groups} groups where it lies")
    rank = len(kernel)
    fields = window(node, kernel, site)
    extra = tuple(node.attributes.get_ints("output_padding") or [0] * rank)
    most = [max(pair) for pair in zip(fields["strides"], fields["dilations"], strict=True)]
    if len(extra) != rank or any(not 0 <= e < m for e, m in zip(extra, most, strict=True)):
        site.refuse(f"its output_padding {list(extra)} is not below stride or dilation of each of {rank} axes")
    explicit = tuple(node.attributes.get_ints("output_shape") or ())
    if explicit and (len(explicit) not in (rank, rank + 2) or min(explicit) < 1):
        site.refuse(f"its output_shape {list(explicit)} is not {rank} positive sizes")
    geometry = ConvTranspose(**fields, output_padding=extra, explicit_output=explicit[-rank:] if explicit else None)
    view = split.view([0], [1], range(2, 3 + rank))
    return with_bias(node, site, groups * outputs, rank, lambda x, bias: site.vmm(x, split, view, geometry, bias=bias))
