"""The inverse of `cimc.ir.printer`: a program from its text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from cimc.errors import ArtifactError, TargetError, VerifyError
from cimc.ir.artifact import tensor_sha256
from cimc.ir.forecast import Forecast
from cimc.ir.program import (
    BLOCK_FIELDS,
    SCHEMA_VERSION,
    Layer,
    Parameter,
    Placement,
    Preprocessing,
    Program,
    Provenance,
    ValueSpec,
)
from cimc.ir.scanner import Scanner
from cimc.ir.tensor_ref import TensorRef
from cimc.ir.text_form import FORMS
from cimc.ir.verify import verify
from cimc.targets.description import Target
from cimc.targets.told import parsed

R = TypeVar("R", bound=BaseModel)
_SHA256 = re.compile("[0-9a-f]{64}")
#: Most elements of a tensor that is written out.
_MOST_DENSE = 1 << 20


def parse_program(text: str, tensors: Mapping[str, NDArray[Any]] | None = None, *, source: str = "") -> Program:
    """Read a program that `print_program` wrote, or a person.

    The rules of the IR are not checked; `cimc.ir.verify.verify` does that.

    Args:
        text: The whole text.
        tensors: Arrays by name that stand for tensors of which the text has the hash only.
        source: Name of the file, for errors.

    Returns:
        The program. A tensor of which there is only the hash is a `TensorRef`.

    Raises:
        ArtifactError: The text is none of a program, with line and column, or an array is another than the text says.
    """
    return _Parser(Scanner(text, source), tensors or {}).program()


def load_text(path: str | Path) -> Program:
    """Read a program in text form from a file, and check the rules of the IR.

    Raises:
        ArtifactError: The file cannot be read, its text is none of a program, or the program breaks a rule.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"it cannot be read: {error}", where=str(path)) from error
    program = parse_program(text, source=str(path))
    try:
        verify(program)
    except VerifyError as error:
        raise ArtifactError(f"{error.where}: {error.what}", where=str(path), fix="correct the text there") from error
    return program


class _Parser:
    """The items of one program as they are read; `program` makes the whole."""

    def __init__(self, scan: Scanner, given: Mapping[str, NDArray[Any]]) -> None:
        self.scan, self.given = scan, given
        self.fields: dict[str, Any] = {}
        self.lists: dict[str, list[Any]] = {}
        self.sources: dict[str, str] = {}
        self.target_at = 0
        self.tensors: dict[str, Any] = {}

    def program(self) -> Program:
        scan = self.scan
        scan.expect("program")
        scan.expect("schema")
        scan.expect("=")
        at, schema = scan.at, scan.integer()
        if schema != SCHEMA_VERSION:
            scan.fail(f"program schema version {schema}, this cimc reads {SCHEMA_VERSION}", at)
        scan.expect("{")
        items: dict[str, Callable[[int], None]] = {
            "target": self._target, "source": self._source, "provenance": self._provenance, "preprocessing": self._preprocessing,
            "input": self._input, "output": self._output, "bound": self._bound, "parameter": self._parameter, "loss": self._loss,
            "labels": self._labels, "layer": self._layer, "block": self._block, "node": self._node, "plan": self._plan,
            "tensor": self._tensor, "forecast": self._forecast,
        }  # fmt: skip
        while not scan.found("}"):
            start = scan.at
            if scan.text.startswith("%", start):
                self._step(start, scan.values())
                continue
            word = scan.word()
            if word in items:
                items[word](start)
            elif word in FORMS:
                scan.at = start
                self._step(start, [])
            else:
                scan.fail(f"there is no item {word}", start)
        if scan.at < len(scan.text):
            scan.fail("text behind the program's end")
        if "target" not in self.fields:
            scan.fail("the program has no target", 0)
        target = self.fields["target"] | ({"sources": self.sources} if self.sources else {})
        self.fields["target"] = self._made(Target, target, self.target_at)
        named = {name: tuple(rows) for name, rows in self.lists.items()}
        return self._made(Program, {"inputs": (), "outputs": (), **self.fields, **named}, 0).model_copy(
            update={"tensors": self.tensors}
        )

    def _made(self, record: type[R], fields: Mapping[str, Any], at: int) -> R:
        """A record of these fields; its errors are told at the place where the item begins."""
        try:
            return parsed(record, fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            self.scan.fail(f"{'.'.join(map(str, first['loc'])) or record.__name__.lower()}: {first['msg']}", at)
        except TargetError as error:
            self.scan.fail(error.what, at)

    def _add(self, field: str, row: Any) -> None:
        self.lists.setdefault(field, []).append(row)

    def _once(self, field: str, value: Any, at: int) -> None:
        if field in self.fields:
            self.scan.fail(f"a second {field}", at)
        self.fields[field] = value

    def _target(self, at: int) -> None:
        self._once("target", {"name": self.scan.word(), **self.scan.attributes()}, at)
        self.target_at = at

    def _source(self, at: int) -> None:
        path = self.scan.word()
        self.sources[path] = self.scan.json()

    def _provenance(self, at: int) -> None:
        self._once("provenance", self._made(Provenance, self.scan.attributes(), at), at)

    def _forecast(self, at: int) -> None:
        self._once("expected", self._made(Forecast, self.scan.attributes(), at), at)

    def _preprocessing(self, at: int) -> None:
        self._once("preprocessing", self._made(Preprocessing, self.scan.attributes(), at), at)

    def _input(self, at: int) -> None:
        self._add("inputs", self._value(at))

    def _output(self, at: int) -> None:
        self._add("outputs", self._value(at))

    def _value(self, at: int) -> ValueSpec:
        name = self._name()
        self.scan.expect(":")
        dtype = "" if self.scan.found("?") else self.scan.word()
        shape: list[int | str | None] | None = None
        if self.scan.found("["):
            shape = []
            while not self.scan.found("]"):
                known = not self.scan.found("?")
                shape.append(self.scan.json() if known else None)
                if not self.scan.found(","):
                    self.scan.expect("]")
                    break
        rest = self.scan.attributes() if self.scan.text.startswith("{", self.scan.at) else {}
        return self._made(ValueSpec, {"name": name, "dtype": dtype, "shape": shape, **rest}, at)

    def _name(self) -> str:
        self.scan.expect("%")
        return self.scan.word()

    def _bound(self, at: int) -> None:
        self._add("bound", self._name())

    def _parameter(self, at: int) -> None:
        self._add("parameters", self._name())

    def _loss(self, at: int) -> None:
        self._once("loss", self._name(), at)

    def _labels(self, at: int) -> None:
        self._once("labels", self._name(), at)

    def _node(self, at: int) -> None:
        row = dict(zip(("name", "op_type", "where"), (self.scan.word() for _ in range(3)), strict=True))
        self._add("placements", self._made(Placement, {**row, "why": self.scan.json()}, at))

    def _plan(self, at: int) -> None:
        self._add("plan", self._made(Parameter, self.scan.attributes(), at))

    def _layer(self, at: int) -> None:
        self.scan.expect("@")
        name = self.scan.word()
        self._add("layers", self._made(Layer, {"name": name, **self.scan.attributes()}, at))
        rows = []
        while self.scan.found("block "):
            rows.append(self._row())
        if rows:
            try:
                table = np.array(rows, np.int32)
            except OverflowError:
                self.scan.fail("a number of a block is too large", at)
            self._keep(f"blocks/{name}", table, at)

    def _block(self, at: int) -> None:
        self.scan.fail("a block belongs behind its layer", at)

    def _row(self) -> list[int]:
        """One block, its numbers in the order of `BLOCK_FIELDS`; ``?`` is -1."""
        scan = self.scan
        which = [scan.integer()]
        for _ in range(2):
            scan.expect(".")
            which.append(scan.integer())
        place, shape = [-1] * 4, [-1] * 2
        if scan.found(":"):
            shape = [self._number()]
            scan.expect("x")
            shape.append(self._number())
            if scan.found("at"):
                place = [self._number()]
                for mark in (".", "[", ","):
                    scan.expect(mark)
                    place.append(self._number())
                scan.expect("]")
        row = [*which, *place, *shape]
        assert len(row) == len(BLOCK_FIELDS)
        return row

    def _number(self) -> int:
        return -1 if self.scan.found("?") else self.scan.integer()

    def _step(self, at: int, outputs: list[str]) -> None:
        scan = self.scan
        if outputs:
            scan.expect("=")
        word_at, kind = scan.at, scan.word()
        if kind not in FORMS:
            scan.fail(f"there is no kind of step {kind}", word_at)
        form = FORMS[kind]
        fields: dict[str, Any] = {"kind": kind}
        if form.outputs:
            fields[form.outputs] = outputs if form.outputs == "outputs" else self._one(outputs, "output", at)
        if scan.found("@"):
            fields[form.symbol] = scan.word()
        scan.expect("(")
        operands_at, operands = scan.at, scan.values()
        scan.expect(")")
        if form.operands == ("inputs",):
            fields["inputs"] = operands
        elif len(operands) > len(form.operands):
            scan.fail(f"{len(operands)} values, {kind} reads {len(form.operands)}", operands_at)
        else:
            fields |= zip(form.operands, operands, strict=False)
        rest = scan.attributes()
        if doubled := sorted(fields.keys() & rest.keys()):
            scan.fail(f"{doubled[0]} is given twice", at)
        self._add("steps", self._made(form.record, {**fields, **rest}, at))

    def _one(self, values: list[str], what: str, at: int) -> str:
        if len(values) != 1:
            self.scan.fail(f"{len(values)} {what}s, this kind of step has one", at)
        return values[0]

    def _tensor(self, at: int) -> None:
        scan = self.scan
        name = scan.word()
        scan.expect(":")
        dtype = self._dtype()
        scan.expect("[")
        shape: list[int] = []
        while not scan.found("]"):
            shape.append(scan.integer())
            if not scan.found(","):
                scan.expect("]")
                break
        if scan.found("="):
            value_at, value = scan.at, scan.json()
            try:
                array = np.array(value, dtype)
            except (ValueError, TypeError, OverflowError) as error:
                scan.fail(f"no {dtype.name} numbers: {error}", value_at)
            if array.size != np.prod(shape, dtype=object) or array.size > _MOST_DENSE:
                scan.fail(f"{array.size} numbers do not fill {shape}", value_at)
            self._keep(name, array.reshape(shape), at)
            return
        scan.expect("sha256")
        scan.expect("=")
        hash_at, sha256 = scan.at, scan.word()
        if not _SHA256.fullmatch(sha256) or min(shape, default=0) < 0:
            scan.fail("64 hexadecimal digits are expected here", hash_at)
        found = self.given.get(name)
        if found is not None and (found.dtype, found.shape) != (dtype, tuple(shape)):
            scan.fail(f"the array given for {name} is {found.dtype.name}{list(found.shape)}", at)
        if found is not None and tensor_sha256(np.require(found, requirements="C")) != sha256:
            scan.fail(f"the array given for {name} has another hash", hash_at)
        self._keep(name, TensorRef(dtype, tuple(shape), sha256) if found is None else found, at)

    def _dtype(self) -> np.dtype[Any]:
        at, word = self.scan.at, self.scan.word()
        try:
            dtype = np.dtype(getattr(ml_dtypes, word, word))
        except TypeError:
            self.scan.fail(f"no element type is called {word}", at)
        if dtype.hasobject or dtype.names or dtype.kind in "SUmM":
            self.scan.fail(f"tensors are no {word}", at)
        return dtype

    def _keep(self, name: str, tensor: Any, at: int) -> None:
        if name in self.tensors:
            self.scan.fail(f"a second tensor {name}", at)
        self.tensors[name] = tensor
