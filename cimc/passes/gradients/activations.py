"""Elementwise functions of one real input: a table of derivatives, each an expression in the input x and the output y."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cimc.passes.gradients.registry import gradient
from cimc.passes.gradients.rule import Rule
from cimc.passes.gradients.term import Term

#: Operators that are constant between jumps, or read only the shape of a real input.
FLAT = ("Floor", "Ceil", "Round", "Sign", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli")


def _sigmoid(term: Term) -> Term:
    return term.rule.op("Sigmoid", term)


def _mish(r: Rule) -> Term:
    """y = x·t with t = tanh(softplus(x)), so y' = t + x·(1 - t²)·sigmoid(x)."""
    t = r.op("Tanh", r.op("Softplus", r.x))
    return t + r.x * (1 - t * t) * _sigmoid(r.x)


def _gelu(r: Rule) -> Term:
    """Exact: y = x·Φ(x), y' = Φ(x) + x·φ(x). Tanh: y = x·(1 + tanh u)/2 with u = √(2/π)·(x + 0.044715·x³)."""
    x = r.x
    if r.str_attr("approximate", "none") == "tanh":
        c = math.sqrt(2 / math.pi)
        square = x * x
        t = r.op("Tanh", c * x * (1 + 0.044715 * square))
        return 0.5 * (1 + t) + 0.5 * c * x * (1 - t * t) * (1 + 3 * 0.044715 * square)
    normal = r.op("Exp", -0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return 0.5 * (1 + r.op("Erf", x * math.sqrt(0.5))) + x * normal


def _hard_sigmoid(r: Rule) -> Term:
    return (r.y > 0).mask() * (r.y < 1).mask() * r.float_attr("alpha", 0.2)


def _hard_swish(r: Rule) -> Term:
    """y = x·max(0, min(1, x/6 + 1/2)): 0 below -3, 1 above 3, x/3 + 1/2 between."""
    above = (r.x > 3).mask()
    between = (r.x > -3).mask() - above
    return above + between * (r.x * (1 / 3) + 0.5)


def _either(r: Rule, above: float, below: Term | float) -> Term:
    """``above`` where x is positive, ``below`` elsewhere."""
    positive = (r.x > 0).mask()
    return positive * above + (1 - positive) * below


def _elu(r: Rule) -> Term:
    """Below zero y = α·(eˣ - 1), so y' = y + α; Selu multiplies both sides by γ."""
    return _either(r, 1, r.y + r.float_attr("alpha", 1.0))


def _selu(r: Rule) -> Term:
    alpha, gamma = r.float_attr("alpha", 1.67326319217681884765625), r.float_attr("gamma", 1.05070102214813232421875)
    return _either(r, gamma, r.y + alpha * gamma)


def _celu(r: Rule) -> Term:
    """Below zero y = α·(e^(x/α) - 1), so y' = y/α + 1."""
    return _either(r, 1, r.y * (1 / r.float_attr("alpha", 1.0)) + 1)


DERIVATIVES: dict[str, Callable[[Rule], Term]] = {
    "Abs": lambda r: r.op("Sign", r.x),
    "Acos": lambda r: -1 / r.op("Sqrt", 1 - r.x * r.x),
    "Acosh": lambda r: 1 / r.op("Sqrt", r.x * r.x - 1),
    "Asin": lambda r: 1 / r.op("Sqrt", 1 - r.x * r.x),
    "Asinh": lambda r: 1 / r.op("Sqrt", 1 + r.x * r.x),
    "Atan": lambda r: 1 / (1 + r.x * r.x),
    "Atanh": lambda r: 1 / (1 - r.x * r.x),
    "Celu": _celu,
    "Cos": lambda r: -r.op("Sin", r.x),
    "Cosh": lambda r: 0.5 * (r.op("Exp", r.x) - r.op("Exp", -r.x)),
    "Elu": _elu,
    "Erf": lambda r: r.op("Exp", -(r.x * r.x)) * (2 / math.sqrt(math.pi)),
    "Exp": lambda r: r.y,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": lambda r: _either(r, 1, r.float_attr("alpha", 0.01)),
    "Log": lambda r: 1 / r.x,
    "Mish": _mish,
    "Reciprocal": lambda r: -(r.y * r.y),
    "Relu": lambda r: (r.y > 0).mask(),
    "Selu": _selu,
    "Shrink": lambda r: (r.op("Abs", r.x) > r.float_attr("lambd", 0.5)).mask(),
    "Sigmoid": lambda r: r.y * (1 - r.y),
    "Sin": lambda r: r.op("Cos", r.x),
    "Sinh": lambda r: 0.5 * (r.op("Exp", r.x) + r.op("Exp", -r.x)),
    "Softplus": lambda r: _sigmoid(r.x),
    "Softsign": lambda r: r.op("Reciprocal", (1 + r.op("Abs", r.x)) * (1 + r.op("Abs", r.x))),
    "Sqrt": lambda r: 0.5 / r.y,
    "Tan": lambda r: 1 + r.y * r.y,
    "Tanh": lambda r: 1 - r.y * r.y,
    "ThresholdedRelu": lambda r: (r.x > r.float_attr("alpha", 1.0)).mask(),
}


@gradient(*DERIVATIVES)
def _elementwise(r: Rule) -> Sequence[Term]:
    return [r.dy * DERIVATIVES[r.node.op_type](r)]


@gradient(*FLAT)
def _flat(r: Rule) -> Sequence[None]:
    return [None]


@gradient("PRelu")
def _prelu(r: Rule) -> Sequence[Term]:
    slope, positive = r.arg(1), (r.x > 0).mask()
    below = r.dy * (1 - positive)
    return [r.dy * positive + below * slope, r.sum_to(below * r.x, slope)]


@gradient("Softmax")
def _softmax(r: Rule) -> Sequence[Term]:
    axis = r.int_attr("axis", -1)
    return [r.y * (r.dy - (r.dy * r.y).sum([axis]))]


@gradient("LogSoftmax")
def _log_softmax(r: Rule) -> Sequence[Term]:
    axis = r.int_attr("axis", -1)
    return [r.dy - r.op("Exp", r.y) * r.dy.sum([axis])]
