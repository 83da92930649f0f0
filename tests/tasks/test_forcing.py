"""Scheduled sampling: the paper's three ways in which the share of right symbols falls."""

import math
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from tasks.forcing import DECAYS, Forcing, constant


def test_the_shares_are_the_papers() -> None:
    steps, final = 1000, 0.25
    slope, rate, k = (1 - final) / steps, final ** (1 / steps), constant(final, steps)
    assert k >= 1 and rate < 1
    for i in (0, 1, 250, 500, 999, 1000):
        told = {
            "linear": max(final, 1 - slope * i),
            "exponential": rate**i,
            "inverse_sigmoid": k / (k + math.exp(i / k)),
        }
        for decay, share in told.items():
            assert Forcing(final=final, decay=decay).share(i, steps) == pytest.approx(share)
    for decay in DECAYS:
        forcing = Forcing(final=final, decay=decay)
        shares = [forcing.share(i, steps) for i in range(0, steps + 1, 50)]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] > 0.99 and shares[-1] == pytest.approx(final)
        assert forcing.share(steps + 7, steps) == pytest.approx(final)
        assert forcing.share(5, math.inf) == 1.0
    # the sigmoid falls late, the exponential early
    early = [Forcing(final=final, decay=decay).share(300, steps) for decay in DECAYS]
    assert early[1] < early[0] < early[2]


@pytest.mark.parametrize("final", [1e-3, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 30, 10**7])
def test_any_length_of_training_ends_at_the_final_share(final: float, steps: int) -> None:
    for decay in DECAYS:
        assert Forcing(final=final, decay=decay).share(steps, steps) == pytest.approx(final)


def test_a_run_feeds_ever_fewer_right_symbols(start: Any) -> None:
    found: list[float] = []

    class Shares(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *others: Any) -> None:
            found.append(pl_module.forced_share())

    run = start(
        "captioning", "trainer.max_steps=4", "task.teacher_forcing=0.5", "data.train_size=16",
        "data.batch_size=4", "task.teacher_forcing_decay=exponential",
        "trainer.limit_val_batches=0",
    )  # fmt: skip
    run.trainer.callbacks.append(Shares())
    run.fit()
    assert found == pytest.approx([0.5 ** (i / 4) for i in range(4)])


def test_what_cannot_be_is_refused() -> None:
    for options, said in [
        ({"final": 1.5}, "share of 0 to 1, got 1.5"),
        ({"final": 0.5, "decay": "cubic"}, "one of linear, exponential, inverse_sigmoid"),
        ({"final": 0.0, "decay": "exponential"}, "never reaches 0: set"),
    ]:
        with pytest.raises(ValueError, match=said):
            Forcing(**options)
