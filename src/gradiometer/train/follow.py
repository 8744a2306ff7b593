"""A training on several processes, of which rank 0 runs the loop and the others do their share; and
requests to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.run.ranks import RankLost, Ranks
from gradiometer.run.reader import Run
from gradiometer.train.restoring import restore
from gradiometer.train.training import COOL, END, GO_ON, Training


def follow(training: Training) -> Run:
    """Do this process's share of every step, from the checkpoint that rank 0 starts from to its
    end.

    Nothing is written here. Only rank 0 handles a request to stop, and then ends all processes.

    Raises:
        RankLost: Another process has ended.
    """
    with asked_to_stop():
        folder = RunFolder.open(training.ranks.told_path())
        load_latest(
            folder, use=lambda checkpoint: restore(training, checkpoint.tensors, checkpoint.state)
        )
        while True:
            following, told = training.ranks.told(END, False)
            if following == END:
                return Run.open(folder.path)
            if following in (GO_ON, COOL):
                # what forks have cost is known to rank 0, which alone asks for them
                training.decide(told if following == COOL else None, forked=False)
                continue
            batch = training.batch()
            training.backward(batch, bool(told))
            # the cooling looks at the same parameters everywhere
            training.update()


def lead(ranks: Ranks, folder: RunFolder) -> None:
    """Send the run's folder to all: they start from its latest checkpoint."""
    ranks.told_path(str(folder.path.resolve()))


def dismiss(ranks: Ranks) -> None:
    """End the other processes, after the last step or after an error here."""
    # After an error there may be nobody left to tell.
    with suppress(RankLost):
        ranks.told(END, False)


@contextmanager
def asked_to_stop() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal (SIGHUP) sets. A second Ctrl-C stops at
    once.

    A signal that the process was started to ignore, as by `nohup` or in the background of a script,
    is still ignored.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
