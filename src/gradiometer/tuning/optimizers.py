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
from gradiometer.measurement.optimizer.clipping import Clipping
from gradiometer.problems.user_code import user_code

MakeOptimizer = Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]
"""Makes an optimizer: called as `make(parameters, learning_rate)`."""

NAMES = ("sgd", "adamw")


class Made:
    """The optimizer of a name or a function, at any rate. It can be pickled if the function can.

    Args:
        optimizer: "sgd", "adamw", or a function of (parameters, learning_rate) that returns an optimizer.
        momentum: Momentum of SGD.
        nesterov: True for Nesterov momentum.
        weight_decay: Weight decay, as the optimizer defines it.

    Raises:
        BadArgument: An argument cannot be used.
    """

    def __init__(self, optimizer: str | MakeOptimizer, momentum: Amount, nesterov: bool, weight_decay: Amount) -> None:
        if not (callable(optimizer) or optimizer in NAMES):
            raise BadArgument(
                f"`optimizer` must be 'sgd', 'adamw' or a function of (parameters, learning_rate), got {optimizer!r}."
            )
        check_number("momentum", momentum)
        if not momentum < 1:
            raise BadArgument(f"`momentum` must be at least 0 and below 1, got {momentum}.")
        check_number("weight_decay", weight_decay)
        self._optimizer = optimizer
        self.clip: float | None = None
        self.settings: Mapping[str, Any] = {"weight_decay": weight_decay}
        if optimizer == "sgd":
            self.settings = {"momentum": momentum, "nesterov": nesterov and momentum > 0, **self.settings}

    def clipped(self, norm: float) -> "Made":
        """The same with gradients clipped to this norm."""
        made = copy.copy(self)
        made.clip = norm
        return made

    @property
    def name(self) -> str:
        """ "sgd", "adamw", or "own"."""
        return self._optimizer if isinstance(self._optimizer, str) else "own"

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
        if self._optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=rate, **self.settings)
        if self._optimizer == "adamw":
            return torch.optim.AdamW(parameters, lr=rate, **self.settings)
        assert callable(self._optimizer)
        with user_code("optimizer"):
            made: Any = self._optimizer(parameters, rate)
        if not isinstance(made, torch.optim.Optimizer):
            raise BadArgument(f"`optimizer` returned a {type(made).__name__}: return a torch.optim.Optimizer.")
        return made

    def line(self, rate: float) -> str:
        """The optimizer at a rate as a line of Python."""
        if not isinstance(self._optimizer, str):
            name = getattr(self._optimizer, "__name__", "make_optimizer")
            return f"optimizer = {'make_optimizer' if name == '<lambda>' else name}(model.parameters(), {rate:.3g})"
        kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[self._optimizer]
        usual = {key: value.default for key, value in inspect.signature(kind).parameters.items()}
        given = [f"{key}={value}" for key, value in self.settings.items() if value != usual[key]]
        return f"optimizer = torch.optim.{kind.__name__}({', '.join(['model.parameters()', f'lr={rate:.3g}', *given])})"
