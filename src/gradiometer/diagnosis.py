"""The diagnosis of a run: estimates, findings, and a verdict in one sentence."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from gradiometer.convergence.certificate.certificate import Certificate
from gradiometer.convergence.plateau.noise_floor import CUT, FEWEST_STEPS, finding, plateau_since
from gradiometer.convergence.trajectory.chaos import chaos_finding
from gradiometer.convergence.trajectory.endpoint import NAME as ENDPOINT
from gradiometer.convergence.trajectory.endpoint import Endpoint
from gradiometer.convergence.trajectory.infinity import infinity_finding
from gradiometer.convergence.trajectory.path_facts import Kind, kind_of
from gradiometer.drift.batch_sharpness import BatchSharpness
from gradiometer.drift.curvature_survey import Survey
from gradiometer.drift.spikes.cause import Explanation, explain, layer_near, sharpness_near, usual_norms
from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.spikes.evidence import Examined
from gradiometer.drift.spikes.finding import GAUGE as SPIKES
from gradiometer.drift.spikes.finding import clearest, spikes_finding
from gradiometer.drift.stability import Momentum
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.rate_advice import completed, is_outranked
from gradiometer.forks.recorded.causes import causes_of
from gradiometer.forks.recorded.decisions import cooled_finding, cooling_finding, rate_finding
from gradiometer.forks.recorded.trials import with_trials
from gradiometer.gauges import GAUGES, labels_of, recorded_gauges
from gradiometer.measurement.estimate import Estimate, counted
from gradiometer.measurement.finding import Finding, Issue, Reservations, State
from gradiometer.measurement.gauge import Gauge
from gradiometer.measurement.reading import Series
from gradiometer.measurement.uncertainty.arithmetic import transformed
from gradiometer.measurement.uncertainty.now import FEWEST
from gradiometer.problems.user_code import user_code
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.cadence.overhead import too_few
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run
from gradiometer.run.settings.watched import WatchedConfiguration
from gradiometer.run.spikes import spikes_of
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.triage import Triage, triage_of
from gradiometer.verdict.words.triage import findings_of

POINTS = 24
"""Maximum number of points of a curve along a run."""


class Headline(str):
    """The most urgent finding in one sentence, with the claim of the run.

    Args:
        text: The sentence.
        claim: What limits the run, as far as triage saw.
    """

    claim: Claim

    def __new__(cls, text: str, claim: Claim) -> "Headline":
        """The sentence with its claim."""
        made = super().__new__(cls, text)
        made.claim = claim
        return made


@dataclass(frozen=True)
class Diagnosis:
    """Estimates and findings from the readings of a run.

    Args:
        verdict: One sentence.
        findings: The findings of the gauges, most urgent first.
        estimates: Estimates at the newest reading. The key is the quantity, or `quantity/layer` for one layer.
        history: Estimates along the run. For each quantity, pairs of a step and the estimate of its value there, from
            the readings up to it.
        gauges: The gauges that the run was measured with and whose classes are available.
        spikes: The spikes of the training loss. Their places are steps.
        outcome: The beginning of the verdict: the state of the run and its test score.
        triage: What triage says; None for a run without its signs.
    """

    verdict: str
    findings: tuple[Finding, ...]
    estimates: Mapping[str, Estimate]
    history: Mapping[str, tuple[tuple[int, Estimate], ...]]
    gauges: tuple[Gauge, ...] = ()
    spikes: tuple[Spike, ...] = ()
    outcome: str = ""
    triage: Triage | None = None

    @property
    def headline(self) -> Headline:
        """The rest of the verdict, as a sentence: the most urgent finding. Its `claim` says what limits the run."""
        rest = self.verdict.removeprefix(f"{self.outcome}; ")
        claim = Claim.UNDECIDED if self.triage is None else self.triage.claims[0].claim
        return Headline(rest[:1].upper() + rest[1:], claim)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all quantities."""
        held_out = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
        return {**labels_of(self.gauges), **Survey.labels, **Certificate.labels, **held_out}

    def to_dict(self) -> dict[str, Any]:
        """Verdict, findings and latest estimates, as `--json` prints them."""
        return {
            "verdict": self.verdict,
            "claim": self.headline.claim.value,
            "claims": [] if self.triage is None else [each.claim.value for each in self.triage.claims],
            "findings": [finding.to_dict() for finding in self.findings],
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
        }


def diagnose(run: Run, level: float | None = None) -> Diagnosis:
    """Estimate and interpret everything a run has recorded.

    Args:
        run: The run, finished or not.
        level: Confidence level. Default: that of the run.

    >>> from gradiometer import Run, diagnose
    >>> from gradiometer.run import RunFolder
    >>> folder = RunFolder.create("runs", "empty", {})
    >>> diagnose(Run.open(folder.path)).verdict
    'Stopped at step 0; nothing was measured: the budget of 2 % has not yet covered one measurement ...'
    """
    level = run.configuration.level if level is None else level
    findings: list[Finding] = []
    estimates: dict[str, Estimate] = {}
    history: dict[str, list[tuple[int, Estimate]]] = {}
    gauges, missing = recorded_gauges(run)
    few = too_few(run.overhead, run.configuration.every)
    schedule = run.configuration.schedule if isinstance(run.configuration, Configuration) else None
    repeats = _has_one_batch(run)
    for gauge in gauges:
        series = run.series(gauge.name)
        if series is None:
            continue
        ours = type(gauge) in GAUGES.values()
        with nullcontext() if ours else user_code(f"{type(gauge).__name__}.estimate"):
            latest = gauge.estimate(series.at_newest(), level)
            if few and not gauge.own_steps:  # more steps at this budget bring few readings
                latest = {name: replace(estimate, needed=None) for name, estimate in latest.items()}
            estimates |= latest
            if finding := gauge.interpret(latest):
                examples = round(series.usual_batch_size) if repeats else run.sampling.examples
                found = completed(finding, gauge, latest, run.hyperparameters, schedule, run.gauges, examples)
                findings.append(found)
            if gauge.own_steps:
                continue  # it is about the whole path
            for past in along(series):
                for name, estimate in gauge.estimate(past.at_newest(by_layer=False), level).items():
                    history.setdefault(name, []).append((int(past.steps[-1]), estimate))
    if few:
        findings.append(_too_few(few))
    findings += [_unavailable(name, path, run) for name, path in missing.items()]
    findings += _endpoint(run, estimates)
    findings += filter(
        None, (_stationarity(run, level), *(each(run) for each in (cooling_finding, rate_finding, cooled_finding)))
    )
    spikes = spikes_of(run)
    if spikes:
        found = spikes_finding(spikes, partial(_explained, run, gauges))
        findings.append(found if run.watched else replace(found, tried=_tried(run, clearest(spikes))))
    if run.evaluations:
        estimates |= {name: Estimate(**fields) for name, fields in run.evaluations[-1]["estimates"].items()}
    for certificate in load_artifacts(run, Certificate)[-1:]:
        findings.append(certificate.finding())
        estimates |= certificate.estimates
    findings = with_trials(run, _with_reservations(run, findings, gauges))
    findings.sort(key=lambda each: (each.state.rank, each.gauge != SPIKES, is_outranked(each.gauge, run.gauges)))
    judged = triage_of(run) if run.signs else None
    if judged is not None:
        findings = led_by(judged, findings)
    outcome = outcome_of(run, estimates)
    return Diagnosis(
        verdict=f"{outcome}; {verdict_of(run, findings)}.",
        findings=tuple(findings),
        estimates=estimates,
        history={name: tuple(points) for name, points in history.items()},
        gauges=gauges,
        spikes=spikes,
        outcome=outcome,
        triage=judged,
    )


def led_by(judged: Triage, findings: list[Finding]) -> list[Finding]:
    """The findings with those of triage. If something is wrong, it leads, and gauges advise nothing.

    What a gauge reads is true also then, but its advice about batch and rate is for a run that learns.
    """
    found = list(findings_of(judged))
    if judged.passes:
        urgent = [each for each in findings if each.state in (State.ACT, State.LOOK)]
        return [*urgent, *found, *(each for each in findings if each not in urgent)]
    calm = [
        replace(each, state=State.OK, advice="", forecast="", tried="", alternatives=()) if each.advice else each
        for each in findings
    ]
    return [*found, *calm]


def _explained(run: Run, gauges: Sequence[Gauge], spike: Spike) -> Explanation:
    """The likely cause of a spike, with the readings near it."""
    examined = Examined.within(spike, run.events)
    evidence: list[str] = []
    for gauge in gauges:
        if (series := run.series(gauge.name)) is None:
            continue
        if isinstance(gauge, BatchSharpness):
            evidence.append(sharpness_near(spike, series, gauge.kind))
        elif isinstance(gauge, GradientNoise):
            usual = usual_norms(spike.first, series)
            layer = "" if examined is None or usual is None else examined.layer(series.layers, usual)
            evidence.append(layer or layer_near(spike, series))
    return explain(spike, examined=examined, readings=tuple(evidence), same_examples=_has_one_batch(run))


def _has_one_batch(run: Run) -> bool:
    """True if every measured batch had the same rows."""
    found = [event["repeats"] for event in run.events if "repeats" in event]
    return found[-1:] == ["batch"]


def _tried(run: Run, spike: Spike) -> str:
    """The cause of a spike that forks have found, or the command that finds it."""
    if (found := causes_of(run, spike)) is not None:
        return f"Tried: {found.words} (forks {' and '.join(found.forks)})"
    return f"Not tried: {run.call('fork', '').removesuffix('`')} --spike {spike.peak}`."


def _with_reservations(run: Run, findings: Sequence[Finding], gauges: Sequence[Gauge]) -> list[Finding]:
    """The findings as far as the warnings of the run let them hold, and one for each gauge that stopped early."""
    reservations = Reservations.of(run.events)
    apart = run.manifest.get("mode") != "shared"
    uses_loss = {gauge.name: not gauge.own_steps and (apart or gauge.needs_loss) for gauge in gauges}
    held = [
        reservations.on(finding, uses_loss=uses_loss[finding.gauge]) if finding.gauge in uses_loss else finding
        for finding in findings
    ]
    found = {finding.gauge for finding in findings}
    stopped = [gauge for gauge in gauges if gauge.name not in found and reservations.why(gauge.name)]
    return held + [reservations.stop_of(gauge.name, gauge.issue) for gauge in stopped]


def _unavailable(name: str, path: str, run: Run) -> Finding:
    """The finding for a gauge whose class is not available."""
    series = run.series(name)
    readings = counted(0 if series is None else len(series), "reading")
    return Finding(
        gauge=name,
        issue=Issue.ESTIMATION,
        state=State.CANNOT_TELL,
        seen=f"The class of the gauge {name!r}, {path}, is not available. The run has {readings} of it.",
        means="Its moments can be exported, but estimates need the class.",
        advice=f"`gradiometer report {shlex.quote(str(run.path))} --gauge {path}`, or Run.open(path, gauges=[...]).",
    )


def _too_few(text: str) -> Finding:
    """The finding for a budget that could not pay for enough readings."""
    seen, _, advice = text.partition(": ")
    return Finding(
        gauge="overhead",
        issue=Issue.ESTIMATION,
        state=State.CANNOT_TELL,
        seen=f"{seen}.",
        means="Intervals stay wide, and more steps change little.",
        advice=advice[:1].upper() + advice[1:],
    )


def _endpoint(run: Run, estimates: Mapping[str, Estimate]) -> Iterator[Finding]:
    """Findings of the check after the last step."""
    for event in [event for event in run.events if event["event"] == ENDPOINT][-1:]:
        endpoint = Endpoint.of(event)
        yield from endpoint.findings(kind_of(estimates))
        if found := _chaos(run, endpoint, estimates):
            yield found
        settings = run.hyperparameters
        if settings is not None and kind_of(estimates) is not Kind.DIVERGING:
            decay = max((group.weight_decay for group in settings.now), default=0.0)
            if found := infinity_finding(estimates, run.losses[1], decay):
                yield found


def _chaos(run: Run, endpoint: Endpoint, estimates: Mapping[str, Estimate]) -> Finding | None:
    """The finding about chaos past the edge, from the sharpness at the end or that of the batches."""
    settings = run.hyperparameters
    if settings is None or settings.family != "sgd" or (path := run.series("trajectory")) is None:
        return None
    rate = float(path.learning_rate[-1])
    shares = [estimates[name] for name in ("edge_share",) if name in estimates and estimates[name].tells]
    if endpoint.sharpness is not None:
        limit = min(Momentum(group.momentum, group.nesterov).limit for group in settings.now)
        shares.append(transformed(endpoint.sharpness, lambda sharpness: rate * sharpness / limit))
    share = max(shares, key=lambda each: each.low, default=None)
    return chaos_finding(share, estimates, run.losses[1], rate)


def _stationarity(run: Run, level: float) -> Finding | None:
    """If the loss still falls at the latest constant rate. None without a constant rate or without `cool`."""
    looks = [event for event in run.events if event["event"] == "stationarity"]
    if not looks:
        return None
    look = looks[-1]
    steps, losses = run.losses
    held = (steps >= look["step"] - look["steps"]) & (steps < look["step"])
    if held.sum() < FEWEST_STEPS or not np.isfinite(losses[held]).all():
        return None
    found = plateau_since(steps[held], losses[held], level)
    return finding(found, look["learning_rate"], look, CUT * look["learning_rate"])


def along(series: Series) -> Iterator[Series]:
    """The readings up to points along the run, equally many readings apart, as far as they are enough for an estimate.

    The last point is the newest reading.
    """
    for stop in sorted({*np.linspace(len(series), 0, POINTS, endpoint=False).astype(int).tolist()}):
        if stop >= min(FEWEST, len(series)):
            yield series[:stop]


def outcome_of(run: Run, estimates: Mapping[str, Estimate]) -> str:
    """The state of the run and its test score."""
    parts = [_ending(run)]
    if (accuracy := estimates.get("test_accuracy")) is not None:
        parts.append(f"test accuracy {accuracy.value:.1%} [{accuracy.low:.1%}, {accuracy.high:.1%}]")
    elif (loss := estimates.get("test_loss")) is not None:
        parts.append(f"test loss {loss}" if loss.tells else f"test loss not known ({loss.method})")
    return "; ".join(parts)


def verdict_of(run: Run, findings: list[Finding]) -> str:
    """The most urgent finding, or the reason that there is no verdict."""
    if reason := Reservations.of(run.events).loss:
        return f"no verdict: {reason.rstrip('.')}"
    if not findings:
        return _nothing_measured(run.configuration)
    ours = [each for each in findings if not is_outranked(each.gauge, run.gauges)] or findings
    return _most_urgent(ours, over=run.status == "finished")


def _ending(run: Run) -> str:
    if run.status == "diverged":
        return f"Training diverged at step {run.steps:,} and was stopped"
    if run.status == "finished":
        return f"Trained for {counted(run.steps, 'step')}"
    return f"{'Stopped' if run.status == 'interrupted' else 'Under way'} at step {run.steps:,}"


def _nothing_measured(configuration: Configuration | WatchedConfiguration) -> str:
    """The reason that nothing was measured, and what to do."""
    if configuration.budget == 0:
        return "measuring was off (budget 0)"
    if configuration.every is not None:
        return "nothing was measured"
    return (
        f"nothing was measured: the budget of {100 * configuration.budget:.2g} % has not yet covered one measurement "
        "(set a larger `budget`, or `every` = 1 to measure every step, at any cost)"
    )


def _most_urgent(findings: list[Finding], *, over: bool) -> str:
    """The most urgent finding with a known state; its beginning, if it is not urgent.

    Its first letter becomes lower-case unless it starts a symbol. What a run that is over cannot tell, it never will.
    """
    first_known = next((finding for finding in findings if finding.state is not State.CANNOT_TELL), findings[0])
    seen = first_known.seen.removesuffix(".")
    if first_known.state in (State.OK, State.CANNOT_TELL):
        seen = re.split(r": |\. " if first_known.state is State.OK else r"\. ", seen, maxsplit=1)[0]
    first = seen.split()[0]
    said = seen[0].lower() + seen[1:] if len(first) > 1 and first.isalpha() and first.istitle() else seen
    unknown = "cannot tell" if over else "cannot tell yet"
    return f"{unknown}: {said}" if first_known.state is State.CANNOT_TELL else said
