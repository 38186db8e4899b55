"""The format's description lists every field where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cimc.image.layout import HEADER, OPCODES, REGISTERS, SECTION, SECTIONS, SIGNATURE, USES, VERSION

TEXT = (Path(__file__).parents[2] / "docs" / "image-format.md").read_text()
RECORDS = {"Header": HEADER, "Section entry": SECTION, "Signature": SIGNATURE} | {
    tag: record for tag, (record, _) in SECTIONS.items()
}


@pytest.mark.parametrize("title", RECORDS)
def test_every_field_is_described(title: str) -> None:
    part = TEXT.split(f"### {title}\n")[1].split("\n### ")[0].split("\n## ")[0]
    listed = [tuple(cell.strip(" `") for cell in line.split("|")[1:4]) for line in part.splitlines() if line.startswith("| `")]
    described = []
    for name in RECORDS[title].names or ():
        kind, at = (RECORDS[title].fields or {})[name][:2]
        base, shape = kind.subdtype or (kind, ())
        described.append((name, f"{base.kind}{8 * base.itemsize}{''.join(f'[{n}]' for n in shape)}", str(at)))
    assert listed[: len(described)] == described
    assert described == [] or f"{RECORDS[title].itemsize} bytes" in part


def test_numbers_are_described() -> None:
    assert f"version {VERSION[0]}.{VERSION[1]}" in TEXT
    for number, name in enumerate(REGISTERS):
        assert f"| {number} | `{name}` |" in TEXT
    for name, number in OPCODES.items():
        assert f"| {number} | {name} |" in TEXT
    for number, name in enumerate(USES):
        assert f"| {number} {name} |" in TEXT
