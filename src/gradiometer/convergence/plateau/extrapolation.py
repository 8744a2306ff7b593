"""The test that proposes a cut of the rate: the gain left along the run's own path against the gain
of a cut."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Losses = Float[Tensor, " runs"]
Points = Float[Tensor, "runs params"]

BLOCKS_PER_OCTAVE = 4

# The share of what a cut gains below which the rest of the gain counts as none: chosen on sixteen
# settings of least squares, and judged once on eight others.
SHARE = 0.5

# Number of blocks of steps whose mean iterates span the subspace: the last four doublings of the
# run.
BLOCKS = 4 * BLOCKS_PER_OCTAVE

# Iterates per block whose loss is measured; all of them in a block of fewer steps.
PER_BLOCK = 4

# Names of the attributes that are lists of tensors.
LISTS = ("taken", "means", "gradients", "losses")


@runtime_checkable
class PlateauProbe(Protocol):
    """A fixed set of examples on which points of each run are compared: the same at all points, so
    differences pair."""

    def loss(self, points: Points) -> Losses:
        """Mean loss of each run's examples at its point."""

    def gradient(self, points: Points) -> Points:
        """The gradient of `loss`."""

    def gradients(self, points: Points) -> Float[Tensor, "parts runs params"]:
        """The gradients on equal parts of the examples, at least three; their mean is
        `gradient`."""


@dataclass(frozen=True)
class Look:
    """The result of one look, for every run.

    Args:
        step: Steps at this rate so far.
        left: X, an upper end of how much the loss of the averaged iterate could still fall in the
            span of the block means.
        gain: G, mean loss of the iterates less loss of their average, the gain of a cut now. The
            smaller of its values over the last half and over the last 29 % of the steps.
        iterates: Losses of single iterates in the last half of the steps, evenly over its blocks,
            oldest first.
        averaged: Loss of the average of the iterates in the last half of the steps.
        fell: By how much the loss of the average fell from the first to the second half of that
            half.
        stopped: True if X is at most half of G.
    """

    step: int
    left: Losses
    gain: Losses
    iterates: Float[Tensor, "runs taken"]
    averaged: Losses
    fell: Losses
    stopped: Bool[Tensor, " runs"]


class Extrapolation:
    """Fires when the gain left along the run's own directions is below a share of what a cut gains.

    Takes many runs at once, from their first step at a constant learning rate: a study is
    vectorised over its runs,
    and a training is a study of one. It has state: make a new one for other runs, or for another
    rate.

    The steps are divided into blocks, four per doubling of their number. Each block gives its mean
    iterate ū, of at most 127 iterates, and the gradient there, on one fixed probe; the last
    sixteen, four doublings, are kept. At the end of a block, with c the average of the iterates of
    the last half of the steps:

    - G = mean loss of single iterates − loss at c. The noise of the probe's examples cancels to
      first order, because the iterates' deviations from their average sum to nearly zero.
    - X = max over α of L(c) − L(c + Σ α_a (ū_a − c)), in the quadratic model with slopes ∇L(c)·(ū_a
      − c) and curvatures (ū_a − c)·(∇L(ū_b) − ∇L(c)) from the probe: reduced-rank extrapolation of
      the run's trajectory. A slow mode counts by the loss it still has to give, not by how little
      it moves in the window.

    Fires if an upper end of X, over the examples of the probe, is at most half of G: too few
    examples make it late, not early. It cannot see a loss that lies in directions in which the run
    hardly moved during its last four doublings, in a space of many more than sixteen dimensions.
    The half has no significance level from theory; the share of early alarms in the trials that
    chose it, over whole runs and all their looks, stands for one.

    Costs memory for 2 × 16 copies of the parameters, and per block four losses and a gradient of
    the probe; per look another gradient and two losses.

    Args:
        probe: The fixed examples.
        first: Steps before the first block, at least 1.

    Source: the extrapolation: Sidi (2017), Vector Extrapolation Methods with Applications, ch. 1;
        G: Mandt, Hoffman & Blei (2017), Stochastic Gradient Descent as Approximate Bayesian
        Inference, section 5 (averaging removes it).
    """

    def __init__(self, probe: PlateauProbe, *, first: int = 16) -> None:
        self.probe = probe
        self.first = first
        self.steps = 0
        # Blocks that have ended, the steps before the first one among them.
        self._ended = 0
        self.look: Look | None = None
        self._starts = first
        self._mean: Tensor | None = None
        self._taken: list[Tensor] = []
        self._means: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._lengths: list[int] = []

    def take(self, position: Points) -> Bool[Tensor, " runs"]:
        """Take the next iterate of every run. True for runs in which it fires; `look` is the latest
        look, if any."""
        self.steps += 1
        nothing = torch.zeros(len(position), dtype=torch.bool, device=position.device)
        if self.steps < self.first:
            return nothing
        if self.steps == self.first:
            self._ended = 1
            return nothing
        ends = self._ends
        if (self.steps - self._starts) % self._stride == 0:
            if self._mean is None:
                self._mean = position.detach().clone()
            else:
                self._mean.lerp_(position.detach(), self._stride / (self.steps - self._starts))
        if len(self._taken) < (self.steps - self._starts) * PER_BLOCK // self._length:
            self._taken.append(self.probe.loss(position).double())
        if self.steps < ends:
            return nothing
        self._ended += 1
        mean = position.detach().clone() if self._mean is None else self._mean
        self._losses.append(torch.stack(self._taken, dim=1))
        self._means.append(mean)
        self._gradients.append(self.probe.gradient(mean))
        self._lengths.append(ends - self._starts)
        self._mean = None
        self._taken = []
        for kept in (self._means, self._gradients, self._losses, self._lengths):
            del kept[:-BLOCKS]
        self._starts = ends
        if len(self._means) < BLOCKS:
            return nothing
        self.look = self._take_look()
        return self.look.stopped

    @property
    def needed(self) -> int:
        """The number of the next iterate that changes anything: `skip` may count
        those before it."""
        if self.steps < self.first:
            return self.first
        averaged = (self.steps - self._starts) // self._stride * self._stride + self._stride
        measured = -(-(len(self._taken) + 1) * self._length // PER_BLOCK)
        return min(self._starts + min(averaged, measured), self._ends)

    def skip(self) -> None:
        """Count an iterate that is not needed."""
        self.steps += 1

    @property
    def _ends(self) -> int:
        """The last step of the present block. A run of any length has only a few blocks."""
        spaced = round(self.first * 2 ** (self._ended / BLOCKS_PER_OCTAVE))
        # Rounding would end several of the first blocks at one step.
        return max(spaced, self.first + self._ended)

    @property
    def _length(self) -> int:
        return self._ends - self._starts

    @property
    def _stride(self) -> int:
        # 64: iterates of a longer block that its mean is of, or up to twice as many: equally many
        # steps apart.
        return max(self._length // 64, 1)

    def _take_look(self) -> Look:
        octave = BLOCKS_PER_OCTAVE
        half = octave // 2
        centre = self._centre(octave, 0)
        averaged = self.probe.loss(centre).double()
        recent_loss = self.probe.loss(self._centre(half, 0)).double()
        iterates = torch.cat(self._losses[-octave:], dim=1)
        # A fall within the window adds to G, which is of noise alone; the shorter one has less of
        # it.
        gain = torch.minimum(
            iterates.mean(dim=1) - averaged,
            torch.cat(self._losses[-half:], dim=1).mean(dim=1) - recent_loss,
        )
        parts = self.probe.gradients(centre)
        away = torch.stack(self._means, dim=1) - centre[:, None]
        turned = torch.stack(self._gradients, dim=1) - parts.mean(dim=0)[:, None]
        left = extrapolated_gain(
            torch.einsum("rap,qrp->qra", away, parts).double(),
            torch.einsum("rap,rbp->rab", away, turned).double(),
        )
        fell = self.probe.loss(self._centre(octave, half)).double() - recent_loss
        return Look(self.steps, left, gain, iterates, averaged, fell, left <= SHARE * gain)

    def _centre(self, first: int, last: int) -> Points:
        """The average iterate of the newest `first` blocks without the newest `last`, weighted by
        their lengths."""
        chosen = slice(-first, -last or None)
        lengths = self._lengths[chosen]
        centre = torch.zeros_like(self._means[-1])
        for length, mean in zip(lengths, self._means[chosen], strict=True):
            centre.add_(mean, alpha=length / sum(lengths))
        return centre

    @property
    def newest(self) -> Float[Tensor, "runs taken"]:
        """Losses of the newest single iterates, at most two blocks of them, oldest first."""
        taken = torch.cat([*self._losses[-2:], *(loss[:, None] for loss in self._taken)], dim=1)
        return taken[:, -2 * PER_BLOCK :]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the state, for a checkpoint."""
        named = {} if self._mean is None else {"mean": self._mean}
        for name in LISTS:
            named |= {
                f"{name}.{place}": tensor for place, tensor in enumerate(getattr(self, f"_{name}"))
            }
        return named

    def values(self) -> dict[str, Any]:
        """The rest of the state, as JSON."""
        return {
            "steps": self.steps,
            "looks": self._ended,
            "starts": self._starts,
            "lengths": list(self._lengths),
        }

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restore the state that `tensors` and `values` returned."""
        self.steps = values["steps"]
        self._ended = values["looks"]
        self._starts = values["starts"]
        self._lengths = list(values["lengths"])
        self._mean = tensors.get("mean")
        for name in LISTS:
            count = sum(key.startswith(f"{name}.") for key in tensors)
            setattr(self, f"_{name}", [tensors[f"{name}.{place}"] for place in range(count)])


def extrapolated_gain(
    slopes: Float[Tensor, "parts runs blocks"], curvatures: Float[Tensor, "runs blocks blocks"]
) -> Losses:
    """An upper end of max over α of −l·α − ½ αᵀMα = lᵀM⁻¹l/2 (with a ridge), for slopes l measured
    on several parts.

    With the mean slope this is biased upwards, because it is maximised on the examples it is
    measured on; the mean of ½ lᵢᵀM⁻¹lⱼ over pairs of different parts is unbiased. Returns that mean
    plus one jackknife standard error, or the value for the mean slope if that is less. M is made
    symmetric. Negative curvatures enter by their absolute value, since the model has no maximum
    along them and a finite bound is needed.

    Source: the U-statistic and its jackknife error: Arvesen (1969), Jackknifing U-Statistics.
    """
    symmetric = (curvatures + curvatures.mT) / 2
    values, axes = torch.linalg.eigh(symmetric)
    values = values.abs()
    # 1e-4: added to each curvature, as a share of their mean: along flatter directions noise, not
    # curvature, limits the gain.
    ridge = 1e-4 * values.mean(dim=1, keepdim=True)
    damped = (values + ridge).clamp_min(torch.finfo(values.dtype).tiny)
    weights = (1 / damped * (1 - values / (2 * damped))).sqrt()
    along = torch.einsum("rab,qra->qrb", axes, slopes) * weights
    count, total = len(along), along.sum(dim=0)
    squares = (along**2).sum(dim=2)
    pairs = (total**2).sum(dim=1) - squares.sum(dim=0)
    without = pairs - 2 * ((total * along).sum(dim=2) - squares)
    unbiased = pairs / (count * (count - 1))
    left_out = without / ((count - 1) * (count - 2))
    error = ((count - 1) / count * ((left_out - left_out.mean(dim=0)) ** 2).sum(dim=0)).sqrt()
    # one standard error, over the parts of the probe, between the remaining gain and its upper
    # end.
    return torch.minimum((total**2).sum(dim=1) / count**2, unbiased + error)
