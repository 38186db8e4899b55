"""A program as readable text: one line a layer, one line a step."""

from __future__ import annotations

from collections.abc import Iterator

from cimc.ir.program import (
    SCHEMA_VERSION,
    DigitalStep,
    Layer,
    MaskStep,
    OuterStep,
    PoolBackwardStep,
    Program,
    RandomStep,
    Step,
    UpdateStep,
    ValueSpec,
    VmmBackwardStep,
    VmmStep,
)


def print_program(program: Program) -> str:
    """The program's text form; complete but for the tensors' contents."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"program schema={SCHEMA_VERSION} target={program.target.name} {{"
    for word, values in (("input", program.inputs), ("output", program.outputs)):
        for value in values:
            yield f"  {word} {_value(value)}"
    for name in program.parameters:
        tensor = program.tensors[f"initializer/{name}"]
        yield f"  parameter %{name}: {tensor.dtype.name}[{', '.join(map(str, tensor.shape))}]"
    for layer in program.layers:
        yield f"  {_layer(program, layer)}"
    for step in program.steps:
        yield f"  {_step(step)}"
    yield "}"


def _value(value: ValueSpec) -> str:
    shape = "?" if value.shape is None else ", ".join("?" if d is None else str(d) for d in value.shape)
    allowed = "" if value.range is None else f" in {value.range[0]:g}...{value.range[1]:g}"
    kind = "" if value.type == "tensor" else f"{value.type} "
    return f"%{value.name}: {kind}{value.dtype or '?'}[{shape}]{allowed}"


def _layer(program: Program, layer: Layer) -> str:
    groups, rows, columns = layer.groups, layer.rows, layer.columns
    parts = [f"layer @{layer.name}: {f'{groups} x ' if groups > 1 else ''}{rows} x {columns}", f"weight={layer.weight.tensor}"]
    coding = layer.coding
    if coding.full_scale is not None:
        parts.append(f"{'signed' if coding.signed else 'unsigned'} full_scale={coding.full_scale:.6g} gain={coding.gain:.6g}")
    if layer.adc_range_ua is not None:
        parts.append(f"adc=0...{layer.adc_range_ua:.6g} uA")
    if layer.row_cuts:
        parts.append(f"slices={len(layer.row_cuts) - 1} column_tiles={len(layer.column_cuts) - 1}")
    blocks = program.tensors.get(f"blocks/{layer.name}")
    if blocks is not None and (blocks[:, 3] >= 0).all():
        places = [f"{b[3]}.{b[4]}[{b[5]}:{b[5] + b[7]}, {b[6]}:{b[6] + b[8]}]" for b in blocks[:4]]
        more = f" and {len(blocks) - 4} more" if len(blocks) > 4 else ""
        parts.append(f"on {' '.join(places)}{more}")
    return " ".join(parts)


def _step(step: Step) -> str:
    match step:
        case DigitalStep():
            return _digital(step)
        case VmmStep():
            return _vmm(step)
        case VmmBackwardStep():
            what = f"%{step.output} = vmm_backward @{step.layer}(%{step.input}, %{step.activation}) {step.geometry.kind}"
            return f"{what}{_positions(step)} {step.mode}{' clipped' if step.ste == 'clipped' else ''}"
        case OuterStep():
            return f"%{step.output} = outer @{step.layer}(%{step.input}, %{step.gradient}) {step.geometry.kind}{_positions(step)}"
        case PoolBackwardStep():
            return f"%{step.output} = pool_backward(%{step.input}, %{step.activation}, %{step.pooled})"
        case MaskStep():
            return f"%{step.output} = mask(%{step.input}) ratio={step.ratio:g}"
        case RandomStep():
            outputs = ", ".join(f"%{name}" for name in step.outputs)
            source = f"%{step.input}" if step.input is not None else str(list(step.shape or ()))
            return f"{outputs} = {step.operator}({source}) {step.dtype}"
        case UpdateStep():
            where = f"@{step.layer}" if step.layer is not None else f"%{step.parameter}"
            scales = "" if step.scales == "none" else f" scales={step.scales}"
            action = "update" if step.action == "descend" else "assign"
            return f"{action} {where} ({', '.join(f'%{v}' for v in step.inputs)}){scales}"


def _positions(step: VmmStep | VmmBackwardStep | OuterStep) -> str:
    return "" if step.positions is None else f" positions={step.positions}"


def _vmm(step: VmmStep) -> str:
    merged = f" merged({', '.join(step.nodes[1:])})" if len(step.nodes) > 1 else ""
    return f"%{step.output} = vmm @{step.layer}(%{step.input}) {step.geometry.kind}{_positions(step)} stage={step.stage}{merged}"


def _digital(step: DigitalStep) -> str:
    outputs, inputs = (", ".join(f"%{name}" for name in names) for names in (step.outputs, step.inputs))
    return (
        f"{outputs} = digital @{step.name}({inputs}) nodes={len(step.nodes)}{'' if step.splits_exactly else ' batch_dependent'}"
    )
