"""The theme of all charts, safe for colour-blind readers: light, dark, and in the colours of the
page. Its colours are in `theme.json`, and how much is drawn in `sizes.toml`."""

import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType, SimpleNamespace
from typing import Any

THEME: Mapping[str, Any] = MappingProxyType(
    json.loads((files(__package__) / "theme.json").read_text(encoding="utf-8"))
)
WIDTH: int = THEME["width"]
HEIGHT: int = THEME["height"]

# How much is drawn and listed, by kind: CHARTS.ticks, POINTS.line, LISTS.layers, STRIP.numbers.
_SIZES = tomllib.loads((files(__package__) / "sizes.toml").read_text(encoding="utf-8"))
CHARTS = SimpleNamespace(**_SIZES["charts"])
POINTS = SimpleNamespace(**_SIZES["points"])
LISTS = SimpleNamespace(**_SIZES["lists"])
STRIP = SimpleNamespace(**_SIZES["strip"])

Palette = Mapping[str, str]
"""Colours by role: ink, muted, grid, paper, and first to sixth for the series."""

LIGHT: Palette = MappingProxyType(THEME["light"])
DARK: Palette = MappingProxyType(THEME["dark"])

# CSS variables of the page, so that its charts follow dark mode and printing.
PAGE: Palette = MappingProxyType({role: f"var(--{role})" for role in LIGHT})

SHAPES: tuple[str, ...] = tuple(THEME["shapes"])

# Shapes and dashes of up to six series: series never differ by colour alone.
DASHES: tuple[list[int], ...] = tuple(THEME["dashes"])

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"

# The font of the page. `inherit` does not work, because Vega measures labels in this font.
PAGE_FONT = (
    "-apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, Liberation Sans, system-ui, sans-serif"
)


def config(palette: Palette, font: str = FONT) -> dict[str, Any]:
    """The theme as Vega-Lite's `config`.

    Args:
        palette: `LIGHT`, `DARK` or `PAGE`.
        font: Font families, as in CSS.
    """
    coloured: dict[str, Any] = _colour(THEME["config"], palette)
    return coloured | {
        "background": None if palette is PAGE else palette["paper"],
        "font": font,
        "padding": THEME["page_padding" if palette is PAGE else "padding"],
    }


def _colour(value: Any, palette: Palette) -> Any:
    """The same with the colour of the palette in place of each role, such as "$ink"."""
    if isinstance(value, dict):
        return {name: _colour(part, palette) for name, part in value.items()}
    if isinstance(value, list):
        return [_colour(part, palette) for part in value]
    is_role = isinstance(value, str) and value.startswith("$")
    return palette[value[1:]] if is_role else value
