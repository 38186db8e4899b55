"""Runs a program's steps in order: digital segments on ONNX Runtime, products on crossbars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array as as_array
from cimc.arguments import named
from cimc.errors import DataError
from cimc.ir.bound import without_bound
from cimc.ir.graph import step_inputs, step_outputs
from cimc.ir.program import DigitalStep, Program, RandomStep, Step, ValueSpec, VmmStep
from cimc.runtime import rng
from cimc.runtime.crossbar import Crossbar
from cimc.runtime.digital import Segment, Value
from cimc.runtime.draws import INFERENCE, Stream
from cimc.runtime.first_row import first_row_of
from cimc.runtime.output_fit import OutputFit
from cimc.runtime.random_values import random_values

if TYPE_CHECKING:
    from cimc.runtime.learn import Learning

#: Sees a crossbar step and its input before it fires.
Watch = Callable[[VmmStep, NDArray[Any]], None]


@dataclass(frozen=True)
class _Batch:
    """What a step is told besides values."""

    images: int
    first_image: int
    watch: Watch | None
    learning: Learning | None
    stream: Stream


#: A step, ready to run: takes its inputs from the values, and adds its outputs to them.
_Act = Callable[[dict[str, Value], _Batch], None]


class Executor:
    """The control flow of one chip.

    Args:
        program: What to run.
        crossbars: By layer name.
        seed: Of the chip; keys the read noise.
        deterministic: Run digital segments that are not proved to split exactly image by image.
        fits: By step name: a digital scale and offset behind those of the program.

    Attributes:
        inputs: What the model takes; data outside a range there are refused.
    """

    def __init__(
        self, program: Program, crossbars: Mapping[str, Crossbar], seed: int, deterministic: bool = False,
        fits: Mapping[str, OutputFit] | None = None,
    ) -> None:  # fmt: skip
        self._program, self.inputs = program, program.inputs
        self._crossbars = crossbars
        self._fits = fits or {}
        self._seed = seed
        self._deterministic = deterministic
        self._steps = list(zip(map(self._act, program.steps), _last_uses(program), strict=True))

    def run(
        self,
        inputs: Mapping[str, Value],
        first_image: int,
        keep: tuple[str, ...] = (),
        learning: Learning | None = None,
        stream: Stream = INFERENCE,
    ) -> dict[str, Value]:
        """Outputs by name, in the model's order; then the values named in ``keep``.

        Args:
            inputs: A value for each model input.
            first_image: Number of the first image of this batch; keys the read noise.
            keep: Intermediate values to return as well.
            learning: Of a training program: W and present parameters; it takes the gradients.
            stream: That random numbers are drawn from.

        Raises:
            DataError: Inputs are missing, unknown, or of a wrong type, shape or range.
        """
        made = {name for step in self._program.steps for name in step_outputs(step)} if keep else set()
        for name in keep:
            named(name, (*made, *(spec.name for spec in self._program.inputs)), "value")
        wanted = (*(value.name for value in self._program.outputs), *keep)
        values = self._values(inputs, learning)
        self._execute(len(self._steps), values, set(wanted), self._batch(values, first_image, None, learning, stream))
        return {name: self._output(name, values) for name in wanted}

    def show(self, inputs: Mapping[str, Value], watch: Watch, stream: Stream, learning: Learning | None = None) -> None:
        """Show ``watch`` what each crossbar step is given, before it fires; what comes after the last of them is left out.

        Args:
            inputs: As `run`, as are ``stream`` and ``learning``.
            watch: Called for each crossbar step.
            stream: That random numbers are drawn from, from image 0 on.
            learning: Of a training program.

        Raises:
            DataError: As `run`.
        """
        steps = self._program.steps
        end = max((number for number, step in enumerate(steps, 1) if isinstance(step, VmmStep)), default=0)
        values = self._values(inputs, learning)
        self._execute(end, values, set(), self._batch(values, 0, watch, learning, stream))

    def products(
        self, inputs: Mapping[str, Value], first_image: int, stream: Stream
    ) -> Iterator[tuple[VmmStep, dict[str, Value]]]:
        """Run to the last crossbar step, and stop after each one: gives the step and the values, which the caller may change.

        Args:
            inputs: As `run`, as are ``first_image`` and ``stream``.
            first_image: Number of the first image.
            stream: That random numbers are drawn from.

        Raises:
            DataError: As `run`.
        """
        values = self._values(inputs, None)
        batch = self._batch(values, first_image, None, None, stream)
        left = len(self._program.vmm_steps)
        for step, (act, spent) in zip(self._program.steps, self._steps, strict=True):
            if not left:
                return
            act(values, batch)
            if isinstance(step, VmmStep):
                left -= 1
                yield step, values
            for name in spent:
                values.pop(name, None)  # as `_execute`

    def multiply(self, step: VmmStep, x: NDArray[Any], images: int, first_image: int) -> NDArray[Any]:
        """One crossbar step on ``images`` images, the first of them number ``first_image``."""
        return self._product(step)(x, images, first_image, INFERENCE)

    def _values(self, inputs: Mapping[str, Value], learning: Learning | None) -> dict[str, Value]:
        program = self._program
        defaults = {spec.name: program.tensors[f"initializer/{spec.name}"] for spec in program.inputs if spec.has_default}
        given = defaults | without_bound(inputs, program.bound_values(), "inputs")
        if learning is not None:  # a batch of training was looked at when it came
            return {**check_inputs(self.inputs, given, values=False), **learning.parameters}
        values = check_inputs(self.inputs, given)
        if program.layers and program.target.dac.bits is not None:
            _check_finite(values)
        return values

    def _batch(
        self, values: Mapping[str, Value], first_image: int, watch: Watch | None, learning: Learning | None, stream: Stream
    ) -> _Batch:
        return _Batch(image_count(self._program.inputs, values), first_image, watch, learning, stream)

    def _execute(self, steps: int, values: dict[str, Value], outputs: set[str], batch: _Batch) -> None:
        for act, spent in self._steps[:steps]:
            act(values, batch)
            for name in spent:
                if name not in outputs:
                    values.pop(name, None)  # a random operator may read an initializer, which is none of the values

    # What follows makes functions; none holds the executor, so that its sessions go when it does.

    def _act(self, step: Step) -> _Act:
        if isinstance(step, DigitalStep):
            return self._digital(step)
        if isinstance(step, VmmStep):
            return self._vmm(step)
        if isinstance(step, RandomStep):
            return self._random(step)
        # Only training wants these modules, and SciPy with them.
        from cimc.runtime.learn import learn

        crossbars, seed = self._crossbars, self._seed

        def act(values: dict[str, Value], batch: _Batch) -> None:
            learn(step, values, crossbars, seed, batch.images, batch.first_image, batch.learning, batch.stream)

        return act

    def _digital(self, step: DigitalStep) -> _Act:
        segment, split = Segment(self._program, step), self._deterministic and not step.splits_exactly
        outputs = step.outputs

        def act(values: dict[str, Value], batch: _Batch) -> None:
            values.update(zip(outputs, segment.run(values, batch.images if split else None), strict=True))

        return act

    def _random(self, step: RandomStep) -> _Act:
        seed, source, outputs = self._seed, step.input, step.outputs
        constant = self._program.tensors.get(f"initializer/{source}")

        def act(values: dict[str, Value], batch: _Batch) -> None:
            x = None if source is None else values.get(source, constant)
            made = random_values(step, x, seed, batch.images, batch.first_image, batch.stream)
            values.update(zip(outputs, made, strict=True))

        return act

    def _vmm(self, step: VmmStep) -> _Act:
        multiply, source, goal = self._product(step), step.input, step.output

        def act(values: dict[str, Value], batch: _Batch) -> None:
            x = values[source]
            if batch.watch is not None:
                batch.watch(step, x)
            values[goal] = multiply(x, batch.images, batch.first_image, batch.stream)

        return act

    def _product(self, step: VmmStep) -> Callable[[NDArray[Any], int, int, Stream], NDArray[Any]]:
        """As `multiply`, of one step."""
        crossbars, layer, geometry = self._crossbars, step.layer, step.geometry
        seed, name, (scale, offset) = self._seed, step.name, self._affine(step)

        def product(x: NDArray[Any], images: int, first_image: int, stream: Stream) -> NDArray[Any]:
            first_row = first_row_of(step, x, images, first_image)
            noise = rng.key("read", seed, name, *stream)
            return crossbars[layer].multiply(x, geometry, noise, first_row, scale, offset)

        return product

    def _affine(self, step: VmmStep) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Digital scale, one a column, and offset, one a channel; those fitted to this die included."""
        scale, offset = (self._program.tensors.get(f"{word}/{step.name}") for word in ("scale", "offset"))
        if (fit := self._fits.get(step.name)) is not None:
            scale, offset = fit.after(scale, offset)
        if scale is not None and step.geometry.kind == "conv_transpose":
            scale = np.repeat(scale, prod(step.geometry.kernel_shape))
        return scale, offset

    def _output(self, name: str, values: Mapping[str, Value]) -> Value:
        return values[name] if name in values else self._program.tensors[f"initializer/{name}"]


def _last_uses(program: Program) -> list[list[str]]:
    """For each step, the values that no later step reads."""
    last: dict[str, int] = {}
    for number, step in enumerate(program.steps):
        read, made = step_inputs(step), step_outputs(step)
        last.update(dict.fromkeys((*read, *made), number))
    uses: list[list[str]] = [[] for _ in program.steps]
    for name, number in last.items():
        uses[number].append(name)
    return uses


def image_count(specs: tuple[ValueSpec, ...], values: Mapping[str, Value]) -> int:
    """Images in a batch: the length of the first input that has a first axis; 1 if none has."""
    for spec in specs:
        value = values.get(spec.name)
        if isinstance(value, np.ndarray) and value.ndim:
            return len(value)
    return 1


def check_inputs(specs: tuple[ValueSpec, ...], inputs: Mapping[str, Value], values: bool = True) -> dict[str, Value]:
    """The inputs by name, arrays where the model wants arrays.

    Args:
        specs: What the model takes.
        inputs: What it is given.
        values: Look at their range too.

    Raises:
        DataError: A name is missing or unknown, or dtype, rank, shape or range is wrong.
    """
    names = [spec.name for spec in specs]
    unknown = [name for name in inputs if name not in names]
    missing = [spec.name for spec in specs if spec.name not in inputs and spec.type != "optional"]
    if unknown or missing:
        word, which = ("no input is called", unknown) if unknown else ("no data for input", missing)
        raise DataError(f"{word} {', '.join(which)}", fix=f"the model's inputs are {', '.join(names)}")
    return {spec.name: _checked(spec, inputs.get(spec.name), values) for spec in specs}


def _check_finite(values: Mapping[str, Value]) -> None:
    """A DAC has no code for NaN or Inf."""
    for name, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all():
            raise DataError("the data hold NaN or Inf, which no DAC can convert", where=f"input {name}")


@cache
def _name_of(dtype: np.dtype[Any]) -> str:
    """numpy works it out anew each time."""
    return dtype.name


def _checked(spec: ValueSpec, value: Value, values: bool) -> Value:
    if value is None and spec.type != "optional":
        raise DataError("is None, the model wants data", where=f"input {spec.name}")
    if spec.type == "sequence":
        if not isinstance(value, list | tuple):
            raise DataError(f"is a {type(value).__name__}, the model wants a list of arrays", where=f"input {spec.name}")
        return _elements(spec, value, values)
    if spec.type == "optional" and value is not None:
        return _elements(spec, value, values) if isinstance(value, list | tuple) else _elements(spec, [value], values)[0]
    if spec.type != "tensor":
        return value
    if not spec.dtype:
        return as_array(value, f"input {spec.name}")
    array = as_array(value, f"input {spec.name}")
    if spec.dtype == "string":
        return array
    if _name_of(array.dtype) != spec.dtype:
        raise DataError(f"dtype {array.dtype.name}, the model wants {spec.dtype}", where=f"input {spec.name}")
    if spec.shape is not None:
        fits = len(spec.shape) == array.ndim and all(
            not isinstance(want, int) or want == have for want, have in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            shape = ", ".join("?" if d is None else str(d) for d in spec.shape)
            raise DataError(f"shape {array.shape}, the model wants [{shape}]", where=f"input {spec.name}")
    if values:
        _check_range(spec, array, f"input {spec.name}")
    return array


def _elements(spec: ValueSpec, given: Sequence[Any], values: bool) -> list[NDArray[Any]]:
    """The arrays of a list."""
    arrays = [as_array(element, f"input {spec.name}, element {n}") for n, element in enumerate(given)]
    for n, array in enumerate(arrays if values else ()):
        _check_range(spec, array, f"input {spec.name}, element {n}")
    return arrays


def _check_range(spec: ValueSpec, array: NDArray[Any], where: str) -> None:
    if spec.range is None or not array.size or array.dtype.kind not in "fiu":
        return
    low, high = float(array.min()), float(array.max())
    slack = 1e-6 * (spec.range[1] - spec.range[0])  # of a decimal number; far below a code
    if not (spec.range[0] - slack <= low and high <= spec.range[1] + slack):
        raise DataError(
            f"data from {low:g} to {high:g}, but the chip was calibrated for {spec.range[0]:g} to {spec.range[1]:g}",
            where=where,
            fix=f"compile with --set input.range={low:.9g},{high:.9g} or with --calibration DATA.npz",
        )
