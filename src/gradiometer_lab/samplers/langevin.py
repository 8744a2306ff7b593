"""The samplers: Langevin dynamics without momentum, with it, and with a thermostat."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument
from gradiometer.measurement.gradient_graph import flat
from gradiometer_lab.samplers.heat import TOLERANCE
from gradiometer_lab.samplers.sampler import Sampler, squared_norm, too_hot


class SGLD(Sampler):
    """Φ ← Φ − ηĝ + √(2ηT'/N) ξ, ξ ~ N(0, I): SGD with noise, whose iterates are draws from
    exp(−U/T).

    Its own heat is η N E‖ĝ‖²/(2d), the sum of mini-batch noise, η N tr Σ/(2Bd), and finite steps, η
    N‖g‖²/(2d): expanding E‖Φ_{t+1} − c‖² = E‖Φ_t − c‖² gives E[(Φ − c)·∇U]/d = T' + ηN E‖ĝ‖²/(2d),
    exactly, for any loss. With `hold`, T' = T minus the running mean of the own heat. On a
    quadratic with curvature h and noise c of ĝ (over B) this is T' = T(1 − ηh/2) − Nηc/(2B), which
    gives Var Φ = T/(Nh) for any step.

    Settings: see `Sampler`. `momentum` must be 0.

    Source: Welling & Teh (2011), Bayesian Learning via Stochastic Gradient Langevin Dynamics, eq.
        4, whose ε is 2η/N; the balance: Yaida (2018), Fluctuation-Dissipation Relations for
        Stochastic Gradient Descent, with noise added.

    Example: 4,000 chains in one tensor, on U = N·Φ²/2 with N = 100. The variance is T/N = 0.01.
        >>> import torch
        >>> from gradiometer import SGLD
        >>> chains = torch.nn.Parameter(torch.zeros(4000))
        >>> sampler = SGLD([chains], lr=0.5, examples=100, temperature=1.0)
        >>> for _ in range(50):
        ...     chains.grad = chains.detach().clone()  # the gradient of the mean loss Φ²/2
        ...     sampler.step()
        >>> print(f"{chains.var():.4f}")
        0.0100
    """

    momentum: ClassVar[float] = 0.0

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        rate, examples = group["lr"], group["examples"]
        noise: list[Tensor] = []
        size = 0.0
        if not self._cold(place):
            gradient = flat(gradients)
            noise, size = self._thermal_noise(
                place, params, gradients, torch.zeros_like(gradient), gradient, rate / 2
            )
        torch._foreach_add_(params, gradients, alpha=-rate)
        if noise:
            torch._foreach_add_(params, noise, alpha=size * math.sqrt(2 * rate / examples))

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        return float(group["lr"]) / 2

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["momentum"] != 0:
            raise BadArgument(f"`momentum` must be 0 for SGLD, got {group['momentum']}: use SGHMC.")


class SGHMC(Sampler):
    """SGD with momentum and noise, in the BAOA splitting of Langevin dynamics: one gradient per
    step.

    With p of unit mass: B: p ← p − √η ĝ; A: Φ ← Φ + √η p/2; O: p ← μp + √((1 − μ²)T'/N) ξ; A again.
    For small steps and μ near 1 it moves as SGD with this `lr` and momentum, with buffer −p/√η. On
    a quadratic without gradient noise Var Φ = T'/(Nh) exactly, for any stable step (ηh < 4).

    Its own heat is (1+μ)/(4(1−μ)) N E[‖p_after B‖² − ‖p_before B‖²]/d: stationarity of E‖p‖²,
    E[Φ·p] and E‖Φ‖² gives E[(Φ − c)·∇U]/d = T' + own, exactly, for any loss. On a quadratic with
    noise c of ĝ (over B) it is Nηc(1+μ)/(B(1−μ)(4 − ηh)). With ppᵀ instead of ‖p‖² the same holds
    for matrices, so along every direction. The readings of the matrix fluctuate, so until there are
    `memory` of them the mean of a small group is held.

    Settings: see `Sampler`. The step of the dynamics is √η, and `momentum` is μ = e^(−friction ×
    step), in [0, 1).

    Source: Chen, Fox & Guestrin (2014), Stochastic Gradient Hamiltonian Monte Carlo, without their
        correction; the splitting: Leimkuhler & Matthews (2013), Rational Construction of Stochastic
        Numerical Methods for Molecular Sampling (BAOAB, whose two half kicks are one here).

    Example: 4,000 chains in one tensor, on U = N·Φ²/2 with N = 100. The variance is T/N = 0.01.
        >>> import torch
        >>> from gradiometer import SGHMC
        >>> chains = torch.nn.Parameter(torch.zeros(4000))
        >>> sampler = SGHMC([chains], lr=0.5, momentum=0.5, examples=100)
        >>> for _ in range(50):
        ...     chains.grad = chains.detach().clone()  # the gradient of the mean loss Φ²/2
        ...     sampler.step()
        >>> print(f"{chains.var():.4f}")
        0.0099
    """

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        examples, friction = group["examples"], group["momentum"]
        pace = math.sqrt(group["lr"])
        momenta = self._buffers(params, "momentum_buffer")
        old = None if self._cold(place) else flat(momenta)
        torch._foreach_add_(momenta, gradients, alpha=-pace)
        noise: list[Tensor] = []
        size = 0.0
        if old is not None:
            # Few readings of a matrix fluctuate more than its mean, which is held until then.
            scale = (1 + friction) / (4 * (1 - friction))
            noise, size = self._thermal_noise(
                place, params, gradients, old, flat(momenta), scale, group["memory"]
            )
        torch._foreach_add_(params, momenta, alpha=pace / 2)
        torch._foreach_mul_(momenta, friction)
        if noise:
            torch._foreach_add_(
                momenta, noise, alpha=size * math.sqrt((1 - friction**2) / examples)
            )
        torch._foreach_add_(params, momenta, alpha=pace / 2)

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        friction = float(group["momentum"])
        return float(group["lr"]) * (1 + friction) / (4 * (1 - friction))


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
            hottest = self._heats[place].hottest
            # The search chose the direction, so its own steps would read too hot.
            if hottest.found:
                kinetic = group["examples"] * hottest.along(flat(momenta))
                mean = group["temperature"]
                self._judge_hottest(
                    place, _configurational(group, kinetic), mean, TOLERANCE * mean, too_hot(mean)
                )
            else:
                hottest.look(flat(gradients))
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

    def _cold_by(self, place: int) -> float:
        return 0.0  # its record is of temperatures, and not of the heat of SGD itself

    def _relax(self, group: dict[str, Any], seen: float) -> None:
        group["friction"] += (seen / group["temperature"] - 1) / (2 * group["relaxation"] ** 2)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own settings and friction."""
        super().add_param_group(param_group)
        self.param_groups[-1]["friction"] = -math.log(self.param_groups[-1]["momentum"])

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        return float(group["lr"]) / 4  # at full friction, the coolest it can be

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
    return float(group["temperature"]) * diffusion * kept
