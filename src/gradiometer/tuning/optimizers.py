"""The optimizers of a tuning: how each is made at a rate and written down, and the combinations
that race."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop import Alternative, Custom, Using
from gradiometer.measurement.optimizer.steps import Clipping, schedule_free_class
from gradiometer.problems.user_code import user_code
from gradiometer.run.configuration import OPTIMIZERS
from gradiometer.train.training import optimizer_of

# Makes an optimizer: called as `make(parameters, learning_rate)`.
MakeOptimizer = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]

SCHEDULE_FREE = "schedulefree"
NAMES = tuple(OPTIMIZERS)


@dataclass(frozen=True)
class Made:
    """The optimizer of a name or a function, at any rate. It can be pickled if the function can.

    Args:
        optimizer: "sgd", "adamw", "schedulefree", or a function of (parameters, learning_rate) that
            returns an optimizer.
        momentum: Momentum of SGD.
        nesterov: True for Nesterov momentum.
        weight_decay: Weight decay, as the optimizer defines it.
        clip: The norm that gradients are clipped to; None: they are not clipped.

    Raises:
        BadArgument: An argument cannot be used.
    """

    optimizer: str | MakeOptimizer
    momentum: Amount
    nesterov: bool
    weight_decay: Amount
    clip: float | None = None

    def __post_init__(self) -> None:
        if not (callable(self.optimizer) or self.optimizer in NAMES):
            raise BadArgument(
                f"`optimizer` must be one of {', '.join(map(repr, NAMES))}, or a function of "
                f"(parameters, learning_rate), got {self.optimizer!r}."
            )
        if self.is_schedule_free:
            schedule_free_class()
        check_number("momentum", self.momentum)
        if not self.momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {self.momentum}.")
        check_number("weight_decay", self.weight_decay)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the optimizer by name."""
        if self.optimizer != "sgd":
            return {"weight_decay": self.weight_decay}
        return {
            "momentum": self.momentum,
            "nesterov": self.nesterov and self.momentum > 0,
            "weight_decay": self.weight_decay,
        }

    @property
    def name(self) -> str:
        """ "sgd", "adamw", or "own"."""
        return self.optimizer if isinstance(self.optimizer, str) else "own"

    @property
    def is_schedule_free(self) -> bool:
        """True if its rate stays constant, because it averages its iterates."""
        return self.optimizer == SCHEDULE_FREE

    @property
    def _class(self) -> Any:
        if self.is_schedule_free:
            return schedule_free_class()
        return getattr(torch.optim, OPTIMIZERS[self.name].class_name)

    @property
    def words(self) -> str:
        """The optimizer in a few words, without its rate."""
        if not isinstance(self.optimizer, str):
            return self._function
        mu, decay = self.settings.get("momentum"), self.settings["weight_decay"]
        kind = "Nesterov momentum" if self.settings.get("nesterov") else "momentum"
        parts = [
            f"{word} {value:g}" for word, value in ((kind, mu), ("weight decay", decay)) if value
        ]
        return f"{self._class.__name__}{' with ' if parts else ''}{' and '.join(parts)}"

    def alternative(self, rate: float) -> Alternative:
        """The optimizer at a rate, as an alternative of a fork."""
        if isinstance(self.optimizer, str):
            return Using(self._class, lr=float(f"{rate:.3g}"), **self._settings)
        return Custom.stored(f"{self._function} at {rate:.3g}")

    def __call__(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """The optimizer at a rate.

        Raises:
            BadArgument: The function returned something else.
        """
        made: Any
        if isinstance(self.optimizer, str):
            made = optimizer_of(self.optimizer, parameters, rate, **self.settings)
        else:
            with user_code("optimizer"):
                made = self.optimizer(parameters, rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise BadArgument(
                f"`optimizer` returned a {type(made).__name__}: return a torch.optim.Optimizer."
            )
        if self.clip is not None:
            made.register_step_pre_hook(Clipping(self.clip, adds_to_norm=False))
        return made

    def line(self, rate: float) -> str:
        """The optimizer at a rate as a line of Python."""
        if not isinstance(self.optimizer, str):
            return f"optimizer = {self._function}(model.parameters(), {rate:.3g})"
        given = [f"{key}={value}" for key, value in self._settings.items()]
        settings = ", ".join(["model.parameters()", f"lr={rate:.3g}", *given])
        if self.is_schedule_free:
            end = "optimizer.train()  # and optimizer.eval() before the model is evaluated or saved"
            return f"optimizer = schedulefree.SGDScheduleFree({settings})\n{end}"
        return f"optimizer = torch.optim.{self._class.__name__}({settings})"

    @property
    def _function(self) -> str:
        """The name of the function, or `make_optimizer` if it has none."""
        name = getattr(self.optimizer, "__name__", "<lambda>")
        return "make_optimizer" if name == "<lambda>" else str(name)

    @property
    def _settings(self) -> Mapping[str, Any]:
        """The settings that are not the defaults of the optimizer's class."""
        parameters = inspect.signature(self._class).parameters
        return {
            key: value for key, value in self.settings.items() if value != parameters[key].default
        }


# One optimizer or several: names, also in one text with commas, or functions of (parameters,
# learning_rate).
Optimizers = str | MakeOptimizer | Sequence[str | MakeOptimizer]

# One number or several.
Amounts = Amount | Sequence[Amount]


def variants(
    optimizer: Optimizers, momentum: Amounts, nesterov: bool, weight_decay: Amounts
) -> tuple[Made, ...]:
    """The combinations. Momentum belongs to SGD, so that another optimizer is not repeated for its
    values.

    Args:
        optimizer: One optimizer or several.
        momentum: One momentum of SGD or several.
        nesterov: True for Nesterov momentum.
        weight_decay: One weight decay or several.

    Raises:
        BadArgument: A value cannot be used, or is given twice.

    >>> [made.words for made in variants("sgd,adamw", (0, 0.9), True, 0)]
    ['SGD', 'SGD with Nesterov momentum 0.9', 'AdamW']
    """
    names = several_of(
        "optimizer", optimizer.split(",") if isinstance(optimizer, str) else optimizer
    )
    names = [name.strip() if isinstance(name, str) else name for name in names]
    momenta, decays = several_of("momentum", momentum), several_of("weight_decay", weight_decay)
    if len(momenta) > 1 and "sgd" not in names:
        raise BadArgument(
            "`momentum` has several values, but it is a setting of SGD, which is not among "
            "`optimizer`."
        )
    if len(decays) > 1 and any(callable(name) for name in names):
        raise BadArgument(
            "`weight_decay` has several values, but a function in `optimizer` sets its own: give "
            "one."
        )
    made = [
        Made(name, mu, nesterov, decay)
        for name in names
        for mu in (momenta if name == "sgd" else momenta[:1])
        for decay in decays
    ]
    words = [one.words for one in made]
    twice = [one for place, one in enumerate(words) if one in words[:place]]
    if twice:
        raise BadArgument(
            f"`optimizer` has two functions with the name {twice[0]!r}: give them different names "
            "with `def`."
        )
    return tuple(made)


def several_of(name: str, given: Any) -> list[Any]:
    """The values, each given once."""
    found = list(given) if isinstance(given, list | tuple) else [given]
    if not found:
        raise BadArgument(f"`{name}` must be one value or several, got none.")
    # tensors have no single truth value; what is no number is refused where it is used
    plain = [one for one in found if isinstance(one, int | float | str)]
    twice = [one for place, one in enumerate(plain) if one in plain[:place]]
    if twice:
        raise BadArgument(f"`{name}` has {twice[0]!r} twice: leave one of them out.")
    return found
