"""Terms: values of the graph with arithmetic, in which gradient rules are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from cimc.passes.gradients.rule import Rule

Dim = int | str | None


def dims_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """Static shape: an int, the name of a symbolic dimension, or None for each axis; None where the rank is unknown."""
    if value.shape is None:
        return None
    return tuple(int(d) if isinstance(d, int) else d.value for d in value.shape)


@dataclass(frozen=True, eq=False)
class Term:
    """A value of the graph with arithmetic. Operators append ONNX nodes; numbers become scalars of the rule's type."""

    rule: Rule
    value: ir.Value

    @property
    def dims(self) -> tuple[Dim, ...] | None:
        """See `dims_of`; None for values that rules made, which are not annotated."""
        return dims_of(self.value)

    @property
    def rank(self) -> int:
        """Number of axes. Raises ModelError where the model leaves it open."""
        dims = self.dims
        if dims is None:
            self.rule.refuse(f"the rank of '{self.value.name}' is unknown", "give the model inputs fixed ranks")
        return len(dims)

    def static(self, what: str, start: int = 0) -> tuple[int, ...]:
        """Dimensions from axis ``start`` on. Raises ModelError, which says that ``what`` needs them, if one is open."""
        dims = (self.dims or (None,))[start:]
        sizes = tuple(d for d in dims if isinstance(d, int))
        if len(sizes) != len(dims):
            self.rule.refuse(f"{what} needs the sizes of '{self.value.name}', not {dims}", "fix the sizes of the model inputs")
        return sizes

    def _binary(self, op: str, other: Operand, swap: bool = False) -> Term:
        right = other if isinstance(other, Term) else self.rule.scalar(other)
        return self.rule.op(op, right, self) if swap else self.rule.op(op, self, right)

    def __add__(self, other: Operand) -> Term:
        return self._binary("Add", other)

    def __radd__(self, other: float) -> Term:
        return self._binary("Add", other, swap=True)

    def __sub__(self, other: Operand) -> Term:
        return self._binary("Sub", other)

    def __rsub__(self, other: float) -> Term:
        return self._binary("Sub", other, swap=True)

    def __mul__(self, other: Operand) -> Term:
        return self._binary("Mul", other)

    def __rmul__(self, other: float) -> Term:
        return self._binary("Mul", other, swap=True)

    def __truediv__(self, other: Operand) -> Term:
        return self._binary("Div", other)

    def __rtruediv__(self, other: float) -> Term:
        return self._binary("Div", other, swap=True)

    def __neg__(self) -> Term:
        return self.rule.op("Neg", self)

    def __gt__(self, other: Operand) -> Term:
        return self._binary("Greater", other)

    def __lt__(self, other: Operand) -> Term:
        return self._binary("Less", other)

    def equals(self, other: Operand) -> Term:
        """Elementwise equality, a bool term."""
        return self._binary("Equal", other)

    def sum(self, axes: Sequence[int], keepdims: bool = True) -> Term:
        """Sum over axes known now."""
        return self.rule.op("ReduceSum", self, self.rule.ints(axes), keepdims=int(keepdims)) if axes else self

    def mean(self, axes: Sequence[int]) -> Term:
        """Mean over axes known now, which stay as ones."""
        return self.rule.op("ReduceMean", self, self.rule.ints(axes)) if axes else self

    def cast(self, dtype: ir.DataType) -> Term:
        return self.rule.op("Cast", self, to=int(dtype))

    def mask(self) -> Term:
        """A condition as 0 and 1. To multiply by it takes ONNX Runtime an eighth of the time of Where."""
        return self.cast(self.rule.dtype)


Operand = Term | float
