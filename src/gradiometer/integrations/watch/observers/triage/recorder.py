"""Records what triage needs, at every tenth step of a watched loop, from what training makes
anyway."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradiometer.integrations.gradients import (
    NEVER,
    SMALL_TENSOR,
    LastGradient,
    distance_of_entries,
    gradients_of,
    is_inside_backward,
)
from gradiometer.integrations.watch.accelerator import Copied
from gradiometer.integrations.watch.hook import Hook
from gradiometer.integrations.watch.observers.observer import Observer, Start, Step, Update
from gradiometer.integrations.watch.observers.triage.batches import BatchSigns, logits_of, parts_of
from gradiometer.integrations.watch.observers.triage.exact import (
    BackwardsOfStep,
    PassingGradients,
    SharedRows,
    facts_of,
    plan_of,
    sensitive_layers,
    together,
    untrained,
)
from gradiometer.integrations.watch.observers.triage.path import PathPoints
from gradiometer.integrations.watch.shield import attempt, guarding
from gradiometer.integrations.watch.subject import Subject, takes_no_hooks
from gradiometer.measurement.batch import Batch, tensors_of
from gradiometer.measurement.objective import Objective
from gradiometer.run.readings import LISTS
from gradiometer.run.recorder import Recorder

# Steps from one look to the next, in turn: about ten, since on 82 sick trainings looks at every
# tenth step named the same causes as at every one, and in no period of a loop, such as gradients
# that are cleared at every tenth step.
DISTANCES = (7, 11, 13)

# Share of the training time that looks may take.
SHARE = 0.01


# Entries of a large model whose movement is seen, about; of a smaller one all.
FOLLOWED = 2**20

# The event of a run with the facts that do not change.
EVENT = "triage"


class TriageRecorder(Observer):
    """Looks at one step in ten: norms, movement, products, moments of the batch, and what hooks see
    exactly.

    Between looks nothing is installed. A look keeps ĝ of the step before, listens to the backwards
    of its own step, and compares the parameters before and after its update. Numbers stay on the
    device and are fetched at the next look, when they have arrived.

    Args:
        subject: The training. Nothing is recorded of it on other processes than the first, with a
            budget of 0, or if it is sharded.
        last: The gradient of the step before.
        warn: Takes a warning.
        made: Gives the number of updates so far.
    """

    def __init__(
        self,
        subject: Subject,
        last: LastGradient,
        warn: Callable[[str], None],
        made: Callable[[], int],
    ) -> None:
        objective = subject.objective
        budget = subject.budget
        self._subject = subject
        self._objective = objective
        self._optimizers = subject.optimizers
        self._charge = budget.charge
        self._clock = budget.clock
        # The context for everything that training calls: an error ends triage, and nothing else.
        self.shield = guarding(warn, "triage has stopped", lambda _: attempt(*self._ends()))
        self._last = last
        self._made = made
        self._path = PathPoints(objective.parameters)
        self._parameters_before: list[Tensor] = []
        self._apart = distance_of_entries(objective.parameters, FOLLOWED)
        self._read_at = 0
        self._is_open = False
        self._is_updating = False
        self._backwards = BackwardsOfStep(objective, subject.optimizers, self.shield)
        # Reads gradients of updates that are made inside of `backward`; None for others.
        self._passing: PassingGradients | None = None
        self._batches = BatchSigns(objective.model)
        self._shared = SharedRows(objective.model, self.shield, budget)
        self._sensitive = sensitive_layers(objective.model)
        # The learning rate of the last update.
        self.rate: Any = None
        self._rates: list[tuple[int, float]] = []
        self._rate_changes = self._written = 0
        self._recorder: Recorder | None = None
        # The newest facts in the run.
        self._facts: dict[str, Any] = {}
        self._waiting: list[tuple[int, dict[str, Any], list[tuple[str, int]], Copied]] = []
        self._look: dict[str, Tensor] = {}
        self._counts: dict[str, Any] = {}
        self._output: Any = None
        self._graph: dict[str, int] = {}
        self._takes_moments = True
        self._is_time_first = False
        self._handles: list[Any] = []
        self._looks = 0
        self._spent, self._began = 0.0, self._clock()
        self._first = 0
        # The step of the next look; None before the first step.
        self._target: int | None = None
        is_enabled = bool(budget.share) and subject.source.records_model
        self.next = 0 if is_enabled else NEVER
        # The share of ‖ĝ‖ that clipping left for the newest update that was looked at; NaN before
        # the first one.
        self.applied: float | Tensor = math.nan if is_enabled else 1.0

    def begin(self, start: Start) -> None:
        """Write into this run from now on, beginning with the facts that do not change, unless the
        run has them."""
        self._recorder = start.recorder
        if self.next == NEVER or start.has_facts:
            return
        with self.shield:
            facts = self._facts = facts_of(self._objective, self._optimizers)
            # The search for a scheduler looks at all objects, which takes as long as 5 to 30 small
            # steps. A training of ours has that of its schedule.
            facts |= (
                {"scheduler": "LambdaLR"}
                if self._subject.source.is_ours
                else plan_of(self._optimizers)
            )
            planned = self._subject.budget.planned
            facts |= {} if planned is None else {"steps": planned}
            start.recorder.event(EVENT, start.step, **facts)

    def _note_trained(self) -> None:
        """Write the facts again if an optimizer holds parameters that none held before, as after
        `add_param_group`."""
        known = self._facts.get("untrained", [])
        left = untrained(self._objective, self._optimizers) if known else []
        if len(left) < len(known) and self._recorder is not None:
            self._facts["untrained"] = left
            self._recorder.event(EVENT, self._read_at, **self._facts)

    def at_step(self, event: Step) -> None:
        """Do what is due after a backward and before the update."""
        if not event.is_last:
            return
        with self.shield:
            self._look_at(event.index, event.batch)

    def _look_at(self, step: int, batch: Batch) -> None:
        if self._target is None:
            self._first = self._target = step + 1
        began = self._clock()
        with torch.no_grad():
            if step >= self._path.next:
                found = self._path.distances(step)
                if found is not None:
                    steps, squares = found
                    layout = [("path", len(steps))]
                    self._waiting.append((step, {"path_steps": steps}, layout, Copied(squares)))
            # The update before the look, or that of the look, took fewer backwards than usual, as
            # at the end of an epoch, or was skipped: the look is that of a later step.
            is_missed = not self._is_open or (step > self._target and not self.awaits_update)
            if step >= self._target and is_missed:
                self._target = step + 1
            if step < self._target - 1:
                self.next = min(self._target - 1, self._path.next)
            elif self._passing is not None:
                self._look_inside(step, self._target, batch)
            elif step < self._target:
                self._last.take(step)
                self._last.plain_at = step + 1
                if self._target == self._first:
                    # Keep what the first update, which may be the one that does harm, changes.
                    self._look = {
                        "nonzero_at_start": nonzero_entries(
                            gradients_of(self._objective.parameters)
                        ),
                        "weights_at_start": together(
                            torch._foreach_norm(parameters_of(self._objective))
                        ),
                    }
                self.next = self._target
                self.awaits_update = True
            else:
                self._read(step, batch)
                self.awaits_update = True
        self._pay(began)

    def _look_inside(self, step: int, target: int, batch: Batch) -> None:
        """Look at an update that was made inside of `backward`, and is over now. What comes before
        it is taken after the step before."""
        if step < target:
            self._open()
            self._keep_parameters()
            self.next = target
            return
        self._read(step, batch)
        self._finish(step)

    def updated(self, update: Update) -> None:
        """Do what is due after the update of a step."""
        step = update.step
        began = self._clock()
        self.awaits_update = False
        with self.shield, torch.no_grad():
            if is_inside_backward():
                # gradients are used and cleared one by one, so that `.grad` shows none of them
                self._passing = self._passing or PassingGradients(self.shield)
                self._look.pop("nonzero_at_start", None)
            elif self._target is not None and step < self._target:
                self._open()
            else:
                self._finish(step)
        self._pay(began)

    def note_rate(self, step: int, rate: float | int | Tensor) -> None:
        """Note that the first group of the optimizer made this update with another rate than the
        last one."""
        before, self.rate = self.rate, rate
        if isinstance(rate, Tensor) or self.next == NEVER or rate == before:
            return
        with self.shield:
            self._rate_changes += 1
            # A change of the rate by less than 1 % is not written.
            if not self._rates or abs(rate - self._rates[-1][1]) > 0.01 * abs(self._rates[-1][1]):
                self._rates.append((step, float(rate)))

    def evaluated(self) -> None:
        """An evaluation was made."""
        with self.shield:
            if self.next != NEVER and not takes_no_hooks(self._objective.model):
                self._shared.evaluated()

    def close(self, error: BaseException | None) -> None:
        """Write what waits, and remove all hooks."""
        with self.shield:
            for end in self._ends():
                end()
            self.write()

    def _ends(self) -> tuple[Callable[[], object], ...]:
        """Look no more. Returns what there is to end, each by itself."""
        self.next = NEVER
        self.awaits_update = False
        self.applied = 1.0  # no more is known
        return self._backwards.stop, self._remove_hooks, self._shared.close, self._free

    def _free(self) -> None:
        """Free what is as large as the model or its outputs: the watch itself is kept for its
        findings."""
        self._last.free()
        self._path.forget()
        self._parameters_before = []
        self._look = {}
        self._output = None

    def _pay(self, began: float) -> None:
        took = self._clock() - began
        self._spent += took
        self._charge(EVENT, took)

    def _open(self) -> None:
        """Listen to the coming step: its forward and its backwards."""
        self._is_open = True
        self._takes_moments = self._batches.due
        self._remove_hooks()
        self._backwards.start(reads_loss=self._takes_moments)
        if self._passing is not None:
            self._passing.start(self._objective.parameters)
        if self._takes_moments and not takes_no_hooks(self._objective.model):
            self._handles.append(
                self._objective.model.register_forward_hook(
                    Hook(self.shield, self._ran), with_kwargs=True
                )
            )
        self._is_updating = False
        for optimizer in self._optimizers:
            self._handles.append(
                optimizer.register_step_pre_hook(Hook(self.shield, self._update_begins))
            )

    def _update_begins(self, *_: Any) -> None:
        """The optimizer was called before the look: it makes the backward in a closure."""
        self._is_updating = True

    def _ran(
        self, _: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], output: Any
    ) -> None:
        if torch.is_grad_enabled():
            self._output = output
            tensors = tensors_of((*given, *named.values()))
            self._graph = {"graph": 1} if is_graph(tensors) else {}

    def _read(self, step: int, batch: Batch) -> None:
        """Take what can be seen between `backward` and the update, and hook the update."""
        heard = self._backwards
        without = self._read_gradients(step)
        inputs, labels = parts_of(batch)
        if inputs is not None and inputs.layout is not torch.strided:
            inputs = None  # the features of a graph, sparse: no moments, no fingerprints
        out = logits_of(self._output)
        if labels is None and heard.compared is not None:
            outputs, labels = heard.compared
            if out is None or out.shape != outputs.shape:
                out = outputs
        inputs = self._with_examples_first(inputs, labels)
        heard.stop()
        if self._subject.scaler is not None:
            scale = self._subject.scale()
            self._look["scale"] = scale
            if "product" in self._look:
                # scaled as the norms are, which `backward` made
                self._look["product"] = self._look["product"] * scale**2
        self._counts = {
            "without_gradient": without,
            **heard.counts,
            "updates": self._made(),
            "in_eval": sum(not layer.training for layer in self._sensitive),
            "sensitive": len(self._sensitive),
            "rows": next((one.shape[0] for one in tensors_of(batch) if one.dim()), 0),
            **self._graph,
        }
        if inputs is not None and self._is_time_first:
            self._counts["rows"] = self._counts["time_first"] = len(inputs)
        self._look |= heard.signs
        if self._takes_moments:
            self._look |= self._batches.of(inputs, labels, out)
        self._look |= self._shared.shared(inputs, labels, compares=self._takes_moments)
        self._output = None
        self._read_at = step
        self._remove_hooks()
        if self._passing is not None:
            self._is_updating = False
        elif self._is_updating:
            self._keep_parameters()  # what clips in a closure, as in Lightning, comes later
        else:
            self._hook_update()

    def _read_gradients(self, step: int) -> int:
        """Take the norms of the gradients, and return how many parameters have none."""
        if self._passing is not None:
            self._look["gradient"] = self._passing.norms
            self._look["nonzero"] = self._passing.nonzero
            return self._passing.missing
        parameters = self._objective.parameters
        self._look["gradient"] = self._backwards.made
        self._look["nonzero"] = nonzero_entries(gradients_of(parameters))
        product = self._last.take(step).product
        if product is not None:
            self._look["product"] = product
        return sum(one.grad is None for one in parameters)

    def _hook_update(self) -> None:
        """Look at what clipping has left, right before the update."""
        for optimizer in self._optimizers:
            self._handles.append(
                optimizer.register_step_pre_hook(Hook(self.shield, self._before_update))
            )

    def _with_examples_first(self, inputs: Tensor | None, labels: Tensor | None) -> Tensor | None:
        """The inputs with the examples along the first axis, as far as the labels have shown it."""
        if inputs is None or inputs.dim() < 2:
            return inputs
        if labels is not None:
            self._is_time_first = is_time_first(inputs, labels)
        return inputs.transpose(0, 1) if self._is_time_first else inputs

    def _before_update(self, *_: Any) -> None:
        """Take what clipping has left, and the parameters. Several optimizers make one update: the
        first counts."""
        if "clipped" in self._look:
            return
        began = self._clock()
        with torch.no_grad():
            self._look["clipped"] = self._norm_applied()
            self._keep_parameters()
        self._pay(began)

    def _norm_applied(self) -> Tensor:
        """‖ĝ‖ as the update has it, or had it, and the share of it that clipping left."""
        norms: Tensor = self._look["gradient"]
        made = norms.norm()
        gradients = gradients_of(self._objective.parameters)
        is_unchanged = self._subject.scaler is None and self._backwards.is_unchanged
        if is_unchanged:
            # a scaler that was not given divides in a way that versions do not show, but one
            # gradient shows it
            sizes = [one.numel() or math.inf for one in gradients]
            place = sizes.index(min(sizes))
            gradients = [gradients[place]]
            norms = norms[place]
        norm: Tensor = together(torch._foreach_norm(gradients)).norm()
        share = norm / norms.norm() * self._look.get("scale", 1.0)
        self.applied = share.nan_to_num(nan=1.0, posinf=1.0)
        return made * self.applied if is_unchanged else norm

    def _keep_parameters(self) -> None:
        """Keep the parameters, to see how far the update moves them."""
        self._look["weights"] = together(torch._foreach_norm(parameters_of(self._objective)))
        self._parameters_before = [one.clone() for one in self._followed()]

    def _followed(self) -> list[Tensor]:
        """The entries of each parameter whose movement is seen: all of a model of up to `FOLLOWED`,
        and every n-th one of the large tensors of a larger one."""
        return [
            one
            if self._apart == 1 or one.numel() <= SMALL_TENSOR
            else one.reshape(-1)[:: self._apart]
            for one in parameters_of(self._objective)
        ]

    def _moved(self, before: list[Tensor]) -> Tensor:
        """How far each parameter has moved, from the entries that are followed."""
        now = self._followed()
        torch._foreach_sub_(before, now)
        norms = together(torch._foreach_norm(before))
        if self._apart == 1:
            return norms
        shares = [
            one.numel() / max(part.numel(), 1)
            for one, part in zip(self._objective.parameters, now, strict=True)
        ]
        return norms * torch.tensor(shares, device=norms.device, dtype=norms.dtype).sqrt()

    def _finish(self, step: int) -> None:
        """Take how far the parameters moved, begin to fetch all numbers, and choose
        the next look."""
        self._is_open = False
        self._remove_hooks()
        # else the update had more backwards, as LBFGS makes them
        if self._parameters_before and step == self._read_at:
            self._look["movement"] = self._moved(self._parameters_before)
            if self._is_updating:
                self._norm_applied()
        if isinstance(self.applied, float) and math.isnan(self.applied):
            self.applied = 1.0
        self._parameters_before = []
        self.write(before=step)
        layout = [(name, value.numel()) for name, value in self._look.items()]
        device = self._objective.parameters[0].device
        numbers = torch.cat(
            [value.detach().reshape(-1).to(device).float() for value in self._look.values()]
        )
        self._waiting.append((step, self._counts, layout, Copied(numbers)))
        self._look = {}
        self._target = self._next_look(step)
        self._path.meet(self._target)
        self.next = min(self._target - 1, self._path.next)

    def _next_look(self, step: int) -> int:
        """The step of the next look: later if looks have cost more than their share."""
        self._looks += 1
        # From step 2,000 on, looks are a 200th of the steps so far apart: a training of a million
        # steps has about 1,400.
        distance = max(DISTANCES[self._looks % len(DISTANCES)], step // 200)
        elapsed = self._clock() - self._began
        # Looks that are made whatever they cost, so that a training of 400 quick steps is seen: 10
        # to 15 ms for a small network, paid back later.
        if self._looks > 40 and self._spent > SHARE * elapsed:
            behind = (self._spent / SHARE - elapsed) / elapsed * (step + 1)
            distance += int(min(behind, step + distance))
        return step + distance

    def write(self, before: float | int = math.inf) -> None:
        """Write what has been fetched at the steps before one: for that of this step training would
        wait."""
        self._note_trained()
        fetched = [one for one in self._waiting if one[0] < before]
        self._waiting = self._waiting[len(fetched) :]
        for step, counts, layout, copied in fetched:
            values = copied().tolist()
            signs: dict[str, Any] = dict(counts)
            place = 0
            for name, count in layout:
                part = [rounded(value) for value in values[place : place + count]]
                place += count
                signs[name] = part if name in LISTS else part[0]
            if self._recorder is not None:
                self._recorder.signs(step, signs)
        self._write_rates()

    def _write_rates(self) -> None:
        """Write the learning rates since the last look. The last one stays, to compare the next
        with."""
        if self._recorder is None or not self._rates or self._rate_changes == self._written:
            return
        signs = {
            "rate_steps": [float(step) for step, _ in self._rates],
            "rates": [rate for _, rate in self._rates],
            "rate_changes": float(self._rate_changes),
        }
        self._recorder.signs(self._rates[-1][0], signs)
        self._rates = self._rates[-1:]
        self._written = self._rate_changes

    def _remove_hooks(self) -> None:
        if self._passing is not None:
            self._passing.stop()
        while self._handles:
            self._handles.pop().remove()


def rounded(value: float) -> float:
    """Six digits: what single precision has."""
    return float(f"{value:.6g}")


def is_time_first(inputs: Tensor, labels: Tensor) -> bool:
    """True if the examples lie along the second axis of the inputs, as those of PyTorch's recurrent
    layers and transformers: each has a label, and the first axis has another length.

    A matrix of real numbers has features there, whose number may be that of the labels by chance,
    as in a graph of which a part of the nodes has labels.
    """
    has_features = inputs.dim() == 2 and inputs.is_floating_point()
    if has_features or labels.dim() != 1:
        return False
    return len(inputs) != len(labels) == inputs.shape[1]


def is_graph(given: Sequence[Tensor]) -> bool:
    """True for the features of nodes with an adjacency matrix, or with the two ends of every edge,
    as graph networks take them: nodes of one graph are no examples that can be left out."""
    features, others = given[:1], given[1:]
    if not others or features[0].dim() != 2 or not features[0].is_floating_point():
        return False
    nodes = len(features[0])
    return any(
        one.layout is not torch.strided
        or one.shape == (nodes, nodes)
        or (one.dtype == torch.int64 and one.dim() == 2 and len(one) == 2)
        for one in others
    )


def nonzero_entries(gradients: Sequence[Tensor]) -> Tensor:
    """How many entries of every gradient are not zero."""
    return together([gradient.count_nonzero() for gradient in gradients])


def parameters_of(objective: Objective) -> list[Tensor]:
    """The trainable parameters, detached."""
    return [parameter.detach() for parameter in objective.parameters]
