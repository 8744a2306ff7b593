"""The charts of chains: traces, ranks of the draws, and autocorrelations."""

from typing import Any

import altair as alt
import numpy as np
from jaxtyping import Float, Int

from gradiometer.exploration.chains.mixing import autocorrelations, rank_counts
from gradiometer.report.charts.marks import PLAIN, in_usual_width, inline
from gradiometer.report.charts.theme import DASHES

Draws = Float[np.ndarray, "draws chains"]

# Maximum number of points per chain. In a longer chain, neighbouring draws are averaged.
MOST_POINTS = 500

LAGS = 40
BINS = 20


def trace_chart(name: str, draws: Draws, steps: Int[np.ndarray, " draws"]) -> alt.LayerChart:
    """Every chain along the run. Chains that have mixed overlap.

    Args:
        name: Name of the function, for the axis.
        draws: The draws of every chain.
        steps: The step after which each draw was taken.
    """
    together = max(-(-len(draws) // MOST_POINTS), 1)
    kept = len(draws) // together * together
    means = draws[:kept].reshape(-1, together, draws.shape[1]).mean(axis=1)
    ends = steps[:kept].reshape(-1, together)[:, -1]
    rows = [
        {"step": int(step), "value": float(value), "chain": str(chain)}
        for step, row in zip(ends, means, strict=True)
        for chain, value in enumerate(row)
    ]
    x = alt.X("step:Q", title="step", axis=alt.Axis(format=",d"))
    y = alt.Y("value:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(format=PLAIN))
    return in_usual_width(
        alt.Chart(inline(rows)).mark_line(clip=True).encode(x=x, y=y, **_by_chain(draws.shape[1]))
    )


def rank_chart(name: str, draws: Draws) -> alt.LayerChart:
    """Histogram of the ranks of each chain's draws among all draws. It is flat if the chains have
    mixed.

    The band contains 95 % of the counts of independent draws. Correlated draws leave it more often.
    """
    counts = rank_counts(draws, BINS)
    expected = len(draws) / BINS
    margin = 1.96 * float(np.sqrt(expected * (1 - 1 / BINS)))
    rows = [
        {"share": (place + 0.5) / BINS, "draws": float(count), "chain": str(chain)}
        for place, row in enumerate(counts)
        for chain, count in enumerate(row)
    ]
    x = alt.X(
        "share:Q", title=f"rank of {name} among the draws of all chains", axis=alt.Axis(format="%")
    )
    y = alt.Y("draws:Q", title="draws", axis=alt.Axis(format=PLAIN))
    line = alt.Chart(inline(rows)).mark_line(interpolate="step", clip=True)
    band = alt.Chart(inline([{"low": max(expected - margin, 0.0), "high": expected + margin}]))
    flat = band.mark_rect(style="band", opacity=0.15).encode(y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return in_usual_width(flat, line.encode(x=x, y=y, **_by_chain(draws.shape[1])))


def autocorrelation_chart(name: str, draws: Draws) -> alt.LayerChart:
    """Correlation of a draw with later draws, by chain. The sooner it reaches zero, the more a draw
    is worth."""
    correlations = autocorrelations(draws, LAGS)
    rows = [
        {"lag": lag, "correlation": float(value), "chain": str(chain)}
        for lag, row in enumerate(correlations)
        for chain, value in enumerate(row)
    ]
    x = alt.X("lag:Q", title="draws later", axis=alt.Axis(format="d"))
    y = alt.Y("correlation:Q", title=f"autocorrelation of {name}", axis=alt.Axis(format=PLAIN))
    zero = (
        alt.Chart(inline([{"correlation": 0.0}]))
        .mark_rule(style="reference")
        .encode(y=alt.Y("correlation:Q"))
    )
    return in_usual_width(
        zero,
        alt.Chart(inline(rows)).mark_line(clip=True).encode(x=x, y=y, **_by_chain(draws.shape[1])),
    )


def _by_chain(chains: int) -> dict[str, Any]:
    """Colour and dash by chain. With too many chains to distinguish, all look the same."""
    if chains > len(DASHES):
        return {"detail": alt.Detail("chain:N"), "opacity": alt.value(0.4)}
    domain = [str(chain) for chain in range(chains)]
    legend = alt.Legend(title="chain")
    return {
        "color": alt.Color("chain:N", scale=alt.Scale(domain=domain), legend=legend),
        "strokeDash": alt.StrokeDash(
            "chain:N",
            scale=alt.Scale(domain=domain, range=[list(dash) for dash in DASHES[:chains]]),
            legend=legend,
        ),
    }
