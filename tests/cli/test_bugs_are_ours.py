"""What is called a bug of gradiometer, and how errors are printed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import gradiometer
from gradiometer import UserCodeFailed
from gradiometer.errors import bounded, calling, of_user, printable


def test_an_error_keeps_its_type_until_the_boundary() -> None:
    @bounded
    def outer() -> None:
        with calling("loss"):
            torch.zeros(2)[[7]]

    def inner() -> None:
        with calling("loss"):
            nn.Linear(2, 3)(torch.zeros(2, 5))

    with pytest.raises(RuntimeError) as raised:
        inner()
    found = of_user(raised.value)
    # torch 2.15 says first which operation it was
    assert found is not None and str(found).startswith("`loss` raised RuntimeError: ")
    assert "mat1 and mat2" in str(found)
    with pytest.raises(UserCodeFailed, match="`loss` raised IndexError"):
        outer()
    assert of_user(UserCodeFailed("x.")) is None and of_user(KeyboardInterrupt()) is None


@pytest.mark.slow
def test_an_error_of_our_own_in_a_gauge_is_called_a_bug(tmp_path: Path) -> None:
    code = (
        "from gradiometer.cli import main\nfrom gradiometer.drift import BatchSharpness\ndef "
        "measure(self, step): raise TypeError('a bug')\nBatchSharpness.measure = "
        "measure\nmain(['train', 'digits', '--steps', '8', '--every', '4', '--gauges', "
        "'batch_sharpness', '--no-open'])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (
        ended.returncode == 1
        and "TypeError: a bug" in ended.stderr
        and "RecursionError" not in ended.stderr
    )


@pytest.mark.parametrize(
    "folder",
    [
        "usr/lib/python3/dist-packages/torch",
        "home/me/.local/lib/python3.12/site-packages/torch",
        "link",
    ],
)
def test_a_line_of_a_library_is_not_the_users(tmp_path: Path, folder: str) -> None:
    """Also of one that is outside of the environment; and of this package, if it is reached by a
    link."""
    package = tmp_path / folder
    package.parent.mkdir(parents=True, exist_ok=True)
    if folder == "link":
        package.symlink_to(Path(gradiometer.__file__).parent)
        code = (
            f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.modules.pop('gradiometer', "
            "None)\nimport link.errors as errors\n"
        )
    else:
        package.mkdir()
        code = "from gradiometer import errors\n"
    library = package / "library.py"
    code += (
        f"lines = {{}}\nexec(compile('def call(): raise TypeError(0)', {str(library)!r}, 'exec'), "
        "lines)\ntry:\n    lines['call']()\nexcept TypeError as error:\n    error = "
        "error.with_traceback(error.__traceback__.tb_next)\n    print(errors.of_user(error))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "None\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\x07\x00\x9b", r"a\x07\x00\x9b"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("η = 0.1 ± 2\nnext", "η = 0.1 ± 2\nnext"),
    ],
)
def test_control_characters_are_printed_as_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
