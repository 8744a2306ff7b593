"""Every file operation of a save, an artifact, a page and a journal fails once: a sentence, and
nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from every_call import each_way

from gradiometer import Diagnosis, Estimate, Run
from gradiometer.convergence.certificate import Certificate
from gradiometer.report.page.page import write_page
from gradiometer.run import Configuration
from gradiometer.run.artifacts import load_artifacts, save_artifact
from gradiometer.run.checkpoints import load_latest, save
from gradiometer.run.folder import RunFolder
from gradiometer.run.recorder import Recorder

Every = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()})


@each_way
def test_a_checkpoint_is_safe_from_every_fault(fail_every_call: Every, folder: RunFolder) -> None:
    def prepare() -> Callable[[], object]:
        save(folder, 1, {"a": torch.ones(3)}, {"step": 1}, keep=2)
        return lambda: save(folder, 2, {"a": torch.zeros(3)}, {"step": 2}, keep=1)

    def check(label: str, raised: bool) -> None:
        checkpoint, warnings = load_latest(folder)
        assert checkpoint is not None and not warnings, label
        assert checkpoint.step == 2 or raised, label
        assert checkpoint.tensors["a"].sum() == (3 if checkpoint.step == 1 else 0), label

    assert fail_every_call(prepare, check) > 15
    save(folder, 3, {"a": torch.ones(3)}, {"step": 3}, keep=1)
    # nothing is left over
    assert [path.name for path in folder.checkpoints_path.iterdir()] == ["step_000003"]


def certificate(gradients: int) -> Certificate:
    one = Estimate.exact(1.0)
    return Certificate(7, "eval", one, one, one, one, gradients=gradients, curved=4, of=4)


@each_way
def test_an_artifact_is_safe_from_every_fault(fail_every_call: Every, folder: RunFolder) -> None:
    run = Run.open(folder.path)

    def prepare() -> Callable[[], object]:
        save_artifact(run, certificate(1))
        return lambda: save_artifact(run, certificate(2))

    def check(label: str, raised: bool) -> None:
        (found,) = load_artifacts(run, Certificate)
        assert found.gradients == 2 or raised, label

    assert fail_every_call(prepare, check) >= 4


@each_way
def test_a_page_is_safe_from_every_fault(
    fail_every_call: Every, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, path = Run.open(folder.path), folder.path / "report.html"
    pages = iter(range(10**6))
    monkeypatch.setattr(
        "gradiometer.report.page.page.render", lambda *_: f"<p>{next(pages)}</p>" * 100
    )

    def prepare() -> Callable[[], object]:
        write_page(run, Diagnosis((), {}, {}))
        return lambda: write_page(run, Diagnosis((), {}, {}))

    def check(label: str, raised: bool) -> None:
        text = path.read_text()
        assert len(set(text.replace("</p>", "</p>\n").split())) == 1 and text.count("<p>") == 100, (
            label
        )

    assert fail_every_call(prepare, check) >= 4


@each_way
def test_what_a_recorder_has_flushed_is_safe_from_every_fault(
    fail_every_call: Every, tmp_path: Path
) -> None:
    folders: list[RunFolder] = []

    def prepare() -> Callable[[], object]:
        folders.append(
            RunFolder.create(tmp_path, "run", {"configuration": Configuration().to_dict()})
        )
        with Recorder(folders[-1], []) as recorder:
            recorder.loss(0, 1.0)
            recorder.event("started", 0)

        def act() -> None:
            with Recorder(folders[-1], []) as recorder:
                recorder.loss(1, 2.0)
                recorder.event("finished", 2)

        return act

    def check(label: str, raised: bool) -> None:
        run = Run.open(folders[-1].path)
        losses = run.losses[1].tolist()
        assert losses[:1] == [1.0] and run.events[0]["event"] == "started", label
        assert (losses == [1.0, 2.0] and run.status == "finished") or raised, label

    assert fail_every_call(prepare, check) >= 6


@each_way
def test_a_run_folder_is_complete_or_absent_after_every_fault(
    fail_every_call: Every, tmp_path: Path
) -> None:
    def prepare() -> Callable[[], object]:
        return lambda: RunFolder.create(
            tmp_path, "run", {"configuration": Configuration().to_dict()}
        )

    def check(label: str, raised: bool) -> None:
        for path in tmp_path.iterdir():
            assert RunFolder.open(path).configuration == Configuration(), label

    assert fail_every_call(prepare, check) >= 8
