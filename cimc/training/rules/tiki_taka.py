"""Tiki-Taka (Gokmen & Haensch 2020, Front. Neurosci. 14:103): gradients are gathered in an array A, and moved to an array C.

::

    A    <-  A - lr x δ                              each update, by pulse trains
    C_r  <-  C_r + transfer_lr read(A_r)             every transfer_every updates, the next row r, by pulse trains
    W     =  C + gamma A

A is drawn to its symmetry point by the same pulses that carry the gradient. Where that point is its zero, A shows the gradient of
the last updates and no bias, so C goes on moving until the mean gradient is 0. ``zero_shift_pulses`` puts A's zero there.
"""

from __future__ import annotations

from collections.abc import Sequence

from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes
from cimc.training.accumulator import LayerState
from cimc.training.rules.transfer import Transfer


class TikiTaka(Transfer):
    """The update rule of one target, on two arrays: C is the first, A the second."""

    def update(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter, reader: RowReader) -> Writes:
        done = self.zero_shift(state, writer, reader)
        done += self.descend(state, vectors, lr, writer)
        if self.is_due(state, self.every):
            done += self.move(state, 1, vectors[0].pack, writer, reader)
        return done
