"""The charts' library as one script: made once on a machine, kept whole or not at all."""

import zlib
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest
import vl_convert

from gradiometer.report.page.document import SNIPPET, Bundle, bundle, cache_folder

SCRIPT = f'"</script>";{SNIPPET}'


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The times the script was put together, here from three words; its cache lies in an empty
    folder."""
    times: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")

    def put_together(snippet: str, _: str) -> str:
        times.append(snippet)
        return SCRIPT

    monkeypatch.setattr(vl_convert, "javascript_bundle", put_together)
    bundle.cache_clear()
    yield times
    bundle.cache_clear()


def again() -> Bundle:
    """As another process asks for it."""
    bundle.cache_clear()
    return bundle()


def kept() -> list[Path]:
    folder = cache_folder()
    assert folder is not None
    return sorted(folder.glob("*.js.z"))


def test_the_script_is_put_together_once_and_ends_no_element_of_a_page(
    made: list[str], tmp_path: Path
) -> None:
    first = bundle()
    assert zlib.decompress(b64decode(first.packed)).decode() == SCRIPT and "<" not in first.packed
    assert again() == first and made == [SNIPPET]
    (file,) = kept()
    assert file.is_relative_to(tmp_path)


def test_another_version_has_another_file(made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bundle()
    monkeypatch.setattr("gradiometer.report.page.document.version", lambda name: "99.0")
    again()
    assert len(made) == 2
    assert len(kept()) == 2


@pytest.mark.parametrize("spoilt", [b"", b"alert(1)", b"// 0000\nalert(1)", None])
def test_a_file_that_is_torn_or_another_is_made_anew(made: list[str], spoilt: bytes | None) -> None:
    first = bundle()
    (file,) = kept()
    content = file.read_bytes()
    file.write_bytes(content[:-5] if spoilt is None else spoilt)
    assert again() == first and len(made) == 2
    assert file.read_bytes() == content


def test_without_a_folder_to_write_in_a_page_is_made_all_the_same(
    made: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert bundle() == again() and len(made) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert cache_folder() is None
    again()
    assert len(made) == 3
