"""Sharded models (FSDP2): which can be watched, and their gradients, read by hooks before they are scattered."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import BadArgument
from gradiometer.integrations.gradients import at_the_end_of_backward, norms_and_first_entries
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import Budget
from gradiometer.run.ranks import Ranks

Place = tuple[int, nn.Module, str]
"""Of a parameter: its position, the module that owns it, and its name there."""

OFF = 0.02
"""Relative difference of training's gradient from the mean over processes that is more than rounding to bfloat16."""


def is_fsdp_module(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on it. By the name of its kind: to import that takes seconds."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def is_shard(parameter: Tensor) -> bool:
    """Whether a parameter stands here for its piece of one that several processes hold."""
    return type(parameter).__name__ == "DTensor"


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was called on the model or a part of it."""
    return any(is_fsdp_module(module) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Let every parameter stand for its piece again: after a forward without a backward the outermost ones do not.

    The next forward gathers them once more, with the same bits.
    """
    for module in model.modules():
        if is_fsdp_module(module):
            fsdp: Any = module
            fsdp.reshard()


def refuse_shards_that_cannot_be_heard(model: nn.Module, ranks: Ranks) -> None:
    """Refuse a model that is sharded, unless by `fully_shard` as a whole, over all processes in one dimension.

    Raises:
        BadArgument: As it says.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise BadArgument(
            "`model` is under FullyShardedDataParallel (FSDP1), which flattens parameters, and hooks do not hear "
            "their gradients: shard it with torch.distributed.fsdp.fully_shard (FSDP2), or use DistributedDataParallel."
        )
    sharded = is_sharded(model)
    heard = {id(parameter) for module in model.modules() if is_fsdp_module(module) for parameter in module.parameters()}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_shard(parameter):
            if id(parameter) not in heard:
                raise BadArgument(
                    f"`model` has {name} sharded by other means than `fully_shard` (tensor parallel?), whose gradients "
                    "hooks do not hear: shard it with `fully_shard`, or use DistributedDataParallel."
                )
            _refuse_mesh(name, parameter, ranks)
        elif sharded:
            raise BadArgument(
                f"`model` has {name} whole and others sharded, so that nothing averages its gradient: call "
                "`fully_shard` on the whole model too, and without `ignored_params`."
            )


def _refuse_mesh(name: str, parameter: Any, ranks: Ranks) -> None:
    mesh = parameter.device_mesh
    if mesh.ndim != 1 or not parameter.placements[0].is_shard():
        raise BadArgument(
            f"`model` has {name} on a mesh of {mesh.ndim} dimensions (HSDP, or tensor parallel beside FSDP), of which "
            "nothing is measured yet: use a mesh of one dimension over all processes."
        )
    if mesh.size() != ranks.count:
        raise BadArgument(
            f"`model` has {name} sharded over {mesh.size()} of {ranks.count} processes, of which nothing is measured "
            "yet: use a mesh of one dimension over all processes."
        )
    if parameter.device.type != mesh.device_type:
        raise BadArgument(
            f"`model` has {name} offloaded to the {parameter.device.type} from {mesh.device_type}, of which nothing is "
            "measured yet: leave out CPUOffloadPolicy."
        )


class ShardListener:
    """Hears the gradients of a model under FSDP2 while it listens, and costs nothing while it does not.

    From the forward to the backward of a module under `fully_shard`, a whole parameter stands in the place of this
    process's piece: a hook on that one is called with the whole gradient of this process's examples, once a backward,
    before FSDP reduces it. Of each gradient two numbers are kept and nothing else, so that no memory is held that
    sharding has freed: its squared norm, and its first entry, by which `norms_of_all` sees what became of it.

    Args:
        objective: Of the sharded model.
        budget: Where what it costs is counted.
    """

    def __init__(self, objective: Objective, budget: Budget) -> None:
        self._pieces, self._budget = objective.parameters, budget
        self._places = _places(objective)
        self._module_hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._hooks: dict[int, torch.utils.hooks.RemovableHandle] = {}
        self._heard: dict[int, Float[Tensor, "2"]] = {}
        self._in_parts = self._ending = False
        self.whole_is_wanted = False
        self.whole: Float[Tensor, "1 2*parameters"] | None = None
        """The same two numbers of this process's piece of every parameter's `.grad`, at the end of the last backward
        of which it was wanted: reduced, and not yet clipped."""

    @property
    def listening(self) -> bool:
        """Whether hooks are in place."""
        return bool(self._module_hooks)

    @property
    def has_heard(self) -> bool:
        """Whether anything was heard since the last time."""
        return bool(self._heard)

    def forget(self) -> None:
        """Forget what was heard since the last time."""
        self._heard, self._in_parts = {}, False

    def listen(self) -> None:
        """Put hooks in place, with nothing heard so far."""
        self.rest()
        self._module_hooks = [
            module.register_forward_pre_hook(partial(self._find, places)) for module, places in self._places.items()
        ]

    def rest(self) -> None:
        """Take the hooks away and forget what was heard."""
        for hook in (*self._module_hooks, *self._hooks.values()):
            hook.remove()
        self._module_hooks, self._hooks = [], {}
        self.forget()
        self.whole, self._ending = None, False

    def norms(self) -> Float[Tensor, "1 2*parameters"]:
        """‖·‖² of what was heard of every parameter since the last time, zero where nothing was; then first entries.

        Raises:
            BadArgument: There were several backwards since.
        """
        if self._in_parts:
            raise BadArgument(
                "`step` was called once after several backwards of a sharded model, whose sum is nowhere whole: call "
                "it after every `backward`, and say with `accumulation` how many an update takes."
            )
        heard, self._heard = self._heard, {}
        return self._in_a_row([heard.get(place) for place in range(len(self._pieces))])

    def _find(self, places: list[Place], *_: Any) -> None:
        """The parameters of a module are whole now; hooks on them stay until `rest`."""
        for place, owner, name in places:
            parameter = getattr(owner, name)
            if place not in self._hooks and parameter.requires_grad and not is_shard(parameter):
                self._hooks[place] = parameter.register_hook(partial(self._hear, place))

    def _hear(self, place: int, gradient: Tensor) -> None:
        with self._budget.spending(), torch.no_grad():
            self._in_parts |= place in self._heard
            self._heard[place] = _two_numbers(gradient)
        if self.whole_is_wanted and not self._ending:
            self._ending = True
            at_the_end_of_backward(lambda: at_the_end_of_backward(self._end))

    def _end(self) -> None:
        """`.grad` is complete. Called after FSDP's own last word in this backward, which was queued before."""
        self._ending = False
        with self._budget.spending(), torch.no_grad():
            grads: list[Any] = [piece.grad for piece in self._pieces]
            self.whole = self._in_a_row([None if grad is None else _two_numbers(grad.to_local()) for grad in grads])

    def _in_a_row(self, numbers: Sequence[Float[Tensor, "2"] | None]) -> Float[Tensor, "1 2*parameters"]:
        nothing = torch.zeros(2, dtype=torch.float64, device=self._pieces[0].device)
        return torch.stack([nothing if pair is None else pair for pair in numbers], dim=1).reshape(1, -1)


def _places(objective: Objective) -> dict[nn.Module, list[Place]]:
    """The parameters by the module under `fully_shard` whose forward makes them whole: the innermost around each."""
    modules = dict(objective.model.named_modules(remove_duplicate=False))
    fully_sharded = [module for module in objective.model.modules() if is_fsdp_module(module)]  # outer ones first
    around = {id(parameter): module for module in fully_sharded for parameter in module.parameters()}
    places = defaultdict(list)
    for place, (name, parameter) in enumerate(zip(objective.names, objective.parameters, strict=True)):
        owner, _, own_name = name.rpartition(".")
        places[around[id(parameter)]].append((place, modules[owner], own_name))
    return dict(places)


def norms_of_all(
    everyone: Float[Tensor, "rows numbers"], ranks: int, *, sharded: bool
) -> tuple[Float[Tensor, "parts parameters"], Float[Tensor, "1 parameters"], bool]:
    """‖·‖² of the gradient of every micro-batch and of their mean, and whether that is the mean of what was heard.

    The first entry of a parameter lies on the first process: training's is compared there with the mean of what was
    heard, so that a gradient that is not the plain mean over processes is not taken for it.

    Args:
        everyone: The micro-batches of a process, then its pieces of the mean, or the whole of it; of one process after
            the other.
        ranks: W, the number of processes.
        sharded: Whether each holds pieces.
    """
    by_rank = everyone.unflatten(0, (ranks, -1)).unflatten(2, (2, -1))
    squared, first = by_rank[:, :-1].unbind(2)
    held, entry = by_rank[:, -1, 0], by_rank[0, -1, 1]
    whole = held.sum(0) if sharded else held[0]
    difference = (entry - first.sum((0, 1)) / ranks).norm()
    unheard = (whole > 0) & (squared.sum((0, 1)) == 0)
    off = unheard.any() or difference > OFF * (first.abs().sum((0, 1)) / ranks).norm()
    return squared.flatten(0, 1), whole.unsqueeze(0), not (off and everyone.isfinite().all())


def not_the_mean(ranks: int, *, sharded: bool) -> str:
    """That training's gradient is another than the mean of what was heard, and what makes it so."""
    if ranks == 1:
        return (
            "`.grad` is not the sum of the backwards that `step` was called after: zero it before the first of them, "
            "with all parameters of `model`, and make no other backward between"
        )
    leave_out = (
        "`set_gradient_divide_factor`, all-reduce hooks, updates inside the backward and `register_fsdp_forward_method`"
        if sharded
        else "averaging by hand (DistributedDataParallel averages within `backward`), communication hooks, and other "
        "backwards before `.grad` is zeroed"
    )
    return (
        f"`model` is not trained on the plain mean of the gradients that its {ranks} processes make in its forward and "
        f"backward: leave out {leave_out}, or switch measuring off with budget=0"
    )


def _two_numbers(gradient: Tensor) -> Float[Tensor, "2"]:
    """‖·‖² and the first entry, of a gradient or of a piece of one, which may be empty: then zero."""
    return norms_and_first_entries([gradient])[0]
