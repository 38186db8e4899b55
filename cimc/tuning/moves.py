"""Steps from one candidate to the next, ranked by what the closed form of the error expects of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cimc.ir.blocks import block_shape
from cimc.ir.cost import macs_by_layer
from cimc.ir.program import Layer, Program
from cimc.passes.base import Compilation
from cimc.passes.forecast import layer_power, output_errors
from cimc.passes.repeated_error import repeated_error
from cimc.passes.tile import cut
from cimc.tuning.candidate import Candidate

#: Repeats of a layer at most: beyond that another chip is the better choice.
MOST = 16
#: What a move costs at least, as a share of the whole: a choice that costs nothing more is still a more complicated program.
_LEAST_PRICE = 0.01
#: Price of digital work, as a share of the work that becomes digital.
_DIGITAL_PRICE = 4.0
#: A move has to take off this share of the error.
_LEAST_GAIN = 0.002


@dataclass(frozen=True)
class Move:
    """One step, with the share of the output's error that it is expected to take off, and what it costs as a share."""

    layer: str
    kind: str
    """rows, columns or reads, twice as often as before; or digital."""
    gain: float
    price: float
    after: Candidate
    error: float
    """The layer's own part of the output's error afterwards."""

    @property
    def what(self) -> str:
        """The move in words."""
        if self.kind == "digital":
            return f"{self.layer} digital"
        return f"{self.kind} of {self.layer} {getattr(self.after.repeats[self.layer], self.kind)} times"


class Expected:
    """What each layer contributes to the error of the outputs, and what other repeats would make of it.

    Args:
        state: A compilation of a candidate, forecast included.
        candidate: That candidate.

    Raises:
        RunError: ONNX Runtime does not run the network with errors.
    """

    def __init__(self, state: Compilation, candidate: Candidate) -> None:
        self.state, self.program, self.candidate = state, state.need_program(), candidate
        self.errors = output_errors(state)
        self._start = dict(self.errors)
        samples = state.samples
        self._own = {layer.name: layer_power(self.program, layer, samples[layer.name]).share for layer in self.program.layers}
        self._macs = macs_by_layer(self.program)

    @property
    def total(self) -> float:
        """Error power over signal power at the outputs, layers taken for independent."""
        return sum(self.errors.values())

    def best(self, *, digital: bool, dead: set[tuple[str, str]]) -> Move | None:
        """The move with the most gain for its price; None: none takes off enough.

        Args:
            digital: Whether layers may become digital.
            dead: Pairs of layer and kind of move that are not possible.
        """
        found = [move for move in self._moves(digital=digital, dead=dead) if move.gain > _LEAST_GAIN]
        return max(found, key=lambda move: move.gain / move.price, default=None)

    def take(self, move: Move) -> None:
        """Let the move be made."""
        self.candidate = move.after
        self.errors[move.layer] = move.error

    def _moves(self, *, digital: bool, dead: set[tuple[str, str]]) -> Iterator[Move]:
        total = self.total
        if total <= 0:
            return
        for layer in self.program.layers:
            if layer.name in self.candidate.digital:
                continue
            now = self.candidate.repeats.get(layer.name, layer.repeats)
            for word in ("rows", "columns", "reads"):
                count = 2 * getattr(now, word)
                if (layer.name, word) in dead or count > MOST:
                    continue
                wanted = now.model_copy(update={word: count})
                found = repeated_error(self.state, layer, wanted)
                if found is None:
                    continue
                changed, share = found
                error = self._at_output(layer.name, share)
                after = replace(self.candidate, repeats={**self.candidate.repeats, layer.name: wanted})
                price = self._price(layer.model_copy(update={"repeats": now}), changed)
                yield Move(layer.name, word, (self.errors[layer.name] - error) / total, price, after, error)
            if digital and (layer.name, "digital") not in dead:
                left = {name: r for name, r in self.candidate.repeats.items() if name != layer.name}
                after = replace(self.candidate, repeats=left, digital=(*self.candidate.digital, layer.name))
                price = _LEAST_PRICE + _DIGITAL_PRICE * self._macs[layer.name] / max(1, sum(self._macs.values()))
                yield Move(layer.name, "digital", self.errors[layer.name] / total, price, after, 0.0)

    def _at_output(self, name: str, power: float) -> float:
        """The layer's part of the output's error if its own error power is this."""
        start, own = self._start[name], self._own[name]
        return start * power / own if own > 0 else 0.0

    def _price(self, before: Layer, after: Layer) -> float:
        """What the change costs, as a share of all arrays and firings."""
        whole = sum(_area(layer, self.program) for layer in self.program.layers)
        arrays = (_area(after, self.program) - _area(cut(before, self.program.target), self.program)) / max(1.0, whole)
        work = sum(self._macs.values()) or 1
        reads = self._macs[after.name] * (after.repeats.reads - before.repeats.reads) / work
        return _LEAST_PRICE + max(0.0, arrays) + max(0.0, reads)


def _area(layer: Layer, program: Program) -> float:
    """Cells of all blocks of a layer."""
    if not layer.row_cuts:
        return 0.0
    slices, tiles = np.indices((len(layer.row_cuts) - 1, len(layer.column_cuts) - 1)).reshape(2, -1)
    height, width = block_shape(layer, program.target, slices, tiles)
    return float(layer.groups * (height * width).sum())
