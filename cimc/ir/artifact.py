"""``model.cim``: a program in one safetensors file.

The program's JSON, a manifest and the SHA-256 of every tensor stand in the file's metadata, so that any safetensors
reader can open it. Loading maps the tensors into memory and reads only what is used, after one pass that checks the hashes.
"""

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
from cimc.errors import ArtifactError, TargetError, VerifyError
from cimc.files import replacing
from cimc.ir.kinds import expect
from cimc.ir.program import SCHEMA_VERSION, Program
from cimc.ir.runnable import verify_runnable

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
def save(program: Program, path: str | Path) -> None:
    """Write ``program`` to ``path``, all or nothing.

    Raises:
        RunError: The file cannot be written.
        VerifyError: A field of the program has no such value in a file.
    """
    tensors = {name: np.require(array, requirements="C") for name, array in sorted(program.tensors.items())}
    text = program.model_dump_json()
    try:
        Program.model_validate(program.model_dump())  # not from the JSON: an infinite number is null there
    except ValidationError as error:
        raise VerifyError(f"this program could not be read again: {_first(error)}", where=str(path)) from error
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "program": text,
        "program_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tensors_sha256": {name: tensor_sha256(array) for name, array in tensors.items()},
    }
    # One key alone: safetensors writes its metadata in no fixed order.
    write_safetensors(tensors, {"cimc": json.dumps(manifest)}, Path(path))


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


@checked()
def load(path: str | Path) -> Program:
    """Read a program; its tensors are read-only views of the file.

    Raises:
        ArtifactError: No such file, not a program, of another schema version, damaged, or with right hashes and contents that
            break a rule of the IR: nothing of it reaches compiled code unchecked.
    """
    where = str(path)
    expect(path, "program", ArtifactError)
    metadata, tensors = read_safetensors(Path(path))
    try:
        manifest = json.loads(metadata["cimc"])
        ours = manifest["format"] == FORMAT
    except (KeyError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise ArtifactError("not a compiled program", where=where, fix="make one with `cimc compile MODEL.onnx -o M.cim`")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"program schema version {manifest.get('schema_version')}, this cimc reads {SCHEMA_VERSION}",
            where=where,
            fix="compile the model again with this version",
        )
    damaged = ArtifactError("the file is damaged", where=where, fix="compile the model again")
    try:
        text, hashes = manifest["program"], manifest["tensors_sha256"]
        if hashlib.sha256(text.encode()).hexdigest() != manifest["program_sha256"] or hashes.keys() != tensors.keys():
            raise damaged
    except (KeyError, AttributeError, UnicodeError) as error:
        raise damaged from error
    for name, array in tensors.items():
        if tensor_sha256(array) != hashes[name]:
            raise ArtifactError(f"tensor {name} is damaged", where=where, fix="compile the model again")
    try:
        program = Program.model_validate_json(text).model_copy(update={"tensors": tensors})
        verify_runnable(program)
    except ValidationError as error:
        raise _inconsistent(where, _first(error)) from error
    except VerifyError as error:
        raise _inconsistent(where, f"{error.where}: {error.what}") from error
    except TargetError as error:  # a kind of device that is not there
        raise ArtifactError(error.what, where=where, fix=error.fix) from error
    return program


def _inconsistent(where: str, what: str) -> ArtifactError:
    return ArtifactError(f"the program does not hold together: {what}", where=where, fix="compile the model again")


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'program'}: {first['msg']}"


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and memory-mapped tensors of a safetensors file.

    Raises:
        ArtifactError: The file is missing, or no valid safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ArtifactError("no such file", where=str(path))
    try:
        with safe_open(path, framework="numpy"):  # checks the header: sizes, offsets, overlaps, trailing bytes
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        data = (
            np.memmap(path, np.uint8, mode="r", offset=8 + length) if path.stat().st_size > 8 + length else np.empty(0, np.uint8)
        )
        metadata = header.pop("__metadata__", {})
        tensors: dict[str, NDArray[Any]] = {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            tensors[name] = np.asarray(data[begin:end]).view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    except (SafetensorError, OSError, ValueError, KeyError, struct.error) as error:
        raise ArtifactError(f"not a safetensors file, or damaged: {error}", where=str(path)) from error
    return metadata, tensors


def tensor_sha256(array: NDArray[Any]) -> str:
    """Hash of a contiguous array: its dtype, shape and bytes."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
