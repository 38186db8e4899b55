"""What is wrong with the fields of a record, in sentences instead of pydantic's own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast

from pydantic import BaseModel, ValidationError

from cimc.errors import CimcError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

R = TypeVar("R", bound=BaseModel)

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
    """The class of `Record`: what a constructor refuses is an error of ours."""

    refused: ClassVar[type[CimcError]] = CimcError
    __pydantic_fields__: Mapping[str, Any]

    def __call__(self, *args: Any, **fields: Any) -> Any:
        """A record.

        Raises:
            CimcError: Or the subclass that the record names: a field is missing, unknown, or of another type or range.
        """
        if args:
            raise self.refused(
                "fields are given by name", where=self.__name__, fix=f"its fields: {', '.join(self.__pydantic_fields__)}"
            )
        with self.told():
            return super().__call__(**fields)

    @contextmanager
    def told(self) -> Iterator[None]:
        """Within: what pydantic refuses of a record of this class is told in words."""
        try:
            yield
        except ValidationError as error:
            raise self._refused("; ".join(sentence(entry).strip() for entry in error.errors())) from None

    def _refused(self, what: str) -> CimcError:
        return self.refused(what, where=self.__name__, fix=f"its fields: {', '.join(self.__pydantic_fields__)}")


class Record(BaseModel, metaclass=Told):
    """The base of records that users may construct.

    What reads files wants the places of all errors: it calls `parsed` and `parsed_json`.
    """

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """A record from a dict; raises as the constructor does. ``options`` are pydantic's."""
        with cls.told():
            return super().model_validate(obj, **options)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """A record from JSON; raises as the constructor does. ``options`` are pydantic's."""
        with cls.told():
            return super().model_validate_json(json_data, **options)


def parsed(record: type[R], data: Any) -> R:
    """A record from a dict; raises pydantic's ValidationError."""
    return cast(R, record.__pydantic_validator__.validate_python(data))


def parsed_json(record: type[R], text: str, *, strict: bool | None = None) -> R:
    """A record from JSON, likewise."""
    return cast(R, record.__pydantic_validator__.validate_json(text, strict=strict))
