"""The preconditioner of adaptive optimizers: P, with the update −η P ĝ to first order, read before
the update."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from gradiometer.errors import BadArgument

# P is clipped at this many times its median: the second moment of a rarely touched row decays, and
# its P explodes.
CLIP = 3.0

# Most entries that the median is taken over, evenly spaced over all parameters.
SAMPLE = 2**13

KNOWN = "Adam, AdamW, NAdam, RAdam, Adamax, RMSprop and Adagrad"

Group = Mapping[str, Any]
# Optimizer and parameter group of a parameter.
Place = tuple[Optimizer, Group]

# √v̂ + ε, from a parameter's state, its group, and the number of its updates so far, written into a
# tensor.
Rule = Callable[[Mapping[str, Any], Group, Any, Tensor], Tensor | None]

Sample = Float[np.ndarray, " entries"]


def is_adaptive(optimizer: Optimizer) -> bool:
    """True if `preconditioner_of` knows the preconditioner of this optimizer."""
    return isinstance(optimizer, tuple(_DENOMINATORS))


def preconditioner_of(
    optimizer: Optimizer | Sequence[Optimizer],
    parameters: Sequence[Tensor],
    *,
    sample_of_all: Callable[[Sample], Sample] | None = None,
    into: Sequence[Tensor] | None = None,
    entries: Sequence[slice] | None = None,
) -> list[Tensor] | None:
    """P of the coming update, clipped, from the state of the optimizer before that update.

    P = 1/(√v̂ + ε) for Adam, AdamW, NAdam and RAdam (from the step at which it adapts), with v̂ the
    running mean of squared gradients after bias correction, or its maximum with `amsgrad`. RMSprop
    uses v without the correction, and minus the squared mean gradient if it is centered. Adagrad
    uses the sum of squares, and Adamax 1/u with its running maximum u. P is clipped at three times
    its median over the entries whose v is not zero; if some have a gradient beyond their L2 decay,
    only these count. A parameter without state (not trained, or without a gradient so far) gets
    zero. If the learning rates of the parameter groups differ, P of a group is multiplied by its
    rate over the largest rate. On an accelerator the CPU waits for nothing; P is NaN there if all v
    are zero.

    Args:
        optimizer: The optimizer of the parameters, or several.
        parameters: Φ, the trainable parameters. For a sharded one, the piece of this process is
            used.
        sample_of_all: For a sharded model: joins the entries that the processes take for the
            median, shape [entries].
        into: Tensors of the shapes of the parameters, in which P is computed and written; by
            default new ones, at least in single precision. In bfloat16 P has an error of 1 %.
        entries: For each parameter the entries at which P is computed, of its flat values; `into`
            then has a vector for them. Default: all.

    Returns:
        One tensor per parameter, of its shape. None if there is no state yet, as before the first
        update.

    Raises:
        BadArgument: The preconditioner of an optimizer is not known.

    Source: Kingma & Ba (2015), Adam, algorithm 1: the factor of m̂ in the update. Duchi, Hazan &
    Singer (2011), Adaptive Subgradient Methods. The clip is a measured choice, see
    `PreconditionedNoise`.

    >>> import torch
    >>> from gradiometer.measurement.preconditioner import preconditioner_of
    >>> weight = torch.nn.Parameter(torch.zeros(3))
    >>> optimizer = torch.optim.Adam([weight], lr=0.1, eps=0.0)
    >>> preconditioner_of(optimizer, [weight]) is None
    True
    >>> weight.grad = torch.tensor([1.0, 0.5, 0.01])
    >>> optimizer.step()
    >>> preconditioner_of(optimizer, [weight])  # 1/|g| after one update; 100 is clipped at 3 × 2
    [tensor([1., 2., 6.])]
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for one in optimizers:
        if not is_adaptive(one):
            raise BadArgument(
                f"`optimizer` is a {type(one).__name__}, whose preconditioner is not known: it is "
                f"known for {KNOWN}."
            )
    owners = {
        id(p): (one, group)
        for one in optimizers
        for group in one.param_groups
        for p in group["params"]
    }
    places = [owners.get(id(parameter)) for parameter in parameters]
    if into is None:
        into = [
            # at least in single precision
            torch.empty_like(piece, dtype=torch.promote_types(piece.dtype, torch.float32))
            for piece in map(local, parameters)
        ]
    with torch.no_grad():
        found = _denominators(parameters, places, into, entries)
        values = [local(parameter).detach() for parameter in parameters]
        if entries is not None:
            values = [one.reshape(-1)[some] for one, some in zip(values, entries, strict=True)]
        floor = _floor(*_entries(found, places, values), sample_of_all)
        if floor is None:
            return None
        rates = [0.0 if place is None else float(place[1]["lr"]) for place in places]
        # all are zero at the start of a warm-up
        largest = max(rates, default=0.0)
        for denominator, result, rate in zip(found, into, rates, strict=True):
            if denominator is None:
                result.zero_()
                continue
            # the denominator lies in `into`
            denominator.clamp_(min=floor).reciprocal_()
            if largest and rate != largest:
                denominator.mul_(rate / largest)
        return list(into)


def _floor(
    entries: Float[Tensor, " entries"],
    least: Float[Tensor, " entries"],
    sample_of_all: Callable[[Sample], Sample] | None,
) -> float | Tensor | None:
    """The least √v̂ + ε, at which P is clipped; None if it is not known. A tensor on an accelerator
    if possible."""
    if not entries.is_cpu and sample_of_all is None:
        return 1 / (CLIP * _median(1 / entries, ~(entries <= least)))
    sample: Sample = entries.cpu().numpy()
    sample = sample[~(sample <= least.cpu().numpy())]  # NaN stays
    if sample_of_all is not None:
        sample = sample_of_all(sample)
    return 1 / (CLIP * float(np.median(1 / sample))) if len(sample) else None


def _median(
    values: Float[Tensor, " entries"], counted: Bool[Tensor, " entries"]
) -> Float[Tensor, ""]:
    """The median of the values that count; NaN if there is none, or if one is NaN. The CPU does not
    wait for it."""
    count, ordered = counted.sum(), values.masked_fill(~counted, torch.inf).sort().values
    middle = torch.stack([count - 1, count]).div(2, rounding_mode="floor").clamp(min=0)
    unknown = (count == 0) | (values.isnan() & counted).any()
    return ordered.index_select(0, middle).mean().masked_fill(unknown, torch.nan)


def local(tensor: Tensor) -> Tensor:
    """The tensor itself, or this process's piece of a sharded one."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _denominators(
    parameters: Sequence[Tensor],
    places: Sequence[Place | None],
    into: Sequence[Tensor],
    entries: Sequence[slice] | None,
) -> list[Tensor | None]:
    """√v̂ + ε of every parameter, written into these tensors; None for a parameter without
    state."""
    states = [
        {} if place is None else place[0].state.get(p, {})
        for p, place in zip(parameters, places, strict=True)
    ]
    if entries is not None:
        states = [
            {
                name: one.reshape(-1)[some]
                if isinstance(one, Tensor) and one.shape == p.shape and one.dim()
                else one
                for name, one in state.items()
            }
            for p, state, some in zip(parameters, states, entries, strict=True)
        ]
    return [
        None
        # Before the first update nothing is known. Of a count on a device P is NaN then.
        if place is None or not state or (not isinstance(step, Tensor) and step == 0)
        else _rule_of(place[0])(state, place[1], step, written)
        for state, place, step, written in zip(
            states, places, _steps(states, places), into, strict=True
        )
    ]


def _rule_of(optimizer: Optimizer) -> Rule:
    return next(rule for kind, rule in _DENOMINATORS.items() if isinstance(optimizer, kind))


def _steps(
    states: Sequence[Mapping[str, Any]], places: Sequence[Place | None]
) -> Sequence[float | Tensor]:
    """Number of updates that each parameter has had. If they are counted on an accelerator, as by
    fused optimizers, they stay there for the rules that can be computed there."""
    counts = [
        local(torch.as_tensor(state.get("step", 1.0), dtype=torch.float32)).reshape(())
        for state in states
    ]
    device = next(
        (count.device for count in counts if count.device.type != "cpu"), torch.device("cpu")
    )
    if device.type != "cpu" and all(
        place is None or _rule_of(place[0]) is _adam for place in places
    ):
        return [count.to(device, torch.float64) for count in counts]
    return torch.stack([count.to(device) for count in counts]).tolist()


def _entries(
    found: Sequence[Tensor | None], places: Sequence[Place | None], values: Sequence[Tensor]
) -> tuple[Float[Tensor, " entries"], Float[Tensor, " entries"]]:
    """Evenly spaced entries of √v̂ + ε, and for each the size of one without a gradient: ε, and
    twice the L2 decay of the weight, which shrinks while v̂ remembers; ε alone if no entry is
    larger."""
    known = [
        (one, place, parameter)
        for one, place, parameter in zip(found, places, values, strict=True)
        if one is not None and place is not None
    ]
    # An odd distance does not fall into step with rows whose length is a power of two.
    distance = sum(one.numel() for one, _, _ in known) // SAMPLE | 1
    passed, taken, least, decayed = 0, [], [], []
    for one, (optimizer, group), parameter in known:
        chosen = slice(-passed % distance, None, distance)
        device = known[0][0].device
        taken.append(one.reshape(-1)[chosen].double().to(device))
        epsilon = torch.tensor(float(group.get("eps", 0.0)), dtype=one.dtype, device="cpu").item()
        least.append(torch.full_like(taken[-1], epsilon))
        weights = parameter.reshape(-1)[chosen].double().to(device).abs()
        decayed.append(epsilon + 2 * _decay(optimizer, group) * weights)
        passed += one.numel()
    if not taken:
        return torch.empty(0, device="cpu"), torch.empty(0, device="cpu")
    entries, without, alone = torch.cat(taken), torch.cat(least), torch.cat(decayed)
    return entries, torch.where((entries <= alone).all(), without, alone)


def _decay(optimizer: Optimizer, group: Group) -> float:
    """The weight decay that is in v̂, as it is added to the gradient."""
    if isinstance(optimizer, AdamW) or group.get("decoupled_weight_decay"):
        return 0.0
    return float(group.get("weight_decay", 0.0))


def _adam(
    state: Mapping[str, Any], group: Group, step: float | Tensor, into: Tensor
) -> Tensor | None:
    second = state["max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"]
    corrected = into.copy_(local(second)).div_(1 - float(group["betas"][1]) ** step)
    return corrected.sqrt_().add_(float(group["eps"]))


def _radam(state: Mapping[str, Any], group: Group, step: float, into: Tensor) -> Tensor | None:
    """Known from the step at which torch divides the update by √v̂: ρ > 5. There ε is added before
    the correction."""
    decay = float(group["betas"][1])
    rho = 2 / (1 - decay) - 1 - 2 * (step + 1) * decay ** (step + 1) / (1 - decay ** (step + 1))
    if not rho > 5:
        return None
    return (
        into.copy_(local(state["exp_avg_sq"]))
        .sqrt_()
        .add_(float(group["eps"]))
        .div_((1 - decay**step) ** 0.5)
    )


def _rmsprop(state: Mapping[str, Any], group: Group, step: float, into: Tensor) -> Tensor | None:
    second = into.copy_(local(state["square_avg"]))
    if group["centered"]:
        mean = local(state["grad_avg"]).to(into.dtype)
        second.addcmul_(mean, mean, value=-1).clamp_(min=0)
    return second.sqrt_().add_(float(group["eps"]))


_DENOMINATORS: Mapping[type[Optimizer], Rule] = {
    Adam: _adam,
    AdamW: _adam,
    NAdam: _adam,
    RAdam: _radam,
    Adamax: lambda state, group, step, into: into.copy_(local(state["exp_inf"])),
    RMSprop: _rmsprop,
    Adagrad: lambda state, group, step, into: (
        into.copy_(local(state["sum"])).sqrt_().add_(float(group["eps"]))
    ),
}
