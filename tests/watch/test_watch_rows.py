"""Rows of a batch that are copies of one example, and examples that come back."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradients_by_hand import LOSSES, backward, batches, network, watched
from gradiometer import BadArgument, sampling_of, watch
from gradiometer.integrations.watch.observers import step_reader
from gradiometer.integrations.watch.observers.checks import (
    HARMLESS_SIZE,
    LOOKS,
    Rows,
    SizeOfSet,
)
from gradiometer.integrations.watch.shield import Shield
from gradiometer.integrations.watch.sources.one_backward import OneBackward
from gradiometer.integrations.watch.subject import Batches, Subject
from gradiometer.measurement import Draw, Objective, Sampling, TrainingStep
from gradiometer.run.budget import Budget
from unseen import unseen

COPIES = 4


def repeated(blocks: bool, count: int, examples: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Batches of examples with copies that differ a little, side by side or one round after the
    other."""
    made = []
    generator = torch.Generator().manual_seed(3)
    for inputs, labels in batches(count, examples):
        rows = inputs.repeat_interleave(COPIES, 0) if blocks else inputs.repeat(COPIES, 1)
        own = labels.repeat_interleave(COPIES, 0) if blocks else labels.repeat(COPIES)
        made.append(
            (rows + 0.01 * torch.randn(rows.shape, generator=generator, dtype=rows.dtype), own)
        )
    return made


def noise(tmp_path: Path, data: list[Any], **settings: Any) -> tuple[float, tuple[str, ...]]:
    """Mean tr Σ at fixed parameters, and the warnings."""
    made = model, optimizer = network(rate=1e-12)
    with watched(tmp_path, made, sampling=Sampling(Draw.FRESH), **settings) as w:
        for batch in data:
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    return float(
        np.mean(w.run.series("noise").moments["gradient_variance"].sum(1))
    ), w.findings().warnings


def rounds(batch: tuple[Tensor, Tensor]) -> Tensor:
    return torch.arange(len(batch[1])) % (len(batch[1]) // COPIES)


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 0])
@pytest.mark.parametrize("blocks", [True, False])
def test_copies_that_stay_together_are_read_as_one_example(
    tmp_path: Path, blocks: bool, parts: int
) -> None:
    groups: Any = COPIES if blocks else rounds
    data = repeated(blocks, 60 if parts else 6)
    truth, _ = noise(
        tmp_path,
        [(x[:: COPIES if blocks else 1][:16], y[:: COPIES if blocks else 1][:16]) for x, y in data],
    )
    read, warnings = noise(tmp_path, data, groups=groups, parts=parts)
    # A batch counts its rows: its variance is that of a quarter of the examples.
    assert read == pytest.approx(COPIES * truth, rel=0.2 if parts else 0.02)
    assert warnings == ()
    wrong, warnings = noise(tmp_path, data, parts=parts)
    assert wrong < 0.5 * read
    (told,) = warnings
    assert ("groups=4" if blocks else "torch.arange(64) % 16") in told


def test_halves_of_the_judge_keep_copies_together_too() -> None:
    model, _ = network()
    (batch,) = repeated(blocks=True, count=1)
    seen = unseen([])

    def loss(model: nn.Module, part: Any) -> Tensor:
        seen.value.append(part[1])
        outputs: Tensor = model(part[0])
        return outputs.square().mean(1)

    example_of = torch.arange(64) // COPIES
    places = (batch[0], example_of)
    step = TrainingStep(
        Objective(model, loss),
        places,
        index=0,
        learning_rate=0.1,
        sampling=Sampling(Draw.FRESH),
        example_of=example_of,
    )
    acting, judging = step.acting[1], step.judging[1]
    assert not set(acting.tolist()) & set(judging.tolist()) and len(acting) + len(judging) == 64
    seen.value.clear()
    _ = list(step.acting_halves())
    first, second = (set(part.tolist()) for part in seen.value)
    assert not first & second and first | second == set(acting.tolist())


def test_wrong_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="`groups` must be at least 2"):
        watched(tmp_path, network(), groups=1)
    made = model, _ = network()
    batch = batches(1)[0]
    with (
        watched(tmp_path, made, groups=lambda batch: [1, 2]) as w,
        pytest.raises(BadArgument, match="for 8 rows"),
    ):
        w.step(backward(model, batch), batch)
    for groups in (8, 2**53):
        made = model, _ = network()
        with (
            watched(tmp_path, made, groups=groups) as w,
            pytest.raises(
                BadArgument, match="a batch has 8 rows, which would all be copies of one"
            ),
        ):
            w.step(backward(model, batch), batch)


def drawn(tmp_path: Path, loader: Any, **settings: Any) -> tuple[str, ...]:
    model, optimizer = network()
    with watch(
        model, optimizer, loss=LOSSES, out=tmp_path, every=1, parts=2, gauges="noise", **settings
    ) as w:
        for _ in range(6):
            for batch in loader:
                optimizer.zero_grad()
                w.step(backward(model, batch), batch)
                optimizer.step()
    return w.findings().warnings


@pytest.mark.slow
def test_examples_that_come_back_ask_for_the_sampling(tmp_path: Path) -> None:
    inputs, labels = batches(1, 48)[0]
    data = torch.utils.data.TensorDataset(inputs, labels)
    loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
    (told,) = drawn(tmp_path, loader)
    assert "give sampling=loader" in told and "noise scale / N" in told
    assert drawn(tmp_path, loader, sampling=loader) == ()
    assert drawn(tmp_path, loader, sampling=sampling_of(loader)) == ()
    assert drawn(tmp_path, loader, examples=48) == ()


def test_fresh_examples_ask_for_nothing(tmp_path: Path) -> None:
    model, optimizer = network()
    with watch(model, optimizer, loss=LOSSES, out=tmp_path, every=1, parts=2, gauges="noise") as w:
        for batch in batches(40):
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    assert w.findings().warnings == ()


@pytest.mark.parametrize(
    ("examples", "warned", "kind"),
    [
        (1_500, True, torch.float64),
        (400_000, False, torch.float64),
        (1_500, False, torch.int64),  # a few letters, which many examples share
    ],
)
def test_examples_that_come_back_from_a_large_set_ask_for_nothing(
    examples: int, warned: bool, kind: torch.dtype
) -> None:
    told: list[str] = []
    model = torch.nn.Linear(2, 1)
    subject = Subject(
        objective=Objective(model, lambda model, batch: model(batch)),
        called=model,
        optimizers=[],
        batches=Batches(Sampling(Draw.FRESH), groups=2, known=False),
        budget=Budget(0.02),
        source=OneBackward(),
        tell=told.append,
    )
    rows = Rows(subject, lambda text, **_: told.append(text), Shield(print))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        place = torch.randint(examples, (100, 1), generator=generator).double()
        batch = torch.cat([place, place**0.5], dim=1).to(kind), place[:, 0]
        rows.look(partial(tuple, batch))
    assert bool(told) == warned


@pytest.mark.parametrize(
    ("gauges", "known", "others"),
    [("noise", True, False), ("noise", False, True), ("noise,batch_sharpness", True, False)],
)
def test_micro_batches_are_joined_only_if_their_rows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gauges: str, known: bool, others: bool
) -> None:
    """By the search for copies in the first batches, for examples that come back, or by a gauge
    that runs the model."""
    joined, count = step_reader.join_batches, 0

    def counted(batches: Any) -> Any:
        nonlocal count
        count += 1
        return joined(batches)

    monkeypatch.setattr(step_reader, "join_batches", counted)
    model, optimizer = network(rate=1e-3)
    sampling = {"sampling": Sampling(Draw.FRESH)} if known else {}
    with watched(tmp_path, (model, optimizer), gauges=gauges, accumulation=2, **sampling) as w:
        for place, batch in enumerate(batches(40, 16)):
            if place % 2 == 0:
                optimizer.zero_grad()
            loss = LOSSES(model, batch).mean()
            (loss / 2).backward()
            w.step(loss, batch)
            if place % 2:
                optimizer.step()
    assert w.run is not None and len(w.run.series("noise")) == 20
    gauge = w.run.series("batch_sharpness").steps if "sharp" in gauges else []
    read = {*range(LOOKS), *(range(20) if others else gauge)}
    assert count == len(read) and ("sharp" not in gauges or len(read) > LOOKS)


def draws_of(kind: str, examples: int, size: int) -> Any:
    """The places of the examples of every batch."""
    generator = torch.Generator().manual_seed(7)
    order: list[int] = []
    step = 0
    while True:
        step += 1
        if kind == "shuffled":
            if len(order) < size:
                order = torch.randperm(examples, generator=generator).tolist()
            yield torch.tensor(order[:size])
            order = order[size:]
        else:  # a replay memory that fills
            filled = min(examples, examples // 4 + 32 * step)
            yield torch.randint(filled, (size,), generator=generator)


def sizes_told(tmp_path: Path, kind: str, examples: int, steps: int, repeats: int = 1) -> list[str]:
    """What is said of the size of the training set, if each batch is trained on so many times."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, 8, generator=generator).double()
    labels = torch.randint(5, (examples,), generator=generator)
    made = model, optimizer = network(rate=1e-3)
    draws = draws_of(kind, examples, 32)
    with watched(tmp_path, made, every=None) as w:
        for step in range(steps):
            if step % repeats == 0:
                rows = next(draws)
            batch = inputs[rows], labels[rows]
            optimizer.zero_grad()
            w.step(backward(model, batch), batch)
            optimizer.step()
    return [text for text in w.findings().warnings if "training set" in text]


@pytest.mark.parametrize(
    ("kind", "examples", "repeats"),
    [("shuffled", 3_000, 1), ("shuffled", 3_000, 2), ("replay", 10_000, 1), ("replay", 10_000, 2)],
)
def test_no_training_set_is_called_small_that_need_not_be(
    tmp_path: Path, kind: str, examples: int, repeats: int
) -> None:
    assert not sizes_told(tmp_path, kind, examples, 200, repeats)


def test_a_training_set_of_300_is_told_with_an_interval(tmp_path: Path) -> None:
    (text,) = sizes_told(tmp_path, "shuffled", 300, 400)
    found = re.search(r"set of ([\d,]+) to ([\d,]+) examples", text)
    assert found is not None
    low, high = (int(number.replace(",", "")) for number in found.groups())
    assert low <= 300 <= high <= HARMLESS_SIZE


@pytest.mark.parametrize("kind", ["shuffled", "drawn", "spaced", "fixed"])
@pytest.mark.parametrize("examples", [300, 1_400, 3_000])
def test_the_interval_of_the_size_holds_however_batches_are_drawn(kind: str, examples: int) -> None:
    """`spaced` measures one in some steps of shuffled epochs; `fixed` has the same order in all."""
    generator = torch.Generator().manual_seed(2)
    same_order = torch.randperm(examples, generator=generator).tolist()
    seen, order = SizeOfSet(), list[int]()
    for _ in range(120):
        for _ in range(1 + int(torch.randint(9, (), generator=generator)) * (kind == "spaced")):
            if len(order) < 32:
                new = torch.randperm(examples, generator=generator).tolist()
                order = same_order[:] if kind == "fixed" else new
            rows, order = order[:32], order[32:]
        if kind == "drawn":
            rows = torch.randint(examples, (32,), generator=generator).tolist()
        seen.add(set(rows))
        sizes = seen.interval()
        if sizes is not None:
            low, high = sizes
            assert low <= examples <= 1.02 * high
