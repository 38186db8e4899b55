"""What a gradient rule sees and writes with: one forward node, its values, and the nodes to append."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from cimc.errors import ModelError
from cimc.passes.gradients.tape import FLOATS, Tape, describe, name_of
from cimc.passes.gradients.term import Dim, Operand, Term

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.TensorProtocol


class Rule:
    """One forward node as its gradient rule sees it.

    Attributes:
        node: The forward node.
        inputs: Its inputs; None for an optional input that is absent.
        outputs: Its outputs: forward values, there to be reused.
        grads: Gradients of the outputs; None where none flows.
        dtype: Real type of the node, that scalars take.
    """

    def __init__(self, tape: Tape, node: ir.Node, grads: Sequence[ir.Value | None], needed: Sequence[bool]) -> None:
        self.tape, self.node, self._needed = tape, node, needed
        self.inputs = tuple(None if v is None else Term(self, v) for v in node.inputs)
        self.outputs = tuple(Term(self, v) for v in node.outputs)
        self.grads = tuple(None if g is None else Term(self, g) for g in grads)

    @property
    def dtype(self) -> ir.DataType:
        values = [*self.node.outputs, *(v for v in self.node.inputs if v is not None)]
        kinds = [v.dtype for v in values if v.dtype in FLOATS]
        if not kinds or kinds[0] is None:
            self.refuse("the type of its values is unknown", "run shape inference on the model first")
        return kinds[0]

    @property
    def x(self) -> Term:
        """The first input."""
        return self.arg(0)

    @property
    def y(self) -> Term:
        """The first output."""
        return self.outputs[0]

    @property
    def dy(self) -> Term:
        """Gradient of the first output; zeros where only another output has one."""
        grad = self.grads[0]
        return self.zeros(self.y) if grad is None else grad

    def arg(self, index: int) -> Term:
        """An input that the operator requires."""
        term = self.inputs[index] if index < len(self.inputs) else None
        if term is None:
            self.refuse(f"input {index} is absent", "check the model with onnx.checker")
        return term

    def optional(self, index: int) -> Term | None:
        """An input that may be absent."""
        return self.inputs[index] if index < len(self.inputs) else None

    def needs(self, index: int) -> bool:
        """Whether the gradient of input ``index`` is wanted. Unused nodes are removed anyway: ask where it saves a refusal."""
        return index < len(self._needed) and self._needed[index]

    def refuse(self, what: str, fix: str) -> NoReturn:
        """Raise a ModelError that names the node."""
        raise ModelError(f"no gradient: {what}", where=describe(self.node), fix=fix)

    def int_attr(self, name: str, default: int) -> int:
        return self.node.attributes[name].as_int() if name in self.node.attributes else default

    def float_attr(self, name: str, default: float) -> float:
        return self.node.attributes[name].as_float() if name in self.node.attributes else default

    def str_attr(self, name: str, default: str) -> str:
        return self.node.attributes[name].as_string() if name in self.node.attributes else default

    def ints_attr(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.node.attributes[name].as_ints() if name in self.node.attributes else default)

    def known(self, index: int) -> NDArray[Any] | None:
        """The content of input ``index`` if it is a constant of the model."""
        term = self.optional(index)
        tensor = None if term is None else ir.convenience.get_const_tensor(term.value)
        return None if tensor is None else tensor.numpy()

    def save_output(self, index: int, dtype: ir.DataType) -> Term:
        """The forward node's optional output ``index``, which it is made to give if it does not yet."""
        if len(self.node.outputs) <= index:
            self.node.resize_outputs(index + 1)
        value = self.node.outputs[index]
        if not value.name:
            value.name = self.tape.unique(f"{self.node.outputs[0].name}.saved")
            value.type = ir.TensorType(dtype)
        return Term(self, value)

    def op(self, op_type: str, *inputs: Term | None, domain: str = "", **attributes: Attribute) -> Term:
        """Append a node with one output."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Term | None, outputs: int, domain: str = "", **attributes: Attribute
    ) -> tuple[Term, ...]:
        """Append a node with several outputs."""
        values = [None if t is None else t.value for t in inputs]
        made = self.tape.emit(op_type, values, dict(attributes), domain, name_of(self.node), outputs)
        return tuple(Term(self, v) for v in made)

    def constant(self, array: ArrayLike, dtype: ir.DataType | None = None) -> Term:
        """A constant tensor of the rule's type, or of ``dtype``."""
        return Term(self, self.tape.constant(np.asarray(array), dtype or self.dtype))

    def scalar(self, number: float) -> Term:
        return self.constant(np.float64(number))

    def ints(self, numbers: Sequence[int]) -> Term:
        """An int64 vector: axes, sizes."""
        return self.constant(np.asarray(numbers, np.int64).reshape(-1), ir.DataType.INT64)

    def where(self, condition: Term, yes: Operand, no: Operand) -> Term:
        left, right = (t if isinstance(t, Term) else self.scalar(t) for t in (yes, no))
        return self.op("Where", condition, left, right)

    def shape(self, like: Term, start: int = 0, end: int | None = None) -> Term:
        """Sizes of ``like`` as an int64 vector: a constant where they are known."""
        dims = like.dims
        if dims is not None and all(isinstance(d, int) for d in dims[start:end]):
            return self.ints([d for d in dims[start:end] if isinstance(d, int)])
        return self.op("Shape", like, start=start) if end is None else self.op("Shape", like, start=start, end=end)

    def size(self, like: Term) -> Term:
        """Number of elements of ``like``, an int64 scalar: a constant where it is known."""
        dims = (None,) if like.dims is None else like.dims
        sizes = [d for d in dims if isinstance(d, int)]
        known = len(sizes) == len(dims)
        return self.constant(math.prod(sizes), ir.DataType.INT64) if known else self.op("Size", like)

    def zeros(self, like: Term) -> Term:
        return self.op("Expand", self.scalar(0.0), self.shape(like))

    def expand(self, term: Term, like: Term) -> Term:
        return self.op("Expand", term, self.shape(like))

    def reshape(self, term: Term, like: Term) -> Term:
        """``term`` in the shape of ``like``, without keeping ``like`` for it if at most one size is open."""
        dims = like.dims
        if dims is not None and sum(not isinstance(d, int) for d in dims) <= 1 and 0 not in dims:
            return self.op("Reshape", term, self.ints([d if isinstance(d, int) else -1 for d in dims]))
        return self.op("Reshape", term, self.shape(like), allowzero=1)

    def sum_to(self, term: Term, like: Term, dims: Sequence[Dim] | None = None) -> Term:
        """Undo broadcasting: sum ``term`` over the axes along which ``like`` was repeated.

        ``dims`` is the static shape of ``term``; by default it has the shape of the first output.
        """
        have, want = self.y.dims if dims is None else tuple(dims), like.dims
        if have is not None and want is not None:
            lead = len(have) - len(want)
            pairs = list(zip(have[lead:], want, strict=True))
            if all(isinstance(w, int) or (w is not None and w == h) for h, w in pairs):
                term = term.sum([lead + i for i, (h, w) in enumerate(pairs) if w == 1 and h != 1])
                return term.sum(range(lead), keepdims=False)
        shape = self.op("Shape", like)
        missing = self.op("Sub", self.op("Shape", self.op("Shape", term)), self.op("Shape", shape))
        ones = self.op("ConstantOfShape", missing, value=ir.tensor(np.ones(1, np.int64)))
        padded = self.op("Concat", ones, shape, axis=0)
        is_one = self.op("Equal", padded, self.ints([1]))
        axes = self.op("Reshape", self.op("NonZero", is_one), self.ints([-1]))
        return self.op("Reshape", self.op("ReduceSum", term, axes, noop_with_empty_axes=1), shape, allowzero=1)
