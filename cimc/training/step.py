"""One training step on a chip: forward on its crossbars, backward, gradients by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from cimc.errors import CimcError
from cimc.ir.classes import Classes
from cimc.ir.dialect import register_schemas
from cimc.ir.program import Layer, MaskStep, Program, Scales, UpdateStep, weight_matrix
from cimc.passes.base import Compilation
from cimc.passes.differentiate import Differentiate
from cimc.passes.lower import Lower
from cimc.passes.manager import PassManager
from cimc.passes.recipes import Recipes
from cimc.passes.schedule import Schedule
from cimc.passes.training.inherit import Inherit
from cimc.passes.training.upgrade import UNCHECKED, check_upgrade, upgraded
from cimc.runtime.draws import TRAINING
from cimc.runtime.executor import Executor
from cimc.runtime.learn import Learning
from cimc.runtime.rank_one import Vectors
from cimc.training.statistics import check_statistics

if TYPE_CHECKING:
    from cimc.runtime.chip import Chip

Array = NDArray[Any]
F32 = NDArray[np.float32]


def training_program(
    program: Program,
    *,
    loss: str = "softmax_cross_entropy",
    trainable: Sequence[str] = (),
    frozen: Sequence[str] = (),
    backward: Literal["digital", "analog"] = "digital",
    ste: Literal["pass", "clipped"] = "pass",
    classes: Classes | None = None,
    scales: Scales = "none",
    verify: bool = False,
) -> Program:
    """The training step of a compiled program: the same layers in the same places, with loss, backward steps and updates.

    Args:
        program: Compiled for inference.
        loss: As `cimc.passes.training.losses.add_loss` takes it.
        trainable: See `Differentiate`, as for the rest.
        frozen: Patterns of initializers or layers that do not train.
        backward: ``digital`` or ``analog``.
        ste: ``pass`` or ``clipped``.
        classes: How labels of a softmax cross-entropy lie; see `Classes`.
        scales: Digital factors that train with a layer's weights: ``none``, ``layer`` or ``column``; see `Differentiate`.
        verify: Check all rules of the program after each program pass, beside what each pass promises.

    Raises:
        ModelError: The graph cannot be brought to the training opset, or has an operator without a gradient.
        TargetError: The chip cannot do an analog backward pass.
        CimcError: An option is not usable.
    """
    register_schemas()
    placements = {row.name: row for row in program.placements}
    model, notes = upgraded(program)
    state = Compilation(model, program.target, placements=placements, recipes=Recipes.of(program), notes=notes)
    differentiate = Differentiate(loss, trainable, frozen, backward, ste, classes or Classes(), scales)
    return PassManager((differentiate, Lower(), Inherit(program), Schedule()), verify).run(state).need_program()


def plan_of(step: Program) -> list[dict[str, Any]]:
    """The list of what a training program trains, rows as in `Trainer.plan`."""
    return [row.model_dump(mode="json") for row in step.plan]


@dataclass(frozen=True)
class StepResult:
    """What one step found."""

    loss: float
    outputs: dict[str, Any]
    """The model's outputs, by name."""
    layers: dict[str, F32]
    """Gradient of each trained layer's matrix, ``[groups, rows, columns]``; zero between packed groups."""
    vectors: dict[str, list[Vectors]]
    """In the place of ``layers``, where rank-one updates are wanted: see `Learning.vectors`."""
    digital: dict[str, Array]
    """Gradient of each digital parameter, by initializer name, in its own shape."""
    statistics: dict[str, Array]
    """New running statistics by initializer name."""
    program: Program = field(repr=False)

    @property
    def gradients(self) -> dict[str, Array]:
        """Every gradient by initializer name, in the initializer's own shape."""
        tensors = self.program.tensors
        found = {name: np.array(gradient) for name, gradient in self.digital.items()}
        for layer in self.program.layers:
            if layer.name in self.layers:
                name = layer.weight.tensor
                shape = tensors[f"initializer/{name}"].shape
                into = found.setdefault(name, np.zeros(shape, self.layers[layer.name].dtype))
                into += to_initializer(layer, self.layers[layer.name], shape)
        return found


def to_initializer(layer: Layer, matrix: Array, shape: tuple[int, ...]) -> Array:
    """A layer's matrix ``[groups, rows, columns]`` laid out as its initializer, zero where the layer does not view it."""
    view, pack = layer.weight, layer.group_packing
    if pack > 1:
        _, rows, columns = view.shape
        parts = matrix.reshape(layer.groups, pack, rows, pack, columns)
        matrix = np.stack([parts[:, k, :, k] for k in range(pack)], axis=1)
    inverse = np.argsort(view.perm)
    turned = matrix.reshape([view.split[a] for a in view.perm]).transpose(inverse)
    out = np.zeros(shape, matrix.dtype)
    out[view.index] = turned.reshape(out[view.index].shape)
    return out


class Step:
    """Runs a training program on a chip.

    Args:
        program: From `training_program`, of the chip's own program.
        chip: Whose crossbars the forward pass reads.

    Raises:
        CimcError: The program is none of training.

    Attributes:
        weights: The digital copy W of each layer, float32 ``[groups, rows, columns]``, without repeats; the trainer's to change.
        parameters: Present values of digital parameters and running statistics, by initializer name; likewise.
    """

    def __init__(self, program: Program, chip: Chip) -> None:
        self._chip, self._blas, self._alone = chip, ThreadpoolController(), False
        self.take(program)
        self.weights: MutableMapping[str, F32] = {
            layer.name: np.ascontiguousarray(weight_matrix(program, layer.once), np.float32) for layer in program.layers
        }
        self.parameters: MutableMapping[str, Array] = {
            name: np.array(program.tensors[f"initializer/{name}"]) for name in program.parameters
        }

    def take(self, program: Program) -> None:
        """Run another training program of the same layers and parameters, as one with another loss.

        Raises:
            CimcError: The program is none of training.
        """
        if program.loss is None:
            raise CimcError("the program has no loss, so it is none of training", fix="make one with training_program")
        self.program, self._loss = program, program.loss
        self._unchecked = UNCHECKED in program.provenance.notes
        self._sound: set[frozenset[tuple[str, tuple[int, ...]]]] = set()  # shapes of inputs that have statistics
        self._executor = Executor(program, self._chip.crossbars, self._chip.noise_seed)

    @property
    def has_own_form(self) -> bool:
        """Whether activations differ from those of inference, by batch statistics or dropout."""
        return any(isinstance(s, MaskStep) or (isinstance(s, UpdateStep) and s.action == "assign") for s in self.program.steps)

    @property
    def trained_layers(self) -> tuple[str, ...]:
        """Layers that get a gradient."""
        return tuple(s.layer for s in self.program.steps if isinstance(s, UpdateStep) and s.layer is not None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """BLAS keeps to one thread meanwhile; around many steps, so that not each of them has to say so.

        Kernels have threads of their own; a second pool beside them would cost more than it gives.
        """
        if self._alone:
            yield
            return
        with self._blas.limit(limits=1, user_api="blas"):
            self._alone = True
            try:
                yield
            finally:
                self._alone = False

    def run(
        self, inputs: Mapping[str, Any], labels: Array | None = None, first_image: int = 0, *, vectors: bool = False
    ) -> StepResult:
        """Loss and gradients of one batch; nothing is changed.

        Args:
            inputs: As `Chip.run`.
            labels: For the loss; None where the model computes its own.
            first_image: Number of the batch's first image, which keys read noise and dropout.
            vectors: Give the vectors of rank-one updates in the place of the layers' gradients.

        Raises:
            DataError: Inputs or labels do not suit the model.
            ModelError: The model could not be brought to the training opset.
        """
        self.check(inputs)
        learning = Learning(self.weights, self.parameters, vectors={} if vectors else None)
        with self.alone():
            outputs = self._executor.run(self._feeds(inputs, labels), first_image, learning=learning, stream=TRAINING)
        loss = float(np.asarray(outputs[self._loss]).item())
        found = learning.layers, learning.vectors or {}, learning.digital, learning.statistics
        return StepResult(loss, outputs, *found, self.program)

    def calibrate(self, inputs: Mapping[str, Any], labels: Array | None) -> None:
        """Choose the chip's input gains and ADC ranges for the training form: batch statistics, dropout.

        Raises:
            DataError: Inputs or labels do not suit the model.
            ModelError: The model could not be brought to the training opset.
        """
        self.check(inputs)
        with self.alone():
            learning, stream = Learning(self.weights, self.parameters), self._chip.draws.calibration()
            self._executor.show(self._feeds(inputs, labels), self._chip.calibrator(), stream, learning)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """See that a batch has statistics, once for inputs of these shapes; the first one checks the training opset's form too.

        Args:
            inputs: As `run`.

        Raises:
            DataError: A BatchNormalization would see one value a channel.
            ModelError: The model could not be brought to the training opset.
        """
        shapes = frozenset((name, np.shape(array)) for name, array in inputs.items())
        if shapes not in self._sound:
            check_statistics(self._chip.program, self.program, inputs)
            self._sound.add(shapes)
        if self._unchecked:
            check_upgrade(self._chip.program, inputs)
            self._unchecked = False

    def _feeds(self, inputs: Mapping[str, Any], labels: Array | None) -> dict[str, Any]:
        named = {} if labels is None or self.program.labels is None else {self.program.labels: labels}
        return {**inputs, **named}
