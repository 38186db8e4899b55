"""Program passes, text in and text out."""

from __future__ import annotations

import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.parser import parse_program
from cimc.ir.printer import print_program
from cimc.passes.base import Compilation, Pass
from cimc.passes.manager import PassManager

#: Pairs on arrays of 64 x 64, as on the chip of Wu et al., arXiv 2305.14547.
TARGET = 'target t {array={"rows": 64, "columns": 64, "tiles_per_chip": 4} dac={"bits": 8}}'


def layer_text(name: str, rows: int, columns: int, read: str, made: str, more: str = "", blocks: str = "") -> str:
    """A layer of that matrix and its step. Its weight is known by a hash only: these passes do not read it."""
    view = f'"tensor": "{name}.w", "split": [{rows}, {columns}], "perm": [0, 1], "shape": [1, {rows}, {columns}]'
    geometry = f'"kind": "dense", "input_perm": [0, 1], "kept": 1, "output_dims": [{columns}], "output_perm": [0, 1]'
    return f"""
        layer @{name} {{weight={{{view}}} {more}}} {blocks}
        %{made} = vmm @{name}(%{read}) {{name="{name}" geometry={{{geometry}}} positions=1 nodes=["{name}"]}}
        tensor initializer/{name}.w: float32[{rows}, {columns}] sha256={"0" * 64}"""


def program(*items: str, output: str = "y") -> str:
    """A program of these items, from ``%x``."""
    return f"program schema=1 {{ {TARGET} input %x: float32 output %{output}: float32 {' '.join(items)} }}"


def new_lines(text: str, *passes: Pass, samples: dict[str, NDArray] | None = None) -> list[str]:  # type: ignore[type-arg]
    """The lines that the passes change in the printed program, each pass checked."""
    before = parse_program(text)
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    state = Compilation(model, before.target, before, samples=samples or {})
    after = print_program(PassManager(passes, verify=True).run(state).need_program())
    known = print_program(before).splitlines()
    return [line.strip() for line in after.splitlines() if line not in known]
