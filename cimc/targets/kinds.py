"""Kinds of the parts of a chip: which there are, and the parameter section of each.

Parts are the device, the parts of a device, how it is written, and the update rule. Each part has a section in the target, and
one of its fields (``kind``, of an update rule ``rule``, of a weight code
``representation``) chooses the class of that section: built in, registered with `register`,
or offered by an installed package through an entry point. A description names a kind; it never makes code run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema

from cimc.arguments import checked
from cimc.errors import CimcError, TargetError
from cimc.targets.section import Section
from cimc.targets.told import parsed, parsed_json

#: Parts, and the entry point group of each.
GROUPS = {
    "device": "cimc.devices", "programming": "cimc.programming", "drift": "cimc.drift", "read_noise": "cimc.read_noise",
    "programmer": "cimc.programmers", "update_rule": "cimc.update_rules", "weight_code": "cimc.weight_codes",
}  # fmt: skip
#: Section of each built-in kind; `cimc.targets.device` fills it. The first kind of a part is its default, and its section the
#: one that a model without a ``Section`` takes.
BUILT_IN: dict[str, dict[str, type[Section]]] = {part: {} for part in GROUPS}
#: What the sections of a part's kinds extend.
BASES: dict[str, type[Section]] = {}
#: Parts that every chip has, so that their kind has a default.
_WITH_DEFAULT = ("device", "programming", "update_rule", "weight_code")
_registered: dict[str, dict[str, type[Any]]] = {part: {} for part in GROUPS}
_listeners: list[Callable[[], object]] = []


def kind_field(part: str) -> str:
    """The field of a part's section that chooses its kind."""
    return {"update_rule": "rule", "weight_code": "representation"}.get(part, "kind")


def on_change(forget: Callable[[], object]) -> None:
    """Have ``forget`` called whenever a kind is added: what was derived from the kinds is out of date then."""
    _listeners.append(forget)


@checked()
def register(part: str, kind: str, model: type[Any]) -> None:
    """Add a kind of part, by which targets may then choose it.

    Args:
        part: ``device``, ``programming``, ``drift``, ``read_noise``, ``programmer``, ``update_rule`` or ``weight_code``.
        kind: Its name in a target. A name that was registered before is replaced; built-in names cannot be.
        model: The model. Its class attribute ``Section`` is its parameter section; without one it takes the section of the
            default kind (not drift, read_noise and programmer, which have none). docs/devices.md says what a model of each part
            does, docs/training.md what an update rule does.

    Raises:
        CimcError: There is no such part, the name is taken, or the model lacks something.
    """
    if part not in GROUPS:
        raise CimcError(f"there is no part {part!r} of a chip", where="register", fix=f"one of: {', '.join(GROUPS)}")
    if not isinstance(kind, str) or not kind:
        raise CimcError(f"a kind is a text, not {kind!r}", where="register")
    if kind in BUILT_IN[part]:
        raise CimcError(f"{kind!r} is a built-in kind of {part}", where="register", fix="choose another name")
    _section_of_model(part, kind, model)
    _registered[part][kind] = model
    for forget in _listeners:
        forget()


@checked()
def register_device(model: type[Any], kind: str | None = None) -> None:
    """Add a device model: `register` for the part ``device``.

    Args:
        model: See docs/devices.md.
        kind: Its name in a target; None: its class attribute ``kind``.
    """
    name = getattr(model, "kind", None) if kind is None else kind
    register("device", name, model)  # type: ignore[arg-type]


def model_class(part: str, kind: str) -> type[Any]:
    """The model that was registered, or that an installed package offers, for a kind that is not built in.

    Raises:
        TargetError: There is none.
    """
    return _registered[part][kind] if kind in _registered[part] else _offered_model(part, kind)


@cache
def _offered_model(part: str, kind: str) -> type[Any]:
    """The model that an installed package offers. A look-up takes 20 ms, so what is found is kept; a failure is not.

    Raises:
        TargetError: There is none.
    """
    offered = entry_points(group=GROUPS[part])
    if kind in offered.names:
        try:
            model = offered[kind].load()
        except Exception as error:  # whatever a third party's code raises is reported as its fault
            what = f"the entry point {GROUPS[part]}: {kind} failed: {type(error).__name__}: {error}"
            raise TargetError(what, where=f"part {part}") from error
        _section_of_model(part, kind, model)
        return model  # type: ignore[no-any-return]
    raise TargetError(
        f"no model {kind!r} of {part} is built in, registered, or among the entry points {GROUPS[part]}",
        where=_where(part),
        fix=f"one of: {', '.join(kinds_of(part))}; or --plugin FILE.py, a file that calls cimc.register({part!r}, {kind!r}, ...)",
    )


def section_class(part: str, kind: str) -> type[Section]:
    """The section of a kind.

    Raises:
        TargetError: There is no such kind.
    """
    return BUILT_IN[part][kind] if kind in BUILT_IN[part] else _section_of_model(part, kind, model_class(part, kind))


def kinds_of(part: str) -> tuple[str, ...]:
    """Names of all kinds: built-in ones, then registered ones, then those that installed packages offer."""
    offered = sorted(entry_points(group=GROUPS[part]).names)
    return tuple(dict.fromkeys([*BUILT_IN[part], *sorted(_registered[part]), *offered]))


def known_sections(part: str) -> dict[str, type[Section]]:
    """Section by kind of those kinds whose code is loaded: built-in and registered ones."""
    return BUILT_IN[part] | {kind: _section_of_model(part, kind, model) for kind, model in _registered[part].items()}


def load_installed() -> bool:
    """Register what installed packages offer, so that the fields of their sections are known; whether there was anything new."""
    new = [(part, kind) for part in GROUPS for kind in kinds_of(part) if kind not in known_sections(part)]
    for part, kind in new:
        register(part, kind, model_class(part, kind))
    return bool(new)


def _section_of_model(part: str, kind: str, model: Any) -> type[Section]:
    """The section of a model.

    Raises:
        CimcError: It has none, or one that lacks what every kind of this part has.
    """
    base, default = BASES[part], next(iter(BUILT_IN[part].values())) if part in _WITH_DEFAULT else None
    section = model if isinstance(model, type) and issubclass(model, Section) else getattr(model, "Section", default)
    if not (isinstance(section, type) and issubclass(section, base)):
        home = "rules" if part == "update_rule" else "devices"
        raise CimcError(
            f"the section of model {kind!r} is no subclass of {base.__name__}",
            where=f"part {part}",
            fix=f"give the model a class attribute Section that extends cimc.{home}.{base.__name__}",
        )
    return section


def _where(part: str) -> str:
    homes = {
        "device": "device.kind", "programmer": "programmer.kind", "update_rule": "update.rule",
        "weight_code": "weights.representation",
    }  # fmt: skip
    return homes.get(part, f"device.{part}.kind")


@dataclass(frozen=True)
class ByKind:
    """Marks a field of a section whose class its ``kind`` chooses."""

    part: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_wrap_validator_function(self._validated, handler(source))

    def _validated(self, data: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        default = next(iter(BUILT_IN[self.part])) if self.part in _WITH_DEFAULT else None
        kind = data.get(kind_field(self.part), default) if isinstance(data, Mapping) else None
        if not isinstance(kind, str):
            return handler(data)  # a section, null, or nothing that could be one
        section = section_class(self.part, kind)
        if info.mode == "json":
            return parsed_json(section, json.dumps(data), strict=True)
        return parsed(section, data)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        sections = dict.fromkeys(known_sections(self.part).values())
        kinds = [handler(section.__pydantic_core_schema__) for section in sections]
        if schema["schema"]["type"] == "nullable":
            kinds.append({"type": "null"})
        return {"anyOf": kinds}
