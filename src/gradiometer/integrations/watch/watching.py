"""The object that `watch` returns."""

from types import TracebackType
from typing import Any

from gradiometer.errors import BadArgument
from gradiometer.integrations.watch.automatic import Automatic
from gradiometer.integrations.watch.data import Inputs
from gradiometer.integrations.watch.description import known_sampling
from gradiometer.integrations.watch.requests.forks import Forks


class Watch(Forks, Automatic):
    """A watched training, made by `watch`. Use it as a context manager around the whole loop."""

    def __enter__(self) -> "Watch":
        if self._handles or self._begun:
            raise BadArgument(
                "`watch` can be entered only once: call `watch` again for another training."
            )
        first, *others = self._optimizers
        self._follow_updates_of(first)
        self._handles += [
            one.register_step_post_hook(self._was_updated_by_another) for one in others
        ]
        self._inputs = Inputs(self._subject.called, self.shield)
        self._handles.append(self._inputs)
        if self._cadenced:
            self._capture.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self.shield:
            self.kept_updates.close()
            self.trials.close(self.steps, error)
        with self.shield:
            self.end()
        if not self._subject.is_own:
            with self.shield:
                self._settings.end()
            self._close(error)

    def end(self) -> None:
        """Stop following the training, and write what waits."""
        with self._triage.shield:
            self._triage.close()
        if self._successive is not None:
            self._successive.close()
        with self.shield:
            self._capture.stop()
            self._pace.end(self.steps)
            self._between.end()
        while self._handles:
            with self.shield:
                self._handles.pop().remove()

    def _draw_from(self, loader: Any) -> None:
        """Take the sampling from the loader, if it was not given and nothing is written yet."""
        self.trials.draw_from(loader)
        batches = self._subject.batches
        sampling = known_sampling(loader)
        if sampling is not None and not (batches.known or self._begun):
            batches.sampling = sampling
            batches.known = True
