"""Learning rates over the steps of a run."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tasks import schedules


def rates(make: Callable[..., Any], steps: int, **settings: Any) -> list[float]:
    """The rate at each of `steps` steps, as a share of the full one, and at one step after them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    made = make(optimizer, steps, **settings)
    assert made["interval"] == "step"
    found = []
    for _ in range(steps + 1):
        found.append(optimizer.param_groups[0]["lr"] / 2.0)
        optimizer.step()
        made["scheduler"].step()
    return found


def test_constant_stays_after_its_warm_up() -> None:
    assert rates(schedules.constant, 5) == [1.0] * 6
    assert rates(schedules.constant, 5, warmup_steps=3) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_full_rate_to_the_final_one() -> None:
    found = rates(schedules.cosine, 100, final=0.1)
    assert found[0] == 1.0 and found[50] == pytest.approx(0.55) and found[-1] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("warmup", [{"warmup_steps": 20}, {"warmup_share": 0.2}])
def test_cosine_warms_up_over_steps_or_a_share_of_them(warmup: dict[str, Any]) -> None:
    found = rates(schedules.cosine, 100, **warmup)
    assert found[:20] == pytest.approx([(i + 1) / 21 for i in range(20)])
    assert found[20] == 1.0 and found[60] == pytest.approx(0.5) and found[-1] == pytest.approx(0.0)


def test_one_cycle_rises_and_falls() -> None:
    found = rates(schedules.one_cycle, 100, rise=0.3, start=0.04)
    assert found[0] == pytest.approx(0.04) and max(found) == found[30] == 1.0
    assert found[:31] == sorted(found[:31]) and found[30:] == sorted(found[30:], reverse=True)
    assert found[-1] == pytest.approx(0.0)


def test_slanted_triangular_is_the_formula_of_the_paper() -> None:
    found = rates(schedules.slanted_triangular, 100, rise=0.1, ratio=32)
    cut_frac, cut = 0.1, 10  # in the names of Howard and Ruder 2018, equation 3
    for t, rate in enumerate(found):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert rate == pytest.approx((1 + p * 31) / 32)
    assert found[0] == found[-1] == 1 / 32 and max(found) == found[10] == 1.0
    odd = rates(schedules.slanted_triangular, 37, rise=0.3, ratio=4)  # no whole number of steps
    assert max(odd) == odd[11] == 1.0 and odd[-1] == 1 / 4 and min(odd) == 1 / 4


def test_step_decays_by_a_factor_every_share() -> None:
    found = rates(schedules.step, 10, start_share=0.35, every_share=0.2, decay=0.5)
    assert found == [1.0] * 4 + [0.5] * 2 + [0.25] * 2 + [0.125] * 2 + [0.0625]


def test_plateau_waits_for_a_validation_without_improvement() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    made = schedules.plateau(optimizer, 100, monitor="val/loss", mode="min", decay=0.5)
    found = []
    for loss in (3.0, 2.0, 2.5, 1.0, 1.0):
        schedules.tell([made["scheduler"]], {"val/loss": loss, "val/accuracy": 0.5})
        made["scheduler"].step()  # at an epoch's end, without a metric: nothing
        found.append(optimizer.param_groups[0]["lr"])
    assert found == [1.0, 1.0, 0.5, 0.5, 0.25]
    with pytest.raises(ValueError, match=r"monitor=val/loss is not measured.*choose one of val/f1"):
        schedules.tell([made["scheduler"]], {"val/f1": 0.5})


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "slanted_triangular"])
def test_a_run_of_no_or_unknown_length_has_a_rate(name: str) -> None:
    for steps in (0, 1, 10**9):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        getattr(schedules, name)(optimizer, steps)
        assert math.isfinite(optimizer.param_groups[0]["lr"])


def test_a_schedule_goes_on_where_a_checkpoint_left_it() -> None:
    def start() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, schedules.cosine(optimizer, 20)["scheduler"]

    optimizer, scheduler = start()
    for _ in range(7):
        optimizer.step(), scheduler.step()
    again, resumed = start()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(5):
        optimizer.step(), scheduler.step()
        again.step(), resumed.step()
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] < 0.5
