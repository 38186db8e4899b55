"""What the printer and the parser of programs share: how records, names, steps and tensors stand in the text.

A record of the IR is written as ``{field=JSON …}``, without the fields at their defaults. A step begins with its values::

    %y = vmm @fc(%x) {name="fc" geometry={…} nodes=["fc"]}

Here ``name`` and so on are the fields of the record that `FORMS` does not place before them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cimc.ir.records import (
    DigitalStep,
    MaskStep,
    OuterStep,
    PoolBackwardStep,
    RandomStep,
    Step,
    UpdateStep,
    VmmBackwardStep,
    VmmStep,
)
from cimc.targets.section import default_of

#: A name that stands without quotes.
BARE = re.compile(r"[A-Za-z0-9_./$-]+")
#: Tensors of at most so many elements are written out; of others the text has the SHA-256.
DENSE = 64


@dataclass(frozen=True)
class Form:
    """How one kind of step is written: ``OUTPUTS = WORD @SYMBOL(OPERANDS) {…}``.

    Attributes:
        record: Class of the step.
        outputs: Field with the values that it makes, a name or several; empty: it makes none.
        symbol: Field behind the ``@``, written where it is not null; empty: there is none.
        operands: Fields with the values that it reads: one field of several names, or fields of one name each.
    """

    record: type[BaseModel]
    outputs: str
    symbol: str
    operands: tuple[str, ...]


#: By kind of step, which is its word in the text.
FORMS: dict[str, Form] = {
    "digital": Form(DigitalStep, "outputs", "name", ("inputs",)),
    "vmm": Form(VmmStep, "output", "layer", ("input",)),
    "vmm_backward": Form(VmmBackwardStep, "output", "layer", ("input", "activation")),
    "outer": Form(OuterStep, "output", "layer", ("input", "gradient")),
    "pool_backward": Form(PoolBackwardStep, "output", "name", ("input", "activation", "pooled")),
    "mask": Form(MaskStep, "output", "name", ("input",)),
    "random": Form(RandomStep, "outputs", "name", ("input",)),
    "update": Form(UpdateStep, "", "layer", ("inputs",)),
}


def form_of(step: Step) -> Form:
    """How this step is written."""
    return FORMS[step.kind]


def brief(record: BaseModel) -> dict[str, Any]:
    """The fields of a record as JSON takes them, without those at their defaults; ``kind`` is always there, in front."""
    fields: dict[str, Any] = {}
    for name, info in sorted(type(record).model_fields.items(), key=lambda item: item[0] != "kind"):
        value = getattr(record, name)
        if not info.exclude and (name == "kind" or value != default_of(info)):
            fields[name] = _plain(value)
    return fields


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return brief(value)
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return {str(key): _plain(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value


def dense(array: NDArray[Any]) -> str | None:
    """A small array as JSON that reads back to the same bytes; None where it is not small, or JSON has no such values."""
    if array.size > DENSE:
        return None
    text = json.dumps(array.tolist()) if array.dtype.kind in "biu" else _shortest(array)
    try:
        back = np.array(json.loads(text), array.dtype)
    except (ValueError, TypeError):
        return None
    return text if back.tobytes() == np.ascontiguousarray(array).tobytes() else None


def _shortest(array: NDArray[Any]) -> str:
    """Real numbers with as few digits as their element type needs."""
    return str(array[()]) if array.ndim == 0 else f"[{', '.join(map(_shortest, array))}]"
