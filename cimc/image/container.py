"""The container: header, section table, aligned sections, SHA-256 over all before it, and a signature if there is one.

A file is refused unless every byte is accounted for: sections follow each other in their fixed order, gaps are zero.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.image.layout import ALIGN, HEADER, SECTION, SECTIONS, SIGNATURE, SIGNED, VERSION
from cimc.image.store import pieces
from cimc.ir.kinds import IMAGE_MAGIC

Bytes = bytes | bytearray | memoryview
Sections = Mapping[str, NDArray[Any]]
#: From a hash to the record of its signature.
Signer = Callable[[bytes], bytes]
HASH_BYTES = 32
_TABLE_BYTES = len(SECTIONS) * SECTION.itemsize


def aligned(size: int) -> int:
    """``size`` rounded up to the alignment of sections."""
    return -(-size // ALIGN) * ALIGN


@dataclass(frozen=True)
class Layout:
    """Where everything is in an image whose sections have these sizes."""

    table: NDArray[np.void]
    signed: bool

    @classmethod
    def of(cls, records: Mapping[str, int], signed: bool) -> Layout:
        """From the number of records of each section of `SECTIONS`."""
        table = np.zeros(len(SECTIONS), SECTION)
        at = aligned(HEADER.itemsize + table.nbytes)
        for entry, (tag, (record, _)) in zip(table, SECTIONS.items(), strict=True):
            size = records[tag] * record.itemsize
            entry["tag"], entry["record_bytes"] = np.frombuffer(tag.encode(), "u1"), record.itemsize
            entry["offset"], entry["bytes"], entry["records"] = at, size, records[tag]
            at += aligned(size)
        return cls(table, signed)

    @property
    def end(self) -> int:
        """Where the hash is."""
        return int(self.table[-1]["offset"]) + aligned(int(self.table[-1]["bytes"]))

    @property
    def file_bytes(self) -> int:
        return self.end + HASH_BYTES + self.signed * SIGNATURE.itemsize

    def section(self, buffer: memoryview, tag: str) -> NDArray[Any]:
        """The records of a section, a view to write to."""
        entry = self.table[list(SECTIONS).index(tag)]
        return np.frombuffer(buffer, SECTIONS[tag][0], int(entry["records"]), int(entry["offset"]))

    def seal(self, buffer: memoryview, signer: Signer | None) -> None:
        """Write checksums, header, hash and signature, once all sections are there."""
        table = self.table.copy()
        for entry in table:
            begin = int(entry["offset"])
            entry["crc32"] = crc32(buffer[begin : begin + int(entry["bytes"])])
        header = np.zeros(1, HEADER)
        header["magic"], header["header_bytes"] = np.frombuffer(IMAGE_MAGIC, "u1"), HEADER.itemsize
        header["version_major"], header["version_minor"] = VERSION
        header["sections"], header["alignment"], header["flags"] = len(table), ALIGN, SIGNED if self.signed else 0
        header["file_bytes"] = self.file_bytes
        header["crc32"] = zlib.crc32(header.tobytes() + table.tobytes())
        front = header.tobytes() + table.tobytes()
        buffer[: len(front)] = front
        digest = sha256(buffer[: self.end])
        tail = digest + (signer(digest) if signer else b"")
        buffer[self.end : self.end + len(tail)] = tail


def pack(sections: Sections, signer: Signer | None = None) -> bytes:
    """The bytes of an image.

    Args:
        sections: All of `SECTIONS`, arrays of their records.
        signer: From `cimc.image.sign.signer`, or None.
    """
    contents = {tag: np.ascontiguousarray(sections[tag], record) for tag, (record, _) in SECTIONS.items()}
    layout = Layout.of({tag: len(content) for tag, content in contents.items()}, signer is not None)
    data = bytearray(layout.file_bytes)
    buffer = memoryview(data)
    for tag, content in contents.items():
        layout.section(buffer, tag)[:] = content
    layout.seal(buffer, signer)
    return bytes(data)


def crc32(buffer: memoryview) -> int:
    """CRC-32 of IEEE 802.3."""
    value = 0
    for piece in pieces(buffer):
        value = zlib.crc32(piece, value)
    return value


def sha256(buffer: memoryview) -> bytes:
    """SHA-256 (FIPS 180-4)."""
    digest = hashlib.sha256()
    for piece in pieces(buffer):
        digest.update(piece)
    return digest.digest()


def unpack(data: Bytes, where: str) -> dict[str, NDArray[Any]]:
    """Sections of an image, views of ``data``, once hash, signature and structure are checked.

    Raises:
        ArtifactError: No image, another version, truncated or damaged.
    """
    buffer = memoryview(data)
    header = _header(buffer, where)
    end = len(buffer) - HASH_BYTES - (SIGNATURE.itemsize if header["flags"] & SIGNED else 0)
    table_end = HEADER.itemsize + int(header["sections"]) * SECTION.itemsize
    if end < table_end:
        raise damaged(where, "the section table runs past the end")
    if not hmac.compare_digest(sha256(buffer[:end]), buffer[end : end + HASH_BYTES]):
        raise damaged(where, "the SHA-256 does not fit the contents")
    if header["flags"] & SIGNED:
        _check_signature(buffer, end, where)
    return _sections(buffer, end, where)


def content_hash(data: Bytes) -> str:
    """SHA-256 that the image states of itself, hexadecimal; of checked data."""
    data = memoryview(data)
    end = len(data) - (SIGNATURE.itemsize if _header(data, "")["flags"] & SIGNED else 0)
    return data[end - HASH_BYTES : end].hex()


def signature(data: Bytes) -> np.void | None:
    """The signature's record; None of an unsigned image."""
    data = memoryview(data)
    if not _header(data, "")["flags"] & SIGNED:
        return None
    found: np.void = np.frombuffer(data, SIGNATURE, 1, len(data) - SIGNATURE.itemsize)[0]
    return found


def damaged(where: str, what: str) -> ArtifactError:
    """The error of an image that is not as it was written."""
    return ArtifactError(f"the image is damaged: {what}", where=where, fix="export or copy it again")


def _header(data: memoryview, where: str) -> np.void:
    if len(data) < HEADER.itemsize or data[: len(IMAGE_MAGIC)] != IMAGE_MAGIC:
        fix = "make one with `cimc export M.cim --chip T -o M.cimg`"
        raise ArtifactError("not an inference-chip image", where=where, fix=fix)
    header: np.void = np.frombuffer(data, HEADER, 1)[0]
    version = int(header["version_major"]), int(header["version_minor"])
    if version != VERSION:
        raise ArtifactError(
            f"image format version {version[0]}.{version[1]}, this cimc reads {VERSION[0]}.{VERSION[1]}",
            where=where,
            fix="export it again with this version",
        )
    if header["file_bytes"] != len(data):
        raise damaged(where, f"{len(data)} bytes, its header says {header['file_bytes']}")
    front = header.copy()
    front["crc32"] = 0
    if zlib.crc32(data[HEADER.itemsize : HEADER.itemsize + _TABLE_BYTES], zlib.crc32(front.tobytes())) != header["crc32"]:
        raise damaged(where, "the CRC-32 of its header does not fit")
    fixed = (header["header_bytes"], header["sections"], header["alignment"], header["flags"] & ~np.uint32(SIGNED))
    if fixed != (HEADER.itemsize, len(SECTIONS), ALIGN, 0) or header["reserved"].any():
        raise damaged(where, "its header is not that of this version")
    return header


def _check_signature(data: memoryview, end: int, where: str) -> None:
    record = np.frombuffer(data, SIGNATURE, 1, end + HASH_BYTES)[0]
    if record["crc32"] != zlib.crc32(record.tobytes()[:96]) or record["reserved"].any():
        raise damaged(where, "the signature's CRC-32 does not fit")
    from cimc.image.sign import check

    check(record, bytes(data[end : end + HASH_BYTES]), where)


def _sections(data: memoryview, end: int, where: str) -> dict[str, NDArray[Any]]:
    table = np.frombuffer(data, SECTION, len(SECTIONS), HEADER.itemsize)
    at = aligned(HEADER.itemsize + table.nbytes)
    found: dict[str, NDArray[Any]] = {}
    for entry, (tag, (record, _)) in zip(table, SECTIONS.items(), strict=True):
        size, records = int(entry["bytes"]), int(entry["records"])
        right = entry["tag"].tobytes() == tag.encode() and entry["record_bytes"] == record.itemsize and entry["offset"] == at
        if not right or records * record.itemsize != size or at + aligned(size) > end:
            raise damaged(where, f"section {tag} is not where it must be")
        if crc32(data[at : at + size]) != entry["crc32"]:
            raise damaged(where, f"the CRC-32 of section {tag} does not fit")
        found[tag] = np.frombuffer(data, record, records, at)
        if any(data[at + size : at + aligned(size)]):
            raise damaged(where, f"there is something behind section {tag}")
        at += aligned(size)
    if at != end:
        raise damaged(where, "bytes that belong to no section")
    return found
