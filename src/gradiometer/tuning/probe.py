"""`Probe` and `bracket`: between which rates the best one lies, from a few updates at any scale of inputs and loss."""

import copy
import math
import zlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from gradiometer.arguments import check_whole
from gradiometer.errors import BadArgument, Unsupported, UserCodeFailed
from gradiometer.loop.checks import check_optimizer, check_trainable
from gradiometer.loop.loop import Loop
from gradiometer.measurement.batch import Batch, mapped
from gradiometer.measurement.estimate import significant
from gradiometer.measurement.loss import Loss, checked_loss, with_graph
from gradiometer.measurement.optimizer.wrappers import bare, bare_optimizer
from gradiometer.problems.user_code import user_code
from gradiometer.randomness import untouched_randomness

FIRST = 0.01
"""The first rate, in units of Polyak's step."""

TARGET = 0.5
"""Relative curvature that the rate is steered to; 1 would return a batch to its own height."""

GROWTH = 0.5
"""Most change of the logarithm of the rate in one update."""

RAMP = 60
"""Most updates in which the rate may grow without an answer of the curvature."""

RISE = 0.25
"""Rise of the smoothed loss above its start, in units of the start, that counts as a collapse."""

BURST = 4.0
"""A single loss this many times that of the start counts as a collapse."""

SMOOTHING = 0.7

RESOLVED = 10.0
"""The loss must be expected to fall by this many times its rounding error, if ρ is to be known to a tenth."""

BELOW, ABOVE = 32.0, 1024.0
"""How far below and above the probe's rate the best one may be; it has been found from 26 times below to 256 times
above. One gradient shows the sharpest directions, and a loss that saturates trains at rates far above its edge."""


@dataclass(frozen=True)
class Probed:
    """One update of a probe.

    Args:
        rate: The learning rate that it used.
        curvature: Relative curvature ρ along the gradient; 1 where the update returns the batch to its own height.
        loss: Mean loss of the batch before the update.
        went_back: True if the update was not made, and the probe returned to its start at half the rate.
        confirmed: True if one more forward pass compared the loss with that of the start, on the same batch.
    """

    rate: float
    curvature: float
    loss: float
    went_back: bool = False
    confirmed: bool = False


@dataclass(frozen=True)
class Bracket:
    """Rates between which the best one is expected, for a training from this state.

    It is a bracket and not an answer: from 32 times below the rate of the probe to 1,024 times above.

    Args:
        low: Lowest rate.
        high: Highest rate.
        rate: The rate at which the probe settled.
        path: The updates of the probe.

    >>> from gradiometer.tuning.probe import Bracket
    >>> print(Bracket(low=0.001, high=0.5, rate=0.02, path=()))
    between 0.00100 and 0.500, the probe settled at 0.0200
    """

    low: float
    high: float
    rate: float
    path: tuple[Probed, ...]

    @property
    def forwards(self) -> int:
        """The forward passes of the probe besides those of its updates."""
        return sum((not update.went_back) + update.confirmed for update in self.path)

    @property
    def returns(self) -> int:
        """How often the probe went back to its start."""
        return sum(update.went_back for update in self.path)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        low, high, rate = map(significant, (self.low, self.high, self.rate))
        return f"between {low} and {high}, the probe settled at {rate}"


class Probe:
    """Trains a model for a few updates and steers the rate by the curvature that each batch shows along its gradient.

    With a = η/(1 − μ), one more forward pass of the same batch gives ρ = 1 + (L(Φ − aĝ) − L(Φ))/(a‖ĝ‖²), which is
    aκ/2 for the curvature κ along ĝ. The first rate is 1 % of Polyak's step (1 − μ)L/‖ĝ‖²; every update multiplies it
    by exp(½ clip(1 − ρ/½, −1, 1)). Nothing of this depends on the scale of the inputs or of the loss.

    Guards: the rate stops growing after 60 updates without an answer of the curvature, and keeps its value where ρ is
    lost in rounding. If the loss is not finite, or the smoothed loss exceeds its start and the start has a lower loss
    on the same batch, the model goes back to its start at half the rate, which is then the highest.

    Args:
        model: The model. It is trained.
        optimizer: Its optimizer, torch.optim.SGD; its rate is set.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        seed: Seed of the model's random draws, such as Dropout's.

    Raises:
        BadArgument: `model` and `optimizer` do not fit together.
        Unsupported: The optimizer is not SGD, whose rate alone depends on the scale.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import supervised
    >>> from gradiometer.tuning.probe import Probe
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Flatten(0))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> probe = Probe(model, optimizer, supervised(nn.MSELoss(reduction="none")))
    >>> for _ in range(30):
    ...     step = probe.update((torch.ones(4, 1), torch.zeros(4)))
    >>> round(probe.bracket.rate, 2)  # ρ is half the rate times the curvature 2, and it is steered to ½
    0.5
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, *, seed: int = 0) -> None:
        self.model: nn.Module = bare(model)
        self.optimizer: torch.optim.Optimizer = bare_optimizer(optimizer)
        check_trainable(self.model)
        check_optimizer(self.model, self.optimizer)
        if not isinstance(self.optimizer, torch.optim.SGD):
            raise Unsupported(
                f"`optimizer` is {type(self.optimizer).__name__}, and the probe is for SGD: the best rates of adaptive"
                " optimizers do not depend on the scale of the loss, so that a fixed bracket serves them."
            )
        check_whole("seed", seed, 0)
        self._loss, self._seed = loss, seed
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]
        self._start = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        self._path: list[Probed] = []
        self._rate, self._ceiling = math.nan, math.inf
        self._first, self._smoothed, self._grown = math.nan, math.nan, 0

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the parameters."""
        return {parameter.device for parameter in self.model.parameters()}

    def update(self, batch: Batch) -> Probed:
        """Make one update, or go back to the start.

        Raises:
            UserCodeFailed: The loss raised, or is not finite at the start.
        """
        seed = zlib.crc32(f"{self._seed}/{len(self._path)}/probe".encode())
        with untouched_randomness(seed, self.devices):
            loss = self._backward(batch)
        slope = self._slope()
        if math.isnan(self._first):
            if not (math.isfinite(loss) and math.isfinite(slope)):
                raise UserCodeFailed(f"`loss` is {loss} before the first update: no rate can be chosen.")
            self._first = self._smoothed = loss
            momentum = float(self.optimizer.param_groups[0]["momentum"])
            self._rate = FIRST * (1 - momentum) * abs(loss) / slope if slope and loss else FIRST
        self._smoothed = SMOOTHING * self._smoothed + (1 - SMOOTHING) * loss
        finite = math.isfinite(loss) and math.isfinite(slope)
        confirmed = finite and self._looks_collapsed(loss)
        if not finite or (confirmed and self._collapsed(batch, loss, seed)):
            return self._gone_back(loss, confirmed)
        curvature = self._curvature(batch, loss, slope, seed)
        made = Probed(self._rate, curvature, loss, confirmed=confirmed)
        self._path.append(made)
        self._set(self._rate)
        self.optimizer.step()
        self._steer(curvature)
        return made

    @property
    def bracket(self) -> Bracket:
        """The bracket from the updates so far.

        Raises:
            BadArgument: There was none yet.
        """
        made = [update.rate for update in self._path if not update.went_back]
        if not made:
            raise BadArgument("`bracket` needs at least one update of the probe.")
        late = made[len(made) // 2 :]
        settled = math.exp(sum(map(math.log, late)) / len(late))
        return Bracket(settled / BELOW, ABOVE * settled, settled, tuple(self._path))

    def _backward(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with user_code("loss"):
            loss = with_graph(checked_loss(self._loss(self.model, batch), batch).mean())
            loss.backward()
        return float(loss.detach())

    def _slope(self) -> float:
        """‖ĝ‖²."""
        norms = [p.grad.double().square().sum() for p in self._parameters if p.grad is not None]
        return float(torch.stack(norms).sum())

    def _looks_collapsed(self, loss: float) -> bool:
        above = self._first + RISE * abs(self._first)
        return not (self._smoothed <= above and loss <= self._first + BURST * abs(self._first))

    def _collapsed(self, batch: Batch, loss: float, seed: int) -> bool:
        now = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self._start[0])
        start = self._forward(batch, seed)  # batches differ: this one may have a high loss at the start, too
        self.model.load_state_dict(now)
        return not loss <= start + RISE * abs(start)

    def _gone_back(self, loss: float, confirmed: bool) -> Probed:
        """Return to the start at half the rate, which is the highest from now on."""
        made = Probed(self._rate, math.inf, loss, went_back=True, confirmed=confirmed)
        self._path.append(made)
        self.model.load_state_dict(self._start[0])
        self.optimizer.load_state_dict(copy.deepcopy(self._start[1]))
        self._rate = self._ceiling = self._rate / 2
        self._smoothed, self._grown = self._first, 0
        return made

    @torch.no_grad()
    def _curvature(self, batch: Batch, loss: float, slope: float, seed: int) -> float:
        """ρ, from one more forward pass with the same random draws, or its target where ρ is lost in rounding.

        Parameters and buffers are afterwards as before.
        """
        momentum = float(self.optimizer.param_groups[0]["momentum"])
        length = self._rate / (1 - momentum)
        if not slope > 0:
            return 0.0
        moved = [p for p in self._parameters if p.grad is not None]
        before = [p.clone() for p in moved]
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        for p in moved:
            p.sub_(p.grad, alpha=length)
        after = self._forward(batch, seed)
        for p, old in zip(moved, before, strict=True):
            p.copy_(old)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(buffers[name])
        if not math.isfinite(after):
            return math.inf
        kind = torch.finfo(moved[0].dtype)
        if not length * slope > RESOLVED * (kind.eps * abs(loss) + kind.tiny):
            return TARGET
        return 1 + (after - loss) / (length * slope)

    @torch.no_grad()
    def _forward(self, batch: Batch, seed: int) -> float:
        """The mean loss of a batch, with the random draws of the update."""
        with untouched_randomness(seed, self.devices), user_code("loss"):
            return float(checked_loss(self._loss(self.model, batch), batch).mean())

    def _set(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _steer(self, curvature: float) -> None:
        change = max(-1.0, min(1 - curvature / TARGET, 1.0))
        self._grown = self._grown + 1 if change > 0 else 0
        if self._grown <= RAMP:
            self._rate = min(self._rate * math.exp(GROWTH * change), self._ceiling)


def bracket(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss: Loss,
    batches: Any,
    batch_size: int | None = None,
    updates: int = 24,
    seed: int = 0,
) -> Bracket:
    """The bracket of rates for a training that is about to start, or to go on, from this state.

    Copies are trained for a few updates: the model, its optimizer and all random states are afterwards as before. Each
    update costs one more forward pass than in training.

    Args:
        model: The model.
        optimizer: Its optimizer, torch.optim.SGD.
        loss: Called as `loss(model, batch)`; returns the mean loss or one value per example.
        batches: The training data, as in `gradiometer.loop.fork`.
        batch_size: Size of a batch, if `batches` are examples.
        updates: Number of updates.
        seed: Seed of the data order and of the random draws.

    Raises:
        BadArgument: An argument cannot be used.
        Unsupported: The optimizer is not SGD, or the training cannot be copied.
        UserCodeFailed: The loss raised, or is not finite at the start.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import supervised
    >>> from gradiometer.tuning.probe import bracket
    >>> inputs = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    >>> loss = supervised(nn.MSELoss(reduction="none"))
    >>> data = (inputs, inputs.sum(dim=1))
    >>> found = bracket(model, optimizer, loss=loss, batches=data, batch_size=32)
    >>> found.low < 0.05 < found.high
    True
    """
    check_whole("updates", updates, 1)
    check_whole("seed", seed, 0)
    loop = Loop(model, optimizer, loss=loss, batches=batches, batch_size=batch_size)
    copy = loop.copy()
    probe = Probe(copy.model, copy.optimizer, loss, seed=seed)
    device = next(iter(probe.devices))
    batches_of = loop.data.batches(zlib.crc32(f"{seed}/bracket".encode()))
    for _ in range(updates):
        batch = next(batches_of, None)
        if batch is None:
            raise BadArgument(f"`updates` is {updates}, and `batches` ended before: give fewer.")
        probe.update(mapped(batch, lambda tensor: tensor.to(device)))
    return probe.bracket
