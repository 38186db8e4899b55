"""Programmers: the contract, where cells end, and that whatever is written goes through the chosen one."""

from __future__ import annotations

import numpy as np
import pytest

import cimc
from cimc.errors import CimcError, TargetError
from cimc.runtime.programmers.blind_pulses import BlindPulses
from cimc.runtime.programmers.direct import Direct
from cimc.runtime.programmers.write_verify import WriteVerify
from cimc.runtime.write import Writer, writer
from cimc.targets.load import load_target
from cimc.targets.programmer_sections import BlindWrites, DirectWrites, VerifiedWrites
from cimc.testing import check_programmer
from tests.training.small import chip, data, trainer

X, Y = data(32)
BLIND = {"programmer.kind": "blind_pulses"}
QUIET = {"device.pulse.cycle_spread": None, "device.pulse.device_spread": None}
BUILT_IN = [(Direct, DirectWrites), (WriteVerify, VerifiedWrites), (BlindPulses, BlindWrites)]


@pytest.mark.parametrize(("model", "section"), BUILT_IN)
def test_built_in_programmers_hold_the_contract(model, section):
    check_programmer(type(model.__name__, (model,), {"Section": section}))


class Meddler(Direct):
    Section = DirectWrites

    def program(self, cells, devices, goal_us, training):
        done = super().program(cells, devices, goal_us, training)
        cells.g_us[devices] = goal_us
        return done


class Careless(Direct):
    Section = DirectWrites

    def program(self, cells, devices, goal_us, training):
        cells.model.write(cells.state, devices, goal_us, 0.0, cells.keys_of(devices))
        return super().program(cells, devices[:0], goal_us[:0], training)


class Odd(Direct):
    Section = DirectWrites

    def program(self, cells, devices, goal_us, training):
        done = super().program(cells, devices, goal_us, training)
        cells.g_us[devices[0]] += np.float32(devices.size)
        return done


@pytest.mark.parametrize(
    ("model", "said"), [(Meddler, "stuck|without the device model"), (Careless, "devices is 0"), (Odd, "order")]
)
def test_what_breaks_the_contract_is_named(model, said):
    with pytest.raises(AssertionError, match=said):
        check_programmer(model)


def test_blind_pulses_land_where_the_mean_steps_lead():
    """Without spreads each count of pulses leads to one conductance; a goal is missed by at most half the step there."""
    target = load_target("bulk-rram", BLIND | QUIET)
    d = target.device
    goals = np.linspace(d.g_min_us, d.g_max_us, 500, dtype=np.float32)
    w = Writer(target, goals[::-1].copy(), np.zeros(500, np.uint32), 3)
    done = w.program(np.arange(500), goals)
    half, middle = (d.g_max_us - d.g_min_us) / 2, (d.g_max_us + d.g_min_us) / 2
    step = d.pulse.up_us * (half - (goals - middle)) / half
    end = 0.02 * 2 * half
    assert (np.abs(w.g_us - goals) <= step + 1.02 * end).all()  # counts are whole at either end
    assert (np.diff(done.pulses) >= 0).all()
    assert (w.writes == done.pulses).all()
    spread = Writer(load_target("bulk-rram", BLIND), goals[::-1].copy(), np.zeros(500, np.uint32), 3)
    spread.program(np.arange(500), goals)
    assert np.abs(spread.g_us - goals).mean() > np.abs(w.g_us - goals).mean()


def test_blind_pulses_cost_what_a_pulse_costs():
    target = load_target("bulk-rram", BLIND | {"device.pulse.pulse_ns": 50.0, "device.pulse.pulse_energy_nj": 2.0})
    w = Writer(target, np.full(4, 20, np.float32), np.zeros(4, np.uint32), 3)
    done = w.write(np.arange(4), np.float32([10, 15, 20, 25]))
    assert done.time_ns == done.pulses * 50
    assert done.energy_nj == done.pulses * 2
    with pytest.raises(TargetError, match=r"device.pulse.up_us"):
        writer(load_target("isaac", BLIND), np.zeros(1, np.float32), np.zeros(1, np.uint32), 3)
    with pytest.raises(TargetError, match="pulses one way"):
        writer(load_target("bulk-rram", BLIND | {"device.pulse.up_us": 1e-4}), np.zeros(1, np.float32), np.zeros(1, np.uint32), 3)


@pytest.mark.parametrize("kind", ["direct", "write_verify", "blind_pulses"])
def test_a_section_chooses_the_programmer_everywhere(kind):
    """Chip, training and die write by it: their devices have the errors of that programmer, not those of another."""
    settings = {
        "programmer.kind": kind,
        "device.programming.sigma_us": 0.0,
        "device.programming.mean_us": 0.0,
        "device.born_us": None,
    }
    target, exact = load_target("bulk-rram", settings), kind == "direct"
    c = chip(**settings)
    goals = chip(**settings | {"programmer.kind": "direct"}).conductances("Gemm_0")
    assert np.array_equal(c.conductances("Gemm_0"), goals) == exact
    t = trainer(c, threshold=0.0, init="weights")
    t.step(X[:16], Y[:16])
    done = t.cost()["writes"]
    assert (done["pulses"] is None) == exact
    assert (done["verify_reads"] is None) == (kind != "write_verify")
    die = cimc.export_image(chip("bulk-rram"), target=target).program(seed=1)
    assert die.programming.method == {"direct": "gaussian"}.get(kind, kind)
    assert (die.programming.layers["Gemm_0"].pulses is None) == exact


def test_the_older_setting_and_the_section_must_agree():
    assert load_target("bulk-rram").chosen_programmer == DirectWrites()
    assert load_target("bulk-rram", {"update.programming": "write_verify"}).chosen_programmer == VerifiedWrites()
    both = {"update.programming": "write_verify", "programmer.kind": "write_verify"}
    assert load_target("bulk-rram", both).chosen_programmer.kind == "write_verify"
    with pytest.raises(TargetError, match=r"update.programming=write_verify is not programmer.kind=direct"):
        load_target("bulk-rram", {"update.programming": "write_verify", "programmer.kind": "direct"})
    with pytest.raises(TargetError, match="programmer"):
        load_target("bulk-rram", {"programmer.kind": "magic"})


def test_an_exact_chip_with_another_programmer_is_not_ideal():
    """Otherwise its products would be those of weights that were never written."""
    verify = {"start_v": 1.0, "stop_v": 2.0, "step_v": 0.25, "set_us": 0.05, "reset_us": 0.02, "tolerance_us": 0.05, "trials": 5}
    settings = {f"device.write_verify.{name}": value for name, value in verify.items()}
    assert load_target("ideal", settings).is_ideal
    for chosen in ({"update.programming": "write_verify"}, {"programmer.kind": "write_verify"}):
        assert not load_target("ideal", settings | chosen).is_ideal


def test_an_unknown_way_of_programming_a_die_is_named():
    image = cimc.export_image(chip("bulk-rram"))
    with pytest.raises(CimcError, match="programming is 'magic', not one of: auto, gaussian, direct"):
        image.program(programming="magic")
