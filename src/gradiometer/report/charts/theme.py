"""The theme of all charts, safe for colour-blind readers: light, dark, and in the colours of the
page."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

Palette = Mapping[str, str]
"""Colours by role: ink, muted, grid, paper, and first to sixth for the series."""

SERIES = ("first", "second", "third", "fourth", "fifth", "sixth")
SHAPES = ("circle", "diamond", "square", "triangle-up", "cross", "triangle-down")
DASHES = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3), (12, 3), (4, 2, 1, 2))
"""Colours, shapes and dashes of up to six series, in the same order: series never differ by colour
alone."""

LIGHT: Palette = MappingProxyType(
    {
        "ink": "#1b1f24",
        "muted": "#5b6570",
        "grid": "#e4e8ec",
        "paper": "#ffffff",
        "first": "#0068a8",
        "second": "#b34700",
        "third": "#1d7a4f",
        "fourth": "#8a3fa0",
        "fifth": "#7a6200",
        "sixth": "#b8265f",
    }
)
DARK: Palette = MappingProxyType(
    {
        "ink": "#e6e9ec",
        "muted": "#9aa5b1",
        "grid": "#2c343d",
        "paper": "#14181d",
        "first": "#5db4ec",
        "second": "#f0a35c",
        "third": "#63c796",
        "fourth": "#cf9be0",
        "fifth": "#d3c04e",
        "sixth": "#f58fb4",
    }
)
PAGE: Palette = MappingProxyType({role: f"var(--{role})" for role in LIGHT})
"""CSS variables of the page, so that its charts follow dark mode and printing."""

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"
PAGE_FONT = "system-ui, -apple-system, Segoe UI, Helvetica Neue, Arial, Liberation Sans, sans-serif"
"""The font of the page. `inherit` does not work, because Vega measures labels in this font."""


def config(palette: Palette, font: str = FONT) -> dict[str, Any]:
    """The theme as Vega-Lite's `config`.

    Args:
        palette: `LIGHT`, `DARK` or `PAGE`.
        font: Font families, as in CSS.
    """
    return {
        "background": None if palette is PAGE else palette["paper"],
        "font": font,
        "padding": 4 if palette is PAGE else 16,
        "view": {"stroke": None},
        "axis": _axis(palette),
        "axisX": {"grid": False, "titlePadding": 8},
        "axisY": {
            "domain": False,
            "ticks": False,
            "labelPadding": 8,
            "titleAngle": 0,
            "titleAlign": "left",
            "titleBaseline": "bottom",
            "titleX": 0,
            "titleY": -10,
        },
        "legend": _legend(palette),
        "title": {
            "anchor": "start",
            "color": palette["ink"],
            "fontSize": 15,
            "fontWeight": 600,
            "offset": 14,
            "subtitleColor": palette["muted"],
            "subtitleFontSize": 12,
            "subtitlePadding": 6,
        },
        "range": {
            "category": [palette[role] for role in SERIES],
            "symbol": list(SHAPES),
        },
        **_marks(palette),
    }


def _axis(palette: Palette) -> dict[str, Any]:
    return {
        "gridColor": palette["grid"],
        "domainColor": palette["muted"],
        "tickColor": palette["muted"],
        "tickSize": 4,
        "labelColor": palette["muted"],
        "labelFontSize": 11,
        "labelOverlap": "greedy",
        "labelSeparation": 8,
        "titleColor": palette["muted"],
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    }


def _legend(palette: Palette) -> dict[str, Any]:
    return {
        "orient": "top",
        "title": None,
        "labelColor": palette["ink"],
        "labelFontSize": 12,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "labelOffset": 8,
        "columnPadding": 28,
        "offset": 30,
    }


def _marks(palette: Palette) -> dict[str, Any]:
    return {
        "mark": {"color": palette["first"], "invalid": "break-paths-show-domains"},
        "line": {"strokeWidth": 2, "strokeJoin": "round"},
        "area": {"opacity": 0.18, "line": False},
        "point": {"filled": True, "size": 34, "opacity": 1},
        "rule": {"color": palette["first"], "strokeWidth": 2},
        "style": {
            "reference": {"color": palette["ink"], "strokeWidth": 1.25, "strokeDash": [5, 4]},
            "reference-label": {"color": palette["ink"], "fontSize": 12, "fontWeight": 600},
            "open": {"size": 52},
            "event": {"color": palette["muted"], "strokeDash": [3, 3]},
            "reading": {"color": palette["muted"], "thickness": 1, "size": 8, "orient": "vertical"},
            "unknown": {"color": palette["muted"], "fontSize": 14, "fontWeight": 600},
        },
    }
