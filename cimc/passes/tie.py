"""Make one parameter of a parameter and its transpose.

An exporter folds the Transpose of a tied weight (``lm_head.weight = embedding.weight`` in PyTorch), so that two initializers hold
the same numbers, each in its own order. Example::

    before  h = Gather (embedding.weight, t)    y = MatMul (h, onnx::MatMul_12)
    after   h = Gather (embedding.weight, t)    onnx::MatMul_12 = Transpose (embedding.weight)    y = MatMul (h, onnx::MatMul_12)

Random numbers are equal bit for bit only if they are the same parameter. Therefore most entries must differ from each other:
zeros, ones, masks and one-hot tables stay as they are, and so do two equal matrices of which each is its own transpose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import VerifyError
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_names, need_no_products
from cimc.passes.parameters import ANONYMOUS
from cimc.passes.reasons import not_applied
from cimc.passes.selection.operand import FLOATS, is_constant
from cimc.passes.selection.placement import OWNER
from cimc.passes.training.plan import TRANSPOSES, fits, transposes
from cimc.passes.untie import AUTO

#: Entries that are looked at to tell random numbers from a pattern, and how many of them must differ, at most.
_SAMPLE, _DISTINCT = 4096, 64
_MOST_AXES = 4


@dataclass(frozen=True)
class Tie(Pass):
    """A parameter and its transpose become one; see the module's text.

    Args:
        tie: As of `cimc.passes.untie.Untie`: ``auto`` ties all of them, ``as-written`` and ``none`` none, patterns those of which
            they name one.
    """

    tie: str | Sequence[str] = AUTO

    name: ClassVar[str] = "tie"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError once products are selected, or where a node has no name: the Transpose belongs to a node."""
        need_no_products(state)
        need_names(state)

    def call(self, state: Compilation) -> Sequence[str]:
        if isinstance(self.tie, str) and self.tie != AUTO:
            return []
        tied: list[str] = []
        for group in _groups(state.model.graph):
            for one, other in combinations(group, 2):
                names = str(one.name), str(other.name)
                if not {*names} & {*tied} and (isinstance(self.tie, str) or fits(names, self.tie)):
                    tied += _join(state, one, other)
        return tied

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where what a parameter notes as its transpose is made from something else, or in another order."""
        graph = state.model.graph
        made = {str(output.name): node for node in graph for output in node.outputs}
        for value in graph.initializers.values():
            for name, perm in transposes(value).items():
                node = made.get(name)
                if node is not None and (node.inputs[0] is not value or list(node.attributes.get_ints("perm", ())) != perm):
                    raise VerifyError(f"it is no transpose of '{value.name}'", where=f"after tie, value '{name}'")

    def unchanged(self, state: Compilation) -> str:
        """No parameters are to be tied, or none is another's transpose."""
        if isinstance(self.tie, str) and self.tie != AUTO:
            return f"parameters are not to be tied (--tie {self.tie})"
        return "no parameter that may be tied is the transpose of another"


def _groups(graph: ir.Graph) -> Iterator[list[ir.Value]]:
    """Constants with the same sizes in any order, and the same first and last entry, which no transposition moves."""
    groups: dict[object, list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        if value.dtype not in FLOATS or tensor is None or not is_constant(value) or value.is_graph_output():
            continue
        shape = tensor.shape.numpy()
        if value.uses() and 1 < len(shape) <= _MOST_AXES and tensor.size > 1:
            flat = tensor.numpy().reshape(-1)
            groups.setdefault((value.dtype, tuple(sorted(shape)), flat[0].tobytes(), flat[-1].tobytes()), []).append(value)
    return (group for group in groups.values() if len(group) > 1)


def _join(state: Compilation, one: ir.Value, other: ir.Value) -> list[str]:
    """Replace one of two by a Transpose of the other, where it is that; the name of the one that went."""
    kept, gone = (other, one) if ANONYMOUS.fullmatch(str(one.name)) else (one, other)
    if {use.node for use in kept.uses()} == {use.node for use in gone.uses()}:
        not_applied(f"made one parameter with '{kept.name}'", gone, "the same nodes read both")
        return []
    perm = _permutation(_array(kept), _array(gone))
    if perm is None:
        not_applied(f"made one parameter with '{kept.name}'", gone, "its numbers are no transpose, or not random")
        return []
    graph, name = state.model.graph, str(gone.name)
    node = ir.node("Transpose", [kept], attributes={"perm": perm}, name=f"cimc/{name}")
    node.metadata_props[OWNER] = str(next(iter(gone.uses())).node.name)
    graph.initializers.pop(name)
    output, gone.name = node.outputs[0], None
    output.name, output.type, output.shape = name, gone.type, gone.shape
    gone.replace_all_uses_with(output)
    graph.insert_before(graph[0], node)
    kept.metadata_props[TRANSPOSES] = json.dumps({**transposes(kept), name: perm})
    state.notes.append(
        f"{name} is the transpose of {kept.name}, to the last bit: they are one parameter (--tie none keeps them apart)"
    )
    return [name]


def _permutation(kept: NDArray[Any], gone: NDArray[Any]) -> list[int] | None:
    """The order of axes that makes the second array of the first; None: there is none, or they are not random numbers."""
    sample = kept.reshape(-1)[:: max(1, kept.size // _SAMPLE)]
    if len(np.unique(sample)) < min(_DISTINCT, (len(sample) + 1) // 2):
        return None
    first, *others = permutations(range(kept.ndim))
    if np.array_equal(kept.transpose(first), gone):
        return None  # equal as they are: `untie` says what that means
    return next((list(perm) for perm in others if np.array_equal(kept.transpose(perm), gone)), None)


def _array(value: ir.Value) -> NDArray[Any]:
    tensor = value.const_value
    if tensor is None:
        raise RuntimeError(f"initializer {value.name} has no data")
    return tensor.numpy()
