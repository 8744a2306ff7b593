"""The objective: a model and its loss, as a function of parameters and a batch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.errors import BadArgument
from gradiometer.measurement.batch import Batch, as_batch_of_one, batch_size, chunks, example_axes, joined, mapped, span
from gradiometer.measurement.untouched import untouched_randomness

Result = TypeVar("Result")
Loss = Callable[[nn.Module, Batch], Tensor]
Gradients = list[Tensor]
"""One tensor a trainable parameter, in the order of `Objective.names`."""

PROBES = 4
"""How many batches are asked whether the loss is a fixed function of the batch. One could miss a coupling by
chance (class weights that happen to balance); the answer only ever moves from fixed to not fixed."""


@dataclass(frozen=True)
class Traits:
    """What kind of function of the batch a loss is.

    Args:
        random: It draws random numbers (Dropout, augmentation inside the model).
        coupled: The loss of a batch is not the mean of the losses of its parts (batch statistics, weights
            normalised over the batch, contrastive losses).
    """

    random: bool = False
    coupled: bool = False

    @property
    def fixed(self) -> bool:
        """Whether the gradient of a batch is the mean of the gradients of its parts, so that one can be had
        from the others by subtraction."""
        return not (self.random or self.coupled)

    def __or__(self, other: "Traits") -> "Traits":
        return Traits(self.random or other.random, self.coupled or other.coupled)


class Objective:
    """A model and its loss, as a function of parameters and a batch.

    Whatever is computed here leaves the model as it was, bit for bit: parameters, `.grad`, buffers, mode and
    every random state. Hooks on parameters do not fire; hooks on modules do, since they are part of the forward.
    What a forward keeps elsewhere (a counter in a Python attribute) is beyond our reach, and goes on with every call.

    Args:
        model: Any module. Frozen parameters stay fixed; a shared parameter counts once.
        loss: Called as `loss(model, batch)`; returns one value per example, shape [examples], or their mean,
            shape []. For a criterion on (input, target) pairs see `supervised`.

    Raises:
        BadArgument: The model has no trainable parameter.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model = model
        self.loss = loss
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trainable:
            raise BadArgument(
                "`model` has no trainable parameters, so there is no gradient to measure: "
                "set `requires_grad_(True)` on those to train."
            )
        self.names = tuple(trainable)
        owners = [name.rpartition(".")[0] or "model" for name in self.names]
        self.layers = tuple(dict.fromkeys(owners))
        self.layer_of = [self.layers.index(owner) for owner in owners]
        self._standing = _Standing(model)
        self._traits: dict[tuple[bool, ...], tuple[int, Traits]] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of `names`."""
        return [self.model.get_parameter(name) for name in self.names]

    @property
    def devices(self) -> set[torch.device]:
        """Where the trainable parameters lie."""
        return {parameter.device for parameter in self.parameters}

    @property
    def dimension(self) -> int:
        """d, the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def aliases(self) -> Gradients:
        """The parameters as new leaves on the same memory: autograd works on them, hooks on the real ones rest."""
        return [parameter.detach().requires_grad_() for parameter in self.parameters]

    def undisturbed(self, seed: int) -> AbstractContextManager[None]:
        """A region in which the model can be run without leaving a trace in any random state."""
        return untouched_randomness(seed, self.devices)

    def losses(self, parameters: Sequence[Tensor], batch: Batch) -> Float[Tensor, " examples"]:
        """The loss of every example at the given parameters.

        Raises:
            BadArgument: The loss returns a mean, which does not tell examples apart.
        """
        value, size = self._evaluate(parameters, batch), batch_size(batch)
        if not value.dim():
            raise BadArgument(
                f"`loss` returned shape [], one value per example was expected, [{size}]: "
                "build it with reduction='none'."
            )
        return value

    def mean_loss(self, parameters: Sequence[Tensor], batch: Batch) -> Float[Tensor, ""]:
        """The mean loss of a batch at the given parameters, whether the loss is given per example or as a mean."""
        return self._evaluate(parameters, batch).mean()

    def gradient(self, batch: Batch, *, at: Sequence[Tensor] | None = None, seed: int = 0) -> Gradients:
        """ĝ, the gradient of the mean loss of a batch. One forward and backward.

        Args:
            batch: Its examples.
            at: Parameters, one tensor each in the order of `names`; left out, the model's own.
            seed: Of what the loss draws.
        """
        with torch.enable_grad(), self.undisturbed(seed):
            leaves = self.aliases() if at is None else [point.detach().requires_grad_() for point in at]
            return list(self._with_gradient(leaves, batch)[1])

    def loss_and_gradient(self, batch: Batch, *, seed: int = 0) -> tuple[float, Gradients]:
        """The mean loss of a batch, and ĝ. One forward and backward."""
        with torch.enable_grad(), self.undisturbed(seed):
            loss, gradient = self._with_gradient(self.aliases(), batch)
        return loss.item(), list(gradient)

    def differentiable_gradient(self, leaves: Sequence[Tensor], batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean loss of a batch and its gradient at these leaves, with the graph that the gradient came by."""
        return self._with_gradient(leaves, batch, create_graph=True)

    def _with_gradient(
        self, leaves: Sequence[Tensor], batch: Batch, *, create_graph: bool = False
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean loss and its gradient, which is taken while the leaves stand in the model.

        A checkpointed module, run again in the backward, would otherwise be run at the model's own parameters, and
        leave the model's own buffers (BatchNorm's statistics) changed.
        """

        def differentiated() -> tuple[Tensor, tuple[Tensor, ...]]:
            loss = with_graph(checked_loss(self.loss(self.model, batch), batch).mean())
            # A function without a second derivative says so only where what comes from above has a gradient too.
            one = torch.ones_like(loss, requires_grad=create_graph)
            try:
                return loss, torch.autograd.grad(
                    loss, leaves, one, create_graph=create_graph, allow_unused=True, materialize_grads=True
                )
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                raise BadArgument(
                    "`model` is checkpointed with use_reentrant=True, and torch then makes no gradient beside "
                    "training's own: checkpoint it with use_reentrant=False."
                ) from error

        return self.standing(leaves, differentiated)

    def per_example_gradients(self, batch: Batch, *, seed: int = 0) -> Gradients:
        """The gradient of every example, by `torch.func.vmap`: each tensor has shape [examples, *parameter].

        Memory: examples × d numbers. Only for a loss that is not coupled (see `traits`).
        """
        names = self.names

        def one(leaves: dict[str, Tensor], example: Batch) -> Tensor:
            return self.mean_loss([leaves[name] for name in names], as_batch_of_one(example, batch))

        # The fused attention kernel has no batching rule; the plain one computes the same numbers.
        with torch.enable_grad(), self.undisturbed(seed), sdpa_kernel(SDPBackend.MATH):
            leaves = {name: p.detach() for name, p in zip(names, self.parameters, strict=True)}
            by_name = vmap(grad(one), in_dims=(None, example_axes(batch)), randomness="different")(
                leaves, mapped(batch, Tensor.detach)
            )
        # Of what else the loss hangs on (another model's parameters) there may be a graph.
        return [by_name[name].detach() for name in names]

    def traits(self, batch: Batch, *, seed: int = 0) -> Traits:
        """Whether the loss is a fixed function of the batch: found out by running it, on the first few batches.

        Compares the loss of the batch with the mean over three parts of unlike size, and looks whether a random
        number was drawn. Remembered per mode (train, eval); costs two forwards on each of the first four asked.
        """
        mode = tuple(module.training for module in self.model.modules())
        asked, traits = self._traits.get(mode, (0, Traits()))
        if asked < PROBES:
            traits |= self._probe(batch, seed)
            self._traits[mode] = (asked + 1, traits)
        return traits

    @torch.no_grad()
    def _probe(self, batch: Batch, seed: int) -> Traits:
        leaves, size = self.aliases(), batch_size(batch)
        with self.undisturbed(seed):
            before = _generator_states(self.devices)
            whole = self.mean_loss(leaves, batch)
            drawn = any(not torch.equal(a, b) for a, b in zip(before, _generator_states(self.devices), strict=True))
            if drawn or size < 2 or self._uses_batch_statistics():
                return Traits(random=drawn, coupled=self._uses_batch_statistics())  # draws would hide a coupling
            parts = _uneven(batch, size)
            losses = torch.stack([self.mean_loss(leaves, part) for part in parts])
            twice = self.mean_loss(leaves, joined([parts[-1], parts[-1]]))
        weights = torch.tensor([batch_size(part) / size for part in parts], dtype=losses.dtype, device=losses.device)
        tolerance = min(1e3 * torch.finfo(losses.dtype).eps, 1e-2)  # rounding of sums, not a difference in kind
        off = (whole - weights @ losses).abs() > tolerance * (weights @ losses.abs())
        sums = torch.stack([whole - losses.sum(), twice - 2 * losses[-1]]).abs()
        if off and (sums <= tolerance * losses.abs().sum()).all():
            raise BadArgument(
                "`loss` is the sum over the examples of a batch: return their mean, or one value an example."
            )
        return Traits(coupled=bool(off))

    def _uses_batch_statistics(self) -> bool:
        return any(
            isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
            for module in self.model.modules()
        )

    def standing(self, parameters: Sequence[Tensor], work: Callable[[], Result]) -> Result:
        """What some work comes to while these parameters, and copies of the buffers, stand in the model.

        Also a backward is such work: a checkpointed module runs its forward once more there.
        """
        done: Result = functional_call(self._standing, self._state(parameters), (work,), tie_weights=False)
        return done

    def _evaluate(self, parameters: Sequence[Tensor], batch: Batch) -> Tensor:
        return checked_loss(self.standing(parameters, lambda: self.loss(self.model, batch)), batch)

    def _state(self, parameters: Sequence[Tensor]) -> dict[str, Tensor]:
        """Every place in the model that holds a trainable parameter or a buffer, with what is to stand there.

        Each place once: a module that is registered twice has two names and one place, and torch's own tying of
        weights would put the second stand-in back for good.
        """
        standing = dict(zip(map(id, self.parameters), parameters, strict=True))
        copies: dict[int, Tensor] = {}
        state: dict[str, Tensor] = {}
        for prefix, module in self.model.named_modules(prefix="model"):
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if id(parameter) in standing:
                    state[f"{prefix}.{name}"] = standing[id(parameter)]
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
                state[f"{prefix}.{name}"] = copies.setdefault(id(buffer), buffer.clone())
        return state


class _Standing(nn.Module):
    """Work on a model as the forward of a module, so that torch can put other parameters in place."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


def checked_loss(value: Any, batch: Batch) -> Tensor:
    """The loss, if it is a mean or one value per example.

    Raises:
        BadArgument: It is no tensor of floating-point numbers, or of another shape.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"{type(value).__name__}"
        raise BadArgument(f"`loss` returned {got}: return a tensor of floating-point numbers.")
    if value.dim() and tuple(value.shape) != (size := batch_size(batch),):
        raise BadArgument(
            f"`loss` returned shape {list(value.shape)}: expected the mean, [], or one value per example, [{size}]."
        )
    return value


def with_graph(loss: Tensor) -> Tensor:
    """The loss, if it hangs on the parameters.

    Raises:
        BadArgument: It does not.
    """
    if not loss.requires_grad:
        raise BadArgument(
            "`loss` does not depend on any trainable parameter, or was computed without a graph "
            "(`no_grad`, `.item()`, argmax): return a tensor that `backward` can follow."
        )
    return loss


def supervised(criterion: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of (input, target) batches: `criterion(model(input), target)`.

    Example:
        >>> Objective(model, supervised(nn.CrossEntropyLoss(reduction="none")))  # doctest: +SKIP
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return criterion(model(inputs), targets)

    return loss


def _uneven(batch: Batch, size: int) -> list[Batch]:
    """Parts of unlike size: halves of equal size could agree by chance where the loss divides by a count."""
    if size < 6:
        return chunks(batch, 2)
    return [span(batch, 0, size // 6), span(batch, size // 6, size // 2), span(batch, size // 2, size)]


def _generator_states(devices: set[torch.device]) -> list[Tensor]:
    """The state of torch's generators on the CPU and on the given devices."""
    return [torch.get_rng_state()] + [
        torch.get_device_module(device.type).get_rng_state(device) for device in devices if device.type != "cpu"
    ]
