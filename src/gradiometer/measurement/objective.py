"""The objective: a model and its loss, as a function of parameters and a batch; and what a loss may
be."""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from gradiometer.errors import Unsupported, UserCodeFailed, calling, mark
from gradiometer.measurement.batch import (
    Batch,
    as_batch_of_one,
    batch_size,
    example_axes,
    join_batches,
    mapped,
    span,
)
from gradiometer.measurement.untouched import Surroundings
from gradiometer.randomness import GlobalStates

if TYPE_CHECKING:
    from gradiometer.measurement.hidden_state import HiddenState

Result = TypeVar("Result")

# One tensor per trainable parameter, in the order of `Objective.names`.
Gradients = list[Tensor]
# Called as `loss(model, batch)`. Returns one value per example, shape [examples], or their mean,
# shape [].
Loss = Callable[[nn.Module, Batch], Tensor]

WITHOUT_PARAMETERS = (
    "`model` has no trainable parameters, so there is no gradient to measure: "
    "call `requires_grad_(True)` on the parameters to train."
)


def explain(error: Exception) -> None:
    """Say of an error in a loss or its backward that it was raised there.

    Raises:
        Unsupported: The model is checkpointed in a way that allows no gradient here.
    """
    mark(error, "loss")
    if isinstance(error, RuntimeError) and "use_reentrant" in str(error):
        raise Unsupported(
            "`model` is checkpointed with use_reentrant=True, for which torch cannot compute a "
            "gradient outside `backward()`: checkpoint it with use_reentrant=False."
        ) from error


def checked_loss(value: Any, batch: Batch, *, has_graph: bool = False) -> Tensor:
    """The value that a loss returned for this batch, if it is a mean or one value per example.

    Args:
        value: What the loss returned.
        batch: The examples.
        has_graph: True if a `backward` from it must reach the parameters.

    Raises:
        UserCodeFailed: The value is not a floating-point tensor, has another shape, or does not
            depend on the parameters.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        raise UserCodeFailed(f"`loss` returned {got}: return a tensor of floating-point numbers.")
    if value.dim() and tuple(value.shape) != (batch_size(batch),):
        raise UserCodeFailed(
            f"`loss` returned shape {list(value.shape)}: expected the mean, [], or one value per "
            f"example, [{batch_size(batch)}]."
        )
    if has_graph and not value.requires_grad:
        raise UserCodeFailed(
            "`loss` does not depend on any trainable parameter, or was computed without a graph "
            "(`no_grad`, `.item()`, argmax): return a tensor that `backward` can follow."
        )
    return value


def supervised(criterion: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of (input, target) batches: `criterion(model(input), target)`.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import supervised
    >>> loss = supervised(nn.MSELoss(reduction="none"))
    >>> loss(nn.Flatten(0), (torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 5.0])))
    tensor([1., 9.])
    """

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets = batch
        return criterion(model(inputs), targets)

    return loss


@dataclass(frozen=True)
class Traits:
    """The kind of function of the batch that a loss is.

    Args:
        random: The loss draws random numbers (Dropout, augmentation inside the model).
        coupled: The loss of a batch is not the mean of the losses of its parts (batch statistics,
            weights normalised over the batch, contrastive losses).
    """

    random: bool = False
    coupled: bool = False

    @property
    def fixed(self) -> bool:
        """True if the gradient of a batch is the mean of the gradients of its parts. Then one of
        these gradients follows from the others by subtraction."""
        return not (self.random or self.coupled)

    def __or__(self, other: "Traits") -> "Traits":
        return Traits(self.random or other.random, self.coupled or other.coupled)


def probe_traits(
    mean_loss: Callable[[Batch], Tensor],
    model: nn.Module,
    batch: Batch,
    devices: Iterable[torch.device],
    surroundings: Surroundings,
) -> Traits:
    """The traits that this batch shows: compares its loss with the losses of three parts of
    different sizes.

    Args:
        mean_loss: The mean loss of a batch.
        model: The model in this loss.
        batch: The examples.
        devices: Devices whose random state may change.
        surroundings: Generators and other models that the loss may use.

    Raises:
        UserCodeFailed: The loss is a sum over the examples.
    """
    devices, size = list(devices), batch_size(batch)
    before, own = GlobalStates(devices), surroundings.states()
    whole = mean_loss(batch)
    after = GlobalStates(devices)
    drawn = not after.same_as(before, of_python=False) or own != surroundings.states()
    # perhaps for something else: checkers of types draw examples
    if not (drawn or after.same_as(before)):
        drawn = not torch.equal(whole, mean_loss(batch))
    coupled = any(
        isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
        for module in (*model.modules(), *surroundings.modules)
    )
    if drawn or coupled or size < 2:
        # random numbers would hide a coupling of other kinds
        return Traits(random=drawn, coupled=coupled)
    # Parts of different sizes: equal halves could agree by chance if the loss divides by a count.
    ends = [0, size // 6, size // 2, size] if size >= 6 else [0, size // 2, size]
    parts = [span(batch, *ends_of_part) for ends_of_part in pairwise(ends)]
    losses = torch.stack([mean_loss(part) for part in parts])
    twice = mean_loss(join_batches([parts[-1], parts[-1]]))
    weights = torch.tensor(
        [batch_size(part) / size for part in parts], dtype=losses.dtype, device=losses.device
    )
    tolerance = min(1e3 * torch.finfo(losses.dtype).eps, 1e-2)  # the rounding error of sums
    differs = (whole - weights @ losses).abs() > tolerance * (weights @ losses.abs())
    sums = torch.stack([whole - losses.sum(), twice - 2 * losses[-1]]).abs()
    if differs and (sums <= tolerance * losses.abs().sum()).all():
        raise UserCodeFailed(
            "`loss` is the sum over the examples of a batch: return their mean, or one value per "
            "example."
        )
    return Traits(coupled=bool(differs))


def modules_of(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, each once. Faster than `model.modules()`, and in another order."""
    found, waiting = {model: None}, [model]
    while waiting:
        for child in waiting.pop()._modules.values():
            if child is not None and child not in found:
                found[child] = None
                waiting.append(child)
    return list(found)


class Objective:
    """A model and its loss, as a function of parameters and a batch.

    Its methods leave the model unchanged, bit for bit: parameters, `.grad`, buffers, mode and every
    random state. Hooks on parameters do not fire. Hooks on modules do, since they are part of the
    forward. State that a forward keeps elsewhere (a counter in a Python attribute) is restored; a
    loss that uses an iterator, which cannot be restored, is refused.

    Args:
        model: Any module. Frozen parameters stay fixed; a shared parameter counts once.
        loss: Called as `loss(model, batch)`; returns one value per example, shape [examples], or
            their mean, shape []. See `supervised` for a criterion on (input, target) pairs.

    Raises:
        Unsupported: The model has no trainable parameter.

    >>> import torch
    >>> from torch import nn
    >>> from gradiometer import Objective
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(model.weight, 3.0)
    >>> objective = Objective(model, lambda model, batch: model(batch).square().mean())
    >>> objective.loss_and_gradient(torch.ones(8, 1))  # w² at w = 3 is 9, and its gradient is 2 w
    (9.0, [tensor([[6.]])])
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model = model
        self.loss = loss
        self.names = tuple(
            name for name, parameter in model.named_parameters() if parameter.requires_grad
        )
        if not self.names:
            raise Unsupported(WITHOUT_PARAMETERS)
        owners = [name.rpartition(".")[0] or "model" for name in self.names]
        self.layers = tuple(dict.fromkeys(owners))
        self.layer_of = [self.layers.index(owner) for owner in owners]
        self._paths = [(name.split(".")[:-1], name.rpartition(".")[2]) for name in self.names]
        self._traits: dict[tuple[bool, ...], tuple[int, Traits]] = {}

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, in the order of `names`.

        Raises:
            Unsupported: The model no longer has one of them.
        """
        # Looked up at every call, since modules and parameters may be replaced meanwhile. Only the
        # dictionaries of the modules are read, which takes a few microseconds.
        found = []
        try:
            for path, name in self._paths:
                module: Any = self.model
                for child in path:
                    module = module._modules[child]
                found.append(module._parameters[name])
        except (KeyError, AttributeError) as error:  # a child may be None by now
            raise Unsupported(
                f"`model` no longer has the parameter {'.'.join((*path, name))}, as after pruning "
                "or a parametrization: measure it as a new model from here on."
            ) from error
        return found

    def trains(self, parameters: Sequence[nn.Parameter]) -> bool:
        """True if the model trains these parameters now, and no others."""
        trained = {
            id(parameter)
            for module in modules_of(self.model)
            for parameter in module._parameters.values()
            if parameter is not None and parameter.requires_grad
        }
        return trained == set(map(id, parameters))

    @property
    def devices(self) -> set[torch.device]:
        """The devices of the trainable parameters."""
        return {parameter.device for parameter in self.parameters}

    @property
    def dimension(self) -> int:
        """d, the number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def leaves(self) -> Gradients:
        """New leaf tensors that share the parameters' memory, so that autograd fires no hook of the
        parameters."""
        return [parameter.detach().requires_grad_() for parameter in self.parameters]

    @cached_property
    def surroundings(self) -> Surroundings:
        """Generators and other models that the loss uses."""
        return Surroundings(self.loss, self.model)

    @cached_property
    def hidden_state(self) -> "HiddenState":
        """What the loss and the model keep elsewhere, such as a counter in an attribute."""
        from gradiometer.measurement.hidden_state import HiddenState  # noqa: PLC0415 (loaded when a loss runs)

        return HiddenState(self.loss, self.model)

    def untouched_randomness(
        self, seed: int, at: Sequence[Tensor] | None = None
    ) -> AbstractContextManager[object]:
        """A context in which the loss can run. Every random state, other models' buffers and hidden
        state are restored at its end.

        Args:
            seed: Seed of the random numbers that the loss draws.
            at: The parameters at which it runs; default: the model's own.
        """
        shared = GlobalStates({one.device for one in at or self.parameters}, seed)
        surroundings, hidden = self.surroundings, self.hidden_state
        # most losses use no other generators or modules, and keep nothing
        is_clean = hidden.is_clean and hidden.calls + 1 < hidden.next
        if is_clean and not (surroundings.generators or surroundings.modules):
            hidden.calls += 1
            return shared
        whole = ExitStack()
        whole.enter_context(hidden.untouched())
        whole.enter_context(shared)
        whole.enter_context(surroundings.untouched(seed))
        return whole

    def mean_loss(self, parameters: Sequence[Tensor], batch: Batch) -> Float[Tensor, ""]:
        """The mean loss of a batch at the given parameters."""
        with calling("loss"):
            value = self.with_parameters(parameters, lambda: self.loss(self.model, batch))
        return checked_loss(value, batch).mean()

    def gradient(
        self, batch: Batch, *, at: Sequence[Tensor] | None = None, seed: int = 0
    ) -> Gradients:
        """ĝ, the gradient of the mean loss of a batch. One forward and backward.

        Args:
            batch: The examples.
            at: Parameters, one tensor each in the order of `names`; default: the model's own.
            seed: Seed of the random numbers that the loss draws.
        """
        leaves = self.leaves() if at is None else [point.detach().requires_grad_() for point in at]
        with torch.enable_grad(), self.untouched_randomness(seed, leaves):
            return list(self.differentiable_gradient(leaves, batch, create_graph=False)[1])

    def loss_and_gradient(self, batch: Batch, *, seed: int = 0) -> tuple[float, Gradients]:
        """The mean loss of a batch, and ĝ. One forward and backward."""
        with torch.enable_grad(), self.untouched_randomness(seed):
            loss, gradient = self.differentiable_gradient(self.leaves(), batch, create_graph=False)
        return loss.item(), list(gradient)

    def differentiable_gradient(
        self, leaves: Sequence[Tensor], batch: Batch, *, create_graph: bool = True
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The mean loss of a batch and its gradient at these leaves, with the graph of the
        gradient.

        The backward, too, runs while the leaves replace the model's parameters. Otherwise a
        checkpointed module, which runs again in the backward, would use the model's own parameters
        and change its own buffers.
        """

        def differentiate() -> tuple[Tensor, tuple[Tensor, ...]]:
            value = self.loss(self.model, batch)
            loss = checked_loss(value, batch, has_graph=True).mean()
            # A function without a second derivative raises only if its upstream gradient requires a
            # gradient too. If torch is given one, it imports sympy, which takes half a second.
            one = torch.ones_like(loss, requires_grad=True) if create_graph else None
            return loss, torch.autograd.grad(
                loss,
                leaves,
                one,
                create_graph=create_graph,
                allow_unused=True,
                materialize_grads=True,
            )

        try:
            return self.with_parameters(leaves, differentiate)
        except Exception as error:
            explain(error)
            raise

    def per_example_gradients(self, batch: Batch, *, seed: int = 0) -> Gradients:
        """The gradient of every example, by `torch.func.vmap`: each tensor has shape [examples,
        *parameter].

        Memory: examples × d numbers. Only for a loss that is not coupled (see `traits`).
        """
        names = self.names

        def one(leaves: dict[str, Tensor], example: Batch) -> Tensor:
            return self.mean_loss([leaves[name] for name in names], as_batch_of_one(example, batch))

        # The fused attention kernel has no batching rule; the plain one computes the same numbers.
        with torch.enable_grad(), self.untouched_randomness(seed), sdpa_kernel(SDPBackend.MATH):
            leaves = {name: p.detach() for name, p in zip(names, self.parameters, strict=True)}
            by_name = vmap(grad(one), in_dims=(None, example_axes(batch)), randomness="different")(
                leaves, mapped(batch, Tensor.detach)
            )
        # There may be a graph to other tensors that the loss depends on, such as another model's
        # parameters.
        return [by_name[name].detach() for name in names]

    def traits(self, batch: Batch, *, seed: int = 0) -> Traits:
        """The traits of the loss: does it draw random numbers, does it couple the examples of a
        batch?

        This runs the loss on the first 4 batches in each mode (train, eval) and compares the loss
        of the batch with the mean over three parts of different sizes. Costs about two forwards on
        each of these batches, nothing later.
        """
        mode = tuple([module.training for module in modules_of(self.model)])
        probed, traits = self._traits.get(mode, (0, Traits()))
        # 4: number of batches on which `Objective.traits` tests the loss. One batch could miss a
        # coupling by chance (class weights that happen to balance). Further batches can only change
        # the answer from fixed to not fixed.
        if probed < 4:
            with torch.no_grad(), self.untouched_randomness(seed):
                leaves = self.leaves()
                traits |= probe_traits(
                    lambda part: self.mean_loss(leaves, part),
                    self.model,
                    batch,
                    self.devices,
                    self.surroundings,
                )
            self._traits[mode] = (probed + 1, traits)
        return traits

    def with_parameters(self, parameters: Sequence[Tensor], work: Callable[[], Result]) -> Result:
        """The result of `work()`, run while these parameters and copies of the buffers replace the
        model's own.

        The work may include a backward. That is needed for a checkpointed module, which runs its
        forward again there.
        """
        replacements = dict(zip(map(id, self.parameters), parameters, strict=True))
        # A tensor that several modules share has one replacement for all of them.
        copies: dict[int, Tensor] = {}
        before: list[tuple[MutableMapping[str, Any], str, Tensor]] = []
        try:
            for module in modules_of(self.model):
                for name, parameter in module._parameters.items():
                    if parameter is not None and id(parameter) in replacements:
                        before.append((module._parameters, name, parameter))
                        module._parameters[name] = replacements[id(parameter)]  # type: ignore[assignment]
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        before.append((module._buffers, name, buffer))
                        if id(buffer) not in copies:
                            copies[id(buffer)] = buffer.clone()
                        module._buffers[name] = copies[id(buffer)]
            return work()
        finally:
            for tensors, name, tensor in before:
                tensors[name] = tensor
