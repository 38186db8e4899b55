"""An ONNX file without the bytes of its large initializers, and where those lie.

Parsing a model as a whole holds it twice in memory. So the protobuf encoding is walked first, down to the main graph's
initializers, and their raw data left where it is. https://protobuf.dev/programming-guides/encoding/ describes the encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Buffer: TypeAlias = memoryview

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not protobuf, or end too early."""


@dataclass(frozen=True)
class Field:
    """One field: ``begin`` is where its tag starts, ``body`` where its content does, ``end`` where it ends."""

    number: int
    wire_type: int
    begin: int
    body: int
    end: int


def strip(buffer: Buffer, *, keep_below: int) -> tuple[bytes, dict[int, tuple[int, int]]]:
    """Take the raw data of large initializers out of a serialised ``ModelProto``.

    Args:
        buffer: The file, memory-mapped or not; only what is kept is read.
        keep_below: Raw data of fewer bytes stays.

    Returns:
        The file without them, and offset and length of the raw data by the index of its initializer.

    Raises:
        WireError: The bytes are not protobuf, or end too early.
    """
    taken: dict[int, tuple[int, int]] = {}
    out: list[bytes] = []
    index = 0
    for model_field in _fields(buffer, 0, len(buffer)):
        if model_field.number != _GRAPH or model_field.wire_type != _BYTES:
            out.append(bytes(buffer[model_field.begin : model_field.end]))
            continue
        graph: list[bytes] = []
        for field in _fields(buffer, model_field.body, model_field.end):
            if field.number != _INITIALIZER or field.wire_type != _BYTES:
                graph.append(bytes(buffer[field.begin : field.end]))
                continue
            tensor = list(_fields(buffer, field.body, field.end)) if field.end - field.body >= keep_below else []
            raw = [f for f in tensor if f.number == _RAW_DATA and f.wire_type == _BYTES]
            if len(raw) == 1 and raw[0].end - raw[0].body >= keep_below:
                taken[index] = (raw[0].body, raw[0].end - raw[0].body)
                kept = [bytes(buffer[f.begin : f.end]) for f in tensor if f is not raw[0]]
                graph.append(_enclosed(_INITIALIZER, kept))
            else:
                graph.append(bytes(buffer[field.begin : field.end]))
            index += 1
        out.append(_enclosed(_GRAPH, graph))
    return b"".join(out), taken


def _fields(buffer: Buffer, begin: int, end: int) -> Iterator[Field]:
    while begin < end:
        tag, body = _varint(buffer, begin, end)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, after = _varint(buffer, body, end)
        elif wire_type == _BYTES:
            length, body = _varint(buffer, body, end)
            after = body + length
        elif wire_type in (_FIXED64, _FIXED32):
            after = body + (8 if wire_type == _FIXED64 else 4)
        else:
            raise WireError(f"no protobuf field at byte {begin}")
        if after > end or tag >> 3 == 0:
            raise WireError(f"the field at byte {begin} needs {after - end} bytes more than there are")
        yield Field(tag >> 3, wire_type, begin, body, after)
        begin = after


def _varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """The number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise WireError(f"the bytes end at {end}, within a number")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise WireError(f"no number at byte {at - 10}")


def _enclosed(number: int, parts: list[bytes]) -> bytes:
    """A length-delimited field of these parts."""
    body = b"".join(parts)
    return _encoded(number << 3 | _BYTES) + _encoded(len(body)) + body


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
