"""Rank-one updates by stochastic pulse trains, after Gokmen & Vlasov 2016 (Front. Neurosci. 10:333).

For one position a row gets a train of ``length`` slots, each with a pulse of probability ``p = q |x| / max |x|``; a column one of
probability ``p' = q |d| / max |d|``. A device steps once for each slot in which both pulse, up where ``x d > 0``, else down. With
``q**2 = max |x| max |d| / (length * step)``, ``step`` the mean step of a pulse as a share of half the window, the mean number of
pulses is ``length p p' = |x d| / step``, and its variance ``length p p' (1 - p p')``. Scaling each side to its own largest value
is the update management of Gokmen, Onen & Haensch 2017 (Front. Neurosci. 11:538). Where q would pass 1 it is 1: trains are too
short for such an update, and the device moves less than asked.

Positions follow one another, and the slots of a train too: what a device does depends on the order of its ups and downs. The bits
of a train are keyed by update, position and line, the noise of a pulse by device and number of the pulse, as in
`cimc.runtime.pulses`. So the same bytes come out for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cimc.runtime import rng
from cimc.runtime.atomic import bound
from cimc.runtime.jit import kernel
from cimc.runtime.pulses import PulseWriter, moved
from cimc.runtime.rank_one import Vectors
from cimc.runtime.rng import Scalar
from cimc.runtime.team import Crew, crew, share
from cimc.runtime.write import F32, U32, Writes

Array = NDArray[Any]

#: Bytes of the trains that are made at a time.
_TRAINS_BYTES = 1 << 25
#: Slots of the longest train.
MOST = 32


@intrinsic
def _ones(_typing: Any, word: Any) -> Any:
    """Number of ones of a uint32."""

    def codegen(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(builder.ctpop(args[0]), ir.IntType(64))

    return types.int64(types.uint32), codegen


@kernel(error_model="numpy")
def _draw_trains(
    first: Scalar, end: Scalar, thread: Scalar, chance: Array, position: Scalar, seed: Scalar, length: Scalar, words: Array
) -> None:
    """Trains of some lines: bit k of a word is slot k. A chance is rounded to 16 bits at random, so its mean is kept."""
    slots = np.uint32((np.uint64(1) << np.uint64(length)) - np.uint64(1))
    for line in range(first, end):
        for n in range(chance.shape[1]):
            p = np.float64(abs(chance[line, n]))
            word = np.uint32(0)
            if p > 0:
                key = rng.mix64(rng.mix64(seed ^ np.uint64(position + n)) ^ np.uint64(line))
                low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
                dither = np.float64(rng.hash32(low, high, np.uint32(MOST))) * 2.0**-32
                limit = np.uint32(min(p, 1.0) * 65536.0 + dither)
                for k in range((length + 1) // 2):
                    bits = rng.hash32(low, high, np.uint32(k))
                    one = np.uint32((bits & np.uint32(0xFFFF)) < limit)
                    other = np.uint32((bits >> np.uint32(16)) < limit)
                    word |= (one | (other << np.uint32(1))) << np.uint32(2 * k)
            words[line, n] = word & slots


@kernel()
def _share_draw_trains(crew: Crew, chance: Array, position: Scalar, seed: Scalar, length: Scalar, words: Array) -> None:
    share(crew, chance.shape[0], bound(_draw_trains, (chance, position, seed, length, words)))


@kernel(error_model="numpy")
def _coincide(
    first: Scalar, end: Scalar, thread: Scalar, x: Array, x_words: Array, d: Array, d_words: Array, array: Scalar, pack: Scalar,
    g_us: Array, writes: Array, pulses: Array, endurance: Scalar, stuck: Array, response: Array, seed: Scalar, up: Scalar,
    down: Scalar, middle: Scalar, half: Scalar, cycle: Scalar, active: Array, counts: Array,
) -> None:  # fmt: skip
    """Pulses of the devices of some rows, ``first`` to ``end`` of all groups' rows."""
    rows, positions = x.shape[1], x.shape[2]
    columns = d.shape[1]
    planes = g_us.size // (x.shape[0] * rows * columns)
    one = np.float32(1)
    for item in range(first, end):
        g, r = divmod(item, rows)
        busy = 0
        for n in range(positions):
            if x_words[g, r, n] != 0:
                active[thread, busy] = n
                busy += 1
        block = r * pack // rows
        for c in range(columns * block // pack, columns * (block + 1) // pack):
            device = (item * planes + array) * columns + c
            own = response[device] if response.size > 0 else one
            fixed = stuck.size > 0 and stuck[device]
            u, given, worn = g_us[device] - middle, 0, 0
            used = np.int64(pulses[device] if pulses.size > 0 else writes[device])
            number = writes[device]
            for k in range(busy):
                n = active[thread, k]
                both = _ones(x_words[g, r, n] & d_words[g, c, n])
                rising = (x[g, r, n] > 0) == (d[g, c, n] > 0)
                for _ in range(both):
                    if used + given >= endurance:
                        worn += 1
                    elif not fixed:
                        u = moved(u, rising, own, seed, device, number, up, down, half, cycle)
                    number += np.uint32(1)
                    given += 1
            if given > 0:
                if worn < given and not fixed:
                    g_us[device] = middle + u
                writes[device] = number
                if pulses.size > 0:
                    pulses[device] += np.uint32(given)
                counts[thread, 0] += 1
                counts[thread, 1] += given
                counts[thread, 2] += worn


@kernel()
def _share_coincide(
    crew: Crew, x: Array, x_words: Array, d: Array, d_words: Array, array: Scalar, pack: Scalar, g_us: Array, writes: Array,
    pulses: Array, endurance: Scalar, stuck: Array, response: Array, seed: Scalar, up: Scalar, down: Scalar, middle: Scalar,
    half: Scalar, cycle: Scalar, counts: Array,
) -> None:  # fmt: skip
    active = np.empty((crew.helpers + 1, x.shape[2]), np.int64)
    arguments = (
        x, x_words, d, d_words, array, pack, g_us, writes, pulses, endurance, stuck, response, seed, up, down, middle, half,
        cycle, active, counts,
    )  # fmt: skip
    share(crew, x.shape[0] * x.shape[1], bound(_coincide, arguments))


@dataclass(frozen=True)
class Trains:
    """Trains of both sides at some positions."""

    x: F32
    """Chances of the rows, signed as x, ``[groups, rows, n]``."""
    x_words: U32
    d: F32
    """The same of the columns, ``[groups, columns, n]``."""
    d_words: U32

    def pulses(self, position: int, pack: int) -> NDArray[np.int32]:
        """Pulses of each weight at one position, ``[groups, rows, columns]``, up where positive."""
        both = self.x_words[:, :, None, position] & self.d_words[:, None, :, position]
        signs = np.sign(self.x[:, :, None, position] * self.d[:, None, :, position])
        counts: NDArray[Any] = np.bitwise_count(both) * signs * Vectors(self.x, self.d, pack).inside
        return counts.astype(np.int32)


class TrainWriter(PulseWriter):
    """Gives stochastic pulse trains to one array of each weight; arguments as of `PulseWriter`.

    Args:
        shape: Of the conductances, ``[groups, rows, planes, columns]``.
    """

    def __init__(self, *given: Any, shape: tuple[int, ...]) -> None:
        super().__init__(*given)
        self.shape = shape
        #: Mean step of a pulse at the middle of the window, as a share of half the window.
        self.step = float(self.up_us + self.down_us) / 2 / float(self.half_us)

    def devices_of(self, plane: int) -> NDArray[np.int64]:
        """Flat numbers of the devices of one device column of each weight, ``[groups, rows, columns]``."""
        return np.arange(self.g_us.size).reshape(self.shape)[:, :, plane]

    def train(self, array: int, vectors: Vectors, key: int, length: int) -> tuple[Writes, int]:
        """Move the weights of an array by ``sum of x d`` over positions, in mean and in units of half the window.

        Args:
            array: Number of the array; its first devices get the pulses.
            vectors: ``x``, and ``d`` in the place of ``delta``.
            key: Of this update of this layer.
            length: Slots of a train, at most `MOST`.

        Returns:
            What it cost, the time that of all devices of a layer at once, and positions whose trains were too short.
        """
        total, clipped, positions, pack = Writes(), 0, vectors.x.shape[2], vectors.pack
        lines = vectors.x.shape[0] * (vectors.x.shape[1] + vectors.delta.shape[1])
        at_once = max(1, _TRAINS_BYTES // (8 * lines))
        for begin in range(0, positions, at_once):
            part = slice(begin, begin + at_once)
            trains, too_short = self._drawn(vectors.x[:, :, part], vectors.delta[:, :, part], begin, key, length)
            clipped += too_short
            total += self._compiled(array, trains, pack) if self.compiled else self._by_model(array, trains, pack)
        self.touched = self.devices_of(array).reshape(-1)
        pulse_ns = self.device.pulse.pulse_ns
        total.time_ns = None if pulse_ns is None else positions * pack * length * pulse_ns
        return total, clipped

    def _drawn(self, x: F32, d: F32, position: int, key: int, length: int) -> tuple[Trains, int]:
        largest = [np.abs(side).max(axis=1, keepdims=True, initial=0) for side in (x, d)]
        q = np.sqrt(largest[0].astype(np.float64) * largest[1] / (length * self.step))
        clipped = int((q > 1).any(axis=0).sum())
        sides: list[Any] = []
        for name, side, most in zip(("rows", "columns"), (x, d), largest, strict=True):
            chance = np.ascontiguousarray(side * (np.minimum(q, 1) / np.where(most > 0, most, 1)), np.float32)
            words = np.empty(chance.shape, np.uint32)
            flat, seed = chance.reshape(-1, chance.shape[2]), np.uint64(rng.key(key, name))
            _share_draw_trains(crew(), flat, position, seed, length, words.reshape(flat.shape))
            sides += [chance, words]
        return Trains(*sides), clipped

    def _compiled(self, array: int, trains: Trains, pack: int) -> Writes:
        team = crew()
        counts = np.zeros((team.helpers + 1, 3), np.int64)
        pulses = np.zeros(0, np.uint32) if self.pulses is None else self.pulses
        b = self.blind
        _share_coincide(
            team, trains.x, trains.x_words, trains.d, trains.d_words, array, pack, self.g_us, self.writes, pulses,
            self.endurance, self.stuck, self.responses(b.spread), self.seed, b.up_us, b.down_us, b.middle_us, b.half_us,
            b.cycle, counts,
        )  # fmt: skip
        updates, given, worn = counts.sum(axis=0).tolist()
        energy_nj = self.device.pulse.pulse_energy_nj
        return Writes(updates, given, given, worn=worn, energy_nj=None if energy_nj is None else given * energy_nj)

    def _by_model(self, array: int, trains: Trains, pack: int) -> Writes:
        """Position after position, for any device model."""
        total, devices = Writes(), self.devices_of(array)
        pulsed = np.zeros(devices.shape, np.bool_)
        for position in range(trains.x.shape[2]):
            pulses = trains.pulses(position, pack)
            some = pulses != 0
            total += self.pulse(devices[some], pulses[some])
            pulsed |= some
        total.updates = int(pulsed.sum())
        return total
