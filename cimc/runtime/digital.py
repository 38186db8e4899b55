"""The SoC's digital unit: ONNX Runtime, a session for each segment."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from cimc.errors import DataError, RunError
from cimc.ir.onnx_io import reason, session
from cimc.ir.program import DigitalStep, Program
from cimc.runtime.thread_order import ThreadOrder
from cimc.threads import threads

#: One value between steps: an array, a list (sequence), or None (an empty optional).
Value = Any

#: Operators whose work is not told by the size of what they read.
_PRODUCTS = ("Conv", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN")
_QUANTISING = ("QuantizeLinear", "QLinear", "Integer")
#: Bytes that a segment without them reads, up to which a second thread costs more, to wake and to wait for, than it does.
_SMALL = 1 << 22


class Segment:
    """A digital step, ready to run; its sessions are made when it first wants them."""

    def __init__(self, program: Program, step: DigitalStep) -> None:
        self._program, self._step = program, step
        self._model = program.tensors[f"segment/{step.name}"]
        self._inputs, self._outputs = step.inputs, list(step.outputs)
        self._sessions: dict[int, Any] = {}
        self._joins: list[bool] | None = None

    def run(self, values: Mapping[str, Value], images: int | None = None) -> list[Value]:
        """The step's outputs, in its order.

        Args:
            values: Of all of the step's inputs.
            images: If given, the segment runs image by image along the first axis of every input that has this many. Outputs
                that are not the images' along their first axis (a scalar, a list) are those of a run of the whole batch.

        Raises:
            RunError: ONNX Runtime refused the segment or failed in it.
            DataError: A graph input has a shape or type that the model does not take.
        """
        feeds = {name: values[name] for name in self._inputs}
        if images is None or images < 2:
            return self._run(feeds)
        batched = {name for name, value in feeds.items() if isinstance(value, np.ndarray) and value.ndim and len(value) == images}
        parts = [
            self._run({name: value[i : i + 1] if name in batched else value for name, value in feeds.items()})
            for i in range(images)
        ]
        columns = [list(column) for column in zip(*parts, strict=True)]
        if self._joins is not None and all(self._joins):
            return [np.concatenate(column) for column in columns]
        whole = self._run(feeds)
        if self._joins is None:
            self._joins = [_joins(column, value) for column, value in zip(columns, whole, strict=True)]
        return [np.concatenate(c) if joins else value for c, value, joins in zip(columns, whole, self._joins, strict=True)]

    def _run(self, feeds: Mapping[str, Value]) -> list[Value]:
        try:
            outputs: list[Value] = self._session(feeds).run(self._outputs, feeds)
        except Exception as error:  # ONNX Runtime has a class of its own for every status code
            inputs = {value.name for value in self._program.inputs}
            if inputs & feeds.keys() and type(error).__name__ in ("InvalidArgument", "ValueError", "TypeError"):
                raise DataError(reason(error), where=f"inputs {', '.join(sorted(inputs & feeds.keys()))}") from error
            raise RunError(reason(error), where=f"digital step {self._step.name}") from error
        return outputs

    def _session(self, feeds: Mapping[str, Value]) -> Any:
        """One of one thread, or of all threads where that pays and changes no byte of the outputs."""
        small = self._light and sum(getattr(value, "nbytes", 0) for value in feeds.values()) <= _SMALL
        shapes = {name: value.shape for name, value in feeds.items() if isinstance(value, np.ndarray)}
        number = 1 if small or threads() == 1 or not self._order.same_on_any(shapes) else threads()
        if number not in self._sessions:
            optimise = not _quantises(self._parsed)
            made = session(self._model.tobytes(), self._program.initializers(), optimise=optimise, threads=number)
            self._sessions[number] = made
        return self._sessions[number]

    @cached_property
    def _parsed(self) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(self._model.tobytes())

    @cached_property
    def _order(self) -> ThreadOrder:
        return ThreadOrder(self._parsed)

    @cached_property
    def _light(self) -> bool:
        return _is_light(self._parsed)


def _joins(parts: list[Value], whole: Value) -> bool:
    """Whether an output of single images, joined along the first axis, has the shape of the whole batch's."""
    if not isinstance(whole, np.ndarray) or not whole.ndim or any(part.ndim != whole.ndim for part in parts):
        return False
    return sum(map(len, parts)) == len(whole) and all(part.shape[1:] == whole.shape[1:] for part in parts)


def _quantises(model: onnx.ModelProto) -> bool:
    """Whether it holds integers of quantised values: rewrites of ONNX Runtime's optimiser would move some of them by one."""
    return any(word in node.op_type for node in model.graph.node for word in _QUANTISING)


def _is_light(model: onnx.ModelProto) -> bool:
    """Whether each node takes a time in proportion to what it reads; of bodies and unknown operators nobody knows."""
    return not model.functions and all(
        node.domain in ("", "ai.onnx")
        and not any(word in node.op_type for word in _PRODUCTS)
        and not any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
        for node in model.graph.node
    )
