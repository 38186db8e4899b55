"""One step of an LSTM, GRU or RNN as digital nodes around the products.

``None`` stands for a state of zeros: the first step without an initial state needs no product. Equations and gate orders
are those of the ONNX operators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from cimc.passes.selection.activations import Activation, Writer

Product = Callable[[ir.Value], ir.Value]


@dataclass
class Cell:
    """One direction of a recurrent node. ``recur`` is the product with R, all gates of it."""

    writer: Writer
    hidden: int
    functions: Sequence[Activation]
    recur: Product
    clip: float = 0.0
    recur_bias: ir.Value | None = None
    """Bias that belongs to the product with R and cannot be added beforehand."""
    peephole: Sequence[ir.Value] = field(default_factory=tuple)
    input_forget: bool = False
    linear_before_reset: bool = False

    def _activate(self, which: int, value: ir.Value) -> ir.Value:
        return self.functions[which](self.writer, self.writer.clip(value, self.clip))

    def _gates(self, value: ir.Value, count: int) -> list[ir.Value]:
        return self.writer.split(value, [self.hidden] * count, 2)

    def rnn(self, x: ir.Value, h: ir.Value | None) -> ir.Value:
        """``f(x W + h R + b)``."""
        total = x if h is None else self.writer.one("Add", x, self.recur(h))
        return self._activate(0, total)

    def lstm(self, x: ir.Value, h: ir.Value | None, c: ir.Value | None) -> tuple[ir.Value, ir.Value]:
        """Gates in the order i, o, f, c; peepholes i, o, f."""
        w = self.writer
        i, o, f, g = self._gates(x if h is None else w.one("Add", x, self.recur(h)), 4)
        if self.peephole and c is not None:
            i = w.one("Add", i, w.one("Mul", self.peephole[0], c))
            f = w.one("Add", f, w.one("Mul", self.peephole[2], c))
        i = self._activate(0, i)
        state = w.one("Mul", i, self._activate(1, g))
        if c is not None:
            f = w.one("Sub", w.scalar(1.0), i) if self.input_forget else self._activate(0, f)
            state = w.one("Add", w.one("Mul", f, c), state)
        if self.peephole:
            o = w.one("Add", o, w.one("Mul", self.peephole[1], state))
        # As in ONNX Runtime, the clip holds for the gates and not for the state.
        return w.one("Mul", self._activate(0, o), self.functions[2](w, state)), state

    def gru(self, x: ir.Value, h: ir.Value | None) -> ir.Value:
        """Gates in the order z, r, h. With the reset before the product, the candidate takes a second one."""
        w, size = self.writer, self.hidden
        if h is None and self.recur_bias is None:
            z, _, candidate = self._gates(x, 3)
            z, candidate = self._activate(0, z), self._activate(1, candidate)
            return w.one("Mul", w.one("Sub", w.scalar(1.0), z), candidate)
        xz, xr, xh = self._gates(x, 3)
        if h is None:
            hz, hr, hh = w.split(self.recur_bias, [size] * 3, 0)  # type: ignore[arg-type]
        else:
            product = self.recur(h)
            hz, hr, hh = self._gates(product if self.recur_bias is None else w.one("Add", product, self.recur_bias), 3)
        z = self._activate(0, w.one("Add", xz, hz))
        r = self._activate(0, w.one("Add", xr, hr))
        if h is not None and not self.linear_before_reset:
            hh = self._gates(self.recur(w.one("Mul", r, h)), 3)[2]
        else:
            hh = w.one("Mul", r, hh)
        candidate = self._activate(1, w.one("Add", xh, hh))
        new = w.one("Mul", w.one("Sub", w.scalar(1.0), z), candidate)
        return new if h is None else w.one("Add", new, w.one("Mul", z, h))
