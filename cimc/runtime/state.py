"""The state of a chip: what a trained ``.cim`` keeps of it beside its program, as tensors ``state/...`` and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import Program
from cimc.runtime.draws import Draws
from cimc.runtime.output_fit import OutputFit
from cimc.runtime.saved import is_device_state
from cimc.runtime.saved_fits import fit_state, saved_fits, without_fits

Arrays = Mapping[str, NDArray[Any]]
_PREFIX = "state/"


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

    @classmethod
    def of(cls, program: Program, seed: int | None) -> Self:
        """The state that a program brings; of a program that brings none, that of a new chip.

        Args:
            program: Compiled, or that of a saved chip.
            seed: Of the new chip (None: 0); of a saved one, of its read noise (None: its own).

        Raises:
            ArtifactError: A tensor is not what a chip saves.
        """
        found = {name.removeprefix(_PREFIX): array for name, array in program.tensors.items() if name.startswith(_PREFIX)}

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
        return cls(own, noise if seed is None else seed, draws, time_s, held, fits, memory)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """As the tensors of a program, by their whole names; copies."""
        state: dict[str, NDArray[Any]] = {"seed": np.array([self.seed], np.int64), "draws": self.draws.state(), **self.memory}
        if self.noise_seed != self.seed:
            state["noise_seed"] = np.array([self.noise_seed], np.int64)
        if self.draws.inferred:
            state["images"] = np.array([self.draws.inferred], np.int64)
        if self.time_s:
            state["time_s"] = np.array([self.time_s], np.float64)
        for layer, parts in self.layers.items():
            state |= {f"{layer}/{part}": array for part, array in parts.items()}
        return {f"{_PREFIX}{name}": np.array(array) for name, array in (state | fit_state(self.fits)).items()}

    def into(self, program: Program, fitted: str) -> Program:
        """The program with this state in it, in the place of any other fits.

        Args:
            program: Of the chip.
            fitted: How the fits were found, in words.
        """
        plain = without_fits(program)
        provenance = plain.provenance.model_copy(update={"fitted": fitted})
        return plain.model_copy(update={"tensors": {**plain.tensors, **self.tensors()}, "provenance": provenance})
