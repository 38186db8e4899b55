"""Pictures of a device and of a fit: their figures, and a page that needs nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

import cimc
from cimc.errors import RunError
from cimc.report import page
from cimc.report.device_pictures import Simulated, pictures_of_device
from cimc.report.fit_pictures import pictures_of_fit
from cimc.report.pictures import Line, Picture
from cimc.targets.load import load_target
from tests.characterisation.measured import programming
from tests.cli.conftest import cimc as command


def names(pictures: list[Picture]) -> list[str]:
    return [picture.title for picture in pictures]


def test_pictures_show_what_the_target_describes():
    assert names(pictures_of_device(load_target("ideal"))) == ["Level distributions", "Programming error"]
    assert names(pictures_of_device(load_target("bulk-rram")))[2:] == ["Read noise", "Blind pulses"]
    pictures = {picture.title: picture for picture in pictures_of_device(load_target("neurram"))}
    mean, deviation = pictures["Programming error"].lines
    x = deviation.x / 40
    published = 0.348 + 16.030 * x - 43.853 * x**2 + 45.393 * x**3 - 16.815 * x**4
    whole = deviation.x > 5 * published  # others are cut at 0
    assert whole.sum() > 5
    assert (np.abs(deviation.y - published)[whole] < 5 * published[whole] / np.sqrt(8000)).all()
    assert (np.abs(mean.y)[whole] < 5 * published[whole] / np.sqrt(4000)).all()
    for line in pictures["Drift"].lines:
        assert (line.low <= line.y).all()
        assert (line.y <= line.high).all()


def test_statistics_of_a_level():
    level = Simulated(load_target("bulk-rram")).level(20.0)
    assert abs(level.mean_us - 21.0) < 5 * 2.9 / np.sqrt(4000)
    assert abs(level.sigma_us - 2.9) < 5 * 2.9 / np.sqrt(8000)
    assert level.read_sigma_us == pytest.approx(1.6)
    assert (level.day_mean_us, level.day_sigma_us) == (level.mean_us, level.sigma_us)


def test_that_a_chip_writes_by_pulses_is_said():
    pulses = ("--set", "programmer.kind=blind_pulses")
    assert "blind_pulses" in command("device", "show", "bulk-rram", *pulses).err
    assert "direct" not in command("device", "show", "bulk-rram").err


def test_pulses_follow_soft_bounds():
    target = load_target("bulk-rram", {"device.pulse.cycle_spread": None, "device.pulse.device_spread": None})
    (picture,) = [one for one in pictures_of_device(target) if one.title == "Blind pulses"]
    (line,) = picture.lines
    half = (32.9 - 8.2) / 2
    up = 8.2 + 2 * half * (1 - (1 - 0.25 / half) ** line.x)  # each pulse takes the same share of what is left
    count = line.x.size // 2
    np.testing.assert_allclose(line.y[: count + 1], up[: count + 1], rtol=1e-3)


def test_a_page_needs_nothing_else_and_is_the_same_again():
    pytest.importorskip("matplotlib")
    band = Line("a < b", np.arange(3.0), np.ones(3), np.zeros(3), 2 * np.ones(3))
    points = Line("points", np.arange(1.0, 4), np.ones(3), np.zeros(3), 2 * np.ones(3), points=True)
    pictures = [Picture("A & B", "x", "y", [band, points], "<script>"), Picture("C", "x", "y", [points], log_x=True)]
    text = page.html_page("t <b>", pictures, ["a note & more"], (["name"], [["<x>"]]))
    assert text == page.html_page("t <b>", pictures, ["a note & more"], (["name"], [["<x>"]]))
    assert "<script" not in text
    assert not re.search(r'(src|href)="(?!#)', text)
    assert not re.search(r"url\((?!#)|@import", text)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2
    used = [set(re.findall(r'(?:href="|url\()#(\w+)', one)) for one in drawings]
    assert used[0]
    assert not used[0] & used[1]
    for one in drawings:
        ElementTree.fromstring(one)


def test_without_matplotlib_one_is_told_what_to_install_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="matplotlib") as error:
        page.html_page("t", [])
    assert "cimc[report]" in str(error.value)
    done = command("device", "show", "ideal", "-o", tmp_path / "p.html", "--json")
    assert (done.code, done.json["error"]["fix"]) == (1, "pip install 'cimc[report]'")
    assert not (tmp_path / "p.html").exists()
    assert command("device", "show", "ideal").code == 0  # a table needs no plots


def test_a_fit_is_drawn_beside_what_was_measured(tmp_path):
    pytest.importorskip("matplotlib")
    data = programming(tmp_path / "p.csv", np.random.default_rng(1), lambda g: 0.5 + g / 20)
    fit = cimc.fit_device(data)
    assert names(pictures_of_fit(fit)) == [
        "Programming error, mean",
        "Programming error, deviation",
        "Residuals: programming error",
    ]
    measured, curve = pictures_of_fit(fit)[1].lines
    assert (np.abs(np.interp(measured.x, curve.x, curve.y) - measured.y) < measured.high - measured.low).all()
    done = command("device", "fit", data, "-o", tmp_path / "mine.yaml", "--plot", tmp_path / "fit.html")
    assert done.code == 0, done.err
    text = (tmp_path / "fit.html").read_text("utf-8")
    assert "Residuals: programming error" in text
    assert "p.csv, 540 rows, 60 devices" in text
    shown = command("device", "show", tmp_path / "mine.yaml", "-o", tmp_path / "mine.html", "--json")
    assert len(shown.json["levels"]) == 5
    assert (tmp_path / "mine.html").read_text("utf-8").count("<svg") == 2
    assert command("device", "show", tmp_path / "mine.yaml", "-o", tmp_path / "mine.yaml").code == 2
