"""The container: header, section table, aligned sections, SHA-256 over all before it, and a signature if there is one.

A file is refused unless every byte is accounted for: sections follow each other in their fixed order, gaps are zero.
"""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cimc.errors import ArtifactError
from cimc.image.layout import ALIGN, HEADER, MAGIC, SECTION, SECTIONS, SIGNATURE, SIGNED, VERSION

Sections = Mapping[str, NDArray[Any]]
HASH_BYTES = 32
_TABLE_BYTES = len(SECTIONS) * SECTION.itemsize


def aligned(size: int) -> int:
    """``size`` rounded up to the alignment of sections."""
    return -(-size // ALIGN) * ALIGN


def pack(sections: Sections, signer: Any = None) -> bytes:
    """The bytes of an image.

    Args:
        sections: All of `SECTIONS`, arrays of their records.
        signer: From `cimc.image.sign.signer`, or None.
    """
    table = np.zeros(len(SECTIONS), SECTION)
    parts, at = [], aligned(HEADER.itemsize + table.nbytes)
    for entry, (tag, (record, _)) in zip(table, SECTIONS.items(), strict=True):
        content = np.ascontiguousarray(sections[tag], record).tobytes()
        entry["tag"], entry["record_bytes"] = np.frombuffer(tag.encode(), "u1"), record.itemsize
        entry["offset"], entry["bytes"], entry["records"] = at, len(content), len(content) // record.itemsize
        entry["crc32"] = zlib.crc32(content)
        parts += [content, bytes(aligned(len(content)) - len(content))]
        at += aligned(len(content))
    header = np.zeros(1, HEADER)
    header["magic"], header["header_bytes"] = np.frombuffer(MAGIC, "u1"), HEADER.itemsize
    header["version_major"], header["version_minor"] = VERSION
    header["sections"], header["alignment"], header["flags"] = len(table), ALIGN, SIGNED if signer else 0
    header["file_bytes"] = at + HASH_BYTES + (SIGNATURE.itemsize if signer else 0)
    front = header.tobytes() + table.tobytes()
    header["crc32"] = zlib.crc32(front)
    front = header.tobytes() + table.tobytes()
    body = b"".join([front, bytes(aligned(len(front)) - len(front)), *parts])
    digest = hashlib.sha256(body).digest()
    return body + digest + (signer(digest) if signer else b"")


def unpack(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Sections of an image, read-only views of ``data``, once hash, signature and structure are checked.

    Raises:
        ArtifactError: No image, another version, truncated or damaged.
    """
    header = _header(data, where)
    end = len(data) - HASH_BYTES - (SIGNATURE.itemsize if header["flags"] & SIGNED else 0)
    table_end = HEADER.itemsize + int(header["sections"]) * SECTION.itemsize
    if end < table_end:
        raise damaged(where, "the section table runs past the end")
    if not hmac.compare_digest(hashlib.sha256(memoryview(data)[:end]).digest(), data[end : end + HASH_BYTES]):
        raise damaged(where, "the SHA-256 does not fit the contents")
    if header["flags"] & SIGNED:
        _check_signature(data, end, where)
    return _sections(data, end, where)


def content_hash(data: bytes) -> str:
    """SHA-256 that the image states of itself, hexadecimal; of checked data."""
    end = len(data) - (SIGNATURE.itemsize if _header(data, "")["flags"] & SIGNED else 0)
    return data[end - HASH_BYTES : end].hex()


def signature(data: bytes) -> np.void | None:
    """The signature's record; None of an unsigned image."""
    if not _header(data, "")["flags"] & SIGNED:
        return None
    found: np.void = np.frombuffer(data, SIGNATURE, 1, len(data) - SIGNATURE.itemsize)[0]
    return found


def damaged(where: str, what: str) -> ArtifactError:
    """The error of an image that is not as it was written."""
    return ArtifactError(f"the image is damaged: {what}", where=where, fix="export or copy it again")


def _header(data: bytes, where: str) -> np.void:
    if len(data) < HEADER.itemsize or data[: len(MAGIC)] != MAGIC:
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


def _check_signature(data: bytes, end: int, where: str) -> None:
    record = np.frombuffer(data, SIGNATURE, 1, end + HASH_BYTES)[0]
    if record["crc32"] != zlib.crc32(record.tobytes()[:96]) or record["reserved"].any():
        raise damaged(where, "the signature's CRC-32 does not fit")
    from cimc.image.sign import check

    check(record, data[end : end + HASH_BYTES], where)


def _sections(data: bytes, end: int, where: str) -> dict[str, NDArray[Any]]:
    table = np.frombuffer(data, SECTION, len(SECTIONS), HEADER.itemsize)
    at = aligned(HEADER.itemsize + table.nbytes)
    found: dict[str, NDArray[Any]] = {}
    for entry, (tag, (record, _)) in zip(table, SECTIONS.items(), strict=True):
        size, records = int(entry["bytes"]), int(entry["records"])
        right = entry["tag"].tobytes() == tag.encode() and entry["record_bytes"] == record.itemsize and entry["offset"] == at
        if not right or records * record.itemsize != size or at + size > end:
            raise damaged(where, f"section {tag} is not where it must be")
        found[tag] = np.frombuffer(data, record, records, at)
        at += aligned(size)
    if at != end:
        raise damaged(where, "bytes that belong to no section")
    return found
