"""Reductions and cumulative sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term


def _restored(r: Rule, term: Term) -> Term:
    """``term``, of the shape of the output, with the reduced axes put back as ones; a scalar broadcasts as it is."""
    axes = r.optional(1)
    return term if axes is None or r.int_attr("keepdims", 1) else r.op("Unsqueeze", term, axes)


def _count(r: Rule) -> Term:
    """Elements that each output reduces, as a real scalar."""
    sizes = r.op("Div", r.size(r.x), r.size(r.y))
    return sizes.cast(r.dtype)


def _shared(r: Rule, y: Term) -> Term:
    """The elements that attain the extreme share the gradient evenly."""
    mask = r.x.equals(y).mask()
    axes = r.optional(1)
    return mask / r.op("ReduceSum", mask, axes, keepdims=1, noop_with_empty_axes=r.int_attr("noop_with_empty_axes", 0))


def _product_of_others(r: Rule, y: Term) -> Term:
    """y/x; at the only zero of a product the product of the others, at one of several zero."""
    zero = r.x.equals(0)
    options: dict[str, Any] = {"keepdims": 1, "noop_with_empty_axes": r.int_attr("noop_with_empty_axes", 0)}
    others = r.op("ReduceProd", r.where(zero, 1, r.x), r.optional(1), **options)
    alone = r.op("ReduceSum", zero.mask(), r.optional(1), **options).equals(1).mask()
    return r.where(zero, others * alone, y / r.where(zero, 1, r.x))


#: Factor on the output's gradient, from the rule and the output with its axes restored.
FACTORS: dict[str, Callable[[Rule, Term], Term | None]] = {
    "ReduceSum": lambda r, y: None,
    "ReduceMean": lambda r, y: 1 / _count(r),
    "ReduceMax": _shared,
    "ReduceMin": _shared,
    "ReduceProd": _product_of_others,
    "ReduceL1": lambda r, y: r.op("Sign", r.x),
    "ReduceL2": lambda r, y: r.x / r.where(y.equals(0), 1, y),
    "ReduceSumSquare": lambda r, y: 2 * r.x,
    "ReduceLogSum": lambda r, y: r.op("Exp", -y),
    "ReduceLogSumExp": lambda r, y: r.op("Exp", r.x - y),
}


@gradient(*FACTORS)
def _reduce(r: Rule) -> Sequence[Term]:
    factor = FACTORS[r.node.op_type](r, _restored(r, r.y))
    dy = _restored(r, r.dy)
    return [r.expand(dy if factor is None else dy * factor, r.x)]


@gradient("CumSum")
def _cumsum(r: Rule) -> Sequence[Term]:
    return [r.op("CumSum", r.dy, r.arg(1), exclusive=r.int_attr("exclusive", 0), reverse=1 - r.int_attr("reverse", 0))]
