"""Settings: typed by their field, checked, and told from published figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import TargetError
from cimc.targets.description import field_table, figures_of
from cimc.targets.load import load_target

PATHS = [path for path in field_table() if path not in ("name", "description")]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("array.rows=128", 128),
        ("array.rows=null", None),
        ("array.rows=~", None),
        ("adc.saturation_share=1e-3", 1e-3),
        ("adc.saturation_share=0", 0.0),
        ("weights.rounded=true", True),
        ("dac.signed=offset", "offset"),
        ("input.range=-1,1", (-1.0, 1.0)),
        ("input.range=[-1, 0.5]", (-1.0, 0.5)),
        ("input.range=null", None),
        ("description=1e3", "1e3"),
        (" array.rows = 7 ", 7),
        ("name=a.b", "a.b"),
    ],
)
def test_a_setting_has_the_type_of_its_field(text, value):
    target = load_target("bulk-rram", [text])
    path = text.split("=")[0].strip()
    found = figures_of(target)[path]
    assert found == value
    assert type(found) is type(value)
    assert target.sources[path] == "set by the user"


def test_a_setting_changes_nothing_else():
    base, target = load_target("bulk-rram"), load_target("bulk-rram", ["array.rows=128"])
    changed = {path for path, value in figures_of(target).items() if value != figures_of(base)[path]}
    assert changed == {"array.rows"}
    assert target.sources | {"array.rows": base.sources["array.rows"]} == base.sources


def test_mappings_texts_and_sections_say_the_same():
    wanted = load_target("ideal", ["array.rows=128", "input.range=-1,1"])
    assert load_target("ideal", {"array.rows": 128, "input.range": (-1, 1)}) == wanted
    assert load_target("ideal", {"array": {"rows": 128}, "input": {"range": [-1.0, 1.0]}}) == wanted
    assert load_target("ideal", {"array.rows": "128", "input.range": "-1,1"}) == wanted
    assert load_target("ideal", {"array.rows": np.int64(128), "input.range": np.array([-1, 1])}) == wanted
    assert load_target(load_target("ideal"), {"array.rows": 128, "input.range": [-1, 1]}) == wanted


def test_the_last_of_two_settings_holds():
    assert load_target("ideal", ["array.rows=1", "array.rows=2"]).array.rows == 2


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 2**20), share=st.floats(0, 1, exclude_max=True), low=st.floats(-1e6, 0), width=st.floats(1, 1e6))
def test_numbers_survive_the_text(rows, share, low, width):
    texts = [f"array.rows={rows}", f"adc.saturation_share={share!r}", f"input.range={low!r},{low + width!r}"]
    target = load_target("ideal", texts)
    assert (target.array.rows, target.adc.saturation_share) == (rows, share)
    assert target.input.range == (low, low + width)


@settings(max_examples=50, deadline=None)
@given(path=st.sampled_from(PATHS), text=st.text(max_size=12))
def test_any_text_is_a_value_or_a_clear_error(path, text):
    try:
        target = load_target("bulk-rram", [f"{path}={text}"])
    except TargetError:  # any other error fails the test
        return
    assert target.sources[path] == "set by the user"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_any_setting_is_taken_or_refused_for_what_it_is(text):
    if text.partition("=")[0].strip() in field_table():
        return
    with pytest.raises(TargetError):
        load_target("ideal", [text])


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(max_value=0) | st.integers(min_value=2**20 + 1))
def test_numbers_out_of_bounds_are_refused(rows):
    with pytest.raises(TargetError, match=r"^--set array\.rows=.*: array\.rows must be at"):
        load_target("ideal", [f"array.rows={rows}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("array.rows", "not of the form"),
        ("=3", "not of the form"),
        ("array.rows=", "no value given"),
        ("array.rows=6.5", r"must be a whole number, not 6\.5"),
        ("array.rows=true", "must be a whole number, not true"),
        ("array.rows=many", "must be a whole number"),
        ("array.rows=[", "not valid YAML"),
        ("array.rows=!!python/name:os.system x", "not allowed"),
        ("array=3", "array is a section"),
        ("input.range=1,2,3", "too many entries"),
        ("input.range=1,0", "must rise"),
        ("input.range=nan,1", "must be a number"),
        ("weights.cells=2", "--set weights.cells=2: weights.cells above 1 needs weights.bits"),
        ("weights.bits=4", "hold 4 values, a weight of 4 bits needs 8"),
        ("sources=x", "no field 'sources'"),
    ],
)
def test_wrong_settings_are_refused(text, message):
    with pytest.raises(TargetError, match=message):
        load_target("bulk-rram", [text])


@pytest.mark.parametrize(
    ("path", "near"),
    [("rows", "array.rows"), ("aray.rows", "array.rows"), ("adc.bit", "adc.bits"), ("adc.noise", "adc.sigma_lsb")],
)
def test_an_unknown_field_gets_the_near_ones(path, near):
    with pytest.raises(TargetError) as caught:
        load_target("bulk-rram", [f"{path}=3"])
    assert path in caught.value.what
    assert near in caught.value.fix


def test_a_value_of_no_known_type_is_refused():
    with pytest.raises(TargetError, match=r"array\.rows must be a whole number"):
        load_target("ideal", {"array.rows": object()})
