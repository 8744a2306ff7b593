"""The diagnosis of a run: the one chain from its numbers to findings, the most urgent of which is
the headline."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradiometer.convergence.plateau.noise_floor import CUT, FEWEST_STEPS, finding, plateau_since
from gradiometer.convergence.trajectory.path_facts import Kind, kind_of
from gradiometer.drift.batch_sharpness import BatchSharpness
from gradiometer.drift.spikes.cause import GAUGE as SPIKES
from gradiometer.drift.spikes.cause import (
    Examined,
    Explanation,
    Observation,
    clearest,
    explain,
    layer_near,
    sharpness_near,
    spikes_finding,
    usual_norms,
)
from gradiometer.drift.spikes.detection import Spike
from gradiometer.drift.stability import MomentumRule
from gradiometer.estimation.batch_advice import is_outranked
from gradiometer.estimation.batch_table import PRECONDITIONED
from gradiometer.estimation.noise import GradientNoise
from gradiometer.estimation.products import is_of_products
from gradiometer.gauges import is_ours, labels_of, recorded_gauges
from gradiometer.loop.recorded.decisions import cooled_finding, cooling_finding, rate_finding
from gradiometer.loop.recorded.incidents import IncidentCause, spikes_of
from gradiometer.measurement.estimate import Estimate
from gradiometer.measurement.finding import Doubt, Evidence, Finding, Issue, State, Trial
from gradiometer.measurement.gauge import Gauge, RunFacts, estimates_of, finding_of
from gradiometer.measurement.reading import Series
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.now import FEWEST
from gradiometer.run.artifacts import load_artifacts
from gradiometer.run.configuration import Configuration
from gradiometer.run.reader import Run, check_run
from gradiometer.verdict.claims import GAUGE as TRIAGE
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.curves import Curve, Curves, errors_of_gauge
from gradiometer.verdict.records import with_record
from gradiometer.verdict.reservations import Reservations
from gradiometer.verdict.triage.signs import are_one_batch
from gradiometer.verdict.triage.triage import Triage, findings_of, triage_of
from gradiometer.verdict.words.say import (
    as_dict,
    ending,
    headline_in_words,
    outcome_of,
    provisional,
)

if TYPE_CHECKING:
    from gradiometer.convergence.trajectory.endpoint import Endpoint


@dataclass(frozen=True)
class Diagnosis:
    """Estimates and findings from the readings of a run.

    Args:
        findings: The findings of the gauges, most urgent first.
        estimates: Estimates at the newest reading. The key is the quantity, or `quantity/layer` for
            one layer.
        history: Estimates along the run. For each quantity, pairs of a step and the estimate of its
            value there, from the readings up to it. `diagnose` makes them when they are asked for.
        headline: The finding that leads; None without findings.
        outcome: The state of the run and its test score, in words.
        said: The headline in words.
        gauges: The gauges that the run was measured with and whose classes are available.
        spikes: The spikes of the training loss. Their places are steps.
        triage: What triage says; None for a run without its signs.
        provisional: That the training goes on, and what the answer waits for, in words; empty if it
            does not.
    """

    findings: tuple[Finding, ...]
    estimates: Mapping[str, Estimate]
    history: Mapping[str, Curve]
    headline: Finding | None = None
    outcome: str = ""
    said: str = ""
    gauges: tuple[Gauge, ...] = ()
    spikes: tuple[Spike, ...] = ()
    triage: Triage | None = None
    provisional: str = ""

    @property
    def verdict(self) -> str:
        """The outcome and the headline, in one sentence."""
        return f"{self.outcome}; {self.said}."

    @property
    def labels(self) -> dict[str, str]:
        """Labels of all quantities."""
        from gradiometer.convergence.certificate.certificate import Certificate  # noqa: PLC0415 (when asked for)
        from gradiometer.drift.curvature_survey import Survey  # noqa: PLC0415 (when asked for)

        held_out = {"test_loss": "test loss", "test_accuracy": "test accuracy"}
        return {**labels_of(self.gauges), **Survey.labels, **Certificate.labels, **held_out}

    def to_dict(self) -> dict[str, Any]:
        """Verdict, findings and latest estimates, as `--json` prints them."""
        return {
            "verdict": self.verdict,
            "provisional": self.provisional,
            "headline": None if self.headline is None else self.headline.claim,
            "claims": []
            if self.triage is None
            else [each.claim.value for each in self.triage.claims],
            "suspects": []
            if self.triage is None
            else [each.claim.value for each in self.triage.suspects],
            "findings": [as_dict(finding) for finding in self.findings],
            "estimates": {name: estimate.to_dict() for name, estimate in self.estimates.items()},
        }


def diagnose(run: Run, level: float | None = None) -> Diagnosis:
    """Estimate and interpret everything a run has recorded.

    Args:
        run: The run, finished or not.
        level: Confidence level. Default: that of the run.

    Raises:
        BadArgument: `run` is not a Run, such as the path of its folder: see `Run.open`.

    >>> from gradiometer import Run, diagnose
    >>> from gradiometer.run.folder import RunFolder
    >>> folder = RunFolder.create("runs", "empty", {})
    >>> diagnose(Run.open(folder.path)).verdict
    'Stopped at step 0; nothing was measured: the budget of 2 % has not yet covered one measurement ...'
    """
    check_run(run)
    level = run.configuration.level if level is None else level
    estimates: dict[str, Estimate] = {}
    readings: list[tuple[Gauge, Sequence[Series]]] = []
    findings = [*_of_gauges(run, level, estimates, readings), *_of_the_run(run, level, estimates)]
    gauges, missing = recorded_gauges(run)
    findings += [_unavailable(name, path, run) for name, path in missing.items()]
    spikes = spikes_of(run)
    if spikes:
        found = spikes_finding(spikes, partial(_explain, run, gauges))
        findings.append(
            found if run.watched else replace(found, trial=_trial_of(run, clearest(spikes)))
        )
    if run.evaluations:
        estimates |= {
            name: Estimate(**fields) for name, fields in run.evaluations[-1]["estimates"].items()
        }
    if any(run.path.glob("certificates/*")):
        from gradiometer.convergence.certificate.certificate import Certificate  # noqa: PLC0415 (few have one)

        for certificate in load_artifacts(run, Certificate)[-1:]:
            findings.append(certificate.finding())
            estimates |= certificate.estimates
    for cause in load_artifacts(run, IncidentCause)[-1:]:
        findings.append(incident_finding(cause, None if run.watched else run.path))
    findings = _with_trials(run, _with_reservations(run, _answers(findings), gauges))
    # Where neither scale can tell, one says so.
    answering = [each.gauge for each in findings]
    findings = [
        each
        for each in findings
        if each.state is not State.CANNOT_TELL or not is_outranked(each.gauge, answering)
    ]
    # Of equally urgent findings a spike comes first, and last what nobody has counted and what
    # another scale answers better.
    findings.sort(
        key=lambda each: (
            each.state.rank,
            each.gauge != SPIKES,
            each.facts.get("uncounted", False),
            is_outranked(each.gauge, run.gauges),
        )
    )
    # The losses of another loss than the trained one say nothing about the training.
    reservations = Reservations.of(run.events)
    is_withheld = reservations.loss or reservations.place
    judged = triage_of(run) if run.signs and not is_withheld else None
    if judged is not None:
        findings = led_by(
            judged,
            _with_trials(
                run,
                [
                    with_record(each)
                    for each in findings_of(
                        judged, run.hyperparameters, at_keyboard=not run.watched
                    )
                ],
            ),
            findings,
        )
    headline = leading(run, findings)
    findings.sort(key=lambda each: each is not headline)  # the first one is the answer
    status = "finished" if run.status == "running" and run.is_over else run.status
    return Diagnosis(
        findings=tuple(findings),
        estimates=estimates,
        history=Curves(tuple(readings), level),
        headline=headline,
        outcome=outcome_of(ending(status, run.steps), estimates),
        said=headline_in_words(headline, run.configuration, is_over=status == "finished"),
        gauges=gauges,
        spikes=spikes,
        triage=judged,
        provisional=provisional(run.steps, run.planned) if status == "running" else "",
    )


def incident_finding(found: IncidentCause, run: Path | None) -> Finding:
    """The finding of an incident whose cause was looked for. `run` is None for a loop of one's
    own."""
    passes = found.incident.kind == "spike" or found.cause == "chance"
    state = State.LOOK if passes else State.ACT
    facts = {"found": found, "run": run}
    return Finding(
        "incident", Issue.DRIFT, "incident", state, facts=facts, evidence=Evidence.REPLAY
    )


def led_by(judged: Triage, found: Sequence[Finding], findings: Sequence[Finding]) -> list[Finding]:
    """The findings with those of triage. If something is wrong, it leads, and gauges advise
    nothing.

    What a gauge reads is true also then, but its advice about batch and rate is for a run that
    learns, and whose rate is not in doubt. A training is not called fine beside advice to
    change it.
    """
    found = [without_refuted(each) for each in found]
    is_in_doubt = any(is_without_illness(each) and each.cure for each in found)
    if judged.passes and not is_in_doubt:
        if any(each.cure and each.state is not State.OK for each in findings):
            found = [
                replace(each, state=State.LOOK) if is_without_illness(each) else each
                for each in found
            ]
        return sorted([*found, *findings], key=lambda each: each.state.rank)
    readings = [
        replace(
            each,
            state=each.state if is_in_doubt else State.OK,
            cure=(),
            trial=None,
            facts={**each.facts, "withheld": True},
        )
        if each.cure
        else each
        for each in findings
    ]
    return [*found, *readings]


def without_refuted(finding: Finding) -> Finding:
    """A training that may end lower is advised no change that ended worse in a fork of it."""
    if finding.claim != Claim.UNDECIDED or finding.trial is None:
        return finding
    refuted = {
        result["effect"].alternative
        for result in finding.trial.results
        if result["verdict"] == "did not hold"
    }
    return replace(finding, cure=tuple(each for each in finding.cure if each not in refuted))


def _of_gauges(
    run: Run,
    level: float,
    estimates: dict[str, Estimate],
    readings: list[tuple[Gauge, Sequence[Series]]],
) -> Iterator[Finding]:
    """The findings of the gauges. Their estimates now are added to `estimates`, and their readings,
    up to points along the run, to `readings`."""
    few = run.readings_wanted is not None
    for gauge in recorded_gauges(run)[0]:
        series = run.series(gauge.name)
        if series is None:
            continue
        with errors_of_gauge(gauge):
            try:
                latest = estimates_of(gauge, series.at_newest(), level)
            except (KeyError, TypeError) as error:
                if not is_ours(gauge):
                    raise
                # of one or two readings, a spoiled one may have been taken for the usual shape
                missing = (
                    f"they have no {error}"
                    if isinstance(error, KeyError)
                    else "a list is no number"
                )
                run.unread[f"readings of {gauge.name}"] = missing
                continue
            if few and not gauge.own_steps:  # more steps at this budget bring few readings
                latest = {name: replace(estimate, needed=None) for name, estimate in latest.items()}
            estimates |= latest
            found = judge(gauge, latest, facts_of(run, series))
        # A gauge that chooses its steps itself is about the whole path.
        if not gauge.own_steps:
            readings.append((gauge, [*along(series)]))
        if found is not None:
            is_counted = is_ours(gauge) or found.state not in (State.ACT, State.LOOK)
            yield found if is_counted else replace(found, facts={**found.facts, "uncounted": True})


def facts_of(run: Run, series: Series) -> RunFacts:
    """What a gauge may know of a run when it judges its estimates."""
    schedule = run.configuration.schedule if isinstance(run.configuration, Configuration) else None
    is_full_batch = _has_one_batch(run)
    examples = round(series.usual_batch_size) if is_full_batch else run.sampling.examples
    return RunFacts(
        run.hyperparameters,
        schedule,
        frozenset(run.gauges),
        examples,
        is_full_batch=is_full_batch and is_of_products(series),
    )


def judge(gauge: Gauge, estimates: Mapping[str, Estimate], run: RunFacts) -> Finding | None:
    """What a gauge finds, with the doubt that comes with several learning rates."""
    found = finding_of(gauge, estimates, run)
    if (
        found is None
        or run.settings is None
        or not gauge.sgd_only
        or len(set(run.settings.peaks)) == 1
    ):
        return found
    return replace(
        found, doubts=(*found.doubts, Doubt("several_rates", {"peaks": tuple(run.settings.peaks)}))
    )


def _of_the_run(run: Run, level: float, estimates: Mapping[str, Estimate]) -> Iterator[Finding]:
    """The findings that come from no gauge: the budget, the check after the last step, the plateau,
    the forks."""
    if run.readings_wanted is not None:
        yield Finding(
            "overhead",
            Issue.ESTIMATION,
            "budget_short",
            State.CANNOT_TELL,
            facts=run.overhead,
        )
    yield from _endpoint(run, estimates)
    for found in (
        _stationarity(run, level),
        cooling_finding(run),
        rate_finding(run),
        cooled_finding(run),
    ):
        if found is not None:
            yield found


def leading(run: Run, findings: Sequence[Finding]) -> Finding | None:
    """The finding that leads: the most urgent one that is not "cannot tell"."""
    reservations = Reservations.of(run.events)
    reason = reservations.place or reservations.loss
    if reason:
        claim = "misplaced" if reservations.place else "another_loss"
        return Finding("loss", Issue.ESTIMATION, claim, State.CANNOT_TELL, facts={"reason": reason})
    passed = [
        each for each in findings if is_without_illness(each) or each.facts.get("is_possible")
    ]
    if passed:
        # what a gauge advises then makes such a training cheaper
        return passed[0]
    ours = [each for each in findings if not is_outranked(each.gauge, run.gauges)] or list(findings)
    if any(each.gauge == TRIAGE for each in findings):
        # A spike that came back limits nothing, if no later one lasts.
        ours = [
            each
            for each in ours
            if each.gauge != SPIKES or not each.facts["ended"] or each.state is State.ACT
        ]
    known = (each for each in ours if each.state is not State.CANNOT_TELL)
    return next(known, ours[0] if ours else None)


def is_without_illness(finding: Finding) -> bool:
    """True if it says of a training that has ended that no illness was found."""
    may_end_lower = finding.claim == Claim.UNDECIDED and bool(finding.doubts)
    return finding.claim == Claim.HEALTHY or may_end_lower


def _explain(run: Run, gauges: Sequence[Gauge], spike: Spike) -> Explanation:
    """The likely cause of a spike, with the readings near it."""
    examined = Examined.within(spike, run.events)
    evidence: list[Observation | None] = []
    for gauge in gauges:
        series = run.series(gauge.name)
        if series is None:
            continue
        if isinstance(gauge, BatchSharpness):
            evidence.append(sharpness_near(spike, series, gauge.kinds(series)[-1]))
        elif isinstance(gauge, GradientNoise):
            usual = usual_norms(spike.first, series)
            layer = (
                None if examined is None or usual is None else examined.layer(series.layers, usual)
            )
            evidence.append(layer or layer_near(spike, series))
    return explain(spike, examined=examined, readings=evidence, same_examples=_has_one_batch(run))


def _has_one_batch(run: Run) -> bool:
    """True if every batch that was measured or looked at had the same rows."""
    found = [event["repeats"] for event in run.events if "repeats" in event]
    if found:
        return found[-1:] == ["batch"]
    same = [signs["same_rows"] for _, signs in run.signs if "same_rows" in signs]
    return are_one_batch(np.array(same, dtype=float))


def _trial_of(run: Run, spike: Spike) -> Trial | None:
    """The command that finds the cause of a spike; None if it was found, which is a finding of its
    own."""
    for found in load_artifacts(run, IncidentCause):
        if found.incident.first <= spike.peak <= found.incident.last:
            return None
    return Trial(facts={"call": f"{run.call('fork', '').removesuffix('`')} --spike {spike.peak}`"})


def _with_reservations(
    run: Run, findings: Sequence[Finding], gauges: Sequence[Gauge]
) -> list[Finding]:
    """The findings as far as the warnings of the run let them hold, and one for each gauge that
    stopped early."""
    reservations = Reservations.of(run.events)
    apart = run.manifest.get("mode") != "shared"
    uses_loss = {
        gauge.name: not gauge.own_steps
        and (apart or gauge.needs_loss)
        and not is_of_products(run.series(gauge.name))
        for gauge in gauges
    }
    held = [
        reservations.on(finding, uses_loss=uses_loss[finding.gauge])
        if finding.gauge in uses_loss
        else finding
        for finding in findings
    ]
    found = {finding.gauge for finding in findings}
    stopped = [
        gauge for gauge in gauges if gauge.name not in found and reservations.why(gauge.name)
    ]
    return held + [reservations.stop_of(gauge.name, gauge.issue) for gauge in stopped]


def _answers(findings: list[Finding]) -> list[Finding]:
    """The findings without that of the plain noise scale, where the preconditioned one answers:
    both would say something else of one batch, and nobody acts on the plain one."""
    answered = any(
        each.gauge == PRECONDITIONED and each.claim != "batch_undecided" for each in findings
    )
    if not answered:
        return findings
    return [
        each
        for each in findings
        if each.gauge != GradientNoise.name or not each.claim.startswith("batch_")
    ]


def _with_trials(run: Run, findings: Sequence[Finding]) -> list[Finding]:
    """The findings with what forks of this run have shown about their cures, and how to try
    them."""
    if not any(finding.cure for finding in findings):
        return list(findings)
    from gradiometer.loop.recorded.trials import with_trials  # noqa: PLC0415 (few findings have a cure)

    return with_trials(run, findings)


def _unavailable(name: str, path: str, run: Run) -> Finding:
    """The finding for a gauge whose class is not available."""
    facts = {"class": path, "readings": len(run.series(name) or ()), "run": str(run.path)}
    claim = "gauge_unavailable" if path else "gauge_not_installed"
    return Finding(name, Issue.ESTIMATION, claim, State.CANNOT_TELL, facts=facts)


def _endpoint(run: Run, estimates: Mapping[str, Estimate]) -> Iterator[Finding]:
    """Findings of the check after the last step."""
    events = [event for event in run.events if event["event"] == "endpoint"]
    if not events:
        return
    from gradiometer.convergence.trajectory.endpoint import Endpoint, infinity_finding  # noqa: PLC0415 (at an end)

    for event in events[-1:]:
        endpoint = Endpoint.of(event)
        yield from endpoint.findings(kind_of(estimates))
        found = _chaos(run, endpoint, estimates)
        if found:
            yield found
        settings = run.hyperparameters
        if settings is not None and kind_of(estimates) is not Kind.DIVERGING:
            decay = max((group.weight_decay for group in settings.now), default=0.0)
            found = infinity_finding(estimates, run.losses[1], decay)
            if found:
                yield found


def _chaos(
    run: Run,
    endpoint: "Endpoint",
    estimates: Mapping[str, Estimate],
) -> Finding | None:
    """The finding about chaos past the edge, from the sharpness at the end or that of
    the batches."""
    settings = run.hyperparameters
    if settings is None or settings.family != "sgd" or (path := run.series("trajectory")) is None:
        return None
    rate = float(path.learning_rate[-1])
    known = estimates.get("edge_share")
    shares = [known] if known is not None and known.tells else []
    if endpoint.sharpness is not None:
        limit = min(MomentumRule(group.momentum, group.nesterov).limit for group in settings.now)
        shares.append(transform(endpoint.sharpness, lambda sharpness: rate * sharpness / limit))
    share = max(shares, key=lambda each: each.low, default=None)
    from gradiometer.convergence.trajectory.endpoint import chaos_finding  # noqa: PLC0415 (as above)

    return chaos_finding(share, estimates, run.losses[1], rate)


def _stationarity(run: Run, level: float) -> Finding | None:
    """If the loss still falls at the latest constant rate. None without a constant rate or without
    `cool`."""
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
    """The readings up to points along the run, equally many readings apart, as far as they are
    enough for an estimate.

    The last point is the newest reading.
    """
    # At most 24 points.
    for stop in sorted({*np.linspace(len(series), 0, 24, endpoint=False).astype(int).tolist()}):
        if stop >= min(FEWEST, len(series)):
            yield series[:stop]
