"""Stochastic gradient Langevin dynamics."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler
from gradiometer.measurement.gradient_graph import flat


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
        rate: float = group["lr"]
        return rate / 2

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["momentum"] != 0:
            raise BadArgument(f"`momentum` must be 0 for SGLD, got {group['momentum']}: use SGHMC.")
