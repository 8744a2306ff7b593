"""The charts of chains: traces, ranks of the draws, and autocorrelations."""

from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float, Int, Shaped

from gradiometer.report.charts.marks import PLAIN, in_usual_width, inline
from gradiometer.report.charts.theme import DASHES, POINTS
from gradiometer_lab.chains.mixing import autocorrelations, rank_counts

Draws = Float[np.ndarray, "draws chains"]


def trace_chart(name: str, draws: Draws, steps: Int[np.ndarray, " draws"]) -> alt.LayerChart:
    """Every chain along the run. Chains that have mixed overlap.

    Args:
        name: Name of the function, for the axis.
        draws: The draws of every chain.
        steps: The step after which each draw was taken.
    """
    together = max(-(-len(draws) // POINTS.chain), 1)
    kept = len(draws) // together * together
    means = draws[:kept].reshape(-1, together, draws.shape[1]).mean(axis=1)
    ends = steps[:kept].reshape(-1, together)[:, -1]
    x = alt.X("x:Q", title="step", axis=alt.Axis(format=",d"))
    y = alt.Y("y:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(format=PLAIN))
    return in_usual_width(_lines(ends, means).encode(x=x, y=y))


def rank_chart(name: str, draws: Draws) -> alt.LayerChart:
    """Histogram of the ranks of each chain's draws among all draws. It is flat if the chains have
    mixed.

    The band contains 95 % of the counts of independent draws. Correlated draws leave it more often.
    """
    counts = rank_counts(draws, POINTS.bins)
    expected = len(draws) / POINTS.bins
    margin = 1.96 * float(np.sqrt(expected * (1 - 1 / POINTS.bins)))
    title = f"rank of {name} among the draws of all chains"
    x = alt.X("x:Q", title=title, axis=alt.Axis(format="%"))
    y = alt.Y("y:Q", title="draws", axis=alt.Axis(format=PLAIN))
    line = _lines((np.arange(POINTS.bins) + 0.5) / POINTS.bins, counts, interpolate="step")
    band = alt.Chart(inline([{"low": max(expected - margin, 0.0), "high": expected + margin}]))
    flat = band.mark_rect(style="band", opacity=0.15).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return in_usual_width(flat, line.encode(x=x, y=y))


def autocorrelation_chart(name: str, draws: Draws) -> alt.LayerChart:
    """Correlation of a draw with later draws, by chain. The sooner it reaches zero, the more a draw
    is worth."""
    correlations = autocorrelations(draws, POINTS.lags)
    x = alt.X("x:Q", title="draws later", axis=alt.Axis(format="d"))
    y = alt.Y("y:Q", title=f"autocorrelation of {name}", axis=alt.Axis(format=PLAIN))
    zero = alt.Chart(inline([{"y": 0.0}])).mark_rule(style="reference").encode(y=alt.Y("y:Q"))
    line = _lines(np.arange(len(correlations)), correlations)
    return in_usual_width(zero, line.encode(x=x, y=y))


def _lines(
    places: Shaped[np.ndarray, " places"], values: Float[np.ndarray, "places chains"], **mark: Any
) -> alt.Chart:
    """One line for each chain, as y over x, each with its colour and dash."""
    rows = [
        {"x": place, "y": value, "chain": str(chain)}
        for place, row in zip(places.tolist(), values.tolist(), strict=True)
        for chain, value in enumerate(row)
    ]
    lines: alt.Chart = alt.Chart(inline(rows)).mark_line(clip=True, **mark)
    chains = values.shape[1]
    if chains > len(DASHES):  # too many to distinguish
        return lines.encode(detail=alt.Detail("chain:N"), opacity=alt.value(0.4))
    domain = [str(chain) for chain in range(chains)]
    dashes = alt.Scale(domain=domain, range=[list(dash) for dash in DASHES[:chains]])
    legend = alt.Legend(title="chain")
    return lines.encode(
        color=alt.Color("chain:N", scale=alt.Scale(domain=domain), legend=legend),
        strokeDash=alt.StrokeDash("chain:N", scale=dashes, legend=legend),
    )
