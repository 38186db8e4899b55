"""Optimizers against their papers' recursions, written again in float64."""

import numpy as np
import pytest

from cimc.errors import ArtifactError, CimcError, DataError
from cimc.training import optimizers
from cimc.training.gradients import clip_gradients, finite

SHAPES = {"conv.weight": (4, 1, 5, 5), "conv.bias": (4,), "scale": ()}
LR = 4e-3


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def reference(kind, options, gradients, weights):
    """Changes of one parameter over steps at rate LR; the weights move by them. float64."""
    w, changes = weights.astype(np.float64), []
    m = v = np.zeros_like(w)
    decay = options.get("weight_decay", 0.01 if kind == "adamw" else 0.0)
    for t, gradient in enumerate(gradients, 1):
        g = gradient + (0.0 if kind == "adamw" else decay) * w
        if kind == "sgd":
            change = -LR * g
        elif kind == "momentum":
            mu = options.get("momentum", 0.9)
            v = mu * v + g
            change = -LR * (g + mu * v if options.get("nesterov") else v)
        else:
            b1, b2, eps = options.get("beta1", 0.9), options.get("beta2", 0.999), options.get("epsilon", 1e-8)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            change = -LR * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
            if kind == "adamw":
                change = change - LR * decay * w
        changes.append(change)
        w = w + change
    return changes


CASES = [
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.1}),
    ("momentum", {}),
    ("momentum", {"momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ("adam", {}),
    ("adam", {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3, "weight_decay": 0.1}),
    ("adamw", {}),
    ("adamw", {"weight_decay": 0.3}),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_changes_follow_the_recursion(kind, options):
    optimizer, weights = optimizers.create(kind, **options), arrays(0)
    steps = [arrays(seed) for seed in range(1, 8)]
    expected = {n: reference(kind, options, [np.float64(s[n]) for s in steps], weights[n]) for n in SHAPES}
    for t, gradients in enumerate(steps):
        before = {n: w.copy() for n, w in weights.items()}
        changes = optimizer.step(gradients, weights, LR)
        for name, change in changes.items():
            np.testing.assert_array_equal(weights[name], before[name])  # not applied
            np.testing.assert_allclose(change, expected[name][t], rtol=2e-5, atol=1e-9)
            assert change.shape == SHAPES[name]
            assert change.dtype == np.float32
        weights = {n: w + changes[n] for n, w in weights.items()}


def test_the_first_step_of_adam_is_the_rate_against_the_sign():
    change = optimizers.create("adam").step({"w": np.float32([3.0, -1e-3])}, {"w": np.zeros(2, np.float32)}, LR)["w"]
    np.testing.assert_allclose(change, [-LR, LR], rtol=1e-4)


def test_a_parameter_without_gradient_stays_out():
    optimizer = optimizers.create("adamw")
    assert optimizer.step({"a": np.ones(2, np.float32)}, {"a": np.ones(2), "frozen": np.ones(3)}, LR).keys() == {"a"}
    assert set(optimizer.state()) == {"steps", "first_moment/a", "second_moment/a"}


@pytest.mark.parametrize("kind", ["momentum", "adam", "adamw"])
def test_moments_fade_to_zero_and_not_to_what_a_core_is_slow_at(kind):
    # Inputs that are never active give no gradients; what float32 holds below its normal numbers, 0.9 times itself, never ends.
    optimizer, weights = optimizers.create(kind), {"w": np.zeros(3, np.float32)}
    optimizer.step({"w": np.array([1, -1e-3, 1e-12], np.float32)}, weights, LR)
    for _ in range(1000):
        optimizer.step({"w": np.zeros(3, np.float32)}, weights, LR)
    for moment in (array for name, array in optimizer.state().items() if name.endswith("/w")):
        assert ((moment == 0) | (np.abs(moment) >= np.finfo(np.float32).tiny)).all()
    first = "first_moment/w" if kind.startswith("adam") else "velocity/w"
    assert (optimizer.state()[first] == 0).all()


@pytest.mark.parametrize("kind", optimizers.OPTIMIZERS)
def test_a_restored_optimizer_goes_on_with_the_same_bytes(kind):
    weights, through = arrays(0), optimizers.create(kind)
    for seed in (1, 2):
        through.step(arrays(seed), weights, LR)
    resumed = optimizers.create(kind)
    resumed.restore({name: a.copy() for name, a in through.state().items()})
    for seed in (3, 4):
        a, b = through.step(arrays(seed), weights, LR), resumed.step(arrays(seed), weights, LR)
        assert all(a[n].tobytes() == b[n].tobytes() for n in SHAPES)


def test_a_state_of_another_optimizer_is_refused():
    adam = optimizers.create("adam")
    adam.step(arrays(1), arrays(0), LR)
    with pytest.raises(ArtifactError, match="does not suit Momentum"):
        optimizers.create("momentum").restore(adam.state())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("adamv", {}, "no optimizer 'adamv'"),
        ("sgd", {"momentum": 0.9}, "no option 'momentum'"),
        ("adam", {"beta1": 1.0}, "beta1 is 1.0"),
        ("adamw", {"weight_decay": -1}, "weight_decay is -1"),
        ("momentum", {"momentum": "much"}, "momentum is 'much'"),
        ("momentum", {"nesterov": "maybe"}, "nesterov is 'maybe'"),
    ],
)
def test_wrong_names_and_options_are_refused(kind, options, message):
    with pytest.raises(CimcError, match=message):
        optimizers.create(kind, **options)


def test_a_gradient_must_fit_its_parameter():
    with pytest.raises(DataError, match="its parameter is"):
        optimizers.create("sgd").step({"w": np.ones(3, np.float32)}, {"w": np.ones(2, np.float32)}, LR)
    with pytest.raises(DataError, match="no such parameter"):
        optimizers.create("sgd").step({"w": np.ones(3, np.float32)}, {}, LR)


def test_clipping_scales_to_the_norm_and_keeps_directions():
    gradients = arrays(5)
    flat = np.concatenate([g.reshape(-1) for g in gradients.values()]).astype(np.float64)
    clipped, norm = clip_gradients(gradients, 0.5)
    assert norm == pytest.approx(np.linalg.norm(flat))
    after = np.concatenate([g.reshape(-1) for g in clipped.values()])
    np.testing.assert_allclose(after, flat * 0.5 / norm, rtol=1e-5)
    same, _ = clip_gradients(gradients, 2 * norm)
    assert all(np.array_equal(same[n], gradients[n]) for n in SHAPES)


def test_clipping_reports_a_norm_that_is_not_finite():
    _, norm = clip_gradients({"w": np.float32([1, np.nan])}, 1.0)
    assert np.isnan(norm)


@pytest.mark.parametrize(
    ("kind", "options"),
    [*CASES, ("momentum", {"momentum": 0.0}), ("adamw", {"beta1": 0.0, "beta2": 0.0}), ("adam", {"beta1": 0.0, "beta2": 0.9})],
)
def test_a_stateless_optimizer_forgets_what_came_before(kind, options):
    optimizer, weights = optimizers.create(kind, **options), arrays(0)
    fresh = optimizers.create(kind, **options)
    optimizer.step(arrays(1), weights, LR)
    after, first = optimizer.step(arrays(2), weights, LR), fresh.step(arrays(2), weights, LR)
    same = all(np.allclose(after[name], first[name], rtol=1e-5, atol=0) for name in SHAPES)
    assert optimizer.stateless == same


@pytest.mark.parametrize("where", [0, 1, 7, 8, 99, 100])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(value, where):
    largest = np.finfo(np.float32).max
    array = np.resize(np.array([largest, largest, -largest, 0, -0.0, 1e-45], np.float32), 101)  # their sum is infinite
    assert finite(array)
    array[where] = value
    assert not finite(array)


def test_what_float32_cannot_hold_is_not_finite():
    assert finite(np.array([[1e38]]))
    with np.errstate(over="ignore"):
        assert not finite(np.array([[1e39]]))
    assert finite(np.zeros(0, np.float32))
