"""Arithmetic of several inputs, with broadcasting undone by `Rule.sum_to`."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.tape import FLOATS
from cimc.passes.gradients.term import Term


@gradient("Add")
def _add(r: Rule) -> Sequence[Term]:
    return [r.sum_to(r.dy, r.arg(i)) for i in (0, 1)]


@gradient("Sub")
def _sub(r: Rule) -> Sequence[Term]:
    return [r.sum_to(r.dy, r.x), r.sum_to(-r.dy, r.arg(1))]


@gradient("Mul")
def _mul(r: Rule) -> Sequence[Term]:
    return [r.sum_to(r.dy * r.arg(1), r.x), r.sum_to(r.dy * r.x, r.arg(1))]


@gradient("Div")
def _div(r: Rule) -> Sequence[Term]:
    quotient = r.dy / r.arg(1)
    return [r.sum_to(quotient, r.x), r.sum_to(-(quotient * r.y), r.arg(1))]


@gradient("Neg")
def _neg(r: Rule) -> Sequence[Term]:
    return [-r.dy]


@gradient("Pow")
def _pow(r: Rule) -> Sequence[Term | None]:
    """d/dx = p·x^(p-1), 0 for p = 0; d/dp = y·ln x, 0 where x is not positive."""
    power = r.arg(1)
    if power.value.dtype != r.x.value.dtype:
        power = power.cast(r.dtype)
    base = r.where(power.equals(0), 0, power * r.op("Pow", r.x, r.where(power.equals(0), 1, power - 1)))
    if not r.needs(1):
        return [r.sum_to(r.dy * base, r.x)]
    positive = r.x > 0
    exponent = r.sum_to(r.dy * r.where(positive, r.y * r.op("Log", r.where(positive, r.x, 1)), 0), r.arg(1))
    return [r.sum_to(r.dy * base, r.x), exponent.cast(r.arg(1).value.dtype or r.dtype)]


@gradient("Min", "Max")
def _extreme(r: Rule) -> Sequence[Term]:
    """The inputs that attain the extreme share the gradient evenly."""
    masks = [r.arg(i).equals(r.y).mask() for i in range(len(r.inputs))]
    share = r.dy if len(masks) == 1 else r.dy / r.op("Sum", *masks)
    return [r.sum_to(share * mask, r.arg(i)) for i, mask in enumerate(masks)]


@gradient("Sum")
def _sum(r: Rule) -> Sequence[Term]:
    return [r.sum_to(r.dy, r.arg(i)) for i in range(len(r.inputs))]


@gradient("Mean")
def _mean(r: Rule) -> Sequence[Term]:
    share = r.dy * (1 / len(r.inputs))
    return [r.sum_to(share, r.arg(i)) for i in range(len(r.inputs))]


@gradient("Clip")
def _clip(r: Rule) -> Sequence[Term | None]:
    """Within the limits, ends included, the gradient passes; outside it goes to the limit."""
    dx, low, high = r.dy, r.optional(1), r.optional(2)
    grads: list[Term | None] = [None, None]
    if low is not None:
        below = r.dy * (r.x < low).mask()
        dx, grads[0] = dx - below, r.sum_to(below, low)
    if high is not None:
        above = r.dy * (r.x > high).mask()
        dx, grads[1] = dx - above, r.sum_to(above, high)
    return [dx, *grads]


@gradient("Where")
def _where(r: Rule) -> Sequence[Term | None]:
    chosen = r.dy * r.arg(0).mask()
    return [None, r.sum_to(chosen, r.arg(1)), r.sum_to(r.dy - chosen, r.arg(2))]


@gradient("Identity")
def _identity(r: Rule) -> Sequence[Term]:
    return [r.dy]


@gradient("Cast", "CastLike")
def _cast(r: Rule) -> Sequence[Term | None]:
    kind = r.x.value.dtype
    return [r.dy.cast(kind) if kind is not None and kind in FLOATS else None]


@gradient("Dropout")
def _dropout(r: Rule) -> Sequence[Term]:
    """y = x·mask/(1 - ratio) in training mode, y = x otherwise; the mask is the forward node's own."""
    mode, training = r.optional(2), r.known(2)
    if mode is None or (training is not None and not training.item()):
        return [r.dy]
    ratio, known_ratio = r.optional(1), r.known(1)
    if ratio is None or known_ratio is not None:
        factor = r.scalar(1 / (1 - (0.5 if known_ratio is None else float(known_ratio.item()))))
    else:
        factor = 1 / (1 - ratio.cast(r.dtype))
    if training is None:
        factor = r.where(mode, factor, 1)
    return [r.dy * r.save_output(1, ir.DataType.BOOL).mask() * factor]
