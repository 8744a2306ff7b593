"""Text into a page: templates that escape, JSON that no text in it can end, and what a script is known by."""

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
    """Templates from folders, the first that has one by its name; whatever they are given is escaped."""
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.FunctionLoader(partial(_found, folder)) for folder in templates]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["code"] = _code
    return made


def source(templates: Traversable, name: str) -> str:
    """A file of a folder of templates, as it stands."""
    return (templates / name).read_text(encoding="utf-8")


def json_for_script(value: Any) -> Markup:
    """JSON that no text in it can end: `<`, `>` and `&` are written as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def script_hash(script: str) -> str:
    """What a page's security policy knows a script by: it runs these and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _found(templates: Traversable, name: str) -> str | None:
    return source(templates, name) if (templates / name).is_file() else None


def _code(text: str) -> Markup:
    """Escaped text, with `code` between backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
