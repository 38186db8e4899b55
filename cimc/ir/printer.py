"""A program as readable text, which `cimc.ir.parser` reads back: a line a layer, block, step and node.

Small tensors are written out, of others the text has the SHA-256. See `cimc.ir.text_form` for records and steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from cimc.ir.artifact import tensor_sha256
from cimc.ir.program import BLOCK_FIELDS, SCHEMA_VERSION, Layer, Program, Step, ValueSpec
from cimc.ir.tensor_ref import TensorRef
from cimc.ir.text_form import BARE, brief, dense, form_of


def print_program(program: Program) -> str:
    """The program's text form."""
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    yield f"program schema={SCHEMA_VERSION} {{"
    target = brief(program.target)
    sources = target.pop("sources", {})
    yield f"  target {_word(target.pop('name'))} {_attributes(target)}"
    for path, source in sources.items():
        yield f"  source {_word(path)} {_json(source)}"
    if program.provenance != type(program.provenance)():
        yield f"  provenance {_attributes(brief(program.provenance))}"
    if program.preprocessing is not None:
        yield f"  preprocessing {_attributes(brief(program.preprocessing))}"
    if program.expected is not None:
        yield f"  forecast {_attributes(brief(program.expected))}"
    for word, values in (("input", program.inputs), ("output", program.outputs)):
        for value in values:
            yield f"  {word} {_value(value)}"
    named = {"bound": program.bound, "parameter": program.parameters, "loss": (program.loss,), "labels": (program.labels,)}
    for word, names in named.items():
        yield from (f"  {word} {_name(name)}" for name in names if name is not None)
    for layer in program.layers:
        yield f"  layer @{_word(layer.name)} {_attributes(_without(brief(layer), 'name'))}"
        for block in _blocks(program, layer):
            yield f"    block {_block(block)}"
    for step in program.steps:
        yield f"  {_step(step)}"
    for row in program.placements:
        yield f"  node {_word(row.name)} {_word(row.op_type)} {row.where} {_json(row.why)}"
    for parameter in program.plan:
        yield f"  plan {_attributes(brief(parameter))}"
    tabled = {f"blocks/{layer.name}" for layer in program.layers if _blocks(program, layer)}
    for name, tensor in sorted(program.tensors.items()):
        if name not in tabled:
            yield f"  tensor {_word(name)}: {_tensor(tensor)}"
    yield "}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _word(name: str) -> str:
    return name if BARE.fullmatch(name) else _json(name)


def _name(value: str) -> str:
    return f"%{_word(value)}"


def _names(values: str | Sequence[str] | None) -> list[str]:
    return [] if values is None else [_name(v) for v in ([values] if isinstance(values, str) else values)]


def _without(fields: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _attributes(fields: Mapping[str, Any]) -> str:
    return f"{{{' '.join(f'{name}={_json(value)}' for name, value in fields.items())}}}"


def _value(value: ValueSpec) -> str:
    shape = "" if value.shape is None else f"[{', '.join(_size(size) for size in value.shape)}]"
    rest = _without(brief(value), "name", "dtype", "shape")
    return f"{_name(value.name)}: {value.dtype or '?'}{shape}{f' {_attributes(rest)}' if rest else ''}"


def _size(size: int | str | None) -> str:
    return "?" if size is None else str(size) if isinstance(size, int) else _json(size)


def _blocks(program: Program, layer: Layer) -> list[list[int]]:
    """Rows of the layer's block table; none where there is no table of the usual form."""
    table = program.tensors.get(f"blocks/{layer.name}")
    usual = isinstance(table, np.ndarray) and table.dtype == np.int32 and table.shape[1:] == (len(BLOCK_FIELDS),)
    return table.tolist() if table is not None and usual else []


def _block(block: Sequence[int]) -> str:
    """``group.slice.column tile: height x width at chip.tile[row, column]``, without what is not set yet."""
    group, part, column_tile, *rest = (str(n) for n in block)
    chip, tile, row, column, height, width = ("?" if n == "-1" else n for n in rest)
    placed = {chip, tile, row, column} != {"?"}
    shaped = placed or {height, width} != {"?"}
    shape = f": {height} x {width}" if shaped else ""
    return f"{group}.{part}.{column_tile}{shape}{f' at {chip}.{tile}[{row}, {column}]' if placed else ''}"


def _step(step: Step) -> str:
    form = form_of(step)
    made = ", ".join(_names(getattr(step, form.outputs))) if form.outputs else ""
    symbol = getattr(step, form.symbol)
    operands = ", ".join(name for field in form.operands for name in _names(getattr(step, field)))
    rest = _without(brief(step), "kind", form.outputs, form.symbol, *form.operands)
    at = "" if symbol is None else f" @{_word(symbol)}"
    return f"{f'{made} = ' if made else ''}{step.kind}{at}({operands}) {_attributes(rest)}"


def _tensor(tensor: Any) -> str:
    kind = f"{tensor.dtype.name}[{', '.join(map(str, tensor.shape))}]"
    text = None if isinstance(tensor, TensorRef) else dense(tensor)
    if text is not None:
        return f"{kind} = {text}"
    sha256 = tensor.sha256 if isinstance(tensor, TensorRef) else tensor_sha256(np.require(tensor, requirements="C"))
    return f"{kind} sha256={sha256}"
