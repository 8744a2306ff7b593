"""A fork of a watched loop is that loop: updates that it made are made again on a copy, with its
clipping, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_loops.plain import SAM
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import Unsupported, watch
from gradiometer.integrations.watch.observers import kept_updates
from gradiometer.integrations.watch.requests import forks as requests
from gradiometer.loop import Fork, Loop
from gradiometer.loop.marks import marks_of

INPUTS = torch.randn(256, 10, generator=torch.Generator().manual_seed(1))
LABELS = INPUTS[:, :4].argmax(dim=1)
OWN = torch.Generator().manual_seed(3)


class Network(nn.Module):
    def __init__(self, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(10, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dropout(torch.relu(self.norm(self.first(x)))))


def mean(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def in_another_order(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]).double(), batch[1]).float()


def with_noise(model: nn.Module, batch: Any) -> Tensor:
    noise = torch.randn(batch[0].shape, generator=OWN) + torch.randn(batch[0].shape)
    return functional.cross_entropy(model(batch[0] + 0.1 * noise), batch[1])


Between = Callable[[nn.Module], object]


def forked(
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    loss: Any = mean,
    trained: Any = None,
    adam: bool = False,
    between: Between = lambda model: None,
    after: Between = lambda model: None,
    accumulation: int = 1,
    scaler: Any = None,
    steps: int = 36,
    settings: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
) -> tuple[Fork, Loop]:
    """A fork at the end of a loop, and the loop that was forked."""
    torch.manual_seed(0)
    model = Network(**(network or {}))
    kind = torch.optim.AdamW if adam else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.01 if adam else 0.1)
    order, loops = torch.Generator().manual_seed(2), list[Loop]()
    original = requests.fork

    def seen(loop: Loop, *given: Any, **named: Any) -> Fork:
        loops.append(loop)
        return original(loop, *given, **named)

    monkeypatch.setattr(requests, "fork", seen)
    with watch(
        model,
        optimizer,
        loss=loss,
        out=out,
        page=False,
        quiet=True,
        accumulation=accumulation,
        scaler=scaler,
    ) as w:
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(accumulation):
                chosen = torch.randint(256, (32,), generator=order)
                batch = INPUTS[chosen], LABELS[chosen]
                value = (trained or loss)(model, batch)
                part = value / accumulation
                (part if scaler is None else scaler.scale(part)).backward()
                w.step(value, batch)
            if scaler is None:
                between(model)
                optimizer.step()
            else:
                scaler.unscale_(optimizer)
                between(model)
                scaler.step(optimizer)
                scaler.update()
            after(model)
        before = (
            {name: tensor.clone() for name, tensor in model.state_dict().items()},
            torch.get_rng_state(),
            OWN.get_state(),
        )
        found = w.fork(
            batches=(INPUTS, LABELS),
            batch_size=32,
            alternatives=["rate 2x"],
            horizon="4 updates",
            replicates=1,
            **(settings or {}),
        )
        assert all(
            torch.equal(before[0][name], tensor) for name, tensor in model.state_dict().items()
        )
        assert torch.equal(before[1], torch.get_rng_state()) and torch.equal(
            before[2], OWN.get_state()
        )
    assert found is not None
    return found, loops[0]


def clip(norm: float) -> Between:
    return lambda model: nn.utils.clip_grad_norm_(model.parameters(), norm)


SAME: dict[str, dict[str, Any]] = {
    "SGD": {},
    "AdamW": {"adam": True},
    "dropout": {"network": {"dropout": 0.3}},
    "BatchNorm": {"network": {"norm": True}, "adam": True},
    "draws in the loss": {"loss": with_noise},
    "accumulation": {"accumulation": 2},
    "scaler": {"scaler": torch.amp.GradScaler("cpu", init_scale=1024.0)},
}


@pytest.mark.parametrize("case", SAME.values(), ids=SAME)
def test_updates_of_the_loop_have_the_same_bits_on_a_copy(
    case: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, loop = forked(tmp_path, monkeypatch, **case)
    assert found.notes == () and loop.clip is None and loop.clip_value is None


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_clipping_to_a_norm_is_found_and_the_branches_clip(
    adam: bool, scaled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if scaled else None
    found, loop = forked(tmp_path, monkeypatch, adam=adam, between=clip(0.37), scaler=scaler)
    assert found.notes == () and loop.clip == 0.37


def test_clipping_to_a_value_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, loop = forked(
        tmp_path,
        monkeypatch,
        between=lambda model: nn.utils.clip_grad_value_(model.parameters(), 0.02),
    )
    assert found.notes == () and loop.clip_value == pytest.approx(0.02)


def test_a_loss_that_differs_by_rounding_is_forked_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, loop = forked(
        tmp_path, monkeypatch, loss=in_another_order, trained=mean, between=clip(0.37)
    )
    assert "differ by rounding" in found.notes[0] and loop.clip == 0.37


def test_clipping_that_only_the_record_shows_is_taken_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_updates, "MOST_NUMBERS", 10)
    found, loop = forked(tmp_path, monkeypatch, between=clip(0.37))
    assert loop.clip == 0.37
    assert (
        "more than 10 numbers" in found.notes[0]
        and "clipped the gradient to norm 0.37" in found.notes[1]
    )


def with_own_noise(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad += 0.01 * torch.randn(parameter.shape)  # type: ignore[operator]


def clamped(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.clamp_(-0.2, 0.2)


def smoothed(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1], label_smoothing=0.1)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "noise on gradients": (
        {"between": with_own_noise},
        "at step 32 the gradient of .* had norm .*, and .* in a copy",
    ),
    "clamped weights": (
        {"after": clamped},
        "had norm .* before the update, and .* Something besides the optimizer",
    ),
    "another loss": ({"trained": smoothed}, "the gradient of .* had norm"),
    "a factor": (
        {"trained": lambda model, batch: 8 * mean(model, batch)},
        "was 8 times that of a copy",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case, message", OTHERS.values(), ids=OTHERS)
def test_a_loop_that_makes_other_updates_is_refused_with_what_differs(
    case: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match=message):
        forked(tmp_path, monkeypatch, **case)


def test_a_step_of_ones_own_is_compared_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = mean(model, batch)
        value.backward()
        optimizer.step()
        clamped(model)
        return value

    def wrong(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad()
        value = smoothed(model, batch)
        value.backward()
        optimizer.step()
        return value

    def score(model: nn.Module) -> float:
        return float(mean(model, (INPUTS, LABELS)))

    found, _ = forked(
        tmp_path, monkeypatch, after=clamped, settings={"step": step, "evaluate": score}
    )
    assert found.notes == ()
    with pytest.raises(Unsupported, match="`step` does not make the updates of your loop"):
        forked(tmp_path, monkeypatch, settings={"step": wrong, "evaluate": score})


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_the_second_backward_of_sam_is_found_and_branches_make_it(
    rho: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, order = Network(), torch.Generator().manual_seed(2)
    optimizer, loops, original = (
        SAM(model.parameters(), torch.optim.SGD, rho, lr=0.1),
        list[Loop](),
        requests.fork,
    )

    def seen(loop: Loop, *given: Any, **named: Any) -> Fork:
        loops.append(loop)
        return original(loop, *given, **named)

    def update(batch: Any, w: Any = None) -> None:
        optimizer.zero_grad()
        value = mean(model, batch)
        value.backward()
        if w is not None:
            w.step(value, batch)
        optimizer.first_step()
        mean(model, batch).backward()
        optimizer.second_step()

    def batches(seed: int) -> list[Any]:
        own = torch.Generator().manual_seed(5)
        return [
            (INPUTS[chosen], LABELS[chosen])
            for chosen in torch.randint(256, (4, 32), generator=own)
        ]

    def parameters(copy: nn.Module) -> dict[str, Any]:
        values = torch.cat([parameter.detach().flatten() for parameter in copy.parameters()])
        return {"numbers": values.abs(), "signs": values.sign()}

    monkeypatch.setattr(requests, "fork", seen)
    with watch(model, optimizer, loss=mean, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(36):
            chosen = torch.randint(256, (32,), generator=order)
            update((INPUTS[chosen], LABELS[chosen]), w)
        found = w.fork(
            batches=batches,
            alternatives=["rate 2x"],
            horizon="4 updates",
            replicates=1,
            tail="none",
            evaluate=parameters,
        )
    assert found is not None and found.notes == () and loops[0].ascent == rho
    for batch in batches(0):
        update(batch)
    for name, expected in parameters(model).items():
        assert (found.of("go on")[0].readouts[name].values == expected.numpy()).all()


def test_a_loop_without_updates_to_compare_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = forked(tmp_path, monkeypatch, steps=2)
    assert "since the loop has not made enough updates yet" in found.notes[0]


def test_marks_differ_if_one_bit_differs_or_two_numbers_change_places() -> None:
    numbers = torch.randn(3 * 2**19, generator=torch.Generator().manual_seed(0))
    known = {
        "a": numbers,
        "empty": torch.zeros(0),
        "one": torch.tensor(3.0),
        "flags": torch.ones(3, dtype=torch.bool),
    }
    marks = marks_of(known)
    assert marks == marks_of(known) and marks.norm_of["a"] == pytest.approx(
        float(numbers.double().norm()), rel=1e-3
    )
    changed, swapped = numbers.clone(), numbers.clone()
    changed[-1] = torch.nextafter(changed[-1], torch.tensor(9.0))
    swapped[[5, 2**16 + 6]] = swapped[[2**16 + 6, 5]]
    for other in (changed, swapped):
        assert marks != marks_of({**known, "a": other})
    far = numbers + 0.1 * torch.randn(len(numbers), generator=torch.Generator().manual_seed(1))
    assert marks.distance(marks_of({**known, "a": far}), ["a"]) == pytest.approx(
        float((far - numbers).norm()), rel=0.1
    )
