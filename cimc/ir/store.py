"""Writes ``model.cim``; see `cimc.ir.artifact`, which reads it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cimc.arguments import checked
from cimc.errors import VerifyError
from cimc.files import replacing
from cimc.ir.records import SCHEMA_VERSION, ProgramRecord
from cimc.targets.told import parsed

FORMAT = "cimc-program"

#: safetensors' names of element types.
DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
#: Tensors stand in a file by type, the last of these first, then by name, as the safetensors library writes them.
_ORDER = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64")


@checked()
def save(program: ProgramRecord, path: str | Path) -> None:
    """Write ``program`` to ``path``, all or nothing.

    Raises:
        RunError: The file cannot be written.
        VerifyError: A field of the program has no such value in a file.
    """
    tensors = {name: np.require(array, requirements="C") for name, array in sorted(program.tensors.items())}
    text = program.model_dump_json()
    try:
        parsed(type(program), program.model_dump())  # not from the JSON: an infinite number is null there
    except ValidationError as error:
        raise VerifyError(f"this program could not be read again: {first_fault(error)}", where=str(path)) from error
    write_hashed(tensors, text, Path(path), FORMAT, SCHEMA_VERSION, ("program", "tensors"))


def write_hashed(
    tensors: Mapping[str, NDArray[Any]], text: str, path: Path, form: str, version: int, words: tuple[str, str]
) -> None:  # fmt: skip
    """Write a text and contiguous tensors with their checksums, for `cimc.ir.artifact.hashed_text`, as one safetensors file.

    Args:
        tensors: By name.
        text: JSON.
        path: The file.
        form: Name of the format.
        version: Of its schema.
        words: What the text and the tensors are called in the file.

    Raises:
        OutputError: It must not be written there, see `cimc.files`.
        RunError: The file cannot be written.
    """
    of_text, of_tensors = words
    manifest = {
        "format": form,
        "schema_version": version,
        of_text: text,
        f"{of_text}_sha256": hashlib.sha256(text.encode()).hexdigest(),
        f"{of_tensors}_sha256": {name: tensor_sha256(array) for name, array in tensors.items()},
    }
    # One key alone: safetensors writes its metadata in no fixed order.
    write_safetensors(tensors, {"cimc": json.dumps(manifest)}, path)


def write_safetensors(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str], path: Path) -> None:
    """Write a safetensors file, whole or not at all; once it has its name, it is on the disk.

    Raises:
        OutputError: It must not be written there, see `cimc.files`.
        RunError: The file cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-_ORDER.index(_NAMES[tensors[name].dtype]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].nbytes
        dtype, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data)


def first_fault(error: ValidationError) -> str:
    """The first field that pydantic refuses, and why."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'program'}: {first['msg']}"


def tensor_sha256(array: NDArray[Any]) -> str:
    """Hash of a contiguous array: its dtype, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
