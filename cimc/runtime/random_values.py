"""Random operators of a model (ONNX RandomNormal, RandomUniform, their Like forms, Bernoulli, Multinomial, Dropout).

Each draw is a function of the chip's seed, the step, the stream and a counter, see `cimc.runtime.draws`. Images take equal
parts of the counter: the draws of images 8 to 15 begin where those of images 0 to 7 end. So an image gets the same numbers
in any batch, where images lie along the first axis, and no two batches share any.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import RunError
from cimc.ir.program import RandomStep
from cimc.runtime import rng
from cimc.runtime.draws import Stream

Array = NDArray[Any]


def first_draw(size: int, images: int, first_image: int) -> int:
    """Counter of the first of ``size`` draws that belong to ``images`` images."""
    return first_image * -(-size // max(1, images))


def random_values(step: RandomStep, x: Any, seed: int, images: int, first_image: int, stream: Stream) -> list[Array]:
    """The outputs of a step.

    Args:
        step: Of a program.
        x: Its input; None where it has none.
        seed: Of the chip's noise.
        images: Of the batch.
        first_image: Number of the batch's first image.
        stream: That random numbers are drawn from.

    Raises:
        RunError: The input is no array of numbers, or of another rank than the operator takes.
    """
    key = rng.key("random", seed, step.name, *stream)
    if step.input is None:
        shape = step.shape or ()
        return [_real(step, shape, key, first_image * prod(shape))]
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fiub":
        raise RunError("its input is no array of numbers", where=f"step {step.name}", fix="compile the model again")
    match step.operator:
        case "normal" | "uniform":
            return [_real(step, x.shape, key, first_draw(x.size, images, first_image))]
        case "bernoulli":
            draws = _uniforms(key, x, images, first_image)
            return [(draws < x).astype(step.dtype)]
        case "multinomial":
            return [_classes(step, x, key, images, first_image)]
        case "dropout":
            mask, factors = dropped(step.ratio, x, key, images, first_image)
            return [(x * factors).astype(step.dtype, copy=False), mask][: len(step.outputs)]


def dropped(ratio: float, x: Array, key: int, images: int, first_image: int) -> tuple[Array, Array]:
    """What a dropout of ``ratio`` keeps of ``x``, as a mask and as factors of its type, both of its shape."""
    mask = _uniforms(key, x, images, first_image) >= ratio
    factors = mask.astype(np.float32) * np.float32(1 / (1 - ratio))
    return mask, factors.astype(x.dtype, copy=False)


def _uniforms(key: int, x: Array, images: int, first_image: int) -> Array:
    return rng.uniforms(key, first_draw(x.size, images, first_image), x.size).reshape(x.shape)


def _real(step: RandomStep, shape: tuple[int, ...], key: int, start: int) -> Array:
    draw = rng.normals if step.operator == "normal" else rng.uniforms
    values: Array = step.offset + step.factor * draw(key, start, prod(shape)).astype(np.float64)
    return values.astype(step.dtype).reshape(shape)


def _classes(step: RandomStep, x: Array, key: int, images: int, first_image: int) -> Array:
    """Class numbers ``[rows, samples]`` by inversion of each row's cumulative distribution."""
    if x.ndim != 2 or not x.shape[1]:
        raise RunError(f"its input is {list(x.shape)}, it takes [rows, classes]", where=f"step {step.name}")
    size = len(x) * step.samples
    draws = rng.uniforms(key, first_draw(size, images, first_image), size).reshape(len(x), step.samples)
    logits = x.astype(np.float64)
    upto = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
    found = [np.searchsorted(row, part * row[-1], side="right") for row, part in zip(upto, draws, strict=True)]
    classes: Array = np.minimum(np.array(found, np.int64).reshape(draws.shape), x.shape[1] - 1)
    return classes.astype(step.dtype)
