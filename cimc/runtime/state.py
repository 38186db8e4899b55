"""The state of a chip: what a trained ``.cim`` and a checkpoint keep of it, as tensors ``state/...`` and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.ir.program import Program
from cimc.ir.verify_tensors import verify_state
from cimc.runtime.draws import Draws
from cimc.runtime.output_fit import OutputFit
from cimc.runtime.saved import is_device_state
from cimc.runtime.saved_fits import fit_state, saved_fits, without_fits

Arrays = Mapping[str, NDArray[Any]]
#: Before the names of its tensors.
PREFIX = "state/"


@dataclass(frozen=True)
class ChipState:
    """Everything that two chips of one program may differ in.

    The schema is the program's: `cimc.ir.records` lists the tensors, and `cimc.ir.verify_tensors` checks them.
    """

    seed: int
    """Of fabrication and programming."""
    noise_seed: int
    """Of read noise."""
    draws: Draws = field(default_factory=Draws)
    """How far its streams of random numbers have been used."""
    time_s: float = 0.0
    """Present time; it was programmed at 0."""
    layers: Mapping[str, Arrays] = field(default_factory=dict)
    """Devices by layer, as `cimc.runtime.saved.device_state` gives them; a layer that is missing is made from the seed."""
    fits: Mapping[str, OutputFit] = field(default_factory=dict)
    """By step: scale and offset that were fitted to its outputs."""
    memory: Arrays = field(default_factory=dict)
    """What training keeps beside the devices, by name without ``state/``."""
    fitted: str = ""
    """How the fits were found, in words: no tensor, but part of the program's provenance."""

    @classmethod
    def of(cls, program: Program, seed: int | None) -> Self:
        """The state that a program brings; of a program that brings none, that of a new chip.

        Args:
            program: Compiled, or that of a saved chip.
            seed: Of the new chip (None: 0); of a saved one, of its read noise (None: its own).

        Raises:
            ArtifactError: A tensor is not what a chip saves.
        """
        found = {name.removeprefix(PREFIX): array for name, array in program.tensors.items() if name.startswith(PREFIX)}

        def number(name: str, default: float) -> Any:
            return found.pop(name)[0] if name in found else default

        own = int(number("seed", seed or 0))
        noise, time_s, inferred = int(number("noise_seed", own)), float(number("time_s", 0.0)), int(number("images", 0))
        draws = Draws.of(found.pop("draws"), inferred) if "draws" in found else Draws(inferred=inferred)
        layers: dict[str, dict[str, NDArray[Any]]] = {layer.name: {} for layer in program.layers}
        fits = saved_fits(program)
        fitted, memory = fit_state(fits).keys(), {}
        for name, array in found.items():
            layer, _, part = name.rpartition("/")
            if layer in layers and is_device_state(part):
                layers[layer][part] = array
            elif name not in fitted:
                memory[name] = np.array(array)
        held = {name: parts for name, parts in layers.items() if "g_us" in parts}
        return cls(own, noise if seed is None else seed, draws, time_s, held, fits, memory, program.provenance.fitted)

    @classmethod
    def of_tensors(cls, program: Program, tensors: Arrays, fitted: str = "") -> Self:
        """The state that tensors beside a program hold, as `tensors` gives them.

        Args:
            program: Of the chip; what it brings of a chip itself does not count.
            tensors: By their whole names.
            fitted: How the fits were found, in words.

        Raises:
            VerifyError: A tensor belongs to no chip of the program, or has another dtype, shape or value than one can have.
            ArtifactError: The tensors do not suit each other, or one that every chip has is missing.
        """
        if missing := sorted({f"{PREFIX}seed", f"{PREFIX}draws"} - tensors.keys()):
            raise ArtifactError("it is missing", where=f"tensor {missing[0]}")
        verify_state(program, tensors)
        own = {name: tensor for name, tensor in program.tensors.items() if not name.startswith(PREFIX)}
        provenance = program.provenance.model_copy(update={"fitted": fitted})
        return cls.of(program.model_copy(update={"tensors": {**own, **tensors}, "provenance": provenance}), None)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As the tensors of a program, by their whole names; large ones are the state's own arrays."""
        state: dict[str, NDArray[Any]] = {"seed": np.array([self.seed], np.int64), "draws": self.draws.state(), **self.memory}
        if self.noise_seed != self.seed:
            state["noise_seed"] = np.array([self.noise_seed], np.int64)
        if self.draws.inferred:
            state["images"] = np.array([self.draws.inferred], np.int64)
        if self.time_s:
            state["time_s"] = np.array([self.time_s], np.float64)
        for layer, parts in self.layers.items():
            state |= {f"{layer}/{part}": array for part, array in parts.items()}
        return {f"{PREFIX}{name}": array for name, array in (state | fit_state(self.fits)).items()}

    def into(self, program: Program) -> Program:
        """The program with a copy of this state in it, in the place of any other fits."""
        plain = without_fits(program)
        provenance = plain.provenance.model_copy(update={"fitted": self.fitted})
        own = {name: np.array(array) for name, array in self.tensors().items()}
        return plain.model_copy(update={"tensors": {**plain.tensors, **own}, "provenance": provenance})
