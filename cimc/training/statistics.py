"""Batch statistics want more than one value: a batch of one image may leave a BatchNormalization with one a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import DataError
from cimc.ir.expand import expand
from cimc.ir.onnx_io import join, session, split
from cimc.ir.program import Program, UpdateStep


def check_statistics(program: Program, training: Program, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a batch of one image if a BatchNormalization that uses batch statistics would see one value a channel.

    Their deviation is 0, so the layer would pass on its bias alone. PyTorch refuses such a batch too.

    Args:
        program: For inference; it is run up to these nodes, as only that tells sizes that the graph leaves open.
        training: Its training step.
        inputs: Arrays by input name, images along the first axis.

    Raises:
        DataError: There is such a node.
    """
    held = {s.parameter for s in training.steps if isinstance(s, UpdateStep) and s.action == "assign"}
    if not held or any(len(array) != 1 for array in inputs.values()):
        return
    model = expand(join(program.tensors["graph"].tobytes(), program.initializers()))
    nodes = [
        n for n in model.graph if n.op_type == "BatchNormalization" and held & {v.name for v in n.inputs[3:5] if v is not None}
    ]
    small, tensors = split(model)
    names = [str(n.inputs[0].name) for n in nodes if n.inputs[0] is not None]
    try:
        values = session(small, tensors, outputs=names).run(None, dict(inputs))
    except Exception:  # ONNX Runtime has a class for every status; the step itself says why the model does not run on this
        return
    alone = [str(node.name) for node, x in zip(nodes, values, strict=True) if np.size(x) == np.shape(x)[1]]
    if alone:
        raise DataError(
            f"a batch of one image: BatchNormalization {', '.join(alone)} has one value a channel, which has no statistics",
            where="data",
            fix="another batch_size, or leave the odd image out (DataLoader(drop_last=True)), or freeze the normalisation",
        )
