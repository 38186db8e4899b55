"""From a module to ONNX and a program, so that every parameter keeps its name and batch normalisation stays apart."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from cimc.arguments import checked
from cimc.compiler import compile as compile_model
from cimc.errors import CimcError, ModelError
from cimc.ir.onnx_io import session, split
from cimc.ir.program import Program
from cimc.targets.description import Target

#: Outputs of the exported model and of the module may differ by this, in parts of the largest output.
_TOLERANCE = 1e-3


@checked("module", "example", "calibration")
def compile(  # noqa: A001
    module: torch.nn.Module,
    example: Any,
    target: str | Target = "bulk-rram",
    *,
    calibration: Any = None,
    dropout: bool = False,
    open_batch: bool = True,
    **options: Any,
) -> Program:
    """Compile a module; its parameters keep their names, so that `load_back` finds them.

    Args:
        module: It is exported in evaluation mode and left in the mode that it has.
        example: Its inputs: a tensor, a tuple of tensors by position, or a dict by the names of ``forward``'s parameters.
            The first axis of each is the batch.
        target: As `cimc.compile`.
        calibration: Inputs for calibration in any of these forms, with as many images as there are; None: as `cimc.compile` does.
        dropout: Export in training mode, so that Dropout acts when the program is trained.
        open_batch: The program runs any batch size; False: that of ``example`` alone.
        options: Of `cimc.compile`.

    Raises:
        ModelError: PyTorch cannot export the module, or the exported model computes something else.
        CimcError: As `cimc.compile`.
    """
    model, names = to_onnx(module, example, dropout=dropout, open_batch=open_batch)
    if calibration is not None:
        options["calibration"] = {name: _array(value) for name, value in _by_name(module, calibration, names).items()}
    return compile_model(model, target, **{"repeats": "free", **options})


@checked("module", "example")
def to_onnx(
    module: torch.nn.Module, example: Any, *, dropout: bool = False, open_batch: bool = True
) -> tuple[ir.Model, list[str]]:
    """Export a module as `compile` does.

    Args:
        module: Its initializers have the names of its ``state_dict``.
        example: As `compile`.
        dropout: As `compile`.
        open_batch: As `compile`.

    Returns:
        The model, and the names of its inputs in the order of ``forward``.

    Raises:
        ModelError: PyTorch cannot export the module, or the exported model computes something else.
    """
    if not isinstance(module, torch.nn.Module):
        raise CimcError(f"the module is of type {type(module).__name__}", where="cimc.torch", fix="give a torch.nn.Module")
    where, given = type(module).__name__, _by_name(module, example)
    inputs = {name: _batch_of_two(value) if open_batch else value for name, value in given.items()}
    shapes = {name: {0: "batch"} if value.dim() else {} for name, value in inputs.items()} if open_batch else None
    mode = module.training
    module.train(dropout)
    try:
        with _quiet(), torch.no_grad():
            exported = torch.onnx.export(
                module, (), kwargs=inputs, dynamo=True, optimize=False, input_names=list(inputs), dynamic_shapes=shapes,
                verbose=False,
            )  # fmt: skip
            expected = None if dropout else module(**inputs)
    except Exception as error:  # the exporter raises errors of many kinds
        what = f"PyTorch cannot export it: {_reason(error)}"
        fix = (
            "open_batch=False if its batch is fixed, or export it by hand (docs/pytorch.md)"
            if open_batch
            else "see docs/pytorch.md"
        )
        raise ModelError(what, where=where, fix=fix) from error
    finally:
        module.train(mode)
    model: ir.Model = exported.model
    names = [str(value.name) for value in model.graph.inputs]
    if expected is not None:
        _check(model, inputs, expected, where)
    return model, names


def _by_name(module: torch.nn.Module, given: Any, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Inputs by the names of ``forward``'s parameters."""
    own = list(names) if names is not None else list(inspect.signature(module.forward).parameters)
    if isinstance(given, Mapping):
        found = dict(given)
    else:
        values = list(given) if isinstance(given, tuple | list) else [given]
        if len(values) > len(own):
            raise CimcError(f"there are {len(values)} inputs for {', '.join(own)}", where=type(module).__name__)
        found = dict(zip(own, values, strict=False))
    for name, value in found.items():
        if name not in own:
            raise CimcError(f"forward has no input {name}", where=type(module).__name__, fix=f"one of {', '.join(own)}")
        if names is None and not isinstance(value, torch.Tensor):
            raise CimcError(f"input {name} is of type {type(value).__name__}", where=type(module).__name__, fix="give a tensor")
    found = {name: found[name] for name in own if name in found}
    if not found:
        raise CimcError("there are no inputs", where=type(module).__name__, fix="give an example of what forward takes")
    return found


def _batch_of_two(value: torch.Tensor) -> torch.Tensor:
    """Where the batch is one image, two of it: the exporter takes a size of 1 for a fixed one."""
    return value.expand(2, *value.shape[1:]).clone() if value.dim() and value.shape[0] == 1 else value


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _check(model: ir.Model, inputs: Mapping[str, torch.Tensor], expected: Any, where: str) -> None:
    """See that ONNX Runtime computes from the exported model what the module does."""
    wanted = [value for value in _flat(expected) if isinstance(value, torch.Tensor)]
    names = {value.name for value in model.graph.inputs}
    found = session(*split(model.clone()), threads=1).run(None, {n: _array(v) for n, v in inputs.items() if n in names})
    if len(wanted) != len(found):
        what = f"the exported model has {len(found)} outputs, the module {len(wanted)}"
        raise ModelError(what, where=where, fix="forward returns tensors alone, the same number in every call, each an output")
    for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
        value = _array(one)
        largest = float(np.abs(value).max(initial=0)) if value.dtype.kind == "f" else 0.0
        close = {"rtol": _TOLERANCE, "atol": _TOLERANCE * largest}
        if value.shape != other.shape or not np.allclose(value, other, equal_nan=True, **close):
            what = f"output {number} of the exported model is another than that of the module"
            raise ModelError(what, where=where, fix="its forward may depend on the values of its inputs, which an export fixes")


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for part in value:
            yield from _flat(part)
    else:
        yield value


def _reason(error: Exception) -> str:
    """The cause that says most, in one line."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter logs of packages that it does not need, and without its deprecation warnings."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
