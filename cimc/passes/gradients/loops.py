"""What repeats or branches at run time has no gradient; the refusal says how to have it written out.

A recurrent node of a static length is unrolled by ``select``, products on crossbars and gates digital, and these have rules.
Here come only those that were left as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from cimc.errors import ModelError
from cimc.passes.gradients.tape import describe

_CONTROL = {
    "Loop": ("its body may run any number of times", "export the model with a fixed number of steps, written out"),
    "Scan": ("its body may run any number of times", "export the model with a fixed number of steps, written out"),
    "If": ("which of its branches runs is decided at run time", "export the model with the branch that is to train"),
}


def refuse_loops(nodes: Iterable[ir.Node]) -> None:
    """Refuse the first of ``nodes`` that loops or branches; what follows it often has no known shape either.

    Raises:
        ModelError: There is one. It is named, with why it was not written out and what to do.
    """
    for node in nodes:
        if node.op_type in ("LSTM", "GRU", "RNN"):
            what, fix = _recurrent(node)
        elif node.op_type in _CONTROL:
            what, fix = _CONTROL[node.op_type]
        else:
            continue
        fix = f"{fix}; or freeze its weights and all layers before it"
        raise ModelError(f"no gradient: {what}", where=describe(node), fix=fix)


def _recurrent(node: ir.Node) -> tuple[str, str]:
    """Why ``select`` left a recurrent node, as far as the node itself tells."""
    x, lengths = node.inputs[0], node.inputs[4] if len(node.inputs) > 4 else None
    axis = 1 if node.attributes.get_int("layout", 0) else 0
    steps = x.shape[axis] if x is not None and x.shape is not None else None
    if not isinstance(steps, int):
        return (
            "the length of its sequence is dynamic, so it is not unrolled",
            "export the model with a fixed length; the batch may stay symbolic",
        )
    if lengths is not None and ir.convenience.get_const_tensor(lengths) is None:
        return (
            f"its lengths '{lengths.name}' are known only at run time, so it is not unrolled",
            f"export the model without lengths, all sequences padded to {steps} steps",
        )
    return (
        f"it is not unrolled over its {steps} steps (cimc inspect --nodes says why)",
        f"compile with --set mapping.max_unroll={steps}, and keep its weights constants of the model",
    )
