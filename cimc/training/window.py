"""Which weight spans the conductance window while a layer trains."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.errors import CimcError
from cimc.ir.program import Layer, Program

F32 = NDArray[np.float32]

#: End of He's normal initialisation where it is truncated at two deviations and keeps the variance 2 / fan_in.
HE_TRUNCATED = 2 / 0.8796256610342398

#: A weight that no training reaches: the ideal target clips nothing.
_NO_END = 1e6
#: Weights count as at least this part of He's deviation: those that begin near 0 need room to grow.
_ROOM = 1 / 4


@dataclass(frozen=True)
class Window:
    """Which weight spans the conductance window; nothing given: the target's ``update.window_he``, else the program's scale.

    Raises:
        CimcError: Both are given, or one is out of range.
    """

    he: float | None = None
    """In units of the RMS weight of the layer, or of each column where ``weights.scale`` is column; where no weights are
    programmed, of ``sqrt(2 / fan_in)``. See `span_of`."""
    w_max: float | None = None
    """The weight itself, the same in every layer."""

    def __post_init__(self) -> None:
        if self.he is not None and self.w_max is not None:
            raise CimcError("both window and w_max say which weight spans the window", fix="give one of them")
        for name, value in (("window", self.he), ("w_max", self.w_max)):
            if value is not None:
                within(name, value, 1e-6, 1e6)


def span_of(program: Program, layer: Layer, window: Window, matrix: NDArray[np.float32] | None) -> F32:
    """The weight that spans the window, ``[1]`` or one a column, repeats left out.

    Where weights are programmed it is the larger of two: ``window.he`` times their RMS, and the span that the program was
    compiled with, which keeps the few large weights of a sparse layer. Their RMS counts as at least a quarter of He's
    deviation. Where W is read from the devices it is ``window.he`` times ``sqrt(2 / fan_in)``.

    Args:
        program: Gives target and the compiled span.
        layer: Its rows are the fan-in.
        window: See `Window`.
        matrix: What it must hold, ``[groups, rows, columns]``, 0 between packed groups; None: nothing yet.
    """
    target = program.target
    if target.is_ideal:
        return np.full(1, _NO_END, np.float32)
    if window.w_max is not None:
        return np.full(1, window.w_max, np.float32)
    factor = target.update.window_he if window.he is None else window.he
    unit = sqrt(2 / layer.weight.shape[1])
    compiled = np.array(layer.repeats.of_columns(program.tensors[f"weight_max/{layer.name}"], layer.groups), np.float32)
    if factor is None:
        compiled[compiled == 0] = compiled.max() or unit  # weights that are all 0 need room to grow
        return compiled
    if matrix is None or not matrix.size:
        return np.full(1, factor * unit, np.float32)
    square = np.einsum("grc,grc->gc", matrix, matrix, dtype=np.float64) / layer.weight.shape[1]
    rms = np.sqrt(square.reshape(-1) if target.weights.scale == "column" else square.mean(keepdims=True).reshape(1))
    span: F32 = np.maximum(factor * np.maximum(rms, _ROOM * unit), compiled).astype(np.float32)
    return span
