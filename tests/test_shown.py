"""What users hold shows itself in one short line, and in a notebook as HTML that holds nothing but its own text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

import cimc
from cimc.shown import Shown
from cimc.tuning.bench import Measured
from cimc.tuning.candidate import Candidate
from cimc.tuning.costs import Cost
from cimc.tuning.trace import Trial
from cimc.tuning.tune import Tuned
from tests.training import small


@pytest.fixture(scope="module")
def things() -> dict[str, Any]:
    x, y = small.data(48)
    chip = small.chip(seed=3)
    program = chip.program
    found = {
        "Program": program,
        "Chip": chip,
        "Population": cimc.evaluate(program, x, y, chips=3),
        "Image": cimc.export_image(program),
        "Budget": cimc.explain(program, x, y, samples=8),
        "Tuned": _tuned(program),
        "History": small.trainer(small.chip()).fit(x, y, epochs=2),
    }
    return {**found, "Die": found["Image"].program(seed=1)}


def _tuned(program: cimc.Program) -> Tuned:
    """As of a search of one trial."""
    measured = Measured((0.5, 0.75), 0.9, 0.8, 48)
    trial = Trial("column scales", Candidate(), measured, Cost(3, 0.5, 0.25), 20.0, True)
    return Tuned(program, trial, measured, measured, (trial,), (trial,), False, "time limit", ())


class Reader(HTMLParser):
    """Tags, attributes and text of a page; every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[Any] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert not reader.open
    return reader


@pytest.mark.parametrize("name", ["Program", "Chip", "Population", "Image", "History", "Budget", "Tuned", "Die"])
def test_a_line_and_a_table(name: str, things: dict[str, Any]) -> None:
    thing = things[name]
    assert repr(thing) == str(thing)
    assert repr(thing).startswith(f"{name}(")
    assert "\n" not in repr(thing)
    assert len(repr(thing)) < 400
    page = read(thing._repr_html_())
    assert set(page.tags) <= {"b", "table", "tr", "th", "td"}
    assert not page.attributes
    assert name in page.text


def test_figures_are_those_of_the_object(things: dict[str, Any]) -> None:
    population, history = things["Population"], things["History"]
    assert f"median accuracy={population.quantiles()[0]['median']:.4g}" in repr(population)
    budget, tuned = things["Budget"], things["Tuned"]
    assert f"accuracy lost={budget.total.accuracy_lost:.4g}" in repr(budget)
    assert budget.causes[0].cause in read(budget._repr_html_()).text
    assert "points lost=17.5" in repr(tuned)
    assert {"column scales", "0.5", "0.25"} <= set(read(tuned._repr_html_()).text.split("\n"))
    assert f"loss={history.last['loss']:.4g}" in repr(history)
    assert "seed=3" in repr(things["Chip"])
    assert "x float32[N, 1, 6, 6]" in repr(things["Program"])
    assert all(layer.name in read(things["Program"]._repr_html_()).text for layer in things["Program"].layers)


def test_text_of_a_model_is_escaped() -> None:
    class Named(Shown):
        def _facts(self) -> dict[str, object]:
            return {"<b>": "<script src='//x'>\n&", "none": None, "long": "y" * 500}

        def _rows(self) -> Any:
            return ("<i>",), [("</table><img src=x>",)]

    page = read(Named()._repr_html_())
    assert set(page.tags) == {"b", "table", "tr", "th", "td"}
    assert "<script src='//x'> &" in page.text
    assert "none" not in page.text
    assert "\n" not in repr(Named())
    assert len(repr(Named())) < 200
