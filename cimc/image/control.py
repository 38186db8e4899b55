"""What drives the chip: registers, pulse recipe, and the instructions of the schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import FitError
from cimc.image.layout import INSTRUCTION, LINE, NONE, OPCODES, RECIPE, REGISTER, REGISTERS
from cimc.ir.program import DigitalStep, Layer, Program, RandomStep, VmmStep
from cimc.targets.description import Target, figures_of

Array = NDArray[Any]


def registers(program: Program) -> dict[str, Array]:
    """``REGI``: the chip's settings, then those of each layer; not-a-number where the target has no such limit."""
    rows: list[tuple[int, int, float]] = []
    figures = figures_of(program.target)
    for address, name in enumerate(REGISTERS):
        if not name.startswith("layer."):
            rows.append((address, NONE, _number(figures[name])))
        else:
            rows += [(address, k, _number(_of_layer(layer)[name])) for k, layer in enumerate(program.layers)]
    return {"REGI": np.array(rows, REGISTER)}


def _of_layer(layer: Layer) -> dict[str, float | None]:
    coding = layer.coding
    return {
        "layer.input_gain": coding.gain,
        "layer.input_signed": float(coding.signed),
        "layer.adc_range_ua": layer.adc_range_ua,
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def recipe(target: Target) -> dict[str, Array]:
    """``RECI``: the pulses of write-verify in SI units; kind 0 where the target describes none."""
    v, record = target.device.write_verify, np.zeros(1, RECIPE)
    described = None not in (v.start_v, v.stop_v, v.step_v, v.tolerance_us, v.trials)
    record["kind"], record["trials"] = described, v.trials or 0
    figures = {
        "start_v": (v.start_v, 1), "stop_v": (v.stop_v, 1), "step_v": (v.step_v, 1), "set_s": (v.set_us, 1e-6),
        "reset_s": (v.reset_us, 1e-6), "doubling_v": (v.doubling_v, 1), "tolerance_s": (v.tolerance_us, 1e-6),
        "read_v": (target.device.read_voltage_v, 1), "pulse_time_s": (v.pulse_ns, 1e-9), "verify_time_s": (v.verify_ns, 1e-9),
        "pulse_energy_j": (v.pulse_energy_nj, 1e-9), "verify_energy_j": (v.verify_energy_nj, 1e-9),
    }  # fmt: skip
    for name, (value, unit) in figures.items():
        record[name] = np.nan if value is None else value * unit
    return {"RECI": record}


def instructions(program: Program, names: Callable[[str], int]) -> dict[str, Array]:
    """``INST`` and ``OPER``: inputs in, the steps in their order with a barrier between stages of firing, outputs out.

    Raises:
        FitError: A step that inference does not have.
    """
    numbers = {layer.name: k for k, layer in enumerate(program.layers)}
    stream: list[Array] = []
    operands: list[int] = []

    def add(opcode: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **fields: int) -> None:
        record = np.zeros(1, INSTRUCTION)
        record["opcode"], record["inputs"], record["outputs"] = OPCODES[opcode], len(inputs), len(outputs)
        record["target"], record["name"], record["first_operand"] = NONE, NONE, len(operands)
        for name, value in fields.items():
            record[name] = value
        operands.extend(names(value) for value in (*inputs, *outputs))
        stream.append(record)

    for value in program.inputs:
        add("input", outputs=(value.name,))
    stage = 0
    for number, step in enumerate(program.steps):
        if isinstance(step, VmmStep):
            if step.stage != stage:
                stage = step.stage
                add("barrier", stage=stage)
            positions = step.positions or 0
            layer = numbers[step.layer]
            add("vmm", (step.input,), (step.output,), stage=stage, target=layer, name=names(step.name), positions=positions)
        elif isinstance(step, DigitalStep):
            add("digital", step.inputs, step.outputs, stage=stage, target=number, name=names(step.name))
        elif isinstance(step, RandomStep):
            what = f"the model draws random numbers ({step.operator}), which an inference chip cannot"
            raise FitError(what, where=f"step {step.name}", fix="export the model without it: model.eval() in PyTorch")
        else:
            what = f"an inference chip has no step {step.kind}"
            raise FitError(what, where=f"step {step.name}", fix="export an inference program")
    for value in program.outputs:
        add("output", inputs=(value.name,))
    add("end")
    return {"INST": np.concatenate(stream), "OPER": np.array(operands, LINE)}
