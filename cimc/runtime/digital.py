"""The SoC's digital unit: ONNX Runtime, a session for each segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cimc.errors import DataError, RunError
from cimc.ir.onnx_io import session
from cimc.ir.program import DigitalStep, Program

#: One value between steps: an array, a list (sequence), or None (an empty optional).
Value = Any


class DigitalUnit:
    """Executes digital steps; makes a segment's session when it first runs."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._sessions: dict[str, Any] = {}

    def run(self, step: DigitalStep, values: Mapping[str, Value], images: int | None = None) -> list[Value]:
        """The outputs of ``step``, in its order.

        Args:
            values: Of all of the step's inputs.
            images: If given, the segment runs image by image along the first axis of every input that has this many.

        Raises:
            RunError: ONNX Runtime refused the segment or failed in it.
            DataError: A graph input has a shape or type that the model does not take.
        """
        feeds = {name: values[name] for name in step.inputs}
        if images is None or images < 2:
            return self._run(step, feeds)
        batched = {name for name, value in feeds.items() if isinstance(value, np.ndarray) and value.ndim and len(value) == images}
        parts = [
            self._run(step, {name: value[i : i + 1] if name in batched else value for name, value in feeds.items()})
            for i in range(images)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run(self, step: DigitalStep, feeds: Mapping[str, Value]) -> list[Value]:
        try:
            runner = self._session(step)
            outputs: list[Value] = runner.run(list(step.outputs), feeds)
        except Exception as error:  # ONNX Runtime has a class of its own for every status code
            inputs = {value.name for value in self._program.inputs}
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            if inputs & feeds.keys() and type(error).__name__ in ("InvalidArgument", "ValueError", "TypeError"):
                raise DataError(reason, where=f"inputs {', '.join(sorted(inputs & feeds.keys()))}") from error
            raise RunError(reason, where=f"digital step {step.name}") from error
        return outputs

    def _session(self, step: DigitalStep) -> Any:
        if step.name not in self._sessions:
            segment = self._program.tensors[f"segment/{step.name}"].tobytes()
            self._sessions[step.name] = session(segment, self._program.initializers(), optimise=True)
        return self._sessions[step.name]
