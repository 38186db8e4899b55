"""The streams of random numbers that a chip draws from, and how far each has been used.

Read noise, dropout masks and random operators are functions of a key: chip seed, step, stream, and the numbers of image,
position, slice and column. Each purpose has a stream of its own, so an image that is trained on and later evaluated meets
another noise each time.

===========  =========================  =====================================================================
purpose      stream                     number of the first image
===========  =========================  =====================================================================
inference    ``()``                     ``first_image`` of `Chip.run`, or the images that this chip has run
training     ``("training",)``          the images that the chip has been trained on, in all its trainings
evaluation   ``("evaluation", n)``      0; n counts the evaluations of `Trainer`
calibration  ``("calibration", n)``     0; n counts the times that ranges were chosen, or outputs fitted
===========  =========================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError

#: What a key has besides seed and step.
Stream = tuple[str | int, ...]

INFERENCE: Stream = ()
TRAINING: Stream = ("training",)

#: Of images and calls: far more than any chip sees, far fewer than a kernel's counters hold.
_LARGEST = 1 << 48


@dataclass
class Draws:
    """Counters of one chip; part of a trained ``.cim`` and of a checkpoint."""

    trained: int = 0
    """Images that the chip has been trained on."""
    evaluations: int = 0
    calibrations: int = 0
    inferred: int = 0
    """Images that it has run, where `Chip.run` was not told their numbers."""

    def evaluation(self) -> Stream:
        """The stream of a new evaluation."""
        self.evaluations += 1
        return ("evaluation", self.evaluations)

    def calibration(self) -> Stream:
        """The stream of a new calibration."""
        self.calibrations += 1
        return ("calibration", self.calibrations)

    def state(self) -> NDArray[np.int64]:
        """The first three counters in their order, ``[3]``; `inferred` is kept by itself."""
        return np.array([self.trained, self.evaluations, self.calibrations], np.int64)

    @classmethod
    def of(cls, state: NDArray[np.int64], inferred: int = 0) -> Self:
        """From `state` and the fourth counter.

        Raises:
            ArtifactError: These are no three counts.
        """
        counts = state.tolist() if state.dtype.kind == "i" and state.shape == (3,) else []
        if not (counts and all(0 <= count < _LARGEST for count in counts)):
            raise ArtifactError(f"state/draws is {state.dtype}{list(state.shape)}, not three counts", fix="train it again")
        trained, evaluations, calibrations = counts
        return cls(trained, evaluations, calibrations, inferred)
