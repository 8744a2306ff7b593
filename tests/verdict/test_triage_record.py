"""What `watch` records for triage in real small loops, and that training stays as it was."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import Run, diagnose, watch
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs
from small_classifier import INPUTS, LABELS, STEPS, loss_of, network, sgd


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


def adamw_foreach(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)


class Scaler:
    """What a GradScaler does to the gradients, on a CPU."""

    def scale(self, loss: Tensor) -> Tensor:
        return loss * 1024.0

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return 1024.0

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 1024.0
        optimizer.step()

    def update(self) -> None:
        """The factor is constant."""


def train(
    tmp_path: Path | None,
    optimizer_of: Callable[[nn.Module], torch.optim.Optimizer] = sgd,
    *,
    model: nn.Module | None = None,
    pieces: int = 1,
    divided: bool = True,
    clip: float | None = None,
    clip_first: bool = False,
    clears: int = 1,
    eval_mode: bool = False,
    scaler: Any = None,
    given_scaler: bool = True,
    steps: int = STEPS,
    settings: dict[str, Any] | None = None,
    inputs: Tensor = INPUTS,
) -> tuple[list[Tensor], Run | None]:
    """A plain loop, under `watch` if there is a folder: its parameters at the end, and the run."""
    model = network() if model is None else model
    optimizer = optimizer_of(model)
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(4)
    watched = None
    if tmp_path is not None:
        given = {"accumulation": pieces, "page": False, "quiet": True, **(settings or {})}
        if scaler is not None and given_scaler:
            given["scaler"] = scaler
        watched = watch(model, optimizer, loss=loss_of, out=tmp_path, **given)
        watched.__enter__()
    model.train(not eval_mode)
    for step in range(steps):
        if step % clears == 0:
            optimizer.zero_grad()
        for _ in range(pieces):
            chosen = torch.randint(len(inputs), (16,), generator=generator)
            batch = inputs[chosen], LABELS[chosen]
            loss = loss_of(model, batch).mean()
            root = loss / pieces if divided else loss
            (root if scaler is None else scaler.scale(root)).backward()
            # the norm before it is heard at `backward`, from the second step on
            if clip and clip_first:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if watched is not None:
                watched.step(loss.detach(), batch)
        if clip and not clip_first:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step() if scaler is None else scaler.step(optimizer)
    if watched is not None:
        watched.__exit__(None, None, None)
    return [
        parameter.detach().clone() for parameter in model.parameters()
    ], None if watched is None else watched.run


def signs_of(tmp_path: Path, *arguments: Any, **settings: Any) -> Signs:
    run = train(tmp_path, *arguments, **settings)[1]
    assert run is not None and run.warnings == [
        each for each in run.warnings if "triage" not in each
    ]
    return Signs.of(run)


CASES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer_of": sgd},
    "momentum": {"optimizer_of": momentum},
    "AdamW": {"optimizer_of": adamw},
    "AdamW, foreach": {"optimizer_of": adamw_foreach},
    "scaled": {"scaler": Scaler()},
    "accumulated": {"pieces": 3},
    "clipped": {"clip": 0.1},
    "gradients kept": {"clears": 1000},
    "eval mode": {"eval_mode": True},
}


@pytest.mark.parametrize("name", CASES)
def test_training_keeps_its_bits(tmp_path: Path, name: str) -> None:
    plain, _ = train(None, **CASES[name])
    watched, run = train(tmp_path, **CASES[name])
    assert run is not None and len(run.signs) > 3
    assert all(map(torch.equal, plain, watched))


def test_numbers_are_those_of_the_training(tmp_path: Path) -> None:
    """Compared with a loop that computes them itself, at every step."""
    signs = signs_of(tmp_path, momentum)
    model = network()
    optimizer = momentum(model)
    generator = torch.Generator().manual_seed(3)
    by_hand: dict[int, dict[str, Any]] = {}
    before: list[Tensor] = []
    for step in range(STEPS):
        optimizer.zero_grad()
        chosen = torch.randint(len(INPUTS), (16,), generator=generator)
        loss_of(model, (INPUTS[chosen], LABELS[chosen])).mean().backward()
        gradient = [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        by_hand[step] = {
            "gradient": [float(one.norm()) for one in gradient],
            "nonzero": [int(one.count_nonzero()) for one in gradient],
            "weights": [float(one.norm()) for one in weights],
            "movement": [
                float((new.detach() - old).norm())
                for new, old in zip(model.parameters(), weights, strict=True)
            ],
            "product": sum(
                float((new * old).sum()) for new, old in zip(gradient, before, strict=False)
            ),
            "input_std": float(INPUTS[chosen].std(correction=0)),
            "classes": len(LABELS[chosen].unique()),
        }
        before = gradient
    assert len(signs.looks) >= 5
    for place, step in enumerate(signs.looks.tolist()):
        for name, value in by_hand[step].items():
            found = (signs.tensors if name in signs.tensors else signs.single)[name][place]
            if place >= 3 and name in ("input_std", "classes") and np.isnan(found):
                continue  # one look in four takes moments of the batch
            assert found == pytest.approx(value, rel=1e-4, abs=1e-6), (name, step)
    assert signs.single["clipped"] == pytest.approx(
        (signs.tensors["gradient"] ** 2).sum(axis=1) ** 0.5, rel=1e-4
    )


def test_a_look_after_an_update_with_fewer_backwards_is_that_of_its_own_step(
    tmp_path: Path,
) -> None:
    """The end of an epoch leaves fewer batches than are accumulated."""
    model = network()
    optimizer = sgd(model)
    made: list[list[float]] = []
    with watch(
        model, optimizer, loss=loss_of, out=tmp_path, accumulation=3, page=False, quiet=True
    ) as w:
        for step in range(100):
            optimizer.zero_grad(set_to_none=False)
            for _ in range(1 if step % 4 == 3 else 3):
                batch = INPUTS[16 * (step % 8) :][:16], LABELS[16 * (step % 8) :][:16]
                loss = loss_of(model, batch).mean()
                loss.backward()
                w.step(loss.detach(), batch)
            made.append([float(one.grad.norm()) for one in model.parameters()])
            optimizer.step()
    assert w.run is not None
    signs = Signs.of(w.run)
    assert len(signs.looks) >= 6
    for look, norms in zip(signs.looks, signs.tensors["gradient"], strict=True):
        assert norms.tolist() == pytest.approx(made[int(look)], rel=1e-5), look
    assert set(signs.single["backwards"]) == {3.0}


def test_looks_are_about_ten_steps_apart_and_in_no_period(tmp_path: Path) -> None:
    looks = signs_of(tmp_path, steps=150).looks
    assert set((looks[1:] - looks[:-1]).tolist()) == {7, 11, 13} and looks[0] == 1


def test_the_trained_loss_is_recognised(tmp_path: Path) -> None:
    signs = signs_of(tmp_path)
    known = signs.single["as_cross_entropy"]
    assert (
        known[:3] == pytest.approx(signs.given[:3], rel=1e-4)
        and signs.series("classes_seen")[-1] == 4
    )


@pytest.mark.parametrize("first", [False, True])
def test_the_norm_is_known_before_and_after_clipping(tmp_path: Path, *, first: bool) -> None:
    signs = signs_of(tmp_path, clip=0.1, clip_first=first)
    assert signs.single["clipped"] == pytest.approx(0.1, rel=1e-3)
    assert ((signs.tensors["gradient"] ** 2).sum(axis=1) ** 0.5 > 0.2).all()


@pytest.mark.parametrize("given", [True, False])
def test_a_scaler_is_no_clipping(tmp_path: Path, *, given: bool) -> None:
    run = train(tmp_path, scaler=Scaler(), given_scaler=given)[1]
    assert run is not None
    assert Claim.CLIP_SMALL not in {each.claim for each in diagnose(run).triage.claims}  # type: ignore[union-attr]


def claims_of(tmp_path: Path, **settings: Any) -> set[str]:
    run = train(tmp_path, **settings)[1]
    assert run is not None
    diagnosis = diagnose(run)
    found = diagnosis.to_dict()
    assert found["headline"] == diagnosis.headline.claim  # type: ignore[union-attr]
    return set(found["claims"])


def test_a_healthy_loop_has_no_exact_fault(tmp_path: Path) -> None:
    exact = {
        "no_gradient",
        "softmax_twice",
        "eval_mode",
        "dropout",
        "zero_grad",
        "accumulation",
        "clip_small",
    }
    assert not exact & claims_of(tmp_path, pieces=2)


def test_gradients_that_are_never_cleared_are_seen(tmp_path: Path) -> None:
    assert "zero_grad" in claims_of(tmp_path, clears=1000)


def test_the_backward_of_a_critic_does_not_find_gradients_of_the_generator(tmp_path: Path) -> None:
    generator, critic = network(), nn.Linear(4, 1)
    ours, theirs = sgd(generator), sgd(critic)
    with watch(generator, ours, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(STEPS):
            made = generator(INPUTS[:16])
            theirs.zero_grad()
            critic(
                made.detach()
            ).mean().backward()  # `.grad` of the generator still holds the step before
            theirs.step()
            ours.zero_grad()
            loss = critic(made).mean()
            loss.backward()
            w.step(loss)
            ours.step()
    assert w.run is not None
    assert "zero_grad" not in {finding.claim for finding in diagnose(w.run).findings}


def test_gradients_that_are_cleared_at_every_tenth_step_are_seen(tmp_path: Path) -> None:
    assert "zero_grad" in claims_of(tmp_path, clears=10)


def test_sums_that_were_not_divided_are_seen(tmp_path: Path) -> None:
    assert "accumulation" in claims_of(tmp_path, pieces=4, divided=False)


def test_eval_mode_is_seen(tmp_path: Path) -> None:
    assert "eval_mode" in claims_of(tmp_path, model=network(dropout=0.2), eval_mode=True)


def test_dropout_is_seen(tmp_path: Path) -> None:
    assert "dropout" in claims_of(tmp_path, model=network(dropout=0.9))


def test_clipping_that_leaves_nothing_is_seen(tmp_path: Path) -> None:
    assert "clip_small" in claims_of(tmp_path, clip=1e-3)


def test_a_softmax_before_the_loss_is_seen(tmp_path: Path) -> None:
    assert "softmax_twice" in claims_of(tmp_path, model=network().append(nn.Softmax(dim=1)))


def test_inputs_that_are_not_scaled_are_seen(tmp_path: Path) -> None:
    assert "unscaled" in claims_of(tmp_path, inputs=100 * INPUTS, optimizer_of=adamw)


def test_parameters_without_a_gradient_are_seen(tmp_path: Path) -> None:
    class Unused(nn.Module):
        """A layer that the forward does not use."""

        def __init__(self) -> None:
            super().__init__()
            self.body, self.rest = network(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)  # type: ignore[no-any-return]

    run = train(tmp_path / "unused", model=Unused())[1]
    assert run is not None
    # such a layer is no fault, and not one of dead units
    assert Signs.of(run).series("without_gradient").min() == 2
    assert not {"no_gradient", "dead_relu"} & {*diagnose(run).to_dict()["claims"]}

    class Cut(Unused):
        """A layer before which the gradient ends."""

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(self.body(x).detach().repeat(1, 2))[:, :4]  # type: ignore[no-any-return]

    assert "no_gradient" in claims_of(tmp_path / "cut", model=Cut())

    def head_alone(model: nn.Module) -> torch.optim.Optimizer:
        return sgd(list(model.children())[-1])

    run = train(tmp_path / "head", head_alone)[1]
    assert run is not None
    claimed = diagnose(run).triage.claims[0]  # type: ignore[union-attr]
    assert claimed.claim is Claim.NO_GRADIENT and claimed.numbers["untrained"] == 2


def test_a_rate_that_is_set_between_backward_and_update_is_recorded(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    with watch(model, optimizer, loss=loss_of, out=tmp_path, page=False, quiet=True) as w:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, (INPUTS[:16], LABELS[:16])).mean()
            loss.backward()
            w.step(loss, (INPUTS[:16], LABELS[:16]))
            optimizer.param_groups[0]["lr"] = 1.0 if step == 30 else 0.1
            optimizer.step()
    assert w.run is not None
    rates = Signs.of(w.run).rates
    assert rates[30] == 1.0 and rates[29] == rates[31] == 0.1 and len(rates) == STEPS


def test_a_step_that_is_not_due_makes_few_calls_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looks `step` compares one number, the update one object, and nothing of triage runs."""
    # losses are written four times a second, at other steps of a slow machine
    monkeypatch.setattr("gradiometer.integrations.watch.observers.losses.LOOK_SECONDS", 1000.0)
    calls: dict[bool, dict[int, int]] = {True: {}, False: {}}
    for records in (True, False):
        model = network()
        optimizer = sgd(model)
        with watch(
            model, optimizer, loss=loss_of, out=tmp_path, every=1000, page=False, quiet=True
        ) as w:
            for step in range(40):
                if step == 2 and not records:
                    w._triage.close(None)
                optimizer.zero_grad()
                batch = INPUTS[:16], LABELS[:16]
                loss = loss_of(model, batch).mean()
                loss.backward()
                inside = step == w._triage.next or w._triage.awaits_update
                count = 0

                def count_call(frame: Any, event: str, _: Any) -> None:
                    nonlocal count
                    count += event in ("call", "c_call")

                sys.setprofile(count_call)
                w.step(loss, batch)
                optimizer.step()
                sys.setprofile(None)
                if step >= 14 and not inside:
                    calls[records][step] = count
    assert len(calls[True]) >= 15
    assert {step: calls[False][step] for step in calls[True]} == calls[True]


class Autoencoder(nn.Module):
    """Returns its code and what it makes of it, as public ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 3), nn.Linear(3, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(x)
        return code, self.decoder(code)


def test_labels_that_are_no_classes_of_the_outputs_are_no_error(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Autoencoder()
    optimizer = sgd(model)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for step in range(STEPS):
            inputs, labels = INPUTS[step : step + 32], LABELS[step : step + 32]
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(inputs)[1], inputs)
            loss.backward()
            w.step(loss, (inputs, labels))
            optimizer.step()
    assert LABELS.max() == 3 and len(Signs.of(w.run).looks) > 5


def test_a_failure_of_triage_does_not_reach_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradiometer.integrations.watch.observers.triage.recorder import TriageRecorder

    def fail(_: TriageRecorder) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TriageRecorder, "_keep_parameters", fail)
    plain, _ = train(None)
    watched, run = train(tmp_path)
    assert all(map(torch.equal, plain, watched)) and run is not None
    assert any("triage has stopped" in text for text in run.warnings)


def test_the_movement_of_a_large_model_is_seen_in_some_of_its_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradiometer.integrations.watch.observers.triage import recorder

    def wide() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Linear(256, 16), nn.Linear(16, 4))

    plain, run = train(tmp_path / "all", model=wide())
    sizes = [one.numel() for one in plain]
    assert run is not None and max(sizes) > 1000  # a fifth of them estimates a norm
    monkeypatch.setattr(recorder, "FOLLOWED", sum(sizes) // 5)
    monkeypatch.setattr(recorder, "SMALL_TENSOR", 100)
    watched, part = train(tmp_path / "some", model=wide())
    assert part is not None and all(map(torch.equal, plain, watched))
    whole, some = Signs.of(run).tensors["movement"], Signs.of(part).tensors["movement"]
    assert whole.shape == some.shape and len(whole) > 5
    for place, size in enumerate(sizes):
        ratios = some[1:, place] / whole[1:, place]
        if size <= 100:
            assert ratios == pytest.approx(1.0)
        elif size > 1000:
            # ‖·‖ of a fifth of 1,000 entries has a standard error below a tenth
            assert (ratios != 1).any() and ratios.mean() == pytest.approx(1.0, abs=0.1)


def test_nothing_is_recorded_without_a_budget(tmp_path: Path) -> None:
    run = train(tmp_path, settings={"budget": 0.0})[1]
    assert run is not None and run.signs == []


def test_the_planned_length_is_recorded(tmp_path: Path) -> None:
    run = train(tmp_path, settings={"steps": STEPS})[1]
    assert run is not None and Signs.of(run).facts["steps"] == STEPS

    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=77)
    with watch(model, optimizer, loss=loss_of, out=tmp_path, page=False, quiet=True) as w:
        loss = loss_of(model, (INPUTS[:16], LABELS[:16])).mean()
        loss.backward()
        w.step(loss, (INPUTS[:16], LABELS[:16]))
        optimizer.step()
        scheduler.step()
    assert w.run is not None and Signs.of(w.run).facts["scheduled"] == 77
