"""Tables on screens of many widths: nothing is lost, and names that differ look different."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cimc
from cimc.cli.app import app
from cimc.cli.common import print_table

ROOT = Path(__file__).parents[2]
LONG = tuple(f"encoder.layers.{n}.self_attn.out_proj/MatMul" for n in (0, 1))
COLUMNS = ("layer", "rows", "crossbars", "latency ms", "why")
ROWS = [(name, 123456 + n, 12, 1.532e-05, "its weight is computed at run time") for n, name in enumerate(LONG)]


def shown(capsys, monkeypatch, width: int, rows=ROWS) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table("layers of a model", COLUMNS, rows)
    return re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)


def explained() -> set[str]:
    """First cells of the tables on the page of tables."""
    page = (ROOT / "docs" / "tables.md").read_text("utf-8")
    names = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("|")]
    return {name for cell in names for name in (cell, *cell.split(", "))}


def literal_heads() -> Iterator[str]:
    """Heads of the tables that commands print, as far as the code has them as literals."""
    for file in (ROOT / "cimc" / "cli").glob("*.py"):
        for function in (part for part in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(part, ast.FunctionDef)):
            named: dict[str, ast.expr] = {}
            for part in ast.walk(function):
                if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name):
                    named.setdefault(part.targets[0].id, part.value)
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "print_table":
                    heads = named.get(call.args[1].id) if isinstance(call.args[1], ast.Name) else call.args[1]
                    if isinstance(heads, ast.Tuple | ast.List):
                        yield from (part.value for part in heads.elts if isinstance(part, ast.Constant))


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


def test_the_page_of_tables_explains_every_row_and_column_of_inspect(tmp_path) -> None:
    cimc.compile(ROOT / "examples" / "lenet_mnist" / "lenet.onnx", "bulk-rram").save(tmp_path / "m.cim")
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "m.cim"), "--copies", "conv1=2", "--nodes"])
    heads = []
    for table in done.stdout.split("┏")[1:]:
        lines = [line.strip("┃").split("┃") for line in table.splitlines() if line.startswith("┃")]
        heads += [" ".join(part.strip() for part in parts).strip() for parts in zip(*lines, strict=True)]
    cost = done.stdout.partition("cost of an image")[2].partition("└")[0]
    rows = [line.strip("│").split("│")[0].strip() for line in cost.splitlines() if line.startswith("│")]
    assert {word for word in (*heads, *rows) if word and word != "value"} <= explained()


def test_the_page_of_tables_explains_the_columns_of_every_command() -> None:
    heads = set(literal_heads()) - {"", "value"}
    assert len(heads) > 40
    assert heads <= explained()
