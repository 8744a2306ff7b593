"""The stochastic gradient Nosé–Hoover thermostat: adaptive friction that keeps the temperature."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradiometer.arguments import check_number, check_whole
from gradiometer.exploration.samplers.heat import TOLERANCE
from gradiometer.exploration.samplers.sampler import Sampler, squared_norm, too_hot
from gradiometer.measurement.gradient_graph import flat


class SGNHT(Sampler):
    """SGHMC with variable friction, which grows while the temperature is above T and falls while it
    is below.

    B: p ← p − √η ĝ; A: Φ ← Φ + √η p/2; thermostat: ζ ← ζ + (T̂/T − 1)/(2·relaxation²); O: p ← e^−ζ
    p plus noise of the diffusion that `momentum` sets at the start; A again. Friction removes the
    heat of mini-batch noise, as of any other
    source: the heat need not be known, and it may exceed T, for which SGHMC raises an error.

    With `hold`, T̂ is this step's reading of the *configurational* temperature, N‖p_after
    B‖²(1+μ)²/(4d) + s²(3+μ)/(4(1+μ)) with μ = e^−ζ and s² the variance of the noise. This is the
    exact balance of the splitting for slowly changing friction, so E[(Φ − c)·∇U]/d = T at finite
    steps. Otherwise T̂ is the kinetic temperature N‖p‖²/d, as published, and the position is hotter
    or colder by the bias of the step.

    Args:
        relaxation: Number of steps in which the temperature returns to T while the friction ζ is at
            most its inverse. For larger ζ it is about 2ζ·relaxation² steps. A longer relaxation is
            steadier.
        shared: The settings of `Sampler`. The step of the dynamics is √η, and `momentum` in (0, 1)
            is e^−ζ at the start: it sets the diffusion T(−2 ln μ) per step. Temperature 0 only for
            phases without noise, in which the friction stays constant.

    Source: Ding et al. (2014), Bayesian Sampling Using Stochastic Gradient Thermostats, algorithm
        2; the splitting: Leimkuhler & Shang (2016), Adaptive Thermostats for Noisy Gradient
        Systems.

    Example: 4,000 chains in one tensor, on U = N·Φ²/2 with N = 100. The variance is T/N = 0.01.
        >>> import torch
        >>> from gradiometer import SGNHT
        >>> chains = torch.nn.Parameter(torch.zeros(4000))
        >>> sampler = SGNHT([chains], lr=0.5, momentum=0.5, examples=100)
        >>> for _ in range(50):
        ...     chains.grad = chains.detach().clone()  # the gradient of the mean loss Φ²/2
        ...     sampler.step()
        >>> print(f"{chains.var():.4f}")
        0.0099
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, *, relaxation: int = 20, **shared: Any
    ) -> None:
        """Make a sampler with the settings of `Sampler`, and `relaxation`."""
        self._own = {"relaxation": relaxation}
        super().__init__(params, lr, **shared)

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        pace, cold = math.sqrt(group["lr"]), self._cold(place)
        momenta = self._buffers(params, "momentum_buffer")
        dimension = sum(param.numel() for param in params)
        torch._foreach_add_(momenta, gradients, alpha=-pace)
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        if group["hold"] and not cold:
            self._adapt(place, group["examples"] * squared_norm(momenta) / dimension)
            self._watch_direction(place, gradients, momenta)
        torch._foreach_mul_(momenta, math.exp(-group["friction"]))
        if not cold:
            torch._foreach_add_(
                momenta,
                self._noise.draw(params, place),
                alpha=math.sqrt(_variance(group) / group["examples"]),
            )
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        if not (group["hold"] or cold):
            self._relax(group, group["examples"] * squared_norm(momenta) / dimension)

    def _adapt(self, place: int, kinetic: float) -> None:
        """Change the friction by this step's configurational temperature. Raises if the friction is
        at its limit."""
        group, heat = self.param_groups[place], self._heats[place].mean
        seen = _configurational(group, kinetic)
        judge = heat.add(seen)
        # More friction changes little: e⁻³ of the momentum is left.
        full = group["friction"] > 3
        begins = heat.readings <= group["burn_in"]
        # A hot start must not cause friction that the rest of the run has to get rid of.
        self._relax(group, min(seen, 10 * group["temperature"]) if begins else seen)
        if judge and full and not begins and heat.above(group["temperature"]):
            self._refuse(place, heat.estimate(), "at full friction SGD itself")

    def _watch_direction(self, place: int, gradients: list[Tensor], momenta: list[Tensor]) -> None:
        """Search the hottest direction, or read the configurational temperature along it."""
        group, hottest = self.param_groups[place], self._heats[place].hottest
        # The search chose the direction, so its own steps would read too hot.
        if hottest.found:
            kinetic = group["examples"] * hottest.along(flat(momenta))
            mean = group["temperature"]
            self._judge_hottest(
                place, _configurational(group, kinetic), mean, TOLERANCE * mean, too_hot(mean)
            )
        else:
            hottest.look(flat(gradients))

    def _cold_by(self, place: int) -> float:
        return 0.0  # its record is of temperatures, and not of the heat of SGD itself

    def _relax(self, group: dict[str, Any], seen: float) -> None:
        group["friction"] += (seen / group["temperature"] - 1) / (2 * group["relaxation"] ** 2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own settings and friction."""
        super().add_param_group(param_group)
        self.param_groups[-1]["friction"] = -math.log(self.param_groups[-1]["momentum"])

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        rate: float = group["lr"]
        return rate / 4  # at full friction, the coolest it can be

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_number("momentum", group["momentum"], positive=True)
        check_whole("relaxation", group["relaxation"], 1)


def _configurational(group: dict[str, Any], kinetic: float) -> float:
    """The temperature of the positions in the balance of the splitting, from that of the momenta
    after B."""
    left = math.exp(-group["friction"])
    return kinetic * (1 + left) ** 2 / 4 + _variance(group) * (3 + left) / (4 * (1 + left))


def _variance(group: dict[str, Any]) -> float:
    """s² = T·A(1 − e^−2ζ)/ζ, the variance of the noise of a step with diffusion A = −ln `momentum`,
    times N."""
    diffusion, friction = -math.log(group["momentum"]), group["friction"]
    kept = -math.expm1(-2 * friction) / friction if abs(friction) > 1e-12 else 2.0
    variance: float = group["temperature"] * diffusion * kept
    return variance
