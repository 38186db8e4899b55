"""The rules of a random operator's step."""

from __future__ import annotations

from math import isfinite, prod
from typing import NoReturn

from cimc.errors import VerifyError
from cimc.ir.records import RandomStep

#: Element types of results, by operator. The runtime draws with 24 bits and rounds to these.
REAL = ("float16", "float32", "float64")
WHOLE = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
DTYPES = {
    "normal": REAL,
    "uniform": REAL,
    "bernoulli": (*REAL, *WHOLE),
    "multinomial": ("int32", "int64"),
    "dropout": REAL,
}
#: Values of a static shape, and samples of a row.
_MOST = 1 << 31


def verify_random(step: RandomStep) -> None:
    """Check what the runtime relies on.

    Raises:
        VerifyError: An element type that the operator does not give, no or two sources of a shape, more values than memory
            should hold, or a second output of another operator than Dropout.
    """
    if step.dtype not in DTYPES[step.operator]:
        _fail(step, f"{step.operator} gives no {step.dtype!r}", f"name one of {', '.join(DTYPES[step.operator])}")
    shaped = step.shape is not None
    if shaped == (step.input is not None) or (shaped and step.operator not in ("normal", "uniform")):
        what = f"{step.operator} has input {step.input} and shape {step.shape}"
        _fail(step, what, "give one of them; a shape only to normal and uniform")
    if prod(step.shape or ()) > _MOST or step.samples > _MOST:
        _fail(step, f"shape {step.shape}, {step.samples} samples: more than {_MOST} values", "draw fewer")
    if not (isfinite(step.offset) and isfinite(step.factor)):
        _fail(step, f"offset {step.offset}, factor {step.factor}", "give finite numbers")
    if len(step.outputs) > 1 and step.operator != "dropout":
        _fail(step, f"{len(step.outputs)} outputs of {step.operator}", "give one")


def _fail(step: RandomStep, what: str, fix: str) -> NoReturn:
    raise VerifyError(what, where=f"step {step.name}", fix=fix)
