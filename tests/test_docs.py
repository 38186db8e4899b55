"""The site of docs/ builds without a warning and asks no other host for anything; commands in the guides exist."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cimc

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "docs" / folder) for folder in ("", "figures", "site")]

from check_commands import written, wrong  # noqa: E402
from check_offline import remote  # noqa: E402
from draw import HERE, diagrams  # noqa: E402
from lists import widened  # noqa: E402


def _run(*words: str) -> str:
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_site_is_whole_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    # One test, as each process that runs tests would build the site anew.
    _run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    _run("docs/check_offline.py", str(tmp_path))
    _has_every_command_and_name(tmp_path)
    _has_equations(tmp_path)


def _has_every_command_and_name(site: Path) -> None:
    commands, api = (site / "commands.html").read_text("utf-8"), (site / "api.html").read_text("utf-8")
    for name in ("cimc-compile", "cimc-image-verify", "cimc-device-fit"):
        assert f'id="{name}"' in commands
    assert "--calibration" in commands
    for name in cimc.__all__:
        if name not in {"__version__", "backend", "datasets", "torch"}:
            assert f'id="cimc{name.lower()}"' in api
    assert 'id="cimccompilercompile_model"' in api
    assert 'id="cimctorchload_back"' in api  # with and without PyTorch


def _has_equations(site: Path) -> None:
    page = (site / "concepts" / "arrays.html").read_text("utf-8")
    assert page.count("<math") > 20
    assert not re.search(r"arithmatex|\\frac|\\sum", page)


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://a.org/x.js"></script>',
        '<link rel="preconnect" href="https://a.org">',
        '<img src="//a.org/x.png">',
        "<style>@import 'https://a.org/x.css';</style>",
        '<p style="background: url(https://a.org/x.png)">',
    ],
)
def test_a_load_from_another_host_is_found(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    assert remote(tmp_path / "page.html")


def test_links_to_follow_by_hand_are_no_loads(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('<a href="https://a.org">x</a><link rel="canonical" href="https://a.org">')
    assert remote(tmp_path / "page.html") == []


def test_commands_of_the_guides_exist() -> None:
    _run("docs/check_commands.py", "README.md", "CONTRIBUTING.md", "docs", "examples")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cimc frob x", "cimc has no command frob"),
        ("cimc image nope x", "cimc image has no command nope"),
        ("cimc compile a.onnx --wat 3", "cimc compile has no option --wat"),
        ("cimc compile a.onnx --set device.drift=-1 > out.txt", None),
        ("cimc evaluate ... --chips 3 | head", None),
        ("cimc COMMAND --help", None),
    ],
)
def test_a_wrong_command_is_told(line: str, said: str | None) -> None:
    assert wrong(line) == said


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    text = "`cimc run a` and\n```console\n$ cimc compile b \\\n  --json\nout: cimc c\n```\n```python\ncimc = 1\n```\n"
    assert list(written(text)) == ["cimc compile b    --json", "cimc run a"]


@pytest.mark.parametrize("name", diagrams())
def test_diagrams_are_current(name: str) -> None:
    assert (HERE / name).read_text("utf-8") == str(diagrams()[name]), "run: python docs/figures/draw.py"


@pytest.mark.parametrize("plot", ["lenet", "resnet"])
def test_plots_show_the_figures_of_their_page(plot: str) -> None:
    data = json.loads((HERE / "results.json").read_text("utf-8"))[plot]
    page = (ROOT / data["page"]).read_text("utf-8")
    assert data["command"] in page
    rows = [setting["seeds_percent"] for setting in data.get("settings", []) if isinstance(setting, dict)]
    rows += [row for target in data.get("targets", []) for row in target["median_low_high_percent"]]
    assert rows
    for first, *others in rows:
        # "(a, b, c)" of seeds, or "median (low to high)".
        assert f"({', '.join([first, *others])})" in page or f"{first} ({' to '.join(others)})" in page


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_python_of_the_guides_parses(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        ast.parse(block)


def test_list_items_are_indented_as_the_site_wants_them() -> None:
    assert widened("- a\n  b\n\n  c\n- d\ne\n  f") == "- a\n    b\n\n    c\n\n- d\ne\n  f"
    assert widened("1. a\n\n   ```\n   b\n   ```\n") == "1. a\n\n    ```\n    b\n    ```\n"
    assert widened("```\n- a\n  b\n```") == "```\n- a\n  b\n```"
