"""Give the training step the layers of the inference program that it was made from.

Example::

    before  layer fc  16 x 10
    after   layer fc  16 x 10  unsigned full_scale=1 gain=255  adc 70 µA  row cuts 0, 16  block at chip 0, tile 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cimc.errors import CimcError, VerifyError
from cimc.ir.program import Program
from cimc.passes.base import Compilation, Pass

#: Tensors that belong to layers.
_OF_LAYERS = ("blocks/", "weight_max/")


@dataclass(frozen=True)
class Inherit(Pass):
    """Sets codings, ranges, cuts and places of layers, provenance and preprocessing.

    Args:
        program: Compiled for inference.
    """

    program: Program

    name: ClassVar[str] = "inherit"

    def requires(self, state: Compilation) -> None:
        """Raises VerifyError before `lower`, CimcError where the step has another layer than the program."""
        for layer in state.need_program().layers:
            own = next((other for other in self.program.layers if other.name == layer.name), None)
            if own is None or own.weight != layer.weight:
                raise CimcError("the training step has another layer than the program", where=f"layer {layer.name}")

    def call(self, state: Compilation) -> Sequence[str]:
        step, program = state.need_program(), self.program
        names = {layer.name for layer in step.layers}
        of_layers = {n: t for n, t in program.tensors.items() if n.startswith(_OF_LAYERS) and n.split("/", 1)[1] in names}
        provenance = program.provenance.model_copy(update={"notes": (*program.provenance.notes, *step.provenance.notes)})
        state.program = step.model_copy(
            update={
                "layers": tuple(layer for layer in program.layers if layer.name in names),
                "tensors": {**step.tensors, **of_layers},
                "provenance": provenance,
                "preprocessing": program.preprocessing,
            }
        )
        return sorted(names)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where a layer, or a tensor of it, is another than the inference program's."""
        step = state.need_program()
        own = {layer.name: layer for layer in self.program.layers}
        for layer in step.layers:
            kept = [name for kind in _OF_LAYERS if (name := f"{kind}{layer.name}") in self.program.tensors]
            if layer != own[layer.name] or any(
                not np.array_equal(step.tensors[name], self.program.tensors[name]) for name in kept
            ):
                raise VerifyError("it is not the inference program's", where=f"after inherit, layer {layer.name}")

    def unchanged(self, state: Compilation) -> str:
        """There is no layer."""
        return "no layer is on crossbars"
