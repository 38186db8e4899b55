"""Give each use of an initializer that an exporter has merged a value of its own.

Exporters merge parameters whose values are equal at the export: all zero biases, scales of one, the layers of a
``nn.TransformerEncoder``, which are copies of each other. They train apart. Example::

    before  h = Gemm (x, w, zero)    y = Gemm (h, v, zero)
    after   h = Gemm (x, w, zero)    y = Gemm (h, v, fc2.bias)     with the initializer fc2.bias, equal to zero

What tells the merged from the tied (``auto``):

- An Identity of an initializer is PyTorch's way to write a merged parameter; the result has the name that it had.
- Slots of running statistics always get values of their own.
- A parameter of equal entries (zeros, ones) in several places is merged, unless the exporter noted that one module has both uses.
- Any other parameter is merged if the exporter noted the module of each use, and these differ, and it is no table;
  without such notes it stays tied, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from cimc.errors import VerifyError
from cimc.ir.names import Names
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_names, need_no_products
from cimc.passes.parameters import Usage, Use, uses
from cimc.passes.reasons import not_applied
from cimc.passes.selection.operand import FLOATS, is_constant
from cimc.passes.selection.placement import record
from cimc.passes.training.plan import fits

AUTO, AS_WRITTEN, NONE = "auto", "as-written", "none"
#: Where PyTorch's exporter notes the modules around a node, the innermost last but one.
_SCOPES = "pkg.torch.onnx.name_scopes"
_SUFFIXES = {"weight": "weight", "bias": "bias", "scale": "weight", "table": "weight"}


@dataclass(frozen=True)
class Untie(Pass):
    """Merged parameters become several; see the module's text.

    Args:
        tie: ``auto``, ``as-written`` (what one initializer holds trains as one), ``none`` (each use has its own), or patterns of
            initializers that stay tied, all others having their own.
    """

    tie: str | Sequence[str] = AUTO

    name: ClassVar[str] = "untie"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError once products are selected, or where a node has no name, which new parameters are named after."""
        need_no_products(state)
        need_names(state)

    def call(self, state: Compilation) -> Sequence[str]:
        graph = state.model.graph
        names = Names(v.name for v in (*graph.inputs, *graph.initializers.values(), *(o for n in graph for o in n.outputs)))
        changed = self._aliases(state)
        for value in list(graph.initializers.values()):
            if value.dtype in FLOATS and is_constant(value) and not value.is_graph_output() and len(value.uses()) > 1:
                changed += self._separate(state, value, names)
        return changed

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where an Identity of an initializer is left, or running statistics share theirs with another use."""
        graph = state.model.graph
        for node in graph:
            if _aliased(node) is not None:
                raise VerifyError("an Identity of an initializer is left", where=f"after untie, node '{node.name}'")
        for value in graph.initializers.values():
            if value.dtype in FLOATS and is_constant(value) and not value.is_graph_output() and len(value.uses()) > 1:
                roles = {(use.node, use.slot): use for _, use in _roles(value)}
                if len(roles) > 1 and any(use.kind == "statistics" for use in roles.values()):
                    raise VerifyError("running statistics have another use", where=f"after untie, initializer '{value.name}'")

    def unchanged(self, state: Compilation) -> str:
        """No initializer has several uses that could be several parameters; of those that have, the log says why."""
        return "no initializer holds several parameters"

    def _aliases(self, state: Compilation) -> list[str]:
        """Identities of initializers: a copy under the name that the exporter gave it, or another name of the same."""
        graph = state.model.graph
        changed: list[str] = []
        for node in list(graph):
            source = _aliased(node)
            if source is None:
                continue
            alone = len(source.uses()) == 1 and not source.is_graph_output()
            output, name = node.outputs[0], str(node.outputs[0].name)
            is_parameter = any(use.trains or use.kind == "statistics" for use in uses(output))
            own = is_parameter and not alone and not self._tied(str(source.name))
            output.name = None
            output.replace_all_uses_with(_copy(graph, source, name) if own else source)
            graph.remove(node, safe=True)
            if own:
                state.notes.append(f"{name}, which the exporter wrote as a copy of {source.name}, is a parameter of its own")
            record(state, node, "folded", "a parameter of its own" if own else "another name of an initializer")
            changed.append(name)
        return changed

    def _tied(self, name: str) -> bool:
        return self.tie == AS_WRITTEN or (not isinstance(self.tie, str) and fits([name], self.tie))

    def _separate(self, state: Compilation, value: ir.Value, names: Names) -> list[str]:
        """Give uses of one initializer values of their own, all but the first; the names of the new values."""
        graph, name = state.model.graph, str(value.name)
        roles = _roles(value)
        groups: dict[object, list[tuple[Usage, Use]]] = {}
        for consumer, use in roles:
            groups.setdefault(self._identity(value, consumer, use, [u for _, u in roles]), []).append((consumer, use))
        if len(groups) < 2:
            if len(roles) > 1:
                tied = "it is to stay tied" if self._tied(name) else "nothing tells that its uses are different parameters"
                not_applied("made several parameters", value, tied)
            return []
        keeper = next((key for key, members in groups.items() if _wish(members[0][1], name) == name), None)
        keeper = next(iter(groups)) if keeper is None else keeper
        made = []
        for key, members in groups.items():
            if key != keeper:
                copy = _copy(graph, value, names.fresh(_wish(members[0][1], name)))
                made.append(str(copy.name))
                for consumer, _ in members:
                    consumer.node.replace_input_with(consumer.idx, copy)
        more = f", and {len(made) - 3} more" if len(made) > 3 else ""
        state.notes.append(f"{name}, merged by the exporter, is several parameters: also {', '.join(made[:3])}{more}")
        return made

    def _identity(self, value: ir.Value, consumer: Usage, use: Use, others: Sequence[Use]) -> object:
        """Uses with the same answer are one parameter."""
        if use.kind == "statistics":
            return (use.node, use.slot)
        if self._tied(str(value.name)):
            return None
        apart = (use.node, use.slot)
        if self.tie != AUTO:
            return apart
        module = module_of(use.node)
        if _uniform(value):
            return (module, use.kind) if module else apart
        kinds, modules = {other.kind for other in others}, [module_of(other.node) for other in others]
        return module if len(kinds) == 1 and all(modules) and "table" not in kinds else None


def module_of(node: ir.Node) -> str:
    """The module that PyTorch's exporter notes for a node, in its metadata or its name (``/layers.0/fc/MatMul``); empty: none."""
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get(_SCOPES, ""))
    if len(scopes) > 1:
        return str(scopes[-2])
    parts = str(node.name).split("/")[1:-1] if str(node.name).startswith("/") else []
    return ".".join(re.sub(r"_\d+$", "", part) for part in parts)  # a second call of a module has a number


def _aliased(node: ir.Node) -> ir.Value | None:
    """The real initializer that a node only gives another name, within the graph; None: it does something else."""
    source = node.inputs[0] if node.op_type == "Identity" and node.domain in ("", "ai.onnx") else None
    if source is None or not is_constant(source) or source.dtype not in FLOATS or node.outputs[0].is_graph_output():
        return None
    return source


def _roles(value: ir.Value) -> list[tuple[Usage, Use]]:
    """Readers of an initializer that use it as a parameter or as running statistics."""
    found = [(consumer, _leaf(consumer, value)) for consumer in value.uses()]
    return [(consumer, use) for consumer, use in found if use is not None and (use.trains or use.kind == "statistics")]


def _leaf(consumer: Usage, value: ir.Value) -> Use | None:
    """How the node that one edge leads to uses an initializer, through rearrangements."""
    return next(iter(uses(value, consumer)), None)


def _wish(use: Use, name: str) -> str:
    """A name that the user knows: that of the module or node, and what it is there."""
    module = module_of(use.node)
    if use.kind == "statistics":
        last = use.why.split(" of ")[0].removeprefix("the ").replace("variance", "var").replace(" ", "_")
    else:
        last = _SUFFIXES.get(use.kind, name.rpartition(".")[2])
    if module and name.rpartition(".")[2].endswith(last):
        last = name.rpartition(".")[2]
    return f"{module or use.owner}.{last}"


def _uniform(value: ir.Value) -> bool:
    """Whether all entries are equal, as of a parameter that nothing has trained."""
    if value.const_value is None or value.const_value.size == 0:
        return False
    array = value.const_value.numpy()
    return bool((array == array.reshape(-1)[0]).all()) and bool(np.isfinite(array.reshape(-1)[0]))


def _copy(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    """An initializer of another name with the same data."""
    tensor = value.const_value
    if tensor is None:
        raise RuntimeError(f"initializer {value.name} has no data")
    own = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=own)
    copy.metadata_props.update(value.metadata_props)
    graph.register_initializer(copy)
    return copy
