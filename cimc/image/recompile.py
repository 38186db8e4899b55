"""A program compiled or placed again, for the chip that an image is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cimc.compiler import open_model
from cimc.image.portable import portable
from cimc.ir.onnx_io import join
from cimc.ir.program import Layer, Program
from cimc.passes.base import Compilation
from cimc.passes.keep_scales import KeepScales, kept_scales
from cimc.passes.manager import PassManager
from cimc.passes.place import Place
from cimc.pipeline import Calibration, pipeline
from cimc.targets.description import Target

Array = NDArray[Any]
#: What helps where ranges are not those of real data.
_ADVICE = " (calibration data would set them: --calibration D.npz)"


def placed_again(program: Program, copies: Mapping[str, int], chips: int | None = None, verify: bool = False) -> Program:
    """The program with other copies of its layers, or on fewer chips.

    Args:
        program: Compiled.
        copies: By layer.
        chips: As many chips as may be used; None: as many as it takes.
        verify: Check all rules of the program after each pass too.

    Raises:
        FitError: It does not fit so many chips.
    """
    model = join(program.tensors["graph"].tobytes(), program.initializers())
    return PassManager([Place(chips, copies)], verify).run(Compilation(model, program.target, program)).need_program()


def compiled_again(
    source: Program,
    target: Target,
    held: Mapping[str, Array],
    calibration: Calibration | None,
    chips: int | None,
    copies: Mapping[str, int],
    verify: bool = False,
) -> tuple[Program, list[str]]:
    """The program's graph for another target.

    Args:
        source: Compiled for any target.
        target: The new one; without calibration data it takes over the stated range of inputs.
        held: Weights by layer that replace those of the program, ``[groups, rows, columns]``.
        calibration: As for a compilation; None: the full scales of layers that match are kept.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies by layer; those of layers that stay digital on the new target are left out.
        verify: Check all rules of the program after each pass too.

    Returns:
        The new program, and what the user should know of its ranges.
    """
    if target.input.range is None:
        target = target.model_copy(update={"input": source.target.input})
    state, provenance = open_model(portable(source, held), target)
    # What several arrays hold together may be larger than the weight that spans the window of one.
    keep = KeepScales(source, windows=not held and not source.target.update.shares) if calibration is None else None
    passes = pipeline(
        calibration=calibration,
        chips=chips,
        copies=copies,
        repeats={layer.name: layer.repeats for layer in source.layers},
        preprocessing=source.preprocessing,
        provenance=provenance,
        keep=keep,
        only_known=True,
    )
    program = PassManager(passes, verify).run(state).need_program()
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
