"""`Cool`: branches to the end of the run decide if the rate goes to zero from here, as `--cool
auto` asks for."""

from collections.abc import Mapping
from typing import Any, ClassVar

from gradiometer.loop.comparison.words import outcome
from gradiometer.train.cooling import Cooling
from gradiometer.train.follow import COOL, GO_ON
from gradiometer.train.policies.policy import READOUT, ForkPoint, name_of
from gradiometer.train.training import Training


class Cool:
    """Two branches at each mark: one whose rate goes to zero from here, and one that keeps it for a
    while.

    Args:
        cooling: The cooling of the training, which knows the marks and the budget. Its state is in
            the checkpoints.
    """

    event: ClassVar[str] = "cooling"
    account: ClassVar[str] = "cooling forks"

    def __init__(self, cooling: Cooling) -> None:
        self._cooling = cooling

    def due(self, step: int) -> bool:
        """True if there is something to decide before this step."""
        return self._cooling.asks(step)

    def decide(self, here: ForkPoint) -> dict[str, Any]:
        """Decide from which step on the rate goes to zero.

        Returns:
            "begins", that step: the number of all steps if the rate stays to the end, None to ask
            again; "fork", the name of the fork that decided, None if the budget does not pay for
            one; its "outcome" in words; and what all forks have "spent", in units of the training.
        """
        training, cooling = here.training, self._cooling
        step = training.step
        begins: int | None = step
        fork, shown = None, ""
        if cooling.pays(step):
            found = here.fork(
                (cooling.hold(step),), cooling.replicates(step), until=cooling.stop(step)
            )
            (effect,) = found.effects(READOUT, level=cooling.two_sided)
            if step not in cooling.marks:
                begins = step if effect.verdict in ("worse", "diverged") else None
            elif effect.verdict == "better":
                begins = training.steps if step == cooling.marks[-1] else None
            fork = name_of(found)
            shown = f"{effect.alternative} {outcome(effect)}"
        # The other processes take in the decision before the same step.
        training.ranks.told(GO_ON if begins is None else COOL, begins or 0)
        training.decide(begins, forked=fork is not None)
        return {"spent": cooling.spent, "begins": begins, "fork": fork, "outcome": shown}

    def repeat(self, training: Training, event: Mapping[str, Any]) -> None:
        """Let the rate go to zero from where it did."""
        training.decide(event["begins"], forked=event["fork"] is not None)

    def remember(self, event: Mapping[str, Any]) -> None:
        """A checkpoint has the state of the cooling."""
