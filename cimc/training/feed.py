"""What a model takes in training, and how the user's data become that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from cimc.arguments import array as array_of
from cimc.data import Part, load_pair, needed_inputs, prepared
from cimc.errors import CimcError, DataError
from cimc.ir.bound import without_bound
from cimc.ir.classes import Classes
from cimc.ir.program import Preprocessing, Program, ValueSpec
from cimc.passes.samples import table_entries
from cimc.runtime.chip import without_assumed_ranges
from cimc.sources import Data
from cimc.training.labels import Labels, Settle

Array = NDArray[Any]
Inputs = Array | Mapping[str, Array]
Batch = tuple[dict[str, Array], Array | None]


@dataclass(frozen=True)
class Feed:
    """What the model takes, and how user data becomes that."""

    inputs: tuple[ValueSpec, ...]
    labels: Labels | None
    preprocessing: Preprocessing | None
    entries: Mapping[str, int] = field(default_factory=dict)
    """Of the table that an input of indices looks up."""
    bound: Mapping[str, Array] = field(default_factory=dict)
    """Inputs that became constants when the model was compiled."""

    @classmethod
    def of(cls, program: Program, training: Program, loss: str, classes: Classes, settle: Settle) -> Feed:
        """The feed of an inference program and its training step; ``classes`` and ``settle`` are those of `Labels`."""
        graph = ir.from_proto(onnx.ModelProto.FromString(program.tensors["graph"].tobytes())).graph
        found = {str(value.name): table_entries(value) for value in graph.inputs}
        entries = {name: count for name, count in found.items() if count is not None}
        inputs = without_assumed_ranges(program)  # they are chosen on the chip
        return cls(
            inputs, Labels.of(program, training, loss, classes, settle), program.preprocessing, entries, program.bound_values()
        )

    @property
    def names(self) -> list[str]:
        """Of the inputs without a default, in the model's order."""
        return [spec.name for spec in needed_inputs(self.inputs)]

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
            DataError: An input is missing or unknown, several are wanted and one array is given, or a bound input has another
                value.
        """
        names = self.names
        if not isinstance(x, Mapping):
            if len(names) != 1:
                raise DataError(f"one array for the inputs {', '.join(names)}", fix="give a dict of arrays by input name")
            return {names[0]: array_of(x, f"input {names[0]}")}
        x = without_bound(x, self.bound, "data")
        if missing := [name for name in names if name not in x]:
            raise DataError(f"no data for input {', '.join(missing)}", fix=f"the inputs are {', '.join(names)}")
        if other := [name for name in x if name not in names]:
            defaults = [spec.name for spec in self.inputs if spec.has_default]
            if other[0] in defaults:
                what = f"input {other[0]} has a default, and training goes by that"
                raise DataError(what, fix=f"leave {other[0]} out, or compile the model with another default")
            raise DataError(f"no input is called {other[0]}", fix=f"the inputs are {', '.join(names)}")
        return {name: array_of(x[name], f"input {name}") for name in names}

    def of_data(self, data: Data, part: Part) -> tuple[Array, Array | None]:
        """Images, before preprocessing, and labels of data; None where they hold no labels.

        Raises:
            DataError: They do not suit the model, or lack the part; or the model has several inputs.
        """
        needed = needed_inputs(self.inputs)
        if len(needed) != 1:
            what = f"data hold images for one input, the model takes {', '.join(self.names)}"
            raise DataError(what, where="data", fix="give arrays by input name")
        return load_pair(data, needed[0], part, self.preprocessing)

    def batch(self, x: Inputs, y: Any, where: str = "data") -> Batch:
        """One batch as the training step takes it.

        Raises:
            DataError: Data or labels do not suit the model.
        """
        single = not isinstance(x, Mapping)
        arrays = {}
        for name, array in self.named(x).items():
            spec = next(spec for spec in self.inputs if spec.name == name)
            arrays[name] = prepared(array, spec, f"{where}, input {name}", self.preprocessing if single else None)
            _in_range(arrays[name], spec, self.entries.get(name), f"{where}, input {name}")
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
        return None if self.labels is None else self.labels.ready(y, count, f"{where}, labels")

    def cast(self, labels: Array | None) -> Array | None:
        """Labels that suit the model, as `labelled` found, in the dtype of the loss."""
        return None if self.labels is None or labels is None else labels.astype(self.labels.spec.dtype)


def _in_range(array: Array, spec: ValueSpec, entries: int | None, where: str) -> None:
    real = array.dtype.kind == "f"
    if not array.size or not (real or spec.range is not None or entries is not None):
        return
    low, high = array.min(), array.max()
    if real and not (isfinite(low) and isfinite(high)):
        raise DataError("holds Inf", where=where)
    if entries is not None and not (-entries <= low and high < entries):
        raise DataError(f"indices from {low} to {high}, the table has {entries} entries", where=where)
    if spec.range is not None and not (spec.range[0] <= low and high <= spec.range[1]):
        raise DataError(
            f"data from {low:g} to {high:g}, but the model was compiled for {spec.range[0]:g} to {spec.range[1]:g}",
            where=where,
            fix=f"--set input.range={low:g},{high:g}",
        )
