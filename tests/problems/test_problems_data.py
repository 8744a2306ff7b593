"""The data sets: the digits that ship, and Fashion-MNIST as it lies on a machine, whole or torn."""

import gzip
import struct
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from gradiometer import BadArgument
from gradiometer.problems import Examples, load
from gradiometer.problems.images import digits, fashion_mnist
from gradiometer.problems.images.fashion_mnist import read_idx

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


def idx(array: np.ndarray) -> bytes:
    """An array as an idx file."""
    return (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        + array.astype(np.uint8).tobytes()
    )


def write_set(folder: Path, zipped: bool, counts: tuple[int, int] = (6, 4)) -> None:
    """A small Fashion-MNIST: image k is all k, with label k."""
    folder.mkdir(parents=True)
    for part, count in zip(fashion_mnist.PARTS, counts, strict=True):
        labels = np.arange(count)
        images = np.broadcast_to(labels[:, None, None], (count, 28, 28))
        for name, array in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", labels),
        ):
            if zipped:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Fashion-MNIST."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(fashion_mnist.VARIABLE, raising=False)
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels, _ = digits.read_digits()
    theirs = datasets.load_digits()
    np.testing.assert_array_equal(images.numpy(), theirs.images)
    np.testing.assert_array_equal(labels.numpy(), theirs.target)


def test_the_digits_are_split_by_label_into_1437_and_360() -> None:
    problem = load("digits")
    assert problem.test is not None
    assert (len(problem.train), len(problem.test)) == (1437, 360)
    _, labels, _ = digits.read_digits()
    shares = torch.bincount(labels.long()) * 360 / 1797
    assert ((torch.bincount(problem.test.data[1]) - shares).abs() < 1).all()


def test_the_digits_are_scaled_to_between_0_and_1() -> None:
    images, _ = load("digits").train.data
    assert images.shape == (1437, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)


def test_the_digits_carry_their_licence() -> None:
    text = (files("gradiometer.problems") / "data" / "digits.LICENSE.txt").read_text()
    assert "CC BY 4.0" in text
    assert "Alpaydin" in text


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_ten_epochs_of_plain_sgd_learn_the_digits(model: str) -> None:
    problem = load("digits", model=model)
    torch.manual_seed(0)
    net = problem.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(10):
        for index in torch.split(torch.randperm(len(problem.train)), 16):
            optimizer.zero_grad()
            problem.loss(net, problem.train.batch(index)).mean().backward()
            optimizer.step()
    assert problem.test is not None
    assert problem.correct is not None
    accuracy = problem.correct(net, problem.test.data).float().mean()
    assert accuracy > 0.9  # over seeds: 0.936 to 0.95; one test set's standard error is 0.012


@pytest.mark.slow
@needs_debian
def test_fashion_mnist_is_read_whole() -> None:
    problem = load("fashion-mnist", data_dir=DEBIAN)
    assert problem.test is not None
    images, labels = problem.train.data
    assert images.shape == (60_000, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [6_000] * 10
    assert torch.bincount(problem.test.data[1]).tolist() == [1_000] * 10
    # The mean and standard deviation that are used to normalise it everywhere.
    assert round(images.double().mean().item(), 4) == 0.2860
    assert round(images.double().std().item(), 4) == 0.3530


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", fashion_mnist.BELOW)
def test_files_are_found_in_a_folder_and_below_it_by_flag_and_by_variable(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, below: str, zipped: bool
) -> None:
    write_set(elsewhere / "sets" / below, zipped)
    by_flag = load("fashion-mnist", data_dir=elsewhere / "sets")
    monkeypatch.setenv(fashion_mnist.VARIABLE, str(elsewhere / "sets"))
    by_variable = load("fashion-mnist")
    assert by_flag.fingerprint == by_variable.fingerprint
    images, labels = by_flag.train.data
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    torch.testing.assert_close(images[:, 0, 3, 5], torch.arange(6.0) / 255)


@pytest.mark.parametrize("place", ["debian", "home/.cache/fashion-mnist", "data/FashionMNIST/raw"])
def test_files_are_found_where_others_put_them(elsewhere: Path, place: str) -> None:
    write_set(elsewhere / place, zipped=True)
    assert len(load("fashion-mnist").train) == 6


def test_a_missing_data_set_names_the_places_and_the_way_out(elsewhere: Path) -> None:
    with pytest.raises(
        BadArgument,
        match=r"looked in .*debian.*FashionMNIST/raw.*apt install dataset-fashion-mnist.*--set data_dir=",
    ):
        load("fashion-mnist")


def test_a_given_folder_is_the_only_one_searched(elsewhere: Path) -> None:
    write_set(elsewhere / "debian", zipped=True)
    with pytest.raises(BadArgument, match=r"looked in .*empty\)"):
        load("fashion-mnist", data_dir=elsewhere / "empty")


@pytest.mark.parametrize(
    ("tear", "message"),
    [
        (lambda content: content[:-9], "images-idx3-ubyte.gz` cannot be decompressed"),
        (
            lambda content: content[:40] + b"\0" * 20 + content[60:],
            "images-idx3-ubyte.gz` cannot be decompressed",
        ),
        (
            lambda content: b"not gzip",
            "images-idx3-ubyte.gz` cannot be decompressed .*download it again",
        ),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:-1]),
            r"has 4,719 bytes, .* requires 4,720: it is damaged",
        ),
        (
            lambda content: gzip.compress(gzip.decompress(content)[:9]),
            "ends after 9 bytes, in its header: it is damaged",
        ),
        (lambda content: gzip.compress(b""), "got an empty file"),
        (
            lambda content: gzip.compress(idx(np.zeros(5))),
            "must start with the bytes 00 00 08 03 .*, got 00 00 08 01",
        ),
        (
            lambda content: gzip.compress(idx(np.zeros((5, 28, 28)))),
            "holds 5 images and 6 labels in its train files",
        ),
    ],
)
def test_a_torn_or_foreign_file_is_named(tmp_path: Path, tear, message: str) -> None:
    write_set(tmp_path / "set", zipped=True)
    torn = tmp_path / "set" / "train-images-idx3-ubyte.gz"
    torn.write_bytes(tear(torn.read_bytes()))
    with pytest.raises(BadArgument, match=message):
        load("fashion-mnist", data_dir=tmp_path / "set")


def test_labels_of_another_data_set_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", zipped=False, counts=(12, 4))
    with pytest.raises(
        BadArgument, match="must have labels from 0 to 9, got 11 in its train files"
    ):
        load("fashion-mnist", data_dir=tmp_path / "set")


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "set", zipped=False)
    (tmp_path / "set" / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((4, 8, 8))))
    with pytest.raises(
        BadArgument, match=r"must have images of 28 × 28 pixels, got 8 × 8 in its t10k files"
    ):
        load("fashion-mnist", data_dir=tmp_path / "set")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=r"nowhere` cannot be read: No such file"):
        read_idx(tmp_path / "nowhere", 1)


@needs_debian
@pytest.mark.nightly
def test_two_epochs_of_plain_sgd_bring_the_cnn_above_87_percent() -> None:
    problem = load("fashion-mnist", model="cnn", data_dir=DEBIAN)
    torch.manual_seed(0)
    net = problem.model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(2):
        for index in torch.split(torch.randperm(len(problem.train)), 32):
            optimizer.zero_grad()
            loss = problem.loss(net, problem.train.batch(index)).mean()
            loss.backward()
            optimizer.step()
    assert problem.test is not None
    assert problem.correct is not None
    with torch.no_grad():
        found = torch.cat([problem.correct(net, batch) for batch in problem.test.batches(500)])
    assert found.float().mean() > 0.87


def test_a_part_of_tensors_is_that_of_a_data_set() -> None:
    tensors = (torch.arange(12.0).reshape(6, 2), torch.arange(6))
    chosen = torch.tensor([4, 1, 5])
    parts = [
        Examples(data, "mine").part(chosen)
        for data in (tensors, Rows(tensors), TensorDataset(*tensors))
    ]
    for part in parts:
        assert len(part) == 3 and part.name == "mine"
        inputs, labels = part.batch(torch.tensor([2, 0]))
        assert labels.tolist() == [5, 4] and torch.equal(inputs, tensors[0][[5, 4]])


class Rows(Dataset):
    """A data set that is not tensors."""

    def __init__(self, tensors: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tensors[0][place], self.tensors[1][place]
