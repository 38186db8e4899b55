"""Effective conductances of arrays and of blocks in them, by the solver that the target names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.team import crew
from cimc.runtime.wires import exact, fast
from cimc.runtime.wires.lines import Line
from cimc.targets.description import Wires
from cimc.threads import parallel

Array = NDArray[Any]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

#: Cells that one thread solves alone.
_FEW = 1 << 13


@dataclass(frozen=True)
class Block:
    """Cells at the crossings of some word lines and bit lines of an array."""

    row_at: I64
    """``[word lines]``: where the row of each starts in the flat conductances."""
    column_at: I64
    """``[bit lines]``: offset of each in a row."""
    word_line: Line
    bit_line: Line

    @classmethod
    def of(
        cls, row_at: I64, column_at: I64, words: I64, bits: I64, shape: tuple[int, int], wires: Wires, other_us: float
    ) -> Block:
        """A block of an array.

        Args:
            row_at: See above.
            column_at: See above.
            words: Which word lines of the array the rows are.
            bits: Which bit lines the columns are.
            shape: Word lines and bit lines of the array.
            wires: Its resistances.
            other_us: Conductance of all cells that are not of the block; their other lines are at 0 V.
        """
        by_word, by_bit = np.argsort(words), np.argsort(bits)
        driven = wires.driven_from != "right", wires.driven_from != "left"
        sensed = wires.sensed_from != "bottom", wires.sensed_from != "top"
        return cls(
            row_at[by_word],
            column_at[by_bit],
            _line(_bytes(bits[by_bit]), shape[1], wires.row_segment_ohm, wires.driver_ohm, driven, other_us),
            _line(_bytes(words[by_word]), shape[0], wires.column_segment_ohm, wires.sense_ohm, sensed, other_us),
        )


def _bytes(positions: I64) -> bytes:
    return positions.astype(np.int64).tobytes()


@lru_cache(maxsize=1024)
def _line(positions: bytes, *arguments: Any) -> Line:
    """As `Line.of`. Most blocks of a layer lie alike, and have the same lines."""
    return Line.of(np.frombuffer(positions, np.int64), *arguments)


class Solver:
    """Effective conductances of fixed blocks.

    Args:
        blocks: No cell belongs to two of them.
        wires: Names the solver.
    """

    def __init__(self, blocks: Sequence[Block], wires: Wires) -> None:
        self._exact = wires.solver == "exact"
        self._blocks = blocks
        places, lines, table = [np.zeros(0, np.int64)], [np.zeros(0)], []
        at = [0, 0]
        for block in blocks:
            first, second = (block.row_at, block.word_line), (block.column_at, block.bit_line)
            # The network is reciprocal. Rounding does not decide between lines that drop alike.
            if first[1].drop_mohm > second[1].drop_mohm * (1 + 1e-6):
                first, second = second, first
            table.append((len(first[0]), len(second[0]), *at))
            places += [first[0], second[0]]
            lines += [first[1].series_mohm, first[1].leak_us, second[1].series_mohm, second[1].leak_us]
            at = [at[0] + sum(map(len, places[-2:])), at[1] + sum(map(len, lines[-4:]))]
        self._table = np.array(table, np.int64).reshape(-1, 4)
        self._places, self._lines = np.concatenate(places), np.concatenate(lines)

    def solve(self, g_us: F32, out: F32, which: I64 | None = None) -> None:
        """Write effective conductances into ``out``.

        Args:
            g_us: Conductances, µS, flat.
            out: The same form; cells of no block stay as they are.
            which: Numbers of the blocks to solve; None: all.
        """
        if not self._exact:
            table = self._table if which is None else self._table[which]
            few = int(table[:, 0] @ table[:, 1]) < _FEW
            fast.transfer(crew(1 if few else None), g_us, table, self._places, self._lines, out)
            return
        blocks = self._blocks if which is None else [self._blocks[n] for n in which]

        def one(number: int) -> None:
            block = blocks[number]
            cells = block.row_at[:, None] + block.column_at
            out[cells] = exact.transfer_us(g_us[cells], block.word_line, block.bit_line)

        parallel(one, len(blocks))


def effective_us(g_us: Array, wires: Wires) -> F32:
    """Effective conductances of whole arrays: with word lines at voltages V, the bit lines' currents are ``V @ effective``.

    Args:
        g_us: Conductances, µS, ``[..., word lines, bit lines]``, finite and not negative.
        wires: Resistances, and the solver.

    Returns:
        The same shape, float32.
    """
    g = np.ascontiguousarray(g_us, np.float32)
    rows, columns = g.shape[-2:]
    words, bits = np.arange(rows), np.arange(columns)
    one = Block.of(words * columns, bits, words, bits, (rows, columns), wires, 0.0)
    blocks = [replace(one, row_at=one.row_at + n * rows * columns) for n in range(g.size // max(1, rows * columns))]
    out = np.empty_like(g)
    Solver(blocks, wires).solve(g.reshape(-1), out.reshape(-1))
    return out
