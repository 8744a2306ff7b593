"""`gradiometer demo`: train, measure and fork on real data that is part of the package."""

from pathlib import Path

import click

from gradiometer.cli.options import json_option, no_open_option, out_option
from gradiometer.cli.outcome import conclude

DEMO = {
    "problem": "digits",
    "model": "cnn",
    "learning_rate": 0.02,
    "epochs": 80,
    "every": 1,  # not a share of the time, so that a busy machine measures as often as an idle one
    # the middle, where the fork begins: without it, the fork would repeat these steps
    "checkpoint_at": "1800",
}

# Replicates of the fork that tests the forecast: enough for an interval, in a few seconds.
REPLICATES = 3

# What is tried if no finding advises anything.
WITHOUT_ADVICE = ("rate 2x",)


@click.command(
    short_help="Train a small network on digits, and test what gradiometer suggests (half a minute).",
    epilog="Example: gradiometer demo --no-open --out runs",
)
@out_option
@json_option
@no_open_option
def demo(out: Path, as_json: bool, no_open: bool) -> int:
    """Train a small network on real handwritten digits, measure it, and try what it advises. Takes
    about half a minute.

    The noise is read at every step, which takes much more than the 2 % of the time that your own
    runs spend on it: a short training then has its answers, and a busy machine the same ones. The
    command shows findings during training. Then it trains from the middle of the run again, as
    before and as the findings advise, to test their forecast. It prints all with intervals at the
    end, and writes the page.
    """
    from gradiometer.cli.progress import following, watching, working
    from gradiometer.run.configuration import Configuration

    configuration = Configuration.from_mapping(DEMO, "")
    with watching(as_json) as progress:
        from gradiometer.problems.registry import load
        from gradiometer.train import train

        problem = load(configuration.problem, model=configuration.model)
        run = train(problem, configuration, out, progress)
    with working("reading the findings", quiet=as_json):
        from gradiometer.loop.forking import fork
        from gradiometer.loop.recorded.trials import alternatives_of
        from gradiometer.train.restoring import loop_at
        from gradiometer.verdict.diagnosis import diagnose

        alternatives = alternatives_of(diagnose(run).findings) or WITHOUT_ADVICE
    with following(as_json) as branches:
        fork(
            loop_at(run, problem=problem),
            alternatives,
            replicates=REPLICATES,
            kept=False,
            threads=run.configuration.threads,
            out=run.path,
            begin=branches.begin,
            progress=branches.update,
        )
    return conclude(run, as_json=as_json, no_open=no_open)
