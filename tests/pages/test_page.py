"""The page as a file: nothing from outside, everything escaped, errors in words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest

import cimc
from cimc.errors import RunError
from cimc.pages import html
from cimc.pages.program import program_artefact
from tests.cli.conftest import cimc as command
from tests.cli.conftest import made, small_model

__all__ = ["made"]
HOSTILE = '<script>alert("x")</script><a href="https://host.invalid">' + "'&$%{x}" + "n" * 1000


class Read(HTMLParser):
    """Tags, attributes and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data


def hostile_program() -> cimc.Program:
    model = small_model(np.random.default_rng(0))
    for node in model.graph.node:
        node.name = HOSTILE + node.name
    model.graph.input[0].name = model.graph.node[0].input[0] = HOSTILE + "input"
    return cimc.compile(model, "bulk-rram")


def test_the_page_asks_no_host_for_anything(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    done = command("report", made / "small.cim", "-o", out, "--json")
    assert done.code == 0, done.err
    assert done.json["artefacts"][0]["sections"] == ["Model graph", "Arrays", "Cost", "Schedule", "Forecast", "Made from"]
    read = Read(out.read_text())
    for tag, attributes in read.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    policy = [a["content"] or "" for t, a in read.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0].startswith("default-src 'none'")
    assert "http" not in policy[0]
    assert "https://cdn" not in re.sub(r"<script>.*?</script>", "", out.read_text(), flags=re.S)


def test_names_of_the_model_stay_text() -> None:
    program = hostile_program()
    plain = program_artefact(cimc.compile(small_model(np.random.default_rng(0)), "bulk-rram"), "m.cim", "m")
    artefact = replace(program_artefact(program, HOSTILE, "m"), notes=(HOSTILE,))
    tags = [tag for tag, _ in Read(html.page(HOSTILE, [artefact])).tags]
    text = html.page("m", [replace(plain, notes=("note",))])
    assert [t for t in tags if t == "script"] == [t for t, _ in Read(text).tags if t == "script"]
    assert not any((a.get("href") or "").startswith("http") for _, a in Read(html.page(HOSTILE, [artefact])).tags)
    figures = json.loads(Read(html.page(HOSTILE, [artefact])).scripts[0])
    assert figures
    assert "<script" not in json.dumps(figures)
    assert "<a " not in json.dumps(figures)  # plotly.js would make it a link
    labels = figures[0]["layout"]["yaxis"]["ticktext"]
    assert all(len(label) < 200 for label in labels)


def test_the_same_file_gives_the_same_page(made: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        assert command("report", made / "small.cim", "-o", tmp_path / name).code == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("name", ["no.cim", "cut.cim", "empty.cim", "small.onnx", "."])
def test_what_is_no_artefact_is_refused_in_words(made: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "cut.cim").write_bytes((made / "small.cim").read_bytes()[:3000])
    (tmp_path / "empty.cim").write_bytes(b"")
    onnx.save(small_model(np.random.default_rng(0)), tmp_path / "small.onnx")
    done = command("report", tmp_path / name, "-o", tmp_path / "r.html")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert "try: " in done.err or "safetensors" in done.err
    assert not (tmp_path / "r.html").exists()


def test_without_the_library_one_line_says_what_to_install(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html, "find_spec", lambda name: None if name == "plotly" else True)
    with pytest.raises(RunError) as refused:
        html.need_plotly()
    assert "pip install 'cimc[report]'" in str(refused.value)
    done = command("report", made / "small.cim", "-o", tmp_path / "r.html")
    assert (done.code, (tmp_path / "r.html").exists()) == (1, False)


def test_a_page_does_not_replace_what_it_shows(made: Path) -> None:
    assert command("report", made / "small.cim", "-o", made / "small.cim").code == 2
