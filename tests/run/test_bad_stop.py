"""A wrong record of a fork is a warning with its file, and everything else is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from gradiometer import RunDamaged
from gradiometer.loop.changes.alternative import Rate
from gradiometer.loop.recorded.record import ForkRecord, Plan
from gradiometer.measurement import Estimate

GOOD = {
    "alternative": "rate 2x",
    "horizon": 64,
    "replicates": 2,
    "reason": "worse",
    "behind": "go on",
}
GOOD |= {"gap": Estimate.exact(1.0).to_dict()}


def kept(folder: Path) -> ForkRecord:
    plan = Plan(step=100, alternatives=(Rate(2),), replicates=2, horizon=64)
    return ForkRecord.keep(folder, plan).finish()


@pytest.mark.parametrize(
    "spoiled",
    [
        {"x": 1},
        [],
        3,
        None,
        "worse",
        *(
            {name: value for name, value in GOOD.items() if name != left}
            for left in GOOD
            if left != "reason"
        ),
        *(GOOD | {name: [1]} for name in GOOD if name != "reason"),
        GOOD | {"gap": {"value": 1.0}},
        GOOD | {"gap": Estimate.exact(1.0).to_dict() | {"low": 2.0}},
    ],
)
def test_a_stop_that_is_none_is_refused_with_its_file(tmp_path: Path, spoiled: Any) -> None:
    record = kept(tmp_path)
    stored = json.loads((record.path / "fork.json").read_text())
    (record.path / "fork.json").write_text(json.dumps(stored | {"stops": [spoiled]}))
    with pytest.raises(RunDamaged, match=r"fork.json` is not the plan of a fork"):
        ForkRecord.open(record.path)


@pytest.mark.parametrize("stop", [GOOD, GOOD | {"gap": None}])
def test_a_stop_that_was_written_is_read(tmp_path: Path, stop: dict[str, Any]) -> None:
    record = kept(tmp_path)
    stored = json.loads((record.path / "fork.json").read_text())
    (record.path / "fork.json").write_text(json.dumps(stored | {"stops": [stop]}))
    (read,) = ForkRecord.open(record.path).stops or ()
    gap = None if read.gap is None else read.gap.to_dict()
    assert {**vars(read), "gap": gap} == stop
