"""Findings of every claim about estimation, forks and the run, as the gauges and the diagnosis make
them."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from finding_samples import about, exact, judged, unknown
from gradiometer import Draw, Estimate, GradientNoise, Run, Sampling, Series, diagnose
from gradiometer.drift import BatchSharpness
from gradiometer.estimation import HeavyExamples, NoiseShape, NoiseSources, PreconditionedNoise
from gradiometer.loop.recorded.decisions import cooled_finding, cooling_finding, rate_finding
from gradiometer.loop.recorded.incidents import Incident, IncidentCause
from gradiometer.measurement import Finding, Gauge, Issue, Reading, RunFacts, State
from gradiometer.measurement.optimizer.groups import UNKNOWN_OPTIMIZER
from gradiometer.measurement.optimizer.groups import Group as ParameterGroup
from gradiometer.measurement.optimizer.hyperparameters import Hyperparameters
from gradiometer.verdict.diagnosis import incident_finding, judge, leading
from gradiometer.verdict.reservations import Reservations
from report_run import run_in


def noise(value: float, low: float, high: float, **now: Any) -> Estimate:
    estimate = Estimate.interval(
        value, low, high, level=0.9, method="Fieller", samples=200, unit="examples"
    )
    return replace(estimate, **now)


def optimizer(name: str, family: Any, *rates: float) -> Hyperparameters:
    return Hyperparameters(
        (0,), (tuple(ParameterGroup(name, family, rate) for rate in rates),), reached=900
    )


def batch() -> Iterator[Finding]:
    """The batch below, near and above the noise scale, or where it cannot be told, under several
    optimizers."""
    small, near, large = (noise(x, x / 1.2, x * 1.2) for x in (450.0, 32.0, 4.0))
    open_above = noise(math.inf, 64.0, math.inf, needed=1200)
    unknown = noise(math.nan, -math.inf, math.inf)
    moving = noise(40.0, 33.0, 50.0, step=999, earlier=(99, 200.0), reached=999)
    old = noise(40.0, 33.0, 50.0, step=999, reached=3000)
    settings = (
        None,
        optimizer("SGD", "sgd", 0.1),
        optimizer("SGD", "sgd", 0.1, 0.2),
        optimizer("AdamW", "adaptive", 1e-3),
        optimizer("RMSprop", "adaptive", 1e-3),
        optimizer("Lion", "other", 1e-3),
        optimizer(UNKNOWN_OPTIMIZER, "other", 1e-3),
    )
    plain, preconditioned = GradientNoise(), PreconditionedNoise(tokens=2)
    for scale in (small, near, large, open_above, unknown, moving, old):
        for known in settings:
            for schedule in (None, "cosine", "0.1/t"):
                yield from judged_in(
                    plain, RunFacts(known, schedule), noise_scale=scale, batch_size=exact(32)
                )
            wide = {"preconditioned_noise_scale": scale, "preconditioned_batch_size": exact(32)}
            yield from judged_in(preconditioned, RunFacts(known), **wide)
    both = RunFacts(settings[3], measured=frozenset({"preconditioned_noise"}))
    yield from judged_in(plain, both, noise_scale=small, batch_size=exact(32))
    yield from judged_in(plain, RunFacts(examples=40), noise_scale=small, batch_size=exact(32))
    only = RunFacts(is_full_batch=True)
    yield from judged_in(plain, only, noise_scale=small, batch_size=exact(32))
    for count in (4, 200):
        uneven = replace(exact(9.0), samples=count)
        yield from judged_in(
            plain, RunFacts(), noise_scale=small, batch_size=exact(32), noise_variation=uneven
        )
    within = {
        "preconditioned_noise_scale": noise(40.0, 34.0, 90.0),
        "preconditioned_batch_size": exact(32),
    }
    yield from judged_in(PreconditionedNoise(), RunFacts(), **within)
    yield from judged_in(PreconditionedNoise(), RunFacts(), **within, cool_down=exact(0.02))
    open_end = {
        "preconditioned_noise_scale": noise(90.0, 34.0, math.inf),
        "preconditioned_batch_size": exact(32),
    }
    yield from judged_in(PreconditionedNoise(), RunFacts(), **open_end)


def estimation() -> Iterator[Finding]:
    """The shape and the sources of the noise."""
    for share in (0.2, 0.8):
        yield from judged(
            HeavyExamples(), top_tenth_share=about(share, 0.1), norm_variation=about(3.0, 1.0)
        )
        yield from judged(
            NoiseSources(), drawn_share=about(share, 0.1), noise_of_draws=about(3.0, 1.0)
        )
    tests = {name: about(1.0, 0.1) for name in ("inner_product_test", "orthogonality_test")}
    for norm in (about(2.0, 0.1), unknown()):
        yield from judged(
            NoiseShape(), effective_dimension=about(9.0, 2.0), norm_test=norm, **tests
        )


def judged_in(gauge: Gauge, run: RunFacts, **estimates: Estimate) -> Iterator[Finding]:
    found = gauge.judge(estimates, run)
    assert found is not None
    yield found


def of_the_record(folder: Path) -> Iterator[Finding]:
    """What a run's own events say: a loss that differs, gauges that stopped, decisions by forks, a
    missing class."""
    estimate = about(1.0, 0.1).to_dict()
    kept = {
        "event": "cooling",
        "step": 960,
        "begins": 1140,
        "fork": "0001",
        "outcome": "hold 75% ends lower",
        "spent": 1.0,
    }
    events = [
        kept,
        {**kept, "step": 1140, "fork": None},
        {
            "event": "rate fork",
            "step": 20,
            "factor": 2.0,
            "outcome": "rate 2x ends lower",
            "fork": "0001",
            "spent": 1.0,
        },
        {
            "event": "cooled forecast",
            "step": 500,
            "averaged": 0.4,
            "forecast": estimate,
            "seen": 1.0,
            "fork": "0002",
            "going_on": 1.1,
            "spent": 0.2,
        },
    ]
    yield from incidents(folder)
    run = run_in(folder / "decisions", steps=1200)
    with run.events_path.open("a") as file:
        file.writelines(json.dumps({"time": 0.0, **event}) + "\n" for event in events)
    opened = Run.open(run.path)
    for found in (cooling_finding(opened), rate_finding(opened), cooled_finding(opened)):
        assert found is not None
        yield found
    reservations = Reservations("another loss", stopped={"noise": (40, "the model is sharded")})
    plain = Finding(
        "noise", Issue.ESTIMATION, "own", State.LOOK, facts={"seen": "Seen.", "means": "So."}
    )
    yield plain
    yield reservations.on(plain, uses_loss=True)
    yield reservations.on(plain, uses_loss=False)
    yield reservations.on(replace(plain, state=State.CANNOT_TELL), uses_loss=False)
    yield Reservations(place="it is after the update").on(plain, uses_loss=False)
    for withheld in ("loss", "place"):
        leads = leading(Run.open(warned(folder / withheld, withheld)), [plain])
        assert leads is not None
        yield leads
    yield from short_of_readings(folder / "short")
    facts = {"class": "mine:Gauge", "readings": 0, "run": str(opened.path)}
    yield Finding("mine", Issue.ESTIMATION, "gauge_unavailable", State.CANNOT_TELL, facts=facts)
    facts |= {"class": ""}
    yield Finding("mine", Issue.ESTIMATION, "gauge_not_installed", State.CANNOT_TELL, facts=facts)
    rates = RunFacts(optimizer("SGD", "sgd", 0.1, 0.2))
    sharp = judge(BatchSharpness(), {**BatchSharpness().estimate(sharpness_readings())}, rates)
    assert sharp is not None
    yield sharp


def warned(folder: Path, withheld: str) -> Path:
    """A run that was warned that its loss is not the trained one, or that a step is misplaced."""
    run = run_in(folder, steps=100)
    warning = {
        "event": "warning",
        "step": 1,
        "time": 0.0,
        "text": "the loss differs",
        "withholds": withheld,
    }
    with run.events_path.open("a") as file:
        file.write(json.dumps(warning) + "\n")
    return run.path


def incidents(folder: Path) -> Iterator[Finding]:
    """Incidents of every kind and cause, of a run of ours and of a loop of one's own."""
    causes: list[dict[str, Any]] = [
        {"cause": "example", "examples": (5,)},
        {"cause": "example", "rows": (3, 4)},
        {"cause": "batch"},
        {"cause": "layer", "layer": "head", "factor": 0.5},
        {"cause": "layer", "layer": "head"},
        {"cause": "rate", "factor": 0.5},
        {"cause": "chance"},
        {"cause": "unknown"},
    ]
    for kind in ("not finite", "diverged", "spike", "rise"):
        seen = Incident(kind, 90, 90, 1.0, math.inf if kind == "not finite" else 9.0)
        for cause in causes:
            tried = {"again": True, "other data 1": cause["cause"] == "rate"}
            found = IncidentCause(seen, 82, step=90, tried=tried, **cause)
            for run in (None, folder):
                yield incident_finding(found, run)


def short_of_readings(folder: Path) -> Iterator[Finding]:
    """The finding that the budget could not pay for enough readings."""
    run = run_in(folder, steps=300)
    overhead = {
        "budget": 0.02,
        "used": 0.08,
        "measured_steps": 9,
        "every": 30.0,
        "mode": "apart",
        "short_of": 20,
    }
    with run.readings_path().open("a") as file:
        file.write(json.dumps({"kind": "overhead", **overhead}) + "\n")
    yield from (
        found for found in diagnose(Run.open(run.path)).findings if found.claim == "budget_short"
    )


def sharpness_readings() -> Series:
    moments = [{"curvature": 40.0 + i % 3, "norm_squared": 1.0} for i in range(40)]
    readings = [Reading("batch_sharpness", i, 32, 0.1, each) for i, each in enumerate(moments)]
    return Series.of(readings, Sampling(Draw.FRESH))


def findings_of_runs(folder: Path) -> list[Finding]:
    """All of them.

    Args:
        folder: An empty folder.
    """
    return [found for each in (batch(), estimation(), of_the_record(folder)) for found in each]
