"""What update rules have in common that move weights from one of their arrays to another, a few rows at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes, writer
from cimc.targets.description import Target
from cimc.targets.update_sections import TransferUpdate
from cimc.training.accumulator import F32, LayerState
from cimc.training.rules.pulsed import Pulsed

I64 = NDArray[np.int64]

#: Rows that are read at a time where all are.
_ROWS = 256


class Transfer(Pulsed):
    """Reads of arrays, transfers, zero-shifting."""

    Section: type[TransferUpdate] = TransferUpdate

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        update = target.update
        assert isinstance(update, self.Section)
        self.every, self.rows, self.rate = update.transfer_every, update.transfer_rows, update.transfer_lr
        self.zero_shift_pulses = update.zero_shift_pulses

    def begin(self, state: LayerState) -> None:
        """Also the row of each array at which its next transfer begins."""
        super().begin(state)
        state.own["row"] = np.zeros(len(self.shares), np.int64)

    def is_due(self, state: LayerState, every: int) -> bool:
        """Whether a transfer that comes every so many updates belongs to this one."""
        return (int(state.own["step"][0]) + 1) % every == 0

    def next_rows(self, state: LayerState, array: int) -> I64:
        """The rows that a transfer from an array reads, ``[k]``; the next one goes on behind them."""
        total, first = state.weights.shape[1], int(state.own["row"][array])
        rows: I64 = (first + np.arange(min(self.rows, total))) % total
        state.own["row"][array] = (first + rows.size) % total
        return rows

    def read(self, state: LayerState, array: int, rows: I64, writer: TrainWriter, reader: RowReader) -> F32:
        """Weights of an array as one read shows them, ``[groups, k, columns]``, in units of half the window."""
        return reader.read(array, rows, self.key(state, writer, f"read {array}"))

    def move(self, state: LayerState, source: int, pack: int, writer: TrainWriter, reader: RowReader) -> Writes:
        """Read rows of an array, and move the next coarser one by ``transfer_lr`` times what was read, by pulse trains.

        Args:
            state: Of the layer.
            source: Number of the array that is read.
            pack: As of `Vectors`.
            writer: Of the layer.
            reader: Likewise.
        """
        rows = self.next_rows(state, source)
        change = np.float32(self.rate) * self.read(state, source, rows, writer, reader)
        one_row = np.zeros((*state.weights.shape[:2], rows.size), np.float32)
        one_row[:, rows, np.arange(rows.size)] = 1
        steps = Vectors(one_row, np.ascontiguousarray(change.swapaxes(1, 2)), pack)
        return self.train(state, source - 1, steps, writer, f"transfer {source}")

    def zero_shift(self, state: LayerState, trains: TrainWriter, reader: RowReader) -> Writes:
        """Bring all arrays but the first to their symmetry points, before the first update, and set their references there.

        Ups and downs in turn lead a device to the conductance at which both steps are equal (Kim et al. 2019, arXiv
        1907.10228). One read of it is the goal of its reference, which is written as ``update.programming`` says.
        """
        total = Writes()
        if state.own["step"][0] or not self.zero_shift_pulses:
            return total
        references = writer(self.target, trains.g_us, trains.writes, trains.device_seed, state=trains.state, pulses=trains.pulses)
        for array in range(1, len(self.shares)):
            devices = trains.devices_of(array).reshape(-1)
            for up in (1, -1) * self.zero_shift_pulses:
                total += trains.pulse(devices, np.full(devices.size, up, np.int32))
            goals = np.empty(state.weights.shape, np.float32)
            for begin in range(0, state.weights.shape[1], _ROWS):
                rows = np.arange(begin, min(begin + _ROWS, state.weights.shape[1]))
                goals[:, rows] = reader.conductances(array, rows, self.key(state, trains, f"zero {array} {begin}"))
            total += references.write(trains.devices_of(len(self.shares) + array).reshape(-1), goals.reshape(-1))
        total.updates = 0
        return total
