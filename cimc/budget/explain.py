"""Where a chip loses, why, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array, checked, within
from cimc.arguments import named as named_input
from cimc.budget.bench import Bench, Outcome, Samples
from cimc.budget.causes import CAUSES
from cimc.budget.levers import levers_of_chip, levers_of_layers, ranked
from cimc.budget.parts import Parts, error_of_lost, mean_lost
from cimc.budget.references import checks_of, draws_numbers, reference_outputs
from cimc.budget.remedies import levers_of_fits, levers_of_settings
from cimc.budget.result import Budget, Total
from cimc.budget.scale import StepCheck
from cimc.compiler import Model
from cimc.data import load_arrays, load_labelled, needed_inputs, prepared
from cimc.errors import CimcError, DataError
from cimc.ir.classes import Classes
from cimc.ir.cost import macs_by_layer
from cimc.ir.program import Program
from cimc.report.calibrate import batches, fixed_batch, split
from cimc.runtime.chip import Chip
from cimc.runtime.executor import image_count
from cimc.sources import check_alone, is_data, open_data

#: Samples that are run where the caller asks for no other number: most, fewest, and multiply-accumulates of all layers' trials.
_MOST, _FEWEST, _WORK = 256, 64, 4e9
#: Inputs that outputs are fitted on.
_FITTED = 256


def most_runs(program: Program) -> int:
    """Executions of the samples that `explain` makes at most."""
    causes, layers = len(CAUSES), len(program.layers)
    return 2 + 3 * causes + 2 * causes * layers + layers + 4


@checked("program_or_chip", "x", "y", "model")
def explain(
    program_or_chip: Program | Chip,
    x: Any,
    y: Any = None,
    model: Model | None = None,
    *,
    seed: int = 0,
    samples: int | None = None,
    classes: Classes | None = None,
    advance: Callable[[int], None] | None = None,
) -> Budget:
    """What each cause of error costs, by layer, and what would help.

    Each cause is tried alone in an execution that is exact otherwise, and is taken out of the chip as it is. Everything that a
    chip draws (faults, errors of writes, noise of reads) is the same in all of these executions.

    Args:
        program_or_chip: A program, which is written into the die of ``seed``; or a chip at its present time: a trained one, one
            that has aged or was fitted, or an image's die. Its devices do not change; the reads count in its statistics.
        x: Inputs of the model's one input; or arrays by input name. The program's preprocessing is applied to the former. Or
            data, as `open_data` takes them: an npz file, a folder of images, the name of a data set. Of these, the test part.
        y: Class numbers, ``[inputs]`` or one a place; None: those of the data, or there is no accuracy, and levers are ranked by
            SQNR.
        model: Stands for the right outputs, in ONNX Runtime; None: the graph that the program was compiled from, with the weights
            that were trained since.
        seed: Of the die, where a program is given; of a trained program of its read noise alone.
        samples: Inputs that are run, spread evenly over ``x``; None: 256, of large networks fewer, but 64. Others of ``x`` serve
            to try a fit of the outputs.
        classes: Axis of the classes, where the labels' shape does not tell it, and the class number of places that do not count.
        advance: Told 1 after each execution of the samples; there are `most_runs` or fewer.

    Raises:
        CimcError: The first argument is neither a program nor a chip.
        DataError: Inputs or labels do not suit the model, or the model is another network's.
    """
    chip = _chip(program_or_chip, seed)
    program = chip.program
    samples = _samples(program) if samples is None else samples
    within("samples", samples, 1, 1 << 40, whole=True)
    if is_data(x):
        check_alone(x, y, "explain")
        x, y = _held(program, x, classes or Classes())
    inputs = _inputs(program, x)
    total = image_count(program.inputs, inputs)
    chosen, others = split(total, samples, fixed_batch(inputs, program.inputs))
    if not len(chosen):
        raise DataError("there are no samples", where="x", fix="give at least one batch of the model")
    labels = None if y is None else _labels(y, total)[chosen]
    runs = batches(inputs, program.inputs, chosen)
    reference, notes = reference_outputs(chip, model, runs)
    shown = Samples(runs, reference, labels, classes or Classes())
    checks = [] if draws_numbers(program) else checks_of(chip, model, runs[0])
    bench = Bench(chip, shown, checks, advance)
    whole, exact = bench.whole(), bench.alone({})
    parts = Parts(bench, whole, exact)
    causes = parts.by_cause()
    rows = parts.by_layer(causes)
    levers = [*levers_of_chip(bench, whole, causes), *levers_of_layers(bench, whole, rows)]
    levers += levers_of_fits(bench, whole, batches(inputs, program.inputs, others[:: max(1, len(others) // _FITTED)][:_FITTED]))
    if isinstance(program_or_chip, Program):
        levers += levers_of_settings(bench, whole)
    notes += _notes(checks, bench, exact)
    return Budget(
        total=_total(program, len(chosen), shown, whole, exact),
        rows=rows,
        causes=causes,
        interaction=parts.interaction(causes),
        interaction_of_rows=parts.interaction(rows),
        levers=ranked(levers),
        notes=notes,
    )


def _samples(program: Program) -> int:
    """How many samples take seconds for a small network, and about a minute for a larger one."""
    work = sum(macs_by_layer(program).values())
    return int(np.clip(_WORK / max(1.0, work * len(program.layers)), _FEWEST, _MOST))


def _chip(given: Any, seed: int) -> Chip:
    if isinstance(given, Chip):
        given.bring_up_to_date()
        return given
    if not isinstance(given, Program):
        what = f"the first argument is of type {type(given).__name__}, it must be a program or a chip"
        raise CimcError(what, where="explain", fix="give cimc.load('model.cim'), or of an image: image.program(seed)")
    return Chip(given, seed)


def _held(program: Program, data: Any, classes: Classes) -> tuple[Any, Any]:
    """Inputs that data hold, and labels if they hold any."""
    source, needed = open_data(data), needed_inputs(program.inputs)
    if len(needed) == 1 and {"y", "y_test"} & source.names:
        return load_labelled(source, needed[0], how=program.preprocessing, ignore=classes.ignore)
    return load_arrays(source, program.inputs, "test", program.preprocessing, program.bound_values()), None


def _inputs(program: Program, x: Any) -> dict[str, Any]:
    if isinstance(x, Mapping):
        known = [spec.name for spec in program.inputs]
        return {named_input(name, known, "input"): value for name, value in x.items()}
    needed = needed_inputs(program.inputs)
    if len(needed) != 1:
        names = ", ".join(spec.name for spec in needed)
        raise DataError(f"the model has {len(needed)} inputs", where="x", fix=f"give a dict of arrays by input name: {names}")
    return {needed[0].name: prepared(x, needed[0], "x", program.preprocessing)}


def _labels(y: Any, total: int) -> NDArray[Any]:
    labels = array(y, "y")
    if labels.dtype.kind not in "iu" or not labels.ndim or len(labels) != total:
        what = f"labels are {labels.dtype} {list(labels.shape)} for {total} samples"
        raise DataError(what, where="y", fix="give a whole number a sample, or a place of it")
    return labels


def _notes(checks: Sequence[StepCheck], bench: Bench, exact: Outcome) -> list[str]:
    notes = []
    for check in checks:
        if check.correction is None:
            what = "computes another product than the model does: its weights or its geometry are others"
        else:
            what = f"has a digital scale or offset that is not the model's: its outputs are {check.factor:.3g} times the model's"
        notes.append(f"layer {check.layer} {what}")
    for layer, scale in bench.scales.items():
        if scale != 1:
            notes.append(
                f"layer {layer} has a digital scale that does not fit its devices: they count {scale:.3g} times what was written"
            )
    if exact.sqnr_db is not None and exact.sqnr_db < 50:
        notes.append(
            f"without any error of the chip the outputs are {exact.sqnr_db:.1f} dB from the model's, so the program is not that "
            "model (of a trained program, give the ONNX file of the trained weights, or no model)"
        )
    return notes


def _total(program: Program, images: int, shown: Samples, whole: Outcome, exact: Outcome) -> Total:
    right = shown.outcome(shown.reference)
    return Total(
        images=images,
        output=program.outputs[0].name,
        sqnr_db=whole.sqnr_db,
        accuracy=whole.accuracy,
        reference_accuracy=right.accuracy,
        accuracy_lost=mean_lost(right, whole),
        standard_error=error_of_lost(right, whole),
        exact_sqnr_db=exact.sqnr_db,
        exact_accuracy=exact.accuracy,
    )
