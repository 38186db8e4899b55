"""cimc as an ONNX backend: ``onnx.backend.base.Backend`` on the ideal target.

Models whose weights are run-time inputs, as most cases of the official test suite are, would leave nothing to crossbars.
So the first run binds the weight operand of every product as a constant; a later run with other weights binds again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from cimc.arguments import array, checked
from cimc.compiler import compile_model
from cimc.errors import DataError
from cimc.ir.program import Program
from cimc.runtime.chip import Chip

#: Depthwise convolutions go to crossbars too: here it is coverage that counts, not area.
SETTINGS = {"mapping.depthwise": "analog"}

#: Positions of the operands that a crossbar would hold, and of the lengths of sequences, which it unrolls.
WEIGHT_OPERANDS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (1,),
    "Einsum": (1,),
    "LSTM": (1, 2, 3, 4),
    "GRU": (1, 2, 3, 4),
    "RNN": (1, 2, 3, 4),
}


class CimcRep(BackendRep):
    """A prepared model."""

    def __init__(self, model: onnx.ModelProto, target: str = "ideal") -> None:
        self._model = model
        self._target = target
        initializers = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [value.name for value in model.graph.input if value.name not in initializers]
        self._weights = _run_time_weights(model, {name for name in self._inputs if name not in _half_precision(model)})
        self._bound: dict[str, Any] = {}
        self._chip: Chip | None = None
        if not self._weights:
            self._chip = Chip(compile_model(model, target, settings=SETTINGS).need_program())

    @property
    def program(self) -> Program | None:
        """The compiled program; None before the first run of a model that has run-time weights."""
        return None if self._chip is None else self._chip.program

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Outputs in the model's order.

        Args:
            inputs: A sequence in the order of the model's inputs, a mapping by name, or one array.
        """
        feeds = self._feeds(inputs)
        chip = self._chip_for({name: feeds[name] for name in self._weights})
        outputs = chip.run({name: value for name, value in feeds.items() if name not in self._weights}, 0)
        return namedtupledict("Outputs", list(outputs))(*outputs.values())

    def _feeds(self, inputs: Any) -> dict[str, Any]:
        if isinstance(inputs, dict):
            return {name: _given(value, name) for name, value in inputs.items()}
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) > len(self._inputs):
            raise DataError(f"{len(given)} inputs for {len(self._inputs)}", fix=f"the inputs are {', '.join(self._inputs)}")
        feeds = {name: _given(value, name) for name, value in zip(self._inputs, given, strict=False)}
        if missing := [name for name in self._weights if name not in feeds]:
            raise DataError(f"no data for input {', '.join(missing)}", fix=f"the inputs are {', '.join(self._inputs)}")
        return feeds

    def _chip_for(self, weights: dict[str, Any]) -> Chip:
        if self._chip is None or any(not _same(value, self._bound[name]) for name, value in weights.items()):
            self._chip = Chip(compile_model(_bind(self._model, weights), self._target, settings=SETTINGS).need_program())
            self._bound = weights
        return self._chip


class CimcBackend(Backend):
    """Prepares models for the ideal target."""

    @classmethod
    @checked()
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> CimcRep:
        return CimcRep(model)

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def run_node(
        cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        arrays = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        names = [name for name in node.input if name]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, map(np.asarray, arrays), strict=True)
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = onnx.helper.make_graph([node], "node", values, outputs)
        opset = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, opset)])
        return cls.run_model(onnx.shape_inference.infer_shapes(model), arrays, device)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"


def _given(value: Any, name: str) -> Any:
    """An input's value; arrays as compiled code takes them."""
    return value if value is None or isinstance(value, list | tuple) else array(value, f"input {name}")


def _run_time_weights(model: onnx.ModelProto, inputs: set[str]) -> list[str]:
    """Inputs that weight operands come from, directly or through other nodes, and that no activation comes from."""
    sources: dict[str, set[str]] = {name: {name} for name in inputs}
    weights: dict[str, None] = {}
    activations = {value.name for value in model.graph.output}
    for node in model.graph.node:
        reached = [sources.get(name, set()) - weights.keys() for name in node.input]
        operands = WEIGHT_OPERANDS.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ()
        if operands:
            activations |= reached[0]
        for position in operands:
            if position < len(reached) and not reached[position] & activations:
                weights.update(dict.fromkeys(sorted(reached[position])))
        for name in node.output:
            # A shape is known before the data are.
            sources[name] = set() if node.op_type in ("Shape", "Size") else set().union(*reached) - weights.keys()
    return list(weights)


def _half_precision(model: onnx.ModelProto) -> set[str]:
    """Inputs of 16 bits: ONNX Runtime keeps float32 from one such node to the next, steps of a program round between."""
    half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return {value.name for value in model.graph.input if value.type.tensor_type.elem_type in half}


def _bind(model: onnx.ModelProto, weights: dict[str, Any]) -> onnx.ModelProto:
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    kept = [value for value in bound.graph.input if value.name not in weights]
    del bound.graph.input[:]
    bound.graph.input.extend(kept)
    bound.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items())
    return bound


def _same(a: Any, b: Any) -> bool:
    x, y = np.asarray(a), np.asarray(b)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


prepare = CimcBackend.prepare
run_model = CimcBackend.run_model
run_node = CimcBackend.run_node
supports_device = CimcBackend.supports_device
