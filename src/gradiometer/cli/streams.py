"""Standard output and standard error that never end a command.

A failed write is remembered and later ones are dropped, so that a command still stores its results
if the reader of its output has ended or the disk is full. Letters that the encoding lacks are
spelled in ASCII: η as eta, ± as +-.
"""

import codecs
import io
import os
import sys
import unicodedata
from pathlib import Path
from types import TracebackType
from typing import Any

_ERRORS, _ASCII = "spelled_out", "spelled_ascii"
_SIGNS = {
    "λ": "lambda",  # Unicode calls it lamda
    "Λ": "Lambda",
    "±": "+-",
    "×": "x",
    "·": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "→": "->",
    "←": "<-",
    "∞": "inf",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "≈": "~",
    "‖": "||",
    "√": "sqrt ",
    "∇": "grad ",
    "✓": "ok",
    "✗": "x",
    "◆": "*",
    "▲": "!",
    "▸": ">",
    "▶": ">",
    "─": "-",
    "│": "|",
    **dict(zip("▁▂▃▄▅▆▇█", "_.,-~=*#", strict=True)),
}


def in_ascii(text: str) -> str:
    """The text in ASCII.

    >>> in_ascii("η = 0.1 ± 0.02, ‖ĝ‖²")
    'eta = 0.1 +- 0.02, ||g||^2'
    """
    return "".join(letter if letter.isascii() else _name_of(letter) for letter in text)


def _name_of(letter: str) -> str:
    if letter in _SIGNS:
        return _SIGNS[letter]
    name = unicodedata.name(letter, "").split()
    if name[:1] == ["GREEK"] and "LETTER" in name:
        return name[-1].capitalize() if "CAPITAL" in name else name[-1].lower()
    kind, *parts = unicodedata.decomposition(letter).split() or [""]
    if kind and not kind.startswith("<"):
        kind, parts = "", [kind, *parts]
    letters = "".join(chr(int(part, 16)) for part in parts).replace("\N{FRACTION SLASH}", "/")
    plain = {"<super>": "^", "<sub>": "_"}.get(kind, "") + "".join(
        part for part in letters if part.isascii()
    )
    return plain if letters and plain else "" if unicodedata.combining(letter) else "?"


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


def _encode(text: str, _: str = "strict") -> tuple[bytes, int]:
    return codecs.ascii_encode(in_ascii(text))


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:
        return _encode(text)[0]


def _codec(name: str) -> codecs.CodecInfo | None:
    """ASCII under its own name, because click replaces a stream in plain ASCII by one in
    UTF-8."""
    if name != _ASCII:
        return None
    return codecs.CodecInfo(_encode, codecs.ascii_decode, incrementalencoder=_Encoder, name=_ASCII)


codecs.register_error(_ERRORS, _spell)
codecs.register(_codec)


class _Sink(io.RawIOBase):
    """An open file that remembers the first write that failed, and drops later ones."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.failed: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._file.fileno())

    def isatty(self) -> bool:
        return bool(self._file.isatty())

    def write(self, content: Any) -> int | None:
        if self.failed is None:
            try:
                written: int | None = self._file.write(content)
                return written
            except OSError as error:
                self.failed = error
        return len(content)


class Streams:
    """Replaces `sys.stdout` and `sys.stderr` during a command, unless the program that calls it has
    replaced them."""

    def __enter__(self) -> "Streams":
        self._before = sys.stdout, sys.stderr
        sys.stdout, self._out = _safe(sys.stdout, sys.__stdout__)
        sys.stderr, _ = _safe(sys.stderr, sys.__stderr__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.failure()
        sys.stdout, sys.stderr = self._before

    def failure(self) -> OSError | None:
        """Write what is buffered. Returns the first error of standard output, or None."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return None if self._out is None else self._out.failed


def _safe(stream: Any, original: Any) -> tuple[Any, _Sink | None]:
    if stream is None:  # closed by the shell, as in `>&-`
        return Path(os.devnull).open("w", encoding="utf-8"), None
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream, None
    stream.flush()
    sink = _Sink(getattr(stream.buffer, "raw", stream.buffer))
    encoding = _ASCII if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding
    lines = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(io.BufferedWriter(sink), encoding, _ERRORS, line_buffering=lines), sink
