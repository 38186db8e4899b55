"""Give digital 8-bit products unsigned weights: the same numbers, with a zero point that is larger by 128.

On x86 CPUs without VNNI, ONNX Runtime's kernels for unsigned activations and signed weights add pairs of products in 16 bits, and
a pair may saturate. For unsigned weights they add in 32 bits, so each CPU gives what the operator is defined to. Example::

    before  y = MatMulInteger (x, w, a)             w = int8 -127, 3, ...
    after   y = MatMulInteger (x, w.unsigned, a, z)   w.unsigned = uint8 1, 131, ...   z = 128
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from cimc.errors import VerifyError
from cimc.ir.names import Names
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_graph
from cimc.passes.fold import drop_unused
from cimc.passes.reasons import not_applied
from cimc.passes.selection.nodes import input_at
from cimc.passes.selection.operand import is_constant
from cimc.passes.selection.placement import OWNER, all_nodes

#: Slots of weights and of their zero points, by domain and operator.
_WEIGHTS: dict[tuple[str, str], tuple[tuple[int, int], ...]] = {
    ("", "MatMulInteger"): ((1, 3),),
    ("", "QLinearMatMul"): ((3, 5),),
    ("", "QLinearConv"): ((3, 5),),
    ("com.microsoft", "DynamicQuantizeLSTM"): ((1, 9), (2, 11)),
    ("com.microsoft", "DynamicQuantizeMatMul"): ((1, 3),),
    ("com.microsoft", "MatMulIntegerToFloat"): ((1, 5),),
    ("com.microsoft", "QAttention"): ((1, 7),),
    ("com.microsoft", "QGemm"): ((3, 5),),
}
#: These quantise their activations to unsigned numbers themselves.
_DYNAMIC = ("DynamicQuantizeLSTM", "DynamicQuantizeMatMul")


@dataclass(frozen=True)
class Unsigned(Pass):
    """Constant signed weights of products that `select` has left digital; see the module's text."""

    name: ClassVar[str] = "unsigned"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError after `lower`, or for an 8-bit product that is not known to stay digital yet."""
        need_graph(state)
        for node in all_nodes(state.model):
            row = state.placements.get(node.metadata_props.get(OWNER, node.name or ""))
            if _slots(node) and (row is None or not row.why):
                raise VerifyError(
                    "it is not decided yet where it runs", where=f"node '{node.name}'", fix="run pass `select` before"
                )

    def call(self, state: Compilation) -> Sequence[str]:
        graph, changed = state.model.graph, []
        names = Names(graph.initializers)
        made: dict[ir.Value | None, ir.Value] = {}
        for node in all_nodes(state.model):
            for weight_slot, zero_slot in _slots(node):
                weight, zero = input_at(node, weight_slot), input_at(node, zero_slot)
                if weight is None or weight.dtype != ir.DataType.INT8:
                    continue
                if not _fixed(weight, zero):
                    not_applied("given unsigned weights", node, "its weights or zero points are no constants")
                    continue
                node.resize_inputs(max(len(node.inputs), zero_slot + 1))
                for slot, value in ((weight_slot, weight), (zero_slot, zero)):
                    if value not in made:
                        made[value] = _raised(graph, value, names)
                    node.replace_input_with(slot, made[value])
                changed.append(str(node.name))
        drop_unused(graph, made)
        return list(dict.fromkeys(changed))

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where constant weights are signed still, or have zero points of another type."""
        for node in all_nodes(state.model):
            for weight, zero in ((input_at(node, w), input_at(node, z)) for w, z in _slots(node)):
                if weight is not None and _fixed(weight, zero) and ir.DataType.INT8 in (weight.dtype, zero and zero.dtype):
                    raise VerifyError("its weights are signed", where=f"after unsigned, node '{node.name}'")

    def unchanged(self, state: Compilation) -> str:
        """There is no such product; of those with computed weights the log says so."""
        return "no digital 8-bit product has constant signed weights"


def _fixed(weight: ir.Value, zero: ir.Value | None) -> bool:
    """Whether weights and zero points (None: 0) are constants."""
    return is_constant(weight) and (zero is None or is_constant(zero))


def _slots(node: ir.Node) -> tuple[tuple[int, int], ...]:
    """Slots of the weights and their zero points, if the activations are unsigned."""
    slots = _WEIGHTS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type), ())
    x = input_at(node, 0)
    return slots if node.op_type in _DYNAMIC or (x is not None and x.dtype == ir.DataType.UINT8) else ()


def _raised(graph: ir.Graph, value: ir.Value | None, names: Names) -> ir.Value:
    """A constant of bytes (None: 0) as an initializer of unsigned ones, each larger by 128."""
    tensor = None if value is None else value.const_value
    array = np.zeros((), np.int8) if tensor is None else tensor.numpy()
    name = names.fresh("cimc/zero" if value is None else f"{value.name}.unsigned")
    raised = ir.Tensor(array.view(np.uint8) ^ np.uint8(128), name=name)
    made = ir.Value(name=name, shape=raised.shape, type=ir.TensorType(ir.DataType.UINT8), const_value=raised)
    graph.register_initializer(made)
    return made
