"""Ways to spoil a file or a text, all of them from a seeded generator."""

import copy
import json
import os
import random
import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

from gradiometer import Schedule

CANARY = "executed"
"""A file that the inputs try to make. It must never exist."""

NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        1.5,
        -0.0,
        1e-320,
        1e39,
        -1e308,
        1e308,
        2**31,
        2**53,
        2**63,
        2**64,
        10**400,
    ),
    *(
        "nan",
        "inf",
        "-inf",
        "",
        "x",
        "0",
        "1e999",
        "\x00",
        "é",
        "η",
        "<script>",
        "{}",
        "a" * 300,
        "9" * 5000,
    ),
    *([], [[]], {}, [1], [None], ["nan"], [1, 2, 3], {"a": 1}, {"": None}, [{}], {"value": 1.0}),
)
NUMBERS = (
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "0.1",
    "3",
    "7",
    "1000",
    "1e-300",
    "1e300",
    "1e308",
    "1e39",
    "2**53",
    "10**6",
    "9" * 40,
)
FUNCTIONS = ("log", "log2", "log10", "sqrt", "exp", "sin", "cos", "floor", "int", "abs")
METHODS = ("at_least", "at_most", "shifted", "warmed_up", "then", "held", "repeated")
TOKENS = (
    *(
        "t",
        "T",
        "e",
        "pi",
        "1",
        "2",
        "0",
        "0.1",
        "1e308",
        "1e-308",
        "1e999",
        "9" * 40,
        "-1",
        "0.5",
        "1000",
        "x",
    ),
    *(
        "+",
        "-",
        "*",
        "/",
        "**",
        "^",
        "%",
        "//",
        "(",
        ")",
        ",",
        ".",
        "...",
        "=",
        "<",
        "if",
        "else",
        "and",
        "lambda",
    ),
    *(
        "log(",
        "exp(",
        "sqrt(",
        "sin(",
        "cos(",
        "abs(",
        "min(",
        "max(",
        "ceil(",
        "floor(",
        "log(t)",
        "sin(t)",
    ),
    *(
        "Cosine(",
        "Constant(",
        "InversePower(",
        "PiecewiseLinear(",
        "StepDecay(",
        "Exponential(",
        "Warmup(",
        "steps=",
    ),
    *(
        "'a'",
        "None",
        "True",
        "[",
        "]",
        "{",
        "}",
        "**t",
        "t**t",
        "t//7",
        "(t+1)",
        "[1,2]",
        "((",
        "))",
        " ",
        "\n",
        "#",
        ":=",
    ),
    *(
        "1j",
        "0x1f",
        "1_000",
        "é",
        "η",
        "\x00",
        "f'{t}'",
        "__import__('os')",
        f".system('touch {CANARY}')",
        "t.real",
    ),
)
WHOLE = (
    *(
        "1/t",
        "1/(t*log(t+1)**2)",
        "Cosine(0.1, steps=1000)",
        "0.1*cos(t)/t",
        "exp(-t)",
        "t**-0.6",
        "0.1/sqrt(t)",
    ),
    *(
        "InversePower(0.1, 0.6)",
        "cos(t//7)*0.5",
        "PiecewiseLinear('a')",
        "...",
        "(-1)**t/t",
        "min(1/t, 0.1)",
        "1e39",
    ),
    f"__import__('os').system('touch {CANARY}')",
)

ALTERNATIVES = (
    *(
        "rate 2x",
        "batch 2x",
        "batch 2x, rate sqrt",
        "batch 4x, rate 2x",
        "momentum 0.9",
        "weight decay 0.01",
        "go on",
    ),
    *(
        "cool now",
        "cool now 0.1x",
        "shorter 0.5x",
        "restart hot 10x",
        "clip 1",
        "skip 11:13",
        "follow 0.1/sqrt(t)",
    ),
    *(
        "follow Cosine(0.1, steps=50)",
        "AdamW(lr=0.001)",
        "SGD(lr=0.1, momentum=0.9)",
        "rate 2x & clip 1",
    ),
)


def formula(random: random.Random, depth: int) -> str:
    """A formula of the grammar, with any numbers."""
    if depth == 0 or random.random() < 0.2:
        return random.choice(("t", "t", "t", "pi", *NUMBERS))
    one, two, three = (formula(random, depth - 1) for _ in range(3))
    kind = random.random()
    if kind < 0.5:
        return f"({one} {random.choice(('+', '-', '*', '/', '/', '//', '%', '**'))} {two})"
    if kind < 0.75:
        return f"{random.choice(FUNCTIONS)}({one})"
    if kind < 0.85:
        return f"{random.choice(('min', 'max'))}({one}, {two})"
    if kind < 0.95:
        return f"({one} if {two} {random.choice(('<', '>=', '=='))} {three} else {two})"
    return f"(-{one})"


def shape(random: random.Random, depth: int = 2) -> str:
    """A named shape with any settings, with a method now and then."""
    ours = sorted(
        name for name, kind in Schedule.kinds.items() if kind.__module__.startswith("gradiometer.")
    )
    name = random.choice(ours)
    settings = [field.name for field in fields(Schedule.kinds[name])]
    given = ", ".join(
        f"{each}={setting(random, depth)}" for each in settings if random.random() < 0.9
    )
    text = f"{name}({given})"
    if random.random() < 0.4:
        text += f".{random.choice(METHODS)}({setting(random, depth)})"
    return (
        f"{text} {random.choice('+*')} {shape(random, depth - 1)}"
        if depth and random.random() < 0.2
        else text
    )


def setting(random: random.Random, depth: int) -> str:
    """A value for a setting of a shape."""
    kind = random.random()
    if kind < 0.6:
        return random.choice(("0.1", "10", "100", "1000", "0.5", "1.0", *NUMBERS))
    if kind < 0.75 and depth:
        return shape(random, depth - 1)
    if kind < 0.85:
        return f"({', '.join(f'({10 * place}, {random.choice(NUMBERS)})' for place in range(3))})"
    return random.choice(
        (
            "'a'",
            "'1/t'",
            "'t'",
            "None",
            "True",
            "()",
            "(1,)",
            "((1, 2),)",
            "'cosine'",
            "((1, 'a'),)",
        )
    )


def text(random: random.Random) -> str:
    """A formula or a shape: valid, tokens in any order, or a real one with some of its letters
    changed."""
    kind = random.random()
    if kind < 0.35:
        return formula(random, random.randint(1, 4))
    if kind < 0.55:
        return shape(random)
    if kind < 0.75:
        return "".join(
            random.choice(TOKENS) for _ in range(random.randint(1, random.choice((4, 12, 40))))
        )
    if random.random() < 0.03:
        deep = random.choice((50, 500, 5000))
        return random.choice(
            (
                "(" * deep + "t" + ")" * deep,
                "-" * deep + "t",
                "+".join(["t"] * deep),
                "t" + "**2" * deep,
            )
        )
    return changed(random, random.choice(WHOLE))


def changed(random: random.Random, text: str) -> str:
    """The text with up to four changes of its letters."""
    letters = list(text)
    for _ in range(random.randint(0, 4)):
        place = random.randrange(len(letters) + 1)
        letters[place : place + random.randint(0, 2)] = random.choice(
            (random.choice(TOKENS), "", "(", "t")
        )
    return "".join(letters)


def value(random: random.Random, given: Any, depth: int = 0) -> Any:
    """The value with one part of it replaced, left out or doubled."""
    if random.random() < 0.15 + 0.1 * depth or not given or not isinstance(given, dict | list):
        return copy.deepcopy(random.choice(NASTY))
    if isinstance(given, list):
        changed: Any = list(given)
        place = random.randrange(len(changed))
        if random.random() < 0.2:
            del changed[place]
        else:
            changed[place] = value(random, changed[place], depth + 1)
        return changed
    changed = dict(given)
    name = random.choice(list(changed))
    if random.random() < 0.2:
        del changed[name]
    elif random.random() < 0.1:
        changed[random.choice(("x", "", "step", "event", "kind", "value"))] = random.choice(NASTY)
    else:
        changed[name] = value(random, changed[name], depth + 1)
    return changed


def lines(random: random.Random, content: str) -> str:
    """JSON lines with some of them changed as JSON, doubled, moved or left out."""
    rows = content.splitlines()
    for _ in range(random.randint(1, 4)):
        if not rows:
            break
        place = random.randrange(len(rows))
        what = random.random()
        if what < 0.7:
            try:
                rows[place] = json.dumps(value(random, json.loads(rows[place])))
            except ValueError:
                rows[place] = "{"
        elif what < 0.8:
            rows.insert(random.randrange(len(rows) + 1), rows[place])
        elif what < 0.9:
            del rows[place]
        else:
            rows[place] = rows[place][: random.randrange(len(rows[place]) + 1)]
    return "\n".join(rows) + random.choice(("\n", ""))


def content(random: random.Random, whole: bytes) -> bytes:
    """Bytes with some changed, cut off, or put between others."""
    changed = bytearray(whole)
    for _ in range(random.randint(1, 8)):
        place = random.randrange(len(changed) + 1)
        what = random.random()
        if what < 0.5 and place < len(changed):
            changed[place] = random.randrange(256)
        elif what < 0.7:
            del changed[place : place + random.choice((1, 10, 1000, 10**9))]
        else:
            changed[place:place] = random.choice(
                (b"\x00", b"\n", b'"', b"{", b"[" * 2000, b"9" * 50, b"\xff\xfe", b"nan")
            )
    return bytes(changed)


def file(random: random.Random, path: Path) -> None:
    """Spoil a file: as JSON lines, as JSON, as bytes, or put something in its place that is no
    file."""
    what = random.random()
    whole = path.read_bytes()
    if what < 0.6 and path.suffix in (".json", ".jsonl"):
        text = whole.decode("utf-8", errors="replace")
        path.write_text(lines(random, text), encoding="utf-8", errors="replace")
    elif what < 0.9:
        path.write_bytes(content(random, whole))
    else:
        path.unlink()
        _put_no_file(random, path)


def _put_no_file(random: random.Random, path: Path) -> None:
    kind = random.choice(("nothing", "folder", "fifo", "socket", "device", "loop"))
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "socket":
        made, here = socket.socket(socket.AF_UNIX), Path.cwd()
        try:
            os.chdir(path.parent)  # the path of a socket is short
            made.bind(path.name)
        finally:
            os.chdir(here)
            made.close()
