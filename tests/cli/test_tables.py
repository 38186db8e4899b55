"""Tables on screens of many widths: nothing is lost, and names that differ look different."""

from __future__ import annotations

import re
import sys

import pytest

from cimc.cli.common import print_table

LONG = tuple(f"encoder.layers.{n}.self_attn.out_proj/MatMul" for n in (0, 1))
COLUMNS = ("layer", "rows", "crossbars", "latency ms", "why")
ROWS = [(name, 123456 + n, 12, 1.532e-05, "its weight is computed at run time") for n, name in enumerate(LONG)]


def shown(capsys, monkeypatch, width: int, rows=ROWS) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table("layers of a model", COLUMNS, rows)
    return re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)


def cells(text: str) -> list[str]:
    """The text of each column of a table, folded lines joined; of paragraphs, all text."""
    lines = [line for line in text.splitlines() if line.startswith("│")]
    if not lines:
        return ["".join(text.split())]
    return ["".join("".join(line.strip("│").split("│")[n].split()) for line in lines) for n in range(len(COLUMNS))]


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_no_text_is_cut_at_any_width(capsys, monkeypatch, width: int) -> None:
    text = shown(capsys, monkeypatch, width)
    assert all(len(line) <= width for line in text.splitlines())
    found = "".join(cells(text))
    for row in ROWS:
        assert row[0] in found
        assert f"{row[1]}" in found
        assert "itsweightiscomputedatruntime" in found


def test_figures_stay_on_one_line(capsys, monkeypatch) -> None:
    text = shown(capsys, monkeypatch, 80)
    assert "123456" in text
    assert "123457" in text
    assert text.count("1.532e-05") == 2


def test_without_rows_the_heads_are_shown(capsys, monkeypatch) -> None:
    assert "crossbars" in shown(capsys, monkeypatch, 120, [])
