"""Interval analysis: which values of a graph are provably non-negative, and their bounds where that is easy.

A small table of operators; any other operator's outputs are unknown. An interval is ``exact`` if it came from stated
bounds of a graph input through operators that reach the ends of what they are given: then data may well lie at its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isnan

import numpy as np
import onnx_ir as ir

#: Constants larger than this are not searched for their extremes.
_LARGEST_CONSTANT = 1 << 20
_ROOM, _TINY, _HUGE = 1e-6, 1e-37, 3e38


@dataclass(frozen=True)
class Interval:
    """``low <= x <= high`` for every element. NaN is not covered: calibration and frontend refuse it."""

    low: float = -inf
    high: float = inf
    exact: bool = False

    @property
    def nonnegative(self) -> bool:
        return self.low >= 0


UNKNOWN = Interval()
_Rule = Callable[[ir.Node, list[Interval]], Interval]


def intervals(model: ir.Model, inputs: Mapping[str, Interval]) -> dict[str, Interval]:
    """The interval of every named value of the main graph.

    Args:
        model: A valid model; its nodes are sorted.
        inputs: What is known of graph inputs, by name.
    """
    found: dict[str, Interval] = {}
    for value in model.graph.inputs:
        found[str(value.name)] = inputs.get(str(value.name), _of_type(value))
    for name, value in model.graph.initializers.items():
        found[name] = _of_constant(value)
    for node in model.graph:
        operands = [UNKNOWN if v is None else found.get(str(v.name), UNKNOWN) for v in node.inputs]
        rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if node.op_type in _ARITHMETIC and any(map(_is_integer, node.inputs)):
            rule = None
        result = rule(node, operands) if rule else UNKNOWN
        for number, output in enumerate(node.outputs):
            known = result if number == 0 or node.op_type == "Split" else UNKNOWN
            typed = _of_type(output)
            found[str(output.name)] = known if known != UNKNOWN else typed
    return found


def _is_integer(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.is_integer()


def _of_type(value: ir.Value) -> Interval:
    """What the element type says: unsigned integers and booleans are not negative."""
    if value.dtype in (ir.DataType.UINT8, ir.DataType.UINT16):
        return Interval(0.0, 255.0 if value.dtype == ir.DataType.UINT8 else 65535.0, exact=True)
    if value.dtype in (ir.DataType.UINT32, ir.DataType.UINT64):
        return Interval(0.0)
    return Interval(0.0, 1.0, exact=True) if value.dtype == ir.DataType.BOOL else UNKNOWN


def _of_constant(value: ir.Value) -> Interval:
    tensor = value.const_value
    if tensor is None or tensor.size > _LARGEST_CONSTANT or tensor.dtype == ir.DataType.STRING:
        return _of_type(value)
    return _of_array(tensor.numpy())


def _of_array(array: np.ndarray) -> Interval:
    if not array.size or array.dtype.kind in "OSU":
        return UNKNOWN
    low, high = float(array.min()), float(array.max())
    return UNKNOWN if isnan(low) or isnan(high) else Interval(low, high, exact=True)


def _union(parts: list[Interval]) -> Interval:
    if not parts:
        return UNKNOWN
    return Interval(min(p.low for p in parts), max(p.high for p in parts), all(p.exact for p in parts))


def _hull(values: list[float], exact: bool) -> Interval:
    """The interval of corner values; an undefined corner such as inf - inf or 0 * inf makes it unknown on both sides."""
    return UNKNOWN if any(isnan(v) for v in values) else _outward(min(values), max(values), exact)


def _outward(low: float, high: float, exact: bool) -> Interval:
    """Room for the rounding, underflow and overflow of single precision."""
    below, above = low - abs(low) * _ROOM - _TINY, high + abs(high) * _ROOM + _TINY
    if low >= 0:
        below = max(below, 0.0)
    return Interval(-inf if below < -_HUGE else below, inf if above > _HUGE else above, exact)


def _corners(combine: Callable[[float, float], float]) -> _Rule:
    def rule(node: ir.Node, x: list[Interval]) -> Interval:
        a, b = x[0], x[1]
        with np.errstate(all="ignore"):
            values = [float(combine(p, q)) for p in (a.low, a.high) for q in (b.low, b.high)]
        return _hull(values, _keeps(node, x))

    return rule


def _keeps(node: ir.Node, x: list[Interval]) -> bool:
    """Whether ends stay reachable: only with a constant operand; two varying ones may be correlated."""
    constant = [v for v in node.inputs if v is not None and (v.const_value is not None or _is_constant_node(v.producer()))]
    return all(part.exact for part in x) and bool(constant)


def _is_constant_node(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Constant"


def _multiply(node: ir.Node, x: list[Interval]) -> Interval:
    if node.inputs[0] is node.inputs[1] and node.inputs[0] is not None:
        return Interval(0.0)
    product = _corners(lambda a, b: float(np.float64(a) * b))(node, x)
    return Interval(0.0) if product == UNKNOWN and x[0].nonnegative and x[1].nonnegative else product


def _divide(node: ir.Node, x: list[Interval]) -> Interval:
    if x[1].low <= 0 <= x[1].high:
        # A zero divisor gives an infinity of either sign or NaN; only a positive one is simple.
        return UNKNOWN
    if node.inputs[0] is not None and node.inputs[0].dtype is not None and node.inputs[0].dtype.is_integer():
        return Interval(0.0) if x[0].nonnegative and x[1].low > 0 else UNKNOWN
    return _corners(lambda a, b: float(np.float64(a) / b))(node, x)


def _add(node: ir.Node, x: list[Interval]) -> Interval:
    low, high = sum(p.low for p in x), sum(p.high for p in x)
    # Sums cancel: the room goes with the terms.
    room = max((abs(b) for p in x for b in (p.low, p.high) if abs(b) < inf), default=0.0) * _ROOM * len(x)
    least = 0.0 if all(p.nonnegative for p in x) else -inf
    return _outward(max(low - room, least), high + room, _keeps(node, x) and len(x) == 2)


def _subtract(node: ir.Node, x: list[Interval]) -> Interval:
    return _add(node, [x[0], replace(x[1], low=-x[1].high, high=-x[1].low)])


def _same(_: ir.Node, x: list[Interval]) -> Interval:
    return x[0]


def _within(low: float, high: float) -> _Rule:
    """An operator whose outputs lie between fixed bounds, whatever it is given."""
    return lambda _node, _x: Interval(low, high)


def _sign_only(_: ir.Node, x: list[Interval]) -> Interval:
    """Non-negative from non-negative, with no upper bound."""
    return Interval(0.0) if x[0].nonnegative else UNKNOWN


def _relu(_: ir.Node, x: list[Interval]) -> Interval:
    return Interval(max(0.0, x[0].low), max(0.0, x[0].high), x[0].exact)


def _abs(_: ir.Node, x: list[Interval]) -> Interval:
    low = 0.0 if x[0].low <= 0 <= x[0].high else min(abs(x[0].low), abs(x[0].high))
    return Interval(low, max(abs(x[0].low), abs(x[0].high)), x[0].exact)


def _negate(_: ir.Node, x: list[Interval]) -> Interval:
    return Interval(-x[0].high, -x[0].low, x[0].exact)


def _clip(node: ir.Node, x: list[Interval]) -> Interval:
    low = x[1].low if len(x) > 1 and node.inputs[1] is not None else _number(node, "min", -inf)
    high = x[2].high if len(x) > 2 and node.inputs[2] is not None else _number(node, "max", inf)
    # Where a bound is itself unknown it is -inf or inf here, which bounds nothing. min above max gives max.
    low_reached, high_reached = min(max(x[0].low, low), high), min(max(x[0].high, low), high)
    if len(x) > 2 and node.inputs[2] is not None and x[2].low < low:
        low_reached = min(low_reached, x[2].low)
    return Interval(low_reached, high_reached, x[0].exact)


def _extreme(pick: Callable[[list[float]], float]) -> _Rule:
    return lambda node, x: Interval(pick([p.low for p in x]), pick([p.high for p in x]), _keeps(node, x))


def _pad(node: ir.Node, x: list[Interval]) -> Interval:
    mode = node.attributes.get("mode")
    if mode is not None and mode.as_string() != "constant":
        return x[0]
    if len(x) > 2 and node.inputs[2] is not None:
        return _union([x[0], x[2]])
    value = _number(node, "value", 0.0)
    return _union([x[0], Interval(value, value, exact=True)])


def _average(_: ir.Node, x: list[Interval]) -> Interval:
    """A mean, of padding zeros too."""
    return _outward(min(0.0, x[0].low) * (1 + 1e-5), max(0.0, x[0].high) * (1 + 1e-5), exact=False)


def _constant(node: ir.Node, _: list[Interval]) -> Interval:
    if "value" in node.attributes:
        tensor = node.attributes["value"].as_tensor()
        return UNKNOWN if tensor.dtype == ir.DataType.STRING or tensor.size > _LARGEST_CONSTANT else _of_array(tensor.numpy())
    for name in ("value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            return _of_array(np.asarray(node.attributes[name].value, np.float64))
    return UNKNOWN


def _dequantize(node: ir.Node, x: list[Interval]) -> Interval:
    zero = x[2] if len(x) > 2 and node.inputs[2] is not None else Interval(0.0, 0.0)
    if not x[1].nonnegative or zero.low != zero.high:
        return UNKNOWN
    low, high = (x[0].low - zero.low), (x[0].high - zero.low)
    ends = [end * scale for end in (low, high) for scale in (x[1].low, x[1].high)]
    return _hull(ends, x[0].exact and x[1].low == x[1].high)


def _cast(node: ir.Node, x: list[Interval]) -> Interval:
    to = node.attributes["to"].as_int()
    source = node.inputs[0]
    if ir.DataType(to).is_floating_point() and source is not None and source.dtype not in (None, ir.DataType.STRING):
        wide = ir.DataType(to) in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        return x[0] if wide else (Interval(0.0) if x[0].nonnegative else UNKNOWN)
    return UNKNOWN


def _where(_: ir.Node, x: list[Interval]) -> Interval:
    return _union(x[1:3])


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def _concat(_: ir.Node, x: list[Interval]) -> Interval:
    return _union(x)


def _pow(_: ir.Node, x: list[Interval]) -> Interval:
    even = x[1].low == x[1].high and x[1].low > 0 and x[1].low % 2 == 0
    return Interval(0.0) if even or x[0].nonnegative else UNKNOWN


def _leaky(_: ir.Node, x: list[Interval]) -> Interval:
    return x[0] if x[0].nonnegative else UNKNOWN


_LAYOUT = {
    *("Identity", "Dropout", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements"),
    *("GatherND", "Expand", "Tile", "Split", "DepthToSpace", "SpaceToDepth", "Compress"),
    *("MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"),
}
#: Operators whose results wrap around in integer types.
_ARITHMETIC = {
    *("Add", "Sub", "Sum", "Mul", "Neg", "Abs", "Pow"),
    *("ReduceSum", "ReduceProd", "ReduceSumSquare", "ReduceL1", "CumSum"),
}

_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_LAYOUT, _same),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean"), _average),
    **dict.fromkeys(("ReduceSum", "ReduceProd", "LpPool", "GlobalLpPool", "CumSum"), _sign_only),
    **dict.fromkeys(("Exp", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Softplus", "Shape", "Size"), _within(0.0, inf)),
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), _within(0.0, 1.0 + 1e-5)),
    **dict.fromkeys(("Tanh", "Sin", "Cos", "Softsign"), _within(-1.0 - 1e-5, 1.0 + 1e-5)),
    "Sqrt": _within(0.0, inf),
    "Sign": _within(-1.0, 1.0),
    "Relu": _relu,
    "LeakyRelu": _leaky,
    "Elu": _leaky,
    "Abs": _abs,
    "Neg": _negate,
    "Clip": _clip,
    "Add": _add,
    "Sub": _subtract,
    "Sum": _add,
    "Mul": _multiply,
    "Div": _divide,
    "Pow": _pow,
    "Min": _extreme(min),
    "Max": _extreme(max),
    "Concat": _concat,
    "Where": _where,
    "Pad": _pad,
    "Constant": _constant,
    "Cast": _cast,
    "DequantizeLinear": _dequantize,
}
