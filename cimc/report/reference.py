"""The float model that ONNX Runtime runs beside a chip, told apart from a model of another network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from cimc.compiler import Model
from cimc.errors import DataError
from cimc.ir.onnx_io import reason, session, split
from cimc.ir.seeds import fix_seeds

_FIX = "give the ONNX file that the program was compiled from"


def named(model: Model | None) -> str:
    """What messages call a model."""
    return str(model) if isinstance(model, str | Path) else "the reference model"


class Reference:
    """One model, ready to run; its random operators draw the same in each process.

    Args:
        model: As `cimc.frontend.load` gives it; it is changed.
        where: What messages call it.
        inputs: Names that it will be given.
        outputs: Names of the program's outputs, which it must have.
        also: Names of other values; those that the model has are returned too.
        bound: Values of inputs that are given at each run where the model has them.

    Raises:
        DataError: It has other inputs or outputs.
    """

    def __init__(
        self,
        model: ir.Model,
        where: str,
        inputs: Collection[str],
        outputs: Sequence[str],
        also: Sequence[str] = (),
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        graph, self._where = model.graph, where
        taken = {str(value.name): not value.is_initializer() for value in graph.inputs}
        self._bound = {name: value for name, value in (bound or {}).items() if name in taken}
        given = {str(value.name) for value in graph.outputs}
        told = [f"no output {name}" for name in outputs if name not in given]
        told += [f"no input {name}" for name in inputs if name not in taken and name not in graph.initializers]
        needed = [name for name, own in taken.items() if own and not _optional(graph, name)]
        told += [f"an input {name}" for name in needed if name not in inputs and name not in self._bound]
        if told:
            raise DataError(f"this is the model of another network: it has {', '.join(told[:3])}", where=self._where, fix=_FIX)
        known = {str(value.name): value for node in graph for value in node.outputs if value.name}
        extra = [name for name in dict.fromkeys(also) if name in known and name not in given]
        graph.outputs.extend(known[name] for name in extra)
        self._names = [*(str(value.name) for value in graph.outputs[: len(graph.outputs) - len(extra)]), *extra]
        fix_seeds(model)
        self._session = session(*split(model), optimise=True)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Its outputs and the other values, by name.

        Raises:
            DataError: It does not take these inputs.
        """
        try:
            values = self._session.run(self._names, self._bound | dict(inputs))
        except Exception as error:  # ONNX Runtime has a class of its own for every status code
            what = f"ONNX Runtime does not run the model on the program's inputs: {reason(error)}"
            raise DataError(what, where=self._where, fix=_FIX) from error
        return dict(zip(self._names, values, strict=True))


def same_shape(name: str, reference: Any, value: Any) -> None:
    """Raises DataError where a value of the model has another shape than the chip's."""
    if np.shape(reference) != np.shape(value):
        what = f"this is the model of another network: {name} has shape {np.shape(reference)}, on the chip {np.shape(value)}"
        raise DataError(what, where="the reference model", fix=_FIX)


def _optional(graph: ir.Graph, name: str) -> bool:
    return any(value.name == name and isinstance(value.type, ir.OptionalType) for value in graph.inputs)
