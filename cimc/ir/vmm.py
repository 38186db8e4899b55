"""Reading a ``cimc::Vmm`` node of the graph stages."""

from __future__ import annotations

import onnx_ir as ir
from pydantic import TypeAdapter

from cimc.ir.dialect import DOMAIN
from cimc.ir.geometry import Conv, ConvTranspose, Dense, Geometry, WeightView
from cimc.ir.records import InputCoding, Layer, Repeats

_GEOMETRY: TypeAdapter[Dense | Conv | ConvTranspose] = TypeAdapter(Geometry)


def is_vmm(node: ir.Node) -> bool:
    """Whether the node is a crossbar product."""
    return node.domain == DOMAIN and node.op_type == "Vmm"


def geometry_of(node: ir.Node) -> Dense | Conv | ConvTranspose:
    """The geometry of a ``Vmm``."""
    return _GEOMETRY.validate_json(node.attributes.get_string("geometry") or "")


def view_of(node: ir.Node) -> WeightView:
    """The weight view of a ``Vmm``."""
    weight = node.inputs[1]
    groups, rows, columns = node.attributes.get_ints("view_shape") or (0, 0, 0)
    return WeightView(
        tensor=(weight.name if weight is not None else None) or "",
        index=tuple(node.attributes.get_ints("view_index") or ()),
        split=tuple(node.attributes.get_ints("view_split") or ()),
        perm=tuple(node.attributes.get_ints("view_perm") or ()),
        shape=(groups, rows, columns),
    )


def repeats_of(node: ir.Node) -> Repeats:
    """How often the matrix of a ``Vmm`` lies on its crossbars, and is read."""
    rows, columns, reads = node.attributes.get_ints("repeats") or (1, 1, 1)
    return Repeats(rows=rows, columns=columns, reads=reads)


def layer_of(node: ir.Node) -> Layer:
    """The layer of a ``Vmm``, as far as the passes before have described it."""
    attributes = node.attributes
    return Layer(
        name=attributes.get_string("layer") or "",
        weight=view_of(node),
        channel_rows=attributes.get_int("channel_rows", 1),
        group_packing=attributes.get_int("group_packing", 1),
        repeats=repeats_of(node),
        weight_error=attributes.get_float("weight_error", None),
        coding=InputCoding(
            gain=attributes.get_float("input_gain", 1.0),
            signed=bool(attributes.get_int("input_signed", 1)),
            full_scale=attributes.get_float("input_full_scale", None),
            basis=attributes.get_string("input_basis", ""),
            clip_share=attributes.get_float("input_clip_share", 0.0),
        ),
    )
