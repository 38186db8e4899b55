"""Transposed convolutions: every input pixel is a position, its outputs are overlap-added digitally."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.ir.geometry import ConvTranspose
from cimc.passes.selection.conv import refuse_depthwise, window, with_bias
from cimc.passes.selection.registry import rule
from cimc.passes.selection.site import Site, StaysDigital


@rule("ConvTranspose", weights=(1,))
def conv_transpose(node: ir.Node, site: Site) -> Sequence[ir.Value]:
    """``W [C, M/g, *k]`` as ``[g, C/g, M/g * prod(k)]``; the bias, one an output channel, follows the overlap-add."""
    weight = site.weight(node, 1)
    channels, outputs, *kernel = weight.shape
    groups = node.attributes.get_int("group", 1)
    refuse_depthwise(groups, channels // groups, 1, site)
    split = weight.reshape([groups, channels // groups, outputs, *kernel])
    if split is None:
        raise StaysDigital(f"its weight cannot be cut to {groups} groups where it lies")
    rank = len(kernel)
    explicit = node.attributes.get_ints("output_shape")
    geometry = ConvTranspose(
        **window(node, kernel),
        output_padding=tuple(node.attributes.get_ints("output_padding") or [0] * rank),
        explicit_output=tuple(explicit)[-rank:] if explicit else None,
    )
    view = split.view([0], [1], range(2, 3 + rank))
    return with_bias(node, site, rank, lambda x, bias: site.vmm(x, split, view, geometry, bias=bias))
