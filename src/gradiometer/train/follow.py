"""A training on several processes: the first one runs the loop and says what is next, the others do their share."""

from contextlib import suppress

from gradiometer.run.checkpoints import load_latest
from gradiometer.run.folder import RunFolder
from gradiometer.run.ranks import RankLost, Ranks
from gradiometer.run.reader import Run
from gradiometer.train.state import restore
from gradiometer.train.stopping import asked_to_stop
from gradiometer.train.training import Training

END, STEP = 0, 1
"""What the first process says is next."""


def follow(training: Training) -> Run:
    """Do this process's share of every step, from the checkpoint that the first one begins from to where it ends.

    Nothing is written here. A wish to stop is for the first process to hear, which then ends all of them.

    Raises:
        RankLost: Another process is gone.
    """
    with asked_to_stop():
        folder = RunFolder.open(training.ranks.told_text())
        checkpoint, _ = load_latest(folder)
        if checkpoint is not None:
            restore(training, checkpoint.tensors, checkpoint.state)
        while True:
            following, measured = training.ranks.told(END, False)
            if following == END:
                return Run.open(folder.path)
            training.backward(training.batch(), bool(measured))
            learning_rate = training.learning_rate
            training.update()
            training.cooled(learning_rate)  # the same everywhere, from the same parameters


def lead(ranks: Ranks, folder: RunFolder) -> None:
    """Say which run it is: its latest checkpoint is where all begin."""
    ranks.told_text(str(folder.path.resolve()))


def dismiss(ranks: Ranks) -> None:
    """Let the others end, whether all is done or something is wrong here."""
    with suppress(RankLost):
        ranks.told(END, False)
