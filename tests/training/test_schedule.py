"""The learning rate of each step."""

import pytest

from denseface.options.spec import BY_NAME
from denseface.training.schedule import SCHEDULES, Schedule
from support.refusals import refused


def rates(kind, steps=8, **settings):
    schedule = Schedule(kind, 2.0, steps, **settings)
    return [schedule.rate(step) for step in range(steps)]


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("step", [1, 2, 2, 2, 0.2, 0.2, 0.02, 0.02]),
        ("cosine", [1, 2, 2, 1.8660254, 1.5, 1, 0.5, 0.1339746]),  # 1 + cos(30 k degrees)
        ("poly", [1, 2, 2, 1.3888889, 0.8888889, 0.5, 0.2222222, 0.0555556]),  # 2 (1 - k / 6)^2
    ],
)
def test_the_rate_warms_up_and_falls(kind, expected):
    assert rates(kind, warmup_steps=2, drops=[4, 6]) == pytest.approx(expected)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 8, 20])
def test_a_warm_up_of_any_length_is_a_rate(kind, warmup):
    """Also of the whole run, and beyond its end."""
    assert rates(kind, warmup_steps=warmup)[0] == pytest.approx(2 / max(1, warmup))
    assert 0 <= Schedule(kind, 2.0, 8, warmup).rate(30) <= 2


def test_an_unknown_schedule_is_named_with_those_there_are():
    with refused("'linear'", ", ".join(SCHEDULES), option="lr_schedule"):
        Schedule("linear", 0.1, 10)


def test_schedules_are_those_that_the_option_offers():
    assert {*BY_NAME["lr_schedule"].choices} == {*SCHEDULES}
