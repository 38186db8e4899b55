"""A simulated chip: fabricated from a target, programmed with a program, run on images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array, checked, named, within
from cimc.errors import CimcError, DataError
from cimc.ir.program import InputCoding, Program, ValueSpec, VmmStep, weight_matrix
from cimc.ir.ranging import Samples, choose_ranges
from cimc.runtime.backends import registry as backends
from cimc.runtime.cells import cells_of
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.digital import Value
from cimc.runtime.draws import INFERENCE, Stream
from cimc.runtime.executor import Executor, Watch, image_count
from cimc.runtime.fitting import StepFit, fit_steps, ideal_executor, sqnr_of_steps
from cimc.runtime.output_fit import METHODS, Method, OutputFit
from cimc.runtime.restored import restore_devices
from cimc.runtime.saved import device_state, saved_sites, take_devices
from cimc.runtime.state import ChipState
from cimc.shown import Shown

#: An input this much larger than all before asks for other ranges.
_BEYOND = 1.05


class Chip(Shown):
    """One die with ``program`` written into it; the same seed is the same die, faults and all.

    Args:
        program: A compiled program. A trained one brings its own die: conductances, digital weights, counters.
        seed: Of fabrication, programming error and read noise; None: 0. Of a trained program's chip, which is made already,
            it keys the read noise alone; None: the chip's own.
        deterministic: Also run digital segments that may depend on the batch split image by image.
        backend: What computes the reads: ``cpu``, ``reference`` (plain NumPy, slow), or one that an installed package offers.

    Attributes:
        crossbars: By layer name; tell one that was `written` when its conductances were changed in place.
        memory: What training keeps beside the devices, by the names of ``state/...`` tensors without that prefix.
        draws: How far its streams of random numbers have been used; part of the saved state, as `noise_seed` and `time_s` are.
        fits: By step name: the digital scale and offset that `fit_outputs` found for this die.
        fitted: How they were found, in words.
        time_s: Present time of the chip in seconds; it was programmed at 0. `advance` changes it.
        refresh: Called once before the program is next run or saved: training brings it up to date only then.

    Raises:
        CimcError: The program cannot be fabricated or is a training step, or the seed is no non-negative integer below 2**63.
    """

    def _facts(self) -> dict[str, object]:
        program = self.program
        return {
            "model": program.provenance.model or None, "target": program.target.name, "seed": self.seed,
            "layers": len(program.layers), "time_s": self.time_s, "fitted": self.fitted or None,
            "backend": None if self.backend.name == "cpu" else self.backend.name,
        }  # fmt: skip

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        return self.program._rows()

    @checked("program")
    def __init__(self, program: Program, seed: int | None = None, *, deterministic: bool = False, backend: str = "cpu") -> None:
        if not isinstance(program, Program):
            what = f"the program is of type {type(program).__name__}"
            raise CimcError(what, where="Chip", fix="give a program: Chip(cimc.compile(model)), or Chip(cimc.load('model.cim'))")
        if seed is not None:
            within("seed", seed, 0, 2**63, open_high=True, whole=True)
        if program.loss is not None:
            raise CimcError("the program is a training step, which a trainer runs", fix="give the program that was trained")
        self.program = program
        own = ChipState.of(program, seed)
        self.seed, self.noise_seed, self.time_s, self.draws = own.seed, own.noise_seed, own.time_s, own.draws
        self._deterministic = deterministic
        self.backend = backends.backend(backend)
        self.crossbars = {
            layer.name: Crossbar(
                layer,
                weight_matrix(program, layer),
                program.tensors[f"weight_max/{layer.name}"],
                program.target,
                self.seed,
                cells=cells_of(program, layer, self.seed, saved_sites(program, layer)),
                time_s=self.time_s,
                backend=self.backend,
            )
            for layer in program.layers
        }
        for name, devices in own.layers.items():
            take_devices(name, self.crossbars[name], devices)
        self.memory: dict[str, NDArray[Any]] = dict(own.memory)
        self.fits: dict[str, OutputFit] = dict(own.fits)
        self.fitted = own.fitted
        self.refresh: Callable[[], None] | None = None
        self._executor = self._execution(self.fits)

    @checked("inputs")
    def run(
        self,
        inputs: Mapping[str, Value],
        first_image: int | None = None,
        *,
        keep: tuple[str, ...] = (),
        stream: Stream = INFERENCE,
    ) -> dict[str, Value]:
        """Run a batch.

        Args:
            inputs: Arrays by input name, images along the first axis.
            first_image: Number of the batch's first image, which keys its read noise; None: go on counting from the last run.
            keep: Names of intermediate values to return as well.
            stream: Another stream of random numbers, see `cimc.runtime.draws`; a trainer's evaluations have their own.

        Returns:
            Values by name, in the model's output order: arrays, or lists and None where ONNX types have them.

        Raises:
            DataError: Inputs do not suit the model.
        """
        self._by_name(inputs, "run")
        self.bring_up_to_date()
        first = self.draws.inferred if first_image is None else first_image
        within("first_image", first, 0, 2**62, whole=True)
        outputs = self._executor.run(inputs, first, keep, stream=stream)
        if first_image is None:
            self.draws.inferred += image_count(self.program.inputs, inputs)
        return outputs

    @checked()
    def multiply(self, step: str, x: NDArray[Any]) -> NDArray[Any]:
        """One crossbar step by itself: its layer applied to ``x``, as image 0 onwards.

        Raises:
            CimcError: No crossbar step has that name.
            DataError: ``x`` does not suit the layer.
        """
        steps = {s.name: s for s in self.program.vmm_steps}
        chosen, given = steps[named(step, steps, "crossbar step")], array(x, f"step {step}")
        if given.dtype.kind != "f" or not given.ndim:
            raise DataError(f"is {given.dtype} {list(given.shape)}, a layer takes real numbers", where=f"step {step}")
        return self._executor.multiply(chosen, given, len(given), 0)

    @checked("inputs")
    def calibrate(self, inputs: Mapping[str, Value] | Sequence[Mapping[str, Value]]) -> None:
        """Choose input gains and ADC ranges anew from these images, on this chip's own conductances, a layer at a time.

        A range of the inputs that was only assumed, as neither target nor calibration data gave one, is dropped.

        Args:
            inputs: Images by input name; or several such dicts, one for each run, where the model fixes its batch size.

        Raises:
            DataError: Inputs do not suit the model.
        """
        batches = self._batches(inputs, "calibrate")
        watch, stream = self.calibrator(), self.draws.calibration()
        for batch in batches:
            self._executor.show(batch, watch, stream)

    def calibrator(self) -> Watch:
        """What chooses each layer's input gain and ADC range before the reads that it watches.

        A layer that many steps read (a recurrent one) has its ranges chosen before the first and the last of them, and before
        any whose inputs reach well beyond those before: the first state of a sequence is a small one. Each choice rests on
        all inputs so far.
        """
        self.program = self.program.model_copy(update={"inputs": without_assumed_ranges(self.program)})
        self._executor.inputs = self.program.inputs
        left = Counter(step.layer for step in self.program.vmm_steps)
        seen: dict[str, Samples] = {}
        reach: dict[str, float] = {}
        count = self.program.target.dac.clip_share > 0

        def watch(step: VmmStep, x: NDArray[Any]) -> None:
            name = step.layer
            samples = Samples.of(x, step.geometry, self.crossbars[name].layer, seen.get(name), count=count)
            seen[name] = samples
            left[name] -= 1
            largest = samples.extent.largest if samples.extent is not None else 0.0
            if name not in reach or largest > _BEYOND * reach[name] or left[name] == 0:
                reach[name] = largest
                self._calibrate_layer(name, samples)

        return watch

    def _calibrate_layer(self, name: str, samples: Samples) -> None:
        crossbar = self.crossbars[name]
        layer = choose_ranges(crossbar.layer, samples, crossbar.devices, self.program.target)
        crossbar.recode(layer)
        layers = tuple(layer if old.name == layer.name else old for old in self.program.layers)
        self.program = self.program.model_copy(update={"layers": layers})

    # Outputs ------------------------------------------------------------------------------------------------------

    @checked("inputs")
    def fit_outputs(
        self, inputs: Mapping[str, Value] | Sequence[Mapping[str, Value]], method: Method = "moments"
    ) -> list[StepFit]:
        """Fit a digital scale and offset to each output channel of each crossbar step. No device is written.

        Errors of programming and of converters are fixed, so they change scale and mean of each channel. Each channel is fitted
        to an ideal execution of the program on the same inputs. The steps are fitted in firing order, with the steps before
        them corrected. The fit belongs to this die. It replaces an earlier fit, is saved with the chip, and acts in every run
        from now on.

        Args:
            inputs: As `calibrate`.
            method: ``moments``, ``least_squares`` or ``offset``; see `cimc.runtime.output_fit`.

        Returns:
            For each crossbar step, how many channels got a scale, an offset alone, or neither.

        Raises:
            CimcError: There is no such method.
            DataError: Inputs do not suit the model.
        """
        batches = self._batches(inputs, "fit_outputs")
        fits, rows = fit_steps(self.program, self._execution({}), self._ideal(), batches, method, self.draws.calibration())
        images = sum(image_count(self.program.inputs, batch) for batch in batches)
        self.fits, self.fitted = fits, f"{METHODS[method]}, {images} image{'s' * (images != 1)}"
        self._executor = self._execution(fits)
        return rows

    @checked("inputs")
    def sqnr(self, inputs: Mapping[str, Value] | Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """Signal over error of each crossbar step's outputs, dB, against an ideal execution of the program on the same inputs.

        Args:
            inputs: As `calibrate`; read noise is that of `run` from image 0 on.

        Returns:
            By step name; None where the chip is exact, or the ideal outputs are all zero.

        Raises:
            DataError: Inputs do not suit the model.
        """
        batches = self._batches(inputs, "sqnr")
        return sqnr_of_steps(self.program, self._executor, self._ideal(), batches, INFERENCE)

    def forget_fits(self) -> bool:
        """Run without fitted scales and offsets from now on; whether there were any."""
        had, self.fits, self.fitted = bool(self.fits), {}, ""
        if had:
            self._executor = self._execution({})
        return had

    def _batches(self, inputs: Any, call: str) -> list[Mapping[str, Value]]:
        batches = list(inputs) if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) else [inputs]
        for batch in batches:
            self._by_name(batch, call)
        if not batches:
            raise DataError("there are no inputs", where=f"Chip.{call}", fix="give at least one batch")
        self.bring_up_to_date()
        return batches

    def _execution(self, fits: Mapping[str, OutputFit]) -> Executor:
        return Executor(self.program, self.crossbars, self.noise_seed, self._deterministic, fits)

    def _ideal(self) -> Executor:
        return ideal_executor(self.program, self.noise_seed, self._deterministic)

    # Time ---------------------------------------------------------------------------------------------------------

    @checked()
    def advance(self, seconds: float) -> None:
        """Let time pass: devices drift as ``device.drift`` of the target says, and age as ``device.read_noise`` does.

        Time passes in no other way, neither in a run nor in training.

        Args:
            seconds: How long, from 0 to 1e12.
        """
        within("seconds", seconds, 0, 1e12)
        self.at_time(self.time_s + float(seconds))

    def at_time(self, time_s: float) -> None:
        """Let the present time be ``time_s``, as a saved chip or a checkpoint has it."""
        self.time_s = time_s
        for crossbar in self.crossbars.values():
            crossbar.advance(time_s)

    # State --------------------------------------------------------------------------------------------------------

    @checked()
    def adopt(self, program: Program) -> None:
        """Run another version of the program on the same devices: same layers, other digital parameters, codings or ranges."""
        self.program = program
        for layer in program.layers:
            crossbar = self.crossbars[layer.name]
            if (layer.coding, layer.adc_range_ua) != (crossbar.layer.coding, crossbar.adc_range_ua):
                crossbar.recode(layer)
        self._executor = self._execution(self.fits)

    @checked()
    def remap(self, layer: str, matrix: NDArray[Any], weight_max: NDArray[Any], g_us: NDArray[np.float32] | None = None) -> None:
        """Use a layer's devices with another scale between weight and conductance; its copies stay, and its counts go on.

        Args:
            layer: Its name.
            matrix: The weights, ``[groups, rows, columns]``; kept, not copied.
            weight_max: ``[1]`` or ``[groups * columns]``: the weight that spans the window.
            g_us: What the devices of the first copy hold, µS, ``[groups, rows, planes, columns]``; those of others, and unit
                columns, keep what they hold. None: the weights are written to every copy.

        Raises:
            CimcError: No layer has that name, or an array does not suit it.
        """
        old = self.crossbars[named(layer, self.crossbars, "layer")]
        self._check_map(old, matrix, weight_max, g_us)
        own = old.layer.model_copy(update={"weight_error": None})  # that was of other weights
        crossbar = Crossbar(
            own, matrix, weight_max, self.program.target, self.seed, stats=old.stats, copies=old.copies, cells=old.cells,
            time_s=self.time_s, programmed_s=self.time_s, backend=self.backend,
        )  # fmt: skip
        if g_us is not None:
            first, *others = (old if old.programmed else crossbar).held
            same = g_us is first.g_us
            first = replace(first, g_us=g_us, arrays=first.arrays if same else {})
            crossbar.hold([replace(copy, coefficients=crossbar.coefficients) for copy in (first, *others)])
            if same:
                crossbar.compensate(old.factors)
        self.crossbars[layer] = crossbar

    @staticmethod
    def _check_map(crossbar: Crossbar, matrix: Any, weight_max: Any, g_us: Any) -> None:
        groups, rows, _, columns = crossbar.g_us.shape
        shapes: dict[str, list[tuple[int, ...]]] = {
            "matrix": [(groups, rows, columns)],
            "weight_max": [(1,), (groups * columns,)],
            "g_us": [crossbar.g_us.shape],
        }
        for name, value in (("matrix", matrix), ("weight_max", weight_max), ("g_us", g_us)):
            if name == "g_us" and value is None:
                continue
            given, wanted = array(value, f"Chip.remap, {name}"), " or ".join(str(list(shape)) for shape in shapes[name])
            if given.dtype.kind != "f" or given.shape not in shapes[name]:
                what = f"is {given.dtype} {list(given.shape)}, layer {crossbar.layer.name} takes real numbers {wanted}"
                raise DataError(what, where=f"Chip.remap, {name}")
            if not np.isfinite(given).all() or (name == "weight_max" and (given < 0).any()):
                what = "holds a number that is not finite" + (", or negative" if name == "weight_max" else "")
                raise DataError(what, where=f"Chip.remap, {name}")

    def trained_program(self) -> Program:
        """The program with this chip's state in it, as `save` writes it."""
        self.bring_up_to_date()
        return self.state().into(self.program)

    def state(self) -> ChipState:
        """What it is beside its program. Arrays are the chip's own."""
        layers = {name: device_state(crossbar, self.program) for name, crossbar in self.crossbars.items()}
        return ChipState(self.seed, self.noise_seed, self.draws, self.time_s, layers, self.fits, self.memory, self.fitted)

    def restore_state(self, state: ChipState) -> None:
        """Take up a saved state in place, as of a checkpoint; a layer that it lacks keeps what it holds.

        Args:
            state: From `ChipState.of_tensors`; `cimc.runtime.restored.check_state` has let it pass.
        """
        self.noise_seed, self.draws = state.noise_seed, replace(state.draws)
        self.fits, self.fitted = dict(state.fits), state.fitted
        self.at_time(state.time_s)
        for name, devices in state.layers.items():
            restore_devices(name, self.crossbars[name], devices)
        for name, kept in state.memory.items():
            self.memory[name][...] = kept
        self._executor = self._execution(self.fits)

    @checked()
    def save(self, path: str | Path) -> None:
        """Write program and chip to a ``.cim`` that `Chip` takes up again.

        Raises:
            RunError: The file cannot be written.
        """
        self.trained_program().save(path)

    def _by_name(self, inputs: Any, call: str) -> None:
        """Refuse what is no dict of arrays, and show how to give one."""
        if not (isinstance(inputs, Mapping) and all(isinstance(name, str) for name in inputs)):
            shown = ", ".join(f'"{spec.name}": array' for spec in self.program.inputs if not spec.has_default)
            what = f"the inputs are of type {type(inputs).__name__}, they must be a dict of arrays by input name"
            raise DataError(what, where=f"Chip.{call}", fix=f"chip.{call}({{{shown}}})")

    def bring_up_to_date(self) -> None:
        """Take in what training has left to do (`refresh`); every run and every save does so by itself."""
        if self.refresh is not None:
            refresh, self.refresh = self.refresh, None
            refresh()

    @checked()
    def set_ranges(self, ranges: Mapping[str, tuple[InputCoding, float | None]]) -> None:
        """Take input codings and ADC ranges (µA; None: no ADC) of layers, as an earlier calibration chose them.

        Raises:
            CimcError: No layer has a name, or a value is no pair of an input coding and a positive range.
        """
        for name, pair in ranges.items():
            named(name, self.crossbars, "layer")
            coding, range_ua = pair if isinstance(pair, tuple) and len(pair) == 2 else (None, None)
            if not isinstance(coding, InputCoding):
                what = f"the ranges of {name} must be an input coding and an ADC range in µA, or None without an ADC"
                raise CimcError(what, where="Chip.set_ranges", fix="take layer.coding and layer.adc_range_ua of chip.program")
            if range_ua is not None:
                within(f"the ADC range of {name}", range_ua, 1e-30, 1e30)
        for name, (coding, range_ua) in ranges.items():
            crossbar = self.crossbars[name]
            crossbar.recode(crossbar.layer.model_copy(update={"coding": coding, "adc_range_ua": range_ua}))
        layers = tuple(self.crossbars[layer.name].layer for layer in self.program.layers)
        self.program = self.program.model_copy(update={"layers": layers})

    @checked()
    def conductances(self, layer: str) -> NDArray[np.float32]:
        """What the devices of a layer hold at the present time, µS, ``[groups, rows, planes, columns]``.

        Raises:
            CimcError: No layer has that name.
        """
        return self.crossbars[named(layer, self.crossbars, "layer")].present[0].g_us

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What products without noise multiply by now, in weight units: layer name to ``[groups, rows, columns]``.

        That is what the devices hold, and the IR drop where the target has wires; of repeated weights the mean.
        """
        return {name: crossbar.layer.repeats.averaged(crossbar.weights()) for name, crossbar in self.crossbars.items()}

    def stats(self) -> dict[str, Any]:
        """Counts since fabrication, by layer: tile reads, ADC conversions and saturations, DAC clips."""
        return {name: dict(vars(crossbar.stats)) for name, crossbar in self.crossbars.items()}

    def restore_stats(self, stats: Mapping[str, Mapping[str, int]]) -> None:
        """Go on from earlier counts, as `stats` gave them; a count that they lack stays."""
        for name, counts in stats.items():
            vars(self.crossbars[name].stats).update(counts)


def without_assumed_ranges(program: Program) -> tuple[ValueSpec, ...]:
    """The inputs of a program, whose range is kept only where the target states it."""
    if program.target.input.range is not None:
        return program.inputs
    return tuple(spec if spec.range is None else spec.model_copy(update={"range": None}) for spec in program.inputs)
