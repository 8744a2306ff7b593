"""A fork of a watched loop, kept in its run."""

import inspect
from collections.abc import Sequence
from typing import Any

from gradiometer.errors import BadArgument, Unsupported
from gradiometer.integrations.watch.capture import Capture
from gradiometer.integrations.watch.data import Batches
from gradiometer.integrations.watch.losses import no_loss
from gradiometer.integrations.watch.requests.looks import Looks
from gradiometer.loop import Alternative, Fork, Loop, fork

OF_LOOP = frozenset(inspect.signature(Loop).parameters)
"""Arguments of `Loop`; the others are those of `fork`."""


class Forks(Looks):
    """Forks of a watched loop, on request."""

    _accumulation: int
    _batches: Batches
    _capture: Capture

    def fork(self, *, batches: Any, alternatives: Sequence[Alternative | str], **settings: Any) -> Fork | None:
        """What would have happened from here with other settings: `gradiometer.loop.fork` for the watched loop.

        Model, optimizer, loss, scaler, accumulation and the number of updates are those of the watch. Call it after
        `optimizer.step()`. The training stays the same, bit for bit, and the fork is kept in the run. Its time is
        reported in `overhead`, outside the budget. On several processes rank 0 forks and the others get None.

        Args:
            batches: The training data, for example the DataLoader, as in `gradiometer.loop.fork`.
            alternatives: What is compared with going on as it is, such as ["rate 2x"].
            settings: The other arguments of `gradiometer.loop.Loop`, such as `evaluate` and `scheduler`, and of
                `gradiometer.loop.fork`, such as `horizon`.

        Raises:
            BadArgument: An argument is invalid, there was no step yet, or `loss` is missing.
            Unsupported: The training cannot be copied.

        Example:
            >>> import torch
            >>> from gradiometer import supervised, watch
            >>> train, model = (torch.ones(16, 1), torch.arange(16.0)[:, None]), torch.nn.Linear(1, 1, bias=False)
            >>> loss, optimizer = supervised(torch.nn.MSELoss()), torch.optim.SGD(model.parameters(), lr=0.01)
            >>> with watch(model, optimizer, loss=loss, page=False, quiet=True) as w:
            ...     for _ in range(10):
            ...         optimizer.zero_grad()
            ...         value = loss(model, train)
            ...         value.backward()
            ...         w.step(value, train)
            ...         optimizer.step()
            ...     found = w.fork(batches=train, batch_size=4, alternatives=["rate 2x"], horizon="20 updates")
            >>> found.best()
            'rate 2x'
        """
        if len(self._optimizers) > 1:
            raise Unsupported(f"`optimizer` has {len(self._optimizers)} optimizers, and a fork needs one for all.")
        if self._batches.axis:
            raise Unsupported("`batch_axis` is not 0, and a fork cuts batches along their first axis.")
        with self._looking(forks=True) as run:
            if run is None or not self.ranks.first:
                return None
            own = settings.get("loss") is None and settings.get("step") is None
            if own and self._objective.loss is no_loss:
                raise BadArgument("`loss` is missing: give loss=lambda model, batch: ... to `watch` or here.")
            known: dict[str, Any] = {"index": self.steps}
            if own:
                known["loss"] = vars(self._objective.loss)["__wrapped__"]  # decorators of the user's own stay on it
            if settings.get("step") is None:
                known |= {"accumulation": self._accumulation, "scaler": self._capture.scaler}
            known |= {name: settings.pop(name) for name in OF_LOOP if name in settings}
            loop = Loop(self._objective.model, self._optimizers[0], batches=batches, **known)
            return fork(loop, alternatives, **{"out": run.path, **settings})
