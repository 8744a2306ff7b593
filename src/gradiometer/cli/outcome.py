"""The output of a command: sentences and the page, or one JSON object."""

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradiometer.cli.boundary import report_error

if TYPE_CHECKING:
    from rich.table import Table

    from gradiometer.measurement.finding import Finding
    from gradiometer.report.sections.section import Section
    from gradiometer.run.reader import Run
    from gradiometer.verdict.diagnosis import Diagnosis

# Maximum length of a line, in characters.
WIDTH = 80


def conclude(
    run: "Run",
    *,
    as_json: bool,
    no_open: bool,
    fail_on: str | None = None,
    charts: Path | None = None,
) -> int:
    """Diagnose a run, print the result, write its page and open it. Returns the exit code.

    Args:
        run: The run.
        as_json: Print one JSON object instead.
        no_open: Do not open the page.
        fail_on: The state from which a finding makes the exit code 3.
        charts: Folder for the charts as PNG; None for none.
    """
    if follows():
        return 0
    from gradiometer.report.page.page import write_charts, write_page
    from gradiometer.report.sections.catalogue import sections
    from gradiometer.verdict.diagnosis import diagnose

    diagnosis = diagnose(run)
    shown = sections(run, diagnosis)
    if as_json:
        with printed_json(as_object(run, diagnosis)) as result:
            result["report"] = write_page(run, diagnosis, shown=shown)
            if charts is not None:
                result["charts"] = write_charts(run, diagnosis, charts, shown=shown)
        return exit_code(diagnosis.findings, fail_on)
    tell(run, diagnosis, shown)
    page = write_page(run, diagnosis, shown=shown)
    click.echo(f"\nrun   {run.path}\npage  {page}")
    if charts is not None:
        for chart in write_charts(run, diagnosis, charts, shown=shown):
            click.echo(f"chart {chart}")
    open_in_browser(page.resolve().as_uri(), no_open=no_open)
    return exit_code(diagnosis.findings, fail_on)


def open_in_browser(address: str, *, no_open: bool) -> None:
    """Open a page, if a person is at the terminal and wants it."""
    if not no_open and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(address)


def follows() -> bool:
    """True on processes of a launcher such as torchrun that print nothing, because rank 0 does."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


def as_object(run: "Run", diagnosis: "Diagnosis") -> dict[str, Any]:
    """The run as `--json` prints it, with the path of its page still missing."""
    return {
        "run": str(run.path),
        "report": None,
        "charts": [],
        "status": run.status,
        "steps": run.steps,
        "hyperparameters": {} if run.hyperparameters is None else run.hyperparameters.facts,
        **diagnosis.to_dict(),
        "overhead": run.overhead,
        "warnings": run.warnings,
    }


def print_json(value: Any) -> None:
    """Print one JSON object. Non-finite numbers are the strings "inf", "-inf" and "nan"."""
    import json

    from gradiometer.storage.journal import plain

    click.echo(json.dumps(plain(value)))


@contextmanager
def printed_json(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Print one JSON object after the result was stored inside, also if it could not be stored.

    The object then has the keys "error" and "exit_code", and the command ends with this exit code.

    Args:
        result: The object. Paths of what is stored are added inside.
    """
    try:
        yield result
    except Exception as error:
        sentence, code = report_error(error, click.get_current_context().obj)
        print_json(result | {"error": sentence, "exit_code": code})
        raise click.exceptions.Exit(code) from error
    print_json(result)


def print_outcome(
    result: Callable[[], dict[str, Any]],
    print_text: Callable[[], None],
    stored: Mapping[str, Callable[[], object]],
    *,
    as_json: bool,
) -> None:
    """Print a result, as one JSON object or as text. Then store it, and print its path.

    Args:
        result: Makes the object.
        print_text: Prints the text.
        stored: Stores the result in some form and returns the path, or None. The name of the form
            is a key of the object, and the beginning of a line.
        as_json: Print the object.
    """
    if as_json:
        with printed_json(result() | dict.fromkeys(stored)) as printed:
            for name, store in stored.items():
                printed[name] = store()
        return
    print_text()
    # the object calls a page a report
    labels = {name: "page" if name == "report" else name for name in stored}
    width = max(map(len, labels.values()))
    for name, store in stored.items():
        path = store()
        if path is not None:
            click.echo(f"{labels[name]:<{width}}  {path}")


def table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> "Table":
    """A table of numbers without lines, for rich to print."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False)
    for title in titles:
        drawn.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn


def line_width() -> int:
    """Maximum length of a line on this terminal, in characters. At least 20, so that a word with
    its indent fits."""
    return min(WIDTH, max(20, shutil.get_terminal_size((WIDTH, 0)).columns))


def fill(text: str, indent: int = 0, hanging: int = 0) -> str:
    """A paragraph in lines that fit the terminal, indented, all but the first `hanging` more. Words
    are not broken."""
    width, rest = line_width() - indent, " " * hanging
    lines = textwrap.wrap(
        text, width, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )
    return textwrap.indent("\n".join(lines), " " * indent)


def tell_finding(finding: "Finding", verdict: str | None = None) -> None:
    """Print what was seen, what it means and what to do, under its question. `verdict` replaces
    the state in the heading."""
    from gradiometer.report.sections.questions import Answer, title_of
    from gradiometer.verdict.words.say import say

    heading = f"{title_of(Answer(finding, {}))} {verdict or finding.state}"
    click.echo("\n" + fill(f"{finding.state.symbol} {heading}", hanging=2))
    for text in say(finding).paragraphs:
        click.echo(fill(text, indent=2))


def tell(run: "Run", diagnosis: "Diagnosis", shown: "tuple[Section, ...]") -> None:
    """Print the verdict, the answers that the page shows, the findings and the overhead."""
    from gradiometer.run.cadence.overhead import overhead_in_brief

    for warning in run.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo("\n" + fill(diagnosis.verdict) + "\n")
    if run.hyperparameters is not None:
        click.echo(fill(run.hyperparameters.sentence) + "\n")
    for line in answers(run, diagnosis, shown, line_width()):
        click.echo(line)
    for finding in diagnosis.findings:
        tell_finding(finding)
    click.echo("\n" + fill(overhead_in_brief(run.overhead, run.configuration.every)))


def answers(
    run: "Run", diagnosis: "Diagnosis", shown: "tuple[Section, ...]", width: int = WIDTH
) -> "Iterator[str]":
    """A line for each question: the state of its answer, or the command that would measure it."""
    from gradiometer.report.page.cards import answers_of, cards

    for card in cards(run, answers_of(diagnosis, shown)):
        state = f"  {card.symbol} {card.short:<14} {card.word}"
        whole = f"{state}: {card.command}"
        if card.shown or not card.command:
            yield state
        elif len(whole) <= width:
            yield whole
        else:
            yield from (f"{state}:", f"      {card.command}")


def exit_code(findings: "Iterable[Finding]", fail_on: str | None) -> int:
    """3 if a finding is at or above this state, else 0. Without findings the state is "cannot
    tell"."""
    from gradiometer.measurement.finding import State

    states = [finding.state for finding in findings] or [State.CANNOT_TELL]
    return 3 if fail_on and any(state.rank <= State(fail_on).rank for state in states) else 0
