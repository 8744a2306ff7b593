"""A run and its diagnosis with plausible numbers, written into a real run folder: what the report
is tested on."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from gradiometer import Diagnosis
from gradiometer.estimation.batch_advice import judge_batch_size
from gradiometer.measurement import Estimate, Finding, Issue, State
from gradiometer.run import Configuration, Run
from gradiometer.run.folder import RunFolder

STEPS = 6_000
LAYERS = ("conv1.weight", "conv2.weight", "fully_connected.weight", "output.weight", "output.bias")
VARIANCE_UNIT = "(loss / parameter)²"


def run_in(folder: Path, name: str = "digits", steps: int = STEPS, **settings: Any) -> Run:
    """A finished run of so many steps, with ten evaluations."""
    configuration = Configuration(**settings)
    manifest = {
        "configuration": msgspec.structs.asdict(configuration),
        "versions": {"gradiometer": "0.2.0", "python": "3.11.9", "torch": "2.9.1"},
        "seeds": {"seed": 0},
        "data": {"name": "digits", "examples": 1437, "fingerprint": "5f1c0a9be2d7"},
        "sampling": {"draw": "reshuffled", "examples": 1437},
        "layers": list(LAYERS),
        "steps": steps,
    }
    made = RunFolder.create(folder, name, manifest)
    random = np.random.default_rng(0)
    decay = np.exp(-5 * np.arange(steps) / max(steps, 1))
    losses = (0.06 + 2.24 * decay) * random.gamma(12, 1 / 12, steps)
    _write(
        made.readings_path(),
        [
            {"kind": "losses", "from": 0, "values": losses.tolist()},
            {"kind": "overhead", **OVERHEAD},
        ],
    )
    events = [{"event": "started", "step": 0, "time": 0.0}]
    for step in range(max(steps // 10, 1), steps + 1, max(steps // 10, 1)):
        events.append(
            {
                "event": "evaluation",
                "step": step,
                "time": float(step),
                "estimates": _evaluation(step / steps),
            }
        )
    _write(made.events_path, [*events, {"event": "finished", "step": steps, "time": float(steps)}])
    return Run.open(made.path)


OVERHEAD = {"budget": 0.02, "used": 0.0131, "measured_steps": 412, "every": 14.6, "mode": "apart"}


def diagnosis_of(
    steps: int = STEPS, layers: tuple[str, ...] = LAYERS, unbounded: int = 3
) -> Diagnosis:
    """A noise scale that rises from 50 to 600, and has no upper end in the last windows."""
    ends = [round((index + 1) * steps / 20) for index in range(20)]
    signal = [_signal(index, index >= 20 - unbounded) for index in range(20)]
    history = {
        "noise_scale": tuple(
            zip(ends, [_noise_scale(i, i >= 20 - unbounded) for i in range(20)], strict=True)
        ),
        "gradient_variance": tuple(
            zip(ends, [_variance(index) for index in range(20)], strict=True)
        ),
        "gradient_norm_squared": tuple(zip(ends, signal, strict=True)),
        "signal_to_noise": tuple((end, _interval(0.031, -0.004, 0.071)) for end in ends),
        "batch_size": tuple((end, Estimate.exact(32.0, unit="examples")) for end in ends),
    }
    latest = {name: points[-1][1] for name, points in history.items()}
    for place, layer in enumerate(layers):
        scale = 90.0 * 1.9 ** (place % 6)
        latest[f"noise_scale/{layer}"] = _interval(scale, scale / 1.4, scale * 1.7, unit="examples")
    if layers:
        latest[f"noise_scale/{layers[-1]}"] = _interval(
            2100.0, 480.0, math.inf, unit="examples", needed=1200
        )
    batch = judge_batch_size("noise", latest["batch_size"], latest["noise_scale"])
    many = {"seen": "The noise points many ways.", "means": "Its directions are many."}
    steep = {
        "seen": "η λ_max is above 2.",
        "means": "It grows.",
        "paste": ("--learning-rate 0.01",),
    }
    return Diagnosis(
        outcome="Trained for 6,000 steps; test accuracy 96.4 % [95.3, 97.4]",
        said=(
            "the gradient is not distinguishable from zero yet: the noise scale is at least 610, "
            "above B = 32"
        ),
        headline=batch,
        findings=(
            batch,
            Finding("noise_shape", Issue.ESTIMATION, "own", State.OK, facts=many),
            Finding("batch_sharpness", Issue.DRIFT, "own", State.ACT, facts=steep),
        ),
        estimates=latest,
        history=history,
    )


def _noise_scale(index: int, unbounded: bool) -> Estimate:
    value = 50 * 12 ** (index / 19) * (1 + 0.12 * math.sin(3 * index))
    if unbounded:
        return _interval(2.6 * value, 1.1 * value, math.inf, unit="examples", needed=1200)
    return _interval(
        value, value / (1.12 + index / 40), value * (1.15 + index / 24), unit="examples"
    )


def _variance(index: int) -> Estimate:
    value = 9.0 * 0.84**index
    return _interval(value, 0.88 * value, 1.13 * value, unit=VARIANCE_UNIT)


def _signal(index: int, reaches_zero: bool) -> Estimate:
    value = 9.0 * 0.84**index / (50 * 12 ** (index / 19))
    return _interval(
        value, -0.2 * value if reaches_zero else 0.7 * value, 1.4 * value, unit=VARIANCE_UNIT
    )


def _interval(
    value: float, low: float, high: float, *, unit: str = "", needed: int | None = None
) -> Estimate:
    method = "Fieller, batch means"
    return Estimate.interval(
        value, low, high, level=0.9, method=method, samples=200, unit=unit, needed=needed
    )


def _evaluation(progress: float) -> dict[str, Any]:
    loss, accuracy = 0.11 + 2.1 * math.exp(-5.6 * progress), 0.966 - 0.8 * math.exp(-6 * progress)
    return {
        "test_loss": _interval(loss, loss - 0.03, loss + 0.03).to_dict(),
        "test_accuracy": _interval(accuracy, accuracy - 0.012, min(accuracy + 0.012, 1)).to_dict(),
    }


def _write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
