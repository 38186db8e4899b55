"""A program's graph as plain ONNX for another compilation, which finds the same layers in it under the same names.

`Program.to_onnx` writes each product with a weight of its own. Here products of one layer share one again, as an unrolled
recurrent cell has them, so that the layer is placed once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.cells import weight_indices
from cimc.ir.expand import expand
from cimc.ir.names import Names
from cimc.ir.onnx_io import join
from cimc.ir.program import Program
from cimc.ir.vmm import is_vmm
from cimc.passes.selection.placement import OWNER, all_nodes

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def portable(program: Program, held: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The graph with the program's weights.

    Args:
        program: Compiled.
        held: Other weights by layer, ``[groups, rows, columns]``.
    """
    model = join(program.tensors["graph"].tobytes(), program.initializers())
    for name, array in _weights(program, held).items():
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    vmms = {str(node.name): node for node in model.graph if is_vmm(node)}
    expanded = expand(model)
    first: dict[str, ir.Value] = {}
    for node in expanded.graph:
        old = vmms.get(str(node.name).rpartition("/")[0])
        if old is None or node.op_type not in _PRODUCTS:
            continue
        node.name = old.name
        weight = cast(ir.Value, node.inputs[1])
        shared = first.setdefault(old.attributes.get_string("layer") or "", weight)
        if shared is weight:
            name = str(cast(ir.Value, old.inputs[1]).name)
            if name not in expanded.graph.initializers:
                weight.name = name
        elif _same(shared, weight):
            node.replace_input_with(1, shared)
            del expanded.graph.initializers[str(weight.name)]
    _rename(expanded, vmms)
    for one in all_nodes(expanded):  # to the other compilation these are the user's nodes
        one.metadata_props.pop(OWNER, None)
    proto: onnx.ModelProto = ir.to_proto(expanded)
    return proto


def _rename(model: ir.Model, vmms: Mapping[str, ir.Node]) -> None:
    """Give what `expand` made names of its own, so that the next expansion finds its names free."""
    values = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    names = Names((one.name for one in (*values, *model.graph.inputs, *model.graph)), sign=".")
    for value in values:
        if str(value.name).startswith("cimc/"):
            value.name = names.fresh(str(value.name).removeprefix("cimc/").replace("/", "."))
    for node in model.graph:
        if str(node.name).rpartition("/")[0] in vmms:
            node.name = names.fresh(str(node.name).replace("/", "."))


def _weights(program: Program, held: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Initializers of all layers; small ones stand in the graph as well, where a training may have left them behind."""
    changed: dict[str, NDArray[Any]] = {}
    for layer in program.layers:
        name = layer.weight.tensor
        tensor = changed.setdefault(name, np.array(program.tensors[f"initializer/{name}"]))
        if layer.name in held:
            indices, own = weight_indices(layer.once, tensor.shape), layer.repeats.averaged(held[layer.name])
            tensor.reshape(-1)[indices[indices >= 0]] = own[indices >= 0]
    return changed


def _same(one: ir.Value, other: ir.Value) -> bool:
    a, b = (cast(ir.TensorProtocol, value.const_value).numpy() for value in (one, other))
    return a.dtype == b.dtype and np.array_equal(a, b)
