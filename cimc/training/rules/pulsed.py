"""Stochastic gradient descent on the array itself, by stochastic pulse trains (Gokmen & Vlasov 2016, Front. Neurosci. 10:333).

For each position of a batch the rows of the array get pulse trains for the inputs x, the columns trains for the gradients δ, and
where both pulse a device steps: in mean ``ΔW = -lr x δ`` at the middle of the window (`cimc.runtime.pulse_trains`). No
gradient of the weights is ever formed. Each weight has a device that is pulsed and a reference that is subtracted. A step up and
a step down cancel at the symmetry point of the device only, so pulses draw weights there: the bias that `transfer` avoids.

Rules that take vectors share this class. What the devices hold, without read noise, counts as the digital copy W: it serves the
digital backward pass and the export. An analog backward pass reads the array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cimc.runtime import rng
from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.pulse_trains import TrainWriter
from cimc.runtime.pulses import pulse_steps
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes
from cimc.targets.description import Target
from cimc.targets.update_sections import PulsedUpdate
from cimc.training.accumulator import F32, LayerState, WeightDevices


class Pulsed:
    """The update rule of one target, on one array.

    Raises:
        TargetError: The target does not describe blind pulses.
    """

    stateless = True
    takes = "vectors"
    Section: type[PulsedUpdate] = PulsedUpdate

    def __init__(self, target: Target) -> None:
        pulse_steps(target)
        update = target.update
        assert isinstance(update, self.Section)
        self.target, self.code, self.shares, self.length = target, WeightDevices.of(target), update.shares, update.pulse_train

    def begin(self, state: LayerState) -> None:
        """Numbers so far: of updates, of trains' positions, and of those whose trains were too short."""
        state.own |= {name: np.zeros(1, np.int64) for name in ("step", "trains", "short_trains")}

    def writer(
        self, state: LayerState, g_us: F32, seed: int, keys: Keys | None = None, devices: State | None = None
    ) -> TrainWriter:
        """The writer that `apply` takes; see `Threshold.writer`."""
        return TrainWriter(self.target, g_us, state.writes, seed, keys, devices, state.pulses, shape=g_us.shape)

    def apply(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter, reader: RowReader) -> Writes:
        """One update by the vectors of a batch."""
        done = self.update(state, vectors, lr, writer, reader)
        state.own["step"] += 1
        g_us = writer.present_us().reshape(writer.shape)
        state.weights[...] = self.code.held(g_us, state.w_max)
        state.weights *= vectors[0].inside
        return done

    def update(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter, reader: RowReader) -> Writes:
        """What an update does to the devices."""
        return self.descend(state, vectors, lr, writer)

    def descend(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: TrainWriter) -> Writes:
        """The gradient's step, to the last array: ``-lr x δ``, in mean and in weights of that array."""
        total = Writes()
        for number, part in enumerate(vectors):
            steps = Vectors(part.x, part.delta * (np.float32(-lr) / state.w_max)[:, :, None], part.pack)
            total += self.train(state, len(self.shares) - 1, steps, writer, f"gradient {number}")
        return total

    def train(self, state: LayerState, array: int, steps: Vectors, writer: TrainWriter, purpose: str) -> Writes:
        """Pulse trains for steps in units of half the window."""
        done, short = writer.train(array, steps, self.key(state, writer, purpose), self.length)
        state.own["trains"] += steps.x.shape[2]
        state.own["short_trains"] += short
        return done

    def key(self, state: LayerState, writer: TrainWriter, purpose: str) -> int:
        """Of what this update draws for a purpose."""
        return rng.key(writer.device_seed, purpose, int(state.own["step"][0]))
