"""The page in a real browser. `make test-browser` installs what this needs; without it these tests are skipped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cimc.pages.compare import comparison
from cimc.pages.html import page
from cimc.pages.population import population_artefact
from cimc.pages.program import program_artefact
from cimc.pages.report import read_artefact
from cimc.pages.training import history_section
from tests.cli.conftest import made
from tests.pages.test_page import HOSTILE, hostile_program
from tests.pages.test_results_pages import population

__all__ = ["made"]

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: make test-browser")
BROWSER, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
AXE = os.environ.get("CIMC_AXE")
if BROWSER is None or DRIVER is None:
    pytest.skip("no chromium with chromedriver: apt-get install chromium chromium-driver", allow_module_level=True)

DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all kinds of figures, and names of bad intent."""
    model = read_artefact(made / "small.cim", "m0", data=made / "data.npz")
    rows = [{"epoch": k, "loss": 1 / k, "validation_loss": 2 / k, "accuracy": 0.5, "updates": 9 - k} for k in range(1, 5)]
    history = history_section(rows)
    assert history is not None
    run = replace(population_artefact(population(), "dice.json"), sections=[history])
    bad = program_artefact(hostile_program(), HOSTILE, "m2")
    artefacts = [model, run, bad, population_artefact(population(6), "sweep.json")]
    path = tmp_path_factory.mktemp("page") / "r.html"
    path.write_text(page("A report", artefacts, comparison(artefacts)))
    return path


def show(browser: Any, file: Path, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme(browser, dark)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(file.as_uri())


def scheme(browser: Any, dark: bool) -> None:
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def draw_all(browser: Any) -> int:
    """Scroll through the page, so that each chart is drawn; the number of charts."""
    script = """const done = arguments[0]; const plots = [...document.querySelectorAll(".plot")];
      (async () => { for (const one of plots) { one.scrollIntoView();
        while (!one.querySelector(".main-svg")) await new Promise((r) => setTimeout(r, 20)); } scrollTo(0, 0); done(plots.length);
      })();"""
    return int(browser.execute_async_script(script))


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_it_renders_without_errors_and_without_a_request(browser: Any, file: Path, size: tuple[int, int]) -> None:
    show(browser, file, size)
    assert draw_all(browser) > 10
    assert browser.find_element("css selector", "h1").text == "A report"
    wide = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1]
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert urls
    assert all(url.startswith(("file:", "data:", "blob:")) for url in urls)


def test_a_column_sorts_both_ways(browser: Any, file: Path) -> None:
    show(browser, file)
    table = browser.find_element("xpath", "//table[caption[starts-with(., 'Cost of one image, by layer')]]")
    head = table.find_element("xpath", ".//th[button='operations']")
    values = "return [...arguments[0].tBodies[0].rows].map((row) => Number(row.cells[arguments[1]].dataset.v))"
    at = browser.execute_script("return arguments[0].cellIndex", head)
    for direction, reverse in (("ascending", False), ("descending", True)):
        browser.execute_script("arguments[0].querySelector('button').focus()", head)
        browser.switch_to.active_element.send_keys("\ue007")  # Enter
        assert head.get_attribute("aria-sort") == direction
        found = browser.execute_script(values, table, at)
        assert found == sorted(found, reverse=reverse)
        assert len(set(found)) > 1


def test_an_array_opens_by_keyboard(browser: Any, file: Path) -> None:
    show(browser, file)
    link = browser.find_element("css selector", "a[data-opens]")
    assert "Show its conductances" in link.find_element("css selector", "title").get_attribute("textContent")
    browser.execute_script("arguments[0].focus()", link)
    link.send_keys("\ue007")
    dialog = browser.find_element("css selector", "dialog[open]")
    image = dialog.find_element("css selector", "img")
    assert image.is_displayed()
    assert browser.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image) == [64, 64]
    assert "devices" in image.get_attribute("alt")
    browser.switch_to.active_element.send_keys("\ue00c")  # Escape
    assert browser.find_elements("css selector", "dialog[open]") == []
    assert browser.execute_script("return document.activeElement === arguments[0]", link)


def test_charts_follow_the_mode_of_the_system(browser: Any, file: Path) -> None:
    show(browser, file)
    draw_all(browser)
    read = """return [getComputedStyle(document.body).backgroundColor,
      getComputedStyle(document.querySelector('.plot .xtick text')).fill]"""
    light = browser.execute_script(read)
    scheme(browser, True)
    browser.execute_async_script("const done = arguments[0]; setTimeout(done, 500)")
    dark = browser.execute_script(read)
    assert dark[0] != light[0]
    assert dark[1] != light[1]


def test_names_of_bad_intent_do_nothing(browser: Any, file: Path) -> None:
    show(browser, file)
    draw_all(browser)
    links = browser.execute_script("return [...document.querySelectorAll('a')].map((a) => a.getAttribute('href'))")
    assert all(link.startswith("#") for link in links)
    assert browser.execute_script("return document.querySelectorAll('script').length") == 3


@pytest.mark.skipif(AXE is None, reason="CIMC_AXE names no axe.min.js: make test-browser")
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_barrier(browser: Any, file: Path, size: tuple[int, int], dark: bool) -> None:
    show(browser, file, size, dark)
    draw_all(browser)
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    browser.execute_script(Path(str(AXE)).read_text("utf-8"))
    found = browser.execute_async_script("const done = arguments[0]; axe.run(document).then((r) => done(r.violations))")
    told = [f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]} ({len(one['nodes'])})" for one in found]
    assert told == []
