"""Habits of English that a program can see: in README, in the pages that a reader is led to, in
the words of findings, in help texts and in errors.

The field's word stands beside each word of our own that is not to be used. A sentence that needs
one all the same is in `EXCEPTIONS`, with its reason.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Our own words, as patterns, and the field's.
TERMS = {
    r"illness(es)?|sick": "problem",
    r"cures?|cured": "fix, change, suggestion",
    r"lanes?": "trial run",
    r"rungs?": "round",
    r"strides?": "relative update size",
    r"under way": "in progress",
    r"a guess": "chance level",
    r"looked at": "inspected, checked (or name who does it)",
    r"earned its place": "met the criterion",
    r"the house": "the architecture",
    r"(keeps?|kept|has|have) (its|the same) bits": "bit-for-bit identical",
    r"by heart": "memorised",
    r"of (that|those|it|them) of|that of (that|those|a|the)": "name the thing again",
    r"go(es)? on as (it is|before)": "the baseline, continues unchanged",
    r"cannot be told|can't be told": "is not known",
    r"\d %? ?(or more|or less|at most|at least)": "the bound before the number: ≥ 39, up to 8",
    r"as well": "too, also (or cut)",
}
WORDS = {re.compile(rf"\b({pattern})\b", re.IGNORECASE): word for pattern, word in TERMS.items()}

# The longest sentence, in words. Twenty-five are the aim.
LONGEST = 40

# The longest sentence of a finding, in words.
LONGEST_OF_A_FINDING = 30

# Text that may have such a word, by page, with the reason.
EXCEPTIONS: dict[str, dict[str, str]] = {
    "docs/glossary.md": {
        "under way, diverging": "the names that findings give to a trajectory",
        "a guess": "the word of the page, explained here",
    },
}

# Pages that no entry of the contents leads to: for contributors, and formulas with their proofs.
ELSEWHERE = (
    "dev/",
    *(f"explanation/{name}.md" for name in ("estimation", "drift", "convergence", "exploration")),
)
PAGES = [
    ROOT / "README.md",
    *(
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if not page.relative_to(ROOT / "docs").as_posix().startswith(ELSEWHERE)
    ),
]


def prose(text: str) -> str:
    """The text without code, quotes of what is printed, pictures, names in code and addresses."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(>|:::|    ).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"`[^`\n]*`", "CODE", text)


def sentences(text: str) -> list[str]:
    """The sentences: cells of tables, items of lists and paragraphs are cut apart first."""
    blocks = re.split(r"\n\s*\n|^\s*[-*] |^#+ |\||^\d+\. ", prose(text), flags=re.MULTILINE)
    found = (part for block in blocks for part in re.split(r"(?<=[.!?:])[*”\"]*\s+", block.strip()))
    return [" ".join(part.split()) for part in found if part.strip()]


def faults(page: Path) -> list[str]:
    name = page.relative_to(ROOT).as_posix()
    text = page.read_text(encoding="utf-8")
    allowed = EXCEPTIONS.get(name, {})
    found = []
    for sentence in sentences(text):
        if any(part in sentence for part in allowed):
            continue
        words = len(re.findall(r"\w[\w'’.,-]*", sentence))
        if words > LONGEST:
            found.append(f"{words} words: {sentence}")
        for pattern, better in WORDS.items():
            if hit := pattern.search(sentence):
                found.append(f"{hit[0]!r} ({better}): {sentence}")
    return found


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of code, without docstrings. A value in one is a slot."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    apart = {
        id(each.body[0].value)
        for each in ast.walk(node)
        if isinstance(each, documented) and isinstance(each.body[0], ast.Expr)
    }
    for each in ast.walk(node):
        if isinstance(each, ast.JoinedStr):
            apart.update(map(id, each.values))
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in each.values)
            yield "".join(map(str, parts))
        elif isinstance(each, ast.Constant) and id(each) not in apart and " " in str(each.value):
            yield str(each.value)  # one word is a name


def printed(file: Path) -> Iterator[str]:
    """What a file prints: the words of findings, and elsewhere its errors and help texts."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if file.parent.name == "words":
        yield from texts(tree)
        return
    is_command = file.parent.name in ("cli", "measure", "learn")
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield from texts(node.exc)
        elif isinstance(node, ast.keyword) and node.arg in ("help", "short_help"):
            yield from texts(node.value)
        elif isinstance(node, ast.FunctionDef) and node.decorator_list and is_command:
            yield ast.get_docstring(node) or ""


def faults_in_code(file: Path) -> list[str]:
    found = []
    is_finding = file.parent.name == "words"
    for text in printed(file):
        for sentence in sentences(re.sub(r"{[^}]*}", "N", text)):
            words = len(re.findall(r"\w[\w'’.,-]*", sentence))
            if is_finding and words > LONGEST_OF_A_FINDING:
                found.append(f"{words} words: {sentence}")
            for pattern, better in WORDS.items():
                if hit := pattern.search(sentence):
                    found.append(f"{hit[0]!r} ({better}): {sentence}")
    return found


def test_findings_help_and_errors_have_the_words_of_the_field() -> None:
    files = sorted((ROOT / "src").rglob("*.py"))
    found = {file.relative_to(ROOT).as_posix(): faults_in_code(file) for file in files}
    assert {name: each for name, each in found.items() if each} == {}


def test_the_habits_are_noticed_in_code(tmp_path: Path) -> None:
    words = tmp_path / "words" / "one.py"
    words.parent.mkdir()
    long = " ".join(["word"] * 31)
    words.write_text(f'"""A cure."""\nA = "It is {{x}} times that of a guess."\nB = "{long}."\n')
    assert len(faults_in_code(words)) == 3
    error = tmp_path / "error.py"
    error.write_text('A = "a cure"\nraise ValueError(f"`x` is {A} of the lanes, 3 or more.")\n')
    assert len(faults_in_code(error)) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_has_the_words_of_the_field_and_no_long_sentence(page: Path) -> None:
    assert faults(page) == []


def test_every_exception_is_still_needed_and_has_a_reason() -> None:
    for name, allowed in EXCEPTIONS.items():
        text = " ".join(prose((ROOT / name).read_text(encoding="utf-8")).split())
        assert [part for part, reason in allowed.items() if part not in text or not reason] == []


def test_the_habits_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_plain_words.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("The cure is 4 times that of a guess.\n\n" + "word " * (LONGEST + 1) + ".\n")
    assert len(faults(page)) == 4
    page.write_text("`cure` is a name.\n\n```\na guess\n```\n\n" + "word " * LONGEST + ".\n")
    assert faults(page) == []
