"""The gradients of a sharded model (FSDP2), read by hooks before they are scattered."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gradiometer.errors import Unsupported
from gradiometer.integrations.gradients import Preconditioner, after_backward, numbers_of
from gradiometer.integrations.sharding import is_fsdp_module, is_shard
from gradiometer.measurement.objective import Objective
from gradiometer.run.budget import READINGS, Budget

# A parameter: its position, the module that owns it, and its name in that module.
Place = tuple[int, nn.Module, str]


class ShardHooks:
    """Reads the gradients of a model under FSDP2 while it is active. It costs nothing while it is
    not.

    From the forward to the backward of a module under `fully_shard`, the whole parameter is in the
    place of this process's piece. A hook on it is called once per backward with the whole gradient
    of this process's examples, before FSDP reduces it. Only a few numbers of each gradient are
    kept, so that no freed memory is held: its squared norm, its first entry, by which
    `norms_of_all` checks the reduced gradient, and its squared norm under P.

    P is gathered as the parameters are, in the forward, since all processes come by there in the
    same order. It is kept in bfloat16 until the end of the measured step.

    Args:
        objective: The objective of the sharded model.
        budget: The account that the cost is charged to.
        shield: A context for everything that a forward or a backward calls, which may keep errors
            from it.
        preconditioner: This process's pieces of P, if norms under P are wanted too.
    """

    def __init__(
        self,
        objective: Objective,
        budget: Budget,
        shield: AbstractContextManager[object, bool | None],
        preconditioner: Preconditioner | None = None,
    ) -> None:
        self._pieces = objective.parameters
        self._budget = budget
        self._shield = shield
        self._preconditioner = preconditioner
        self._whole_preconditioner: dict[int, Tensor] = {}
        self._places = _places(objective)
        pieces: Sequence[Any] = self._pieces
        meshes = [piece.device_mesh for piece in pieces]
        copies = [mesh.size(0) if mesh.ndim == 2 else 1 for mesh in meshes]
        # How many processes hold the same piece, of every parameter.
        self.copies = torch.tensor(copies, dtype=torch.float64)
        self._module_hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._hooks: dict[int, torch.utils.hooks.RemovableHandle] = {}
        self._read: dict[int, Float[Tensor, " numbers"]] = {}
        self._in_parts = self._ending = False
        # Seconds that starting took, until they are charged.
        self.seconds = 0.0
        self.whole_is_wanted = False
        # The same numbers of this process's piece of every parameter's `.grad`, at the end of the
        # last backward for which `whole_is_wanted` was set: reduced, not yet clipped.
        self.whole: Float[Tensor, "1 numbers"] | None = None

    def take_seconds(self) -> float:
        """Seconds that starting took since the last call."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    @property
    def active(self) -> bool:
        """True if hooks are in place."""
        return bool(self._module_hooks)

    @property
    def has_read(self) -> bool:
        """True if a gradient was read since the last `norms`."""
        return bool(self._read)

    def forget(self) -> None:
        """Forget the gradients that were read."""
        self._read = {}
        self._in_parts = False

    def start(self) -> None:
        """Put hooks in place and start empty."""
        self.stop()
        self._module_hooks = [
            module.register_forward_pre_hook(partial(self._find, places))
            for module, places in self._places.items()
        ]

    def stop(self) -> None:
        """Remove the hooks and forget the gradients."""
        for hook in (*self._module_hooks, *self._hooks.values()):
            hook.remove()
        self._module_hooks = []
        self._hooks = {}
        self.forget()
        self._whole_preconditioner = {}
        if self._preconditioner is not None:
            self._preconditioner.forget()
        self.whole = None
        self._ending = False

    def norms(self) -> Float[Tensor, "1 numbers"]:
        """The numbers of every parameter's gradient since the last `norms`, zero if there was none;
        see `numbers_of`.

        Raises:
            Unsupported: There were several backwards since.
        """
        if self._in_parts:
            raise Unsupported(
                "`step` was called once after several backwards of a sharded model, whose sum is "
                "nowhere whole: call it after every `backward`, and say with `accumulation` how "
                "many an update takes."
            )
        read, self._read = self._read, {}
        return self._in_a_row([read.get(place) for place in range(len(self._pieces))])

    def _find(self, places: list[Place], *_: Any) -> None:
        """The parameters of a module are whole now; hooks on them stay until `rest`."""
        with self._shield:
            for place, owner, name in places:
                parameter = getattr(owner, name)
                if place not in self._hooks and parameter.requires_grad and not is_shard(parameter):
                    self._hooks[place] = parameter.register_hook(partial(self._take_in, place))
                    self._gather(place)

    def _gather(self, place: int) -> None:
        """Gather the pieces of P of a parameter."""
        if self._preconditioner is None:
            return
        with self._budget.spending(READINGS), torch.no_grad():
            pieces = self._preconditioner()
            if pieces is not None:
                self._whole_preconditioner[place] = gathered(
                    pieces[place], like=self._pieces[place]
                )

    def _take_in(self, place: int, gradient: Tensor) -> None:
        with self._shield:
            with self._budget.spending(READINGS), torch.no_grad():
                self._in_parts |= place in self._read
                self._read[place] = self._numbers(gradient, self._whole_preconditioner.get(place))
            if self.whole_is_wanted and not self._ending:
                self._ending = True
                after_backward(self._end, self._caught)

    def _caught(self, error: Exception) -> None:
        with self._shield:
            raise error

    def _end(self) -> None:
        """`.grad` is complete. Called after FSDP's own callback of this backward, which was queued
        earlier."""
        self._ending = False
        with self._shield, self._budget.spending(READINGS), torch.no_grad():
            grads: list[Any] = [piece.grad for piece in self._pieces]
            known = None if self._preconditioner is None else self._preconditioner()
            pieces: Sequence[Tensor | None] = known or [None] * len(grads)
            self.whole = self._in_a_row(
                [
                    None if grad is None else self._numbers(grad.to_local(), piece)
                    for grad, piece in zip(grads, pieces, strict=True)
                ]
            )

    def _numbers(self, gradient: Tensor, weights: Tensor | None) -> Float[Tensor, " numbers"]:
        """The numbers of a gradient or of a piece."""
        if self._preconditioner is None:
            return numbers_of([gradient])[0]
        return numbers_of([gradient], lambda: None if weights is None else [weights.bfloat16()])[0]

    def _in_a_row(
        self, numbers: Sequence[Float[Tensor, " numbers"] | None]
    ) -> Float[Tensor, "1 numbers"]:
        count = 2 if self._preconditioner is None else 3
        nothing = torch.zeros(count, dtype=torch.float64, device=self._pieces[0].device)
        return torch.stack([nothing if each is None else each for each in numbers], dim=1).reshape(
            1, -1
        )


def _places(objective: Objective) -> dict[nn.Module, list[Place]]:
    """The parameters, by the innermost module under `fully_shard` around each: its forward makes
    them whole."""
    modules = dict(objective.model.named_modules(remove_duplicate=False))
    # outer ones first
    fully_sharded = [module for module in objective.model.modules() if is_fsdp_module(module)]
    around = {
        id(parameter): module for module in fully_sharded for parameter in module.parameters()
    }
    places = defaultdict(list)
    for place, (name, parameter) in enumerate(
        zip(objective.names, objective.parameters, strict=True)
    ):
        owner, _, own_name = name.rpartition(".")
        places[around[id(parameter)]].append((place, modules[owner], own_name))
    return dict(places)


def gathered(piece: Tensor, like: Any) -> Tensor:
    """A whole tensor from the pieces of all processes, in bfloat16, laid out as a sharded parameter
    is."""
    from torch.distributed.tensor import DTensor  # noqa: PLC0415 (the import takes seconds)

    mesh, placements = like.device_mesh, like.placements
    whole: Tensor = DTensor.from_local(
        piece.bfloat16(), mesh, placements, run_check=False, shape=like.shape, stride=like.stride()
    ).full_tensor()
    return whole
