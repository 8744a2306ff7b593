"""A page as one file with its style, charts and their library. It makes no network request."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from gradiometer import __version__
from gradiometer.report.charts.charts import page_spec
from gradiometer.report.charts.marks import HEIGHT
from gradiometer.report.charts.theme import PAGE, PAGE_FONT, config
from gradiometer.report.page.bundle import bundle
from gradiometer.report.page.markup import environment, json_for_script, script_hash, source
from gradiometer.report.sections.section import Figure

TEMPLATES = files("gradiometer.report") / "templates"

IN_A_COLUMN = 220
"""Height of a chart that is half as wide as the page."""


def document(
    content: str, title: str, drawn: tuple[Figure, ...], live: str = "", **values: Any
) -> str:
    """The whole page as HTML.

    Args:
        content: Name of the content's template.
        title: Title of the window.
        drawn: The charts of the content.
        live: Address from which a served page gets its updates; empty for a file.
        values: Variables of the template.
    """
    names = ["page.js", *(["live.js"] if live else [])]
    library = bundle() if drawn or live else None
    scripts = [Markup(source(TEMPLATES, name)) for name in names]
    return rendered(
        "page.html.jinja",
        content=content,
        title=title,
        specs=json_for_script(specs(drawn)),
        config=json_for_script(config(PAGE, PAGE_FONT)) if library else None,
        style=Markup(source(TEMPLATES, "page.css")),
        scripts=scripts,
        library=None if library is None else Markup(library.packed),
        script_hashes=[
            *(script_hash(script) for script in scripts),
            *([library.script_hash] if library else []),
        ],
        live=live,
        version=__version__,
        **values,
    )


def fragment(content: str, live: str, **values: Any) -> str:
    """The content alone, for a page that is already open."""
    return rendered(content, live=live, version=__version__, **values)


def specs(figures: tuple[Figure, ...]) -> Mapping[str, Any]:
    """Every chart as the page embeds it, by name. The first one is the largest: the others stand in
    two columns."""
    drawn = [figure for figure in figures if not figure.single]
    return {
        figure.name: page_spec(figure.chart, figure.summary, HEIGHT if place == 0 else IN_A_COLUMN)
        for place, figure in enumerate(drawn)
    }


def rendered(template: str, **values: Any) -> str:
    """The text of a template with these values."""
    text: str = _environment().get_template(template).render(**values)
    return text


@cache
def _environment() -> Any:
    return environment(TEMPLATES)
