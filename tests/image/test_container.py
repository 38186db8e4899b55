"""Nothing but the file as it was written is read."""

from __future__ import annotations

import hashlib
import json
import re
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cimc
from cimc.errors import ArtifactError, CimcError
from cimc.image.check import verify_image
from cimc.image.container import HASH_BYTES, pack, unpack
from cimc.image.info import describe
from cimc.image.layout import HEADER, SECTION, SECTIONS
from cimc.image.reader import read_image
from tests.image.models import exact, inputs, network

FLIPS, CUTS = 8000, 3000


@pytest.fixture(scope="module")
def data() -> bytes:
    return cimc.export_image(cimc.compile(network(), exact())).data


def refused(data: bytes) -> bool:
    try:
        read_image(data)
    except ArtifactError:
        return True
    return False


def test_every_flipped_bit_is_refused(data: bytes) -> None:
    front = 8 * (HEADER.itemsize + SECTION.itemsize * len(SECTIONS))  # all of these, the rest by chance
    bits = [*range(front), *np.random.default_rng(0).integers(front, 8 * len(data), FLIPS).tolist(), 8 * len(data) - 1]
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(bytes(damaged)), f"bit {bit % 8} of byte {bit // 8}"
        damaged[bit // 8] ^= 1 << bit % 8
    assert not refused(bytes(damaged))


def test_every_truncation_is_refused(data: bytes) -> None:
    ends = {*range(700), len(data) - 1, *np.random.default_rng(1).integers(0, len(data), CUTS).tolist()}
    assert all(refused(data[:end]) for end in ends)


def test_bytes_after_the_end_are_refused(data: bytes) -> None:
    assert refused(data + b"\0")
    assert refused(data + b"\xff" * 64)


def test_another_version_is_named(data: bytes) -> None:
    for at, name in ((8, "2.0"), (10, "1.2")):
        other = bytearray(data)
        other[at] = 2
        with pytest.raises(ArtifactError, match=re.escape(f"version {name}, this cimc reads 1.0")):
            read_image(bytes(other))


def test_a_file_of_another_kind_is_named(tmp_path: Any) -> None:
    cimc.compile(network(), exact()).save(tmp_path / "m.cim")
    with pytest.raises(ArtifactError, match="not a chip image"):
        cimc.load_image(tmp_path / "m.cim")
    with pytest.raises(ArtifactError, match="cannot read"):
        cimc.load_image(tmp_path / "none.cimg")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_sections_come_back_as_they_went_in(draw: Any) -> None:
    sections = {}
    for tag, (record, _) in SECTIONS.items():
        raw = draw.draw(arrays.arrays(np.uint8, record.itemsize * draw.draw(st.integers(0, 5))))
        sections[tag] = raw.view(record)
    found = unpack(pack(sections), "test")
    assert all(found[tag].tobytes() == sections[tag].tobytes() for tag in SECTIONS)


def test_sections_are_aligned_and_little_endian(data: bytes) -> None:
    table = np.frombuffer(data, SECTION, len(SECTIONS), HEADER.itemsize)
    assert (table["offset"] % 64 == 0).all()
    assert int.from_bytes(data[16:24], "little") == len(data)


@pytest.mark.parametrize(
    ("tag", "field", "value", "what"),
    [
        ("SEGM", "tile_index", 99, "a segment belongs nowhere"),
        ("SEGM", "chip", 7, "is on another tile than it says"),
        ("SEGM", "rows_at", 10**6, "rows lie outside LINE"),
        ("SEGM", "first_column", 500, "no part of its matrix"),
        ("TILE", "first_cell", 10**9, "a tile lies outside the cells"),
        ("CELL", "use", 77, "unknown use"),
        ("CELL", "code", 5, "the CRC-32 of tile 0"),
        ("NAME", "offset", 10**6, "a name lies outside"),
        ("INST", "opcode", 1000, "unknown instruction"),
        ("LAYR", "copies", 10**9, "has other segments"),
        ("LAYR", "rows", 3, "has another shape"),
        ("LAYR", "copies", 0, "has other segments"),
        ("LAYR", "first_segment", 1, "a layer lies outside the segments"),
        ("SEGM", "layer", 1, "a segment belongs nowhere"),
        ("SEGM", "copy", 3, "is of another copy"),
        ("SEGM", "row_slice", 1, "is there twice"),
        ("SEGM", "height", 3, "no part of its matrix"),
        ("SEGM", "unit_column", 3, "has its unit column elsewhere"),
        ("TILE", "step_s", 1.0, "another scale of conductances"),
        ("TILE", "rows", 2**31, "a tile lies outside the cells"),
        ("LINE", None, 1, "has a line twice"),
        ("LINE", None, 99, "leaves its tile"),
        ("STVE", "inputs", 3, "has another size"),
        ("STVE", "reads_at", 10**8, "self-test reads are missing"),
        ("STVE", "phases", 0, "a self-test without phases"),
    ],
)
def test_a_well_hashed_image_with_wrong_contents_is_refused(
    data: bytes, tag: str, field: str | None, value: float, what: str
) -> None:
    sections = {name: records.copy() for name, records in unpack(data, "test").items()}
    if field is None:
        sections[tag][0] = value
    else:
        sections[tag][field][0] = value
    with pytest.raises(ArtifactError, match=what):
        read_image(pack(sections))


def test_a_description_that_cannot_be_read_is_refused(data: bytes) -> None:
    sections = {name: records.copy() for name, records in unpack(data, "test").items()}
    for text in (b"{", b'{"program": 5, "weights": {}}', b"[]", b"\xff\xfe", b"[" * 10**6, b'{"program":' * 10**5):
        with pytest.raises(ArtifactError, match="description cannot be read"):
            read_image(pack(sections | {"META": np.frombuffer(text, "u1")}))


def crafted(data: bytes, change: Any) -> bytes:
    """The image with another header or section table, and checksums and hash that fit it."""
    made = bytearray(data)
    header = np.frombuffer(made, HEADER, 1)
    table = np.frombuffer(made, SECTION, len(SECTIONS), HEADER.itemsize)
    change(made, header, table)
    header["crc32"] = 0
    header["crc32"] = zlib.crc32(header.tobytes() + table.tobytes())
    made[-32:] = hashlib.sha256(made[:-32]).digest()
    return bytes(made)


def swapped(made: Any, header: Any, table: Any) -> None:
    table[[3, 4]] = table[[4, 3]]


def overlapping(made: Any, header: Any, table: Any) -> None:
    table["offset"][9] = table["offset"][8]


def set_field(number: int, name: str, value: int) -> Any:
    def change(made: Any, header: Any, table: Any) -> None:
        table[name][number] = value

    return change


def set_header(name: str, value: int) -> Any:
    def change(made: Any, header: Any, table: Any) -> None:
        header[name] = value

    return change


def filled_gap(made: Any, header: Any, table: Any) -> None:
    end = int(table["offset"][1] + table["bytes"][1])
    assert end % 64
    made[end] = 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (swapped, "section TEXT is not where"),
        (overlapping, "section CELL is not where"),
        (set_field(9, "bytes", 2**63), "section CELL is not where"),
        (set_field(9, "bytes", 2**64 - 16), "section CELL is not where"),
        (set_field(17, "bytes", 2**40), "section TENS is not where"),
        (set_field(9, "records", 2**32 - 1), "section CELL is not where"),
        (set_field(9, "record_bytes", 0), "section CELL is not where"),
        (set_field(0, "offset", 2**64 - 64), "section IDEN is not where"),
        (set_field(4, "tag", 65), "section LAYR is not where"),
        (filled_gap, "something behind section META"),
        (set_header("file_bytes", 2**63), "its header says"),
        (set_header("sections", 2**31), "not that of this version"),
        (set_header("alignment", 1), "not that of this version"),
        (set_header("flags", 2), "not that of this version"),
        (set_header("flags", 1), "SHA-256 does not fit"),
        (set_header("header_bytes", 0), "not that of this version"),
    ],
)
def test_a_crafted_file_with_a_right_hash_is_refused(data: bytes, change: Any, what: str) -> None:
    assert not refused(crafted(data, lambda made, header, table: None))
    with pytest.raises(ArtifactError, match=what):
        read_image(crafted(data, change))


#: What a hostile hand may put into a description.
STRANGE = (0, -1, 2**31, 2**62, 10**30, 1e308, float("nan"), True, None, "", "x", [], {}, [0], [2**40, 2**40])


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if not isinstance(value, dict | list):
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    return [path, *(found for key, child in inner for found in leaves(child, (*path, key)))]


def used(image: Any) -> None:
    """All that is done with an image."""
    describe(image)
    verify_image(image)
    image.program(error_free=True).run(inputs(images=2), 0)


def survives(data: bytes) -> bool:
    """Refused with an error for people at some point; anything else, and more than 64 MB, is a failure of the test."""
    tracemalloc.reset_peak()
    try:
        used(read_image(data))
    except CimcError:
        return False
    finally:
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    return True


@pytest.fixture
def traced() -> Any:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def test_hostile_descriptions_end_in_an_error_for_people(data: bytes, traced: Any) -> None:
    sections = unpack(data, "test")
    meta = json.loads(sections["META"].tobytes())
    paths = [path for path in leaves(meta) if path and path[:2] != ("program", "provenance") and "placements" not in path]
    random = np.random.default_rng(5)
    refusals = 0
    for k in random.permutation(len(paths))[:150]:
        other = json.loads(json.dumps(meta))
        *way, last = paths[k]
        place = other
        for key in way:
            place = place[key]
        place[last] = STRANGE[int(random.integers(len(STRANGE)))]
        made = pack({**sections, "META": np.frombuffer(json.dumps(other).encode(), "u1")})
        refusals += not survives(made)
    assert refusals > 75


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_hostile_records_end_in_an_error_for_people(data: bytes, traced: Any) -> None:
    sections = unpack(data, "test")
    tags = [tag for tag, (record, _) in SECTIONS.items() if record.names and len(sections[tag])]
    random = np.random.default_rng(6)
    for _ in range(100):
        tag = tags[int(random.integers(len(tags)))]
        records = sections[tag].copy()
        field = (records.dtype.names or ())[int(random.integers(len(records.dtype.names or ())))]
        cell = records[field][int(random.integers(len(records)))]
        raw = np.atleast_1d(cell).copy().view("u1")
        raw[...] = random.choice([0, 1, 127, 128, 255], raw.size)
        records[field][int(random.integers(len(records)))] = raw.view(np.atleast_1d(cell).dtype).reshape(np.shape(cell))
        made = {**sections, tag: records}
        if tag == "CELL":
            tiles = made["TILE"] = sections["TILE"].copy()
            for tile in tiles:
                first = int(tile["first_cell"])
                tile["crc32"] = zlib.crc32(records[first : first + int(tile["rows"]) * int(tile["columns"])].tobytes())
        survives(pack(made))


def test_a_section_whose_crc_does_not_fit_is_refused(data: bytes) -> None:
    buffer = bytearray(data)
    head, entry = HEADER.itemsize, HEADER.itemsize + 2 * SECTION.itemsize
    buffer[entry + SECTION.fields["crc32"][1]] ^= 1
    at = HEADER.fields["crc32"][1]
    buffer[at : at + 4] = bytes(4)
    front = zlib.crc32(buffer[: head + len(SECTIONS) * SECTION.itemsize])
    buffer[at : at + 4] = front.to_bytes(4, "little")
    end = len(buffer) - HASH_BYTES
    buffer[end:] = hashlib.sha256(buffer[:end]).digest()
    with pytest.raises(ArtifactError, match="CRC-32 of section NAME"):
        unpack(bytes(buffer), "image")
