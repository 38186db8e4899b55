"""Arguments of the public API: what is not of its declared type is told in one sentence, before any work is done.

``@checked()`` reads a function's own signature, so that the types are stated once. Arrays come in through `array`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from math import isnan
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from cimc.errors import CimcError, DataError

P = ParamSpec("P")
R = TypeVar("R")

_WORDS = {int: "whole", float: "a number", str: "a string", bool: "True or False", type(None): "None"}


def checked(*own: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator that compares a call's arguments with the function's annotations.

    Numbers of numpy become Python's; a number is never NaN. Elements of sequences and mappings are looked at too. What is
    annotated as an array is left to `array`. A function that has words of its own for an argument names it in ``own``.

    Raises:
        CimcError: An argument is of another type, missing or given twice, or there is no such argument; function and argument
            are named.
    """

    def decorated(function: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(function).parameters.values()
        names = [p.name for p in parameters]
        needed = [p.name for p in parameters if p.default is Parameter.empty and p.kind is not Parameter.VAR_KEYWORD]
        any_name = any(p.kind is Parameter.VAR_KEYWORD for p in parameters)
        positional = [p.name for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
        stated = {name: hint for name, hint in function.__annotations__.items() if name not in ("return", *own)}
        hints: dict[str, Any] = {}
        implicit = int(positional[:1] in (["self"], ["cls"]))

        def refused(what: str) -> CimcError:
            call = ", ".join(
                name if name in positional else f"{name}=…" for name in names if name not in ("self", "cls", "options")
            )
            return CimcError(what, where=function.__qualname__, fix=f"its arguments: {call}")

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not hints:  # resolved late: the annotations may name what is defined further down
                hints.update(get_type_hints(types.SimpleNamespace(__annotations__=stated), function.__globals__))
            if any(isinstance(value, np.generic) for value in (*args, *kwargs.values())):
                args = tuple(_plain(value) for value in args)  # type: ignore[assignment]
                kwargs = {name: _plain(value) for name, value in kwargs.items()}  # type: ignore[assignment]
            for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
                if name in hints and not _fits(value, hints[name]):
                    what = f"{name} is {_told(value)}, it must be {_wanted(hints[name])}"
                    raise CimcError(what, where=function.__qualname__, fix=f"another {name}")
                if name not in names and not any_name:
                    raise refused(f"there is no argument {name}")
            given = positional[: len(args)]
            if len(args) > len(positional):
                raise refused(f"{len(args) - implicit} arguments are given by place, {len(positional) - implicit} may be")
            if missing := [name for name in needed if name not in given and name not in kwargs]:
                raise refused(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")
            if twice := [name for name in given if name in kwargs]:
                raise refused(f"{twice[0]} is given twice")
            return function(*args, **kwargs)

        return call

    return decorated


def array(value: Any, where: str) -> NDArray[Any]:
    """What the user gives as an array, as compiled code takes it: in the machine's byte order, aligned, of plain elements.

    Args:
        value: An array, what calls itself one (a tensor of PyTorch), or nested lists of numbers.
        where: What errors call it.

    Raises:
        DataError: It is no array, is masked, or its elements are objects, records or dates.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise DataError("is a masked array, and what is masked has no value", where=where, fix="fill it: x.filled(0)")
    try:
        found = np.asarray(value)
    except Exception as error:  # a third party's __array__ may raise anything
        what = f"cannot become an array: {' '.join(str(error).split())[:200]}"
        raise DataError(what, where=where, fix="give a numpy array") from None
    if found.dtype.type is np.void or found.dtype.kind in "Mm" or (found.dtype.kind == "O" and not _is_text(found)):
        raise DataError(f"is {_told(value)}, and no array of numbers or strings", where=where, fix="give a numpy array")
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    return found if found.flags.aligned else found.copy()


def within(name: str, value: float, low: float, high: float, *, open_high: bool = False, whole: bool = False) -> None:
    """Refuse a number outside ``low`` to ``high``, or that is not whole where it must be.

    Raises:
        CimcError: It is no number in there.
    """
    number = _fits(value, float)
    if not number or not low <= value <= high or (open_high and value == high):
        raise CimcError(f"{name} is {_told(value)}, it must lie between {low:g} and {high:g}", fix=f"another {name}")
    if whole and not _fits(value, int):
        raise CimcError(f"{name} is {_told(value)}, it must be whole", fix=f"{name} {round(value)}")


def named(name: str, table: Iterable[str], kind: str) -> str:
    """The name, if the table has it.

    Raises:
        CimcError: It has not; the names that there are are told.
    """
    known = list(table)
    if name not in known:
        fix = f"one of: {', '.join(known)}" if known else "there is none"
        raise CimcError(f"there is no {kind} {_told(name)}", fix=fix)
    return name


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.bool_ | np.integer | np.floating | np.str_) else value


def _is_text(found: NDArray[Any]) -> bool:
    return all(isinstance(element, str | bytes) for element in found.reshape(-1))


def _resolved(hint: Any) -> Any:
    """What an alias of a type stands for, as numpy's NDArray is one from Python 3.12 on."""
    while (value := getattr(get_origin(hint) or hint, "__value__", None)) is not None:
        hint = value
    return hint


def _fits(value: Any, hint: Any) -> bool:
    hint = _resolved(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return isinstance(value, str | int | bool | None) and value in inner
    kind = origin or hint
    if kind is np.ndarray:
        return True
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (kind is float and isinstance(value, float) and not isnan(value))
    if isinstance(value, str | bytes) and kind in (Sequence, Iterable):
        return False
    if kind is tuple and inner[-1:] != (...,):
        return True  # its function says what the pair must be
    if not isinstance(kind, type) or not isinstance(value, kind):
        return kind is Callable and callable(value)
    elements: Any = value
    if kind is Mapping:
        return not inner or all(_fits(key, inner[0]) and _fits(element, inner[1]) for key, element in elements.items())
    if kind in (Sequence, tuple):
        return all(_fits(element, inner[0]) for element in elements)
    return True


def _wanted(hint: Any) -> str:
    """A type in words."""
    hint = _resolved(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_wanted(one) for one in inner))
    if origin is Literal:
        return " or ".join(repr(one) for one in inner)
    kind = origin or hint
    if kind is Mapping:
        return f"a dict by name, each value {_wanted(inner[1])}" if inner and inner[1] is not Any else "a dict by name"
    if kind in (Sequence, tuple):
        return f"a list, each element {_wanted(inner[0])}" if inner else "a list"
    if kind is np.ndarray:
        return "an array"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or f"a{'n' if name[0] in 'AEIOU' else ''} {name}"


def _told(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {list(value.shape)}"
    text = repr(value) if isinstance(value, str | int | float | bool | None | np.generic) else ""
    if text and len(text) <= 60:
        return text
    name = type(value).__name__
    return f"a{'n' if name[0] in 'aeiouAEIOU' else ''} {name}"
