"""The interface of update rules: how an optimizer's step, or the vectors of a batch, change the devices of a layer.

There are two kinds. A rule that takes the *change* is given each optimizer step of a layer. A rule that takes *vectors* is given
the inputs x and the gradients δ of every position, and the learning rate; it changes its arrays by rank-one steps, and no dense
gradient is formed unless it asks for `Vectors.gradient`. How many arrays a weight has, and the share of each in the weight, its
section says (`Update.shares`): the program is compiled for them, so places, cost, wear, files and exports count them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.runtime.cells import Keys
from cimc.runtime.devices import State
from cimc.runtime.rank_one import Vectors
from cimc.runtime.row_read import RowReader
from cimc.runtime.write import Writes
from cimc.training.accumulator import LayerState


class _Rule(Protocol):
    """What both kinds have: made of a target (and options), of no state of its own but that in `LayerState`."""

    @property
    def stateless(self) -> bool:
        """Whether nothing of higher precision than the devices may be kept between steps, by an optimizer neither."""

    def begin(self, state: LayerState) -> None:
        """Prepare a state before the first step: arrays of the rule's own go to ``state.own``, the same for each new state.

        A state that goes on has its own arrays' contents put in afterwards.
        """

    def writer(
        self, state: LayerState, g_us: NDArray[np.float32], seed: int, keys: Keys | None = None, devices: State | None = None
    ) -> Any:
        """What `apply` writes with: arguments as of `cimc.runtime.write.DeviceState`."""


class ChangeRule(_Rule, Protocol):
    """Takes optimizer steps.

    A rule may have an attribute ``takes_repeats``, true where it uses ``write``, ``pulse``, ``present_us``, ``read_sigma_us`` and
    ``device_seed`` of its writer alone. Layers whose weights lie on several devices each train by such rules:
    `cimc.training.repeated.RepeatedWriter` does to all repeats what the rule does to one.
    """

    @property
    def takes(self) -> Literal["change"]: ...

    def apply(self, state: LayerState, change: NDArray[np.float32], writer: Any) -> Writes:
        """Take in one optimizer step of the layer, ``[groups, rows, columns]``. ``writer.touched`` says which devices changed."""


class VectorRule(_Rule, Protocol):
    """Takes vectors."""

    @property
    def takes(self) -> Literal["vectors"]: ...

    def apply(self, state: LayerState, vectors: Sequence[Vectors], lr: float, writer: Any, reader: RowReader) -> Writes:
        """Change the arrays, and bring ``state.weights`` up to date: the digital copy W of what they hold together.

        Args:
            state: Of the layer.
            vectors: Of the batch, a part for each product of the layer; the mean loss's gradient is the sum of ``x δ``.
            lr: Learning rate, clipping of the gradient included.
            writer: From `writer`.
            reader: Reads rows of the layer's arrays.
        """


Rule = ChangeRule | VectorRule
