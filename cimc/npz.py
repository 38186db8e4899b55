"""npz files of arrays: read without pickle and checked against their sizes, written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cimc.arguments import array, checked
from cimc.errors import DataError
from cimc.files import replacing
from cimc.ir.kinds import expect

_AGAIN = "write it again with numpy.savez"
#: Bytes that deflate makes of one at most; a member of more is none.
_GROWTH = 1032


@checked()
def read_npz(path: str | Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file; only those of ``names`` that it holds, if given.

    Raises:
        CimcError: An argument is of another type.
        DataError: No such file, not an npz, damaged, or it holds pickled objects.
    """
    where = str(path)
    _check_kind(path)
    arrays: dict[str, NDArray[Any]] = {}
    with _readable(where), zipfile.ZipFile(path) as archive:
        size = os.path.getsize(path)
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            member = f"{where}, array {name}"
            if name in arrays:
                raise DataError("the file holds two arrays of this name", where=member, fix=_AGAIN)
            if info.file_size > _GROWTH * min(info.compress_size, size) + 1024:
                raise DataError(f"{info.file_size} bytes cannot come from {info.compress_size}", where=member, fix=_AGAIN)
            with _readable(member), archive.open(info) as file:
                arrays[name] = _read_array(file, info.file_size, member)
    return arrays


def npz_names(path: str | Path) -> list[str]:
    """Names of the arrays that an npz file holds; the arrays are not read.

    Raises:
        DataError: No such file, not an npz, or damaged.
    """
    _check_kind(path)
    with _readable(str(path)), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npy(path: str | Path) -> NDArray[Any]:
    """The array of an npy file.

    Raises:
        DataError: No such file, damaged, or it holds pickled objects.
    """
    where = str(path)
    if not os.path.isfile(path):
        raise DataError("no such file", where=where)
    with _readable(where), Path(path).open("rb") as file:
        return _read_array(file, os.path.getsize(path), where)


def _check_kind(path: str | Path) -> None:
    where = str(path)
    if not os.path.isfile(path):
        raise DataError("no such file", where=where)
    expect(path, "data", DataError)
    if not zipfile.is_zipfile(path):
        raise DataError("not an npz file", where=where, fix="write it with numpy.savez")


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn what zipfile, zlib and numpy raise for a damaged file into a DataError; they share no base class."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"damaged, or not made by numpy: {what}", where=where, fix=_AGAIN) from error


def _read_array(member: IO[bytes], size: int, where: str) -> NDArray[Any]:
    version = npy.read_magic(member)
    shape, _, dtype = npy.read_array_header_1_0(member) if version == (1, 0) else npy.read_array_header_2_0(member)
    if dtype.hasobject:
        raise DataError("holds Python objects, which are never unpickled", where=where, fix="save plain numbers or strings")
    if min(shape, default=0) < 0 or member.tell() + dtype.itemsize * prod(int(n) for n in shape) != size:
        what = f"its header says {dtype} {list(shape)}, which is not the {size} bytes stored"
        raise DataError(what, where=where, fix=_AGAIN)
    member.seek(0)
    return array(npy.read_array(member, allow_pickle=False), where)


def save_npz(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write a model's outputs: arrays by name, the elements of a sequence as ``NAME.0``, ``NAME.1``; bfloat16 as float32.

    An empty optional is left out. The file appears whole or not at all.

    Raises:
        OutputError: It must not be written there, see `cimc.files`.
        RunError: The file cannot be written.
    """
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in _flat(values):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def _flat(values: Mapping[str, Any]) -> list[tuple[str, NDArray[Any]]]:
    flat: list[tuple[str, NDArray[Any]]] = []
    for name, value in values.items():
        if isinstance(value, list | tuple):
            flat += _flat({f"{name}.{i}": element for i, element in enumerate(value)})
        elif isinstance(value, Mapping):
            flat += _flat({f"{name}.{key}": element for key, element in value.items()})
        elif value is not None:
            array = np.asarray(value)
            if array.dtype.name == "bfloat16":
                array = array.astype(np.float32)
            flat.append((name, array.astype(str) if array.dtype.kind == "O" else array))
    return flat
