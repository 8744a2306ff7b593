"""Surveys of the curvature in a run's folder: one file a step, `curvature/step_000123.json`."""

import json

from gradiometer.drift.survey import Survey
from gradiometer.run.disk import replace_file
from gradiometer.run.journal import plain, restored
from gradiometer.run.reader import Run

FOLDER = "curvature"


def save_survey(run: Run, survey: Survey) -> str:
    """Write a survey into the run, over an earlier one of the same step. Returns the file's name within the run."""
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{survey.step:06d}.json"
    replace_file(path, json.dumps(plain(survey.to_dict())).encode())
    return f"{FOLDER}/{path.name}"


def load_surveys(run: Run) -> tuple[Survey, ...]:
    """The surveys of a run by their step; one that cannot be read is left out."""
    found = []
    for path in sorted((run.path / FOLDER).glob("step_*.json")):
        try:
            found.append(Survey.from_dict(restored(json.loads(path.read_text(encoding="utf-8")))))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(sorted(found, key=lambda survey: survey.step))
