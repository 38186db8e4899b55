"""Noise-aware training in a loop of PyTorch: the errors of a chip act on Linear and Conv layers while the module trains."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cimc.arguments import checked, within
from cimc.calibration.drawn import drawn_weights
from cimc.calibration.reads import FIXED
from cimc.errors import CimcError
from cimc.ir.encoding import unit_cuts
from cimc.ir.forecast import LayerForecast
from cimc.ir.program import Layer, Program
from cimc.ir.ranging import full_code
from cimc.ir.records import on_crossbars
from cimc.ir.samples import keyed
from cimc.targets.description import Target

_KINDS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_WHERE = "cimc.torch.noise_aware"


@checked("module")
def noise_aware(module: torch.nn.Module, program: Program, *, seed: int = 0) -> NoiseAware:
    """Errors of the program's chip in the forward passes of a module, in a ``with`` block around a training loop.

    In training mode each forward pass of a Linear or Conv layer that is on crossbars takes the place of one die and one read:

    - its inputs are clipped and rounded as the DAC does it, with the input scale of the program;
    - its weights are those that a die holds: rounded to levels, with programming error and faults (`drawn_weights`), a new die in
      each pass; the weight that spans the conductance window follows the layer's largest weight;
    - its product gets Gaussian noise of the power that the program's forecast gives for read noise and the ADC, in parts of the
      product's own power.

    Gradients pass straight through: they are those of the layer without rounding, clipping and noise, at the weights and inputs
    that it computed with. In evaluation mode the module computes as it always does. Parameters stay the same objects under the
    same names, also inside the block, so optimizers and ``state_dict`` work as usual; afterwards nothing is left on the module.

    Args:
        module: That the program was compiled from with `compile`, or one with the same ``state_dict``.
        program: Compiled for the chip.
        seed: The same seed and the same passes draw the same errors.

    Returns:
        The block. Its ``layers`` are the names of what has errors; ``left_out`` names those layers of the program that have
        none, of which a warning tells.

    Raises:
        CimcError: The program has no forecast, as on an ideal chip; or no layer of it is a Linear or Conv of the module.
    """
    if not isinstance(module, torch.nn.Module):
        raise CimcError(f"the module is of type {type(module).__name__}", where=_WHERE, fix="give a torch.nn.Module")
    within("seed", seed, 0, 2**62, whole=True)
    if program.expected is None:
        what = f"the program has no forecast of its errors (target {program.target.name})"
        raise CimcError(what, where=_WHERE, fix="compile the module for a chip that has errors: cimc.torch.compile(module, …)")
    names = {id(value): name for name, value in module.named_parameters()}
    same = {name: names[id(value)] for name, value in module.named_parameters(remove_duplicate=False)}
    forecasts = {row.layer: row for row in program.expected.layers}
    by_weight = {same.get(layer.weight.tensor, layer.weight.tensor): layer for layer in program.layers}
    found: dict[str, _Noisy] = {}
    for name, part in module.named_modules():
        layer = by_weight.get(names.get(id(part.weight), "")) if isinstance(part, _KINDS) else None
        if layer is None:
            continue
        stored = program.tensors[f"initializer/{layer.weight.tensor}"]
        if tuple(part.weight.shape) != stored.shape:
            what = f"{name}.weight is {list(part.weight.shape)}, in the program {list(stored.shape)}"
            raise CimcError(what, where=_WHERE, fix="compile this module")
        span = program.tensors[f"weight_max/{layer.name}"]
        found[name] = _Noisy(name, part, layer, program.target, forecasts[layer.name], span, float(np.abs(stored).max()), seed)
    taken = {noisy.layer.name for noisy in found.values()}
    left_out = tuple(layer.name for layer in program.layers if layer.name not in taken)
    if not found:
        raise CimcError(
            "no Linear or Conv layer of the module is on a crossbar of the program", where=_WHERE, fix="compile this module"
        )
    return NoiseAware(found, left_out)


class NoiseAware:
    """The block that `noise_aware` gives."""

    def __init__(self, noisy: dict[str, _Noisy], left_out: tuple[str, ...]) -> None:
        self._noisy = noisy
        self.layers = tuple(noisy)
        """Names of the layers that have errors."""
        self.left_out = left_out
        """Names of layers of the program that have none: of other kinds, such as LSTM."""

    def __enter__(self) -> NoiseAware:
        for name, noisy in self._noisy.items():
            if "forward" in vars(noisy.part):
                raise CimcError(f"layer {name} has a forward of its own already", where=_WHERE, fix="leave the other block first")
        if self.left_out:
            warnings.warn(f"no errors in training: {', '.join(self.left_out)}", stacklevel=2)
        for noisy in self._noisy.values():
            noisy.part.forward = noisy.forward
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for noisy in self._noisy.values():
            del noisy.part.forward
        unused = [name for name, noisy in self._noisy.items() if not noisy.passes]
        if kind is None and unused and len(unused) < len(self._noisy):
            warnings.warn(f"no errors in training, as their forward was never called: {', '.join(unused)}", stacklevel=2)

    def __repr__(self) -> str:
        return f"NoiseAware(layers={', '.join(self.layers)}; left out: {', '.join(self.left_out) or 'none'})"


@dataclass
class _Noisy:
    """One layer with its errors."""

    name: str
    part: Any
    layer: Layer
    target: Target
    forecast: LayerForecast
    span: NDArray[Any]
    """The weight that spans the window, as compiled: one, or one a column."""
    largest: float
    """The largest weight, as compiled."""
    seed: int
    passes: int = field(default=0)

    def __post_init__(self) -> None:
        count = self.part.weight.numel()
        numbers = self.layer.weight.matrix_of(np.arange(1, count + 1).reshape(tuple(self.part.weight.shape)))
        self._places = on_crossbars(numbers, self.layer)  # 0 where packed groups leave the crossbar empty
        self._times = np.bincount(self._places.ravel(), minlength=count + 1)[1:]
        drawn = [db for cause, db in self.forecast.causes_db.items() if cause not in FIXED and not cause.startswith("DAC")]
        self._noise_share = sum(10 ** (-db / 10) for db in drawn)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's forward pass."""
        if not self.part.training:
            return type(self.part).forward(self.part, x)
        generator = keyed("noise-aware training", self.seed, self.name, self.passes)
        self.passes += 1
        product = self._product(self._held(x), self._on_die(generator))
        if self._noise_share:
            noise = torch.from_numpy(generator.standard_normal(tuple(product.shape), np.float32)).to(product)
            power = product.detach().square().mean()
            product = product + noise * torch.sqrt(self._noise_share * power)
        if self.part.bias is None:
            return product
        shape = (-1,) + (1,) * (0 if isinstance(self.part, torch.nn.Linear) else product.dim() - self._bias_axis(product) - 1)
        return product + self.part.bias.reshape(shape)

    def _product(self, x: torch.Tensor, weight: torch.Tensor) -> Any:
        if isinstance(self.part, torch.nn.Linear):
            return torch.nn.functional.linear(x, weight)
        return self.part._conv_forward(x, weight, None)

    def _bias_axis(self, product: torch.Tensor) -> int:
        """Axis of the channels: images may lack a batch."""
        return int(product.dim() - len(self.part.kernel_size) - 1)

    def _held(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs as the DAC gives them; gradients pass straight through."""
        if self.target.dac.bits is None:
            return x
        gain, signed = self.layer.coding.gain, self.layer.coding.signed
        top = full_code(self.target, signed)
        with torch.no_grad():
            codes = torch.round(torch.clamp(x * gain, -top if signed else 0, top))
            off = codes / gain - x
        return x + off

    def _on_die(self, generator: np.random.Generator) -> torch.Tensor:
        """Weights as a new die holds them; gradients pass straight through."""
        weight = self.part.weight
        plain = weight.detach().cpu().to(torch.float32).numpy()
        largest = float(np.abs(plain).max())
        if not largest:
            return weight
        matrix = np.concatenate([np.zeros(1, np.float32), plain.ravel()])[self._places]
        span = self.span * np.float32(largest / self.largest) if self.largest else np.full(1, largest, np.float32)
        cuts = unit_cuts(self.layer.column_cuts, self.target)
        held = drawn_weights(matrix, span, self.layer.row_cuts, cuts, self.target, generator)
        total = np.bincount(self._places.ravel(), held.ravel(), plain.size + 1)[1:]
        off = (total / np.maximum(1, self._times)).reshape(plain.shape) - plain
        off[self._times.reshape(plain.shape) == 0] = 0
        return weight + torch.from_numpy(off.astype(np.float32)).to(weight)
