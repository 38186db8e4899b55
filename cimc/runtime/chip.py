"""A simulated chip: fabricated from a target, programmed with a program, run on images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError
from cimc.ir.program import Program, VmmStep, weight_matrix
from cimc.ir.ranging import Samples, choose_ranges
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.digital import Value
from cimc.runtime.executor import Executor, Watch


class Chip:
    """One die with ``program`` written into it; the same seed is the same die, faults and all.

    Args:
        program: A compiled program.
        seed: Of fabrication, programming error and read noise.
        deterministic: Also run digital segments that may depend on the batch split image by image.

    Raises:
        CimcError: The program cannot be fabricated, or the seed is no non-negative integer below 2**63.
    """

    def __init__(self, program: Program, seed: int = 0, *, deterministic: bool = False) -> None:
        if not 0 <= seed < 2**63:
            raise CimcError(f"seed {seed} is not between 0 and 2**63 - 1")
        self.program = program
        self.seed = seed
        self._deterministic = deterministic
        self._crossbars = {
            layer.name: Crossbar(
                layer, weight_matrix(program, layer), program.tensors[f"weight_max/{layer.name}"], program.target, seed
            )
            for layer in program.layers
        }
        self._executor = Executor(program, self._crossbars, seed, deterministic)
        self._images = 0

    def run(self, inputs: Mapping[str, Value], first_image: int | None = None, *, keep: tuple[str, ...] = ()) -> dict[str, Value]:
        """Run a batch.

        Args:
            inputs: Arrays by input name, images along the first axis.
            first_image: Number of the batch's first image, which keys its read noise; None: go on counting from the last run.
            keep: Names of intermediate values to return as well.

        Returns:
            Values by name, in the model's output order: arrays, or lists and None where ONNX types have them.

        Raises:
            DataError: Inputs do not suit the model.
        """
        return self._run(inputs, first_image, None, keep)

    def _run(
        self, inputs: Mapping[str, Value], first_image: int | None, watch: Watch | None, keep: tuple[str, ...]
    ) -> dict[str, Value]:
        first = self._images if first_image is None else first_image
        outputs = self._executor.run(inputs, first, watch, keep)
        if first_image is None:
            self._images += max((len(v) for v in inputs.values() if isinstance(v, np.ndarray) and v.ndim), default=1)
        return outputs

    def multiply(self, step: str, x: NDArray[Any]) -> NDArray[Any]:
        """One crossbar step by itself: its layer applied to ``x``, as image 0 onwards.

        Raises:
            KeyError: No crossbar step has that name.
        """
        steps = {s.name: s for s in self.program.vmm_steps}
        return self._executor.multiply(steps[step], x, len(x), 0)

    def calibrate(self, inputs: Mapping[str, Value]) -> None:
        """Choose input gains and ADC ranges anew from these images, on this chip's own conductances, a layer at a time.

        Raises:
            DataError: Inputs do not suit the model.
        """
        ready: set[str] = set()

        def watch(step: VmmStep, x: NDArray[Any]) -> None:
            if step.layer not in ready:
                ready.add(step.layer)
                self._calibrate_layer(step, x)

        self._run(inputs, 0, watch, ())

    def _calibrate_layer(self, step: VmmStep, x: NDArray[Any]) -> None:
        crossbar = self._crossbars[step.layer]
        samples = Samples.of(x, step.geometry, crossbar.layer)
        layer = choose_ranges(crossbar.layer, samples, crossbar.devices, self.program.target)
        crossbar.recode(layer)
        layers = tuple(layer if old.name == layer.name else old for old in self.program.layers)
        self.program = self.program.model_copy(update={"layers": layers})

    def conductances(self, layer: str) -> NDArray[np.float32]:
        """What the devices of a layer hold, µS, ``[groups, rows, planes, columns]``."""
        return self._crossbars[layer].g_us

    def weights(self) -> dict[str, NDArray[np.float32]]:
        """What the devices hold in weight units: layer name to ``[groups, rows, columns]``."""
        return {name: crossbar.weights() for name, crossbar in self._crossbars.items()}

    def stats(self) -> dict[str, Any]:
        """Counts since fabrication, by layer: tile reads, ADC conversions and saturations, DAC clips."""
        return {name: asdict(crossbar.stats) for name, crossbar in self._crossbars.items()}
