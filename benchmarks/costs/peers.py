"""What others ask for the same thing, where they are installed: BackPACK, Cockpit, Opacus, and
hooks by hand."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from costs.rounds import Step
from costs.steps import ByHand
from gradiometer import BadArgument, Problem

SUPPORTED = ("cnn", "mlp", "thousand")
"""Networks that are a plain `Sequential` of layers BackPACK has rules for; it has none for
attention or LayerNorm, and none for the gradients of single examples through BatchNorm in training
mode."""


def backpack(problem: Problem, extension: str) -> Step:
    """By hand, with one BackPACK extension on the backward."""
    library, extensions = import_module("backpack"), import_module("backpack.extensions")
    by_hand, criterion = _extended(library, problem)
    wanted: Callable[[], Any] = getattr(extensions, extension)

    def step() -> None:
        inputs, targets = next(by_hand.batches)
        by_hand.optimizer.zero_grad()
        loss = criterion(by_hand.model(inputs), targets)
        with library.backpack(wanted()):
            loss.backward()
        by_hand.optimizer.step()

    return step


def cockpit(problem: Problem) -> Step:
    """By hand, with Cockpit's smallest set of quantities, "economy", tracked at every step."""
    library = import_module("cockpit")
    economy = import_module("cockpit.utils.configuration").configuration("economy")
    by_hand, criterion = _extended(import_module("backpack"), problem)
    each = nn.CrossEntropyLoss(reduction="none")
    pit = library.Cockpit(by_hand.model.parameters(), quantities=economy)
    index = iter(range(2**62))

    def step() -> None:
        inputs, targets = next(by_hand.batches)
        at = next(index)
        by_hand.optimizer.zero_grad()
        outputs = by_hand.model(inputs)
        loss = criterion(outputs, targets)
        known = {
            "batch_size": len(targets),
            "individual_losses": each(outputs.detach(), targets),
            "loss": loss,
            "optimizer": by_hand.optimizer,
        }
        with pit(at, info=known):
            loss.backward(create_graph=pit.create_graph(at))
        by_hand.optimizer.step()

    return step


def plain_hooks(problem: Problem) -> Step:
    """By hand, with the two hooks that anyone writes for a model of Linear layers on [examples,
    features]."""
    by_hand, norms = ByHand(problem), list[Tensor]()
    parameters = list(by_hand.model.parameters())

    def forward(layer: nn.Module, entered: Any, output: Tensor) -> None:
        inputs = entered[0].detach()
        output.register_hook(
            lambda error: norms.append(error.square().sum(1) * (inputs.square().sum(1) + 1))
        )

    for layer in by_hand.model.modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(forward)
        elif any(True for _ in layer.parameters(recurse=False)):
            raise BadArgument("`problem` has another layer than Linear.")

    def step() -> None:
        norms.clear()
        by_hand.backward(next(by_hand.batches))
        whole = (
            torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
            .square()
            .sum()
        )
        torch.cat([torch.stack(norms).sum(0), whole[None]]).tolist()
        by_hand.optimizer.step()

    return step


def opacus(problem: Problem) -> Step:
    """By hand, with the norms of single examples that Opacus reads for ghost clipping."""
    library = import_module("opacus.grad_sample")
    by_hand = ByHand(problem)
    wrapped = library.GradSampleModuleFastGradientClipping(
        by_hand.model, max_grad_norm=1.0, use_ghost_clipping=True
    )

    def step() -> None:
        wrapped.zero_grad()
        problem.loss(wrapped, next(by_hand.batches)).mean().backward()
        wrapped.get_norm_sample().square().tolist()
        by_hand.optimizer.step()

    return step


PEERS: dict[str, Callable[[Problem], Step]] = {
    "BackPACK BatchL2Grad": lambda problem: backpack(problem, "BatchL2Grad"),
    "BackPACK Variance": lambda problem: backpack(problem, "Variance"),
    "Cockpit economy": cockpit,
    "Opacus, norms of examples": opacus,
    "plain hooks": plain_hooks,
}


def peers(name: str, problem: Problem) -> tuple[dict[str, Step], dict[str, str]]:
    """The peers that run on this network here, and for the others the reason why not."""
    if name not in SUPPORTED:
        return {}, {"BackPACK, Cockpit": "BackPACK has no rules for some of the layers"}
    running, reasons = dict[str, Step](), dict[str, str]()
    for peer, make in PEERS.items():
        try:
            step = make(problem)
            step()
        except Exception as error:  # another's code, of any age: whatever it does is its answer
            reasons[peer] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        else:
            running[peer] = step
    return running, reasons


def _extended(library: Any, problem: Problem) -> tuple[ByHand, Any]:
    # Torch warns that images ask for no gradient; BackPACK's hooks do not either.
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    by_hand = ByHand(problem)
    library.extend(by_hand.model)
    return by_hand, library.extend(nn.CrossEntropyLoss())
