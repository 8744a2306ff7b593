"""`watch`: the instrument in a loop of your own, which it leaves as it was, bit for bit."""

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import gradiometer
from conftest import CASES
from fixed_point import BATCH, NOISE_SCALE, RATE, SAMPLING, Position, assert_known, draws, losses
from gradiometer import BadArgument, diagnose, sampling_of, watch
from gradiometer.estimation import GradientNoise
from gradiometer.integrations.watch import Watch
from gradiometer.loop import forks_of
from gradiometer.measurement import Draw, Sampling
from gradiometer.report.page import write_page
from gradiometer.run import Run
from watched_loop import one_backward, simple

Loop = Callable[[nn.Module, torch.optim.Optimizer, Any], None]


def batches(case: Any, count: int, size: int = 8) -> list[Any]:
    """Random parts of a case's batch."""
    generator = torch.Generator().manual_seed(2)
    chosen = [torch.randperm(12, generator=generator)[:size] for _ in range(count)]
    if isinstance(case.batch, dict):
        return [{"tokens": case.batch["tokens"][index]} for index in chosen]
    return [tuple(tensor[index] for tensor in case.batch) for index in chosen]


def trained(
    name: str,
    watched: bool,
    out: Path,
    *,
    steps: int,
    accumulation: int = 1,
    clip: float = 0.0,
    **settings: Any,
) -> list[Tensor]:
    """All that training leaves: weights, buffers, momenta, losses and the state of
    the generator."""
    torch.manual_seed(0)
    case = CASES[name]()
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05, momentum=0.9)
    kept: list[Tensor] = []

    def loop(w: Watch | None) -> None:
        ahead = iter(batches(case, steps * accumulation))
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(accumulation):
                batch = next(ahead)
                loss = case.loss(case.model, batch).mean()
                (loss / accumulation).backward()
                if w is not None:
                    w.step(loss, batch)
                kept.append(loss.detach())
            if clip:
                nn.utils.clip_grad_norm_(case.model.parameters(), clip)
            optimizer.step()

    if watched:
        with watch(
            case.model, optimizer, loss=case.loss, out=out, accumulation=accumulation, **settings
        ) as w:
            loop(w)
    else:
        loop(None)
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    return [*case.model.state_dict().values(), *momenta, *kept, torch.get_rng_state()]


@pytest.mark.parametrize(
    ("name", "accumulation", "clip", "steps"),
    [
        ("mlp", 4, 0.0, 50),
        ("cnn_with_batch_norm_and_dropout", 1, 0.1, 50),
        ("tiny_transformer", 4, 0.0, 50),
        pytest.param("mlp", 1, 0.1, 200, marks=pytest.mark.slow),
        pytest.param("cnn_with_batch_norm_and_dropout", 4, 0.0, 200, marks=pytest.mark.slow),
        pytest.param("tiny_transformer", 1, 0.1, 200, marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_bits_with_and_without_watch(
    tmp_path: Path, name: str, accumulation: int, clip: float, steps: int
) -> None:
    asked = {"accumulation": accumulation, "clip": clip, "steps": steps}
    without = trained(name, False, tmp_path, **asked)
    with_watch = trained(name, True, tmp_path, **asked, every=steps // 5, parts=2)
    assert all(map(torch.equal, without, with_watch))
    run = Run.open(tmp_path / "loop-1")
    assert (
        len(run.series("noise")) == 5 and len(run.losses[0]) == steps and run.status == "finished"
    )


def standing(
    out: Path,
    steps: int = 100,
    accumulation: int = 1,
    clip: float = 0.0,
    late: bool = False,
    **settings: Any,
):
    """The estimates of a loop that stands still on a problem of known noise."""
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    seed = settings.pop("draw_seed", 1)
    ahead = draws(steps * accumulation, BATCH // accumulation, seed=seed)
    settings = {
        "loss": losses,
        "every": 1,
        "parts": 2,
        "level": 0.999,
        "gauges": "noise",
        "sampling": SAMPLING,
    } | settings
    with watch(model, optimizer, out=out, accumulation=accumulation, **settings) as w:
        for _ in range(steps):
            optimizer.zero_grad()
            for batch in islice(ahead, accumulation):
                loss = model(batch).mean()
                (loss / accumulation).backward()
                if not late:
                    w.step(loss, batch)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if late:
                w.step(loss, batch)
            optimizer.step()
        return diagnose(w.run).estimates


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"parts": 0},
        {"clip": 0.01, "late": True},
        {"clip": 0.01, "accumulation": 4, "loss": None},
        {"accumulation": 2, "gauges": "noise,batch_sharpness"},
    ],
    ids=str,
)
def test_the_noise_of_a_known_problem_is_found(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert_known(standing(tmp_path, **settings))


@pytest.mark.parametrize("spoil", [None, "norm", "value"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_gauge_of_ones_own_is_given_the_gradient_as_backward_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulation: int, spoil: str | None
) -> None:
    """Clipped before `step` is called, by one factor or number by number."""
    seen, measure = [], GradientNoise.measure

    def look(gauge: GradientNoise, step: Any) -> Any:
        seen.append(torch.cat(step.gradient))
        return measure(gauge, step)

    monkeypatch.setattr(GradientNoise, "measure", look)
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    settings = {
        "loss": losses,
        "out": tmp_path,
        "accumulation": accumulation,
        "gauges": "noise",
        "every": 1,
        "parts": 2,
    }
    with watch(model, optimizer, **settings) as w:
        for place, batch in enumerate(islice(draws(accumulation, 8), accumulation)):
            loss = model(batch).mean()
            (loss / accumulation).backward()
            if place == accumulation - 1:
                made = torch.cat([parameter.grad.clone() for parameter in model.parameters()])
                if spoil == "norm":
                    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
                elif spoil == "value":
                    nn.utils.clip_grad_value_(model.parameters(), 0.1)
            w.step(loss, batch)
        optimizer.step()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], made, rtol=1e-6, atol=1e-9)


@pytest.mark.nightly
@pytest.mark.parametrize("accumulation", [1, 4])
def test_intervals_cover(tmp_path: Path, accumulation: int) -> None:
    """At 90 %, of 80 runs: within three standard errors of a binomial, 0.9 ± 0.1."""
    held = 0
    for seed in range(80):
        found = standing(
            tmp_path, steps=60, accumulation=accumulation, level=0.9, draw_seed=100 + seed
        )["noise_scale"]
        held += found.low < NOISE_SCALE < found.high
    assert held / 80 > 0.9 - 0.1


@pytest.mark.slow
def test_losses_are_the_same_under_compile(tmp_path: Path) -> None:
    def losses_of(watched: bool) -> list[float]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        case = CASES["mlp"]()
        model = torch.compile(case.model, backend="aot_eager")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        kept = []
        instrument = {"every": 1, "parts": 2} if watched else {"budget": 0.0}
        with watch(model, optimizer, loss=case.loss, out=tmp_path, **instrument) as w:
            for batch in batches(case, 40):
                optimizer.zero_grad()
                loss = case.loss(model, batch).mean()
                loss.backward()
                w.step(loss, batch)
                optimizer.step()
                kept.append(loss.item())
        return kept

    compiled = torch._dynamo.utils.counters["stats"]
    at_first = compiled["unique_graphs"]  # of tests before this one
    without = losses_of(False)
    graphs = compiled["unique_graphs"]
    assert losses_of(True) == without
    # no recompilation for the instrument's sake
    assert compiled["unique_graphs"] - graphs == graphs - at_first
    assert len(Run.open(tmp_path / "loop-2").series("noise")) == 40


@pytest.mark.slow
def test_a_run_of_watch_is_a_run_like_any_other(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for _ in range(60):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
        assert w.run.status == "running"
        told = " ".join(str(w.findings()).split())
    assert "noise scale" in told and "batch sharpness" in told
    assert w.run.status == "finished" and w.overhead["measured_steps"] == 60
    assert write_page(w.run, diagnose(w.run)).stat().st_size > 10_000
    assert gradiometer.Run.open(w.run.path).configuration.batch_size == 8


def test_an_unmeasured_step_has_no_hooks(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, every=3)
    with w:
        for step in range(7):
            hooked = [bool(parameter._backward_hooks) for parameter in model.parameters()]
            assert hooked == [step % 3 == 0] * 4
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_a_changing_last_batch_is_measured_alone_and_left_out_of_accumulation(
    tmp_path: Path,
) -> None:
    for accumulation, measured in ((1, 6), (2, 3)):
        model, optimizer, w = simple(tmp_path, accumulation=accumulation)
        with w:
            for sizes in [(8, 8), (8, 8), (8, 3)]:
                for size in sizes:
                    optimizer.zero_grad() if accumulation == 1 else None
                    w.step(*one_backward(model, size))
                    if accumulation == 1:
                        optimizer.step()
                if accumulation == 2:
                    optimizer.step(), optimizer.zero_grad()
        assert len(w.run.series("noise")) == measured - (accumulation == 2)


def test_fewer_backwards_at_the_end_of_an_epoch_are_a_step_of_their_own(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, accumulation=4)
    with w:
        for backwards in (4, 4, 2, 4, 4, 1, 4):
            optimizer.zero_grad()
            for _ in range(backwards):
                w.step(*one_backward(model))
            optimizer.step()
    assert w.steps == 7 and w.run.losses[0].tolist() == [*range(7)]
    assert w.run.series("noise").steps.tolist() == [0, 1, 3, 4, 6]


def test_several_optimizers_frozen_and_tied_parameters_are_watched(tmp_path: Path) -> None:
    case = CASES["tiny_transformer"]()
    case.model.block.norm1.requires_grad_(False)
    embedding = [case.model.embedding.weight]
    others = [
        p for n, p in case.model.named_parameters() if p.requires_grad and "embedding" not in n
    ]
    optimizers = [torch.optim.SGD(embedding, lr=0.05), torch.optim.Adam(others, lr=0.01)]
    with watch(case.model, optimizers, loss=case.loss, out=tmp_path, every=1, parts=0) as w:
        for batch in batches(case, 6):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = case.loss(case.model, batch).mean()
            loss.backward()
            w.step(loss, batch)
            for optimizer in optimizers:
                optimizer.step()
    assert len(w.run.series("noise")) == 6
    assert (
        "block.norm1" not in w.run.layers
        and "embedding" in w.run.layers
        and "head" not in w.run.layers
    )


def test_a_scaler_changes_no_number(tmp_path: Path) -> None:
    def measured(scaled: bool, accumulation: int) -> Any:
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        model, optimizer, w = simple(
            tmp_path, scaler=scaler, accumulation=accumulation, gauges="noise"
        )
        torch.manual_seed(3)
        with w:
            for _ in range(5):
                optimizer.zero_grad()
                for _ in range(accumulation):
                    batch = (torch.randn(8, 8), torch.randint(5, (8,)))
                    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
                    scaler.scale(loss / accumulation).backward()
                    w.step(loss, batch)
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
        return w.run.series("noise")

    for accumulation in (1, 3):
        plain, scaled = measured(False, accumulation), measured(True, accumulation)
        assert len(plain) == len(scaled) == 5
        for name in plain.moments:
            assert scaled.moments[name] == pytest.approx(plain.moments[name], rel=1e-4, abs=1e-6)


def test_under_autocast_a_loss_that_is_not_is_run_for_both_halves(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path, gauges="noise")
    with w:
        for _ in range(5):
            optimizer.zero_grad()
            batch = (torch.randn(64, 8), torch.randint(5, (64,)))
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    assert len(w.run.series("noise")) == 5 and w.run.warnings == []


def test_a_checkpoint_lets_the_same_run_go_on(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for step in range(6):
            if step == 4:
                kept = json.loads(json.dumps(w.state_dict()))
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
    model, optimizer, again = simple(tmp_path)
    again.load_state_dict(kept)
    with again:
        for _ in range(5):
            optimizer.zero_grad()
            again.step(*one_backward(model))
            optimizer.step()
        with pytest.raises(BadArgument, match="before the first step, to continue the same run"):
            again.load_state_dict(kept)
    assert again.run.path == w.run.path
    assert again.run.series("noise").steps.tolist() == [*range(9)]
    assert again.run.losses[0].tolist() == [*range(9)]


def test_a_loop_that_goes_on_may_ask_before_its_first_step(tmp_path: Path) -> None:
    model, optimizer, w = simple(tmp_path)
    with w:
        for _ in range(6):
            optimizer.zero_grad()
            loss, (inputs, labels) = one_backward(model)
            w.step(loss, (inputs, labels))
            optimizer.step()
            w.snapshot()
        kept = w.state_dict()
    model, optimizer, again = simple(tmp_path)
    again.load_state_dict(kept)
    with again:
        assert again.state_dict() == kept
        assert again.run.path == w.run.path
        asked = {"batch_size": 4, "alternatives": ["rate 2x"], "horizon": "2 updates"}
        found = again.fork(batches=(inputs, labels), replicates=2, **asked)
        assert len(found.results) == 4
        optimizer.zero_grad()
        again.step(*one_backward(model))
        optimizer.step()
    assert len(forks_of(again.run)) == 1


def test_a_loader_says_how_it_draws() -> None:
    data = TensorDataset(torch.zeros(40, 2))
    assert sampling_of(DataLoader(data, 4, shuffle=True)) == Sampling(Draw.RESHUFFLED, 40)
    assert sampling_of(DataLoader(data, 4)) == Sampling(Draw.RESHUFFLED, 40)
    replacing = RandomSampler(data, replacement=True, num_samples=40)
    assert sampling_of(DataLoader(data, 4, sampler=replacing)) == Sampling(Draw.REPLACEMENT, 40)
    subset = SubsetRandomSampler(range(10, 25))
    assert sampling_of(DataLoader(data, 4, sampler=subset)) == Sampling(Draw.RESHUFFLED, 15)
    weighted = WeightedRandomSampler([1.0, 3.0] * 20, 40)
    assert sampling_of(DataLoader(data, 4, sampler=weighted)) == Sampling(Draw.FRESH)
    with pytest.raises(BadArgument, match="has a WeightedRandomSampler, which is unknown"):
        sampling_of(
            DataLoader(
                data, 4, sampler=WeightedRandomSampler([1.0, 3.0] * 20, 20, replacement=False)
            )
        )
    with pytest.raises(BadArgument, match="has a list"):
        sampling_of(DataLoader(data, 4, sampler=[1, 2, 3]))
