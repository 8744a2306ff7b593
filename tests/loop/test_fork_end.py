"""The effect at the end of a training, from branches that go there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradiometer import BadArgument, supervised, watch
from gradiometer.jobs.choice import opened
from gradiometer.loop import Fork, Loop, alternative_of, fork
from gradiometer.loop.branch import HELD, BranchResult, Tail
from gradiometer.loop.comparison.racing import Rung
from gradiometer.loop.engine import guarded_copy
from gradiometer.loop.forking import train_plan
from gradiometer.loop.recorded.record import ForkRecord, Plan


def loop(left: str | None = "80 updates") -> Loop:
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data, loss = (inputs, inputs.sum(dim=1)), supervised(nn.MSELoss(reduction="none"))
    return Loop(model, optimizer, loss=loss, batches=data, batch_size=32, left=left)


def scheduled(end: float) -> Loop:
    """The same training at a rate that falls linearly to this share."""
    training = loop()
    training.schedulers = [
        torch.optim.lr_scheduler.LinearLR(training.optimizer, 1.0, end, total_iters=80)
    ]
    return training


def by_hand(training: Loop, factor: float, cooled: Callable[[int], float]) -> float:
    """Where the training ends in the first order of the data at this factor on its rate."""
    copy = training.copy()
    batches = copy.data.replicate(0, 0)
    for step in range(80):
        rate = 0.01 * factor * cooled(step)
        for group in copy.optimizer.param_groups:
            group["lr"] = rate
        copy.optimizer.zero_grad()
        inputs, targets = next(batches)
        nn.functional.mse_loss(copy.model(inputs), targets).backward()
        copy.optimizer.step()
    return training.readouts(copy.model)["train_loss"].mean


@pytest.mark.parametrize(
    ("end", "tail"), [(0.0, "none"), (0.1, "none"), (0.5, "half"), (1, "half")]
)
def test_a_fork_to_the_end_goes_there_by_the_schedule_and_cools_only_what_stays_high(
    end: float, tail: str, tmp_path: Path
) -> None:
    training = scheduled(end)
    found = fork(training, ["rate 2x"], horizon="end", replicates=2, out=tmp_path)
    assert found.tail == tail and found.shows_end and not found.leans and not found.shorter
    assert {result.updates for result in found.results} == {80}

    def cooled(step: int) -> float:
        falls = 1 + (end - 1) * step / 80
        return falls if tail == "none" else falls * min(2 * (1 - (step + 0.5) / 80), 1.0)

    for name, factor in (("go on", 1.0), ("rate 2x", 2.0)):
        there = found.of(name)[0].readouts["train_loss"].mean
        assert there == pytest.approx(by_hand(training, factor, cooled), rel=1e-4)
    (effect,) = found.at_end()
    assert effect.verdict == "better" and (effect,) == found.effects()
    sentence = str(found).splitlines()[0]
    assert "two replicates of 80 updates, to the end of the training, each " in sentence
    assert "horizon='end'" not in sentence
    kept = ForkRecord.of(found).fork
    assert kept.at_end() == found.at_end()


@pytest.mark.parametrize("setting", [{"horizon": "end", "replicates": 2}, {"budget": 10.0}])
def test_a_tail_that_is_given_is_that_of_branches_to_the_end_and_names_the_fork(
    setting: dict[str, Any], tmp_path: Path
) -> None:
    training = loop()
    tails: tuple[Tail | None, ...] = (None, "none", "half", "third", "linear")
    found = {
        tail: fork(training, ["rate 2x"], tail=tail, out=tmp_path, **setting) for tail in tails
    }
    assert found[None].tail == "half" and found[None].path == found["half"].path
    assert len({one.path for one in found.values()}) == len(HELD)

    def end(tail: Tail | None) -> float:
        return found[tail].of("go on")[0].readouts["train_loss"].mean

    held_by_hand = {"linear": 0.0, "half": 0.5, "third": 2 / 3}
    for tail in HELD:
        assert found[tail].tail == tail and found[tail].shows_end

        def cooled(step: int, tail: Tail = tail) -> float:
            if tail == "none":
                return 1.0
            return min((1 - (step + 0.5) / 80) / (1 - held_by_hand[tail]), 1.0)

        assert end(tail) == pytest.approx(by_hand(training, 1.0, cooled), rel=1e-4)
    assert len({end(tail) for tail in HELD}) == len(HELD)


@pytest.mark.parametrize(("end", "tail"), [(0.1, "none"), (0.5, "half")])
def test_a_rate_that_a_loop_sets_itself_is_compared_with_its_highest_so_far(
    end: float, tail: str
) -> None:
    def rate(step: int) -> float:
        return 0.01 * (end + (1 - end) * max(1 - step / 80, 0))

    data = torch.randn(256, 4)
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    training = Loop(
        model,
        torch.optim.SGD(model.parameters(), lr=rate(69)),
        loss=supervised(nn.MSELoss(reduction="none")),
        batches=(data, data.sum(dim=1)),
        batch_size=32,
        scheduler=rate,
        index=70,
        left="10 updates",
    )
    assert fork(training, "rate 2x", horizon="end", replicates=2).tail == tail


class Factors(nn.Module):
    """A rating is the product of two vectors, and a level of each: the steepness of its loss grows
    with the vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.people, self.things = nn.Embedding(60, 5), nn.Embedding(40, 5)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        one, two = self.people(pairs[:, 0]), self.things(pairs[:, 1])
        return (one[:, :4] * two[:, :4]).sum(1) + one[:, 4] + two[:, 4]


def ratings() -> Loop:
    """A factorisation of ratings by SGD after 120 of 1,200 updates."""
    random = torch.Generator().manual_seed(613)
    people, things = torch.randn(60, 3, generator=random), torch.randn(40, 3, generator=random)
    chosen = torch.randperm(2400, generator=random)[:1400]
    who, what = chosen // 40, chosen % 40
    noise = 0.3 * torch.randn(1400, generator=random)
    pairs, stars = torch.stack([who, what], dim=1), 3 + (people[who] * things[what]).sum(1) + noise
    torch.manual_seed(0)
    model = Factors()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.65)
    order = torch.Generator().manual_seed(1)
    for _ in range(120):
        rows = torch.randint(0, 1400, (32,), generator=order)
        optimizer.zero_grad()
        (model(pairs[rows]) - stars[rows]).square().mean().backward()
        optimizer.step()
    return Loop(
        model,
        optimizer,
        loss=lambda model, batch: (model(batch[0]) - batch[1]).square(),
        batches=(pairs, stars),
        batch_size=32,
        index=120,
        left="1080 updates",
    )


def test_a_rate_that_diverges_later_is_not_called_better_by_default() -> None:
    training = ratings()
    quarter = fork(training, "rate 4x", horizon="25%", replicates=2)
    assert quarter.effects()[0].verdict == "better" and quarter.best() == "rate 4x"
    # the last batch of an epoch is smaller, so that there are a few more of them
    said = "After 272 of 1,088 updates from step 120, against going on as it is, in training loss: "
    assert str(quarter).startswith(said + "rate 4x is 0.1")
    found = fork(training, "rate 4x", replicates=2)
    assert found.shows_end and found.best() == "go on"
    assert found.effects()[0].verdict == "diverged"
    assert str(found).startswith("From step 120, two replicates of 1,086 updates, to the end of ")


@pytest.mark.parametrize(("replicates", "goes_to_end"), [(5, True), (6, False)])
def test_the_default_goes_to_the_end_if_that_costs_at_most_ten_trainings(
    replicates: int, goes_to_end: bool
) -> None:
    """Two branches a replicate, each of the whole training."""
    found = fork(loop("40 updates"), "rate 2x", replicates=replicates)
    assert found.shows_end is goes_to_end
    assert {result.updates for result in found.results} == {40 if goes_to_end else 10}
    assert str(found).startswith("From step 0, " if goes_to_end else "After 10 of 40 updates ")


def test_a_rate_that_stays_high_gets_both_answers_to_the_end(tmp_path: Path) -> None:
    training = loop()
    plans: list[Any] = []
    found = fork(training, "rate 2x", horizon="end", replicates=2, out=tmp_path, begin=plans.append)
    assert [plan.tail for plan in plans] == ["none", "half"]
    assert found.kept is not None and found.kept.kept is None
    assert (found.tail, found.kept.tail) == ("half", "none")
    # each is the fork of its tail, to the bits
    for one in (found, found.kept):
        alone = fork(training, "rate 2x", horizon="end", replicates=2, tail=one.tail)
        assert alone.kept is None
        for ours, theirs in zip(alone.results, one.results, strict=True):
            assert ours.readouts["train_loss"].mean == theirs.readouts["train_loss"].mean
    cooled, kept = (one.effects()[0].estimate for one in (found, found.kept))
    assert cooled.value != kept.value
    table, other = str(found).split("As the training has it, with the rate kept: ")
    assert "cooled to zero over its second half" in table and str(cooled) in table
    assert "at the rate of its schedule to the end" in other and str(kept) in other
    # the same again trains nothing
    again = fork(training, "rate 2x", horizon="end", replicates=2, out=tmp_path, begin=plans.append)
    assert len(plans) == 2 and again.path == found.path
    assert again.kept is not None and again.kept.path == found.kept.path
    # the newest fork answers for the advice
    assert found.path is not None and found.kept.path is not None
    assert found.path.name > found.kept.path.name
    assert fork(training, "rate 2x", horizon="end", replicates=2, kept=False).kept is None


@pytest.mark.parametrize(("replicates", "are_both"), [(2, True), (3, False), (5, False)])
def test_both_answers_without_being_asked_cost_at_most_ten_trainings(
    replicates: int, *, are_both: bool
) -> None:
    # from the first step, so that a branch costs a training: 8, 12 and 20 of them for both
    found = fork(loop("40 updates"), "rate 2x", replicates=replicates)
    assert found.shows_end and (found.kept is not None) is are_both


def test_a_stop_in_the_first_answer_trains_no_second_one() -> None:
    found = fork(
        loop(), "rate 2x", horizon="end", replicates=2, progress=lambda _, done, __: done < 2
    )
    assert found.tail == "none" and found.kept is None and len(found.results) == 2


def test_branches_that_end_before_the_training_show_no_end() -> None:
    found = fork(loop(), ["rate 2x"], horizon="50%", replicates=2)
    (effect,) = found.at_end()
    assert found.effects()[0].estimate.tells and not effect.estimate.tells
    assert effect.verdict == "open" and not found.shows_end
    assert "horizon='end' answers for that" in str(found)


def test_a_fork_of_two_lengths_that_an_earlier_version_has_kept_still_opens(tmp_path: Path) -> None:
    rungs = (Rung(20 * 32, 2), Rung(40 * 32, 2))
    plan = Plan(0, (alternative_of("rate 2x"),), 2, 40 * 32, "half", left=80 * 32, rungs=rungs)
    with opened("here") as pool, guarded_copy(loop(), 0) as start:
        made = train_plan(start, plan, pool, out=tmp_path)
    kept = ForkRecord.of(made).fork
    assert {result.updates for result in kept.shorter} == {20} and kept.horizon == 40 * 32
    assert kept.effects() == made.effects() and not kept.at_end()[0].estimate.tells


def test_a_budget_that_pays_for_it_answers_for_the_end_and_goes_on_after_a_stop(
    tmp_path: Path,
) -> None:
    stopped: list[BranchResult] = []

    def stop(result: BranchResult, *_: int) -> None:
        stopped.append(result)
        if len(stopped) == 5:
            raise KeyboardInterrupt

    training, asked = loop(), {"alternatives": ["rate 2x"], "budget": 10.0}
    whole = fork(training, out=tmp_path / "whole", **asked)  # type: ignore[arg-type]
    assert whole.tail == "half" and whole.shows_end
    assert whole.horizon == 80 * 32
    spent = sum(result.examples for result in (*whole.results, *whole.shorter))
    assert 8 * 80 * 32 <= spent <= 10 * 80 * 32
    with pytest.raises(KeyboardInterrupt):
        fork(training, out=tmp_path / "stopped", progress=stop, **asked)  # type: ignore[arg-type]
    again = fork(training, out=tmp_path / "stopped", **asked)  # type: ignore[arg-type]
    ends = [
        [(one.alternative, one.readouts["train_loss"].mean) for one in each.results]
        for each in (again, whole)
    ]
    assert ends[0] == ends[1] and again.at_end() == whole.at_end()


def test_a_fork_to_the_end_needs_to_know_it() -> None:
    with pytest.raises(BadArgument, match="`horizon` is 'end', and what is left is not known"):
        fork(loop(None), ["rate 2x"], horizon="end")
    short: Fork = fork(loop(None), ["rate 2x"], horizon="2 updates", replicates=1)
    with pytest.raises(BadArgument, match="`left` of this fork is not known"):
        short.at_end()
    assert not short.shows_end


def test_a_fork_at_the_end_of_a_schedule_is_refused_with_the_step_before_which_it_would_tell(
    tmp_path: Path,
) -> None:
    training = loop(None)
    model, optimizer, inputs = training.model, training.optimizer, torch.randn(64, 4)
    data, loss = (inputs, inputs.sum(dim=1)), supervised(nn.MSELoss(reduction="none"))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(1 - step / 20, 0.0))
    settings = {
        "batches": data,
        "batch_size": 32,
        "alternatives": ["rate 2x"],
        "replicates": 1,
        "scheduler": scheduler,
    }
    with watch(model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True) as w:
        for step in range(20):
            optimizer.zero_grad()
            value = loss(model, data).mean()
            value.backward()
            w.step(value, data)
            optimizer.step()
            if step == 18:
                # one update has a rate, the others none
                assert w.fork(horizon="4 updates", **settings) is not None
            scheduler.step()
        with pytest.raises(
            BadArgument,
            match=r"has the learning rate 0 .* from step 20 on.* fork from a step before 10",
        ):
            w.fork(horizon="4 updates", **settings)


@pytest.mark.parametrize("plan", ["one cycle", "each epoch", "steps", "warm-up"])
def test_a_watched_fork_takes_the_data_and_what_is_left_from_what_it_sees(
    tmp_path: Path, plan: str
) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(256, 4)
    rows = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1))
    loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)
    model, loss = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), supervised(nn.MSELoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    schedules = torch.optim.lr_scheduler
    scheduler: torch.optim.lr_scheduler.LRScheduler
    if plan == "one cycle":
        scheduler = schedules.OneCycleLR(optimizer, 0.02, total_steps=80)
    elif plan == "each epoch":
        scheduler = schedules.CosineAnnealingLR(optimizer, T_max=10)
    else:  # it ends at the rate of training, which goes on
        scheduler = schedules.LinearLR(optimizer, total_iters=20)
    settings = {"steps": 80} if plan == "steps" else {}
    with watch(
        model,
        optimizer,
        loss=loss,
        sampling=loader,
        out=tmp_path,
        page=False,
        quiet=True,
        **settings,
    ) as w:
        for _ in range(2):
            for batch in loader:
                optimizer.zero_grad()
                value = loss(model, batch)
                value.backward()
                w.step(value, batch)
                optimizer.step()
                if plan != "each epoch":
                    scheduler.step()
            if plan == "each epoch":
                scheduler.step()
        if plan == "warm-up":
            with pytest.raises(BadArgument, match="`horizon` is missing"):
                w.fork("rate 2x", replicates=1)
            return
        found = w.fork("rate 2x", replicates=1)
    assert found is not None
    assert found.left == 64 * 32 and found.horizon == 64 * 32 and found.shows_end
    assert "One replicate gives no interval" in str(found)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inputs = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        yield from zip(inputs, inputs.sum(dim=1), strict=True)


class Broken(torch.utils.data.TensorDataset):
    """Its length is code that fails."""

    def __len__(self) -> int:
        raise ValueError("not counted")


def test_a_fork_on_a_stream_with_a_plan_in_epochs_says_what_to_give(tmp_path: Path) -> None:
    """Its loader has a `__len__` that fails."""
    loader = torch.utils.data.DataLoader(Stream(), batch_size=16)
    model, loss = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), supervised(nn.MSELoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    with watch(model, optimizer, loss=loss, out=tmp_path, page=False, quiet=True) as w:
        for _ in range(2):
            for batch in w.batches(loader):
                optimizer.zero_grad()
                loss(model, batch).backward()
                optimizer.step()
            scheduler.step()
        with pytest.raises(BadArgument, match="`batches` has an IterableDataset, which cannot be"):
            w.fork("rate 2x", replicates=1)


def test_a_data_set_whose_length_fails_has_no_known_sampling(tmp_path: Path) -> None:
    rows = Broken(torch.zeros(8, 4), torch.zeros(8))
    loader = torch.utils.data.DataLoader(rows, sampler=[0, 1, 2])
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer, out=tmp_path, page=False, quiet=True) as w:
        assert len(w.batches(loader)) == 3


def test_a_watched_fork_without_data_says_what_to_give(tmp_path: Path) -> None:
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    w = watch(model, optimizer, loss=supervised(nn.MSELoss()), out=tmp_path, quiet=True)
    with pytest.raises(BadArgument, match="`batches` is missing: give the training data"):
        w.fork("rate 2x")
