"""``forecast``: what the program is expected to lose, layer by layer and at the outputs.

A layer's error power is the closed form of `cimc.calibration.error_power`, at the inputs that `calibrate` saw. The network itself
carries the errors on to its outputs: it runs in float with the weights that a die would hold (drawn with the deviations of the
closed form) and with the closed form's noise on each product. The average of a few dice is compared with the network as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.calibration.drawn import drawn_weights
from cimc.calibration.error_power import ErrorPower, error_power
from cimc.calibration.reads import FIXED, LayerRead
from cimc.calibration.window import judging_columns
from cimc.errors import RunError, VerifyError
from cimc.ir.cost import macs_by_layer
from cimc.ir.encoding import has_units, unit_cuts
from cimc.ir.expand import Disturbance, expand
from cimc.ir.forecast import Forecast, LayerForecast, OutputForecast
from cimc.ir.onnx_io import reason, session, split
from cimc.ir.program import Layer, Program, weight_matrix
from cimc.ir.ranging import full_code
from cimc.ir.samples import keyed
from cimc.ir.seeds import fix_seeds
from cimc.ir.sqnr import power_ratio_db
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_cuts, need_samples
from cimc.passes.quantise import vmms
from cimc.passes.ranges import check_ranges

#: Dice and inputs that the outputs are averaged over, and multiply-accumulates of all runs together, about. A network that takes
#: four times as many for four inputs gets one die and two inputs.
DICE, INPUTS, WORK = 3, 64, 30e9
#: Layers with more weights get the errors of their devices as noise, not as other weights.
_WEIGHTS = 1 << 21


@dataclass(frozen=True)
class Forecasting(Pass):
    """Sets ``expected`` of the program."""

    name: ClassVar[str] = "forecast"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError where a layer is not cut, has no ADC range that it needs, or none of its inputs were kept."""
        if not _why_not(state):
            need_cuts(state)
            check_ranges(state)
            need_samples(state)

    def call(self, state: Compilation) -> Sequence[str]:
        program = state.need_program()
        if _why_not(state):
            return ()
        powers = {layer.name: layer_power(program, layer, state.samples[layer.name]) for layer in program.layers}
        layers = tuple(_layer(name, power) for name, power in powers.items())
        left_out = _left_out(program)
        outputs: tuple[OutputForecast, ...] = ()
        basis = ""
        try:
            outputs, basis = _outputs(state, program, powers)
        except RunError as error:
            left_out += (f"the outputs: {error.what}",)
        expected = Forecast(layers=layers, outputs=outputs, basis=basis, left_out=left_out)
        state.program = program.model_copy(update={"expected": expected})
        state.notes += expected.warnings()
        return list(powers)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a layer has no forecast though its chip makes errors."""
        program = state.need_program()
        if _why_not(state):
            return
        told = [layer.layer for layer in program.expected.layers] if program.expected is not None else []
        if told != [layer.name for layer in program.layers]:
            raise VerifyError(
                f"errors of {', '.join(told) or 'no layer'} are forecast, not of each layer", where="after forecast"
            )

    def unchanged(self, state: Compilation) -> str:
        """The program has no layer whose errors could be forecast."""
        return _why_not(state)


def _why_not(state: Compilation) -> str:
    """Why nothing is forecast; empty: there is something."""
    if state.target.is_ideal:
        return "an ideal chip makes no errors"
    if not state.need_program().layers:
        return "no layer is on crossbars"
    return "a training step is not forecast" if state.need_program().loss is not None else ""


def output_errors(state: Compilation, names: Sequence[str] | None = None) -> dict[str, float]:
    """What each layer alone adds to the error of the outputs: error power over signal power, the mean of all outputs.

    Args:
        state: Compiled up to `forecast`.
        names: Of the layers that are asked for; None: all.

    Raises:
        RunError: ONNX Runtime does not run the network with errors.
    """
    program, found = state.need_program(), {}
    for layer in program.layers if names is None else map(program.layer, names):
        rows, _ = _outputs(state, program, {layer.name: layer_power(program, layer, state.samples[layer.name])})
        shares = [0.0 if row.sqnr_db is None else 10 ** (-row.sqnr_db / 10) for row in rows]
        found[layer.name] = sum(shares) / max(1, len(shares))
    return found


def layer_power(program: Program, layer: Layer, samples: NDArray[Any]) -> ErrorPower:
    """Error power of one layer of a program; a large one is judged by a part of its columns and inputs.

    Args:
        program: Has the layer's weights.
        layer: With its cuts and its ADC range.
        samples: What `calibrate` kept of its inputs.
    """
    matrix, span = judging_columns(weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], layer.name)
    read = LayerRead.of(samples, layer, program.target)
    return error_power(matrix, span, read.sampled(4 * matrix.size))


def _layer(name: str, power: ErrorPower) -> LayerForecast:
    signal = float(power.signal.sum())
    causes = {cause: _db(signal, float(lost.sum())) for cause, lost in power.causes.items()}
    return LayerForecast(
        layer=name,
        sqnr_db=_db(signal, float(power.total.sum())),
        causes_db={cause: db for cause, db in causes.items() if db is not None},
    )


def _db(signal: float, error: float) -> float | None:
    db = power_ratio_db(signal, error if error > 1e-30 * signal else 0.0)
    return None if db is None else round(db, 2)


def _left_out(program: Program) -> tuple[str, ...]:
    """Effects of the target that the closed form does not know."""
    target = program.target
    kind, repeated = target.chosen_programmer.kind, any(layer.repeats.columns > 1 for layer in program.layers)
    left = {
        "IR drop of the wires": target.array.wires is not None,
        "drift after programming": target.device.drift is not None,
        "the arrays of the update rule (errors are those of one array a weight)": bool(target.update.shares),
        f"errors of {kind.replace('_', '-')} (those of device.programming are taken)": kind != "direct",
        "that repeats of a column share the errors of a unit column or reference": has_units(target) and repeated,
        f"what the device model {target.device.kind} does otherwise than a memristor": target.device.kind != "memristor",
    }
    return tuple(effect for effect, has in left.items() if has)


def _outputs(state: Compilation, program: Program, powers: dict[str, ErrorPower]) -> tuple[tuple[OutputForecast, ...], str]:
    """Outputs of the network with errors against those without, and what they stand for."""
    if state.source is None:
        return (), ""
    images = state.source.images
    macs = sum(macs_by_layer(program).values())
    step = state.source.step or 1
    dice, fewest = (DICE, 4) if macs * (DICE + 1) <= WORK else (1, 2)
    wanted = int(np.clip(WORK / max(1.0, macs * (dice + 1)), fewest, INPUTS))
    wanted = max(1, min(wanted, images) // step) * step
    chosen = np.arange(wanted) * (images // step * step) // wanted
    parts = [state.source.feeds(part) for part in np.split(chosen, range(step, wanted, step))] if state.source.step else [
        state.source.feeds(chosen)
    ]  # fmt: skip
    plain = state.model.clone()
    fix_seeds(plain)
    exact = _run(expand(plain), parts)
    noisy = [_run(expand(plain, _disturbances(plain, program, powers, die)), parts) for die in range(dice)]
    names = [str(value.name) for value in state.model.graph.outputs]
    pairs = ((name, exact[n], [run[n] for run in noisy]) for n, name in enumerate(names))
    rows = tuple(_output(name, reference, runs) for name, reference, runs in pairs if _is_real(reference))
    return rows, f"{wanted} inputs, {dice} {'dice' if dice > 1 else 'die'}"


def _run(model: ir.Model, parts: list[dict[str, Any]]) -> list[Any]:
    """Outputs of the model, of all parts together; None where they are no plain arrays of one shape.

    Raises:
        RunError: ONNX Runtime does not run it.
    """
    names = [str(value.name) for value in model.graph.outputs]
    try:
        runner = session(*split(model), optimise=False, threads=1)
        found = [runner.run(names, feeds) for feeds in parts]
    except Exception as error:  # an operator that ONNX Runtime lacks for another dtype, or the memory of a large network
        raise RunError(f"ONNX Runtime does not run the network with errors: {reason(error)}") from error
    return [_joined(values) for values in zip(*found, strict=True)]


def _joined(values: tuple[Any, ...]) -> Any:
    if not all(isinstance(value, np.ndarray) for value in values):
        return None
    return values[0] if len(values) == 1 else np.concatenate(values) if values[0].ndim else np.stack(values)


def _is_real(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size > 0


def _output(name: str, reference: NDArray[Any], runs: list[Any]) -> OutputForecast:
    exact = reference.astype(np.float64)
    alike = [run.astype(np.float64) for run in runs if _is_real(run) and run.shape == exact.shape]
    if len(alike) < len(runs):
        return OutputForecast(name=name)
    error = float(np.mean([np.square(run - exact).sum() for run in alike]))
    changed = None
    if exact.ndim >= 2 and exact.shape[-1] > 1 and len(exact) > 1:
        changed = float(np.mean([(run.argmax(-1) != exact.argmax(-1)).mean() for run in alike]))
    return OutputForecast(name=name, sqnr_db=_db(float(np.square(exact).sum()), error), changed_share=changed)


def _disturbances(model: ir.Model, program: Program, powers: dict[str, ErrorPower], die: int) -> dict[str, Disturbance]:
    """What one die makes of each layer that has errors."""
    made: dict[str, Disturbance] = {}
    for node in vmms(model):
        name = node.attributes.get_string("layer") or ""
        if name in powers and name not in made:
            made[name] = _disturbance(program, program.layer(name), node, powers[name], die)
    return made


def _disturbance(program: Program, layer: Layer, node: ir.Node, power: ErrorPower, die: int) -> Disturbance:
    groups, _, columns = layer.weight.shape
    whole = weight_matrix(program, layer)
    span = program.tensors[f"weight_max/{layer.name}"]
    large, target = whole.size > _WEIGHTS, program.target
    if large:  # rounding and clipping are part of its noise, as all that is fixed
        stored = whole
    else:
        shared = unit_cuts(layer.column_cuts, target)
        stored = drawn_weights(whole, span, layer.row_cuts, shared, target, keyed("forecast", layer.name, die))
    drawn = [lost for cause, lost in power.causes.items() if (large or cause not in FIXED) and cause != "DAC clipping"]
    noise = np.sum(drawn, axis=0) if drawn else np.zeros(1)
    if noise.size == layer.groups * layer.columns:  # repeats of a column have the same expected error
        noise = noise.reshape(layer.groups, layer.repeats.columns, -1).mean(axis=1).reshape(groups, columns)
    else:
        noise = np.broadcast_to(noise.mean(), (groups, columns))
    noise = noise / layer.repeats.rows**2  # the sums over all repeats of a row are divided by them
    clip = None
    if target.dac.bits is not None:
        top = full_code(target, layer.coding.signed) / layer.coding.gain
        clip = (-top if layer.coding.signed else 0.0, top)
    return Disturbance(_unpacked(layer.repeats.averaged(stored), layer), np.sqrt(noise), clip, seed=die + 1)


def _unpacked(matrix: NDArray[Any], layer: Layer) -> NDArray[Any]:
    """The weights of the model's own groups, from the block diagonal of the layer's matrix."""
    count = layer.group_packing
    if count == 1:
        return matrix
    _, rows, columns = layer.weight.shape
    blocks = matrix.reshape(layer.groups, count, rows, count, columns)
    return np.ascontiguousarray(blocks[:, np.arange(count), :, np.arange(count)].swapaxes(0, 1)).reshape(layer.weight.shape)
