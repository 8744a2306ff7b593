"""What a run's snapshots are worth together, in its folder: `ensemble.json`, one at a time."""

import json

from gradiometer.exploration.worth import Worth
from gradiometer.run.disk import replace_file
from gradiometer.run.journal import plain, restored
from gradiometer.run.reader import Run

FILE = "ensemble.json"


def save_worth(run: Run, worth: Worth) -> None:
    """Write it into the run, over an earlier one."""
    replace_file(run.path / FILE, json.dumps(plain(worth.to_dict())).encode())


def load_worth(run: Run) -> Worth | None:
    """What was written last; None where there is nothing, or nothing that can be read."""
    try:
        return Worth.from_dict(restored(json.loads((run.path / FILE).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, AttributeError):
        return None
