"""Findings of every claim, as the gauges and the chain make them."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gradiometer import Draw, Estimate, Sampling, Series
from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.convergence.plateau.noise_floor import Plateau, finding
from gradiometer.convergence.trajectory.endpoint import Endpoint, chaos_finding, infinity_finding
from gradiometer.convergence.trajectory.path_facts import Kind, Trail, facts_of
from gradiometer.convergence.trajectory.trajectory import Trajectory
from gradiometer.drift import BatchSharpness, CurvatureAlongGradient, LossChange, StepDrift
from gradiometer.drift.spikes.cause import (
    Examined,
    Explanation,
    explain,
    layer_near,
    sharpness_near,
    spikes_finding,
)
from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.stability import MomentumRule, edge_finding, no_edge_finding
from gradiometer.exploration.ensembles.ensemble_report import (
    Baseline,
    EnsembleReport,
    EnsembleSize,
    LinearPath,
)
from gradiometer.exploration.temperature import Temperature
from gradiometer.logs import Log, log_findings
from gradiometer.logs.log import Column
from gradiometer.measurement import Finding, Gauge, Reading
from gradiometer.measurement.uncertainty.differences import PairsNeeded
from gradiometer.report.compare.contrast import Compared, Contrast, Difference, RunGroup, finding_of
from gradiometer.report.sections.convergence import GIVEN, RateCurve
from gradiometer.report.sections.convergence import _finding as schedule_finding
from known_steps import kept_steps
from report_run import run_in


def exact(value: float) -> Estimate:
    return Estimate.exact(float(value))


def about(value: float, width: float, unit: str = "") -> Estimate:
    low, high = float(value - width), float(value + width)
    return Estimate.interval(
        float(value), low, high, level=0.9, method="mean", samples=12, unit=unit
    )


def unknown(needed: int | None = 3952) -> Estimate:
    return Estimate.unknown(level=0.9, method="mean", samples=1, needed=needed)


def judged(gauge: Gauge, **estimates: Estimate) -> Iterator[Finding]:
    found = gauge.judge(estimates)
    assert found is not None
    yield found


def drift() -> Iterator[Finding]:
    """The sharpness against its edge, and what one step changes."""
    for sharpness in (5.0, 20.0, 80.0):
        for kind in (MomentumRule(), MomentumRule(0.9), MomentumRule(0.9, nesterov=True)):
            yield edge_finding(about(sharpness, 0.1, "loss / parameter²"), 0.1, kind)
    yield no_edge_finding(exact(20.0), 1000, ("Adam", "Lion"))
    for needed in (None, 3952):
        yield from judged(StepDrift(), step_drift=unknown(needed), drift_batch_size=exact(32))
        yield from judged(LossChange(), curvature_share=unknown(needed), seen_change=unknown())
        yield from judged(
            CurvatureAlongGradient(), curvature_noise_scale=unknown(needed), batch_size=exact(32)
        )
    yield from judged(
        CurvatureAlongGradient(), curvature_noise_scale=about(64, 9), batch_size=exact(32)
    )
    for drifted in (0.0, 0.04, 4.0):
        yield from judged(
            StepDrift(), step_drift=about(drifted, 0.01), drift_batch_size=exact(1024)
        )
    for share in (0.1, 0.5, 0.8, 2.0):
        yield from judged(
            LossChange(), curvature_share=about(share, 0.05), seen_change=about(0.1 - share, 0.01)
        )
    for share in (
        about(0.1, 0.01),
        about(0.5, 0.01),
        about(1, 0.1),
        about(1, 0.4),
        about(2, 0.1),
        unknown(),
    ):
        for momentum, averaged in ((0.0, 0.0), (0.5, 0.0), (0.9, 1.0)):
            yield from judged(
                BatchSharpness(),
                averaged=exact(averaged),
                edge_share=share,
                batch_sharpness=about(11, 2),
                edge=exact(20),
                small_batch_edge=exact(9),
                momentum=exact(momentum),
                steadiness=exact(1),
            )


def spikes() -> Iterator[Finding]:
    """One or several spikes, with everything that can speak for a cause."""
    shapes = [(700, 700, 700), (700, 700, 701), (700, 701, 701), (700, 704, 720)]
    readings = [
        Reading("batch_sharpness", step, 8, rate, {"curvature": 30.0, "norm_squared": 1.0})
        for step, rate in ((690, 0.01), (700, 0.1))
    ]
    sharp = Series.of(readings, Sampling(Draw.FRESH))
    loud = [
        Reading(
            "noise",
            step,
            8,
            0.1,
            {"gradient_variance": [1.0, 1.0], "gradient_norm_squared": [1.0, norm]},
        )
        for step, norm in ((680, 1.0), (690, 1.0), (700, 90.0))
    ]
    layers = Series.of(loud, Sampling(Draw.FRESH), ("first.weight", "second.weight"))
    examinations = [None]
    for others, share, examples in (
        ((1.0, 1.1), 0.9, [3, 5]),
        ((1.0, 5.0), 0.3, []),
        ((1.0, 2.5), 0.8, [3]),
    ):
        examinations.append(Examined(6.0, 1.0, 16, examples, share, *others, [1.0, 9.0]))
    for first, peak, last in shapes:
        for ended in (True, False):
            spike = Spike(
                first, peak, last, level=1.0, height=6.0, score=40.0, limit=9.0, ended=ended
            )
            for examined in examinations:
                near = [sharpness_near(spike, sharp, MomentumRule()), layer_near(spike, layers)]
                if examined is not None:
                    near.append(examined.layer(("a", "b"), np.array([1.0, 1.0])))
                for batches in (1.0, 10.0):
                    for same in (False, True):

                        def why(
                            each: Spike,
                            batches: float = batches,
                            same: bool = same,
                            near: Any = near,
                            look: Any = examined,
                        ) -> Explanation:
                            return explain(
                                each,
                                batches=batches,
                                examined=look,
                                readings=near,
                                same_examples=same,
                            )

                        yield spikes_finding([spike], why)
                        yield spikes_finding([spike] * 7, why, "train/loss")


def convergence() -> Iterator[Finding]:
    """The schedule, the plateau, the path, its end, and the certificate."""
    for last in (0.0, 0.05):
        for values in (
            np.linspace(0.1, last, 100),
            np.r_[np.linspace(0, 0.1, 20), np.linspace(0.1, last, 80)],
        ):
            found = schedule_finding(RateCurve(np.arange(100), values, last, 100, 100, GIVEN))
            assert found is not None
            yield found
    look = {"predicted": about(0.1, 0.02).to_dict(), "left": 0.5}
    for plateau in (None, Plateau(2132, about(-1e-6, 5e-6), 0.5)):
        for cut in (None, look | {"stopped": True}, look | {"stopped": False}):
            found = finding(plateau, 0.1, cut, 0.01)
            if found is not None:
                yield found
    yield from paths()
    random = np.random.default_rng(0)
    chaotic, correlation = random.uniform(1, 7, 450), {"step_correlation": about(-0.1, 0.1)}
    for share, losses in (
        (exact(3.5), np.r_[np.linspace(4, 1, 50), chaotic]),
        (None, np.r_[1.0, chaotic]),
    ):
        found = chaos_finding(share, correlation, losses, 7.0)
        assert found is not None
        yield found
    facts = {"norm_growth": about(0.1, 0.05), "alignment": exact(0.8)}
    found = infinity_finding(facts, 2.3 / (1 + np.arange(4000)), 0.0)
    assert found is not None
    yield found
    curvatures = {"smallest": about(-1, 0.01), "sharpness": about(2, 0.01)}
    ended = Endpoint(
        256, 10.0, **curvatures, dead={"ReLU 1": (8, 8)}, twins={"0.weight": (2, 1000)}
    )
    yield from ended.findings(Kind.CONVERGING)
    for squared in (exact(1e-6), exact(0.04), about(3e-4, 2e-4), about(4e-4, 1e-5)):
        for lowest in (exact(-0.5), exact(0.1), about(-0.02, 0.1)):
            for size in (64, 100_000):
                yield Certificate(
                    9000,
                    "eval",
                    squared,
                    exact(4.0),
                    lowest,
                    exact(2.0),
                    gradients=64,
                    curved=64,
                    of=size,
                ).finding()


def paths() -> Iterator[Finding]:
    """A path of every kind."""
    steps = np.array(kept_steps(2**12))
    time = steps.astype(float)
    angle = math.pi * np.log2(time + 1)
    noise = np.random.default_rng(0).standard_normal((len(time), 5))
    points = (
        np.outer(1 / (1 + time), np.ones(3)),
        noise,
        np.outer(time, [1.0, 2.0]) + 0.01 * noise[:, :2],
        np.outer(np.where(steps % 2, 1.0, -1.0) * (1 + time / 1000), np.ones(3)),
        np.stack([np.cos(angle), np.sin(angle)], axis=1),
        np.outer(np.log(1 + time), np.ones(3)),
        np.outer(np.sqrt(1 + time), np.ones(3)),
    )
    for each in points:
        yield from judged(
            Trajectory(), **facts_of(Trail.of(steps, each, np.full(len(steps), 0.1)), 0.9)
        )
    shorter = {
        "step_correlation": exact(0.5),
        "travel": exact(9),
        "turns": exact(0),
        "turn_consistency": exact(0),
    }
    outwards = {"straightness": exact(0.9), "alignment": exact(0.9), "move_slope": exact(-0.5)}
    yield from judged(
        Trajectory(), **shorter, **outwards, norm_growth=about(0.1, 0.05), slowing=about(1.2, 0.2)
    )
    few = steps[:20]
    yield from judged(
        Trajectory(), **facts_of(Trail.of(few, noise[:20], np.full(len(few), 0.1)), 0.9)
    )


def exploration() -> Iterator[Finding]:
    """The temperature, and an ensemble."""
    known = {"temperature_minibatch": exact(0.15)}
    for temperature in (about(0.2, 0.01, "loss"), unknown(None), unknown()):
        for drifting in (about(0.1, 0.01), about(0.6, 0.1), about(-1.5, 0.1), unknown()):
            for posterior in (105.0, 3.0, 0.5, 0.01):
                estimates = {
                    **known,
                    "temperature": temperature,
                    "temperature_drift_share": drifting,
                    "temperature_posterior": about(posterior, 0.1 * posterior),
                    "temperature_examples": exact(1437),
                }
                yield from judged(Temperature(), **estimates)
                layers = {"temperature/a": about(0.1, 0.01), "temperature/b": about(0.9, 0.1)}
                clipped = {
                    "temperature_clipping": about(0.5, 0.1),
                    "forgotten_curvature": exact(2.0),
                }
                yield from judged(Temperature(), **estimates, **layers, **clipped)
    for gain in (-0.02, 0.0, 0.02):
        for chosen, barriers in ((2, ()), (8, (0.001,)), (12, (0.15, 0.3)), (11, (0.001, 0.15))):
            yield ensemble(gain, chosen, barriers).finding("runs/a")


def ensemble(gain: float, chosen: int, barriers: tuple[float, ...]) -> EnsembleReport:
    """A report on twelve snapshots."""
    sizes = tuple(
        EnsembleSize(
            members, {"error": exact(0.2)}, {"calibrated_nll": about(-0.001, 0.0001 * members)}
        )
        for members in range(1, 13)
    )
    last = Baseline(
        "last snapshot", {}, {"calibrated_nll": about(-gain, 0.005), "error": about(-gain, 0.01)}
    )
    paths = tuple(
        LinearPath((0.0, 1.0), (exact(0.1), exact(0.2)), about(barrier, 0.01))
        for barrier in barriers
    )
    return EnsembleReport(
        12, chosen, 1.1, 9000, 1000, sizes, (last,), exact(0.5), {}, paths, (), about(2.0, 1.0)
    )


def logs() -> Iterator[Finding]:
    """Everything that a log can show."""
    random, steps = np.random.default_rng(3), 10 * np.arange(400)
    noise = random.standard_normal(400)
    falling = 2 * np.exp(-np.arange(400) / 100) + 0.5 + 0.02 * noise
    place = np.arange(400)
    losses = [
        falling,
        1 + 0.01 * noise,
        1 + 0.5 * noise,
        1 + place / 400,
        np.ones(400),
        falling[:5],
        np.where(place > 390, 0, falling),
        np.where(place == 100, np.nan, falling),
        np.where(place > 300, np.inf, falling),
        np.where(place == 200, 9.0, falling),
        2 - 0.2 * (place // 50) + 0.01 * noise,
    ]
    rates = [
        None,
        np.full(400, 0.1),
        np.linspace(0.1, 0, 400),
        np.r_[np.linspace(0, 0.1, 100), np.linspace(0.1, 0.05, 300)],
        0.1 ** (1 + place // 100),
        0.1 * (1 - (place % 100) / 101),
        np.r_[np.linspace(0.1, 0.01, 200), np.linspace(0.2, 0.01, 200)],
    ]
    for loss in losses:
        length = len(loss)
        for rate in rates:
            columns = {
                "loss": loss,
                "learning_rate": rate,
                "epoch": place / 50,
                "grad_norm": np.ones(400),
            }
            for left_out in ((), ("epoch", "grad_norm")):
                kept = {
                    name: Column(name, steps[:length], values[:length])
                    for name, values in columns.items()
                    if values is not None and name not in left_out
                }
                yield from log_findings(Log("made", "a test", kept))
    again = np.r_[steps[:200], steps[100:]]
    values = np.r_[falling[:200], falling[100:]]
    yield from log_findings(Log("made", "a test", {"loss": Column("loss", again, values)}))
    yield from log_findings(Log("made", "a test", {"epoch": Column("epoch", steps, place / 50)}))


def comparisons(folder: Path) -> Iterator[Finding]:
    """Two configurations, or two seeds, of runs in a folder."""
    groups = [
        RunGroup(letter, (Compared(run_in(folder, steps=4, seed=seed), 0.9),), 4, {})
        for letter, seed in (("A", 0), ("B", 1))
    ]
    needed = PairsNeeded(12.0, 5.0, math.inf)
    several = {"learning_rate": (0.1, 0.01), "momentum": (0.0, 0.9)}
    for changed in ({}, {"learning_rate": (0.1, 0.01)}, several):
        for quantity in ("test_loss", "noise_scale"):
            for value in (-0.2, 0.01, 2.0):
                for over, pairs in (("steps", None), ("seeds", needed)):
                    differences = (Difference(quantity, about(value, 0.05), over, pairs),)
                    yield finding_of(Contrast(groups[0], groups[1], 4, changed, differences, 3))


def findings_of_rooms(folder: Path) -> list[Finding]:
    """All of them.

    Args:
        folder: An empty folder.
    """
    samples = (drift(), spikes(), convergence(), exploration(), logs(), comparisons(folder))
    return [found for each in samples for found in each]
