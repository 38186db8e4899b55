"""A program compiled or placed again, for the chip that an image is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cimc.compiler import open_model
from cimc.image.portable import portable
from cimc.ir.onnx_io import join
from cimc.ir.program import Layer, Program
from cimc.ir.ranging import input_coding
from cimc.passes.base import Compilation, Pass
from cimc.passes.lower import Lower
from cimc.passes.manager import PassManager
from cimc.passes.place import Place
from cimc.passes.repeat import Repeat
from cimc.pipeline import Calibration, pipeline
from cimc.targets.description import Target

Array = NDArray[Any]
#: What helps where ranges are not those of real data.
_ADVICE = " (calibration data would set them: --calibration D.npz)"


def placed_again(program: Program, copies: Mapping[str, int], chips: int | None = None) -> Program:
    """The program with other copies of its layers, or on fewer chips.

    Raises:
        FitError: It does not fit so many chips.
    """
    model = join(program.tensors["graph"].tobytes(), program.initializers())
    return PassManager([Place(chips, copies)]).run(Compilation(model, program.target, program)).need_program()


def compiled_again(
    source: Program,
    target: Target,
    held: Mapping[str, Array],
    calibration: Calibration | None,
    chips: int | None,
    copies: Mapping[str, int],
) -> tuple[Program, list[str]]:
    """The program's graph for another target.

    Args:
        source: Compiled for any target.
        target: The new one; without calibration data it takes over the stated range of inputs.
        held: Weights by layer that replace those of the program, ``[groups, rows, columns]``.
        calibration: As for a compilation; None: the full scales of layers that match are kept.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies by layer; those of layers that stay digital on the new target are left out.

    Returns:
        The new program, and what the user should know of its ranges.
    """
    if target.input.range is None:
        target = target.model_copy(update={"input": source.target.input})
    state, provenance = open_model(portable(source, held), target)
    passes: list[Pass] = []
    repeats = {layer.name: layer.repeats for layer in source.layers}
    for step in pipeline(calibration=calibration, preprocessing=source.preprocessing, provenance=provenance):
        known = {Place: Place(chips, copies, only_known=True), Repeat: Repeat(repeats, only_known=True)}
        passes.append(known.get(type(step), step))
        if isinstance(step, Lower) and calibration is None:
            # What several arrays hold together may be larger than the weight that spans the window of one.
            passes.append(KeepScales(source, windows=not held and not source.target.update.shares))
    program = PassManager(passes).run(state).need_program()
    old = source.provenance
    kept = kept_scales(program, source) if calibration is None else {}
    basis = f"{old.calibration} (full scales kept from {source.target.name})" if kept else program.provenance.calibration
    update = {"cimc_version": program.provenance.cimc_version, "calibration": basis, "notes": ()}
    program = program.model_copy(update={"provenance": old.model_copy(update=update)})
    if calibration is not None:
        return program, []
    ranges = {value.name: value.range for value in source.inputs}
    inputs = tuple(value.model_copy(update={"range": ranges.get(value.name, value.range)}) for value in program.inputs)
    return program.model_copy(update={"inputs": inputs}), _notes(program, kept, source.target.name)


def _notes(program: Program, kept: Mapping[str, Layer], source: str) -> list[str]:
    fresh = [layer.name for layer in program.layers if layer.name not in kept]
    notes = []
    if kept:
        notes.append(f"input scales kept of: {', '.join(kept)}; ADC ranges from synthetic inputs of that scale{_ADVICE}")
    clips = [name for name, old in kept.items() if old.coding.clip_share and program.target.dac.full_scale == "largest"]
    if clips:
        notes.append(f"input scales kept of {', '.join(clips)} clip the largest inputs, as was chosen for {source}{_ADVICE}")
    if fresh:
        notes.append(f"input scales and ADC ranges from synthetic input of: {', '.join(fresh)}{_ADVICE}")
    return notes


@dataclass(frozen=True)
class KeepScales(Pass):
    """Gives layers the full scales that their inputs have in another program, before `ranges` looks at them.

    Where both chips have the same devices, weights and converters, the weights that span the windows are kept too: arrays of
    another size change nothing that they were chosen by.

    Args:
        source: The other program.
        windows: Whether the weights are those of the other program, so that its windows suit them.
    """

    source: Program
    windows: bool = True

    name: ClassVar[str] = "keep-scales"

    def call(self, state: Compilation) -> Sequence[str]:
        program = state.need_program()
        kept = kept_scales(program, self.source)
        here, there = program.target, self.source.target
        windows = self.windows and all(
            getattr(here, part) == getattr(there, part) for part in ("device", "weights", "dac", "adc")
        )
        layers, tensors = [], dict(program.tensors)
        for layer in program.layers:
            scale = kept[layer.name].coding.full_scale if layer.name in kept else None
            if scale is None:
                layers.append(layer)
                continue
            vectors, now = state.samples.get(layer.name), layer.coding.full_scale
            if vectors is not None and now:
                state.samples[layer.name] = (vectors * np.float32(scale / now)).astype(np.float32)
            old = kept[layer.name].coding
            coding = input_coding(scale, old.signed, old.basis, program.target)
            coding = coding.model_copy(update={"clip_share": old.clip_share})
            changes: dict[str, Any] = {"coding": coding}
            if windows:
                tensors[f"weight_max/{layer.name}"] = self.source.tensors[f"weight_max/{kept[layer.name].name}"]
                changes["weight_error"] = kept[layer.name].weight_error
            layers.append(layer.model_copy(update=changes))
        if kept:
            state.program = program.model_copy(update={"layers": tuple(layers), "tensors": tensors})
        return list(kept)


def kept_scales(program: Program, source: Program) -> dict[str, Layer]:
    """The source's layer by name of each layer that takes over its full scale.

    Layers match in order where all shapes agree, else by name and shape.
    """
    layers = program.layers
    if [layer.weight.shape for layer in layers] == [layer.weight.shape for layer in source.layers]:
        pairs = list(zip(layers, source.layers, strict=True))
    else:
        named = {(layer.name, layer.weight.shape): layer for layer in source.layers}
        pairs = [(layer, named[key]) for layer in layers if (key := (layer.name, layer.weight.shape)) in named]
    return {layer.name: old for layer, old in pairs if old.coding.full_scale is not None}
