"""`gradiometer fork RUN --spike STEP`: why the loss spiked."""

import math
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gradiometer.loop.recorded.causes import SpikeCauses
    from gradiometer.run.reader import Run


def explain_spike(run: "Run", step: int, *, pool: str, seed: int, as_json: bool) -> None:
    """Train branches from before a spike, and print what became of it in each."""
    from gradiometer.cli.branches import following
    from gradiometer.train.forking.run_spike import spike_causes

    with following(quiet=as_json) as progress:
        found = spike_causes(
            run, step, pool=pool, seed=seed, begin=progress.begin, progress=progress.update
        )
    if as_json:
        from gradiometer.cli.outcome import print_json

        print_json(_as_object(run, found))
    else:
        _tell(found)


def _as_object(run: "Run", found: "SpikeCauses") -> dict[str, Any]:
    spike = found.spike
    return {
        "run": str(run.path),
        "spike": {
            name: getattr(spike, name) for name in ("first", "peak", "last", "level", "height")
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
    }


def _tell(found: "SpikeCauses") -> None:
    from gradiometer.cli.outcome import filled
    from gradiometer.measurement.estimate import significant

    click.echo(filled(found.sentence) + "\n")
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
