"""What counts as an example, where `w.step(loss)` is called without the batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradiometer import diagnose, watch
from gradiometer.verdict.claims import Claim
from gradiometer.verdict.triage.signs import Signs

LOSS = nn.CrossEntropyLoss()


class Cell(nn.Module):
    """A recurrent network written by hand, which takes a letter and its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.state = nn.Linear(14, 8)
        self.out = nn.Linear(14, 3)

    def forward(self, letter: Tensor, state: Any) -> tuple[Tensor, Any]:
        row = torch.cat((letter, state["hidden"]), dim=1)
        return self.out(row), {"hidden": self.state(row).tanh()}


@pytest.mark.parametrize("words", [1, 3])
def test_the_letters_that_a_cell_reads_are_no_examples(tmp_path: Path, words: int) -> None:
    """A name of six letters, with one label, was a batch of six."""
    torch.manual_seed(0)
    model = Cell()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(60):
            losses = []
            for _ in range(words):
                state = {"hidden": torch.zeros(1, 8)}
                for _ in range(4 + step % 5):
                    output, state = model(torch.randn(1, 6), state)
                losses.append(LOSS(output, torch.randint(3, (1,))))
            optimizer.zero_grad()
            loss = torch.stack(losses).mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert w.run is not None and w.run.configuration.batch_size == words
    assert set(w.run.series("noise").batch_size.tolist()) == {words}


class Coordinates(nn.Module):
    """A network that takes a dictionary, as one that learns an image from its coordinates does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"colour": self.layer(given["coordinates"])}


def test_the_batch_is_found_in_a_dictionary_that_a_model_takes(tmp_path: Path) -> None:
    """`w.step(loss)` ended such a training with "no call of the model with a tensor was seen"."""
    torch.manual_seed(0)
    model = Coordinates()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            optimizer.zero_grad()
            loss = model({"coordinates": torch.randn(16, 2)})["colour"].square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert set(w.run.series("noise").batch_size.tolist()) == {16}


class OfNodes(nn.Module):
    """A graph network: the features of all nodes, and which are neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(20, 16), nn.Linear(16, 8)

    def forward(self, nodes: Tensor, neighbours: Tensor) -> Tensor:
        if neighbours.dtype == torch.int64:
            ends, neighbours = neighbours, torch.zeros(len(nodes), len(nodes))
            neighbours[ends[0], ends[1]] = 1
        hidden = (neighbours @ self.inner(nodes)).relu()
        code = self.outer(neighbours @ hidden)
        return code @ code.T


@pytest.mark.parametrize("kind", ["sparse", "dense", "edges", "by name", "rows alone"])
def test_nodes_of_one_graph_are_no_batch_that_is_too_large(tmp_path: Path, kind: str) -> None:
    """An eighth of the batch was advised, which a graph does not have."""
    torch.manual_seed(0)
    nodes, model = torch.randn(100, 20), OfNodes()
    dense = (torch.rand(100, 100) < 0.03).float()
    edges = dense.nonzero().T
    given = {"sparse": dense.to_sparse(), "dense": dense, "edges": edges}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False, steps=250) as w:
        for _ in range(250):
            optimizer.zero_grad()
            if kind == "rows alone":
                made = model.outer(model.inner(nodes).relu())[:, 0]
                loss = (made - nodes[:, 0]).square().mean()
            else:
                out = (
                    model(nodes=nodes, neighbours=edges)
                    if kind == "by name"
                    else model(nodes, given[kind])
                )
                loss = nn.functional.binary_cross_entropy_with_logits(out, dense)
            loss.backward()
            w.step(loss)
            optimizer.step()
    claims = [each.claim for each in diagnose(w.run).triage.claims]
    assert (Claim.BATCH_LARGE in claims) == (kind == "rows alone"), claims


@pytest.mark.parametrize("accumulation", [1, 4])
def test_passes_over_the_data_are_counted_with_all_backwards_of_an_update(
    tmp_path: Path, accumulation: int
) -> None:
    """Four backwards an update made one pass of four: 18 updates an epoch were told, of 5."""
    torch.manual_seed(0)
    model = nn.Linear(20, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    examples = torch.randn(96, 20)
    with watch(model, optimizer, accumulation=accumulation, out=tmp_path, page=False) as w:
        left: list[Tensor] = []
        for _ in range(150):
            optimizer.zero_grad()
            for _ in range(accumulation):
                left = left or list(examples[torch.randperm(96)].split(8))
                loss = model(left.pop()).square().mean()
                (loss / accumulation).backward()
                w.step(loss)
            optimizer.step()
    assert Signs.of(w.run).updates_an_epoch == pytest.approx(12 / accumulation, rel=0.3)
