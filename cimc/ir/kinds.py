"""What kind of file a path is, so that a file of the wrong kind is refused with the command that takes it."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

from cimc.errors import CimcError

#: First bytes of a chip image.
IMAGE_MAGIC = b"\x89CIMG\r\n\x1a"
#: First bytes of a program in text form.
TEXT_START = b"program "
#: A safetensors header that is longer than this is none of cimc's.
_LONGEST_HEADER = 1 << 30

#: An ONNX file begins with its IR version; these are the tags of the fields that may follow.
_AFTER_VERSION = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")

#: What each kind is called, and what takes it.
_KINDS = {
    "program": ("a compiled program", "cimc run, evaluate, inspect, train and export take it"),
    "text": ("a compiled program in text form, without its tensors", "cimc inspect takes it; compile again for a .cim"),
    "model": ("an ONNX model", "compile it first: cimc compile MODEL.onnx --target T -o M.cim"),
    "image": ("a chip image", "cimc image info, verify, run and program take it"),
    "data": ("a data file", "--data, --input and --calibration take it"),
    "checkpoint": ("a checkpoint of a training run", "give its folder to cimc train: --checkpoint DIR --resume"),
    "target": ("a description of a chip", "--target takes it"),
}


def kind_of(path: str | Path) -> str | None:
    """The kind of a file, a key of the table above; None: no such file, or no known kind. Contents are not checked."""
    path = Path(path)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            start = file.read(8)
            if start == IMAGE_MAGIC:
                return "image"
            if start == TEXT_START:
                return "text"
            if len(start) == 8 and (kind := _safetensors_kind(start, file.read(256))):
                return kind
            if start[:1] == b"\x08" and start[1:2] <= b"\x20" and start[2:3] in _AFTER_VERSION:
                return "model"
        if zipfile.is_zipfile(path):
            return "data"
    except OSError:
        return None
    return {".onnx": "model", ".yaml": "target", ".yml": "target"}.get(path.suffix.lower())


def expect(path: str | Path, wanted: str, error: type[CimcError]) -> None:
    """Refuse a file of another kind than ``wanted``; a file of no known kind passes.

    Raises:
        CimcError: It is of another kind, as the type ``error``.
    """
    kind = kind_of(path)
    if kind not in (None, wanted):
        raise error(f"this is {_KINDS[kind][0]}, not {_KINDS[wanted][0]}", where=str(path), fix=_KINDS[kind][1])


def _safetensors_kind(length: bytes, header: bytes) -> str | None:
    """The kind that the metadata of a safetensors file name; ``header`` is its beginning."""
    size = struct.unpack("<Q", length)[0]
    if not 2 <= size <= _LONGEST_HEADER or not header.startswith(b"{"):
        return None
    return next((kind for kind in ("checkpoint", "program") if f"cimc-{kind}".encode() in header), None)
