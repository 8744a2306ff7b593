"""Ensembles: the average as a module and as a file."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gradiometer import BadArgument, StorageFailed, Unsupported
from gradiometer.exploration.ensembles import Ensemble, Snapshot, export
from gradiometer.problems.images.classification import digits_cnn
from gradiometer.problems.images.digits import load


def models(count: int = 3) -> list[nn.Module]:
    torch.manual_seed(0)
    return [digits_cnn() for _ in range(count)]


def test_an_ensemble_predicts_the_mean_of_its_members_probabilities() -> None:
    members, images = models(), torch.randn(7, 1, 8, 8)
    mean = sum(member(images).softmax(1) for member in members) / 3
    torch.testing.assert_close(Ensemble(members)(images), mean)
    cooler = (mean**2) / (mean**2).sum(1, keepdim=True)
    torch.testing.assert_close(Ensemble(members, temperature=0.5)(images), cooler)
    last = (members[1](images).softmax(1) + members[2](images).softmax(1)) / 2
    torch.testing.assert_close(Ensemble(members).last(2)(images), last)


def test_a_probability_below_the_smallest_float_keeps_its_loss() -> None:
    sure = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        sure.weight.copy_(torch.tensor([[400.0], [0.0]]))
    ensemble = Ensemble([sure, copy.deepcopy(sure)])
    assert ensemble.log_probabilities(torch.ones(1, 1))[0, 1].item() == pytest.approx(-400)


@pytest.mark.parametrize(
    ("count", "settings", "words"),
    [
        (1, {}, "at least 2 models, got 1"),
        (2, {"temperature": math.nan}, "`temperature` must be positive and finite, got nan"),
    ],
)
def test_bad_settings_are_refused(count: int, settings: dict, words: str) -> None:
    with pytest.raises(BadArgument, match=words):
        Ensemble(models(count), **settings)


def test_an_ensemble_is_made_of_snapshots_of_one_architecture() -> None:
    members = models()
    snapshots = [
        Snapshot.of(member, number, 10 * number) for number, member in enumerate(members, start=1)
    ]
    made, images = Ensemble.of_snapshots(snapshots, digits_cnn()), torch.randn(4, 1, 8, 8)
    assert torch.equal(made(images), Ensemble(members)(images))
    with pytest.raises(BadArgument, match="at least 2 models, got 1"):
        Ensemble.of_snapshots(snapshots[:1], digits_cnn())
    with pytest.raises(
        BadArgument, match=r"`model` must have the architecture of snapshot 1 \(step 10\)"
    ):
        Ensemble.of_snapshots(snapshots, load("mlp").model())
    with pytest.raises(BadArgument, match="between 2 and the 3 members, got 4"):
        made.last(4)


def test_an_exported_ensemble_predicts_the_same_for_any_number_of_examples(tmp_path: Path) -> None:
    ensemble = Ensemble(models(), temperature=1.7)
    path = export(ensemble, torch.randn(4, 1, 8, 8), tmp_path / "e.pt2")
    program = torch.export.load(path).module()
    for count in (1, 2, 19):
        images = torch.randn(count, 1, 8, 8)
        torch.testing.assert_close(program(images), ensemble.eval()(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_ensemble_in_onnx_predicts_the_same_in_another_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    ensemble = Ensemble(models(2)).eval()
    path = export(ensemble, torch.randn(4, 1, 8, 8), tmp_path / "e.onnx")
    runtime = reference.ReferenceEvaluator(str(path))
    for count in (1, 6):
        images = torch.randn(count, 1, 8, 8)
        (predicted,) = runtime.run(None, {"inputs": images.numpy()})
        np.testing.assert_allclose(predicted, ensemble(images).detach().numpy(), atol=1e-6)


def test_what_cannot_be_exported_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Choosy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(BadArgument, match=r"a file named \.pt2 \(torch\) or \.onnx, got e\.pth"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "e.pth")
    with pytest.raises(BadArgument, match=r"the folder .* does not exist"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "nowhere" / "e.pt2")
    with pytest.raises(BadArgument, match="at least 2 examples, got 1"):
        export(nn.Identity(), torch.zeros(1, 1), tmp_path / "e.pt2")
    with pytest.raises(Unsupported, match=r"torch\.export cannot export this model"):
        export(Choosy(), torch.ones(2, 1), tmp_path / "e.pt2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BadArgument, match=r"needs onnx and onnxscript: `pip install 'gradiometer\[export\]'`"
    ):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "e.onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(StorageFailed, match=r"folder\.pt2` could not be written: is a directory"):
        export(nn.Identity(), torch.zeros(2, 1), tmp_path / "folder.pt2")
