"""A product of an activation and a constant over labelled axes: what MatMul and Einsum have in common."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.ir.geometry import Dense
from cimc.passes.selection.operand import Operand
from cimc.passes.selection.site import Site, SizeUnknown, StaysDigital


def contract(
    site: Site,
    x: ir.Value,
    x_labels: Sequence[str],
    weight: Operand,
    w_labels: Sequence[str],
    output: Sequence[str],
) -> ir.Value:
    """The product as a ``Vmm``.

    A label of both operands and the output is a group, one of both but not the output is summed over, one of X alone makes
    positions, one of W alone makes columns. An axis of size 1 broadcasts: in W it is left out, in X it becomes a row axis
    of size 1 and W's axis makes columns.

    Raises:
        StaysDigital: The axes are no such product, or X's sizes do not tell.
    """
    dims = site.dims(x)
    if len(dims) != len(x_labels) or len(weight.axes) != len(w_labels):
        raise StaysDigital("its equation does not fit the ranks of its operands")
    if len(set(x_labels)) < len(x_labels) or len(set(w_labels)) < len(w_labels):
        raise StaysDigital("a label repeats within one operand (a diagonal)")
    x_axis = {label: a for a, label in enumerate(x_labels)}
    w_axis = {label: a for a, label in enumerate(w_labels)}
    w_shape = weight.shape
    if summed := [label for label in x_labels if label not in w_axis and label not in output]:
        raise StaysDigital(f"axis '{summed[0]}' of the activation is summed over alone")
    if summed := [label for label in w_labels if label not in x_axis and label not in output and w_shape[w_axis[label]] != 1]:
        raise StaysDigital(f"axis '{summed[0]}' of the weight is summed over alone")

    kept, groups, columns, column_sizes = [], [], [], []
    dropped = []  # axes of X of size 1 that broadcast against W
    for label in output:
        size = w_shape[w_axis[label]] if label in w_axis else 1
        if label not in x_axis:
            columns.append(label)
            column_sizes.append(size)
        elif size == 1:
            kept.append(label)
        elif dims[x_axis[label]] == 1:
            dropped.append(label)
            columns.append(label)
            column_sizes.append(size)
        elif dims[x_axis[label]] is None:
            raise SizeUnknown(
                f"whether axis {x_axis[label]} of '{x.name}' broadcasts is not known before it runs{site.remedy(x)}"
            )
        else:
            groups.append(label)
    rows = [label for label in x_labels if label in w_axis and label not in output]
    if broadcast := [label for label in [*rows, *groups] if _mismatch(dims[x_axis[label]], w_shape[w_axis[label]])]:
        raise StaysDigital(f"the axis '{broadcast[0]}' broadcasts, or its sizes differ")
    if len(rows) > 1 and (unknown := [label for label in rows if dims[x_axis[label]] is None]):
        raise StaysDigital(f"the size of the summed axis '{unknown[0]}' is not known before it runs")
    order = [*kept, *groups, *columns]
    geometry = Dense(
        input_perm=tuple(x_axis[label] for label in [*kept, *groups, *dropped, *rows]),
        kept=len(kept),
        output_dims=(*(w_shape[w_axis[label]] for label in groups), *column_sizes),
        output_perm=tuple(order.index(label) for label in output),
    )
    view = weight.view(
        [w_axis[label] for label in groups],
        [w_axis[label] for label in rows],
        [w_axis[label] for label in columns if label in w_axis],
    )
    return site.vmm(x, weight, view, geometry)


def _mismatch(x_size: int | None, w_size: int) -> bool:
    return x_size is not None and x_size != w_size
