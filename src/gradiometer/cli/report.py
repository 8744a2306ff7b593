"""`gradiometer report`: the page of a run."""

from pathlib import Path

import click

from gradiometer.cli.options import json_option


@click.command(epilog="Example: gradiometer report runs/digits-cnn-1 --png charts")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--level", type=float, default=None, help="Confidence level of the intervals. Default: that of the run.")
@click.option("--png", "charts", type=click.Path(path_type=Path), default=None, help="Folder for the charts, as PNG.")
@click.option(
    "--gauge", "gauges", multiple=True, metavar="MODULE:CLASS", help="A custom gauge that RUN was measured with."
)
@json_option
def report(run: Path, level: float | None, charts: Path | None, gauges: tuple[str, ...], as_json: bool) -> None:
    """Print the findings of RUN, finished or not, and write its page."""
    from gradiometer.cli.outcome import as_object, printed_json, tell, tell_place
    from gradiometer.errors import BadArgument
    from gradiometer.gauges import imported_gauge
    from gradiometer.report.page.page import write_charts, write_page
    from gradiometer.report.sections.catalogue import sections
    from gradiometer.run.reader import Run
    from gradiometer.verdict.diagnosis import diagnose

    if level is not None and not 0 < level < 1:
        raise BadArgument(f"`--level` must lie between 0 and 1, got {level}.")
    opened = Run.open(run, gauges=[type(imported_gauge(path)) for path in gauges])
    diagnosis = diagnose(opened, level)
    shown = sections(opened, diagnosis)
    if as_json:
        with printed_json(as_object(opened, diagnosis) | {"charts": []}) as result:
            result["report"] = write_page(opened, diagnosis, shown=shown)
            result["charts"] = write_charts(opened, diagnosis, charts, shown=shown) if charts is not None else []
        return
    tell(opened, diagnosis, shown)
    tell_place(opened, write_page(opened, diagnosis, shown=shown))
    for path in write_charts(opened, diagnosis, charts, shown=shown) if charts is not None else []:
        click.echo(f"chart {path}")
