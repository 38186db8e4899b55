"""``repeat``: lay a layer's matrix on its crossbars several times, or read its inputs several times, so that errors average.

Example, each row twice and each input read four times::

    before  fc | y = cimc.Vmm <layer = "fc", ...> (x, w)
    after   fc | y = cimc.Vmm <layer = "fc", repeats = [2, 1, 4], ...> (x, w)

Repeated rows double the current against the errors of a converter with a fixed range, and average those of devices. Repeated
columns average both, and their conversions. Repeated reads average read noise and noise of the converters; they cost time and no
cells. The product is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import onnx_ir as ir

from cimc.errors import CimcError, VerifyError
from cimc.ir.records import MOST_REPEATS, ONCE, Repeats
from cimc.ir.vmm import repeats_of
from cimc.passes.base import Compilation, Pass
from cimc.passes.conditions import need_reasons
from cimc.passes.quantise import vmms


@dataclass(frozen=True)
class Repeat(Pass):
    """Sets ``repeats`` of ``Vmm`` nodes.

    Args:
        repeats: By layer name, or by a pattern of names; a later entry replaces an earlier one.
        only_known: Leave out names that no layer has, instead of refusing them.
    """

    repeats: Mapping[str, Repeats] = field(default_factory=dict)
    only_known: bool = False

    name: ClassVar[str] = "repeat"

    def requires(self, state: Compilation) -> None:
        """Raises CimcError for a name that no layer has, VerifyError before `select` and after `lower`."""
        need_reasons(state)
        names = {node.attributes.get_string("layer") or "" for node in vmms(state.model)}
        for pattern in () if self.only_known else self.repeats:
            if not any(fnmatchcase(name, pattern) for name in names):
                known = ", ".join(sorted(names)[:8]) or "there is none"
                raise CimcError(f"no crossbar layer {pattern}", where="repeats", fix=f"name one of: {known}")

    def call(self, state: Compilation) -> Sequence[str]:
        changed: dict[str, None] = {}
        for node in vmms(state.model):
            name = node.attributes.get_string("layer") or ""
            found = [repeats for pattern, repeats in self.repeats.items() if fnmatchcase(name, pattern)]
            if found and found[-1] != ONCE:
                last = found[-1]
                node.attributes.add(ir.AttrInt64s("repeats", [last.rows, last.columns, last.reads]))
                changed[name] = None
        return list(changed)

    def ensures(self, state: Compilation) -> None:
        """Raises VerifyError where products of one layer differ in their repeats."""
        seen: dict[str, Repeats] = {}
        for node in vmms(state.model):
            name = node.attributes.get_string("layer") or ""
            if seen.setdefault(name, repeats_of(node)) != repeats_of(node):
                raise VerifyError("its products differ in their repeats", where=f"layer {name}")

    def unchanged(self, state: Compilation) -> str:
        """No layer is to be repeated."""
        return "repeats are given of no layer"


def checked_repeats(repeats: Mapping[str, Repeats | Mapping[str, int]]) -> dict[str, Repeats]:
    """The repeats, each by itself or as a dict of ``rows``, ``columns`` and ``reads``.

    Raises:
        CimcError: A name is unknown, or a number is not whole or not from 1 to `MOST_REPEATS`.
    """
    found: dict[str, Repeats] = {}
    for name, value in repeats.items():
        if isinstance(value, Repeats):
            found[name] = value
            continue
        fields = Repeats.model_fields
        good = isinstance(value, Mapping) and all(
            word in fields and type(number) is int and 1 <= number <= MOST_REPEATS for word, number in value.items()
        )
        if not good:
            raise CimcError(
                f"{value!r} are no repeats of layer {name}",
                where="repeats",
                fix=f"give whole numbers from 1 to {MOST_REPEATS} for rows, columns or reads",
            )
        found[name] = Repeats(**value)
    return found
