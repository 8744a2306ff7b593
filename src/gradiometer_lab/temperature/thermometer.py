"""The thermometer: the temperature at which SGD runs (lecture, S10 and S11), by the heat balance,
an identity of every run at a constant or slowly changing η."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from gradiometer.arguments import check_number, check_whole
from gradiometer.drift.stability import MomentumRule
from gradiometer.errors import BadArgument
from gradiometer.estimation.noise import noise_moments
from gradiometer.measurement import Draw, Estimate, Estimates, Moments, Series
from gradiometer.measurement.estimate import LEVEL
from gradiometer.measurement.finding import Doubt, Finding, Issue, State
from gradiometer.measurement.gauge import NOTHING_KNOWN, Gauge, RunFacts
from gradiometer.measurement.uncertainty.arithmetic import transform
from gradiometer.measurement.uncertainty.now import TEMPERATURE_PRIOR

if TYPE_CHECKING:  # estimates are made from a run on disk, possibly without torch
    import gradiometer.measurement.step

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
        return np.asarray(self.injected + self.minibatch + self.step)

    @property
    def residual(self) -> Parts:
        """The error of the balance: rounding if every step was measured, otherwise also noise."""
        return np.asarray(self.configurational - self.heat + self.drift)


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
    # Two readings with different origins have no common drift.
    gaps = np.diff(series.steps)
    origin, rate = series.moments["origin"], rates_of(series) / (1 - momentum)
    kept = (origin[1:] == origin[:-1]) & (rate[:-1] > 0) & (gaps > 0)
    between = np.where(gaps == 1, rate[:-1], (rate[:-1] + rate[1:]) / 2)[kept, None]
    rate, gaps = rate[:-1][kept, None], gaps[kept, None]
    growth = np.diff(series.moments["distance"], axis=0)[kept] / gaps

    def part(name: str) -> Parts:
        return np.asarray(series.moments[name][:-1][kept])

    parameters = series.moments["parameters"][0].astype(np.int64)
    # E‖ĝ − g‖² over tr Σ as measured from the halves of a batch.
    factor = 1 / series.batch_size[:-1][kept, None]
    if series.sampling.draw is Draw.RESHUFFLED:
        if series.sampling.examples is None:
            raise BadArgument(
                "`sampling` is reshuffled, over a training set of unknown size: give its "
                "`examples`."
            )
        factor = factor - 1 / series.sampling.examples
    minibatch = rate / 2 * part("noise") * factor
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
    return series.learning_rate * series.moments.get("factor", 1.0)


# Share of the heat in the drift above which Φ is still moving, not spread around one place.
MOVING = 0.2


@dataclass(frozen=True)
class Temperature(Gauge):
    """The heat balance T_conf = T_injected + T_minibatch + T_step − drift, for all parameters and
    for every layer.

    T_conf = ⟨Φ − c, ĝ⟩/d is the temperature of Φ by equipartition, T_minibatch = η tr Σ/(2Bd(1 −
    μ)) the heat that mini-batch noise adds at every step, T_step = η‖g‖²/(2d) the heat of steps of
    finite length, and the drift is how fast Φ moves away from c. The balance is an identity of
    every run of plain SGD, for any loss and any fixed c. At stationarity the drift is zero, and T,
    the total heat put in, is the temperature: T ∝ η/(B(1 − μ)). It is an
    effective temperature: all directions have the same one only if the noise is isotropic.

    If the step knows its update, ĝ may have been clipped by its norm. The step applied is sĝ, a
    step at the rate ηs,
    and the balance is that of ĝ at ηs: it stays an identity, and T_conf keeps its meaning. As s is
    small when ĝ is long, the drift is not exactly zero at stationarity, and the relative error of T
    is about −1/(2 × dimensions of the noise).

    Costs a few inner products, and the spread, shared with the noise gauge. The step needs a
    `motion`, whose origin is one copy of the parameters.

    Args:
        momentum: μ of training.
        nesterov: Nesterov's momentum instead of the heavy ball's.
        weight_decay: λ of training; λΦ is part of ĝ. If the step knows its update, the update's λ
            is used instead.
        injected: The temperature of the noise that a sampler adds at every step, in units of the
            loss; 0 for SGD.
        units: "loss" for the mean loss, or "posterior" for N times that: the posterior of the
            training set has T = 1.
        examples: N. Default: from the run's sampling.
        parts: k of the spread, as in `GradientNoise`.

    Example:
        >>> from gradiometer import Draw, Sampling, Series, Temperature
        >>> from gradiometer.measurement.reading import Reading
        >>> moments = {"configurational": 2.0, "kick": 2.1, "noise": 160.0, "distance": 40.0, "parameters": 10.0}
        >>> moments = {name: [value] for name, value in moments.items()} | {"origin": 0.0}
        >>> readings = [Reading("temperature", step, 4, 0.1, moments) for step in range(20)]
        >>> found = Temperature().estimate(Series.of(readings, Sampling(Draw.REPLACEMENT, examples=500)))
        >>> print(f"{found['temperature'].value:.2f}, in posterior units {found['temperature_posterior'].value:.0f}")
        0.21, in posterior units 105

    Source: Yaida (2018), Fluctuation-dissipation relations for stochastic gradient descent, eq. 14;
        the lecture, S11; Mandt, Hoffman & Blei (2017), Stochastic Gradient Descent as Approximate
        Bayesian Inference, section 4.
    """

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    injected: float = 0.0
    units: Literal["loss", "posterior"] = "loss"
    examples: int | None = None
    parts: int | None = 2

    name: ClassVar[str] = "temperature"
    issue: ClassVar[Issue] = Issue.EXPLORATION
    unit: ClassVar[str] = "loss"
    labels: ClassVar[Mapping[str, str]] = {
        "temperature": "temperature T, the total heat put in",
        "temperature_minibatch": "heat of mini-batch noise, η tr Σ / (2Bd(1 − μ))",
        "temperature_step": "heat of finite steps, η‖g‖² / (2d) without momentum",
        "temperature_configurational": "temperature of the parameters, ⟨Φ − c, ĝ⟩ / d",
        "temperature_drift": "drift away from c, (‖Φ′ − c‖² − ‖Φ − c‖²) / (2ηd)",
        "temperature_residual": "error of the balance",
    }
    needs_loss: ClassVar[bool] = False
    processes: ClassVar[Literal["one", "many", "sharded"]] = "many"
    sgd_only: ClassVar[str] = "heat balance"
    from_run: ClassVar[tuple[str, ...]] = ("parts", "momentum", "nesterov", "weight_decay")
    looks_back: ClassVar[bool] = True

    def __post_init__(self) -> None:
        MomentumRule(self.momentum, self.nesterov)
        check_number("weight_decay", self.weight_decay)
        check_number("injected", self.injected)
        if self.units not in ("loss", "posterior"):
            raise BadArgument(f"`units` must be 'loss' or 'posterior', got {self.units!r}.")
        if self.examples is not None:
            check_whole("examples", self.examples, 1)
        if self.parts is not None:
            check_whole("parts", self.parts, 2)

    @property
    def reach(self) -> float:
        """ηᵤ/η: the position Φ − ηᵤv moves as plain SGD at η/(1 − μ)."""
        return self.momentum ** (2 if self.nesterov else 1) / (1 - self.momentum)

    def measure(self, step: "gradiometer.measurement.step.TrainingStep") -> Moments:
        """By layer: ⟨Φ − c, ĝ⟩, the heat of this step, tr Σ, ‖Φ − ηᵤv − c‖², and the number of
        parameters."""
        rate, motion, here = step.learning_rate, step.motion, step.objective.parameters
        check_number("learning_rate", rate)
        # The clipping factor s, and ĝ with weight decay, before clipping.
        factor, pull = 1.0, step.gradient
        if motion.update is not None:
            factor, pull = motion.update.factor, motion.update.pull(here)
        elif self.weight_decay:
            decayed = zip(step.gradient, here, strict=True)
            pull = [g + self.weight_decay * p.detach() for g, p in decayed]
        away = behind = motion.away(here)
        kick = factor * rate / (2 * (1 - self.momentum)) * step.products_by_layer(pull, pull)
        if self.momentum:
            # With momentum the balance holds for Φ − ηᵤv, which moves as plain SGD does.
            velocity, reach = motion.velocity_of(here), rate * self.reach
            kick = kick + reach * step.products_by_layer(velocity, pull)
            behind = [x.double() - reach * v for x, v in zip(away, velocity, strict=True)]
        count = None if self.parts is None else min(self.parts, step.batch_size)
        trace, _ = noise_moments(step.spread(count))
        return {
            "configurational": step.products_by_layer(away, pull).tolist(),
            "kick": kick.tolist(),
            "noise": trace.tolist(),
            "distance": step.products_by_layer(behind, behind).tolist(),
            "parameters": np.bincount(
                step.objective.layer_of, weights=[p.numel() for p in here]
            ).tolist(),
            "origin": float(motion.since),
        } | ({} if motion.update is None else {"factor": factor})

    def estimate(self, series: Series, level: float = LEVEL) -> Estimates:
        """T, its parts, T_conf and the drift; T and T_conf of every layer; T in posterior units if
        N is known."""
        balance = heat_balance(series, momentum=self.momentum, injected=self.injected)
        posterior = self.units == "posterior"
        readings = balance.readings
        examples = self.examples if self.examples is not None else series.sampling.examples
        if examples is None and posterior:
            raise BadArgument(
                "`examples` is missing: posterior units are N times those of the loss, and the "
                "run's sampling does not contain N. Give `examples`, or use units='loss'."
            )
        scale = float(examples or 1) if posterior else 1.0
        settings: dict[str, Any] = {
            "level": level,
            "unit": "" if posterior else self.unit,
            "prior": TEMPERATURE_PRIOR,
        }

        def whole(part: Parts) -> Estimate:
            return readings.mean(scale * part.sum(axis=1) / balance.parameters.sum(), **settings)

        estimates = {
            "temperature": whole(balance.heat),
            "temperature_minibatch": whole(balance.minibatch),
            "temperature_step": whole(balance.step),
            "temperature_injected": Estimate.exact(scale * self.injected, unit=settings["unit"]),
            "temperature_configurational": whole(balance.configurational),
            "temperature_drift": whole(balance.drift),
            "temperature_drift_share": readings.ratio(
                balance.drift.sum(axis=1), balance.heat.sum(axis=1), level=level, nonnegative=False
            ),
            "temperature_residual": whole(balance.residual),
        }
        if examples is not None:
            times = 1.0 if posterior else float(examples)
            estimates["temperature_posterior"] = transform(
                estimates["temperature"], lambda value: times * value
            )
            estimates["temperature_examples"] = Estimate.exact(float(examples), unit="examples")
        rates = rates_of(series)
        # Within an epoch the batches undo each other's noise in directions too flat to forget.
        if series.sampling.draw is Draw.RESHUFFLED and examples is not None and rates[-1] > 0:
            batches = float(np.median(series.batch_size)) / examples
            rate = float(np.median(rates[rates > 0])) / (1 - self.momentum)
            estimates["forgotten_curvature"] = Estimate.exact(
                batches / rate, unit="loss / parameter²"
            )
        factors = series.moments.get("factor", np.ones(1))
        # A smaller change of a gradient's length is rounding, not clipping.
        if (abs(factors - 1) > 1e-3).any():
            estimates["temperature_clipping"] = series.mean(factors, level=level)
        for place, layer in enumerate(series.layers if len(series.layers) > 1 else ()):
            per_parameter = scale / balance.parameters[place]
            for name, heat in (
                ("temperature", balance.heat),
                ("temperature_configurational", balance.configurational),
            ):
                estimates[f"{name}/{layer}"] = readings.mean(
                    per_parameter * heat[:, place], **settings
                )
        return estimates

    def judge(self, estimates: Estimates, run: RunFacts = NOTHING_KNOWN) -> Finding | None:
        """The temperature, the source of its heat, and if Φ still moves or is spread around one
        place."""
        temperature = estimates["temperature"]
        numbers = {"temperature": temperature}
        if not temperature.tells:
            return Finding(self.name, self.issue, "temperature_unknown", State.CANNOT_TELL, numbers)
        posterior = estimates.get("temperature_posterior")
        examples = estimates.get("temperature_examples")
        # The posterior has T = 1: a factor is said only if the interval excludes it.
        times = None
        if posterior is not None and posterior.low > 0 and not posterior.low <= 1 <= posterior.high:
            times = posterior.value
        # How far the temperatures of layers differ, and the curvature below which reshuffled epochs
        # cool a direction.
        layers = {
            name.removeprefix("temperature/"): each.value
            for name, each in estimates.items()
            if name.startswith("temperature/") and each.tells
        }
        forgotten = estimates.get("forgotten_curvature")
        spread: dict[str, Any] = {
            "forgotten_curvature": None if forgotten is None else forgotten.value
        }
        if len(layers) > 1:
            coldest = min(layers, key=layers.__getitem__)
            hottest = max(layers, key=layers.__getitem__)
            spread |= {"coldest": (coldest, layers[coldest]), "hottest": (hottest, layers[hottest])}
        minibatch = estimates["temperature_minibatch"].value
        drift = estimates["temperature_drift_share"]
        # Does Φ move? The drift is then significant, and more than a small share of the heat.
        motion = "none"
        if not drift.tells:
            motion = "unknown"
        elif drift.value > MOVING and drift.low > 0:
            motion = "away"
        elif drift.value < -MOVING and drift.high < 0:
            motion = "back"
        facts = {
            "minibatch_share": minibatch / temperature.value if temperature.value else 0.0,
            "clipping": estimates.get("temperature_clipping"),
            "posterior": posterior if temperature.unit else None,
            "examples": None if examples is None else examples.value,
            "times_of_posterior": times,
            "motion": motion,
            "drift_share": drift.value,
        }
        return Finding(
            self.name,
            self.issue,
            "temperature",
            State.OK,
            numbers,
            facts,
            doubts=(Doubt("one_temperature", spread),),
        )
