"""Readings of the noise from products of training's own successive gradients, in watched loops of
many kinds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from costs.memory import Allocated
from torch import Tensor, nn

from gradiometer import GradientNoise, supervised, watch
from gradiometer.integrations import gradients
from gradiometer.integrations.gradients import NEVER
from gradiometer.integrations.watch.observers import products
from gradiometer.integrations.watch.observers.products import CHAIN, Rule, longest_pause, rule_of
from gradiometer.measurement.preconditioner import preconditioner_of
from watched_loop import Clock

Optimizer = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
    "Nesterov": lambda parameters: torch.optim.SGD(
        parameters, lr=0.02, momentum=0.9, nesterov=True
    ),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}


class Loop:
    """A loop of our own, which computes all products by hand."""

    def __init__(self, optimizer: Optimizer, *, bias: bool = True) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16, bias=bias), nn.ReLU(), nn.Linear(16, 5)
        ).double()
        self.optimizer = optimizer(self.model.parameters())
        self.gradients: list[Tensor] = []
        self.buffers: list[Tensor | None] = []
        self.weights: list[Tensor | None] = []
        self.losses: list[float] = []
        self.generator = torch.Generator().manual_seed(1)

    def batch(self, size: int = 8) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, 8, generator=self.generator, dtype=torch.double)
        return inputs, torch.randint(5, (size,), generator=self.generator)

    def backward(self, size: int = 8, factor: float = 1.0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        batch = self.batch(size)
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
        (loss * factor).backward()
        parameters = list(self.model.parameters())
        self.gradients.append(_flat([p.grad for p in parameters]) / factor)
        states = [self.optimizer.state.get(p, {}) for p in parameters]
        for key in ("momentum_buffer", "exp_avg"):
            if all(state.get(key) is not None for state in states):
                self.buffers.append(_flat([state[key] for state in states]))
        if len(self.buffers) < len(self.gradients):
            self.buffers.append(None)
        if isinstance(self.optimizer, torch.optim.AdamW):
            found = preconditioner_of(self.optimizer, parameters)
            self.weights.append(None if found is None else _flat(found))
        self.losses.append(float(loss.detach()))
        return loss, batch


def _flat(tensors: list[Any]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1).clone() for tensor in tensors])


def _train(loop: Loop, steps: int, out: Path, **settings: Any) -> Any:
    with watch(loop.model, loop.optimizer, out=out, page=False, quiet=True, **settings) as w:
        for _ in range(steps):
            w.step(*loop.backward())
            loop.optimizer.step()
    return w


@pytest.fixture(autouse=True)
def _one_pair_a_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pair is a reading, and nothing is too expensive."""
    monkeypatch.setattr(products, "PAIRS_A_READING", 1)
    monkeypatch.setattr(products, "EARLY_SHARE", 1e6)


@pytest.mark.parametrize("name", ["SGD", "momentum", "Nesterov"])
def test_every_reading_is_the_product_by_hand(name: str, tmp_path: Path) -> None:
    loop = Loop(OPTIMIZERS[name])
    run = _train(loop, 40, tmp_path).run
    assert run.overhead["mode"] == "products"
    series = run.series("noise")
    assert len(series) >= 3 * CHAIN
    rate, momentum = (0.05, 0.0) if name == "SGD" else (0.02, 0.9)
    for place, step in enumerate(series.steps):
        now, before = loop.gradients[step], loop.gradients[step - 1]
        moments = {key: float(values[place].sum()) for key, values in series.moments.items()}
        assert moments["product"] == pytest.approx(float(before @ now), rel=1e-9)
        assert moments["squared"] == pytest.approx(float(now @ now), rel=1e-9)
        assert moments["loss"] == pytest.approx(loop.losses[step], rel=1e-9)
        # from the second step on
        assert moments["travelled"] == pytest.approx(rate * (step - 1), rel=1e-6)
        assert moments["momentum"] == momentum and moments["nesterov"] == (name == "Nesterov")
        buffer = loop.buffers[step]
        if momentum:
            assert buffer is not None
            assert moments["memory"] == pytest.approx(
                (1 - momentum) * float(buffer @ now), rel=1e-9
            )


def test_under_adam_the_products_are_under_one_p_from_before_the_pair(tmp_path: Path) -> None:
    """P serves for a 16th of the steps so far, so that it is at most that much older."""
    loop = Loop(OPTIMIZERS["AdamW"])
    run = _train(loop, 120, tmp_path).run
    series, plain = run.series("preconditioned_noise"), run.series("noise")
    assert len(series) >= 3 * CHAIN and len(plain) >= CHAIN
    assert not set(series.steps.tolist()) & set(plain.steps.tolist())
    ages = []
    for place, step in enumerate(series.steps):
        buffer, now, last = loop.buffers[step], loop.gradients[step], loop.gradients[step - 1]
        assert buffer is not None
        moments = {key: float(values[place].sum()) for key, values in series.moments.items()}

        def of_the_reading(age: int, step: int = step, seen: float = moments["squared"]) -> bool:
            weights = loop.weights[step - age]
            now = loop.gradients[step]
            return weights is not None and float(now @ (weights * now)) == pytest.approx(seen, 1e-9)

        age = next(age for age in range(1, step) if of_the_reading(age))
        weights = loop.weights[step - age]
        assert weights is not None and age <= 1 + step / 16
        assert moments["product"] == pytest.approx(float(last @ (weights * now)), rel=1e-9)
        assert moments["memory"] == pytest.approx(float(buffer @ (weights * now)), rel=1e-9)
        assert "loss" not in moments
        ages.append(age)
    assert ages[0] == 1 and max(ages) >= 4
    for place, step in enumerate(plain.steps):
        product = float(loop.gradients[step - 1] @ loop.gradients[step])
        assert float(plain.moments["product"][place].sum()) == pytest.approx(product, rel=1e-9)


def test_triage_and_products_share_one_product(tmp_path: Path) -> None:
    loop = Loop(OPTIMIZERS["AdamW"])
    run = _train(loop, 60, tmp_path).run
    looks = {step: signs["product"] for step, signs in run.signs if "product" in signs}
    assert len(looks) >= 4
    for step, product in looks.items():
        by_hand = float(loop.gradients[step - 1] @ loop.gradients[step])
        assert product == pytest.approx(by_hand, rel=1e-4)
    plain = set(run.series("noise").steps.tolist())
    assert {step for step in looks if step > 2} <= plain


@pytest.mark.parametrize(
    "name",
    [
        "SGD",
        pytest.param("momentum", marks=pytest.mark.slow),
        pytest.param("Nesterov", marks=pytest.mark.slow),
        "AdamW",
    ],
)
def test_one_copy_of_the_parameters_stays_and_a_second_one_lives_for_a_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triage and products together, over chains with P and without, and several looks."""
    # What is read together is small beside the model, as beside a large one.
    monkeypatch.setattr(gradients, "STRETCH_ON_CPU", 2**13)
    model = nn.Sequential(*(nn.Linear(128, 128) for _ in range(24)))
    copy = sum(parameter.numel() for parameter in model.parameters()) * 4
    optimizer = OPTIMIZERS[name](model.parameters())
    # The update itself then allocates one tensor at a time.
    optimizer.param_groups[0]["foreach"] = False
    held, stayed = [], []
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True, budget=0.9) as w:
        for step in range(50):
            if step == 2:
                # forks keep updates for themselves
                w.forks.kept_updates.next = NEVER
                allocated = Allocated()
                allocated.__enter__()
            optimizer.zero_grad()
            loss = model(torch.ones(2, 128)).square().mean()
            loss.backward()
            if step >= 2:
                before = allocated.peak = allocated.now
                kept = stayed[-1] if stayed else 0
            w.step(loss, torch.ones(2, 128))
            optimizer.step()
            if step >= 2:
                held.append((allocated.peak - before + kept) / copy)
                optimizer.zero_grad()
                del loss
                stayed.append(allocated.now)
        allocated.__exit__(None, None, None)
    assert max(stayed) <= 1.01 * copy
    assert max(held) <= 2.3  # P is clipped at the median of a sample
    assert len(w.run.signs) >= 4 and len(w.run.series("noise")) >= CHAIN


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_keeps_its_bits(name: str, tmp_path: Path) -> None:
    watched, alone = Loop(OPTIMIZERS[name]), Loop(OPTIMIZERS[name])
    w = _train(watched, 40, tmp_path)
    assert len(w.run.series("noise")) > 0
    for _ in range(40):
        alone.backward()
        alone.optimizer.step()
    for one, other in zip(watched.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("unscales", [False, True])
def test_a_scaled_gradient_is_read_without_its_scale(unscales: bool, tmp_path: Path) -> None:
    loop = Loop(OPTIMIZERS["SGD"])
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with watch(
        loop.model, loop.optimizer, scaler=scaler, out=tmp_path, page=False, quiet=True
    ) as w:
        for _ in range(20):
            batch = loop.batch()
            loop.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(loop.model(batch[0]), batch[1])
            scaler.scale(loss).backward()
            loop.gradients.append(_flat([p.grad for p in loop.model.parameters()]) / 1024.0)
            if unscales:
                scaler.unscale_(loop.optimizer)
            w.step(loss, batch)
            scaler.step(loop.optimizer)
            scaler.update()
    series = w.run.series("noise")
    assert len(series) >= CHAIN
    for place, step in enumerate(series.steps):
        now = float(loop.gradients[step] @ loop.gradients[step])
        assert float(series.moments["squared"][place].sum()) == pytest.approx(now, rel=1e-6)


def test_a_step_without_an_update_is_in_no_pair(tmp_path: Path) -> None:
    """As with a scaler that skips it: both gradients would be of the same parameters."""
    loop = Loop(OPTIMIZERS["SGD"])
    skipped = {6, 7, 15}
    with watch(loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(40):
            w.step(*loop.backward())
            if step not in skipped:
                loop.optimizer.step()
    steps = set(w.run.series("noise").steps.tolist())
    assert steps and not steps & {step + 1 for step in skipped}


def test_batches_of_two_sizes_make_a_pair(tmp_path: Path) -> None:
    loop = Loop(OPTIMIZERS["SGD"])
    with watch(loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(40):
            w.step(*loop.backward(4 if step % 10 == 9 else 8))
            loop.optimizer.step()
    series = w.run.series("noise")
    assert {step % 10 for step in series.steps.tolist()} == set(range(10))
    for place, step in enumerate(series.steps):
        product = float(loop.gradients[step - 1] @ loop.gradients[step])
        assert float(series.moments["product"][place].sum()) == pytest.approx(product, rel=1e-9)
        size = 4 if step % 10 == 9 else 8
        assert series.batch_size[place] == size
        assert float(series.moments["inverse_size"][place]) == 1 / size


def test_a_batch_without_examples_is_in_no_pair(tmp_path: Path) -> None:
    """As one that a filter has emptied."""
    loop = Loop(OPTIMIZERS["SGD"])
    with watch(loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(40):
            loss, batch = loop.backward()
            if step % 10 == 9:
                w.step(loss, (batch[0][:0], batch[1][:0]))
            else:
                w.step(loss, batch)
                loop.optimizer.step()
    assert not w.run.warnings
    assert len(w.run.series("noise")) > 20


def test_one_example_is_a_batch(tmp_path: Path) -> None:
    """As an episode of a policy, which the model sees one state at a time."""
    loop = Loop(OPTIMIZERS["AdamW"])
    with watch(loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(60):
            w.step(loop.backward(1)[0])
            loop.optimizer.step()
    assert w.run is not None and w.run.configuration.batch_size == 1
    assert len(w.run.series("preconditioned_noise")) >= 3 * CHAIN


def test_a_parameter_without_a_gradient_counts_as_zero(tmp_path: Path) -> None:
    """As the expert of a mixture that no example of the batch was sent to."""
    loop = Loop(OPTIMIZERS["momentum"])
    bias = loop.model[2].bias
    with watch(loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(40):
            loss, batch = loop.backward()
            if step % 3 == 0:
                loop.gradients[-1][-bias.numel() :] = 0.0
                bias.grad = None
            w.step(loss, batch)
            loop.optimizer.step()
    series = w.run.series("noise")
    assert len(series) >= 3 * CHAIN
    for place, step in enumerate(series.steps):
        now, before = loop.gradients[step], loop.gradients[step - 1]
        moments = {key: float(values[place].sum()) for key, values in series.moments.items()}
        assert moments["product"] == pytest.approx(float(before @ now), rel=1e-9)
        assert moments["squared"] == pytest.approx(float(now @ now), rel=1e-9)


def test_several_optimizers_with_one_rule(tmp_path: Path) -> None:
    loop = Loop(OPTIMIZERS["momentum"])
    first, last = loop.model[0].parameters(), loop.model[2].parameters()
    optimizers = [OPTIMIZERS["momentum"](first), OPTIMIZERS["momentum"](last)]
    with watch(loop.model, optimizers, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(30):
            w.step(*loop.backward())
            for optimizer in optimizers:
                optimizer.step()
    series = w.run.series("noise")
    step = int(series.steps[0])
    product = float(loop.gradients[step - 1] @ loop.gradients[step])
    assert float(series.moments["product"][0].sum()) == pytest.approx(product, rel=1e-9)


def _clipped_before_step(tmp_path: Path, clock: Clock | None = None, **settings: Any) -> Any:
    loop = Loop(OPTIMIZERS["SGD"])
    w = watch(
        loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True, gauges="noise", **settings
    )
    if clock is not None:
        w.budget.clock = clock
    with w:
        for _ in range(300):
            loss, batch = loop.backward()
            nn.utils.clip_grad_norm_(loop.model.parameters(), 0.01)
            w.step(loss, batch)
            loop.optimizer.step()
            if clock is not None:
                clock.seconds += 1
    return w


def test_a_gradient_clipped_before_step_is_refused_by_name(tmp_path: Path) -> None:
    w = _clipped_before_step(tmp_path)
    assert w.run.series("noise") is None
    assert any("`.grad` was clipped before `step`" in text for text in w.run.warnings)


def test_with_a_loss_halves_take_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, measure = Clock(), GradientNoise.measure

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def slow(gauge: GradientNoise, step: Any) -> Any:
        clock.seconds += 1
        return measure(gauge, step)

    monkeypatch.setattr(GradientNoise, "measure", slow)
    w = _clipped_before_step(tmp_path, clock, loss=loss)
    series = w.run.series("noise")
    assert series is not None and "gradient_variance" in series.moments
    assert any("half of the batch is run again" in text for text in w.run.warnings)
    assert w.run.overhead["mode"] == "apart"
    # as early as in a loop that reads halves from the start: an estimate needs 16 readings
    assert len(series) >= 16


def test_rules_that_are_known_and_not() -> None:
    parameter = nn.Parameter(torch.zeros(3))

    def rule(kind: type[Any], **settings: Any) -> Rule | str:
        return rule_of([kind([parameter], lr=0.1, **settings)])

    assert rule(torch.optim.SGD) == Rule("", adaptive=False, nesterov=False)
    assert rule(torch.optim.SGD, momentum=0.9) == Rule(
        "momentum_buffer", adaptive=False, nesterov=False
    )
    assert rule(torch.optim.AdamW) == Rule("exp_avg", adaptive=True, nesterov=False)
    for unknown in (
        rule(torch.optim.Rprop),
        rule(torch.optim.RMSprop),
        rule(torch.optim.SGD, momentum=0.9, dampening=0.5),
        rule(torch.optim.Adam, betas=(0.0, 0.99)),
        rule_of(
            [torch.optim.SGD([parameter], lr=0.1), torch.optim.Adam([nn.Parameter(torch.zeros(2))])]
        ),
    ):
        assert isinstance(unknown, str)


@pytest.mark.parametrize(
    "alternates",
    [pytest.param(False, marks=pytest.mark.slow), True],
    ids=["one size", "another size at every step"],
)
def test_the_budget_is_kept_in_the_long_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alternates: bool
) -> None:
    """Chains that cost as much as the training itself are made rarely, also if they are all cut
    short."""
    monkeypatch.setattr(products, "EARLY_SHARE", 0.0)
    monkeypatch.setattr(products, "LATEST", 1)
    loop = Loop(OPTIMIZERS["SGD"])
    seconds = [0.0]
    with watch(
        loop.model, loop.optimizer, out=tmp_path, page=False, quiet=True, gauges="noise"
    ) as w:
        w.budget.clock = lambda: seconds[0]
        products_read = next(
            one for one in w.observers if isinstance(one, products.GradientProducts)
        )
        read = products_read._read

        def slow(*given: Any) -> None:
            seconds[0] += 1.0
            read(*given)

        monkeypatch.setattr(products_read, "_read", slow)
        for step in range(3000):
            w.step(*loop.backward(8 + alternates * (step % 2)))
            loop.optimizer.step()
            seconds[0] += 1.0
        assert 0.01 < w.budget.spent_on["products of gradients"] / 3000 < 0.035


def test_steps_that_are_too_short_to_pay_have_recent_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever paid for, and yet the newest reading of 500 steps is at most an eighth of the
    run old."""
    monkeypatch.setattr(products, "EARLY_SHARE", 0.0)
    w = _train(Loop(OPTIMIZERS["SGD"]), 500, tmp_path, gauges="noise", budget=1e-6)
    steps = w.run.series("noise").steps.tolist()
    assert len(steps) < 100
    assert steps[-1] > 500 * 7 / 8 - 2 * CHAIN
    assert sum(step <= 270 for step in steps) <= 48


def test_the_early_pause_ends_with_the_early_steps() -> None:
    assert [longest_pause(step) for step in (8, 144, 263, 296, 400)] == [8, 144, 37, 37, 50]


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("seconds", [1e-9, 1e3], ids=["quick", "slow"])
def test_with_every_step_all_pairs_are_read_whatever_they_take(
    name: str, seconds: float, tmp_path: Path
) -> None:
    loop = Loop(OPTIMIZERS[name])
    now = [0.0]

    def clock() -> float:
        now[0] += seconds  # every look at the clock is later
        return now[0]

    asked = {"every": 1, "gauges": "noise", "page": False, "quiet": True}
    with watch(loop.model, loop.optimizer, out=tmp_path, **asked) as w:
        w.budget.clock = clock
        for _ in range(60):
            w.step(*loop.backward())
            loop.optimizer.step()
    series = w.run.series("noise")
    assert series.steps.tolist() == [*range(1, 60)]
    for place, step in enumerate(series.steps):
        product = float(loop.gradients[step - 1] @ loop.gradients[step])
        assert series.moments["product"][place].sum() == pytest.approx(product, rel=1e-9)


def test_with_every_step_the_sharpness_is_measured_at_one_in_sixteen(tmp_path: Path) -> None:
    asked = {"loss": supervised(nn.CrossEntropyLoss(reduction="none")), "every": 1}
    run = _train(Loop(OPTIMIZERS["SGD"]), 40, tmp_path, gauges="noise,batch_sharpness", **asked).run
    assert run.series("noise").steps.tolist() == [*range(1, 40)]
    assert run.series("batch_sharpness").steps.tolist() == [0, 16, 32]
    alone = _train(Loop(OPTIMIZERS["SGD"]), 10, tmp_path, gauges="batch_sharpness", **asked).run
    assert alone.series("batch_sharpness").steps.tolist() == [*range(10)]


@pytest.mark.parametrize(
    "asked", [{"every": 3}, {"every": 3, "parts": 2}, {"every": 1, "parts": 2}]
)
def test_single_steps_and_parts_are_read_from_halves(asked: dict[str, int], tmp_path: Path) -> None:
    loss = supervised(nn.CrossEntropyLoss(reduction="none"))
    run = _train(Loop(OPTIMIZERS["SGD"]), 10, tmp_path, gauges="noise", loss=loss, **asked).run
    series = run.series("noise")
    assert series.steps.tolist() == [*range(0, 10, asked["every"])]
    assert "product" not in series.moments
