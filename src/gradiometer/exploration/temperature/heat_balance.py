"""The heat balance of SGD: an identity of every run, at a constant or slowly changing η."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gradiometer.errors import BadArgument
from gradiometer.measurement.reading import Draw, Sampling, Series

Parts = Float[np.ndarray, "steps layers"]


@dataclass(frozen=True)
class HeatBalance:
    """T_conf = T_injected + T_minibatch + T_step − drift of every reading and layer, each times the
    layer's size.

    In units of the loss. Divide by the parameters of a layer, or sum and divide by d, to get
    temperatures.

    Args:
        configurational: ⟨Φ − c, ĝ⟩, with weight decay in ĝ.
        injected: d times the temperature of the noise that a sampler adds; 0 for SGD.
        minibatch: η tr Σ/(2B(1 − μ)), the heat of mini-batch noise.
        step: The rest of the heat of a step: η‖g‖²/2 without momentum.
        drift: (‖Φ′ − c‖² − ‖Φ − c‖²)/(2η) per step, how fast Φ moves away from c.
        parameters: The size of each layer: its number of parameters.
        readings: The readings that the rows belong to.
    """

    configurational: Parts
    injected: Parts
    minibatch: Parts
    step: Parts
    drift: Parts
    parameters: Int[np.ndarray, " layers"]
    readings: Series

    @property
    def heat(self) -> Parts:
        """The total heat put in."""
        total: Parts = self.injected + self.minibatch + self.step
        return total

    @property
    def residual(self) -> Parts:
        """The error of the balance: rounding if every step was measured, otherwise also noise."""
        error: Parts = self.configurational - self.heat + self.drift
        return error


def heat_balance(series: Series, *, momentum: float = 0.0, injected: float = 0.0) -> HeatBalance:
    """The balance at every reading whose next reading has the same origin c.

    With momentum it is the balance of Φ − ηᵤv, with ηᵤ = ημ/(1 − μ) (heavy ball) or ημ²/(1 − μ)
    (Nesterov). This position moves by −ηĝ/(1 − μ) per step, so it is plain SGD at η/(1 − μ),
    exactly while η is constant. If readings are many steps apart, the drift covers all steps
    between them, and the other parts only the measured steps.

    A step with ĝ clipped to s times its length counts as a step at the rate ηs. If readings are
    many steps apart, the drift then uses the mean rate of two steps for all steps between: an error
    of the order of the variance of s.

    Args:
        series: Readings of the gauge `Temperature`.
        momentum: μ.
        injected: The temperature of the noise that a sampler adds, in units of the loss.

    Source: Yaida (2018), Fluctuation-dissipation relations for stochastic gradient descent, eq. 14,
        before its average over the stationary law; the position: Yuan, Ying & Sayed (2016), On the
        Influence of Momentum Acceleration on Online Learning, section 3.
    """
    gaps = np.diff(series.steps)
    origin, rate = series.moments["origin"], rates_of(series) / (1 - momentum)
    kept = (origin[1:] == origin[:-1]) & (rate[:-1] > 0) & (gaps > 0)
    between = np.where(gaps == 1, rate[:-1], (rate[:-1] + rate[1:]) / 2)[kept, None]
    rate, gaps = rate[:-1][kept, None], gaps[kept, None]
    growth = np.diff(series.moments["distance"], axis=0)[kept] / gaps

    def part(name: str) -> Parts:
        values: Parts = series.moments[name][:-1][kept]
        return values

    parameters = series.moments["parameters"][0].astype(np.int64)
    minibatch = (
        rate
        / 2
        * part("noise")
        * _batch_factor(series.sampling, series.batch_size[:-1][kept, None])
    )
    return HeatBalance(
        configurational=part("configurational"),
        injected=np.broadcast_to(injected * parameters, growth.shape),
        minibatch=minibatch,
        step=part("kick") - minibatch,
        drift=growth / (2 * between),
        parameters=parameters,
        readings=series[:-1][kept],
    )


def rates_of(series: Series) -> Float[np.ndarray, " steps"]:
    """η of every reading, times the factor by which its gradient was clipped."""
    rates: Float[np.ndarray, " steps"] = series.learning_rate * series.moments.get("factor", 1.0)
    return rates


def _batch_factor(
    sampling: Sampling, batch_size: Int[np.ndarray, "steps 1"]
) -> Float[np.ndarray, "steps 1"]:
    """E‖ĝ − g‖² over tr Σ as measured from the halves of a batch: 1/B, or 1/B − 1/N without
    replacement."""
    if sampling.draw is not Draw.RESHUFFLED:
        return 1 / batch_size
    if sampling.examples is None:
        raise BadArgument(
            "`sampling` draws without replacement from a training set of unknown size: give its "
            "`examples`."
        )
    return 1 / batch_size - 1 / sampling.examples
