"""What users hold of a compiled model: its data, and what can be done with them. Tensors and records: `cimc.ir.records`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx import ModelProto

from cimc.arguments import checked
from cimc.errors import ArtifactError, CimcError
from cimc.ir import store
from cimc.ir.cells import cells as cells_of
from cimc.ir.copies import sensible_copies
from cimc.ir.cost import Cost
from cimc.ir.cost import cost as cost_of
from cimc.ir.expand import expand
from cimc.ir.onnx_io import join
from cimc.ir.records import (
    BLOCK_FIELDS,
    FIT_PARTS,
    SCHEMA_VERSION,
    DigitalStep,
    InputCoding,
    Layer,
    MaskStep,
    OuterStep,
    Parameter,
    Placement,
    PoolBackwardStep,
    Preprocessing,
    ProgramRecord,
    Provenance,
    RandomStep,
    Repeats,
    Scales,
    Step,
    UpdateStep,
    ValueSpec,
    VmmBackwardStep,
    VmmStep,
    output_channels,
    polarities,
    position_firings,
    to_matrix,
    weight_matrix,
)
from cimc.shown import Shown

__all__ = [
    "BLOCK_FIELDS", "FIT_PARTS", "SCHEMA_VERSION", "DigitalStep", "InputCoding", "Layer", "MaskStep", "OuterStep", "Parameter",
    "Placement", "PoolBackwardStep", "Preprocessing", "Program", "Provenance", "RandomStep", "Repeats", "Scales", "Step",
    "UpdateStep", "ValueSpec", "VmmBackwardStep", "VmmStep", "output_channels", "polarities", "position_firings", "to_matrix",
    "weight_matrix",
]  # fmt: skip


class Program(Shown, ProgramRecord):
    """A compiled model. ``tensors`` is kept out of the JSON."""

    def _facts(self) -> dict[str, object]:
        holds = "a chip" if "state/seed" in self.tensors else None
        return {
            "model": self.provenance.model or None, "target": self.target.name, "inputs": _values(self.inputs),
            "outputs": _values(self.outputs), "layers": len(self.layers), "loss": self.loss, "holds": holds,
            "expected": None if self.expected is None else self.expected.summary() or None,
        }  # fmt: skip

    def _rows(self) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        rows = [(layer.name, layer.groups, layer.rows, layer.columns, layer.crossbars) for layer in self.layers]
        return ("layer", "groups", "rows", "columns", "crossbars"), rows

    @checked()
    def save(self, path: str | Path) -> None:
        """Write ``model.cim``; RunError if that is not possible."""
        store.save(self, path)

    def cost(self, copies: Mapping[str, int] | Literal["auto"] | None = None, crossbars: int | None = None) -> Cost:
        """Tiles, operations, latency and energy of one image; see `cimc.ir.cost.cost`."""
        if isinstance(copies, Mapping):
            sensible_copies(copies, self)
        return cost_of(self, copies, crossbars)

    @checked()
    def cells(self, layer: str) -> NDArray[np.void]:
        """Which weight is which cell; see `cimc.ir.cells.cells`."""
        return cells_of(self, layer)

    def to_onnx(self) -> ModelProto:
        """The graph that this program was lowered from, with its weights, as plain ONNX that any runtime runs.

        Of a training program: the whole step, in ONNX and the dialect ``cimc``.

        Raises:
            ArtifactError: The program comes from a file whose graph does not hold together.
        """
        try:
            model = join(self.tensors["graph"].tobytes(), self.initializers())
            return onnx_ir.to_proto(model if self.loss is not None else expand(model))
        except CimcError:
            raise
        except Exception as error:  # onnx_ir has no error of its own for a graph that names what is not there
            raise ArtifactError(f"it does not hold together: {error}", where="graph", fix="compile the model again") from error


def _values(specs: Sequence[ValueSpec]) -> str:
    """Names, types and shapes in words."""
    shapes = ["" if spec.shape is None else f"[{', '.join('?' if n is None else str(n) for n in spec.shape)}]" for spec in specs]
    return ", ".join(f"{spec.name} {spec.dtype or spec.type}{shape}" for spec, shape in zip(specs, shapes, strict=True))
