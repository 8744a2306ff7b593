"""Odd loops: training with `watch` ends with the bits of training without it, and nothing is raised
after the first update."""

import copy
import inspect
import io
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from torch import Tensor, nn

from gradients_by_hand import LOSSES
from gradiometer import watch
from gradiometer.verdict import say

STEPS = 9


class Loop:
    """What an odd loop has in its hands. `w` is None in the training without watch."""

    def __init__(
        self, w: Any, model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path
    ) -> None:
        self.w, self.model, self.optimizer, self.folder = w, model, optimizer, folder

    def tell(self, loss: Any, batch: Any) -> None:
        if self.w is not None:
            inspect.unwrap(type(self.w).step)(self.w, loss, batch)

    def backward(self, batch: Any) -> Tensor:
        self.optimizer.zero_grad()
        loss = LOSSES(self.model, batch).mean()
        loss.backward()
        return loss

    def update(self, batch: Any) -> None:
        """An ordinary step."""
        self.tell(self.backward(batch), batch)
        self.optimizer.step()


Odd = Callable[[Loop, int, Any], None]
ODD: dict[str, Odd] = {}


def odd(loop: Odd) -> Odd:
    ODD[loop.__name__.replace("_", " ")] = loop
    return loop


@odd
def two_updates_of_one_gradient(here: Loop, step: int, batch: Any) -> None:
    here.update(batch)
    here.optimizer.step()


@odd
def step_before_backward(here: Loop, step: int, batch: Any) -> None:
    if step == 4:
        here.tell(1.0, batch)
    here.update(batch)


@odd
def gradients_are_cleared_too_early(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    if step > 2:
        here.optimizer.zero_grad(set_to_none=step % 2 == 0)
    here.tell(loss, batch)
    here.optimizer.step()


@odd
def the_whole_model_is_saved(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    torch.save(here.model, io.BytesIO())
    here.tell(loss, batch)
    here.optimizer.step()
    torch.save(here.model, io.BytesIO())
    pickle.dumps(here.optimizer)


@odd
def a_copy_of_the_model_is_trained_too(here: Loop, step: int, batch: Any) -> None:
    other = copy.deepcopy(here.model)
    LOSSES(other, batch).mean().backward()
    here.update(batch)
    other = copy.deepcopy(here.model)
    LOSSES(other, batch).mean().backward()
    assert step == 0 or here.w is None or len(here.w.run.series("noise")) == step + 1


@odd
def a_layer_is_replaced(here: Loop, step: int, batch: Any) -> None:
    if step == 4:
        torch.manual_seed(1)
        here.model[2] = nn.Linear(16, 5).double()
        here.optimizer.param_groups[0]["params"][2:] = [*here.model[2].parameters()]
    here.update(batch)


@odd
def a_group_of_parameters_is_added(here: Loop, step: int, batch: Any) -> None:
    if step == 0:
        here.model[2].requires_grad_(False)
        here.optimizer.param_groups[0]["params"] = [*here.model[0].parameters()]
    if step == 4:
        here.model[2].requires_grad_(True)
        here.optimizer.add_param_group({"params": [*here.model[2].parameters()], "lr": 0.01})
    here.update(batch)


@odd
def the_values_of_the_parameters_are_replaced(here: Loop, step: int, batch: Any) -> None:
    for parameter in here.model.parameters():
        parameter.data = parameter.data.clone()
    here.update(batch)


@odd
def single_precision_from_the_middle_on(here: Loop, step: int, batch: Any) -> None:
    if step >= 4:
        here.model.float()
        here.optimizer.state.clear()
        batch = (batch[0].float(), batch[1])
    here.update(batch)


@odd
def batches_of_one_and_of_other_sizes(here: Loop, step: int, batch: Any) -> None:
    here.update(tuple(part[: (8, 1, 3, 2)[step % 4]] for part in batch))


@odd
def batches_of_another_type(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    here.tell(
        loss, [None, batch, "text", {"x": batch[0], "y": batch[1]}][step % 4] if step > 2 else batch
    )
    here.optimizer.step()


@odd
def losses_of_other_types(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    given = [
        loss.detach().numpy(),
        loss.reshape(1),
        LOSSES(here.model, batch),
        float("nan"),
        loss.item(),
    ]
    here.tell(given[step % 5] if step > 2 else loss, batch)
    here.optimizer.step()


@odd
def without_gradients_around_the_call(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    with torch.inference_mode() if step % 2 else torch.no_grad():
        here.tell(loss, batch)
    here.optimizer.step()


@odd
def the_call_comes_from_another_thread(here: Loop, step: int, batch: Any) -> None:
    loss = here.backward(batch)
    thread = threading.Thread(target=here.tell, args=(loss, batch))
    thread.start()
    thread.join()
    here.optimizer.step()


@odd
def another_default_dtype(here: Loop, step: int, batch: Any) -> None:
    torch.set_default_dtype(torch.float64 if step > 3 else torch.float32)
    here.update(batch)


@odd
def another_working_folder(here: Loop, step: int, batch: Any) -> None:
    if step == 4:
        (here.folder / "elsewhere").mkdir(exist_ok=True)
        os.chdir(here.folder / "elsewhere")
    here.update(batch)


@odd
def the_model_is_evaluated_with_a_backward(here: Loop, step: int, batch: Any) -> None:
    here.update(batch)
    here.model.eval()
    inputs = batch[0].clone().requires_grad_()
    here.model(inputs).sum().backward()
    here.model.train()


@odd
def an_error_of_the_user_in_the_middle_of_a_step(here: Loop, step: int, batch: Any) -> None:
    if step % 3 == 2:
        here.backward(batch)
        return
    here.update(batch)


@odd
def hooks_of_the_user_that_change_gradients(here: Loop, step: int, batch: Any) -> None:
    handles = [
        each.register_hook(lambda gradient: gradient.clamp(-0.01, 0.01))
        for each in here.model.parameters()
    ]
    here.update(batch)
    for handle in handles:
        handle.remove()


@odd
def the_optimizer_is_set_back(here: Loop, step: int, batch: Any) -> None:
    if step == 4:
        here.optimizer.load_state_dict(copy.deepcopy(here.optimizer.state_dict()))
    if step == 6:
        here.optimizer.state.clear()
    here.update(batch)


@odd
def a_rate_that_is_a_tensor_and_then_none(here: Loop, step: int, batch: Any) -> None:
    here.optimizer.param_groups[0]["lr"] = [0.05, torch.tensor(0.04), 0.0][step % 3]
    here.update(batch)


@odd
def findings_and_the_run_after_every_step(here: Loop, step: int, batch: Any) -> None:
    here.update(batch)
    if here.w is not None:
        assert here.w.run is not None and str(here.w.findings())


@odd
def the_graph_is_kept_and_used_twice(here: Loop, step: int, batch: Any) -> None:
    here.optimizer.zero_grad()
    loss = LOSSES(here.model, batch).mean()
    loss.backward(retain_graph=True)
    loss.backward()
    here.tell(loss, batch)
    here.optimizer.step()


@odd
def the_seed_is_set_at_every_step(here: Loop, step: int, batch: Any) -> None:
    torch.manual_seed(step)
    here.update((batch[0] + torch.randn_like(batch[0]), batch[1]))


def trained(loop: Odd, folder: Path, *, watched: bool, kind: str) -> tuple[list[Tensor], Any]:
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    of = torch.optim.AdamW if kind == "AdamW" else torch.optim.SGD
    optimizer = of(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(5)
    batches = [
        (
            torch.randn(8, 8, generator=generator, dtype=torch.float64),
            torch.randint(5, (8,), generator=generator),
        )
        for _ in range(STEPS)
    ]
    torch.manual_seed(3)
    gauges = (
        "noise,preconditioned_noise"
        if kind == "AdamW"
        else "noise,batch_sharpness,temperature,trajectory"
    )
    made = watch(
        model,
        optimizer,
        loss=LOSSES,
        out=folder,
        every=1,
        parts=2,
        gauges=gauges,
        page=False,
        quiet=True,
    )
    with made if watched else as_it_is() as w:
        for step, batch in enumerate(batches):
            loop(Loop(w, model, optimizer, folder), step, batch)
    return [
        *(each.detach().clone() for each in model.parameters()),
        torch.rand(2, dtype=torch.float64),
    ], made


@contextmanager
def as_it_is() -> Iterator[None]:
    yield None


@pytest.fixture(autouse=True)
def settings_of_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(Path.cwd())
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[pytest.mark.slow] * ((place + which) % 2))
        for place, name in enumerate(ODD)
        for which, kind in enumerate(["SGD", "AdamW"])
    ],
)
@pytest.mark.filterwarnings("ignore:the loss is nan:RuntimeWarning")
def test_an_odd_loop_ends_with_the_bits_of_the_loop_alone(
    name: str, kind: str, tmp_path: Path
) -> None:
    plain, _ = trained(ODD[name], tmp_path, watched=False, kind=kind)
    made, w = trained(ODD[name], tmp_path, watched=True, kind=kind)
    assert all(map(torch.equal, made, plain))
    readings = w.run.series("noise")
    assert w.findings().warnings or (readings is not None and len(readings) >= STEPS - 2)


@pytest.mark.parametrize(
    ("kind", "left_out"),
    [(torch.optim.Adam, "preconditioned_sharpness"), (torch.optim.SGD, "batch_sharpness")],
)
def test_a_loss_with_gradients_inside_is_watched_as_if_no_loss_was_given(
    tmp_path: Path, kind: type[torch.optim.Optimizer], left_out: str
) -> None:
    """Such a loss cannot be run apart from training, and by default nothing else needs it."""

    def penalized(model: nn.Module, batch: Tensor) -> Tensor:
        inputs = batch.clone().requires_grad_()
        outputs = model(inputs)
        (slopes,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
        return outputs.square().mean() + slopes.square().mean()

    ends = []
    for is_watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = kind(model.parameters(), lr=0.01)
        with (
            watch(model, optimizer, loss=penalized, out=tmp_path, page=False, quiet=True)
            if is_watched
            else nullcontext() as w
        ):
            for _ in range(40):
                batch = torch.randn(16, 3)
                optimizer.zero_grad()
                loss = penalized(model, batch)
                loss.backward()
                if w is not None:
                    w.step(loss, batch)
                optimizer.step()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(map(torch.equal, *ends))
    assert w is not None and w.run is not None
    assert w.run.series("noise") is not None and w.run.series(left_out) is None
    assert any(f"{left_out} is not measured" in each for each in w.run.warnings)


@pytest.mark.parametrize("gives_batch", [True, False])
def test_a_loop_that_goes_on_after_the_block_gets_one_warning(
    tmp_path: Path, gives_batch: bool
) -> None:
    model = nn.Linear(20, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, labels = torch.randn(8, 20).double(), torch.arange(8) % 3

    def step(w: Any) -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        w.step(loss, (inputs, labels) if gives_batch else None)
        optimizer.step()

    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(5):
            step(w)
    for _ in range(100):
        step(w)
    (said,) = w.findings().warnings
    assert "`step` was called after" in said
    assert w.steps == 5


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


INPUTS = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS @ torch.ones(6)).gt(0).long()


def followed(
    tmp_path: Path, steps: int, change: Callable[[int, nn.Module, Any], Any] = lambda *_: None
) -> Any:
    """The watch of a loop in which `change` acts on model and optimizer before a step."""
    model = layers()
    optimizer: Any = torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters()}], lr=0.1
    )
    chance = torch.Generator().manual_seed(1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(steps):
            optimizer = change(step, model, optimizer) or optimizer
            rows = torch.randint(256, (16,), generator=chance)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])
            loss.backward()
            w.step(loss, (INPUTS[rows], LABELS[rows]))
            optimizer.step()
    return w


def new_head(step: int, model: Any, _: Any) -> Any:
    if step != 60:
        return None
    model[2] = nn.Linear(8, 3)
    return torch.optim.SGD(model.parameters(), lr=0.1)


def without_a_group(step: int, _: Any, optimizer: Any) -> None:
    if step == 60:
        del optimizer.param_groups[0]


@pytest.mark.parametrize("change", [new_head, without_a_group])
def test_gradients_count_for_the_present_model_and_optimizer(
    tmp_path: Path, change: Callable[[int, nn.Module, Any], Any]
) -> None:
    """Those of a layer that went, or that nobody trains any more, are never cleared."""
    w = followed(tmp_path, 200, change)
    assert "not cleared" not in str(w.findings())
    stale = [signs["stale"] for _, signs in w.run.signs if "stale" in signs]
    assert not any(stale)


@pytest.mark.parametrize("steps", [12, 60])
def test_a_group_that_is_added_later_is_not_called_untrained(tmp_path: Path, steps: int) -> None:
    model = layers()
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(steps):
            if step == 5:
                optimizer.add_param_group({"params": model[2].parameters()})
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(INPUTS[:16]), LABELS[:16])
            loss.backward()
            w.step(loss, (INPUTS[:16], LABELS[:16]))
            optimizer.step()
    assert "never updated" not in str(w.findings())


def updated_inside(
    tmp_path: Path, *, set_to_none: bool = True, **settings: Any
) -> tuple[Any, list[list[float]], list[list[float]]]:
    """The watch of a loop whose optimizers step inside of `backward`; ‖g‖ and ‖Δw‖ of every
    parameter at every step."""
    model = layers()
    parameters = [*model.parameters()]
    optimizers = {one: torch.optim.SGD([one], lr=0.1) for one in parameters}
    places = {one: place for place, one in enumerate(parameters)}
    norms, moves = [], []

    def update(one: Any) -> None:
        now[places[one]] = float(one.grad.norm())
        optimizers[one].step()
        optimizers[one].zero_grad(set_to_none=set_to_none)

    for one in parameters:
        one.register_post_accumulate_grad_hook(update)
    watched = watch(model, [*optimizers.values()], out=tmp_path, quiet=True, page=False, **settings)
    with watched as w:
        for _ in range(120):
            now = [0.0] * len(parameters)
            before = [one.detach().clone() for one in parameters]
            rows = torch.randint(256, (16,))
            loss = nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])
            loss.backward()
            w.step(loss, (INPUTS[rows], LABELS[rows]))
            norms.append(now)
            steps = [one.detach() - old for one, old in zip(parameters, before, strict=True)]
            moves.append([float(one.norm()) for one in steps])
    return w, norms, moves


@pytest.mark.parametrize("set_to_none", [True, False])
def test_updates_inside_of_backward_are_looked_at(tmp_path: Path, set_to_none: bool) -> None:
    w, norms, moves = updated_inside(tmp_path, set_to_none=set_to_none)
    looks = [(step, signs) for step, signs in w.run.signs if "movement" in signs]
    assert len(looks) >= 8
    for step, signs in looks:
        assert signs["gradient"] == pytest.approx(norms[step], rel=1e-4)
        assert signs["movement"] == pytest.approx(moves[step], rel=1e-3, abs=1e-7)
        assert signs["without_gradient"] == 0
    found = str(w.findings())
    assert "get no gradient" not in found
    assert "cleared" not in found


@pytest.mark.parametrize("has_loss", [False, True])
def test_the_noise_of_updates_inside_of_backward_is_not_measured_in_one_sentence(
    tmp_path: Path, has_loss: bool
) -> None:
    """Without gradients in `.grad` the noise scale was "below 11"; with `loss` it was an error."""
    w, _, _ = updated_inside(tmp_path, **({"loss": LOSSES} if has_loss else {}))
    (said,) = w.findings().warnings
    assert "inside of `backward`" in said
    assert w.run.series("noise") is None
    assert not any("noise scale" in say(finding).seen for finding in w.findings())


def test_gradients_that_are_cleared_at_one_update_in_three_are_not_called_clipped(
    tmp_path: Path,
) -> None:
    def go(step: int, _: Any, optimizer: Any) -> None:
        zero_grad = torch.optim.SGD.zero_grad
        optimizer.zero_grad = lambda: zero_grad(optimizer) if step % 3 == 0 else None

    found = followed(tmp_path, 200, go).findings()
    assert "Gradients are not cleared before each update: at 65 %" in say(found[0]).seen
    assert "never" not in str(found)
    assert "lipping" not in str(found)


def test_gradients_that_are_cleared_before_the_update_are_not_called_clipped(
    tmp_path: Path,
) -> None:
    """As of a loop that leaves most of its updates out."""
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for step in range(200):
            rows = torch.randint(256, (16,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(INPUTS[rows]), LABELS[rows])
            loss.backward()
            w.step(loss)
            if step % 3:
                optimizer.zero_grad(set_to_none=bool(step % 2))
            optimizer.step()
    assert "lipping removes" not in str(w.findings())


@pytest.mark.parametrize("backwards", [1, 2])
def test_a_discriminator_gets_no_claim_about_its_loss(tmp_path: Path, backwards: int) -> None:
    """It is 2 log 2 as long as both learn, so that it does not fall: "nothing was learnt", or "the
    losses of 2 backwards are added"."""
    torch.manual_seed(0)
    generator, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(judge.parameters(), lr=0.01)
    other = torch.optim.SGD(generator.parameters(), lr=0.01)
    of_outputs = nn.BCEWithLogitsLoss()
    with watch(judge, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(400):
            true, false = torch.randn(32, 6), generator(torch.randn(32, 4))
            optimizer.zero_grad()
            losses = [
                of_outputs(judge(true), torch.ones(32, 1)),
                of_outputs(judge(false.detach()), torch.zeros(32, 1)),
            ]
            total = losses[0] + losses[1]
            for one in losses if backwards == 2 else [total]:
                one.backward()
            w.step(total)
            optimizer.step()
            other.zero_grad()
            of_outputs(judge(false), torch.ones(32, 1)).backward()
            other.step()
    (found,) = [each for each in w.findings() if each.gauge == "triage"]
    assert found.claim == "undecided"
    assert found.doubts[0].kind == "judge"


def test_a_generator_gets_no_claim_about_its_loss(tmp_path: Path) -> None:
    """Its loss goes through the discriminator, and stayed where it was: "nothing was learnt"."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
    judge = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(generator.parameters(), lr=0.01)
    other = torch.optim.SGD(judge.parameters(), lr=0.01)
    of_outputs = nn.BCEWithLogitsLoss()
    with watch(generator, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(400):
            false = generator(torch.randn(32, 4))
            other.zero_grad()
            of_outputs(judge(torch.randn(32, 6)), torch.ones(32, 1)).backward()
            of_outputs(judge(false.detach()), torch.zeros(32, 1)).backward()
            other.step()
            optimizer.zero_grad()
            loss = of_outputs(judge(false), torch.ones(32, 1))
            loss.backward()
            w.step(loss)
            optimizer.step()
    (found,) = [each for each in w.findings() if each.gauge == "triage"]
    assert found.claim == "undecided"
    assert found.doubts[0].kind == "judged"


def test_a_learnt_criterion_that_the_optimizer_has_is_no_other_network(tmp_path: Path) -> None:
    model, head = layers(), nn.Linear(3, 3)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(head(model(INPUTS)), LABELS)
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert not any("judged" in signs for _, signs in w.run.signs)


def pruned(step: int, model: Any, _: Any) -> None:
    if step == 7:
        torch.nn.utils.prune.l1_unstructured(model[0], "weight", amount=0.3)


def parametrized(step: int, model: Any, _: Any) -> None:
    if step == 7:
        torch.nn.utils.parametrizations.weight_norm(model[0])


@pytest.mark.parametrize("change", [pruned, parametrized])
def test_a_parameter_that_is_replaced_in_the_middle_is_named(
    tmp_path: Path, change: Callable[[int, nn.Module, Any], Any]
) -> None:
    said = followed(tmp_path, 60, change).findings().warnings
    assert said
    assert not any("KeyError" in one for one in said)
    assert any("no longer has the parameter 0.weight" in one for one in said)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_inputs_are_followed(tmp_path: Path, layout: torch.layout) -> None:
    model = layers()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer, out=tmp_path, quiet=True, page=False) as w:
        for _ in range(60):
            nested = torch.nested.nested_tensor([INPUTS[:4], INPUTS[4:10]], layout=layout)
            optimizer.zero_grad()
            loss = torch.nested.to_padded_tensor(model(nested), 0.0).square().mean()
            loss.backward()
            w.step(loss)
            optimizer.step()
    assert not w.findings().warnings
    assert w.steps == 60


def test_two_watches_in_two_threads_leave_each_other_and_the_random_state(tmp_path: Path) -> None:
    """Each reading seeds the generators that all threads share, and restores them at its end. A
    backward of one thread tells the watch of the other nothing."""
    both_are_inside = threading.Barrier(2)
    warned = []

    def loss_of(model: nn.Module, batch: Any) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            with suppress(threading.BrokenBarrierError):
                both_are_inside.wait(timeout=0.01)
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def train(folder: Path, model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watch(
            model, optimizer, loss=loss_of, every=1, parts=2, out=folder, quiet=True, page=False
        ) as w:
            for step in range(20):
                batch = INPUTS[step * 8 :][:8], LABELS[step * 8 :][:8]
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
                loss.backward()
                w.step(loss, batch)
                optimizer.step()
        warned.append(w.run.warnings)

    models = [layers(), layers()]
    before = torch.get_rng_state()
    threads = [
        threading.Thread(target=train, args=(tmp_path / str(place), model))
        for place, model in enumerate(models)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(before, torch.get_rng_state())
    assert warned == [[], []]
