"""Two lines in a loop show its loss: it is made again on other batches, or refused in words."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _len_torch_function_stack
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torch.utils.data.dataloader import _BaseDataLoaderIter

from gradiometer import BadArgument, Watch, watch
from gradiometer.integrations.watch.seen_loss.recording import Recording

EXAMPLES = 256
SIZE = 32
STEPS = 20

LossOfLoop = Callable[[Any, Any], Any]


class Named(Dataset[dict[str, Tensor]]):
    """Examples with names."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: column[index] for name, column in self.columns.items()}


def mlp(inputs: int = 20, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs))


def points(*more: Tensor) -> TensorDataset:
    return TensorDataset(torch.randn(EXAMPLES, 20), *more)


def classes() -> Tensor:
    return torch.randint(3, (EXAMPLES,))


def words() -> TensorDataset:
    text = torch.randint(30, (EXAMPLES, 9))
    return TensorDataset(text[:, :-1], text[:, 1:])


class Language(nn.Module):
    """Returns its loss with its outputs, if it is given the targets, as nanoGPT does."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 30)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Any:
        logits = self.head(self.drop(self.embedding(tokens)))
        if targets is None:
            return logits
        return logits, functional.cross_entropy(logits.view(-1, 30), targets.view(-1))


@dataclass
class Output:
    """As Hugging Face's models return it."""

    loss: Tensor | None
    logits: Tensor


class Classifier(nn.Module):
    """Takes a batch by its names."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> Output:
        logits = self.head(self.embedding(input_ids).mean(dim=1))
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return Output(loss, logits)


CASES: dict[str, Callable[[], tuple[nn.Module, Any, LossOfLoop]]] = {}


def case(make: Callable[[], tuple[nn.Module, Any, LossOfLoop]]) -> Any:
    CASES[make.__name__] = make
    return make


@case
def cross_entropy() -> Any:
    return mlp(), points(classes()), lambda m, b: functional.cross_entropy(m(b[0]), b[1])


@case
def a_criterion_with_weights_and_smoothing() -> Any:
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]), label_smoothing=0.1)
    return mlp(), points(classes()), lambda m, b: criterion(m(b[0]), b[1])


@case
def squared_error() -> Any:
    criterion = nn.MSELoss()
    return mlp(), points(torch.randn(EXAMPLES, 3)), lambda m, b: criterion(m(b[0]), b[1])


@case
def binary_with_weight_of_positives() -> Any:
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([3.0, 1.0, 1.0]))
    targets = (torch.rand(EXAMPLES, 3) > 0.5).float()
    return mlp(), points(targets), lambda m, b: criterion(m(b[0]), b[1])


@case
def likelihood_after_log_softmax() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        return functional.nll_loss(functional.log_softmax(model(batch[0]), dim=1), batch[1])

    return mlp(), points(classes()), loss


@case
def a_batch_moved_to_a_device_and_dtype() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        inputs, labels = batch
        inputs = inputs.to("cpu", dtype=torch.float32, non_blocking=True) / 2
        return functional.cross_entropy(model(inputs), labels.to("cpu").long())

    return mlp(), TensorDataset(torch.randn(EXAMPLES, 20).double(), classes()), loss


@case
def a_mapping() -> Any:
    data = Named(x=torch.randn(EXAMPLES, 20), label=classes())
    return mlp(), data, lambda m, b: functional.cross_entropy(m(b["x"]), b["label"])


@case
def a_model_that_returns_its_loss_by_name() -> Any:
    data = Named(input_ids=torch.randint(30, (EXAMPLES, 7)), labels=classes())
    return Classifier(), data, lambda m, b: m(**b).loss


@case
def a_model_that_returns_its_loss_in_a_tuple() -> Any:
    return Language(), words(), lambda m, b: m(b[0], b[1])[1]


@case
def images_made_flat_before_the_model() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        inputs = batch[0].view(batch[0].size(0), -1)
        return functional.cross_entropy(model(inputs), batch[1])

    return mlp(16), TensorDataset(torch.randn(EXAMPLES, 1, 4, 4), classes()), loss


@case
def outputs_made_flat_by_their_sizes() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        logits = model(batch[0])
        rows, times, vocabulary = logits.shape
        flat = logits.view(rows * times, vocabulary)
        return functional.cross_entropy(flat, batch[1].reshape(rows * times))

    return Language(), words(), loss


@case
def tokens_moved_by_one() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        logits = model(batch[0][:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), batch[0][:, 1:].flatten())

    return Language(), TensorDataset(torch.randint(30, (EXAMPLES, 9))), loss


@case
def a_sum_of_two_losses_with_weights() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        out = model(batch[0])
        of_classes = functional.cross_entropy(out[:, :3], batch[1])
        return of_classes + 0.3 * functional.smooth_l1_loss(out[:, 3], batch[2])

    return mlp(20, 4), points(classes(), torch.randn(EXAMPLES)), loss


@case
def an_autoencoder() -> Any:
    return mlp(20, 20), points(classes()), lambda m, b: functional.mse_loss(m(b[0]), b[0])


@case
def two_calls_of_the_model() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        return functional.cosine_embedding_loss(model(batch[0]), model(batch[1]), batch[2])

    pairs = torch.randn(EXAMPLES, 20), torch.randint(2, (EXAMPLES,)) * 2.0 - 1
    return mlp(), points(*pairs), loss


@case
def a_mask_of_the_batch() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        mask = batch[1] > 0.3
        return (model(batch[0]) - batch[2])[mask].square().sum() / mask.sum()

    return mlp(), points(torch.rand(EXAMPLES), torch.randn(EXAMPLES, 3)), loss


@case
def a_penalty_on_the_weights() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        penalty = sum(one.square().sum() for one in model.parameters())
        return functional.cross_entropy(model(batch[0]), batch[1]) + 1e-3 * penalty

    return mlp(), points(classes()), loss


@case
def a_sum_times_the_reciprocal_of_the_size() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        total = functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")
        return total * (1.0 / batch[0].size(0))

    return mlp(), points(classes()), loss


@case
def noise_that_the_loop_draws() -> Any:
    levels = torch.linspace(0.99, 0.01, 64)

    def loss(model: Any, batch: Any) -> Tensor:
        (inputs, _), noise = batch, torch.randn_like(batch[0])
        level = levels[torch.randint(0, 64, (inputs.shape[0],))][:, None]
        return functional.mse_loss(model(level * inputs + (1 - level) * noise), noise)

    return mlp(20, 20), points(classes()), loss


@case
def pairs_in_a_batch() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        one, two = (functional.normalize(model(each), dim=1) for each in batch)
        return functional.cross_entropy(one @ two.T / 0.1, torch.arange(len(one)))

    return mlp(), points(torch.randn(EXAMPLES, 20)), loss


@case
def batch_statistics_and_dropout() -> Any:
    model = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 3))
    return model, points(classes()), lambda m, b: functional.cross_entropy(m(b[0]), b[1])


@case
def autocast() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return functional.cross_entropy(model(batch[0]), batch[1])

    return mlp(), points(classes()), loss


@case
def parts_of_the_model_that_the_loop_calls() -> Any:
    model: Any = nn.ModuleDict({"encoder": mlp(20, 4), "decoder": nn.Linear(4, 20)})

    def loss(model: Any, batch: Any) -> Tensor:
        return functional.mse_loss(model["decoder"](model["encoder"](batch[0])), batch[0])

    return model, points(classes()), loss


@case
def a_frozen_teacher() -> Any:
    teacher = mlp().eval()

    def loss(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            wanted = teacher(batch[0]).softmax(dim=1)
        out = model(batch[0]).log_softmax(dim=1)
        return functional.kl_div(out, wanted, reduction="batchmean")

    return mlp(), points(classes()), loss


@case
def a_decision_by_the_batch() -> Any:
    def loss(model: Any, batch: Any) -> Tensor:
        inputs = batch[0]
        if inputs.abs().max() > 50:  # bytes of pixels
            inputs = inputs / 255
        return functional.cross_entropy(model(inputs), batch[1])

    return mlp(), points(classes()), loss


@case
def the_same_labels_in_every_batch() -> Any:
    labels = torch.arange(SIZE) % 3

    def loss(model: Any, batch: Any) -> Tensor:
        return functional.cross_entropy(model(batch[0]), labels[: len(batch[0])])

    return mlp(), points(classes()), loss


@case
def a_second_loss_that_is_added_in_place() -> Any:
    criterion = nn.CrossEntropyLoss()

    def loss(model: Any, batch: Any) -> Tensor:
        out = model(batch[0])
        value = criterion(out, batch[1])
        value += 0.1 * out.square().mean()
        return value

    return mlp(), points(classes()), loss


@case
def a_criterion_of_each_call() -> Any:
    return mlp(), points(classes()), lambda m, b: nn.CrossEntropyLoss()(m(b[0]), b[1])


SEEN = list(CASES)


def by_step(make: Callable[[int, Tensor, Any, Any], Any]) -> Any:
    """A loss that depends on the number of its call."""
    calls = [0]

    def loss(model: Any, batch: Any) -> Any:
        calls[0] += 1
        return make(calls[0], model, batch[0], batch[1])

    return mlp(), points(classes()), loss


@case
def a_number_of_numpy() -> Any:
    generator = np.random.default_rng(0)
    return by_step(lambda _, m, x, y: functional.cross_entropy(m(x * float(generator.normal())), y))


@case
def noise_of_numpy() -> Any:
    generator = np.random.default_rng(0)

    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        noise = torch.from_numpy(generator.normal(size=inputs.shape)).float()
        return functional.cross_entropy(model(inputs + noise), labels)

    return by_step(make)


@case
def a_weight_that_grows() -> Any:
    return by_step(lambda n, m, x, y: functional.cross_entropy(m(x), y) * (1 + n / 100))


@case
def a_weight_that_changes_once() -> Any:
    return by_step(lambda n, m, x, y: functional.cross_entropy(m(x), y) * (1.0 if n < 7 else 2.0))


@case
def a_mask_by_the_number_of_the_batch() -> Any:
    def make(number: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        mask = (torch.arange(len(labels)) % 5 != number % 5).float()
        return (functional.cross_entropy(model(inputs), labels, reduction="none") * mask).mean()

    return by_step(make)


@case
def a_number_read_from_the_batch() -> Any:
    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        inputs = inputs * 2 if inputs.abs().mean().item() > 0.8 else inputs
        return functional.cross_entropy(model(inputs), labels)

    return by_step(make)


@case
def a_way_through_numpy() -> Any:
    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(model(torch.from_numpy(inputs.numpy() * 2)), labels)

    return by_step(make)


@case
def a_batch_that_is_changed_in_place() -> Any:
    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        inputs *= 2
        return functional.cross_entropy(model(inputs), labels)

    return by_step(make)


class Reversed(torch.autograd.Function):
    """Turns a gradient round, which no function of torch shows."""

    @staticmethod
    def forward(context: Any, outputs: Tensor) -> Tensor:
        return outputs * 1

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return -gradient


@case
def a_turn_by_chance_of_numpy() -> Any:
    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        turns = np.random.random() < 1e-3  # noqa: NPY002
        inputs = inputs.flip(-1) if turns else inputs
        return functional.cross_entropy(model(inputs), labels)

    return by_step(make)


@case
def a_turn_by_chance_of_torch() -> Any:
    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        inputs = inputs.flip(-1) if torch.rand(1) < 1e-3 else inputs
        return functional.cross_entropy(model(inputs), labels)

    return by_step(make)


@case
def a_gradient_of_its_own() -> Any:
    return by_step(lambda _, m, x, y: functional.cross_entropy(Reversed.apply(m(x)), y))  # type: ignore[no-untyped-call]


@case
def a_memory_of_earlier_outputs() -> Any:
    bank = torch.randn(64, 3)

    def make(_: int, model: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        out = model(inputs)
        loss = functional.cross_entropy(out @ bank.clone().T, labels)
        bank[: len(out)] = out.detach()
        return loss

    return by_step(make)


@case
def another_network_that_is_trained() -> Any:
    critic = mlp(20, 1)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)

    def loss(model: Any, batch: Any) -> Tensor:
        made = model(torch.randn(len(batch[0]), 20))
        optimizer.zero_grad()
        (critic(batch[0]).mean() - critic(made.detach()).mean()).backward()
        optimizer.step()
        return functional.softplus(critic(made)).mean()

    return mlp(20, 20), points(classes()), loss


REFUSED = {
    "a_number_of_numpy": "`mul` gets .* at one step and .* at another",
    "noise_of_numpy": "changes from step to step and is not in the batch of the loader",
    "a_weight_that_grows": "`mul` gets 1.03 at one step and 1.04 at another",
    "a_weight_that_changes_once": "`mul` gets 1.0 at one step and 2.0 at another",
    "a_mask_by_the_number_of_the_batch": "`ne` gets 3 at one step and 4 at another",
    "a_number_read_from_the_batch": r"reads numbers of the batch \(`item`\)",
    "a_way_through_numpy": "changes from step to step and is not in the batch",
    "a_batch_that_is_changed_in_place": "changes a tensor in place",
    "a_turn_by_chance_of_numpy": "draws random numbers of Python or NumPy",
    "a_turn_by_chance_of_torch": "decides by random numbers that it draws",
    "a_gradient_of_its_own": "does not make its updates",
    "a_memory_of_earlier_outputs": "changes a tensor in place",
    "another_network_that_is_trained": "a Sequential, which is no part of the model, changes",
}


def batches_of(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def trained(
    name: str, out: Path | None, ask: Callable[[Watch, Any, LossOfLoop, Any], Any] | None = None
) -> tuple[list[float], Any]:
    """The losses of a loop in two lines, or of a plain one, and what was asked for at its end."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    model, data, loss = CASES[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(data, batch_size=SIZE, shuffle=True)
    losses = list[float]()
    w = None
    if out is not None:
        w = watch(model, optimizer, sampling=loader, out=out, page=False, quiet=True).__enter__()
    for _, batch in zip(range(STEPS), batches_of(loader), strict=False):
        optimizer.zero_grad()
        value = loss(model, batch)
        value.backward()
        if w is not None:
            w.step(value)
        optimizer.step()
        losses.append(value.item())
    losses += [one.sum().item() for one in model.parameters()]
    answer = ask(w, model, loss, data) if w is not None and ask is not None else None
    if w is not None:
        assert not w.findings().warnings
        w.__exit__(None, None, None)
    return losses, answer


def made_of(call: Callable[[], Tensor], model: nn.Module) -> list[Tensor]:
    """The loss and its gradient, from the same random numbers."""
    torch.manual_seed(1)
    model.zero_grad()
    value = call()
    value.backward()
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    return [value.detach(), *(one.clone() for one in gradients)]


def same_on_other_batches(w: Watch, model: Any, loss: LossOfLoop, data: Any) -> list[int]:
    """The sizes of other batches on which the loss that was seen has other bits than the loop's."""
    seen = w.request.loss_seen()
    torch.manual_seed(2)
    differ = []
    for size in (SIZE, 20, 2 * SIZE):
        batch = next(iter(DataLoader(data, batch_size=size, shuffle=True)))
        expected = made_of(lambda batch=batch: loss(model, batch), model)
        found = made_of(lambda batch=batch: seen(model, batch), model)
        if not all(map(torch.equal, expected, found)):
            differ.append(size)
    return differ


@pytest.mark.parametrize("name", [one for one in SEEN if one != "the_same_labels_in_every_batch"])
def test_the_loss_of_a_loop_is_seen_and_gives_the_bits_of_other_batches_of_any_size(
    name: str, tmp_path: Path
) -> None:
    losses, differ = trained(name, tmp_path, same_on_other_batches)
    assert differ == []
    assert losses == trained(name, None)[0]


@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_that_cannot_be_made_again_is_refused_in_words(name: str, tmp_path: Path) -> None:
    def ask(w: Watch, *_: Any) -> None:
        with pytest.raises(BadArgument, match=REFUSED[name]) as caught:
            w.request.loss_seen()
        assert str(caught.value).startswith("`loss` is missing")
        assert "give loss=lambda model, batch: ... to `watch`" in str(caught.value)

    assert trained(name, tmp_path, ask)[0] == trained(name, None)[0]


def test_nothing_is_left_in_torch_after_the_loss_was_seen(tmp_path: Path) -> None:
    before = nn.Module.__call__, _BaseDataLoaderIter.__next__, _len_torch_function_stack()

    def ask(w: Watch, *_: Any) -> bool:
        now = nn.Module.__call__, _BaseDataLoaderIter.__next__, _len_torch_function_stack()
        return now == before

    assert trained("cross_entropy", tmp_path, ask)[1]


@pytest.mark.parametrize("part", ["begin", "end"])
def test_an_error_of_ours_in_a_call_of_the_loop_ends_the_recording(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("planted")

    monkeypatch.setattr(Recording, part, broken)

    def ask(w: Watch, *_: Any) -> Any:
        with pytest.raises(BadArgument, match="planted"):
            w.fork("rate 2x", horizon="8 updates", replicates=2)
        return _len_torch_function_stack()

    losses, left = trained("cross_entropy", tmp_path, ask)
    assert left == 0 and losses == trained("cross_entropy", None)[0]


def test_a_fork_and_a_test_run_in_two_lines(tmp_path: Path) -> None:
    def ask(w: Watch, *_: Any) -> Any:
        made = w.fork("rate 2x", horizon="8 updates", replicates=2)
        assert made is not None
        return made, w.test(share=5.0)

    losses, (made, found) = trained("batch_statistics_and_dropout", tmp_path, ask)
    # the updates of a copy were compared with those of the loop, and have the same bits
    assert not any(word in text for text in made.warnings for word in ("compared", "differ"))
    assert found is not None
    assert losses == trained("batch_statistics_and_dropout", None)[0]


def test_the_curvature_is_measured_in_two_lines(tmp_path: Path) -> None:
    def ask(w: Watch, model: Any, loss: LossOfLoop, data: Any) -> Any:
        return w.sharpness(data, top=1, probes=4)

    losses, found = trained("cross_entropy", tmp_path, ask)
    assert found is not None
    assert losses == trained("cross_entropy", None)[0]


def test_a_fork_of_another_batch_size_runs_in_two_lines(tmp_path: Path) -> None:
    def ask(w: Watch, *_: Any) -> Any:
        return w.fork("batch 2x", horizon="8 updates", replicates=2)

    assert trained("outputs_made_flat_by_their_sizes", tmp_path, ask)[1] is not None


@dataclass
class Shapes:
    """How a loop calls `w.step` and makes its updates."""

    accumulation: int = 1
    as_number: bool = False
    compiles: bool = False
    in_device: bool = False
    given: bool = False
    workers: int = 0


def loop_of(shape: Shapes, out: Path | None) -> tuple[list[float], Any]:
    """The losses of a loop, and how the loss that was seen differs from its own on other batches."""
    torch.manual_seed(0)
    model, data, loss = CASES["batch_statistics_and_dropout"]()
    called = torch.compile(model, backend="eager") if shape.compiles else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(data, batch_size=SIZE, shuffle=True, num_workers=shape.workers)
    number, losses, differ = shape.accumulation, list[float](), None
    w = None
    if out is not None:
        w = watch(
            called,
            optimizer,
            sampling=loader,
            accumulation=number,
            out=out,
            page=False,
            quiet=True,
        ).__enter__()
    for place, batch in zip(range(STEPS * number), batches_of(loader), strict=False):
        if place % number == 0:
            optimizer.zero_grad()
        with torch.device("cpu") if shape.in_device else torch.enable_grad():
            value = loss(called, batch)
            (value / number).backward()
        if w is not None:
            given = (batch,) if shape.given else ()
            w.step(value.item() if shape.as_number else value, *given)
        if place % number == number - 1:
            optimizer.step()
        losses.append(value.item())
    losses += [one.sum().item() for one in model.parameters()]
    if w is not None:
        differ = same_on_other_batches(w, model, loss, data)
        assert not w.findings().warnings
        w.__exit__(None, None, None)
    return losses, differ


@pytest.mark.parametrize(
    "shape",
    [
        Shapes(accumulation=2),
        Shapes(as_number=True),
        Shapes(in_device=True),
        Shapes(given=True),
        pytest.param(Shapes(workers=1), marks=pytest.mark.slow),
        pytest.param(Shapes(compiles=True), marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_the_loss_is_seen_however_the_loop_calls_a_step(shape: Shapes, tmp_path: Path) -> None:
    losses, differ = loop_of(shape, tmp_path)
    assert differ == []
    assert losses == loop_of(shape, None)[0]


def test_batches_without_a_loader_are_the_tensors_that_change(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = [(torch.randn(SIZE, 20), torch.randint(3, (SIZE,))) for _ in range(STEPS)]
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for inputs, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), labels)
            loss.backward()
            w.step(loss)
            optimizer.step()
        seen = w.request.loss_seen()
        made = w.fork("rate 2x", batches=batches, horizon="8 updates", replicates=2)
    assert torch.equal(
        seen(model, batches[0]), functional.cross_entropy(model(batches[0][0]), batches[0][1])
    )
    assert made is not None


@dataclass
class OneAhead:
    """Draws a batch while the one before it is trained on, as Accelerate does."""

    loader: Any

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        current = next(batches)
        for following in batches:
            yield current
            current = following
        yield current


def loop_without(
    out: Path, batches: Callable[[Any], Iterator[Any]], number: int, **given: Any
) -> tuple[Watch, nn.Module, Any]:
    """A loop of two lines over batches from elsewhere, which is left open."""
    torch.manual_seed(0)
    data = points(classes())
    loader = DataLoader(data, batch_size=SIZE, shuffle=True)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    w = watch(model, optimizer, out=out, page=False, quiet=True).__enter__()
    weight = given.get("weight", lambda _: 1.0)
    for step, (inputs, labels) in zip(range(number), batches(loader), strict=False):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), labels)
        if weight(step) != 1:
            loss = loss * weight(step)
        loss.backward()
        w.step(loss)
        optimizer.step()
    return w, model, loader


def drawn_by_index(loader: Any) -> Iterator[Any]:
    inputs, labels = loader.dataset.tensors
    while True:
        chosen = torch.randint(0, EXAMPLES, (SIZE,))
        yield inputs[chosen], labels[chosen]


def stacked(loader: Any) -> Iterator[Any]:
    inputs, labels = loader.dataset.tensors
    while True:
        chosen = torch.randint(0, EXAMPLES - 1, (SIZE,))
        yield torch.stack([inputs[i] for i in chosen]), torch.stack([labels[i] for i in chosen])


@pytest.mark.parametrize(
    "batches", [lambda loader: batches_of(OneAhead(loader)), drawn_by_index, stacked]
)
def test_batches_are_seen_that_a_loop_draws_ahead_or_without_a_loader(
    tmp_path: Path, batches: Any
) -> None:
    w, model, loader = loop_without(tmp_path, batches, 40)
    seen = w.request.loss_seen()
    inputs, labels = next(iter(loader))
    assert torch.equal(
        seen(model, (inputs, labels)), functional.cross_entropy(model(inputs), labels)
    )
    assert w.fork("rate 2x", batches=loader, horizon="4 updates", replicates=2) is not None
    w.__exit__(None, None, None)


def test_a_weight_that_changes_later_is_seen_at_the_next_look(tmp_path: Path) -> None:
    w, _, loader = loop_without(
        tmp_path, batches_of, 50, weight=lambda step: 2.0 if step >= 40 else 1.0
    )
    with pytest.raises(BadArgument, match="makes its loss by other calls at other steps"):
        w.fork("rate 2x", batches=loader, horizon="4 updates")
    w.__exit__(None, None, None)


def test_a_loss_that_has_changed_after_the_last_look_is_said(tmp_path: Path) -> None:
    w, _, loader = loop_without(
        tmp_path, batches_of, 44, weight=lambda step: 8.0 if step >= 36 else 1.0
    )
    made = w.fork("rate 2x", batches=loader, horizon="4 updates", replicates=2)
    assert made is not None
    assert any("If your loop has changed its loss" in text for text in made.warnings)
    w.__exit__(None, None, None)


def test_too_few_updates_are_said(tmp_path: Path) -> None:
    model, batch = mlp(), (torch.randn(SIZE, 20), torch.randint(3, (SIZE,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(2):
            loss = functional.cross_entropy(model(batch[0]), batch[1])
            loss.backward()
            w.step(loss)
            optimizer.step()
        with pytest.raises(BadArgument, match="has not made enough updates yet"):
            w.fork("rate 2x", batches=batch, batch_size=8)
