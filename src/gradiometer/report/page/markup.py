"""Safe text in a page: templates that escape, JSON inside a script element, and hashes
of scripts."""

import base64
import hashlib
import json
import re
from functools import partial
from importlib.resources.abc import Traversable
from typing import Any

import jinja2
from markupsafe import Markup, escape


def environment(*templates: Traversable) -> jinja2.Environment:
    """Templates from several folders; the first folder that contains a name wins. All values are
    escaped."""
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.FunctionLoader(partial(_found, folder)) for folder in templates]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _code
    made.filters["csv_rows"] = _csv_rows
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


def _csv_rows(table: Any) -> str:
    """The headings and the rows of a table as JSON, for an attribute."""
    return json.dumps([table.columns, *table.rows], separators=(",", ":"))


def script_hash(script: str) -> str:
    """The hash that allows a script in a Content Security Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _found(templates: Traversable, name: str) -> str | None:
    return source(templates, name) if (templates / name).is_file() else None


def _code(text: str) -> Markup:
    """Escaped text; text between backticks becomes a `code` element."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
