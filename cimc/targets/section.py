"""The base of all sections of a description."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer
from pydantic.fields import FieldInfo

from cimc.errors import CimcError, TargetError
from cimc.targets.told import Record


def default_of(field: FieldInfo) -> Any:
    """The default of a field, made by its factory if it has one. Pydantic 2.10 wants ``validated_data`` for every field."""
    return field.get_default(call_default_factory=True, validated_data={})


class Section(Record):
    """One part of a description; unknown fields are refused, values never change."""

    refused: ClassVar[type[CimcError]] = TargetError

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    younger: ClassVar[tuple[str, ...]] = ()
    """Fields that were added later: at their default they are neither written nor hashed, so that files and hashes of a
    description that does not use them stay what they were."""

    def is_written(self, name: str) -> bool:
        """Whether files hold this field."""
        return name not in self.younger or getattr(self, name) != default_of(type(self).model_fields[name])

    # The type is said here too: pydantic 2.10 looks for the names of annotations in the module of each subclass.
    @model_serializer(mode="wrap", return_type=dict[str, Any])
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if self.is_written(name)}
