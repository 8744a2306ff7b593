"""Copies of a training: functions that a module keeps work on the copy, and losses may take
gradients themselves."""

import pickle
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradiometer import supervised
from gradiometer.loop import Loop, fork

INPUTS = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
DATA = INPUTS, INPUTS.sum(dim=1)
LOSS = supervised(nn.MSELoss(reduction="none"))


class Block(nn.Module):
    """As in minGPT and makemore: the layers of the block are called by a lambda over them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers = nn.ModuleDict(
            {"expand": nn.Linear(width, 4 * width), "project": nn.Linear(4 * width, width)}
        )
        self.layers, self.scale = layers, nn.Parameter(torch.ones(1))
        self.forwards = {"mlp": lambda x: layers["project"](functional.gelu(layers["expand"](x)))}
        self.several = [lambda x, scale=self.scale: x * scale]
        self.again = lambda x: 2 * self.forwards["mlp"](x)
        self.register_forward_hook(
            lambda module, given, output: output + 0.1 * layers["expand"](given[0]).mean()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.several[0](self.again(x))


def training() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Block(8), nn.Linear(8, 1), nn.Flatten(0))
    scale = model[1].scale
    scale.register_hook(lambda gradient: gradient + model[0].bias.detach().mean())
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)


def parameters(model: nn.Module) -> dict[str, Any]:
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return {"numbers": values.abs(), "signs": values.sign()}


def test_a_block_whose_layers_are_called_by_lambdas_is_forked_as_it_would_have_gone_on() -> None:
    batches = [
        (part, target) for part, target in zip(DATA[0].split(8), DATA[1].split(8), strict=True)
    ]
    model, optimizer = training()
    loop = Loop(model, optimizer, loss=LOSS, batches=lambda seed: batches, evaluate=parameters)
    found = fork(loop, ["rate 2x"], horizon="6 updates", tail="none", replicates=1).of("go on")[0]
    sent = pickle.loads(cloudpickle.dumps(loop))
    for batch in batches[:6]:
        sent.update(batch)
        optimizer.zero_grad()
        LOSS(model, batch).mean().backward()
        optimizer.step()
    for name, expected in parameters(model).items():
        assert (found.readouts[name].values == expected.numpy()).all()  # type: ignore[union-attr]
        assert torch.equal(parameters(sent.model)[name], expected)


def penalised(model: nn.Module, batch: Any) -> Tensor:
    """The loss of a gradient penalty, which needs a graph wherever it is called."""
    inputs = batch[0].clone().requires_grad_()
    output = model(inputs)
    (gradient,) = torch.autograd.grad(output.sum(), inputs, create_graph=True)
    return functional.mse_loss(output, batch[1]) + 0.1 * (gradient.norm(dim=1) - 1).square().mean()


def test_a_loss_that_takes_gradients_of_its_inputs_is_forked_and_read_out() -> None:
    model, optimizer = training()
    loop = Loop(model, optimizer, loss=penalised, batches=DATA, batch_size=8, evaluate=DATA)
    found = fork(loop, ["rate 0.5x"], horizon="8 updates", replicates=2)
    assert found.readouts == ("train_loss", "test_loss") and found.effects()[0].verdict == "worse"
    assert all(parameter.grad is None for parameter in model.parameters())


class Carried(nn.Module):
    """Keeps its hidden state, with a graph, from one batch to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.last = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 1)
        self.state: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        before = None if self.state is None else (self.state[0].detach(), self.state[1].detach())
        output, self.state = self.cell(x[:, None], before)
        return self.last(output[:, 0])[:, 0]


def test_a_hidden_state_that_a_module_keeps_is_copied() -> None:
    torch.manual_seed(0)
    model = Carried()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [
        (part, target) for part, target in zip(DATA[0].split(8), DATA[1].split(8), strict=True)
    ]
    LOSS(model, batches[0]).mean().backward()
    loop = Loop(model, optimizer, loss=LOSS, batches=lambda seed: batches)
    copy = loop.copy()
    assert copy.model.state is not None and model.state is not None
    assert (
        torch.equal(copy.model.state[0], model.state[0])
        and copy.model.state[0] is not model.state[0]
    )
    one, two = copy.update(batches[1]), loop.copy().update(batches[1])
    assert one == two
