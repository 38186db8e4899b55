"""From a chip or a program to an image for another chip: its graph compiled again, its weights placed as cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.errors import CimcError, FitError
from cimc.files import check_outputs
from cimc.image.build import draft
from cimc.image.faults import FaultMap, as_fault_map
from cimc.image.goals import ChipGoals, Goals, ProgramGoals, target_sha256
from cimc.image.image import Image
from cimc.image.placement import Spots, around, as_compiled, chips_used
from cimc.image.reader import load_image, read_image
from cimc.image.recompile import compiled_again, placed_again
from cimc.image.sign import signer
from cimc.image.store import created
from cimc.ir.copies import sensible_copies
from cimc.ir.occupancy import placed_copies
from cimc.ir.program import Program
from cimc.pipeline import Calibration
from cimc.runtime.chip import Chip
from cimc.runtime.saved_fits import saved_fits, with_factors, without_fits
from cimc.targets.description import Target
from cimc.targets.load import load_target

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
    calibration: Calibration | None = None,
    chips: int | None = None,
    copies: Mapping[str, int] | None = None,
    die: str | None = None,
    training: Mapping[str, Any] | None = None,
    key: str | Path | None = None,
    path: str | Path | None = None,
    verify: bool = False,
) -> Image:
    """Export what a chip computes with, or a compiled program, as an image for a chip.

    For the program's own chip, cuts, scales and places stay. For another, the program's graph is compiled again. Then,
    without calibration data, the full scales of the inputs are kept where layers match; the image's notes say which. The same
    goes for a chip that an image was written into around faults. A chip that was trained by a rule with arrays of its own gives
    the weights that its arrays make up together, and the image is for a chip that has no such arrays.

    Args:
        chip: A chip, trained or not, or a program.
        target: The chip the image is for: a name, a file, or a description; None: the program's own.
        source: target: the program's weights (of a chip in training W, without the changes not yet written); readback: what
            the devices of ``chip`` hold.
        fault_map: Of the die it is for; segments are placed around what is dead.
        settings: Changes to the target.
        calibration: Input images by name, or data as `open_data` takes them.
        chips: As many chips as may be used; None: as many as it takes.
        copies: Copies of a layer that work at once, by name; None: those of the program.
        die: Name of the die; None: that of the fault map.
        training: Settings of a training elsewhere, to be kept in the image; None: those of the program's training.
        key: File of an Ed25519 private key in PEM, to sign with.
        path: Write the image to this file as it is made, so that it is never in memory as a whole; None: keep it in memory.
        verify: Check all rules of the program after each pass, where it is compiled or placed again.

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
    program, fits = without_fits(program), saved_fits(program)
    described = load_target(program.target if target is None else target, settings).without_arrays()
    faults = as_fault_map(fault_map)
    notes: list[str] = []
    if described.is_ideal:
        raise FitError("an ideal chip has no devices to program", where=f"target {described.name}", fix="--chip bulk-rram")
    if described.weights.reference_columns(1):
        raise FitError(
            "an image describes one unit column an array, and no columns of references among the weights",
            where=f"target {described.name}, weights.representation",
            fix="--set weights.representation=differential_pair, or another chip",
        )
    if described.signed_conversion:
        field = "adc.pair_read=separate" if described.adc.pair_read == "subtracted" else "dac.signed=two_phase"
        what = "an image describes unsigned conversions only"
        raise FitError(what, where=f"target {described.name}", fix=f"--set {field}, or another --chip")
    made_anew: list[str] = []

    def compiled(wanted: Target) -> Program:
        bars = made.crossbars if made and source == "readback" else {}
        held = {name: crossbar.held_weights() for name, crossbar in bars.items()}
        anew, made_anew[:] = compiled_again(original, wanted, held, calibration, chips, copied, verify)
        return anew

    copied = {name: count for name, count in placed_copies(program).items() if count > 1} if copies is None else copies
    sensible_copies(copied, program)
    original = program
    placed = all(f"blocks/{layer.name}" in program.tensors for layer in program.layers)
    if placed and not program.target.update.shares and target_sha256(described) == target_sha256(program.target):
        program = program if copies is None else placed_again(program, copied, verify=verify)
        program = _within(program, copied, chips, verify)
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
    if fits and isinstance(goals, ChipGoals):
        program = with_factors(program, fits)
        notes.append("digital scales and offsets are those fitted to outputs of the chip that was read back")
    elif fits:
        notes.append("scales and offsets fitted to outputs of the chip are left out: they correct errors of its own devices")
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


def _within(program: Program, copies: Mapping[str, int], chips: int | None, verify: bool) -> Program:
    """The program as it is placed, or more tightly where it takes too many chips."""
    used = max((spot.chip for spots in as_compiled(program).values() for spot in spots), default=-1) + 1
    if chips is None or used <= chips:
        return program
    try:
        return placed_again(program, copies, chips, verify)
    except FitError:
        raise FitError(
            f"{used} chips > {chips} chips, {used - chips} too many", where=f"target {program.target.name}", fix=f"--chips {used}"
        ) from None
