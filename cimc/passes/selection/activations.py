"""The activations that ONNX lists for recurrent operators, as nodes of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from cimc.passes.selection.site import Site, StaysDigital

#: name in lower case -> ONNX operator and the defaults of alpha and beta; None: ONNX gives none.
_PLAIN = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softsign": "Softsign", "softplus": "Softplus"}
_WITH_ALPHA = {"leakyrelu": ("LeakyRelu", 0.01), "thresholdedrelu": ("ThresholdedRelu", 1.0), "elu": ("Elu", 1.0)}


@dataclass
class Writer:
    """Digital nodes of one user's node, with numbered names."""

    site: Site
    prefix: str
    dtype: ir.DataType
    count: int = 0

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int, **attributes: object) -> list[ir.Value]:
        self.count += 1
        return self.site.op(op_type, inputs, f"{self.prefix}/{op_type.lower()}_{self.count}", attributes, outputs)

    def one(self, op_type: str, *inputs: ir.Value | None, **attributes: object) -> ir.Value:
        """A node of one output."""
        return self.op(op_type, inputs, 1, **attributes)[0]

    def scalar(self, value: float) -> ir.Value:
        return self.site.constant(np.array(value, self.dtype.numpy()), f"{self.prefix}/constant")

    def scalar_int(self, value: int) -> ir.Value:
        return self.site.constant(np.array(value, np.int64), f"{self.prefix}/int")

    def ints(self, *values: int) -> ir.Value:
        return self.site.constant(np.array(values, np.int64), f"{self.prefix}/ints")

    def split(self, value: ir.Value, sizes: Sequence[int], axis: int) -> list[ir.Value]:
        if len(sizes) == 1:
            return [value]
        if self.site.opset < 13:
            return self.op("Split", [value], len(sizes), axis=axis, split=list(sizes))
        return self.op("Split", [value, self.ints(*sizes)], len(sizes), axis=axis)

    def unsqueeze(self, value: ir.Value, axis: int) -> ir.Value:
        if self.site.opset < 13:
            return self.one("Unsqueeze", value, axes=[axis])
        return self.one("Unsqueeze", value, self.ints(axis))

    def clip(self, value: ir.Value, limit: float) -> ir.Value:
        if limit <= 0:
            return value
        if self.site.opset < 11:
            return self.one("Clip", value, min=-limit, max=limit)
        return self.one("Clip", value, self.scalar(-limit), self.scalar(limit))


Activation = Callable[[Writer, ir.Value], ir.Value]


def activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], opset: int) -> list[Activation]:
    """The activations of a node; alphas and betas are taken in order by those that have one.

    Raises:
        StaysDigital: An activation that ONNX does not list, or that needs a value ONNX gives no default for.
    """
    alpha_queue, beta_queue = list(alphas), list(betas)

    def take(queue: list[float], default: float | None, what: str) -> float:
        if queue:
            return queue.pop(0)
        if default is None:
            raise StaysDigital(f"its activation {what}, for which ONNX has no default")
        return default

    found: list[Activation] = []
    for name in names:
        key = name.lower()
        if key in _PLAIN:
            found.append(_node(_PLAIN[key]))
        elif key in _WITH_ALPHA:
            op_type, default = _WITH_ALPHA[key]
            if key == "thresholdedrelu" and opset < 10:
                raise StaysDigital(f"its activation {name} is no operator at opset {opset}")
            found.append(_node(op_type, alpha=take(alpha_queue, default, name)))
        elif key == "hardsigmoid":
            found.append(_node("HardSigmoid", alpha=take(alpha_queue, 0.2, name), beta=take(beta_queue, 0.5, name)))
        elif key in ("affine", "scaledtanh"):
            alpha, beta = take(alpha_queue, None, f"{name} has no alpha"), take(beta_queue, None, f"{name} has no beta")
            found.append(_affine(alpha, beta) if key == "affine" else _scaled_tanh(alpha, beta))
        else:
            raise StaysDigital(f"its activation {name} is none that ONNX lists")
    return found


def _node(op_type: str, **attributes: float) -> Activation:
    return lambda writer, x: writer.one(op_type, x, **attributes)


def _affine(alpha: float, beta: float) -> Activation:
    return lambda w, x: w.one("Add", w.one("Mul", x, w.scalar(alpha)), w.scalar(beta))


def _scaled_tanh(alpha: float, beta: float) -> Activation:
    return lambda w, x: w.one("Mul", w.one("Tanh", w.one("Mul", x, w.scalar(beta))), w.scalar(alpha))
