"""Nothing but the file as it was written is read."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cimc
from cimc.errors import ArtifactError
from cimc.image.container import pack, unpack
from cimc.image.layout import HEADER, SECTION, SECTIONS
from cimc.image.reader import read_image
from tests.image.models import exact, network

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
    with pytest.raises(ArtifactError, match="not an inference-chip image"):
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
        ("STVE", "reads_at", 10**8, "self-test reads are missing"),
    ],
)
def test_a_well_hashed_image_with_wrong_contents_is_refused(data: bytes, tag: str, field: str, value: int, what: str) -> None:
    sections = {name: records.copy() for name, records in unpack(data, "test").items()}
    sections[tag][field][0] = value
    with pytest.raises(ArtifactError, match=what):
        read_image(pack(sections))


def test_a_description_that_cannot_be_read_is_refused(data: bytes) -> None:
    sections = {name: records.copy() for name, records in unpack(data, "test").items()}
    for text in (b"{", b'{"program": 5, "weights": {}}', b"[]", b"\xff\xfe"):
        with pytest.raises(ArtifactError, match="description cannot be read"):
            read_image(pack(sections | {"META": np.frombuffer(text, "u1")}))
