"""`gradiometer train`: train a problem and measure it."""

from pathlib import Path
from typing import Any

import click

from gradiometer.cli.options import configuration_from, configuration_options, json_option, out_option, talk_options


@click.command(epilog="Example: gradiometer train fashion-mnist --model cnn --epochs 2 --lr 0.1")
@click.argument("problem", required=False)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="TOML file with the same names as the flags. Flags win over it.",
)
@click.option("--name", default=None, help="Name of the run, to which a number is added. Default: problem and model.")
@configuration_options("problem")
@out_option
@json_option
@talk_options
def train(
    problem: str | None,
    file: Path | None,
    name: str | None,
    out: Path,
    as_json: bool,
    quiet: bool,
    no_open: bool,
    fail_on: str | None,
    **flags: Any,
) -> int:
    """Train PROBLEM with SGD or AdamW and measure the training.

    PROBLEM is digits (the default), fashion-mnist, linear-regression, logistic-regression, one-dimensional,
    quadratic, double-well, counterexample, or your own as module:function.
    """
    from gradiometer.cli.outcome import conclude, follows
    from gradiometer.cli.panel import watching

    configuration = configuration_from(file, {"problem": problem, **flags})
    with watching(quiet or as_json or follows()) as panel:
        from gradiometer.problems.registry import load
        from gradiometer.train import train as start

        loaded = load(
            configuration.problem, model=configuration.model, data_dir=configuration.data_dir, seed=configuration.seed
        )
        run = start(loaded, configuration, out, panel, name=name)
    return conclude(run, as_json=as_json, no_open=no_open, fail_on=fail_on)
