"""Certificates in a run's folder: one file a step, `certificates/step_000123.json`."""

import json

from gradiometer.convergence.certificate import Certificate
from gradiometer.run.disk import replace_file
from gradiometer.run.journal import plain, restored
from gradiometer.run.reader import Run

FOLDER = "certificates"


def save_certificate(run: Run, certificate: Certificate) -> str:
    """Write a certificate into the run, over one of the same step. Returns the file's name within the run."""
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"step_{certificate.step:06d}.json"
    replace_file(path, json.dumps(plain(certificate.to_dict())).encode())
    return f"{FOLDER}/{path.name}"


def load_certificates(run: Run) -> tuple[Certificate, ...]:
    """The certificates of a run by their step; one that cannot be read is left out."""
    found = []
    for path in sorted((run.path / FOLDER).glob("step_*.json")):
        try:
            found.append(Certificate.from_dict(restored(json.loads(path.read_text(encoding="utf-8")))))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tuple(sorted(found, key=lambda certificate: certificate.step))
