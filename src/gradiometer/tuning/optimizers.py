"""The optimizer of a tuning: how it is made at a rate, and how it is written down."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_number
from gradiometer.convergence.formulas.number import Amount
from gradiometer.errors import BadArgument
from gradiometer.loop.changes.alternative import Alternative
from gradiometer.loop.changes.replacements import Custom, Using
from gradiometer.measurement.optimizer.averaged import schedule_free, schedule_free_class
from gradiometer.measurement.optimizer.clipping import Clipping
from gradiometer.problems.user_code import user_code

# Makes an optimizer: called as `make(parameters, learning_rate)`.
MakeOptimizer = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]

SCHEDULE_FREE = "schedulefree"
# The optimizers of torch that have a name.
CLASSES: Mapping[str, Any] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
NAMES = (*CLASSES, SCHEDULE_FREE)


class Made:
    """The optimizer of a name or a function, at any rate. It can be pickled if the function can.

    Args:
        optimizer: "sgd", "adamw", "schedulefree", or a function of (parameters, learning_rate) that
            returns an optimizer.
        momentum: Momentum of SGD.
        nesterov: True for Nesterov momentum.
        weight_decay: Weight decay, as the optimizer defines it.

    Raises:
        BadArgument: An argument cannot be used.
    """

    def __init__(
        self, optimizer: str | MakeOptimizer, momentum: Amount, nesterov: bool, weight_decay: Amount
    ) -> None:
        if not (callable(optimizer) or optimizer in NAMES):
            raise BadArgument(
                f"`optimizer` must be one of {', '.join(map(repr, NAMES))}, or a function of "
                f"(parameters, learning_rate), got {optimizer!r}."
            )
        if optimizer == SCHEDULE_FREE:
            schedule_free_class()
        check_number("momentum", momentum)
        if not momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {momentum}.")
        check_number("weight_decay", weight_decay)
        self._optimizer = optimizer
        self.clip: float | None = None
        self.settings: Mapping[str, Any] = {"weight_decay": weight_decay}
        if optimizer == "sgd":
            self.settings = {
                "momentum": momentum,
                "nesterov": nesterov and momentum > 0,
                **self.settings,
            }

    def with_clipping(self, norm: float) -> "Made":
        """The same with gradients clipped to this norm."""
        made = copy.copy(self)
        made.clip = norm
        return made

    @property
    def name(self) -> str:
        """ "sgd", "adamw", or "own"."""
        return self._optimizer if isinstance(self._optimizer, str) else "own"

    @property
    def is_schedule_free(self) -> bool:
        """True if its rate stays constant, because it averages its iterates."""
        return self._optimizer == SCHEDULE_FREE

    @property
    def _class(self) -> Any:
        return schedule_free_class() if self.is_schedule_free else CLASSES[self.name]

    @property
    def words(self) -> str:
        """The optimizer in a few words, without its rate."""
        if not isinstance(self._optimizer, str):
            return self._function
        mu, decay = self.settings.get("momentum"), self.settings["weight_decay"]
        kind = "Nesterov momentum" if self.settings.get("nesterov") else "momentum"
        parts = [
            f"{word} {value:g}" for word, value in ((kind, mu), ("weight decay", decay)) if value
        ]
        return f"{self._class.__name__}{' with ' if parts else ''}{' and '.join(parts)}"

    def alternative(self, rate: float) -> Alternative:
        """The optimizer at a rate, as an alternative of a fork."""
        if isinstance(self._optimizer, str):
            return Using(self._class, lr=float(f"{rate:.3g}"), **self._given)
        return Custom.stored(f"{self._function} at {rate:.3g}")

    def __call__(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """The optimizer at a rate.

        Raises:
            BadArgument: The function returned something else.
        """
        made = self._plain(parameters, rate)
        if self.clip is not None:
            made.register_step_pre_hook(Clipping(self.clip))
        return made

    def _plain(self, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        if self.is_schedule_free:
            return schedule_free(parameters, rate, float(self.settings["weight_decay"]))
        if isinstance(self._optimizer, str):
            of_torch: torch.optim.Optimizer = CLASSES[self._optimizer](
                parameters, lr=rate, **self.settings
            )
            return of_torch
        with user_code("optimizer"):
            made: Any = self._optimizer(parameters, rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise BadArgument(
                f"`optimizer` returned a {type(made).__name__}: return a torch.optim.Optimizer."
            )
        return made

    def line(self, rate: float) -> str:
        """The optimizer at a rate as a line of Python."""
        if not isinstance(self._optimizer, str):
            return f"optimizer = {self._function}(model.parameters(), {rate:.3g})"
        given = [f"{key}={value}" for key, value in self._given.items()]
        settings = ", ".join(["model.parameters()", f"lr={rate:.3g}", *given])
        if self.is_schedule_free:
            end = "optimizer.train()  # and optimizer.eval() before the model is evaluated or saved"
            return f"optimizer = schedulefree.SGDScheduleFree({settings})\n{end}"
        return f"optimizer = torch.optim.{self._class.__name__}({settings})"

    @property
    def _function(self) -> str:
        """The name of the function, or `make_optimizer` if it has none."""
        name = getattr(self._optimizer, "__name__", "<lambda>")
        return "make_optimizer" if name == "<lambda>" else str(name)

    @property
    def _given(self) -> Mapping[str, Any]:
        """The settings that are not the defaults of the optimizer's class."""
        parameters = inspect.signature(self._class).parameters
        return {
            key: value for key, value in self.settings.items() if value != parameters[key].default
        }
