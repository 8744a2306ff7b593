"""At what temperature samplers sample: ours, posteriors', blackjax's and torch-uncertainty's, on
one known quadratic.

Every sampler starts from the law it is asked for and makes the same steps: η of the gradient of the
mean loss, and, where there is momentum, a share of it kept in each. What each calls so is in its
own function below. A package that is not installed is named with the reason, as is a sampler that
cannot be run.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer import SGHMC, SGLD, SGNHT, Estimate
from gradiometer.measurement.uncertainty import mean
from gradiometer_lab.samplers.sampler import Sampler

CHAINS, STEPS, MODES = 500, 2000, 10
CURVATURES = torch.linspace(0.2, 1.0, MODES, dtype=torch.float64)
N, KEPT, NOISE = 1000, 0.9, 2e-4
"""Examples, the share of momentum kept in a step, the variance of ĝ in every direction; with
momentum a fifth of it, whose heat is the larger."""

LEAPS = 10
"""Steps of blackjax's SGHMC between two draws of its momentum, as it comes."""


@dataclass(frozen=True)
class Setting:
    """What is asked of every sampler: η, T in posterior units, and the variance of the mini-batch's
    noise in ĝ."""

    rate: float
    temperature: float
    noise: float

    def __str__(self) -> str:
        kind = "mini-batches" if self.noise else "full gradients"
        return f"temperature at T = {self.temperature:g}, η h up to {self.rate:g}, {kind}"

    def gradient(self, position: Any, drawn: Any, curvatures: Any = CURVATURES) -> Any:
        """ĝ of the mean loss, in torch's numbers or in JAX's."""
        return curvatures * position + math.sqrt(self.noise) * drawn

    def start(self) -> Tensor:
        """Draws of the law that is asked for, [chains, modes]."""
        drawn = torch.randn(
            CHAINS, MODES, generator=torch.Generator().manual_seed(2), dtype=torch.float64
        )
        return drawn * (self.temperature / (N * CURVATURES)).sqrt()


SETTINGS = [
    *(Setting(rate, 1.0, noise) for rate in (0.05, 0.5) for noise in (0.0, NOISE)),
    Setting(0.05, 0.25, 0.0),
]
"""The last one finds out who does not listen to what is asked."""

Advance = Callable[[Tensor], Tensor]
"""From the gradient noise of a step to the positions after it, [chains, modes]."""
Make = Callable[[Setting], Advance]


def measured(advance: Advance, steps: int = STEPS) -> Estimate:
    """The temperature of a sampler's positions, N h Φ², over modes and the later half
    of the steps."""
    generator, total = torch.Generator().manual_seed(1), torch.zeros(CHAINS, dtype=torch.float64)
    for step in range(steps):
        noise = torch.randn(CHAINS, MODES, generator=generator, dtype=torch.float64)
        position = advance(noise)
        if step >= steps // 2:
            total += (N * CURVATURES * position**2).mean(1)
    if not total.max() < 1e6 * steps:
        raise ArithmeticError(f"its positions diverge: {total.max().item():.3g}")
    return mean((total / (steps - steps // 2)).numpy(), batches=CHAINS)


def of_optimizer(
    make: Callable[[nn.Parameter], torch.optim.Optimizer], setting: Setting
) -> Advance:
    """What takes ĝ from `.grad`."""
    position = nn.Parameter(setting.start())
    optimizer = make(position)

    def advance(drawn: Tensor) -> Tensor:
        position.grad = setting.gradient(position.detach(), drawn)
        optimizer.step()
        return position.detach()

    return advance


def ours(kind: type[Sampler], setting: Setting, **settings: Any) -> Advance:
    """One of our samplers. Each mode, in all chains, is a group that is held."""
    modes = [nn.Parameter(mode.clone()) for mode in setting.start().T]
    given = {"lr": setting.rate, "examples": N, "temperature": setting.temperature, **settings}
    sampler = kind([{"params": [mode]} for mode in modes], **given)

    def advance(drawn: Tensor) -> Tensor:
        gradients = setting.gradient(torch.stack(modes, dim=1).detach(), drawn)
        for mode, gradient in zip(modes, gradients.T, strict=True):
            mode.grad = gradient.contiguous()
        sampler.step()
        return torch.stack(modes, dim=1).detach()

    return advance


def posteriors(name: str, setting: Setting) -> Advance:
    """Its `lr` is η/N for SGLD, and the step √(η/N) of the dynamics, with a friction in its units,
    for the others."""
    pace = math.sqrt(setting.rate / N)
    settings: dict[str, Any] = {
        "sgld": {"lr": setting.rate / N},
        "sghmc": {"lr": pace, "alpha": (1 - KEPT) / pace},
        "baoa": {"lr": pace, "alpha": -math.log(KEPT) / pace},
        "sgnht": {"lr": pace, "alpha": (1 - KEPT) / pace},
    }[name]

    def log_posterior(params: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor]:
        losses = CURVATURES * params**2 / 2 + math.sqrt(setting.noise) * drawn * params
        return -N * losses.sum(), torch.tensor([])

    if name != "sgld":
        settings["momenta"] = 0.0
    library = import_module(f"posteriors.sgmcmc.{name}")
    transform = library.build(log_posterior, temperature=setting.temperature, **settings)
    states = [transform.init(setting.start())]

    def advance(drawn: Tensor) -> Tensor:
        states[0], _ = transform.update(states[0], drawn)
        position: Tensor = states[0].params
        return position

    return advance


def blackjax(name: str, setting: Setting) -> Advance:
    """Its `step_size` is η/N for SGLD, √(η/N) for the others; a step of SGHMC draws a momentum and
    makes 10 leaps."""
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", True)
    library, pace = import_module("blackjax.sgmcmc"), math.sqrt(setting.rate / N)
    curvatures = jax.numpy.asarray(CURVATURES.numpy())

    def log_density_gradient(position: Any, drawn: Any) -> Any:
        return -N * setting.gradient(position, drawn, curvatures)

    settings: dict[str, Any] = {} if name == "sgld" else {"alpha": (1 - KEPT) / pace}
    if name == "sghmc":
        settings["num_integration_steps"] = LEAPS
    kernel = getattr(library, name).as_top_level_api(log_density_gradient, **settings)
    step = jax.jit(
        partial(
            kernel.step,
            step_size=setting.rate / N if name == "sgld" else pace,
            temperature=setting.temperature,
        )
    )
    keys = [jax.random.key(0)]
    states = [kernel.init(jax.numpy.asarray(setting.start().numpy()), jax.random.key(1))]

    def advance(drawn: Tensor) -> Tensor:
        keys[0], key = jax.random.split(keys[0])
        states[0] = step(key, states[0], jax.numpy.asarray(drawn.numpy()))
        position = states[0].position if name == "sgnht" else states[0]
        return torch.from_numpy(jax.device_get(position).copy())

    return advance


def torch_uncertainty(name: str, setting: Setting, *, factor: float | None = None) -> Advance:
    """It has no temperature: noise of T = 1 in units of the mean loss times its `noise_factor`,
    0.01 as it comes.

    Where `factor` is None it is √(T/N), which asks for T. SGHMC's step is lr², and `friction` the
    share of momentum lost; without its burn-in, whose estimate of the gradient's size would be a
    rate of its own for every number.
    """
    library = import_module("torch_uncertainty.optim")
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "noise_factor": math.sqrt(setting.temperature / N) if factor is None else factor
    }
    if name == "SGHMC":
        settings |= {"lr": math.sqrt(setting.rate), "friction": 1 - KEPT, "burn_in_steps": 0}
    else:
        settings["lr"] = setting.rate
    return of_optimizer(lambda position: getattr(library, name)([position], **settings), setting)


def contestants() -> dict[str, tuple[Make, bool]]:
    """Who is asked, and whether it has momentum."""
    found: dict[str, tuple[Make, bool]] = {}
    for kind in (SGLD, SGHMC, SGNHT):
        found[kind.__name__] = partial(ours, kind), kind is not SGLD
        found[f"{kind.__name__}, as published"] = partial(ours, kind, hold=False), kind is not SGLD
    for name in ("sgld", "sghmc", "baoa", "sgnht"):
        found[f"posteriors {name}"] = partial(posteriors, name), name != "sgld"
    for name in ("sgld", "sghmc", "sgnht"):
        found[f"blackjax {name}"] = partial(blackjax, name), name != "sgld"
    for name in ("SGLD", "SGHMC"):
        found[f"torch-uncertainty {name}, noise_factor √(T/N)"] = (
            partial(torch_uncertainty, name),
            name != "SGLD",
        )
        as_it_comes = partial(torch_uncertainty, name, factor=0.01)
        found[f"torch-uncertainty {name}, noise_factor 0.01"] = as_it_comes, name != "SGLD"
    return found


def temperatures(reasons: dict[str, str]) -> Iterator[tuple[str, str, Estimate]]:
    """What was asked, of whom, and the temperature measured; into `reasons` goes who could not be
    run, and why."""
    for setting in SETTINGS:
        for who, (make, momentum) in contestants().items():
            asked = Setting(
                setting.rate, setting.temperature, setting.noise / 5 if momentum else setting.noise
            )
            try:
                found = measured(make(asked))
            except ImportError as error:
                reasons[who] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            except Exception as error:  # another's code, of any age: whatever it does is its answer
                reasons[f"{who}, {setting}"] = (
                    f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
                )
            else:
                yield str(setting), who, found
    reasons["blackjax csgld"] = (
        "draws from a flattened density, which has no one temperature before its draws are "
        "weighted; at zeta = 0 it is its sgld"
    )
