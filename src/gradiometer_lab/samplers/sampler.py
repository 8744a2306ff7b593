"""The base of all samplers: an optimizer that keeps a temperature, in posterior units, and the
Gaussian noise that it injects."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradiometer.arguments import check_number, check_whole
from gradiometer.errors import BadArgument
from gradiometer.measurement.estimate import Estimate, significant
from gradiometer.measurement.gradient_graph import flat, unflat
from gradiometer_lab.samplers.heat import ROOM, TOLERANCE, Balance, GroupHeat


class Noise:
    """Standard normal numbers in the shapes of parameters, from one generator per device.

    Args:
        seed: Seed of the generators.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, torch.Generator] = {}
        self._buffers: dict[int, tuple[list[Tensor], Tensor, list[Tensor]]] = {}

    def draw(self, params: Sequence[Tensor], place: int) -> list[Tensor]:
        """New numbers, one tensor per parameter. The next draw at this place overwrites them.

        Args:
            params: Parameters of one device and dtype.
            place: Index of this list of parameters.
        """
        # One buffer is kept with its views: with new ones a step of a small network takes 1.4 times
        # as long.
        drawn_for, numbers, views = self._buffers.get(place, ([], torch.empty(0), []))
        if len(drawn_for) != len(params) or not all(map(is_, params, drawn_for)):
            first = params[0]
            sizes = [param.numel() for param in params]
            numbers = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
            pieces = zip(numbers.split(sizes), params, strict=True)
            views = [piece.view(param.shape) for piece, param in pieces]
            self._buffers[place] = list(params), numbers, views
        numbers.normal_(generator=self._generator(params[0].device))
        return views

    def state_dict(self) -> dict[str, Tensor]:
        """The state of every generator, by device."""
        return {device: generator.get_state() for device, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the generators of another `state_dict`."""
        for device, value in state.items():
            self._generator(torch.device(device)).set_state(value.cpu())

    def _generator(self, device: torch.device) -> torch.Generator:
        name = str(device)
        if name not in self._generators:
            self._generators[name] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[name]


class Sampler(torch.optim.Optimizer, ABC):
    """An optimizer whose iterates, at a constant learning rate, are draws from exp(−U(Φ)/T).

    U(Φ) = N·(mean loss + (λ/2)‖Φ‖²). As with SGD, `.grad` holds the gradient of the *mean* loss and
    the learning rate is SGD's. If the loss is −log p(y | x, Φ), T = 1 is the posterior, with a
    Gaussian prior of precision Nλ. Parameters without a gradient do not move. The noise comes from
    the sampler's own generator. `state_dict` contains the state of this generator and the record of
    the heat.

    **Keeping the temperature.** Finite steps and mini-batch noise heat the parameters. At
    stationarity the configurational temperature E[(Φ − c)·∇U]/d, for any fixed c, is *exactly* the
    injected temperature plus `own`, a mean of squared norms observed at every step (each sampler
    documents it, with the identity behind it). With `hold`, T − own is injected. This needs no half
    batches, and the running mean of `own` is linear in its readings, so the identity survives the
    averaging.

    **By direction.** The same balance holds along every direction. SGLD and SGHMC hold every
    direction of a group with
    up to 64 parameters: they inject noise of covariance T − own, with the matrix of the own heat.
    In a larger group, and in any group of SGNHT, the mean over the group is held. If noise is not
    isotropic, some directions are then hotter than others. The first `burn_in` steps search the
    direction of the largest gradients, and the heat along it is then measured. If it is above 90 %
    of T in a small group, or leaves this direction more than 5 % above T in a
    large one, a `BadArgument` states the step that would do: the heat of SGD itself is proportional
    to the step, and no direction of a group whose mean is held is colder than T minus the mean
    heat.

    **When T is too low.** If `own` alone exceeds T over `memory` steps, after `burn_in`, and is not
    falling, no noise can help, and a `BadArgument` states the heat and what to change. Calls of
    `halves` with the gradients of two half batches measure the share of mini-batch noise, which
    alone can raise the same error.

    At temperature 0 no noise is injected: plain SGD.
    """

    # The default of `momentum`.
    momentum: ClassVar[float] = 0.9

    # Defaults of settings that other samplers do not have.
    _own: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float | None = None,
        examples: int | None = None,
        temperature: float = 1.0,
        weight_decay: float = 0.0,
        hold: bool = True,
        burn_in: int = 1000,
        memory: int = 1000,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        """Make a sampler. All settings but `seed` can be set for each parameter group.

        Args:
            params: Parameters, or parameter groups.
            lr: η, of the gradient of the mean loss.
            momentum: μ. Default: 0 for SGLD, which has none, and 0.9 for SGHMC and SGNHT.
            examples: N, the number of training examples. Required.
            temperature: T in posterior units; 0 for no noise.
            weight_decay: λ of a Gaussian prior of precision Nλ.
            hold: Inject T minus the own heat, so that the temperature is T. Otherwise inject T, as
                published.
            burn_in: Steps before the own heat can raise an error.
            memory: Steps over which the own heat is averaged.
            batch_size: B. With it, an error can suggest a batch size.
            seed: Seed of the noise.

        Raises:
            BadArgument: A setting is invalid.
        """
        # Before torch's own start, which adds the groups.
        self._heats: list[GroupHeat] = []
        self._noise = Noise(seed)
        settings = {
            "lr": lr,
            "examples": examples,
            "temperature": temperature,
            "weight_decay": weight_decay,
            "momentum": self.momentum if momentum is None else momentum,
            "hold": hold,
            "burn_in": burn_in,
            "memory": memory,
            "batch_size": batch_size,
        }
        super().__init__(params, {**settings, **self._own})

    @abstractmethod
    def _move(self, place: int, params: list[Tensor], gradients: list[Tensor]) -> None:
        """One step of one group."""

    @abstractmethod
    def _minibatch_scale(self, group: dict[str, Any]) -> float:
        """The mini-batch heat in units of N tr Σ/(Bd), in the limit of small steps, a
        lower bound."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step from the gradients in `.grad`.

        Args:
            closure: Computes the gradients and returns the loss, as with torch's optimizers.

        Raises:
            BadArgument: SGD alone is hotter than the temperature asked for.
            Diverged: The gradients are not finite.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.advance()
        return loss

    @torch.no_grad()
    def advance(self) -> None:
        """`step` without a closure, hooks and profiling: in torch those take as long as a small
        step."""
        for place, group in enumerate(self.param_groups):
            params = [param for param in group["params"] if param.grad is not None]
            if not params:
                continue
            # A schedule may have set them.
            check_number("lr", group["lr"])
            check_number("temperature", group["temperature"])
            gradients = [param.grad for param in params if param.grad is not None]
            if group["weight_decay"]:
                # The prior's gradient is added to that of the mean loss.
                gradients = list(torch._foreach_add(gradients, params, alpha=group["weight_decay"]))
            self._move(place, params, gradients)

    @torch.no_grad()
    def halves(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Record the gradients of two halves of one batch, in the order of the parameters.
        Optional, at any step.

        ‖ĝ₁ − ĝ₂‖²/4 is an unbiased estimate of tr Σ/B. From 50 pairs on, mini-batch noise can raise
        an error.

        Raises:
            BadArgument: Mini-batch noise alone is hotter than the temperature asked for.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        if not len(first) == len(second) == len(params):
            raise BadArgument(
                f"`first` and `second` must contain a gradient for each of the {len(params)} "
                f"parameters, got {len(first)} and {len(second)}."
            )
        differences = iter(torch._foreach_sub(list(first), list(second)))
        for place, group in enumerate(self.param_groups):
            difference = flat([next(differences) for _ in group["params"]])
            halves = self._heats[place].halves
            asked = group["temperature"]
            reading = group["examples"] * float(difference @ difference) / (4 * len(difference))
            judge = halves.add(reading, self._minibatch_scale(group))
            if judge and group["hold"] and asked > 0 and halves.above(asked):
                self._refuse(place, halves.estimate(), "mini-batch noise alone")

    @property
    def balance(self) -> list[Balance]:
        """The heat of every parameter group now."""
        return [
            heat.balance(group["temperature"], group["injected"])
            for group, heat in zip(self.param_groups, self._heats, strict=True)
        ]

    @property
    def hottest_directions(self) -> list[Tensor]:
        """For every parameter group the direction of the largest gradients, flat; empty before the
        first step."""
        return [heat.hottest.direction for heat in self._heats]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with their own settings. Raises `BadArgument` if a setting is invalid."""
        if isinstance(param_group, dict):
            self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        kinds = {(param.device, param.dtype) for param in group["params"]}
        if len(kinds) > 1:
            # Torch has added the group by now, and a refusal must leave none behind.
            self.param_groups.pop()
            raise BadArgument(
                "`params` of a group must have one device and dtype, got "
                f"{sorted(map(str, kinds))}: make one group for each."
            )
        group["injected"] = group["temperature"]
        self._heats.append(GroupHeat(group["burn_in"], group["memory"]))

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer, of the noise and of the recorded heat."""
        return {
            **super().state_dict(),
            "noise": self._noise.state_dict(),
            "heat": [heat.state_dict() for heat in self._heats],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the state of another sampler, with bit-identical results."""
        missing = [key for key in ("noise", "heat") if key not in state_dict]
        if missing:
            raise BadArgument(
                f"`state_dict` has no {missing[0]!r}: it is not the state of {type(self).__name__}."
            )
        super().load_state_dict(
            {key: value for key, value in state_dict.items() if key not in ("noise", "heat")}
        )
        self._noise.load_state_dict(state_dict["noise"])
        # Copies, so that two samplers can go on from one state.
        self._heats = [GroupHeat.of(each) for each in copy.deepcopy(state_dict["heat"])]

    def _buffers(self, params: list[Tensor], name: str) -> list[Tensor]:
        """A tensor for every parameter, zero at the start."""
        for param in params:
            if param not in self.state:
                self.state[param][name] = torch.zeros_like(param)
        return [self.state[param][name] for param in params]

    def _thermal_noise(
        self,
        place: int,
        params: list[Tensor],
        gradients: list[Tensor],
        old: Tensor,
        new: Tensor,
        scale: float,
        patience: int = 0,
    ) -> tuple[list[Tensor], float]:
        """Noise and its factor, whose covariance is the temperature to inject; empty if there is
        none.

        Args:
            place: Index of the group.
            params, gradients: Its parameters, and their gradients.
            old, new: The own heat along a unit vector v is N scale ((v·new)² − (v·old)²).
            scale: What converts a reading of the heat into a temperature.
            patience: Readings of the heat by direction before a small group is held by it.
        """
        group, own = self.param_groups[place], self._heats[place]
        examples = group["examples"]
        temperature: float = group["temperature"]
        # Judged when a block is full: a test at every step would soon find one by chance.
        judge = own.mean.add(examples * float(new @ new - old @ old) / len(new), scale)
        injected = temperature
        if group["hold"]:
            injected = max(temperature - own.mean.temperature, 0.0)
            judge = judge and own.mean.readings > group["burn_in"]
        group["injected"] = injected
        if judge and group["hold"] and own.mean.above(temperature):
            self._refuse(
                place, own.mean.estimate(), "SGD itself (mini-batch noise and finite steps)"
            )
        # A group of so few parameters is held in every direction.
        small = group["hold"] and len(new) <= 64
        if small:
            own.matrix.add(examples * (torch.outer(new, new) - torch.outer(old, old)))
        by_direction = small and own.matrix.readings > patience
        if not own.hottest.found:
            own.hottest.look(flat(gradients))
        elif by_direction or not small:
            along = examples * (own.hottest.along(new) - own.hottest.along(old))
            if small:
                words = f", above {ROOM:.0%} of the temperature, which leaves no room for noise"
                self._judge_hottest(place, along, 0.0, ROOM * temperature, words, scale)
            else:
                # The mean over a large group is subtracted from all directions alike: one without
                # heat of its own is below T by this mean.
                mean = own.mean.temperature
                limit = TOLERANCE * temperature
                self._judge_hottest(place, along, mean, limit, too_hot(mean), scale, cold=mean)
        if not (by_direction or injected > 0):
            return [], 0.0
        noise = self._noise.draw(params, place)
        if not by_direction:
            return noise, math.sqrt(injected)
        return unflat(own.matrix.colored_noise(flat(noise), temperature, scale), params), 1.0

    def _judge_hottest(
        self,
        place: int,
        reading: float,
        mean: float,
        limit: float,
        words: str,
        scale: float = 1.0,
        *,
        cold: float = 0.0,
    ) -> None:
        """Add a reading of the heat along the hottest direction. Raises if that is above the mean
        by more than a limit.

        Args:
            place: Index of the group.
            reading: Heat along the direction, divided by `scale`.
            mean: What is subtracted from all directions alike.
            limit: Largest difference.
            words: What follows from a larger one.
            scale: See `reading`.
            cold: By how much other directions may be below the temperature.
        """
        group, heat = self.param_groups[place], self._heats[place].hottest.heat
        judge, temperature = heat.add(reading, scale), group["temperature"]
        if not (judge and group["hold"] and temperature > 0 and heat.above(mean + limit)):
            return
        found = heat.estimate()
        raise BadArgument(
            f"`temperature` {temperature:g} is too low for `lr` {group['lr']:g}: along the hottest "
            f"direction SGD itself heats to {found}{words}. "
            f"{self._way_out(place, limit / max(found.high - mean, cold))} With hold=False a "
            "sampler runs anyway."
        )

    def _cold(self, place: int) -> bool:
        """True at temperature 0; the recorded heat is then reset."""
        group = self.param_groups[place]
        if group["temperature"] > 0:
            return False
        group["injected"] = 0.0
        self._heats[place].clear()
        return True

    def _refuse(self, place: int, heat: Estimate, source: str) -> None:
        group = self.param_groups[place]
        raise BadArgument(
            f"`temperature` {group['temperature']:g} is too low for `lr` {group['lr']:g}: {source} "
            f"heats to {heat}, and a sampler can only add noise. "
            f"{self._way_out(place, group['temperature'] / heat.value)} With hold=False a sampler "
            "runs anyway, hotter than `temperature`."
        )

    def _way_out(self, place: int, share: float) -> str:
        """What would do, given a share of the learning rate that would do for what was judged."""
        group = self.param_groups[place]
        # What was judged need not be all that is too hot.
        share = min(share, self._heats[place].room(group["temperature"], self._cold_by(place)))
        batch = f"a batch at least {significant(1 / share)} times as large"
        if group["batch_size"] is not None:
            batch = f"a batch of at least {math.ceil(group['batch_size'] / share):,}"
        return (
            f"Use `lr` below {significant(group['lr'] * share)}, {batch}, or a higher temperature."
        )

    def _cold_by(self, place: int) -> float:
        """By how much a direction without heat of its own is below T if the mean of the group is
        held."""
        return self._heats[place].mean.temperature

    def _check(self, group: dict[str, Any]) -> None:
        """Validate the settings of a group."""
        # Torch's schedulers add the first rate to a group.
        known = {*self.defaults, "initial_lr", "params", "injected"}
        unknown = [name for name in group if name not in known]
        if unknown:
            settings = ", ".join(sorted(self.defaults))
            raise BadArgument(
                f"`{unknown[0]}` is not a setting of {type(self).__name__}, which has {settings}."
            )
        if group["examples"] is None:
            raise BadArgument(
                "`examples` is missing: T in posterior units needs N, because U = N × the mean "
                "loss."
            )
        check_whole("examples", group["examples"], 1)
        check_whole("burn_in", group["burn_in"], 0)
        check_whole("memory", group["memory"], 10)
        if group["batch_size"] is not None:
            check_whole("batch_size", group["batch_size"], 1)
        check_number("lr", group["lr"], positive=True)
        for name in ("temperature", "weight_decay", "momentum"):
            check_number(name, group[name])
        if not group["momentum"] < 1:
            raise BadArgument(f"`momentum` must lie in [0, 1), got {group['momentum']}.")


def too_hot(mean: float) -> str:
    """What follows from a heat along the hottest direction that is too far above the mean."""
    return (
        f", {significant(mean)} in the mean over the group, so this direction is more than "
        f"{TOLERANCE:.0%} above the temperature"
    )


def squared_norm(tensors: Sequence[Tensor]) -> float:
    """‖·‖² over all of them."""
    norms = torch.stack(torch._foreach_norm(list(tensors)))
    return float(norms @ norms)
