"""``free-repeat``: lay the rows of narrow layers several times down word lines that are free, where an output is poor.

Example, a convolution of 9 rows on arrays of 256 word lines, whose errors are most of what an output loses::

    before  conv | y = cimc.Vmm <layer = "conv", ...> (x, w)
    after   conv | y = cimc.Vmm <layer = "conv", repeats = [8, 1, 1], ...> (x, w)

Nothing that the cost of an image counts may grow: arrays, chips, operations, latency, energy. The conversions stay, because the
columns do. The pass reads what the compilation came to, tries other repeats by the passes from `repeat` to `place`, and keeps
them where the forecast at the outputs gets better by `LEAST_DB`. Repeats that cost something are for `cimc tune`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import log10
from typing import ClassVar

import onnx_ir as ir

from cimc.errors import FitError, RunError, VerifyError
from cimc.ir.blocks import TILE
from cimc.ir.cost import Cost, cost
from cimc.ir.forecast import Forecast, OutputForecast
from cimc.ir.program import Layer, Program, Repeats
from cimc.ir.records import MOST_REPEATS
from cimc.ir.vmm import repeats_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.calibrate import write_coding
from cimc.passes.forecast import Forecasting, output_errors
from cimc.passes.manager import PassManager
from cimc.passes.map import need_tables
from cimc.passes.quantise import vmms
from cimc.passes.ranges import has_ranges
from cimc.passes.repeat import Repeat
from cimc.passes.repeated_error import repeated_error

#: What the forecast at the outputs has to gain, dB, and the share of the outputs' error power that each layer has to take off,
#: which is as much.
LEAST_DB, LEAST_SHARE = 1.0, 0.2
#: Devices that repeats may add, as a share of all: writing them is the one cost that grows.
MOST_DEVICES = 0.1
#: Fewer repeats are taken where their error is at most this many times that of the best number.
_NEAR = 1.1
#: Before the names of the attributes of a ``Vmm`` that the passes from `calibrate` on write.
_CHOSEN = ("input_", "weight_")
#: Layers that are looked at, those with the largest errors of their own; and compilations that are tried.
_MOST_LAYERS, _MOST_TRIALS = 8, 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FreeRepeat(Pass):
    """Chooses repeats of rows that cost nothing, on calibration data.

    Args:
        wanted: Whether to choose any.
        again: The passes after `calibrate` up to `place` that make a program, without `forecast`.
    """

    wanted: bool = False
    again: tuple[Pass, ...] = ()

    name: ClassVar[str] = "free-repeat"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `place`."""
        for name, table in need_tables(state).items() if self.wanted else ():
            if (table[:, TILE] < 0).any():
                raise VerifyError("blocks have no places yet", where=f"layer {name}", fix="run pass `place` before")

    def call(self, state: Compilation) -> Sequence[str]:
        if not self.wanted or _why_not(state):
            return ()
        try:
            chosen = self._chosen(state)
        except RunError as error:
            log.info("nothing is repeated: %s", error.what)
            return ()
        return list(chosen)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where the program has other repeats than the graph."""
        repeats = {layer.name: layer.repeats for layer in state.need_program().layers}
        for node in vmms(state.model):
            name = node.attributes.get_string("layer") or ""
            if repeats.get(name) != repeats_of(node):
                raise VerifyError("its repeats are not those of the graph", where=f"layer {name}")

    def unchanged(self, state: Compilation) -> str:
        """None are wanted, the chip or the data do not allow any, or none bring enough; then the log says so of each trial."""
        if not self.wanted:
            return "repeats are not to be chosen (--repeat free)"
        return _why_not(state) or f"no repeats of rows bring {LEAST_DB:g} dB at the outputs at no cost"

    def _chosen(self, state: Compilation) -> Mapping[str, Repeats]:
        """Repeat layers, one after the other, the most useful first; what is repeated in the end."""
        before, own = state.need_program(), _attributes(state)
        best: tuple[Compilation, _Attributes] | None = None
        chosen: dict[str, Repeats] = {}
        tries = [(layer, rows) for layer, counts in _candidates(state) for rows in counts]
        for layer, rows in tries[:_MOST_TRIALS]:
            if layer.name in chosen:
                continue
            wanted = {**chosen, layer.name: Repeats(rows=rows)}
            log.info("layer %s: rows %d times are tried", layer.name, rows)
            trial = self._tried(state, wanted)
            found = None if trial is None else (trial, _attributes(trial))
            _restore(own)
            if found is not None and costs_no_more(cost(found[0].need_program()), cost(before)):
                best, chosen = found, wanted
            else:
                log.info("layer %s: not repeated %d times: that would cost arrays, time, energy or many writes", layer.name, rows)
        if best is None:
            return {}
        trial, attributes = best
        _restore(attributes)
        PassManager((Forecasting(),)).run(trial)
        gained = 10 * log10(_error(before) / max(_error(trial.need_program()), 1e-30))
        if gained < LEAST_DB:
            log.info("nothing is repeated: the outputs would gain %.2g dB", gained)
            _restore(own)
            return {}
        _tell(trial, before, chosen)
        for part in fields(Compilation):
            setattr(state, part.name, getattr(trial, part.name))
        return chosen

    def _tried(self, state: Compilation, repeats: Mapping[str, Repeats]) -> Compilation | None:
        """The compilation with these repeats, up to `place`, on the same graph; None where they do not fit."""
        notes = list(state.need_program().provenance.notes)
        trial = replace(state, program=None, placements=dict(state.placements), notes=notes)
        for node in vmms(state.model):
            for name in [name for name in node.attributes if name.startswith(_CHOSEN)]:
                del node.attributes[name]
        PassManager((Repeat(repeats),)).run(trial)
        for node in vmms(state.model):
            write_coding(node, state.codings[node.attributes.get_string("layer") or ""])
        try:
            PassManager(self.again).run(trial)
        except FitError:
            return None
        program, trial.notes = trial.need_program(), list(dict.fromkeys(trial.notes))
        told = program.provenance.model_copy(update={"notes": tuple(dict.fromkeys(program.provenance.notes))})
        trial.program = program.model_copy(update={"provenance": told})
        return trial


_Attributes = dict[ir.Node, dict[str, ir.Attr]]


def _attributes(state: Compilation) -> _Attributes:
    return {node: dict(node.attributes) for node in vmms(state.model)}


def _restore(attributes: _Attributes) -> None:
    for node, own in attributes.items():
        node.attributes.clear()
        node.attributes.update(own)


def _why_not(state: Compilation) -> str:
    """Why no layer may be repeated, whatever it brings; empty: some may."""
    target, expected = state.target, state.need_program().expected
    if state.calibration is None:
        return "there are no calibration data to judge it by"
    if expected is None or not expected.poor() or not _error(state.need_program()):
        return "no output is expected to be poor"
    if target.array.rows is None or not has_ranges(target):
        return f"target {target.name} has no word lines to spare, or converts each bit by itself"
    if target.update.shares:
        return f"{target.update.rule} updates change each cell by itself"
    if target.array.wires is not None:
        return "the forecast does not know the IR drop that more driven word lines cause"
    return ""


def _candidates(state: Compilation) -> Iterator[tuple[Layer, list[int]]]:
    """Layers whose repeats take much off the error of the outputs, and how often their rows may lie, the best choice first.

    Raises:
        RunError: ONNX Runtime does not run the network with errors.
    """
    program = state.need_program()
    narrow = {layer.name: layer for layer in program.layers if 2 * layer.rows <= (state.target.array.rows or 0)}
    expected = program.expected or Forecast(layers=())
    poorest = sorted(expected.layers, key=lambda row: float("inf") if row.sqnr_db is None else row.sqnr_db)
    names = [row.layer for row in poorest if row.layer in narrow][:_MOST_LAYERS]
    at_output, total = output_errors(state, names), _error(program)
    for name in sorted(names, key=lambda name: -at_output[name]):
        layer = narrow[name]
        shares = dict(_shares(state, layer))
        if len(shares) < 2 or not shares[1]:
            continue
        least = min(shares.values())
        taken = at_output[name] * (1 - least / shares[1]) / total
        if taken < LEAST_SHARE:
            log.info("layer %s: not repeated: that would take %.2g %% off the error of the outputs", name, 100 * taken)
            continue
        first = next(rows for rows, share in shares.items() if share <= _NEAR * least)
        yield layer, [rows for rows in sorted(shares, reverse=True) if 1 < rows <= first]


def _shares(state: Compilation, layer: Layer) -> Iterator[tuple[int, float]]:
    """Error power over signal power of a layer with its rows once, twice, four times, ... as often as one slice holds."""
    rows = 1
    while rows <= MOST_REPEATS and (found := repeated_error(state, layer, Repeats(rows=rows))) is not None:
        changed, share = found
        if changed.crossbars != layer.crossbars:
            return
        yield rows, share
        rows *= 2


def _error(program: Program) -> float:
    """Error power over signal power that is expected at the outputs, the mean of all."""
    shares = [0.0 if output.sqnr_db is None else 10 ** (-output.sqnr_db / 10) for output in _outputs(program)]
    return sum(shares) / max(1, len(shares))


def costs_no_more(new: Cost, old: Cost) -> bool:
    """Whether an image costs no more by any figure, and few more devices are written."""
    pairs = [(getattr(new, word), getattr(old, word)) for word in ("crossbars", "tiles", "chips", "ops", "tile_ops")]
    pairs += list(zip(vars(new.latency_ms).values(), vars(old.latency_ms).values(), strict=True))
    pairs += [(getattr(new.energy_mj, word), getattr(old.energy_mj, word)) for word in ("analog", "digital")]
    same = all(a is None if b is None else a is not None and a <= b for a, b in pairs)
    return same and new.devices <= (1 + MOST_DEVICES) * old.devices


def _tell(state: Compilation, before: Program, chosen: Mapping[str, Repeats]) -> None:
    """Say in notes and placements what is repeated, and what it brings."""
    program = state.need_program()
    new, old = cost(program), cost(before)
    layers = ", ".join(f"{name} {repeats.rows} times" for name, repeats in chosen.items())
    gain = "; ".join(
        f"{output.name} at {output.sqnr_db} dB instead of {earlier.sqnr_db}"
        for output, earlier in zip(_outputs(program), _outputs(before), strict=True)
        if output.sqnr_db != earlier.sqnr_db
    )
    note = (
        f"rows lie several times on word lines that are free: {layers}. Expected: {gain}. An image costs what it did; "
        f"{new.devices - old.devices} devices more are written. --repeat none lays each row once"
    )
    nodes = {step.nodes[0]: chosen[step.layer] for step in program.vmm_steps if step.layer in chosen}
    for name, repeats in nodes.items():
        row = state.placements[name]
        why = f"{row.why}; rows {repeats.rows} times, on free word lines, as an output would be poor"
        state.placements[name] = row.model_copy(update={"why": why})
    state.notes.append(note)
    told = program.provenance.model_copy(update={"notes": (*program.provenance.notes, note)})
    state.program = program.model_copy(update={"placements": tuple(state.placements.values()), "provenance": told})


def _outputs(program: Program) -> tuple[OutputForecast, ...]:
    return program.expected.outputs if program.expected is not None else ()
