"""The threshold rule against a plain rewriting of the paper's algorithm, and its invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cimc.errors import CimcError
from cimc.ir.encoding import encode
from cimc.targets.load import load_target
from cimc.threads import set_threads
from cimc.training.rules import registry
from tests.training.layers import EXACT, OFFSET, SPANS, Layer, changes, span_of_each

CHIPS = [{}, OFFSET, {"weights.rounded": True}, OFFSET | {"weights.rounded": True, "device.levels": 16}]


@pytest.mark.parametrize("chip", CHIPS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.01, 0.1, 0.5, 3.0]), threshold=st.sampled_from([None, 0.0, 0.2]))
def test_invariants(chip, seed, share, threshold):
    layer = Layer(settings=chip, threshold_share=threshold)
    s, span = layer.state, span_of_each()
    theta = layer.rule.threshold_share * span
    for change in changes(seed, share, 6):
        old = {n: a.copy() for n, a in s.state().items()}
        g_before = layer.g_us.copy()
        done = layer.apply(change)
        total = old["delta"] + change
        crossed = np.abs(total) > theta.astype(np.float32)
        # the accumulator: kept below the threshold, emptied above it
        np.testing.assert_array_equal(s.delta, np.where(crossed, 0, total))
        # W: untouched, or the target within the window
        np.testing.assert_array_equal(s.weights[~crossed], old["weights"][~crossed])
        assert (np.abs(s.weights[crossed]) <= (span + np.zeros_like(s.weights))[crossed] * (1 + 1e-6)).all()
        if not layer.target.weights.rounded:
            target = np.clip(old["weights"] + total, -span, span)
            np.testing.assert_array_equal(s.weights[crossed], target[crossed])
        # a device is written where its own target changed, and only there; targets as the compiler would encode W
        goals = encode(s.weights, SPANS.astype(np.float64), (0, 4), layer.target).g_us
        due = crossed[:, :, None] & ~(goals == old["written_us"])
        np.testing.assert_array_equal(s.written_us, np.where(due, goals, old["written_us"]))
        np.testing.assert_array_equal(s.writes - old["writes"], due)
        np.testing.assert_array_equal(s.updates - old["updates"], crossed)
        assert not (layer.g_us != g_before)[~due].any()
        assert (done.updates, done.devices) == (crossed.sum(), due.sum())


def test_without_programming_error_devices_hold_what_w_says():
    layer = Layer(settings=EXACT)
    for change in changes(0, 0.5, 40):
        layer.apply(change)
    assert layer.state.writes.min() > 0
    held = (layer.g_us[:, :, 0] - layer.g_us[:, :, 1]) / (32.9 - 8.2) * span_of_each()
    np.testing.assert_allclose(held, layer.state.weights, atol=2e-6)


def test_of_a_pair_one_device_is_written_unless_the_sign_turns():
    span = span_of_each() + np.zeros((2, 4, 3))
    layer = Layer(weights=0.2 * span, settings=EXACT)
    assert layer.apply(0.4 * span).devices == 24  # 0.2 -> 0.6: plus alone
    assert layer.apply(-1.0 * span).devices == 48  # 0.6 -> -0.4: plus down to g_min, minus up
    assert layer.state.writes[:, :, 0].tolist() == np.full((2, 4, 3), 2).tolist()
    assert layer.state.writes[:, :, 1].tolist() == np.ones((2, 4, 3)).tolist()


def test_at_the_end_of_the_window_nothing_is_written_and_the_sum_is_dropped():
    span = span_of_each() + np.zeros((2, 4, 3))
    layer = Layer(weights=span)
    done = layer.apply(0.5 * span)
    assert (done.updates, done.devices) == (24, 0)
    assert not layer.state.delta.any()
    np.testing.assert_array_equal(layer.state.weights, span.astype(np.float32))


def test_a_device_never_written_is_written_at_its_first_target():
    layer = Layer(settings=EXACT)
    done = layer.apply(0.5 * (span_of_each() + np.zeros((2, 4, 3))))
    assert (done.updates, done.devices) == (24, 48)


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 1 / 3), ({"device.levels": 16}, 1 / 15), ({"device.levels": None}, 0), ({"update.threshold_share": 0.1}, 0.1)],
)
def test_the_threshold_is_one_level_step_unless_set(settings, share):
    assert Layer(settings=settings).rule.threshold_share == pytest.approx(share)


def test_on_the_ideal_chip_every_step_is_taken_whole():
    """FP32 training: no threshold, no error."""
    start, steps = changes(5, 0.1, 1)[0], changes(6, 0.01, 10)
    layer = Layer(weights=start, chip="ideal", spans=np.float32([4.0]))
    expected = start.copy()
    for change in steps:
        layer.apply(change)
        expected += change
    np.testing.assert_array_equal(layer.state.weights, expected)
    np.testing.assert_allclose((layer.g_us[:, :, 0] - layer.g_us[:, :, 1]) * 4, expected, atol=1e-6)


@pytest.mark.parametrize("programming", ["gaussian", "write_verify"])
def test_the_same_bytes_whatever_the_threads(programming):
    runs = []
    for number in (1, 2):
        set_threads(number)
        layer = Layer(settings={"update.programming": programming})
        for change in changes(0, 0.4, 8):
            layer.apply(change)
        runs.append(layer.g_us.tobytes() + layer.state.written_us.tobytes() + layer.state.writes.tobytes())
    set_threads(None)
    assert runs[0] == runs[1]


def test_write_verify_reports_its_pulses():
    done = Layer(settings={"update.programming": "write_verify"}).apply(0.5 * (span_of_each() + np.zeros((2, 4, 3))))
    assert done.devices == 48
    assert 0 < done.trials <= 2 * 48
    assert done.pulses > 0
    assert done.reads >= done.devices
    assert (done.time_ns, done.energy_nj) == (None, None)


def test_rules_by_name():
    target = load_target("bulk-rram")
    assert type(registry.create(target)).__name__ == "Threshold"
    with pytest.raises(CimcError, match="no update rule 'treshold'"):
        registry.create(target, "treshold")
    with pytest.raises(CimcError, match="no option 'theta'"):
        registry.create(target, "threshold", theta=0.1)
