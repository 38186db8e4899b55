"""Learning rates. A schedule gives the rate of a step; only `Plateau` remembers anything."""

from __future__ import annotations

from collections.abc import Mapping
from math import cos, inf, pi
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import within
from cimc.errors import ArtifactError, CimcError
from cimc.training.registry import chosen, made


class Schedule:
    """The rate of each step; this one is constant.

    Args:
        lr: The initial rate.
    """

    by_step: ClassVar[bool] = False
    """Whether the rate changes within an epoch."""

    def __init__(self, lr: float) -> None:
        within("lr", lr, 0, inf, open_high=True)
        self.lr = lr

    def rate(self, step: int, total_steps: int, epoch: int) -> float:
        """Rate of a step.

        Args:
            step: From 0, over the whole run.
            total_steps: Steps of the whole run.
            epoch: From 0.
        """
        return self.lr

    def observe(self, metric: float) -> None:
        """Told at the end of each epoch; of no matter to most."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Named arrays for a checkpoint."""
        return {}

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See that a state can be restored.

        Raises:
            ArtifactError: It is that of another schedule, or none that this schedule comes to.
        """
        if set(arrays) != set(self.state()):
            raise ArtifactError(f"the state is not that of a {type(self).__name__} schedule", fix="resume with the same schedule")

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state that `check` lets pass.

        Raises:
            ArtifactError: It does not.
        """
        self.check(arrays)


class Constant(Schedule):
    """``lr``."""


class Step(Schedule):
    """``lr * factor ** (epoch // every)``."""

    def __init__(self, lr: float, every: int = 10, factor: float = 0.5) -> None:
        super().__init__(lr)
        within("every", every, 1, inf, whole=True)
        within("factor", factor, 0, 1)
        self.every, self.factor = every, factor

    def rate(self, step: int, total_steps: int, epoch: int) -> float:
        """See `Schedule`."""
        return float(self.lr * self.factor ** (epoch // self.every))


class Cosine(Schedule):
    """``final + (lr - final) * (1 + cos(pi * step / total_steps)) / 2`` (Loshchilov and Hutter, ICLR 2017, without restarts)."""

    by_step = True

    def __init__(self, lr: float, final: float = 0.0) -> None:
        super().__init__(lr)
        within("final", final, 0, lr)
        self.final = final

    def rate(self, step: int, total_steps: int, epoch: int) -> float:
        """See `Schedule`."""
        done = min(step / total_steps, 1.0) if total_steps else 1.0
        return self.final + (self.lr - self.final) * (1 + cos(pi * done)) / 2


class Plateau(Schedule):
    """The rate is multiplied by ``factor`` after ``patience`` epochs in a row without improvement, then the count begins anew.

    Args:
        lr: The initial rate.
        patience: Epochs.
        factor: Of the rate.
        mode: "min" where a lower metric is better, "max" where a higher one is.
        least: The rate falls no lower.
    """

    def __init__(
        self, lr: float, patience: int = 5, factor: float = 0.5, mode: Literal["min", "max"] = "min", least: float = 0.0
    ) -> None:
        super().__init__(lr)
        within("patience", patience, 1, inf, whole=True)
        within("factor", factor, 0, 1)
        within("least", least, 0, lr)
        if mode not in ("min", "max"):
            raise CimcError(f"mode is {mode!r}", fix="min or max")
        self.patience, self.factor, self.mode, self.least = patience, factor, mode, least
        self._rate, self._best, self._without = lr, inf, 0

    def rate(self, step: int, total_steps: int, epoch: int) -> float:
        """See `Schedule`."""
        return self._rate

    def observe(self, metric: float) -> None:
        """Take in an epoch's metric; one that is no number is no improvement."""
        value = metric if self.mode == "min" else -metric
        if value < self._best:
            self._best, self._without = value, 0
            return
        self._without += 1
        if self._without >= self.patience:
            self._rate, self._without = max(self._rate * self.factor, self.least), 0

    def state(self) -> dict[str, NDArray[Any]]:
        """See `Schedule`."""
        return {"plateau": np.array([self._rate, self._best, self._without], np.float64)}

    def check(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See `Schedule`."""
        super().check(arrays)
        rate, best, without = arrays["plateau"].tolist()
        if not (0 <= rate < inf and best == best and 0 <= without < self.patience and without == int(without)):
            what = f"a plateau schedule has no rate {rate}, best metric {best} and {without} epochs without improvement"
            raise ArtifactError(what, where="checkpoint", fix="resume from another checkpoint")

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """See `Schedule`."""
        super().restore(arrays)
        rate, best, without = arrays["plateau"].tolist()
        self._rate, self._best, self._without = rate, best, int(without)


SCHEDULES: dict[str, type[Schedule]] = {"constant": Constant, "step": Step, "cosine": Cosine, "plateau": Plateau}


def create(name: str, lr: float, **options: Any) -> Schedule:
    """The schedule of that name.

    Raises:
        CimcError: No such schedule or option, or a value out of range.
    """
    return made(chosen(SCHEDULES, name, "schedule"), "schedule", (lr,), options)
