"""``differentiate``: from an inference graph to a training step.

Example, a layer ``fc`` with the loss behind it::

    before  y = cimc.Vmm <layer = "fc", ...> (x, w)
    after   y = cimc.Vmm <layer = "fc", ...> (x, w)    ...    loss = SoftmaxCrossEntropyLoss (y, labels)    ...
            dx = cimc.VmmBackward <layer = "fc", ...> (dy, w, x)
            dw = cimc.Outer <layer = "fc", ...> (x, dy)
            w.updated = cimc.Update <layer = "fc"> (w, dw)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import onnx_ir as ir

from cimc.errors import CimcError, ModelError, VerifyError
from cimc.ir.dialect import DOMAIN, PLACE_ATTRIBUTES
from cimc.ir.vmm import is_vmm
from cimc.passes.base import Compilation, Pass
from cimc.passes.fold import CONSTANT, lift_constants
from cimc.passes.gradients.build import Backward, add_backward
from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.tape import FLOATS
from cimc.passes.gradients.term import Term
from cimc.passes.training.form import to_training_form
from cimc.passes.training.losses import Classes, add_loss
from cimc.passes.training.pools import pool_first, shorten_pools
from cimc.targets.transposed import transposed_target


@gradient("Vmm", domain=DOMAIN)
def _vmm(r: Rule) -> Sequence[Term | None]:
    """dX on the layer (or its digital copy), dW by outer products; straight through DAC, ADC and levels."""
    place: dict[str, Any] = {name: a.value for name in PLACE_ATTRIBUTES if (a := r.node.attributes.get(name)) is not None}
    dx = r.op("VmmBackward", r.dy, r.arg(1), r.x, domain=DOMAIN, **place) if r.needs(0) else None
    dw = r.op("Outer", r.x, r.dy, domain=DOMAIN, **place) if r.needs(1) else None
    for grad, like in ((dx, r.x), (dw, r.arg(1))):
        if grad is not None:
            grad.value.type, grad.value.shape = like.value.type, like.value.shape
    return [dx, dw]


@gradient("DropoutMask", domain=DOMAIN)
def _dropout_mask(r: Rule) -> Sequence[Term | None]:
    return [None]


@dataclass
class Differentiate(Pass):
    """Training form, loss, backward nodes, updates.

    Args:
        loss: As `add_loss` takes it.
        trainable: Patterns (``*``, ``?``, ``[...]``) of initializers or layers that train; none: all that may.
        frozen: Patterns of those that do not, whatever ``trainable`` says.
        backward: ``digital``: activations' gradients by the digital copy of the weights; ``analog``: on the transposed array.
        ste: ``pass``: gradients pass where the DAC saturates; ``clipped``: they are zero there.
        classes: How labels of a softmax cross-entropy lie.

    What may train: the weights of layers, and real initializers of the model. What was a constant of the model, or has rank 0
    (exporters write constants so), trains only where a pattern of ``trainable`` names it.
    """

    loss: str = "softmax_cross_entropy"
    trainable: Sequence[str] = ()
    frozen: Sequence[str] = ()
    backward: Literal["digital", "analog"] = "digital"
    ste: Literal["pass", "clipped"] = "pass"
    classes: Classes = field(default_factory=Classes)

    name: ClassVar[str] = "differentiate"

    def requires(self, state: Compilation) -> None:
        """The options are known, every pattern names something, the chip can do what is asked.

        Raises:
            CimcError: An unknown word, or a pattern that fits nothing.
            TargetError: An analog backward pass on a chip without a transposed read.
        """
        for word, value, known in (("backward", self.backward, ("digital", "analog")), ("ste", self.ste, ("pass", "clipped"))):
            if value not in known:
                raise CimcError(f"{word} is {value}", fix=f"it is one of: {', '.join(known)}")
        if self.backward == "analog":
            transposed_target(state.target)
        names = {name for names in _names(state.model.graph).values() for name in names}
        for pattern in (*self.trainable, *self.frozen):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise CimcError(
                    f"the pattern {pattern} names no initializer and no layer",
                    fix=f"some that there are: {', '.join(sorted(names)[:8]) or 'none'}",
                )

    def call(self, state: Compilation) -> bool:
        graph = state.model.graph
        names = _names(graph)
        statistics, notes = to_training_form(state.model, lambda value: _fits(names.get(value, ()), self.frozen))
        pool_first(graph)
        loss = add_loss(state.model, self.loss, self.classes)
        chosen = [value for value in names if self._trains(value, names[value], statistics)]
        result = add_backward(state.model, str(loss.value.name), [str(value.name) for value in chosen])
        shorten_pools(graph, result.nodes)
        for node in result.nodes:
            if node.domain == DOMAIN and node.op_type == "VmmBackward":
                node.attributes["mode"] = ir.AttrString("mode", self.backward)
                node.attributes["ste"] = ir.AttrString("ste", self.ste)
        layers = _layers(graph)
        for value in chosen:
            _update(graph, value, layers.get(value, []), result)
        for name, new in statistics.items():
            _append(graph, graph.initializers[name], [new], action="assign")
        if not any(node.op_type == "Update" and node.domain == DOMAIN for node in graph):
            raise ModelError("nothing that trains has influence on the loss", fix="check the loss, and what is frozen")
        graph.metadata_props["cimc.loss"] = str(loss.value.name)
        if loss.labels is not None:
            graph.metadata_props["cimc.labels"] = str(loss.labels.name)
        state.model.opset_imports[DOMAIN] = state.model.opset_imports.get(DOMAIN, 1)
        lift_constants(state)
        state.notes += [*notes, loss.note]
        return True

    def ensures(self, state: Compilation) -> None:
        """Every update's gradient has the shape of its parameter, as far as it is known.

        Raises:
            VerifyError: One has another.
        """
        for node in state.model.graph:
            if node.domain == DOMAIN and node.op_type == "Update":
                parameter, *gradients = node.inputs
                for value in gradients:
                    if value is not None and parameter is not None and value.shape not in (None, parameter.shape):
                        raise VerifyError(
                            f"{value.name} is {value.shape}, {parameter.name} {parameter.shape}", where=f"node {node.name}"
                        )

    def _trains(self, value: ir.Value, names: Sequence[str], statistics: dict[str, ir.Value]) -> bool:
        if value.dtype not in FLOATS or value.name in statistics or _fits(names, self.frozen):
            return False
        if self.trainable:
            return _fits(names, self.trainable)
        constant = CONSTANT in value.metadata_props or value.shape is None or len(value.shape) == 0
        return len(names) > 1 or not constant  # a layer's weight has the layer's name too


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _layers(graph: ir.Graph) -> dict[ir.Value, list[str]]:
    """Layers that hold an initializer."""
    layers: dict[ir.Value, list[str]] = {}
    for node in graph:
        if is_vmm(node) and node.inputs[1] is not None:
            held = layers.setdefault(node.inputs[1], [])
            layer = node.attributes.get_string("layer")
            if layer not in held:
                held.append(layer)
    return layers


def _names(graph: ir.Graph) -> dict[ir.Value, list[str]]:
    """What patterns may call each initializer: its own name, then the layers that hold it."""
    layers = _layers(graph)
    values = (value for value in graph.initializers.values() if not value.is_graph_input())
    return {value: [str(value.name), *layers.get(value, [])] for value in values}


def _update(graph: ir.Graph, value: ir.Value, layers: Sequence[str], result: Backward) -> None:
    """Updates of one initializer: one for each layer that holds it, or a digital one; none if it does not touch the loss."""
    total = result.gradients[str(value.name)]
    producer = total.producer()
    if producer is None or (producer.op_type == "Expand" and producer.metadata_props.get("cimc.gradient_of") == value.name):
        return
    if not layers:
        _append(graph, value, [total])
        return
    parts = [v for v in producer.inputs if v is not None] if producer.op_type == "Sum" else [total]
    if any(part.producer() is None or part.producer().op_type != "Outer" for part in parts):  # type: ignore[union-attr]
        raise ModelError(
            f"initializer {value.name} is a crossbar's weight and is read by a digital node too: training cannot keep both equal",
            where=f"layer {layers[0]}",
            fix="untie the two (give each its own initializer), or freeze it",
        )
    if producer.op_type == "Sum":
        graph.remove(producer, safe=True)
    for layer in layers:
        own = [p for p in parts if p.producer().attributes.get_string("layer") == layer]  # type: ignore[union-attr]
        if own:
            _append(graph, value, own, layer=layer)


def _append(graph: ir.Graph, parameter: ir.Value, gradients: Sequence[ir.Value], **attributes: str) -> None:
    """The update of a parameter; a digital one becomes an input with a default, as each run reads its present value."""
    what = f"{parameter.name}.updated" + (f".{attributes['layer']}" if "layer" in attributes else "")
    node = ir.node("Update", [parameter, *gradients], attributes=attributes, domain=DOMAIN, name=what)
    output = node.outputs[0]
    output.name, output.type, output.shape = what, parameter.type, parameter.shape
    graph.append(node)
    graph.outputs.append(output)
    if "layer" not in attributes and not parameter.is_graph_input():
        graph.inputs.append(parameter)
