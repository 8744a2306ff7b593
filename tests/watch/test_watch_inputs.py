"""Two lines in a loop: `w.step(loss)` without the batch, whose size is seen at the model."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradiometer import BadArgument, say, supervised, watch
from gradiometer.integrations.watch import inputs as inputs_seen
from gradiometer.verdict.triage.signs import Signs
from watched_loop import READS_LABELS

LOSS = nn.CrossEntropyLoss()


class Keyword(nn.Module):
    """Takes its inputs by name, after a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, *, scaled: bool, inputs: Tensor) -> Tensor:
        return self.inner(inputs * 2 if scaled else inputs)


def trained(
    folder: Path, *, watched: bool, given: bool = False, sizes: tuple[int, ...] = (32,)
) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = Keyword()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    w = watch(model, optimizer, out=folder, quiet=True, page=False) if watched else None
    if w is not None:
        w.__enter__()
    for step in range(200):
        inputs, labels = (
            torch.randn(sizes[step % len(sizes)], 20),
            torch.randint(3, (sizes[step % len(sizes)],)),
        )
        optimizer.zero_grad()
        loss = LOSS(model(scaled=True, inputs=inputs), labels)
        loss.backward()
        if w is not None:
            w.step(loss, (inputs, labels)) if given else w.step(loss)
        optimizer.step()
    if w is not None:
        w.__exit__(None, None, None)
    return model, w


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_two_lines_leave_training_as_it_was_and_see_the_size_of_the_batch(tmp_path: Path) -> None:
    plain, _ = trained(tmp_path, watched=False)
    model, w = trained(tmp_path, watched=True)
    assert same(plain, model)
    series = w.run.series("noise")
    assert set(series.batch_size.tolist()) == {32} and not w.run.warnings


def test_the_readings_are_those_of_a_loop_that_gives_its_batches(tmp_path: Path) -> None:
    _, seen = trained(tmp_path / "seen", watched=True)
    _, given = trained(tmp_path / "given", watched=True, given=True)
    one, other = (w.run.series("noise") for w in (seen, given))
    assert one.sampling == other.sampling and one.steps[0] == other.steps[0]
    for name, moment in one.moments.items():  # later readings depend on the clock
        assert moment[0] == pytest.approx(other.moments[name][0], nan_ok=True)


def test_two_lines_keep_few_updates_for_forks(tmp_path: Path) -> None:
    """A copy of the parameters at every step took seven times as long as the step of a small MLP."""
    _, w = trained(tmp_path, watched=True)
    assert w.request.kept_updates._count <= 3  # from steps 4, 32 and 256


@pytest.mark.page
def test_a_loop_whose_noise_cannot_be_seen_is_still_watched_for_what_limits_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = Keyword()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    inputs, labels = torch.randn(64, 20), torch.randint(3, (64,))
    with watch(model, optimizer, out=tmp_path) as w:

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = LOSS(model(scaled=False, inputs=inputs), labels)
            loss.backward()
            w.step(loss)
            return loss

        for _ in range(60):
            optimizer.step(closure)
    assert (
        w.run.signs
        and not w.run.gauges
        and [finding.gauge for finding in w.findings()] == ["triage"]
    )
    printed = capsys.readouterr().err
    assert (
        "looks for what limits the run. The gradient noise is not measured" in printed
        and "report.html" in printed
    )


def movements(folder: Path, *, closes: bool) -> np.ndarray:
    torch.manual_seed(0)
    model = Keyword()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=folder, quiet=True, page=False) as w:

        def backward() -> Tensor:
            inputs, labels = torch.randn(32, 20), torch.randint(3, (32,))
            optimizer.zero_grad()
            loss = LOSS(model(scaled=True, inputs=inputs), labels)
            loss.backward()
            w.step(loss)
            return loss

        for _ in range(60):
            if closes:
                optimizer.step(backward)
            else:
                backward()
                optimizer.step()
    return Signs.of(w.run).tensors["movement"]


def test_an_update_with_a_closure_is_looked_at_as_one_without(tmp_path: Path) -> None:
    """Lightning gives every optimizer a closure: without the movement no rate could be judged."""
    plain = movements(tmp_path, closes=False)
    assert len(plain) >= 5
    assert np.array_equal(plain, movements(tmp_path, closes=True), equal_nan=True)


def test_no_hook_is_left_and_copies_of_the_model_have_none_that_acts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Keyword()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        again = copy.deepcopy(model)
        pickle.loads(pickle.dumps(model))
        again(scaled=False, inputs=torch.randn(4, 20))
        loss = LOSS(model(scaled=False, inputs=torch.randn(8, 20)), torch.randint(3, (8,)))
        loss.backward()
        w.step(loss, torch.randn(8, 20))
        assert not model._forward_pre_hooks
        optimizer.step()
    assert not model._forward_pre_hooks


class Words(nn.Module):
    """A language model that takes its labels, and returns its loss in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

    def forward(self, inputs: Any, labels: Any = None) -> Any:
        logits = self.head(self.embedding(inputs))
        if labels is None:
            return logits
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())}


def of_pairs(model: nn.Module, batch: Any) -> Any:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())


def of_mappings(model: nn.Module, batch: Any) -> Any:
    return model(**batch)["loss"]


def of_one_tensor(model: nn.Module, batch: Any) -> Any:
    return (model(batch) - batch).square().mean()


def of_dropped(model: nn.Module, batch: Any) -> Any:
    return nn.functional.cross_entropy(nn.functional.dropout(model(batch[0]), 0.1), batch[1])


@pytest.mark.parametrize(
    ("model_of", "loss", "kind"),
    [
        (lambda: nn.Linear(20, 3), of_pairs, "pair"),
        (lambda: nn.Linear(20, 3), of_dropped, "pair"),
        (Words, of_pairs, "text"),
        (Words, of_mappings, "mapping"),
        (lambda: nn.Linear(20, 20), of_one_tensor, "one"),
    ],
    ids=["pair", "dropout", "text", "mapping", "one tensor"],
)
def test_with_a_loss_the_batch_is_seen(tmp_path: Path, model_of: Any, loss: Any, kind: str) -> None:
    """Both readings of the loop are those of one that gives its batches, to the bits."""
    ends = []
    for gives in (True, False):
        torch.manual_seed(0)
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        settings: Any = {"out": tmp_path, "quiet": True, "page": False, "every": 3, "parts": 2}
        with watch(model, optimizer, loss=loss, **settings) as w:
            for _ in range(20):
                batch: Any = torch.randn(8, 20)
                if kind == "pair":
                    batch = (batch, torch.randint(3, (8,)))
                if kind in ("text", "mapping"):
                    batch = torch.randint(11, (8, 5)), torch.randint(11, (8, 5))
                if kind == "mapping":
                    batch = dict(zip(("inputs", "labels"), batch, strict=True))
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch if gives else None)
                optimizer.step()
        assert not w.findings().warnings
        read = w.run.series("noise")
        ends.append([*read.moments.values(), *(one.detach().numpy() for one in model.parameters())])
        assert not model._forward_pre_hooks
    assert len(ends[0][0]) >= 6
    for one, other in zip(*ends, strict=True):
        assert np.array_equal(one, other)


def test_a_batch_that_is_needed_is_asked_for_by_name(tmp_path: Path) -> None:
    model = nn.Linear(20, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = LOSS(model(torch.randn(8, 20)), torch.randint(3, (8,)))
    outside = watch(model, optimizer, out=tmp_path, quiet=True)
    with pytest.raises(BadArgument, match="inside `with watch"):
        outside.step(loss)
    with (
        pytest.raises(
            BadArgument,
            match=r"`batch` is missing: `loss` needs it.*w.step\(loss, batch\)",
        ),
        watch(model, optimizer, loss=supervised(LOSS), out=tmp_path, quiet=True, page=False) as w,
    ):
        LOSS(model(torch.randn(8, 20)), torch.randint(3, (8,))).backward()
        w.step(loss)
    with (
        pytest.raises(BadArgument, match="no call of the model with a tensor was seen"),
        watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w,
    ):
        nn.functional.linear(torch.randn(8, 20), model.weight).sum().backward()
        w.step(loss)


class Inside(nn.Module):
    """Never called itself: loops call its method, or `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(20, 8), nn.Linear(8, 3)])

    def forward(self, inputs: Tensor) -> Tensor:
        first, last = self.layers
        return last(first(inputs).relu())

    def slope(self, inputs: Tensor) -> Tensor:
        """As in networks for physics: the gradient of an output with respect to the inputs."""
        return torch.autograd.grad(self.forward(inputs).sum(), inputs, create_graph=True)[0]


def test_a_model_that_is_not_called_itself_is_seen_at_its_first_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Inside()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            optimizer.zero_grad()
            loss = model.slope(torch.randn(32, 20, requires_grad=True)).square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
            model.forward(torch.randn(7, 20))  # an evaluation comes before the next batch
            with torch.no_grad():
                model.forward(torch.randn(9, 20))
    assert set(w.run.series("noise").batch_size.tolist()) == {32} and not w.run.warnings
    assert not any(layer._forward_pre_hooks for layer in model.modules())


class Fast(nn.Module):
    """The network of MAML: takes its weights as an argument, and has a `parameters` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.vars = nn.ParameterList([nn.Parameter(torch.randn(3, 20) / 5)])

    def forward(self, inputs: Tensor, weights: Any = None) -> Tensor:
        return nn.functional.linear(inputs, *(weights or self.vars))

    def parameters(self) -> Any:  # type: ignore[override]
        return self.vars


def test_a_network_with_parameters_of_its_own_is_looked_at(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Fast()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            optimizer.zero_grad()
            loss = LOSS(model(torch.randn(32, 20)), torch.randint(3, (32,)))
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert not w.run.warnings and Signs.of(w.run).tensors["movement"].size


def test_hooks_on_layers_go_when_the_model_itself_is_called(tmp_path: Path) -> None:
    model = Keyword()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False):
        assert model.inner._forward_pre_hooks
        model(scaled=False, inputs=torch.randn(8, 20))
        assert not model.inner._forward_pre_hooks and model._forward_pre_hooks


def test_indices_are_a_batch_also_if_a_layer_is_as_wide(tmp_path: Path) -> None:
    """256 users in a batch were one example, since a layer of the network took 256 numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            users = torch.randint(50, (32,))
            optimizer.zero_grad()
            loss = (model(users).flatten() - users % 2).square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert set(w.run.series("noise").batch_size.tolist()) == {32}


@pytest.mark.parametrize("shape", [(20,), (1, 20)])
@pytest.mark.parametrize("calls", [1, 5])
def test_states_that_a_policy_sees_one_at_a_time_are_the_examples(
    tmp_path: Path, shape: tuple[int, ...], calls: int
) -> None:
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(3):
            optimizer.zero_grad()
            loss = sum(model(torch.randn(shape)).square().sum() for _ in range(calls))
            loss.backward()
            w.step(loss)
            optimizer.step()
            with torch.no_grad():
                model(torch.randn(shape))  # an evaluation is no example
    assert w.run is not None and w.run.configuration.batch_size == calls


class Reader(nn.Module):
    """A recurrent network that is trained on one sequence at a time."""

    def __init__(self, *, batch_first: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.recurrent = nn.LSTM(6, 8, batch_first=batch_first)
        self.out = nn.Linear(8, 3)
        self.state: Any = None

    def loss(self, sentence: Tensor) -> Tensor:
        """The whole sentence, by a method of the model, as that of a tagger."""
        read, _ = self.recurrent(self.words(sentence)[:, None])
        return LOSS(self.out(read[:, 0]), sentence % 3)

    def forward(self, rows: Tensor) -> Tensor:
        """One time of some sequences, with the state kept, or all times of sequences of words."""
        if rows.is_floating_point():
            read, self.state = self.recurrent(rows[None], self.state)
            return self.out(read[0])
        read, _ = self.recurrent(self.words(rows))
        return self.out(read)


def losses_of_readers(kind: str) -> tuple[Reader, Callable[[int], Tensor]]:
    """A model, and its loss at a step."""
    model = Reader(batch_first=kind == "whole")

    def loss(step: int) -> Tensor:
        if kind == "words":
            return model.loss(torch.randint(20, (7 + step % 5,)))
        if kind == "whole":  # four sentences, each by a call of its own
            return sum(
                LOSS(model(torch.randint(20, (1, 9)))[0], torch.randint(3, (9,))) for _ in range(4)
            )
        model.state = None
        rows = 5 if kind == "rows" else 1
        return sum(model(torch.randn(rows, 6)).square().mean() for _ in range(6 + step % 5))

    return model, loss


@pytest.mark.parametrize(("kind", "size"), [("words", 1), ("times", 1), ("rows", 5), ("whole", 4)])
def test_the_times_of_a_sequence_are_no_examples(tmp_path: Path, kind: str, size: int) -> None:
    """A tagger's sentence of seven words was a batch of seven, of which half was advised."""
    torch.manual_seed(0)
    model, loss_at = losses_of_readers(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(60):
            optimizer.zero_grad()
            loss = loss_at(step)
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert w.run is not None and w.run.configuration.batch_size == size
    assert set(w.run.series("noise").batch_size.tolist()) <= {size}
    assert not model.recurrent._forward_pre_hooks


def test_calls_without_a_step_keep_a_bounded_number_of_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs_seen, "MOST_GATHERED", 50 * inputs_seen.FEWEST_GATHERED)
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for calls in (2, 200, 2):
            optimizer.zero_grad()
            for _ in range(calls):
                loss = model(torch.randn(1, 20)).square().sum()
            assert w._inputs is not None and len(w._inputs._examples) <= 50
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert w.run is not None and w.run.steps == 3


class Graph(nn.Module):
    """Takes the sparse features of the nodes of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(50, 3))

    def forward(self, features: Tensor) -> Tensor:
        return torch.sparse.mm(features, self.weight)


def test_sparse_inputs_are_looked_at_without_their_moments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    features, labels = (torch.rand(40, 50) < 0.1).float().to_sparse(), torch.randint(3, (40,))
    model = Graph()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(60):
            optimizer.zero_grad()
            loss = LOSS(model(features), labels)
            loss.backward()
            w.step(loss)
            optimizer.step()
            if step % 20 == 19:
                with torch.no_grad():
                    w.evaluated(test=float(LOSS(model(features), labels)))
    assert not w.run.warnings
    assert len(w.run.signs) >= 5 and w.run.configuration.batch_size == 40


@pytest.mark.parametrize("seen", ["labels", "inputs"])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_nothing_is_advised_about_the_batch_if_every_update_has_the_same(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer], seen: str
) -> None:
    """A graph network with Dropout was told to double a batch that was its whole graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 64), nn.Dropout(0.6), nn.ReLU(), nn.Linear(64, 3))
    trained = optimizer(model.parameters(), lr=0.01)
    inputs, labels = torch.randn(128, 20), torch.randint(3, (128,))
    with watch(model, trained, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(300):
            trained.zero_grad()
            outputs = model(inputs)
            loss = LOSS(outputs, labels) if seen == "labels" else outputs.square().mean()
            loss.backward()
            w.step(loss)
            trained.step()
    batch = [found for found in w.findings() if found.gauge in ("noise", "preconditioned_noise")]
    assert batch and {found.claim for found in batch} == {"batch_full"}
    assert {say(found).seen for found in batch} == {"Every update has the same batch, B = 128."}
    assert Signs.of(w.run).updates_an_epoch == 1


@READS_LABELS
def test_other_labels_of_the_same_inputs_are_another_batch(tmp_path: Path) -> None:
    """The loss over some nodes of a graph, whose features go into the model at every step."""
    torch.manual_seed(0)
    model = nn.Linear(20, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = torch.randn(128, 20), torch.randint(3, (128,))
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(200):
            chosen = torch.randint(128, (32,))
            optimizer.zero_grad()
            loss = LOSS(model(inputs)[chosen], labels[chosen])
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert [found.claim for found in w.findings() if found.gauge == "noise"] != ["batch_full"]
