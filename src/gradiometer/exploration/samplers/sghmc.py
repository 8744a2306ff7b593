"""Stochastic gradient Hamiltonian Monte Carlo, in a splitting without step bias."""

import math
from typing import Any

import torch
from torch import Tensor

from gradiometer.exploration.samplers.sampler import Sampler
from gradiometer.measurement.gradient_graph import flat


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
        rate, friction = group["lr"], group["momentum"]
        scale: float = rate * (1 + friction) / (4 * (1 - friction))
        return scale
