"""Write-verify: the pulses of a train by hand, and what it promises about where devices land."""

import numpy as np
import pytest

from cimc.errors import TargetError
from cimc.runtime.write import Writer, device_seed
from cimc.targets.load import load_target

EXACT = {
    "start_v": 1.5, "stop_v": 3.0, "step_v": 0.1, "set_us": 1.0, "reset_us": 0.25, "doubling_v": None, "cycle_spread": 0.0,
    "device_spread": 0.0, "verify_sigma_us": 0.0, "tolerance_us": 1.0, "trials": 5, "training_trials": 2,
}  # fmt: skip


def made(start_us, training=True, chip="bulk-rram", **changes):
    start = np.array(start_us, np.float32)
    target = load_target(chip, {f"device.write_verify.{k}": v for k, v in (EXACT | changes).items()})
    return Writer(target, start, np.zeros(start.size, np.uint32), device_seed(3, "fc"), training=training, kind="write_verify")


def test_a_device_in_tolerance_is_read_once_and_left():
    w = made([20.5, 19.0, 21.0])
    done = w.program(np.arange(3), np.full(3, 20, np.float32))
    assert w.g_us.tolist() == [20.5, 19, 21]
    assert (done.pulses.tolist(), done.reads.tolist(), done.trials.tolist()) == ([0] * 3, [1] * 3, [0] * 3)
    assert done.success.all()


def test_set_until_above_then_reset_into_tolerance():
    w = made([10.0])
    done = w.program(np.array([0]), np.float32([20]))
    # SET of 1 µS from 10: the 12th read is above 21. RESET of 0.25 from 22: the fourth is not.
    assert w.g_us.tolist() == [21.0]
    assert done.pulses.tolist() == [12 + 4]
    # the first look, and one more at the start of each train
    assert done.reads.tolist() == [1 + 13 + 5]
    assert (done.trials.tolist(), done.success.tolist()) == ([1], [True])


def test_a_device_above_needs_no_set_pulse():
    w = made([24.0])
    assert w.program(np.array([0]), np.float32([20])).pulses.tolist() == [12]
    assert w.g_us.tolist() == [21.0]


def test_steps_double_along_the_train():
    w = made([8.0], doubling_v=0.1, set_us=0.5, reset_us=4.0, tolerance_us=4.0)
    done = w.program(np.array([0]), np.float32([30]))
    # 0.5 + 1 + 2 + 4 + 8 + 16 = 31.5 above 8; then 4 and 8 down from 39.5, the train of RESET beginning anew
    assert w.g_us.tolist() == [27.5]
    assert done.pulses.tolist() == [6 + 2]


def test_over_reset_goes_back_to_set_until_the_trials_are_used_up():
    w = made([10.0], set_us=15.0, reset_us=8.0)
    # 10 -> 25 -> 17: over-reset; 17 -> 32 -> 24 -> 16: again
    done = w.program(np.array([0]), np.float32([20]))
    assert w.g_us.tolist() == [16.0]
    assert (done.trials.tolist(), done.success.tolist()) == ([2], [False])
    longer = made([10.0], training=False, set_us=15.0, reset_us=8.0)
    # a third: 16 -> 31 -> 23 -> 15; 15 -> 30 -> 22 -> 14; 14 -> 29 -> 21, in tolerance
    done = longer.program(np.array([0]), np.float32([20]))
    assert longer.g_us.tolist() == [21.0]
    assert (done.trials.tolist(), done.success.tolist()) == ([5], [True])


def test_a_train_ends_at_its_last_amplitude():
    w = made([8.0], set_us=0.5, training=False, trials=1)
    done = w.program(np.array([0]), np.float32([30]))
    assert w.g_us.tolist() == [16.0]  # 16 pulses of 1.5 to 3 V; RESET finds it below already
    assert done.pulses.tolist() == [16]
    assert not done.success.any()


@pytest.mark.parametrize("chip", ["bulk-rram", "bulk-rram-256"])
@pytest.mark.parametrize("training", [True, False])
def test_with_noise_free_reads_the_claimed_share_is_the_true_one(chip, training):
    target = load_target(chip, {"device.write_verify.verify_sigma_us": 0.0})
    n, rng, d = 4000, np.random.default_rng(0), target.device
    start, goal = (rng.uniform(d.g_min_us, d.g_max_us, n).astype(np.float32) for _ in range(2))
    w = Writer(target, start, np.zeros(n, np.uint32), 5, training=training, kind="write_verify")
    done, v = w.program(np.arange(n), goal), d.write_verify
    np.testing.assert_array_equal(done.success, np.abs(w.g_us - goal) <= np.float32(v.tolerance_us))
    assert done.trials.max() <= (v.training_trials if training else v.trials)
    assert done.pulses.max() <= 2 * 16 * done.trials.max()
    assert done.success.mean() > 0.95


def test_noisy_reads_widen_what_success_means_by_their_noise():
    n, sigma, tolerance = 20_000, 1.6, 4.1
    w = made(
        np.full(n, 12.0), chip="bulk-rram", set_us=4, reset_us=4, cycle_spread=0.3, tolerance_us=tolerance, verify_sigma_us=sigma
    )
    done = w.program(np.arange(n), np.full(n, 25, np.float32))
    error = np.abs(w.g_us[done.success] - 25)
    assert error.max() < tolerance + 6 * sigma
    assert 0 < (error > tolerance).mean() < 0.5


def test_more_trials_miss_less():
    changes = {"tolerance_us": 0.8, "set_us": 6.0, "reset_us": 3.0, "cycle_spread": 0.4}
    shares = [made(np.full(3000, 10.0), trials=t, training=False, **changes) for t in (1, 2, 5)]
    goals = np.full(3000, 25, np.float32)
    ok = [w.program(np.arange(3000), goals).success.mean() for w in shares]
    assert ok[0] + 0.05 < ok[1]
    assert ok[1] + 0.05 < ok[2]


def test_the_built_in_chip_lands_near_its_published_errors():
    """Mean +1.0, deviation 2.9 µS were measured; the assumed response must not tell another story."""
    target = load_target("bulk-rram")
    n, rng = 20_000, np.random.default_rng(1)
    start, goal = (rng.uniform(8.2, 32.9, n).astype(np.float32) for _ in range(2))
    w = Writer(target, start, np.zeros(n, np.uint32), 5, kind="write_verify")
    w.program(np.arange(n), goal)
    error = w.g_us - goal
    assert abs(error.mean() - 1.0) < 0.5
    assert abs(error.std() - 2.9) < 0.5


def test_costs_sum_pulses_and_reads_and_are_null_where_unknown():
    known = {"pulse_ns": 100, "verify_ns": 50, "pulse_energy_nj": 2, "verify_energy_nj": 1}
    done = made([10.0, 20.0], **known).write(np.arange(2), np.full(2, 20, np.float32))
    assert (done.devices, done.pulses, done.reads, done.trials, done.failed) == (2, 16, 20, 1, 0)
    assert (done.time_ns, done.energy_nj) == (16 * 100 + 20 * 50, 16 * 2 + 20)
    unknown = made([10.0]).write(np.arange(1), np.full(1, 20, np.float32))
    assert (unknown.time_ns, unknown.energy_nj) == (None, None)


def test_a_chip_without_a_pulse_response_is_refused_by_name():
    with pytest.raises(TargetError, match="start_v, stop_v") as caught:
        Writer(load_target("isaac"), np.zeros(1, np.float32), np.zeros(1, np.uint32), 0, kind="write_verify")
    assert "update.programming=gaussian" in str(caught.value)


def test_a_train_must_rise():
    with pytest.raises(TargetError, match="stop_v"):
        load_target("bulk-rram", {"device.write_verify.stop_v": 1.0})
