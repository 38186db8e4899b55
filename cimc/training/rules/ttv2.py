"""Tiki-Taka with a digital buffer, TTv2 (Gokmen 2021, Front. Artif. Intell. 4:699148): H filters what A shows before C is pulsed.

::

    A    <-  A - lr x δ                              each update, by pulse trains
    H_r  <-  H_r + transfer_lr read(A_r)             every transfer_every updates, the next row r
    n     =  trunc(H_r / h);  H_r <- H_r - n h;  C_r gets n pulses, at most pulse_train
    W     =  C + gamma A

h is ``buffer_share`` of the largest weight, by default the mean step of a pulse. H is digital, one number for each weight; it
stands in the place of ΔW. Reads of A that are noise average out in it and never become pulses.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes
from cimc.targets.description import Target
from cimc.targets.update_sections import Ttv2Update
from cimc.training.accumulator import LayerState
from cimc.training.rules.transfer import Transfer


class Ttv2(Transfer):
    """The update rule of one target, on two arrays: C is the first, A the second."""

    Section = Ttv2Update

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        update = target.update
        assert isinstance(update, Ttv2Update)
        self.buffer_share = update.buffer_share

    def update(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter, reader: RowReader) -> Writes:
        done = self.zero_shift(state, writer, reader)
        done += self.descend(state, vectors, lr, writer)
        if not self.is_due(state, self.every):
            return done
        rows = self.next_rows(state, 1)
        span = state.w_max[:, None]
        buffer = state.delta[:, rows] + np.float32(self.rate) * self.read(state, 1, rows, writer, reader) * span
        step = np.float32(self.buffer_share or writer.step) * span
        pulses = np.clip(np.trunc(buffer / step), -self.length, self.length)
        inside = vectors[0].inside[rows]
        pulses *= inside  # between packed groups there is no weight of the model
        state.delta[:, rows] = (buffer - pulses * step) * inside
        some = pulses != 0
        moved = writer.pulse(writer.devices_of(0)[:, rows][some], pulses[some].astype(np.int32))
        moved.updates = int(some.sum())
        return done + moved
