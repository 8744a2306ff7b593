"""Examples and Problem: batches by index, fingerprints, and refusals by name."""

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from gradiometer import BadArgument
from gradiometer.measurement import supervised
from gradiometer.problems import Examples, Problem

PICKED = torch.tensor([7, 7, 1])


class Squares(Dataset):
    """Ten numbers and their squares, one at a time, with noise if asked."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 10

    def __getitem__(self, position: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(position)]) + self.noise * torch.randn(1), position**2


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(10))


def labelled(examples: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(examples, dtype=torch.float32).unsqueeze(1), torch.arange(examples) ** 2


def settings(**changes) -> dict:
    return {
        "name": "mine",
        "model": lambda: nn.Linear(1, 100),
        "loss": supervised(nn.CrossEntropyLoss(reduction="none")),
        "train": Examples(labelled()),
    } | changes


@pytest.mark.parametrize(
    "data",
    [
        labelled(),
        Squares(),
        TensorDataset(*labelled()),
        Subset(TensorDataset(*labelled()), range(10)),
    ],
    ids=["tensors", "data set", "TensorDataset", "Subset"],
)
def test_a_batch_holds_the_examples_at_its_index_in_order(data) -> None:
    inputs, targets = Examples(data).batch(PICKED)
    assert inputs.squeeze(1).tolist() == [7.0, 7.0, 1.0]
    assert targets.tolist() == [49, 49, 1]


def test_a_tree_keeps_its_structure_and_what_is_the_same_for_all_examples() -> None:
    examples = Examples(
        {
            "tokens": torch.arange(20).reshape(10, 2),
            "extra": [torch.arange(10)],
            "note": "all",
            "k": 3,
        }
    )
    batch = examples.batch(PICKED)
    assert batch["tokens"].tolist() == [[14, 15], [14, 15], [2, 3]]
    assert batch["extra"][0].tolist() == [7, 7, 1]
    assert (batch["note"], batch["k"]) == ("all", 3)


@pytest.mark.parametrize("data", [labelled(), Squares()], ids=["tensors", "data set"])
def test_batches_go_through_all_examples_once(data) -> None:
    batches = list(Examples(data).batches(4))
    assert [len(targets) for _, targets in batches] == [4, 4, 2]
    assert torch.cat([targets for _, targets in batches]).tolist() == [k**2 for k in range(10)]


@pytest.mark.parametrize("data", [labelled(), Squares()], ids=["tensors", "data set"])
def test_examples_on_a_device_give_batches_there(data) -> None:
    moved = Examples(data).to("meta")
    assert {
        tensor.device.type
        for tensor in moved.batch(PICKED.to("meta" if isinstance(data, tuple) else "cpu"))
    } == {"meta"}


def test_the_fingerprint_changes_with_a_value_a_type_a_place_and_the_number_of_examples() -> None:
    inputs, targets = labelled()
    changed = inputs.clone()
    changed[9, 0] += 1e-6
    trees = [
        (inputs, targets),
        (changed, targets),
        (inputs.double(), targets),
        (inputs.view(torch.int32), targets),
        (targets, inputs),
        [{"x": inputs}, targets],
        (inputs[:9], targets[:9]),
        (inputs.reshape(10, 1, 1), targets),
        (inputs, targets, "a note"),
    ]
    prints = {Examples(tree).fingerprint() for tree in trees}
    assert len(prints) == len(trees)


def test_the_fingerprint_is_of_the_values_and_not_of_their_layout_in_memory() -> None:
    matrix = torch.arange(30.0).reshape(10, 3)
    assert Examples(matrix).fingerprint() == Examples(matrix.T.contiguous().T).fingerprint()


def test_the_fingerprint_of_a_randomly_augmented_data_set_is_steady_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    augmented = Examples(Squares(noise=1.0))
    assert augmented.fingerprint() == augmented.fingerprint()
    assert augmented.fingerprint() != Examples(Squares(noise=2.0)).fingerprint()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_problem_fingerprint_covers_training_and_test_data() -> None:
    train, test = Examples(labelled()), Examples(labelled(5))
    prints = {
        Problem(**settings()).fingerprint,
        Problem(**settings(test=test)).fingerprint,
        Problem(**settings(train=test, test=train)).fingerprint,
    }
    assert len(prints) == 3
    assert all(len(fingerprint) == 16 for fingerprint in prints)
    assert Problem(**settings(name="another")).fingerprint == Problem(**settings()).fingerprint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (torch.zeros(10, 3), torch.zeros(9)),
            r"`train\[1\]` holds 9 examples and `train\[0\]` holds 10",
        ),
        (
            {"x": torch.zeros(4), "y": [torch.zeros(5)]},
            r"`train\['y'\]\[0\]` holds 5 .* `train\['x'\]` holds 4",
        ),
        (
            (torch.zeros(10), np.zeros(10)),
            r"`train\[1\]` must be a tensor, got a NumPy array.*torch.from_numpy",
        ),
        ((torch.tensor(1.0), "words"), "`train` holds no tensor with a first axis"),
        (torch.zeros(0, 3), "`train` is empty"),
        (Endless(), "`train` is of type Endless, which cannot be indexed"),
        (3.0, "`train` is of type float, which cannot be indexed"),
    ],
)
def test_unusable_data_raise(data, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        Examples(data, "train")


def test_a_data_set_whose_items_are_no_tensors_is_refused_with_the_way_out() -> None:
    class Objects(Squares):
        def __getitem__(self, position: int) -> object:
            return object()

    with pytest.raises(
        BadArgument, match=r"`train\[0\]` cannot be put into a batch .*transform to tensors"
    ):
        Examples(Objects(), "train")


def test_batches_of_nothing_are_refused() -> None:
    with pytest.raises(BadArgument, match="`size` must be at least 1, got 0"):
        list(Examples(labelled()).batches(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": nn.Linear(1, 1)},
            "`model` must be a function that makes the model, got a Linear",
        ),
        ({"model": 3}, "`model` must be a function that makes the model, got int"),
        ({"loss": nn.CrossEntropyLoss()}, r"supervised\(nn.CrossEntropyLoss\(reduction='none'\)\)"),
        ({"loss": None}, "`loss` must be a function of"),
        (
            {"train": labelled()},
            r"`train` must be Examples, got tuple: write train=Examples\(...\)",
        ),
        ({"test": labelled()}, "`test` must be Examples"),
        ({"correct": 1.0}, "`correct` must be a function of"),
    ],
)
def test_a_part_of_a_problem_that_is_not_of_its_kind_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, changes: dict, message: str
) -> None:
    # the shape checker, which users do not run
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadArgument, match=message):
        Problem(**settings(**changes))
