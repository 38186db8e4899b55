"""What a pass is: a name, a contract, and one change to the compilation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
from numpy.typing import NDArray

from cimc.ir.program import Placement, Program
from cimc.passes.recipes import Recipes
from cimc.targets.description import Target


@dataclass
class Compilation:
    """The state that the pipeline carries from a checked ONNX model to a program.

    Graph passes change ``model`` in place; ``lower`` makes ``program`` from it, and the passes after it replace that.
    """

    model: ir.Model
    target: Target
    program: Program | None = None
    calibration: Mapping[str, Any] | None = None
    """Model inputs, images along the first axis; None: a synthetic input."""
    assumed_range: tuple[float, float] = (0.0, 1.0)
    """Where real inputs are taken to lie, where neither the target nor calibration data tell."""
    chips: int | None = None
    """As many chips as may be used; None: as many as it takes."""
    copies: Mapping[str, int] = field(default_factory=dict)
    """Copies of a layer's crossbars that work at once; absent: one."""
    bound: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Inputs that were made constants, and their values."""
    samples: dict[str, NDArray[Any]] = field(default_factory=dict)
    """From `calibrate`: real-valued row vectors ``[positions, groups, rows]`` that a layer saw."""
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """From `calibrate`: shapes of activations, by value name, in a run of one image, or of the batch that the model fixes."""
    placements: dict[str, Placement] = field(default_factory=dict)
    """By name of the user's node, in the model's order."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: assumptions made, inputs synthesised."""
    calibration_basis: str = ""
    recipes: Recipes = field(default_factory=Recipes)
    """How folded constants follow from parameters."""

    def need_program(self) -> Program:
        """The program; only passes after ``lower`` may ask."""
        if self.program is None:
            raise RuntimeError("no program yet: this pass belongs after `lower`")
        return self.program


class Pass(ABC):
    """One step of the pipeline.

    ``requires`` refuses what the pass cannot take (a `CimcError` with where and a way out), ``call`` does the work and
    says whether anything changed, ``ensures`` checks what the pass promises and runs under ``--verify``.
    """

    name: ClassVar[str]

    def requires(self, state: Compilation) -> None:
        """Raise a CimcError for input that this pass refuses."""

    @abstractmethod
    def call(self, state: Compilation) -> bool:
        """Change the compilation; True if anything changed."""

    def ensures(self, state: Compilation) -> None:
        """Raise a VerifyError if the pass broke its promise."""
