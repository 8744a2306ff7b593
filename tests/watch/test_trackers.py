"""Trackers: told what is known, with its interval; nothing imported, nothing sent, by a run that
has none."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fixed_point import RATE, SAMPLING, Position, draws, losses
from gradiometer import BadArgument, watch
from gradiometer.integrations.trackers import loggers, numbers_of
from gradiometer.measurement import Estimate
from gradiometer.run import Run
from unprintable import Unprintable


def run_with(out: Path, to: Any = (), steps: int = 30) -> Run:
    model = Position()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    settings = {
        "loss": losses,
        "every": 1,
        "parts": 2,
        "gauges": "noise",
        "sampling": SAMPLING,
        "to": to,
    }
    with watch(model, optimizer, out=out, **settings) as w:
        for batch in draws(steps):
            optimizer.zero_grad()
            loss = model(batch).mean()
            loss.backward()
            w.step(loss, batch)
            optimizer.step()
    return w.run


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[dict[str, float], int | None]] = []

    def __call__(self, numbers: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.lines.append((dict(numbers), step))

    def assert_has_the_noise_scale(self, step: int | None = 29) -> None:
        numbers, at = self.lines[-1]
        assert at == step
        low, value, high = (
            numbers[f"gradiometer/noise_scale{end}"] for end in ("_low", "", "_high")
        )
        assert low < value < high


def test_a_function_a_writer_and_a_logger_are_told_value_low_and_high(tmp_path: Path) -> None:
    function, logger, run = Told(), SimpleNamespace(log_metrics=Told()), SimpleNamespace(log=Told())
    scalars: dict[str, tuple[float, int]] = {}
    writer = SimpleNamespace(
        add_scalar=lambda name, value, step: scalars.update({name: (value, step)})
    )
    run_with(tmp_path, [function, writer, logger, run])
    function.assert_has_the_noise_scale()
    logger.log_metrics.assert_has_the_noise_scale()
    run.log.assert_has_the_noise_scale(step=None)
    assert run.log.lines[-1][0]["gradiometer/step"] == 29
    assert scalars["gradiometer/noise_scale_low"][0] < scalars["gradiometer/noise_scale"][0]
    assert not any("/first" in name for name in scalars)  # layers stay in the run


def test_an_active_run_of_a_loaded_tracker_is_found_and_an_inactive_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow, trackio = Told(), Told(), Told()
    variables = SimpleNamespace(current_run=SimpleNamespace(get=object))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=SimpleNamespace(log=wandb)))
    monkeypatch.setitem(
        sys.modules, "mlflow", SimpleNamespace(active_run=object, log_metrics=mlflow)
    )
    monkeypatch.setitem(
        sys.modules, "trackio", SimpleNamespace(context_vars=variables, log=trackio)
    )
    run_with(tmp_path)
    wandb.assert_has_the_noise_scale(step=None)
    mlflow.assert_has_the_noise_scale()
    trackio.assert_has_the_noise_scale(step=None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None))
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(active_run=lambda: None))
    variables.current_run.get = lambda: None
    assert loggers([]) == {}


@pytest.mark.parametrize(
    ("error", "words"),
    [(OSError("no such host"), "OSError: no such host"), (Unprintable(), "Unprintable")],
)
def test_a_tracker_that_fails_is_named_and_left_alone(
    tmp_path: Path, error: Exception, words: str
) -> None:
    def broken(numbers: Any, step: int) -> None:
        raise error

    run = run_with(tmp_path, [broken])
    assert run.status == "finished" and len(run.series("noise")) == 30
    line = broken.__code__.co_firstlineno + 1
    assert run.warnings == [
        f"the tracker function 0 failed and gets no more estimates: {words}, at test_trackers.py:{line}"
    ]


def test_ends_that_are_not_finite_are_left_out() -> None:
    estimate = Estimate.interval(math.nan, 3.0, math.inf, level=0.9, method="test", samples=3)
    numbers = numbers_of({"scale": estimate, "size": Estimate.exact(8.0), "scale/layer": estimate})
    assert numbers == {"gradiometer/scale_low": 3.0, "gradiometer/size": 8.0}


def test_what_is_no_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="`to` holds a int: give TensorBoard writers"):
        run_with(tmp_path, [3])


def test_tensorboard_is_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "board") as writer:
        run_with(tmp_path, [writer])
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Scalars("gradiometer/noise_scale_high")[-1].step == 29


def test_mlflow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as active:
        run_with(tmp_path)
    metrics = mlflow.get_run(active.info.run_id).data.metrics
    assert metrics["gradiometer/noise_scale_low"] < metrics["gradiometer/noise_scale"]


PLAIN = """
import sys
opened = []
sys.addaudithook(lambda name, _: opened.append(name) if name.startswith("socket.") else None)
import gradiometer
loaded = {"wandb", "mlflow", "trackio", "tensorboard", "lightning", "transformers", "accelerate", "skorch"}
assert not loaded & set(sys.modules) and "torch" not in sys.modules
from pathlib import Path
from gradiometer.problems.registry import load
from gradiometer.train import train
train(load("digits"), gradiometer.Configuration(epochs=1, check_edge=False), Path(sys.argv[1]))
sys.path[:0] = sys.argv[2:]
from test_trackers import run_with
run_with(Path(sys.argv[1]))
assert not loaded & set(sys.modules), loaded & set(sys.modules)
assert opened == [], opened
print("quiet")
"""


@pytest.mark.slow
def test_importing_and_a_plain_run_open_no_socket_and_load_no_tracker(tmp_path: Path) -> None:
    here = Path(__file__).parent
    folders = map(str, (here, here.parent / "support"))
    command = [sys.executable, "-c", PLAIN, str(tmp_path), *folders]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "quiet\n"
