"""Sections whose class a kind chooses: built in, and those that a plugin brings."""

import json
from typing import Annotated, Literal

import jsonschema
import numpy as np
import pytest
from pydantic import Field, SerializeAsAny
from typer.testing import CliRunner

import cimc
from cimc.cli.targets import app
from cimc.errors import CimcError, TargetError
from cimc.image.goals import target_sha256
from cimc.targets import kinds
from cimc.targets.description import Target, field_table, figures_of, kinds_with, part_sections
from cimc.targets.device import Device
from cimc.targets.load import load_target
from cimc.targets.programming_sections import PolynomialProgramming, Programming, ProgrammingSection
from cimc.targets.reference import fields
from cimc.targets.schema import json_schema
from cimc.targets.time_sections import PowerLawDrift

POLYNOMIAL = {"device.programming.kind": "polynomial", "device.programming.sigma_coefficients_us": [0.2, 1.5]}


class Lognormal:
    """A programming model with a parameter of its own."""

    class Section(ProgrammingSection):
        kind: Literal["lognormal"] = "lognormal"
        spread: float = Field(0.1, ge=0, le=10, description="Deviation of the logarithm.")
        mean_us: float = 0.0
        sigma_us: float = Field(0.0, description="Typical deviation.")


class Flux:
    """A whole device with a parameter of its own."""

    class Section(Device):
        kind: Literal["flux"] = "flux"
        loops: int = Field(3, ge=1, description="Loops of the device.")


@pytest.fixture
def plugins():
    cimc.register("programming", "lognormal", Lognormal)
    cimc.register_device(Flux, "flux")
    yield
    for part in kinds._registered.values():
        part.clear()
    for forget in kinds._listeners:
        forget()


def test_a_kind_has_fields_of_its_own_and_drops_those_that_it_has_not():
    target = load_target("bulk-rram", POLYNOMIAL)
    assert isinstance(target.device.programming, PolynomialProgramming)
    figures = figures_of(target)
    assert figures["device.programming.sigma_coefficients_us"] == (0.2, 1.5)
    assert "device.programming.sigma_us" not in figures
    assert "device.programming.sigma_us" not in target.sources
    back = load_target(target, {"device.programming.kind": "gaussian"})
    assert back.device.programming == Programming()


def test_figures_of_another_kind_do_not_stand_for_fields_of_the_same_name(plugins):
    named = load_target("bulk-rram", {"device.programming.kind": "lognormal"})
    assert (named.device.programming.mean_us, named.device.programming.sigma_us) == (0.0, 0.0)  # bulk-rram has 1.0 and 2.9
    power = {"device.drift.kind": "power_law", "device.drift.t0_s": 20.0, "device.drift.compensation": "global"}
    relaxing = load_target(load_target("bulk-rram", power), {"device.drift.kind": "relaxation"})
    assert (relaxing.device.drift.t0_s, relaxing.device.drift.compensation) == (1.0, "global")
    assert load_target("bulk-rram", {"device.kind": "flux"}).device.g_max_us == 32.9


def test_a_file_that_extends_a_chip_chooses_another_kind(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: bulk-rram\n"
        "device:\n"
        "  programming: {kind: polynomial, unit_us: 25, sigma_coefficients_us: {value: [1, 2], source: wafer}}\n"
        "  drift: {kind: power_law, nu_mean: {polynomial: [0.05]}}\n"
    )
    target = load_target(path)
    assert target.device.programming.error_us([0, 25])[1].tolist() == [1, 3]
    assert target.sources["device.programming.sigma_coefficients_us"] == "wafer"
    assert isinstance(target.device.drift, PowerLawDrift)
    assert load_target(target, ["device.drift=null"]).device.drift is None


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({**POLYNOMIAL, "device.programming.sigma_us": 1.0}, r"sigma_us is no field of this kind"),
        ({"device.drift.t0_s": 3}, r"device\.drift\.kind is missing"),
        ({"device.drift": {}}, r"device\.drift\.kind is missing"),
        ({"device.drift.kind": "power_law", "device.drift.around": "goal"}, r"around is no field of this kind"),
        ({**POLYNOMIAL, "device.programming.sigma_coefficients_us": [1, "2"]}, r"must be a number"),
        ({**POLYNOMIAL, "device.programming.sigma_coefficients_us": []}, r"has too few entries"),
        ({"device.read_noise.kind": "flicker", "device.read_noise.t0_s": 1e-9}, r"t0_s 1e-09 must not lie below"),
        ({"device.programming.spread": 1}, r"there is no field"),
    ],
)
def test_what_does_not_suit_the_kind_is_refused(setting, said):
    with pytest.raises(TargetError, match=said):
        load_target("bulk-rram", setting)


def test_written_out_and_read_again():
    settings = POLYNOMIAL | {"device.read_noise.kind": "flicker", "device.read_noise.relative.polynomial": [0.01]}
    target = load_target("bulk-rram", settings)
    assert Target.model_validate_json(target.model_dump_json()) == target
    assert Target.model_validate(target.model_dump()) == target
    assert load_target(target) == target


def test_a_device_without_the_parts_is_written_as_before():
    assert {"drift", "read_noise"}.isdisjoint(load_target("bulk-rram").model_dump()["device"])
    drifting = {"device.drift.kind": "power_law"}
    assert target_sha256(load_target("bulk-rram")) != target_sha256(load_target("bulk-rram", drifting))


@pytest.mark.parametrize(
    "settings",
    [
        {"device.drift.kind": "power_law"},
        {"device.read_noise.kind": "flicker"},
        {"device.programming.kind": "polynomial"},
        {"device.kind": "flux"},
        {"device.programming.kind": "lognormal"},
    ],
)
def test_a_chip_with_a_part_of_its_own_is_not_ideal(settings, plugins):
    assert load_target("ideal").is_ideal
    assert not load_target("ideal", settings).is_ideal


def test_a_plugins_section_is_as_the_built_in_ones(plugins, tmp_path):
    target = load_target("bulk-rram", ["device.programming.kind=lognormal", "device.programming.spread=0.3", "device.kind=flux"])
    assert (target.device.programming.spread, target.device.loops) == (0.3, 3)
    assert target.sources["device.programming.spread"] == "set by the user"
    assert Target.model_validate_json(target.model_dump_json()) == target
    with pytest.raises(TargetError, match=r"device\.loops must be at least 1"):
        load_target(target, ["device.loops=0"])
    assert kinds_with("device.programming.spread") == ("lognormal",)
    assert "(flux) Loops of the device." in {field.description for field in fields()}
    path = tmp_path / "mine.yaml"
    path.write_text("extends: bulk-rram\ndevice: {kind: flux, loops: {value: 5, source: sheet}}\n")
    runner = CliRunner()
    assert json.loads(runner.invoke(app, ["validate", str(path), "--json"]).stdout)["figures_without_source"] == []
    shown = json.loads(runner.invoke(app, ["show", str(path), "--json"]).stdout)["figures"]
    assert shown["device.loops"] == {"value": 5, "unit": None, "source": "sheet"}


def test_the_part_of_a_section_does_not_follow_from_its_name(plugins):
    class Erased:
        class Section(Device):
            kind: Literal["erased"] = "erased"
            erasure: Annotated[ProgrammingSection, kinds.ByKind("programming"), SerializeAsAny()] = Programming()

    cimc.register_device(Erased, "erased")
    assert part_sections()["device.erasure"] == "programming"
    settings = {"device.kind": "erased", "device.erasure.kind": "lognormal", "device.erasure.spread": 0.3}
    assert load_target("bulk-rram", settings).device.erasure.spread == 0.3


def test_the_schema_has_every_kind(plugins):
    validator = jsonschema.Draft202012Validator(json_schema())
    good = [
        {"device": {"programming": {"kind": "polynomial", "sigma_coefficients_us": {"value": [1.0], "source": "x"}}}},
        {"device": {"programming": {"kind": "lognormal", "spread": 0.2}}},
        {"device": {"kind": "flux", "loops": 4}},
        {"device": {"drift": {"kind": "power_law", "nu_mean": {"log": {"value": 0.1, "source": "x"}}}}},
        {"device": {"drift": None}},
    ]
    bad = [
        {"device": {"programming": {"kind": "polynomial", "spread": 1}}},
        {"device": {"drift": {"kind": "power_law", "nu_mean": {"logs": 1}}}},
        {"device": {"kind": "flux", "loops": 0}},
    ]
    assert [validator.is_valid(document) for document in good] == [True] * len(good)
    assert [validator.is_valid(document) for document in bad] == [False] * len(bad)


def test_fields_are_forgotten_with_the_plugin():
    assert "device.loops" not in field_table()


def test_what_is_no_kind_is_refused():
    class NoSection:
        pass

    with pytest.raises(CimcError, match="no part 'colour'"):
        cimc.register("colour", "red", Lognormal)
    with pytest.raises(CimcError, match="built-in kind"):
        cimc.register("programming", "gaussian", Lognormal)
    with pytest.raises(CimcError, match="no subclass of DriftSection"):
        cimc.register("drift", "mine", NoSection)
    with pytest.raises(CimcError, match="kind is None, it must be a string"):
        cimc.register_device(NoSection)


def test_typical_figures_are_those_over_the_measured_range():
    section = PolynomialProgramming(unit_us=25, mean_coefficients_us=(1, 2), sigma_coefficients_us=(3.0,))
    assert section.mean_us == pytest.approx(2)
    assert section.sigma_us == pytest.approx(3)
    mean, sigma = PolynomialProgramming(sigma_coefficients_us=(1.0, -1.0)).error_us(np.array([0.5, 2.0]))
    assert (mean.tolist(), sigma.tolist()) == ([0, 0], [0.5, 0])  # no deviation is below 0
