"""What is wrong with the fields of a record, in sentences instead of pydantic's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ValidationError

from cimc.errors import CimcError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

_MESSAGES = {
    "missing": "is missing",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be finite",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "dict_type": "must be a dict",
    "model_type": "must be a section, {{}} or null",
    "string_too_long": "is too long",
    "string_pattern_mismatch": "may hold letters, digits, dot, dash and underline only",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be above {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "literal_error": "must be {expected}",
    "missing_argument": "has too few entries",
    "too_long": "has too many entries",
    "too_short": "has too few entries",
    "extra_forbidden": "is no field of this kind",
}


def place(entry: Mapping[str, Any]) -> str:
    """Dotted path of the field that an entry of pydantic's errors is about."""
    return ".".join(str(part) for part in entry["loc"])


def sentence(entry: Mapping[str, Any]) -> str:
    """An entry of pydantic's errors, in words."""
    context = entry.get("ctx", {})
    if entry["type"] == "value_error":
        return str(context.get("error", entry["msg"]))
    return f"{place(entry)} " + _MESSAGES.get(entry["type"], f"is wrong ({entry['msg']})").format(**context)


class Told(ModelMetaclass):
    """The class of records that users may construct: what the constructor refuses is an error of ours.

    Only the constructor: what reads files calls ``model_validate`` and tells errors itself.
    """

    refused: ClassVar[type[CimcError]] = CimcError
    __pydantic_fields__: Mapping[str, Any]

    def __call__(self, *args: Any, **fields: Any) -> Any:
        """A record.

        Raises:
            CimcError: Or the subclass that the record names: a field is missing, unknown, or of another type or range.
        """
        known = ", ".join(self.__pydantic_fields__)
        if args:
            raise self.refused("fields are given by name", where=self.__name__, fix=f"its fields: {known}")
        try:
            return super().__call__(**fields)
        except ValidationError as error:
            what = "; ".join(sentence(entry) for entry in error.errors())
            raise self.refused(what, where=self.__name__, fix=f"its fields: {known}") from None
