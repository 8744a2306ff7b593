"""Stochastic gradient Langevin dynamics, at the temperature asked for."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.errors import BadArgument
from gradiometer.exploration.samplers.sampler import Sampler, squared_norm


class SGLD(Sampler):
    """Φ ← Φ − ηĝ + √(2ηT'/N) ξ, ξ ~ N(0, I): SGD with noise, whose iterates are draws from exp(−U/T).

    Its own heat is η N E‖ĝ‖²/(2d), the sum of the mini-batch's η N tr Σ/(2Bd) and the finite step's η N‖g‖²/(2d):
    expanding E‖Φ_{t+1} − c‖² = E‖Φ_t − c‖² gives E[(Φ − c)·∇U]/d = T' + ηN E‖ĝ‖²/(2d), exactly, for any loss. Where
    held, T' = T minus its running mean; on a quadratic with curvature h and noise c of ĝ (over B) that is
    T' = T(1 − ηh/2) − Nηc/(2B), which gives Var Φ = T/(Nh) at any step.

    Args:
        params: Parameters, or groups of them with settings of their own.
        lr: η, of the gradient of the mean loss, as SGD's.
        examples: N, the number of training examples.
        temperature: T in posterior units; 0 for plain SGD.
        weight_decay: λ of a Gaussian prior of precision Nλ.
        momentum: Must be 0: SGLD has none.
        hold: Inject T less the own heat; otherwise T, as published.
        burn_in: Steps before the own heat may refuse.
        memory: Steps the own heat is averaged over.
        batch_size: B, so that a refusal can name a larger one.
        seed: Of the noise.

    Raises:
        BadArgument: A setting is none.

    Source: Welling & Teh (2011), Bayesian Learning via Stochastic Gradient Langevin Dynamics, eq. 4, whose ε is 2η/N;
        the balance: Yaida (2018), Fluctuation-Dissipation Relations for Stochastic Gradient Descent, with noise added.

    Example:
        >>> sampler = SGLD(model.parameters(), lr=0.1, examples=60_000, temperature=1.0)  # doctest: +SKIP
    """

    what: ClassVar[str] = "SGLD"

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        examples: int | None = None,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        hold: bool = True,
        burn_in: int = 1000,
        memory: int = 1000,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        if not momentum == 0:
            raise BadArgument(f"`momentum` is {momentum}, but SGLD has none: leave it out, or take SGHMC.")
        settings = {"lr": lr, "examples": examples, "temperature": temperature, "weight_decay": weight_decay}
        control = {"hold": hold, "burn_in": burn_in, "memory": memory, "batch_size": batch_size}
        super().__init__(params, {**settings, **control}, seed)

    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        group = self.param_groups[place]
        rate, examples = group["lr"], group["examples"]
        injected = 0.0
        if not self._cold(place):
            dimension = sum(param.numel() for param in params)
            injected = self._injected(place, examples * squared_norm(gradients) / (2 * dimension), rate)
        torch._foreach_add_(params, gradients, alpha=-rate)
        if injected > 0:
            noise = self._noise.draw(params, place)
            torch._foreach_add_(params, noise, alpha=math.sqrt(2 * rate * injected / examples))

    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        rate: float = group["lr"]
        return rate / 2
