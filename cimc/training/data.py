"""Where batches come from: arrays in keyed random order, or any iterator of batches.

Batch ``n`` of arrays is a function of seed and n alone, so a resumed run sees what it would have seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cimc.data import as_input, preprocess
from cimc.errors import CimcError, DataError
from cimc.ir.program import Preprocessing, Program, ValueSpec
from cimc.runtime import rng
from cimc.training.registry import within
from cimc.training.scores import ending

Array = NDArray[Any]
Inputs = Array | Mapping[str, Array]
Batch = tuple[dict[str, Array], Array | None]

#: Images looked at together before training.
_CHUNK = 4096


@dataclass(frozen=True)
class Feed:
    """What the model takes, and how user data becomes that."""

    inputs: tuple[ValueSpec, ...]
    labels: ValueSpec | None
    classes: int | None
    """Where labels are class numbers and their number is known."""
    preprocessing: Preprocessing | None
    shares: bool = False
    """Whether targets lie in 0...1."""

    @classmethod
    def of(cls, program: Program, training: Program, loss: str) -> Feed:
        """The feed of an inference program and its training step."""
        name = training.labels
        labels = next((spec for spec in training.inputs if spec.name == name), None) if name else None
        kind, _, chosen = loss.partition(":")
        outputs = {spec.name: spec for spec in program.outputs}
        scores = outputs.get(chosen, program.outputs[0])
        classes = None
        if kind == "softmax_cross_entropy" and scores.shape and len(scores.shape) > 1:
            classes = scores.shape[ending(program, scores.name)[1]]
        shares = kind == "binary_cross_entropy"
        return cls(program.inputs, labels, classes if isinstance(classes, int) else None, program.preprocessing, shares)

    @property
    def fixed_batch(self) -> int | None:
        """The batch size, where the model has one."""
        shape = self.inputs[0].shape if self.inputs else None
        return shape[0] if shape and isinstance(shape[0], int) else None

    def check_batch(self, size: int) -> None:
        """See that the model takes batches of that size.

        Raises:
            CimcError: Its own is another.
        """
        if self.fixed_batch in (None, size):
            return
        first = self.inputs[0]
        if any(not isinstance(d, int) for d in (first.shape or ())[1:]):
            raise CimcError(
                f"the first axis of {first.name} is {self.fixed_batch} long, but images lie along it in training",
                where=f"input {first.name}, {list(first.shape or ())}",
                fix="export the model with its batch as the first axis, and the time second (batch_first)",
            )
        fixed = self.fixed_batch
        raise CimcError(
            f"the model's batch size is {fixed}, not {size}", fix=f"a batch of {fixed}, or export it with an open one"
        )

    def named(self, x: Inputs) -> dict[str, Array]:
        """Arrays by input name.

        Raises:
            DataError: An input is missing, or several are wanted and one array is given.
        """
        names = [spec.name for spec in self.inputs if not spec.has_default]
        if not isinstance(x, Mapping):
            if len(names) != 1:
                raise DataError(f"one array for the inputs {', '.join(names)}", fix="give a dict of arrays by input name")
            return {names[0]: np.asanyarray(x)}
        if missing := [name for name in names if name not in x]:
            raise DataError(f"no data for input {', '.join(missing)}", fix=f"the inputs are {', '.join(names)}")
        return {name: np.asanyarray(x[name]) for name in names}

    def batch(self, x: Inputs, y: Any, where: str = "data") -> Batch:
        """One batch as the training step takes it.

        Raises:
            DataError: Data or labels do not suit the model.
        """
        single = not isinstance(x, Mapping)
        arrays = {}
        for name, array in self.named(x).items():
            spec = next(spec for spec in self.inputs if spec.name == name)
            ready = as_input(array, spec, f"{where}, input {name}")
            arrays[name] = preprocess(ready, self.preprocessing) if single else ready
            _in_range(arrays[name], spec, f"{where}, input {name}")
        count = len(next(iter(arrays.values()))) if arrays else 0
        for name, array in arrays.items():
            if len(array) != count:
                raise DataError(f"{len(array)} images, but {count} of another input", where=f"{where}, input {name}")
        return arrays, self.labelled(y, count, where)

    def labelled(self, y: Any, count: int, where: str = "data") -> Array | None:
        """The labels of ``count`` images as the training step takes them; None where the model computes its loss.

        Raises:
            DataError: They do not suit the model.
        """
        if self.labels is None:
            return None
        where = f"{where}, labels"
        if y is None:
            raise DataError(
                "the loss needs labels, and there are none", where=where, fix="give y, or a model that computes its loss"
            )
        labels: Array = np.asanyarray(y)
        if self.labels.dtype == "int64":
            if labels.dtype.kind not in "iu":
                fix = "give whole numbers; of one-hot labels, y.argmax(1)"
                raise DataError(f"class numbers are {labels.dtype}", where=where, fix=fix)
            labels = labels.astype(np.int64)
        elif labels.dtype.kind not in "iufb":
            raise DataError(f"is {labels.dtype}, the loss takes {self.labels.dtype}", where=where)
        else:
            labels = labels.astype(self.labels.dtype)
            if not np.isfinite(labels).all():
                raise DataError("holds NaN or Inf", where=where)
            if self.shares and labels.size and not (labels.min() >= 0 and labels.max() <= 1):
                found = f"targets from {labels.min():g} to {labels.max():g}"
                raise DataError(f"{found}, binary cross-entropy takes 0 to 1", where=where)
        if labels.ndim == 0 or len(labels) != count:
            found = "a single label" if labels.ndim == 0 else f"{len(labels)} labels"
            raise DataError(f"{found} for {count} images", where=where)
        shape = self.labels.shape
        if shape is not None and (
            labels.ndim != len(shape)
            or any(isinstance(want, int) and n > 0 and labels.shape[n] != want for n, want in enumerate(shape))
        ):
            wanted = ", ".join("?" if d is None else str(d) for d in shape)
            sizes = [n for n in shape[1:] if isinstance(n, int)]
            if self.labels.dtype == "int64":
                hint = "give each image's class number; of one-hot labels, y.argmax(1)"
            elif len(sizes) == len(shape) - 1 and labels.size == count * prod(sizes):
                hint = f"y.reshape({', '.join(map(str, (-1, *sizes)))})"
            else:
                hint = "give targets of the output's shape"
            raise DataError(f"shape {list(labels.shape)}, the loss takes [{wanted}]", where=where, fix=hint)
        if self.classes is not None and labels.size:
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= self.classes:
                raise DataError(
                    f"labels from {low} to {high}, the model has {self.classes} classes", where=where, fix="number them from 0"
                )
        return labels


def _in_range(array: Array, spec: ValueSpec, where: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("holds Inf", where=where)
    if spec.range is not None and array.size:
        low, high = float(array.min()), float(array.max())
        if not (spec.range[0] <= low and high <= spec.range[1]):
            raise DataError(
                f"data from {low:g} to {high:g}, but the model was compiled for {spec.range[0]:g} to {spec.range[1]:g}",
                where=where,
                fix=f"--set input.range={low:g},{high:g}",
            )


class Source(Protocol):
    """Batches of a run."""

    steps_per_epoch: int | None
    """None: until the source ends."""

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """Batches of epoch ``number`` (from 0), without the first ``start``."""

    def fingerprint(self) -> str:
        """Tells other data apart."""


@dataclass
class Arrays:
    """Images and labels in keyed random order.

    Without ``steps_per_epoch`` an epoch is one pass and its last batch may be smaller (it is left out where the model's batch
    size is fixed). With it, batches go on through one random pass after another.
    """

    feed: Feed
    x: dict[str, Array]
    y: Array | None
    batch: int
    seed: int
    per_epoch: int | None = None
    single: bool = True
    where: str = "data"
    """What errors call them."""
    _order: tuple[int, NDArray[np.int64]] | None = field(default=None, repr=False)
    _ready: bool = field(default=False, repr=False)
    """All images have been looked at, and go to the model as they are."""

    def __post_init__(self) -> None:
        self.images = len(next(iter(self.x.values())))
        self.check()
        if self.batch > self.images and (self.feed.fixed_batch or self.per_epoch):
            raise DataError(f"{self.images} images do not fill a batch of {self.batch}", fix="a smaller batch, or more data")
        whole = self.images // self.batch
        self.steps_per_epoch = self.per_epoch or (whole if self.feed.fixed_batch else -(-self.images // self.batch))

    def check(self) -> None:
        """Look at all data once.

        Raises:
            DataError: They do not suit the model.
        """
        if self.images == 0:
            raise DataError("there are no images", where=self.where)
        if self.y is not None and (self.y.ndim == 0 or len(self.y) != self.images):
            found = "a single label" if self.y.ndim == 0 else f"{len(self.y)} labels"
            raise DataError(f"{found} for {self.images} images", where=f"{self.where}, labels")
        ready = True
        for first in range(0, self.images, _CHUNK):
            taken, _ = self.taken(slice(first, first + _CHUNK))
            ready = ready and all(_is_view(taken[name], array) for name, array in self.x.items())
        self._ready = ready

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """See `Source`."""
        for step in range(start, self.steps_per_epoch):
            if self.per_epoch:
                first = (number * self.per_epoch + step) * self.batch
                yield self.taken(self._stream(first, first + self.batch))
            else:
                order = self._pass(number)
                yield self.taken(order[step * self.batch : (step + 1) * self.batch])

    def some(self, count: int) -> Batch:
        """As many images with their labels, or all: the first of the random order."""
        return self.taken(self._pass(0)[:count])

    def fingerprint(self) -> str:
        """Shapes, and a checksum of the ends."""
        sums = [f"{self.batch},{self.per_epoch},{self.seed}"]
        for array in (*self.x.values(), *(() if self.y is None else (self.y,))):
            ends = np.ascontiguousarray(array[:64]).tobytes() + np.ascontiguousarray(array[-64:]).tobytes()
            sums.append(f"{array.dtype}{list(array.shape)}{zlib.crc32(ends):08x}")
        return ";".join(sums)

    def _stream(self, first: int, end: int) -> NDArray[np.int64]:
        parts = []
        while first < end:
            number, begin = divmod(first, self.images)
            stop = min(self.images, begin + end - first)
            parts.append(self._pass(number)[begin:stop])
            first += stop - begin
        return np.concatenate(parts)

    def _pass(self, number: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != number:
            generator = np.random.Generator(np.random.Philox(key=rng.key("shuffle", self.seed, number)))
            self._order = (number, generator.permutation(self.images))
        return self._order[1]

    def taken(self, which: Any) -> Batch:
        """Those images and labels, ready."""
        x = {name: array[which] for name, array in self.x.items()}
        labels = None if self.y is None else self.y[which]
        if self._ready:
            return x, self.feed.labelled(labels, len(next(iter(x.values()))), self.where)
        return self.feed.batch(next(iter(x.values())) if self.single else x, labels, self.where)


def _is_view(part: Array, array: Array) -> bool:
    return part.dtype == array.dtype and part.shape[1:] == array.shape[1:] and np.may_share_memory(part, array)


@dataclass
class Stream:
    """Any iterable of ``(x, y)`` batches, or a function of the epoch's number that gives one.

    A list, a loader or a function gives each epoch from its beginning; an iterator is used up as it goes. A run resumes by
    drawing what it had drawn before.
    """

    feed: Feed
    batches: Iterable[Any] | Callable[[int], Iterable[Any]]
    steps_per_epoch: int | None = None

    def __post_init__(self) -> None:
        self._running: Iterator[Any] | None = None
        self._drawn = 0
        if not callable(self.batches) and isinstance(self.batches, Iterator):
            self._running = self.batches
            if self.steps_per_epoch is None:
                raise CimcError("an iterator has no end that could close an epoch", fix="give steps_per_epoch")

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """See `Source`."""
        if self._running is not None:
            per = self.steps_per_epoch or 0
            while self._drawn < number * per + start:
                self._next(self._running)
            source, done = self._running, start
        else:
            given = self.batches(number) if callable(self.batches) else self.batches
            source, done = iter(given), 0
        while self.steps_per_epoch is None or done < self.steps_per_epoch:
            try:
                item = self._next(source)
            except StopIteration:
                if done == 0 or self.steps_per_epoch is not None:
                    raise DataError(
                        f"the batches end after {done} of epoch {number + 1}", fix="more data, or fewer steps"
                    ) from None
                return
            if self._running is not None or done >= start:
                yield self._ready(item, number, done)
            done += 1

    def fingerprint(self) -> str:
        """Nothing is known of it."""
        return f"stream,{self.steps_per_epoch}"

    def _next(self, source: Iterator[Any]) -> Any:
        item = next(source)
        self._drawn += 1
        return item

    def _ready(self, item: Any, number: int, step: int) -> Batch:
        where = f"batch {step} of epoch {number + 1}"
        if isinstance(item, tuple | list) and len(item) == 2:
            return self.feed.batch(item[0], item[1], where)
        if self.feed.labels is None:
            return self.feed.batch(item, None, where)
        raise DataError("is no pair of images and labels", where=where, fix="yield (x, y)")


def _as_array(value: Any) -> Any:
    """What calls itself an array, as a tensor of PyTorch does, as one of numpy."""
    return np.asanyarray(value) if hasattr(value, "__array__") else value


def source_of(
    feed: Feed, x: Any, y: Any, batch: int, seed: int, steps_per_epoch: int | None, where: str = "data"
) -> Arrays | Stream:
    """Batches from what the user gave to `fit`; ``where`` is what errors call them.

    Raises:
        CimcError: Something else was given.
        DataError: The data do not suit the model.
    """
    if steps_per_epoch is not None:
        within("steps_per_epoch", steps_per_epoch, 1, 2**31, whole=True)
    x, y = _as_array(x), _as_array(y)
    if isinstance(x, Mapping):
        x = {name: _as_array(value) for name, value in x.items()}
    arrays = isinstance(x, np.ndarray) or (isinstance(x, Mapping) and all(isinstance(v, np.ndarray) for v in x.values()))
    if arrays:
        single = not isinstance(x, Mapping)
        labels = None if y is None else np.asanyarray(y)
        return Arrays(feed, feed.named(x), labels, batch, seed, steps_per_epoch, single, where)
    if callable(x) or isinstance(x, Iterable):
        if y is not None:
            fix = "yield (x, y) from the iterator, or give both as arrays"
            raise CimcError(f"labels beside a {type(x).__name__}, which is taken for batches", fix=fix)
        return Stream(feed, x, steps_per_epoch)
    raise CimcError(f"cannot train on a {type(x).__name__}", fix="give arrays, or an iterable of (x, y) batches")
