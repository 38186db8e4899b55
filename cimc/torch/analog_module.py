"""A chip as a module, for evaluation loops that are written in PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from cimc.arguments import array
from cimc.errors import CimcError
from cimc.runtime.chip import Chip


class AnalogModule(torch.nn.Module):  # type: ignore[misc]
    """Its forward pass runs on a chip. It has no parameters, and no gradient goes through it.

    Args:
        chip: Its read noise goes on from call to call.

    Raises:
        CimcError: That is no chip.
    """

    def __init__(self, chip: Chip) -> None:
        super().__init__()
        if not isinstance(chip, Chip):
            what = f"the chip is of type {type(chip).__name__}"
            raise CimcError(what, where="AnalogModule", fix="AnalogModule(cimc.Chip(program))")
        self.chip = chip
        self._names = [spec.name for spec in chip.program.inputs if not spec.has_default]

    def forward(self, *inputs: torch.Tensor, **named: torch.Tensor) -> Any:
        """Run a batch.

        Args:
            inputs: Tensors in the order of the program's inputs.
            named: Further ones by the inputs' names.

        Returns:
            A tensor, or a tuple of several, on the device of the first input.

        Raises:
            CimcError: An input asks for a gradient.
            DataError: Inputs do not suit the program.
        """
        if len(inputs) > len(self._names):
            raise CimcError(f"there are {len(inputs)} inputs for {', '.join(self._names)}", where="AnalogModule")
        given = {**dict(zip(self._names, inputs, strict=False)), **named}
        tensors = [value for value in given.values() if isinstance(value, torch.Tensor)]
        if torch.is_grad_enabled() and any(value.requires_grad for value in tensors):
            fix = "run it under torch.no_grad(), or train with cimc.Trainer"
            raise CimcError("an input asks for a gradient, which a chip's product has not", where="AnalogModule", fix=fix)
        feeds = {n: array(v.detach().cpu() if isinstance(v, torch.Tensor) else v, f"input {n}") for n, v in given.items()}
        device = tensors[0].device if tensors else torch.device("cpu")
        outputs = tuple(torch.from_numpy(array(value, name).copy()).to(device) for name, value in self.chip.run(feeds).items())
        return outputs[0] if len(outputs) == 1 else outputs

    def extra_repr(self) -> str:
        """What it runs on, in a line."""
        program = self.chip.program
        return f"target={program.target.name}, layers={len(program.layers)}, seed={self.chip.seed}"
