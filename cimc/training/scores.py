"""Loss and accuracy of a model's outputs, for evaluation without a training step."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx_ir import from_proto

from cimc.errors import DataError
from cimc.ir.classes import Classes
from cimc.ir.onnx_io import reason, session, split
from cimc.ir.program import Program
from cimc.ir.seeds import fix_seeds

Array = NDArray[Any]

#: Share of the loss of a guess below which a model knows something.
_GUESS = 0.95
#: The opset from which on Softmax is of one axis, the last by default.
_SOFTMAX_OF_ONE_AXIS = 13


class Scores:
    """Of one loss, as `cimc.passes.training.losses.add_loss` takes it; a Softmax or Sigmoid that ends the model is part of it."""

    def __init__(self, loss: str, program: Program, classes: Classes | None = None) -> None:
        self.kind, _, name = loss.partition(":")
        self.output = name or program.outputs[0].name
        self._ends, _ = ending(program, self.output)
        self.classes = classes or Classes()
        """How labels lie; a trainer sets it once labels have come."""

    def loss(self, outputs: Mapping[str, Any], labels: Array | None) -> float:
        """Mean over the batch, in float64; NaN where every label is ignored."""
        y = np.asarray(outputs[self.output], np.float64)
        if self.kind == "model" or labels is None:
            return float(y.mean())
        if self.kind == "softmax_cross_entropy":
            if self._ends == "Softmax":
                y = np.log(np.maximum(y, 1e-38))
            axis = self._axis
            shifted = y - y.max(axis=axis, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
            if self.classes.soft:
                return float(-(logs * labels).sum(axis=axis).mean())
            judged = self._judged(labels)
            taken = np.take_along_axis(logs, np.expand_dims(np.where(judged, labels, 0), axis), axis=axis).squeeze(axis)
            return float(-taken[judged].mean()) if judged.any() else nan
        target = labels.astype(np.float64)
        if self.kind == "mse":
            return float(np.square(y - target).mean())
        if self._ends == "Sigmoid":
            p = np.clip(y, 1e-12, 1 - 1e-12)
            return float(-(target * np.log(p) + (1 - target) * np.log1p(-p)).mean())
        return float((np.logaddexp(0, y) - y * target).mean())

    def knows(self, program: Program, inputs: Mapping[str, Array], labels: Array | None) -> bool:
        """Whether the model, in floating point, does better than guessing; True where that cannot be told.

        Raises:
            DataError: It does not run on these data, as an embedding does not on an index beyond its table.
        """
        if self.kind != "softmax_cross_entropy" or labels is None:
            return True
        batch = program.inputs[0].shape[0] if program.inputs[0].shape else None
        if isinstance(batch, int):
            inputs, labels = {name: array[:batch] for name, array in inputs.items()}, labels[:batch]
        model = from_proto(program.to_onnx())
        fix_seeds(model)
        runner = session(*split(model), optimise=True)
        try:
            found = runner.run(None, dict(inputs))
        except Exception as error:  # ONNX Runtime has a class for every status
            what = f"the model does not run on them: {reason(error)}"
            raise DataError(what, where="data", fix="check ranges of indices") from error
        outputs = dict(zip([spec.name for spec in program.outputs], found, strict=True))
        return self.loss(outputs, labels) < _GUESS * log(np.asarray(outputs[self.output]).shape[self._axis])

    def right(self, outputs: Mapping[str, Any], labels: Array | None) -> tuple[int, int]:
        """How many predictions are right, of how many; 0 of 0 where the loss is no classification."""
        if self.kind != "softmax_cross_entropy" or labels is None:
            return 0, 0
        said = np.asarray(outputs[self.output]).argmax(axis=self._axis)
        if self.classes.soft:
            return int(np.count_nonzero(said == labels.argmax(axis=self._axis))), said.size
        judged = self._judged(labels)
        return int(np.count_nonzero((said == labels) & judged)), int(np.count_nonzero(judged))

    def counted(self, labels: Array | None, images: int) -> int:
        """What a batch's loss is the mean over: labels that are not ignored, or images."""
        hard = self.kind == "softmax_cross_entropy" and labels is not None and not self.classes.soft
        return int(np.count_nonzero(self._judged(labels))) if hard and labels is not None else images

    @property
    def _axis(self) -> int:
        return 1 if self.classes.axis is None else self.classes.axis

    def _judged(self, labels: Array) -> NDArray[np.bool_]:
        """Whether each label counts."""
        return labels != self.classes.ignore if self.classes.ignore is not None else np.ones(labels.shape, np.bool_)


def ending(program: Program, output: str) -> tuple[str, int]:
    """Operator that makes the output, and the axis of its classes: that of a Softmax or LogSoftmax, else 1."""
    import onnx

    model = onnx.ModelProto.FromString(program.tensors["graph"].tobytes())
    node = next((node for node in model.graph.node if output in node.output), None)
    if node is None or node.op_type not in ("Softmax", "LogSoftmax"):
        return ("" if node is None else node.op_type), 1
    opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    default = -1 if opset >= _SOFTMAX_OF_ONE_AXIS else 1
    return node.op_type, next((a.i for a in node.attribute if a.name == "axis"), default)
