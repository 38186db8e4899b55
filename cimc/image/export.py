"""From a chip or a program to an image for another chip: its graph compiled again, its weights placed as cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import CimcError, FitError
from cimc.files import check_outputs
from cimc.image.build import draft
from cimc.image.faults import FaultMap, as_fault_map
from cimc.image.goals import ChipGoals, Goals, ProgramGoals, target_sha256
from cimc.image.image import Image
from cimc.image.placement import Spots, around, as_compiled, chips_used
from cimc.image.portable import portable
from cimc.image.reader import load_image, read_image
from cimc.image.sign import signer
from cimc.image.store import created
from cimc.ir.copies import sensible_copies
from cimc.ir.occupancy import placed_copies
from cimc.ir.onnx_io import join
from cimc.ir.program import Layer, Program
from cimc.ir.ranging import input_coding
from cimc.runtime.chip import Chip
from cimc.targets.description import Target
from cimc.targets.load import load_target

if TYPE_CHECKING:
    from cimc.passes.base import Compilation

Array = NDArray[Any]
Source = Literal["target", "readback"]


@checked("chip")
def export_image(
    chip: Chip | Program,
    target: str | Path | Target | None = None,
    source: Source = "target",
    fault_map: str | Path | FaultMap | None = None,
    *,
    settings: Mapping[str, Any] | Sequence[str] | None = None,
    calibration: str | Path | Mapping[str, Array] | None = None,
    chips: int | None = None,
    copies: Mapping[str, int] | None = None,
    die: str | None = None,
    training: Mapping[str, Any] | None = None,
    key: str | Path | None = None,
    path: str | Path | None = None,
) -> Image:
    """Export what a chip computes with, or a compiled program, as an image for a chip.

    For the program's own chip, cuts, scales and places stay. For another, the program's graph is compiled again. Then,
    without calibration data, the full scales of the inputs are kept where layers match; the image's notes say which. The same
    goes for a chip that an image was written into around faults.

    Args:
        chip: A chip, trained or not, or a program.
        target: The chip the image is for: a name, a file, or a description; None: the program's own.
        source: target: the program's weights (of a chip in training W, without the changes not yet written); readback: what
            the devices of ``chip`` hold.
        fault_map: Of the die it is for; segments are placed around what is dead.
        settings: Changes to the target.
        calibration: Input images by name, or the path of a data file.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies of a layer that work at once, by name; None: those of the program.
        die: Name of the die; None: that of the fault map.
        training: Settings of a training elsewhere, to be kept in the image; None: those of the program's training.
        key: File of an Ed25519 private key in PEM, to sign with.
        path: Write the image to this file as it is made, so that it is never in memory as a whole; None: keep it in memory.

    Raises:
        FitError: It does not fit the target, or not around the faults; the message names what would help.
        CimcError: Another argument is not usable.
        RunError: The file cannot be written.
    """
    if not isinstance(chip, Chip | Program):
        raise CimcError(f"a {type(chip).__name__} is no chip and no program", where="export", fix="compile or load one")
    made = chip if isinstance(chip, Chip) else None
    if path is not None:
        check_outputs([path], [given for given in (target, fault_map, calibration) if isinstance(given, str | Path)])
    if source == "readback" and made is None:
        raise CimcError("a program has no devices to read back", where="source", fix="give the chip, or source='target'")
    program = chip.trained_program() if isinstance(chip, Chip) else chip
    described = load_target(program.target if target is None else target, settings)
    faults = as_fault_map(fault_map)
    notes: list[str] = []
    if described.is_ideal:
        raise FitError("an ideal chip has no devices to program", where=f"target {described.name}", fix="--chip bulk-rram")
    if described.signed_conversion:
        field = "adc.pair_read=separate" if described.adc.pair_read == "subtracted" else "dac.signed=two_phase"
        what = "an image describes unsigned conversions only"
        raise FitError(what, where=f"target {described.name}", fix=f"--set {field}, or another --chip")
    made_anew: list[str] = []

    def compiled(wanted: Target) -> Program:
        made_anew.clear()
        bars = made.crossbars if made and source == "readback" else {}
        held = {name: crossbar.held_weights() for name, crossbar in bars.items()}
        return _compile_again(original, wanted, held, calibration, chips, copied, made_anew)

    copied = {name: count for name, count in placed_copies(program).items() if count > 1} if copies is None else copies
    sensible_copies(copied, program)
    original = program
    placed = all(f"blocks/{layer.name}" in program.tensors for layer in program.layers)
    if placed and target_sha256(described) == target_sha256(program.target):
        program = program if copies is None else _placed_again(program, copied)
        program = _within(program, copied, chips)
        goals: Goals = ChipGoals(made) if made is not None and source == "readback" else ProgramGoals(program)
    else:
        program = compiled(described)
        goals = ProgramGoals(program)
    if made is not None and made.memory and source == "target":
        notes.append("the weights W are exported; changes that training has not written yet are dropped")
    # Two layers may share a reference cell of a unit column; each read its own, and one cell cannot hold both.
    apart = not goals.shared_references()
    if faults or apart:
        placed_program, spots = _around(program, compiled, faults or FaultMap.of(), chips, apart)
        if placed_program is not program:
            goals = ProgramGoals(placed_program)
        program = placed_program
    else:
        spots = as_compiled(program)
    notes += made_anew
    about = {
        "notes": [*program.provenance.notes, *notes],
        "training": dict(training) if training else program.provenance.training,
    }
    if die is not None and len(die.encode()) > 64:
        raise CimcError("the die's name is longer than 64 bytes", where="die")
    name = die if die is not None else faults.die if faults else ""
    seed = made.seed if made is not None else 0
    signs = signer(key) if key is not None else None
    made_ready = draft(program, goals, spots, faults=faults, source=source, seed=seed, die=name, about=about, signer=signs)
    if path is None:
        data = bytearray(made_ready.layout.file_bytes)
        made_ready.write(memoryview(data))
        return read_image(data)
    with created(path, made_ready.layout.file_bytes) as buffer:
        made_ready.write(buffer)
    return load_image(path)


#: How much smaller arrays are taken to be, rows and columns, where segments of full size find no room around faults.
_SMALLER = tuple((r, c) for share in (15 / 16, 7 / 8, 3 / 4, 1 / 2) for r, c in ((share, 1.0), (1.0, share), (share, share)))


def _around(
    program: Program, compiled: Callable[[Target], Program], faults: FaultMap, chips: int | None, own_references: bool
) -> tuple[Program, Spots]:
    """Places around faults, of the program as it is, or cut to smaller segments where those find no room."""
    chips = chips_used(program) if chips is None else chips
    try:
        return program, around(program, faults, chips, own_references)
    except FitError as error:
        target, array = program.target, program.target.array
        for rows, columns in _SMALLER if array.rows and array.columns else ():
            smaller = array.model_copy(
                update={
                    "rows": max(1, int((array.rows or 1) * rows)),
                    "columns": max(target.planes, int((array.columns or 2) * columns)),
                    "tiles_per_chip": None,
                }
            )
            try:
                cut = compiled(target.model_copy(update={"array": smaller})).model_copy(update={"target": target})
                return cut, around(cut, faults, chips, own_references)
            except FitError:
                continue
        raise error


def _placed_again(program: Program, copies: Mapping[str, int], chips: int | None = None) -> Program:
    """The program with other copies of its layers, or on fewer chips.

    Raises:
        FitError: It does not fit so many chips.
    """
    from cimc.passes.base import Compilation
    from cimc.passes.place import Place

    model = join(program.tensors["graph"].tobytes(), program.initializers())
    state = Compilation(model, program.target, program, chips=chips, copies=copies)
    Place().call(state)
    return state.need_program()


def _within(program: Program, copies: Mapping[str, int], chips: int | None) -> Program:
    """The program as it is placed, or more tightly where it takes too many chips."""
    used = max((spot.chip for spots in as_compiled(program).values() for spot in spots), default=-1) + 1
    if chips is None or used <= chips:
        return program
    try:
        return _placed_again(program, copies, chips)
    except FitError:
        raise FitError(
            f"{used} chips > {chips} chips, {used - chips} too many", where=f"target {program.target.name}", fix=f"--chips {used}"
        ) from None


def _compile_again(
    source: Program,
    target: Target,
    held: Mapping[str, Array],
    calibration: str | Path | Mapping[str, Array] | None,
    chips: int | None,
    copies: Mapping[str, int],
    notes: list[str],
) -> Program:
    """The program's graph, with other weights if ``held`` has some, for another target."""
    from cimc.compiler import compile_model

    if target.input.range is None:
        target = target.model_copy(update={"input": source.target.input})
    keep = _Scales(source, notes)

    def on_pass(name: str, seconds: float, changed: bool, state: Compilation) -> None:
        if name != "lower":
            return
        layers = [layer.name for layer in state.need_program().layers]
        state.copies = {layer: count for layer, count in copies.items() if layer in layers}
        if calibration is None:
            keep(state)

    state = compile_model(
        portable(source, held),
        target,
        calibration=calibration,
        chips=chips,
        preprocessing=source.preprocessing,
        on_pass=on_pass,
    )
    program = state.need_program()
    provenance = source.provenance.model_copy(
        update={"cimc_version": program.provenance.cimc_version, "calibration": program.provenance.calibration}
    )
    if calibration is not None:
        return program.model_copy(update={"provenance": provenance.model_copy(update={"notes": ()})})
    if keep.kept:
        basis = f"{source.provenance.calibration} (full scales kept from {source.target.name})"
        provenance = provenance.model_copy(update={"calibration": basis})
    ranges = {value.name: value.range for value in source.inputs}
    inputs = tuple(value.model_copy(update={"range": ranges.get(value.name, value.range)}) for value in program.inputs)
    return program.model_copy(update={"provenance": provenance.model_copy(update={"notes": ()}), "inputs": inputs})


#: What helps where ranges are not those of real data.
_ADVICE = " (calibration data would set them: --calibration D.npz)"


class _Scales:
    """Puts the full scales of another program's inputs into a compilation, once `lower` has made its layers."""

    def __init__(self, source: Program, notes: list[str]) -> None:
        self.source, self.notes = source.layers, notes
        self.kept: list[str] = []

    def __call__(self, state: Compilation) -> None:
        program = state.need_program()
        layers, fresh = [], []
        for layer, old in zip(program.layers, self._matching(program.layers), strict=True):
            scale = old.coding.full_scale if old is not None else None
            if old is None or scale is None:
                fresh.append(layer.name)
                layers.append(layer)
                continue
            vectors, now = state.samples.get(layer.name), layer.coding.full_scale
            if vectors is not None and now:
                state.samples[layer.name] = (vectors * np.float32(scale / now)).astype(np.float32)
            coding = input_coding(scale, old.coding.signed, old.coding.basis, program.target)
            layers.append(layer.model_copy(update={"coding": coding}))
            self.kept.append(layer.name)
        if self.kept:
            self.notes.append(
                f"input scales kept of: {', '.join(self.kept)}; ADC ranges from synthetic inputs of that scale{_ADVICE}"
            )
        if fresh:
            self.notes.append(f"input scales and ADC ranges from synthetic input of: {', '.join(fresh)}{_ADVICE}")
        state.program = program.model_copy(update={"layers": tuple(layers)})

    def _matching(self, layers: tuple[Layer, ...]) -> list[Layer | None]:
        """The source's layer for each: in order where all shapes agree, else by name and shape."""
        if [layer.weight.shape for layer in layers] == [layer.weight.shape for layer in self.source]:
            return list(self.source)
        named = {(layer.name, layer.weight.shape): layer for layer in self.source}
        return [named.get((layer.name, layer.weight.shape)) for layer in layers]
