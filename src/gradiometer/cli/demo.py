"""`gradiometer demo`: train and measure on real data that is part of the package."""

from pathlib import Path

import click

from gradiometer.cli.options import json_option, out_option, talk_options

DEMO = {"problem": "digits", "model": "cnn", "learning_rate": 0.02, "epochs": 100, "accumulation": 2, "budget": 0.05}


@click.command(epilog="Example: gradiometer demo --no-open --out runs")
@out_option
@json_option
@talk_options
def demo(out: Path, as_json: bool, quiet: bool, no_open: bool, fail_on: str | None) -> int:
    """Train a small network on real handwritten digits and measure it. Takes about a minute.

    Every batch is accumulated from two micro-batches, and their gradients are measured, in 5 % of the training time.
    The command shows findings during training, prints them with intervals at the end, and writes the page.
    """
    from gradiometer.cli.outcome import conclude
    from gradiometer.cli.panel import watching
    from gradiometer.run.configuration import Configuration

    configuration = Configuration.from_mapping(DEMO, "")
    with watching(quiet or as_json) as panel:
        from gradiometer.problems.registry import load
        from gradiometer.train import train

        run = train(load(configuration.problem, model=configuration.model), configuration, out, panel)
    return conclude(run, as_json=as_json, no_open=no_open, fail_on=fail_on)
