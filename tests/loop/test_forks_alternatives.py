"""Every alternative does what it says: compared with updates by hand on a quadratic, in double
precision."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from forked_loop import fork_by
from gradiometer import BadArgument, UserCodeFailed
from gradiometer.convergence.schedules import Constant, Linear
from gradiometer.loop import (
    Alternative,
    BatchSize,
    Clip,
    CoolNow,
    Custom,
    Following,
    Fork,
    Hold,
    Momentum,
    Rate,
    RestartHot,
    Shorter,
    Skip,
    Using,
    WeightDecay,
    alternative_of,
)
from gradiometer.loop.branch import BranchResult, tail_factor
from gradiometer.loop.changes.alternative import GoOn
from gradiometer.loop.readout import Readout

CURVATURE, RATE, MOMENTUM, DECAY = 0.7, 0.2, 0.6, 0.05
POINTS = [
    torch.tensor(row, dtype=torch.float64)
    for row in ([1.0, 2.0], [-1.0, 0.5], [3.0, 1.0], [0.0, -2.0]) * 3
]
UPDATES = 8


class Point(nn.Module):
    """One number w, whose loss for the example x is curvature (w − x)² / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(4.0, dtype=torch.float64))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return CURVATURE * (self.w - batch).square() / 2


def made(kind: str = "SGD") -> tuple[Point, torch.optim.Optimizer]:
    """A model after one update, so that its momentum is not zero."""
    model = Point()
    optimizer = {
        "SGD": lambda: torch.optim.SGD(
            model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY
        ),
        "Adagrad": lambda: torch.optim.Adagrad(model.parameters(), lr=RATE),
        "Rprop": lambda: torch.optim.Rprop(model.parameters(), lr=RATE),
    }[kind]()
    model(torch.tensor([0.5], dtype=torch.float64)).mean().backward()
    optimizer.step()
    return model, optimizer


def by_hand(
    *,
    rate: Callable[[int], float] = lambda update: RATE,
    momentum: float = MOMENTUM,
    decay: float = DECAY,
    clip: float = math.inf,
    batches: list[torch.Tensor] = POINTS[:UPDATES],
    forgets: bool = False,
) -> float:
    model, optimizer = made()
    w = model.w.item()
    velocity = 0.0 if forgets else float(optimizer.state[model.w]["momentum_buffer"])
    for update, batch in enumerate(batches):
        gradient = CURVATURE * (w - float(batch.mean()))
        # as torch.nn.utils.clip_grad_norm_ does
        gradient *= min(1.0, clip / (abs(gradient) + 1e-6))
        velocity = momentum * velocity + gradient + decay * w
        w -= rate(update) * velocity
    return w


def ended(alternative: Alternative | str, **settings: Any) -> float:
    model, optimizer = made()
    given: dict[str, Any] = {
        "horizon": f"{UPDATES} updates",
        "tail": "none",
        "replicates": 1,
        **settings,
    }
    found = fork_by(
        model,
        optimizer,
        loss=lambda model, batch: model(batch).mean(),
        batches=lambda seed: POINTS,
        evaluate=lambda model: {"w": model.w},
        alternatives=[alternative],
        **given,
    )
    (result,) = found.of(alternative_of(alternative))
    assert result.diverged is None
    return result.readouts["w"].mean


DOUBLE = [torch.cat(pair) for pair in zip(POINTS[:UPDATES:2], POINTS[1:UPDATES:2], strict=True)]
KNOWN: dict[str, tuple[Alternative | str, float]] = {
    "rate": (Rate(0.5), by_hand(rate=lambda _: RATE / 2)),
    "batch and its rate": (
        "batch 2x, rate sqrt",
        by_hand(rate=lambda _: RATE * math.sqrt(2), batches=DOUBLE),
    ),
    "batch and linear rate": (
        BatchSize(2, "linear"),
        by_hand(rate=lambda _: 2 * RATE, batches=DOUBLE),
    ),
    "batch alone": (BatchSize(2, None), by_hand(batches=DOUBLE)),
    "half a batch": (
        BatchSize(0.5, 0.5),
        by_hand(
            rate=lambda _: RATE / 2,
            batches=[half for batch in POINTS[:UPDATES] for half in batch.split(1)],
        ),
    ),
    "momentum": (Momentum(0.9), by_hand(momentum=0.9)),
    "no momentum": (Momentum(0), by_hand(momentum=0.0)),
    "weight decay": (WeightDecay(0.5), by_hand(decay=0.5)),
    "schedule": (
        Following(Linear(0.3, steps=10)),
        by_hand(rate=lambda update: 0.3 * (1 - update / 10)),
    ),
    "schedule in original updates": (
        BatchSize(2, None) & Following(Linear(0.3, steps=10)),
        by_hand(rate=lambda update: 0.3 * (1 - 2 * update / 10), batches=DOUBLE),
    ),
    "cool now": (CoolNow(), by_hand(rate=lambda _: RATE / 10)),
    "hold": (Hold(0.25), by_hand(rate=lambda step: RATE * min((7.5 - step) / 6, 1))),
    "clip": (Clip(0.3), by_hand(clip=0.3)),
    "skip": (Skip(2, 4), by_hand(batches=POINTS[:2] + POINTS[4:UPDATES])),
    "shorter": (Shorter(0.5), by_hand(batches=POINTS[: UPDATES // 2])),
    "restart": (RestartHot(1.5), by_hand(rate=lambda _: 1.5 * RATE, forgets=True)),
    "another optimizer": (
        Using(torch.optim.SGD, lr=0.1, momentum=0.3),
        by_hand(rate=lambda _: 0.1, momentum=0.3, decay=0.0, forgets=True),
    ),
    "two at once": ("rate 2x & momentum 0.1", by_hand(rate=lambda _: 2 * RATE, momentum=0.1)),
}


@pytest.mark.parametrize(("alternative", "expected"), KNOWN.values(), ids=KNOWN)
def test_an_alternative_does_what_it_says(alternative: Alternative | str, expected: float) -> None:
    assert ended(alternative) == pytest.approx(expected, rel=1e-12)
    assert expected != pytest.approx(by_hand(), rel=1e-3)


def test_skipping_counts_updates_as_training_does() -> None:
    assert ended(Skip(102, 104), index=100) == pytest.approx(
        by_hand(batches=POINTS[:2] + POINTS[4:UPDATES]), rel=1e-12
    )
    with pytest.raises(
        BadArgument, match=r"`skip` 2:4 is not within the branches, which go from step 100"
    ):
        ended(Skip(2, 4), index=100)


def test_a_function_may_change_the_optimizer_the_batches_or_both() -> None:
    def first_rows(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> Any:
        optimizer.param_groups[0]["momentum"] = 0.2
        return (batch[:1] for batch in batches)

    only_first = [batch[:1] for batch in POINTS[:12]]
    found = ended(Custom("first rows", first_rows), horizon="8 examples")
    assert found == pytest.approx(by_hand(momentum=0.2, batches=only_first[:8]), rel=1e-12)
    replaced = Custom(
        "SGD", lambda model, optimizer, batches: torch.optim.SGD(model.parameters(), lr=0.1)
    )
    expected = by_hand(rate=lambda _: 0.1, momentum=0.0, decay=0.0, forgets=True)
    assert ended(replaced) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(BadArgument, match="returned a int"):
        ended(Custom("three", lambda *_: 3))
    with pytest.raises(BadArgument, match="returned a Tensor that gives no batches"):
        ended(Custom("a number", lambda *_: torch.tensor(3.0)))
    with pytest.raises(UserCodeFailed, match="ZeroDivisionError"):
        ended(Custom("wrong", lambda *_: 1 // 0))


@pytest.mark.parametrize("tail", ["linear", "half", "third"])
def test_the_tail_multiplies_the_rate(tail: Any) -> None:
    factors = [tail_factor(tail, update, update + 1, UPDATES) for update in range(UPDATES)]
    assert ended(Rate(2), tail=tail) == pytest.approx(
        by_hand(rate=lambda step: 2 * RATE * factors[step]), rel=1e-12
    )


def test_the_tails_end_at_zero_and_sum_to_their_share_for_any_batch() -> None:
    for size in (1, 2, 4):
        steps = [*range(0, 17, size)]
        linear, half, third = (
            [tail_factor(tail, start, stop, 16) for start, stop in pairwise(steps)]
            for tail in ("linear", "half", "third")  # type: ignore[arg-type]
        )
        assert sum(linear) * size == 8 and linear[-1] == size / 32
        assert sum(half) * size == 12 and half[:1] == [1.0] and half[-1] == size / 16
        assert set(third[: 8 // size]) == {1.0} and third[-1] == pytest.approx(3 * size / 32)
    assert tail_factor("none", 15, 16, 16) == 1.0


def test_schedules_of_training_continue_in_units_of_the_original_batch() -> None:
    model, optimizer = made()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    settings: dict[str, Any] = {"horizon": f"{UPDATES} updates", "tail": "none", "replicates": 1}
    found = fork_by(
        model,
        optimizer,
        loss=lambda model, batch: model(batch),
        batches=lambda seed: POINTS,
        evaluate=lambda model: {"w": model.w},
        alternatives=["batch 2x, rate 1x", "rate 2x", "SGD(lr=0.1)"],
        scheduler=scheduler,
        **settings,
    )
    ends = [found.of(name)[0].readouts["w"].mean for name in found.names]
    plain = {"momentum": 0.0, "decay": 0.0, "forgets": True}
    assert ends == pytest.approx(
        [
            by_hand(rate=lambda update: RATE * 0.9**update),
            by_hand(rate=lambda update: RATE * 0.9 ** (2 * update), batches=DOUBLE),
            by_hand(rate=lambda update: 2 * RATE * 0.9**update),
            by_hand(rate=lambda update: 0.1 * 0.9**update, **plain),  # type: ignore[arg-type]
        ],
        rel=1e-12,
    )
    assert (scheduler.last_epoch, optimizer.param_groups[0]["lr"]) == (0, RATE)


@pytest.mark.parametrize(
    ("kind", "alternative", "message"),
    [
        (
            "Adagrad",
            "momentum 0.9",
            "changes the momentum, but `optimizer` Adagrad has none: its settings are lr",
        ),
        ("Rprop", "weight decay 0.1", "changes the weight decay, but `optimizer` Rprop has none"),
    ],
)
def test_an_alternative_that_names_nothing_in_the_optimizer_is_refused(
    kind: str, alternative: str, message: str
) -> None:
    model, optimizer = made(kind)
    with pytest.raises(BadArgument, match=message):
        fork_by(
            model,
            optimizer,
            loss=lambda model, batch: model(batch),
            batches=lambda seed: POINTS,
            alternatives=[alternative],
            horizon="4 updates",
        )


def test_parameter_groups_without_weight_decay_keep_none() -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(
        [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}], lr=0.01
    )
    seen: dict[str, list[float]] = {}

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().flatten()

    def look(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        optimizer.register_step_pre_hook(
            lambda one, *_: seen.update(
                decays=[group["weight_decay"] for group in one.param_groups]
            )
        )

    fork_by(
        model,
        optimizer,
        loss=loss,
        batches=torch.randn(8, 3),
        batch_size=4,
        alternatives=[WeightDecay(0.3) & Custom("look", look)],
        horizon="2 updates",
        replicates=1,
    )
    assert seen["decays"] == [0.3, 0.0]


TEXTS = {
    "rate 2x": Rate(2.0),
    "batch 2x": BatchSize(2.0, None),
    "batch 2x, rate 1.41x": BatchSize(2.0, 1.41),
    "momentum 0.9": Momentum(0.9),
    "weight decay 1e-2": WeightDecay(0.01),
    "cool now": CoolNow(),
    "cool now 0.2x": CoolNow(0.2),
    "hold 80%": Hold(0.8),
    "hold 100%": Hold(1),
    "clip 1.5": Clip(1.5),
    "skip 1200:1205": Skip(1200, 1205),
    "restart hot 10x": RestartHot(10.0),
    "shorter 0.75x": Shorter(0.75),
    "follow Constant(0.1)": Following(Constant(0.1)),
    "AdamW(lr=0.001, betas=(0.9, 0.95))": Using(torch.optim.AdamW, lr=0.001, betas=(0.9, 0.95)),
    "go on": GoOn(),
    "rate 0.5x & clip 1": Rate(0.5) & Clip(1.0),
}


@pytest.mark.parametrize(("text", "alternative"), TEXTS.items())
def test_an_alternative_is_read_from_its_text_and_from_json(
    text: str, alternative: Alternative
) -> None:
    assert alternative_of(text) == alternative
    assert alternative_of(alternative.name).name == alternative.name
    stored = json.loads(json.dumps(alternative.to_dict()))
    assert alternative_of(stored).name == alternative.name


WRONG = {
    "unknown": (
        "double the rate",
        "'double the rate', which is not one: write one such as go on, rate 2x",
    ),
    "no factor": ("rate 2", "'rate 2', which is not one"),
    "underscore": ("rate 1_x", "'rate 1_x', which is not one"),
    "too long": ("skip 0:" + 5000 * "9", "which is not one"),
    "optimizer": ("AdamX(lr=0.1)", "the optimizer 'AdamX', not one of torch.optim. Did you mean"),
    "code": ("AdamW(lr=print(1))", "which is not one: write AdamW"),
    "setting": ("AdamW(rate=0.1)", "`settings` cannot be those of AdamW"),
    "zero": ("rate 0x", "`factor` must be positive and finite, got 0"),
    "momentum": ("momentum 1", "`value` must be at least 0 and less than 1, got 1"),
    "order": ("skip 5:5", "`stop` must be at least 6, got 5"),
    "schedule": ("follow Cosin(0.1, steps=5)", "'Cosin' is not known"),
    "number": (3, "must be alternatives or texts, got a int"),
    "file": ({"kind": "Mine", "label": "mine"}, "which is not the result of `to_dict`"),
    "damaged": ({"kind": "Rate"}, "a damaged Rate"),
}


@pytest.mark.parametrize(("given", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_alternative_is_refused(given: Any, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        alternative_of(given)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rate(math.nan),
        lambda: BatchSize(math.nan),
        lambda: BatchSize(1e-6),
        lambda: BatchSize(2, math.nan),
        lambda: Momentum(math.nan),
        lambda: WeightDecay(math.nan),
        lambda: WeightDecay(-1),
        lambda: CoolNow(math.nan),
        lambda: CoolNow(2),
        lambda: Hold(math.nan),
        lambda: Hold(1.1),
        lambda: RestartHot(math.nan),
        lambda: Shorter(math.nan),
        lambda: Shorter(1.0),
        lambda: Clip(math.nan),
        lambda: Skip(-1, 3),
        lambda: Custom("", print),
    ],
)
def test_settings_that_are_no_numbers_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(BadArgument, match=r"`\w+` must be"):
        make()


def test_results_are_stored_as_json() -> None:
    readouts = {
        "test_loss": Readout.of(torch.rand(5).double().numpy()),
        "score": Readout(math.inf, None, False),
    }
    result = BranchResult(
        "rate 2x", 1, 64, 4, 64, 0.5, ((32, 1.5), (64, math.nan)), readouts, "the loss is nan"
    )
    again = BranchResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()
    assert (again.readouts["test_loss"].values == readouts["test_loss"].values).all()


def test_an_alternative_whose_code_is_not_stored_is_known_by_its_name_only() -> None:
    class Own(torch.optim.SGD):
        pass

    for alternative in (Custom("freeze", print), Using(Own, lr=0.1)):
        stored = alternative_of(json.loads(json.dumps(alternative.to_dict())))
        assert stored.name == alternative.name
        with pytest.raises(
            BadArgument, match="from a file, without its function: give the object itself"
        ):
            ended(stored)
    assert alternative_of(Custom("freeze", print).to_dict()) == Custom("freeze", print)


def test_a_fork_warns_of_short_and_constant_branches() -> None:
    def warned(**settings: Any) -> str:
        given = {
            "step": 0,
            "alternatives": (Rate(2),),
            "replicates": 4,
            "horizon": 10,
            "results": (),
            **settings,
        }
        return " ".join(Fork(**given).warnings)

    assert warned(left=10) == ""
    said = warned(left=40)
    assert said.startswith("The branches end before the training does") and said.count(".") == 1
    assert "10% of what is left" in warned(left=100)
    assert "favours small rates" in warned(tail="none", step=9)
    assert "favour large rates" in warned(tail="none") and "small" not in warned(tail="none")
    assert "2 replicates" in warned(replicates=2)
    with pytest.raises(BadArgument, match="'rate 3x' was not tried"):
        Fork(0, (Rate(2),), 4, 10, ()).of(Rate(3))
