"""Learnt scales: the digital factors behind the crossbars' sums, trained by gradient with everything else.

A layer computes with ``W = f V``. V is what the crossbars hold, in weight units of the start of training: its window and the
threshold of an update never change. The digital factor f begins as 1; it multiplies the weight that spans the window (``w_max``),
and a step of it changes no device. The parameters of training are V and, so that f stays positive, ln f. With the loss L::

    dL/dV    = f * dL/dW
    dL/d ln f = sum of W * dL/dW over the weights that share f

The optimizer makes the changes of both from these gradients; its weight decay acts on V alone. The state of a layer is kept in
units of W: W and its pending changes follow f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cimc.ir.program import Program, Scales, UpdateStep
from cimc.training.accumulator import F32, LayerState

#: Ends of a factor: float32 holds its products with weights and changes.
_LEAST, _MOST = 1e-20, 1e20


@dataclass(frozen=True)
class LearntScales:
    """Which layers have factors that train."""

    kinds: Mapping[str, Scales]
    """``layer`` (one factor) or ``column`` (one a column), by name of the layer."""
    rate: float = 1.0
    """Their learning rate in parts of the weights'."""
    shared: tuple[str, ...] = ()
    """Layers whose scales would train, were their weights not those of another place too, nor computed from parameters."""

    def begin(self, states: Mapping[str, LayerState]) -> None:
        """Give layers their factor, unless an earlier training did."""
        for name in self.kinds:
            if states[name].factor is None:
                states[name].factor = np.ones_like(states[name].w_max)

    @classmethod
    def of(cls, step: Program, shared: set[str], rate: float) -> Self:
        """As the updates of a training program say.

        Args:
            step: The training program.
            shared: Layers whose weights another place holds too, or that are computed: these have values to keep, so their
                factors do not train.
            rate: Learning rate in parts of the weights'.
        """
        updates = (s for s in step.steps if isinstance(s, UpdateStep) and s.layer is not None and s.scales != "none")
        kinds = {str(s.layer): s.scales for s in updates}
        own = {name: kind for name, kind in kinds.items() if name not in shared}
        return cls(own, rate, tuple(name for name in kinds if name in shared))

    def notes(self) -> list[str]:
        """What the user should know of them."""
        found = []
        if self.kinds:
            which = {"layer": "one digital scale a layer", "column": "one digital scale a column"}[
                next(iter(self.kinds.values()))
            ]
            found.append(f"{which} trains with the weights: {', '.join(self.kinds)}")
        if self.shared:
            why = "another place holds the weights too, or they are computed from parameters"
            found.append(f"scales stay as they are where {why}: {', '.join(self.shared)}")
        return found

    def parameters(self, states: Mapping[str, LayerState]) -> dict[str, F32]:
        """What the optimizer takes for the parameters: zeros, so that no weight decay acts on them."""
        return {
            name: np.zeros_like(self._sum(name, state.w_max[:, None])) for name, state in states.items() if name in self.kinds
        }

    def gradients(self, weights: Mapping[str, F32], states: Mapping[str, LayerState]) -> dict[str, F32]:
        """Gradient of each logarithm, ``[1, 1]`` or ``[groups, columns]``.

        Args:
            weights: Gradient of each layer's weights, ``[groups, rows, columns]``.
            states: Of the layers.
        """
        found = {name: gradient for name, gradient in weights.items() if name in self.kinds}
        return {name: self._sum(name, states[name].weights * gradient) for name, gradient in found.items()}

    def _sum(self, name: str, products: NDArray[Any]) -> F32:
        axes = 1 if self.kinds[name] == "column" else None
        total = products.sum(axis=axes, dtype=np.float64)
        return np.atleast_2d(total).astype(np.float32)

    def multiples(self, changes: Mapping[str, F32]) -> dict[str, F32]:
        """What the changes of logarithms multiply each layer's factor by, shaped as they are."""
        with np.errstate(over="ignore"):
            return {name: np.exp(np.float32(self.rate) * change) for name, change in changes.items()}


def rescale(state: LayerState, multiple: F32) -> None:
    """Multiply the scale of a layer, in place; the devices' goals stay.

    Args:
        state: Of the layer.
        multiple: ``[1, 1]`` or ``[groups, columns]``.
    """
    state.w_max *= multiple
    if state.factor is not None:
        state.factor *= multiple
    state.weights *= multiple[:, None]
    state.delta *= multiple[:, None]


def times_factor(arrays: Mapping[str, F32], states: Mapping[str, LayerState], inverse: bool = False) -> dict[str, F32]:
    """From units of W to those of the parameters: arrays of layers times their factors, or over them.

    Args:
        arrays: By layer, ``[groups, rows, columns]``; without a factor it stays the same array.
        states: Of the layers.
        inverse: Divide.
    """
    made = {}
    for name, array in arrays.items():
        factor = states[name].factor
        made[name] = array if factor is None else array / factor[:, None] if inverse else array * factor[:, None]
    return made


def usable(state: LayerState, multiple: F32) -> bool:
    """Whether `rescale` leaves a scale that float32 can compute with."""
    with np.errstate(over="ignore", invalid="ignore"):
        scale = state.w_max * multiple
    return bool(((scale > _LEAST) & (scale < _MOST)).all())
