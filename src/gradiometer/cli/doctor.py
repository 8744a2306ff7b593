"""`gradiometer doctor`: findings from the log of another training tool."""

from pathlib import Path

import click

from gradiometer.cli.options import fail_on_option, json_option
from gradiometer.cli.outcome import exit_code, fill, print_json, tell_finding


@click.command(epilog="Example: gradiometer doctor outputs/checkpoint-500/trainer_state.json")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--loss", default=None, help="Name of the training loss in the log, if it is not found."
)
@fail_on_option("look", "act")
@json_option
def doctor(path: Path, loss: str | None, fail_on: str | None, as_json: bool) -> int:
    """Diagnose the log of a training, and list what the log cannot show.

    PATH is a Hugging Face trainer_state.json, a CSV such as Lightning's metrics.csv, JSON lines
    such as W&B's, a Keras history as JSON, a run of MLflow, a TensorBoard event file, printed lines
    such as nanoGPT's, or a folder with one of them. The command names what limits the training by
    the rules of `watch`, as far as a log shows it: overfitting, a schedule without a decay, with
    one that is too early or in the wrong unit, bursts, bad batches and jumps of the loss. It also
    finds NaN and inf that the log hides, a staircase at the epochs, and a resume that lost its
    schedule. Exit code 2 means that less than half of the lines were understood.
    """
    from gradiometer.logs import log_findings, read_log

    log = read_log(path, loss)
    findings = log_findings(log)
    if as_json:
        from gradiometer.verdict.words.say import as_dict

        print_json(
            {
                "log": log.path,
                "tool": log.tool,
                "columns": {name: len(column) for name, column in log.columns.items()},
                "notes": list(log.notes),
                "understood": None if log.understood is None else list(log.understood),
                "findings": [as_dict(finding) for finding in findings],
            }
        )
        return exit_code(findings, fail_on)
    steps = max(int(column.steps.max()) for column in log.columns.values() if len(column))
    click.echo(fill(f"{log.path}: {log.tool}, {len(log.columns)} columns up to step {steps:,}."))
    if log.understood is not None:
        click.echo(fill(f"{log.understood[0]:,} of {log.understood[1]:,} lines understood."))
    for note in log.notes:
        click.echo(fill(f"note: {note}"))
    for finding in findings:
        tell_finding(finding)
    return exit_code(findings, fail_on)
