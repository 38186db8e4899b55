"""Schedules by their closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cimc.errors import ArtifactError, CimcError
from cimc.training import schedules


def test_constant():
    schedule = schedules.create("constant", 0.004)
    assert {schedule.rate(s, 100, s // 10) for s in range(100)} == {0.004}


def test_step_falls_at_whole_epochs():
    schedule = schedules.create("step", 1.0, every=3, factor=0.1)
    assert [schedule.rate(0, 0, e) for e in range(7)] == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_cosine_starts_at_the_rate_halves_midway_and_ends_at_the_final_one():
    schedule = schedules.create("cosine", 0.004, final=0.001)
    assert schedule.rate(0, 5200, 0) == pytest.approx(0.004)
    assert schedule.rate(2600, 5200, 6) == pytest.approx(0.0025)
    assert schedule.rate(5200, 5200, 13) == pytest.approx(0.001)
    assert schedule.rate(9999, 5200, 13) == pytest.approx(0.001)


@given(total=st.integers(1, 10_000), data=st.data())
def test_cosine_never_rises(total, data):
    step = data.draw(st.integers(0, total - 1))
    schedule = schedules.create("cosine", 0.1)
    here, then = schedule.rate(step, total, 0), schedule.rate(step + 1, total, 0)
    assert 0 <= then < here <= 0.1


def test_plateau_halves_after_five_epochs_without_improvement():
    schedule = schedules.create("plateau", 0.003)
    rates = []
    for loss in [1.0, 0.9, 0.9, 0.95, 0.9, 1.0, 0.91, 0.8, *[0.8] * 5, math.nan, *[0.8] * 4]:
        schedule.observe(loss)
        rates.append(schedule.rate(0, 0, 0) / 0.003)
    # five epochs after the 0.9 of the second, five after the 0.8, and five more
    assert rates == [1] * 6 + [0.5] * 6 + [0.25] * 5 + [0.125]


def test_plateau_of_an_accuracy_and_its_lowest_rate():
    schedule = schedules.create("plateau", 1.0, mode="max", patience=1, factor=0.1, least=0.05)
    for accuracy in (0.5, 0.6):
        schedule.observe(accuracy)
    assert schedule.rate(0, 0, 0) == 1.0
    for _ in range(3):
        schedule.observe(0.6)
    assert schedule.rate(0, 0, 0) == 0.05


@given(losses=st.lists(st.floats(0, 1), max_size=30), cut=st.integers(0, 30))
def test_plateau_resumes_where_it_was(losses, cut):
    through, first = schedules.create("plateau", 1.0, patience=2), schedules.create("plateau", 1.0, patience=2)
    for loss in losses[:cut]:
        first.observe(loss)
    resumed = schedules.create("plateau", 1.0, patience=2)
    resumed.restore({name: np.array(a) for name, a in first.state().items()})
    for n, loss in enumerate(losses):
        through.observe(loss)
        if n >= cut:
            resumed.observe(loss)
    assert resumed.rate(0, 0, 0) == through.rate(0, 0, 0) or cut > len(losses)
    assert all(np.array_equal(a, through.state()[n]) for n, a in resumed.state().items())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "no schedule 'cosin'"),
        ("cosine", {"warm": 3}, "no option 'warm'"),
        ("plateau", {"patience": 0}, "patience is 0"),
        ("plateau", {"mode": "best"}, "mode is 'best'"),
        ("step", {"factor": 2}, "factor is 2"),
        ("step", {"every": 2.5}, r"every is 2\.5, it must be whole"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(CimcError, match=message):
        schedules.create(name, 0.1, **options)


def test_a_negative_rate_is_refused():
    with pytest.raises(CimcError, match=r"lr is -0\.1"):
        schedules.create("constant", -0.1)


@pytest.mark.parametrize("state", [[math.nan, 1, 0], [math.inf, 1, 0], [-1, 1, 0], [1, math.nan, 0], [1, 1, -math.inf],
                                   [1, 1, math.nan], [1, 1, 0.5], [1, 1, 5]])  # fmt: skip
def test_a_plateau_takes_no_state_that_it_cannot_have(state):
    with pytest.raises(ArtifactError, match="plateau"):
        schedules.create("plateau", 1.0).restore({"plateau": np.array(state)})


def test_a_state_of_another_schedule_is_refused():
    with pytest.raises(ArtifactError, match="not that of a Plateau"):
        schedules.create("plateau", 0.1).restore(schedules.create("cosine", 0.1).state())
