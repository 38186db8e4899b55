"""Where batches come from: arrays in keyed random order, or any iterator of batches.

Batch ``n`` of arrays is a function of three numbers: the seed, how many images the chip had been trained on when the run began,
and n. So a resumed run sees what it would have seen, and a second run sees another order than the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cimc.arguments import array as array_of
from cimc.arguments import within
from cimc.errors import ArtifactError, CimcError, DataError
from cimc.fingerprint import fingerprint
from cimc.runtime import rng
from cimc.training.batches import check_stream_of_tables, columns, inputs_and_labels, is_table
from cimc.training.feed import Batch, Feed, Inputs
from cimc.training.labels import counted

Array = NDArray[Any]

#: Bytes looked at together before training: they are looked at several times, and stay in a core's cache meanwhile.
_CHUNK = 1 << 20


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
    begun: int = 0
    """Images that the chip had been trained on when the run began; keys the order."""
    known: ClassVar[bool] = True
    """Whether `fingerprint` tells all data."""
    _order: tuple[int, int, NDArray[np.int64]] | None = field(default=None, repr=False)
    _ready: bool = field(default=False, repr=False)
    """All images and labels have been looked at, and images go to the model as they are."""

    def __post_init__(self) -> None:
        self.images = len(next(iter(self.x.values())))
        self.check()
        if self.batch > self.images and (self.feed.fixed_batch or self.per_epoch):
            raise DataError(f"{self.images} images do not fill a batch of {self.batch}", fix="a smaller batch, or more data")
        whole = self.images // self.batch
        self.steps_per_epoch = self.per_epoch or (whole if self.feed.fixed_batch else -(-self.images // self.batch))

    @property
    def length(self) -> int:
        """Batches of an epoch."""
        return self.steps_per_epoch

    def check(self) -> None:
        """Look at all data once.

        Raises:
            DataError: They do not suit the model.
        """
        if self.images == 0:
            raise DataError("there are no images", where=self.where)
        if self.y is not None and (self.y.ndim == 0 or len(self.y) != self.images):
            raise DataError(f"{counted(self.y)} for {self.images} images", where=f"{self.where}, labels")
        ready, count = True, max(1, _CHUNK * self.images // max(1, sum(array.nbytes for array in self.x.values())))
        for first in range(0, self.images, count):
            taken, _ = self.taken(slice(first, first + count))
            ready = ready and all(_is_view(taken[name], array) for name, array in self.x.items())
        self._ready = ready

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """Batches of epoch ``number`` (from 0), without the first ``start``."""
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

    def odd(self) -> Batch | None:
        """A batch of one image that an epoch has; None if it has none."""
        last = self.images % self.batch == 1 and not (self.per_epoch or self.feed.fixed_batch)
        return self.taken(slice(0, 1)) if last or self.batch == 1 else None

    def calibration(self, count: int) -> Batch | None:
        """What ranges are chosen on, at most ``count`` images; None where the model fixes its batch: the present one serves."""
        return None if self.feed.fixed_batch else self.some(count)

    def fingerprint(self) -> str:
        """Tells other data apart: their number, and a checksum of all images and labels in their order."""
        return f"{self.images} images, {fingerprint(self.x, self.y)}"

    def _stream(self, first: int, end: int) -> NDArray[np.int64]:
        parts = []
        while first < end:
            number, begin = divmod(first, self.images)
            stop = min(self.images, begin + end - first)
            parts.append(self._pass(number)[begin:stop])
            first += stop - begin
        return np.concatenate(parts)

    def _pass(self, number: int) -> NDArray[np.int64]:
        if self._order is None or self._order[:2] != (self.begun, number):
            generator = np.random.Generator(np.random.Philox(key=rng.key("shuffle", self.seed, self.begun, number)))
            self._order = (self.begun, number, generator.permutation(self.images))
        return self._order[2]

    def taken(self, which: Any) -> Batch:
        """Those images and labels, ready."""
        x = {name: array[which] for name, array in self.x.items()}
        labels = None if self.y is None else self.y[which]
        if self._ready:
            return x, self.feed.cast(labels)
        return self.feed.batch(next(iter(x.values())) if self.single else x, labels, self.where)


def _is_view(part: Array, array: Array) -> bool:
    return part.dtype == array.dtype and part.shape[1:] == array.shape[1:] and np.may_share_memory(part, array)


@dataclass
class Stream:
    """Any iterable of batches, in the forms of `inputs_and_labels`, or a function of the epoch's number that gives one.

    A list, a loader or a function gives each epoch from its beginning; an iterator is used up as it goes. A run resumes by
    drawing what it had drawn before.
    """

    feed: Feed
    batches: Iterable[Any] | Callable[[int], Iterable[Any]]
    steps_per_epoch: int | None = None
    begun: int = 0
    """As of `Arrays`; the order is the stream's own."""
    watched: bool = False
    """Whether batches are hashed as they are drawn, for checkpoints."""
    drawn: str = ""
    """Checksum of the batches drawn in the present epoch; of an iterator, of all."""

    def __post_init__(self) -> None:
        self._running: Iterator[Any] | None = None
        self._drawn = 0
        self._counted: int | None = None
        self._expected: str | None = None
        if not callable(self.batches) and isinstance(self.batches, Iterator):
            self._running = self.batches
            if self.steps_per_epoch is None:
                raise CimcError("an iterator has no end that could close an epoch", fix="give steps_per_epoch")

    @property
    def known(self) -> bool:
        """As of `Arrays`."""
        return isinstance(self.batches, list | tuple)

    @property
    def length(self) -> int | None:
        """Batches of an epoch, as ``steps_per_epoch``, ``len`` or `count` tells; None: nobody knows."""
        if self.steps_per_epoch is not None or self._counted is not None:
            return self.steps_per_epoch or self._counted
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:  # it has none, or none that is known
            return None

    def count(self) -> None:
        """Count the batches that a function gives for its first epoch; it is asked for them again in training."""
        if callable(self.batches):
            self._counted = sum(1 for _ in self.batches(0))

    def epoch(self, number: int, start: int) -> Iterator[Batch]:
        """Batches of epoch ``number`` (from 0), without the first ``start``."""
        if self._running is not None:
            per = self.steps_per_epoch or 0
            while self._drawn < number * per + start:
                try:
                    self._next(self._running)
                except StopIteration:
                    what = f"the batches end after {self._drawn}, the run that is resumed had drawn {number * per + start}"
                    raise DataError(what, fix="an iterator from its beginning") from None
            source, done = self._running, start
        else:
            given = self.batches(number) if callable(self.batches) else self.batches
            source, done, self.drawn = iter(given), 0, ""
        if done == start:
            self._as_before()
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
            if done == start:
                self._as_before()

    def odd(self) -> Batch | None:
        """As of `Arrays`, where all batches are known: they are looked at for it.

        Raises:
            DataError: One does not suit the model.
        """
        if not isinstance(self.batches, list | tuple):
            return None
        ready = (self._ready(item, 0, number) for number, item in enumerate(self.batches))
        return next((batch for batch in ready if len(next(iter(batch[0].values()))) == 1), None)

    def calibration(self, count: int) -> Batch | None:
        """None: of a stream the present batch serves."""
        return None

    def fingerprint(self) -> str:
        """Tells other data apart: a checksum of a list or tuple of batches; of any other stream nothing is known yet."""
        if isinstance(self.batches, list | tuple):
            return f"{len(self.batches)} batches, {fingerprint(self.batches)}"
        return "a stream"

    def position(self, step: int) -> str:
        """For a checkpoint after ``step`` batches of the epoch: the checksum of what a resumed run draws again."""
        return self.drawn if step or self._running is not None else ""

    def resume(self, drawn: str) -> None:
        """Expect the batches that are drawn again to have this checksum, from `position`."""
        self._expected = drawn

    def _next(self, source: Iterator[Any]) -> Any:
        item = next(source)
        self._drawn += 1
        if self.watched:
            self.drawn = fingerprint(item, after=self.drawn)
        return item

    def _as_before(self) -> None:
        """Raises ArtifactError where the batches drawn again are not those of the run that is resumed."""
        expected, self._expected = self._expected, None
        if expected is not None and expected != self.drawn:
            raise ArtifactError(
                "the batches that are drawn again are not those that the run was trained on",
                where="data",
                fix="resume with the same data in the same order (a loader that shuffles: with its seed), or start anew",
            )

    def _ready(self, item: Any, number: int, step: int) -> Batch:
        where = f"batch {step} of epoch {number + 1}"
        x, y = inputs_and_labels(item, self.feed.names, self.feed.labels is not None, where)
        return self.feed.batch(x, y, where)


def source_of(feed: Feed, x: Any, y: Any, batch: int, seed: int, steps_per_epoch: int | None) -> Arrays | Stream:
    """Batches from what the user gave to `fit`.

    Raises:
        CimcError: Something else was given.
        DataError: The data do not suit the model.
    """
    if steps_per_epoch is not None:
        within("steps_per_epoch", steps_per_epoch, 1, 2**31, whole=True)
    x, y = _given(feed, x, y)
    if _are_arrays(x):
        return _arrays(feed, x, y, batch, seed, steps_per_epoch)
    if callable(x) or isinstance(x, Iterable):
        if y is not None:
            fix = "yield (x, y) from the iterator, or give both as arrays"
            raise CimcError(f"labels beside a {type(x).__name__}, which is taken for batches", fix=fix)
        return Stream(feed, x, steps_per_epoch)
    raise CimcError(f"cannot train on a {type(x).__name__}", fix="give arrays, or an iterable of batches")


def arrays_of(feed: Feed, x: Any, y: Any, what: str) -> Arrays:
    """Images and labels that are taken in their own order, for ``what``: that is how errors call it.

    Raises:
        CimcError: Something else was given.
        DataError: The data do not suit the model.
    """
    x, y = _given(feed, x, y)
    if not _are_arrays(x):
        raise CimcError(f"{what} takes arrays, not a {type(x).__name__}", fix="give images and labels")
    return _arrays(feed, x, y, feed.fixed_batch or 1, 0, None, f"{what} data")


def _given(feed: Feed, x: Any, y: Any) -> tuple[Any, Any]:
    """What was given, as arrays where it is arrays, or a table of examples, which has its own labels."""
    if is_table(x):
        if y is not None:
            raise CimcError("labels beside a table, which has its own", where="data", fix="leave y out")
        return columns(x, feed.names, feed.labels is not None)
    check_stream_of_tables(x)
    return _as_arrays(x), _as_arrays(y)


def _as_arrays(given: Any) -> Any:
    """What calls itself an array, as a tensor of PyTorch does, as one of numpy; also by input name."""
    if isinstance(given, Mapping):
        return {name: _as_arrays(value) for name, value in given.items()}
    return array_of(given, "data") if hasattr(given, "__array__") else given


def _are_arrays(x: Any) -> bool:
    return isinstance(x, np.ndarray) or (isinstance(x, Mapping) and all(isinstance(v, np.ndarray) for v in x.values()))


def _arrays(feed: Feed, x: Inputs, y: Any, batch: int, seed: int, steps_per_epoch: int | None, where: str = "data") -> Arrays:
    labels = None if y is None else array_of(y, f"{where}, labels")
    return Arrays(feed, feed.named(x), labels, batch, seed, steps_per_epoch, not isinstance(x, Mapping), where)
