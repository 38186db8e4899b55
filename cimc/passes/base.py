"""What a pass is: a name, options, a contract, and one change to the compilation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir
from numpy.typing import NDArray

from cimc.errors import VerifyError
from cimc.ir.program import InputCoding, Parameter, Placement, Program
from cimc.passes.recipes import Recipes
from cimc.passes.samples import Source
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
    bound: dict[str, NDArray[Any]] = field(default_factory=dict)
    """Inputs that were made constants, and their values."""
    source: Source | None = None
    """From `calibrate`: the inputs that it ran on."""
    samples: dict[str, NDArray[Any]] = field(default_factory=dict)
    """From `calibrate`: real-valued row vectors ``[positions, groups, rows]`` that a layer saw."""
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """From `calibrate`: shapes of activations, by value name, in a run of one image, or of the batch that the model fixes."""
    codings: dict[str, InputCoding] = field(default_factory=dict)
    """From `calibrate`: input coding of each layer, before `scales` chooses another."""
    placements: dict[str, Placement] = field(default_factory=dict)
    """By name of the user's node, in the model's order."""
    notes: list[str] = field(default_factory=list)
    """What the user should know: assumptions made, inputs synthesised."""
    calibration_basis: str = ""
    recipes: Recipes = field(default_factory=Recipes)
    """How folded constants follow from parameters."""
    plan: Sequence[Parameter] = ()
    """From `differentiate`: every real initializer, and whether it trains."""

    def need_program(self) -> Program:
        """The program.

        Raises:
            VerifyError: `lower` has not run.
        """
        if self.program is None:
            raise VerifyError("there is no program yet", fix="run pass `lower` before")
        return self.program


class Pass(ABC):
    """One step of a pipeline. A pass with options is a frozen dataclass, and its options are the fields.

    `cimc.passes.manager.PassManager` runs three methods of each pass, in this order: ``requires`` refuses what the pass
    cannot take (a `CimcError` with where and a way out), ``call`` does the work, ``ensures`` checks what the pass promises.
    ``ensures`` is always run, so it checks this pass's own promise only. Where a call changed nothing, ``unchanged`` says why.
    """

    name: ClassVar[str]

    def requires(self, state: Compilation) -> None:
        """Raise a CimcError for input that this pass refuses."""

    @abstractmethod
    def call(self, state: Compilation) -> Sequence[str]:
        """Change the compilation.

        Returns:
            Names of the nodes, layers, steps or values that changed; empty: nothing changed, not ``state.program`` either.
        """

    def ensures(self, state: Compilation) -> None:
        """Raise a VerifyError if the pass broke its promise."""

    def unchanged(self, state: Compilation) -> str:
        """Why a call changed nothing, for the log; empty: there is nothing to say."""
        return ""
