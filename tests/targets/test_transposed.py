"""A transposed read: a section that a chip may lack, given as a whole or figure by figure."""

import jsonschema
import pytest
import yaml

from cimc.errors import TargetError
from cimc.targets.description import Target, Transposed, figures_of
from cimc.targets.load import available_targets, load_target
from cimc.targets.schema import json_schema
from cimc.targets.transposed import transposed_target


@pytest.mark.parametrize("name", [name for name, origin in available_targets().items() if origin == "built in"])
def test_no_built_in_chip_has_one(name):
    target = load_target(name)
    assert target.array.transposed is None
    with pytest.raises(TargetError, match="no transposed read") as caught:
        transposed_target(target)
    assert "--backward digital" in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (["array.transposed={}"], {}),
        (["array.transposed.dac_bits=8"], {"dac_bits": 8}),
        (["array.transposed={dac_bits: 4, adc_bits: 5}"], {"dac_bits": 4, "adc_bits": 5}),
        (["array.transposed={}", "array.transposed.adc_bits=6"], {"adc_bits": 6}),
        (["array.transposed.adc_bits=6", "array.transposed={}"], {}),
        (["array.transposed={adc_bits: 6}", "array.transposed.dac_bits=3"], {"adc_bits": 6, "dac_bits": 3}),
        (["array.transposed=null", "array.transposed.adc_bits=6"], {"adc_bits": 6}),
        ({"array": {"transposed": {}}}, {}),
        ({"array.transposed": {"range_ua": 3}}, {"range_ua": 3.0}),
    ],
    ids=str,
)
def test_settings_describe_it(settings, found):
    target = load_target("bulk-rram", settings)
    assert target.array.transposed == Transposed(**found)
    assert figures_of(load_target(target)) == figures_of(target)
    assert load_target(target, ["array.transposed=null"]).array.transposed is None
    for name in found:
        assert target.sources[f"array.transposed.{name}"] == "set by the user"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("array.transposed=3", "must be a section"),
        ("array.transposed={bits: 3}", r"no field 'array.transposed.bits'"),
        ("array.transposed.dac_bits=17", "at most 16"),
        ("array.transposed.adc_bits=0", "at least 1"),
    ],
)
def test_what_is_wrong_is_said(setting, message):
    with pytest.raises(TargetError, match=message):
        load_target("bulk-rram", [setting])


def test_a_word_line_cannot_weigh_bit_slices():
    with pytest.raises(TargetError, match=r"array\.transposed needs weights\.cells=1"):
        load_target("isaac", ["array.transposed={}"])


def test_files_give_it_with_sources_and_take_it_back(tmp_path):
    (tmp_path / "base.yaml").write_text(
        "extends: bulk-rram\narray:\n  transposed:\n    dac_bits: {value: 6, source: data sheet}\n    adc_bits: 9\n"
    )
    (tmp_path / "none.yaml").write_text('extends: base.yaml\narray:\n  transposed: {value: null, source: "cut, to save area"}\n')
    (tmp_path / "plain.yaml").write_text("extends: base.yaml\narray: {transposed: {}}\n")
    (tmp_path / "more.yaml").write_text("extends: none.yaml\narray: {transposed: {sigma_lsb: 1.5}}\n")
    base, none, plain, more = (load_target(tmp_path / f"{name}.yaml") for name in ("base", "none", "plain", "more"))
    assert base.array.transposed == Transposed(dac_bits=6, adc_bits=9)
    assert base.sources["array.transposed.dac_bits"] == "data sheet"
    assert none.array.transposed is None
    assert plain.array.transposed == Transposed()
    assert more.array.transposed == Transposed(sigma_lsb=1.5)
    validator = jsonschema.Draft202012Validator(json_schema())
    for path in tmp_path.glob("*.yaml"):
        validator.validate(yaml.safe_load(path.read_text()))


def test_a_chip_without_one_is_written_as_before_there_was_the_field():
    target = load_target("bulk-rram")
    assert "transposed" not in target.model_dump()["array"]
    assert not any("transposed" in path for path in figures_of(target))
    assert "transposed" not in target.model_dump_json()
    assert Target.model_validate_json(target.model_dump_json()) == target


def test_a_chip_that_has_one_shows_its_figures_and_comes_back_from_json():
    target = load_target("bulk-rram", ["array.transposed.range_ua=12"])
    figures = figures_of(target)
    assert figures["array.transposed.range_ua"] == 12
    assert figures["array.transposed.dac_bits"] is None
    assert Target.model_validate_json(target.model_dump_json()) == target


def test_what_is_null_is_as_the_forward_read():
    forward = load_target("bulk-rram-256", ["dac.signed=offset"])
    same = transposed_target(load_target(forward, ["array.transposed={}"]))
    assert (same.dac.bits, same.adc.bits, same.adc.sigma_lsb) == (8, 8, 2.0)
    assert same.timing == forward.timing
    # The range of the word lines' converters is another matter, and inputs always come in two phases.
    assert (same.adc.range_ua, same.dac.signed, same.adc.conversion) == (None, "two_phase", "integrated")
    read = {"dac_bits": 5, "adc_bits": 6, "sigma_lsb": 0.0, "range_ua": 9.0, "tile_op_ns": 100.0, "tile_op_energy_nj": 1.0}
    own = transposed_target(load_target(forward, {"array.transposed": read}))
    assert (own.dac.bits, own.adc.bits, own.adc.sigma_lsb, own.adc.range_ua) == (5, 6, 0.0, 9.0)
    assert (own.timing.tile_op_ns, own.timing.tile_op_energy_nj) == (100.0, 1.0)


def test_the_ideal_chip_stays_ideal_with_a_read_that_rounds_nothing():
    assert load_target("ideal", ["array.transposed={}"]).is_ideal
    assert not load_target("ideal", ["array.transposed.dac_bits=8"]).is_ideal
    assert not load_target("ideal", ["array.transposed.adc_bits=8"]).is_ideal
