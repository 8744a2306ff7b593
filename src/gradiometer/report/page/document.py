"""A page as one file with its style, charts and their library. It makes no network request."""

import base64
import hashlib
import json
import os
import re
import sys
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import vl_convert
from markupsafe import Markup, escape

from gradiometer import __version__
from gradiometer.report.charts.charts import page_spec, vl_version
from gradiometer.report.charts.theme import CHARTS, HEIGHT, PAGE, PAGE_FONT, config
from gradiometer.report.sections.section import Figure
from gradiometer.storage.disk import read_file, replace_file, writing


@cache
def environment(*packages: str) -> jinja2.Environment:
    """The templates of several packages; the first package that contains a name wins. All values
    are escaped."""
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _code
    made.filters["csv_rows"] = lambda table: json.dumps(
        [table.columns, *table.rows], separators=(",", ":")
    )
    return made


def source(templates: Traversable, name: str) -> str:
    """The text of a file in a folder of templates."""
    return (templates / name).read_text(encoding="utf-8")


def json_for_script(value: Any) -> Markup:
    """JSON that is safe inside a script element: `<`, `>` and `&` are escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def script_hash(script: str) -> str:
    """The hash that allows a script in a Content Security Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _code(text: str) -> Markup:
    """Escaped text; text between backticks becomes a `code` element."""
    # a fraction such as 2/η is not broken at its stroke, nor a share before its sign
    whole = text.replace("/η", "/\N{WORD JOINER}η").replace(" %", "\N{NO-BREAK SPACE}%")
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(whole))))


# The only global name that the script defines.
SNIPPET = "window.vegaEmbed = vegaEmbed;"


class Bundle(NamedTuple):
    """The script as a page has it.

    Attributes:
        packed: The script, compressed with zlib, in base64.
        script_hash: The hash that allows the unpacked script in a Content Security Policy.
    """

    packed: str
    script_hash: str


@cache
def bundle() -> Bundle:
    """The packed script. It is built again if the cache cannot be read."""
    folder = cache_folder()
    # the name changes with the version of every part
    asked = hashlib.sha256(SNIPPET.encode()).hexdigest()[:8]
    name = f"vega-{vl_version()}-by-vl-convert-{version('vl-convert-python')}-{asked}.js.z"
    path = None if folder is None else folder / name
    script = b""
    if path is not None:
        # zlib has a checksum, so that half a file is not used
        with suppress(OSError, zlib.error):
            packed = read_file(path)
            script = zlib.decompress(packed)
    if not script:
        script = vl_convert.javascript_bundle(SNIPPET, vl_version()).encode()
        packed = zlib.compress(script, 9)
        if path is not None:
            with suppress(OSError):
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_file(path, packed)
    return Bundle(base64.b64encode(packed).decode(), script_hash(script.decode()))


def cache_folder() -> Path | None:
    """Our folder in the user's cache: below XDG_CACHE_HOME or ~/.cache on Linux.

    Returns:
        The folder, which may not exist yet; None if the user has no home folder.
    """
    variable, below = {
        "win32": ("LOCALAPPDATA", "AppData/Local"),
        "darwin": ("", "Library/Caches"),
    }.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    named = Path(os.environ.get(variable, "")) if variable else Path()
    if named.is_absolute():
        return named / "gradiometer"
    try:
        return Path.home() / below / "gradiometer"
    except RuntimeError:
        return None


TEMPLATES = files("gradiometer.report") / "templates"


def document(
    content: str,
    title: str,
    drawn: tuple[Figure, ...],
    live: str = "",
    description: str = "",
    **values: Any,
) -> str:
    """The whole page as HTML.

    Args:
        content: Name of the content's template.
        title: Title of the window.
        drawn: The charts of the content.
        live: Address from which a served page gets its updates; empty for a file.
        description: What a link to the page says of it; empty for nothing.
        values: Variables of the template.
    """
    names = ["page.js", *(["live.js"] if live else [])]
    library = bundle() if drawn or live else None
    scripts = [Markup(source(TEMPLATES, name)) for name in names]
    return fill_in(
        "page.html.jinja",
        content=content,
        title=title,
        description=description,
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


def write_document(page: str, path: Path, remedy: str = "choose another file") -> Path:
    """Write a page; the file is complete or does not exist, and readers see the old or the new
    page.

    Raises:
        StorageFailed: It cannot be written. The error ends with the remedy.
    """
    with writing(path, remedy):
        replace_file(path, page.encode(errors="replace"))
    return path


def fragment(content: str, live: str, **values: Any) -> str:
    """The content alone, for a page that is already open."""
    return fill_in(content, live=live, version=__version__, **values)


def specs(figures: tuple[Figure, ...]) -> Mapping[str, Any]:
    """Every chart as the page embeds it, by name. The first one is the largest: the others stand in
    two columns."""
    drawn = [figure for figure in figures if not figure.single]
    return {
        figure.name: page_spec(
            figure.chart, figure.summary, HEIGHT if place == 0 else CHARTS.column_height
        )
        for place, figure in enumerate(drawn)
    }


def fill_in(template: str, **values: Any) -> str:
    """The text of a template with these values."""
    return environment("gradiometer.report").get_template(template).render(**values)
