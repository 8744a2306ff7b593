"""`watch` keeps its budget, also in a run that continues."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer.estimation import GradientNoise
from gradiometer.integrations.watch import Watch
from gradiometer.run.budget import Budget
from gradiometer.run.clock import Turns
from watched_loop import Clock, one_backward, simple


def test_the_budget_is_kept_and_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, measure = Clock(), GradientNoise.measure

    def slow(gauge: GradientNoise, step: Any) -> Any:
        clock.seconds += 3
        return measure(gauge, step)

    monkeypatch.setattr(GradientNoise, "measure", slow)
    model, optimizer, w = simple(tmp_path, every=None, gauges="noise", parts=4)
    w.budget.clock = clock
    with w:
        for _ in range(1000):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
            clock.seconds += 1
    assert 20 <= w.overhead["measured_steps"] <= 25  # a reading costs three steps: 20 are promised
    assert w.overhead["budget"] == 0.02 and 0.05 < w.overhead["used"] < 0.1
    # the first measurement is not taken as the price of the next
    assert w.overhead["spent"]["start"] >= 3 / 1000


def test_a_run_that_goes_on_proposes_at_the_pace_of_its_whole_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first of several processes does; at the pace of the new ones alone it would measure
    one after another."""
    clock, measure = Clock(), GradientNoise.measure

    def slow(gauge: GradientNoise, step: Any) -> Any:
        clock.seconds += 3
        return measure(gauge, step)

    def go(
        w: Watch, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
    ) -> dict[str, Any]:
        w.budget.clock = clock
        with w:
            for _ in range(steps):
                optimizer.zero_grad()
                w.step(*one_backward(model))
                optimizer.step()
                clock.seconds += 1
            return w.state_dict()

    monkeypatch.setattr(GradientNoise, "measure", slow)
    model, optimizer, w = simple(tmp_path, every=None, gauges="noise", parts=4)
    kept = go(w, model, optimizer, 1000)
    model, optimizer, again = simple(tmp_path, every=None, gauges="noise", parts=4)
    again.load_state_dict(kept)
    go(again, model, optimizer, 2)
    assert again.steps == 1002 and again.record.recorder is not None
    assert again.record.recorder.cadence.next_due(1002, 0.0) - 1002 > 10


def test_readings_that_training_makes_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of 160 readings said that intervals need about 6, and that it has so few."""
    monkeypatch.setattr(Budget, "short_of", lambda budget: 6)
    model, optimizer, w = simple(tmp_path, every=None)
    clock = w.budget.clock = Clock()
    with w:
        for step in range(60):
            optimizer.zero_grad()
            w.step(*one_backward(model))
            optimizer.step()
            clock.seconds += 1
            if step == 3:
                assert w.overhead["short_of"] == 6
    assert w.overhead["measured_steps"] > 6
    assert w.overhead["short_of"] is None


def test_an_unmeasured_step_does_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0  # what is due depends on the clock, which a busy machine makes uneven
    for clock in ("perf_counter", "thread_time"):
        monkeypatch.setattr(time, clock, lambda: now)
    model, optimizer, w = simple(tmp_path, every=10**6)
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_qualname
        if (
            event == "call"
            and "/gradiometer/" in frame.f_code.co_filename
            and "wrapped" not in name
        ):
            calls.append(name)

    made = []
    with w:
        for _ in range(400):
            loss, batch = one_backward(model)
            now += 1e-3
            sys.setprofile(count)
            w.step(loss, batch)
            optimizer.step()
            sys.setprofile(None)
            made.append(len([name for name in calls if not name.startswith("<")]))
            calls.clear()
        # functions of ours; one step in 20 is kept to compare forks with, and two in ten are looks
        # of triage
        assert sorted(made[200:])[100] <= 4 and sorted(made)[290] <= 11


def test_two_loops_that_take_turns_in_one_thread_count_their_own_time(tmp_path: Path) -> None:
    """The budget of a quick loop must not be paid by a slow one beside it."""
    quick, quick_optimizer, first = simple(tmp_path, name="quick")
    slow, slow_optimizer, second = simple(tmp_path, name="slow")
    work = torch.randn(300, 300)
    with first, second:
        began = time.thread_time()
        for _ in range(60):
            for model, optimizer, w in (
                (quick, quick_optimizer, first),
                (slow, slow_optimizer, second),
            ):
                optimizer.zero_grad()
                loss, batch = one_backward(model)
                if w is second:
                    for _ in range(8):
                        work @ work
                w.step(loss, batch)
                optimizer.step()
        took = time.thread_time() - began
        total = first.budget.elapsed + second.budget.elapsed
        assert first.budget.training < second.budget.training / 2
        assert 0.5 * took < total < 1.02 * took
    assert not Turns.several


def test_loops_begin_and_end_in_several_threads_at_once() -> None:
    def take_turns() -> None:
        for _ in range(200):
            clocks = [Turns(time.thread_time) for _ in range(5)]
            for clock in clocks:
                clock.enter()
            for clock in clocks:
                clock.signal()
            for clock in clocks:
                clock.leave()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            for turn in [pool.submit(take_turns) for _ in range(4)]:
                turn.result()
    finally:
        sys.setswitchinterval(interval)
    assert not Turns.several
