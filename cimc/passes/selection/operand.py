"""A constant as a product sees it: an initializer behind transpositions and reshapes, told as one `WeightView`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import onnx_ir as ir

from cimc.ir.geometry import WeightView

#: Operators that only rearrange a tensor; on a weight they become part of its view, so that it keeps its name.
VIEW_OPS = frozenset({"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Operand:
    """A rearranged initializer.

    The initializer (below ``index``) is cut to ``factors``, sizes above 1 in memory order; each axis of the operand is a
    sequence of them. So a transposition permutes axes, and a reshape regroups factors, cutting one where it must.
    """

    initializer: ir.Value
    factors: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    index: tuple[int, ...] = ()

    @classmethod
    def of(cls, initializer: ir.Value, shape: Sequence[int]) -> Operand:
        """The initializer as it is."""
        axes: list[tuple[int, ...]] = []
        factors: list[int] = []
        for size in shape:
            axes.append((len(factors),) if size != 1 else ())
            if size != 1:
                factors.append(size)
        return cls(initializer, tuple(factors), tuple(axes))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(self.factors[f] for f in axis) for axis in self.axes)

    def at(self, *index: int) -> Operand:
        """One entry of the leading axes; only of an operand that is not rearranged yet."""
        rest = self.shape[len(index) :]
        return replace(Operand.of(self.initializer, rest), index=self.index + index)

    def transpose(self, perm: Sequence[int]) -> Operand:
        return replace(self, axes=tuple(self.axes[a] for a in perm))

    def reshape(self, shape: Sequence[int]) -> Operand | None:
        """The operand with other axes; None where a factor would have to be cut at no divisor of its size."""
        if prod(shape) != prod(self.factors):
            return None
        queue = deque((f, self.factors[f]) for axis in self.axes for f in axis)
        pieces: list[list[int]] = [[] for _ in self.factors]
        axes: list[list[tuple[int, int]]] = []
        for extent in shape:
            axes.append([])
            while extent > 1:
                factor, size = queue.popleft()
                taken = size if extent % size == 0 else extent
                if size % taken:
                    return None
                if taken < size:
                    queue.appendleft((factor, size // taken))
                axes[-1].append((factor, len(pieces[factor])))
                pieces[factor].append(taken)
                extent //= taken
        starts = [sum(len(p) for p in pieces[:f]) for f in range(len(pieces))]
        return replace(
            self,
            factors=tuple(size for piece in pieces for size in piece),
            axes=tuple(tuple(starts[f] + k for f, k in axis) for axis in axes),
        )

    def view(self, groups: Sequence[int], rows: Sequence[int], columns: Sequence[int]) -> WeightView:
        """The matrix whose groups, rows and columns are these axes, each flattened; in the simplest form there is."""
        roles = [[f for a in axes for f in self.axes[a]] for axes in (groups, rows, columns)]
        order = [(f, role) for role, factors in enumerate(roles) for f in factors]
        # Factors that stay neighbours within one role are one factor: equal matrices get equal views.
        heads = [i for i, (f, role) in enumerate(order) if i == 0 or order[i - 1] != (f - 1, role)]
        runs = [order[a:b] for a, b in pairwise([*heads, len(order)])]
        runs_in_memory = sorted(runs)
        return WeightView(
            tensor=self.initializer.name or "",
            index=self.index,
            split=tuple(prod(self.factors[f] for f, _ in run) for run in runs_in_memory) or (1,),
            perm=tuple(runs_in_memory.index(run) for run in runs) or (0,),
            shape=(
                prod(self.factors[f] for f in roles[0]),
                prod(self.factors[f] for f in roles[1]),
                prod(self.factors[f] for f in roles[2]),
            ),
        )


def is_constant(value: ir.Value | None) -> bool:
    """An initializer that no caller can replace. (`legalise` ends the old rule that an initializer is an input too.)"""
    return value is not None and value.is_initializer() and not value.is_graph_input() and value.const_value is not None


def integers(value: ir.Value | None) -> list[int] | None:
    """The entries of a constant of integers; None where it is not one."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return [int(v) for v in value.const_value.numpy().reshape(-1)]


def resolve(value: ir.Value | None) -> Operand | None:
    """The operand that a value is, or None where it is no rearranged real constant."""
    if value is None:
        return None
    if is_constant(value):
        tensor = value.const_value
        if tensor is None or tensor.dtype not in FLOATS:
            return None
        return Operand.of(value, tensor.shape.numpy())
    node = value.producer()
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in VIEW_OPS:
        return None
    source = resolve(node.inputs[0])
    if source is None:
        return None
    if node.op_type == "Identity":
        return source
    if node.op_type == "Transpose":
        perm = node.attributes.get_ints("perm") or range(len(source.axes) - 1, -1, -1)
        return source.transpose(perm)
    shape = reshaped(node, source.shape)
    return None if shape is None else source.reshape(shape)


def reshaped(node: ir.Node, shape: Sequence[int]) -> list[int] | None:
    """Shape after a Reshape, Flatten, Squeeze or Unsqueeze."""
    if node.op_type == "Flatten":
        axis = node.attributes.get_int("axis", 1)
        axis += len(shape) if axis < 0 else 0
        return [prod(shape[:axis]), prod(shape[axis:])]
    attribute = "shape" if node.op_type == "Reshape" else "axes"
    values = node.attributes.get_ints(attribute) or (integers(node.inputs[1]) if len(node.inputs) > 1 else None)
    if node.op_type == "Reshape":
        if values is None:
            return None
        if not node.attributes.get_int("allowzero", 0):
            values = [shape[i] if v == 0 and i < len(shape) else v for i, v in enumerate(values)]
        known = prod(v for v in values if v != -1)
        return [prod(shape) // max(known, 1) if v == -1 else v for v in values]
    if node.op_type == "Squeeze":
        if values is None:
            return [size for size in shape if size != 1] if len(node.inputs) < 2 else None
        gone = {v % len(shape) for v in values}
        return [size for axis, size in enumerate(shape) if axis not in gone]
    if values is None:
        return None
    rank = len(shape) + len(values)
    new = {v % rank for v in values}
    rest = iter(shape)
    return [1 if axis in new else next(rest) for axis in range(rank)]
