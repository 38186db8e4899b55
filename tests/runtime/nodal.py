"""The oracle of wires: Kirchhoff's current law at every node of an array, solved as one dense system."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.targets.description import Wires

F64 = NDArray[np.float64]

#: Stands for no resistance where a node is to be kept.
_SHORT_S = 1e4


def transfer_us(g_us: F64, wires: Wires, words: NDArray[np.int64] | None = None, bits: NDArray[np.int64] | None = None) -> F64:
    """Current of each sensed bit line per volt at each driven word line, µS.

    Args:
        g_us: Of the whole array, ``[rows, columns]``.
        wires: Its resistances.
        words: Word lines of the block; all others are held at 0 V along their whole length. None: all.
        bits: Bit lines likewise.

    Returns:
        ``[words, bits]``.
    """
    rows, columns = g_us.shape
    words = np.arange(rows) if words is None else words
    bits = np.arange(columns) if bits is None else bits
    numbers: dict[object, int] = {}

    def node(*name: object) -> int:
        return numbers.setdefault(name, len(numbers))

    edges: list[tuple[int, int, float]] = []
    ground = node("ground")
    for r in words:
        node("source", r)
    for c in bits:
        node("sense", c)
    terminals = len(numbers)

    def word(r: int, c: int) -> int:
        return node("word", r, c) if r in words else ground

    def bit(r: int, c: int) -> int:
        return node("bit", r, c) if c in bits else ground

    def siemens(ohm: float) -> float:
        return 1 / ohm if ohm else _SHORT_S

    edges += [(word(r, c), bit(r, c), g_us[r, c] * 1e-6) for r in range(rows) for c in range(columns)]
    for r in words:
        edges += [(word(r, c), word(r, c + 1), siemens(wires.row_segment_ohm)) for c in range(columns - 1)]
        end = siemens(wires.driver_ohm + wires.row_segment_ohm)
        edges += [(node("source", r), word(r, 0), end)] * (wires.driven_from != "right")
        edges += [(node("source", r), word(r, columns - 1), end)] * (wires.driven_from != "left")
    for c in bits:
        edges += [(bit(r, c), bit(r + 1, c), siemens(wires.column_segment_ohm)) for r in range(rows - 1)]
        end = siemens(wires.sense_ohm + wires.column_segment_ohm)
        edges += [(node("sense", c), bit(0, c), end)] * (wires.sensed_from != "bottom")
        edges += [(node("sense", c), bit(rows - 1, c), end)] * (wires.sensed_from != "top")
    laplacian = np.zeros((len(numbers), len(numbers)))
    for a, b, s in edges:
        laplacian[[a, b], [a, b]] += s
        laplacian[[a, b], [b, a]] -= s
    outer, inner = slice(0, terminals), slice(terminals, None)
    response = laplacian[outer, outer] - laplacian[outer, inner] @ np.linalg.solve(
        laplacian[inner, inner], laplacian[inner, outer]
    )
    return -response[1 : 1 + len(words), 1 + len(words) :] * 1e6
