"""Residual learning over several arrays (Li et al. 2025, arXiv 2510.02516): each array learns what the coarser ones leave.

::

    W        =   sum over n of gamma**n W(n),  n from 0 to arrays - 1
    W(last) <-   W(last) - lr / gamma**(arrays - 1) x δ         each update, by pulse trains: W itself moves by -lr x δ
    W(n-1)_r <-  W(n-1)_r + transfer_lr read(W(n)_r)            the next row r of each array n > 0, by pulse trains

Rows of the last array are moved every ``transfer_every`` updates, those of each coarser one ``1 / gamma`` times as seldom. A
transfer takes nothing off the array that was read: the gradient does so, as the sum then passes its goal. A pulse on the last
array moves W by ``gamma**(arrays - 1)`` of a step, so devices of few states make up weights of many.
"""

from __future__ import annotations

from collections.abc import Sequence

from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes
from cimc.targets.description import Target
from cimc.targets.update_sections import ResidualArraysUpdate
from cimc.training.accumulator import LayerState
from cimc.training.rules.transfer import Transfer


class ResidualArrays(Transfer):
    """The update rule of one target; the first array is the coarsest."""

    Section = ResidualArraysUpdate

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        update = target.update
        assert isinstance(update, ResidualArraysUpdate)
        self.gamma = update.gamma

    def update(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter, reader: RowReader) -> Writes:
        done = self.zero_shift(state, writer, reader)
        last = len(self.shares) - 1
        done += self.descend(state, vectors, lr / self.shares[last], writer)
        for array in range(last, 0, -1):
            if self.is_due(state, round(self.every / self.gamma ** (last - array))):
                done += self.move(state, array, vectors[0].pack, writer, reader)
        return done
