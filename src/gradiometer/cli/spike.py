"""`gradiometer fork RUN --spike STEP`: why the loss spiked."""

import math
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.outcome import fill, print_json
from gradiometer.measurement.estimate import significant

if TYPE_CHECKING:
    from gradiometer.loop.recorded.incidents import IncidentCause, SpikeCauses
    from gradiometer.run.reader import Run


def explain_spike(run: "Run", step: int, *, pool: str, seed: int, as_json: bool) -> None:
    """Train branches from before a spike, or make the updates before another incident again, and
    print what became of it."""
    from gradiometer.cli.branches import following
    from gradiometer.loop.recorded.incidents import spikes_of
    from gradiometer.train.forking.run_spike import incident_cause, spike_causes
    from gradiometer.verdict.words.incidents import how_to_go_on, incident_sentence, why

    cause = None
    if any(spike.first <= step <= spike.last for spike in spikes_of(run)):
        with following(quiet=as_json) as progress:
            found = spike_causes(
                run, step, pool=pool, seed=seed, begin=progress.begin, progress=progress.update
            )
        if found.cause == "these batches":
            cause = incident_cause(run, step)
        if as_json:
            print_json(
                {
                    "run": str(run.path),
                    "spike": {
                        name: getattr(found.spike, name)
                        for name in ("first", "peak", "last", "level", "height")
                    },
                    "step": found.step,
                    "cause": found.cause,
                    "sentence": found.sentence,
                    "trials": [
                        {
                            "name": trial.name,
                            "peaks": list(trial.peaks),
                            "spiked": trial.spiked,
                            "branches": len(trial.peaks),
                        }
                        for trial in found.trials
                    ],
                    "forks": list(found.forks),
                    "incident": cause and _incident(run, cause),
                }
            )
            return
        _tell(found)
        if cause is not None:
            click.echo("\n" + fill(f"{why(cause)} {how_to_go_on(cause, run.path)}"))
        return
    cause = incident_cause(run, step)
    if as_json:
        print_json({"run": str(run.path), "incident": _incident(run, cause)})
    else:
        click.echo(fill(incident_sentence(cause, run.path)) + "\n")
        width = max(map(len, cause.tried))
        click.echo(f"{'from step ' + format(cause.start, ','):<{width}}  came")
        for name, came in cause.tried.items():
            click.echo(f"{name:<{width}}  {'yes' if came else 'no':>4}")


def _incident(run: "Run", found: "IncidentCause") -> dict[str, Any]:
    from gradiometer.verdict.words.incidents import incident_sentence

    incident = found.incident
    return {
        "kind": incident.kind,
        "first": incident.first,
        "last": incident.last,
        "level": incident.level,
        "height": incident.height,
        "from": found.start,
        "cause": found.cause,
        "step": found.step,
        "examples": list(found.examples),
        "layer": found.layer,
        "factor": found.factor,
        "sentence": incident_sentence(found, run.path),
        "tried": dict(found.tried),
    }


def _tell(found: "SpikeCauses") -> None:
    click.echo(fill(found.sentence) + "\n")
    width = max(len(trial.name) for trial in found.trials)
    title = "highest loss" if found.window == 1 else f"highest mean of {found.window:,} losses"
    click.echo(f"{'from step ' + format(found.step, ','):<{width}}  {title}  spike")
    for trial in found.trials:
        highest = max(trial.peaks)
        loss = "diverged" if math.isinf(highest) else significant(highest)
        came = (
            f"{trial.spiked} of {len(trial.peaks)}"
            if len(trial.peaks) > 1
            else ("yes" if trial.spiked else "no")
        )
        click.echo(f"{trial.name:<{width}}  {loss:>{len(title)}}  {came:>6}")
