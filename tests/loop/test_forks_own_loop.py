"""A fork of a loop of one's own: the loop is not touched, and its branches are what the loop would
have done."""

import copy
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from forked_loop import (
    BATCHES,
    CRITERION,
    INPUTS,
    LABELS,
    OwnLoop,
    everything,
    fork_by,
    network,
    pickled,
    trained,
)
from gradiometer import BadArgument, Unsupported, UserCodeFailed, supervised, watch
from gradiometer.loop import Custom, Fork, Loop, alternative_of
from gradiometer.loop.branch import Branch
from gradiometer.loop.engine import train_branch
from gradiometer.loop.readout import Readout
from gradiometer.measurement import Draw, Sampling

CASES: dict[str, dict[str, Any]] = {
    "SGD": {},
    "AdamW": {"optimizer": "AdamW", "scheduler": "cosine"},
    "fused AdamW": {"optimizer": "fused AdamW", "scheduler": "one cycle"},
    "RMSprop": {"optimizer": "RMSprop", "scheduler": "lambda"},
    "LBFGS": {"optimizer": "LBFGS"},
    "sequence": {"scheduler": "sequence"},
    "chained": {"scheduler": "chained"},
    "cyclic": {"scheduler": "cyclic"},
    "accumulation": {"accumulation": 2, "scheduler": "cosine"},
    "scaler": {"scaled": True},
    "scaler, fused": {"scaled": True, "optimizer": "fused AdamW"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_fork_changes_no_bit_of_training_and_its_baseline_is_what_training_does_next(
    case: dict[str, Any],
) -> None:
    loop, found = OwnLoop(**case), list[Fork]()
    forked = trained(loop, lambda loop: found.append(loop.fork(tail="none")), updates=8)
    plain = trained(OwnLoop(**case), updates=8)
    assert {name for name in plain if forked[name] != plain[name]} <= {
        "parameters",
        "hooks",
        "hooks of parameters",
    }
    branch = found[0].of("go on")[0]
    assert branch.updates == 4
    for name, expected in everything(loop.model).items():
        assert np.array_equal(branch.readouts[name].values, expected.numpy())  # type: ignore[arg-type]


def test_dropout_draws_the_same_numbers_with_a_fork_and_without() -> None:
    forked, plain = trained(OwnLoop(dropout=0.3), OwnLoop.fork), trained(OwnLoop(dropout=0.3))
    assert forked["losses"] == plain["losses"] and forked["torch"] == plain["torch"]


def test_what_an_alternative_draws_is_not_drawn_from_the_training() -> None:
    own = torch.Generator().manual_seed(4)

    def redraw(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        nn.init.normal_(model[0].weight)
        nn.init.normal_(model[4].weight, std=0.01 + np.random.rand(), generator=own)  # noqa: NPY002

    before = own.get_state()
    # compares before and after
    trained(OwnLoop(), lambda loop: loop.fork(alternatives=[Custom("redraw", redraw)]))
    assert torch.equal(own.get_state(), before)


def test_generators_and_other_networks_that_the_loss_uses_stay_as_they_were() -> None:
    generator, teacher = torch.Generator().manual_seed(5), network()

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        inputs = batch[0] + 0.1 * torch.randn(batch[0].shape, generator=generator)
        return CRITERION(model, (inputs, batch[1])) + 0.1 * (
            model(inputs) - teacher(inputs)
        ).square().mean(dim=1)

    before = generator.get_state(), pickled(teacher.state_dict())
    OwnLoop().fork(loss=loss, evaluate=lambda model: float(torch.rand((), generator=generator)))
    assert generator.get_state().equal(before[0]) and pickled(teacher.state_dict()) == before[1]


def test_a_watched_training_has_the_same_bits_and_its_watch_stays_out_of_the_branches(
    tmp_path: Path,
) -> None:
    seen: list[str] = []

    def look(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        hooks = [
            hook
            for parameter in model.parameters()
            for hook in (parameter._backward_hooks or {}).values()
        ]
        tables = [
            hooks,
            optimizer._optimizer_step_post_hooks.values(),
            optimizer._optimizer_step_pre_hooks.values(),
        ]
        seen.extend(type(hook).__name__ for table in tables for hook in table)

    def forks(loop: OwnLoop) -> None:
        loop.fork(alternatives=[Custom("look", look)])

    watched = {"every": 1, "sampling": Sampling(Draw.REPLACEMENT, 96)}
    forked = trained(OwnLoop(), forks, out=tmp_path / "forked", **watched)
    plain = trained(OwnLoop(), out=tmp_path / "plain", **watched)
    assert (
        forked["losses"] == plain["losses"]
        and forked["model"] == plain["model"]
        and forked["torch"] == plain["torch"]
    )
    assert seen == []


def test_a_fork_between_measured_steps_has_no_hooks_on_layers(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 8, generator=generator)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    optimizer, loss = (
        torch.optim.SGD(model.parameters(), lr=0.01),
        supervised(nn.MSELoss(reduction="none")),
    )
    data, seen = (inputs, inputs.sum(dim=1)), list[int]()

    def look(copy: nn.Module, *_: Any) -> None:
        seen.append(sum(len(module._forward_hooks) for module in copy.modules()))

    with watch(
        model, optimizer, loss=loss, every=1, out=tmp_path, sampling=Sampling(Draw.REPLACEMENT, 64)
    ) as w:
        optimizer.zero_grad()
        value = loss(model, data).mean()
        value.backward()
        w.step(value, data)
        optimizer.step()
        # of the look at the step to come
        assert sum(len(module._forward_hooks) for module in model.modules()) == 1
        settings = {
            "loss": loss,
            "batches": data,
            "batch_size": 16,
            "horizon": "2 updates",
            "replicates": 1,
        }
        fork_by(model, optimizer, alternatives=[Custom("look", look)], **settings)
    assert seen and set(seen) == {0}


def test_the_users_own_hooks_work_in_branches_on_the_copies() -> None:
    def halve(gradient: torch.Tensor) -> None:
        gradient.mul_(0.5)

    def hooked(loop: OwnLoop) -> OwnLoop:
        first = loop.model[0]  # type: ignore[index]
        first.weight.register_hook(lambda gradient: gradient * 0.5)
        first.bias.register_post_accumulate_grad_hook(lambda parameter: halve(parameter.grad))
        first.register_forward_hook(lambda module, inputs, output: output + 0.1)
        loop.optimizer.register_step_pre_hook(
            lambda optimizer, *_: halve(optimizer.param_groups[1]["params"][0].grad)
        )
        return loop

    loop = hooked(OwnLoop())
    branch = loop.fork(tail="none").of("go on")[0]
    for _ in range(4):
        loop.update()
    assert np.array_equal(
        branch.readouts["numbers"].values, everything(loop.model)["numbers"].numpy()
    )  # type: ignore[arg-type]


def test_all_alternatives_of_a_replicate_see_the_same_examples_whatever_the_model_draws() -> None:
    seen: dict[str, list[float]] = {}

    def looking(name: str) -> Custom:
        def look(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Any) -> Iterator[Any]:
            for batch in batches:
                seen.setdefault(name, []).extend(batch[0][:, 0].tolist())
                yield batch

        return Custom(name, look)

    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8, shuffle=True)
    alternatives = [looking("plain"), alternative_of("batch 2x") & looking("double")]
    OwnLoop(dropout=0.3).fork(
        alternatives=alternatives, batches=loader, replicates=2, horizon="2 epochs"
    )
    assert len(seen["plain"]) == 4 * 96 and seen["plain"] == seen["double"]
    assert seen["plain"][: 2 * 96] != seen["plain"][2 * 96 :]


def test_a_branch_that_was_sent_to_another_process_has_the_same_bits() -> None:
    loop = OwnLoop("AdamW", "one cycle", dropout=0.3, scaled=True)
    loop.model[0].weight.register_hook(lambda gradient: gradient * 0.5)  # type: ignore[index]
    loop.update()
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8, shuffle=True)
    here = Loop(
        loop.model,
        loop.optimizer,
        loss=loop.loss,
        batches=loader,
        evaluate=everything,
        scheduler=loop.scheduler,
        scaler=loop.scaler,
    )
    there = pickle.loads(cloudpickle.dumps(here))
    for text in ("go on", "batch 2x, rate 2x & clip 0.1", "SGD(lr=0.1)"):
        branch = Branch(alternative_of(text), 1, 64)
        one, two = train_branch(here, branch).to_dict(), train_branch(there, branch).to_dict()
        assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_the_readouts_of_a_test_set_are_those_of_its_examples() -> None:
    loop = OwnLoop()
    found = loop.fork(
        evaluate=DataLoader(TensorDataset(INPUTS[:30], LABELS[:30]), batch_size=7),
        horizon="1 update",
    )
    kept: dict[str, Any] = {}
    loop.fork(
        evaluate=lambda model: kept.update(model=copy.deepcopy(model)) or 0.0, horizon="1 update"
    )
    result = found.of("batch 2x")[0]
    with torch.no_grad():
        losses = CRITERION(kept["model"], (INPUTS[:30], LABELS[:30]))
        right = kept["model"](INPUTS[:30]).argmax(dim=1) == LABELS[:30]
    loss, accuracy = result.readouts["test_loss"], result.readouts["test_accuracy"]
    assert loss.values == pytest.approx(losses.numpy(), rel=1e-5) and loss.lower_is_better
    assert (accuracy.values == right.numpy()).all() and not accuracy.lower_is_better
    assert accuracy.mean == pytest.approx(right.float().mean().item())


def test_metrics_of_a_function_keep_their_names_values_and_direction() -> None:
    metrics = {"val_auc": 0.5, "error": torch.tensor([1.0, 0.0]), "mine": Readout(3.0, None, False)}
    readouts = OwnLoop().fork(evaluate=lambda model: metrics).of("go on")[0].readouts
    assert {name: readout.mean for name, readout in readouts.items() if name != "train_loss"} == {
        "val_auc": 0.5,
        "error": 0.5,
        "mine": 3.0,
    }
    assert [readouts[name].lower_is_better for name in metrics] == [False, True, False]

    def perplexity(model: nn.Module) -> float:
        return 2.0

    assert OwnLoop().fork(evaluate=perplexity).readouts == ("perplexity", "train_loss")
    with pytest.raises(UserCodeFailed, match="`evaluate` returned for 'a' a str: return a number"):
        OwnLoop().fork(evaluate=lambda model: {"a": "b"})
    for wrong in (
        torch.zeros(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
        10**400,
    ):
        with pytest.raises(UserCodeFailed, match=r"`evaluate` returned for 'a' a .*: return"):
            OwnLoop().fork(evaluate=lambda model, wrong=wrong: {"a": wrong})


def test_the_state_of_an_average_is_kept_by_a_custom_alternative() -> None:
    def averaged(model: Any, optimizer: torch.optim.Optimizer, batches: Any) -> None:
        vars(model)["average"] = average = torch.optim.swa_utils.AveragedModel(model[0])
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model[0]))

    counts = OwnLoop().fork(
        alternatives=[Custom("average", averaged)],
        evaluate=lambda model: (
            float(model.average.n_averaged) if hasattr(model, "average") else 0.0
        ),
    )
    assert [counts.of(name)[0].readouts["metric"].mean for name in counts.names] == [0.0, 4.0]


def test_a_loss_or_metric_that_is_not_finite_ends_its_branch_as_diverged() -> None:
    found = OwnLoop().fork(alternatives=["rate 1e30x", "rate 2x"], replicates=2)
    assert [result.diverged is None for result in found.results] == [True, False, True] * 2
    (result, _) = found.of("rate 1e+30x")
    assert result.diverged is not None and "nan" in result.diverged and result.readouts == {}
    found = OwnLoop().fork(evaluate=lambda model: {"score": math.nan})
    assert found.results[0].diverged == "score is nan"


def test_curves_are_the_losses_of_training() -> None:
    loop = OwnLoop()
    curve = loop.fork(tail="none", horizon="4 updates").of("go on")[0].curve
    for _ in range(4):
        loop.update()
    assert curve == tuple(
        (8 * (step + 1), pytest.approx(loss)) for step, loss in enumerate(loop.losses)
    )
    long = (
        OwnLoop()
        .fork(tail="none", horizon="80 updates", batches=list(BATCHES))
        .of("go on")[0]
        .curve
    )
    assert len(long) == 48 and long[-1][0] == 640


def refused(error: type[Exception], message: str, **given: Any) -> None:
    loop = given.pop("loop", None) or OwnLoop()
    before = loop.state()
    with pytest.raises(error, match=message):
        loop.fork(**given)
    assert loop.state() == before


def test_arguments_that_cannot_be_used_are_refused_by_name() -> None:
    refused(BadArgument, "`loss` or `step` must be given", step=lambda model, optimizer, batch: 0.0)
    refused(
        BadArgument,
        r"`loss` must be a function of \(model, batch\), got CrossEntropyLoss",
        loss=nn.CrossEntropyLoss(),
    )
    refused(BadArgument, "`step` makes a whole update", loss=None, step=print, accumulation=2)
    refused(BadArgument, "`evaluate` must be a function", loss=None, step=print, evaluate=None)
    refused(
        BadArgument,
        "`optimizer` LBFGS calls the loss itself: give `step`",
        loop=OwnLoop("LBFGS"),
        loss=CRITERION,
        step=None,
    )
    warming = OwnLoop(scheduler="warmup")
    refused(
        BadArgument,
        "rate 0 now.* fork an update later",
        loop=warming,
        alternatives=["AdamW(lr=0.1)"],
    )
    refused(
        BadArgument,
        "rate 0 now.* fork an update later",
        loop=warming,
        alternatives=["follow Constant(0.1)"],
    )
    refused(BadArgument, "`alternatives` must be a list", alternatives=[])
    refused(
        BadArgument,
        "names 'rate 2x' twice|has 'rate 2x' twice",
        alternatives=["rate 2x", "rate 2x"],
    )
    refused(BadArgument, "has 'go on' twice", alternatives=["go on"])
    refused(BadArgument, "`replicates` must be at least 1", replicates=0)
    refused(BadArgument, "`threads` must be at most 512, got 9007199254740992", threads=2**53)
    refused(BadArgument, "`scheduler_each` is 'epoch'", scheduler_each="epoch")
    refused(
        BadArgument,
        "`horizon` is 800 examples, and 80 are left of the training",
        horizon="100 updates",
        left="10 updates",
    )
    refused(
        BadArgument,
        "`horizon` is beyond the data: `batches` ended after 16",
        batches=lambda seed: BATCHES[:2],
    )
    refused(BadArgument, "`batches` returned no batch", batches=lambda seed: [])
    refused(
        BadArgument,
        "`batches` returned a Tensor: return an iterable of batches",
        batches=lambda seed: torch.tensor(1.0),
    )
    refused(
        BadArgument,
        "`batches` gave a tensor on the meta device, which holds no numbers",
        batches=lambda seed: iter([torch.zeros(16, 4, device="meta")]),
    )
    refused(
        BadArgument,
        "`scheduler` belongs to another optimizer",
        scheduler=OwnLoop(scheduler="lambda").scheduler,
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(OwnLoop().optimizer)
    refused(Unsupported, "ReduceLROnPlateau, which needs a metric", scheduler=plateau)
    refused(UserCodeFailed, "`loss` raised ZeroDivisionError", loss=lambda model, batch: 1 / 0)
    refused(UserCodeFailed, "`evaluate` raised ZeroDivisionError", evaluate=lambda model: 1 / 0)
    refused(
        UserCodeFailed,
        "`step` returned NoneType",
        loss=None,
        step=lambda model, optimizer, batch: None,
    )
    for wrong, said in (
        (torch.tensor(1), "torch.int64 on cpu"),
        (torch.tensor(1.0, device="meta"), "torch.float32 on meta"),
        (torch.tensor(1j), "torch.complex64 on cpu"),
    ):
        refused(
            UserCodeFailed,
            f"`step` returned a tensor of {said}: return the mean loss",
            loss=None,
            step=lambda model, optimizer, batch, wrong=wrong: wrong,
        )


def test_models_that_cannot_be_copied_are_refused_with_the_reason() -> None:
    loop = OwnLoop()
    loop.model.file = (value for value in "generator")  # type: ignore[assignment]
    with pytest.raises(
        Unsupported,
        match=r"`model` cannot be copied \(TypeError: cannot pickle 'generator' object\): keep",
    ):
        loop.fork()
    outside = OwnLoop()
    outside.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    refused(Unsupported, "trains a parameter that is not in `model`", loop=outside)
    evaluating = OwnLoop()
    evaluating.model.eval()
    refused(
        BadArgument, r"in eval mode, and branches train it: call model.train\(\)", loop=evaluating
    )


def test_an_update_of_no_batch_and_one_of_a_day_are_refused() -> None:
    model = nn.Linear(2, 1)
    loss = supervised(nn.MSELoss(reduction="none"))
    asked: dict[str, Any] = {"loss": loss, "batches": (torch.ones(8, 2), torch.ones(8, 1))}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadArgument, match="`batches` is missing: give at least one batch"):
        Loop(model, optimizer, batch_size=4, **asked).update()
    with pytest.raises(
        BadArgument, match="`accumulation` must be at most 65,536, got 2,147,483,648"
    ):
        Loop(model, optimizer, batch_size=4, accumulation=2**31, **asked)


def test_a_model_that_keeps_its_last_activation_can_be_forked() -> None:
    loop = OwnLoop()
    loop.model.register_forward_hook(lambda module, inputs, output: setattr(module, "last", output))
    loop.update()
    assert loop.fork().of("go on")[0].diverged is None


def test_functions_that_work_on_the_training_itself_are_found_and_it_is_put_back() -> None:
    loop = OwnLoop()
    loop.update()  # its gradients have to stay, too
    model = loop.model
    refused(
        BadArgument,
        "`loss` uses the model from outside",
        loop=loop,
        loss=lambda _, batch: CRITERION(model, batch),
    )
    parts = {"model": model}
    refused(
        BadArgument,
        "gave no gradient",
        loop=loop,
        loss=lambda _, batch: CRITERION(parts["model"], batch),
    )
    other = loop.optimizer

    def step(model: nn.Module, _: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
        loss = CRITERION(parts["model"], batch).mean()
        loss.backward()
        other.step()
        return loss

    before = loop.state()
    with pytest.raises(BadArgument, match=r"worked on the training itself: .* put back"):
        loop.fork(loss=None, step=step)
    after = loop.state()
    assert after["model"] == before["model"] and after["gradients"] == before["gradients"]
