"""An image in the forms that flashing tools take: raw SPI flash, Intel HEX, and a C header with the bytes and their structs.

The raw form is the image itself, filled with 0xFF (erased flash) to whole sectors; the image's header says where it ends.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

from cimc.errors import CimcError
from cimc.image.layout import HEADER, OPCODES, REGISTERS, SECTION, SECTIONS, SIGNATURE, USES, VERSION
from cimc.ir.kinds import IMAGE_MAGIC

SECTOR_BYTES = 4096
FORMS = {"bin": ".bin", "hex": ".hex", "c": ".h"}

_C_TYPES = {"u1": "uint8_t", "u2": "uint16_t", "u4": "uint32_t", "u8": "uint64_t", "i4": "int32_t", "f4": "float", "f8": "double"}


def flash(data: bytes, form: str) -> bytes:
    """The image's bytes in one of `FORMS`; raises CimcError as `check_form` does."""
    check_form(form)
    if form == "bin":
        return sectors(data)
    return intel_hex(data) if form == "hex" else c_header(data).encode()


def check_form(form: str) -> None:
    """Refuse what cannot be made.

    Raises:
        CimcError: An unknown form, or ``hex`` without the package intelhex.
    """
    if form not in FORMS:
        raise CimcError(f"no flash form {form}", where="--flash", fix=f"one of {', '.join(FORMS)}")
    if form == "hex" and find_spec("intelhex") is None:
        raise CimcError("Intel HEX needs the package intelhex", where="--flash hex", fix="pip install 'cimc[flash]'")


def sectors(data: bytes) -> bytes:
    """The image in whole sectors of SPI flash."""
    return data + b"\xff" * (-len(data) % SECTOR_BYTES)


def intel_hex(data: bytes) -> bytes:
    """Intel HEX with 32-bit addresses, from address 0."""
    from intelhex import IntelHex

    made: Any = IntelHex()
    made.frombytes(data)
    text = io.StringIO()
    made.write_hex_file(text)
    return text.getvalue().encode()


def c_header(data: bytes | None = None) -> str:
    """Structs, enumerations, and, where ``data`` is given, the image as an array."""
    return "\n".join([*_prologue(), *_structs(), *_array(data), "#endif", ""])


def _prologue() -> Iterator[str]:
    version = f"{VERSION[0]}.{VERSION[1]}"
    yield f"/* Inference-chip image, format version {version}: little-endian, packed; see docs/image-format.md. Made by cimc. */"
    yield "#ifndef CIMG_H"
    yield "#define CIMG_H"
    yield "#include <assert.h>"
    yield "#include <stddef.h>"
    yield "#include <stdint.h>"
    yield ""
    yield f"#define CIMG_VERSION_MAJOR {VERSION[0]}u"
    yield f"#define CIMG_VERSION_MINOR {VERSION[1]}u"
    yield f"#define CIMG_SECTIONS {len(SECTIONS)}u"
    yield "#define CIMG_HASH_BYTES 32u"
    yield "#define CIMG_SIGNED 1u"
    yield "#define CIMG_NONE 0xFFFFFFFFu"
    yield "#define CIMG_NO_LOW INT32_MIN"
    yield "#define CIMG_NO_HIGH INT32_MAX"
    yield f"static const uint8_t cimg_magic[8] = {{{', '.join(f'0x{byte:02x}' for byte in IMAGE_MAGIC)}}};"
    yield ""
    for word, names in (("section", list(SECTIONS)), ("use", USES), ("opcode", list(OPCODES)), ("register", REGISTERS)):
        yield f"enum cimg_{word} {{"
        yield from (f"    CIMG_{word.upper()}_{name.upper().replace('.', '_')}," for name in names)
        yield "};"
    yield ""


def _structs() -> Iterator[str]:
    records = {"header": HEADER, "section_entry": SECTION, "signature": SIGNATURE}
    records |= {name: record for record, name in SECTIONS.values() if record.names}
    yield "#pragma pack(push, 1)"
    for name, record in records.items():
        yield f"struct cimg_{name} {{"
        yield from (f"    {_member(record, field)};" for field in record.names or ())
        yield "};"
        yield f'static_assert(sizeof(struct cimg_{name}) == {record.itemsize}, "cimg_{name}");'
        for field in record.names or ():
            offset = _fields(record)[field][1]
            yield f'static_assert(offsetof(struct cimg_{name}, {field}) == {offset}, "cimg_{name}.{field}");'
        yield ""
    yield "#pragma pack(pop)"
    yield ""


def _fields(record: np.dtype[Any]) -> dict[str, Any]:
    return dict(record.fields or {})


def _member(record: np.dtype[Any], field: str) -> str:
    kind = _fields(record)[field][0]
    base, shape = kind.subdtype or (kind, ())
    return f"{_C_TYPES[base.str[1:]]} {field}{''.join(f'[{n}]' for n in shape)}"


def _array(data: bytes | None) -> Iterator[str]:
    if data is None:
        return
    yield f"#define CIMG_IMAGE_BYTES {len(data)}u"
    yield "static _Alignas(64) const uint8_t cimg_image[CIMG_IMAGE_BYTES] = {"
    yield from (",".join(map(str, data[at : at + 32])) + "," for at in range(0, len(data), 32))
    yield "};"
    yield ""
