"""Steps that only training programs have: what they read, and where their results go."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cimc.errors import RunError
from cimc.ir.program import MaskStep, OuterStep, PoolBackwardStep, UpdateStep, VmmBackwardStep
from cimc.runtime import backward, pools, rng, transposed
from cimc.runtime.coding import Coding
from cimc.runtime.draws import INFERENCE, Stream
from cimc.runtime.first_row import first_row_of
from cimc.runtime.rank_one import Vectors

if TYPE_CHECKING:
    from cimc.runtime.crossbar import Crossbar

Array = NDArray[Any]
TrainingStep = MaskStep | OuterStep | PoolBackwardStep | UpdateStep | VmmBackwardStep


@dataclass
class Learning:
    """What a training step reads besides its inputs, and what it finds.

    Attributes:
        weights: Digital copy W of each layer, ``[groups, rows, columns]``.
        parameters: Present values of the program's parameters, by initializer name.
        layers: Found: gradient of each layer's matrix.
        digital: Found: gradient of each digital parameter, in its own shape.
        vectors: Found, in the place of ``layers``: what rank-one updates need of each layer, a part for each product; None: the
            gradients of layers are wanted.
        statistics: Found: new running statistics, by initializer name.
    """

    weights: Mapping[str, Array]
    parameters: Mapping[str, Array]
    layers: dict[str, Array] = field(default_factory=dict)
    digital: dict[str, Array] = field(default_factory=dict)
    vectors: dict[str, list[Vectors]] | None = None
    statistics: dict[str, Array] = field(default_factory=dict)

    def update(self, step: UpdateStep, gradients: Sequence[Any]) -> None:
        """Take in what an update step hands over; several gradients add up."""
        if step.layer is not None and self.vectors is not None:
            return
        if step.layer is not None:
            self.layers[step.layer] = _sum(gradients)
        elif step.action == "assign":
            self.statistics[step.parameter] = gradients[0]
        else:
            self.digital[step.parameter] = _sum(gradients)


def _sum(gradients: Sequence[Array]) -> Array:
    total, *others = gradients
    for other in others:
        total = total + other
    return total


def learn(
    step: TrainingStep,
    values: MutableMapping[str, Any],
    crossbars: Mapping[str, Crossbar],
    seed: int,
    images: int,
    first_image: int,
    learning: Learning | None,
    stream: Stream = INFERENCE,
) -> None:
    """Execute one step; its result joins ``values``, a gradient ``learning``.

    Args:
        step: Of a training program.
        values: By name.
        crossbars: By layer name.
        seed: Of the chip; keys dropout and the noise of transposed reads.
        images: Of the batch.
        first_image: Number of the batch's first image.
        learning: W and what becomes of gradients.
        stream: That random numbers are drawn from.

    Raises:
        RunError: There is no ``learning``.
        TargetError: The step wants a transposed read, which the chip does not have.
    """
    match step:
        case MaskStep():
            values[step.output] = backward.dropout_mask(step, values[step.input], seed, images, first_image, stream)
            return
        case PoolBackwardStep():
            dy, x, y = values[step.input], values[step.activation], values[step.pooled]
            values[step.output] = pools.max_pool_gradient(dy, x, y, step.geometry)
            return
        case _:
            pass
    if learning is None:
        raise RunError("a training program needs weights to learn", where=f"step {step.name}", fix="run it by a Trainer")
    match step:
        case UpdateStep():
            learning.update(step, [values[name] for name in step.inputs])
        case OuterStep():
            layer = crossbars[step.layer].layer.once
            x, dy = values[step.input], values[step.gradient]
            if learning.vectors is not None:
                own = Vectors.of(x, dy, layer, step.geometry, step.alpha)
                learning.vectors.setdefault(step.layer, []).append(own)
                values[step.output] = None
                return
            values[step.output] = backward.weight_gradient(x, dy, layer, step.geometry, step.alpha)
            _count_macs(crossbars[step.layer], step, x)
        case VmmBackwardStep():
            first_row = first_row_of(step, values[step.activation], images, first_image)
            key = rng.key("backward", seed, step.name, *stream)
            values[step.output] = _back(step, values, crossbars[step.layer], learning.weights[step.layer], key, first_row)


def _back(
    step: VmmBackwardStep, values: Mapping[str, Any], crossbar: Crossbar, weights: Array, noise_key: int, first_row: int
) -> Array:
    x, dy = values[step.activation], values[step.input]
    if step.mode == "analog":
        dx = transposed.activation_gradient(dy, crossbar, x.shape, step.geometry, noise_key, first_row, step.alpha)
    else:
        dx = backward.activation_gradient(dy, weights, x.shape, step.geometry, step.alpha)
        _count_macs(crossbar, step, x)
    return dx if step.ste == "pass" else backward.clip_gradient(dx, x, Coding.of(crossbar.target, crossbar.layer))


def _count_macs(crossbar: Crossbar, step: OuterStep | VmmBackwardStep, x: Array) -> None:
    positions = step.geometry.images(x.shape) * step.geometry.positions(x.shape)
    crossbar.stats.digital_macs += positions * prod(crossbar.layer.weight.shape)
