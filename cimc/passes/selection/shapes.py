"""Shapes for the selection rules: what inference and declarations tell together, and those of a ``Vmm``'s output."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import onnx
import onnx_ir as ir

from cimc.ir.dialect import DOMAIN
from cimc.ir.expand import expand
from cimc.ir.geometry import Conv, ConvTranspose, Dense, WeightView
from cimc.ir.onnx_io import outline, session, split, told_type
from cimc.ir.vmm import is_vmm

Dims = tuple[int | None, ...]
#: With the names of symbolic sizes.
NamedDims = tuple[int | str | None, ...]

#: Element type and sizes of a tensor, as far as they are known.
Known = tuple[ir.DataType | None, NamedDims | None]

#: How ONNX's inference names a size that it does not know.
_UNKNOWN = "unk__"
log = logging.getLogger(__name__)


def infer_shapes(model: ir.Model, values: Iterable[ir.Value | None] | None = None) -> None:
    """Find element types and sizes of the main graph's values; what nobody can tell stays unknown.

    Sources, in this order: ONNX's inference from the inputs alone; what the values say already (``value_info``), where the
    inference knows less; ONNX Runtime's inference, for operators that ONNX has none for (function operators, other domains).
    A declaration never overrides what follows from the inputs: it may be older than they are. Weights are not copied.

    Args:
        model: Changed in place.
        values: Run only if one of these has an unknown size; None: in any case.
    """
    made = {str(value.name): value for node in model.graph for value in node.outputs if value.name}
    if values is not None and all(value is None or _is_known(_told(value)) for value in values):
        return
    proto = outline(model)
    # The products of the dialect have no inference; what select and training wrote of them is certain.
    certain = {str(o.name): _told(o) for node in model.graph if node.domain == DOMAIN for o in node.outputs if o.name}
    declared = {name: _told(value) for name, value in made.items()}
    known = _inferred(proto, certain)
    merged = _merged(known, declared)
    if any(_is_more(merged[name], known.get(name)) for name in made if name in merged):
        known = merged = _merged(_inferred(proto, merged), declared)
    if missing := [name for name in made if merged.get(name, (None, None))[1] is None or merged[name][0] is None]:
        told = _merged(merged, _by_onnx_runtime(model, missing))
        if any(_is_more(told[name], merged.get(name)) for name in told):
            merged = _merged(_inferred(proto, told), told)
    for name, (dtype, dims) in merged.items():
        value = made.get(name)
        if value is None:
            continue
        if dtype is not None and value.dtype is None:
            value.dtype = dtype
        if dims is not None and (value.shape is None or named_dims(value.shape) != dims):
            value.shape = ir.Shape(dims)


def _told(value: ir.Value) -> Known:
    return value.dtype, None if value.shape is None else named_dims(value.shape)


def _is_known(known: Known) -> bool:
    """Whether type and rank are known, and every size has a number or the name that the model gave it."""
    dtype, dims = known
    return dtype is not None and dims is not None and not any(map(_is_open, dims))


def _is_open(dim: int | str | None) -> bool:
    return dim is None or (isinstance(dim, str) and dim.startswith(_UNKNOWN))


def _merge(first: Known | None, second: Known | None) -> Known:
    """What the first knows, and what only the second does."""
    if first is None or second is None:
        return first or second or (None, None)
    (dtype, dims), (other_dtype, other) = first, second
    if dims is None:
        # A name that another inference made up means nothing here.
        dims = None if other is None else tuple(None if _is_open(d) else d for d in other)
    elif other is not None and len(other) == len(dims):
        dims = tuple(b if _is_open(a) and not _is_open(b) else a for a, b in zip(dims, other, strict=True))
    return dtype or other_dtype, dims


def _merged(first: Mapping[str, Known], second: Mapping[str, Known]) -> dict[str, Known]:
    return {name: _merge(first.get(name), second.get(name)) for name in first.keys() | second.keys()}


def _is_more(now: Known, before: Known | None) -> bool:
    return _merge(before, now) != (before or (None, None))


def _inferred(proto: onnx.ModelProto, given: Mapping[str, Known]) -> dict[str, Known]:
    """By ONNX's inference, which is told what is given of some values."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    outputs = {value.name for value in proto.graph.output}
    del proto.graph.value_info[:]
    for name, (dtype, dims) in given.items():
        if dtype is not None and name not in outputs:
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, dtype.value, dims))
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as error:
        log.debug("shape inference: %s", error)
        return dict(given)
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        tensor = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            continue
        dims = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)
        kind = ir.DataType(tensor.elem_type) if tensor.elem_type else None
        found[value.name] = kind, dims if tensor.HasField("shape") else None
    return found


def _by_onnx_runtime(model: ir.Model, names: list[str]) -> dict[str, Known]:
    """By ONNX Runtime's inference; nothing where the graph holds operators of a training step, which it does not know."""
    if any(node.domain == DOMAIN and not is_vmm(node) for node in model.graph):
        return {}
    try:
        told = session(*split(expand(model)), outputs=names).get_outputs()
    except Exception as error:  # it has a class of its own for every status code
        log.debug("ONNX Runtime's shape inference: %s", error)
        return {}
    # It tells a scalar and an unknown rank by the same empty list.
    types = {o.name: (told_type(o.type), tuple(o.shape) or None) for o in told}
    return {name: (kind.dtype, dims) for name, (kind, dims) in types.items() if isinstance(kind, ir.TensorType)}


def named_dims(shape: ir.Shape) -> NamedDims:
    """Sizes of a shape: a number, the name of a symbolic size, or None."""
    return tuple(d if isinstance(d, int) else d.value for d in shape)


def output_dims(geometry: Dense | Conv | ConvTranspose, dims: NamedDims, view: WeightView) -> NamedDims | None:
    """Sizes of a product's output, by name or None where dynamic; None altogether where spatial sizes are.

    Names matter in training: gradients know from them that nothing was broadcast.
    """
    groups, _, columns = view.shape
    if isinstance(geometry, Dense):
        full = tuple(dims[a] for a in geometry.input_perm[: geometry.kept]) + geometry.output_dims
        return tuple(full[a] for a in geometry.output_perm)
    spatial = [d for d in dims[2:] if isinstance(d, int)]
    if len(spatial) != len(geometry.kernel_shape):
        return None
    shape = (0, 0, *spatial)
    if isinstance(geometry, Conv):
        return (dims[0], *geometry.output_shape(shape, groups * columns)[1:])
    channels = groups * columns
    for size in geometry.kernel_shape:
        channels //= size
    return (dims[0], *geometry.output_shape(shape, channels)[1:])
