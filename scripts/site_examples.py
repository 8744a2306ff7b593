"""What shows the examples of docstrings as code on the site; without it they are quotations, and lists are links."""

import re
from typing import Any

import griffe


class ExamplesAsCode(griffe.Extension):
    """Makes sections of code of `Example:` sections, and of examples that are in no section."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is None:
            return
        text = re.sub(r"^Example:", "Examples:", obj.docstring.value, flags=re.MULTILINE)
        obj.docstring.value = re.sub(r"^>>> (?:.+\n?)+", _fenced, text, flags=re.MULTILINE)


def _fenced(example: re.Match[str]) -> str:
    return f"```pycon\n{example[0].rstrip()}\n```\n"
