"""After the first update nothing that `watch` meets raises into the user's training."""

import gc
import inspect
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradiometer
from gradients_by_hand import LOSSES, backward, batches, network
from gradiometer import BadArgument, StorageFailed, watch
from gradiometer.integrations.watch import Watch
from gradiometer.integrations.watch.observers.gauges import Gauges
from gradiometer.integrations.watch.observers.losses import Losses
from training_calls import TRAINING
from unprintable import Unprintable

HOME = str(Path(gradiometer.__file__).parent)
ENTRIES = {
    "Hook.__call__",
    "GradientHooks._end",
    "after_backward.<locals>.again",
    "GradientHooks._take_in",
    "Watch.__exit__",
    "Watch._on_update",
    "Watch.step",
    "before_the_update.<locals>.hook",
    "_heard",
}
"""Functions that training calls: all that they do is inside of the shield."""
LOOPS: dict[str, dict[str, Any]] = {
    "apart": {"loss": LOSSES, "gauges": "noise,temperature,trajectory"},
    "shared": {"loss": None, "accumulation": 2, "gauges": "noise"},
}


class Injected(Exception):
    pass


class Faults:
    """A profile function that lists the functions of ours that are called, and raises in one of
    them, once."""

    def __init__(self, target: CodeType | None = None) -> None:
        self.target, self.seen, self.raised = target, dict[CodeType, None](), False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(HOME) or self.raised:
            return
        self.seen[code] = None
        if code is self.target:
            self.raised = True
            raise Injected(code.co_qualname)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Of the calls of the garbage collector, which may close the files of an earlier watch, it
        sees none."""
        gc.collect()
        gc.disable()
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            gc.enable()


def trained(out: Path, settings: dict[str, Any], faults: Faults) -> tuple[list[Tensor], Watch]:
    """Three updates, the last two and the end of the watch with faults."""
    model, optimizer = network()
    count = settings.get("accumulation", 1)
    ahead = iter(batches(3 * count))

    def update(w: Watch) -> None:
        optimizer.zero_grad()
        for _ in range(count):
            batch = next(ahead)
            w.step(backward(model, batch, 1 / count), batch)
        optimizer.step()

    w = watch(model, optimizer, out=out, every=1, parts=2, page=False, quiet=True, **settings)
    w.__enter__()
    update(w)
    # losses are also written when enough time has passed: here at the next step, in every run
    w.losses._late = 0.0
    try:
        with faults.around():
            update(w)
            update(w)
            w.__exit__(None, None, None)
    except Injected:
        w.__exit__(None, None, None)  # else its listener hears the backwards of the next test
        raise
    return [parameter.detach().clone() for parameter in model.parameters()], w


def functions(out: Path, settings: dict[str, Any]) -> list[CodeType]:
    calls = Faults()
    trained(out, settings, calls)
    return [
        code
        for code in calls.seen
        if code.co_qualname not in ENTRIES | TRAINING | {"WatchedRun.close"}
        and not code.co_filename.endswith(("shield.py", "warning_log.py"))
    ]


def assert_survives(tmp_path: Path, loop: str, *, one_in: int) -> None:
    plain, _ = trained(tmp_path / "plain", LOOPS[loop], Faults())
    found = functions(tmp_path / "list", LOOPS[loop])
    assert len(found) > 80
    for place, code in enumerate(found[::one_in]):
        faults = Faults(code)
        made, w = trained(tmp_path / str(place), LOOPS[loop], faults)
        assert all(map(torch.equal, made, plain)), code
        assert faults.raised, code
        # that the loss cannot be seen is said to those who ask for it
        said = [*w.findings().warnings, w.request._seen_loss.why_not]
        assert any("Injected" in text for text in said), (code, said)


@pytest.mark.slow
def test_no_function_is_left_out_that_the_shield_covers(tmp_path: Path) -> None:
    calls = Faults()
    trained(tmp_path / "list", LOOPS["apart"], calls)
    entries = [code for code in calls.seen if code.co_qualname in ENTRIES]
    assert {code.co_qualname for code in entries} == ENTRIES
    for place, code in enumerate(entries):
        with pytest.raises(Injected):
            trained(tmp_path / str(place), LOOPS["apart"], Faults(code))


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_an_error_in_any_twentieth_of_our_functions_stops_measuring_and_not_training(
    tmp_path: Path, loop: str
) -> None:
    assert_survives(tmp_path, loop, one_in=20)


@pytest.mark.nightly
@pytest.mark.parametrize("loop", LOOPS)
def test_an_error_in_any_of_our_functions_stops_measuring_and_not_training(
    tmp_path: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loop == "apart":
        monkeypatch.setitem(
            LOOPS[loop], "gauges", "noise,batch_sharpness,step_drift,temperature,trajectory"
        )
    assert_survives(tmp_path, loop, one_in=1)


# Faults from outside
# --------------------------------------------------------------------------------------------------


def loop(
    w: Watch, model: nn.Module, optimizer: torch.optim.Optimizer, between: Callable[[int], None]
) -> None:
    """Six updates. `between` is called before each."""
    for step, batch in enumerate(batches(6)):
        between(step)
        optimizer.zero_grad()
        loss = backward(model, batch)
        w.step(loss, batch)
        optimizer.step()


def test_a_full_disk_stops_the_recording_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = network()

    def fill(step: int) -> None:
        if step == 3:
            monkeypatch.setattr("gradiometer.storage.journal.JournalWriter.append", full)

    def full(*_: Any) -> None:
        raise StorageFailed(
            "`readings.jsonl` could not be written: no space left on device; free some space."
        )

    with (
        caplog.at_level(logging.WARNING, "gradiometer"),
        watch(model, optimizer, loss=LOSSES, out=tmp_path) as w,
    ):
        loop(w, model, optimizer, fill)
    assert w.steps == 6
    assert "no space left on device" in w.findings().warnings[0]
    assert len(caplog.messages) == len(set(caplog.messages))
    assert "no space left on device" in caplog.messages[0]


def test_a_deleted_folder_is_told_and_training_continues(tmp_path: Path) -> None:
    model, optimizer = network()
    with watch(model, optimizer, loss=LOSSES, out=tmp_path / "runs", every=1, parts=2) as w:
        loop(
            w,
            model,
            optimizer,
            lambda step: shutil.rmtree(tmp_path / "runs") if step == 3 else None,
        )
        assert w.state_dict()["steps"] == 6
        assert w.run is None
        assert any("is not a run folder" in warning for warning in w.findings().warnings)


@pytest.mark.parametrize(
    "error",
    [ValueError("bad word"), KeyError("labels"), MemoryError(), Unprintable()],
    ids=lambda error: type(error).__name__,
)
def test_a_loss_that_fails_later_is_told_and_training_continues(
    tmp_path: Path, error: Exception
) -> None:
    model, optimizer = network()
    fails = False

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if fails:
            raise error
        return LOSSES(model, batch)

    def begin_to_fail(step: int) -> None:
        nonlocal fails
        fails = step == 3

    with watch(model, optimizer, loss=loss, out=tmp_path, every=1, parts=2, gauges="noise") as w:
        loop(w, model, optimizer, begin_to_fail)
    assert type(error).__name__ in w.findings().warnings[0]
    assert w.run.status == "finished" and len(w.run.losses[0]) == 6


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_never_kept_from_the_program(
    tmp_path: Path, error: type[BaseException]
) -> None:
    model, optimizer = network()
    interrupted = False

    def loss(model: nn.Module, batch: Any) -> Tensor:
        if interrupted:
            raise error
        return LOSSES(model, batch)

    def interrupt(step: int) -> None:
        nonlocal interrupted
        interrupted = step == 3

    with (
        pytest.raises(error),
        watch(model, optimizer, loss=loss, out=tmp_path, every=1, parts=2) as w,
    ):
        loop(w, model, optimizer, interrupt)
    assert w.run.status == "interrupted"


def test_after_two_errors_inside_nothing_more_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def measuring(self: Gauges, *_: Any) -> None:
        tried.append("a measurement")
        raise Injected

    def recording(self: Losses) -> None:
        tried.append("a stretch of losses")
        raise Injected

    model, optimizer = network()
    with watch(
        model, optimizer, loss=LOSSES, out=tmp_path, every=1, parts=2, page=False, quiet=True
    ) as w:
        for step, batch in enumerate(batches(8)):
            if step == 1:
                monkeypatch.setattr(Gauges, "_look", measuring)
            if step == 3:
                monkeypatch.setattr(Losses, "_close_stretch", recording)
                w.losses._late = 0.0
                w.losses.next = step
                w.observers.plan()
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
        assert w.steps == 8
    assert tried == ["a measurement", "a stretch of losses"]
    stops = [text for text in w.findings().warnings if "has stopped" in text]
    assert ["measuring" in stops[0], "recording" in stops[1]] == [True, True]


def test_the_users_own_error_passes_also_if_the_run_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = network()

    def fail(step: int) -> None:
        if step == 3:
            monkeypatch.setattr("gradiometer.storage.journal.JournalWriter.flush", broken)
            raise ZeroDivisionError("the user's own")

    def broken(*_: Any) -> None:
        raise StorageFailed(
            "`events.jsonl` could not be written: no space left on device; free some space."
        )

    with (
        pytest.raises(ZeroDivisionError, match="the user's own"),
        watch(model, optimizer, loss=LOSSES, out=tmp_path) as w,
    ):
        loop(w, model, optimizer, fail)


# Arguments
# -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("`loss` must be a function", {"loss": 3}),
        (
            "`loss` is a CrossEntropyLoss, which does not take a model",
            {"loss": nn.CrossEntropyLoss()},
        ),
        ("`sampling` must be a DataLoader or a Sampling, got str", {"sampling": "shuffled"}),
        ("`replacement` is given without the size", {"replacement": True}),
        (
            "`sampling` and `examples` both say",
            {"sampling": gradiometer.Sampling(gradiometer.Draw.FRESH), "examples": 9},
        ),
        ("`examples` must be at least 1", {"examples": 0}),
        ("`accumulation` must be a whole number", {"accumulation": 2.0}),
        ("`scaler` must be a torch.amp.GradScaler, got bool", {"scaler": True}),
        ("`budget` must be below 1", {"budget": 2}),
        ("`budget` must be at least 0", {"budget": "2 %"}),
        ("`every` must be at least 1", {"every": 0}),
        ("`parts` must be at least 2", {"parts": 1}),
        ("`level` must lie between 0 and 1", {"level": 90.0}),
        ("`seed` must be a whole number", {"seed": None}),
        ("`out` must be the path of a folder", {"out": None}),
        ("`out` must be a folder, got the file", {"out": __file__}),
        ("`name` must be a string", {"name": 3}),
        ("`to` must be a list of trackers", {"to": 3}),
        ("Unknown gauge|unknown|no gauge", {"gauges": "nois"}),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_a_wrong_argument_is_refused_by_watch_itself(
    words: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(BadArgument, match=words):
        inspect.unwrap(watch)(*network(), **({"loss": LOSSES, "out": tmp_path} | wrong))


class Wrapper:
    """An optimizer as fastai wraps it."""

    def __init__(self, opt: Any) -> None:
        self.opt = opt

    def step(self) -> None:
        self.opt.step()


def test_a_wrapped_optimizer_is_followed_and_a_foreign_one_refused_by_name(tmp_path: Path) -> None:
    model, optimizer = network()
    wrapper = Wrapper(Wrapper(optimizer))
    with watch(model, wrapper, loss=LOSSES, out=tmp_path, every=1, parts=2) as w:
        loop(w, model, optimizer, lambda step: None)
    assert len(w.run.series("noise")) == 6
    for foreign in (Wrapper(None), object(), None):
        with pytest.raises(
            BadArgument,
            match=r"`optimizer` must be a torch optimizer, a wrapper of one or a list.*"
            r"In place of an update by hand.*torch.optim.SGD\(model.parameters\(\), lr\)",
        ):
            inspect.unwrap(watch)(model, foreign, loss=LOSSES)


def test_the_size_of_the_training_set_can_be_given_alone(tmp_path: Path) -> None:
    for replacement, draw in ((True, "replacement"), (False, "reshuffled"), (None, "reshuffled")):
        model, optimizer = network()
        with watch(
            model, optimizer, loss=LOSSES, out=tmp_path, examples=2000, replacement=replacement
        ) as w:
            loop(w, model, optimizer, lambda step: None)
        assert w.run.sampling == gradiometer.Sampling(gradiometer.Draw(draw), 2000)
    loader = torch.utils.data.DataLoader(range(50), shuffle=True)
    model, optimizer = network()
    with watch(model, optimizer, loss=LOSSES, out=tmp_path, sampling=loader) as w:
        loop(w, model, optimizer, lambda step: None)
    assert w.run.sampling == gradiometer.Sampling(gradiometer.Draw.RESHUFFLED, 50)
