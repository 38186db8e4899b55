"""``differentiate``: from an inference graph to a training step.

Example, a layer ``fc`` with the loss behind it::

    before  y = cimc.Vmm <layer = "fc", ...> (x, w)
    after   y = cimc.Vmm <layer = "fc", ...> (x, w)    ...    loss = SoftmaxCrossEntropyLoss (y, labels)    ...
            dx = cimc.VmmBackward <layer = "fc", ...> (dy, w, x)
            dw = cimc.Outer <layer = "fc", ...> (x, dy)
            w.updated = cimc.Update <layer = "fc", scales = "none"> (w, dw)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import onnx_ir as ir

from cimc.errors import CimcError, ModelError, VerifyError
from cimc.ir.classes import Classes
from cimc.ir.dialect import DOMAIN, PLACE_ATTRIBUTES
from cimc.ir.program import Scales
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_graph
from cimc.passes.fold import lift_constants
from cimc.passes.gradients.build import Backward, add_backward
from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term
from cimc.passes.training.expressions import expressions, find_expressions, rewritten
from cimc.passes.training.form import to_training_form
from cimc.passes.training.losses import add_loss
from cimc.passes.training.plan import candidates, choose, fits, folded, in_bodies, reaching, rows
from cimc.passes.training.plan import notes as plan_notes
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


@dataclass(frozen=True)
class Differentiate(Pass):
    """Training form, loss, backward nodes, updates.

    Args:
        loss: As `add_loss` takes it.
        trainable: Patterns (``*``, ``?``, ``[...]``) of initializers or layers that train; none: all that may.
        frozen: Patterns of those that do not, whatever ``trainable`` says.
        backward: ``digital``: activations' gradients by the digital copy of the weights; ``analog``: on the transposed array.
        ste: ``pass``: gradients pass where the DAC saturates; ``clipped``: they are zero there.
        classes: How labels of a softmax cross-entropy lie.
        scales: Which digital factors of a layer train with its weights: ``none``, ``layer`` (one), ``column`` (one a column).

    What may train is told by what the graph does with an initializer (`cimc.passes.parameters`); ``state.plan`` lists it. A
    pattern of ``trainable`` may name what would not. A pattern that names a layer or a node means the initializers that belong
    to it, its bias too.
    """

    loss: str = "softmax_cross_entropy"
    trainable: Sequence[str] = ()
    frozen: Sequence[str] = ()
    backward: Literal["digital", "analog"] = "digital"
    ste: Literal["pass", "clipped"] = "pass"
    classes: Classes = field(default_factory=Classes)
    scales: Scales = "none"

    name: ClassVar[str] = "differentiate"

    def requires(self, state: Compilation) -> None:
        """The graph is not lowered, the options are known, every pattern names something, the chip can do what is asked.

        Raises:
            CimcError: An unknown word, or a pattern that fits nothing.
            TargetError: An analog backward pass on a chip without a transposed read.
            VerifyError: The graph is lowered already.
        """
        need_graph(state)
        for word, value, known in (
            ("backward", self.backward, ("digital", "analog")),
            ("ste", self.ste, ("pass", "clipped")),
            ("learn_scales", self.scales, get_args(Scales)),
        ):
            if value not in known:
                raise CimcError(f"{word} is {value}", fix=f"it is one of: {', '.join(known)}")
        if self.backward == "analog":
            transposed_target(state.target)
        names = {name for one in candidates(state.model.graph) for name in one.names} | state.recipes.sources.keys()
        for pattern in (*self.trainable, *self.frozen):
            if not fits(list(names), [pattern]):
                raise CimcError(
                    f"the pattern {pattern} names no initializer and no layer",
                    fix=f"some that there are: {', '.join(sorted(names)[:8]) or 'none'}",
                )

    def call(self, state: Compilation) -> Sequence[str]:
        graph = state.model.graph
        found = candidates(graph)
        choose(found, self.trainable, self.frozen)
        find_expressions(found, state.recipes)
        choose(found, self.trainable, self.frozen)  # patterns may name what a weight is computed from
        through = expressions(found, state.recipes, self.trainable, self.frozen)
        frozen = {(use.node, use.slot) for one in found if fits(one.names, self.frozen) for use in one.uses}
        statistics, notes = to_training_form(state.model, lambda node, slot: (node, slot) in frozen)
        pool_first(graph)
        loss = add_loss(state.model, self.loss, self.classes)
        chosen = [one.value for one in found if not one.excluded]
        result = add_backward(state.model, str(loss.value.name), [str(value.name) for value in chosen])
        reached = reaching(graph, loss.value)
        shorten_pools(graph, result.nodes)
        for node in result.nodes:
            if node.domain == DOMAIN and node.op_type == "VmmBackward":
                node.attributes["mode"] = ir.AttrString("mode", self.backward)
                node.attributes["ste"] = ir.AttrString("ste", self.ste)
        layers = {one.value: one.layers for one in found}
        trained = {str(value.name) for value in chosen if _update(graph, value, layers[value], result, self.scales)}
        for name, new in statistics.items():
            _append(graph, graph.initializers[name], [new], action="assign")
        if not any(node.op_type == "Update" and node.domain == DOMAIN for node in graph):
            raise ModelError("nothing that trains has influence on the loss", fix="check the loss, and what is frozen")
        graph.metadata_props["cimc.loss"] = str(loss.value.name)
        if loss.labels is not None:
            graph.metadata_props["cimc.labels"] = str(loss.labels.name)
        state.model.opset_imports[DOMAIN] = state.model.opset_imports.get(DOMAIN, 1)
        lift_constants(state)
        listed = [*rows(found, trained, reached), *folded(found, state.recipes, through), *in_bodies(graph)]
        state.plan = rewritten(listed, through, state.recipes)
        state.notes += [*notes, loss.note, *plan_notes(found, state.plan)]
        return sorted(trained | statistics.keys())

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


def _update(graph: ir.Graph, value: ir.Value, layers: Sequence[str], result: Backward, scales: Scales) -> bool:
    """Updates of one initializer: one for each layer that holds it, and a digital one for what other nodes read of it.

    Returns:
        Whether there are any: none, if the value has no influence on the loss.
    """
    total = result.gradients[str(value.name)]
    producer = total.producer()
    if producer is None or (producer.op_type == "Expand" and producer.metadata_props.get("cimc.gradient_of") == value.name):
        return False
    if not layers:
        _append(graph, value, [total])
        return True
    is_sum = producer.op_type == "Sum" and producer.metadata_props.get("cimc.gradient_of") == value.name
    parts = [v for v in producer.inputs if v is not None] if is_sum else [total]
    if is_sum:
        graph.remove(producer, safe=True)
    for layer in layers:
        own = [part for part in parts if _outer_layer(part) == layer]
        if own:
            _append(graph, value, own, layer=layer, scales=scales)
    if digital := [part for part in parts if _outer_layer(part) is None]:
        _append(graph, value, digital)
    return True


def _outer_layer(gradient: ir.Value) -> str | None:
    """The layer whose outer product a gradient is."""
    node = gradient.producer()
    return node.attributes.get_string("layer") if node is not None and node.op_type == "Outer" and node.domain == DOMAIN else None


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
