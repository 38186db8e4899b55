"""``model.cim``: a program in one safetensors file.

The program's JSON, a manifest and the SHA-256 of every tensor stand in the file's metadata, so that any safetensors
reader can open it. Loading maps the tensors into memory and reads only what is used, after one pass that checks the hashes.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cimc.arguments import checked
from cimc.errors import ArtifactError, TargetError, VerifyError
from cimc.ir.kinds import expect
from cimc.ir.program import SCHEMA_VERSION, Program
from cimc.ir.runnable import verify_runnable
from cimc.ir.store import DTYPES, FORMAT, first_fault, save, tensor_sha256, write_hashed, write_safetensors
from cimc.targets.told import parsed_json

__all__ = ["DTYPES", "FORMAT", "load", "read_safetensors", "save", "tensor_sha256", "write_hashed", "write_safetensors"]


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
    manifest = manifest_of(metadata, FORMAT)
    if manifest is None:
        raise ArtifactError("not a compiled program", where=where, fix="make one with `cimc compile MODEL.onnx -o M.cim`")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(
            f"program schema version {manifest.get('schema_version')}, this cimc reads {SCHEMA_VERSION}",
            where=where,
            fix="compile the model again with this version",
        )
    damaged = ArtifactError("the file is damaged", where=where, fix="compile the model again")
    text = hashed_text(manifest, tensors, ("program", "tensors"), damaged)
    try:
        program = parsed_json(Program, text).model_copy(update={"tensors": tensors})
        verify_runnable(program)
    except ValidationError as error:
        raise _inconsistent(where, first_fault(error)) from error
    except VerifyError as error:
        raise _inconsistent(where, f"{error.where}: {error.what}") from error
    except TargetError as error:  # a kind of device that is not there
        raise ArtifactError(error.what, where=where, fix=error.fix) from error
    return program


def manifest_of(metadata: Mapping[str, str], form: str) -> dict[str, Any] | None:
    """The manifest in a file's metadata; None: the file is of another format."""
    try:
        manifest: dict[str, Any] = json.loads(metadata["cimc"])
        return manifest if manifest["format"] == form else None
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def hashed_text(
    manifest: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], words: tuple[str, str], damaged: ArtifactError
) -> str:  # fmt: skip
    """The text of a file that `cimc.ir.store.write_hashed` wrote, once every checksum is seen to be right.

    Args:
        manifest: Of the file.
        tensors: Of the file, by name.
        words: What the text and the tensors are called in it.
        damaged: Is raised where a checksum is wrong or missing.

    Raises:
        ArtifactError: ``damaged``, or one that names the tensor.
    """
    of_text, of_tensors = words
    try:
        text, hashes = manifest[of_text], manifest[f"{of_tensors}_sha256"]
        if hashlib.sha256(text.encode()).hexdigest() != manifest[f"{of_text}_sha256"] or hashes.keys() != tensors.keys():
            raise damaged
    except (KeyError, AttributeError, UnicodeError) as error:
        raise damaged from error
    for name, tensor in tensors.items():
        if tensor_sha256(tensor) != hashes[name]:
            what = f"{of_tensors.removesuffix('s')} {name} is damaged"
            raise ArtifactError(what, where=damaged.where, fix=damaged.fix)
    return str(text)


def _inconsistent(where: str, what: str) -> ArtifactError:
    return ArtifactError(f"the program does not hold together: {what}", where=where, fix="compile the model again")


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    """Metadata and memory-mapped tensors of a safetensors file.

    Raises:
        ArtifactError: The file is missing, or no valid safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
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
