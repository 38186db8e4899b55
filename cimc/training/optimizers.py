"""Optimizers on named float32 arrays. A step gives the change of each parameter and applies nothing: of a crossbar layer it
goes to the accumulator, of a digital parameter it is added.

SGD and momentum as in Sutskever et al., ICML 2013 (in the form in which the rate multiplies the velocity); Adam: Kingma and Ba,
ICLR 2015; AdamW: Loshchilov and Hutter, ICLR 2019. ``weight_decay`` is added to the gradient, but in AdamW it is decoupled:
``-lr * weight_decay * w``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import inf, sqrt
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.errors import ArtifactError, CimcError, DataError
from cimc.runtime.jit import kernel
from cimc.runtime.rng import Scalar
from cimc.training.registry import chosen, made

F32 = NDArray[np.float32]

_F = np.float32
_FAST = {"contract"}
#: Moments below it are 0. Without gradients they fade for ever, and a core is a hundred times as slow below 1e-38.
_LEAST = _F(1e-36)


@njit(inline="always")
def _kept(moment: Scalar) -> Scalar:
    return np.float32(0) if abs(moment) < _LEAST else moment


@kernel(fastmath=_FAST, error_model="numpy")
def _momentum(g: F32, w: F32, v: F32, out: F32, lr: float, momentum: float, nesterov: float, decay: float) -> None:
    for i in range(g.size):
        gradient = g[i] + decay * w[i]
        velocity = _kept(momentum * v[i] + gradient)
        v[i] = velocity
        out[i] = -lr * (velocity + nesterov * (gradient + momentum * velocity - velocity))


@kernel(fastmath=_FAST, error_model="numpy")
def _sgd(g: F32, w: F32, out: F32, lr: float, decay: float) -> None:
    for i in range(g.size):
        out[i] = -lr * (g[i] + decay * w[i])


@kernel(fastmath=_FAST, error_model="numpy")
def _adam(
    g: F32, w: F32, m: F32, v: F32, out: F32, rate: float, beta1: float, rest1: float, beta2: float, rest2: float,
    root: float, epsilon: float, coupled: float, decoupled: float,
) -> None:  # fmt: skip
    for i in range(g.size):
        gradient = g[i] + coupled * w[i]
        first = _kept(beta1 * m[i] + rest1 * gradient)
        second = _kept(beta2 * v[i] + rest2 * gradient * gradient)
        m[i], v[i] = first, second
        out[i] = -rate * first / (np.sqrt(second) * root + epsilon) - decoupled * w[i]


def _flat(array: NDArray[Any]) -> F32:
    return np.ascontiguousarray(array, np.float32).reshape(-1)


class Optimizer(ABC):
    """Steps and named state; a parameter's state begins when its first gradient comes."""

    kernel: Any
    """Compiled: takes gradient, weight, kept arrays, and the change to fill, all flat; then the scalars."""
    slots: tuple[str, ...] = ()
    """Names of the arrays kept for each parameter."""

    def __init__(self) -> None:
        self.steps = 0
        self._kept: dict[str, tuple[F32, ...]] = {}

    @property
    def stateless(self) -> bool:
        """Whether a step depends on its own gradient alone, so that nothing of a parameter is kept from step to step."""
        return not self.slots

    def step(self, gradients: Mapping[str, NDArray[Any]], weights: Mapping[str, NDArray[Any]], lr: float) -> dict[str, F32]:
        """Change of each parameter that has a gradient.

        Args:
            gradients: By parameter; cast to float32.
            weights: The parameters, of the same shapes (of a crossbar layer W, not W + ΔW).
            lr: Learning rate of this step.

        Raises:
            DataError: A gradient without a parameter, or of another shape.
        """
        for name, gradient in gradients.items():
            found = weights.get(name)
            if found is None or found.shape != gradient.shape:
                what = "no such parameter" if found is None else f"its parameter is {list(found.shape)}"
                raise DataError(f"a gradient of shape {list(gradient.shape)}, but {what}", where=f"parameter {name}")
        self.steps += 1
        scalars = tuple(_F(s) for s in self._scalars(lr))
        changes = {}
        for name, gradient in gradients.items():
            if name not in self._kept:
                self._kept[name] = tuple(np.zeros(gradient.size, np.float32) for _ in self.slots)
            change = np.empty(gradient.shape, np.float32)
            self.kernel(_flat(gradient), _flat(weights[name]), *self._kept[name], change.reshape(-1), *scalars)
            changes[name] = change
        return changes

    @abstractmethod
    def _scalars(self, lr: float) -> tuple[float, ...]:
        """What the kernel takes in this step, the same for all parameters."""

    def state(self) -> dict[str, NDArray[Any]]:
        """All that a checkpoint needs, as named arrays: ``steps``, and ``slot/parameter``."""
        arrays: dict[str, NDArray[Any]] = {"steps": np.array([self.steps], np.int64)}
        for name, kept in self._kept.items():
            arrays |= {f"{slot}/{name}": a for slot, a in zip(self.slots, kept, strict=True)}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state.

        Raises:
            ArtifactError: It is that of another optimizer.
        """
        names = [key.partition("/")[2] for key in arrays if self.slots and key.startswith(f"{self.slots[0]}/")]
        expected = {"steps"} | {f"{slot}/{name}" for slot in self.slots for name in names}
        if set(arrays) != expected:
            other = sorted(set(arrays) ^ expected)[0]
            raise ArtifactError(
                f"the optimizer's state does not suit {type(self).__name__}: {other}", fix="resume with the same optimizer"
            )
        self.steps = int(arrays["steps"][0])
        self._kept = {n: tuple(np.array(arrays[f"{slot}/{n}"], np.float32) for slot in self.slots) for n in names}


class SGD(Optimizer):
    """``-lr * g``."""

    kernel = staticmethod(_sgd)

    def __init__(self, weight_decay: float = 0.0) -> None:
        super().__init__()
        within("weight_decay", weight_decay, 0, inf, open_high=True)
        self.weight_decay = weight_decay

    def _scalars(self, lr: float) -> tuple[float, ...]:
        return lr, self.weight_decay


class Momentum(Optimizer):
    """``v = momentum * v + g; -lr * v``; with Nesterov ``-lr * (g + momentum * v)``."""

    kernel = staticmethod(_momentum)
    slots = ("velocity",)

    def __init__(self, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__()
        within("momentum", momentum, 0, 1, open_high=True)
        if not isinstance(nesterov, bool):
            raise CimcError(f"nesterov is {nesterov!r}", fix="true or false")
        within("weight_decay", weight_decay, 0, inf, open_high=True)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay

    @property
    def stateless(self) -> bool:
        return not self.momentum

    def _scalars(self, lr: float) -> tuple[float, ...]:
        return lr, self.momentum, self.nesterov, self.weight_decay


class Adam(Optimizer):
    """``-lr * m' / (sqrt(v') + epsilon)`` with bias-corrected moments."""

    kernel = staticmethod(_adam)
    slots = ("first_moment", "second_moment")
    decoupled = False

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__()
        within("beta1", beta1, 0, 1, open_high=True)
        within("beta2", beta2, 0, 1, open_high=True)
        within("epsilon", epsilon, 0, inf, open_high=True)
        within("weight_decay", weight_decay, 0, inf, open_high=True)
        self.beta1, self.beta2, self.epsilon, self.weight_decay = beta1, beta2, epsilon, weight_decay

    @property
    def stateless(self) -> bool:
        return not (self.beta1 or self.beta2)

    def _scalars(self, lr: float) -> tuple[float, ...]:
        rate, root = lr / (1 - self.beta1**self.steps), 1 / sqrt(1 - self.beta2**self.steps)
        coupled, decoupled = (0.0, lr * self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        # 1 - beta in float64: float32 would lose half the digits of 1 - 0.999.
        betas = self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2
        return rate, *betas, root, self.epsilon, coupled, decoupled


class AdamW(Adam):
    """Adam, and apart from it ``-lr * weight_decay * w``."""

    decoupled = True

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8, weight_decay: float = 0.01) -> None:
        super().__init__(beta1, beta2, epsilon, weight_decay)


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adam": Adam, "adamw": AdamW}


def create(name: str, **options: Any) -> Optimizer:
    """The optimizer of that name.

    Raises:
        CimcError: No such optimizer or option, or a value out of range.
    """
    return made(chosen(OPTIMIZERS, name, "optimizer"), "optimizer", (), options)
